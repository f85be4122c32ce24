"""The tokenizer that a GGUF file carries in its metadata.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, "Tokenizer". Model "llama" is SentencePiece's BPE with
scores; "gpt2" is byte-level BPE with merges, whose splitting into words goes by the name in ``tokenizer.ggml.pre``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import TokenizerError, warn
from ...messages import closest_few, counted, few
from ..engines.added_tokens import AddedToken
from ..engines.sentencepiece_model import Piece, PieceKind
from ..engines.word_splitting import WordSplitting
from ..files import InMemory
from ..llama_tokenizer import LlamaTokenizer, LlamaTokenizerFast
from ..tokenizer import Tokenizer
from .gguf_words import DEFAULT, NOT_BYTES, SPLITTINGS
from .sentencepiece_writer import sentencepiece_model

PREFIX = "tokenizer.ggml."
LEGACY = "polyllama.tokenizer.legacy"
"""Our own key: whether a prefix space follows every special token, as llama.cpp does it. Absent, it does."""
NO_TOKENIZER = ("none", "no_vocab")


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
    options["add_eos_token"] = bool(metadata.get(f"{PREFIX}add_eos_token", False))
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
    kinds = {int(kind): kind for kind in PieceKind}
    try:
        return [kinds[number] for number in numbers]
    except KeyError as error:
        raise TokenizerError(f"{source}: a token has the type {error.args[0]}, which is unknown") from None


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
    options["add_bos_token"] = bool(metadata.get(f"{PREFIX}add_bos_token", True))
    return LlamaTokenizer(InMemory(source, content), legacy=bool(metadata.get(LEGACY, True)), **options)


def _id_of(token: str | None, tokens: list[str]) -> int:
    return -1 if token is None else tokens.index(token)


def _byte_level(
    metadata: Mapping[str, Any], tokens: list[str], kinds: list[PieceKind], options: dict[str, Any], source: str
) -> Tokenizer:
    words = _word_splitting(metadata, source)
    adds_bos = metadata.get(f"{PREFIX}add_bos_token")
    options["add_bos_token"] = (
        words.adds_bos and options["bos_token"] is not None if adds_bos is None else bool(adds_bos)
    )
    merges: list[Any] = [tuple(merge.split(" ")) for merge in _strings(metadata, "merges", source)]
    if bad := next((m for m in merges if len(m) != 2), None):
        raise TokenizerError(f"{source}: the merge {' '.join(bad)!r:.60} is not of two tokens")
    base = len(kinds)
    while base and kinds[base - 1] is not PieceKind.NORMAL:
        base -= 1  # the special tokens after the vocabulary are added to it
    vocabulary = {token: index for index, token in enumerate(tokens[:base])}
    if len(vocabulary) != base:
        raise TokenizerError(f"{source}: {counted(base - len(vocabulary), 'token is', 'tokens are')} there twice")
    added = {
        index: AddedToken(tokens[index], special=kinds[index] is not PieceKind.USER_DEFINED)
        for index in range(len(kinds))
        if kinds[index] is not PieceKind.NORMAL
    }
    from ..engines.tiktoken import byte_level_backend

    try:
        backend = byte_level_backend(vocabulary, merges, added, words)
    except TokenizerError:
        raise
    except Exception as error:  # the library's own
        raise TokenizerError(f"{source}: its tokenizer is damaged ({error})") from None
    return LlamaTokenizerFast(tokenizer_file=InMemory(source, b"", backend), **options)


def _word_splitting(metadata: Mapping[str, Any], source: str) -> WordSplitting:
    """What ``tokenizer.ggml.pre`` says; as llama.cpp does, "default" where it says nothing, which a warning tells."""
    key = f"{PREFIX}pre"
    name = metadata.get(key) or None
    if name is None:
        warn(
            f"{source} does not say how it splits text into words ({key}), so this is done as llama.cpp does it then "
            "('default'); the model may have been trained with another way, and its answers be worse for it: convert "
            "it again with a current llama.cpp"
        )
        return DEFAULT
    if found := SPLITTINGS.get(name) if isinstance(name, str) else None:
        return found
    if name in NOT_BYTES:
        raise TokenizerError(
            f"{source}: splits text as {name!r} does ({key}), whose tokens are not of bytes; no Llama has such ones",
            hint="load a tokenizer from elsewhere, or give token ids",
        )
    close = closest_few(name, SPLITTINGS, 3)
    raise TokenizerError(
        f"{source}: splits text into words as {name!r:.60} does ({key}), which is not known",
        hint=f"known are {', '.join(close)} and others" if close else f"known are {few(list(SPLITTINGS))}",
    )
