"""Plans for memories that this machine may not have: none that is known, and a GPU's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from polyllama import Llama, LlamaConfig
from polyllama.backends.torch.backend import TorchBackend
from polyllama.core.backend.protocol import Availability
from polyllama.core.machine.devices import DeviceMemory, memory_for
from polyllama.core.planning import plan as planning

CONFIG = {
    "vocab_size": 320,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
HOST = DeviceMemory("cpu", "this machine's memory", 1 << 40, 1 << 39)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = LlamaConfig(**CONFIG, dtype="bfloat16")
    return Llama.load(config, load_format="dummy", backend="torch:cpu").save(tmp_path_factory.mktemp("model"))


def gpu(number: int, free: int, total: int = 1 << 36) -> DeviceMemory:
    return DeviceMemory(f"cuda:{number}", "NVIDIA H100", total, free)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with these memories, whose torch has these devices."""

    def make(*memories: DeviceMemory, devices: tuple[str, ...] = ("cuda", "cpu")) -> None:
        monkeypatch.setattr(planning, "find_devices", lambda: memories)
        monkeypatch.setattr(TorchBackend, "availability", lambda self: Availability(True, None, devices))

    return make


@pytest.mark.parametrize("asked", [{"backend": "torch:cpu"}, {"backend": "reference"}, {"backend": "torch"}])
def test_a_machine_whose_memory_is_not_known(asked: dict[str, Any], machine: Any, model: Path) -> None:
    machine(devices=("cpu",))
    plan = Llama.plan(model, context=64, **asked)
    assert plan.devices == () and plan.suggestion is None
    assert plan.chosen is not None and plan.chosen.memory is not None and plan.chosen.memory.peak > 0
    assert plan.chosen.available is None and plan.chosen.fits is None
    assert plan.options and all(option.fits is None and option.available is None for option in plan.options)
    assert plan.advice == f"{plan.chosen.backend} on cpu: how much memory it has is not known here"
    shown = str(plan)
    assert plan.advice in shown and "not fit" not in shown and "None" not in shown
    assert json.loads(json.dumps(plan.to_dict()))["chosen"]["fits"] is None


@pytest.mark.parametrize("name", ["cuda", "torch:cuda"])
def test_a_gpu_that_is_not_there(name: str, machine: Any, model: Path) -> None:
    machine(HOST, devices=("cpu",))
    plan = Llama.plan(model, backend=name, context=64)
    assert plan.chosen is None and plan.suggestion is None and plan.considered == ()
    assert plan.advice.startswith("backend 'torch:cuda' cannot run here: ") and "torch:cpu" in plan.advice
    assert {(option.backend, option.device) for option in plan.options} == {("torch", "cpu")}  # what there is of it
    assert plan.advice in str(plan)


@pytest.mark.parametrize("name", ["cuda", "torch", "torch:cuda", "auto", None])
def test_a_gpu_has_a_memory_of_its_own(name: str | None, machine: Any, model: Path) -> None:
    """What fits the host is not asked; a GPU's memory is free on the first of them, unless another is named."""
    machine(HOST, gpu(0, 1 << 20), gpu(1, 1 << 35))
    plan = Llama.plan(model, backend=name, context=64)
    assert plan.chosen is not None and (plan.chosen.backend, plan.chosen.device) == ("torch", "cuda")
    assert plan.chosen.available == 1 << 20 and plan.chosen.fits is False
    assert plan.advice.startswith("does not fit: torch on cuda needs ") and "1.05 MB are free" in plan.advice
    of_torch = {option.device: option for option in plan.options if option.backend == "torch"}
    assert of_torch["cpu"].available == HOST.free and of_torch["cpu"].fits
    if name == "cuda":
        assert {option.backend for option in plan.options} == {"torch"}
    if name in (None, "auto"):
        assert {option.backend for option in plan.options} > {"torch", "reference"}
    # The way out is the host, as nothing makes this model fit into a mebibyte.
    usable = [option.backend for option in Llama.plan(model, context=64).options if option.device == "cpu"]
    assert plan.suggestion == {"backend": "cpu:cpu" if "cpu" in usable else "torch:cpu"}  # never the slow reference
    again = Llama.plan(model, **{"context": 64, **plan.suggestion})
    assert again.chosen is not None and again.chosen.device == "cpu" and again.chosen.fits


def test_weights_are_copied_to_a_gpu_and_mapped_on_the_host(machine: Any, model: Path) -> None:
    machine(HOST, gpu(0, 1 << 35))
    there, here = (Llama.plan(model, backend=f"torch:{device}", context=64).chosen for device in ("cuda", "cpu"))
    assert there is not None and here is not None and there.memory is not None and here.memory is not None
    assert there.fits and here.fits and there.available == 1 << 35
    assert there.memory.weights == here.memory.weights == 2 * Llama.plan(model, context=64).parameters
    assert there.memory.host_peak > 0 == here.memory.host_peak


@pytest.mark.parametrize(("short", "fits"), [(0, True), (1, False)])
def test_a_tenth_is_left_to_the_framework(short: int, fits: bool, machine: Any, model: Path) -> None:
    machine(HOST)
    needed = Llama.plan(model, backend="reference", context=64).chosen
    assert needed is not None and needed.memory is not None
    enough = -(-needed.memory.peak * 10 // 9)
    machine(DeviceMemory("cpu", "memory", HOST.total, enough - 2 * short))
    plan = Llama.plan(model, backend="reference", context=64)
    assert plan.chosen is not None and plan.chosen.fits is fits


MEMORIES = (HOST, gpu(0, 1), gpu(1, 2))
APPLE = (HOST, DeviceMemory("apple-gpu", "the GPU's share of it", 8, 4))


@pytest.mark.parametrize(
    ("device", "memories", "wanted"),
    [
        (None, MEMORIES, "cpu"),
        ("cpu", MEMORIES, "cpu"),
        ("cuda", MEMORIES, "cuda:0"),
        ("cuda:1", MEMORIES, "cuda:1"),
        ("cuda:2", MEMORIES, None),
        ("gpu", MEMORIES, "cuda:0"),
        ("gpu:1", MEMORIES, "cuda:1"),
        ("gpu", APPLE, "apple-gpu"),
        ("mps", APPLE, "apple-gpu"),
        ("mps", MEMORIES, None),
        ("cuda", APPLE, None),
        ("tpu", MEMORIES, None),
        ("cpu", (), None),
    ],
)
def test_which_memory_a_device_uses(device: str | None, memories: Any, wanted: str | None) -> None:
    found = memory_for(device, memories)
    assert (None if found is None else found.name) == wanted
