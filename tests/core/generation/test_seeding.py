"""Seeds that nobody gave: drawn anew, or repeatable after set_seed, torch.manual_seed and transformers.set_seed."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from polyllama import Llama, set_seed
from polyllama.core.errors import InputError
from polyllama.core.generation import seeding
from support_processes import run_process


@pytest.fixture(scope="module")
def llm():
    return Llama.load("tiny", backend="reference", dtype="float32")


@pytest.mark.parametrize("seeded", [set_seed, torch.manual_seed, transformers.set_seed])
@pytest.mark.parametrize("form", ["torch", "numpy", "text"])
def test_sampling_repeats_after_seeding_and_not_from_call_to_call(llm, seeded: Callable[[int], object], form):
    ids = {"torch": torch.tensor([[1, 400]]), "numpy": np.array([[1, 400]]), "text": "Once"}[form]

    def write() -> list[int]:
        found = llm.generate(ids, do_sample=True, max_new_tokens=8)
        return found.token_ids if form == "text" else found.tolist()

    seeded(5)
    first = write(), write()
    seeded(5)
    assert (write(), write()) == first and first[0] != first[1]
    seeded(6)
    assert write() != first[0]


def test_a_seed_that_is_given_holds(llm):
    set_seed(1)
    first = llm.generate("Once", temperature=1.0, seed=3, max_new_tokens=8)
    assert llm.generate("Once", temperature=1.0, seed=3, max_new_tokens=8) == first


def test_the_other_generators_are_seeded_too():
    set_seed(4)
    first = random.random(), np.random.rand(), torch.rand(1).item()
    set_seed(4)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


@pytest.mark.parametrize("wrong", [-1, 2**32, 1.5, "7", None, True])
def test_what_is_no_seed(wrong):
    with pytest.raises(InputError, match="wanted a whole number from 0 to"):
        set_seed(wrong)


def test_without_torch_and_with_torch_loaded_later():
    code = """
import sys
from polyllama.core.generation.seeding import fresh_seed, set_seed
assert "torch" not in sys.modules
assert fresh_seed() != fresh_seed()
set_seed(5); first = fresh_seed(), fresh_seed()
set_seed(5); assert (fresh_seed(), fresh_seed()) == first and first[0] != first[1]
set_seed(5)
import torch
assert (fresh_seed(), fresh_seed()) == first, "what set_seed said holds"
torch.manual_seed(1); one = fresh_seed(), fresh_seed()
torch.manual_seed(1); assert (fresh_seed(), fresh_seed()) == one
"""
    done = run_process([sys.executable, "-c", code], timeout=120)
    assert done.returncode == 0, done.stderr


RUN = """
import sys
from polyllama import AutoModelForCausalLM, LlamaConfig, set_seed
sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
set_seed(9); set_seed(3, deterministic=True)
assert "torch" not in sys.modules
model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes))
import torch
assert torch.are_deterministic_algorithms_enabled() and not hasattr(torch.__loader__, "_own")
print(float(sum(p.double().sum() for p in model.parameters())), torch.rand(1).item())
"""


def test_what_is_loaded_after_set_seed_is_seeded_too():
    runs = [run_process([sys.executable, "-c", RUN], capture_output=True, text=True, timeout=120) for _ in range(2)]
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout
    loaded_first = run_process(
        [sys.executable, "-c", "import torch\n" + RUN.replace('assert "torch" not in', "assert 1 or")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert loaded_first.stdout == runs[0].stdout, loaded_first.stderr


def test_numpy_loaded_after_set_seed_and_a_seed_of_torchs_own_afterwards():
    code = """
import importlib.util
from polyllama.core.generation.seeding import set_seed
set_seed(3)
assert importlib.util.find_spec("torch").loader.get_filename("torch")  # looking does not use it up
import torch
first = torch.rand(1)
torch.manual_seed(3); assert torch.rand(1) == first
torch.manual_seed(4); again = torch.rand(1)
import polyllama.backends.torch.pretrained
torch.manual_seed(4); assert torch.rand(1) == again
import numpy as np
one = np.random.rand(); np.random.seed(3); assert np.random.rand() == one
"""
    done = run_process([sys.executable, "-c", code], timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_seed_fits_into_32_bits():
    assert all(0 <= seeding.fresh_seed() < 1 << 32 for _ in range(20))
