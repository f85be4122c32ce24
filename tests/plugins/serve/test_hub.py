"""Which models are loaded: on first use, on other backends, where they fit; files that change under a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polyllama
import pytest
from polyllama import Llama
from running_servers import RunningServer

TINY = Path(polyllama.__file__).parent / "models" / "tiny"
ASK: dict[str, Any] = {"prompt": "Once upon", "max_tokens": 8, "temperature": 0}


def ask(server: RunningServer, model: str | None = None) -> Any:
    return server.http.post("/v1/completions", json={**ASK, **({"model": model} if model else {})})


def loaded(server: RunningServer) -> set[str]:
    return {one["name"] for model in server.http.get("/v1/models").json()["data"] for one in model["loaded"]}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("models") / "copy"
    shutil.copytree(TINY, folder)
    arguments = ("tiny", f"poet={folder}", "tiny-sentiment", "--dtype", "float32", "--any", "--offline")
    running = RunningServer(*arguments, lasting=True)
    yield running.ready()
    running.end()


def test_others_are_loaded_when_they_are_first_asked_for(hub: RunningServer) -> None:
    assert loaded(hub) == {"tiny"}
    wanted = Llama.load("tiny", dtype="float32").generate("Once upon", max_new_tokens=8, temperature=0).text
    assert ask(hub, "poet").json()["choices"][0]["text"] == wanted
    assert loaded(hub) == {"tiny", "poet"}
    assert ask(hub).json()["model"] == "tiny"


def test_another_backend_beside_the_first(hub: RunningServer) -> None:
    answer = ask(hub, "tiny@reference").json()
    assert answer["model"] == "tiny@reference" and "reference" in answer["system_fingerprint"]
    assert answer["choices"][0]["text"] == ask(hub, "tiny").json()["choices"][0]["text"]
    assert {"tiny", "tiny@reference"} <= loaded(hub)
    backend = Llama.load("tiny", dtype="float32").backend
    for own in (f"tiny@{backend}", f"tiny@{backend}:cpu") if backend == "cpu" else ():
        named = ask(hub, own).json()  # what it runs on by itself is no other model
        assert named["model"] == own and named["choices"] == answer["choices"] and own not in loaded(hub)
    wrong = ask(hub, "tiny@nothing")
    assert wrong.status_code == 404 and "there are reference" in wrong.json()["error"]["message"]


def test_any_name_of_the_registry_and_no_other(hub: RunningServer) -> None:
    known = ask(hub, "tiny-questions")
    assert known.status_code == 400 and "question-answering, it does not write text" in known.json()["error"]["message"]
    assert ask(hub, "org/name").status_code == 404
    absent = ask(hub, "llama-3.2-1b-instruct")  # known, and not on this machine
    assert absent.status_code == 500 and "cannot be loaded" in absent.json()["error"]["message"]
    assert "\n" not in absent.json()["error"]["message"]


def test_files_that_vanish_or_change(tmp_path: Path) -> None:
    """What is loaded goes on; the next load says so."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    running = RunningServer(f"model={folder}", "other=tiny", "--dtype", "float32", "--keep-alive", "1s").ready()
    text = ask(running, "model").json()["choices"][0]["text"]
    shutil.rmtree(folder)
    assert ask(running, "model").json()["choices"][0]["text"] == text
    running.until(lambda: loaded(running) == set())
    gone = ask(running, "model")
    assert gone.status_code == 500 and "cannot be loaded" in gone.json()["error"]["message"]
    assert ask(running, "other").status_code == 200  # nobody else notices
    shutil.copytree(TINY, folder)
    config = folder / "generation_config.json"
    config.write_text('{"eos_token_id": 2, "max_new_tokens": 5}')
    assert ask(running, "model").json()["choices"][0]["text"] == text
    assert any("generation_config.json" in line and "changed since it was last loaded" in line for line in running.said)


def test_the_one_that_was_used_longest_ago_makes_room() -> None:
    # Room for two of the three: a plan says 10 MB for each, with keys and values.
    names = ("one=tiny", "two=tiny", "three=tiny", "--dtype", "float32", "--memory", "20MB")
    running = RunningServer(*names).ready()
    assert ask(running, "two").status_code == 200 and loaded(running) == {"one", "two"}
    assert ask(running, "one").status_code == 200
    assert ask(running, "three").status_code == 200
    assert loaded(running) == {"one", "three"}
    assert running.metric("model_unloads_total", model="two") == 1
    assert ask(running, "two").status_code == 200 and loaded(running) == {"three", "two"}


def test_one_that_never_fits() -> None:
    running = RunningServer("one=tiny", "--memory", "1MB")
    assert running.process.wait(60) == 1
    assert running.said[-1].startswith("error: the model 'one' does not fit here; it takes ")
