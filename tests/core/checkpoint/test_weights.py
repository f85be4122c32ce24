"""Weights by parameter name: lazily read, fresh where a head is new, dummy where there is no checkpoint."""

from __future__ import annotations

import hashlib
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from polyllama.core.checkpoint.check import check
from polyllama.core.checkpoint.huggingface.safetensors import SafetensorsFile
from polyllama.core.checkpoint.huggingface.save_safetensors import save_safetensors
from polyllama.core.checkpoint.opening import open_checkpoint
from polyllama.core.checkpoint.random_values import BLOCK
from polyllama.core.checkpoint.weights import Weights, dummy_weights, weights_from
from polyllama.core.errors import PolyllamaWarning, UnsupportedError
from polyllama.core.graph.node import Parameter
from support_processes import run_process

GOLDEN = "6310b61757e7c330b77e0ddbd1d57c9eae4534c89fae45490b89b0e6f6083770"

PARAMETERS = [
    Parameter("model.embed_tokens.weight", (40, 8), "embedding"),
    Parameter("model.layers.0.self_attn.q_proj.weight", (8, 8), "linear"),
    Parameter("model.layers.0.self_attn.q_proj.bias", (8,), "bias"),
    Parameter("model.norm.weight", (8,), "norm"),
    Parameter("score.weight", (3, 8), "head"),
    Parameter("score.bias", (3,), "head.bias"),
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base checkpoint: no prefix, no head, the norm in float32 and in another order than the graph's."""
    rng = np.random.default_rng(1)
    tensors = {
        p.name.removeprefix("model."): rng.normal(size=p.shape).astype(
            np.float32 if p.role == "norm" else ml_dtypes.bfloat16
        )
        for p in reversed(PARAMETERS[:4])
    }
    save_safetensors(tmp_path / "base", tensors)
    return tmp_path / "base"


def test_weights_come_in_graph_order_under_the_graphs_names(base: Path):
    checkpoint = open_checkpoint(base)
    weights = weights_from(checkpoint, PARAMETERS[:4], check(checkpoint, PARAMETERS[:4]))
    assert list(weights) == [p.name for p in PARAMETERS[:4]] and len(weights) == 4
    assert "score.weight" not in weights and "model.norm.weight" in weights and weights.get("nope") is None
    for p in PARAMETERS[:4]:
        info = weights.info(p.name)
        assert info.name == p.name and info.shape == p.shape and info.file == base / "model.safetensors"
        stored = checkpoint.read(p.name.removeprefix("model."))
        assert weights[p.name].tobytes() == stored.tobytes() and weights[p.name].dtype == stored.dtype
    assert weights.dtype == "bfloat16"
    assert weights.nbytes == (40 * 8 + 8 * 8 + 8) * 2 + 8 * 4


def test_a_new_head_is_random_from_the_seed_in_the_commonest_dtype(base: Path):
    checkpoint = open_checkpoint(base)
    with pytest.warns(PolyllamaWarning, match="score"):
        found = check(checkpoint, PARAMETERS)
    weights = [weights_from(checkpoint, PARAMETERS, found, seed=s, initializer_range=0.1) for s in (0, 0, 1)]
    head = [w["score.weight"].astype(np.float32) for w in weights]
    assert weights[0]["score.weight"].dtype == ml_dtypes.bfloat16 and weights[0].info("score.weight").file is None
    assert (head[0] == head[1]).all() and (head[0] != head[2]).any()
    assert 0.02 < np.abs(head[0]).mean() < 0.3 and head[0].min() < 0 < head[0].max()
    assert (weights[0]["score.bias"] == 0).all()


def test_reading_is_lazy_and_nothing_is_kept(base: Path):
    size = 1 << 21
    parameters = [Parameter(f"w{i}", (size,), "linear") for i in range(8)]
    made = dummy_weights(parameters, dtype="float32")
    made["w0"]  # the block of random values is made once and kept
    tracemalloc.start()
    assert all(array.size == size for array in made.values())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * size * 4


def test_weights_can_be_saved_as_they_are(base: Path, tmp_path: Path):
    weights = dummy_weights(PARAMETERS, seed=3)
    [file] = save_safetensors(tmp_path / "out", weights)
    reader = SafetensorsFile(file)
    assert set(reader.tensors()) == set(weights)
    assert all(reader.read(name).tobytes() == weights[name].tobytes() for name in weights)


# ---- dummy weights ----


def test_dummy_weights_depend_on_seed_and_name_alone():
    one = dummy_weights(PARAMETERS, seed=5, dtype="float32")
    other = dummy_weights(list(reversed(PARAMETERS)), seed=5, dtype="float32")
    third = dummy_weights(PARAMETERS, seed=6, dtype="float32")
    for p in PARAMETERS:
        assert one[p.name].shape == p.shape and (one[p.name] == other[p.name]).all()
    linear = "model.layers.0.self_attn.q_proj.weight"
    assert (one[linear] != third[linear]).any()
    assert (one[linear].ravel()[:64] != one["model.embed_tokens.weight"].ravel()[:64]).any()
    assert (one["model.norm.weight"] == 1).all()
    assert (one["model.layers.0.self_attn.q_proj.bias"] == 0).all() and (one["score.bias"] == 0).all()


def test_dummy_weights_are_close_to_normal():
    values = dummy_weights([Parameter("w", (1000, 1000), "linear")], dtype="float64", initializer_range=0.5)["w"]
    assert abs(values.mean()) < 2e-3 and abs(values.std() - 0.5) < 2e-3
    scaled = (values / 0.5).ravel()
    assert abs((scaled**4).mean() - 2.9) < 0.05 and np.abs(scaled).max() < 6
    for edge, share in ((1.0, 0.3173), (2.0, 0.0455), (3.0, 0.0027)):
        assert abs((np.abs(scaled) > edge).mean() - share) < 0.006


def test_large_dummy_tensors_repeat_the_block_from_where_their_name_says():
    small, large = (Parameter("w", (size,), "linear") for size in (BLOCK, 2 * BLOCK + 7))
    block, values = (dummy_weights([p], seed=1, dtype="float32")["w"] for p in (small, large))
    assert (values == np.resize(block, values.shape)).all()


def test_rows_of_large_dummy_matrices_differ():
    values = dummy_weights([Parameter("w", (600, 4096), "linear")], dtype="float32")["w"]
    assert values.size > 2 * BLOCK
    assert len({row.tobytes() for row in values}) == 600


def test_dummy_weights_are_the_same_bits_everywhere():
    """Golden digests: they change only when the definition in random_values.py does, on no platform otherwise."""
    weights = dummy_weights([Parameter("model.embed_tokens.weight", (64, 32), "embedding")], seed=7, dtype="float64")
    digest = hashlib.sha256(weights["model.embed_tokens.weight"].astype("<f8").tobytes()).hexdigest()
    assert digest == GOLDEN, digest


def test_dummy_weights_are_defined_by_integers_alone():
    """The definition, redone in Python integers for a few values."""
    raw = np.random.PCG64(7).random_raw(BLOCK * 3 + 1)
    offset = int.from_bytes(hashlib.sha256(b"7\0w").digest()[:8], "little") % BLOCK
    values = dummy_weights([Parameter("w", (5,), "linear")], seed=7, dtype="float64", initializer_range=1.0)["w"]
    for k in range(5):
        total = 0
        for term in range(12):
            index = term * BLOCK + (offset + k) % BLOCK
            total += (int(raw[index // 4]) >> (16 * (index % 4))) & 0xFFFF
        expected = (total - 12 * 65535 / 2) / (12 * (2**32 - 1) / 12) ** 0.5
        assert values[k] == pytest.approx(expected, rel=1e-12)


def test_dummy_weights_of_a_large_model_are_made_one_by_one():
    parameters = [Parameter(f"model.layers.{i}.mlp.up_proj.weight", (11008, 4096), "linear") for i in range(32)]
    weights = dummy_weights(parameters)
    assert weights.nbytes == 32 * 11008 * 4096 * 2  # known without making anything
    assert weights[parameters[1].name].shape == (11008, 4096)


def test_dummy_weights_are_floats():
    weights: Weights = dummy_weights(PARAMETERS, dtype="int8")
    with pytest.raises(UnsupportedError, match="weights cannot start as int8"):
        weights["score.weight"]


def test_importing_the_package_loads_no_numpy_and_no_framework():
    code = (
        "import sys, polyllama.core.checkpoint, polyllama.core.dtypes;"
        "print([m for m in ('numpy', 'ml_dtypes', 'torch', 'safetensors', 'pydantic') if m in sys.modules])"
    )
    result = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
