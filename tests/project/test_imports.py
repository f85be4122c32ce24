"""What importing costs: `import polyllama`, core/ and plugins load no framework. Floors are lint-imports'."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import polyllama
import pytest
from support_processes import run_process

ROOT = Path(polyllama.__file__).parent
FRAMEWORKS = ("torch", "mlx", "jax", "transformers")
HEAVY = (*FRAMEWORKS, "numpy", "pydantic", "pluggy", "tokenizers", "sentencepiece", "huggingface_hub", "jinja2", "rich")


def loaded_after(code: str, names: tuple[str, ...]) -> set[str]:
    program = f"{code}\nimport sys\nprint(*[n for n in {names!r} if n in sys.modules])"
    done = run_process([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_polyllama_loads_nothing_heavy() -> None:
    assert loaded_after("import polyllama", HEAVY) == set()
    assert loaded_after("import polyllama, numpy", HEAVY) == {"numpy"}  # the look itself works


def test_the_class_of_models_loads_no_arrays_before_a_model_is_loaded() -> None:
    assert loaded_after("from polyllama import Llama", ("numpy", *FRAMEWORKS)) == set()


def test_every_public_name_is_there() -> None:
    for name in polyllama.__all__:
        assert getattr(polyllama, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Lama'"):
        _ = polyllama.Lama  # type: ignore[attr-defined]


def test_loading_on_the_reference_backend_loads_no_framework(tmp_path: Path) -> None:
    code = (
        "from polyllama import Llama, LlamaConfig\n"
        "c = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_attention_heads=2)\n"
        "llm = Llama.load(c, load_format='dummy', backend='reference')\n"
        "llm.forward([[1, 2]])\n"
    )
    assert loaded_after(code, (*FRAMEWORKS, "tokenizers", "huggingface_hub", "jinja2", "rich")) == set()


def test_readers_of_other_formats_are_not_imported() -> None:
    names = ("gguf.reader", "meta.reader", "llama2c", "pytorch.pickle_reader", "huggingface.reader")
    modules = tuple(f"polyllama.core.checkpoint.{name}" for name in names)
    code = "from polyllama import Llama\nLlama.load('tiny', backend='reference')"
    assert loaded_after(code, modules) == {"polyllama.core.checkpoint.huggingface.reader"}


def test_yaml_is_for_files_of_users() -> None:
    code = "from polyllama import Llama\nLlama.load('tiny', backend='reference')"
    assert loaded_after(code, ("yaml",)) == set()


def test_writing_a_text_loads_nothing_of_other_tasks_and_formats() -> None:
    names = ("prediction", "tasks.results", "export", "transforms", "planning", "checkpoint.random_values")
    names += ("tokenizer.engines.tiktoken", "tokenizer.engines.tie_groups", "tokenizer.chat.tool_schemas")
    modules = (*(f"polyllama.core.{name}" for name in names), "polyllama.cli.predictions")
    code = (
        "import contextlib, io\nfrom polyllama.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    assert main(['run', 'tiny', 'Once', '--max-new-tokens', '1', '--backend', 'reference']) == 0\n"
    )
    assert loaded_after(code, (*modules, "polyllama.core.generation.loop")) == {"polyllama.core.generation.loop"}


@pytest.mark.parametrize("setting", ["enable", "disable"])
def test_importing_leaves_the_garbage_collector_as_it_was(setting: str) -> None:
    code = f"import gc\ngc.{setting}()\nfrom polyllama import Llama\nprint(gc.isenabled())"
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(setting == "enable")


LISTINGS = [["plugins"], ["plugins", "--json"], ["backends"], ["backends", "--json"], ["models"], ["--help"]]


@pytest.mark.parametrize("command", LISTINGS, ids=" ".join)
def test_listings_load_no_framework(command: list[str], tmp_path: Path) -> None:
    code = (
        "import contextlib, io, os\n"
        f"os.chdir({str(tmp_path)!r})\n"
        f"os.environ |= {{'XDG_CONFIG_HOME': {str(tmp_path)!r}}}\n"
        "for name in [n for n in os.environ if n.upper().startswith('POLYLLAMA_')]: del os.environ[name]\n"
        "from polyllama.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as shown:\n"
        f"    assert main({command!r}) == 0\n"
        "assert len(shown.getvalue()) > 100"
    )
    # Checking registry files strictly takes pydantic; listing what plugins offer reads no file.
    allowed = {"pluggy", "pydantic"} if command == ["models"] else {"pluggy"}
    assert (
        loaded_after(code, (*HEAVY, "asyncio", "polyllama.core.checkpoint", "polyllama.core.forward.forward"))
        <= allowed
    )


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Dotted names a module imports, relative ones resolved to polyllama's; and whether at module level."""
    package = path.relative_to(ROOT).parent.parts
    found = []
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ("polyllama", *package[: len(package) - node.level + 1]) if node.level else ()
            found.append((".".join([*base, *([node.module] if node.module else [])]), id(node) in top))
    return found


CORE = sorted((ROOT / "core").rglob("*.py"))
# The contenders of `polyllama bench` are frameworks; nothing else of the plugins and the command line is.
PLUGINS = [path for path in sorted((ROOT / "plugins").rglob("*.py")) if path.parent != ROOT / "plugins" / "bench"]
PLUGINS += sorted((ROOT / "cli").rglob("*.py"))


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_core_contains_no_framework(path: Path) -> None:
    for name, _ in imports_of(path):
        assert name.partition(".")[0] not in FRAMEWORKS, name


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: str(p.relative_to(ROOT)))
def test_plugins_contain_no_framework(path: Path) -> None:
    for name, _ in imports_of(path):
        assert name.partition(".")[0] not in FRAMEWORKS, name


def test_the_torch_backend_imports_torch_only_when_it_realizes() -> None:
    assert (
        loaded_after("import polyllama.backends.torch.backend as b; b.TorchBackend().availability()", ("torch",))
        == set()
    )


FOLDERS = ("core", "backends", "plugins", "cli", "integrations", "testing", "utils")
HOUSE = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def private_imports(code: str) -> list[str]:
    """Names with a leading underscore that `code` takes from another Python module of ours."""
    return [
        alias.name
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
        if alias.name.startswith("_") and alias.name != "_kernels"  # the extension module
    ]


def test_private_names_stay_in_their_module() -> None:
    assert private_imports("from .a import _b, c\nfrom . import _kernels") == ["_b"]
    found = {str(path.relative_to(ROOT)): private_imports(path.read_text()) for path in HOUSE}
    assert {path: names for path, names in found.items() if names} == {}


def test_this_check_would_see_an_import() -> None:
    names = [name for name, _ in imports_of(ROOT / "backends" / "torch" / "model.py")]
    assert "torch" in names and "polyllama.core.errors" in names
