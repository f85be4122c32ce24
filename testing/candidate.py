"""A backend under test, seen through the public protocol alone: realize, forward, new_cache, to_numpy, state."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.backend.protocol import RealizeOptions
from ..core.errors import InputError
from ..core.forward.arguments import ForwardArguments
from .oracle import Oracle, oracle
from .rounding import STORED, Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..core.backend.protocol import Backend, Model
    from ..core.tasks.outputs import ModelOutput
    from .probes import Probe

    Floats = NDArray[np.float64]


class Candidate:
    """One backend on one device in one dtype; every probe is realized once.

    Args:
        kv_cache, threads: what probes are realized with; see :class:`~polyllama.extend.RealizeOptions`.

    Attributes:
        seen: the dtype whose bounds hold: its own, but float32 for a float64 that only comes out through
            ``to_numpy``, which gives float32.
    """

    def __init__(
        self,
        backend: Backend,
        dtype: str,
        device: str | None = None,
        kv_cache: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.backend, self.dtype, self.device = backend, dtype, device
        self.kv_cache, self.threads = kv_cache, threads
        self._others: dict[tuple[str, int | None], Candidate] = {}
        Precision.of(dtype)  # an unknown dtype is an error here, and not one failed check after the other
        self._models: dict[Probe, Model] = {}
        self._passes: dict[Any, Mapping[str, Any]] = {}
        self._seen: str | None = None

    @property
    def seen(self) -> str:
        if self._seen is None:
            from .probes import probe

            model = self.model(probe("neutral"))
            output: Any = model.forward(ForwardArguments(input_ids=[[1]]))
            wide = self.dtype != "float64" or as_float64(output.logits) is not None
            self._seen = self.dtype if wide else "float32"
        return self._seen

    def where(self) -> str:
        """The device that models of it are on; empty where none can be made."""
        try:
            return next(iter(self._models.values())).device
        except StopIteration:
            return ""

    @property
    def oracle(self) -> Oracle:
        """What is expected of it."""
        return oracle(self.seen, None if self.kv_cache == "auto" else self.kv_cache)

    @property
    def precision(self) -> Precision:
        """The precision its results are judged by."""
        return self.oracle.precision

    @property
    def kv_caches(self) -> tuple[str, ...]:
        """The element types of keys and values that the backend says it offers (its ``kv_caches``).

        Raises:
            InputError: one that the setting ``kv_cache`` does not know.
        """
        found = tuple(getattr(self.backend, "kv_caches", ()))
        for element in found:
            if element not in STORED:
                raise InputError(
                    f"backend {self.backend.name!r} offers kv_cache={element!r}, which no setting can ask for",
                    hint=f"known: {', '.join(STORED)}",
                )
        return found

    def other(self, kv_cache: str = "auto", threads: int | None = None) -> Candidate:
        """The same backend, whose models are realized with another cache or number of threads."""
        key = kv_cache, threads
        if key not in self._others:
            self._others[key] = Candidate(self.backend, self.dtype, self.device, *key)
            self._others[key]._seen = self.seen
        return self._others[key]

    def model(self, probe: Probe) -> Model:
        """The probe, realized."""
        if probe not in self._models:
            self._models[probe] = self.realize(probe, self.dtype)
        return self._models[probe]

    def realize(self, probe: Probe, stored: str) -> Model:
        """The probe realized anew, from weights stored as `stored`."""
        options = RealizeOptions(self.dtype, self.device, self.threads, self.kv_cache)
        return self.backend.realize(probe.graph, probe.stored(stored), options, config=probe.config, task=probe.task)

    def forward(self, probe: Probe, input_ids: Any = None, **inputs: Any) -> ModelOutput:
        """One pass; the output as the backend gives it.

        The backend gets copies: one that wrote into its inputs would otherwise spoil what later checks start from.
        """
        own: dict[str, Any] = {
            name: value.copy() if isinstance(value, np.ndarray) else value for name, value in inputs.items()
        }
        input_ids = input_ids.copy() if isinstance(input_ids, np.ndarray) else input_ids
        return self.model(probe).forward(ForwardArguments.of(probe.task, input_ids, **own))

    def run(self, probe: Probe, input_ids: Any = None, **inputs: Any) -> Mapping[str, Any]:
        """One pass without a cache; outputs as float64 NumPy. The same pass is run once."""
        from .oracle import hashable

        key = (probe, hashable(input_ids), *((name, hashable(value)) for name, value in sorted(inputs.items())))
        if input_ids is None or key not in self._passes:
            found = self.read(probe, self.forward(probe, input_ids, **inputs))
            if input_ids is None:
                return found
            self._passes[key] = found
        return self._passes[key]

    def to_float64(self, model: Model, array: Any) -> Floats:
        """A native array as float64 NumPy, by way of float32 where there is no other."""
        wide = as_float64(array) if self.dtype == "float64" else None
        return np.array(model.to_numpy(array), np.float64) if wide is None else wide

    def read(self, probe: Probe, output: ModelOutput) -> dict[str, Any]:
        """An output's arrays as float64 NumPy."""
        convert = functools.partial(self.to_float64, self.model(probe))
        return {
            name: tuple(convert(item) for item in value) if isinstance(value, tuple) else convert(value)
            for name, value in output.items()
            if name != "past_key_values"
        }


def as_float64(array: Any) -> Floats | None:
    """A float64 array of any framework that NumPy can look at; ``None`` otherwise."""
    try:
        found = np.asarray(array)
    except Exception:  # a framework's own refusal: its device, its dtype, its gradients
        return None
    return found.copy() if found.dtype == np.float64 else None
