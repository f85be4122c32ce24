"""What a pipeline is called with: one input, a list of them, or a source that is read as results are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any


def is_message(value: Any) -> bool:
    """Whether a value is a message of a conversation.

    >>> is_message({"role": "user", "content": "Hi"}), is_message({"text": "Hi"})
    (True, False)
    """
    return isinstance(value, Mapping) and "role" in value


def items_of(inputs: Any) -> Iterator[Any] | None:
    """The items of a generator, an iterator or a dataset; ``None`` for one input, and for a list.

    A dataset is what counts its items and gives each by its number, or what iterates and is no sequence of Python's;
    arrays and columns that become a list (``tolist``) are lists.

    >>> items_of("Once"), items_of(["Once", "One day"])
    (None, None)
    >>> list(items_of(text for text in ("Once", "One day")))
    ['Once', 'One day']
    """
    if inputs is None or isinstance(inputs, str | bytes | bytearray | Mapping | Sequence | set | frozenset):
        return None
    if hasattr(inputs, "tolist"):
        return None
    if isinstance(inputs, Iterable):
        return iter(inputs)
    if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
        return (inputs[number] for number in range(len(inputs)))
    return None


def first_of(items: Iterator[Any]) -> tuple[Any, Iterator[Any]]:
    """The first item, ``None`` where there is none, and all of them again."""
    head = list(islice(items, 1))
    return (head[0] if head else None), chain(head, items)


def chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of up to `size` items, each read when it is asked for.

    >>> list(chunks(iter("abc"), 2))
    [['a', 'b'], ['c']]
    """
    while part := list(islice(items, size)):
        yield part
