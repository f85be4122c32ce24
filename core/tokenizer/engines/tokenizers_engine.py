"""Segmentation by the tokenizers library: from a `.model`, from a `tokenizer.json`, from tiktoken ranks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import TokenizerError, warn
from .added_tokens import AddedToken
from .decoding import BYTE_OF_CHARACTER, ByteLevelAssembler, DecodingOptions, PieceAssembler, TextAssembler
from .engine import Encoded, Engine, byte_value
from .merges import pair_merges
from .places import LibraryPlaces
from .sentencepiece_model import SPACE, Piece, PieceKind, SentencePieceModel
from .special_tokens_template import SpecialTokensTemplate
from .tie_groups import NotExpressible, last_pair

if TYPE_CHECKING:
    import tokenizers


class MergesEncoder:
    """A SentencePiece BPE `.model` run by the tokenizers library, its merges recovered from the scores.

    Errors: NotExpressible for models that it cannot run with identical ids (unigram, normalizing, unused pieces, scores
    shared by pieces such that no order of merges was found); TokenizerError for damaged ones.
    """

    name = "tokenizers"

    def __init__(self, model: SentencePieceModel) -> None:
        self._model = model
        if model.model_type != "bpe":
            raise NotExpressible(f"{model.source} is a {model.model_type} model; only BPE models have merges")
        if model.charsmap:
            raise NotExpressible(
                f"{model.source} normalizes text ({model.normalization}), which tokenizers cannot do exactly"
            )
        self._ids: dict[str, int] = {}
        ranks: dict[str, float] = {}
        frozen: list[str] = []
        for piece_id, piece in enumerate(model.pieces()):
            if piece.text in self._ids:
                raise TokenizerError(
                    f"{model.source}: piece {piece.text!r} appears twice, the second time as {piece_id}"
                )
            self._ids[piece.text] = piece_id
            if piece.kind is PieceKind.NORMAL and math.isfinite(piece.score):
                ranks[piece.text] = -piece.score
            elif piece.kind is PieceKind.USER_DEFINED:
                frozen.append(piece.text)
            else:
                _check_never_met(piece_id, piece, model.source)
        _check_characters(ranks, frozenset(frozen), model.source)
        self.bpe = bpe_backend(
            self._ids,
            pair_merges(ranks, source=model.source),
            unk_token=model.piece(model.unk_id).text if 0 <= model.unk_id < len(model) else None,
            byte_fallback=model.byte_fallback,
            source=model.source,
        )
        from tokenizers import AddedToken as Symbol

        # SentencePiece never joins a user-defined symbol with its neighbours, and finds it in the escaped text.
        self.bpe.add_tokens([Symbol(text, normalized=False) for text in frozen])

    def encode(self, chunk: str, prefix: bool) -> list[int]:
        normalized, _ = self._model.normalize(chunk, prefix)
        return list(self.bpe.encode(normalized, add_special_tokens=False).ids)

    def token_id(self, piece: str) -> int | None:
        return self._ids.get(piece)


def _check_never_met(piece_id: int, piece: Piece, source: str) -> None:
    """Refuse a piece that the library would find in text, or join, where sentencepiece does neither."""
    if piece.kind is PieceKind.UNUSED:
        raise NotExpressible(
            f"{source}: piece {piece_id} {piece.text!r} is unused, a kind that tokenizers does not know"
        )
    if piece.kind is PieceKind.NORMAL:
        raise NotExpressible(f"{source}: piece {piece_id} {piece.text!r} has the score {piece.score}")
    if len(piece.text) == 1:
        raise NotExpressible(f"{source}: the character {piece.text!r} is a control piece, which tokenizers would match")


def _check_characters(ranks: Mapping[str, float], symbols: frozenset[str], source: str) -> None:
    """Refuse a piece put together from characters that are no pieces: the library takes their bytes before joining."""
    missing = set().union(*ranks) - ranks.keys() - symbols
    for piece in ranks if missing else ():
        if len(piece) > 1 and not missing.isdisjoint(piece) and last_pair(ranks, piece) is not None:
            character = next(character for character in piece if character in missing)
            raise NotExpressible(
                f"{source}: the piece {piece!r} holds the character {character!r}, which is no piece of its own"
            )


def bpe_backend(
    vocabulary: dict[str, int],
    merges: list[tuple[str, str]],
    *,
    unk_token: str | None,
    byte_fallback: bool,
    source: str,
) -> tokenizers.Tokenizer:
    """A backend of the library for a vocabulary of pieces, without steps before and after it.

    Errors: TokenizerError for what the library does not take.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    try:
        return Tokenizer(
            BPE(vocab=vocabulary, merges=merges, fuse_unk=True, unk_token=unk_token, byte_fallback=byte_fallback)
        )
    except Exception as error:  # the library raises no narrower one
        raise TokenizerError(f"{source}: the vocabulary and its merges do not fit ({error!s:.200})") from None


