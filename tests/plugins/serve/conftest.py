"""One server for the tests of a process, and the model that it serves, in this process: the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from polyllama import Llama
from running_servers import TEMPLATE, TOOLS_TEMPLATE, RunningServer


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serve") / "template.jinja"
    path.write_text(TEMPLATE)
    return path


@pytest.fixture(scope="session")
def server(template: Path) -> Iterator[RunningServer]:
    running = RunningServer("tiny", "--dtype", "float32", "--chat-template", str(template), lasting=True)
    yield running.ready()
    running.end()


@pytest.fixture(scope="session")
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def llm(template: Path) -> Llama:
    found = Llama.load("tiny", dtype="float32")
    found.tokenizer.chat_template = TEMPLATE
    return found


@pytest.fixture(scope="session")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose model is told of tools."""
    path = tmp_path_factory.mktemp("serve") / "tools.jinja"
    path.write_text(TOOLS_TEMPLATE)
    running = RunningServer("tiny", "--dtype", "float32", "--chat-template", str(path), lasting=True)
    yield running.ready()
    running.end()


@pytest.fixture(scope="session")
def tools_llm() -> Llama:
    """Its model, in this process."""
    found = Llama.load("tiny", dtype="float32")
    found.tokenizer.chat_template = TOOLS_TEMPLATE
    return found
