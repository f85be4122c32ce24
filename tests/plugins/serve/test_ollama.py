"""Ollama's interface with Ollama's own client."""

from __future__ import annotations

import time
from typing import Any

import ollama
import pytest
from polyllama import Llama
from running_servers import RunningServer

SAID: list[Any] = [{"role": "system", "content": "Once upon"}, {"role": "user", "content": "a time"}]
HOW: dict[str, Any] = {"temperature": 0, "num_predict": 20}


@pytest.fixture(scope="module")
def remote(server: RunningServer) -> ollama.Client:
    return ollama.Client(host=server.url, timeout=120)


def test_a_chat(remote: ollama.Client, llm: Llama) -> None:
    wanted = llm.chat(SAID, max_new_tokens=20, temperature=0)
    answer = remote.chat("tiny:latest", SAID, options=HOW)
    assert answer.message.content == wanted.text and answer.done and answer.done_reason == "length"
    assert answer.eval_count == 20 and answer.prompt_eval_count == len(wanted.prompt_token_ids)
    assert answer.total_duration > answer.eval_duration > 0
    pieces = list(remote.chat("tiny", SAID, options=HOW, stream=True))
    assert "".join(piece.message.content for piece in pieces) == wanted.text
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True] and len(pieces) > 3


def test_a_prompt(remote: ollama.Client, llm: Llama) -> None:
    wanted = llm.generate("Once upon a time", max_new_tokens=20, temperature=0, repetition_penalty=1.1).text
    how = {**HOW, "repeat_penalty": 1.1, "num_ctx": 256, "num_thread": 1}
    assert remote.generate("tiny", "Once upon a time", raw=True, options=how).response == wanted
    pieces = remote.generate("tiny", "Once upon a time", raw=True, options=how, stream=True)
    assert "".join(piece.response for piece in pieces) == wanted
    said = llm.chat(SAID, max_new_tokens=20, temperature=0).text
    assert remote.generate("tiny", "a time", system="Once upon", options=HOW).response == said


def test_vectors(remote: ollama.Client) -> None:
    found = remote.embed("tiny", ["Once", "The sun"])
    assert len(found.embeddings) == 2 and len(found.embeddings[0]) == 128
    assert sum(x * x for x in found.embeddings[0]) == pytest.approx(1, abs=1e-4)
    assert remote.embeddings("tiny", "Once").embedding == pytest.approx(found.embeddings[0], abs=1e-6)


def test_lists(remote: ollama.Client) -> None:
    assert [model.model for model in remote.list().models] == ["tiny:latest"]
    names = {model.model for model in remote.ps().models}
    assert "tiny:latest" in names
    shown = remote.show("tiny")
    assert shown.modelinfo["llama.context_length"] == 512 and "completion" in shown.capabilities
    assert shown.template


def test_keeping_a_model(template: Any) -> None:
    running = RunningServer("tiny", "other=tiny").ready()
    remote = ollama.Client(host=running.url, timeout=120)
    loaded = remote.generate("other", keep_alive="1h")  # a prompt that is none loads the model
    assert loaded.done_reason == "load" and {m.model for m in remote.ps().models} == {"tiny:latest", "other:latest"}
    [expires] = [model.expires_at for model in remote.ps().models if model.model == "other:latest"]
    assert 3000 < expires.timestamp() - time.time() < 3700
    assert remote.generate("other", keep_alive=0).done_reason == "unload"
    running.until(lambda: {m.model for m in remote.ps().models} == {"tiny:latest"})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.chat("llama3", SAID), "there is no model 'llama3' here"),
        (lambda r: r.chat("tiny", SAID, options={"mirostat": 1}), "mirostat is not offered"),
        (lambda r: r.chat("tiny", SAID, think=True), "think is not offered"),
        (lambda r: r.generate("tiny", "a", suffix="b"), "suffix is not offered"),
        (lambda r: r.chat("tiny", SAID, keep_alive="soon"), "no duration"),
        (lambda r: r.generate("tiny", "a " * 900), "the model's context is 512"),
        (lambda r: r.pull("tiny"), "there is nothing at '/api/pull'"),
    ],
)
def test_errors_have_its_form(remote: ollama.Client, call: Any, message: str) -> None:
    with pytest.raises(ollama.ResponseError, match=message):
        call(remote)
