"""From a folder to the right tokenizer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import PolyllamaWarning, TokenizerError
from .base import Tokenizer
from .files import TokenizerFiles, read_bytes
from .llama import LlamaTokenizer, LlamaTokenizerFast, PathOrName, is_rank_file
from .sentencepiece_model import SPACE, SentencePieceModel

ENGINES = ("sentencepiece", "tokenizers")
_SENTENCEPIECE_ONLY = ("legacy", "add_prefix_space")


def load_tokenizer(path: PathOrName, *, engine: str | None = None, **overrides: Any) -> Tokenizer:
    """The tokenizer of a checkpoint folder, or of one tokenizer file with what lies beside it.

    A SentencePiece `tokenizer.model` is run by ``engine="sentencepiece"`` (the default, quick to start) or
    "tokenizers"; a `tokenizer.json` and Llama 3's rank file by tokenizers. Where a model and a `tokenizer.json` lie
    together the model decides, after a check that both hold the same vocabulary. ``overrides`` are constructor
    arguments.

    Errors: TokenizerError that names the file: missing, damaged, contradicting another, of no kind that a Llama uses.
    """
    if engine is not None and engine not in ENGINES:
        raise TokenizerError(f"engine={engine!r:.40} is unknown", hint=f"known: {', '.join(ENGINES)}")
    wanted = None if engine is None else LlamaTokenizer if engine == "sentencepiece" else LlamaTokenizerFast
    return load_as(wanted, Path(path), overrides)


def resolve(path_or_name: PathOrName, *, revision: str | None, offline: bool | None) -> Path:
    """A local path as it is; a name through the registry and the Hub."""
    path = Path(path_or_name).expanduser()
    if path.exists() or not isinstance(path_or_name, str) or path_or_name.startswith((".", "/", "~")):
        return path
    from ..hub import resolve_checkpoint_folder

    return Path(resolve_checkpoint_folder(path_or_name, revision=revision, offline=offline, files="tokenizer"))


def load_as(wanted: type[Tokenizer] | None, path: Path, overrides: Mapping[str, Any]) -> Tokenizer:
    """Load with the class that is wanted, or the quickest to start."""
    files = TokenizerFiles.read(path)
    arguments: dict[str, Any] = files.arguments
    if arguments.pop("clean_up_tokenization_spaces", False) and "clean_up_tokenization_spaces" not in overrides:
        arguments["clean_up_unheeded"] = True
    if files.kept:
        arguments["kept"] = files.kept
    vocab_file = files.vocab_file
    if vocab_file is not None and not is_rank_file(content := read_bytes(vocab_file)):
        if files.tokenizer_file is not None:
            stated = {**arguments, **overrides}
            _compare(SentencePieceModel.parse(content, str(vocab_file)), files.tokenizer_file, stated, arguments)
        chosen = LlamaTokenizerFast if wanted is LlamaTokenizerFast else LlamaTokenizer
        return chosen(vocab_file=vocab_file, **{**arguments, **overrides})
    if wanted is LlamaTokenizer:
        raise TokenizerError(
            f"{path} has no SentencePiece model, so sentencepiece cannot run it",
            hint="use LlamaTokenizerFast or engine='tokenizers'",
        )
    for name in _SENTENCEPIECE_ONLY:
        arguments.pop(name, None)  # what the file's own steps do is what it means
    arguments.pop("sp_model_kwargs", None)
    if files.tokenizer_file is not None:
        return LlamaTokenizerFast(tokenizer_file=files.tokenizer_file, **{**arguments, **overrides})
    return LlamaTokenizerFast(vocab_file=vocab_file, **{**arguments, **overrides})


def _compare(
    model: SentencePieceModel, tokenizer_file: Path, stated: Mapping[str, Any], arguments: dict[str, Any]
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
            f"{len(differing) + len(extra)} tokens differ, {example}",
            hint="remove the one that does not belong to this checkpoint",
        )
    has_legacy = _legacy_of(content)
    if has_legacy is None:
        return
    if stated.get("legacy") is None:
        arguments["legacy"] = has_legacy
    elif stated["legacy"] != has_legacy:
        warnings.warn(
            f"{tokenizer_file} is written with legacy={has_legacy}, tokenizer_config.json or an argument says "
            f"legacy={stated['legacy']}; using the latter (pass legacy=... to choose)",
            PolyllamaWarning,
            stacklevel=4,
        )


def _parsed(path: Path) -> dict[str, Any]:
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
