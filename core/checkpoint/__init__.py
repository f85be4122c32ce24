"""Checkpoints: opening, checking against a graph, reading lazily, and saving.

    checkpoint = open_checkpoint(path)                        # headers only
    weight_map = check(checkpoint, graph.parameters(), config=config)   # or one error that lists everything wrong
    weights = weights_from(checkpoint, graph.parameters(), weight_map)  # name -> array, mapped when asked for
    save_safetensors(folder, weights)

Nothing here ever unpickles, and importing it loads no NumPy.
"""

from .base import Checkpoint, ParameterLike, TensorInfo
from .check import WeightMap, check
from .huggingface import HuggingFaceCheckpoint, HuggingFaceFormat
from .open import FormatDescriptor, FormatReader, open_checkpoint
from .safetensors import SafetensorsFile
from .save import parse_size, save_safetensors
from .weights import Weights, dummy_weights, weights_from

__all__ = [
    "Checkpoint",
    "FormatDescriptor",
    "FormatReader",
    "HuggingFaceCheckpoint",
    "HuggingFaceFormat",
    "ParameterLike",
    "SafetensorsFile",
    "TensorInfo",
    "WeightMap",
    "Weights",
    "check",
    "dummy_weights",
    "open_checkpoint",
    "parse_size",
    "save_safetensors",
    "weights_from",
]
