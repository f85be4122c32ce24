"""Making the engine of a tokenizer from its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TokenizerError, warn
from .engines.added_tokens import AddedToken
from .engines.engine import Engine, PieceEncoder, PieceEngine
from .engines.sentencepiece_model import SentencePieceModel
from .engines.special_tokens_template import SpecialTokensTemplate
from .files import InMemory, read_bytes


def is_rank_file(content: bytes) -> bool:
    """Whether a `tokenizer.model` is Meta's Llama 3 kind: its first line is base64, a space and a number."""
    line = content[:4096].split(b"\n", 1)[0].split()
    return len(line) == 2 and line[1].isdigit() and all(byte < 0x80 for byte in line[0])


@dataclass(frozen=True)
class Made:
    """An engine, the tokens that its file declares by id, and what the file puts around texts, where it says so."""

    engine: Engine
    declared: Mapping[int, AddedToken]
    template: SpecialTokensTemplate | None = None


def sentencepiece_engine(
    content: bytes,
    source: str,
    *,
    legacy: bool | None,
    add_prefix_space: bool | None,
    sp_model_kwargs: Mapping[str, Any] | None,
) -> Made:
    """Make the engine that sentencepiece runs, of its model."""
    from .engines.sentencepiece_engine import SentencePieceEncoder

    model = SentencePieceModel.parse(content, source)
    return _of_model(model, SentencePieceEncoder(model, sp_model_kwargs), legacy, add_prefix_space)


def tokenizers_engine(content: bytes, source: str, *, legacy: bool | None, add_prefix_space: bool | None) -> Made:
    """Make the engine that the tokenizers library runs, of a SentencePiece model.

    A model whose ids that library cannot give is run by sentencepiece, after a warning that says why.
    """
    model = SentencePieceModel.parse(content, source)
    return _of_model(model, _piece_encoder(model), legacy, add_prefix_space)


def _of_model(
    model: SentencePieceModel, encoder: PieceEncoder, legacy: bool | None, add_prefix_space: bool | None
) -> Made:
    prefix = model.add_dummy_prefix if add_prefix_space is None else add_prefix_space
    engine = PieceEngine(model, encoder, add_prefix_space=prefix, legacy=bool(legacy))
    return Made(engine, control_pieces(model))


def json_engine(source: Path | InMemory, *, legacy: bool | None, add_prefix_space: bool | None) -> Made:
    """Make the engine of a `tokenizer.json`, which is run as it is written unless the arguments say otherwise."""
    from .engines.tokenizers_engine import JsonEngine

    backend = source.backend if isinstance(source, InMemory) else None
    engine = JsonEngine.parse(read_bytes(source), str(source)) if backend is None else JsonEngine(backend, str(source))
    if legacy is not None or add_prefix_space is not None:
        has_space, has_legacy = engine.prefix_scheme() or (True, True)
        engine.set_prefix_scheme(
            add_prefix_space=has_space if add_prefix_space is None else add_prefix_space,
            legacy=has_legacy if legacy is None else legacy,
        )
    return Made(engine, engine.added_tokens(), engine.template())


def vocabulary_engine(
    ids: Mapping[str, int],
    merges: list[tuple[str, str]],
    source: str,
    *,
    unk_token: str | None,
    legacy: bool | None,
    add_prefix_space: bool | None,
) -> Made:
    """Make the engine of a vocabulary with its merges: SentencePiece's spaces, and bytes for what it has not."""
    from .engines.tokenizers_engine import JsonEngine, apply_prefix_scheme, bpe_backend

    backend = bpe_backend(
        dict(ids), merges, unk_token=unk_token if unk_token in ids else None, byte_fallback=True, source=source
    )
    apply_prefix_scheme(
        backend, add_prefix_space=True if add_prefix_space is None else add_prefix_space, legacy=bool(legacy)
    )
    return Made(JsonEngine(backend, source), {})


def _piece_encoder(model: SentencePieceModel) -> PieceEncoder:
    from .engines.tie_groups import NotExpressible
    from .engines.tokenizers_engine import MergesEncoder

    try:
        return MergesEncoder(model)
    except NotExpressible as error:
        from .engines.sentencepiece_engine import SentencePieceEncoder

        encoder = SentencePieceEncoder(model)
        warn(f"{error}; so LlamaTokenizerFast runs it by sentencepiece, with the same ids as LlamaTokenizer")
        return encoder


def control_pieces(model: SentencePieceModel) -> dict[int, AddedToken]:
    """Pieces that never come out of text by themselves: they are special tokens."""
    return {index: AddedToken(piece.text, special=True) for index, piece in model.special_pieces() if piece.text}


def rank_engine(
    content: bytes,
    source: str,
    *,
    renamed: Mapping[Any, object],
    legacy: bool | None,
    add_prefix_space: bool | None,
) -> Made:
    """Make the engine of Llama 3's rank file; ``renamed`` maps ids to tokens that go under other names there."""
    from .engines.tiktoken import backend_from_ranks, llama3_special_tokens, read_ranks
    from .engines.tokenizers_engine import JsonEngine

    if legacy or add_prefix_space:
        raise TokenizerError(
            f"{source} is a byte-level vocabulary: legacy and add_prefix_space have no meaning for it",
            hint="leave them out",
        )
    ranks = read_ranks(content, source)
    special = llama3_special_tokens()
    for token_id, token in renamed.items():  # Llama 3.1 renamed some reserved tokens
        index = int(token_id) - len(ranks)
        if 0 <= index < len(special):
            special[index] = str(token)
    engine = JsonEngine(backend_from_ranks(ranks, special, source), source)
    return Made(engine, engine.added_tokens())
