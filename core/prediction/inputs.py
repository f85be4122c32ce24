"""What ``predict`` is given, as one set of named texts for each result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..messages import subject

if TYPE_CHECKING:
    from ..tasks.task import Task

Texts = dict[str, str]


def read_texts(task: Task, given: Any, named: Mapping[str, Any]) -> tuple[bool, list[Texts]]:
    """Whether it is one, and the texts of each by the names that the task takes.

    Args:
        given: a text, a mapping of names to texts, or a list of either; ``None`` where everything is named.
        named: a text or a list of texts by name; one text goes with every item of a list.

    Raises:
        InputError: a text that is missing, empty or none at all; an empty list; lists of different lengths.

    >>> from polyllama.core.tasks.task import Task
    >>> class Asking(Task):
    ...     name = "asking"
    ...     texts = ("question", "context")
    >>> single, examples = read_texts(Asking(), None, {"question": ["Who?", "Where?"], "context": "Ann, at sea."})
    >>> single, examples[1]
    (False, {'question': 'Where?', 'context': 'Ann, at sea.'})
    """
    known = (*task.texts, *task.optional_texts)
    columns = {name: value for name, value in named.items() if value is not None}
    if given is None:
        if not columns:
            raise InputError(f"predict for task {task.name!r} takes {_list(task.texts)}", hint="give a text or a list")
        return _from_columns(task, known, columns)
    if isinstance(given, Mapping):
        _refuse_names(columns, "a mapping")
        return True, [_from_mapping(task, known, given, "the mapping")]
    if isinstance(given, str):
        return _from_columns(task, known, {known[0]: given, **_other(columns, known[0])})
    items = _listed(given, known[0])
    if any(isinstance(item, Mapping) for item in items):
        _refuse_names(columns, "a list of mappings")
        return False, [_item(task, known, item, place) for place, item in enumerate(items)]
    return _from_columns(task, known, {known[0]: items, **_other(columns, known[0])})


def _other(columns: dict[str, Any], first: str) -> dict[str, Any]:
    if first in columns:
        raise InputError(f"{first} is given twice", hint="by position or by name")
    return columns


def _refuse_names(columns: Mapping[str, Any], what: str) -> None:
    if columns:
        raise InputError(f"{what} names its texts itself, {_list(tuple(columns))} given beside it")


def _item(task: Task, known: tuple[str, ...], item: Any, place: int) -> Texts:
    name = f"{known[0]} {place}"
    if isinstance(item, Mapping):
        return _from_mapping(task, known, item, f"item {place}")
    if len(task.texts) > 1:
        raise InputError(f"item {place} is no mapping with {_list(task.texts)}", hint="the others are mappings")
    return {known[0]: _text(item, name)}


def _from_mapping(task: Task, known: tuple[str, ...], item: Mapping[Any, Any], where: str) -> Texts:
    unknown = [name for name in item if name not in known]
    missing = [name for name in task.texts if name not in item]
    if unknown or missing:
        wrong = f"has no {missing[0]}" if missing else f"has {unknown[0]!r:.80}"
        raise InputError(f"{where} {wrong}; task {task.name!r} takes {_list(known)}")
    return {name: _text(item[name], f"{name} of {where}") for name in known if name in item}


def _from_columns(task: Task, known: tuple[str, ...], columns: Mapping[str, Any]) -> tuple[bool, list[Texts]]:
    missing = [name for name in task.texts if name not in columns]
    if missing:
        raise InputError(
            f"{missing[0]} is missing: task {task.name!r} takes {_list(task.texts)}",
            hint=f"predict({', '.join(f'{name}=...' for name in task.texts)})",
        )
    lists = {name: _listed(value, name) for name, value in columns.items() if not isinstance(value, str)}
    lengths = {name: len(items) for name, items in lists.items()}
    if len(set(lengths.values())) > 1:
        counted = " and ".join(f"{count} of {name}" for name, count in lengths.items())
        raise InputError(f"lists of different lengths: {counted}", hint="one text goes with every item of a list")
    names = [name for name in known if name in columns]
    if not lists:
        return True, [{name: _text(columns[name], name) for name in names}]
    for name in set(names) - set(lists):
        _text(columns[name], name)
    count = next(iter(lengths.values()))
    return False, [
        {name: _text(lists[name][i], f"{name} {i}") if name in lists else columns[name] for name in names}
        for i in range(count)
    ]


def _listed(value: Any, name: str) -> list[Any]:
    if isinstance(value, (bytes, bytearray, Mapping, set, frozenset)) or not isinstance(value, Iterable):
        hint = "decode bytes first" if isinstance(value, (bytes, bytearray)) else None
        raise InputError(
            subject(name, value) + f" is a {type(value).__name__}, wanted a text or a list of texts", hint=hint
        )
    items = list(value)
    if not items:
        raise InputError(f"the list of {name} is empty", hint="give at least one")
    return items


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InputError(subject(name, value) + f" is a {type(value).__name__}, wanted a text")
    if not value.strip():
        raise InputError(subject(name, value) + (" is only white space" if value else " is empty"))
    return str(value)


def _list(names: tuple[str, ...]) -> str:
    return " and ".join(names)
