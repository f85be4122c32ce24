"""A running server: its engine, its hub, its interfaces."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from ...core.http_interface import HttpInterface
from .engine import Engine
from .guard import Guard
from .hub import Hub
from .metrics import Metrics
from .names import Names, read_offers, with_adapters
from .options import ServeOptions

SPARE_TIME = 30.0
"""Seconds beyond a request's own time for sending what it has got: a client that does not read is left then."""


class Server:
    """Everything that runs: the engine, the hub, the interfaces; and what is known of both.

    Attributes:
        draining: whether it is ending, and only goes on with what it has begun.
        since: when it was started, by ``time.time()``.
    """

    def __init__(self, options: ServeOptions, log: Callable[[str], None] | None = None) -> None:
        self.options = options
        self.log = log or _to_stderr
        self.guard = Guard(options)
        self.metrics = Metrics()
        self.engine = Engine(self.log)
        offers = with_adapters(read_offers(options.models), options.adapters)
        names = Names(offers, any_name=options.any_name)
        self.hub = Hub(names, options, self.engine, self.metrics, self.log)
        self.interfaces = load_interfaces()
        self.draining = False
        self.since = time.time()

    @property
    def patience(self) -> float | None:
        """Seconds after which a request is given up."""
        return None if self.options.max_time is None else self.options.max_time + SPARE_TIME


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def load_interfaces() -> dict[str, HttpInterface]:
    """The interfaces of all plugins by name.

    Raises:
        PluginError: one cannot be loaded, is none, or two claim one path.
    """
    from ...core.errors import PluginError
    from ...core.plugin_system.manager import plugin_manager

    found: dict[str, HttpInterface] = {}
    claimed: dict[tuple[str, str], str] = {}
    for name, offer in plugin_manager().routes().items():
        interface = offer.load()
        if not isinstance(interface, HttpInterface):
            raise PluginError(f"routes {name!r} of plugin {offer.plugin!r}: {offer.target} is no HttpInterface")
        for endpoint in interface.endpoints:
            place = endpoint.method, endpoint.path
            if place in claimed:
                text = f"routes {name!r} and {claimed[place]!r} both claim {endpoint.method} {endpoint.path}"
                raise PluginError(text, hint="block one of the plugins with the setting plugins_block")
            claimed[place] = name
        found[name] = interface
    return found
