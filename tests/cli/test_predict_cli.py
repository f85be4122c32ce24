"""``polyllama run`` on models with heads, and ``polyllama embed``: what people see, and JSON for programs."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, hookimpl
from polyllama.cli.main import main
from polyllama.cli.predictions import marked
from polyllama.core.plugin_system.manager import reset_plugins
from polyllama.core.tasks.results import as_data
from polyllama.extend import BaseModelOutput, Entity, PolyllamaWarning, Task, TaskDescriptor, plugin_manager
from prediction_models import labels, random_head, taught_head

TAGS = labels("O", "B-PER", "B-LOC")
KNOWN = {"▁Lily": [0, 6, 0], "▁Tom": [0, 6, 0], "▁sea": [0, 0, 6]}
MAKERS: dict[str, Callable[[Path], Path]] = {
    "feelings": lambda f: taught_head(
        f, "SequenceClassification", {"▁good": [0, 3], "▁sad": [2, 0]}, **labels("bad", "fine")
    ),
    "entities": lambda f: taught_head(f, "TokenClassification", KNOWN, [4, 0, 0], **TAGS),
    "answers": lambda f: taught_head(f, "QuestionAnswering", {"▁Lily": [9, 0], "▁sea": [0, 9], "<s>": [5, 5]}),
    "trunk": lambda f: random_head(f, "Model"),
}
STORY = "One day Lily saw the sea."
Outcome = tuple[int, str, str]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("heads-cli")
    return {name: str(make(base / name)) for name, make in MAKERS.items()}


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """Run a command line in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("POLYLLAMA_BACKEND", "reference")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def lines(outcome: Outcome) -> list[list[str]]:
    """Cells of a table that was printed without a complaint."""
    code, out, err = outcome
    assert (code, err) == (0, "")
    return [re.split(r"  +", line) for line in out.splitlines()]


