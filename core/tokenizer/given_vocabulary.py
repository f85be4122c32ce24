"""What a tokenizer's constructor is given to segment by: files of several kinds, or a vocabulary with its merges."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import TokenizerError, warn
from ..messages import counted, few, mention
from .files import InMemory, read_bytes
from .make_engine import is_rank_file

PathOrName = str | PathLike[str]
Vocabulary = PathOrName | InMemory | Mapping[str, int] | Sequence[Any]
Merges = PathOrName | Sequence[Any]

_BYTES = frozenset(f"<0x{value:02X}>" for value in range(256))


@dataclass(frozen=True)
class Pieces:
    """A vocabulary, and the pairs of pieces that are joined, in order."""

    ids: dict[str, int]
    merges: list[tuple[str, str]]


@dataclass(frozen=True)
class Given:
    """What segments a text: exactly one of `model`, `ranks`, `json` and `pieces`, or `model` beside `json`.

    Attributes:
        source: what to call it.
        model: a SentencePiece model's content.
        ranks: the content of Llama 3's rank file.
        json: a `tokenizer.json`.
        pieces: a vocabulary.
    """

    source: Path | InMemory
    model: bytes | None = field(default=None, repr=False)
    ranks: bytes | None = field(default=None, repr=False)
    json: Path | InMemory | None = None
    pieces: Pieces | None = field(default=None, repr=False)

    @classmethod
    def read(
        cls,
        vocab_file: Vocabulary | None,
        tokenizer_file: PathOrName | InMemory | None,
        merges: Merges | None,
        special: Sequence[object],
    ) -> Given:
        """Read the arguments of a constructor; a file's content says what kind it is.

        Args:
            vocab_file: a SentencePiece model, a rank file, a `tokenizer.json`, a `vocab.json`, or a vocabulary.
            special: tokens that are the whole vocabulary where nothing is given.

        Errors: TokenizerError for files of no such kind, and for arguments that do not go together.
        """
        if vocab_file is None and tokenizer_file is None:
            names = dict.fromkeys(str(token) for token in special if token is not None)
            return cls._of_pieces(InMemory("LlamaTokenizer()", b""), {name: i for i, name in enumerate(names)}, merges)
        if vocab_file is None:
            assert tokenizer_file is not None
            return cls._without_merges(merges, json=_place(tokenizer_file))
        if isinstance(vocab_file, Mapping) or _is_list(vocab_file):
            if tokenizer_file is not None:
                raise TokenizerError("a vocabulary and tokenizer_file are two tokenizers", hint="give one of them")
            return cls._of_pieces(InMemory("the given vocabulary", b""), vocab_file, merges)
        source = _place(vocab_file)
        content = read_bytes(source)
        if content.lstrip()[:1] in (b"{", b"["):
            found = _parsed(content, source)
            if tokenizer_file is not None:
                raise TokenizerError(f"{source} and {tokenizer_file} are two tokenizers", hint="give one of them")
            if isinstance(found, dict) and isinstance(found.get("model"), dict):
                return cls._without_merges(merges, json=source)
            return cls._of_pieces(source, found, merges)
        beside = None if tokenizer_file is None else _place(tokenizer_file)
        if is_rank_file(content):
            return cls._without_merges(merges, ranks=content, source=source)
        return cls._without_merges(merges, model=content, json=beside, source=source)

    @classmethod
    def _without_merges(cls, merges: Merges | None, *, source: Path | InMemory | None = None, **found: Any) -> Given:
        source = found["json"] if source is None else source
        if merges is not None:
            raise TokenizerError(f"{source} has merges of its own", hint="leave out " + mention("merges"))
        return cls(source, **found)

    @classmethod
    def _of_pieces(cls, source: Path | InMemory, vocabulary: Any, merges: Merges | None) -> Given:
        ids, scores = _ids_and_scores(vocabulary, str(source))
        if merges is not None:
            return cls(source, pieces=Pieces(ids, _pairs(merges, ids)))
        if scores:
            from .engines.merges import pair_merges

            return cls(source, pieces=Pieces(ids, pair_merges(scores, source=str(source))))
        joined = [piece for piece in ids if len(piece) > 1 and piece not in _BYTES and not _is_name(piece)]
        if joined:
            warn(
                f"{source} holds {counted(len(joined), 'piece')} of several characters ({few(joined, 3)}) and no "
                "merges, so no text becomes one of them (pass merges=...)"
            )
        return cls(source, pieces=Pieces(ids, []))


def second_is_merges(vocab_file: object, second: object) -> bool:
    """Whether the second positional argument is transformers 5's `merges`, as the first is its `vocab`."""
    if isinstance(second, list | tuple) and vocab_file is not None:
        return True
    is_vocabulary = isinstance(vocab_file, Mapping | list | tuple) or str(vocab_file).endswith(".json")
    return is_vocabulary and isinstance(second, str | PathLike) and str(second).endswith(".txt")


