"""Reading the configuration of a checkpoint by its name, with the documents' keywords."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigError
from .dialects import describes_a_model
from .files import find_config, read_json_object
from .loader_arguments import LOADER_ARGUMENTS, NEUTRAL, OF_A_MODEL
from .reading import Source

if TYPE_CHECKING:
    from .fields import ConfigFields

Config = TypeVar("Config", bound="ConfigFields")


def read_pretrained(
    kind: type[Config], path: str | Path | None, revision: str | None, offline: bool | None, options: dict[str, Any]
) -> Config:
    """See :meth:`polyllama.LlamaConfig.from_pretrained`."""
    named = options.pop("pretrained_model_name_or_path", None)
    if (path is None) == (named is None):
        what = "needs the name or path of a model" if path is None else "is given the model twice"
        raise ConfigError(f"from_pretrained {what}")
    path = named if path is None else path
    file = find_config(_found(path, revision, offline, options))
    _check(options)
    raw = read_json_object(file)
    if not describes_a_model(raw):
        raise ConfigError(
            f"{file}: holds no field of a Llama configuration", hint="is this the config.json of a model?"
        )
    config = kind.from_sources([(raw, Source(str(file), file.name, file.parent))], **options)
    config._beside["_name_or_path"] = str(path)
    return config


def _found(path: Any, revision: str | None, offline: bool | None, options: dict[str, Any]) -> Path:
    """The folder or file of a source; the options about finding it are taken out."""
    from ..sources.access import HubAccess, local_only, refuse_revision
    from ..sources.naming import as_path

    offline = local_only(offline, options.pop("local_files_only", None))
    given = as_path(path)
    local = _is_local(path, given)
    asked = {name: options.pop(name) for name in ("cache_dir", "token", "force_download") if name in options}
    asked = {name: value for name, value in asked.items() if value is not None}
    subfolder = options.pop("subfolder", None)
    subfolder = "" if subfolder is None else subfolder
    if local:
        refuse_revision(str(path), given, revision)
        return HubAccess(subfolder=subfolder, **asked).local(given)
    from ..sources.locate import resolve_checkpoint_folder

    return resolve_checkpoint_folder(
        str(path), revision=revision, offline=offline, files="config", subfolder=subfolder, **asked
    )


def _check(options: dict[str, Any]) -> None:
    """Refuse what is about weights or not offered; drop what asks for nothing."""
    for name in [name for name in options if name in NEUTRAL]:
        if any(options[name] is usual or options[name] == usual for usual in NEUTRAL[name]):
            del options[name]
    if options.get("trust_remote_code") is False:
        del options["trust_remote_code"]
    for name in options:
        if name in LOADER_ARGUMENTS:
            raise ConfigError(f"from_pretrained does not take {name}", hint=LOADER_ARGUMENTS[name])
        if name in OF_A_MODEL:
            raise ConfigError(f"from_pretrained of a config does not take {name}", hint="give it when loading a model")


def _is_local(path: str | Path, given: Path) -> bool:
    """Whether a source is a path here rather than a name to look up."""
    from ..sources.naming import exists

    text = str(path)
    if isinstance(path, Path) or text.startswith((".", "/", "~")) or text.endswith(".json"):
        return True
    # A bare name may be a folder here and a model in the registry: the resolver decides, and says so.
    return ("/" in text and exists(given)) or text.count("/") > 1 or "\\" in text