class TestRun:
    def test_labels(self, call: Any, folders: Any) -> None:
        score = f"{1 / (1 + np.exp(-3)):.4f}"
        assert lines(call("run", folders["feelings"], "He is good")) == [["LABEL", "SCORE"], ["fine", score]]
        assert lines(call("run", folders["feelings"], "so sad", "so good", "--top-k", "2")) == [
            ["LABEL", "SCORE", "TEXT"],
            ["bad", "0.8808", "so sad"],
            ["fine", "0.1192", "so sad"],
            ["fine", score, "so good"],
            ["bad", "0.0474", "so good"],
        ]

    def test_json_is_what_predict_gives(self, call: Any, folders: Any) -> None:
        for name, texts in (("feelings", ["so sad", "good"]), ("entities", ["Lily at sea", "Tom"]), ("trunk", ["a"])):
            found = json.loads(call("run", folders[name], *texts, "--json")[1])
            llm = Llama.load(folders[name], backend="reference")
            wanted = as_data(list(llm.predict(texts)))
            assert found["results"] == [{"text": t, "result": r} for t, r in zip(texts, wanted, strict=True)]
            assert (found["task"], found["backend"], found["dtype"]) == (llm.task, "reference", llm.dtype)

    def test_entities_in_their_text(self, call: Any, folders: Any) -> None:
        code, out, err = call("run", folders["entities"], "Then Lily saw the sea")
        assert (code, err) == (0, "")
        marked, empty, *table = out.splitlines()
        assert (marked, empty) == ("Then [Lily PER] saw the [sea LOC]", "")
        assert [line.split() for line in table] == [
            ["ENTITY", "LABEL", "SCORE", "CHARACTERS"],
            ["Lily", "PER", "0.9951", "5-9"],
            ["sea", "LOC", "0.9951", "18-21"],
        ]
        assert call("run", folders["entities"], "and so")[1] == "and so\nnothing found\n"
        assert call("run", folders["entities"], "and so", "Tom, now")[1] == "and so\n[Tom PER], now\n"
        options = ("--option", "aggregation_strategy=none", "--option", 'ignore_labels=["O", "B-PER"]')
        assert call("run", folders["entities"], "Lily at sea", *options)[1].startswith("Lily at [sea B-LOC]\n")

    def test_entities_in_colour(self) -> None:
        shown = marked("a\x1b[2J Tom", [Entity("PER", 0.9, "Tom", 6, 9)], {"PER": "cyan"})
        assert "\x1b[2J" not in shown and "\x1b[36m\x1b[1mTom" in shown

    def test_tokens_of_one_character_are_marked_once(self) -> None:
        found = [Entity("A", 0.9, "日", 0, 1, index) for index in (1, 2, 3)]
        assert marked("日 x", found) == "[日 A] x"

    def test_answers(self, call: Any, folders: Any, tmp_path: Path) -> None:
        path = tmp_path / "story.txt"
        path.write_text(STORY)
        wanted = Llama.load(folders["answers"], backend="reference").predict("Who?", context=STORY)
        table = [["ANSWER", "SCORE", "CHARACTERS"], ["Lily saw the sea", f"{wanted.score:.4f}", "8-24"]]
        run = ("run", folders["answers"])
        assert lines(call(*run, "--question", "Who?", "--context", STORY)) == table
        assert lines(call(*run, "--question", "Who?", "--context-file", str(path))) == table
        assert lines(call(*run, "--question", "Who?", stdin=STORY)) == table
        assert lines(call(*run, "--question", "Who?", STORY)) == table
        assert lines(call(*run, "Who?", "--context", STORY)) == table
        assert lines(call(*run, "--context", STORY, stdin="Who?\n")) == table
        two = lines(call(*run, "--question", "Who?", "--question", "What?", "--context", STORY))
        assert [row[0] for row in two[1:]] == ["Lily saw the sea"] * 2 and [row[-1] for row in two[1:]] == [
            "Who?",
            "What?",
        ]

    def test_no_answer(self, call: Any, folders: Any) -> None:
        arguments = ("run", folders["answers"], "Who?", "--context", "It was a fox.")
        found = lines(call(*arguments, "--option", "handle_impossible_answer=true"))
        assert found[1][0] == "(no answer)" and len(found[1]) == 2
        result = json.loads(call(*arguments, "--option", "handle_impossible_answer=true", "--json")[1])["results"][0]
        assert result["result"]["answer"] == "" and result["question"] == "Who?"

    def test_texts_of_a_file(self, call: Any, folders: Any, tmp_path: Path) -> None:
        path = tmp_path / "texts.txt"
        path.write_bytes(b"so sad\r\n\r\ngood\n")
        with pytest.warns(PolyllamaWarning, match=r"texts.txt: empty lines are left out \(1 of 3\)"):
            from polyllama.cli.texts import read_lines

            assert read_lines(str(path)) == ["so sad", "good"]
        code, out, err = call("run", folders["feelings"], "--file", str(path))
        assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["LABEL", "bad", "fine"]
        assert err == f"warning: {path}: empty lines are left out (1 of 3)\n"
        assert lines(call("run", folders["feelings"], "--file", "-", stdin="sad\ngood\n"))[2][0] == "fine"
        assert lines(call("run", folders["feelings"], stdin="sad\ngood\n"))[2][0] == "fine"

    def test_another_task_by_its_documented_name(self, call: Any, folders: Any) -> None:
        code, out, err = call("run", folders["trunk"], "Lily", "--task", "ner", "--set", "num_labels=3")
        assert code == 0 and "Lily" in out
        assert "score.weight, score.bias not stored, starting from random values" in err
        code, out, err = call("run", folders["trunk"], "Lily", "--task", "embedding")
        assert (code, err) == (0, "") and out.startswith("32 numbers: ")

    @pytest.mark.parametrize(
        ("name", "arguments", "code", "said"),
        [
            ("feelings", ["x", "--question", "y"], 2, "--question is for question answering; this model's task is seq"),
            (
                "feelings",
                ["x", "--temperature", "2"],
                2,
                "--temperature is for models that write text; this one's task",
            ),
            ("feelings", ["x", "--no-stream"], 2, "is for models that write text"),
            ("feelings", [""], 1, "text is empty"),
            ("feelings", ["x", "--top-k", "0"], 1, "--top-k is 0, wanted a whole number from 1 up"),
            ("feelings", ["x", "--top-k", "2", "--option", "top_k=2"], 2, "top_k is given twice"),
            ("feelings", ["x", "--option", "topk=2"], 1, "no option 'topk'; did you mean 'top_k'?"),
            ("feelings", ["x", "--option", "text=2"], 2, "--option text: the text is given already"),
            ("feelings", ["x", "--option", "top_k"], 2, "--option 'top_k' is not NAME=VALUE"),
            ("feelings", ["x", "--file", "y"], 2, "Texts are given twice"),
            ("feelings", ["--file", "nowhere"], 1, "nowhere"),
            ("feelings", ["--file", "-"], 1, "standard input has no text; one text per line"),
            ("answers", ["--question", "Who?"], 1, "context is empty"),
            ("answers", ["Who?"], 2, "This model answers questions: give --question, and --context or --context-file"),
            ("answers", ["--context", "a", "--context-file", "b"], 2, "The context is given twice"),
            ("answers", ["--question", "a", "--context", "b", "c"], 2, "there must be no other text"),
            ("tiny", ["x", "--option", "a=3"], 2, "--option is for models that classify, find or answer; this one's"),
            ("tiny", ["x", "--question", "a"], 2, "--question is for models that classify"),
        ],
    )
    def test_mistakes(self, call: Any, folders: Any, name: str, arguments: list[str], code: int, said: str) -> None:
        found, out, err = call("run", folders.get(name, name), *arguments)
        assert (found, out) == (code, "") and err.startswith("error: ") and said in err and err.count("\n") == 1


