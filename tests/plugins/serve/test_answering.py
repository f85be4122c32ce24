"""One request by itself, without a network: those who do not read, and those who do not say what they want."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from polyllama.extend import Endpoint, HttpError, HttpInterface, Streamed
from polyllama.plugins.serve import answering, state
from polyllama.plugins.serve.answering import Answering
from polyllama.plugins.serve.options import ServeOptions

SCOPE: dict[str, Any] = {"type": "http", "headers": [(b"host", b"localhost")], "path_params": {}, "query_string": b""}


async def whole(call: Any) -> Any:
    return {"text": "a" * 100}


async def pieces(call: Any) -> Any:
    async def text() -> Any:
        while True:
            yield b"a"

    return Streamed(text(), "text/plain", failed=lambda error: str(error).encode())


async def breaks(call: Any) -> Any:
    async def text() -> Any:
        yield b"a"
        raise HttpError("no more", status=500)

    return Streamed(text(), "text/plain", failed=lambda error: str(error).encode())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "SPARE_TIME", 0.1)
    monkeypatch.setattr(answering, "LAST_WORDS", 0.2)
    monkeypatch.setattr(answering, "READ_TIME", 0.3)


def answered(handler: Any, *, reads: int, silent: bool = False) -> tuple[list[Any], float]:
    """What a client gets that takes so many messages and then no more; and how long the server was busy with it."""
    server = state.Server(ServeOptions(("tiny",), max_time=0.2), lambda text: None)
    interface = HttpInterface((Endpoint("GET", "/x", handler),))
    got: list[Any] = []
    asked = 0

    async def receive() -> Any:
        nonlocal asked
        asked += 1
        if silent or asked > 1:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if len(got) >= reads:
            await asyncio.sleep(3600)
        await asyncio.sleep(0)
        got.append(message)

    app = Answering(server, interface, interface.endpoints[0])
    begun = time.monotonic()
    asyncio.run(asyncio.wait_for(app(SCOPE, receive, send), 30))
    assert server.metrics.in_flight == 0
    server.hub.close()
    return got, time.monotonic() - begun


@pytest.mark.parametrize("handler", [whole, pieces])
def test_who_does_not_read_is_left(quick: None, handler: Any) -> None:
    got, seconds = answered(handler, reads=1)
    assert got[0]["status"] == 200 and len(got) == 1 and seconds < 10


def test_a_stream_that_takes_too_long_says_so(quick: None) -> None:
    got, _ = answered(pieces, reads=10**9)
    assert got[-2]["body"] == b"the request took too long; see --max-time" and got[-1]["more_body"] is False


def test_what_goes_wrong_in_the_middle_ends_the_stream_with_it(quick: None) -> None:
    got, _ = answered(breaks, reads=10)
    assert [message.get("body") for message in got] == [None, b"a", b"no more", b""]


def test_a_request_that_does_not_come_to_its_end(quick: None) -> None:
    got, seconds = answered(whole, reads=10, silent=True)
    assert got[0]["status"] == 408 and b"did not come to its end" in got[1]["body"] and seconds < 10
