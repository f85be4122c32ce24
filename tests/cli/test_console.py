"""What the command line prints, to the eye: tables in narrow terminals, colours, plurals, options as they are typed."""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Callable

import pytest
from command_line import Terminal, spawn
from polyllama import Llama, LlamaConfig
from polyllama.cli import console as _console
from polyllama.cli.console import print_table
from polyllama.cli.main import main
from polyllama.cli.spelling import as_typed, error_as_typed, typed_names
from polyllama.core.config.problems import ConfigProblems
from polyllama.core.errors import (
    ConfigError,
    GenerationError,
    InputError,
    PolyllamaError,
    SettingsError,
    UnknownArgumentError,
)
from polyllama.core.generation.options import GenerationOptions
from polyllama.core.messages import in_quotes, mention, subject
from polyllama.core.plugin_system.manager import plugin_manager
from polyllama.core.settings.schema import load_settings
from rich.cells import cell_len

HEADERS = ["name", "size", "source", "summary"]
ROWS = [
    (
        "a-rather-long-name-of-a-model",
        "8.03 G",
        "hf:organization/A-Repository-Of-Some-Length",
        "what it is, [bold]",
    ),
    ("short", "", "here", "wide: 你好吗 🙂"),
    ("名前-model", "1 k", "", "x" * 70),
]


def letters(text: str) -> Counter[str]:
    """Every character that is not layout."""
    return Counter(re.sub(r"\s|─", "", text))


# (a) tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [10, 25, 40, 58, 70, 80, 100, 130, 250])
def test_a_table_keeps_every_name_whole_and_every_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(_console, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(HEADERS, ROWS)
    out = capsys.readouterr().out
    for name, *_ in ROWS:
        assert re.search(rf"^ *{re.escape(name)}( |$)", out, re.MULTILINE), out
    assert "…" not in out
    assert all(cell_len(line.rstrip()) <= max(width, 29) for line in out.splitlines())
    cells = [cell for row in ROWS for cell in row]
    if "─" in out:
        assert letters(out) == letters("".join(HEADERS + cells))
    else:
        labels = [f"{header}:" for row in ROWS for header, cell in zip(HEADERS[1:], row[1:], strict=True) if cell]
        assert letters(out) == letters("".join(labels + cells))
    assert ("─" in out) == (width >= 70)


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("command", ["models", "backends", "plugins"])
def test_listings_in_a_terminal_name_everything(command: str, width: int) -> None:
    code, seen = Terminal(command, interrupts=False, COLUMNS=str(width), NO_COLOR="1").finish()
    data = json.loads(spawn(command, "--json").stdout)
    entries = data if command == "models" else data[command]
    assert code == 0 and "…" not in seen and len(entries) >= 1
    for entry in entries:
        assert re.search(rf"^ *{re.escape(entry['name'])} *( |\r?$)", seen, re.MULTILINE), entry["name"]


# (b) NO_COLOR --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", ["40", "200"])
@pytest.mark.parametrize("command", ["models", "backends"])
def test_no_color_means_no_escapes_at_all(command: str, width: str) -> None:
    assert "\x1b[1m" in Terminal(command, interrupts=False, COLUMNS=width, NO_COLOR="").finish()[1]
    assert "\x1b" not in Terminal(command, interrupts=False, COLUMNS=width, NO_COLOR="1").finish()[1]


# (c) options as they are typed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-new-tokens", "-1"), "--max-new-tokens is -1; wanted"),
        (("--temperature", "-1"), "--temperature is -1.0; wanted"),
        (("--min-new-tokens", "9", "--max-new-tokens", "3"), "--min-new-tokens 9 is more than --max-new-tokens 3"),
        (("--no-repeat-ngram-size", "-2"), "--no-repeat-ngram-size is -2"),
        (("--dtype", "foo"), "--dtype must be auto, float64"),
        (("--revision", "x"), "leave --revision out, or name"),
        (("--set", "max_new_tokens=3"), "--set max_new_tokens: it is an option, --max-new-tokens."),
        (
            ("--set", "num_hidden_layer=3"),
            "--set num_hidden_layer: no field of a model's configuration is called so; did",
        ),
        (("--set", "lod_format=dummy"), "did you mean --load-format?"),
        (("--set", "zebra=1"), "error: --set zebra: no field of a model's configuration is called so\n"),
        (("--set", "hidden_act=zebra"), 'config.json: hidden_act="zebra" is not known'),
    ],
)
def test_mistakes_in_options_are_named_as_typed(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "tiny", "x", "--backend", "reference", *options]) in (1, 2)
    err = capsys.readouterr().err
    assert said in err
    assert not re.search(r"max_new|min_new|ngram_size|load_format", err.replace("--set max_new_tokens", ""))


