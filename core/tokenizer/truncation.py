"""Cutting texts to a length: which of two, from which side, in one window or in several."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import TokenizerError
from ..messages import counted, mention
from .engines.special_tokens_template import SpecialTokensTemplate
from .rows import Segmented

TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")


@dataclass(frozen=True)
class Truncation:
    """How rows are cut: one of :data:`TRUNCATIONS`, the ids a row may have, and the side that is cut.

    With `overflow`, what is cut off follows as further windows, which share `stride` ids.
    """

    strategy: str
    limit: int | None
    side: str
    stride: int
    overflow: bool

    def windows(self, parts: list[Segmented], template: SpecialTokensTemplate) -> list[list[Segmented]]:
        """Return the windows of one or two texts that leave room for the special tokens of `template`.

        Errors: TokenizerError where the special tokens alone are too many, or the strategy cannot reach the length.
        """
        if self.strategy == "do_not_truncate" or self.limit is None:
            return [parts]
        room = self.limit - template.num_added(len(parts) == 2)
        if room < 0:
            raise TokenizerError(f"max_length={self.limit} leaves no room for the special tokens", hint="raise it")
        return truncate(parts, room, self.strategy, self.side, self.stride, self.overflow)


def truncate(
    parts: list[Segmented], room: int, strategy: str, side: str, stride: int, overflow: bool
) -> list[list[Segmented]]:
    """Cut one or two texts to ``room`` ids in total; with ``overflow`` also the windows that follow, ``stride`` shared.

    Errors: TokenizerError where the strategy cannot reach the length.
    """
    total = sum(len(part.ids) for part in parts)
    if total <= room or strategy == "do_not_truncate":
        return [parts]
    if len(parts) == 2 and strategy == "longest_first":
        if overflow:
            raise TokenizerError(
                "return_overflowing_tokens needs to know which text of a pair to window",
                hint="pass " + mention("truncation", "only_first") + " or 'only_second'",
            )
        lengths = _longest_first([len(part.ids) for part in parts], room)
        return [[_windows(part, length, 0, side)[0] for part, length in zip(parts, lengths, strict=True)]]
    index = 1 if strategy == "only_second" else 0
    if index >= len(parts):
        raise TokenizerError(mention("truncation", "only_second") + " needs a text_pair")
    length = room - (total - len(parts[index].ids))
    if length <= 0 and len(parts) == 2:
        raise TokenizerError(
            mention("truncation", strategy) + " cannot fit the pair: the other text alone leaves no room",
            hint="raise max_length or pass " + mention("truncation", "longest_first"),
        )
    if overflow and stride >= length:
        raise TokenizerError(f"stride {stride} must be smaller than the {counted(length, 'id')} a window holds")
    windows = _windows(parts[index], length, stride, side)
    return [[*parts[:index], window, *parts[index + 1 :]] for window in (windows if overflow else windows[:1])]


def _longest_first(lengths: list[int], room: int) -> list[int]:
    """Shorten the longer text to the other's length, then both evenly; an odd id stays with the longer."""
    order = sorted(range(2), key=lambda index: lengths[index])
    shorter, longer = order
    result = list(lengths)
    result[longer] = max(lengths[shorter], room - lengths[shorter])
    if sum(result) > room:
        result[shorter] = room // 2
        result[longer] = room - room // 2
    return result


def _windows(part: Segmented, length: int, stride: int, side: str) -> list[Segmented]:
    """Windows of ``length`` ids from the side that is kept, neighbours sharing ``stride``; the last may be shorter."""
    size = len(part.ids)
    if length <= 0:
        return [part.part(0, 0)]
    step = max(length - stride, 1)
    windows: list[Segmented] = []
    for begin in range(0, size, step):
        end = min(begin + length, size)
        windows.append(part.part(begin, end) if side == "right" else part.part(size - end, size - begin))
        if end == size:
            break
    return windows or [part]
