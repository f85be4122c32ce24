"""Choosing a backend: by name, by device, by itself; and saying why."""

from __future__ import annotations

from typing import Any

import pytest
from polyllama.core.backend.choice import AUTO_ORDER, choose_backend
from polyllama.core.backend.protocol import Availability
from polyllama.core.errors import BackendError, BackendUnavailableError, PolyllamaWarning, SettingsError


class Fake:
    """A backend that is as available as it is told; only the choice is under test here."""

    def __init__(self, name: str, usable: bool = True, devices: tuple[str, ...] = ("cpu",), reason: str = "") -> None:
        self.name, self._availability = name, Availability(usable, reason or None, devices)

    def availability(self) -> Availability:
        return self._availability

    def realize(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("not realized here")

    def load(self) -> Any:
        return self


def offered(*backends: Fake) -> dict[str, Any]:
    return {backend.name: backend for backend in backends}


REFERENCE, TORCH = Fake("reference"), Fake("torch", devices=("cuda", "cpu"))


def test_auto_takes_the_first_that_can_run_and_says_why_not_the_others() -> None:
    choice = choose_backend(None, offered(REFERENCE, Fake("torch", reason="no NVIDIA driver found"), Fake("jax")))
    assert choice.backend.name == "torch" and choice.device == "cpu"
    reasons = {row.name: row.reason for row in choice.considered}
    assert tuple(reasons) == AUTO_ORDER
    assert reasons["torch:cuda"] == "it has no device 'cuda', only cpu (no NVIDIA driver found)"
    assert reasons["cpu"] == "not installed" and reasons["reference"] == "a better one was taken"
    assert [row.name for row in choice.considered if row.taken] == ["torch:cpu"]


def test_auto_order() -> None:
    everything = offered(REFERENCE, TORCH, Fake("cpu"), Fake("jax"))
    assert (choose_backend("auto", everything).backend.name, choose_backend("auto", everything).device) == (
        "torch",
        "cuda",
    )
    assert choose_backend("auto", everything, device="cpu").backend.name == "cpu"
    del everything["cpu"], everything["torch"]
    assert choose_backend("auto", everything).backend.name == "jax"
    assert choose_backend("auto", offered(REFERENCE)).backend.name == "reference"


def test_names_and_devices() -> None:
    backends = offered(REFERENCE, TORCH)
    assert choose_backend("torch:cpu", backends).device == "cpu"
    assert choose_backend("cuda", backends).device == "cuda"
    assert choose_backend("torch", backends, device="cuda:0").device == "cuda:0"
    assert choose_backend("torch", backends).device is None
    for name, device, error, message in [
        (
            "torhc",
            None,
            BackendError,
            "no backend is called 'torhc'; did you mean 'torch'\\? there are: reference, torch",
        ),
        (
            "torch:tpu",
            None,
            BackendUnavailableError,
            "it has no device 'tpu', only cuda, cpu; usable here: reference, torch:cuda, torch:cpu",
        ),
        ("torch:cpu", "cuda", BackendError, "contradict"),
    ]:
        with pytest.raises(error, match=message):
            choose_backend(name, backends, device)


def test_never_a_silent_fallback() -> None:
    backends = offered(REFERENCE, Fake("torch", usable=False, reason="torch is not installed"))
    with pytest.raises(
        BackendUnavailableError, match=r"cannot run here: torch is not installed; usable here: reference"
    ):
        choose_backend("torch", backends)
    with pytest.raises(BackendUnavailableError, match=r"no backend can run here \(torch:cuda: "):
        choose_backend("auto", offered(Fake("reference", usable=False, reason="broken")))


def test_the_environment_and_the_working_folder_switch_backends(
    tiny_models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from polyllama import Llama

    _, folder = tiny_models()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "polyllama.yaml").write_text("backend: torch:cpu\n")
    assert Llama.load(folder).backend == "torch"
    monkeypatch.setenv("POLYLLAMA_BACKEND", "reference")
    assert Llama.load(folder).backend == "reference"
    assert Llama.load(folder, backend="torch").backend == "torch"
    monkeypatch.setenv("POLYLLAMA_DTYPE", "float32")
    assert Llama.load(folder).dtype == "float32"
    monkeypatch.setenv("POLYLLAMA_DTYPE", "float31")
    with pytest.raises(SettingsError, match="POLYLLAMA_DTYPE"):
        Llama.load(folder)


def test_the_reference_backend_refuses_dtypes_it_does_not_compute_in(tiny_models: Any) -> None:
    from polyllama import Llama

    with pytest.raises(BackendError, match="computes in float64 or float32, not in bfloat16"):
        Llama.load(tiny_models()[1], backend="reference", dtype="bfloat16")


def test_who_gets_the_reference_without_asking_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from polyllama import Llama
    from polyllama.backends.cpu.backend import CpuBackend
    from polyllama.backends.jax.backend import JaxBackend
    from polyllama.backends.mlx.backend import MlxBackend
    from polyllama.backends.torch.backend import TorchBackend

    for backend in (CpuBackend, JaxBackend, MlxBackend, TorchBackend):
        monkeypatch.setattr(backend, "availability", lambda self: Availability(False, "was not built"))
    monkeypatch.setenv("POLYLLAMA_BACKEND", "auto")
    with pytest.warns(PolyllamaWarning, match=r"'reference' is taken, which is slow: .* \(cpu: was not built\)"):
        assert Llama.load("tiny").backend == "reference"
    Llama.load("tiny", backend="reference")
