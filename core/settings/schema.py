"""Settings: which backend, device, dtype, cache and plugins, without touching code.

Four layers, each overriding the one before:

1. ``polyllama.yaml`` in the user's config folder (``$XDG_CONFIG_HOME/polyllama``, else the platform's own place);
2. ``polyllama.yaml`` in the working folder;
3. environment variables: ``POLYLLAMA_BACKEND``, ``POLYLLAMA_DEVICE`` and so on (an empty one counts as not set);
4. arguments in code or on the command line.

``HF_HUB_OFFLINE=1`` is honoured as well: it always means offline, because huggingface_hub then refuses to connect.

pydantic-settings costs some 30 ms to import on top of pydantic (it brings asyncio and ssl), so it is imported only when
there is a file or a variable to read. Both ways validate the one schema, ``Settings``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, PrivateAttr, ValidationError

from ..dtypes import meant_dtype
from ..errors import SettingsError, warn
from ..messages import closest, joined, mention, subject
from .files import DEFAULT, FILE_NAME, OTHER_VARIABLES, PREFIX, Defaults, settings_files
from .kinds import Names, WholeNumber, setting
from .serving import ServeSettings
from .yaml_files import read_yaml_mapping

MAX_FILE_BYTES = 64 * 1024
ARGUMENT = "argument"


def _split_paths(value: object) -> object:
    if isinstance(value, str):
        return tuple(part for part in value.split(os.pathsep) if part)
    return (value,) if isinstance(value, Path) else value


def _absolute_path(value: object) -> object:
    """``~`` and relative paths resolved now, so that a later change of folder does not move them."""
    if not isinstance(value, str | Path):
        return value
    if not str(value).strip():
        raise ValueError("an empty path")
    try:
        return Path.cwd() / Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


_AbsolutePath = Annotated[Path, BeforeValidator(_absolute_path)]
_FLAGS = ("offline", "serve_any_name", "serve_access_log")
_PATH_FIELDS = ("cache_dir", "registries", "serve_api_key_file", "serve_chat_template")


class GeneralSettings(BaseModel):
    """What is configured of models and plugins, whatever is done with them."""

    backend: str = setting(
        Defaults.backend,
        "what runs the model",
        "auto, or the name of a backend, optionally with a device (reference, torch, torch:cuda, cpu ...; "
        "`polyllama backends` lists them)",
        pattern=r"^[a-z0-9][a-z0-9._-]*(:[a-z0-9][a-z0-9._:-]*)?$",
    )
    device: str | None = setting(
        Defaults.device,
        "device of the backend; its own default when not set",
        "the name of a device (cpu, cuda, cuda:1, mps ...)",
        pattern=r"^[a-z0-9][a-z0-9._:-]*$",
    )
    dtype: Literal["auto", "float64", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "element type to compute in; auto takes the checkpoint's where the backend can",
        "auto, float64, float32, bfloat16 or float16",
    )
    quantize: str | None = setting(
        None,
        "quantize weights while loading; as they are stored when not set",
        "int4, int8, int4-g32, int4-g128 ... (int2, int3, int5 and int6 too)",
        pattern=r"^int[234568](-g(32|64|128))?$",
    )
    kv_cache: Literal["auto", "float32", "bfloat16", "float16", "int8"] = setting(
        "auto",
        "element type of cached keys and values, where the backend offers a choice; auto takes what it computes in",
        "auto, float32, bfloat16, float16 or int8",
    )
    cache_memory: str | None = setting(
        None,
        "memory of keys and values at most, of requests that run and of texts kept for others that begin like them; "
        "half of what is free on the device when not set",
        "a size (2GB, 512MiB ...)",
        pattern=r"^\d+(\.\d+)? ?([kKMGT]i?)?B$",
    )
    prefix_cache: Literal["auto", "always", "never"] = setting(
        "auto",
        "whether prompts go on from the keys and values of texts that begin alike; auto does so where a call that is "
        "made twice still gives the same twice: in float32, and for the turns of a conversation",
        "auto, always or never",
    )
    load_format: str = setting(
        "auto",
        "format of the weights; dummy makes random ones from a config alone",
        "auto, dummy, or the name of a checkpoint format (huggingface, gguf ...)",
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
    )
    cache_dir: _AbsolutePath | None = setting(
        None, "folder for downloads; huggingface_hub's own cache when not set", "the path of a folder"
    )
    offline: bool = setting(False, "use only what is on this machine", "true or false (also 1/0, yes/no, on/off)")
    seed: WholeNumber | None = setting(
        None,
        "seed of sampling; a fresh one each time when not set",
        "a whole number from 0 to 2**64 - 1",
        ge=0,
        lt=2**64,
    )
    threads: WholeNumber | None = setting(
        None,
        "threads the cpu and torch backends may use on the CPU; their own choice when not set",
        "a whole number from 1 to 65536",
        ge=1,
        le=65536,
    )
    registries: Annotated[tuple[_AbsolutePath, ...], BeforeValidator(_split_paths)] = setting(
        (),
        "further registry files (YAML)",
        f"a list of paths (in a variable separated by {os.pathsep!r})",
    )
    plugins_allow: Names | None = setting(
        Defaults.plugins_allow,
        "load only these plugins (built-in ones always load)",
        "a list of plugin names (in a variable: a,b,c)",
    )
    plugins_block: Names = setting(
        Defaults.plugins_block, "never load these plugins", "a list of plugin names (in a variable: a,b,c)"
    )


class Settings(ServeSettings, GeneralSettings):
    """Everything that can be configured, validated; ``load_settings`` makes one from all layers.

    >>> Settings(backend="torch:cpu").backend
    'torch:cpu'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    _provenance: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def provenance(self) -> Mapping[str, str]:
        """Where each value came from: "default", "argument", "environment: NAME" or "PATH: key"."""
        return MappingProxyType({name: self._provenance.get(name, DEFAULT) for name in type(self).model_fields})

    def describe(self) -> list[Setting]:
        """One row per setting, for listings."""
        return [
            Setting(name, getattr(self, name), self.provenance[name], field.description or "", PREFIX + name.upper())
            for name, field in type(self).model_fields.items()
        ]

    def _with_provenance(self, provenance: Mapping[str, str]) -> Self:
        self._provenance = dict(provenance)  # a new dict: a copied model shares the old one
        return self


