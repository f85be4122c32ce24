"""Activation functions against transformers' own, and erf against the C library's."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace
from polyllama.core.config.keys import ACTIVATION_NAMES
from polyllama.core.graph.activations import ACTIVATIONS, erf
from support_processes import run_process

INPUTS = np.concatenate([np.linspace(-12, 12, 4801), [-1e4, -200.0, -90.0, -40.0, 40.0, 90.0, 200.0, 1e4, 0.0, -0.0]])


def oracle(name: str, x: torch.Tensor) -> torch.Tensor:
    from transformers.activations import ACT2FN

    if name in ACT2FN:
        return ACT2FN[name](x)
    return getattr(torch.nn.functional, name)(x)


def test_a_config_may_name_what_is_defined_and_nothing_else() -> None:
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_transformers(name: str, dtype: str) -> None:
    x = INPUTS.astype(dtype)
    with np.errstate(all="raise", under="ignore"):
        ours = ACTIVATIONS[name](np, x)
    theirs = oracle(name, torch.from_numpy(x)).numpy()
    assert ours.dtype == x.dtype
    # torch's softplus is the identity above 20 (2e-9 off); gelu_fast there has ten digits of sqrt(2 / pi)
    rtol, atol = (2e-6, 1e-6) if dtype == "float32" else (3e-9, 1e-9)
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_torch_namespace_values_and_gradients(name: str) -> None:
    x = torch.linspace(-4, 4, 200, dtype=torch.float64, requires_grad=True)
    y = torch.linspace(-4, 4, 200, dtype=torch.float64, requires_grad=True)
    ours, theirs = ACTIVATIONS[name](torch_namespace, x), oracle(name, y)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_nan_stays_nan(name: str) -> None:
    assert np.isnan(ACTIVATIONS[name](np, np.array([np.nan]))).all()


def test_erf_is_accurate_to_the_last_digits() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.5, -0.5, 4.0, -4.0, 1e-300, -1e-12, np.inf, -np.inf]])
    expected = np.array([math.erf(value) for value in x])
    assert np.abs(erf(np, x) - expected).max() < 1e-15
    small = np.abs(x) < 0.5
    relative = np.abs(erf(np, x) - expected)[small] / np.maximum(np.abs(expected[small]), 5e-324)
    assert relative.max() < 1e-15


def test_gelu_takes_the_erf_it_is_given() -> None:
    ops = SimpleNamespace(erf=lambda x: x * 0 + 1.0)
    np.testing.assert_array_equal(ACTIVATIONS["gelu"](np, np.array([-2.0, 3.0]), ops), [-2.0, 3.0])


def test_import_is_light() -> None:
    code = "import sys, polyllama.core.graph.activations; print('numpy' in sys.modules or 'torch' in sys.modules)"
    result = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
