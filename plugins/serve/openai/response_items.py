"""What a response puts out: messages and calls of tools, item by item, and the events that tell of them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from ....core.tool_calls.protocol import ToolCallPiece

Event = tuple[str, dict[str, Any]]
"""The kind of an event, without ``response.``, and what it says."""


class Output:
    """The items of a response, made of the pieces of an answer.

    Attributes:
        items: as they are so far.
    """

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._open = False

    def take(self, pieces: Sequence[ToolCallPiece]) -> list[Event]:
        """Add pieces; the events that tell of them."""
        events: list[Event] = []
        for piece in pieces:
            if piece.kind == "begin":
                item = {
                    "type": "function_call",
                    "id": f"fc_{uuid.uuid4().hex}",
                    "call_id": piece.id,
                    "name": piece.name,
                }
                events += self.close() + self._add({**item, "arguments": ""})
            elif piece.kind == "arguments":
                self.items[-1]["arguments"] += piece.text
                events.append(("function_call_arguments.delta", {**self._where(), "delta": piece.text}))
            elif piece.kind == "end":
                events += self.close()
            else:  # what breaks off as a call is text, all of it
                events += self.close("incomplete") if piece.kind == "broken" else []
                events += self._text(piece.text)
        return events

    def finish(self, status: str) -> list[Event]:
        """No more pieces follow; an answer without any is an empty text."""
        events = [] if self.items else self._text("")
        return events + self.close(status)

    def close(self, status: str = "completed") -> list[Event]:
        """End the last item, where it has not ended."""
        if not self._open:
            return []
        self._open = False
        item = self.items[-1]
        item["status"] = status
        done: Event = ("output_item.done", {"output_index": len(self.items) - 1, "item": item})
        if item["type"] == "function_call":
            told = {"name": item["name"], "arguments": item["arguments"]}
            return [("function_call_arguments.done", {**self._where(), **told}), done]
        [part], where = item["content"], {**self._where(), "content_index": 0}
        return [
            ("output_text.done", {**where, "text": part["text"], "logprobs": []}),
            ("content_part.done", {**where, "part": part}),
            done,
        ]

    def _text(self, text: str) -> list[Event]:
        events: list[Event] = []
        if not self._open or self.items[-1]["type"] != "message":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item = {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "role": "assistant", "content": []}
            events += self.close() + self._add(item)
            events.append(("content_part.added", {**self._where(), "content_index": 0, "part": dict(part)}))
            self.items[-1]["content"] = [part]
        if text:
            self.items[-1]["content"][0]["text"] += text
            where = {**self._where(), "content_index": 0}
            events.append(("output_text.delta", {**where, "delta": text, "logprobs": []}))
        return events

    def _add(self, item: dict[str, Any]) -> list[Event]:
        self._open = True
        self.items.append({**item, "status": "in_progress"})
        return [("output_item.added", {"output_index": len(self.items) - 1, "item": dict(self.items[-1])})]

    def _where(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}
