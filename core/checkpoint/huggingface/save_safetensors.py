"""Writing safetensors: one tensor in memory at a time, and no file under its final name before it is whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from ...dtypes import dtype_name, itemsize, safetensors_code
from ...errors import CheckpointError, UnsupportedError
from ...messages import mention, subject
from ...public import for_plugins
from ..protocol import TensorInfo
from ..tensor_summary import bytes_text
from ..weights import Weights
from .reader import INDEX_NAME, SINGLE_NAME, is_plain_name
from .safetensors import MAX_HEADER_BYTES

if TYPE_CHECKING:
    import numpy as np

    Source: TypeAlias = np.ndarray[Any, Any] | Callable[[], np.ndarray[Any, Any]]

_UNITS = {"B": 1} | {
    prefix + suffix: base**power
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT", start=1)
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)\s*", re.IGNORECASE)
_CHUNK = 1 << 24


@dataclass
class _Shard:
    name: str
    items: list[tuple[TensorInfo, Source]] = field(default_factory=list)
    header: bytes = b""
    partial: Path | None = None

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info, _ in self.items)


@for_plugins
def save_safetensors(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray[Any, Any]] | Iterable[tuple[str | TensorInfo, Source]],
    *,
    max_shard_size: int | str | None = "5GB",
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write tensors as model.safetensors, or as numbered shards and an index where they exceed ``max_shard_size``.

    Names, index and sharding follow Hugging Face (decimal "5GB" or "500MB", binary "1GiB", bytes, or None for one
    file). Weights and other tensors that are made when called are written one by one, so memory holds one at a time.
    Existing weights are replaced only when all new files are complete, so saving into the folder that the tensors are
    mapped from is safe; files of the weights that were there before, as their index names them, are then removed.

    Args:
        folder: made if it is not there.
        tensors: ``Weights``; a mapping or pairs of name and array; or pairs of ``TensorInfo`` and an array or a
            function that returns one.
        metadata: added to the header's ``{"format": "pt"}``, which transformers asks for.

    Returns:
        The files written, the index last.

    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = save_safetensors(folder, [("a", np.zeros(3)), ("b", np.ones(3))], max_shard_size=24)
    ...     [file.name for file in files]
    ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.safetensors.index.json']
    """
    folder = Path(folder)
    shards = _sharded(_items(tensors), parse_size(max_shard_size))
    header_metadata = {"format": "pt", **_checked_metadata(metadata)}
    for shard in shards:
        shard.header = _header(shard, header_metadata)
    index = _index(shards) if len(shards) > 1 else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, sum(shard.nbytes + len(shard.header) for shard in shards))
        before = _weight_files(folder)
        written = _write_all(folder, shards, index)
        for stale in sorted(before - {file.name for file in written}, key=lambda name: name != INDEX_NAME):
            (folder / stale).unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot save there ({error.strerror or error})") from None
    return written


def parse_size(size: int | str | None, name: str = "max_shard_size") -> int | None:
    """Bytes of "5GB", "1.5 GiB" or a number.

    >>> parse_size("5GB"), parse_size("1KiB"), parse_size(100)
    (5000000000, 1024, 100)
    """
    if size is None:
        return None
    if isinstance(size, str) and (match := _SIZE.fullmatch(size)):
        unit = match[2][:-1].upper().replace("I", "i") + "B"
        size = int(float(match[1]) * _UNITS[unit]) if unit in _UNITS else size
    if type(size) is not int or size <= 0:
        raise CheckpointError(
            subject(name, size) + f": {size!r} is not a size", hint='write "5GB", "500MB", "1GiB" or bytes'
        )
    return size


def _items(tensors: Any) -> list[tuple[TensorInfo, Source]]:
    pairs: Iterable[tuple[str | TensorInfo, Source]]
    if isinstance(tensors, Weights):
        pairs = [(tensors.info(name), _reader(tensors, name)) for name in tensors]
    else:
        pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    items: dict[str, tuple[TensorInfo, Source]] = {}
    for key, source in pairs:
        info = _described(key, source) if isinstance(key, str) else key
        if info.name in items or info.name == "__metadata__":
            what = "is the format's own name" if info.name == "__metadata__" else "comes twice"
            raise CheckpointError(f"cannot save tensor {info.name!r}: the name {what}")
        items[info.name] = (info, source)
    if not items:
        raise CheckpointError("there are no tensors to save")
    return list(items.values())


def _reader(weights: Weights, name: str) -> Callable[[], np.ndarray[Any, Any]]:
    return lambda: weights[name]


