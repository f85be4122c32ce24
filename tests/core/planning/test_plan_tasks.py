"""Plans of every task head, and of a stranger's, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from polyllama import Llama
from polyllama.core.errors import UnsupportedError
from polyllama.core.memory.ghost import Memory, given
from polyllama.core.memory.ghost_namespace import GhostNamespace
from polyllama.core.plugin_system.manager import plugin_manager
from tiny_models import ALL_BACKENDS, SIZES

TASKS = sorted(plugin_manager().tasks())


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_every_task_has_a_plan(backend: str) -> None:
    activations = {}
    for task in TASKS:
        plan = Llama.plan("tiny", task=task, backend=backend, batch=3, context=64)
        assert plan.chosen.backend == backend and plan.chosen.memory.peak > plan.chosen.memory.weights > 0
        activations[task] = plan.chosen.memory.activations
    if backend in ("reference", "torch"):  # to the byte; pooling needs less than an array of all hidden states
        states = 3 * 64 * 128 * 8
        assert 0 <= activations["embedding"] - activations["base"] < states


def test_options_of_a_task() -> None:
    plan = Llama.plan("tiny", task="embedding", pooling="last", backend="reference", context=64)
    assert plan.chosen.memory.activations > 0


def test_a_head_on_a_checkpoint_of_another_task(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")

    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    plan = Llama.plan(tmp_path, task="embedding", backend="reference", context=16)
    assert plan.fit.ok and plan.fit.unused == ("lm_head.weight",)


def test_what_ghosts_cannot_do_is_said_and_what_heads_usually_do_they_can() -> None:
    memory = Memory()
    xp, x = GhostNamespace(memory), given(memory, (2, 3, 4), "float32")
    like = np.zeros((2, 3, 4), np.float32)
    for ghost, wanted in (
        (xp.full_like(x, 7.0), np.full_like(like, 7.0)),
        (xp.expand_dims(x, axis=1), np.expand_dims(like, 1)),
        (xp.expand_dims(x, axis=-1), np.expand_dims(like, -1)),
        (xp.squeeze(xp.expand_dims(x, axis=0), axis=0), like),
        (xp.std(x, axis=-1), like.std(axis=-1)),
        (xp.var(x, axis=1, keepdims=True), like.var(axis=1, keepdims=True)),
        (xp.take_along_axis(x, given(memory, (2, 3, 1), "int64"), axis=-1), like[..., :1]),
        (xp.flip(x, axis=1), like[:, ::-1]),
    ):
        assert (ghost.shape, ghost.dtype) == (wanted.shape, str(wanted.dtype))
    with pytest.raises(UnsupportedError, match=r"arrays without contents have no 'einsum'.*cannot be planned"):
        xp.einsum("ij->i", x)
    assert not hasattr(xp, "einsum")
