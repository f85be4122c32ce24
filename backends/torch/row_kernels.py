"""Which of torch's kernels multiply a single row on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


@contextlib.contextmanager
def row_kernels(inputs: Tensor | None) -> Iterator[None]:
    """Let torch's own matrix-vector kernels run where a CPU decodes a single row, instead of oneDNN's.

    For a single row in half precision oneDNN repacks each matrix on every call; torch's own kernels read it once, twice
    as fast, with the same float32 sums. The switch is the process's, so it is held for one pass only.
    """
    single = inputs is not None and inputs.shape[0] * inputs.shape[1] == 1 and inputs.device.type == "cpu"
    if not single or torch.is_grad_enabled() or torch.compiler.is_compiling() or not torch.backends.mkldnn.enabled:
        yield
        return
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)
