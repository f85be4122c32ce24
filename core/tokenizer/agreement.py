"""Whether a `tokenizer.model` and the `tokenizer.json` beside it give the same ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import TokenizerError, warn
from ..messages import counted
from .engines.sentencepiece_model import SPACE, SentencePieceModel
from .files import InMemory, read_bytes


def compare(
    model: SentencePieceModel, tokenizer_file: Path | InMemory, stated: Mapping[str, Any], arguments: dict[str, Any]
) -> None:
    """Refuse a model and a tokenizer.json that give different ids; take from the latter what nobody else says."""
    content = _parsed(tokenizer_file)
    section = content.get("model")
    vocabulary = section.get("vocab") if isinstance(section, dict) else None
    if not isinstance(vocabulary, dict):
        kind = section.get("type") if isinstance(section, dict) else section
        raise TokenizerError(
            f"{tokenizer_file} holds a {kind!r:.40} model, {model.source} a SentencePiece {model.model_type} model",
            hint="remove the one that does not belong to this checkpoint",
        )
    # Control and unknown pieces may have been renamed; the others decide ids.
    texts = {index: text for text, index in vocabulary.items() if _is_index(index, len(model))}
    differing = [
        (index, model.piece(index).text)
        for index in range(len(model))
        if not (index in texts and model.says(index, texts[index])) and vocabulary.get(model.piece(index).text) != index
    ]
    renamed = {index for index, text in differing if text in ("<unk>", "<s>", "</s>", "<pad>")}
    differing = [pair for pair in differing if pair[0] not in renamed]
    added = {token.get("content") for token in content.get("added_tokens") or () if isinstance(token, dict)}
    extra = [token for token, index in vocabulary.items() if not _is_index(index, len(model)) and token not in added]
    if differing or extra:
        example = (
            f"id {differing[0][0]} is {differing[0][1]!r} in the model" if differing else f"{extra[0]!r} is only in it"
        )
        raise TokenizerError(
            f"{tokenizer_file} and {model.source} hold different vocabularies: "
            f"{counted(len(differing) + len(extra), 'token differs', 'tokens differ')}, {example}",
            hint="remove the one that does not belong to this checkpoint",
        )
    has_legacy = _legacy_of(content)
    if has_legacy is None:
        return
    if stated.get("legacy") is None:
        arguments["legacy"] = has_legacy
    elif stated["legacy"] != has_legacy:
        warn(
            f"{tokenizer_file} is written with legacy={has_legacy}, tokenizer_config.json or an argument says "
            f"legacy={stated['legacy']}; using the latter (pass legacy=... to choose)"
        )


def _parsed(path: Path | InMemory) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not JSON: {error}", hint="it may be truncated: fetch it again") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def _is_index(value: object, size: int) -> bool:
    return isinstance(value, int) and 0 <= value < size


def _legacy_of(content: Mapping[str, Any]) -> bool | None:
    """Whether a tokenizer.json puts the prefix after every special token; None where it puts none or it is unclear."""
    steps = json.dumps([content.get("normalizer"), content.get("pre_tokenizer")], ensure_ascii=False)
    if f'"prepend": "{SPACE}"' in steps or '"prepend_scheme": "always"' in steps:
        return True
    return False if '"prepend_scheme": "first"' in steps else None
