"""The command line, as a user meets it: real processes, pipes, terminals, signals, and a real (small) checkpoint."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from command_line import REFERENCE, Outcome, python_path, spawn, write_plugin
from polyllama.core.plugin_system.manager import reset_plugins
from polyllama.extend import CommandDescriptor, PolyllamaError, PolyllamaWarning, hookimpl, plugin_manager


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, models or history of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("POLYLLAMA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


class Offering:
    """A plugin with one command."""

    def __init__(self, target: str, name: str = "extra") -> None:
        self.descriptor = CommandDescriptor(name, target, "A command of a test.")

    @hookimpl
    def polyllama_commands(self) -> list[CommandDescriptor]:
        return [self.descriptor]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Add a command whose body is given."""
    reset_plugins()

    def add(body: Callable[[], object]) -> None:
        module = type(sys)("polyllama_test_commands")
        module.extra = click.command("extra")(body) if inspect.isfunction(body) else body  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        plugin_manager().register(Offering(f"{module.__name__}:extra"), "test-plugin", replace=True)

    yield add
    reset_plugins()


# help and listings ---------------------------------------------------------------------------------------------------


# plugins on the command line -----------------------------------------------------------------------------------------


def test_a_broken_plugin_is_one_warning_line_and_nothing_else(tmp_path: Path) -> None:
    write_plugin(tmp_path, "raise RuntimeError('no licence')", "bad-plugin")
    said = "warning: plugin 'bad-plugin' (bad-plugin 1.0): importing bad_plugin failed with RuntimeError: no licence\n"
    done = spawn("models", "--json", PYTHONPATH=python_path(tmp_path))
    assert (done.returncode, done.stderr) == (0, said)
    json.loads(done.stdout)
    done = spawn("plugins", "--json", PYTHONPATH=python_path(tmp_path))
    rows = {row["name"]: row for row in json.loads(done.stdout)["plugins"]}
    assert rows["bad-plugin"]["state"] == "failed" and "no licence" in rows["bad-plugin"]["reason"]
    assert rows["polyllama-builtin"]["state"] == "ok"
    done = spawn("plugins", PYTHONPATH=python_path(tmp_path))
    assert re.search(r"^bad-plugin +bad-plugin 1.0 +failed$", done.stdout, re.MULTILINE)
    assert "! plugin 'bad-plugin' (bad-plugin 1.0): importing bad_plugin failed" in done.stdout


def test_a_plugins_command_is_a_command(tmp_path: Path) -> None:
    write_plugin(
        tmp_path,
        """
        import click
        @hookimpl
        def polyllama_commands():
            return [p.CommandDescriptor("greet", "my_plugin:greet", "Greet somebody.", aliases=("hi",))]
        @click.command()
        @click.argument("name")
        def greet(name):
            click.echo(f"Hello {name}")
        """,
    )
    assert "greet       Greet somebody." in spawn("--help", PYTHONPATH=python_path(tmp_path)).stdout
    for name in ("greet", "hi"):
        assert spawn(name, "you", PYTHONPATH=python_path(tmp_path)).stdout == "Hello you\n"


def test_a_plugin_cannot_take_over_a_command(tmp_path: Path) -> None:
    write_plugin(
        tmp_path,
        """
        @hookimpl
        def polyllama_commands():
            return [p.CommandDescriptor("models", "os:getcwd", "Steal.")]
        """,
    )
    done = spawn("models", PYTHONPATH=python_path(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        "error: command 'models' is claimed by 2 plugins: 'polyllama-builtin' (polyllama 0.1.0) and 'my-plugin'"
        in done.stderr
    )
    assert spawn("config", PYTHONPATH=python_path(tmp_path)).returncode == 0
    assert spawn("models", PYTHONPATH=python_path(tmp_path), POLYLLAMA_PLUGINS_BLOCK="my-plugin").stderr == ""


def test_a_command_that_is_none_is_an_error(offer: Callable[..., None], call: Callable[..., Outcome]) -> None:
    offer(42)
    code, _, err = call("extra")
    assert code == 1
    assert err.startswith("error: command 'extra' of plugin 'test-plugin': polyllama_test_commands:extra is no click")


# errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "error: There is no command 'frobnicate'. See `polyllama --help`.\n"),
        (["modles"], "error: There is no command 'modles'. Did you mean 'models'? See `polyllama --help`.\n"),
        (["--frob"], "error: No such option '--frob'. See `polyllama --help`.\n"),
        (["run"], "error: Missing argument 'MODEL'. See `polyllama run --help`.\n"),
        (["run", "tiny", "x", "--seed", "many"], "error: Invalid value for '--seed': 'many' is not a valid integer."),
        (["run", "tiny", "x", "--set", "hidden_size"], "error: --set 'hidden_size' is not FIELD=VALUE."),
        (["run", "tiny", "x", "--set", "dtype=float32"], "error: --set dtype: it is an option, --dtype."),
        (["completion", "tcsh"], "error: Invalid value for '[bash|zsh|fish]'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    call: Callable[..., Outcome], arguments: list[str], message: str
) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command", [["run", "MODEL", "hi"], ["show", "MODEL"], ["tokenize", "MODEL", "hi"], ["chat", "MODEL"]]
)
def test_an_unknown_model_is_one_line_and_exit_code_1(call: Callable[..., Outcome], command: list[str]) -> None:
    code, out, err = call(*(part.replace("MODEL", "llama-2-7b-chta") for part in command))
    assert (code, out) == (1, "")
    assert err.startswith("error: 'llama-2-7b-chta' is no file or folder")
    assert "did you mean 'llama-2-7b-chat'" in err
    assert err.count("\n") == 1