@dataclass(frozen=True)
class Setting:
    """One effective setting: its value, where that came from, what it is for, and the variable that sets it."""

    name: str
    value: Any
    source: str
    summary: str
    variable: str


def load_settings(**arguments: Any) -> Settings:
    """The effective settings of this process and folder; an argument of None means "not given".

    Raises:
        SettingsError: a file cannot be read, a key or argument is unknown, or a value is wrong; names the file or
            variable, the field, the value and what is allowed.

    Warns:
        PolyllamaWarning: an unknown ``POLYLLAMA_*`` variable; a ``polyllama.yml`` that nothing reads.

    >>> settings = load_settings(backend="reference")
    >>> settings.backend, settings.provenance["backend"]
    ('reference', 'argument')
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    for name in given:
        if name not in Settings.model_fields:
            raise SettingsError(f"there is no setting {name!r}", hint=_suggestion(name, Settings.model_fields))
    files = [(path, _read_settings_file(path)) for path in settings_files()]
    variables = _check_variables(os.environ)
    if any(content for _, content in files) or variables:
        settings = _load_layers(given, files, variables)
    else:
        try:
            settings = Settings(**given)
        except ValidationError as error:
            raise _settings_error(error, dict.fromkeys(given, ARGUMENT)) from error
        settings._with_provenance(dict.fromkeys(given, ARGUMENT))
    return _honour_hub_offline(settings, os.environ)


def settings_of_call(
    *,
    backend: str | None,
    device: str | None,
    dtype: str,
    quantize: str | None,
    offline: bool | None,
    cache_dir: str | None = None,
) -> Settings:
    """The settings that loading a model with these arguments, or planning to, goes by; see :func:`load_settings`.

    A backend named in the call brings its own device; one from a file must not be mixed into it.

    Raises:
        UnsupportedError: there is no such `quantize`.
        SettingsError: any other value that is wrong.
    """
    if quantize is not None:
        from ..quantization.scheme import parse_quantize

        parse_quantize(quantize)  # a misspelt argument is an error of the call, not of the settings
    asked = None if dtype == "auto" else dtype
    settings = load_settings(
        backend=backend, device=device, dtype=asked, quantize=quantize, offline=offline, cache_dir=cache_dir
    )
    if backend is not None and device is None:
        return settings.model_copy(update={"device": None})
    return settings


def _read_settings_file(path: Path) -> dict[str, Any]:
    content = read_yaml_mapping(path, SettingsError, max_bytes=MAX_FILE_BYTES)
    for key in content:
        if key not in Settings.model_fields:
            raise SettingsError(f"{path}: there is no setting {key!r}", hint=_suggestion(key, Settings.model_fields))
    # A path in a file means what it says there, wherever the process runs.
    for key in _PATH_FIELDS:
        value = content.get(key)
        if isinstance(value, str) and value.strip():
            parts = value.split(os.pathsep) if key == "registries" else [value]
            resolved = [_path_in_file(path, key, part) for part in parts if part]
            content[key] = resolved if key == "registries" else resolved[0]
        elif isinstance(value, list):
            content[key] = [
                _path_in_file(path, key, item) if isinstance(item, str) and item.strip() else item for item in value
            ]
    return content


def _path_in_file(file: Path, key: str, text: str) -> str:
    try:
        return str(file.parent / Path(text).expanduser())
    except RuntimeError as error:
        raise SettingsError(f"{file}: {key}: {text!r}: {error}", hint="no such user? write the path out") from error


def _check_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Field -> name of the non-empty variable that sets it; unknown ``POLYLLAMA_*`` variables are warned about."""
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    found: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.upper().startswith(PREFIX):
            continue
        name = known.get(variable.upper())
        if name is None:
            if variable.upper() not in OTHER_VARIABLES:
                hint = _suggestion(variable.upper(), [*known, *OTHER_VARIABLES])
                warn(f"the variable {variable} means nothing to polyllama; {hint}", general=True)
        elif value:
            if name in found:
                raise SettingsError(f"both {found[name]} and {variable} are set", hint="keep one of them")
            found[name] = variable
    return found


