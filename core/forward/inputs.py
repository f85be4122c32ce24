"""Inputs of a forward pass, checked; ``layout.py`` lays them out into positions and masks.

The contract: a position is the count of attended tokens of the row before it, so a padded batch, left or right, gives
each row what it gets alone, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from ..array_kinds import as_numpy, check_plain, is_float
from ..errors import InputError
from ..graph.cache import Cache
from ..graph.text_tokens import check_text
from ..messages import counted, few
from ..public import for_plugins
from ..tasks.labels import as_labels

if TYPE_CHECKING:
    import numpy as np

    from ..config.schema import LlamaConfig
    from ..tasks.task import Task
    from .arguments import ForwardArguments


@for_plugins
@dataclass(frozen=True)
class HostInputs:
    """Inputs of one forward pass as checked NumPy arrays; see :func:`read_inputs`.

    Attributes:
        attention_mask: ``None`` also where it masks nothing.
        attended: ``[B, S]`` booleans, what a mask of two dimensions says of the new tokens; ``None`` without one.
        labels: by the names that the task takes.
        masked: whether a mask was given, one that masks nothing too: then no positions tell packed sequences apart.
    """

    input_ids: np.ndarray | None
    inputs_embeds: np.ndarray | None
    attention_mask: np.ndarray | None
    position_ids: np.ndarray | None
    labels: Mapping[str, np.ndarray]
    logits_to_keep: int | np.ndarray
    attended: np.ndarray | None
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    masked: bool = False


@for_plugins
def read_inputs(config: LlamaConfig, task: Task, cache: Cache | None, arguments: ForwardArguments) -> HostInputs:
    """Check the inputs of a forward pass, nested lists or arrays, and give them as NumPy.

    Raises:
        InputError: anything of the wrong shape, type or range; the message names the argument and the value.
    """
    import numpy as np

    if (arguments.input_ids is None) == (arguments.inputs_embeds is None):
        given = "neither" if arguments.input_ids is None else "both"
        raise InputError(f"exactly one of input_ids and inputs_embeds is wanted, {given} given")
    check_cache(cache)
    ids = embeds = mask = attended = None
    if arguments.input_ids is not None:
        ids = as_integers(arguments.input_ids, "input_ids")
        check_ids(ids, config.vocab_size)
        batch, new = ids.shape
    else:
        embeds = as_embeds(arguments.inputs_embeds)
        check_embeds_shape(embeds.shape, config.hidden_size)
        batch, new = embeds.shape[:2]
    if arguments.attention_mask is not None:
        past = cache.length if cache is not None else 0
        # With a cache that was asked for more tokens may follow, so a row may be all padding so far.
        given_mask = as_mask(arguments.attention_mask)
        mask = check_mask(
            given_mask, batch, new, past, rows_may_be_empty=cache is not None and not arguments.cache_unasked
        )
        attended = given_mask[:, -new:].astype(bool) if given_mask.ndim == 2 else None
    if not task.accepts_cache and cache is not None and cache.length:
        raise InputError(f"task {task.name!r} wants whole texts, not what comes after a cache", hint="give all tokens")
    if task.outputs_per == "row":
        check_text(ids, attended, config.pad_token_id, batch)
    found = read_labels(task, arguments.labels)
    if found:
        tokens = np.ones((batch, new), bool) if attended is None else attended
        task.check_labels(config, found, tokens)
    return HostInputs(
        ids,
        embeds,
        mask,
        check_positions(arguments.position_ids, batch, new),
        found,
        check_keep(arguments.logits_to_keep, task, new),
        attended,
        read_num_items(arguments.loss_options),
        masked=arguments.attention_mask is not None,
    )


def check_ids(ids: np.ndarray, vocab_size: int, name: str = "input_ids") -> None:
    """Refuse ids that are not ``[B, S]`` integers within the vocabulary.

    >>> import numpy as np
    >>> check_ids(np.array([[1, 99]]), 32)
    Traceback (most recent call last):
    ...
    polyllama.extend.InputError: input_ids[0, 1] is 99, outside the vocabulary of 32 (0 to 31)
    """
    import numpy as np

    if ids.ndim != 2:
        raise InputError(
            f"{name} has shape {list(ids.shape)}, wanted [batch, sequence]",
            hint="for one row write [[1, 2, 3]]" if ids.ndim == 1 else None,
        )
    if ids.size == 0:
        raise InputError(f"{name} is empty (shape {list(ids.shape)})", hint="give at least one token per row")
    if ids.dtype.kind not in "iu":
        raise InputError(f"{name} holds {ids.dtype}, wanted integers")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        row, column = np.argwhere((ids < 0) | (ids >= vocab_size))[0].tolist()
        raise InputError(
            f"{name}[{row}, {column}] is {int(ids[row, column])}, outside the vocabulary of {vocab_size} "
            f"(0 to {vocab_size - 1})"
        )


def as_integers(value: Any, name: str) -> np.ndarray:
    """A nested list or an array as NumPy integers.

    Raises:
        InputError: ragged lists, something that is not numbers, or numbers beyond 64 bits.
    """
    import numpy as np

    if type(value) is np.ndarray and value.dtype.char == "l" and value.dtype.itemsize == 8:
        return value  # what generation gives, every step
    check_plain(value, name)
    try:
        array = as_numpy(value, name)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{name} is not a rectangular array: {str(error).splitlines()[0]}",
            hint="pad the rows to one length and give an attention_mask",
        ) from None
    if array.dtype.kind == "b" and name == "attention_mask":
        array = array.astype(np.int64)
    _check_64_bits(array, name)
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{name} holds {array.dtype}, wanted integers")
    whole = np.dtype(np.int64)  # C has two types of 64 bits: MLX's arrays come in the other, which kernels do not know
    if array.dtype.char != whole.char and (
        array.dtype.kind in "iu" or (not array.size and not hasattr(value, "dtype"))
    ):
        return array.astype(whole)  # an empty list has no element type of its own
    return array


def _check_64_bits(array: np.ndarray, name: str) -> None:
    """Refuse integers that int64 does not hold: it would make others of them."""
    import numpy as np

    if array.dtype == np.uint64 or (array.dtype == object and all(isinstance(item, int) for item in array.flat)):
        wrong = [int(item) for item in array.flat if not -(2**63) <= int(item) < 2**63]
        if wrong:
            raise InputError(f"{name} holds {wrong[0]}, which is no integer of 64 bits")


def as_embeds(value: Any) -> np.ndarray:
    """Embeddings as a NumPy array of floats."""
    import numpy as np

    check_plain(value, "inputs_embeds")
    try:
        array = np.asarray(value)
        if array.dtype.kind in "iub":
            array = array.astype(np.float32)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"inputs_embeds is not an array of numbers: {str(error).splitlines()[0]}") from None
    if not is_float(array.dtype):
        raise InputError(f"inputs_embeds holds {array.dtype}, wanted floats")
    return array


def as_mask(value: Any) -> np.ndarray:
    """An attention mask as NumPy; a ``[B, 1, S, K]`` one may also be additive: 0 where allowed, -inf elsewhere.

    One of two dimensions may hold its ones and zeros as floats, as libraries do that put tokens of their own in front.
    """
    import numpy as np

    if type(value) is np.ndarray and value.dtype.kind == "i":
        return as_integers(value, "attention_mask")
    array = as_numpy(value, "attention_mask") if hasattr(value, "dtype") else None
    if array is None or not is_float(array.dtype):
        return as_integers(value, "attention_mask")
    array = array.astype(np.float32) if array.dtype.kind != "f" else array
    if array.ndim == 2 and bool((array == 1).any() and ((array == 0) | (array == 1)).all()):
        return array.astype(np.int64)
    if not bool(((array == 0) | (array <= ADDITIVE_MASKED)).all()):
        refuse_floats()
    check_additive(array.ndim)
    return np.asarray(array == 0)


def check_additive(ndim: int) -> None:
    """Refuse a mask of floats that is not of four dimensions: 1 and 0 would be the opposite of what they are.

    The number of dimensions is known wherever a pass runs, its numbers are not.
    """
    if ndim != 4:
        refuse_floats()


def refuse_floats() -> NoReturn:
    """Raise the error about a mask of floats."""
    raise InputError(
        "attention_mask holds floats",
        hint="give 1 and 0; only a [batch, 1, sequence, keys] mask may be additive, with 0 and -inf",
    )


ADDITIVE_MASKED = -1e4
"""At and below this an additive mask means "may not look"; float16 cannot write much less."""


def check_mask(
    mask: np.ndarray, batch: int, new: int, past: int, *, rows_may_be_empty: bool = False
) -> np.ndarray | None:
    """Check an attention mask given as numbers; ``None`` comes back where it masks nothing."""
    if mask.dtype.kind not in "biu" or (mask.size and (int(mask.min()) < 0 or int(mask.max()) > 1)):
        raise InputError(
            "attention_mask holds something other than 0 and 1", hint="1 marks a token to attend to, 0 a padding"
        )
    total = past + new
    if mask.ndim == 4:
        if mask.shape[0] not in (1, batch) or mask.shape[1:] != (1, new, total):
            raise InputError(f"attention_mask has shape {list(mask.shape)}, wanted [{batch}, 1, {new}, {total}]")
        return mask.astype(bool)
    if mask.ndim != 2 or mask.shape[0] != batch or mask.shape[1] not in (new, total):
        wanted = f"[{batch}, {total}]" + (f" or [{batch}, {new}]" if past else "")
        raise InputError(f"attention_mask has shape {list(mask.shape)}, wanted {wanted}")
    if not rows_may_be_empty and not mask.any(axis=1).all():
        row = int((~mask.any(axis=1)).argmax())
        raise InputError(f"attention_mask[{row}] attends to nothing", hint="drop the row")
    return None if mask.all() else mask.astype(bool)


def check_cache(cache: Any) -> None:
    """Refuse anything but a cache of ours as ``past_key_values``."""
    if cache is not None and not isinstance(cache, Cache):
        raise InputError(
            f"past_key_values is a {type(cache).__name__}, wanted the cache of an earlier output of this model",
            hint="pass y.past_key_values from a call with use_cache=True",
        )


def check_cache_position(cache: Any, cache_position: Any, new: int) -> None:
    """Refuse a ``cache_position`` that says anything else than the cache, which knows how many tokens it holds.

    Args:
        cache_position: ``[S]``, the slots of the `new` tokens; ``None`` where it is not given.
    """
    if cache_position is None:
        return
    places = as_integers(cache_position, "cache_position").reshape(-1)
    past = cache.length if cache is not None else 0
    if places.size and int(places[0]) != past:
        raise InputError(
            f"cache_position starts at {int(places[0])}, the cache holds {counted(past, 'token')}",
            hint="leave it out: the cache knows its own length",
        )
    if places.size and places.tolist() != list(range(past, past + new)):
        raise InputError(
            f"cache_position {few([str(place) for place in places.tolist()])} is not {past} to {past + new - 1}",
            hint="leave it out: the cache knows its own length",
        )


def check_embeds_shape(shape: tuple[int, ...], hidden_size: int) -> None:
    """Refuse embeddings that are not ``[B, S, hidden_size]``."""
    if len(shape) != 3 or shape[2] != hidden_size or 0 in shape:
        raise InputError(f"inputs_embeds has shape {list(shape)}, wanted [batch, sequence, {hidden_size}]")


def check_keep(keep: Any, task: Task, new: int) -> int | np.ndarray:
    """``logits_to_keep``: a count of last positions (0 for all), or the positions themselves."""
    if isinstance(keep, bool):
        raise InputError(f"logits_to_keep is {keep}", hint="0 keeps all positions, n the last n")
    if isinstance(keep, int) and keep == 0:
        return 0
    if not task.generates:
        raise InputError(f"logits_to_keep is for language models, this is task {task.name!r}", hint="leave it at 0")
    if isinstance(keep, int):
        if keep < 0:
            raise InputError(f"logits_to_keep is {keep}", hint="0 keeps all positions, n the last n")
        return min(keep, new)
    if getattr(keep, "dtype", None) is not None and "bool" in str(keep.dtype):
        raise InputError("logits_to_keep holds booleans, wanted positions")
    indices = as_integers(keep, "logits_to_keep")
    if indices.ndim != 1 or indices.size == 0 or indices.min() < 0 or indices.max() >= new:
        raise InputError(f"logits_to_keep {indices.tolist()} are not positions of a sequence of {new}")
    return indices


def check_positions(position_ids: Any, batch: int, new: int) -> np.ndarray | None:
    """Position ids as ``[B or 1, S]`` non-negative integers."""
    if position_ids is None:
        return None
    positions = as_integers(position_ids, "position_ids")
    if positions.ndim == 1:
        positions = positions[None, :]
    if positions.ndim != 2 or positions.shape[0] not in (1, batch) or positions.shape[1] != new:
        raise InputError(f"position_ids has shape {list(positions.shape)}, wanted [{batch}, {new}]")
    if int(positions.min()) < 0:
        raise InputError(f"position_ids holds {int(positions.min())}, positions start at 0")
    return positions


def read_num_items(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a loss, with ``num_items_in_batch``, which divides a sum of losses, checked.

    A number or one of NumPy's comes out as a plain one; an array of a framework may be on its way through a transform,
    and stays what it is, without dimensions.

    Raises:
        InputError: it is no positive number, or several.

    >>> import numpy as np
    >>> read_num_items({"num_items_in_batch": np.array([8])})
    {'num_items_in_batch': 8}
    """
    found = dict(options)
    value = given = found.pop("num_items_in_batch", None)
    if value is None:
        return found
    if type(value).__module__ == "numpy" and value.size == 1:
        value = value.item()
    elif hasattr(value, "shape") and type(value).__module__ != "numpy":
        if math.prod(value.shape) != 1:
            raise InputError(f"num_items_in_batch has shape {list(value.shape)}, wanted one number")
        return {**found, "num_items_in_batch": value.reshape(()) if len(value.shape) else value}
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InputError(f"num_items_in_batch is {given!r:.80}, wanted a positive number")
    return {**found, "num_items_in_batch": value}


@for_plugins
def read_labels(task: Task, labels: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Labels as NumPy arrays of numbers or booleans; integers as int64.

    Raises:
        InputError: ragged lists, or something that is not numbers.
    """
    return {name: as_labels(value, name) for name, value in labels.items()}
