"""Heads of plugins whose parameters are called as other tasks' are: what was trained is what is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from head_models import IDS
from polyllama import Llama, LlamaConfig, PolyllamaWarning
from polyllama.core.checkpoint.tensor_names import HEADS
from polyllama.core.plugin_system.manager import reset_plugins
from polyllama.extend import TaskDescriptor, hookimpl, plugin_manager
from safetensors.numpy import load_file, save_file
from tiny_models import SIZES

MODULE = '''
from collections.abc import Iterator
from dataclasses import dataclass
from polyllama.extend import Chain, Linear, Node, Parameter, Pool, SequenceClassifierOutput, Task

@dataclass(frozen=True)
class Unnamed{cls}(Node):
    """A product with a matrix of its own, of a node without a name."""

    tensor: str
    width: int

    def own_parameters(self) -> Iterator[Parameter]:
        yield Parameter(self.tensor, (1, self.width), "head")

    def apply(self, xp, weights, x, ctx):
        return xp.matmul(x, xp.permute_dims(weights[self.tensor], (1, 0)))

class {cls}(Task):
    name, architecture, output_type, outputs_per = "own-{head}", "LlamaFor{cls}", SequenceClassifierOutput, "row"
    trunk_prefix = ""

    def head(self, config, decoder):
        return Chain((Pool("mean", config.pad_token_id), Linear("{head}", config.hidden_size, 2, True, role="head")))

    def outputs(self, ctx, raw, hidden):
        return {{"logits": ctx.widen(raw)}}

class Bare{cls}({cls}):
    name, architecture = "bare-{head}", "LlamaForBare{cls}"

    def head(self, config, decoder):
        return Chain((Pool("mean", config.pad_token_id), Unnamed{cls}("{head}.weight", config.hidden_size)))
'''


class Own:
    @hookimpl
    def polyllama_tasks(self) -> list[TaskDescriptor]:
        return [
            TaskDescriptor(f"{kind}-{head}", f"own_heads_of_a_test:{cls}", "a head", architectures=(f"LlamaFor{cls}",))
            for head in HEADS
            for kind, cls in (("own", f"Own{head.title()}"), ("bare", f"BareOwn{head.title()}"))
        ]


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("site")
    source = "\n".join(MODULE.format(cls=f"Own{head.title()}", head=head) for head in HEADS)
    (folder / "own_heads_of_a_test.py").write_text(source)
    sys.path.insert(0, str(folder))
    reset_plugins()
    plugin_manager().register(Own(), "own")
    yield
    reset_plugins()
    sys.path.remove(str(folder))
    sys.modules.pop("own_heads_of_a_test", None)


@pytest.mark.parametrize("kind", ["own", "bare"])
@pytest.mark.parametrize("head", HEADS)
def test_a_trained_head_is_the_one_that_is_loaded(head: str, kind: str, tmp_path: Path) -> None:
    """Beside the head of another task too, which is said to be unused."""
    config = LlamaConfig(**(SIZES | {"num_hidden_layers": 1, "pad_token_id": 0, "num_labels": 2}))
    made = Llama.load(config, task=f"{kind}-{head}", load_format="dummy", backend="reference", seed=3)
    folder = made.save(tmp_path / "a")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = f"{head}.weight"
    trained = np.random.default_rng(1).normal(size=tensors[name].shape).astype(np.float32)
    save_file(tensors | {name: trained}, file, metadata={"format": "pt"})
    llm = Llama.load(folder, backend="reference")  # a warning would be an error here
    assert llm.task == f"{kind}-{head}"
    stored = {info.name: read() for info, read in llm.model.state()}
    assert np.array_equal(stored[name], trained)
    mask = np.ones_like(IDS)
    outputs = llm.forward(IDS, attention_mask=mask).numpy()["logits"]
    other = next(each for each in HEADS if each != head)
    save_file(tensors | {name: trained, f"{other}.weight": trained}, file, metadata={"format": "pt"})
    with pytest.warns(PolyllamaWarning, match=rf"{other}\.weight not used"):
        again: Any = Llama.load(folder, backend="reference")
    assert np.array_equal(again.forward(IDS, attention_mask=mask).numpy()["logits"], outputs)