class TestEmbed:
    TEXTS = ("Lily went to the sea", "Tom", "so on")

    def vectors(self, folders: Any, **options: Any) -> np.ndarray:
        llm = Llama.load(folders["trunk"], task="embedding", backend="reference", **options)
        return np.asarray(llm.predict(list(self.TEXTS)))

    def test_json(self, call: Any, folders: Any) -> None:
        for pooling in ("mean", "last"):
            found = json.loads(call("embed", folders["trunk"], *self.TEXTS, "--pooling", pooling, "--json")[1])
            assert [row["text"] for row in found["results"]] == list(self.TEXTS)
            assert np.allclose([row["embedding"] for row in found["results"]], self.vectors(folders, pooling=pooling))
            assert (found["size"], found["task"], found["backend"]) == (32, "embedding", "reference")

    def test_a_file_of_vectors(self, call: Any, folders: Any, tmp_path: Path) -> None:
        texts = tmp_path / "texts"
        texts.write_text("\n".join(self.TEXTS))
        arguments = ("--file", str(texts), "--output", "vectors.npy", "--batch-size", "2")
        assert call("embed", folders["trunk"], *arguments) == (0, "3 x 32 numbers in vectors.npy\n", "")
        found = np.load(tmp_path / "vectors.npy")
        assert found.dtype == np.float32 and np.allclose(found, self.vectors(folders))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["texts", "vectors.npy"]

    def test_several_are_compared(self, call: Any, folders: Any) -> None:
        table = lines(call("embed", folders["trunk"], *self.TEXTS))
        assert table[1][:2] == ["1", self.TEXTS[0]]
        similarity = [[float(cell) for cell in row[1:]] for row in table[-3:]]
        vectors = self.vectors(folders)
        assert np.allclose(similarity, vectors @ vectors.T, atol=6e-4)
        assert len(lines(call("embed", folders["trunk"], "Tom"))) == 2
        out = call("embed", folders["trunk"], *("abcdefghijklm"))[1]
        assert "Similarities are shown for up to 12 texts" in out

    def test_a_language_model_does(self, call: Any) -> None:
        code, out, err = call("embed", "tiny", "Once upon a time", "--json")
        assert (code, err) == (0, "") and json.loads(out)["size"] == 128

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["a", "--output", "x.txt"], 2, "--output 'x.txt' must end in .npy"),
            (["a", "--output", "nowhere/x.npy"], 1, "'nowhere/x.npy' cannot be written: there is no folder 'nowhere'"),
            (["a", "--output", "a/file/x.npy"], 1, "'a/file/x.npy' cannot be written: there is no folder 'a/file'"),
            ([""], 1, "text 0 is empty"),
            (["so " * 300], 1, "the text has 302 tokens, the model's context is 256; --truncation cuts it"),
            (["a", "--task", "base"], 1, "task 'base' does not turn a text into a vector; leave --task out"),
            (["a", "--batch-size", "0"], 1, "--batch-size is 0"),
        ],
    )
    def test_mistakes(self, call: Any, folders: Any, arguments: list[str], code: int, said: str) -> None:
        found, out, err = call("embed", folders["trunk"], *arguments)
        assert (found, out) == (code, "") and err.startswith("error: ") and said in err

    def test_truncation(self, call: Any, folders: Any) -> None:
        code, out, err = call("embed", folders["trunk"], "so " * 300, "--truncation")
        assert code == 0 and err == (
            f"warning: the text was cut to 256 tokens (the longest had 302) (model {folders['trunk']})\n"
        )
        assert "0." in out


