"""The mark that editors on Windows put before UTF-8 is no part of a text, whatever file of the command line has it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import REFERENCE, Outcome
from polyllama.cli.texts import read_all, read_rows, read_texts
from polyllama.core.export.quantize_checkpoint import read_calibration
from polyllama.extend import InputError

MARK = b"\xef\xbb\xbf"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_texts_and_lines_of_json() -> None:
    Path("a.txt").write_bytes(MARK + "Once\r\nThe sun \ufeff".encode())
    assert read_all("a.txt") == "Once\nThe sun \ufeff", "only the first one is a mark"
    assert read_texts((), "a.txt")[0] == "Once"
    Path("a.jsonl").write_bytes(MARK + b'{"prompt": "Once"}\n')
    assert read_rows("a.jsonl", ["prompt"]) == [{"prompt": "Once"}]
    Path("a.txt").write_bytes(MARK + b"ab\xff")
    with pytest.raises(InputError, match=r"byte 5 is 0xff"):
        read_all("a.txt")


def test_standard_input(call: Callable[..., Outcome]) -> None:
    command = ("run", "tiny", *REFERENCE, "--max-new-tokens", "4", "--echo")
    assert call(*command, stdin=MARK + b"Once")[:2] == call(*command, stdin=b"Once")[:2]


def test_what_chat_reads(call: Callable[..., Outcome]) -> None:
    talk = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
    said = []
    for mark in (b"", MARK):
        Path("tools.json").write_bytes(mark + b"[]")
        Path("talk.json").write_bytes(mark + talk)
        Path("t.jinja").write_bytes(mark + b"Once {{ messages[0].content }}")
        options = (
            *REFERENCE,
            "--max-new-tokens",
            "2",
            "--chat-template",
            "t.jinja",
            "--tools",
            "tools.json",
            "--stats",
        )
        piped = call("chat", "tiny", *options, stdin=mark + b"Hi\n")
        loaded = call("chat", "tiny", *options, stdin=b"/load talk.json\n/retry\n")
        said.append(
            [(code, out, re.findall(r"prefill \d+ tokens|.* loaded", err)) for code, out, err in (piped, loaded)]
        )
    assert said[0] == said[1]
    assert [code for code, *_ in said[0]] == [0, 0] and all("prefill" in found[-1] for *_, found in said[0])


def test_calibration_texts(tmp_path: Path) -> None:
    seen: list[str] = []

    def encode(text: str, **_: Any) -> list[int]:
        seen.append(text)
        return list(range(len(text)))

    tokenizer: Any = SimpleNamespace(encode=encode, bos_token_id=None, eos_token_id=None)
    for name, content in {"a.txt": b"Once upon", "a.jsonl": b'{"text": "Once"}\n{"text": "upon"}'}.items():
        (tmp_path / name).write_bytes(MARK + content)
        read_calibration(tmp_path / name, tokenizer, 4)
    assert seen == ["Once upon", "Once", "upon"]
