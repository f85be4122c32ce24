"""Reading a YAML file that somebody else wrote: plain data only, bounded, and nothing dropped on the way.

YAML lets a key appear twice (the last one wins), lets twenty lines of aliases stand for gigabytes, and nests deep
enough to overflow the stack of the C parser. All three are refused here with the line they are on. Only the safe
constructor is used, so no tag can run code.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import PolyllamaError

MAX_BYTES = 2 * 1024 * 1024
MAX_VALUES = 200_000
"""Values a file may stand for once its aliases are followed."""
MAX_DEPTH = 50
_CHEAP_DEPTH = 2_000  # with fewer collection openers than this the C parser's recursion is safe whatever they are


def read_yaml_mapping(path: Path, error: type[PolyllamaError], *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The top-level mapping of a YAML file; an empty file is an empty mapping.

    Args:
        path: the file.
        error: the class of error to raise, with the file (and where known the line) in its message.
        max_bytes: refuse a larger file unread.

    Raises:
        error: the file cannot be read, is not UTF-8, is not YAML, is no mapping with text keys, has a key twice, nests
            too deep, or stands for too many values.
    """
    text = _read_text(path, error, max_bytes)
    import yaml

    try:
        data = _parse(text, path, error)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        what = problem.problem or problem.context or "unreadable"
        raise error(f"{where}: not valid YAML: {' '.join(str(what).split())}") from problem
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as problem:
        raise error(f"{path}: not valid YAML: {' '.join(str(problem).split())}") from problem
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise error(f"{path}: must hold 'key: value' lines, but it holds a {type(data).__name__}")
    for key in data:
        if not isinstance(key, str):
            raise error(
                f"{path}: the key {key!r} is read as a {type(key).__name__}", hint=f'put it in quotes: "{key}": ...'
            )
    return data


def _read_text(path: Path, error: type[PolyllamaError], max_bytes: int) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror or problem}") from problem
    if len(content) > max_bytes:
        raise error(f"{path}: larger than {max_bytes // 1024} KiB, which no such file needs to be")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(
            f"{path}: not UTF-8 text (byte {problem.start})", hint="save the file with UTF-8 encoding"
        ) from problem


def _parse(text: str, path: Path, error: type[PolyllamaError]) -> Any:
    import yaml

    # The C loader is some ten times faster; PyYAML can be built without it.
    loader_class: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if sum(map(text.count, "[{-?:")) >= _CHEAP_DEPTH:
        _check_depth(yaml.parse(text, Loader=loader_class), path, error)
    loader = loader_class(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node, path, error)
        try:
            return loader.construct_document(node)
        except (LookupError, AttributeError, TypeError, ValueError) as problem:  # as PyYAML's constructors let escape
            raise _wrong_value(loader, node, path, error) from problem
    finally:
        loader.dispose()


def _wrong_value(loader: Any, root: Any, path: Path, error: type[PolyllamaError]) -> PolyllamaError:
    """The error for the first value that does not fit its tag, such as ``!!int ""`` or the date 2026-13-40."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node.value, str):
            try:
                loader.construct_object(node)
            except Exception:
                line = node.start_mark.line + 1
                kind = node.tag.rpartition(":")[2]
                return error(f"{path}, line {line}: not valid YAML: {node.value!r:.80} is no {kind}")
        else:
            waiting.extend(
                reversed([part for item in node.value for part in (item if isinstance(item, tuple) else (item,))])
            )
    return error(f"{path}: not valid YAML: a value does not fit its tag")


def _check_depth(events: Iterable[Any], path: Path, error: type[PolyllamaError]) -> None:
    """Count nesting from the event stream, which is flat, before anything recurses over it."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else "?"
                raise error(f"{path}, line {line}: nested more than {MAX_DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_nodes(root: Any, path: Path, error: type[PolyllamaError]) -> None:
    """Refuse repeated keys, cycles, and aliases that multiply."""
    sizes: dict[int, int] = {}  # id(node) -> values it stands for; 0 while it is being counted

    def count(node: Any, depth: int) -> int:
        known = sizes.get(id(node))
        if known is not None:
            if known == 0:
                raise error(f"{path}, line {node.start_mark.line + 1}: an alias that contains itself")
            return known
        if isinstance(node.value, str):
            return 1
        line = node.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise error(f"{path}, line {line}: nested more than {MAX_DEPTH} levels deep")
        sizes[id(node)] = 0
        total = 1
        if node.id == "mapping":
            seen: set[tuple[str, str]] = set()
            for key, value in node.value:
                if isinstance(key.value, str):
                    identity = (key.tag, key.value)
                    if identity in seen:
                        raise error(f"{path}, line {key.start_mark.line + 1}: the key {key.value!r} appears twice")
                    seen.add(identity)
                total += count(key, depth + 1) + count(value, depth + 1)
        else:
            for item in node.value:
                total += count(item, depth + 1)
        if total > MAX_VALUES:
            raise error(f"{path}, line {line}: its aliases stand for more than {MAX_VALUES} values")
        sizes[id(node)] = total
        return total

    count(root, 0)
