"""Commands that take a model: show, tokenize, run, download."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from command_line import REFERENCE, Outcome, spawn
from polyllama.cli.options import parse_overrides
from polyllama.core.api.llama import Llama


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, models or history of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("POLYLLAMA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def test_overrides_are_json_or_text() -> None:
    assert parse_overrides(("a=1", "b=text", "c=null", 'd={"x": [1.5]}', "e=a=b", "f=", "g=true")) == {
        "a": 1,
        "b": "text",
        "c": None,
        "d": {"x": [1.5]},
        "e": "a=b",
        "f": "",
        "g": True,
    }
    with pytest.raises(click.UsageError, match="twice"):
        parse_overrides(("a=1", "a=2"))


def test_show(call: Callable[..., Outcome], checkpoint: Path) -> None:
    code, out, err = call("show", str(checkpoint), "--json", "--graph", "--parameters")
    assert (code, err) == (0, "")
    data = json.loads(out)
    sizes = [int(np.prod(parameter["shape"])) for parameter in data["parameters"]]
    from safetensors import safe_open

    with safe_open(checkpoint / "model.safetensors", "np") as file:
        stored = {name: file.get_tensor(name).size for name in file.keys()}  # noqa: SIM118
    assert data["num_parameters"] == sum(stored.values()) == sum(sizes)
    assert {parameter["name"] for parameter in data["parameters"]} == set(stored)
    assert data["weight_bytes"]["bfloat16"] == 2 * data["num_parameters"]
    assert data["cache_bytes_per_token"] == 2 * 2 * 2 * 4 * 2  # keys and values, layers, heads, head_dim, bytes
    assert data["graph"]["decoder"] and data["config"]["hidden_size"] == 16
    code, out, _ = call("show", str(checkpoint), "--graph", "--provenance", "--set", "rms_norm_eps=1e-6")
    assert code == 0
    assert re.search(r"^hidden_size +16 +config.json", out, re.MULTILINE)
    assert re.search(r"^rms_norm_eps +1e-06 +argument", out, re.MULTILINE)
    assert f"parameters       {data['num_parameters']:,}" in out
    assert "└─ head: Linear" in out


def test_show_reads_no_weights(call: Callable[..., Outcome], checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    assert call("show", str(tmp_path))[0] == 0


def test_show_rejects_a_wrong_override(call: Callable[..., Outcome], checkpoint: Path) -> None:
    code, out, err = call("show", str(checkpoint), "--set", "hidden_act=gelo")
    assert (code, out) == (1, "")
    assert "hidden_act" in err and err.count("\n") == 1


def test_tokenize(call: Callable[..., Outcome], checkpoint: Path) -> None:
    import sentencepiece

    oracle = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint / "tokenizer.model"))
    data = json.loads(call("tokenize", str(checkpoint), "once upon a 🦙", "--json")[1])
    assert data["token_ids"] == [1, *oracle.encode("once upon a 🦙")]
    assert data["tokens"] == ["<s>", *oracle.encode("once upon a 🦙", out_type=str)]
    data = json.loads(call("tokenize", str(checkpoint), "once", "--json", "--no-special")[1])
    assert data["token_ids"] == oracle.encode("once")
    assert call("tokenize", str(checkpoint), "once")[1].splitlines()[1].split() == ["0", "1", "'<s>'"]


@pytest.mark.parametrize("stdin", ["once upon\n", "once upon", "once upon\r\n"])
def test_text_from_standard_input(call: Callable[..., Outcome], checkpoint: Path, stdin: str) -> None:
    for arguments in ([], ["-"]):
        code, out, err = call("tokenize", str(checkpoint), *arguments, "--json", stdin=stdin.encode())
        assert (code, err) == (0, "")
        assert json.loads(out)["text"] == "once upon"


def test_input_that_is_not_text_is_an_error(call: Callable[..., Outcome], checkpoint: Path) -> None:
    code, out, err = call("tokenize", str(checkpoint), stdin=b"caf\xe9")
    assert (code, out) == (1, "")
    assert err == "error: standard input is not UTF-8 text (byte 3 is 0xe9); convert it first, for example with iconv\n"


def test_run_prints_what_generate_gives(call: Callable[..., Outcome], checkpoint: Path) -> None:
    options = ("--max-new-tokens", "12", "--temperature", "0.9", "--seed", "7", *REFERENCE)
    expected = Llama.load(checkpoint, backend="reference").generate(
        "once upon", max_new_tokens=12, temperature=0.9, seed=7
    )
    assert len(expected.token_ids) == 12
    code, out, err = call("run", str(checkpoint), "once upon", *options)
    assert (code, out) == (0, expected.text + "\n")
    assert re.fullmatch(
        r"prefill \d+ tokens at [\d,.]+ tokens/s, decode 12 tokens at [\d,.]+ tokens/s \(reference on cpu, float64\)\n",
        err,
    )
    assert call("run", str(checkpoint), "once upon", "--no-stream", *options)[1] == out
    assert call("run", str(checkpoint), "once upon", "--echo", *options)[1] == "once upon" + out
    code, out, err = call("run", str(checkpoint), "once upon", "--json", *options)
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["text"] == expected.text
    assert data["token_ids"] == expected.token_ids
    assert data["prompt_token_ids"] == expected.prompt_token_ids
    assert (data["finish_reason"], data["seed"], data["backend"]) == ("length", 7, "reference")
    assert data["stats"]["new_tokens"] == 12 and data["stats"]["decode_tokens_per_second"] > 0


def test_run_takes_stop_strings_and_overrides(call: Callable[..., Outcome], checkpoint: Path) -> None:
    arguments = ("run", str(checkpoint), "once upon", "--json", "--max-new-tokens", "20", *REFERENCE)
    whole = json.loads(call(*arguments)[1])["text"]
    stop = whole.strip()[4:7]
    stopped = json.loads(call(*arguments, "--stop", stop, "--stop", "never there")[1])
    assert stopped["text"] == whole[: whole.index(stop)]
    assert (stopped["finish_reason"], stopped["stop_reason"]) == ("stop", stop)
    other = json.loads(call(*arguments, "--set", "rope_theta=100")[1])
    assert other["token_ids"] != json.loads(call(*arguments)[1])["token_ids"]


def test_run_reads_its_prompt_from_a_pipe(checkpoint: Path) -> None:
    done = spawn("run", str(checkpoint), "--json", "--max-new-tokens", "2", *REFERENCE, stdin="once upon\n")
    assert json.loads(done.stdout)["prompt"] == "once upon", done.stderr


def test_download_says_where_it_is(call: Callable[..., Outcome], checkpoint: Path) -> None:
    code, out, err = call("download", str(checkpoint))
    assert (code, out) == (0, f"{checkpoint}\n")
    assert "4 files" in err and "nothing to download" in err
    data = json.loads(call("download", str(checkpoint), "--json")[1])
    assert data["origin"] == "path" and data["bytes"] == sum(data["files"].values())
    assert set(data["files"]) == {path.name for path in checkpoint.iterdir()}


def test_downloading_offline_says_what_is_missing(tmp_path: Path) -> None:
    done = spawn("download", "llama-2-7b", "--offline", POLYLLAMA_CACHE_DIR=str(tmp_path / "cache"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be loaded offline" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["source", "self", "cls", "raw", "path"])
@pytest.mark.parametrize("command", ["run", "show"])
def test_set_refuses_names_that_are_no_fields(call: Callable[..., Outcome], command: str, name: str) -> None:
    code, out, err = call(command, "tiny", *(["x"] if command == "run" else []), "--set", f"{name}=1")
    assert (code, out) == (2, "") and f"--set {name}: it is no field of a model's configuration" in err


def test_set_refuses_every_argument_of_load() -> None:
    for name, parameter in inspect.signature(Llama.load).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            with pytest.raises(click.UsageError, match=f"--set {name}: "):
                parse_overrides((f"{name}=1",))
