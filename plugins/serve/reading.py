"""From the command line and the settings to a server's options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.checkpoint.huggingface.save_safetensors import parse_size
from ...core.errors import InputError
from ...core.messages import mention, subject
from ...core.plugin_system.hookspecs import ToolParserDescriptor
from ...core.plugin_system.manager import plugin_manager
from ...core.settings.schema import load_settings
from .guard import read_keys
from .options import ServeOptions, check_numbers, parse_duration

PREFIX = "serve_"


def read_options(models: tuple[str, ...], given: Mapping[str, Any], load: Mapping[str, Any]) -> ServeOptions:
    """A server's options: what the command line gives, over the settings, over the defaults.

    Args:
        given: options of the command line by their Python names.
        load: arguments of ``Llama.load``.

    Raises:
        InputError: nothing to serve, or a value that is wrong.
    """
    values = {**_settings(), **given}
    models = models or tuple(values.pop("models", ()))
    values.pop("models", None)
    if not models and not values.get("any_name"):
        raise InputError("there is no model to serve", hint="name one, or give --any")
    keys = values.pop("api_key_file", None)
    template = values.pop("chat_template", None)
    for name in ("max_time", "keep_alive"):
        if isinstance(values.get(name), str):
            values[name] = parse_duration(values[name], name)
    for name in ("max_body", "memory"):
        if isinstance(values.get(name), str):
            values[name] = parse_size(values[name], name)
    load = dict(load)
    options = ServeOptions(models, adapters=load.pop("adapters", None) or {}, load=load, **values)
    numbers = ("max_rows", "max_tokens", "max_body", "context")
    check_numbers(**{name: getattr(options, name) for name in numbers})
    if options.max_queue < 0:
        raise InputError(mention("max_queue", options.max_queue) + " is less than 0")
    if not 0 <= options.port <= 65535:
        raise InputError(mention("port", options.port) + " is no port", hint="take one from 0 to 65535")
    if keys is not None:
        options = dataclasses.replace(options, api_keys=read_keys(Path(keys)))
    if options.tool_parser is not None:
        plugin_manager().find(ToolParserDescriptor, options.tool_parser)
    if template is not None:
        options = dataclasses.replace(options, chat_template=_template(Path(template)))
    return options


def _settings() -> dict[str, Any]:
    """The settings that are about serving and that somebody has set."""
    settings = load_settings()
    names = [name for name in type(settings).model_fields if name.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): value for name in names if (value := getattr(settings, name)) is not None}


def _template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(subject("chat_template", str(path)) + f" {str(path)!r} cannot be read: {reason}") from None
