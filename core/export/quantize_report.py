"""What quantizing did to each matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..quantization.affine import Quantized, dequantize, row_blocks
from ..quantization.scheme import ModuleQuantization

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ModuleReport:
    """One matrix.

    Attributes:
        relative_rms: root mean square of the change, relative to that of the weights.
        max_error: the largest change, relative to the largest weight.
        method: ``"round"`` or ``"calibrated"``.
        output_error, rounded_output_error: mean squared error of what it gives on held-out text, relative to the
            output, as it is and by plain rounding; ``None`` where that was not measured.
    """

    name: str
    shape: tuple[int, ...]
    quantization: ModuleQuantization
    relative_rms: float
    max_error: float
    method: str = "round"
    output_error: float | None = None
    rounded_output_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "module": self.name,
            "shape": list(self.shape),
            "group_size": self.quantization.group_size,
            "bits": self.quantization.bits,
            "relative_rms": self.relative_rms,
            "max_error": self.max_error,
            "method": self.method,
            "output_error": self.output_error,
            "rounded_output_error": self.rounded_output_error,
        }


@dataclass(frozen=True)
class Report:
    """What came of quantizing a checkpoint."""

    source: str
    folder: Path
    modules: tuple[ModuleReport, ...]
    bytes_before: int
    bytes_after: int
    num_parameters: int
    left: tuple[str, ...] = field(default=())

    @property
    def worst(self) -> ModuleReport:
        """The matrix that changed most."""
        return max(self.modules, key=lambda module: module.relative_rms)

    @property
    def bits_per_weight(self) -> float:
        """Of the whole model, norms and scales included."""
        return 8 * self.bytes_after / self.num_parameters

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "source": self.source,
            "folder": str(self.folder),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "bits_per_weight": self.bits_per_weight,
            "worst": self.worst.name,
            "not_quantized": list(self.left),
            "modules": [module.to_dict() for module in self.modules],
        }


def errors(weight: np.ndarray, packed: Quantized, bits: int) -> tuple[float, float]:
    """Relative root mean square and relative largest change of a matrix."""
    import numpy as np

    squares = whole = 0.0
    largest = peak = 0.0
    for rows in row_blocks(*weight.shape):
        exact = weight[rows].astype(np.float32)
        off = dequantize(*(part[rows] for part in packed), bits=bits) - exact
        squares += float(np.sum(off * off, dtype=np.float64))
        whole += float(np.sum(exact * exact, dtype=np.float64))
        largest, peak = max(largest, float(np.abs(off).max())), max(peak, float(np.abs(exact).max()))
    return (squares / whole) ** 0.5 if whole else 0.0, largest / peak if peak else 0.0