def _described(name: str, source: Source) -> TensorInfo:
    if callable(source):
        raise CheckpointError(
            f"cannot save tensor {name!r}: its dtype and shape must be known before it is made",
            hint="give a TensorInfo instead of the name",
        )
    try:
        return TensorInfo(name, dtype_name(source.dtype), tuple(source.shape))
    except UnsupportedError as error:
        raise CheckpointError(f"cannot save tensor {name!r}: {error.message}", hint=error.hint) from None


def _checked_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    wrong = [key for key, value in (metadata or {}).items() if not (isinstance(key, str) and isinstance(value, str))]
    if wrong:
        raise CheckpointError(f"metadata {wrong[0]!r}: safetensors metadata must map strings to strings")
    return dict(metadata or {})


def _sharded(items: list[tuple[TensorInfo, Source]], limit: int | None) -> list[_Shard]:
    """Fill shards in order; a tensor larger than the limit gets one of its own."""
    groups: list[_Shard] = [_Shard("")]
    for item in items:
        if limit is not None and groups[-1].items and groups[-1].nbytes + item[0].nbytes > limit:
            groups.append(_Shard(""))
        groups[-1].items.append(item)
    for number, shard in enumerate(groups, start=1):
        shard.name = f"model-{number:05d}-of-{len(groups):05d}.safetensors" if len(groups) > 1 else SINGLE_NAME
        if not _aligned(shard.items):
            # Widest first: then every tensor starts at a multiple of its item size.
            shard.items.sort(key=lambda item: -itemsize(item[0].dtype))
    return groups


def _aligned(items: Sequence[tuple[TensorInfo, Source]]) -> bool:
    """Whether every tensor starts at a multiple of its item size as they are.

    Then they are written as they come: tensors that are made together, as those of a quantized module, stay together.
    """
    position = 0
    for info, _ in items:
        if position % itemsize(info.dtype):
            return False
        position += info.nbytes
    return True


def _header(shard: _Shard, metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for info, _ in shard.items:
        entries[info.name] = {
            "dtype": safetensors_code(info.dtype),
            "shape": list(info.shape),
            "data_offsets": [position, position + info.nbytes],
        }
        position += info.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{shard.name}: its header would have {len(text):,} bytes, more than the format allows",
            hint="choose a smaller " + mention("max_shard_size"),
        )
    return len(text).to_bytes(8, "little") + text


def _index(shards: list[_Shard]) -> bytes:
    placed = {info.name: shard.name for shard in shards for info, _ in shard.items}
    total = sum(shard.nbytes for shard in shards)
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
    return (json.dumps(content, indent=2) + "\n").encode()


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{folder}: saving takes {bytes_text(needed)}, only {bytes_text(free)} are free",
            hint="files that will be replaced go only when the new ones are complete; make room or save elsewhere",
        )


def _weight_files(folder: Path) -> set[str]:
    """The files of the weights that are in the folder now; nothing that is not plainly named or not weights."""
    names = {SINGLE_NAME, INDEX_NAME}
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):  # an unreadable index names nothing
        placed = json.loads((folder / INDEX_NAME).read_bytes()).get("weight_map").values()
        names |= {n for n in placed if isinstance(n, str) and is_plain_name(n) and n.endswith(".safetensors")}
    return {name for name in names if os.path.lexists(folder / name)}


def _write_all(folder: Path, shards: list[_Shard], index: bytes | None) -> list[Path]:
    """Write everything under temporary names, then rename it all, the index last."""
    partials: dict[Path, Path] = {}
    try:
        for shard in shards:
            with _new_file(folder, shard.name, partials) as file:
                file.write(shard.header)
                for info, source in shard.items:
                    _write_tensor(file, info, source)
        if index is not None:
            with _new_file(folder, INDEX_NAME, partials) as file:
                file.write(index)
        for final, partial in partials.items():
            os.replace(partial, final)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
    return list(partials)


@contextlib.contextmanager
def _new_file(folder: Path, name: str, partials: dict[Path, Path]) -> Iterator[BinaryIO]:
    partial = folder / f".{name}.{secrets.token_hex(4)}.partial"
    with open(partial, "xb") as file:
        partials[folder / name] = partial
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write_tensor(file: BinaryIO, info: TensorInfo, source: Source) -> None:
    import numpy as np

    array = source() if callable(source) else source
    if tuple(array.shape) != tuple(info.shape) or dtype_name(array.dtype) != info.dtype:
        raise CheckpointError(
            f"cannot save tensor {info.name!r}: announced as {info.dtype} {list(info.shape)}, "
            f"it is {array.dtype} {list(array.shape)}"
        )
    array = np.ascontiguousarray(array)
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and not np.little_endian):
        array = array.astype(array.dtype.newbyteorder("<"))
    data = array.reshape(-1).view(np.uint8)
    for start in range(0, data.size, _CHUNK):
        file.write(data[start : start + _CHUNK].data)
