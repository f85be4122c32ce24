"""Setting fields of a configuration: checked as ``replace`` does, and refused where a built model could not follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .dialects import read_arguments
from .files import not_json

if TYPE_CHECKING:
    from .fields import ConfigFields


_SPELLINGS = {"use_return_dict": "return_dict"}
_DERIVED = {
    "eos_token_ids": "set eos_token_id",
    "rotary_dim": "set head_dim or partial_rotary_factor",
    "provenance": "it says where values came from",
    "extra": "set the keys themselves as attributes",
}


def assign(config: ConfigFields, changes: Mapping[str, Any]) -> None:
    """Set fields of `config` in place, together: all of them or, where one is wrong, none.

    Keys that the schema does not know are kept in ``extra``; those that begin with ``_`` or that JSON cannot hold are
    kept beside it and not written.

    Raises:
        ConfigError: a value that is wrong, or that the built model of this config cannot follow.
    """
    aside = {name: value for name, value in changes.items() if _is_aside(config, name, value)}
    fields = {_SPELLINGS.get(name, name): value for name, value in changes.items() if name not in aside}
    for name in fields:
        if name in _DERIVED:
            raise ConfigError(f"{name} cannot be set", hint=_DERIVED[name])
        if callable(getattr(type(config), name, None)):
            raise ConfigError(f"{name} is a method of {type(config).__name__} and cannot be set")
    if fields:
        after = type(config)._from_reading(
            config._reading.overlaid(read_arguments(fields, config._reading.where)), said=config._notes
        )
        if config._owner is not None:
            config._owner.check(config, after, fields)
        before = {name: getattr(config, name, None) for name in fields}
        config.become(after)
        config._models.say_unchanged(config, [name for name in fields if getattr(config, name, None) != before[name]])
    config._beside.update({"_name_or_path" if name == "name_or_path" else name: v for name, v in aside.items()})


def remove(config: ConfigFields, name: str) -> None:
    """Take a key out of `config` that the schema does not know; a Llama's own fields cannot be missing.

    Raises:
        ConfigError: it is a field or a property of every Llama.
        AttributeError: there is no such key.
    """
    if name in config._beside:
        del config._beside[name]
    elif name in config.extra:
        kept = {key: value for key, value in config.extra.items() if key != name}
        after = type(config)._from_reading(replace(config._reading, extra=kept), said=config._notes)
        if config._owner is not None:
            config._owner.check(config, after, {name: None})
        config.become(after)
    elif name in type(config).model_fields or hasattr(type(config), name):
        raise ConfigError(f"{name} cannot be deleted: every Llama has it", hint="set it to another value", field=name)
    else:
        raise AttributeError(f"{type(config).__name__} has no field {name!r}")


def _is_aside(config: ConfigFields, name: str, value: Any) -> bool:
    if name in type(config).model_fields or name in ("model_type", "torch_dtype", *_SPELLINGS, *_DERIVED):
        return False
    known = isinstance(getattr(type(config), name, None), property)
    return name == "name_or_path" or (not known and (name.startswith("_") or not_json(value) is not None))
