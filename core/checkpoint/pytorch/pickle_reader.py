"""Reading what ``torch.save`` pickled, without unpickling.

A pickle is a program: Python's own reader imports and calls whatever it names. Here its opcodes are interpreted by a
machine that can build dictionaries, lists, tuples, numbers, text, and descriptions of tensors, and nothing else. The
names that torch writes into a state dict are known one by one; any other name is refused, and said.

Opcodes: Python's ``Lib/pickletools.py``. What torch writes: ``torch/serialization.py`` and ``torch/_utils.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError

MAX_PICKLE_BYTES = 16 << 20
_MAX_STEPS = 1_000_000  # a tensor takes some sixty
_MAX_DIMENSIONS = 32
_MAX_COUNT = 2**62
_REFUSED = "do not trust this file; if it is your own, save its plain state dict as safetensors"

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
_DTYPES = frozenset({*STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"})


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of values in the archive, under ``data/KEY``."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage: offset and strides in values."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """A name that the pickle imports; never resolved."""

    text: str


class _Mark:
    """What MARK leaves on the stack."""


_MARK = _Mark()


def read_pickle(content: bytes, path: Path) -> Any:
    """What a pickle of plain values and tensors describes.

    Raises:
        CheckpointError: it names anything but what a state dict needs, or is damaged; says which and names the file.
    """
    if len(content) > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"{path}: its pickle has {len(content):,} bytes, more than any model's", hint="do not trust this file"
        )
    return _Machine(path).run(content)


class _Machine:
    """The interpreter: a stack, a memo and no way out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        import pickletools

        try:
            for step, (opcode, argument, _) in enumerate(pickletools.genops(content)):
                if step > _MAX_STEPS:
                    raise self._refused("has more steps than any model's")
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except CheckpointError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, RecursionError, MemoryError) as error:
            raise self._damaged(str(error) or type(error).__name__) from None
        raise self._damaged("it does not end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _IGNORED:
            return
        if name in _PUSH_ARGUMENT:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise self._refused(f"uses the opcode {name}, which weights never need")

    def _damaged(self, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: its pickle is damaged ({' '.join(reason.split())[:200]})",
            hint="the file is corrupt or incomplete: download or save it again",
        )

    def _refused(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: its pickle {what}; nothing was run", hint=_REFUSED)

    # ---- stack

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark lies where a value is expected")
        return value

    def _to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise ValueError("there is no mark")

    def pop_mark(self, _: Any) -> None:
        self._to_mark()

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    # ---- memo

    def put(self, index: Any) -> None:
        self.memo[int(index)] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: Any) -> None:
        self.stack.append(self.memo[int(index)])

    # ---- containers

    def tuple_of(self, count: int | None) -> None:
        values = self._to_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self.stack.append(tuple(values))

    def list_of(self, _: Any) -> None:
        self.stack.append(self._to_mark())

    def append(self, _: Any) -> None:
        value = self._pop()
        self._expect(self.stack[-1], list).append(value)

    def appends(self, _: Any) -> None:
        values = self._to_mark()
        self._expect(self.stack[-1], list).extend(values)

    def dict_of(self, _: Any) -> None:
        values = self._to_mark()
        self.stack.append({})
        self._set(self.stack[-1], values)

    def set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set(self.stack[-1], [key, value])

    def set_items(self, _: Any) -> None:
        values = self._to_mark()
        self._set(self.stack[-1], values)

    def _set(self, target: Any, values: list[Any]) -> None:
        mapping = self._expect(target, dict)
        if len(values) % 2:
            raise ValueError("a key has no value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Only keys that hash in no time: tuples that hold one another would take forever.
            if not isinstance(key, str | int | float | bytes | None):
                raise ValueError(f"a {type(key).__name__} is the key of a dictionary")
            if key in mapping:
                raise self._damaged(f"the key {key!r:.80} is there twice")
            mapping[key] = value

    def _expect(self, value: Any, kind: type) -> Any:
        if type(value) is not kind:
            raise ValueError(f"a {type(value).__name__} where a {kind.__name__} is expected")
        return value

    # ---- names and calls, none of which is made

    def global_name(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self._push_name(module, name)

    def stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name is not text")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        text = f"{module}.{name}"
        known = text in _CALLS or text in _BARE_NAMES
        if not known and not (module == "torch" and (name in _DTYPES or name in STORAGES)):
            raise self._refused(f"asks for {text!r:.120}, which weights never need")
        self.stack.append(_Name(text))

    def reduce(self, _: Any) -> None:
        arguments, callee = self._pop(), self._pop()
        if not isinstance(callee, _Name) or callee.text not in _CALLS:
            what = callee.text if isinstance(callee, _Name) else type(callee).__name__
            raise self._refused(f"calls {what!r:.120}, which weights never need")
        if not isinstance(arguments, tuple):
            raise ValueError("arguments are not a tuple")
        self.stack.append(_CALLS[callee.text](arguments))

    def build(self, _: Any) -> None:
        """A state dict carries ``_metadata``, versions of modules; nothing else has a state."""
        state = self._pop()
        if type(self.stack[-1]) is not dict or type(state) is not dict or set(state) - {"_metadata"}:
            raise self._refused("sets the state of an object, which weights never need")

    def persistent_id(self, _: Any) -> None:
        value = self._pop()
        if not isinstance(value, tuple) or len(value) != 5 or value[0] != "storage":
            raise ValueError("a persistent id is no storage")
        _, kind, key, _, count = value
        if not isinstance(kind, _Name) or not isinstance(key, str) or not _is_count(count):
            raise ValueError("a storage is described wrongly")
        dtype = STORAGES.get(kind.text.rpartition(".")[2])
        if dtype is None:
            raise self._refused(f"has a storage of type {kind.text!r:.80}, which is not known")
        self.stack.append(Storage(key, dtype, count))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _tensor(arguments: tuple[Any, ...], dtype: str | None = None) -> StoredTensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) != len(strides):
        raise ValueError("a tensor's shape and strides do not go together")
    if len(shape) > _MAX_DIMENSIONS or not all(map(_is_count, (offset, *shape, *strides))):
        raise ValueError("a tensor's shape, strides or offset are not sizes")
    if math.prod(n for n in shape if n) > _MAX_COUNT:
        raise ValueError("a tensor's shape is larger than any machine's memory")
    return StoredTensor(storage, dtype or storage.dtype, offset, shape, strides)


def _tensor_of_dtype(arguments: tuple[Any, ...]) -> StoredTensor:
    dtype = arguments[6]
    if not isinstance(dtype, _Name) or dtype.text.removeprefix("torch.") not in _DTYPES:
        raise ValueError("a tensor's dtype is unknown")
    return _tensor(arguments, dtype.text.removeprefix("torch."))


def _parameter(arguments: tuple[Any, ...]) -> Any:
    if not isinstance(arguments[0], StoredTensor):
        raise ValueError("a parameter is no tensor")
    return arguments[0]


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise ValueError("an OrderedDict is made from arguments")
    return {}


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or not isinstance(arguments[0], tuple | list) or len(arguments[0]) > _MAX_DIMENSIONS:
        raise ValueError("a Size is described wrongly")
    return tuple(arguments[0])


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,  # what else hangs on it is no weight
}
_BARE_NAMES = frozenset({"torch.storage.UntypedStorage"})

_IGNORED = frozenset({"PROTO", "FRAME"})
_PUSHED = """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE
BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8"""
_PUSH_ARGUMENT = frozenset(_PUSHED.split())
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.dup,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": lambda machine, _: machine.tuple_of(None),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_of,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "DICT": _Machine.dict_of,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.global_name,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
}
