"""How fast a server of OpenAI's interface streams, any server; and how fast this client could be at most."""

from __future__ import annotations

import asyncio
import json
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from ...core.errors import InputError
from ...core.messages import counted, subject

PATIENCE = 600.0
"""Seconds that an answer may take."""

PROMPT = "Once upon a time there was a"


@dataclass(frozen=True)
class Load:
    """What a server is asked for.

    Attributes:
        streams: requests at a time; `requests` in all; `tokens` of each answer.
    """

    url: str
    model: str | None = None
    streams: int = 8
    requests: int = 16
    tokens: int = 32
    prompt: str = PROMPT
    key: str | None = None
    ignore_eos: bool = True

    @property
    def body(self) -> dict[str, Any]:
        """Of a request. Each prompt is another, so that no server answers from what it has kept."""
        found: dict[str, Any] = {"max_tokens": self.tokens, "temperature": 0, "stream": True}
        found |= {"stream_options": {"include_usage": True}}
        if self.model is not None:
            found["model"] = self.model
        if self.ignore_eos:
            found["ignore_eos"] = True
        return found


@dataclass(frozen=True)
class Answered:
    """One answer: seconds to its first token and in all, tokens, or what went wrong."""

    first: float
    seconds: float
    tokens: int
    error: str | None = None


def measure(load: Load, report: Callable[[str], None]) -> dict[str, Any]:
    """Tokens a second, times, errors, and the same of a server that does nothing: the client's own ceiling.

    Raises:
        InputError: the server cannot be reached, or refuses the request.
    """
    load = asyncio.run(_probed(load))
    report(f"{counted(load.requests, 'request')} of {counted(load.tokens, 'token')}, {load.streams} at a time")
    answers, seconds = asyncio.run(_all(load))
    with idle_server(load.tokens) as url:
        ceiling = _rate(*asyncio.run(_all(replace(load, url=url, ignore_eos=False))))
    return {"url": load.url, "model": load.model, "streams": load.streams, "requests": load.requests} | {
        "tokens_per_second": _rate(answers, seconds),
        "client_ceiling": ceiling,
        **_times(answers),
    }


def _rate(answers: list[Answered], seconds: float) -> float:
    return sum(answer.tokens for answer in answers) / seconds


def _times(answers: list[Answered]) -> dict[str, Any]:
    good = [answer for answer in answers if answer.error is None and answer.tokens]
    errors = sorted({answer.error for answer in answers if answer.error is not None})
    found: dict[str, Any] = {"errors": len(answers) - len(good), "error": errors[0] if errors else None}
    if good:
        firsts = sorted(answer.first for answer in good)
        rates = [answer.tokens / answer.seconds for answer in good]
        found["first_token_seconds"] = statistics.median(firsts)
        found["first_token_seconds_95"] = firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))]
        found["slowest_to_median"] = min(rates) / statistics.median(rates)
    return found


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures as they are shown."""
    shown = [("tokens a second", f"{found['tokens_per_second']:,.1f}")]
    if "first_token_seconds" in found:
        shown.append(("first token, median", f"{found['first_token_seconds'] * 1000:,.0f} ms"))
        shown.append(("first token, 95 of 100", f"{found['first_token_seconds_95'] * 1000:,.0f} ms"))
        shown.append(("slowest answer to the median", f"{found['slowest_to_median']:.2f}"))
    shown.append(("errors", str(found["errors"]) + (f" ({found['error']})" if found["error"] else "")))
    shown.append(("the client's own ceiling", f"{found['client_ceiling']:,.0f} tokens a second"))
    return shown


async def _probed(load: Load) -> Load:
    """The load in words that the server takes.

    Raises:
        InputError: it takes none.
    """
    answer = await _one(replace(load, tokens=2), 0)
    if answer.error is not None and load.ignore_eos:
        load = replace(load, ignore_eos=False)
        answer = await _one(replace(load, tokens=2), 0)
    if answer.error is not None:
        raise InputError(f"{load.url} does not answer: {answer.error}", hint="is it OpenAI's interface, and the model?")
    return load


async def _all(load: Load) -> tuple[list[Answered], float]:
    """Every answer, so many at a time, and how long it took."""
    turn = asyncio.Semaphore(load.streams)

    async def one(number: int) -> Answered:
        async with turn:
            return await _one(load, number)

    begun = time.perf_counter()
    answers = await asyncio.gather(*map(one, range(load.requests)))
    return answers, time.perf_counter() - begun


async def _one(load: Load, number: int) -> Answered:
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            return await _streamed(load, number, begun)
    except TimeoutError:
        return Answered(0, PATIENCE, 0, f"no answer in {PATIENCE:.0f} seconds")
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        return Answered(0, time.perf_counter() - begun, 0, str(error) or type(error).__name__)


async def _streamed(load: Load, number: int, begun: float) -> Answered:
    reader, writer, host, path = await _connected(load.url)
    try:
        content = json.dumps({**load.body, "prompt": f"{number}. {load.prompt}"}).encode()
        key = f"Authorization: Bearer {load.key}\r\n" if load.key else ""
        head = f"POST {path}/v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{key}"
        writer.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
        status = (await reader.readline()).split(b" ", 2)
        if len(status) < 2 or status[1] != b"200":
            text = (await reader.read()).partition(b"\r\n\r\n")[2].decode("utf-8", "replace")
            return Answered(0, time.perf_counter() - begun, 0, " ".join(text.split())[:200] or "no HTTP")
        first, chunks, counted = 0.0, 0, 0
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            if not first:
                first = time.perf_counter() - begun
            chunks += 1
            if b'"completion_tokens"' in line:
                usage = json.loads(line[6:]).get("usage") or {}
                counted = usage.get("completion_tokens", counted)
        return Answered(first, time.perf_counter() - begun, counted or chunks)
    finally:
        writer.close()


async def _connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str, str]:
    """A connection to a server, what its host is called, and what the paths begin with.

    Raises:
        InputError: it is no address.
    """
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in ("http", "https"):
        raise InputError(subject("serve", url) + f" is {url!r}, wanted an address such as http://127.0.0.1:8000")
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(host, port or (443 if secure else 80), ssl=secure, limit=1 << 20)
    return reader, writer, parts.netloc, parts.path.rstrip("/").removesuffix("/v1")


_IDLE = """
import asyncio, sys
chunk = b'data: {"choices": [{"index": 0, "text": " word", "logprobs": null, "finish_reason": null}]}\\n\\n'
async def answer(reader, writer):
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\\r\\n")[0]))
    writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\nconnection: close\\r\\n\\r\\n")
    for _ in range(int(sys.argv[1])):
        writer.write(chunk)
        await writer.drain()
        await asyncio.sleep(0)
    writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@contextmanager
def idle_server(tokens: int) -> Iterator[str]:
    """The address of a server in a process of its own that answers at once: what it gives is the client's ceiling."""
    command = [sys.executable, "-c", _IDLE, str(tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()
