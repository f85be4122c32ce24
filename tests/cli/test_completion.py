"""Completion in shells."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Outcome, spawn
from support_processes import run_process


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, models or history of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("POLYLLAMA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_say_how_to_install_them(call: Callable[..., Outcome], shell: str) -> None:
    code, out, _ = call("completion", shell)
    assert code == 0
    assert out.startswith("# To install, ") and "_POLYLLAMA_COMPLETE" in out
    if shell == "bash":
        assert run_process(["bash", "-n"], input=out, text=True, timeout=30).returncode == 0


def test_the_shell_is_the_users_where_none_is_named(
    call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    for shell in ("bash", "zsh", "fish"):
        monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
        first, rest = call("completion")[1].split("\n", 1)
        assert first == f"# For {shell}, your shell by the variable SHELL." and rest == call("completion", shell)[1]
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    code, out, err = call("completion")
    assert (code, out) == (2, "") and "Name a shell, bash, zsh, fish: SHELL is '/bin/tcsh'" in err
    monkeypatch.delenv("SHELL")
    assert "Name a shell, bash, zsh, fish: the variable SHELL is not set" in call("completion")[2]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("polyllama to", ["plain,tokenize"]),
        ("polyllama run llama-3.1-405b-ins", ["plain,llama-3.1-405b-instruct", "dir,"]),
        ("polyllama run tiny --max-n", ["plain,--max-new-tokens"]),
        ("polyllama run tiny --backend ref", ["plain,reference"]),
    ],
)
def test_the_shell_completes(
    call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, words: str, expected: list[str]
) -> None:
    monkeypatch.setenv("_POLYLLAMA_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    code, out, err = call()
    assert (code, out.split(), err) == (0, expected, "")


def test_completing_is_quiet_whatever_is_wrong() -> None:
    words = {"_POLYLLAMA_COMPLETE": "bash_complete", "COMP_WORDS": "polyllama ru", "COMP_CWORD": "1"}
    done = spawn(**words, POLYLLAMA_DTYPE="float12", POLYLLAMA_NONSENSE="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "plain,run\n", "")  # built-in commands complete


def test_completion_in_a_real_shell() -> None:
    script = f"""
        polyllama() {{ {sys.executable} -m polyllama "$@"; }}
        export -f polyllama
        eval "$(polyllama completion bash)"
        COMP_WORDS=(polyllama vers); COMP_CWORD=1
        $(complete -p polyllama | sed 's/.*-F \\([^ ]*\\) .*/\\1/') polyllama
        echo "${{COMPREPLY[@]}}"
    """
    program = Path(sys.executable).with_name("polyllama")
    if not program.exists():
        pytest.skip("polyllama is not installed as a program here")
    script = script.replace(f'polyllama() {{ {sys.executable} -m polyllama "$@"; }}\n        export -f polyllama', "")
    env = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    done = run_process(["bash", "-c", script], capture_output=True, text=True, env=env, timeout=60)
    assert done.stdout.strip() == "version", done.stderr
