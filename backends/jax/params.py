"""Weights that somebody hands in, checked: names and shapes are known while tracing too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.errors import InputError
from ...core.graph.graph import Graph


def check_params(graph: Graph, params: Any, dtype: str | None = None) -> None:
    """Refuse weights that are not the graph's.

    Args:
        params: by checkpoint name, arrays that may be traced.
        dtype: what each has to be in; any floating-point dtype by default.

    Raises:
        InputError: names what is missing, unknown, or of another shape or dtype.
    """
    if not isinstance(params, Mapping):
        raise InputError(f"params is a {type(params).__name__}, wanted a dict by parameter name")
    wanted = {parameter.name: parameter.shape for parameter in graph.parameters()}
    wrong = [f"{name} is missing" for name in wanted if name not in params]
    wrong += [f"{name} is not known" for name in params if name not in wanted]
    for name, shape in wanted.items():
        if name not in params:
            continue
        found = tuple(getattr(params[name], "shape", ()))
        if found != shape:
            wrong.append(f"{name} has shape {list(found)}, wanted {list(shape)}")
        elif dtype is not None and str(params[name].dtype) != dtype:
            wrong.append(f"{name} is {params[name].dtype}, the model computes in {dtype}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(f"params do not fit this model: {'; '.join(wrong[:3])}{more}")


def check_held(params: Mapping[str, Any]) -> None:
    """Refuse weights of a dtype that no model is held in; floats of several dtypes may stand beside each other.

    Raises:
        InputError: names the first.
    """
    from .arrays import DTYPES

    for name, array in params.items():
        if str(array.dtype) not in (*DTYPES, "uint32"):
            raise InputError(f"params: {name} is {array.dtype}, wanted one of {', '.join(DTYPES)}")
