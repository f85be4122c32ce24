"""A call of forward as the reference documentation writes it: by position, ``None`` for the configuration's word.

What other libraries pass along with it is honoured, refused, or said by name and left out: :data:`WORDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError, UnsupportedError, warn
from ..messages import counted, mention, subject
from .adapters import adapter_rows, named_adapters
from .arguments import OPTIONS, ForwardArguments, unknown_argument

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig
    from ..tasks.task import Task

FLAGS = {"use_cache": True, "output_attentions": False, "output_hidden_states": False, "return_dict": True}
"""What a configuration says that says nothing."""

AFTER_LABELS = (*FLAGS, "cache_position")
"""The documented order of what follows a head's labels."""


class Call(NamedTuple):
    """A call of forward, read: the arguments of its pass, and what is not the pass's business."""

    arguments: ForwardArguments
    return_dict: bool
    cache_position: Any


class Word(NamedTuple):
    """A keyword that other libraries pass to a model's forward, and that a Llama here has no use for.

    Attributes:
        harmless: values that ask for nothing.
        reason: why it is left out, or what to do instead.
        refused: whether leaving it out would change the result.
    """

    harmless: tuple[Any, ...]
    reason: str
    refused: bool = False


_PACKED = "where packed sequences begin is read from position_ids that start again"

WORDS: Mapping[str, Word] = {
    "cu_seq_lens_k": Word((None,), _PACKED),
    "cu_seq_lens_q": Word((None,), _PACKED),
    "max_length_k": Word((None,), _PACKED),
    "max_length_q": Word((None,), _PACKED),
    "seq_idx": Word((None,), _PACKED),
    "head_mask": Word((None,), "no attention head can be masked"),
    "output_router_logits": Word((None, False), "a Llama has no router"),
    "skip_logits": Word((None, False), "logits are always computed"),
    "token_type_ids": Word((None,), "a Llama has no token types"),
    "ignore_index": Word((None, -100), "the loss ignores -100: mark labels so", refused=True),
    "is_causal": Word((None, True), "attention is causal: give an attention_mask of four dimensions", refused=True),
}
"""Keywords of other libraries: those of transformers' own callers and of tokenizers."""


@dataclass(frozen=True)
class Reader:
    """Reads calls of forward for one model.

    Attributes:
        task: its head; `config`: its configuration, whose word counts where a flag is ``None``.
        training: whether it is in training mode, in which no cache is made that nobody asked for.
        own: arguments that its backend alone has.
        elsewhere: names of arguments that another function has, asked for where forward is given an unknown one.
        adapters: names of the adapters that rows may have.
    """

    task: Task
    config: LlamaConfig
    training: bool
    own: tuple[str, ...] = ()
    elsewhere: Callable[[], Collection[str]] = tuple
    adapters: tuple[str, ...] = ()

    def read(self, more: tuple[Any, ...], given: Mapping[str, Any], options: Mapping[str, Any]) -> Call:
        """Sort the arguments of a call.

        Args:
            more: those by position after ``inputs_embeds``: the head's labels, then :data:`AFTER_LABELS`.
            given: the named arguments of forward.
            options: all other keywords.

        Raises:
            InputError: more arguments than there are, one given twice, or a flag that is none.
            UnknownArgumentError: a keyword that is close to one of forward's, or another function's.
            UnsupportedError: a keyword of another library that would change the result.

        Warns:
            PolyllamaWarning: a keyword that is left out.
        """
        options = dict(options)
        adapter = options.pop("adapter", None)
        named = {**given, **self._taken(options)}
        by_position = list(zip(self._order(more), more, strict=False))
        if "num_logits_to_keep" in named:  # what transformers called it before 4.48
            by_position.append(("logits_to_keep", named.pop("num_logits_to_keep")))
        for name, value in by_position:
            held = named.get(name)
            if held is not None and not (type(held) is int and held == 0):  # the default of logits_to_keep
                raise InputError(f"forward is given {name!r} twice", hint="give it once, by position or by name")
            named[name] = value
        unasked = named.get("use_cache") is None
        flags = {name: self._flag(name, named.pop(name, None)) for name in FLAGS}
        return_dict, cache_position = flags.pop("return_dict"), named.pop("cache_position", None)
        arguments = ForwardArguments.of(self.task, options=self.own, **named, **flags)
        if unasked and arguments.use_cache and arguments.past_key_values is None:
            arguments = replace(arguments, cache_unasked=True)
        if adapter is not None or self.adapters:
            names = named_adapters(self.adapters, adapter, arguments.rows, "row")
            arguments = replace(arguments, adapter_rows=adapter_rows(self.adapters, names), adapter_names=names)
        return Call(arguments, return_dict, cache_position)

    def _order(self, more: tuple[Any, ...]) -> tuple[str, ...]:
        order = (*self.task.labels, *AFTER_LABELS)
        if len(more) > len(order):
            raise InputError(
                f"forward takes {counted(len(order) + 5, 'argument')} by position, {len(more) + 5} are given",
                hint="after inputs_embeds come " + ", ".join(order),
            )
        return order

    def _flag(self, name: str, value: Any) -> bool:
        """A flag as given, else as the configuration says; a cache only where the head's output has a place for it."""
        if value is None:
            said = getattr(self.config, name, None)
            wanted = FLAGS[name] if said is None else bool(said)
            return wanted and (name != "use_cache" or (self.task.output_type.with_past and not self.training))
        if type(value).__name__ not in ("bool", "bool_"):
            raise InputError(
                subject(name, value) + f" is {value!r:.60}, wanted True, False or None",
                hint="by position it comes after " + ", ".join(("inputs_embeds", *self.task.labels)),
            )
        return bool(value)

    def _taken(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords that forward takes; the others are refused, or said and left out."""
        taken = dict(options)
        known = {*self.task.labels, *OPTIONS, *self.own, "num_logits_to_keep"}
        for name in [name for name in options if name not in known]:
            value = taken.pop(name)
            if name in WORDS:
                _leave_out(name, value, WORDS[name])
            else:
                problem = unknown_argument(name, self.task, self.own)
                if problem.advice is not None or name in self.elsewhere():
                    raise problem
                warn("forward has no argument " + mention(name) + ": it is left out")
        return taken


def _leave_out(name: str, value: Any, word: Word) -> None:
    if any(value is harmless or (type(value) is int and value == harmless) for harmless in word.harmless):
        return
    if word.refused:
        raise UnsupportedError("forward does not take " + mention(name, value, limit=40), hint=word.reason)
    warn(mention(name) + f" is left out: {word.reason}")
