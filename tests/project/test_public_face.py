"""``polyllama`` and ``polyllama.extend``: what they offer, where names are at home, that strangers need no more."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import sys
import typing
from pathlib import Path
from typing import Any

import polyllama
import polyllama.extend
import pydantic
import pytest
from polyllama.core.public import defined_in
from support_processes import run_process

ROOT = Path(polyllama.__file__).parent
FACES = {"polyllama": ROOT / "__init__.py", "polyllama.extend": ROOT / "extend.py"}


def typed(path: Path) -> set[str]:
    """Names that type checkers see: those imported under TYPE_CHECKING."""
    [block] = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.If)]
    ours = [node for node in block.body if isinstance(node, ast.ImportFrom) and node.level]
    return {alias.name for node in ours for alias in node.names}


def objects() -> list[tuple[str, str, Any]]:
    """Face, name and object of every public class and function; those of both faces once, at ``polyllama``."""
    found = {}
    for face in reversed(FACES):
        module = sys.modules[face]
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, type) or inspect.isfunction(thing):
                found[name] = (face, name, thing)
    return [entry for name, entry in found.items() if name not in DATA]


DATA = {"Array", "Measure", "Override", "hookimpl", "json_option", "load_options", "model_argument"}
DATA |= {"source_options", "task_options"}  # types of others, objects of pluggy's and click's


# what is offered -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
def test_names_that_run_are_those_that_type_checkers_see(face: str) -> None:
    names = sys.modules[face].__all__
    assert len(names) == len(set(names)) and set(names) - {"__version__"} == typed(FACES[face])
    assert dir(sys.modules[face]) == sorted(names)
    for name in names:
        assert getattr(sys.modules[face], name) is not None
    with pytest.raises(AttributeError, match=f"module '{face}' has no attribute 'Lama'"):
        _ = sys.modules[face].Lama


def test_what_polyllama_offers() -> None:
    assert set(polyllama.__all__) == {
        *("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForQuestionAnswering"),
        *("AutoModelForSequenceClassification", "AutoModelForTokenClassification", "TorchAoConfig"),
        *("GenerateBeamDecoderOnlyOutput", "GenerateDecoderOnlyOutput", "GenerationConfig", "TextIteratorStreamer"),
        *("TextStreamer", "ToolCall", "set_seed"),
        *("AddedToken", "AutoTokenizer", "BatchEncoding", "DynamicCache", "StaticCache"),
        *("LogitsProcessor", "LogitsProcessorList", "MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor"),
        *("NoRepeatNGramLogitsProcessor", "RepetitionPenaltyLogitsProcessor", "SuppressTokensLogitsProcessor"),
        *("TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "StoppingCriteria"),
        *("StoppingCriteriaList", "EosTokenCriteria", "MaxLengthCriteria", "MaxTimeCriteria", "StopStringCriteria"),
        *("AttentionMaskVisualizer", "FlaxLlamaForCausalLM", "FlaxLlamaModel", "Generation", "Llama", "LlamaConfig"),
        *("LlamaForCausalLM", "LlamaForQuestionAnswering", "LlamaForSequenceClassification"),
        *("LlamaForTokenClassification", "LlamaModel", "LlamaTokenizer", "LlamaTokenizerFast", "PolyllamaError"),
        *("PolyllamaWarning", "RopeParameters", "__version__", "convert", "hookimpl", "pipeline"),
        *("GenerateBeamDecoderOnlyOutput", "GenerateDecoderOnlyOutput", "GenerationConfig", "TextIteratorStreamer"),
        *("TextStreamer", "ToolCall", "set_seed"),
    }


def test_the_guide_lists_every_name_of_extend_and_no_other() -> None:
    guide = (ROOT / "docs" / "plugins.md").read_text()
    table = guide.partition("<!-- names: begin -->")[2].partition("<!-- names: end -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(polyllama.extend.__all__)
    assert all(len(line) > 10 for _, line in rows)


def test_importing_extend_loads_nothing_heavy() -> None:
    heavy = ["torch", "mlx", "jax", "transformers", "numpy", "pydantic", "pluggy", "tokenizers", "click", "rich"]
    code = f"import polyllama.extend, sys; print([n for n in {heavy} if n in sys.modules])"
    assert run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = (
        "import polyllama.extend as e, sys\n"
        "for name in e.__all__: getattr(e, name)\n"
        f"print([n for n in {heavy[:4]} if n in sys.modules], 'numpy' in sys.modules)"
    )
    assert run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[] True\n"


# homes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("face", "name", "thing"), objects(), ids=lambda v: v if isinstance(v, str) else "")
def test_a_public_name_shows_its_home(face: str, name: str, thing: Any) -> None:
    assert (thing.__module__, thing.__qualname__) == (face, name)
    home = defined_in(thing)
    assert home.startswith("polyllama.") and vars(sys.modules[home])[name] is thing
    assert pickle.loads(pickle.dumps(thing)) is thing
    if isinstance(thing, type):
        assert repr(thing) == f"<class '{face}.{name}'>"


def test_methods_and_functions_are_found_and_no_class_is_taken_for_another() -> None:
    assert "\ndef convert(" in inspect.getsource(polyllama.convert)
    assert "def load(" in inspect.getsource(polyllama.Llama.load)
    assert "xp.tanh" not in inspect.getsource(polyllama.extend.Linear.apply)
    for thing in (polyllama.Llama, polyllama.extend.Linear):
        with pytest.raises(OSError, match=r"could not find class definition|source code not available"):
            inspect.getsource(thing)
        assert f"class {thing.__name__}(" in inspect.getsource(sys.modules[defined_in(thing)])


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("from polyllama.core.errors import InputError as error; raise error('no')", "polyllama.extend.InputError: no"),
        ("import polyllama; polyllama.Llama.load('tiny', backend='nope')", "polyllama.extend.BackendError: no backend"),
        ("import polyllama.core.api.llama as m; raise SystemExit(repr(m.Llama))", "<class 'polyllama.Llama'>"),
    ],
)
def test_the_home_is_shown_though_nobody_has_asked_it_for_the_name(code: str, shown: str) -> None:
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(shown)
    assert "polyllama.core" not in done.stderr.splitlines()[-1]


def test_annotations_are_read_where_they_were_written() -> None:
    hints = typing.get_type_hints(polyllama.Generation)
    assert hints["text"] is str and hints["finish_reason"] == typing.Literal["stop", "length"]
    assert typing.get_type_hints(polyllama.extend.Attention)["rope"] is polyllama.extend.Rope

    class Answer(pydantic.BaseModel):
        """What a server might send."""

        generation: polyllama.Generation

    schema = Answer.model_json_schema()["$defs"]["Generation"]["properties"]
    assert schema["finish_reason"]["enum"] == ["stop", "length"] and schema["token_ids"]["type"] == "array"

    class Configured(polyllama.LlamaConfig):
        """A configuration with a field of its own."""

    small = Configured(hidden_size=8, num_attention_heads=2)
    assert small.hidden_size == 8 and pickle.loads(pickle.dumps(polyllama.LlamaConfig(vocab_size=9))).vocab_size == 9


# strangers -----------------------------------------------------------------------------------------------------------

IMPORT = re.compile(r"^\s*(?:from|import)\s+(polyllama(?:\.\w+)*)(?:\s+import\s+(\([^)]*\)|[\w, ]+))?", re.MULTILINE)
ALLOWED = {"polyllama", "polyllama.extend", "polyllama.testing", "polyllama.integrations.lm_eval"}
PACKAGE = re.compile(r"@hookimpl|hookimpl =|import [^\n]*hookimpl|\(Node\)|\(Task\)")


def deeper(text: str) -> list[str]:
    """Modules that a text imports from beneath the public face."""
    found = []
    for module, names in IMPORT.findall(text):
        inner = (
            {f"{module}.{name.strip()}" for name in names.strip("()").split(",")} if module == "polyllama" else set()
        )
        found += [module] if module not in ALLOWED else [name for name in inner if name.count(".") and is_module(name)]
    return [name for name in found if name not in ALLOWED]


def is_module(name: str) -> bool:
    return (ROOT / name.partition(".")[2]).is_dir() and name not in ALLOWED


def strangers() -> dict[str, str]:
    """Code of other packages: the documents' blocks, the examples, and packages that tests write."""
    found = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "examples").rglob("*.py")}
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        found |= {f"{path.relative_to(ROOT)}[{number}]": block for number, block in enumerate(blocks)}
    for path in (ROOT / "tests").rglob("*.py"):
        if path != Path(__file__):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and PACKAGE.search(node.value):
                    found[f"{path.relative_to(ROOT)}:{node.lineno}"] = node.value
    return found


def test_strangers_import_nothing_beneath_the_public_face() -> None:
    code = strangers()
    kinds = [sum(name.startswith(kind) for name in code) for kind in ("examples", "docs/plugins.md", "README", "tests")]
    assert min(kinds) >= 5, kinds
    assert {name: found for name, text in code.items() if (found := deeper(text))} == {}


def test_this_look_sees_deeper_imports() -> None:
    assert deeper("import polyllama.core.plugin_system.hookspecs as p\n") == ["polyllama.core.plugin_system.hookspecs"]
    assert deeper("x = 1\n    from polyllama.core.errors import InputError\n") == ["polyllama.core.errors"]
    assert deeper("from polyllama import core, Llama\n") == ["polyllama.core"]
    assert deeper("from polyllama import Llama, extend\nfrom polyllama.testing import ConformanceSuite\n") == []
