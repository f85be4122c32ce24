"""What ``polyllama serve`` was asked for, read and checked before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...core.errors import InputError
from ...core.messages import mention, subject

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class ServeOptions:
    """The options of a server.

    Attributes:
        max_rows: rows of a model that run together; `max_queue`: how many more may wait.
        max_tokens: new tokens of a request's row at most; ``None`` for what the context holds.
        max_body: bytes of a request.
        max_time: seconds of a request.
        context: tokens of prompt and answer together; ``None`` for the model's own.
        keep_alive: seconds after which an idle model is unloaded; ``None`` for never.
        tool_parser: the format in which models call tools, where their templates do not say it.
        adapters: ``MODEL:NAME`` (or ``NAME`` where there is one model) and the folder of an adapter.
        memory: bytes that all loaded models may take; ``None`` for what the devices have.
        load: arguments of ``Llama.load``.
    """

    models: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    any_name: bool = False
    api_keys: tuple[str, ...] = ()
    max_rows: int = 32
    max_queue: int = 128
    max_tokens: int | None = None
    max_body: int = 10 << 20
    max_time: float | None = 600.0
    context: int | None = None
    keep_alive: float | None = None
    memory: int | None = None
    cors: tuple[str, ...] = ()
    allow_host: tuple[str, ...] = ()
    access_log: bool = False
    chat_template: str | None = None
    tool_parser: str | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK


def parse_duration(text: str, name: str) -> float | None:
    """Seconds of ``"30"``, ``"90s"``, ``"5m"``, ``"2h"``; ``None`` for ``"forever"``.

    Raises:
        InputError: it is no duration.

    >>> parse_duration("5m", "keep_alive"), parse_duration("forever", "keep_alive")
    (300.0, None)
    """
    if text.strip().lower() in ("forever", "-1"):
        return None
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise InputError(
            subject(name, text) + f" is {text!r}, which is no duration", hint="write 30s, 5m, 2h or forever"
        )
    return float(match[1]) * _SECONDS[match[2]]


def check_numbers(**values: float | None) -> None:
    """Refuse numbers below 1.

    Raises:
        InputError: names the first.
    """
    for name, value in values.items():
        if value is not None and value < 1:
            raise InputError(mention(name, value) + " is less than 1")
