"""--adapters NAME=FOLDER: several adapters, among which --adapter or a line of a file chooses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Outcome
from polyllama import Llama
from random_adapters import save_adapter


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    graph, folder = Llama.load("tiny", backend="reference").graph, tmp_path_factory.mktemp("adapters")
    found = {
        name: save_adapter(folder / name, graph, ["q_proj", "down_proj"], seed=seed)
        for seed, name in enumerate(("poems", "code"))
    }
    labels = Llama.load("tiny-sentiment", backend="reference").graph
    return found | {"labels": save_adapter(folder / "labels", labels, ["v_proj", "up_proj"], rank=8)}


def _options(folders: dict[str, Path]) -> list[str]:
    pairs = [f"{name}={folders[name]}" for name in ("poems", "code")]
    return ["--adapters", pairs[0], "--adapters", pairs[1], "--dtype", "float32", "--max-new-tokens", "6"]


def _alone(folder: Path | None, prompt: str) -> str:
    text: str = Llama.load("tiny", adapter=folder, dtype="float32").generate(prompt, max_new_tokens=6).text
    return text


def test_one_prompt_has_the_adapter_that_is_chosen(call: Callable[..., Outcome], folders: dict[str, Path]) -> None:
    for name in ("code", "poems"):
        code, out, _ = call("run", "tiny", "Once upon", *_options(folders), "--adapter", name, "--json")
        assert code == 0 and json.loads(out)["text"] == _alone(folders[name], "Once upon")
    code, out, _ = call("run", "tiny", "Once upon", *_options(folders), "--json")
    assert code == 0 and json.loads(out)["text"] == _alone(None, "Once upon")


def test_lines_of_a_file_say_their_own(call: Callable[..., Outcome], folders: dict[str, Path], tmp_path: Path) -> None:
    lines = [
        {"prompt": "Once upon", "adapter": "code"},
        {"prompt": "Once upon", "adapter": None},
        {"prompt": "Once upon"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = ("--file", str(tmp_path / "p.jsonl"))
    code, out, _ = call("run", "tiny", *file, *_options(folders), "--adapter", "poems", "--jsonl")
    wanted = [_alone(folders[name] if name else None, "Once upon") for name in ("code", None, "poems")]
    assert code == 0 and [json.loads(line)["text"] for line in out.splitlines()] == wanted
    (tmp_path / "p.jsonl").write_text('{"prompt": "Once", "adapter": 3}\n')
    code, _, err = call("run", "tiny", *file, *_options(folders))
    assert code != 0 and "line 1: adapter is 3" in err


def test_other_tasks_take_one_too(call: Callable[..., Outcome], folders: dict[str, Path]) -> None:
    chosen = ("--adapters", f"a={folders['labels']}", "--adapter", "a")
    code, out, _ = call("run", "tiny-sentiment", "What a day", *chosen, "--json")
    other, alone, _ = call("run", "tiny-sentiment", "What a day", "--adapter", str(folders["labels"]), "--json")
    assert code == other == 0
    mine, theirs = (json.loads(text)["results"][0] for text in (out, alone))
    assert mine["result"]["label"] == theirs["result"]["label"]
    llm = Llama.load("tiny-sentiment", adapters={"a": folders["labels"]}, dtype="float32")
    one = Llama.load("tiny-sentiment", adapter=folders["labels"], dtype="float32")
    both = llm.predict(["What a day", "What a day"], adapter=["a", None])
    assert both[0].score == pytest.approx(one.predict("What a day").score, abs=1e-5)
    assert both[1].score == pytest.approx(llm.predict("What a day").score, abs=1e-5) != both[0].score


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "tiny", "Once", "--adapters", "poems"), "is not NAME=FOLDER"),
        (("run", "tiny", "Once", "--adapters", "a=x", "--adapters", "a=y"), "gives a twice"),
        (("evaluate", "tiny", "Once upon a time", "--adapters", "a=x"), "evaluate takes --adapter FOLDER"),
        (("run", "tiny", "Once", "--adapters", "a=nowhere"), "no such folder"),
    ],
)
def test_mistakes(call: Callable[..., Outcome], arguments: tuple[str, ...], said: str) -> None:
    code, _, err = call(*arguments)
    assert code != 0 and said in err


def test_an_adapter_that_is_not_there(call: Callable[..., Outcome], folders: dict[str, Path]) -> None:
    code, _, err = call("run", "tiny", "Once", *_options(folders), "--adapter", "poem")
    assert code != 0 and "no adapter 'poem' is loaded; did you mean 'poems'?" in err
