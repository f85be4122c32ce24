"""``polyllama run`` on many texts: from arguments, a file or JSONL; results as text, one document or JSONL."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import REFERENCE, Outcome
from polyllama import Llama
from polyllama.cli.texts import read_rows
from polyllama.extend import InputError
from support_processes import start_process

PROMPTS = ["Once upon a time", "The sun", "Mia"]
SHORT = ("--max-new-tokens", "5")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def wanted() -> list[str]:
    llm = Llama.load("tiny", backend="reference")
    return [result.text for result in llm.generate(PROMPTS, max_new_tokens=5)]


def documents(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_each_text_is_below_its_prompt(call: Callable[..., Outcome], wanted: list[str]) -> None:
    code, out, err = call("run", "tiny", *PROMPTS, *REFERENCE, *SHORT)
    assert code == 0 and "decode 15 tokens" in err
    shown = [f"> {prompt}\n{text}\n" for prompt, text in zip(PROMPTS, wanted, strict=True)]
    assert out == "\n".join(shown)
    Path("prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    assert call("run", "tiny", "--file", "prompts.txt", *REFERENCE, *SHORT)[1] == out
    assert call("run", "tiny", "--file", "-", *REFERENCE, *SHORT, stdin="\n".join(PROMPTS).encode())[1] == out
    echoed = [prompt + text + "\n" for prompt, text in zip(PROMPTS, wanted, strict=True)]
    assert call("run", "tiny", *PROMPTS, "--echo", *REFERENCE, *SHORT)[1] == "\n".join(echoed)


@pytest.mark.parametrize("size", ["1", "2", "8"])
def test_jsonl_in_and_out(call: Callable[..., Outcome], wanted: list[str], size: str) -> None:
    lines = [
        json.dumps({"id": 7, "prompt": PROMPTS[0]}),
        json.dumps(PROMPTS[1]),
        "",
        json.dumps({"prompt": PROMPTS[2]}),
    ]
    Path("prompts.JSONL").write_text("\n".join(lines))
    code, out, _ = call("run", "tiny", "--file", "prompts.JSONL", "--jsonl", "--batch-size", size, *REFERENCE, *SHORT)
    found = documents(out)
    assert code == 0 and [row["text"] for row in found] == wanted
    assert [(row.get("id"), row["prompt"]) for row in found] == [
        (7, PROMPTS[0]),
        (None, PROMPTS[1]),
        (None, PROMPTS[2]),
    ]
    assert all(len(row["token_ids"]) == 5 and row["finish_reason"] == "length" for row in found)
    stdin = "\n".join(lines).encode()
    piped = call("run", "tiny", "--file", "-", "--format", "jsonl", "--jsonl", *REFERENCE, *SHORT, stdin=stdin)
    assert piped[1] == out
    as_lines = call("run", "tiny", "--file", "prompts.JSONL", "--format", "lines", "--jsonl", *REFERENCE, *SHORT)[1]
    assert documents(as_lines)[0]["prompt"] == lines[0]


def test_one_document(call: Callable[..., Outcome], wanted: list[str]) -> None:
    code, out, err = call("run", "tiny", *PROMPTS, "--json", *REFERENCE, *SHORT)
    found = json.loads(out)
    assert (code, err) == (0, "") and [row["text"] for row in found["results"]] == wanted
    assert (found["model"], found["backend"], found["dtype"]) == ("tiny", "reference", "float64")


def test_jsonl_of_one_prompt(call: Callable[..., Outcome], wanted: list[str]) -> None:
    for arguments, stdin in (((PROMPTS[0],), b""), ((), PROMPTS[0].encode()), (("-",), PROMPTS[0].encode())):
        _, out, _ = call("run", "tiny", *arguments, "--jsonl", *REFERENCE, *SHORT, stdin=stdin)
        assert [row["text"] for row in documents(out)] == wanted[:1]


def test_the_same_draws_whatever_runs_together(call: Callable[..., Outcome]) -> None:
    drawn = ("--temperature", "1.5", "--seed", "3", "--jsonl", *REFERENCE, *SHORT)
    one = call("run", "tiny", "Once", "Once", "Once", "--batch-size", "1", *drawn)[1]
    assert one == call("run", "tiny", "Once", "Once", "Once", *drawn)[1]
    assert len({row["text"] for row in documents(one)}) > 1


def test_results_come_as_soon_as_they_are_whole() -> None:
    llm = Llama.load("tiny", backend="reference")
    each = llm.generate_each(
        ["Once"] * 3, batch_size=1, max_new_tokens=3, num_return_sequences=2, seed=1, temperature=1
    )
    first = next(each)
    assert len(first) == 2 and first[0].stats.new_tokens <= 6  # of 18
    assert [len(results) for results in each] == [2, 2]
    assert [result.row for results in llm.generate_each(["a", "b"], max_new_tokens=1) for result in [results]] == [0, 1]
    with pytest.raises(InputError, match="takes a list of prompts"):
        llm.generate_each("Once")
    with pytest.raises(InputError, match="prompt 1 is neither text nor a list"):
        llm.generate_each(["Once", 3])


def test_heads_take_jsonl_too(call: Callable[..., Outcome]) -> None:
    Path("texts.jsonl").write_text('{"text": "I was bored.", "id": "a"}\n"A lovely day."\n')
    arguments = ("run", "tiny-sentiment", "--file", "texts.jsonl", *REFERENCE)
    found = documents(call(*arguments, "--jsonl")[1])
    assert [(row.get("id"), row["text"], set(row["result"])) for row in found] == [
        ("a", "I was bored.", {"label", "score"}),
        (None, "A lovely day.", {"label", "score"}),
    ]
    assert json.loads(call(*arguments, "--json", "--batch-size", "1")[1])["results"] == found
    Path("asked.jsonl").write_text('{"question": "Who ran?", "context": "A fox ran.", "n": 1}\n')
    (answer,) = documents(call("run", "tiny-questions", "--file", "asked.jsonl", "--jsonl", *REFERENCE)[1])
    assert answer["n"] == 1 and answer["result"]["answer"] in "A fox ran."


@pytest.mark.parametrize(
    ("content", "model", "words"),
    [
        ('"a"\n{"prompt": "b", "seed": 3}', "tiny", "line 2: 'seed' means something to polyllama"),
        ('{"prompt": "b", "text": "c"}', "tiny", "line 1: 'text' means something to polyllama"),
        ('{"text": "b"}', "tiny", "line 1: there is no 'prompt'; it has 'text'"),
        ('{"prompt": 3}', "tiny", "line 1: 'prompt' is no text but 3"),
        ('\n["a"]', "tiny", "line 2: wanted a text or an object with 'prompt', not [\"a\"]"),
        ("{'prompt': 3}", "tiny", "line 1: no JSON (Expecting"),
        ('"a"\n{"prompt": "b", "id": NaN}', "tiny", "line 2: no JSON (NaN is no number there)"),
        ('{"prompt": "b", "id": -Infinity}', "tiny", "line 1: no JSON (-Infinity is no number there)"),
        ('{"prompt": "b", "id": 1e999}', "tiny", "line 1: no JSON (1e999 is no number there)"),
        ('{"text": "b", "a": {"c": 1, "c": 1}}', "tiny-sentiment", "line 1: no JSON (the key 'c' is there twice)"),
        ('{"prompt": "b", "id": ' + "[" * 300 + "]" * 300 + "}", "tiny", "line 1: lists and objects are nested more"),
        ("\n \n", "tiny", "rows.jsonl has no text"),
        ('{"text": "b", "top_k": 2}', "tiny-sentiment", "line 1: 'top_k' means something to polyllama"),
        ('{"question": "b"}', "tiny-questions", "line 1: there is no 'context'"),
    ],
)
def test_lines_that_are_wrong_are_named(call: Callable[..., Outcome], content: str, model: str, words: str) -> None:
    Path("rows.jsonl").write_text(content)
    code, out, err = call("run", model, "--file", "rows.jsonl", *REFERENCE)
    assert (code, out) == (1, "") and err.startswith("error: rows.jsonl") and words in err


@pytest.mark.parametrize("model", ["tiny", "tiny-sentiment"])
@pytest.mark.parametrize("size", ["0", "-1"])
def test_a_batch_has_texts(call: Callable[..., Outcome], model: str, size: str) -> None:
    code, out, err = call("run", model, "a", "b", "--batch-size", size, *REFERENCE)
    assert (code, out) == (1, "") and f"--batch-size is {size}" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a", "--json", "--jsonl"), "--json is one document and --jsonl one per text"),
        (("a", "--format", "jsonl"), "--format says what --file holds, and there is no --file"),
        (("a", "--file", "rows.jsonl"), "Texts are given twice"),
        (("a", "b", "--file", "rows.txt"), "Texts are given twice"),
        (("a", "b", "--stream"), "--stream is for one prompt"),
        (("a", "--batch-size", "2"), "--batch-size is for several prompts"),
    ],
)
def test_options_that_contradict(call: Callable[..., Outcome], arguments: tuple[str, ...], words: str) -> None:
    Path("rows.jsonl").write_text('"a"\n')
    Path("rows.txt").write_text("a\n")
    code, out, err = call("run", "tiny", *arguments, *REFERENCE)
    assert (code, out) == (2, "") and words in err


def test_documents_of_other_shapes_have_their_texts_by_name(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes('{"question": "ä", "context": "c"}\r\n'.encode())
    assert read_rows(str(file), ["question", "context"]) == [{"question": "ä", "context": "c"}]
    file.write_text("[" * 100_000)
    with pytest.raises(InputError, match="line 1: no JSON"):
        read_rows(str(file), ["text"])


def test_a_terminal_sees_how_far_it_is_while_results_go_to_a_file() -> None:
    import pty

    Path("prompts.txt").write_text("Once\n" * 12)
    arguments = ("--file", "prompts.txt", "--jsonl", "--batch-size", "4", *REFERENCE, *SHORT)
    master, slave = pty.openpty()
    with open("results.jsonl", "wb") as results:
        process = start_process(
            [sys.executable, "-m", "polyllama", "run", "tiny", *arguments],
            stdin=slave,
            stdout=results,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the other side is closed
        while data := os.read(master, 65536):
            shown += data
    assert process.wait(timeout=30) == 0 and b"of 12 prompts" in shown and b'"prompt"' not in shown
    os.close(master)
    assert len(documents(Path("results.jsonl").read_text())) == 12
