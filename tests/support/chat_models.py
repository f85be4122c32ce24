"""Shared by the tests of the chat: a small model that talks, and a conversation that is written down."""

from __future__ import annotations

from typing import Any

from polyllama import Llama
from polyllama.plugins.chat.conversation import DROP_OLDEST, Conversation

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if not loop.last or add_generation_prompt %}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}{{ mood }}"
)
CONTEXT = 96


def load_talker() -> Llama:
    """The bundled model with a template and a short context."""
    llm = Llama.load("tiny", backend="reference", dtype="float32", max_position_embeddings=CONTEXT)
    llm.tokenizer.chat_template = TEMPLATE
    return llm


class Talk:
    """A conversation and what it has written and said."""

    def __init__(self, llm: Llama, **options: Any) -> None:
        self.written: list[str] = []
        self.said: list[str] = []
        options = {"generation": {"max_new_tokens": 6}, "prompt": {}, "overflow": DROP_OLDEST, **options}
        self.conversation = Conversation(llm, say=self._say, write=self._write, **options)
        self.stop_after: int | None = None

    def _say(self, text: str) -> None:
        assert not self.written or self.written[-1] == "\n", "amid an answer"
        self.said.append(text)

    def _write(self, piece: str) -> None:
        self.written.append(piece)
        if self.stop_after is not None and len(self.written) >= self.stop_after:
            self.stop_after = None
            raise KeyboardInterrupt

    def text(self) -> str:
        """What was written since the last call."""
        text = "".join(self.written)
        self.written.clear()
        return text
