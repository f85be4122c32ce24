"""The files of a tokenizer: reading them with suspicion, writing them whole."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TokenizerError, refuse_lfs_pointer, warn
from .checked_arguments import token_id
from .engines.added_tokens import AddedToken

if TYPE_CHECKING:
    import tokenizers

VOCAB_FILE = "tokenizer.model"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
CHAT_TEMPLATE_JSON = "chat_template.json"
CHAT_TEMPLATE_FOLDER = "additional_chat_templates"

MAX_VOCABULARY_BYTES = 256 << 20
MAX_CONFIG_BYTES = 16 << 20

_FLAGS = (
    "add_bos_token",
    "add_eos_token",
    "clean_up_tokenization_spaces",
    "use_default_system_prompt",
    "spaces_between_special_tokens",
    "legacy",
    "add_prefix_space",
    "split_special_tokens",
)
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What a Llama has where no file says anything.
_DEFAULTS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_SIDE_KEYS = ("padding_side", "truncation_side")
# How a checkpoint was saved, not what its tokenizer does: another class or engine gives the same ids here.
_ABOUT_SAVING = frozenset({"tokenizer_class", "name_or_path", "auto_map", "processor_class", "backend", "vocab_file"})


@dataclass(frozen=True)
class InMemory:
    """A tokenizer file that was made from something else, and lies nowhere: what to call it, and its content.

    In the place of a `tokenizer.json`'s content there may be the backend that it would be parsed into.
    """

    name: str
    content: bytes = field(repr=False)
    backend: tokenizers.Tokenizer | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.name


def read_bytes(path: Path | InMemory, limit: int = MAX_VOCABULARY_BYTES) -> bytes:
    """A file's content, refused beyond ``limit`` bytes."""
    if isinstance(path, InMemory):
        return path.content
    try:
        if not path.is_file():
            raise TokenizerError(f"{path} is not a file", hint="check the path")
        size = path.stat().st_size
        if size > limit:
            raise TokenizerError(
                f"{path} has {size} bytes; a tokenizer file has at most {limit}", hint="is it another file?"
            )
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from None
    refuse_lfs_pointer(content[:64], path, TokenizerError)
    return content


def read_text(path: Path) -> str:
    """A UTF-8 text file's content."""
    try:
        return read_bytes(path, MAX_CONFIG_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 (byte {error.start})", hint="fetch it again") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not JSON: {error}", hint="it may be truncated: fetch it again") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


