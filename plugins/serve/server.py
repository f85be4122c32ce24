"""Starting and ending a server: the port, the event loop, signals."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError, PolyllamaError
from ...core.http_interface import HttpError
from ...core.messages import mention, subject
from .app import make_app
from .names import check_offers
from .state import Server

if TYPE_CHECKING:
    import uvicorn

    from .options import ServeOptions

INTERRUPTED = 130
BACKLOG = 2048
"""Connections that may wait to be taken."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address; what is wrong with it is said before anything is loaded.

    Raises:
        InputError: the port is in use, needs rights, or the host is none of this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InputError(subject("host", host) + f" is {host!r}: {getattr(error, 'strerror', error)}") from None
    except OverflowError:
        raise InputError(mention("port", port) + " is no port", hint="take one from 0 to 65535") from None
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    if os.name == "posix":  # a port that was just given up can be taken again; on Windows this means another thing
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise _cannot_listen(host, port, error) from None
    bound.setblocking(False)
    return bound


def _cannot_listen(host: str, port: int, error: OSError) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(f"port {port} of {host} is in use", hint="give another " + mention("port") + ", 0 for any")
    if error.errno == errno.EACCES:
        return InputError(f"port {port} needs the rights of root", hint="give a " + mention("port") + " above 1023")
    if error.errno == errno.EADDRNOTAVAIL:
        return InputError(subject("host", host) + f" is {host!r}, which is no address of this machine")
    return InputError(f"cannot listen on {host}, port {port}: {error.strerror}")


def serve(options: ServeOptions) -> None:
    """Serve until a signal ends it.

    Raises:
        PolyllamaError: what kept it from starting: the port, a name, the first model.
    """
    bound = listen(options.host, options.port)
    try:
        server = Server(options)
        check_offers(server.hub.names.offers)
        _run(server, bound)
    finally:
        bound.close()


def _run(server: Server, bound: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        make_app(server),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        ws="none",
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 << 10,
    )
    config.load()
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        error = runner.run(_serve(server, config, bound))
    if error is not None:
        raise error


async def _serve(server: Server, config: uvicorn.Config, bound: socket.socket) -> PolyllamaError | None:
    """Run until it is to end; what kept the first model from being loaded, if anything did."""
    web = _web_server(config)
    loop = asyncio.get_running_loop()
    server.engine.start(loop)
    ending = Ending(server, web)
    with ending.on_signals():
        watch = asyncio.create_task(server.hub.watch())
        first = asyncio.create_task(_first(server, web))
        say_where(server, bound)
        try:
            await web.serve([bound])
        finally:
            watch.cancel()
            server.engine.close()
            server.hub.close()
    return await first if first.done() else None


def _web_server(config: uvicorn.Config) -> uvicorn.Server:
    """uvicorn's, which leaves signals to :class:`Ending`."""
    import uvicorn

    class Web(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    return Web(config)


def say_where(server: Server, bound: socket.socket) -> None:
    """Say on stderr what is served where."""
    host, port = bound.getsockname()[:2]
    names = ", ".join(name for offer in server.hub.offers() for name in offer.names) or "any model of the registry"
    shown = f"[{host}]" if ":" in host else host
    server.log(f"polyllama serves {names} on http://{shown}:{port}")
    if not server.options.loopback and not server.options.api_keys:
        server.log(f"warning: whoever reaches {shown} may ask, without an API key; see --api-key-file")


async def _first(server: Server, web: uvicorn.Server) -> PolyllamaError | None:
    """Load the first model of the command line, so that the first request need not wait; end where that fails."""
    if server.hub.names.first is None:
        return None
    try:
        (await server.hub.use(None)).release()
    except HttpError as error:
        web.should_exit = True
        return error
    except Exception as error:
        web.should_exit = True
        server.log(f"{type(error).__name__}: {error}")
        return PolyllamaError("the first model cannot be loaded, by a bug of polyllama's")
    return None


class Ending:
    """What SIGTERM and SIGINT do: the first lets requests end, the second ends at once."""

    def __init__(self, server: Server, web: uvicorn.Server) -> None:
        self._server, self._web = server, web

    @contextlib.contextmanager
    def on_signals(self) -> Any:
        """Handle them meanwhile."""
        before = {number: signal.signal(number, self._asked) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: object) -> None:
        if self._web.should_exit:
            self._server.log("ended, with requests left unanswered")
            sys.stdout.flush()
            os._exit(INTERRUPTED)  # threads may be in the middle of a step that takes long
        self._server.draining = self._web.should_exit = True
        count = self._server.metrics.in_flight
        if count:
            self._server.log(f"ending after {count} requests that run; a second signal ends at once")
