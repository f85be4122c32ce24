"""Arrays of any framework: recognized, and given back as they came."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from polyllama.core.array_kinds import KINDS, as_numpy, device_of, kind_among, kind_named, kind_of, to_kind
from polyllama.core.errors import BackendUnavailableError, InputError

DTYPES = ("int32", "int64", "bool", "float16", "float32", "bfloat16")


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_and_element_types_survive(kind: str, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype_of(dtype))
    made = to_kind(array, kind)
    assert kind_of(made) == kind
    back = as_numpy(made)
    if not (kind == "jax" and dtype == "int64"):  # JAX's own rule: 32 bits unless it was told otherwise
        assert back.dtype == array.dtype
    assert np.array_equal(back.astype(np.float64), array.astype(np.float64))


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.int32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    st.sampled_from(KINDS),
    st.sampled_from(KINDS),
)
def test_from_any_kind_to_any_other(array: np.ndarray, first: str, second: str) -> None:
    there = to_kind(to_kind(array, first), second)
    assert kind_of(there) == second and np.array_equal(as_numpy(there), array)


def test_what_is_no_array_is_of_no_kind() -> None:
    values: list[object] = [None, 3, 2.5, "text", [1, 2], (1, 2), {"a": 1}, [np.zeros(2)]]
    assert [kind_of(value) for value in values] == [None] * len(values)
    assert kind_among(values) is None


def test_parameters_and_subclasses_are_arrays_of_their_framework() -> None:
    torch = pytest.importorskip("torch")
    assert kind_of(torch.nn.Parameter(torch.zeros(2))) == "torch"
    assert kind_of(np.zeros(2).view(type("Mine", (np.ndarray,), {}))) == "numpy"
    assert kind_of(np.int64(3)) == "numpy"


def test_two_frameworks_at_once_are_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match="arrays of numpy and of torch are given together"):
        kind_among([np.zeros(2), torch.zeros(2)])


def test_gradients_and_lazy_views_become_numbers() -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.arange(4.0).reshape(2, 2))
    assert as_numpy(parameter.t()).tolist() == [[0, 2], [1, 3]]
    assert to_kind(np.arange(4).reshape(2, 2).T, "torch").tolist() == [[0, 2], [1, 3]]
    fixed = np.arange(3)
    fixed.flags.writeable = False
    to_kind(fixed, "torch")[0] = 7
    assert fixed[0] == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pt", "torch"), ("np", "numpy"), ("jax", "jax"), ("mlx", "mlx"), ("torch", "torch"), ("numpy", "numpy")],
)
def test_documented_names(name: str, kind: str) -> None:
    assert kind_named(name) == kind


def test_transformers_own_names_are_taken() -> None:
    from transformers.utils.generic import TensorType

    assert kind_named(TensorType.PYTORCH) == "torch" and kind_named(TensorType.NUMPY) == "numpy"


@pytest.mark.parametrize(("name", "hint"), [("tf", "there are 'pt'"), ("jx", "did you mean 'jax'"), (3, "there are")])
def test_other_names_are_refused(name: object, hint: str) -> None:
    with pytest.raises(InputError, match=f"names no framework; {hint}"):
        kind_named(name)


def test_devices() -> None:
    torch = pytest.importorskip("torch")
    assert device_of(torch.zeros(1)) == torch.device("cpu") and device_of(np.zeros(1)) is None
    moved = to_kind(np.zeros(2, np.float32), "torch", torch.device("meta"))
    assert moved.device.type == "meta"
    jax = pytest.importorskip("jax")
    device = jax.devices()[0]
    assert device_of(to_kind(np.zeros(2, np.float32), "jax", device)) == device


@pytest.mark.parametrize("kind", ["torch", "jax", "mlx"])
def test_a_framework_that_is_not_there(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"mlx": "mlx.core"}.get(kind, kind)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError, match=rf"{kind} is not installed; pip install 'polyllama\[{kind}\]'"):
        to_kind(np.zeros(2), kind)
    assert importlib.import_module("polyllama.core.array_kinds").kind_of([1]) is None
