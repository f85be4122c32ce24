"""Making the engine of a tokenizer from its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TokenizerError
from .engines.added_tokens import AddedToken
from .engines.engine import Engine, PieceEngine
from .engines.sentencepiece_model import SentencePieceModel
from .engines.template import SpecialTokensTemplate
from .files import InMemory, read_bytes

if TYPE_CHECKING:
    from .engines.tokenizers_engine import JsonEngine


def is_rank_file(content: bytes) -> bool:
    """Whether a `tokenizer.model` is Meta's Llama 3 kind."""
    from .engines.tiktoken import looks_like_ranks

    return looks_like_ranks(content)


@dataclass(frozen=True)
class Made:
    """An engine, the tokens that its file declares by id, and what the file puts around texts, where it says so."""

    engine: Engine
    declared: Mapping[int, AddedToken]
    template: SpecialTokensTemplate | None = None


def tokenizers_engine(
    content: bytes,
    source: Path | InMemory,
    *,
    is_json: bool,
    renamed: Mapping[Any, object],
    legacy: bool | None,
    add_prefix_space: bool | None,
) -> Made:
    """Make the engine that the tokenizers library runs, of a `tokenizer.json`, a rank file or a SentencePiece model.

    ``renamed`` maps ids to tokens that go under other names than in a rank file.
    """
    if is_json:
        engine, template = _json_engine(content, source, legacy, add_prefix_space)
        return Made(engine, engine.added_tokens(), template)
    if is_rank_file(content):
        engine = _rank_engine(content, source, renamed, legacy, add_prefix_space)
        return Made(engine, engine.added_tokens())
    from .engines.tokenizers_engine import MergesEncoder

    model = SentencePieceModel.parse(content, str(source))
    pieces = PieceEngine(
        model,
        MergesEncoder(model),
        add_prefix_space=model.add_dummy_prefix if add_prefix_space is None else add_prefix_space,
        legacy=bool(legacy),
    )
    return Made(pieces, control_pieces(model))


def read_model(path: Path | InMemory) -> SentencePieceModel:
    """Read a SentencePiece model; a Llama 3 rank file is an error that says what reads it."""
    content = read_bytes(path)
    if is_rank_file(content):
        raise TokenizerError(
            f"{path} is a Llama 3 rank file, not a SentencePiece model", hint="use LlamaTokenizerFast or load_tokenizer"
        )
    return SentencePieceModel.parse(content, str(path))


def control_pieces(model: SentencePieceModel) -> dict[int, AddedToken]:
    """Pieces that never come out of text by themselves: they are special tokens."""
    return {index: AddedToken(piece.text, special=True) for index, piece in model.special_pieces() if piece.text}


def _json_engine(
    content: bytes, source: Path | InMemory, legacy: bool | None, add_prefix_space: bool | None
) -> tuple[JsonEngine, SpecialTokensTemplate | None]:
    from .engines.tokenizers_engine import JsonEngine

    engine = JsonEngine.parse(content, str(source))
    if legacy is not None or add_prefix_space is not None:
        has_space, has_legacy = engine.prefix_scheme() or (True, True)
        engine.set_prefix_scheme(
            add_prefix_space=has_space if add_prefix_space is None else add_prefix_space,
            legacy=has_legacy if legacy is None else legacy,
        )
    return engine, engine.template()


def _rank_engine(
    content: bytes,
    source: Path | InMemory,
    renamed: Mapping[Any, object],
    legacy: bool | None,
    add_prefix_space: bool | None,
) -> JsonEngine:
    from .engines.tiktoken import backend_from_ranks, llama3_special_tokens, read_ranks
    from .engines.tokenizers_engine import JsonEngine

    if legacy or add_prefix_space:
        raise TokenizerError(
            f"{source} is a byte-level vocabulary: legacy and add_prefix_space have no meaning for it",
            hint="leave them out",
        )
    ranks = read_ranks(content, str(source))
    special = llama3_special_tokens()
    for token_id, token in renamed.items():  # Llama 3.1 renamed some reserved tokens
        index = int(token_id) - len(ranks)
        if 0 <= index < len(special):
            special[index] = str(token)
    return JsonEngine(backend_from_ranks(ranks, special, str(source)), str(source))