@dataclass
class TokenizerFiles:
    """What a folder says: constructor arguments, and the keys that only need keeping."""

    vocab_file: Path | None
    tokenizer_file: Path | None
    arguments: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> TokenizerFiles:
        """Read a checkpoint folder, or one tokenizer file with whatever lies beside it."""
        if folder.is_file():
            is_json = folder.suffix == ".json"
            found = cls(None if is_json else folder, folder if is_json else None)
            folder = folder.parent
        elif folder.is_dir():
            found = cls(_present(folder / VOCAB_FILE), _present(folder / TOKENIZER_FILE))
        else:
            raise TokenizerError(f"{folder} does not exist", hint="check the path")
        if found.vocab_file is None and found.tokenizer_file is None:
            raise TokenizerError(
                f"{folder} holds no tokenizer: neither {VOCAB_FILE} nor {TOKENIZER_FILE}",
                hint="a checkpoint needs one of them beside its weights",
            )
        found._read_config(folder)
        found._read_special_tokens(folder / SPECIAL_TOKENS_FILE)
        found._read_added_tokens(folder / ADDED_TOKENS_FILE)
        found._read_chat_templates(folder)
        return found

    def _read_config(self, folder: Path) -> None:
        path = folder / CONFIG_FILE
        if not path.exists():
            return
        arguments = self.arguments
        for key, value in read_json(path).items():
            where = f"{path}: {key}"
            if key in _FLAGS:
                if value is not None:
                    arguments[key] = _checked(value, bool, "true or false", where)
            elif key in _ROLES:
                arguments[key] = _role(value, where)
            elif key in ("additional_special_tokens", "extra_special_tokens"):
                listed = list(value.values()) if isinstance(value, Mapping) else value
                tokens = _named_ones(_checked(listed or [], list, "a list of tokens", where), where)
                previous = arguments.setdefault("additional_special_tokens", [])
                previous.extend(AddedToken.parse(token, where=where, special=True) for token in tokens)
            elif key == "added_tokens_decoder":
                arguments[key] = {
                    token_id(key, where): AddedToken.parse(token, where=f"{where}[{key}]")
                    for key, token in _checked(value, dict, "an object", where).items()
                    if _has_name(token, f"{where}[{key}]")
                }
            elif key in _SIDE_KEYS:
                arguments[key] = _checked(value, str, "'left' or 'right'", where)
            elif key == "model_max_length":
                arguments[key] = max_length(value, where)
            elif key == "sp_model_kwargs":
                arguments[key] = _checked(value or {}, dict, "an object", where)
            elif key == "chat_template":
                arguments[key] = chat_templates(value, where)
            elif key not in _ABOUT_SAVING:
                self.kept[key] = value

    def _read_special_tokens(self, path: Path) -> None:
        """Read special_tokens_map.json in transformers' order of precedence.

        It decides over tokenizer_config.json, unless that has an `added_tokens_decoder`: then it is not read.
        """
        if not path.exists():
            return
        unread = "added_tokens_decoder" in self.arguments
        for key, value in read_json(path).items():
            where = f"{path}: {key}"
            if key in _ROLES:
                token, stated = _role(value, where), self.arguments.get(key)
                if key in self.arguments and _text(stated) != _text(token):
                    used = f"what {CONFIG_FILE} says, {_text(stated)!r}" if unread else f"that, not {_text(stated)!r}"
                    because = "has added_tokens_decoder" if unread else "has no added_tokens_decoder"
                    warn(f"{where} is {_text(token)!r}; using {used} ({CONFIG_FILE} {because}: transformers' order)")
                elif unread and key not in self.arguments and _text(token) != _DEFAULTS.get(key):
                    warn(f"{where} is {_text(token)!r}, which is not read: {CONFIG_FILE} has added_tokens_decoder")
                if not unread and not (isinstance(token, str) and _text(stated) == token):
                    self.arguments[key] = token  # a bare name must not undo what is said of how it is matched
            elif key in ("additional_special_tokens", "extra_special_tokens"):
                tokens = _named_ones(_checked(value, list, "a list of tokens", where), where)
                listed = self.arguments.setdefault("additional_special_tokens", [])
                known = {token.content for token in listed}
                known.update(token.content for token in self.arguments.get("added_tokens_decoder", {}).values())
                parsed = [AddedToken.parse(token, where=where, special=True) for token in tokens]
                more = [token for token in parsed if token.content not in known]
                if unread and more:
                    names = ", ".join(repr(token.content) for token in more[:3])
                    warn(f"{where} adds {names}, which is not read: {CONFIG_FILE} has added_tokens_decoder")
                elif not unread:
                    listed.extend(more)

    def _read_added_tokens(self, path: Path) -> None:
        if not path.exists():
            return
        added = self.arguments.setdefault("added_tokens_decoder", {})
        for content, value in read_json(path).items():
            if not _has_name(content, f"{path}: {value!r:.20}"):
                continue
            found_id = token_id(value, f"{path}: {content}")
            present = added.get(found_id)
            if present is not None and present.content != content:
                raise TokenizerError(
                    f"{path} gives id {found_id} to {content!r}, {CONFIG_FILE} to {present.content!r}",
                    hint="the files contradict each other: fetch them again",
                )
            if present is None:
                added[found_id] = AddedToken.parse(content, where=str(path))

    def _read_chat_templates(self, folder: Path) -> None:
        templates: dict[str, str] = {}
        if (folder / CHAT_TEMPLATE_JSON).exists():
            stated = read_json(folder / CHAT_TEMPLATE_JSON).get("chat_template")
            templates.update(_named(chat_templates(stated, str(folder / CHAT_TEMPLATE_JSON))))
        if (folder / CHAT_TEMPLATE_FILE).exists():
            templates["default"] = read_text(folder / CHAT_TEMPLATE_FILE)
        if (folder / CHAT_TEMPLATE_FOLDER).is_dir():
            for path in sorted((folder / CHAT_TEMPLATE_FOLDER).glob("*.jinja")):
                templates[path.stem] = read_text(path)
        if templates:
            merged = _named(self.arguments.get("chat_template")) | templates
            self.arguments["chat_template"] = merged["default"] if list(merged) == ["default"] else merged


def _present(path: Path) -> Path | None:
    return path if path.exists() else None


def _checked(value: Any, kind: type, expected: str, where: str) -> Any:
    if not isinstance(value, kind):
        raise TokenizerError(f"{where} must be {expected}, got {value!r:.80}")
    return value


def _role(value: object, where: str) -> str | AddedToken | None:
    """A special token; a bare string stays one, for it says nothing about how the token is matched."""
    if value is None or not _has_name(value, where):
        return None
    token = AddedToken.parse(value, where=where, special=True)
    return value if isinstance(value, str) else token


def _has_name(token: object, where: str) -> bool:
    """Whether a token is not the empty string, which stands for "no such token" and is said."""
    if token == "" or (isinstance(token, Mapping) and token.get("content") == ""):
        warn(f"{where} is the empty string, which is no token; left out")
        return False
    return True


def _named_ones(tokens: list[Any], where: str) -> list[Any]:
    return [token for index, token in enumerate(tokens) if _has_name(token, f"{where}[{index}]")]


def _text(token: str | AddedToken | None) -> str | None:
    return None if token is None else str(token)


def max_length(value: object, where: str) -> int | None:
    """``model_max_length``: None where it is absent or the huge number that stands for 'no limit'."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 1:
        raise TokenizerError(f"{where} must be a positive number, got {value!r:.80}")
    if value > 1 << 31:
        return None
    if value != int(value):
        raise TokenizerError(f"{where} must be a whole number, got {value!r:.80}")
    return int(value)


def chat_templates(value: object, where: str) -> str | dict[str, str] | None:
    """A chat template, or several by name."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = [{"name": name, "template": template} for name, template in value.items()]
    named: dict[str, str] = {}
    for entry in value if isinstance(value, list) else [value]:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str):
            raise TokenizerError(f"{where} must be a template or a list of named templates, got {entry!r:.80}")
        named[name] = template
    return named


def _named(templates: str | dict[str, str] | None) -> dict[str, str]:
    return {} if templates is None else {"default": templates} if isinstance(templates, str) else dict(templates)


def write_file(path: Path, content: bytes | str) -> Path:
    """Write a file such that it appears under its name only when whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise TokenizerError(f"{path} cannot be written: {error}", hint="check the folder and the space left") from None
    return path


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON object, readable."""
    return write_file(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