def _load_layers(
    arguments: Mapping[str, Any], files: list[tuple[Path, dict[str, Any]]], variables: Mapping[str, str]
) -> Settings:
    """Merge the layers with pydantic-settings; the class below is ``Settings`` with sources, so no second schema."""
    from pydantic.fields import FieldInfo
    from pydantic_settings import (
        BaseSettings,
        EnvSettingsSource,
        InitSettingsSource,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
    )

    class Environment(EnvSettingsSource):
        def prepare_field_value(self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool) -> Any:
            return value  # lists are written a,b,c and split by the schema; pydantic-settings would want JSON

    class LayeredSettings(Settings, BaseSettings):
        model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            contents = [content for _, content in reversed(files)]
            layers = [InitSettingsSource(settings_cls, init_kwargs=content) for content in contents]
            return (init_settings, Environment(settings_cls), *layers)

    provenance = {name: f"{path}: {name}" for path, content in files for name in content}
    provenance |= {name: f"environment: {variable}" for name, variable in variables.items()}
    provenance |= dict.fromkeys(arguments, ARGUMENT)
    try:
        layered = LayeredSettings(**arguments)
    except ValidationError as error:
        raise _settings_error(error, provenance) from error
    values = {name: getattr(layered, name) for name in Settings.model_fields}
    return Settings.model_construct(**values)._with_provenance(provenance)


def _settings_error(error: ValidationError, provenance: Mapping[str, str]) -> SettingsError:
    """One line for everything pydantic found wrong: where, which field, what it may be, what it is."""
    problems: list[str] = []
    hint = None
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0])
        field = Settings.model_fields[name]
        extra = field.json_schema_extra
        allowed = extra.get("allowed") if isinstance(extra, dict) else None
        given = problem["input"]
        origin = provenance.get(name, DEFAULT)
        where = subject(name, given, before=f"{origin}: ") if origin == ARGUMENT else f"{origin}: {name}"
        text = where + f" must be {allowed}, not {given!r}"
        if isinstance(given, bool) and name not in _FLAGS and FILE_NAME in provenance.get(name, ""):
            text += " (YAML reads yes, no, on and off as truth values; put the value in quotes)"
        if name == "dtype":
            hint = meant_dtype(given, get_args(field.annotation))
        if text not in problems:
            problems.append(text)
    return SettingsError(joined("; ", problems), hint=hint, field=str(error.errors(include_url=False)[0]["loc"][0]))


def _honour_hub_offline(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """huggingface_hub refuses to connect under these variables, whatever polyllama would like."""
    variable = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if environ.get(name)), None)
    if variable is None or environ[variable].upper() not in {"1", "ON", "YES", "TRUE"} or settings.offline:
        return settings
    if settings.provenance["offline"] != DEFAULT:
        warn(
            mention("offline", False, shown="false")
            + f" ({settings.provenance['offline']}) has no effect: {variable}={environ[variable]} keeps "
            f"huggingface_hub offline; unset {variable}",
            general=True,
        )
    provenance = {**settings._provenance, "offline": f"environment: {variable}"}
    return settings.model_copy(update={"offline": True})._with_provenance(provenance)


def _suggestion(name: str, candidates: Iterable[str]) -> str:
    options = list(candidates)
    close = closest(name, options)
    return f"did you mean {close}?" if close else f"known: {', '.join(options)}"
