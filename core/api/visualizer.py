"""``AttentionMaskVisualizer``: a model's name and a text in, a picture of its attention mask out."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import checked_methods
from ..attention_mask.build import MaskSource, build_picture
from ..attention_mask.picture import AttentionMask
from ..errors import CheckpointError, InputError
from ..messages import mention
from ..public import public

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig
    from ..loading.describe import Described
    from ..tokenizer.tokenizer import Tokenizer
    from .llama import Llama

_DESCRIBING = ("task", "revision")


@public
@checked_methods
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

    def __call__(self, texts: Any = None, suffix: str = "", *, input_sentence: Any = None, **options: Any) -> None:
        """Print the picture, as wide as the terminal, in colour where it is one; options as for :meth:`picture`.

        Args:
            texts: as there; ``input_sentence`` is its documented name.
            suffix: taken empty, as documented: it is for models of images.

        Raises:
            InputError: a suffix, or texts given twice.
        """
        if suffix:
            raise InputError(mention("suffix", suffix) + " is for models of images", hint="put it behind the text")
        if input_sentence is not None and texts is not None:
            raise InputError("the text is given twice", hint="by position or by name")
        texts = input_sentence if texts is None else texts
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
        source = MaskSource(self.name, self.config, self._task, self._tokenizer_once, self._loaded)
        return build_picture(
            source,
            texts,
            padding_side=padding_side,
            packed=packed,
            add_special_tokens=add_special_tokens,
            attention=attention,
            layer=layer,
            head=head,
        )

    def _loaded(self) -> Llama:
        """The model with its weights, loaded once."""
        from .llama import Llama

        if self._llm is None:
            self._llm = Llama.load(self._source, **self._options)  # type: ignore[arg-type]
        return self._llm

    def _tokenizer_once(self) -> Tokenizer | None:
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer()
        return self._tokenizer

    def _load_tokenizer(self) -> Tokenizer | None:
        if self._described is None:
            assert self._llm is not None
            return None if self._llm._loaded.folder is None else self._llm.tokenizer
        if self._described.folder is None:
            return None
        from ..loading.describe import tokenizer_of
        from ..sources.locate import locate
        from ..tokenizer.llama_tokenizer import load_tokenizer

        settings, revision = self._described.settings, self._options.get("revision")
        path = locate(self._source, revision=revision, files="tokenizer", settings=settings).path  # type: ignore[arg-type]
        try:
            return tokenizer_of(path, plugins=self._described.plugins)
        except CheckpointError:  # nothing that could carry one, which is not what is wrong
            return load_tokenizer(path)


def _describe(source: Any, options: dict[str, Any]) -> Described:
    from ..loading.describe import DUMMY, describe
    from ..settings.schema import load_settings

    loading = ("backend", "device", "dtype", "quantize", "load_format", "offline", "ignore")
    return describe(
        source,
        load_format=DUMMY,  # the only one that reads no weights
        settings=load_settings(offline=options.get("offline")),
        config_overrides={k: v for k, v in options.items() if k not in (*loading, *_DESCRIBING)},
        **{k: v for k, v in options.items() if k in _DESCRIBING},
    )
