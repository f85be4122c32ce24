"""Rows that were encoded before, brought to one length: what a data collator hands to ``Tokenizer.pad``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..array_kinds import kind_among, kind_of
from ..errors import TokenizerError
from .arrays import plain_numbers

PADDABLE = {"input_ids": None, "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
"""The columns that are padded, and by what; ids by the pad token's. Others stay as they are."""


@dataclass
class Columns:
    """Rows by column.

    Attributes:
        rows: column -> a list with each row's value.
        single: it was one row, given without a list around it.
        kind: the framework of the arrays that the rows came in, None for lists.
    """

    rows: dict[str, list[Any]]
    single: bool
    kind: str | None

    @classmethod
    def read(cls, encoded: object) -> Columns:
        """Read what ``Tokenizer.pad`` was given: a mapping of columns, or a list of mappings of one row each.

        Errors: TokenizerError for missing ids, and for columns that do not belong to them.
        """
        columns = _columns(encoded)
        if "input_ids" not in columns:
            given = ", ".join(map(str, columns)) or "nothing"
            raise TokenizerError(f"pad takes input_ids and what belongs to them, got {given}")
        kind = _kind(columns["input_ids"])
        plain = {name: plain_numbers(values) for name, values in columns.items()}
        ids = plain["input_ids"]
        if not isinstance(ids, list):
            raise TokenizerError(f"pad: input_ids must be a list of rows of ids, got {columns['input_ids']!r:.80}")
        single = bool(ids) and not any(isinstance(row, list) for row in ids)
        rows = {name: [values] if single else values for name, values in plain.items()}
        _check(rows)
        return cls(rows, single, kind)

    def longest(self) -> int:
        return max((len(row) for row in self.rows["input_ids"]), default=0)

    def add_mask(self) -> None:
        """Attend to every id, where nothing else is said."""
        if "attention_mask" not in self.rows:
            self.rows["attention_mask"] = [[1] * len(row) for row in self.rows["input_ids"]]

    def pad(self, length: int, pad_id: int, side: str) -> None:
        """Fill the columns that are padded up to ``length``."""
        missing = [length - len(row) for row in self.rows["input_ids"]]
        for name, fill in PADDABLE.items():
            if name not in self.rows:
                continue
            of_rows = zip(self.rows[name], missing, strict=True)
            fills = [(row, [pad_id if fill is None else fill] * count) for row, count in of_rows]
            self.rows[name] = [more + row if side == "left" else row + more for row, more in fills]

    def collected(self) -> dict[str, Any]:
        """The columns; of one row as they were given."""
        return {name: rows[0] for name, rows in self.rows.items()} if self.single else self.rows


def _columns(encoded: object) -> dict[str, Any]:
    if isinstance(encoded, Mapping):
        return dict(encoded)
    if not isinstance(encoded, Sequence) or not all(isinstance(row, Mapping) for row in encoded):
        raise TokenizerError(f"pad takes a mapping of rows or a list of mappings, got {encoded!r:.80}")
    names = list(encoded[0]) if encoded else []
    for index, row in enumerate(encoded):
        if set(row) != set(names):
            given = ", ".join(map(str, row)) or "nothing"
            raise TokenizerError(f"pad: row {index} has {given}, the first row has {', '.join(map(str, names))}")
    return {name: [row[name] for row in encoded] for name in names}


def _kind(ids: Any) -> str | None:
    if kind_of(ids) is not None or not isinstance(ids, list | tuple):
        return kind_of(ids)
    return kind_among(ids)


def _check(rows: Mapping[str, Any]) -> None:
    ids = rows["input_ids"]
    for index, row in enumerate(ids):
        if not isinstance(row, list) or any(isinstance(value, list) for value in row):
            raise TokenizerError(f"pad: row {index} of input_ids must be a list of ids, got {row!r:.80}")
    for name, values in rows.items():
        if not isinstance(values, list) or len(values) != len(ids):
            raise TokenizerError(f"pad: {name} and input_ids differ in length, or {name} is no list of rows")
        for index, (value, row) in enumerate(zip(values, ids, strict=True)):
            if name in PADDABLE and (not isinstance(value, list) or len(value) != len(row)):
                raise TokenizerError(f"pad: {name} and input_ids differ in length", hint=f"see row {index}")
