"""Fields that chats and completions share: how tokens are chosen, how many, when to stop, what is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ....core.http_interface import HttpError
from ..fields import Body, Part, Penalty, RepetitionPenalty, given, no_effect
from ..limits import with_defaults

if TYPE_CHECKING:
    from ....core.api.llama import Llama
    from ..options import ServeOptions

NAMES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "num_return_sequences": "n",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "seed": "seed",
    "stop": "stop",
    "stop_token_ids": "stop_token_ids",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "logit_bias": "logit_bias",
    "skip_special_tokens": "skip_special_tokens",
    "prompt_lookup_num_tokens": "prompt_lookup_num_tokens",
    "json_schema": "response_format",
    "regex": "regex",
    "grammar": "grammar",
    "choices": "choices",
}
"""Generation's options as this interface calls them."""

_AS_THEY_ARE = [name for name in NAMES if name not in ("max_new_tokens", "num_return_sequences", "logit_bias", "seed")]
_CONSTRAINTS = ("json_schema", "regex", "grammar", "choices")
_MAX_ROWS = 128
"""Sequences of a request at most, as OpenAI has it."""

Token = Annotated[int, Field(ge=0)]


class StreamOptions(Part):
    include_usage: bool | None = None
    include_obfuscation: Any = no_effect()


class JsonSchemaFormat(Part):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Part):
    type: Annotated[str, Field(pattern="^(text|json_object|json_schema)$")]
    json_schema: JsonSchemaFormat | None = None


class SamplingBody(Body):
    """What chats and completions take alike."""

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=_MAX_ROWS)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Token] | None = None
    ignore_eos: bool | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] | None = None
    logit_bias: dict[str, float] | None = None
    skip_special_tokens: bool | None = None
    prompt_lookup_num_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    regex: str | None = None
    grammar: str | None = None
    choices: list[str] | None = None
    user: Any = no_effect()

    @property
    def rows(self) -> int:
        """Sequences for each prompt."""
        return self.n or 1

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with a chunk of counts."""
        return bool(self.stream_options is not None and self.stream_options.include_usage)


def sampling_options(body: SamplingBody, llm: Llama, server: ServeOptions) -> dict[str, Any]:
    """The options of generation that a request asks for, without how many tokens: see ``limits.py``.

    Where it names no temperature, it is what the checkpoint says, else 1 as OpenAI has it.

    Raises:
        HttpError: a field that is not offered, or contradicts another.
    """
    if body.stream_options is not None and not body.stream:
        raise HttpError("stream_options goes with stream", param="stream_options")
    options = given(body, {name: NAMES[name] for name in _AS_THEY_ARE if name not in _CONSTRAINTS})
    if body.top_k == -1:  # vLLM's word for off
        options["top_k"] = 0
    if (isinstance(body.stop, list) and not body.stop) or body.stop == "":
        del options["stop"]
    if body.logit_bias:
        options["logit_bias"] = _biases(body.logit_bias)
    if body.seed is not None:
        options["seed"] = body.seed % (1 << 64)
    if body.ignore_eos:
        options["eos_token_id"] = []
    if body.n is not None and body.n > 1 and body.temperature == 0:
        raise HttpError(f"n={body.n} with temperature=0 would give the same text each time", param="n")
    if body.rows > 1:
        options["num_return_sequences"] = body.rows
    named = given(body, {name: name for name in _CONSTRAINTS[1:]})
    return with_defaults(options, llm, server, temperature=1.0) | constraint(body.response_format, named)


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    found = {}
    for key, value in given.items():
        if not key.isascii() or not key.isdigit():
            raise HttpError(f"logit_bias has the key {key[:20]!r}, wanted a token id", param="logit_bias")
        if not -100 <= value <= 100:
            raise HttpError(f"logit_bias of {key} is {value:g}, wanted a number from -100 to 100", param="logit_bias")
        found[int(key)] = value
    return found


def constraint(wanted: ResponseFormat | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """What the text has to be, as an option of generation's.

    Args:
        wanted: OpenAI's form of it; `named`: ours, by generation's names.

    Raises:
        HttpError: two of them, or a form without its schema.
    """
    found = dict(named)
    if wanted is not None and wanted.type == "json_object":
        found["json_schema"] = {"type": "object"}
    elif wanted is not None and wanted.type == "json_schema":
        if wanted.json_schema is None or wanted.json_schema.schema_ is None:
            raise HttpError("response_format lacks json_schema.schema", param="response_format")
        found["json_schema"] = wanted.json_schema.schema_
    if len(found) > 1:
        fields = " and ".join(NAMES[name] for name in found)
        raise HttpError(f"{fields} are two constraints", hint="give one")
    return found
