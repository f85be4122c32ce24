"""Checkpoints: opening, checking against a graph, reading lazily, and saving.

    checkpoint = open_checkpoint(path)                        # headers only
    weight_map = check(checkpoint, graph.parameters(), config=config)   # or one error that lists everything wrong
    weights = weights_from(checkpoint, graph.parameters(), weight_map)  # name -> array, mapped when asked for
    save_safetensors(folder, weights)

Each format has a folder, ``gguf/``, ``huggingface/``, ``meta/``, ``pytorch/``, or a file, ``llama2c.py``. Changing
weights on the way is in ``core/transforms/``, converting in ``core/export/``. Begin with ``protocol.py``, then
``opening.py`` and ``check.py``. Nothing here ever unpickles, and importing it loads no NumPy.
"""

from ..lazy import fetched_when_used

# The room's door: what one comes here for, without knowing its file.
__getattr__ = fetched_when_used(
    __name__,
    {
        "Checkpoint": "protocol",
        "TensorInfo": "protocol",
        "Weights": "weights",
        "open_checkpoint": "opening",
        "save_safetensors": "huggingface.save_safetensors",
        "weights_from": "weights",
    },
    __name__,
)
