"""The arguments of one forward pass: written out once, for the facade, every backend and whoever calls a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from ..errors import InputError, UnknownArgumentError, UnsupportedError
from ..messages import did_you_mean
from ..public import for_plugins

if TYPE_CHECKING:
    from ..graph.cache import Cache
    from ..tasks.task import Task


@for_plugins
@dataclass(frozen=True, kw_only=True, eq=False)
class ForwardArguments:
    """What a pass is asked for, as the caller gave it: nested lists, NumPy or the backend's own arrays.

    :meth:`polyllama.Llama.forward` explains each; :meth:`of` makes it from keywords.

    Attributes:
        input_ids: ``[B, S]`` token ids; or `inputs_embeds` ``[B, S, hidden_size]``, exactly one of them.
        attention_mask: ``[B, past + S]`` or ``[B, S]``, 1 where attended; or ``[B or 1, 1, S, past + S]``.
        position_ids: ``[B or 1, S]``.
        past_key_values: the cache of an earlier output.
        labels: by the names that the task takes.
        use_cache: whether a cache comes out where none goes in.
        cache_unasked: whether that is the configuration's word alone. Then rows are taken for whole, and where a cache
            cannot go there is none.
        logits_to_keep: a count of last positions, 0 for all, or the positions themselves.
        loss_options: for the task's loss, ``num_items_in_batch``.
        observe: called with every node and what it gave.
        own: arguments that this backend has and others have not, those it lists as ``forward_options``.
        adapter_rows: ``[B]`` NumPy integers, which of ``graph.adapters`` each row has, -1 for none; ``None`` where no
            row has any.
        adapter_names: the names of all rows' adapters, for caches to remember; ``None`` where none are loaded.
    """

    input_ids: Any = None
    attention_mask: Any = None
    position_ids: Any = None
    inputs_embeds: Any = None
    past_key_values: Any = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    use_cache: bool = False
    cache_unasked: bool = False
    output_hidden_states: bool = False
    output_attentions: bool = False
    logits_to_keep: Any = 0
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    observe: Callable[..., None] | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    adapter_rows: Any = None
    adapter_names: tuple[str | None, ...] | None = None

    @classmethod
    def of(
        cls, task: Task, input_ids: Any = None, *, labels: Any = None, options: tuple[str, ...] = (), **given: Any
    ) -> Self:
        """Sort keywords into the arguments of a pass.

        Args:
            labels: the argument of that name; a task may have its labels under other names, which come in `given`.
            options: names of the arguments that the backend alone has.

        Raises:
            InputError: an argument that neither a pass, the task nor the backend takes.
            UnsupportedError: labels for a task without a loss.

        >>> from polyllama.plugins.tasks.causal_lm import CausalLM
        >>> ForwardArguments.of(CausalLM(), [[1, 2]], labels=[[1, 2]], use_cache=True).labels
        {'labels': [[1, 2]]}
        """
        named = {name: given.pop(name) for name in _NAMED if name in given}
        own = {name: given.pop(name) for name in options if name in given}
        found, loss_options = split_labels(task, labels, given, also=options)
        return cls(
            input_ids=input_ids,
            labels=found,
            observe=loss_options.pop("observe", None),
            loss_options=loss_options,
            own=own,
            **named,
        )

    @property
    def rows(self) -> int:
        """Rows of the inputs; 0 where what is given has none."""
        given = self.input_ids if self.input_ids is not None else self.inputs_embeds
        shape = getattr(given, "shape", None)
        if shape is not None:
            return int(shape[0]) if len(shape) else 0
        return len(given) if isinstance(given, Sequence) else 0

    @property
    def new_tokens(self) -> int:
        """Tokens of each row, those in the cache not counted; 0 where what is given has no such shape."""
        given = self.input_ids if self.input_ids is not None else self.inputs_embeds
        shape = getattr(given, "shape", None)
        if shape is not None:
            return int(shape[1]) if len(shape) > 1 else 0
        first = given[0] if isinstance(given, Sequence) and len(given) else ()
        return len(first) if isinstance(first, Sequence) else 0  # what is wrong with it, the pass says

    def cache(self, new: Callable[[], Cache]) -> Any:
        """The cache that the pass writes to: the one given, a new one where one is asked for, or ``None``."""
        if self.past_key_values is not None:
            return self.past_key_values
        return new() if self.use_cache else None


_NAMED = tuple(
    entry.name
    for entry in fields(ForwardArguments)
    if entry.name
    not in ("input_ids", "labels", "cache_unasked", "loss_options", "observe", "own", "adapter_rows", "adapter_names")
)


OPTIONS = ("num_items_in_batch", "observe")
"""What forward takes beside its named arguments and the task's labels."""


def split_labels(
    task: Task, labels: Any, options: Mapping[str, Any], *, also: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The labels that were given, by name, and the other options.

    Args:
        labels: the argument of that name; a task may have others, which come among `options`.
        also: further arguments that the backend takes, for suggestions.

    Raises:
        InputError: an argument nobody takes, or some of the task's labels without the others.
        UnsupportedError: labels for a task without a loss.

    >>> from polyllama.plugins.tasks.question_answering import QuestionAnswering
    >>> split_labels(QuestionAnswering(), None, {"start_positions": [3], "end_positions": [4]})
    ({'start_positions': [3], 'end_positions': [4]}, {})
    """
    names = task.labels
    given = {name: options[name] for name in names if options.get(name) is not None}
    if labels is not None:
        given["labels"] = labels
    rest = {name: value for name, value in options.items() if name not in names}
    unknown = [name for name in rest if name not in OPTIONS]
    if unknown:
        raise unknown_argument(sorted(unknown)[0], task, also)
    if given and not names:
        raise UnsupportedError(f"task {task.name!r} has no loss", hint="leave labels out, or load it with another task")
    if given and set(given) != set(names):
        raise InputError(f"task {task.name!r} takes {' and '.join(names)}, {' and '.join(given)} given")
    return given, rest


def unknown_argument(name: str, task: Task, also: Sequence[str]) -> UnknownArgumentError:
    """What to say of an argument that nobody takes; its ``advice`` is ``None`` where it resembles none of forward's."""
    labels = task.labels or ()
    known = [
        "input_ids",
        *_NAMED,
        "return_dict",
        "cache_position",
        *dict.fromkeys(("labels", *labels)),
        *OPTIONS,
        *also,
    ]
    if name in ("train", "dropout_rng"):
        advice: str | None = (
            "on torch and mlx llm.train() turns dropout on; on jax, train=True and dropout_rng=; others have none"
        )
    elif name.endswith(("_positions", "labels")) and labels:
        advice = f"the labels of task {task.name!r} are {' and '.join(labels)}"
    else:
        advice = did_you_mean(name, known)
    otherwise = f"it takes {', '.join(known)}; generate has options of its own"
    return UnknownArgumentError(name, function="forward", advice=advice, otherwise=otherwise)
