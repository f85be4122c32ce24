"""The rows of a picture of attention masks: a cell for each pair of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Self

from ..arguments import checked_methods
from ..messages import counted
from .token_texts import SPACE_SIGN, printable

if TYPE_CHECKING:
    import numpy as np


class Cell(IntEnum):
    """What one token is to another: it looks at it, or why it does not."""

    ITSELF = 0
    LOOKS = 1
    LATER = 2
    PADDING = 3
    OTHER_TEXT = 4


@dataclass(frozen=True, eq=False)
class Heat:
    """Attention weights of one layer and head: `weights` ``[S, S]``, row by row summing to 1; head "mean" is of all."""

    layer: int
    head: int | str
    weights: np.ndarray

    @property
    def name(self) -> str:
        """As a title says it."""
        return f"layer {self.layer}, {'mean of the heads' if self.head == 'mean' else f'head {self.head}'}"


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a batch, or a part of it.

    Attributes:
        title: what it is among the rows.
        token_ids, labels, positions: of each token.
        attended: false where a token is padding.
        texts: which of the texts packed into the row each token belongs to.
        mask: ``[S, S]`` booleans, ``mask[i, j]`` true where token i may look at token j: the model's own.
        heats: attention weights, where asked for.
        start: the first token shown; total: how many the row has.
    """

    title: str
    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    positions: tuple[int, ...]
    attended: tuple[bool, ...]
    texts: tuple[int, ...]
    mask: np.ndarray
    heats: tuple[Heat, ...]
    start: int
    total: int

    def __len__(self) -> int:
        return len(self.token_ids)

    def cells(self) -> np.ndarray:
        """``[S, S]`` of :class:`Cell`: the mask, with the reason wherever it is false."""
        import numpy as np

        indices = np.arange(len(self))
        texts = np.array(self.texts)
        why = np.where(texts[:, None] != texts[None, :], Cell.OTHER_TEXT, Cell.LATER)
        why = np.where(indices[None, :] > indices[:, None], Cell.LATER, why)
        why = np.where(~np.array(self.attended, bool)[None, :], Cell.PADDING, why)
        found = np.where(self.mask, Cell.LOOKS, why)
        return np.where(self.mask & np.eye(len(self), dtype=bool), Cell.ITSELF, found)

    def window(self, start: int, stop: int) -> Row:
        """Tokens `start` to `stop` (excluded), counted as the row counts them."""
        low, high = start - self.start, stop - self.start
        part = slice(low, high)
        return replace(
            self,
            token_ids=self.token_ids[part],
            labels=self.labels[part],
            positions=self.positions[part],
            attended=self.attended[part],
            texts=self.texts[part],
            mask=self.mask[part, part],
            heats=tuple(replace(heat, weights=heat.weights[part, part]) for heat in self.heats),
            start=start,
        )


@checked_methods
@dataclass(frozen=True, eq=False)
class MaskRows:
    """The rows of one model's attention masks, and the panels in which they are drawn.

    Attributes:
        model: the model's name, as titles say it.
        rows: one for each text, or one in which several are packed.
    """

    model: str
    rows: tuple[Row, ...]

    def panels(self) -> Iterator[tuple[Row, Heat | None]]:
        """What is drawn, one after another: each row, or each of its heat maps."""
        for row in self.rows:
            yield from ((row, heat) for heat in row.heats or (None,))

    def title(self, row: Row, heat: Heat | None) -> str:
        """One line above a panel."""
        name = printable(self.model).replace(SPACE_SIGN, " ")
        parts = [name, *([row.title] if row.title else []), *([heat.name] if heat else [])]
        if len(row) == row.total:
            shown = counted(row.total, "token")
        else:
            shown = f"tokens {row.start} to {row.start + len(row) - 1} of {row.total}"
        return f"{', '.join(parts)}: {shown}"

    def spelt(self, spell: Callable[[str], str]) -> Self:
        """With labels and the model's name as `spell` writes them: for an output that lacks letters."""
        rows = tuple(replace(row, labels=tuple(map(spell, row.labels))) for row in self.rows)
        return replace(self, model=spell(self.model), rows=rows)


def row_data(row: Row) -> dict[str, Any]:
    """Plain data of a row, as ``polyllama mask --json`` prints it."""
    data: dict[str, Any] = {
        "title": row.title,
        "start": row.start,
        "total": row.total,
        "token_ids": list(row.token_ids),
        "tokens": list(row.labels),
        "positions": list(row.positions),
        "attended": [int(flag) for flag in row.attended],
        "texts": list(row.texts),
        "mask": row.mask.astype(int).tolist(),
    }
    if row.heats:
        data["attention"] = [
            {
                "layer": heat.layer,
                "head": heat.head,
                "weights": [[round(w, 6) for w in line] for line in heat.weights.tolist()],
            }
            for heat in row.heats
        ]
    return data


MEANING = {
    Cell.LOOKS: "looks at it",
    Cell.LATER: "comes later",
    Cell.PADDING: "padding",
    Cell.OTHER_TEXT: "another text",
}


PADDING_NOTE = "a padding token sees itself, so that its softmax has something to run over; nobody sees it"
