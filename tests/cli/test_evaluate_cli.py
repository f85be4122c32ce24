"""``polyllama evaluate``: perplexity and speed, on one backend or several."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import REFERENCE, Outcome, Terminal
from polyllama import Llama

STORY = "Once upon a time there was a little dog named Max. He loved to play in the park with his friends. " * 3


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(STORY)
    return "story.txt"


def test_json_is_what_python_gives(call: Callable[..., Outcome], story: str) -> None:
    code, out, err = call("evaluate", "tiny", story, *REFERENCE, "--context", "32", "--stride", "8", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    wanted = Llama.load("tiny", backend="reference").perplexity(STORY, context=32, stride=8)
    (result,) = found["results"]
    assert (found["model"], found["file"]) == ("tiny", "story.txt")
    assert (result["backend"], result["device"], result["dtype"]) == ("reference", "cpu", "float64")
    for name in ("perplexity", "loss", "tokens", "predicted", "context", "stride", "processed"):
        assert result[name] == getattr(wanted, name)
    assert [tuple(window.values()) for window in result["windows"]] == [
        (window.begin, window.end, window.predicted, window.loss) for window in wanted.windows
    ]
    assert result["tokens_per_second"] == pytest.approx(result["processed"] / result["seconds"])


def test_backends_side_by_side(call: Callable[..., Outcome], story: str) -> None:
    sizes = ("--context", "32", "--stride", "16")
    code, out, err = call("evaluate", "tiny", story, "--backends", "cpu, reference", "--dtype", "float32", *sizes)
    assert (code, err) == (0, "")
    headers, cpu, reference, empty, summary = out.splitlines()
    assert headers.split() == ["BACKEND", "DEVICE", "DTYPE", "PERPLEXITY", "LOSS", "TOKENS/S", "SECONDS"]
    assert (cpu.split()[:3], reference.split()[0]) == (["cpu", "cpu", "float32"], "reference")
    assert float(cpu.split()[3]) == pytest.approx(float(reference.split()[3]), rel=1e-4)
    windows = len(Llama.load("tiny", backend="cpu").perplexity(STORY, context=32, stride=16).windows)
    assert empty == "" and summary.endswith(f"tokens predicted, in {windows} windows of at most 32, 16 apart")


def test_standard_input_and_one_window(call: Callable[..., Outcome]) -> None:
    for arguments in ((), ("-",)):
        code, out, err = call("evaluate", "tiny", *arguments, *REFERENCE, stdin=b"Once upon a time")
        assert (code, err) == (0, "")
        assert out.endswith("tokens predicted, in 1 window of at most 512, 256 apart\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--stride", "0"), 1, "error: --stride is 0, wanted a whole number from 1 to the context, 512"),
        (("--context", "9999"), 1, "error: --context is 9999, the model's is 512; to measure beyond it"),
        (("--backends", "cpu,torch", "--backend", "cpu"), 2, "The backend is given twice"),
        (("--backends", "cpu,"), 2, "names an empty backend"),
        (("--backends", "cpu,cpu"), 2, "names a backend twice"),
        (("--backends", "cpu,tourch"), 1, "error: no backend is called 'tourch'; did you mean 'torch'?"),
        (("--task", "base"), 1, "error: task 'base' does not predict the next token"),
    ],
)
def test_what_is_refused(
    call: Callable[..., Outcome], story: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    found, out, err = call("evaluate", "tiny", story, *arguments)
    assert (found, out) == (code, "") and words in err


def test_an_empty_file_and_none(call: Callable[..., Outcome], story: str) -> None:
    Path("empty.txt").write_text("")
    code, _, err = call("evaluate", "tiny", "empty.txt", *REFERENCE)
    assert code == 1 and err == "error: the text has 1 token, and the first one is not predicted; give a longer text\n"
    assert call("evaluate", "tiny", "nowhere.txt")[::2] == (1, "error: No such file or directory: 'nowhere.txt'\n")


def test_a_terminal_sees_how_far_it_is(story: str) -> None:
    Path(story).write_text(STORY * 8)
    terminal = Terminal("evaluate", "tiny", story, *REFERENCE, "--context", "64", "--stride", "8")
    seen = terminal.read_until("windows")
    assert "evaluating on reference" in seen
    code, rest = terminal.finish()
    assert code == 0 and "tokens predicted" in rest
