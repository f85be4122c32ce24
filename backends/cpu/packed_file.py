"""Weights in panels in a file of their own, beside the checkpoint they were made from: mapped, they load at once.

The file is safetensors in format, under a name of its own: one tensor of bytes for each matrix, each beginning on a
cache line, and in the metadata how each lies and what the checkpoint looked like. The layout is the same for every
processor.

Loading must not read what it only maps. So weights whose files have the sizes, times and samples that they had are
taken for the same; after copying, which changes times alone, all of their content is compared by a digest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.checkpoint.huggingface.safetensors import SafetensorsFile
from ...core.errors import CheckpointError, warn
from .sizes import matrices
from .weights import Layout, Packed, pack_matrix

if TYPE_CHECKING:
    import hashlib
    from io import FileIO

    from ...core.graph.graph import Graph

NAME = "polyllama-cpu.packed"
VERSION = "3"
PAGE = 4096
SAMPLES = 64
STRIDE = 1 << 20
"""Of this many bytes one page is looked at, and at least so many pages of a file."""
HEADER_PER_MATRIX = 256
"""Bytes of header that the entry of a matrix and its layout may take."""


def fingerprint(files: list[Path]) -> str:
    """What weights look like without reading them all: names, sizes, times, and pages spread over each file.

    Raises:
        OSError: a file that cannot be read.
    """
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            digest.update(f"{path.name} {status.st_mtime_ns}".encode())
            _look_at(partial(_read_at, file), 0, status.st_size, digest)
    return digest.hexdigest()


def content(files: list[Path]) -> str:
    """A digest of all that is in the files of weights, by name.

    Raises:
        OSError: a file that cannot be read.
    """
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def seal(read: Callable[[int, int], bytes], start: int, end: int, layouts: str) -> str:
    """The same of a packed file: how its matrices lie, and pages of what is between two of its bytes.

    Args:
        read: gives so many bytes from a place of the file: of what is open already, so that nothing else can be meant.
    """
    import hashlib

    digest = hashlib.sha256(layouts.encode())
    _look_at(read, start, end, digest)
    return digest.hexdigest()


def _look_at(read: Callable[[int, int], bytes], start: int, end: int, digest: hashlib._Hash) -> None:
    size = end - start
    samples = max(SAMPLES, size // STRIDE)
    digest.update(f" {size}\n".encode())
    for place in range(samples):
        digest.update(read(start + place * max(0, size - PAGE) // (samples - 1), PAGE))


def _read_at(file: FileIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _seal_of(path: Path, start: int, layouts: str) -> str:
    with path.open("rb", buffering=0) as file:
        return seal(partial(_read_at, file), start, os.fstat(file.fileno()).st_size, layouts)


def weight_files(weights: Any, graph: Graph) -> list[Path]:
    """The files a graph's matrices come from; empty where some are made while loading."""
    info = getattr(weights, "info", None)
    if info is None:
        return []
    modules = matrices(graph)
    names = [p.name for p in graph.parameters() if p.name.rpartition(".")[0] in modules]
    files = [info(name).file for name in names]
    return [] if None in files else sorted(set(files))


def write(folder: Path, graph: Graph, weights: Mapping[str, np.ndarray], dtype: str) -> Path:
    """Pack a checkpoint's matrices into ``polyllama-cpu.packed`` in `folder`, one at a time.

    Raises:
        CheckpointError: weights that do not come from files, or a folder that cannot be written.
    """
    import secrets

    files = weight_files(weights, graph)
    if not files:
        raise CheckpointError(f"{folder}: only weights that lie in files can be packed", hint="quantize them first")
    target, unfinished = folder / NAME, folder / f".{NAME}.{secrets.token_hex(4)}.partial"
    modules = matrices(graph)
    room = -(-(HEADER_PER_MATRIX * 2 * (len(modules) + 2)) // PAGE) * PAGE
    entries: dict[str, Any] = {}
    layouts: dict[str, Any] = {}
    position = 0
    try:
        with unfinished.open("wb") as file:
            file.seek(room)
            for name, node in modules.items():
                packed = pack_matrix(node, name, weights, dtype)
                packed.data.tofile(file)
                end = position + packed.data.nbytes
                entries[name] = {"dtype": "U8", "shape": [packed.data.nbytes], "data_offsets": [position, end]}
                layouts[name], position = asdict(packed.layout), end
            file.flush()
            described = json.dumps(layouts)
            metadata = {
                "version": VERSION,
                "dtype": dtype,
                "layouts": described,
                "seal": _seal_of(unfinished, room, described),
            }
            metadata |= {"made_from": content(files), "looked_like": fingerprint(files)}
            header = json.dumps({"__metadata__": metadata, **entries}).encode().ljust(room - 8)
            if len(header) != room - 8:
                raise CheckpointError(f"{target}: names of modules are too long to be packed")
            file.seek(0)
            file.write(len(header).to_bytes(8, "little") + header)
        os.replace(unfinished, target)
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written ({error.strerror or error})") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def find(graph: Graph, weights: Mapping[str, np.ndarray], dtype: str) -> Mapping[str, Packed] | None:
    """The matrices of a packed file beside the checkpoint; ``None`` where there is none for `dtype`.

    Warns:
        PolyllamaWarning: there is one that was made from other weights, or that is broken; it is not used.
    """
    files = weight_files(weights, graph)
    path = files[0].parent / NAME if files else None
    if path is None or not path.is_file():
        return None
    try:
        file = SafetensorsFile(path)
        if file.metadata.get("version") == VERSION and file.metadata.get("dtype") != dtype:
            return None
        return _read(file, graph, files)
    except (CheckpointError, OSError, ValueError, TypeError, KeyError) as error:
        reason = error.message if isinstance(error, CheckpointError) else str(error)  # its hint is for weights
        warn(
            f"{path} is not used ({reason.removeprefix(f'{path}: ')}): weights are packed anew; "
            "make it again with `polyllama pack` and its folder, or remove it"
        )
        return None


def _read(file: SafetensorsFile, graph: Graph, files: list[Path]) -> Mapping[str, Packed]:
    if file.metadata.get("version") != VERSION:
        raise CheckpointError("it is of another version")
    if file.metadata["looked_like"] != fingerprint(files) and file.metadata["made_from"] != content(files):
        raise CheckpointError("it was made from other weights")
    described = file.metadata["layouts"]
    if file.metadata["seal"] != seal(file.raw, file.data_start, file.size, described):
        raise CheckpointError("it is damaged")
    layouts = json.loads(described)
    found = {}
    for name, node in matrices(graph).items():
        layout = Layout(**layouts[name])
        _check(layout, node, name)
        found[name] = Packed.of(layout, file.read(name))
    return found


def _check(layout: Layout, node: Any, name: str) -> None:
    """Refuse a matrix of another shape or width than the graph's."""
    wanted = node.out_features, node.in_features, getattr(node, "group_size", 0), getattr(node, "bits", 0)
    if (layout.rows, layout.columns, layout.group, layout.bits) != wanted:
        raise CheckpointError(f"{name} is of another shape")