def _is_list(given: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray)


def _place(given: object) -> Path | InMemory:
    if not isinstance(given, str | PathLike | InMemory):
        raise TokenizerError(f"a vocabulary is a file's path, a dict or a list, got {given!r:.60}")
    return given if isinstance(given, InMemory) else Path(given).expanduser()


def _parsed(content: bytes, source: Path | InMemory) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{source} is not JSON: {error}", hint="it may be truncated: fetch it again") from None


def _ids_and_scores(vocabulary: Any, source: str) -> tuple[dict[str, int], dict[str, float]]:
    """The ids of the pieces, and where the vocabulary has scores the ranks of those that text is joined into."""
    if isinstance(vocabulary, Mapping):
        for piece, piece_id in vocabulary.items():
            if not isinstance(piece, str) or isinstance(piece_id, bool) or not isinstance(piece_id, int):
                raise TokenizerError(f"{source}: {piece!r:.40}: {piece_id!r:.40} is no piece with its id")
        if len(set(vocabulary.values())) < len(vocabulary):
            raise TokenizerError(f"{source} gives one id to several pieces")
        return dict(vocabulary), {}
    entries = [(entry, None) if isinstance(entry, str) else entry for entry in vocabulary]
    ids: dict[str, int] = {}
    scores: dict[str, float] = {}
    for index, entry in enumerate(entries):
        match entry:
            case [str() as piece, (int() | float() | None) as score] if piece not in ids:
                ids[piece] = index
            case _:
                raise TokenizerError(
                    f"{source}: entry {index} is {entry!r:.60}",
                    hint="an entry is a piece, or (piece, score); each once",
                )
        if score is not None and piece not in _BYTES and not _is_name(piece):
            scores[piece] = -float(score)
    return ids, scores


def _is_name(piece: str) -> bool:
    """Whether a piece is spelled as a special token is, such as ``</s>`` or ``[PAD]``."""
    return len(piece) > 2 and (piece[0], piece[-1]) in (("<", ">"), ("[", "]"))


def _pairs(merges: Merges, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges of a file or a list, of pairs or of texts such as ``"a b"``."""
    source = "merges"
    if isinstance(merges, str | PathLike):
        source = str(merges)
        lines = read_bytes(Path(merges)).decode("utf-8", "replace").splitlines()
        merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    if not _is_list(merges):
        raise TokenizerError(f"merges must be a file's path or a list, got {merges!r:.60}")
    pairs: list[tuple[str, str]] = []
    for index, merge in enumerate(merges):
        pair = tuple(merge.split(" ")) if isinstance(merge, str) else merge
        match pair:
            case [str() as left, str() as right] if left and right:
                pairs.append((left, right))
            case _:
                raise TokenizerError(f"{source}: entry {index} is {merge!r:.60}", hint="a merge is 'a b' or ('a', 'b')")
        unknown = next((piece for piece in (left, right, left + right) if piece not in ids), None)
        if unknown is not None:
            raise TokenizerError(f"{source}: entry {index} needs the piece {unknown!r}, which the vocabulary has not")
    return pairs
