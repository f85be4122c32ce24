"""The command line, as a user meets it: real processes, pipes, terminals, signals, and a real (small) checkpoint."""

from __future__ import annotations

import codecs
import dataclasses
import inspect
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from polyllama.__main__ import main
from polyllama.core.errors import PolyllamaError, PolyllamaWarning
from polyllama.core.generation.options import GenerationOptions
from polyllama.core.hookspecs import CommandDescriptor, hookimpl
from polyllama.core.model import Llama
from polyllama.core.plugins import plugin_manager, reset_plugins
from polyllama.plugins.commands._console import write_text
from polyllama.plugins.commands._options import GENERATION_NAMES, LOAD_NAMES, parse_overrides
from support_processes import run_process, start_process

COMMANDS = [
    "run",
    "embed",
    "chat",
    "show",
    "plan",
    "quantize",
    "pack",
    "tokenize",
    "mask",
    "download",
    "convert",
    "models",
    "backends",
    "certify",
    "compare",
    "bench",
    "plugins",
    "config",
    "completion",
    "version",
]
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the Hub has them: random weights, a SentencePiece tokenizer, no chat template."""
    import sentencepiece
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("checkpoint")
    words = [
        "once",
        "upon",
        "a",
        "time",
        "there",
        "was",
        "a",
        "llama",
        "who",
        "lived",
        "by",
        "the",
        "sea",
        "and",
        "sang",
        "to",
        "the",
        "moon",
        "every",
        "night",
    ]
    rng = np.random.default_rng(0)
    sentences = (" ".join(rng.choice(words, 12)) + "." for _ in range(300))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    vocab = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    tensors = {"model.embed_tokens.weight": weight(vocab, 16), "lm_head.weight": weight(vocab, 16)}
    tensors["model.norm.weight"] = np.ones(16, np.float32)
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        for name, shape in {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}.items():
            tensors[f"{prefix}.self_attn.{name}.weight"] = weight(*shape)
        for name, shape in {"gate_proj": (32, 16), "up_proj": (32, 16), "down_proj": (16, 32)}.items():
            tensors[f"{prefix}.mlp.{name}.weight"] = weight(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = np.ones(16, np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def chat_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a chat template."""
    folder = tmp_path_factory.mktemp("chat")
    for file in checkpoint.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, models or history of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("POLYLLAMA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


Outcome = tuple[int, str, str]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*arguments: str, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def spawn(*arguments: str, stdin: str | bytes | None = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = run_process(
        [sys.executable, "-m", "polyllama", *arguments],
        input=data,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=60,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class Terminal:
    """A process on a terminal of its own, typed into and read from.

    With ``interrupts=False`` Ctrl-C does not reach it, and Python is not forked, which JAX's threads do not like.
    """

    def __init__(self, *arguments: str, interrupts: bool = True, **environment: str) -> None:
        import pty

        self.master, slave = pty.openpty()
        self.process = start_process(
            [sys.executable, "-m", "polyllama", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", **environment},
            preexec_fn=_own_the_terminal if interrupts else None,
        )
        os.close(slave)
        self.seen = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end amid a character

    def read_until(self, text: str | None, timeout: float = 30) -> str:
        """What was printed since the last call, up to where a text appears (None: to the end)."""
        start, deadline = len(self.seen), time.monotonic() + timeout
        while text is None or text not in self.seen[start:]:
            if not select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} did not come within {timeout} s; seen: {self.seen!r}")
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                data = b""
            if not data:
                if text is None:
                    break
                raise AssertionError(f"the program ended before {text!r}; seen: {self.seen!r}")
            self.seen += self.decoder.decode(data)
        return self.seen[start:]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def finish(self) -> tuple[int, str]:
        """Exit code and the rest of what is printed."""
        rest = self.read_until(None)
        code = self.process.wait(timeout=30)
        os.close(self.master)
        return code, rest


def _own_the_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that a typed Ctrl-C reaches the process


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
    assert all(p.help for p in command.params if isinstance(p, click.Option))


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys; from polyllama.__main__ import main; main(['--help'])\n"
        "bad = ('torch', 'numpy', 'rich', 'jinja2', 'huggingface_hub', 'tokenizers', 'sentencepiece')\n"
        "print([m for m in sys.modules if m in bad or m.startswith('polyllama.plugins.commands')], file=sys.stderr)"
    )
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_options_are_spelt_as_the_python_arguments() -> None:
    fields = {field.name for field in dataclasses.fields(GenerationOptions)}
    assert set(GENERATION_NAMES) <= fields
    parameters = set(inspect.signature(Llama.load).parameters)
    # The last two are about a head that is to be trained, which is done in Python.
    assert set(LOAD_NAMES) == parameters - {"source", "config_overrides", "seed", "fresh_head"}
    run = plugin_manager().commands()["run"].load()
    options = {option for parameter in run.params for option in parameter.opts}
    assert {f"--{name.replace('_', '-')}" for name in (*GENERATION_NAMES, *LOAD_NAMES)} <= options


@pytest.mark.parametrize("name", ["models", "backends", "plugins", "config", "version"])
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
    assert call("models", "zebra") == (0, "", "No model has 'zebra' in its name, aliases, source or summary.\n")
    assert call("models", "zebra", "--json") == (0, "[]\n", "")


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


# plugins on the command line -----------------------------------------------------------------------------------------


def python_path(folder: Path) -> str:
    """A PYTHONPATH with a folder in front."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def write_plugin(folder: Path, source: str, name: str = "my-plugin") -> None:
    import textwrap

    module = name.replace("-", "_")
    header = "import polyllama.core.hookspecs as p\nhookimpl = p.hookimpl\n"
    (folder / f"{module}.py").write_text(header + textwrap.dedent(source))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[polyllama]\n{name} = {module}\n")


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
        (["completion", "tcsh"], "error: Invalid value for '{bash|zsh|fish}'"),
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
    from polyllama.core import registry

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


@pytest.mark.parametrize("arguments", [["models", "--json"], ["version"]])
def test_a_closed_pipe_is_quiet(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    process = start_process([sys.executable, "-m", "polyllama", *arguments], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    os.close(reader)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, b"")


def test_interrupting_is_quiet(tmp_path: Path) -> None:
    write_plugin(
        tmp_path,
        """
        import click, sys
        @hookimpl
        def polyllama_commands():
            return [p.CommandDescriptor("wait", "my_plugin:wait", "Wait.")]
        @click.command()
        def wait():
            click.echo("ready")
            sys.stdin.read()
        """,
    )
    process = start_process(
        [sys.executable, "-m", "polyllama", "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": python_path(tmp_path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def test_a_character_the_output_cannot_hold_is_escaped(tmp_path: Path) -> None:
    write_plugin(
        tmp_path,
        """
        import click
        @hookimpl
        def polyllama_commands():
            return [p.CommandDescriptor("greet", "my_plugin:greet", "Greet.")]
        @click.command()
        def greet():
            click.echo("\\u65e5")
            raise p.PluginError("\\u65e5")
        """,
    )
    done = spawn("greet", PYTHONPATH=python_path(tmp_path), PYTHONIOENCODING="latin-1:strict")
    assert (done.returncode, done.stdout, done.stderr) == (1, "\\u65e5\n", "error: \\u65e5\n")


# shell completion ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_say_how_to_install_them(call: Callable[..., Outcome], shell: str) -> None:
    code, out, _ = call("completion", shell)
    assert code == 0
    assert out.startswith("# To install, ") and "_POLYLLAMA_COMPLETE" in out
    if shell == "bash":
        assert run_process(["bash", "-n"], input=out, text=True, timeout=30).returncode == 0


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


# output --------------------------------------------------------------------------------------------------------------


def test_a_terminal_gets_a_drawn_table_and_a_pipe_does_not() -> None:
    code, out = Terminal("backends").finish()
    assert code == 0 and "\x1b[1m" in out and "─" in out
    code, out = Terminal("backends", NO_COLOR="1").finish()
    assert code == 0 and not re.search(r"\x1b\[[0-9;]*3[0-9]", out)
    code, out = Terminal("backends", TERM="dumb").finish()
    assert code == 0 and "\x1b" not in out
    assert "\x1b" not in spawn("backends").stdout


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


# a real checkpoint ---------------------------------------------------------------------------------------------------

REFERENCE = ("--backend", "reference")


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


def test_no_prompt_on_a_terminal_is_wrong_usage() -> None:
    code, out = Terminal("run", "tiny").finish()
    assert code == 2 and "error: There is no prompt: give PROMPT, or pipe text in." in out


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


def test_run_reads_its_prompt_from_a_pipe(checkpoint: Path) -> None:
    done = spawn("run", str(checkpoint), "--json", "--max-new-tokens", "2", *REFERENCE, stdin="once upon\n")
    assert json.loads(done.stdout)["prompt"] == "once upon", done.stderr


def test_chat_needs_a_template(call: Callable[..., Outcome], checkpoint: Path) -> None:
    code, out, err = call("chat", str(checkpoint), *REFERENCE)
    assert (code, out) == (1, "")
    assert "has no chat template, so it is not a chat model" in err and err.count("\n") == 1


def test_chat_from_a_pipe_answers_line_by_line(chat_checkpoint: Path) -> None:
    options = ("--max-new-tokens", "5", "--system", "be brief", *REFERENCE)
    done = spawn("chat", str(chat_checkpoint), *options, stdin="once upon\n\nthe sea\n")
    assert done.returncode == 0, done.stderr
    llm = Llama.load(chat_checkpoint, backend="reference")
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "once upon"}]
    first = llm.chat(messages, max_new_tokens=5)
    messages += [{"role": "assistant", "content": first.text.strip()}, {"role": "user", "content": "the sea"}]
    second = llm.chat(messages, max_new_tokens=5)
    assert done.stdout == f"{first.text}\n{second.text}\n"
    assert done.stderr.count("prefill ") == 2


def test_chat_on_a_terminal(chat_checkpoint: Path, tmp_path: Path) -> None:
    terminal = Terminal("chat", str(chat_checkpoint), "--max-new-tokens", "5", *REFERENCE)
    assert "/reset starts over" in terminal.read_until("> ")
    terminal.type("once upon\n")
    first = terminal.read_until("\n> ")
    assert "tokens/s" in first
    terminal.type("once upon\n")
    assert prefilled(terminal.read_until("\n> ")) > prefilled(first)  # the conversation is remembered
    terminal.type("/reset\n")
    assert "starts over" in terminal.read_until("\n> ")
    terminal.type("once upon\n")
    assert prefilled(terminal.read_until("\n> ")) == prefilled(first)
    terminal.type("/frob\n")
    assert "/exit ends" in terminal.read_until("\n> ")
    terminal.type("/exit\n")
    assert terminal.finish()[0] == 0
    assert "once upon" in (tmp_path / "state" / "polyllama" / "chat_history").read_text()


def prefilled(text: str) -> int:
    match = re.search(r"prefill (\d+) tokens", text)
    assert match, text
    return int(match[1])


@pytest.mark.parametrize(("key", "code"), [("\x04", 0), ("\x03", 130)])
def test_leaving_a_chat_with_a_key(chat_checkpoint: Path, key: str, code: int) -> None:
    terminal = Terminal("chat", str(chat_checkpoint), *REFERENCE)
    terminal.read_until("> ")
    time.sleep(0.5)  # Python's readline misses an interrupt in the moment between showing the prompt and waiting
    terminal.type(key)
    got, out = terminal.finish()
    assert got == code and "Traceback" not in out


def test_stopping_an_answer_keeps_the_chat(chat_checkpoint: Path) -> None:
    slow = ("--max-new-tokens", "100000", "--min-new-tokens", "100000", "--set", "max_position_embeddings=200000")
    terminal = Terminal("chat", str(chat_checkpoint), *slow, *REFERENCE)
    terminal.read_until("> ")
    terminal.type("once upon\n")
    time.sleep(1)
    terminal.type("\x03")
    assert "(stopped; " in terminal.read_until("\n> ")
    terminal.type("/exit\n")
    code, out = terminal.finish()
    assert code == 0 and "Traceback" not in out


def test_escape_sequences_from_a_model_do_not_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\x1b]0;title\x07\tb\nc\x9b2J"
    for is_terminal, expected in ((True, "a\\x1b]0;title\\x07\tb\nc\\x9b2J"), (False, text)):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda answer=is_terminal: answer)
        monkeypatch.setattr(sys, "stdout", stream)
        write_text(text)
        monkeypatch.undo()
        assert stream.getvalue() == expected


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


def test_starting_up_loads_only_what_it_needs(checkpoint: Path) -> None:
    code = (
        "import sys; from polyllama.__main__ import main\n"
        f"code = main(['run', {str(checkpoint)!r}, 'once', '--max-new-tokens', '2', '--backend', 'reference'])\n"
        "bad = ('torch', 'transformers', 'rich', 'huggingface_hub', 'tokenizers', 'pydantic_settings')\n"
        "print(code, [m for m in bad if m in sys.modules])"
    )
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


# broken surroundings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("models >&-", 0, ""),
        ("models 2>&-", 0, ""),
        ("version <&- >&- 2>&-", 0, ""),
        ("run tiny <&-", 1, "error: standard input is closed; give the text as an argument, or pipe it in\n"),
        ("tokenize tiny <&-", 1, "error: standard input is closed; give the text as an argument, or pipe it in\n"),
        ("chat tiny <&-", 1, "error: standard input is closed; give the text as an argument, or pipe it in\n"),
        ("version >/dev/full", 1, "error: No space left on device\n"),
    ],
)
def test_standard_streams_that_are_closed_or_full(command: str, code: int, said: str) -> None:
    done = run_process(
        ["sh", "-c", f'exec "$0" -m polyllama {command}', sys.executable], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.replace("standard output: ", "")) == (code, said)


def test_broken_settings_cost_only_what_needs_settings(call: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "polyllama.yaml").write_text("bakend: torch\n")
    mistake = "there is no setting 'bakend'; did you mean backend?"
    assert call("version")[0] == 0 and call("version")[2] == ""
    for arguments in ((), ("--help",)):
        code, out, err = call(*arguments)
        assert code == 0 and all(f"  {name} " in out for name in COMMANDS)
        assert err.startswith("warning: only built-in commands are listed") and mistake in err and err.count("\n") == 1
    for arguments in (("models",), ("run", "tiny", "x"), ("config",), ("plugins",), ("somebodys-command",)):
        code, out, err = call(*arguments)
        assert (code, out) == (1, "") and err.startswith("error: ") and err.endswith(f"{mistake}\n"), err


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


def test_help_says_how_to_quantize(call: Callable[..., Outcome]) -> None:
    assert re.search(r"--quantize HOW +Quantize weights while loading: int4, int8", call("run", "--help")[1])