class JsonEngine(Engine):
    """A `tokenizer.json` run as it is written; decoding is done here, so that it can be done piece by piece."""

    name = "tokenizers"

    def __init__(self, backend: tokenizers.Tokenizer, source: str) -> None:
        self.backend = backend
        self.source = source
        for settings, reset, done, instead in (
            (backend.truncation, backend.no_truncation, "cut texts", "truncation=True"),
            (backend.padding, backend.no_padding, "pad texts", "padding='max_length'"),
        ):
            if settings is not None:
                length = settings.get("max_length") or settings.get("length") or "the longest's"
                warn(f"{source} is written to {done} to {length} tokens, which is not done (pass {instead} if wanted)")
                reset()
        self.size = backend.get_vocab_size(with_added_tokens=False)
        self.byte_level, self._drop_prefix = _decoder_kind(_state(backend.decoder), source)
        self._tokens: dict[int, str | None] = {}

    @classmethod
    def parse(cls, content: bytes, source: str) -> JsonEngine:
        """Read the bytes of a `tokenizer.json`."""
        from tokenizers import Tokenizer

        try:
            backend = Tokenizer.from_buffer(content)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the library is no Exception
            raise TokenizerError(
                f"{source} is not a tokenizer.json ({(str(error) or 'unreadable').splitlines()[0][:200]})",
                hint="it may be truncated: compare its size, fetch it again",
            ) from None
        return cls(backend, source)

    def token(self, token_id: int) -> str | None:
        try:
            return self._tokens[token_id]
        except KeyError:
            token = self.backend.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None
            self._tokens[token_id] = token
            return token

    def token_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def vocabulary(self) -> dict[str, int]:
        return self.backend.get_vocab(with_added_tokens=False)

    def added_tokens(self) -> dict[int, AddedToken]:
        """The tokens that the file itself adds."""
        return {
            token_id: AddedToken.parse(token, where=f"{self.source}: added_tokens")
            for token_id, token in self.backend.get_added_tokens_decoder().items()
        }

    def set_added_tokens(self, tokens: Mapping[int, AddedToken]) -> None:
        from tokenizers import AddedToken as Symbol

        known = self.added_tokens()
        for token_id, token in sorted(tokens.items()):
            if known.get(token_id) == token:
                continue
            symbol = Symbol(**token.to_dict())  # type: ignore[arg-type]
            (self.backend.add_special_tokens if token.special else self.backend.add_tokens)([symbol])
            actual = self.backend.token_to_id(token.content)
            if actual != token_id:
                raise TokenizerError(
                    f"{self.source} gives {token.content!r} the id {actual}, another file the id {token_id}",
                    hint="the tokenizer files of this folder contradict each other: fetch them again",
                )
        self._tokens.clear()

    def encode(self, text: str, *, split_special: bool) -> Encoded:
        if self.backend.encode_special_tokens != split_special:
            self.backend.encode_special_tokens = split_special
        encoding = self.backend.encode(text, add_special_tokens=False)
        return Encoded(encoding.ids, LibraryPlaces(encoding))

    def assembler(self, options: DecodingOptions, added: Mapping[int, AddedToken], size: int) -> TextAssembler:
        if self.byte_level:
            return ByteLevelAssembler(self.token, options, size, added=added)
        return PieceAssembler(
            self.token, options, size, byte_of=lambda token_id: self._byte_of(token_id), drop_prefix=self._drop_prefix
        )

    def _base_bytes(self, token_id: int, token: str) -> bytes:
        if self.byte_level:
            known = all(character in BYTE_OF_CHARACTER for character in token)
            return bytes(BYTE_OF_CHARACTER[character] for character in token) if known else token.encode("utf-8")
        byte = byte_value(token)
        return bytes([byte]) if byte is not None else token.replace(SPACE, " ").encode("utf-8")

    def _byte_of(self, token_id: int) -> int | None:
        return byte_value(self.token(token_id) or "")

    def template(self) -> SpecialTokensTemplate | None:
        """What the file puts around texts; a plain template where it adds nothing."""
        found = SpecialTokensTemplate.parse(_state(self.backend.post_processor), self.source)
        return found or SpecialTokensTemplate.around([], [])

    def prefix_scheme(self) -> tuple[bool, bool] | None:
        """(add_prefix_space, legacy) as the file's steps have it; None for byte-level vocabularies."""
        if self.byte_level:
            return None
        steps = json.dumps([_state(self.backend.normalizer), _state(self.backend.pre_tokenizer)])
        if '"Prepend"' in steps or '"prepend_scheme": "always"' in steps:
            return True, True
        if '"prepend_scheme": "first"' in steps:
            return True, False
        return False, True

    def set_prefix_scheme(self, *, add_prefix_space: bool, legacy: bool) -> None:
        """Replace the steps before segmentation by those of a SentencePiece vocabulary."""
        if self.byte_level:
            raise TokenizerError(
                f"{self.source} is a byte-level vocabulary: legacy and add_prefix_space have no meaning for it",
                hint="leave them out",
            )
        apply_prefix_scheme(self.backend, add_prefix_space=add_prefix_space, legacy=legacy)
        self._drop_prefix = add_prefix_space


