"""Text that appears token by token, cut before stop strings: what has been shown never has to be taken back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol


class StreamDecoder(Protocol):
    """What turns ids into text one at a time; the pieces concatenate to the decoded whole."""

    def push(self, token_id: int, /) -> str: ...
    def finish(self) -> str: ...


class StopStrings:
    """Passes text on up to the first stop string, holding back whatever may be the beginning of one.

    Text is cut before the stop string that is complete first when characters arrive one by one (the longest of those
    that end together), so where it is cut does not depend on how it was divided into tokens.

    >>> stops = StopStrings(["END"])
    >>> [stops.push(piece) for piece in ("a E", "N", "x END b")]
    ['a ', '', 'ENx ']
    >>> stops.matched
    'END'

    Args:
        before: text in which a stop string may begin; the end that may be part of one is passed on with what follows.
    """

    def __init__(self, stops: Sequence[str], before: str = "") -> None:
        self.stops = tuple(stops)
        self.matched: str | None = None
        self._held = before[len(before) - self._beginning(before) :]

    def push(self, piece: str, *, armed: bool = True) -> str:
        """Take the next piece, return the text that is certain; nothing more once a stop string has `matched`.

        A stop string that is completed while not `armed` counts as ordinary text.
        """
        if self.matched is not None or not piece:
            return ""
        text = self._held + piece
        if armed:
            start = self._find(text)
            if start is not None:
                self._held = ""
                return text[:start]
        keep = self._beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def fork(self) -> StopStrings:
        """A copy that goes its own way."""
        return copy.copy(self)

    def finish(self) -> str:
        """Return what is still held back, when no more text follows."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str) -> int | None:
        """Where the stop string that is complete first starts; it must end in what is new."""
        known = len(self._held)
        best: tuple[int, int] | None = None
        for stop in self.stops:
            start = text.find(stop, max(0, known - len(stop) + 1))
            if start >= 0 and (best is None or (start + len(stop), start) < best):
                best = start + len(stop), start
                self.matched = stop
        return None if best is None else best[1]

    def _beginning(self, text: str) -> int:
        """The length of the longest end of `text` with which a stop string could begin."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self.stops):
                return length
        return 0


class TextAssembler:
    """The text of one sequence: ids in, text out, stop strings applied.

    Without a decoder (a model without a tokenizer) the text stays empty.
    """

    def __init__(self, decoder: StreamDecoder | None, stops: Sequence[str], before: str = "") -> None:
        self._decoder = decoder
        self._stops = StopStrings(stops, before)

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, or ``None``."""
        return self._stops.matched

    def push(self, token_id: int, *, armed: bool) -> str:
        """Return the text that `token_id` makes certain; a stop string only counts where `armed`."""
        return "" if self._decoder is None else self._stops.push(self._decoder.push(token_id), armed=armed)

    def fork(self) -> TextAssembler:
        """A copy that goes its own way: of a beam that continues in two."""
        other = copy.copy(self)
        other._decoder, other._stops = forked(self._decoder), self._stops.fork()
        return other

    def finish(self, *, armed: bool) -> str:
        """Return the rest of the text, when no more tokens follow."""
        rest = "" if self._decoder is None else self._stops.push(self._decoder.finish(), armed=armed)
        return rest + self._stops.finish()


def forked(decoder: StreamDecoder | None) -> StreamDecoder | None:
    """A copy of a decoder that goes its own way, by its own ``fork`` where it has one."""
    fork = getattr(decoder, "fork", None)
    copied: StreamDecoder | None = copy.deepcopy(decoder) if fork is None else fork()
    return copied
