"""One entry of a registry: a name, where its checkpoint is, and what is known of it before loading."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ..public import for_plugins
from .packages import check_inside, package_path

if TYPE_CHECKING:
    from ..settings.schema import Settings

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


@dataclass(frozen=True)
class Source:
    """One place of a checkpoint: ``kind`` is "hf", "path" or "package", ``target`` what follows the colon."""

    kind: SourceKind
    target: str

    def path(self) -> Path | None:
        """Where a path: or package: source lies; None for the Hub, and where the package or its file is not there."""
        if self.kind == "path":
            return Path(self.target)
        return package_path(self.target) if self.kind == "package" else None

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}"


@for_plugins
class RegistryEntry(BaseModel):
    """One named checkpoint and what is known about it.

    ``source`` may be given as a list: the first source that is there is taken, the others become ``alternatives``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    source: str
    alternatives: _Strings = ()
    install: str | None = Field(None, description="the command that brings the package of a package: source")
    revision: str | None = None
    parameters: _Size | None = None
    context: _Size | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(None, description="computed in, if not asked for")
    license: str | None = None
    gated: bool = False
    tasks: _Strings = ("text-generation",)
    aliases: _Strings = ()
    summary: str = ""
    config: PlannedConfig | None = None
    origin: str = Field("", description="the file or plugin it came from")

    @model_validator(mode="before")
    @classmethod
    def _one_source_or_several(cls, fields: Any) -> Any:
        found = fields.get("source") if isinstance(fields, dict) else None
        if not isinstance(found, list | tuple) or not found:
            return fields
        if "alternatives" in fields:
            raise ValueError("source is a list already, so there is nothing for alternatives to say")
        return fields | {"source": found[0], "alternatives": tuple(found[1:])}

    @field_validator("source", "alternatives")
    @classmethod
    def _check_sources(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for source in (value,) if isinstance(value, str) else value:
            kind, separator, target = source.partition(":")
            if not separator or kind not in SOURCE_KINDS or not target.strip():
                raise ValueError('must be "hf:organization/name", "path:folder" or "package:folder"')
            if kind == "hf" and not is_repo_id(target):
                raise ValueError(f"{target!r} is no id of a Hub repository; it looks like organization/name")
            if kind == "package":
                check_inside(target)
        return value

    @field_validator("name", "aliases")
    @classmethod
    def _check_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        for name in names:
            if not _NAME.fullmatch(normalize_name(name)):
                raise ValueError(f"{name!r} is no name; use letters, digits, '.', '_' and '-'")
        return value

    def preferring(self, settings: Settings) -> Settings:
        """`settings`, with the entry's ``dtype`` where they leave the choice."""
        if self.dtype is None or settings.dtype != "auto":
            return settings
        return settings.model_copy(update={"dtype": self.dtype})

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where the checkpoint is, the place to be looked at first first."""
        parts = (source.partition(":") for source in (self.source, *self.alternatives))
        return tuple(Source(kind, target) for kind, _, target in parts)  # type: ignore[arg-type]

    @property
    def source_kind(self) -> str:
        """ "hf", "path" or "package", of the first source."""
        return self.sources[0].kind

    @property
    def source_target(self) -> str:
        """The repository id, the folder or the file of the first source."""
        return self.sources[0].target

    @property
    def lookup_names(self) -> tuple[str, ...]:
        """Its name and aliases as they are compared, without repetitions."""
        return tuple(dict.fromkeys(normalize_name(name) for name in (self.name, *self.aliases)))

    def here(self) -> tuple[Source, Path] | None:
        """The first path: or package: source that is there, and where."""
        found = ((source, source.path()) for source in self.sources)
        return next(((source, path) for source, path in found if path is not None and path.exists()), None)

    def folder(self) -> Path | None:
        """Where the first path: or package: source that is there lies; else where the first path: should, or None."""
        if (here := self.here()) is not None:
            return here[1]
        return next((path for source in self.sources if (path := source.path()) is not None), None)
