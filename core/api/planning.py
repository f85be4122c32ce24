"""The part of :class:`~polyllama.Llama` that says what a model would take before it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..arguments import checked_methods
from ..dtypes import name_of

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig
    from ..planning.result import Plan


@checked_methods
class Planning:
    """Planning a model that is not loaded."""

    _task: ClassVar[str | None]

    @classmethod
    def plan(
        cls,
        source: str | Path | LlamaConfig,
        *,
        backend: str | None = None,
        context: int | None = None,
        batch: int = 1,
        quantize: str | None = None,
        dtype: Any = "auto",
        device: Any = None,
        prompt: int | None = None,
        prefill_chunk_size: int | None = None,
        task: str | None = None,
        revision: str | None = None,
        offline: bool | None = None,
        ignore: str | Sequence[str] | None = None,
        **config_overrides: Any,
    ) -> Plan:
        """What a model would take on each backend here, and whether it would load; reads headers and metadata only.

        Args:
            source: as for :meth:`polyllama.Llama.load`. A Hub repository is not downloaded: its configuration and the
                headers of its files are asked for, or offline what the registry knows.
            backend: look at this one only; by default at all that can run here.
            context: tokens of a row, prompt and generated text together; by default the model's, at most 4096.
            batch: rows that go through together.
            quantize, dtype, device: as for :meth:`polyllama.Llama.load`; by default several are looked at.
            prompt: tokens of the prompt; by default the whole context, which takes most.
            prefill_chunk_size: run a prompt so many tokens at a time, as the generation option of that name.
            task, revision, offline, ignore, config_overrides: as for :meth:`polyllama.Llama.load`.

        Returns:
            A :class:`~polyllama.core.planning.result.Plan`: tensors that do not fit and likely causes, memory by
            backend, dtype and quantization, what fits, which backend would be taken and why, and what to change where
            it does not fit.

        Raises:
            PolyllamaError: nothing is known under that name, or an argument is wrong.

        >>> from polyllama import Llama
        >>> plan = Llama.plan("tiny", backend="reference", context=64)
        >>> plan.fit.ok, plan.chosen.memory.weights == 8 * plan.parameters
        (True, True)
        """
        from ..planning.plan import plan

        return plan(
            source,
            backend=backend,
            device=None if device is None else str(device),
            dtype=name_of(dtype),
            quantize=quantize,
            batch=batch,
            context=context,
            prompt=prompt,
            prefill_chunk_size=prefill_chunk_size,
            task=cls._task if task is None else task,
            revision=revision,
            offline=offline,
            ignore=ignore,
            config_overrides=config_overrides,
        )
