"""One entry of a registry: a name, where its checkpoint is, and what is known of it before loading."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from ..public import for_plugins

PACKAGE_FOLDER = Path(__file__).resolve().parents[2]

SourceKind = Literal["hf", "path", "package"]
SOURCE_KINDS: tuple[SourceKind, ...] = ("hf", "path", "package")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_REPO_ID = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?/[A-Za-z0-9_](?:[\w.-]*[\w])?", re.ASCII)


def normalize_name(name: str) -> str:
    """The form in which names are compared.

    >>> normalize_name("Llama-2 7B_Chat")
    'llama-2-7b-chat'
    """
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def is_repo_id(text: str) -> bool:
    """Whether a text can be the id of a repository on the Hub: "organization/name".

    >>> is_repo_id("meta-llama/Llama-2-7b-hf"), is_repo_id("tiny"), is_repo_id("../x")
    (True, False, False)
    """
    if len(text) > 96 or ".." in text or "--" in text or text.endswith(".git"):
        return False
    return bool(_REPO_ID.fullmatch(text))


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


_Strings = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
_Size = Annotated[int, Field(ge=1)]


class PlannedConfig(BaseModel):
    """The sizes of a model, enough to count its parameters and plan its memory without its config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    vocab_size: _Size
    hidden_size: _Size
    intermediate_size: _Size
    num_hidden_layers: _Size
    num_attention_heads: _Size
    num_key_value_heads: _Size | None = None
    head_dim: _Size | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    def as_fields(self) -> dict[str, Any]:
        """The fields that were given, by their names in config.json."""
        return self.model_dump(exclude_unset=True)


@for_plugins
class RegistryEntry(BaseModel):
    """One named checkpoint and what is known about it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    source: str
    revision: str | None = None
    parameters: _Size | None = None
    context: _Size | None = None
    license: str | None = None
    gated: bool = False
    tasks: _Strings = ("text-generation",)
    aliases: _Strings = ()
    summary: str = ""
    config: PlannedConfig | None = None
    origin: str = Field("", description="the file or plugin it came from")

    @field_validator("source")
    @classmethod
    def _check_source(cls, source: str) -> str:
        kind, separator, target = source.partition(":")
        if not separator or kind not in SOURCE_KINDS or not target.strip():
            raise ValueError('must be "hf:organization/name", "path:folder" or "package:folder"')
        if kind == "hf" and not is_repo_id(target):
            raise ValueError(f"{target!r} is no id of a Hub repository; it looks like organization/name")
        if kind == "package" and (Path(target).is_absolute() or ".." in Path(target).parts):
            raise ValueError("a package: source must stay inside the package")
        return source

    @field_validator("name", "aliases")
    @classmethod
    def _check_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        for name in names:
            if not _NAME.fullmatch(normalize_name(name)):
                raise ValueError(f"{name!r} is no name; use letters, digits, '.', '_' and '-'")
        return value

    @property
    def source_kind(self) -> str:
        """ "hf", "path" or "package"."""
        return self.source.partition(":")[0]

    @property
    def source_target(self) -> str:
        """The repository id or the folder."""
        return self.source.partition(":")[2]

    @property
    def lookup_names(self) -> tuple[str, ...]:
        """Its name and aliases as they are compared, without repetitions."""
        return tuple(dict.fromkeys(normalize_name(name) for name in (self.name, *self.aliases)))

    def folder(self) -> Path | None:
        """Where a path: or package: source lies; None for the Hub."""
        if self.source_kind == "hf":
            return None
        return PACKAGE_FOLDER / self.source_target if self.source_kind == "package" else Path(self.source_target)
