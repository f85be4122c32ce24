"""A loaded model as plain data and back: what ``copy.deepcopy`` and ``pickle`` make of one.

A model's weights are taken as arrays and realized anew where they come together, so that nothing of the two is shared;
a checkpoint's open files are left behind.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..backend.protocol import RealizeOptions
from ..checkpoint.weights import Weights

if TYPE_CHECKING:
    from .load import Loaded


def take_apart(loaded: Loaded) -> dict[str, Any]:
    """What :func:`put_together` needs, all of which can be copied and pickled.

    Raises:
        PolyllamaError: the model's weights are not its graph's any more, or lie where they cannot be taken from.
    """
    model: Any = loaded.model
    bare: Any = replace(loaded, model=None, checkpoint=None)  # type: ignore[arg-type]
    if getattr(model, "copies_whole", False):
        return {"loaded": bare, "model": model}
    modes: Any = getattr(model, "modes", dict)()
    weights = [(info, read()) for info, read in model.state()]
    return {"loaded": bare, "dtype": model.dtype, "weights": weights, "modes": modes}


def put_together(parts: dict[str, Any]) -> Loaded:
    """A model of its own, where and in what the one was that was taken apart.

    Raises:
        BackendUnavailableError: its backend or device is not here.
    """
    loaded: Loaded = parts["loaded"]
    model = parts.get("model")
    if model is not None:
        return replace(loaded, model=model, config=model.config, graph=model.graph)
    settings, choice = loaded.settings, loaded.choice
    options = RealizeOptions(parts["dtype"], choice.device, settings.threads, settings.kv_cache, loaded.attention)
    # Copies, as a backend may go on from the very memory that it is given.
    weights = Weights((info, functools.partial(array.copy)) for info, array in parts["weights"])
    made: Any = choice.backend.realize(loaded.graph, weights, options, config=loaded.config, task=loaded.task)
    if parts["modes"]:
        made.take_modes(parts["modes"])
    return replace(loaded, model=made)
