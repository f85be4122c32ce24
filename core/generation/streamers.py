"""Streamers: objects that are handed ids as they come, by the documented names.

``generate(..., streamer=...)`` takes any object with ``put`` and ``end``, transformers' own included, and transformers'
``generate`` takes these. ``llm.stream`` is the same the other way round: there the caller asks for the next piece.
"""

from __future__ import annotations

from queue import Queue
from typing import Any, Protocol, Self

from ..errors import GenerationError, InputError
from ..messages import subject
from ..public import public


class Streamer(Protocol):
    """What ``generate`` hands ids to."""

    def put(self, value: Any) -> None:
        """Take ids: first the prompts ``[rows, width]``, then the tokens ``[rows]`` of each step."""
        ...

    def end(self) -> None:
        """Nothing more comes."""
        ...


def check_streamer(streamer: Any) -> None:
    """Refuse what has no ``put`` and ``end``.

    Raises:
        GenerationError: it has not.
    """
    missing = [name for name in ("put", "end") if not callable(getattr(streamer, name, None))]
    if missing:
        raise GenerationError(
            subject("streamer", streamer) + f" is {streamer!r:.60}, which has no {' and no '.join(missing)}",
            hint="TextStreamer(tokenizer) prints the text as it comes",
        )


@public
class TextStreamer:
    """Print one sequence's text as it comes, in whole words; together the pieces are what ``decode`` makes of the ids.

    Args:
        tokenizer: turns ids into text by its ``decode``.
        skip_prompt: leave out the first ids that are put, which are the prompt.
        decode_kwargs: further arguments of ``decode``, such as ``skip_special_tokens=True``.

    Raises:
        InputError: several rows are put.

    >>> from polyllama import Llama, TextStreamer
    >>> llm = Llama.load("tiny", backend="reference")
    >>> streamer = TextStreamer(llm.tokenizer, skip_special_tokens=True)
    >>> text = llm.generate("Once upon", max_new_tokens=2, streamer=streamer)
    Once upon a time
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self._begin()

    def _begin(self) -> None:
        self._ids: list[int] = []
        self._shown = 0  # ids whose text has been taken
        self._kept = 0  # of these, the first that is decoded again: it says whether a space is between
        self._pending = ""
        self._prompt_comes = True

    def put(self, value: Any) -> None:
        """Take the next ids ``[n]`` or ``[1, n]``, and show the words that are whole with them."""
        if len(value.shape) > 1:
            if value.shape[0] != 1:
                raise InputError(f"a TextStreamer shows one row, {value.shape[0]} are put", hint="give one prompt")
            value = value[0]
        elif value.shape[0] > 1 and not self._prompt_comes:
            raise InputError(f"a TextStreamer shows one row, {value.shape[0]} are put", hint="give one prompt")
        prompt, self._prompt_comes = self._prompt_comes, False
        if prompt and self.skip_prompt:
            return
        self._ids += [int(token_id) for token_id in value.tolist()]
        self._pending += self._new_text(last=False)
        whole = _whole_words(self._pending)
        shown, self._pending = self._pending[:whole], self._pending[whole:]
        self.on_finalized_text(shown)

    def end(self) -> None:
        """Show what is left, and end the line."""
        rest = self._pending + self._new_text(last=True)
        self._begin()
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print a piece of text; the place to do something else with it.

        Args:
            stream_end: it is the last piece.
        """
        print(text, flush=True, end="\n" if stream_end else "")

    def _new_text(self, *, last: bool) -> str:
        """The text that came with the ids since it was last asked for; nothing in the middle of a character."""
        if self._shown == len(self._ids):
            return ""
        before = self._decode(self._ids[self._kept : self._shown]) if self._shown > self._kept else ""
        text = self._decode(self._ids[self._kept :])
        if not last and (text.endswith("\ufffd") or len(text) < len(before)):
            return ""
        new = text[len(before) :]
        if new:  # what has no text, such as a special token, would hide whether a space is between
            self._kept = self._shown
        self._shown = len(self._ids)
        return new

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, **self.decode_kwargs))


@public
class TextIteratorStreamer(TextStreamer):
    """The text of one sequence as an iterator, for ``generate`` in another thread.

    Args:
        tokenizer, skip_prompt, decode_kwargs: as :class:`TextStreamer`.
        timeout: seconds to wait for the next piece, ``queue.Empty`` beyond; ``None`` waits for ever, also for a
            generation that has failed.

    >>> from threading import Thread
    >>> from polyllama import Llama, TextIteratorStreamer
    >>> llm = Llama.load("tiny", backend="reference")
    >>> streamer = TextIteratorStreamer(llm.tokenizer, skip_prompt=True)
    >>> Thread(target=llm.generate, args=("Once upon",), kwargs={"streamer": streamer, "max_new_tokens": 2}).start()
    >>> "".join(streamer)
    'a time'
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout
        self.text_queue: Queue[str | None] = Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hand a piece of text to whoever iterates."""
        self.text_queue.put(text)
        if stream_end:
            self.text_queue.put(None)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        piece = self.text_queue.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        return piece


def _whole_words(text: str) -> int:
    """How much of a text is whole words: up to its last space or line break, or all of it after an ideograph.

    >>> _whole_words("two wor"), _whole_words("two words "), _whole_words("\u4f60\u597d")
    (4, 10, 2)
    """
    if text and _is_ideograph(text[-1]):
        return len(text)
    return max(text.rfind(" "), text.rfind("\n")) + 1


def _is_ideograph(character: str) -> bool:
    """Whether a character is one of the CJK ideographs, between whose words are no spaces (Unicode, chapter 18)."""
    code = ord(character)
    return 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x2FA1F
