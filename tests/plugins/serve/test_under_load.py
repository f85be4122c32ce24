"""Many at once, those who leave, those who do not read, and the end of a server."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from polyllama import Llama
from running_servers import RunningServer

WHOLE = 400
"""Tokens of a long answer."""


def post(server: RunningServer, body: dict[str, Any], path: str = "/v1/completions") -> socket.socket:
    """Send a request and read nothing of the answer."""
    content = json.dumps(body).encode()
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while piece := connection.recv(1 << 16):
        found += piece
    return found


LONG: dict[str, Any] = {"model": "tiny", "prompt": "Once", "max_tokens": WHOLE, "ignore_eos": True, "seed": 1}


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_ends_what_was_asked_for(server: RunningServer, stream: bool) -> None:
    before = server.metric("generated_tokens_total", model="tiny")
    connection = post(server, {**LONG, "n": 32, "stream": stream})
    server.until(lambda: server.metric("requests_running", model="tiny") == 32)
    connection.close()
    server.until(lambda: server.metric("requests_running", model="tiny") == 0, 10)
    made = server.metric("generated_tokens_total", model="tiny") - before
    assert 0 < made < 32 * WHOLE * 0.8
    assert server.metric("http_requests_total", path="/v1/completions", status="499") >= 1
    assert server.http.post("/v1/completions", json={**LONG, "max_tokens": 2}).status_code == 200


def test_a_slow_reader_holds_up_nobody(server: RunningServer, llm: Llama) -> None:
    """Its rows end, others are answered meanwhile, and what it then reads is whole."""
    # Some megabytes, far more than the sockets hold.
    body = {**LONG, "n": 16, "max_tokens": 200, "stream": True, "logprobs": 20}
    slow = post(server, body)
    server.until(lambda: server.metric("requests_running", model="tiny") == 16)
    begun = time.monotonic()
    quick = server.http.post("/v1/completions", json={**LONG, "max_tokens": 4, "temperature": 0})
    assert quick.status_code == 200 and time.monotonic() - begun < 20
    server.until(lambda: server.metric("requests_running", model="tiny") == 0)
    content = read_all(slow)
    texts = [""] * 16
    for line in content.split(b"\n"):
        if line.startswith(b'data: {"id'):
            [choice] = json.loads(line.removeprefix(b"data: "))["choices"]
            texts[choice["index"]] += choice["text"]
    assert content.rstrip().endswith(b"0") and b"data: [DONE]" in content
    how: dict[str, Any] = {"max_new_tokens": 200, "seed": 1, "temperature": 1.0, "eos_token_id": []}
    wanted = llm.generate("Once", num_return_sequences=16, **how)
    assert texts == [one.text for one in wanted] and len(content) > 2_000_000
    slow.close()


def random_request(rng: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "tiny", "max_tokens": rng.randint(1, 40), "seed": rng.randint(0, 9)}
    body["prompt"] = " ".join(
        rng.choices(["Once", "upon", "a", "time", "the", "dog", "and", "sun"], k=rng.randint(1, 60))
    )
    body["temperature"] = rng.choice([0.0, 0.7, 1.3])
    if rng.random() < 0.3:
        body |= {"top_p": 0.9, "frequency_penalty": 0.5}
    if rng.random() < 0.3:
        body["stop"] = [rng.choice([".", " the", "ing"])]
    if rng.random() < 0.2:
        body |= {"n": 2, "temperature": 1.0}
    return body


def test_many_at_once_get_what_each_gets_alone(server: RunningServer, llm: Llama) -> None:
    """Random options and sizes; a third leaves halfway, and changes nothing for the others."""
    rng = random.Random(7)
    bodies = [random_request(rng) for _ in range(60)]
    leaves = [rng.random() < 0.3 for _ in bodies]

    async def one(client: httpx.AsyncClient, body: dict[str, Any], leave: bool) -> list[str] | None:
        if not leave:
            answer = await client.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            return [choice["text"] for choice in answer.json()["choices"]]
        async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
            async for _ in stream.aiter_lines():
                return None
        return None

    async def everything() -> list[list[str] | None]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits, trust_env=False) as client:
            return await asyncio.gather(*map(one, [client] * len(bodies), bodies, leaves))

    found = asyncio.run(everything())
    for body, texts in zip(bodies, found, strict=True):
        if texts is None:
            continue
        names = {"max_tokens": "max_new_tokens", "n": "num_return_sequences"}
        how = {names.get(name, name): value for name, value in body.items() if name not in ("model", "prompt")}
        wanted = llm.generate(body["prompt"], **how)
        assert texts == [one.text for one in (wanted if isinstance(wanted, list) else [wanted])], body
    server.until(lambda: server.metric("requests_running", model="tiny") == 0)
    assert server.metric("requests_waiting", model="tiny") == 0


@pytest.fixture(scope="module")
def small(template: Path) -> Any:
    """A server with room for little."""
    limits = ("--max-rows", "2", "--max-queue", "1", "--max-tokens", str(WHOLE), "--max-body", "10kB")
    running = RunningServer("tiny", "--chat-template", str(template), "--access-log", *limits, lasting=True)
    yield running.ready()
    running.end()


def test_a_full_queue_says_when_to_come_back(small: RunningServer) -> None:
    held = [post(small, {**LONG, "stream": True}) for _ in range(3)]
    small.until(lambda: small.metric("requests_running", model="tiny") == 2)
    client = openai.OpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.RateLimitError, match="3 requests run or wait") as caught:
        client.completions.create(model="tiny", prompt="Once")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert small.metric("requests_waiting", model="tiny") == 1
    for connection in held:
        assert b"[DONE]" in read_all(connection)
        connection.close()
    assert client.completions.create(model="tiny", prompt="Once").choices[0].text


def test_limits_of_a_request(small: RunningServer) -> None:
    large = small.http.post("/v1/completions", json={"prompt": "a" * 20_000})
    assert large.status_code == 413 and "larger than 10000 bytes" in large.json()["error"]["message"]
    chunked = small.http.post("/v1/completions", content=iter([b"x" * 6000, b"x" * 6000]))
    assert chunked.status_code == 413
    many = small.http.post("/v1/completions", json={"prompt": "a", "max_tokens": WHOLE + 1})
    assert many.status_code == 400 and f"more than this server gives, {WHOLE}" in many.json()["error"]["message"]


def test_the_log_of_requests(small: RunningServer) -> None:
    answer = small.http.post(
        "/v1/completions", json={"prompt": "Once", "max_tokens": 3}, headers={"x-request-id": "me-1"}
    )
    assert answer.headers["x-request-id"] == "me-1"
    bad = small.http.get("/health", headers={"x-request-id": "no good!"})
    assert len(bad.headers["x-request-id"]) == 32  # what could not be written down is not taken
    small.until(lambda: any('"me-1"' in line for line in small.logged))
    [line] = [json.loads(line) for line in small.logged if '"me-1"' in line]
    assert line["status"] == 200 and line["path"] == "/v1/completions" and line["model"] == "tiny"
    assert line["new_tokens"] == 3 and line["prompt_tokens"] > 0 and line["first_token_seconds"] <= line["seconds"]


def test_health_and_metrics(server: RunningServer) -> None:
    found = server.http.get("/health").json()
    assert found["status"] == "ok" and found["loaded"][0] == "tiny" and found["engine_seconds"] < 5
    shown = server.http.get("/metrics")
    assert shown.headers["content-type"].startswith("text/plain")
    for name in ("time_to_first_token_seconds_count", "time_per_token_seconds_sum", "cache_limit_bytes", "model_bytes"):
        assert server.metric(name, model="tiny") > 0, name


def test_the_first_signal_lets_answers_end(template: Path) -> None:
    running = RunningServer("tiny").ready()
    connection = post(running, {**LONG, "n": 4, "stream": True})
    running.until(lambda: running.metric("requests_running", model="tiny") == 4)
    code: list[int] = []
    ending = threading.Thread(target=lambda: code.append(running.end()))
    ending.start()
    content = read_all(connection)
    ending.join(60)
    assert b"data: [DONE]" in content and code == [0]
    assert any("ending after 1 requests" in line for line in running.said), running.said
    connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_at_once(number: signal.Signals) -> None:
    running = RunningServer("tiny", "--max-rows", "128").ready()
    connection = post(running, {**LONG, "n": 128, "max_tokens": 500, "stream": True})
    running.until(lambda: running.metric("requests_running", model="tiny") == 128)
    running.process.send_signal(number)
    running.until(lambda: any("ending after" in line for line in running.said))
    assert running.end(number) == 130
    assert b"[DONE]" not in read_all(connection)
    connection.close()
