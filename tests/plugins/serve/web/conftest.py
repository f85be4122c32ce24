"""Two servers and a browser for the tests of a process; a tab with an empty store for each test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polyllama
import pytest
from polyllama import Llama
from running_servers import TEMPLATE, RunningServer
from web_pages import Visit, find_chromium, launch, package

KEY = "a-key-for-the-tests"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = package("playwright.sync_api", "playwright")
    find_chromium()
    with sync_api.sync_playwright() as playwright:
        found = launch(playwright)
        yield found
        found.close()


@pytest.fixture(scope="session")
def server(browser: Any, folder: Path) -> Iterator[RunningServer]:
    """The bundled model with a template, and one that begins like it and goes on otherwise; in float32."""
    template = folder / "template.jinja"
    template.write_text(TEMPLATE)
    other = folder / "other"
    shutil.copytree(Path(polyllama.__file__).parent / "models" / "tiny", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.003}))
    running = RunningServer(
        "tiny", f"other=path:{other}", "--dtype", "float32", "--chat-template", str(template), lasting=True
    )
    yield running.ready()
    running.end()


@pytest.fixture(scope="session")
def locked(browser: Any, folder: Path) -> Iterator[RunningServer]:
    """The bundled model as it is, without a template, for those who have the key."""
    keys = folder / "keys.txt"
    keys.write_text(KEY)
    running = RunningServer("tiny", "--dtype", "float32", "--api-key-file", str(keys), lasting=True)
    yield running.ready()
    running.end()


@pytest.fixture(scope="session")
def llm() -> Llama:
    """The served model in this process: the oracle."""
    found = Llama.load("tiny", dtype="float32")
    found.tokenizer.chat_template = TEMPLATE
    return found


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Open a server's page in a new browser profile, or in one that is there: ``visit(server)``."""
    contexts = []

    def begin(server: RunningServer, *, like: Visit | None = None, **options: Any) -> Visit:
        if like is not None:
            return Visit(like.page.context.new_page(), server.url)
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options}))
        return Visit(contexts[-1].new_page(), server.url)

    yield begin
    for context in contexts:
        context.close()


@pytest.fixture
def page(visit: Callable[..., Visit], server: RunningServer) -> Iterator[Visit]:
    """The page, open and with nothing said; at the end nothing must have gone wrong."""
    found = visit(server).open()
    yield found
    found.check()
