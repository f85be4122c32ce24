"""Conversations that are answered: from messages and tools to what runs, and from a model's text to its calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...core.constraints.asked import KINDS
from ...core.errors import InputError
from ...core.http_interface import HttpError
from ...core.messages import in_quotes, mention
from ...core.tool_calls.protocol import ToolCallPiece

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from ...core.generation.answers import ChatRequest
    from ...core.generation.outputs import Generation, StreamEvent
    from ...core.tool_calls.choosing import ToolCalling
    from .hub import Prepared, Served
    from .options import ServeOptions


class Chat:
    """A conversation of a request: :meth:`prepare` makes it ready, and then its answers can be read.

    Args:
        tools: what ``chat_request`` is told of tools; nothing without any.
    """

    def __init__(self, tools: Mapping[str, Any] | None = None) -> None:
        self._tools = dict(tools or {})
        self._request: ChatRequest | None = None

    def prepare(
        self,
        served: Served,
        server: ServeOptions,
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        limit: Callable[[int], int],
        **how: Any,
    ) -> Prepared:
        """The prompt's tokens and the options; in a thread.

        Args:
            options: of generation, without how many tokens.
            limit: how many tokens an answer may get behind a prompt of so many.
            how: further arguments of ``chat_request``.

        Raises:
            HttpError: this model has no chat template, is told of no tools by it, or how it calls them is unknown.
            PolyllamaError: whatever else is wrong with the messages, the tools or the options.
        """
        llm = served.llm
        if not llm.tokenizer.chat_template and "chat_template" not in how:
            raise HttpError(
                "this model has no chat template, so it is not a chat model",
                hint="let it go on with a text (/v1/completions), or serve it with --chat-template",
            )
        if self._tools.get("tools") and self._tools.get("tool_choice") != "none":
            _check_tools(llm, server, self._tools, options)
            if server.tool_parser is not None:
                how["tool_parser"] = server.tool_parser
        request = llm.chat_request(messages, **self._tools, **how, **options, max_new_tokens=limit(0))
        self._request = request
        return [request.prompt], replace(request.options, max_new_tokens=limit(len(request.prompt)))

    @property
    def _calling(self) -> ToolCalling | None:
        return None if self._request is None else self._request.calling

    def read(self, result: Generation) -> Generation:
        """A result with its calls, and its text without them."""
        assert self._request is not None
        return self._request.read(result)

    def reader(self) -> Reader:
        """Reads one answer as it comes."""
        return Reader(self._calling)


def _check_tools(llm: Llama, server: ServeOptions, asked: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse tools that the model would not be told of, and what leaves no answer in which it could call them."""
    for kind in KINDS:
        if options.get(kind) is not None:
            raise InputError(
                mention(kind) + " holds the whole answer, so that no tool could be called", hint="give one of the two"
            )
    if llm.tokenizer.chat_template and not calls_tools(llm, server.tool_parser, asked["tools"]):
        raise HttpError(
            "this model's chat template tells it of no tools, or in a format that is unknown",
            param="tools",
            kind="unsupported",
            hint="take another model, or serve it with --chat-template and --tool-parser",
        )


def calls_tools(llm: Llama, tool_parser: str | None, tools: Sequence[Any] | None = None) -> bool:
    """Whether a model is told of tools by its chat template, in a format whose calls can be read.

    >>> from polyllama import Llama
    >>> llm = Llama.load("tiny", backend="reference")
    >>> llm.tokenizer.chat_template = "{{ tools | tojson }} <tool_call> {{ messages[0].content }}"
    >>> calls_tools(llm, None)
    True
    """
    from ...core.plugin_system.hookspecs import ToolParserDescriptor
    from ...core.plugin_system.manager import plugin_manager

    tokenizer = llm.tokenizer
    shown = list(tools) if tools else [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    if not tokenizer.chat_template or "tools" not in tokenizer.chat_template_variables(None, shown):
        return False
    if tool_parser is not None:
        return True
    text = tokenizer.get_chat_template(None, shown)
    offers = plugin_manager().offers(ToolParserDescriptor).values()
    return any(mark in text for offer in offers for mark in offer.marks)


class Reader:
    """Reads the text of one answer as it comes.

    Attributes:
        calls: how many have become whole.
    """

    def __init__(self, calling: ToolCalling | None) -> None:
        self._parser = None if calling is None else calling.parser()
        self.calls = 0

    def take(self, events: Sequence[StreamEvent]) -> list[ToolCallPiece]:
        """What the next tokens make certain."""
        text = "".join(event.text for event in events)
        return self._read(text, ended=bool(events) and events[-1].finish_reason is not None)

    def take_whole(self, text: str) -> list[ToolCallPiece]:
        """The pieces of an answer that has come to its end."""
        return self._read(text, ended=True)

    def reason(self, finish_reason: str | None) -> str | None:
        """Why the answer ended: ``"tool_calls"`` where it stopped with calls."""
        return "tool_calls" if finish_reason == "stop" and self.calls else finish_reason

    def _read(self, text: str, *, ended: bool) -> list[ToolCallPiece]:
        if self._parser is None:
            return [ToolCallPiece("text", text)] if text else []
        pieces = list(self._parser.push(text))
        if ended:
            pieces += self._parser.finish()
        self.calls += sum(piece.kind == "end" for piece in pieces)
        return [piece for piece in pieces if piece.text or piece.kind not in ("text", "arguments")]


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """A call's arguments as JSON text, as OpenAI's interface has them.

    >>> arguments_text({"city": "Tromsø"})
    '{"city": "Tromsø"}'
    """
    return json.dumps(arguments, ensure_ascii=False)


def function_schema(name: str, description: str | None, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """A tool as templates are told of it.

    >>> function_schema("now", None, None)
    {'type': 'function', 'function': {'name': 'now'}}
    """
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    if parameters is not None:
        function["parameters"] = dict(parameters)
    return {"type": "function", "function": function}


def check_names(tools: Sequence[Mapping[str, Any]]) -> None:
    """Refuse two tools of one name.

    Raises:
        HttpError: names it.
    """
    seen: set[str] = set()
    for tool in tools:
        name = tool["function"]["name"]
        if name in seen:
            raise HttpError(f"two tools are called {in_quotes(name)}", param="tools")
        seen.add(name)
