"""``name:adapter``: requests that choose an adapter, beside each adapter loaded alone in this process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from polyllama import Llama
from random_adapters import save_adapter
from running_servers import RunningServer, said_by

ASK: dict[str, Any] = {"prompt": "Once upon", "max_tokens": 8, "temperature": 0}
NAMES = ("poems", "code")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    graph, folder = Llama.load("tiny", backend="reference").graph, tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(folder / name, graph, ["q_proj", "down_proj"], seed=seed) for seed, name in enumerate(NAMES)
    }


@pytest.fixture(scope="module")
def adapted(folders: dict[str, Path]) -> Iterator[RunningServer]:
    pairs = [argument for name in NAMES for argument in ("--adapters", f"{name}={folders[name]}")]
    running = RunningServer("base=tiny", *pairs, "--dtype", "float32", lasting=True)
    yield running.ready()
    running.end()


def alone(folder: Path | None) -> str:
    how: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0}
    text: str = Llama.load("tiny", adapter=folder, dtype="float32").generate("Once upon", **how).text
    return text


def test_each_request_gets_its_own_adapter(adapted: RunningServer, folders: dict[str, Path]) -> None:
    wanted = {"base": alone(None), **{f"base:{name}": alone(folders[name]) for name in NAMES}}
    assert len(set(wanted.values())) == 3
    client = openai.OpenAI(base_url=f"{adapted.url}/v1", api_key="none", max_retries=0, timeout=120)
    names = [*wanted] * 4
    with ThreadPoolExecutor(6) as pool:  # rows of one batch
        answers = list(pool.map(lambda name: client.completions.create(model=name, **ASK), names))
    assert [answer.choices[0].text for answer in answers] == [wanted[name] for name in names]
    assert [answer.model for answer in answers] == names
    remote = ollama.Client(host=adapted.url, timeout=120)
    how = {"temperature": 0, "num_predict": 8}
    for name in ("base:code", "base:code:latest"):
        assert remote.generate(name, "Once upon", raw=True, options=how).response == wanted["base:code"]
    other = client.completions.create(model="base:code@reference", **ASK)
    assert other.choices[0].text == wanted["base:code"] and "reference" in other.system_fingerprint
    [state] = [one for one in adapted.http.get("/v1/models").json()["data"][0]["loaded"] if one["name"] == "base"]
    assert state["task"] == "causal-lm"  # one model for all of them


def test_they_are_listed(adapted: RunningServer) -> None:
    models = adapted.http.get("/v1/models").json()["data"]
    parents = [(model["id"], model["parent"]) for model in models]
    assert parents == [("base", None), ("base:poems", "base"), ("base:code", "base")]
    assert adapted.http.get("/v1/models/base:code").json()["id"] == "base:code"
    tags = [model["name"] for model in adapted.http.get("/api/tags").json()["models"]]
    assert tags == ["base:latest", "base:poems:latest", "base:code:latest"]
    assert any("serves base, base:poems, base:code on" in line for line in adapted.said)


def test_probabilities_and_vectors_are_of_the_adapter(adapted: RunningServer, folders: dict[str, Path]) -> None:
    code = Llama.load("tiny", adapter=folders["code"], dtype="float32")
    body = {"prompt": "Once upon", "max_tokens": 0, "echo": True, "logprobs": 0}
    scores: dict[str, Any] = {}
    for name in ("base", "base:code"):
        answer = adapted.http.post("/v1/completions", json={**body, "model": name}).json()
        scores[name] = answer["choices"][0]["logprobs"]["token_logprobs"]
    ids = code.tokenizer.encode("Once upon")
    logits = code.forward([ids], use_cache=False).numpy()["logits"][0].astype(float)
    wanted = [float(logits[i][t] - _log_sum(logits[i])) for i, t in enumerate(ids[1:])]
    assert scores["base:code"][1:] == pytest.approx(wanted, abs=1e-3) != pytest.approx(scores["base"][1:], abs=1e-3)
    vectors = {}
    for name in ("base", "base:code"):
        answer = adapted.http.post("/v1/embeddings", json={"model": name, "input": "Once upon"}).json()
        vectors[name] = answer["data"][0]["embedding"]
    own = Llama.load("tiny", task="embedding", adapter=folders["code"], dtype="float32").predict(["Once upon"])[0]
    assert vectors["base:code"] == pytest.approx(own.tolist(), abs=1e-4)
    assert vectors["base"] != pytest.approx(own.tolist(), abs=1e-2)


def _log_sum(row: Any) -> Any:
    import numpy as np

    return np.logaddexp.reduce(row)


@pytest.mark.parametrize("name", ["base:poem", "base:", "base:../code", "base:poems:code", ":poems", "base@cpu:poems"])
def test_adapters_that_there_are_none_of(adapted: RunningServer, name: str) -> None:
    answer = adapted.http.post("/v1/completions", json={"model": name, **ASK})
    assert answer.status_code == (500 if "@" in name else 404), answer.text  # "poems" as a device of cpu's
    if name == "base:poem":
        assert "the model 'base' has no adapter 'poem'; did you mean 'poems'?" in answer.json()["error"]["message"]


def test_what_keeps_a_server_from_starting(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = str(folders["code"])
    cases = [
        (("tiny", "tiny-sentiment", "--adapters", f"code={folder}"), "of which model is not said; write MODEL:code="),
        (("tiny", "--adapters", f"other:code={folder}"), "of 'other', which is not served"),
        (("tiny", "--adapters", f"co@de={folder}"), "'co@de' is no name of an adapter"),
        (("tiny", "--adapters", f"code={tmp_path / 'none'}"), "adapter 'code' of 'tiny': there is no folder"),
        (("--any", "--adapters", f"code={folder}"), "of which model is not said"),
        (("tiny", "--tool-parser", "hermess"), "did you mean 'hermes'"),
    ]
    for arguments, message in cases:
        found = said_by(*arguments, "--port", "0")
        assert found.returncode in (1, 2) and message in found.stderr and "Traceback" not in found.stderr, found.stderr
