"""A `tokenizer.json` from a tokenizer, for readers other than this package too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..errors import TokenizerError
from .engines.engine import PieceEngine
from .engines.sentencepiece_model import PieceKind
from .engines.special_tokens_template import SpecialTokensTemplate, Step
from .engines.tokenizers_engine import JsonEngine, MergesEncoder, apply_prefix_scheme

if TYPE_CHECKING:
    import tokenizers

    from .tokenizer import Tokenizer


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """The text of the file.

    Errors: NotExpressible for a SentencePiece model whose ids it could not give.
    """
    from tokenizers import AddedToken as Symbol
    from tokenizers import Tokenizer as Backend

    engine = tokenizer._engine
    if isinstance(engine, JsonEngine):
        backend = Backend.from_str(engine.backend.to_str())
    elif isinstance(engine, PieceEngine):
        encoder = engine.encoder if isinstance(engine.encoder, MergesEncoder) else MergesEncoder(engine.model)
        backend = Backend(encoder.bpe.model)
        apply_prefix_scheme(backend, add_prefix_space=engine.add_prefix_space, legacy=engine.legacy)
        for token_id, token in tokenizer.added_tokens_decoder.items():
            symbol = Symbol(**token.to_dict())  # type: ignore[arg-type]
            (backend.add_special_tokens if token.special else backend.add_tokens)([symbol])
            if backend.token_to_id(token.content) != token_id:
                raise TokenizerError(
                    f"token {token.content!r} has the id {token_id}, leaving a gap that the file cannot express",
                    hint="save with LlamaTokenizer instead",
                )
        frozen = [piece.text for piece in engine.model.pieces() if piece.kind is PieceKind.USER_DEFINED]
        backend.add_tokens([Symbol(text, normalized=False) for text in frozen])
    else:
        raise TokenizerError(f"a tokenizer run by {engine.name} is not written as a tokenizer.json")
    if tokenizer._template is None:
        set_post_processor(backend, tokenizer.template())
    return json.dumps(json.loads(backend.to_str()), ensure_ascii=False, indent=2) + "\n"


def set_post_processor(backend: tokenizers.Tokenizer, template: SpecialTokensTemplate) -> None:
    """Have a backend put the special tokens of ``template`` around texts."""
    from tokenizers import processors

    def names(ids: tuple[int, ...]) -> str:
        return str(backend.id_to_token(ids[0]))

    def spelled(steps: tuple[Step, ...]) -> list[str]:
        return [f"{names(part) if isinstance(part, tuple) else '$' + 'AB'[part]}:{type_id}" for part, type_id in steps]

    used = {names(part): part[0] for part, _ in template.single + template.pair if isinstance(part, tuple)}
    template_step = processors.TemplateProcessing(
        single=spelled(template.single), pair=spelled(template.pair), special_tokens=list(used.items())
    )
    byte_level = json.loads(backend.to_str())["decoder"] == {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
    backend.post_processor = (
        processors.Sequence([processors.ByteLevel(trim_offsets=False), template_step]) if byte_level else template_step
    )
