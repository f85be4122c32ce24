"""Bodies of Ollama's interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from ....core.http_interface import HttpError
from ..fields import Body, Part, Penalty, RepetitionPenalty, given, no_effect
from ..openai.tools import Tool
from ..options import parse_duration

NAMES: Mapping[str, str] = {
    "max_new_tokens": "num_predict",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "stop": "stop",
    "json_schema": "format",
}
"""Generation's options as this interface calls them."""

_MACHINE = "how the engine runs is the server's matter"


class Options(Part):
    """How tokens are chosen."""

    num_predict: Annotated[int, Field(ge=-2)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repeat_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    mirostat: int | None = None
    tfs_z: float | None = None
    mirostat_tau: Any = no_effect("belongs to mirostat, which is not offered")
    mirostat_eta: Any = no_effect("belongs to mirostat, which is not offered")
    repeat_last_n: Any = no_effect("penalties count the whole text here")
    penalize_newline: Any = no_effect()
    num_keep: Any = no_effect("no text is shifted here")
    num_batch: Any = no_effect(_MACHINE)
    num_gpu: Any = no_effect(_MACHINE)
    main_gpu: Any = no_effect(_MACHINE)
    num_thread: Any = no_effect(_MACHINE)
    numa: Any = no_effect(_MACHINE)
    low_vram: Any = no_effect(_MACHINE)
    f16_kv: Any = no_effect(_MACHINE)
    vocab_only: Any = no_effect(_MACHINE)
    use_mmap: Any = no_effect(_MACHINE)
    use_mlock: Any = no_effect(_MACHINE)

    def generation(self) -> dict[str, Any]:
        """The options of generation, without how many tokens.

        Raises:
            HttpError: one that is not offered.
        """
        if self.mirostat:
            raise HttpError("mirostat is not offered", param="mirostat", kind="unsupported")
        if self.tfs_z not in (None, 1.0):
            raise HttpError("tfs_z is not offered", param="tfs_z", kind="unsupported")
        found = given(self, {name: NAMES[name] for name in NAMES if name not in ("max_new_tokens", "json_schema")})
        if self.seed is not None:
            found["seed"] = self.seed % (1 << 64)
        if not found.get("stop", True):
            del found["stop"]
        return found


class AnyBody(Body):
    """What chats and prompts take alike."""

    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: str | float | int | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    truncate: Any = no_effect("a prompt that does not fit is an error")
    shift: Any = no_effect("no text is shifted here")

    def refuse(self) -> None:
        """Say what is not offered.

        Raises:
            HttpError: names the field.
        """
        if self.think:
            raise HttpError("think is not offered", param="think", kind="unsupported")
        if self.logprobs or self.top_logprobs:
            raise HttpError("logprobs is not offered here, see /v1/completions", param="logprobs", kind="unsupported")


class CalledFunction(Part):
    name: str
    arguments: dict[str, Any]
    index: int | None = None


class ToolCall(Part):
    function: CalledFunction
    id: str | None = None


class Message(Part):
    """Who says what."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    thinking: Any = no_effect()

    def plain(self) -> dict[str, Any]:
        """As a template reads it.

        Raises:
            HttpError: it has pictures.
        """
        if self.images:
            raise HttpError("this model takes text alone", param="images", kind="unsupported")
        found: dict[str, Any] = {"role": self.role, "content": self.content or ""}
        if self.tool_calls:
            found["tool_calls"] = [
                {
                    **({} if call.id is None else {"id": call.id}),
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            found["tool_call_id"] = self.tool_call_id
        return found if self.tool_name is None else {**found, "name": self.tool_name}


class ChatBody(AnyBody):
    """A conversation, and how it is to be answered."""

    messages: list[Message] | None = None
    tools: list[Tool] | None = None


class GenerateBody(AnyBody):
    """A prompt, and how it is to be answered."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None
    images: list[str] | None = None
    context: Any = no_effect("the text before is sent again: what was run of it is kept")


class EmbedBody(Body):
    """Texts."""

    model: Annotated[str, Field(min_length=1)]
    input: str | list[str]
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    options: Options | None = None
    keep_alive: str | float | int | None = None


class EmbeddingsBody(Body):
    """A text."""

    model: Annotated[str, Field(min_length=1)]
    prompt: str
    options: Options | None = None
    keep_alive: str | float | int | None = None


class ShowBody(Body):
    """A model."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


def model_name(name: str) -> str:
    """A model's name without the tag that Ollama's clients add.

    >>> model_name("tiny:latest")
    'tiny'
    """
    return name.removesuffix(":latest")


def seconds(keep_alive: str | float) -> float | None:
    """How long a model is to stay; ``None`` for ever.

    Raises:
        HttpError: it is no duration.
    """
    if isinstance(keep_alive, str):
        try:
            return parse_duration(keep_alive, "keep_alive")
        except Exception as error:
            raise HttpError(str(error), param="keep_alive") from None
    return None if keep_alive < 0 else float(keep_alive)
