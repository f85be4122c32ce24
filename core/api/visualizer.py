"""``AttentionMaskVisualizer``: a model's name and a text in, a picture of its attention mask out."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..attention_mask.build import Batch, masked_rows, pack, pad, token_rows
from ..attention_mask.options import _heads, _layers
from ..attention_mask.picture import AttentionMask
from ..attention_mask.rows import Heat, Row
from ..errors import CheckpointError, InputError, UnsupportedError
from ..messages import mention

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig
    from ..loading.describe import Described
    from ..tokenizer.base import Tokenizer
    from .llama import Llama

_DESCRIBING = ("task", "revision")


class AttentionMaskVisualizer:
    """Shows which token may look at which; named and called as in the reference documentation.

    Args:
        source: what :meth:`polyllama.Llama.load` takes, or a model loaded already. Of a name only the
            configuration and the tokenizer are read; weights are, once, where attention is asked for.
        options: of ``Llama.load``.

    >>> visualizer = AttentionMaskVisualizer("tiny")
    >>> visualizer("Once upon a time")
    tiny: 5 tokens
              0 1 2 3 4
    0 <s>     ■ · · · ·
    1 ▁Once   ■ ■ · · ·
    2 ▁upon   ■ ■ ■ · ·
    3 ▁a      ■ ■ ■ ■ ·
    4 ▁time   ■ ■ ■ ■ ■
    ■ looks at it   · comes later
    """

    def __init__(self, source: str | Path | LlamaConfig | Llama, **options: Any) -> None:
        from .llama import Llama

        self._source = source
        self._options = options
        self._llm: Llama | None = None
        self._described: Described | None = None
        self._tokenizer: Tokenizer | None = None
        if isinstance(source, Llama):
            if options:
                raise InputError(f"{', '.join(sorted(options))}: a loaded model takes no options of load")
            self._llm = source
            loaded = source._loaded
            self.name, self.config, self._task = loaded.name, loaded.config, loaded.task
        else:
            self._described = described = _describe(source, options)
            self.name, self.config, self._task = described.name, described.config, described.task

    def __call__(self, texts: Any, **options: Any) -> None:
        """Print the picture, as wide as the terminal, in colour where it is one; options as for :meth:`picture`."""
        terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        width = shutil.get_terminal_size().columns if terminal else None
        more = "picture(...).window(start, stop) gives others, picture(...).save('mask.svg') all"
        colour = terminal and not os.environ.get("NO_COLOR")
        print(self.picture(texts, **options).text(width=width, colour=colour, more=more))

    def picture(
        self,
        texts: Any,
        *,
        padding_side: str | None = None,
        packed: bool = False,
        add_special_tokens: bool = True,
        attention: bool = False,
        layer: int | str | None = None,
        head: int | str | None = None,
    ) -> AttentionMask:
        """The masks that the model uses for these texts.

        Args:
            texts: a text, or several: one row each, padded to the longest. Token ids will do as well.
            padding_side: "left" or "right"; the tokenizer's own by default.
            packed: put all texts into one row, as training does, where none sees another.
            add_special_tokens: those that the model expects.
            attention: run the model and add its attention weights.
            layer: which, negative from the end, or "all"; the last by default.
            head: which, or "all", or "mean", the default.

        Raises:
            PolyllamaError: what is wrong with the texts, the model, the layer or the head.

        >>> AttentionMaskVisualizer("tiny").picture("Once upon a time").mask[0, 1].tolist()
        [True, True, False, False, False]
        """
        if not attention and (layer is not None or head is not None):
            raise InputError(
                mention("layer") + " and head are of attention weights",
                hint="pass " + mention("attention", True) + " too",
            )
        if packed and padding_side is not None:
            raise InputError(
                "packed texts are not padded", hint="leave out " + mention("packed") + " or " + mention("padding_side")
            )
        layers, heads = _layers(layer, self.config), _heads(head, self.config)
        rows = token_rows(texts, self._tokenizer_for(texts), add_special_tokens=add_special_tokens)
        batch = pack(rows) if packed else pad(rows, padding_side or self._side(), self._pad_token_id())
        found = masked_rows(batch, self.config, self._task, self._tokenizer)
        if attention:
            found = self._with_heats(found, batch, layers, heads)
        return AttentionMask(self.name, found)

    def _with_heats(
        self, rows: tuple[Row, ...], batch: Batch, layers: list[int], heads: list[int | str]
    ) -> tuple[Row, ...]:
        from .llama import Llama

        if self._llm is None:
            self._llm = Llama.load(self._source, **self._options)  # type: ignore[arg-type]
        llm = self._llm
        keep: dict[str, Any] = {"logits_to_keep": 1} if self._task.generates else {}
        given = getattr(llm.forward(output_attentions=True, **batch.arguments(), **keep), "attentions", None)
        if given is None:
            raise UnsupportedError(
                f"backend {llm.backend!r} gives no attention weights", hint="take another, such as reference"
            )
        heats: list[list[Heat]] = [[] for _ in rows]
        for layer in layers:
            weights = llm.model.to_numpy(given[layer])  # [B, H, S, S]
            for index, own in enumerate(heats):
                of_row = weights[index]
                own += [Heat(layer, h, of_row.mean(axis=0) if isinstance(h, str) else of_row[h]) for h in heads]
        return tuple(replace(row, heats=tuple(own)) for row, own in zip(rows, heats, strict=True))

    def _tokenizer_for(self, texts: Any) -> Tokenizer | None:
        """The tokenizer, an error where text needs one and there is none."""
        if self._tokenizer is None:
            from ..errors import TokenizerError

            try:
                self._tokenizer = self._load_tokenizer()
            except TokenizerError:
                if isinstance(texts, str) or any(isinstance(text, str) for text in texts):
                    raise
        return self._tokenizer

    def _load_tokenizer(self) -> Tokenizer | None:
        if self._described is None:
            assert self._llm is not None
            return None if self._llm._loaded.folder is None else self._llm.tokenizer
        if self._described.folder is None:
            return None
        from ..loading.describe import tokenizer_of
        from ..sources.locate import locate
        from ..tokenizer.llama import load_tokenizer

        settings, revision = self._described.settings, self._options.get("revision")
        path = locate(self._source, revision=revision, files="tokenizer", settings=settings).path  # type: ignore[arg-type]
        try:
            return tokenizer_of(path, plugins=self._described.plugins)
        except CheckpointError:  # nothing that could carry one, which is not what is wrong
            return load_tokenizer(path)

    def _side(self) -> str:
        return self._tokenizer.padding_side if self._tokenizer is not None else "left"

    def _pad_token_id(self) -> int:
        """What fills up a row; any id will do, as nothing looks at it."""
        known = (self._tokenizer.pad_token_id if self._tokenizer is not None else None, self.config.pad_token_id)
        return next((i for i in known if i is not None and 0 <= i < self.config.vocab_size), 0)


def _describe(source: Any, options: dict[str, Any]) -> Described:
    from ..loading.describe import DUMMY, describe
    from ..settings.schema import load_settings

    loading = ("backend", "device", "dtype", "quantize", "load_format", "offline")
    return describe(
        source,
        load_format=DUMMY,  # the only one that reads no weights
        settings=load_settings(offline=options.get("offline")),
        config_overrides={k: v for k, v in options.items() if k not in (*loading, *_DESCRIBING)},
        **{k: v for k, v in options.items() if k in _DESCRIBING},
    )
