"""Writing a tokenizer: into a folder, and to the Hub."""

from __future__ import annotations

import tempfile
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from ..arguments import checked_methods
from ..errors import TokenizerError, warn
from ..messages import mention
from ..sources.naming import path_given
from .declared import SPECIAL_ROLES
from .engines.engine import PieceEngine
from .files import (
    ADDED_TOKENS_FILE,
    CHAT_TEMPLATE_FILE,
    CHAT_TEMPLATE_FOLDER,
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_FILE,
    VOCAB_FILE,
    write_file,
    write_json,
)
from .tokenizer import Tokenizer

MESSAGE = "Upload a tokenizer with polyllama"


@checked_methods
class Saving(Tokenizer):
    """The part of a tokenizer that writes it."""

    _model_bytes: bytes | None = None
    _misses_json: ClassVar[bool] = False  # whether it is said that there is no tokenizer.json to write

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        *,
        repo_id: str | None = None,
        **upload: Any,
    ) -> tuple[str, ...]:
        """Write every file that loading needs into a folder; returns their paths.

        ``legacy_format``: True writes no `tokenizer.json`, False no `tokenizer.model`; by default all that there is.
        ``filename_prefix`` goes before the names of the files. ``push_to_hub`` also sends the folder to ``repo_id``, by
        default the folder's name; further arguments are those of ``push_to_hub``.

        Errors: TokenizerError for a folder that cannot be written, and for a format that this tokenizer has not;
        DownloadError where the Hub does not take it.
        """
        if not push_to_hub and (upload or repo_id is not None):
            name = "repo_id" if repo_id is not None else next(iter(upload))
            raise TokenizerError(mention(name) + " has no effect without " + mention("push_to_hub", True))
        folder = path_given("save_directory", save_directory)
        written = self._save_vocabulary(folder, filename_prefix, legacy_format)
        target = _namer(folder, filename_prefix)
        written.append(write_json(target(CONFIG_FILE), self._config()))
        roles: dict[str, Any] = {role: token.to_dict() for role, token in self._roles.items() if token is not None}
        if self._additional:
            roles["additional_special_tokens"] = [token.to_dict() for token in self._additional]
        written.append(write_json(target(SPECIAL_TOKENS_FILE), roles))
        beyond = {
            token.content: token_id for token_id, token in sorted(self._added.items()) if token_id >= self.vocab_size
        }
        if beyond:
            written.append(write_json(target(ADDED_TOKENS_FILE), beyond))
        templates = self.chat_template
        for name, template in ({"default": templates} if isinstance(templates, str) else templates or {}).items():
            if Path(name).name != name:
                raise TokenizerError(f"chat template {name!r} has a name that is no file name", hint="rename it")
            file = target(CHAT_TEMPLATE_FILE) if name == "default" else folder / CHAT_TEMPLATE_FOLDER / f"{name}.jinja"
            written.append(write_file(file, template))
        if push_to_hub:
            _upload(folder, repo_id or folder.resolve().name, upload)
        return tuple(map(str, written))

    def save_vocabulary(
        self, save_directory: str | PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary: `tokenizer.model` as it was read, and `tokenizer.json` where tokenizers segments.

        The `tokenizer.json` of a SentencePiece model is for other readers; two rare things differ in it from the
        model, because its format cannot say them: with ``legacy=False`` a text that begins with a space gets no second
        one, and user-defined symbols are matched before spaces are escaped. Loading prefers the model. Where
        LlamaTokenizerFast runs the model by sentencepiece, there is no `tokenizer.json` to write, which is said.
        """
        return tuple(
            map(str, self._save_vocabulary(path_given("save_directory", save_directory), filename_prefix, None))
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Write the tokenizer into a repository of the Hub, which is made where there is none.

        Returns:
            The address of the commit.

        Raises:
            DownloadError: the Hub cannot be reached, or does not take it.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            upload = {"commit_message": commit_message, "commit_description": commit_description, "private": private}
            return _upload(
                Path(folder), repo_id, {**upload, "token": token, "revision": revision, "create_pr": create_pr}
            )

    def _save_vocabulary(self, folder: Path, prefix: str | None, legacy_format: bool | None) -> list[Path]:
        target = _namer(folder, prefix)
        if legacy_format and self._model_bytes is None:
            raise TokenizerError(f"{self.source} has no SentencePiece model, which legacy_format=True would write")
        written = []
        content = None if legacy_format else self._json(needed=legacy_format is False)
        if content is not None:
            written.append(write_file(target(TOKENIZER_FILE), content))
        if self._model_bytes is not None and legacy_format is not False:
            written.append(write_file(target(VOCAB_FILE), self._model_bytes))
        return written

    def _json(self, *, needed: bool) -> str | None:
        """The content of a `tokenizer.json`; ``None`` where this class writes none, or where none gives these ids.

        Errors: TokenizerError in the place of ``None`` where it is ``needed``.
        """
        from .engines.tie_groups import NotExpressible
        from .export import tokenizer_json

        runs_by_sentencepiece = isinstance(self._engine, PieceEngine) and self._engine.name == "sentencepiece"
        if runs_by_sentencepiece and not self._misses_json:
            if needed:
                raise TokenizerError(
                    f"legacy_format=False writes only {TOKENIZER_FILE}, and sentencepiece runs this tokenizer",
                    hint="load LlamaTokenizerFast and save it",
                )
            return None
        try:
            return tokenizer_json(self)
        except NotExpressible as error:
            if needed:
                raise
            what = f"{self.source}: {VOCAB_FILE} is written without {TOKENIZER_FILE}"
            warn(f"{what}, which could not give its ids ({error})")
            return None

    def _config(self) -> dict[str, Any]:
        config = dict(self.init_kwargs)
        config.update(
            tokenizer_class="LlamaTokenizer" if isinstance(self._engine, PieceEngine) else "PreTrainedTokenizerFast",
            added_tokens_decoder={str(token_id): token.to_dict() for token_id, token in sorted(self._added.items())},
            clean_up_tokenization_spaces=self.clean_up_tokenization_spaces,
            model_max_length=self.model_max_length,
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


class _namer:
    """The paths of files in a folder, their names behind a prefix."""

    def __init__(self, folder: Path, prefix: str | None) -> None:
        if prefix and Path(prefix).name != prefix:
            raise TokenizerError(f"filename_prefix {prefix!r} must not lead out of the folder")
        self._folder = folder
        self._before = f"{prefix}-" if prefix else ""

    def __call__(self, name: str) -> Path:
        return self._folder / (self._before + name)


def _upload(folder: Path, repo_id: str, options: dict[str, Any]) -> str:
    from ..sources.upload import push_folder

    return push_folder(folder, repo_id, **{**options, "commit_message": options.get("commit_message") or MESSAGE})
