"""docs/plugins.md: the HTTP interface in it works, as a package of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import polyllama
import pytest
from polyllama import Llama
from polyllama.core.errors import PluginError
from polyllama.core.plugin_system.manager import reset_plugins
from polyllama.extend import Endpoint, HttpInterface, RoutesDescriptor, hookimpl, plugin_manager
from polyllama.plugins.serve.state import load_interfaces
from running_servers import RunningServer

GUIDE = (Path(polyllama.__file__).parent / "docs" / "plugins.md").read_text()


def test_the_guides_interface(tmp_path: Path) -> None:
    part = GUIDE.partition("## An HTTP interface")[2].partition("\n## ")[0]
    hook, code = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    package = tmp_path / "polyllama_tales"
    package.mkdir()
    (package / "__init__.py").write_text(hook)
    (package / "http.py").write_text(code)
    entry = tmp_path / "polyllama_tales-1.0.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text("Name: polyllama-tales\nVersion: 1.0\n")
    (entry / "entry_points.txt").write_text("[polyllama]\ntales = polyllama_tales\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    running = RunningServer("tiny", "--dtype", "float32", env={"PYTHONPATH": path}).ready()
    counted = running.http.post("/tales/count", json={"text": "Once upon a time"})
    llm = Llama.load("tiny", dtype="float32")
    assert counted.json() == {"tokens": len(llm.tokenizer.encode("Once upon a time"))}
    empty = running.http.post("/tales/count", json={"text": ""})
    assert empty.status_code == 400 and empty.json() == {"error": "the text is empty"}
    told = running.http.get("/tales/tell")
    assert told.text == llm.generate("Once upon a time", max_new_tokens=20, temperature=0).text
    described = running.http.get("/openapi.json").json()
    assert described["paths"]["/tales/count"]["post"]["summary"] == "Count the tokens of a text."


async def nothing(call: object) -> dict[str, str]:
    return {}


TWICE = HttpInterface((Endpoint("GET", "/health", nothing),))
NO_INTERFACE = "text"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("TWICE", "both claim GET /health; block one of the plugins"),
        ("NO_INTERFACE", "is no HttpInterface"),
    ],
)
def test_an_interface_that_clashes_or_is_none(target: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Registered:
        @hookimpl
        def polyllama_routes(self) -> list[RoutesDescriptor]:
            return [RoutesDescriptor("mine", f"serve_test_interfaces:{target}", "a test")]

    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "serve_test_interfaces", SimpleNamespace(**{target: globals()[target]}))
    reset_plugins()
    plugin_manager().register(Registered(), "mine")
    try:
        with pytest.raises(PluginError, match=message):
            load_interfaces()
    finally:
        reset_plugins()
