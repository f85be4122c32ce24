"""The files of one GGUF model: a file alone, or the parts that ``llama-gguf-split`` made of one.

A part says in its metadata which it is: ``split.no`` (from 0), ``split.count`` and ``split.tensors.count``, the tensors
of all parts together. Its name says the same, ``NAME-00001-of-00003.gguf``, and is what llama.cpp goes by; the metadata
stays right where a file was renamed. The first part alone has the metadata of the model.
Source: https://github.com/ggml-org/llama.cpp/tree/master/tools/gguf-split
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import CheckpointError
from ...messages import few
from .file import GgufFile

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_INCOMPLETE = "the download is incomplete: run it again"
_BACK = "give the parts the names back that they had (NAME-00001-of-{:05d}.gguf and so on), all in one folder"


def open_model(path: Path) -> list[GgufFile]:
    """The opened files of the model at ``path``, a file or a folder with one model, the first part first.

    Raises:
        CheckpointError: a folder holds no model or several; parts are missing, or are not of one model.
    """
    if path.is_dir():
        path = _only_model(path)
    match = _NAME.fullmatch(path.name)
    named = int(match["count"]) if match else 1
    if match is not None and named > 1:
        names = [f"{match['stem']}-{n:05d}-of-{match['count']}.gguf" for n in range(1, named + 1)]
        missing = [name for name in names if not (path.parent / name).exists()]
        if missing:
            found = _despite_their_names(path) if path.exists() else None
            if found is not None:
                return found
            raise CheckpointError(
                f"{path.parent}: {len(missing)} of {named} parts are missing: {few(missing)}", hint=_INCOMPLETE
            )
        return _in_order([GgufFile(path.parent / name) for name in names])
    file = GgufFile(path)
    number, count = _place(file)
    if count == 1:
        return [file]
    return _in_order([file, *_renamed_parts(file, number, count)])


def _despite_their_names(path: Path) -> list[GgufFile] | None:
    """All parts of a model, some of which are not called as the name of one says; None where some are not there."""
    try:
        file = GgufFile(path)
        number, count = _place(file)
        return _in_order([file, *_renamed_parts(file, number, count)]) if count > 1 else None
    except CheckpointError:
        return None


def _place(file: GgufFile) -> tuple[int, int]:
    """Which part a file says it is, from 0, and of how many."""
    number, count = file.metadata.get("split.no", 0), file.metadata.get("split.count", 1)
    if type(number) is not int or type(count) is not int or not 0 <= number < max(count, 1):
        raise CheckpointError(
            f"{file.path}: says split.no={number!r:.40} and split.count={count!r:.40}, which is no part of a model",
            hint="download it again",
        )
    return number, max(count, 1)


def _renamed_parts(file: GgufFile, number: int, count: int) -> Iterable[GgufFile]:
    """The other parts of a model whose names do not say which they are, found by their metadata."""
    found: dict[int, list[GgufFile]] = {}
    for other in _readable(path for path in sorted(file.path.parent.glob("*.gguf")) if path != file.path):
        their_number, their_count = _place(other)
        if their_count == count and their_number != number and _same_model(file, other):
            found.setdefault(their_number, []).append(other)
    where = f"{file.path}: is part {number + 1} of {count} of a split model (split.count in its metadata)"
    absent = [f"{n + 1}" for n in range(count) if n != number and n not in found]
    if absent:
        raise CheckpointError(
            f"{where}, and beside it there is no part {few(absent)}; its name does not say what they are called",
            hint=_BACK.format(count),
        )
    if doubtful := next((files for files in found.values() if len(files) > 1), None):
        raise CheckpointError(
            f"{where}, and several files beside it can be part {_place(doubtful[0])[0] + 1}: "
            f"{few([other.path.name for other in doubtful])}",
            hint=_BACK.format(count),
        )
    return [found[n][0] for n in sorted(found)]


def _same_model(one: GgufFile, other: GgufFile) -> bool:
    key = "split.tensors.count"
    return one.metadata.get(key) == other.metadata.get(key) and not one.tensors.keys() & other.tensors.keys()


def _in_order(files: list[GgufFile]) -> list[GgufFile]:
    """The parts by their own numbers, checked to be all of one model."""
    places: dict[int, GgufFile] = {}
    if any("split.count" in file.metadata for file in files):
        for file in files:
            number, count = _place(file)
            if count != len(files) or number in places:
                said = f"{file.path}: says that it is part {number + 1} of {count} (split.no and split.count)"
                twice = f", as does {places[number].path.name}" if number in places else f", not of {len(files)}"
                raise CheckpointError(said + twice, hint="download this part again")
            places[number] = file
        files = [places[number] for number in sorted(places)]
    wanted = files[0].metadata.get("split.tensors.count")
    held = sum(len(file.tensors) for file in files)
    if type(wanted) is int and wanted != held:
        raise CheckpointError(
            f"{files[0].path}: its model has {wanted} tensors (split.tensors.count), its {len(files)} parts {held}",
            hint="the parts are not of one model, or one is damaged: download them again",
        )
    return files


def _only_model(folder: Path) -> Path:
    """The one model in a folder: its file, or its first part."""
    files = sorted(folder.glob("*.gguf"))
    models = [file for file in files if not (m := _NAME.fullmatch(file.name)) or int(m["number"]) == 1]
    if len(models) > 1:  # some may be parts under other names
        later = {file.path for file in _readable(models) if _place(file)[0] > 0}
        models = [file for file in models if file not in later]
    if len(models) != 1:
        what = f"{len(models)} GGUF models: {few([f.name for f in models])}" if models else "no first GGUF part"
        raise CheckpointError(f"{folder}: holds {what}", hint="give the path of one of them")
    return models[0]


def _readable(paths: Iterable[Path]) -> Iterable[GgufFile]:
    """Those files that are whole; what is wrong with others is said when they are asked for."""
    for path in paths:
        try:
            file = GgufFile(path)
            _place(file)
        except CheckpointError:
            continue
        yield file
