"""Answers of a chat: requests whose texts may call tools, whole or as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..constraints.asked import Asked
from ..errors import GenerationError
from ..tool_calls.protocol import Answer, ToolCall, ToolCallPiece, answer_of, held_schema, tool_function, tool_name
from .calls import TextStream

if TYPE_CHECKING:
    from ..tool_calls.choosing import ToolCalling
    from .options import GenerationOptions
    from .outputs import Generation


@dataclass(frozen=True)
class ChatRequest:
    """What a conversation and its options come to: what is to be run, and how the answer is to be read.

    Attributes:
        prompt: token ids.
        options: of generation; what the text is held to, where a call is asked for, is among them.
        calling: how calls of tools are read; ``None`` without tools.
    """

    prompt: list[int]
    options: GenerationOptions
    calling: ToolCalling | None = None

    def read(self, result: Generation) -> Generation:
        """A result with its calls, and its text without them."""
        if self.calling is None:
            return result
        parser = self.calling.parser()
        if parser is None:
            return replace(result, tool_calls=[])
        return with_answer(result, answer_of([*parser.push(result.text), *parser.finish()]))


def with_answer(result: Generation, answer: Answer) -> Generation:
    """A result as an answer reads it."""
    return replace(result, text=answer.text, tool_calls=answer.calls, tool_call_errors=answer.errors)


class AnswerStream(TextStream):
    """The text of an answer as it comes, calls of tools left out; `result` has the calls.

    :meth:`pieces` gives the calls as they come, too; a stream is iterated over one way or the other.
    """

    def __init__(self, *arguments: Any, calling: ToolCalling, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._parser = calling.parser()
        self._seen: list[ToolCallPiece] = []
        self._pieces = self._read()

    @property
    def result(self) -> Generation | None:
        """The whole result, once the last token was generated and the pieces were taken."""
        found = super().result
        if found is None or self._parser is None:
            return found if found is None else replace(found, tool_calls=[])
        return with_answer(found, answer_of(self._seen)) if self._ended else None

    _ended = False

    def pieces(self) -> Iterator[ToolCallPiece]:
        """Text and calls as they come."""
        return self._pieces

    def __next__(self) -> str:
        for piece in self._pieces:
            if piece.text and piece.kind in ("text", "broken"):
                return piece.text
        raise StopIteration

    def _read(self) -> Iterator[ToolCallPiece]:
        for event in self._events:
            if self._parser is None:
                found = [ToolCallPiece("text", event.text)] if event.text else []
            else:
                found = self._parser.push(event.text)
            self._seen += found
            yield from found
        if self._parser is not None:
            found = self._parser.finish()
            self._seen += found
            self._ended = True
            yield from found


def check_grammar(calling: ToolCalling, tokenizer: Any, vocab_size: int) -> None:
    """Compile what an answer that must call is held to, and keep it for the request; nothing where it need not.

    Raises:
        GenerationError: the schema of a tool's arguments is none (says of which tool, and where).
        PluginError: the compiler's library is not installed.
    """
    if calling.grammar is None:
        return
    from ..constraints.compiling import compiled

    try:
        compiled(Asked("grammar", calling.grammar), tokenizer, vocab_size)
    except GenerationError:  # which speaks of a line of the grammar, that nobody has seen
        for place, tool in enumerate(calling.tools):
            schema = json.dumps(held_schema(tool_function(tool)), ensure_ascii=False)
            try:
                compiled(Asked("json_schema", schema), tokenizer, vocab_size)
            except GenerationError as error:
                raise GenerationError(f"tools[{place}], {tool_name(tool)!r}: {error}") from None
        raise


def as_messages(messages: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
    """Messages as templates read them: calls of tools as mappings, with arguments that are no text.

    OpenAI's interface writes arguments as JSON text, which templates would write as text within JSON.

    >>> as_messages([{"role": "assistant", "tool_calls": [ToolCall("now", {}, "call_1")]}])[0]["tool_calls"][0]["id"]
    'call_1'
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        return messages  # which is said to be wrong where they are read
    return [_as_message(message) for message in messages]


def _as_message(message: Any) -> Any:
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    if not isinstance(calls, list | tuple):
        return message
    return {**message, "tool_calls": [_as_call(call) for call in calls]}


def _as_call(call: Any) -> Any:
    if isinstance(call, ToolCall):
        return call.as_message()
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError:
        return call
    if not isinstance(arguments, dict):
        return call
    return {**call, "function": {**function, "arguments": arguments}}
