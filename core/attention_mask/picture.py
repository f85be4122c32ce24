"""What a picture of attention masks holds, and the forms it takes."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import checked_methods
from ..errors import InputError
from .rows import MaskRows, row_data

if TYPE_CHECKING:
    import numpy as np

IMAGE_KINDS = (".svg", ".png")


@checked_methods
@dataclass(frozen=True, eq=False)
class AttentionMask(MaskRows):
    """Who may look at whom in a model, for one text or several; ``str()`` draws it in plain text, all of it.

    In a notebook it shows itself as SVG.
    """

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"AttentionMask({self.model!r}, rows={len(self.rows)}, tokens={len(self.rows[0])})"

    def _repr_svg_(self) -> str:
        return self.svg()

    @property
    def mask(self) -> np.ndarray:
        """``[B, S, S]`` booleans: true where the second index's token may look at the third's."""
        import numpy as np

        return np.stack([row.mask for row in self.rows])

    def window(self, start: int | None = None, stop: int | None = None) -> AttentionMask:
        """Only the tokens from `start` to `stop` (excluded), as a Python slice counts.

        Raises:
            InputError: nothing is left.
        """
        row = self.rows[0]
        total = row.total
        low, high, _ = slice(start, stop).indices(total)
        low, high = max(low, row.start), min(high, row.start + len(row))
        if low >= high:
            raise InputError(
                f"tokens {'' if start is None else start}:{'' if stop is None else stop} are none of the {total}",
                hint="give first:last+1, such as 0:40; negative numbers count from the end",
            )
        return replace(self, rows=tuple(row.window(low, high) for row in self.rows))

    def text(self, *, width: int | None = None, colour: bool = False, ascii_only: bool = False, more: str = "") -> str:
        """Drawn in characters.

        Args:
            width: columns there are; more tokens than fit are left out, and a line says so. ``None`` draws all.
            colour: with ANSI colours.
            ascii_only: with ``#`` and ``.`` for an output that has no other characters.
            more: said where tokens are left out: how to see them.
        """
        from .terminal import draw

        return draw(self, width=width, colour=colour, ascii_only=ascii_only, more=more)

    def svg(self) -> str:
        """Drawn as an SVG document."""
        from .drawing import draw
        from .svg import to_svg

        return to_svg(draw(self))

    def png(self) -> bytes:
        """Drawn as a PNG file.

        Raises:
            UnsupportedError: Pillow is not installed.
        """
        from .png import to_png

        return to_png(self)

    def save(self, path: str | Path) -> Path:
        """Write the picture to a file whose name ends in ``.svg`` or ``.png``; gives its path.

        Raises:
            InputError: another ending, or the file cannot be written.
            UnsupportedError: a PNG is wanted and Pillow is not installed.
        """
        path = Path(path)
        suffix = image_kind(path)
        content = self.svg().encode("utf-8") if suffix == ".svg" else self.png()
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise InputError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None
        return path

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``polyllama mask --json`` prints it."""
        return {"model": self.model, "rows": [row_data(row) for row in self.rows]}


def image_kind(path: Path) -> str:
    """``.svg`` or ``.png``.

    Raises:
        InputError: the file's name ends otherwise.
    """
    suffix = path.suffix.lower()
    if suffix not in IMAGE_KINDS:
        raise InputError(f"{str(path)!r} does not end in .svg or .png", hint="the ending decides what is written")
    return suffix