def test_only_what_is_an_option_is_respelt() -> None:
    names = typed_names(plugin_manager().commands()["run"].load().params)
    for message, said, wanted in (
        (
            "give " + mention("max_new_tokens") + ", or a larger " + mention("max_length"),
            "give max_new_tokens, or a larger max_length",
            "give --max-new-tokens, or a larger max_length",
        ),
        (
            mention("do_sample", True) + " and " + mention("temperature", 0) + " contradict",
            "do_sample=True and temperature=0 contradict",
            "do_sample=True and --temperature 0 contradict",
        ),
        ("try " + mention("dtype", "float32"), "try dtype='float32'", "try --dtype float32"),
        (
            mention("task", None) + " or " + mention("task", "causal-lm"),
            "task=None or task='causal-lm'",
            "no --task or --task causal-lm",
        ),
        (mention("merge_adapter", True) + " and save", "merge_adapter=True and save", "--merge-adapter and save"),
        (mention("stop", "two words"), "stop='two words'", "--stop 'two words'"),
        (mention("stop", ["a"]), "stop=['a']", "--stop ['a']"),
        (mention("adapter", shown="folder"), "adapter=folder", "--adapter folder"),
        ("lower " + mention("max_new_tokens") + ".", "lower max_new_tokens.", "lower --max-new-tokens."),
        (subject("seed", -1, before="argument: ") + " is -1", "argument: seed is -1", "--seed is -1"),
        (
            "did you mean " + in_quotes("load_format") + "?",
            "did you mean 'load_format'?",
            "did you mean --load-format?",
        ),
    ):
        assert (message, as_typed(message, names), as_typed(message, {})) == (said, wanted, said)


@pytest.mark.parametrize(
    "message",
    [
        "max_new_tokens=9 (from generation_config.json) is",
        "/a/top_k/x.json: top_k is -1",
        "backend 'torch' cannot run here",
        "the backend is broken; the seed too",
        "model.top_k.weight, 'top_k', x_top_k",
        "the checkpoint has num_key_value_heads=2, the config says 4; temperature=1",
    ],
)
def test_text_that_mentions_no_argument_stays_as_it_is(message: str) -> None:
    names = typed_names(plugin_manager().commands()["run"].load().params)
    assert as_typed(message, names) == message


# (d) what an error is about ------------------------------------------------------------------------------------------


def _raised(kind: type[PolyllamaError], what: Callable[[], object]) -> PolyllamaError:
    with pytest.raises(kind) as caught:
        what()
    return caught.value


def test_errors_name_argument_value_and_field() -> None:
    option = _raised(GenerationError, lambda: GenerationOptions(top_k=-1))
    assert (option.argument, option.value, option.field) == ("top_k", -1, None)
    two = _raised(GenerationError, lambda: GenerationOptions(min_new_tokens=9, max_new_tokens=3))
    assert (two.argument, two.value) == ("min_new_tokens", 9)
    unknown = _raised(UnknownArgumentError, lambda: Llama.load("tiny", lod_format="dummy"))
    assert (unknown.argument, unknown.value) == ("lod_format", None)
    setting = _raised(SettingsError, lambda: load_settings(dtype="foo"))
    assert (setting.argument, setting.value, setting.field) == ("dtype", "foo", "dtype")
    config = _raised(ConfigError, lambda: LlamaConfig(hidden_act="zebra"))
    assert (config.argument, config.field) == (None, "hidden_act")
    plain = InputError("x is wrong")
    assert (plain.argument, plain.value, plain.field) == (None, None, None)


@pytest.mark.parametrize(
    "error",
    [
        InputError("a", hint="b"),
        InputError(subject("top_k", -1) + " is -1", hint="give " + mention("top_k", 1)),
        UnknownArgumentError("lod_format", advice="did you mean " + in_quotes("load_format") + "?"),
        SettingsError("dtype must be one", field="dtype"),
        ConfigProblems("config.json", ["vocab_size=0", "hidden_act=1"]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_from_another_process(error: PolyllamaError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error) and str(back) == str(error) and vars(back) == vars(error)
    assert (back.argument, back.value, back.field) == (error.argument, error.value, error.field)
    names = {"top_k": "--top-k", "load_format": "--load-format", "overrides": "--set"}
    assert error_as_typed(back, names) == error_as_typed(error, names)
