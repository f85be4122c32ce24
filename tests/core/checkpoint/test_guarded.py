"""What readers and writers of other packages do wrong is said to be theirs."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from polyllama import convert
from polyllama.core.checkpoint.check import check
from polyllama.core.checkpoint.ignoring import ignoring
from polyllama.core.checkpoint.opening import open_checkpoint
from polyllama.core.checkpoint.protocol import TensorInfo
from polyllama.core.errors import CheckpointError, PluginError, PolyllamaWarning
from polyllama.core.graph.node import Parameter
from polyllama.core.plugin_system.hookspecs import CheckpointFormatDescriptor, hookimpl
from polyllama.core.plugin_system.manager import plugin_manager

LABEL = r"checkpoint format 'odd' of package odd-format 1\.2"


class Opened:
    """A checkpoint of one tensor."""

    format = "odd"

    def __init__(self, path: Path, **methods: Any) -> None:
        self.path = path
        self.__dict__ |= methods

    def config(self, **overrides: Any) -> Any:
        return overrides

    def tensors(self) -> Any:
        return {"a": TensorInfo("a", "float32", (2,))}

    def read(self, name: str) -> Any:
        return {"a": np.ones(2, np.float32)}[name]

    def release(self, name: str) -> None:
        raise ZeroDivisionError("nothing held")


def opened(monkeypatch: pytest.MonkeyPatch, path: Path, **reader: Any) -> Any:
    """What a reader with these functions opens."""
    path.write_bytes(b"odd")
    reader = {"detect": lambda path: True, "open": Opened, **reader}
    monkeypatch.setitem(sys.modules, "odd_format", SimpleNamespace(Odd=SimpleNamespace(**reader)))
    odd = CheckpointFormatDescriptor("odd", "odd_format:Odd", "of a test", package="odd-format 1.2")
    return open_checkpoint(path, formats=[odd])


def fail(*_: Any, **__: Any) -> Any:
    raise KeyError("tok_embeddings")


def test_a_reader_that_does_its_work_is_not_in_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = opened(monkeypatch, tmp_path / "x")
    assert (found.format, found.path, found.config(a=1)) == ("odd", tmp_path / "x", {"a": 1})
    assert found.read("a").tolist() == [1, 1] and getattr(found, "tokenizer", None) is None


def test_exceptions_are_of_the_format_and_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(PluginError, match=rf"{LABEL} failed opening {path}: KeyError: 'tok_emb.*tell its authors") as e:
        opened(monkeypatch, path, open=fail)
    assert isinstance(e.value.__cause__, KeyError)
    for method, doing, call in (
        ("config", "reading the configuration", lambda c: c.config()),
        ("tensors", "listing the tensors", lambda c: c.tensors()),
        ("read", "reading tensor 'a'", lambda c: c.read("a")),
        ("tokenizer", r"in tokenizer\(\)", lambda c: c.tokenizer()),
    ):
        found = opened(monkeypatch, path, open=lambda path, method=method: Opened(path, **{method: fail}))
        with pytest.raises(PluginError, match=rf"{LABEL} failed {doing} of {path}: KeyError"):
            call(found)
    with pytest.raises(PluginError, match=r"failed in release\(\).*ZeroDivisionError: nothing held"):
        opened(monkeypatch, path).release("a")


def test_properties_are_the_formats_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Failing(Opened):
        """A reader with a property that fails, and one that lists anew each time."""

        listings = 0

        @property
        def model_type(self) -> str:
            raise KeyError("type")

        def tensors(self) -> Any:
            Failing.listings += 1
            return {name: TensorInfo(name, "float32", (2,)) for name in "abc"}

        def read(self, name: str) -> Any:
            return np.ones(2, np.float32)

    path = tmp_path / "x"
    found = opened(monkeypatch, path, open=Failing)
    with pytest.raises(PluginError, match=rf"{LABEL} failed in model_type of {path}: KeyError: 'type'"):
        check(found, [Parameter("a", (2,), "norm")])
    assert [found.read(name).shape for name in found.tensors()] == [(2,)] * 3 and Failing.listings == 1
    with pytest.raises(PluginError, match=rf"{LABEL} failed opening {path}: KeyError: 'path'"):
        opened(monkeypatch, path, open=lambda path: type("NoPath", (), {"path": property(lambda s: {}["path"])})())


def test_copies_of_checkpoints_around_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = opened(monkeypatch, tmp_path / "x")
    with pytest.warns(PolyllamaWarning, match="1 tensor ignored as asked: a"):
        without = ignoring(found, ["a"])
    for copied in (copy.copy(found), copy.deepcopy(found)):
        assert type(copied) is type(found) and copied.tensors() == found.tensors()
    for copied in (copy.copy(without), copy.deepcopy(without)):
        assert type(copied) is type(without) and copied.tensors() == {}


def test_errors_of_ours_speak_for_themselves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: Path) -> Any:
        raise CheckpointError("x: is cut off")

    with pytest.raises(CheckpointError, match=r"^x: is cut off$"):
        opened(monkeypatch, tmp_path / "x", open=refuse)


def test_what_is_not_as_it_was_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for array, found in ((np.ones(3, np.float32), r"float32 \[3\]"), (np.ones(2), r"float64 \[2\]")):
        opener = lambda path, array=array: Opened(path, read=lambda name: array)  # noqa: E731
        wrong = opened(monkeypatch, tmp_path / "x", open=opener)
        with pytest.raises(PluginError, match=rf"{LABEL}.* 'a' is listed as float32 \[2\], and read as {found}"):
            wrong.read("a")
    with pytest.raises(PluginError, match=rf"{LABEL}.*a dict, has no method config nor tensors nor read"):
        opened(monkeypatch, tmp_path / "x", open=lambda path: {})


def test_a_detector_that_fails_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.warns(PolyllamaWarning, match=rf"{LABEL} not tried on .*KeyError"), pytest.raises(CheckpointError):
        opened(monkeypatch, tmp_path / "x", detect=fail)


def test_a_writer_that_fails_is_named_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write(model: Any, target: Path) -> None:
        raise KeyError("w")

    members = {"detect": lambda path: False, "open": Opened, "suffix": ".odd", "keeps_packed": False, "write": write}
    reader = SimpleNamespace(**members)
    monkeypatch.setitem(sys.modules, "odd_format", SimpleNamespace(Odd=reader))
    odd = CheckpointFormatDescriptor("odd", "odd_format:Odd", "of a test", writes=True)
    plugin = SimpleNamespace(polyllama_checkpoint_formats=hookimpl(lambda: [odd]))
    plugin_manager().register(plugin, "odd")
    label = "checkpoint format 'odd' of package odd_format"
    try:
        with pytest.raises(PluginError, match=f"{label} says that it writes, but has no sharded"):
            convert("tiny", tmp_path / "x.odd", to="odd")
        reader.sharded = False
        with pytest.raises(PluginError, match=f"{label} failed writing tiny: KeyError: 'w'"):
            convert("tiny", tmp_path / "x.odd", to="odd")
    finally:
        plugin_manager().unregister("odd")
    assert list(tmp_path.iterdir()) == []
