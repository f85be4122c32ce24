"""The tokenizers of Llama checkpoints under the names of the reference documentation."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Self

from ..errors import TokenizerError
from ..public import public
from .agreement import compare
from .base import Tokenizer
from .behaviour import read_behaviour
from .declared import SPECIAL_ROLES, SpecialTokens, TokenLike
from .engines.added_tokens import AddedToken
from .engines.engine import Engine, PieceEngine
from .engines.sentencepiece_model import SentencePieceModel
from .engines.template import SpecialTokensTemplate
from .files import (
    ADDED_TOKENS_FILE,
    CHAT_TEMPLATE_FILE,
    CHAT_TEMPLATE_FOLDER,
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_FILE,
    VOCAB_FILE,
    InMemory,
    TokenizerFiles,
    read_bytes,
    write_file,
    write_json,
)
from .make_engine import control_pieces, is_rank_file, read_model, tokenizers_engine
from .special_tokens import BOS, EOS, UNK, resolved_roles, what_to_add

PathOrName = str | PathLike[str]


class _Llama(Tokenizer):
    """What both classes share: constructor arguments, loading and saving."""

    def __init__(
        self,
        engine: Engine,
        source: str,
        *,
        declared: Mapping[int, AddedToken],
        template: SpecialTokensTemplate | None,
        roles: dict[str, object],
        add_bos_token: bool | None,
        add_eos_token: bool | None,
        options: dict[str, Any],
    ) -> None:
        for role in SPECIAL_ROLES:
            if role in options:
                roles[role] = options.pop(role)
        added = dict(declared)
        for token_id, token in (options.pop("added_tokens_decoder", None) or {}).items():
            parsed = AddedToken.parse(token, where=f"{source}: added_tokens_decoder")
            known = added.get(int(token_id))
            if known is not None and known.special and not parsed.special and known.content == parsed.content:
                parsed = AddedToken.parse(parsed, where=source, special=True)
            added[int(token_id)] = parsed
        special = SpecialTokens(
            roles=resolved_roles(roles, engine, added, template, source),
            additional=list(options.pop("additional_special_tokens", None) or ()),
            added=added,
            template=template,
        )
        special.add_bos_token, special.add_eos_token = what_to_add(special, add_bos_token, add_eos_token)
        unheeded = bool(options.pop("clean_up_unheeded", False))
        behaviour = read_behaviour(options, source)
        behaviour.clean_up_unheeded = unheeded
        super().__init__(engine, special, behaviour, source=source)
        self._model_bytes: bytes | None = None

    @classmethod
    def from_pretrained(cls, path_or_name: PathOrName, **overrides: Any) -> Self:
        """Load from a folder, a tokenizer file, or the name of a checkpoint; arguments override what its files say.

        ``revision`` and ``offline`` are for names that are fetched.

        Errors: TokenizerError for files that are missing, damaged or contradict each other.
        """

        revision, offline = overrides.pop("revision", None), overrides.pop("offline", None)
        tokenizer = load_as(cls, resolve(path_or_name, revision=revision, offline=offline), overrides)
        if not isinstance(tokenizer, cls):
            raise TokenizerError(
                f"{path_or_name} has no SentencePiece model, so it is no {cls.__name__}", hint="use LlamaTokenizerFast"
            )
        return tokenizer

    # -- saving

    def save_pretrained(self, folder: PathOrName) -> tuple[Path, ...]:
        """Write every file that loading needs into ``folder``; returns their paths."""
        folder = Path(folder)
        written = list(self.save_vocabulary(folder))
        written.append(write_json(folder / CONFIG_FILE, self._config()))
        roles: dict[str, Any] = {role: token.to_dict() for role, token in self._roles.items() if token is not None}
        if self._additional:
            roles["additional_special_tokens"] = [token.to_dict() for token in self._additional]
        written.append(write_json(folder / SPECIAL_TOKENS_FILE, roles))
        beyond = {
            token.content: token_id for token_id, token in sorted(self._added.items()) if token_id >= self.vocab_size
        }
        if beyond:
            written.append(write_json(folder / ADDED_TOKENS_FILE, beyond))
        templates = self.chat_template
        for name, template in ({"default": templates} if isinstance(templates, str) else templates or {}).items():
            if Path(name).name != name:
                raise TokenizerError(f"chat template {name!r} has a name that is no file name", hint="rename it")
            target = CHAT_TEMPLATE_FILE if name == "default" else f"{CHAT_TEMPLATE_FOLDER}/{name}.jinja"
            written.append(write_file(folder / target, template))
        return tuple(written)

    def _config(self) -> dict[str, Any]:
        config = dict(self._kept)
        config.update(
            tokenizer_class="LlamaTokenizer" if isinstance(self._engine, PieceEngine) else "PreTrainedTokenizerFast",
            added_tokens_decoder={str(token_id): token.to_dict() for token_id, token in sorted(self._added.items())},
            clean_up_tokenization_spaces=self.clean_up_tokenization_spaces,
            model_max_length=self.model_max_length or int(1e30),
            padding_side=self.padding_side,
            truncation_side=self.truncation_side,
            **{role: self._role_text(role) for role in (*SPECIAL_ROLES[:3], "pad_token")},
        )
        if self._additional:
            config["additional_special_tokens"] = self.additional_special_tokens
        if self._template is None:
            config.update(add_bos_token=self.add_bos_token, add_eos_token=self.add_eos_token)
        if isinstance(self._engine, PieceEngine):
            config.update(legacy=self._engine.legacy, add_prefix_space=self._engine.add_prefix_space)
            config["sp_model_kwargs"] = getattr(self, "sp_model_kwargs", {})
        for flag in ("use_default_system_prompt", "spaces_between_special_tokens", "split_special_tokens"):
            config[flag] = getattr(self, flag)
        return config

    def save_vocabulary(self, folder: PathOrName, filename_prefix: str | None = None) -> tuple[Path, ...]:
        """Write only the vocabulary: `tokenizer.model`, byte for byte as it was read."""
        return (write_file(self._target(folder, filename_prefix, VOCAB_FILE), self._model_bytes or b""),)

    @staticmethod
    def _target(folder: PathOrName, prefix: str | None, name: str) -> Path:
        if prefix and Path(prefix).name != prefix:
            raise TokenizerError(f"filename_prefix {prefix!r} must not lead out of the folder")
        return Path(folder) / (f"{prefix}-{name}" if prefix else name)

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


@public
class LlamaTokenizer(_Llama):
    """A SentencePiece `tokenizer.model`, run by sentencepiece.

    ``legacy``: a prefix space is put after every special token (True) or only before the text (False, the default).
    ``add_prefix_space``: None takes what the model says (Llama: yes). ``sp_model_kwargs``: sampling
    (``enable_sampling``, ``nbest_size``, ``alpha``). Tokens that are named but not in the vocabulary are added with the
    next free id. Further keyword arguments: ``additional_special_tokens``, ``added_tokens_decoder``,
    ``chat_template``, ``model_max_length``, ``padding_side``, ``truncation_side``, ``split_special_tokens``.

    Source: Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226; Touvron et al. 2023, https://arxiv.org/abs/2302.13971.

    Errors: TokenizerError for a file that is no SentencePiece model, or an argument that is wrong.
    """

    def __init__(
        self,
        vocab_file: PathOrName | InMemory,
        unk_token: TokenLike | None = UNK,
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
        **options: Any,
    ) -> None:
        from .engines.sentencepiece_engine import SentencePieceEncoder

        model = read_model(vocab_file if isinstance(vocab_file, InMemory) else Path(vocab_file))
        engine = PieceEngine(
            model,
            SentencePieceEncoder(model, sp_model_kwargs),
            add_prefix_space=model.add_dummy_prefix if add_prefix_space is None else add_prefix_space,
            legacy=bool(legacy),
        )
        options.update(
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            use_default_system_prompt=use_default_system_prompt,
            spaces_between_special_tokens=spaces_between_special_tokens,
        )
        super().__init__(
            engine,
            str(vocab_file),
            declared=control_pieces(model),
            template=None,
            roles={"unk_token": unk_token, "bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token},
            add_bos_token=add_bos_token,
            add_eos_token=add_eos_token,
            options=options,
        )
        self.vocab_file = str(vocab_file)
        self.sp_model_kwargs = dict(sp_model_kwargs or {})
        self._model_bytes = model.content


@public
class LlamaTokenizerFast(_Llama):
    """A `tokenizer.model` or a `tokenizer.json`, run by tokenizers; the ids are those of ``LlamaTokenizer``.

    ``vocab_file`` is a SentencePiece BPE model or Meta's Llama 3 rank file; ``tokenizer_file`` a `tokenizer.json`,
    which is run as it is written (``legacy``, ``add_prefix_space``, ``add_bos_token`` and ``add_eos_token`` override it
    where given). Exactly one of the two is needed. Other arguments as for ``LlamaTokenizer``; sampling is only there.

    Errors: TokenizerError for a damaged file, or a model whose ids the tokenizers library cannot reproduce.
    """

    def __init__(
        self,
        vocab_file: PathOrName | InMemory | None = None,
        tokenizer_file: PathOrName | InMemory | None = None,
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
        **options: Any,
    ) -> None:
        source = _one_source(vocab_file, tokenizer_file)
        _refuse_sampling(sp_model_kwargs)
        content = read_bytes(source)
        made = tokenizers_engine(
            content,
            source,
            is_json=vocab_file is None,
            renamed=options.get("added_tokens_decoder") or {},
            legacy=legacy,
            add_prefix_space=add_prefix_space,
        )
        if vocab_file is not None:  # a tokenizer.json says itself what surrounds a text
            add_bos_token = True if add_bos_token is None else add_bos_token
            add_eos_token = False if add_eos_token is None else add_eos_token
        options.update(
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            use_default_system_prompt=use_default_system_prompt,
            spaces_between_special_tokens=spaces_between_special_tokens,
        )
        super().__init__(
            made.engine,
            str(source),
            declared=made.declared,
            template=made.template,
            roles={"unk_token": unk_token, "bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token},
            add_bos_token=add_bos_token,
            add_eos_token=add_eos_token,
            options=options,
        )
        self._model_bytes = content if vocab_file is not None else None
        self.vocab_file = None if vocab_file is None else str(vocab_file)

    def save_vocabulary(self, folder: PathOrName, filename_prefix: str | None = None) -> tuple[Path, ...]:
        """Write the vocabulary: `tokenizer.json`, and `tokenizer.model` where it came from one.

        The `tokenizer.json` of a SentencePiece model is for other readers; two rare things differ in it from the
        model, because its format cannot say them: with ``legacy=False`` a text that begins with a space gets no second
        one, and user-defined symbols are matched before spaces are escaped. Loading prefers the model.
        """
        from .export import tokenizer_json

        written = [write_file(self._target(folder, filename_prefix, TOKENIZER_FILE), tokenizer_json(self))]
        if self._model_bytes is not None:
            written.append(write_file(self._target(folder, filename_prefix, VOCAB_FILE), self._model_bytes))
        return tuple(written)


def _refuse_sampling(sp_model_kwargs: Mapping[str, Any] | None) -> None:
    if sp_model_kwargs and sp_model_kwargs.get("enable_sampling"):
        raise TokenizerError("sp_model_kwargs: only sentencepiece samples", hint="use LlamaTokenizer")


def _one_source(
    vocab_file: PathOrName | InMemory | None, tokenizer_file: PathOrName | InMemory | None
) -> Path | InMemory:
    """Return the one of both that is given, as a path or as what is in memory."""
    if (vocab_file is None) == (tokenizer_file is None):
        raise TokenizerError(
            "LlamaTokenizerFast needs one of vocab_file and tokenizer_file",
            hint="from_pretrained(folder) chooses between them",
        )
    given = vocab_file if vocab_file is not None else tokenizer_file
    return given if isinstance(given, InMemory) else Path(given)  # type: ignore[arg-type]


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
    from ..sources.locate import resolve_checkpoint_folder

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
            compare(SentencePieceModel.parse(content, str(vocab_file)), files.tokenizer_file, stated, arguments)
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
