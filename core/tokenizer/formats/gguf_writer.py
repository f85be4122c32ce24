"""A tokenizer as GGUF metadata; the reverse of ``gguf``."""

from __future__ import annotations

import json
from typing import Any

from ...errors import TokenizerError, warn
from ..engines.engine import PieceEngine
from ..engines.sentencepiece_model import PieceKind
from ..engines.word_splitting import kinds_of, patterns_of
from ..tokenizer import Tokenizer
from .gguf import LEGACY, PREFIX
from .gguf_words import name_of

_UNUSED_SCORE = -1000.0


def gguf_from_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """The pairs of metadata that say the same as a tokenizer.

    Args:
        vocab_size: rows of the embedding; tokens that the tokenizer lacks are filled up as unused.

    Raises:
        TokenizerError: GGUF cannot say what this tokenizer does; says why.
    """
    if len(tokenizer) > vocab_size:
        raise TokenizerError(f"it has {len(tokenizer)} tokens, the model's embedding {vocab_size} rows")
    engine = tokenizer._engine
    found = _pieces(tokenizer, engine) if isinstance(engine, PieceEngine) else _byte_level(tokenizer)
    tokens, kinds = found[f"{PREFIX}tokens"], found[f"{PREFIX}token_type"]
    for index in range(len(tokens), vocab_size):
        tokens.append(f"[PAD{index}]")
        kinds.append(int(PieceKind.UNUSED))
        if f"{PREFIX}scores" in found:
            found[f"{PREFIX}scores"].append(_UNUSED_SCORE)
    steps = tokenizer.template().single
    found[f"{PREFIX}add_bos_token"] = isinstance(steps[0][0], tuple)
    found[f"{PREFIX}add_eos_token"] = isinstance(steps[-1][0], tuple)
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = getattr(tokenizer, f"{role}_token_id")
        if index is not None:
            found[f"{PREFIX}{key}_token_id"] = index
    templates = tokenizer.chat_template
    for name, template in ({"default": templates} if isinstance(templates, str) else templates or {}).items():
        found["tokenizer.chat_template" + ("" if name == "default" else f".{name}")] = template
    return found


def _pieces(tokenizer: Tokenizer, engine: PieceEngine) -> dict[str, Any]:
    model = engine.model
    if model.model_type != "bpe" or model.charsmap:
        raise TokenizerError(
            f"{model.source} is a {model.model_type} model or normalizes text, which GGUF has no way to say"
        )
    pieces = list(model.pieces())
    if not any(piece.kind is PieceKind.BYTE for piece in pieces):  # it looks one up for every character it has not
        raise TokenizerError(f"{model.source} has no tokens for bytes, without which llama.cpp breaks down")
    if model.remove_extra_whitespaces:
        warn(f"{model.source} makes runs of spaces one, which llama.cpp does not: its token ids of such texts differ")
    tokens, scores = [piece.text for piece in pieces], [piece.score for piece in pieces]
    kinds = [int(piece.kind) for piece in pieces]
    for index, token in sorted(tokenizer.added_tokens_decoder.items()):
        kind = PieceKind.CONTROL if token.special else PieceKind.USER_DEFINED
        if index < len(tokens):
            if tokens[index] != token.content:
                raise TokenizerError(f"the added token {token.content!r} takes the place of a piece")
            continue
        if index != len(tokens):
            raise TokenizerError(f"the added token {token.content!r} leaves a gap before its id {index}")
        tokens.append(token.content)
        scores.append(_UNUSED_SCORE)
        kinds.append(int(kind))
    return {
        f"{PREFIX}model": "llama",
        f"{PREFIX}pre": "default",
        f"{PREFIX}tokens": tokens,
        f"{PREFIX}scores": [float(score) for score in scores],
        f"{PREFIX}token_type": kinds,
        f"{PREFIX}add_space_prefix": engine.add_prefix_space,
        f"{PREFIX}remove_extra_whitespaces": model.remove_extra_whitespaces,
        LEGACY: engine.legacy,
    }


def _byte_level(tokenizer: Tokenizer) -> dict[str, Any]:
    content = json.loads(tokenizer._engine.backend.to_str())  # type: ignore[attr-defined]
    model = content["model"]
    tokens: list[str | None] = [None] * len(tokenizer)
    for token, index in model["vocab"].items():
        tokens[index] = token
    kinds = [int(PieceKind.NORMAL)] * len(tokens)
    for index, added in tokenizer.added_tokens_decoder.items():
        tokens[index] = added.content
        kinds[index] = int(PieceKind.CONTROL if added.special else PieceKind.USER_DEFINED)
    if None in tokens:
        raise TokenizerError(f"it has no token with the id {tokens.index(None)}")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        f"{PREFIX}model": "gpt2",
        f"{PREFIX}pre": _splitting(content),
        f"{PREFIX}tokens": tokens,
        f"{PREFIX}token_type": kinds,
        f"{PREFIX}merges": merges,
    }


def _splitting(content: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer.json cuts text into words."""
    step, model = content["pre_tokenizer"], content["model"]
    patterns = patterns_of(step)
    if content["normalizer"] is not None:
        raise TokenizerError(f"it normalizes text ({content['normalizer'].get('type')}), which GGUF has no way to say")
    found = None
    if patterns is not None and model["type"] == "BPE":
        found = name_of(patterns, whole_words=bool(model.get("ignore_merges")))
    if found is None:
        raise TokenizerError(
            f"it cuts text into words by {' and '.join(kinds_of(step))}, which GGUF has no name for here"
        )
    return found
