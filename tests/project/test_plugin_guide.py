"""docs/plugins.md: the head of whole texts in it works, and its lists of nodes and of members are the code's."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polyllama
import pytest
from polyllama import Llama, LlamaConfig
from polyllama.core.plugin_system.manager import reset_plugins
from polyllama.core.public import defined_in
from polyllama.extend import Context, InputError, NodeDescriptor, TaskDescriptor, hookimpl, plugin_manager
from polyllama.testing.candidate import Candidate
from polyllama.testing.catalogue import all_checks
from polyllama.testing.checks import run_check
from sabotage import SpecBackend
from tiny_models import ALL_BACKENDS, SIZES

GUIDE = (Path(polyllama.__file__).parent / "docs" / "plugins.md").read_text()
ROWS = [[5, 9, 33, 7], [11, 3], [8, 21, 40]]


def test_the_nodes_that_may_be_overridden_are_those_there_are() -> None:
    table = GUIDE.partition("<!-- nodes: begin -->")[2].partition("<!-- nodes: end -->")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    ours = [
        name
        for name, found in plugin_manager().nodes().items()
        if defined_in(found.load()).startswith("polyllama.core")
    ]
    assert len(listed) == len(set(listed)) and sorted(listed) == sorted(ours)


def test_the_members_of_a_context_are_there() -> None:
    listed = set(re.findall(r"^\| `ctx\.(\w+)", GUIDE, re.MULTILINE))
    context = Context(np, {}, np.zeros((1, 1)), lambda rope: rope)
    assert {"attended", "input_ids", "run", "widen"} <= listed
    assert not [name for name in listed if not hasattr(context, name)]


@pytest.fixture(scope="module", autouse=True)
def guides_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The page's code as a module, registered."""
    [code] = [block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "class Grade(Task)" in block]
    folder = tmp_path_factory.mktemp("site")
    (folder / "guides_head.py").write_text(code)
    sys.path.insert(0, str(folder))

    class Registered:
        @hookimpl
        def polyllama_tasks(self) -> list[TaskDescriptor]:
            return [TaskDescriptor("grade", "guides_head:Grade", "grades", architectures=("LlamaForGrading",))]

        @hookimpl
        def polyllama_nodes(self) -> list[NodeDescriptor]:
            return [NodeDescriptor("Largest", "guides_head:Largest")]

    reset_plugins()
    plugin_manager().register(Registered(), "guide")
    yield
    reset_plugins()
    sys.path.remove(str(folder))
    sys.modules.pop("guides_head", None)


def padded(side: str) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = np.zeros((2, 3, 6), np.int64)
    for index, row in enumerate(ROWS):
        start = {"left": 6 - len(row), "right": 0, "both": 1}[side]
        ids[index, start : start + len(row)], mask[index, start : start + len(row)] = row, 1
    return ids, mask


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_its_head_of_whole_texts(backend: str, tmp_path: Path) -> None:
    """Padded on any side a row gets what it gets alone, and so does the loss; saved, it comes back."""
    config = LlamaConfig(**(SIZES | {"num_hidden_layers": 1, "pad_token_id": 0, "initializer_range": 0.3}))
    llm = Llama.load(config, task="grade", load_format="dummy", backend=backend)
    alone = np.concatenate([llm.forward([row]).numpy()["logits"] for row in ROWS])
    wanted = float(np.mean((alone[:, 0] - [1, 2, 3]) ** 2))
    for side in ("left", "right", "both"):
        ids, mask = padded(side)
        found = llm.forward(ids, attention_mask=mask, labels=[1.0, 2.0, 3.0])
        assert np.allclose(found.numpy()["logits"], alone, rtol=1e-4, atol=1e-5)
        assert float(found.loss) == pytest.approx(wanted, rel=1e-4)
        if side == "right":  # padding told by its id alone is looked at by what comes after it
            assert np.allclose(llm.forward(ids).numpy()["logits"], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"labels have shape \[3, 1\], wanted \[3\]; give one grade per text"):
        llm.forward(ids, attention_mask=mask, labels=[[1.0]] * 3)
    again = Llama.load(llm.save(tmp_path), backend="reference")
    assert again.task == "grade"
    assert np.allclose(again.forward(ids, attention_mask=mask).numpy()["logits"], alone, rtol=1e-4, atol=1e-5)


def test_the_kit_tries_its_loss() -> None:
    result = run_check(all_checks()["task.grade"], Candidate(SpecBackend(), "float32"))
    assert result.status == "passed" and result.bound > 0
