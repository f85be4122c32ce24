"""docs/structured.md runs as it stands, and so do the guide's constraint compiler and format of tool calls."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polyllama
import pytest
from polyllama import Llama, PolyllamaError, ToolCall
from polyllama.core.plugin_system.manager import reset_plugins
from polyllama.extend import plugin_manager
from schemas import record

DOCS = Path(polyllama.__file__).parent / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "page"}
    module = types.ModuleType("page")
    sys.modules["page"] = module  # where pydantic looks up what annotations name
    try:
        for block in blocks("structured.md"):
            exec(compile(block, "structured.md", "exec", dont_inherit=True), names)
    finally:
        del sys.modules["page"]
    assert re.fullmatch("[0-9]{3}-[0-9]{4}", str(names["phone"]))
    assert names["mood"] in ("happy", "sad", "so-so")
    assert re.fullmatch(r"[0-9]+(\+[0-9]+){1,3}", str(names["terms"]))
    assert "calls weather call_" in capsys.readouterr().out


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The guide's code as a module, registered."""
    module = types.ModuleType("my_forms")
    monkeypatch.setitem(sys.modules, "my_forms", module)
    for block in blocks("plugins.md"):
        if "class Prefixes" in block or "class CallLines" in block:
            exec(compile(block, "plugins.md", "exec", dont_inherit=True), module.__dict__)
    reset_plugins()
    plugin_manager().register(module, "my-forms")
    yield module
    reset_plugins()


def test_the_guides_plugins(forms: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = Llama.load("tiny", backend="reference")
    choices = ["yes", "no", "no way"]
    options: dict[str, Any] = {"choices": choices, "temperature": 2.0, "seed": 1, "num_return_sequences": 9}
    ours = [one.text for one in llm.generate("Is it?", **options)]
    line = 'CALL weather {"city": "Oslo"}'
    tool = {"name": "weather", "parameters": record(city={"enum": ["Oslo", "Rome"]})}
    chat: Any = {"tools": [{"function": tool}], "chat_template": "{{ tools }} CALL name"}
    asked = [{"role": "user", "content": "How warm is it?"}]
    found = llm.chat(asked, choices=[line], max_new_tokens=99, **chat)
    assert (found.text, found.tool_calls) == ("", [ToolCall("weather", {"city": "Oslo"})])
    must = llm.chat(asked, tool_choice="required", max_new_tokens=99, seed=3, temperature=1.0, **chat)
    assert must.tool_calls and must.tool_calls[0].name == "weather"

    monkeypatch.setenv("POLYLLAMA_CONSTRAINTS", "prefixes")
    reset_plugins()
    plugin_manager().register(forms, "my-forms")
    theirs = llm.generate("Is it?", **options)
    assert [one.text for one in theirs] == ours and len(set(ours)) > 1
    with pytest.raises(PolyllamaError, match="prefixes compiles no regex"):
        llm.generate("Is it?", regex="a")
    monkeypatch.setenv("POLYLLAMA_CONSTRAINTS", "prefixs")
    with pytest.raises(PolyllamaError, match="no constraint compiler 'prefixs'; did you mean 'prefixes'"):
        llm.generate("Is it?", choices=choices)