def test_wrong_settings_are_one_line(call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLLAMA_DTYPE", "float12")
    code, _, err = call("config")
    assert code == 1
    assert err.startswith("error: environment: POLYLLAMA_DTYPE: dtype must be") and err.count("\n") == 1


def failing(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PolyllamaError("it is wrong", hint="do this"), 1, "error: it is wrong; do this\n"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 1, "error: No such file or directory: 'a.txt'\n"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device\n"),
        (MemoryError(), 1, "error: out of memory; take a smaller model, dtype or quantize\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (EOFError(), 1, "error: the input ended before it was complete\n"),
        (click.UsageError("not so"), 2, "error: not so. See `polyllama"),
        (BrokenPipeError(), 141, ""),
        (
            KeyError("x"),
            70,
            "error: KeyError: 'x'; this is a bug in the plugin 'test-plugin', please report it with what "
            "POLYLLAMA_DEBUG=1 shows\n",
        ),
    ],
)
def test_every_exception_becomes_a_line_and_a_code(
    offer: Callable[..., None], call: Callable[..., Outcome], error: BaseException, code: int, message: str
) -> None:
    offer(failing(error))
    got, out, err = call("extra")
    assert (got, out) == (code, "")
    assert err.lstrip("\n").startswith(message)
    assert "Traceback" not in err


def test_a_bug_of_ours_says_so(call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    from polyllama.core.sources import registry

    monkeypatch.setattr(registry, "load_registry", lambda: 1 / 0)
    code, _, err = call("models")
    assert code == 70
    assert err == (
        "error: ZeroDivisionError: division by zero; this is a bug in polyllama, please report it with what "
        "POLYLLAMA_DEBUG=1 shows\n"
    )


@pytest.mark.parametrize("error", [KeyError("x"), PolyllamaError("it is wrong")])
def test_debugging_shows_the_traceback(
    offer: Callable[..., None], call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    offer(failing(error))
    monkeypatch.setenv("POLYLLAMA_DEBUG", "1")
    _, _, err = call("extra")
    assert "Traceback" in err and "in body" in err
    assert "means nothing to polyllama" not in err


def test_warnings_are_one_line_each_and_said_once(offer: Callable[..., None], call: Callable[..., Outcome]) -> None:
    def body() -> None:
        for text in ("first", "second", "first"):
            warnings.warn(text, PolyllamaWarning, stacklevel=1)
        click.echo("done")

    offer(body)
    assert call("extra") == (0, "done\n", "warning: first\nwarning: second\n")


def test_the_exit_code_of_a_command_is_kept(offer: Callable[..., None], call: Callable[..., Outcome]) -> None:
    @click.pass_context
    def body(ctx: click.Context) -> None:
        ctx.exit(3)

    offer(body)
    assert call("extra")[0] == 3


# shell completion ----------------------------------------------------------------------------------------------------


# output --------------------------------------------------------------------------------------------------------------


# a real checkpoint ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "2"], "--top-p"),
        (["--set", "hidden_sise=3"], "hidden_sise"),
        (["--dtype", "float12"], "dtype"),
        (["--backend", "warp"], "warp"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--load-format", "gguff"], "gguff"),
        (["--revision", "v1"], "revision"),
    ],
)
def test_wrong_values_are_one_line(
    call: Callable[..., Outcome], checkpoint: Path, options: list[str], message: str
) -> None:
    code, out, err = call("run", str(checkpoint), "once", *REFERENCE, *options)
    assert (code, out) == (1, "")
    assert message in err and err.startswith("error: ") and err.count("\n") == 1


# broken surroundings --------------------------------------------------------------------------------------------------
