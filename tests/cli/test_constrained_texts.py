"""``polyllama run`` and pipelines with texts of a given form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import REFERENCE, Outcome
from polyllama import Llama, pipeline
from polyllama.extend import InputError
from schemas import record

SCHEMA = record(kind={"enum": ["fox", "owl"]}, tame={"type": "boolean"})


def test_options_of_the_command_line(call: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "animal.json").write_text(json.dumps(SCHEMA))
    for given in (f"@{tmp_path}/animal.json", json.dumps(SCHEMA)):
        code, out, _ = call("run", "tiny", "Once", "--json-schema", given, "--max-new-tokens", "150", *REFERENCE)
        assert code == 0 and set(json.loads(out)) == {"kind", "tame"}
    code, out, err = call("run", "tiny", "Once", "--regex", "[0-9]{30}", "--max-new-tokens", "4", *REFERENCE)
    assert code == 0 and out.strip().isdigit() and "! a limit on its length or time ended the text" in err
    code, out, _ = call("run", "tiny", "Once", "--regex", "[0-9]{30}", "--max-new-tokens", "4", "--json", *REFERENCE)
    assert "before regex was complete" in json.loads(out)["parse_error"]
    code, out, _ = call("run", "tiny", "Is it?", "--choices", "yes", "--choices", "no", *REFERENCE)
    assert code == 0 and out.strip() in ("yes", "no")
    code, out, _ = call("run", "tiny", "Say:", "--grammar", 'start: "a" "b"~2', *REFERENCE)
    assert code == 0 and out.strip() == "abb"
    code, _, err = call("run", "tiny", "Say:", "--grammar", f"@{tmp_path}/missing.lark", *REFERENCE)
    assert code != 0 and "missing.lark cannot be read" in err
    code, _, err = call("run", "tiny", "Say:", "--regex", "a(", *REFERENCE)
    assert code != 0 and "regex: at character 2: unclosed group" in err


def test_a_pipeline() -> None:
    llm = Llama.load("tiny", backend="reference")
    llm.tokenizer.chat_template = "{{ tools | tojson }}<tool_call>{% for m in messages %}{{ m.content }}{% endfor %}"
    write = pipeline("text-generation", model=llm)
    [one] = write("Call ", regex="[0-9]{3}", return_full_text=False)
    assert re.fullmatch("[0-9]{3}", one["generated_text"])
    chat = [{"role": "user", "content": "Now?"}]
    called: dict[str, Any] = {"tools": [{"name": "now"}], "tool_choice": "now", "max_new_tokens": 99}
    [answer] = write(chat, **called)
    message = answer["generated_text"][-1]
    assert message["content"] == "" and message["tool_calls"][0]["function"] == {"name": "now", "arguments": {}}
    [answer] = write(chat, return_full_text=False, **called)
    assert answer["generated_text"] == "" and answer["tool_calls"][0]["function"]["name"] == "now"
    with pytest.raises(InputError, match="handle_long_generation and tool_choice"):
        write(chat, handle_long_generation="hole", **called)
