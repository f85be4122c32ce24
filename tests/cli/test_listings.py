"""Help, and the commands that list: models, backends, plugins, settings, versions."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from command_line import COMMANDS, Outcome, python_path, spawn, write_plugin
from polyllama.cli.options import GENERATION_NAMES, LOAD_NAMES
from polyllama.core.api.llama import Llama
from polyllama.core.generation.options import GenerationOptions
from polyllama.core.plugin_system.manager import plugin_manager
from support_processes import run_process


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, models or history of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("POLYLLAMA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("POLYLLAMA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_the_commands_are_those_promised() -> None:
    assert list(plugin_manager().commands()) == COMMANDS


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_every_command(call: Callable[..., Outcome], arguments: tuple[str, ...]) -> None:
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", out, re.MULTILINE), name
    assert "Examples:\n    polyllama run tiny" in out


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help_with_examples(call: Callable[..., Outcome], name: str, flag: str) -> None:
    code, out, err = call(name, flag)
    assert (code, err) == (0, "")
    assert f"Usage: polyllama {name}" in out
    assert re.search(r"Examples:\n    .*polyllama ", out)
    command = plugin_manager().commands()[name].load()
    assert all(p.help or p.hidden for p in command.params if isinstance(p, click.Option))


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys; from polyllama.cli.main import main; main(['--help'])\n"
        "bad = ('torch', 'numpy', 'rich', 'jinja2', 'huggingface_hub', 'tokenizers', 'sentencepiece')\n"
        "print([m for m in sys.modules if m in bad or m.startswith('polyllama.plugins.commands')], file=sys.stderr)"
    )
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_options_are_spelt_as_the_python_arguments() -> None:
    fields = {field.name for field in dataclasses.fields(GenerationOptions)}
    assert set(GENERATION_NAMES) <= fields
    parameters = set(inspect.signature(Llama.load).parameters)
    # About a head that is to be trained, and about torch's modules, which is done in Python.
    in_python = {"seed", "fresh_head", "ignore_mismatched_sizes", "attn_implementation"}
    assert set(LOAD_NAMES) == parameters - {"source", "config", "config_overrides"} - in_python
    run = plugin_manager().commands()["run"].load()
    options = {option for parameter in run.params for option in parameter.opts}
    assert {f"--{name.replace('_', '-')}" for name in (*GENERATION_NAMES, *LOAD_NAMES)} <= options


@pytest.mark.parametrize("name", ["models", "list", "backends", "plugins", "config", "version"])
def test_listings_speak_json_and_only_json(call: Callable[..., Outcome], name: str) -> None:
    code, out, err = call(name, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)
    code, out, err = call(name)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert not any(line != line.rstrip() for line in out.splitlines())


def test_models_are_listed_and_searched(call: Callable[..., Outcome]) -> None:
    _, out, _ = call("models", "--json")
    names = [entry["name"] for entry in json.loads(out)]
    assert {"tiny", "7b", "llama-3.1-8b"} <= set(names)
    _, out, _ = call("models", "code instruct", "--json")
    found = [entry["name"] for entry in json.loads(out)]
    assert "code-llama-7b-instruct" in found and "7b" not in found
    _, out, _ = call("models", "code-llama-7b")
    assert out.splitlines()[0].split()[:3] == ["NAME", "PARAMETERS", "CONTEXT"]
    assert call("models", "zebra") == (0, "", "No model has 'zebra' in its name, aliases, source, task or summary.\n")
    assert call("models", "zebra", "--json") == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("classification", {"tiny-sentiment", "tiny-entities"}),
        ("ner", {"tiny-entities"}),  # and not all that are for text-ge-ner-ation
        ("sentiment-analysis", {"tiny-sentiment"}),
        ("question answer", {"tiny-questions"}),
        ("tiny generation", {"tiny", "tinyllama", "tinyllama-base"}),
    ],
)
def test_models_are_found_by_their_task(call: Callable[..., Outcome], words: str, found: set[str]) -> None:
    assert {entry["name"] for entry in json.loads(call("models", words, "--json")[1])} == found
    shown = call("models", words)[1].splitlines()
    assert "TASKS" in shown[0] and {line.split()[0] for line in shown[1:]} == found


def test_backends_say_which_is_taken_and_why(call: Callable[..., Outcome]) -> None:
    _, out, _ = call("backends", "--json")
    data = json.loads(out)
    by_name = {row["name"]: row for row in data["backends"]}
    assert by_name["reference"]["usable"] is True and by_name["reference"]["devices"] == ["cpu"]
    assert [row["name"] for row in data["auto"]["considered"] if row["taken"]]
    assert data["setting"] == {"backend": "auto", "device": None, "from": "default"}
    code, out, _ = call("backends")
    assert code == 0 and "auto, in the order in which it looks:" in out


def test_backends_says_what_the_settings_take(monkeypatch: pytest.MonkeyPatch, call: Callable[..., Outcome]) -> None:
    monkeypatch.setenv("POLYLLAMA_BACKEND", "reference")
    assert "Without --backend, reference is taken (environment: POLYLLAMA_BACKEND)." in call("backends")[1]


def test_a_backend_that_breaks_does_not_break_the_listing(tmp_path: Path) -> None:
    write_plugin(
        tmp_path,
        """
        @hookimpl
        def polyllama_backends():
            return [p.BackendDescriptor("rude", "my_plugin:Rude", "it"), p.BackendDescriptor("gone", "nope:X", "it")]
        class Rude:
            name = "rude"
            realize = None
            def availability(self):
                raise RuntimeError("driver crashed")
        """,
    )
    done = spawn("backends", "--json", PYTHONPATH=python_path(tmp_path))
    rows = {row["name"]: row for row in json.loads(done.stdout)["backends"]}
    assert rows["rude"]["reason"] == "asking it failed with RuntimeError: driver crashed"
    assert "there is no module 'nope'" in rows["gone"]["reason"]
    assert rows["reference"]["usable"] is True


@pytest.mark.parametrize("name", ["config", "settings"])
def test_config_shows_where_values_came_from(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Outcome], name: str
) -> None:
    Path("polyllama.yaml").write_text("dtype: float32\n")
    monkeypatch.setenv("POLYLLAMA_SEED", "7")
    _, out, _ = call(name, "--json")
    data = json.loads(out)
    settings = data["settings"]
    assert settings["seed"]["value"] == 7 and settings["seed"]["source"] == "environment: POLYLLAMA_SEED"
    assert settings["dtype"]["source"] == f"{Path.cwd() / 'polyllama.yaml'}: dtype"
    assert data["files"] == [str(Path.cwd() / "polyllama.yaml")]
    assert re.search(r"^seed +7 +environment: POLYLLAMA_SEED ", call(name)[1], re.MULTILINE)


def test_versions(call: Callable[..., Outcome]) -> None:
    from importlib.metadata import version

    assert call("--version") == (0, f"polyllama {version('polyllama')}\n", "")
    data = json.loads(call("version", "--json")[1])
    assert data["polyllama"] == version("polyllama") and data["numpy"] == version("numpy")


def test_help_says_how_to_quantize(call: Callable[..., Outcome]) -> None:
    assert re.search(r"--quantize HOW +Quantize weights while loading: int4, int8", call("run", "--help")[1])
