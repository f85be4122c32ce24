"""Rows of ids for a model: truncation, special tokens, padding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import TokenizerError
from ..messages import mention, subject
from .engines.engine import Offset
from .engines.template import SpecialTokensTemplate

if TYPE_CHECKING:
    import numpy

TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")
PADDINGS = ("longest", "max_length", "do_not_pad")


class BatchEncoding(dict[str, Any]):
    """A dictionary of rows whose keys are attributes too.

    >>> BatchEncoding(input_ids=[1, 2]).input_ids
    [1, 2]
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here; there are {', '.join(self) or 'no keys'}") from None


@dataclass(slots=True)
class Segmented:
    """One text's ids, before special tokens."""

    ids: list[int]
    offsets: list[Offset]

    def part(self, start: int, end: int) -> Segmented:
        return Segmented(self.ids[start:end], self.offsets[start:end])


@dataclass(slots=True)
class Row:
    """One row, with everything a caller may ask for about each of its ids."""

    input_ids: list[int] = field(default_factory=list)
    token_type_ids: list[int] = field(default_factory=list)
    special_tokens_mask: list[int] = field(default_factory=list)
    offset_mapping: list[Offset] = field(default_factory=list)
    sequence_ids: list[int] = field(default_factory=list)
    attention_mask: list[int] = field(default_factory=list)
    sample: int = 0

    @classmethod
    def build(cls, template: SpecialTokensTemplate, parts: Sequence[Segmented], sample: int) -> Row:
        """Put the special tokens of ``template`` around one or two texts."""
        row = cls(sample=sample)
        for part, type_id in template.steps(len(parts) == 2):
            special = isinstance(part, tuple)
            ids = list(part) if isinstance(part, tuple) else parts[part].ids
            row.input_ids += ids
            row.offset_mapping += [(0, 0)] * len(ids) if isinstance(part, tuple) else parts[part].offsets
            row.token_type_ids += [type_id] * len(ids)
            row.special_tokens_mask += [int(special)] * len(ids)
            row.sequence_ids += [-1 if isinstance(part, tuple) else part] * len(ids)
        row.attention_mask = [1] * len(row.input_ids)
        return row


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
        raise TokenizerError(f"stride {stride} must be smaller than the {length} ids a window holds")
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


PADDABLE = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask")


def rows_to_pad(encoded: object) -> tuple[list[Row], list[str]]:
    """The rows of what ``Tokenizer.pad`` was given, and the keys they have.

    Errors: TokenizerError for unknown or missing keys, and for values that are not rows of equally many ids.
    """
    if isinstance(encoded, Mapping):
        columns: dict[str, Any] = dict(encoded)
    elif isinstance(encoded, Sequence) and all(isinstance(row, Mapping) for row in encoded):
        keys = list(encoded[0]) if encoded else []
        for index, row in enumerate(encoded):
            if set(row) != set(keys):
                given = ", ".join(map(str, row)) or "nothing"
                raise TokenizerError(f"pad: row {index} has {given}, the first row has {', '.join(map(str, keys))}")
        columns = {key: [row[key] for row in encoded] for key in keys}
    else:
        raise TokenizerError(f"pad takes a mapping of rows or a list of mappings, got {encoded!r:.80}")
    if "input_ids" not in columns or not set(columns) <= set(PADDABLE):
        given = ", ".join(map(str, columns)) or "nothing"
        raise TokenizerError(f"pad takes input_ids and {', '.join(PADDABLE[1:])}, got {given}")
    listed = {key: _listed_rows(key, value) for key, value in columns.items()}
    rows: list[Row] = []
    for index, ids in enumerate(listed["input_ids"]):
        row = Row(input_ids=ids, attention_mask=[1] * len(ids))
        for key, values in listed.items():
            if len(values) != len(listed["input_ids"]) or len(values[index]) != len(ids):
                raise TokenizerError(f"pad: {key} and input_ids differ in length", hint=f"see row {index}")
            setattr(row, key, values[index])
        rows.append(row)
    return rows, list(listed)


def _listed_rows(key: str, rows: Any) -> list[list[Any]]:
    listed = rows.tolist() if hasattr(rows, "tolist") else rows
    if isinstance(listed, list | tuple):
        listed = [row.tolist() if hasattr(row, "tolist") else row for row in listed]
        if all(isinstance(row, list | tuple) for row in listed):
            return [list(row) for row in listed]
    raise TokenizerError(
        f"pad: {key} must be a list of rows of ids, got {rows!r:.80}", hint="put a single row in a list: [[1, 2]]"
    )


def pad_rows(rows: Iterable[Row], length: int, pad_id: int, side: str) -> None:
    """Fill rows up to ``length`` in place."""
    for row in rows:
        missing = length - len(row.input_ids)
        if missing <= 0:
            continue
        fills: list[tuple[list[Any], Any]] = [
            (row.input_ids, pad_id),
            (row.attention_mask, 0),
            (row.token_type_ids, 0),
            (row.special_tokens_mask, 1),
            (row.offset_mapping, (0, 0)),
            (row.sequence_ids, -1),
        ]
        for values, fill in fills:
            if side == "left":
                values[:0] = [fill] * missing
            else:
                values.extend([fill] * missing)


def choose(value: object, argument: str, choices: Sequence[str], yes: str, no: str) -> str:
    """True, False, None or a name -> a name."""
    if value is None or value is False:
        return no
    if value is True:
        return yes
    if isinstance(value, str) and value in choices:
        return value
    raise TokenizerError(
        mention(argument, value, limit=80) + " is unknown", hint=f"known: True, False, {', '.join(choices)}"
    )


def positive(value: object, argument: str) -> int:
    """A positive integer argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TokenizerError(subject(argument, value) + f" must be a positive integer, got {value!r:.80}")
    return value


def to_numpy(rows: Mapping[str, list[Any]]) -> dict[str, numpy.ndarray[Any, Any]]:
    """Every list as an int64 array; ragged rows are an error with the remedy."""
    import numpy

    arrays: dict[str, numpy.ndarray[Any, Any]] = {}
    for name, values in rows.items():
        if values and isinstance(values[0], list) and len({len(row) for row in values}) > 1:
            raise TokenizerError(
                f"rows of {name} have different lengths, so they make no array",
                hint="pass padding=True (and " + mention("truncation", True) + ")",
            )
        arrays[name] = numpy.asarray(values, dtype=numpy.int64)
    return arrays
