"""The pipeline of language models: prompts and conversations in, records with the generated text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import InputError, UnsupportedError
from ...messages import mention
from ...tokenizer.chat.templates import names_of_part
from ..chatting import OF_TOOLS
from ..prompts import read_pad_token
from .base import Pipeline
from .inputs import first_of, is_message
from .options import flag

if TYPE_CHECKING:
    from ...generation.outputs import Generation
    from ..llama import Llama

RETURNS = ("return_full_text", "return_text", "return_tensors")
"""Options that say what a record holds."""

ENCODING = ("add_special_tokens", "prefix", "handle_long_generation", "tokenizer_encode_kwargs")
"""Options that say how a prompt becomes ids."""


class TextGeneration(Pipeline):
    """``[{"generated_text": ...}]`` for a prompt or a conversation, a list of such lists for a list of them.

    The text has the prompt before it, or the conversation with one more message; not with ``return_full_text=False``.
    ``return_tensors=True`` gives ``generated_token_ids``, prompt and text together, instead. A conversation that ends
    with the assistant's message is gone on with, unless ``continue_final_message=False``.
    """

    own = (*RETURNS, *ENCODING, "clean_up_tokenization_spaces", "generate_kwargs", "pad_token_id", "stop_sequence")
    first = "text_inputs"

    def merged(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a call; what it says of the record stands for all that the pipeline says of it."""
        said = any(given.get(name) is not None for name in RETURNS)
        defaults = {name: value for name, value in self.defaults.items() if not (said and name in RETURNS)}
        return _with_generate_kwargs(defaults) | _with_generate_kwargs(given)

    def _streamed(self, items: Iterator[Any], options: dict[str, Any]) -> Any:
        first, items = first_of(items)
        if is_message(first):  # a conversation, message by message
            return self._call(list(items), options)
        return super()._streamed(items, options)

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        token = options.pop("pad_token_id", None)  # it has no part in results, whose rows are not padded
        if token is not None:
            read_pad_token(token, self.llm.config.vocab_size)
        request = _Request.taken(options)
        if isinstance(inputs, str) or _is_chat(inputs):
            return self._records(inputs, request, options)
        inputs = inputs.tolist() if hasattr(inputs, "tolist") else inputs
        if not isinstance(inputs, Sequence) or not inputs:
            raise InputError(f"a prompt is a text or a conversation, not {inputs!r:.80}")
        if all(isinstance(prompt, str) for prompt in inputs):
            if not request.encodes:
                results = self.llm.generate(list(inputs), **options)
                return [self._as_records(p, r, request, options) for p, r in zip(inputs, results, strict=True)]
            if request.handle_long_generation is None and not request.prefix:
                ids = [self._encoded(prompt, request) for prompt in inputs]
                results = self.llm.generate(ids, **options)
                return [self._as_records(p, r, request, options) for p, r in zip(inputs, results, strict=True)]
        options.pop("batch_size", None)  # each is a request of its own
        return [self._records(prompt, request, options) for prompt in inputs]

    def _records(self, prompt: Any, request: _Request, options: dict[str, Any]) -> list[dict[str, Any]]:
        if _is_chat(prompt):
            return self._chat_records(prompt, request, options)
        if not isinstance(prompt, str):
            raise InputError(f"a prompt is a text or a conversation, not {prompt!r:.80}")
        if not request.encodes:
            return self._as_records(prompt, self.llm.generate(prompt, **options), request, options)
        options = self._beyond_prefix(request, options)
        ids = self._encoded(prompt, request)
        if request.handle_long_generation is not None:
            ids = with_room(self.llm, ids, options)
        return self._as_records(prompt, self.llm.generate(ids, **options), request, options)

    def _chat_records(self, prompt: Any, request: _Request, options: dict[str, Any]) -> list[dict[str, Any]]:
        if request.prefix or request.add_special_tokens is not None:
            name = "prefix" if request.prefix else "add_special_tokens"
            raise InputError(f"{name} is for texts, and this is a conversation", hint="its template says how it begins")
        continued = options.get("continue_final_message")
        if continued is None:
            continued = prompt[-1].get("role") == "assistant" and not options.get("add_generation_prompt")
        parts: list[str] = []
        if continued:
            field = continued if isinstance(continued, str) else "content"
            parts = names_of_part(prompt[-1], field)
            if not parts:
                raise UnsupportedError(f"only a last message whose {field} is text can be continued")
        options = {**options, **request.tokenizer_encode_kwargs, "continue_final_message": continued}
        if request.handle_long_generation is None:
            found = self.llm.chat(prompt, **options)
        else:
            if asked_for := [name for name in OF_TOOLS if options.get(name) is not None]:
                raise InputError(
                    f"handle_long_generation and {asked_for[0]} do not go together", hint="give one of them"
                )
            generation, asked = self.llm.split_chat_options(options)
            found = self.llm.generate(
                with_room(self.llm, self.llm.chat_prompt(prompt, **asked), generation), **generation
            )
        return self._as_records(prompt, found, request, options, parts)

    def _encoded(self, prompt: str, request: _Request) -> list[int]:
        """The ids of a prompt behind its prefix, as the options of encoding have it."""
        how = dict(request.tokenizer_encode_kwargs)
        if request.add_special_tokens is not None:
            how.setdefault("add_special_tokens", request.add_special_tokens)
        return list(self.tokenizer(request.prefix + prompt, **how)["input_ids"])

    def _beyond_prefix(self, request: _Request, options: dict[str, Any]) -> dict[str, Any]:
        """The options with limits on the whole length moved by the prefix, which nobody counted."""
        if not request.prefix:
            return options
        length = len(self.tokenizer.encode(request.prefix, add_special_tokens=request.add_special_tokens or False))
        limit = self.llm.generation_options(**options).max_length
        return options if limit is None else {**options, "max_length": limit + length}

    def _as_records(
        self,
        prompt: Any,
        found: Any,
        request: _Request,
        options: Mapping[str, Any],
        continued: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """The texts behind their prompt; behind the parts of its last message that are `continued`."""
        results = found if isinstance(found, list) else [found]
        if request.returns == "ids":
            return [{"generated_token_ids": [*one.prompt_token_ids, *one.token_ids]} for one in results]
        skip = options.get("skip_special_tokens") is not False
        texts = [self._text(one, request, skip_special_tokens=skip) for one in results]
        if request.returns == "new":
            calls = [{"tool_calls": one.message["tool_calls"]} if one.tool_calls else {} for one in results]
            return [{"generated_text": text, **more} for text, more in zip(texts, calls, strict=True)]
        if isinstance(prompt, str):
            return [{"generated_text": prompt + text} for text in texts]
        if continued:
            *before, last = prompt
            whole = ({**last, **{part: last[part] + text for part in continued}} for text in texts)
            return [{"generated_text": [*before, message]} for message in whole]
        answers = [{**one.message, "content": text} for one, text in zip(results, texts, strict=True)]
        return [{"generated_text": [*prompt, answer]} for answer in answers]

    def _text(self, result: Generation, request: _Request, *, skip_special_tokens: bool) -> str:
        """The generated text; with ``stop_sequence`` up to the end of the token that completed it, as documented."""
        clean = request.clean_up
        usual = clean is None or clean == self.tokenizer.clean_up_tokenization_spaces
        if usual and not (result.stop_reason is not None and result.stop_reason in request.stop_sequence):
            return result.text
        how: dict[str, Any] = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": clean}
        before = self.tokenizer.decode(result.prompt_token_ids, **how)
        whole = self.tokenizer.decode([*result.prompt_token_ids, *result.token_ids], **how)
        after: str = whole.removeprefix(before)
        return after


@dataclass(frozen=True)
class _Request:
    """What a call asks of the pipeline itself.

    Attributes:
        returns: ``"full"`` text, ``"new"`` text or ``"ids"``.
        encodes: whether prompts become ids otherwise than ``generate`` makes them.
    """

    returns: str
    clean_up: bool | None
    stop_sequence: tuple[str, ...]
    add_special_tokens: bool | None
    prefix: str
    handle_long_generation: str | None
    tokenizer_encode_kwargs: Mapping[str, Any]

    @classmethod
    def taken(cls, options: dict[str, Any]) -> _Request:
        """Take the pipeline's own options out of `options`; what is meant for generating stays."""
        returns = _returns(options)
        clean_up = flag(options, "clean_up_tokenization_spaces")
        stop = options.pop("stop_sequence", None)
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        if stops:
            if options.get("stop") or options.get("stop_strings"):
                raise InputError("stop_sequence and stop are both given", hint="give one of them")
            options["stop"] = list(stops)
        special = flag(options, "add_special_tokens")
        prefix = options.pop("prefix", None)
        if not isinstance(prefix, str | None):
            raise InputError(f"prefix is a {type(prefix).__name__}, wanted a text")
        long = options.pop("handle_long_generation", None)
        if long not in (None, "hole"):
            raise InputError(
                f"handle_long_generation is {long!r:.40}, wanted 'hole' or None",
                hint="'hole' cuts the prompt from its beginning",
            )
        encode = options.pop("tokenizer_encode_kwargs", None) or {}
        if not isinstance(encode, Mapping):
            raise InputError(f"tokenizer_encode_kwargs is a {type(encode).__name__}, wanted a dictionary")
        return cls(returns, clean_up, stops, special, prefix or "", long, encode)

    @property
    def encodes(self) -> bool:
        return bool(
            self.prefix
            or self.handle_long_generation
            or self.tokenizer_encode_kwargs
            or self.add_special_tokens is not None
        )


def _returns(options: dict[str, Any]) -> str:
    """What a record is to hold, by the three options that say so."""
    full, text, tensors = (flag(options, name) for name in RETURNS)
    given = [name for name, value in zip(RETURNS, (full, text, tensors), strict=True) if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other", hint="give one of them")
    if text is False:
        raise InputError("return_text=False leaves nothing to return", hint="return_tensors=True gives ids instead")
    if tensors:
        return "ids"
    return "new" if full is False else "full"


def with_room(llm: Llama, ids: list[int], options: Mapping[str, Any]) -> list[int]:
    """The end of a prompt that leaves room for the new tokens in the model's context.

    Raises:
        InputError: the new tokens alone fill it.
    """
    from ...config.context_length import context_length
    from ...generation.options import DEFAULT_MAX_NEW_TOKENS

    context = context_length(llm.config)
    resolved = llm.generation_options(**options)
    new = resolved.max_new_tokens
    if new is None:
        new = DEFAULT_MAX_NEW_TOKENS if resolved.max_length is None else resolved.max_length - len(ids)
    if context is None or len(ids) + new <= context:
        return ids
    if new >= context:
        raise InputError(
            f"handle_long_generation='hole': {new} new tokens leave no room for a prompt in a context of {context}",
            hint="give a smaller " + mention("max_new_tokens"),
        )
    return ids[len(ids) + new - context :]


def _with_generate_kwargs(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with those of ``generate_kwargs`` among them."""
    left = dict(options)
    kwargs = left.pop("generate_kwargs", None) or {}
    if not isinstance(kwargs, Mapping):
        raise InputError(f"generate_kwargs is a {type(kwargs).__name__}, wanted a dictionary of options of generate")
    for name in kwargs:
        if name in left:
            raise InputError(f"{name} is given beside and in generate_kwargs", hint="give it once")
    return left | dict(kwargs)


def _is_chat(inputs: Any) -> bool:
    return isinstance(inputs, Sequence) and bool(inputs) and all(isinstance(item, Mapping) for item in inputs)
