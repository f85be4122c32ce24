"""Segmentation by the sentencepiece library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...errors import TokenizerError
from .sentencepiece_model import SentencePieceModel

_SAMPLING_OPTIONS: dict[str, tuple[type, ...]] = {
    "enable_sampling": (bool,),
    "nbest_size": (int,),
    "alpha": (int, float),
}


class SentencePieceEncoder:
    """A `.model` run by sentencepiece, with or without the prefix space.

    ``sampling`` are ``sp_model_kwargs``: ``enable_sampling``, ``nbest_size`` (unigram models) and ``alpha`` (for BPE
    the probability of dropping a merge, Provilkov et al. 2020, https://arxiv.org/abs/1910.13267).
    """

    name = "sentencepiece"

    def __init__(self, model: SentencePieceModel, sampling: Mapping[str, Any] | None = None) -> None:
        self._model = model
        self._sampling = checked_sampling(sampling)
        self._processors: dict[bool, Any] = {}
        processor = self._processor(model.add_dummy_prefix)
        if processor.get_piece_size() != len(model):
            raise TokenizerError(
                f"{model.source} holds {len(model)} pieces, of which sentencepiece reads {processor.get_piece_size()}"
            )

    def _processor(self, prefix: bool) -> Any:
        processor = self._processors.get(prefix)
        if processor is None:
            from sentencepiece import SentencePieceProcessor

            same = prefix == self._model.add_dummy_prefix
            content = self._model.content if same else self._model.with_dummy_prefix(prefix)
            try:
                processor = SentencePieceProcessor(model_proto=content)
            except (RuntimeError, OSError, ValueError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise TokenizerError(
                    f"{self._model.source}: sentencepiece cannot load this model ({reason})",
                    hint="it may be damaged: fetch it again",
                ) from None
            self._processors[prefix] = processor
        return processor

    def encode(self, chunk: str, prefix: bool) -> list[int]:
        return list(self._processor(prefix).encode(chunk, out_type=int, **self._sampling))

    def token_id(self, piece: str) -> int | None:
        processor = self._processor(self._model.add_dummy_prefix)
        piece_id: int = processor.piece_to_id(piece)
        return piece_id if processor.id_to_piece(piece_id) == piece else None


def checked_sampling(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """``sp_model_kwargs`` as sentencepiece's sampling takes them; ``None`` is none.

    Raises:
        TokenizerError: an option that it has not, or a value of another type.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TokenizerError(f"sp_model_kwargs must be a mapping, got {options!r:.80}")
    for name, value in options.items():
        kinds = _SAMPLING_OPTIONS.get(name)
        if kinds is None:
            raise TokenizerError(
                f"sp_model_kwargs: {name!r} is not a sampling option", hint=f"known: {', '.join(_SAMPLING_OPTIONS)}"
            )
        number: Any = value
        wrong_kind = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong_kind or not math.isfinite(number):
            raise TokenizerError(f"sp_model_kwargs: {name} must be a {kinds[-1].__name__}, got {value!r:.80}")
    if options.get("enable_sampling") and "alpha" not in options:
        raise TokenizerError("sp_model_kwargs: enable_sampling needs alpha", hint="for example alpha=0.1")
    return dict(options)