def apply_prefix_scheme(backend: tokenizers.Tokenizer, *, add_prefix_space: bool, legacy: bool) -> None:
    """Give a backend the steps that turn text into pieces and back, as Llama's tokenizer.json files spell them."""
    from tokenizers import decoders, normalizers, pre_tokenizers

    escape = normalizers.Replace(" ", SPACE)
    backend.pre_tokenizer = None
    if add_prefix_space and legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), escape])
    elif add_prefix_space:
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    else:
        backend.normalizer = escape
    strip = [decoders.Strip(content=" ", left=1, right=0)] if add_prefix_space else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )


def _state(component: Any) -> Any:
    """One step of a backend as the JSON it is saved as."""
    return None if component is None else json.loads(component.__getstate__())


def _decoder_kind(decoder: Any, source: str) -> tuple[bool, bool]:
    """(byte level?, drops the first space?) of a decoder, or an error: a decoder guessed wrongly is garbled text."""
    steps = decoder["decoders"] if isinstance(decoder, dict) and decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] if isinstance(step, dict) else "none" for step in steps]
    if kinds == ["ByteLevel"]:
        return True, False
    if kinds[:3] == ["Replace", "ByteFallback", "Fuse"] and steps[0]["pattern"] == {"String": SPACE}:
        if kinds[3:] == [] and steps[0]["content"] == " ":
            return False, False
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        if steps[3:] == [strip] and steps[0]["content"] == " ":
            return False, True
    raise TokenizerError(
        f"{source}: decoder {' + '.join(kinds)} is none that a Llama uses: ByteLevel, or Replace + ByteFallback + Fuse",
        hint="use the tokenizer.model of this checkpoint if it has one",
    )
