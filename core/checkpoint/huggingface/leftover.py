"""What a config says of quantization that its weights do not have, as merging an adapter leaves it behind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError, warn
from ..protocol import TensorInfo
from ..tensor_names import is_buffer

_PLAIN = ("float64", "float32", "float16", "bfloat16")
_OF_QUANTIZATION = re.compile(
    r"(?:^|[._])(?:scales?|scale_inv|zeros?|qzeros|zero_point|absmax|SCB|g_idx|qweight|codebooks?|centroids|quant_\w+)$"
)
_WHEN_RUN = ("bitnet",)
"""Methods that store floats and round them in every pass, so that plain floats would be another model."""


def leftover_quantization(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo] | None, where: str
) -> dict[str, Any]:
    """The override that makes a config speak of plain weights, where it speaks of others; else nothing.

    Args:
        config: the content of config.json.
        tensors: what is stored beside it; ``None`` where no weights are read, so that it does not matter.
        where: what to call the file.

    Warns:
        PolyllamaWarning: there is such an override.
    """
    from ...quantization.scheme import read_quantization

    block = config.get("quantization_config") or config.get("quantization")
    if not block or (tensors is not None and not _is_plain(tensors)):
        return {}
    try:
        read_quantization(block)
        return {}  # ours or MLX's, which the graph's modules are compared with
    except ConfigError as error:
        method = _method(block) if isinstance(block, Mapping) else None
        if method in _WHEN_RUN and tensors is not None:
            return {}
        said = error.message if method is None else f"it says that the weights are quantized by {method}"
    warn(
        f"{where}: quantization_config is not used: {said}, but "
        + ("no weights are read" if tensors is None else "what is stored are plain floats")
    )
    return {"quantization": None}


def _method(block: Mapping[str, Any]) -> Any:
    older = "load_in_4bit" in block or "load_in_8bit" in block  # what bitsandbytes wrote before methods had names
    return block.get("quant_method") or ("bitsandbytes" if older else None)


def _is_plain(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether every tensor is of floats, and none is named as parts of quantized ones are."""
    weights = [info for info in tensors.values() if not is_buffer(info)]
    return all(info.dtype in _PLAIN and not _OF_QUANTIZATION.search(info.name) for info in weights)