@dataclass(frozen=True)
class Size:
    """What the stranger's task says of a text."""

    norm: float
    tokens: int


class Sized(Task):
    """A stranger's task."""

    name = "sized"
    architecture = "LlamaForSized"
    output_type = BaseModelOutput
    labels = ()

    def outputs(self, ctx: Any, raw: Any, hidden: Any) -> dict[str, Any]:
        return {"last_hidden_state": hidden}

    def result(self, example: Any, *, plain: bool = False, endless: bool = False) -> Any:
        if endless:
            return {"norm": float("-inf"), "tokens": 1}
        size = Size(float(np.linalg.norm(example.output["last_hidden_state"])), len(example.input_ids))
        return {"norm": size.norm, "tokens": size.tokens} if plain else size


@pytest.fixture
def stranger() -> Iterator[None]:
    class Plugin:
        @hookimpl
        def polyllama_tasks(self) -> list[TaskDescriptor]:
            return [TaskDescriptor("sized", f"{__name__}:Sized", "a test's")]

    reset_plugins()
    plugin_manager().register(Plugin(), "stranger")
    yield
    reset_plugins()


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize("options", [(), ("--option", "plain=true")])
def test_a_task_of_somebody_else_is_shown_like_the_others(call: Any, folders: Any, options: tuple[str, ...]) -> None:
    arguments = ("run", folders["trunk"], "Lily at sea", "--task", "sized", *options)
    shown = lines(call(*arguments))
    tokens = len(Llama.load(folders["trunk"], backend="reference").tokenizer.encode("Lily at sea"))
    assert [row[0] for row in shown] == ["norm", "tokens"] and shown[1][1] == str(tokens)
    result = json.loads(call(*arguments, "--json")[1])["results"][0]["result"]
    assert result["tokens"] == tokens and shown[0][1] == f"{result['norm']:.6g}"
    two = call("run", folders["trunk"], "Lily", "Tom", "--task", "sized", *options)[1]
    assert [line.split()[0] for line in two.splitlines() if line] == ["Lily", "norm", "tokens", "Tom", "norm", "tokens"]


@pytest.mark.usefixtures("stranger")
def test_infinity_is_shown_to_people_and_is_none_of_json(call: Any, folders: Any) -> None:
    arguments = ("run", folders["trunk"], "Lily", "--task", "sized", "--option", "endless=true")
    assert call(*arguments) == (0, "norm    -inf\ntokens  1\n", "")
    code, out, err = call(*arguments, "--json")
    assert (code, out) == (1, "") and "a number of the result is not finite, which JSON cannot hold" in err
