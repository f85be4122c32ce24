"""The tokenizer that a GGUF file carries in its metadata.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, "Tokenizer". Model "llama" is SentencePiece's BPE with
scores; "gpt2" is byte-level BPE with merges, whose splitting into words goes by the name in ``tokenizer.ggml.pre``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import TokenizerError
from ..base import Tokenizer
from ..engines.added_tokens import AddedToken
from ..engines.sentencepiece_model import Piece, PieceKind
from ..files import InMemory
from ..llama import LlamaTokenizer, LlamaTokenizerFast
from .sentencepiece_writer import sentencepiece_model

PREFIX = "tokenizer.ggml."
LEGACY = "polyllama.tokenizer.legacy"
"""Our own key: whether a prefix space follows every special token, as llama.cpp does it. Absent, it does."""
LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")
NO_TOKENIZER = ("none", "no_vocab")
GPT2_NAMES = ("gpt-2", "gpt2")


def tokenizer_from_gguf(metadata: Mapping[str, Any], source: str) -> Tokenizer:
    """The tokenizer of a GGUF file.

    Args:
        metadata: all of its pairs.
        source: what to call the file in errors.

    Raises:
        TokenizerError: there is none, it is of a kind that no Llama has, or damaged.
    """
    kind = metadata.get(f"{PREFIX}model")
    if kind is None or kind in NO_TOKENIZER:
        raise TokenizerError(f"{source} carries no tokenizer", hint="give token ids, or load one from elsewhere")
    makers = {"llama": _sentencepiece, "gpt2": _byte_level}
    if kind not in makers:
        raise TokenizerError(f"{source}: tokenizer.ggml.model is {kind!r:.60}", hint="llama and gpt2 are read")
    tokens = _strings(metadata, "tokens", source)
    if not tokens:
        raise TokenizerError(f"{source}: its tokenizer has no tokens")
    kinds = _kinds(metadata, tokens, source)
    while kinds[-1] is PieceKind.UNUSED and len(kinds) > 1:  # they fill up the embedding's rows
        kinds.pop()
    options: dict[str, Any] = {}
    for role in ("bos", "eos", "unk", "pad"):
        key = {"unk": "unknown", "pad": "padding"}.get(role, role)
        index = metadata.get(f"{PREFIX}{key}_token_id")
        if index is None and kind == "llama" and role != "pad":
            index = {"unk": 0, "bos": 1, "eos": 2}[role]
        if index is not None and not (type(index) is int and 0 <= index < len(tokens)):
            raise TokenizerError(f"{source}: {PREFIX}{key}_token_id={index!r:.40} is no token of {len(tokens)}")
        options[f"{role}_token"] = None if index is None else tokens[index]
    for flag, default in (("add_bos_token", True), ("add_eos_token", False)):
        options[flag] = bool(metadata.get(f"{PREFIX}{flag}", default))
    options["chat_template"] = _templates(metadata, source)
    return makers[kind](metadata, tokens, kinds, options, source)


def _list(metadata: Mapping[str, Any], key: str, kind: type | tuple[type, ...], source: str) -> list[Any]:
    value = metadata.get(PREFIX + key, [])
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value[:1]):
        raise TokenizerError(f"{source}: {PREFIX}{key} is no list of the right kind")
    return value


def _strings(metadata: Mapping[str, Any], key: str, source: str) -> list[str]:
    return _list(metadata, key, str, source)


def _templates(metadata: Mapping[str, Any], source: str) -> str | dict[str, str] | None:
    """Templates are text here; they are run in the sandbox that all templates are run in."""
    prefix = "tokenizer.chat_template"
    named = {key.removeprefix(f"{prefix}."): value for key, value in metadata.items() if key.startswith(f"{prefix}.")}
    if metadata.get(prefix) is not None:
        named["default"] = metadata[prefix]
    if not all(isinstance(value, str) for value in named.values()):
        raise TokenizerError(f"{source}: {prefix} is not text")
    return named["default"] if list(named) == ["default"] else named or None


def _kinds(metadata: Mapping[str, Any], tokens: list[str], source: str) -> list[PieceKind]:
    numbers = _list(metadata, "token_type", int, source) or [1] * len(tokens)
    if len(numbers) != len(tokens):
        raise TokenizerError(f"{source}: {len(tokens)} tokens, but {len(numbers)} token types")
    try:
        return [PieceKind(number) for number in numbers]
    except ValueError as error:
        raise TokenizerError(f"{source}: a token type is unknown ({error})") from None


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: list[str], kinds: list[PieceKind], options: dict[str, Any], source: str
) -> Tokenizer:
    scores = _list(metadata, "scores", float, source)
    if len(scores) != len(tokens):
        raise TokenizerError(f"{source}: {len(tokens)} tokens, but {len(scores)} scores")
    ids = {role: _id_of(options[f"{role}_token"], tokens) for role in ("unk", "bos", "eos", "pad")}
    content = sentencepiece_model(
        [Piece(*fields) for fields in zip(tokens, scores, kinds, strict=False)],
        ids,
        add_dummy_prefix=bool(metadata.get(f"{PREFIX}add_space_prefix", True)),
        remove_extra_whitespaces=bool(metadata.get(f"{PREFIX}remove_extra_whitespaces", False)),
    )
    return LlamaTokenizer(InMemory(source, content), legacy=bool(metadata.get(LEGACY, True)), **options)


def _id_of(token: str | None, tokens: list[str]) -> int:
    return -1 if token is None else tokens.index(token)


def _byte_level(
    metadata: Mapping[str, Any], tokens: list[str], kinds: list[PieceKind], options: dict[str, Any], source: str
) -> Tokenizer:
    import json

    pre = metadata.get(f"{PREFIX}pre")
    if pre not in (*LLAMA3_NAMES, *GPT2_NAMES):
        raise TokenizerError(
            f"{source}: splits text into words as {pre!r:.60} does, which no Llama uses",
            hint=f"known are {', '.join((*LLAMA3_NAMES, *GPT2_NAMES))}",
        )
    merges: list[Any] = [tuple(merge.split(" ")) for merge in _strings(metadata, "merges", source)]
    if bad := next((m for m in merges if len(m) != 2), None):
        raise TokenizerError(f"{source}: the merge {' '.join(bad)!r:.60} is not of two tokens")
    base = len(kinds)
    while base and kinds[base - 1] is not PieceKind.NORMAL:
        base -= 1  # the special tokens after the vocabulary are added to it
    from ..engines.tiktoken import byte_level_backend

    vocabulary = {token: index for index, token in enumerate(tokens[:base])}
    if len(vocabulary) != base:
        raise TokenizerError(f"{source}: {base - len(vocabulary)} tokens are there twice")
    added = {
        index: AddedToken(tokens[index], special=kinds[index] is not PieceKind.USER_DEFINED)
        for index in range(len(kinds))
        if kinds[index] is not PieceKind.NORMAL
    }
    try:
        backend = byte_level_backend(vocabulary, merges, added, llama3=pre in LLAMA3_NAMES)
    except TokenizerError:
        raise
    except Exception as error:  # the library's own
        raise TokenizerError(f"{source}: its tokenizer is damaged ({error})") from None
    content = json.dumps(json.loads(backend.to_str()), ensure_ascii=False).encode()
    return LlamaTokenizerFast(tokenizer_file=InMemory(source, content), **options)
