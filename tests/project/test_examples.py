"""The example packages as a stranger has them: wheels, installed by pip into a fresh environment, used, uninstalled.

And packages that are broken, each in its own way, in an environment of theirs: each is named, and the rest goes on.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polyllama
import pytest
from polyllama import Llama, LlamaConfig
from support_processes import run_process
from tiny_models import relative_error

ROOT = Path(polyllama.__file__).parent
EXAMPLES = ROOT / "examples"
BACKEND, SCORER = EXAMPLES / "polyllama-numpy32", EXAMPLES / "polyllama-perplexity"
FORMAT, NODE = EXAMPLES / "polyllama-npz", EXAMPLES / "polyllama-softcap"
NOT_SOURCE = (
    "tests",
    "benchmarks",
    "docs",
    "examples",
    "tools",
    "build",
    "dist",
    "*.so",
    ".*",
    "*.egg-info",
    "__pycache__",
)
FRAMEWORKS = ("torch", "mlx", "jax", "jaxlib", "transformers", "tensorflow", "numpy")
PROMPT = "Once upon a time"

pytestmark = pytest.mark.long


def call(*command: object, check: bool = True, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that sees nothing of whoever runs the tests, in a folder from which nothing can be imported."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("POLYLLAMA_", "PIP_", "PYTHON", "VIRTUAL_ENV"))
    }
    isolated = {"PYTHONNOUSERSITE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1"}
    done = run_process(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        input=stdin,
        cwd=environment.pop("cwd", "/"),
        env={**inherited, **isolated, **environment},
        timeout=120,
    )
    assert not check or done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class Environment:
    """A virtual environment that borrows the libraries of this one, but nothing of polyllama."""

    def __init__(self, folder: Path, *wheels: Path) -> None:
        self.folder, self.empty = folder, folder / "empty"
        call(sys.executable, "-m", "venv", "--without-pip", folder)
        scheme = {"base": str(folder), "platbase": str(folder)}
        self.packages = Path(sysconfig.get_path("purelib", "venv", scheme))
        scripts = Path(sysconfig.get_path("scripts", "venv", scheme))
        self.python, self.polyllama = scripts / "python", scripts / "polyllama"
        borrowed = folder / "borrowed"
        for made in (self.empty, borrowed):
            made.mkdir()
        for place in dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))):
            for library in Path(place).iterdir():
                if not library.name.startswith(("polyllama", "__editable__")) and library.suffix != ".pth":
                    (borrowed / library.name).symlink_to(library)
        (self.packages / "borrowed.pth").write_text(f"{borrowed}\n")
        self.install(*wheels)

    def run(
        self, *arguments: object, check: bool = True, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """The command line."""
        own = {"XDG_CONFIG_HOME": str(self.empty), "XDG_STATE_HOME": str(self.empty), "HF_HUB_OFFLINE": "1"}
        return call(self.polyllama, *arguments, check=check, stdin=stdin, cwd=str(self.empty), **own, **environment)

    def json(self, *arguments: object, **environment: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.run(*arguments, "--json", **environment).stdout)

    def execute(self, code: str) -> Any:
        """Run Python that prints JSON last."""
        done = call(self.python, "-c", textwrap.dedent(code), cwd=str(self.empty), XDG_CONFIG_HOME=str(self.empty))
        return json.loads(done.stdout.splitlines()[-1])

    def install(self, *wheels: Path) -> None:
        call(self.python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", *wheels)

    def uninstall(self, *distributions: str) -> None:
        call(self.python, "-m", "pip", "uninstall", "-q", "-y", *distributions)

    def plugins(self) -> dict[str, dict[str, Any]]:
        """Rows of ``polyllama plugins`` by name."""
        return {row["name"]: row for row in self.json("plugins")["plugins"]}

    def backends(self) -> dict[str, dict[str, Any]]:
        """Rows of ``polyllama backends`` by name."""
        return {row["name"]: row for row in self.json("backends")["backends"]}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of polyllama and one of each example, built from copies, because a build writes into its source."""
    folder = tmp_path_factory.mktemp("wheels")
    copies = []
    for source in (ROOT, BACKEND, SCORER, FORMAT, NODE):
        copies.append(folder / "source" / source.name)
        ignore = NOT_SOURCE if source is ROOT else NOT_SOURCE[-3:]
        shutil.copytree(source, copies[-1], ignore=shutil.ignore_patterns(*ignore))
    # Without the native kernels: compiling them takes longer than all tests of this file.
    command = (sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", folder, *copies)
    call(*command, POLYLLAMA_BUILD_KERNELS="0")
    return {wheel.name.partition("-")[0]: wheel for wheel in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def stranger(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with polyllama and every example; tests only look at it."""
    return Environment(tmp_path_factory.mktemp("stranger") / "env", *wheels.values())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        attention_bias=True,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=None,
    )
    llm = Llama.load(config, load_format="dummy", backend="reference", dtype="float32")
    random = np.random.default_rng(0)
    for name, weight in llm.model.engine.weights.items():  # type: ignore[attr-defined]
        if "norm" in name or "bias" in name:  # a fresh model's do nothing, and leaving them out would not show
            weight[...] += random.uniform(-0.5, 0.5, size=weight.shape)
    llm.save(folder)
    shutil.copy(SCORER / "polyllama_perplexity" / "uniform-bytes" / "tokenizer.json", folder)
    return folder


# the packages --------------------------------------------------------------------------------------------------------


def test_the_example_backend_is_small() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (BACKEND / "polyllama_numpy32").glob("*.py"))
    assert 0 < lines <= 60


def test_wheels_hold_the_package_and_nothing_else(wheels: dict[str, Path]) -> None:
    assert set(wheels) == {"polyllama", *(f"polyllama_{name}" for name in ("npz", "numpy32", "perplexity", "softcap"))}
    for package, wheel in wheels.items():
        names = zipfile.ZipFile(wheel).namelist()
        assert {name.partition("/")[0].partition("-")[0] for name in names} == {package}
        assert f"{package}/__init__.py" in names
    names = zipfile.ZipFile(wheels["polyllama"]).namelist()
    assert {"polyllama/registry.yaml", "polyllama/py.typed", "polyllama/core/plugin_system/manager.py"} <= set(names)
    assert not {name.split("/")[1] for name in names} & {"tests", "benchmarks", "docs", "examples", "tools"}


def test_what_runs_comes_from_the_wheels(stranger: Environment) -> None:
    code = """
        import json, polyllama, polyllama_numpy32, polyllama_perplexity as scorer
        print(json.dumps([m.__file__ for m in (polyllama, polyllama_numpy32, scorer)]))
    """
    for file in stranger.execute(code):
        assert Path(file).is_relative_to(stranger.packages)


# listing -------------------------------------------------------------------------------------------------------------


def test_they_are_listed(stranger: Environment) -> None:
    done = stranger.run("plugins", "--json")
    assert done.stderr == ""
    found = {row["name"]: row for row in json.loads(done.stdout)["plugins"]}
    assert {row["state"] for row in found.values()} == {"ok"}
    assert found["numpy32"]["distribution"] == "polyllama-numpy32" and found["numpy32"]["version"] == "1.0"
    assert found["numpy32"]["offers"] == {"backend": ["numpy32"]}
    offers = {"task": ["perplexity"], "command": ["perplexity"], "registry": ["perplexity"]}
    assert found["perplexity"]["offers"] == offers
    row = stranger.backends()["numpy32"]
    assert row["usable"] and row["devices"] == ["cpu"] and row["plugin"] == "numpy32"
    assert "perplexity  " in stranger.run("--help").stdout


def loaded_by(environment: Environment, code: str) -> set[str]:
    program = f"{code}\nimport sys, json\nprint(json.dumps([m for m in {FRAMEWORKS!r} if m in sys.modules]))"
    return set(environment.execute(program))


def test_listing_imports_no_framework(stranger: Environment) -> None:
    listing = """
from polyllama.cli.main import main
for command in (["plugins"], ["plugins", "--json"], ["backends"], ["backends", "--json"], ["--help"]):
    assert main(command) == 0
"""
    assert loaded_by(stranger, listing) == set()
    assert loaded_by(stranger, "import polyllama_numpy32.backend, polyllama_perplexity.task") == set()
    assert loaded_by(stranger, "import numpy") == {"numpy"}  # the look itself works


# the backend ---------------------------------------------------------------------------------------------------------


def test_generating_on_the_third_party_backend(stranger: Environment, model: Path) -> None:
    options = ("--temperature", 0.8, "--seed", 7, "--max-new-tokens", 24)
    ours = stranger.json("run", model, PROMPT, "--backend", "numpy32", *options)
    exact = stranger.json("run", model, PROMPT, "--backend", "reference", *options)
    assert (ours["backend"], ours["device"], ours["dtype"]) == ("numpy32", "cpu", "float32")
    assert exact["dtype"] == "float64"
    assert len(set(ours["token_ids"])) > 5
    assert ours["token_ids"] == exact["token_ids"]


def test_its_numbers_are_those_of_the_reference(stranger: Environment, model: Path) -> None:
    ids, mask = [[7, 8, 9, 10, 11], [0, 0, 30, 31, 32]], [[1] * 5, [0, 0, 1, 1, 1]]
    code = f"""
        import json
        from polyllama import Llama
        llm = Llama.load({str(model)!r}, backend="numpy32")
        first = llm.forward({ids}, attention_mask={mask}, use_cache=True)
        then = llm.forward([[12], [33]], past_key_values=first.past_key_values)
        assert first.logits.dtype == "float32", first.logits.dtype
        print(json.dumps([first.numpy()["logits"].tolist(), then.numpy()["logits"].tolist()]))
    """
    found = [np.array(part) for part in stranger.execute(code)]
    exact = Llama.load(model, backend="reference").forward(
        [[*row, new] for row, new in zip(ids, (12, 33), strict=True)],
        attention_mask=[[*row, 1] for row in mask],
    )["logits"]
    assert relative_error(found[0][0], exact[0, :5]) < 1e-5
    assert relative_error(found[0][1, 2:], exact[1, 2:5]) < 1e-5
    assert relative_error(found[1], exact[:, 5:]) < 1e-5


def test_it_refuses_what_it_cannot_do(stranger: Environment, model: Path) -> None:
    for option, value, message in (
        ("--dtype", "bfloat16", "numpy32 computes in float32, not in bfloat16"),
        ("--device", "cuda", "it has no device 'cuda', only cpu"),
    ):
        done = stranger.run("run", model, PROMPT, "--backend", "numpy32", option, value, check=False)
        assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1


def test_it_certifies(stranger: Environment, tmp_path: Path) -> None:
    stranger.run("certify", "numpy32", "--json", tmp_path / "certificate.json")
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert certificate["passed"] and certificate["dtypes"] == ["float32"]
    statuses = {check["check"]: check["status"] for check in certificate["checks"]}
    assert statuses["task.perplexity"] == "passed"  # the other package's head, on this one's backend
    assert set(statuses.values()) <= {"passed", "skipped"} and len(statuses) > 20


def test_its_own_conformance_suite_passes(stranger: Environment, tmp_path: Path) -> None:
    suite = BACKEND / "tests" / "test_conformance.py"
    options = ("-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-k", "task or cache")
    done = call(stranger.python, "-B", "-m", "pytest", *options, suite, cwd=str(tmp_path))
    assert re.search(r"^[1-9]\d* passed", done.stdout, re.MULTILINE) and "failed" not in done.stdout


# the task, the command, the registry ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy32", "reference", "torch"])
def test_the_command_on_a_model_of_known_perplexity(stranger: Environment, backend: str) -> None:
    result = stranger.json("perplexity", "uniform-bytes", "naïve", "--backend", backend)
    assert result["backend"] == backend
    assert result["tokens"] == ["n", "a", "Ã", "¯", "v", "e"]
    assert result["perplexity"] == pytest.approx(256, rel=1e-6)
    assert result["surprisals"] == pytest.approx([math.log(256)] * 5, rel=1e-6)


def test_the_command_agrees_with_the_language_model(stranger: Environment, model: Path) -> None:
    result = stranger.json("perplexity", model, PROMPT, "--backend", "numpy32")
    llm = Llama.load(model, backend="reference")
    ids = llm.tokenizer.encode(PROMPT)
    logits = llm.forward([ids])["logits"][0].astype(np.float64)
    log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    wanted = [-log_probs[place, after] for place, after in enumerate(ids[1:])]
    assert np.std(wanted) > 0.5  # a model without an opinion would prove nothing
    assert result["surprisals"] == pytest.approx(wanted, abs=1e-4)
    assert result["perplexity"] == pytest.approx(math.exp(np.mean(wanted)), rel=1e-4)
    shown = stranger.run("perplexity", model, "--backend", "reference", stdin=f"{PROMPT}\n").stdout.splitlines()
    assert len(shown) == len(ids) and shown[-1].startswith(f"perplexity {result['perplexity']:.4g} over")


def test_its_result_is_what_predict_pipelines_and_run_give(stranger: Environment, model: Path) -> None:
    texts = [PROMPT, "The end"]
    wanted = [stranger.json("perplexity", model, text, "--backend", "numpy32")["surprisals"] for text in texts]
    code = f"""
        import json
        from polyllama import pipeline
        ask = pipeline("perplexity", model={str(model)!r}, backend="numpy32")
        print(json.dumps([ask({texts!r}), [list(one.surprisals) for one in ask.model.predict({texts!r})]]))
    """
    plain, batched = stranger.execute(code)
    shown = stranger.json("run", model, *texts, "--task", "perplexity", "--backend", "numpy32")["results"]
    for found in ([row["surprisals"] for row in plain], batched, [row["result"]["surprisals"] for row in shown]):
        for one, other in zip(found, wanted, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
    table = stranger.run("run", model, PROMPT, "--task", "perplexity", "--backend", "numpy32").stdout
    assert [line.split()[0] for line in table.splitlines()] == ["tokens", "surprisals", "perplexity"]


def test_mistakes_with_the_command_are_one_line(stranger: Environment) -> None:
    for arguments, code, message in (
        (("uniform-bytes", "x", "--backend", "numpy32"), 1, "the text has 1 tokens, and the first is not predicted"),
        (("uniform-byte", "text"), 1, "did you mean 'uniform-bytes'?"),
        ((), 2, "Missing argument 'MODEL'"),
    ):
        done = stranger.run("perplexity", *arguments, check=False)
        assert done.returncode == code and message in done.stderr and done.stderr.count("\n") == 1


def test_the_task_from_python_and_through_a_saved_checkpoint(
    stranger: Environment, model: Path, tmp_path: Path
) -> None:
    code = f"""
        import json
        from polyllama import Llama
        llm = Llama.load({str(model)!r}, task="perplexity", backend="numpy32")
        out = llm.forward([[7, 8, 9]], labels=[[7, 8, 9]])
        llm.save({str(tmp_path)!r})
        again = Llama.load({str(tmp_path)!r}, backend="numpy32")
        same = again.forward([[7, 8, 9]], labels=[[7, 8, 9]])
        assert (same.log_probs == out.log_probs).all() and same.loss == out.loss
        print(json.dumps([again.task, again.config.architectures, {{k: v.tolist() for k, v in out.numpy().items()}}]))
    """
    task, architectures, output = stranger.execute(code)
    assert (task, architectures) == ("perplexity", ["LlamaForPerplexity"])
    log_probs = np.array(output["log_probs"][0], np.float64)
    assert np.exp(log_probs).sum(axis=-1) == pytest.approx(1, abs=1e-5)
    assert output["entropy"][0] == pytest.approx(-(np.exp(log_probs) * log_probs).sum(axis=-1), abs=1e-4)
    assert output["loss"] == pytest.approx(-(log_probs[0, 8] + log_probs[1, 9]) / 2, abs=1e-5)


def test_the_registrys_names(stranger: Environment) -> None:
    rows = {row["name"]: row for row in stranger.json("models", "perplexity")}
    own = stranger.packages / "polyllama_perplexity"
    assert rows["uniform-bytes"]["source"] == f"path:{own / 'uniform-bytes'}"
    assert rows["uniform-bytes"]["origin"] == str(own / "registry.yaml")
    options = ("--backend", "numpy32", "--temperature", 0.8, "--seed", 7, "--max-new-tokens", 12)
    judge, tiny = (stranger.json("run", name, PROMPT, *options) for name in ("tiny-judge", "tiny"))
    assert judge["token_ids"] == tiny["token_ids"] and len(judge["token_ids"]) == 12
    story, scrambled = (
        stranger.json("perplexity", "tiny-judge", text, "--backend", "numpy32")["perplexity"]
        for text in ("Once upon a time there was a little girl.", "girl was Once a there time little upon a.")
    )
    assert story < scrambled / 2


def test_a_model_goes_through_the_format_and_back(stranger: Environment, model: Path, tmp_path: Path) -> None:
    stranger.run("convert", model, tmp_path / "npz", "--to", "npz")
    options = ("--backend", "numpy32", "--temperature", 0.8, "--seed", 7, "--max-new-tokens", 8)
    runs = [stranger.json("run", folder, PROMPT, *options)["token_ids"] for folder in (model, tmp_path / "npz")]
    assert runs[0] == runs[1] and len(runs[0]) == 8
    stranger.run("convert", tmp_path / "npz", tmp_path / "back", "--to", "huggingface")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    weights = tmp_path / "npz" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-1000])
    done = stranger.run("run", tmp_path / "npz", PROMPT, check=False)
    assert done.returncode == 1 and "cannot be opened" in done.stderr and done.stderr.count("\n") == 1


def test_a_node_of_a_plugin_caps_logits_on_every_backend(stranger: Environment, model: Path, tmp_path: Path) -> None:
    code = f"""
        import json
        from polyllama import Llama
        plain = Llama.load({str(model)!r}, backend="reference").forward([[7, 8, 9]]).logits
        llm = Llama.load({str(model)!r}, task="softcapped-lm", softcap=50, backend="reference")
        llm.save({str(tmp_path)!r})
        again = Llama.load({str(tmp_path)!r}, backend="numpy32")
        outs = [m.forward([[7, 8, 9]], labels=[[7, 8, 9]]).numpy() for m in (llm, again)]
        print(json.dumps([again.task, plain.tolist(), *([float(o["loss"]), o["logits"].tolist()] for o in outs)]))
    """
    task, plain, (loss, exact), (other_loss, other) = stranger.execute(code)
    capped = 50 * np.tanh(np.array(plain) / 50)
    assert task == "softcapped-lm" and np.array(exact) == pytest.approx(capped, rel=1e-6)
    assert relative_error(np.array(other), capped) < 1e-5 and other_loss == pytest.approx(loss, rel=1e-5)


# gone again ----------------------------------------------------------------------------------------------------------


def test_nothing_is_left_after_uninstalling(wheels: dict[str, Path], model: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env", wheels["polyllama"])
    before = sorted(path.name for path in environment.packages.iterdir())
    listings = [("plugins",), ("backends",), ("models",)]
    without = [environment.json(*listing) for listing in listings]
    environment.install(wheels["polyllama_numpy32"], wheels["polyllama_perplexity"])
    environment.run("run", model, PROMPT, "--backend", "numpy32", "--max-new-tokens", 2)
    assert environment.json("perplexity", "uniform-bytes", "text", "--backend", "numpy32")["perplexity"] > 255
    assert all(environment.json(*listing) != old for listing, old in zip(listings, without, strict=True))

    environment.uninstall("polyllama-numpy32", "polyllama-perplexity")
    assert sorted(path.name for path in environment.packages.iterdir()) == before
    assert [environment.json(*listing) for listing in listings] == without
    for arguments, code, message in (
        (("run", model, PROMPT, "--backend", "numpy32"), 1, "no backend is called 'numpy32'"),
        (("perplexity", model, PROMPT), 2, "There is no command 'perplexity'"),
        (("show", "uniform-bytes"), 1, "uniform-bytes"),
        (("run", model, PROMPT, "--task", "perplexity"), 1, "there is no task 'perplexity'"),
    ):
        done = environment.run(*arguments, check=False)
        assert done.returncode == code and message in done.stderr and done.stderr.count("\n") == 1


# broken packages -----------------------------------------------------------------------------------------------------

HEADER = "from polyllama.extend import BackendDescriptor, TaskDescriptor, hookimpl\n"
FAULTS = {
    "raises-at-import": (
        "raise RuntimeError('out of order')",
        "failed",
        "importing raises_at_import failed with RuntimeError: out of order",
    ),
    "raises-in-hook": (
        "@hookimpl\ndef polyllama_backends():\n    raise OSError('no disk')",
        "problem",
        "polyllama_backends failed with OSError: no disk",
    ),
    "misspelt-hook": (
        "@hookimpl\ndef polyllama_backend():\n    return []",
        "problem",
        "there is no hook 'polyllama_backend'; did you mean 'polyllama_backends'?",
    ),
    "name-clash": (
        "@hookimpl\ndef polyllama_backends():\n    return [BackendDescriptor('numpy32', 'name_clash:X', 'mine')]",
        "problem",
        "backend 'numpy32' is claimed by 2 plugins: "
        "'name-clash' (name-clash 1.2) and 'numpy32' (polyllama-numpy32 1.0)",
    ),
    "no-descriptor": (
        "@hookimpl\ndef polyllama_backends():\n    return [('fast', 'no_descriptor:Fast')]",
        "problem",
        "polyllama_backends must return BackendDescriptors, not ('fast', 'no_descriptor:Fast')",
    ),
    "wrong-kind": (
        "@hookimpl\ndef polyllama_backends():\n    return TaskDescriptor('odd', 'wrong_kind:Odd', 'a task')",
        "problem",
        "polyllama_backends must return BackendDescriptors, not TaskDescriptor(name='odd'",
    ),
    "wrong-target": (
        "@hookimpl\ndef polyllama_backends():\n    return BackendDescriptor('lost', 'wrong_target', 'somewhere')",
        "problem",
        "backend 'lost': the target 'wrong_target' does not say where the code is",
    ),
    "missing-library": (
        "import no_such_accelerator",
        "failed",
        "importing missing_library failed with ModuleNotFoundError: No module named 'no_such_accelerator'",
    ),
}
LATER = """
@hookimpl
def polyllama_backends():
    return [BackendDescriptor("late", "missing_later.backend:Late", "on an accelerator", requires=("no_such_library",))]
"""


def write_wheel(folder: Path, name: str, *, files: dict[str, str]) -> Path:
    """A wheel of pure Python, as the specification has it, with an entry point for polyllama."""
    package = name.replace("-", "_")
    info = f"{package}-1.2.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[polyllama]\n{name} = {package}\n",
    }
    path = folder / f"{package}-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
        wheel.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


@pytest.fixture(scope="module")
def broken(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with polyllama, both examples and a package for each fault."""
    folder = tmp_path_factory.mktemp("broken")
    made = [
        write_wheel(folder, name, files={f"{name.replace('-', '_')}.py": HEADER + source})
        for name, (source, _, _) in FAULTS.items()
    ]
    late = {"missing_later/__init__.py": HEADER + LATER, "missing_later/backend.py": "import no_such_library.kernels"}
    made.append(write_wheel(folder, "missing-later", files=late))
    return Environment(folder / "env", *wheels.values(), *made)


@pytest.fixture(scope="module")
def broken_listing(broken: Environment) -> tuple[dict[str, Any], str, str]:
    """``polyllama plugins`` there: as JSON, its stderr, and for people."""
    done = broken.run("plugins", "--json")
    return json.loads(done.stdout), done.stderr, broken.run("plugins").stdout


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_package_is_named(broken_listing: tuple[dict[str, Any], str, str], fault: str) -> None:
    listing, stderr, for_people = broken_listing
    _, state, message = FAULTS[fault]
    [row] = [row for row in listing["plugins"] if row["name"] == fault]
    assert (row["state"], row["distribution"], row["version"]) == (state, fault, "1.2")
    assert any(message in problem for problem in row["problems"])
    [problem] = [problem for problem in listing["problems"] if fault in problem]
    assert message in problem
    assert f"warning: {problem}" in stderr.splitlines()  # the whole of it on one line
    assert f"! {problem}" in for_people.splitlines()


def test_what_is_not_broken_is_not_blamed(broken_listing: tuple[dict[str, Any], str, str]) -> None:
    listing, stderr, _ = broken_listing
    states = {row["name"]: row["state"] for row in listing["plugins"]}
    fine = {"polyllama-builtin", "perplexity", "npz", "softcap", "missing-later"}
    assert {name for name, state in states.items() if state == "ok"} == fine
    assert len(listing["problems"]) == len(FAULTS) == stderr.count("\n")
    assert "Traceback" not in stderr


def test_everything_else_keeps_working_beside_broken_packages(broken: Environment, model: Path) -> None:
    options = ("--max-new-tokens", 4, "--backend", "reference")
    done = broken.run("run", model, PROMPT, *options, "--json")
    assert len(json.loads(done.stdout)["token_ids"]) == 4
    assert done.stderr.count("warning: ") == len(FAULTS) and "Traceback" not in done.stderr
    assert broken.json("perplexity", "uniform-bytes", "text", *options[2:])["perplexity"] == pytest.approx(256)


def test_a_name_that_two_packages_claim_is_nobodys_until_one_is_blocked(broken: Environment, model: Path) -> None:
    command = ("run", model, PROMPT, "--backend", "numpy32", "--max-new-tokens", 2)
    done = broken.run(*command, check=False)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ") and "'name-clash'" in error and "polyllama-numpy32" in error
    assert "plugins_block" in error
    done = broken.run(*command, POLYLLAMA_PLUGINS_BLOCK=",".join(FAULTS))
    assert "(numpy32 on cpu, float32)" in done.stderr and "warning" not in done.stderr


def test_a_library_that_is_missing_later_is_named_when_it_is_needed(broken: Environment, model: Path) -> None:
    reason = "it needs the library 'no_such_library', which is not installed"
    rows = broken.backends()
    assert not rows["late"]["usable"] and reason in rows["late"]["reason"]
    assert "'missing-later'" in rows["late"]["reason"]
    assert rows["reference"]["usable"]
    done = broken.run("run", model, PROMPT, "--backend", "late", check=False)
    assert done.returncode == 1 and reason in done.stderr.splitlines()[-1]


# the guide -----------------------------------------------------------------------------------------------------------


def test_the_guide_shows_the_files_as_they_are() -> None:
    guide = (ROOT / "docs" / "plugins.md").read_text()
    shown = re.findall(r"^`(examples/\S+)`[^\n]*\n\n```\w+\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert {Path(path).name for path, _ in shown} >= {
        "pyproject.toml",
        "__init__.py",
        "backend.py",
        "test_conformance.py",
        "task.py",
        "command.py",
        "registry.yaml",
    }
    for path, text in shown:
        assert text == (ROOT / path).read_text(), path
    whole = {str(p.relative_to(ROOT)) for p in FORMAT.rglob("*") if p.suffix in (".py", ".toml")}
    assert whole <= {path for path, _ in shown}
