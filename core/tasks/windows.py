"""Texts into rows for a model, each token with where it comes from; long texts into windows that share tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..messages import counted, mention
from ..public import for_plugins

if TYPE_CHECKING:
    import numpy as np

    from ..config.schema import LlamaConfig
    from ..tokenizer.tokenizer import Tokenizer


@for_plugins
@dataclass(frozen=True)
class Window:
    """One row for the model.

    Attributes:
        source: for each token the text it is from: 0 for the first, 1 for the second; -1 for special ones around them.
        offsets: for each token the start and end of its characters in that text; empty where they were not asked for.
        first: how many tokens of the text that was cut into windows lie before this one.
    """

    input_ids: list[int]
    source: list[int]
    offsets: list[tuple[int, int]] = field(default_factory=list)
    first: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)

    def places(self, source: int = 0) -> list[int]:
        """Numbers of the tokens that come from one of the texts."""
        return [place for place, text in enumerate(self.source) if text == source]

    def of(self, source: int = 0) -> np.ndarray:
        """``[S]`` booleans: the tokens that come from one of the texts."""
        import numpy as np

        return np.equal(self.source, source)


@for_plugins
@dataclass(frozen=True)
class Example:
    """One text, or a pair, that went through the model: what a task makes its result from.

    Attributes:
        texts: what was given, by the names of ``Task.texts``.
        windows: its rows; one, where the task made no more of it.
        outputs: for each row the task's output fields as NumPy float32, without padding and without the batch's axis:
            ``[S, ...]`` for a task whose outputs are per token, ``[...]`` for others.
    """

    texts: Mapping[str, str]
    windows: Sequence[Window]
    outputs: Sequence[Mapping[str, np.ndarray]]
    config: LlamaConfig
    tokenizer: Tokenizer

    @property
    def text(self) -> str:
        """The first text."""
        return next(iter(self.texts.values()))

    @property
    def output(self) -> Mapping[str, np.ndarray]:
        """The output of the only row."""
        return self.outputs[0]

    @property
    def input_ids(self) -> list[int]:
        """The token ids of the only row."""
        return self.windows[0].input_ids


@for_plugins
@dataclass(frozen=True)
class Encoder:
    """Makes rows of one text, or of a pair.

    Attributes:
        context: how many tokens the model was made for; ``None`` where there is no limit.
        max_length: what the caller allows, where that was said.
        truncation: cut what is longer, instead of an error; how long it was goes to `cut`.
        name: what messages call the text.
    """

    tokenizer: Tokenizer
    context: int | None = None
    max_length: int | None = None
    truncation: bool = False
    name: str = "the text"
    cut: list[int] = field(default_factory=list)

    @property
    def limit(self) -> int | None:
        """Most tokens of a row."""
        return self.context if self.max_length is None else self.max_length

    def whole(self, text: str, pair: str | None = None, *, offsets: bool = False, hint: str | None = None) -> Window:
        """A text, or a pair, as one row.

        Args:
            offsets: also where in the text each token is.
            hint: what else to do about a text that is too long.

        Raises:
            InputError: it has more tokens than a row may, and is not to be cut.
        """
        [window] = self._windows(text, pair, offsets)
        if self.limit is None or len(window) <= self.limit:
            return window
        if not self.truncation:
            limit = f"the model's context is {self.limit}" if self.max_length is None else f"max_length is {self.limit}"
            raise InputError(
                f"{self.name} has {counted(len(window), 'token')}, {limit}",
                hint=mention("truncation", True) + f" cuts it{hint or ''}",
            )
        self.cut.append(len(window))
        return self._windows(text, pair, offsets, truncation=True, max_length=self.limit)[0]

    def strided(self, text: str, pair: str | None = None, *, stride: int, limit: int | None = None) -> list[Window]:
        """The text, or the second of a pair, in windows that share `stride` tokens; with offsets.

        Args:
            limit: most tokens of a window, by default :attr:`limit`.

        Raises:
            InputError: nothing of the text would fit, or windows would not advance.
        """
        limit = self.limit if limit is None else limit
        if limit is None:
            return self._windows(text, pair, True)
        room = limit - self.tokenizer.num_special_tokens_to_add(pair is not None)
        if pair is not None:
            room -= self._count(text)
        if room < 1:
            what = "the question leaves" if pair is not None else "special tokens leave"
            raise InputError(f"{self.name}: {what} no room in {counted(limit, 'token')}", hint="raise max_length")
        if stride >= room and self._count(text if pair is None else pair) > room:
            raise InputError(
                f"{self.name}: windows hold {counted(room, 'token')} of the text, and would share {stride}",
                hint="lower the stride or raise max_length",
            )
        stride = min(stride, room - 1)
        truncation: dict[str, Any] = {
            "truncation": "only_first" if pair is None else "only_second",
            "max_length": limit,
            "stride": stride,
            "return_overflowing_tokens": True,
        }
        windows = self._windows(text, pair, True, **truncation)
        return [replace(window, first=number * (room - stride)) for number, window in enumerate(windows)]

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def _windows(self, text: str, pair: str | None, offsets: bool, **truncation: Any) -> list[Window]:
        encoded = self.tokenizer(
            [text],
            None if pair is None else [pair],
            return_attention_mask=False,
            return_sequence_ids=True,
            return_offsets_mapping=offsets,
            truncation_side="right",
            **truncation,
        )
        rows = range(len(encoded["input_ids"]))
        return [
            Window(
                encoded["input_ids"][row],
                encoded["sequence_ids"][row],
                encoded["offset_mapping"][row] if offsets else [],
            )
            for row in rows
        ]
