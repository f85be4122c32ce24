"""The tokenizers of Llama checkpoints under the names of the reference documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from ..arguments import checked_methods
from ..errors import TokenizerError
from ..public import public
from .agreement import compare
from .behaviour import read_behaviour
from .checked_arguments import check_flags, check_roles, listed_tokens, tokens_by_id
from .declared import SPECIAL_ROLES, SpecialTokens, TokenLike
from .engines.added_tokens import AddedToken
from .engines.engine import PieceEngine
from .engines.sentencepiece_engine import checked_sampling
from .engines.sentencepiece_model import SentencePieceModel
from .files import InMemory
from .given_vocabulary import Given, Merges, PathOrName, Vocabulary, second_is_merges
from .loading import constructor_arguments, found_on_this_machine
from .make_engine import (
    Made,
    json_engine,
    rank_engine,
    sentencepiece_engine,
    tokenizers_engine,
    vocabulary_engine,
)
from .saving import Saving
from .special_tokens import BOS, EOS, UNK, resolved_roles, what_to_add
from .tokenizer import Tokenizer

OF_FETCHING = (
    *("cache_dir", "force_download", "local_files_only", "offline"),
    *("revision", "subfolder", "token", "trust_remote_code"),
)


QUICK_TO_START = "_quick_to_start"
"""What AutoTokenizer calls the argument that has sentencepiece run a model of its, whichever class it makes."""


@checked_methods
class _Llama(Saving):
    """What both classes share: what segments, constructor arguments, loading."""

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "tokenizer.model", "tokenizer_file": "tokenizer.json"}
    _prefers_sentencepiece: ClassVar[bool]

    def __init__(
        self,
        given: Given,
        roles: dict[str, object],
        options: dict[str, Any],
        *,
        add_bos_token: bool | None,
        add_eos_token: bool | None,
        legacy: bool | None,
        add_prefix_space: bool | None,
        sp_model_kwargs: Mapping[str, Any] | None,
    ) -> None:
        source = str(given.source)
        check_flags(add_bos_token=add_bos_token, add_eos_token=add_eos_token)
        check_flags(legacy=legacy, add_prefix_space=add_prefix_space)
        sp_model_kwargs = checked_sampling(sp_model_kwargs)
        if given.model is not None and given.json is not None:
            compare(SentencePieceModel.parse(given.model, source), given.json, {"legacy": legacy}, {})
        self._refuse_sampling(sp_model_kwargs)
        made = self._made(given, roles, options, legacy, add_prefix_space, sp_model_kwargs)
        options.pop(QUICK_TO_START, None)
        if made.template is None:  # a tokenizer.json says itself what surrounds a text
            add_bos_token = True if add_bos_token is None else add_bos_token
            add_eos_token = False if add_eos_token is None else add_eos_token
        for role in SPECIAL_ROLES:
            if role in options:
                roles[role] = options.pop(role)
        check_roles(roles)
        names = ("additional_special_tokens", "extra_special_tokens")
        added = _declared(made, tokens_by_id("added_tokens_decoder", options.pop("added_tokens_decoder", None)), source)
        special = SpecialTokens(
            roles=resolved_roles(roles, made.engine, added, made.template),
            additional=[token for name in names for token in listed_tokens(name, options.pop(name, None))],
            added=added,
            template=made.template,
        )
        special.add_bos_token, special.add_eos_token = what_to_add(special, add_bos_token, add_eos_token)
        behaviour = read_behaviour(options, source)
        super().__init__(made.engine, special, behaviour, source=source)
        self._model_bytes = given.model if given.ranks is None else given.ranks
        self.vocab_file = None if self._model_bytes is None else source
        self.sp_model_kwargs = sp_model_kwargs

    def _refuse_sampling(self, sp_model_kwargs: Mapping[str, Any]) -> None:
        if not self._prefers_sentencepiece and sp_model_kwargs.get("enable_sampling"):
            raise TokenizerError("sp_model_kwargs: only sentencepiece samples", hint="use LlamaTokenizer")

    def _made(
        self,
        given: Given,
        roles: Mapping[str, object],
        options: Mapping[str, Any],
        legacy: bool | None,
        add_prefix_space: bool | None,
        sp_model_kwargs: Mapping[str, Any] | None,
    ) -> Made:
        """The engine, and what its file says of special tokens."""
        source = str(given.source)
        if given.model is not None and (self._prefers_sentencepiece or options.get(QUICK_TO_START)):
            return sentencepiece_engine(
                given.model,
                source,
                legacy=legacy,
                add_prefix_space=add_prefix_space,
                sp_model_kwargs=sp_model_kwargs,
            )
        if given.json is not None:
            return json_engine(given.json, legacy=legacy, add_prefix_space=add_prefix_space)
        if given.ranks is not None:
            renamed = options.get("added_tokens_decoder") or {}
            return rank_engine(given.ranks, source, renamed=renamed, legacy=legacy, add_prefix_space=add_prefix_space)
        if given.pieces is not None:
            unk, pieces = roles["unk_token"], given.pieces
            return vocabulary_engine(
                pieces.ids,
                pieces.merges,
                source,
                unk_token=None if unk is None else str(unk),
                legacy=legacy,
                add_prefix_space=add_prefix_space,
            )
        return tokenizers_engine(given.model or b"", source, legacy=legacy, add_prefix_space=add_prefix_space)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: PathOrName, **overrides: Any) -> Self:
        """Load from a folder, a tokenizer file, or the name of a checkpoint; arguments override what its files say.

        For names that are fetched: ``revision``, ``offline`` (or ``local_files_only``), ``token``, ``cache_dir``,
        ``force_download``; ``subfolder`` is a folder below the one that is named. No code of a checkpoint is run,
        whatever ``trust_remote_code`` says.

        Errors: TokenizerError for files that are missing, damaged or contradict each other.
        """
        fetching = {name: overrides.pop(name) for name in OF_FETCHING if name in overrides}
        path = found_on_this_machine(pretrained_model_name_or_path, **fetching)
        _, arguments = constructor_arguments(path, overrides)
        return cls(**{"name_or_path": str(pretrained_model_name_or_path), **arguments})

    @property
    def legacy(self) -> bool | None:
        """Whether a prefix space follows every special token; None for byte-level vocabularies."""
        if isinstance(self._engine, PieceEngine):
            return self._engine.legacy
        scheme: tuple[bool, bool] | None = self._engine.prefix_scheme()  # type: ignore[attr-defined]
        return None if scheme is None else scheme[1]

    @property
    def add_prefix_space(self) -> bool | None:
        """Whether a space is put before the text; None for byte-level vocabularies."""
        if isinstance(self._engine, PieceEngine):
            return self._engine.add_prefix_space
        scheme: tuple[bool, bool] | None = self._engine.prefix_scheme()  # type: ignore[attr-defined]
        return None if scheme is None else scheme[0]


def _declared(made: Made, more: Mapping[int, AddedToken], source: str) -> dict[int, AddedToken]:
    """The tokens that the files declare, and those that the caller does."""
    added = dict(made.declared)
    for token_id, token in more.items():
        known = added.get(token_id)
        if known is not None and known.special and not token.special and known.content == token.content:
            token = AddedToken.parse(token, where=source, special=True)
        added[token_id] = token
    return added


def _given(vocab_file: Any, tokenizer_file: Any, vocab: Any, merges: Any, roles: Mapping[str, object]) -> Given:
    """What segments, of the arguments of either edition."""
    if vocab is not None and vocab_file is not None:
        raise TokenizerError("vocab and vocab_file are two vocabularies", hint="give one of them")
    check_roles(roles)
    given = vocab_file if vocab is None else vocab
    return Given.read(given, tokenizer_file, merges, [roles[name] for name in ("unk_token", "bos_token", "eos_token")])


@public
@checked_methods
class LlamaTokenizer(_Llama):
    """A tokenizer of a file or a vocabulary; a SentencePiece `tokenizer.model` is run by sentencepiece.

    ``vocab_file`` is such a model, a `tokenizer.json` or a `vocab.json`; ``vocab`` is the same, or a dict of pieces and
    ids, or a list of pieces or of (piece, score); ``merges``, for a vocabulary, a `merges.txt` or a list of pairs.
    Without any of them the special tokens are all there is.

    ``legacy``: a prefix space is put after every special token (True) or only before the text (False, the default).
    ``add_prefix_space``: None takes what the model says (Llama: yes). ``sp_model_kwargs``: sampling
    (``enable_sampling``, ``nbest_size``, ``alpha``). Tokens that are named but not in the vocabulary are added with the
    next free id. Further keyword arguments: ``additional_special_tokens``, ``added_tokens_decoder``,
    ``chat_template``, ``model_max_length``, ``padding_side``, ``truncation_side``, ``split_special_tokens``; others are
    kept in ``init_kwargs``, which is said.

    Source: Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226; Touvron et al. 2023, https://arxiv.org/abs/2302.13971.

    Errors: TokenizerError for a file that is no vocabulary, or an argument that is wrong.

    >>> tokenizer = LlamaTokenizer(vocab={"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "▁a": 5}, merges=["▁ a"])
    >>> tokenizer.encode("a a")
    [1, 5, 5]
    """

    _prefers_sentencepiece = True

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        unk_token: TokenLike | Merges | None = UNK,
        bos_token: TokenLike | None = BOS,
        eos_token: TokenLike | None = EOS,
        pad_token: TokenLike | None = None,
        sp_model_kwargs: Mapping[str, Any] | None = None,
        add_bos_token: bool | None = True,
        add_eos_token: bool | None = False,
        clean_up_tokenization_spaces: bool = False,
        use_default_system_prompt: bool = False,
        spaces_between_special_tokens: bool = False,
        legacy: bool | None = None,
        add_prefix_space: bool | None = None,
        *,
        vocab: Vocabulary | None = None,
        merges: Merges | None = None,
        tokenizer_file: PathOrName | InMemory | None = None,
        **options: Any,
    ) -> None:
        if second_is_merges(vocab_file, unk_token):
            merges, unk_token = unk_token, UNK  # type: ignore[assignment]
        roles: dict[str, object] = {"unk_token": unk_token, "bos_token": bos_token}
        roles |= {"eos_token": eos_token, "pad_token": pad_token}
        options.update(
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            use_default_system_prompt=use_default_system_prompt,
            spaces_between_special_tokens=spaces_between_special_tokens,
        )
        given = _given(vocab_file, tokenizer_file, vocab, merges, roles)
        if given.ranks is not None:
            raise TokenizerError(
                f"{given.source} is a Llama 3 rank file, not a SentencePiece model",
                hint="use LlamaTokenizerFast or load_tokenizer",
            )
        super().__init__(
            given,
            roles,
            options,
            add_bos_token=add_bos_token,
            add_eos_token=add_eos_token,
            legacy=legacy,
            add_prefix_space=add_prefix_space,
            sp_model_kwargs=sp_model_kwargs,
        )


@public
@checked_methods
class LlamaTokenizerFast(_Llama):
    """A tokenizer of a file or a vocabulary, run by tokenizers; the ids are those of ``LlamaTokenizer``.

    A SentencePiece model whose ids tokenizers cannot give (unigram, normalizing, scores shared such that no order of
    merges was found) is run by sentencepiece, after a warning that says why.

    ``vocab_file`` is a SentencePiece BPE model, Meta's Llama 3 rank file or a vocabulary; ``tokenizer_file`` a
    `tokenizer.json`, which is run as it is written (``legacy``, ``add_prefix_space``, ``add_bos_token`` and
    ``add_eos_token`` override it where given), and beside it ``vocab_file`` is the model that it was made from. Other
    arguments as for ``LlamaTokenizer``; sampling is only there.

    Errors: TokenizerError for a damaged file, or an argument that is wrong.
    """

    _prefers_sentencepiece = False
    _misses_json = True

    def __init__(
        self,
        vocab_file: Vocabulary | None = None,
        tokenizer_file: PathOrName | InMemory | Merges | None = None,
        clean_up_tokenization_spaces: bool = False,
        unk_token: TokenLike | None = UNK,
        bos_token: TokenLike | None = BOS,
        eos_token: TokenLike | None = EOS,
        add_bos_token: bool | None = None,
        add_eos_token: bool | None = None,
        use_default_system_prompt: bool = False,
        legacy: bool | None = None,
        add_prefix_space: bool | None = None,
        *,
        pad_token: TokenLike | None = None,
        spaces_between_special_tokens: bool = False,
        sp_model_kwargs: Mapping[str, Any] | None = None,
        vocab: Vocabulary | None = None,
        merges: Merges | None = None,
        **options: Any,
    ) -> None:
        if second_is_merges(vocab_file, tokenizer_file):
            merges, tokenizer_file = tokenizer_file, None  # type: ignore[assignment]
        roles: dict[str, object] = {"unk_token": unk_token, "bos_token": bos_token}
        roles |= {"eos_token": eos_token, "pad_token": pad_token}
        options.update(
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            use_default_system_prompt=use_default_system_prompt,
            spaces_between_special_tokens=spaces_between_special_tokens,
        )
        super().__init__(
            _given(vocab_file, tokenizer_file, vocab, merges, roles),
            roles,
            options,
            add_bos_token=add_bos_token,
            add_eos_token=add_eos_token,
            legacy=legacy,
            add_prefix_space=add_prefix_space,
            sp_model_kwargs=sp_model_kwargs,
        )


ENGINES = ("sentencepiece", "tokenizers")


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
    has_model, arguments = constructor_arguments(Path(path), overrides)
    if not has_model and engine == "sentencepiece":
        raise TokenizerError(
            f"{path} has no SentencePiece model, so sentencepiece cannot run it",
            hint="use LlamaTokenizerFast or engine='tokenizers'",
        )
    return LlamaTokenizer(**arguments) if has_model and engine != "tokenizers" else LlamaTokenizerFast(**arguments)
