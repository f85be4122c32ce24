"""Damaged and forged checkpoints of every format: read or refused by name, in bounded memory, never run.

The samples and the check are those of ``tools/fuzz/fuzz_readers.py``, which goes on with this for as long as one likes.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polyllama import Llama
from polyllama.core.checkpoint.gguf.file import GgufFile
from polyllama.core.checkpoint.huggingface.safetensors import SafetensorsFile
from polyllama.core.checkpoint.opening import open_checkpoint
from polyllama.core.checkpoint.pytorch.torch_file import TorchFile
from polyllama.core.errors import CheckpointError, PolyllamaWarning, RegistryError
from polyllama.core.settings.yaml_files import read_yaml_mapping

sys.path.insert(0, str(Path(__file__).parents[3] / "tools" / "fuzz"))

import fuzz_readers
from fuzz_readers import KINDS, Sample, damaged, make_samples, read_everything, with_content

FOLDERS = ("hf", "sharded", "mlx", "meta", "ranks", "pytorch")
NAMES = (*FOLDERS, "gguf", "packed", "llama2c-legacy", "llama2c-version1")
# Positions count from the begin and from the end alike, as headers are at one and directories of archives at the other.
DAMAGE = st.tuples(st.sampled_from(KINDS), st.integers(-1200, 1200) | st.integers(0, 1 << 20), st.integers(0, 1 << 32))
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    return make_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_every_sample_is_sound(samples: dict[str, Sample], folder: Path) -> None:
    assert set(samples) == set(NAMES)
    for sample in samples.values():
        llm = Llama.load(sample.path, backend="reference", load_format=sample.format)
        assert np.isfinite(llm.forward([[1, 5, 9]]).numpy()["logits"]).all()
        read_everything(with_content(sample, sample.targets[0], sample.targets[0].read_bytes(), folder), sample.format)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(data=st.data())
def test_damage_is_refused_by_name_or_harmless(samples: dict[str, Sample], name: str, data: st.DataObject) -> None:
    sample = samples[name]
    target = data.draw(st.sampled_from(sample.targets))
    content = target.read_bytes()
    for kind, where, value in data.draw(st.lists(DAMAGE, min_size=1, max_size=3)):
        content = damaged(content, kind, where, value)
    with tempfile.TemporaryDirectory() as place:
        read_everything(with_content(sample, target, content, Path(place)), sample.format)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(content=st.binary(max_size=400))
def test_any_bytes_are_refused_by_name(samples: dict[str, Sample], name: str, content: bytes) -> None:
    sample = samples[name]
    with tempfile.TemporaryDirectory() as place:
        path = with_content(sample, sample.targets[0], content, Path(place))
        read_everything(path, sample.format)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("name", FOLDERS)
@FEW
@given(data=st.data())
def test_well_formed_json_that_says_nonsense(samples: dict[str, Sample], name: str, data: st.DataObject) -> None:
    """config.json, params.json and indexes with one value replaced by any other."""
    sample = samples[name]
    target = data.draw(st.sampled_from([file for file in sample.targets if file.suffix == ".json"]))
    raw = json.loads(target.read_bytes())
    place: Any = raw
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [key for key, value in place.items() if isinstance(value, dict) and value]
        place = place[data.draw(st.sampled_from(inner))] if inner else place
    place[data.draw(st.sampled_from(list(place)))] = data.draw(JSON | st.sampled_from(["../x.bin", "/dev/zero", ""]))
    with tempfile.TemporaryDirectory() as temporary:
        content = json.dumps(raw).encode("utf-8", "surrogatepass")
        read_everything(with_content(sample, target, content, Path(temporary)), sample.format)


@pytest.mark.parametrize("kind", ["another error", "no name", "memory", "time"])
def test_the_check_itself_fails(
    samples: dict[str, Sample], folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A reader that breaks each of the rules is found out."""

    def broken(*_: Any) -> Any:
        if kind == "another error":
            raise KeyError("x")
        if kind == "no name":
            raise CheckpointError("something is wrong")
        while kind == "time":
            pass
        return bytearray(fuzz_readers.MOST_BYTES + 1)

    monkeypatch.setattr("polyllama.core.checkpoint.huggingface.safetensors.SafetensorsFile.read", broken)
    monkeypatch.setattr(fuzz_readers, "MOST_SECONDS", 1)
    with pytest.raises(fuzz_readers.Violation):
        read_everything(samples["hf"].path, "huggingface")


# ---- forged on purpose


def refused(open_it: Any, path: Path, message: str) -> None:
    """That it is refused, by its name, in little memory."""
    with fuzz_readers._bounded(), pytest.raises(CheckpointError, match=message) as caught:
        open_it(path)
    assert str(path) in str(caught.value)


def test_a_header_that_would_become_a_hundred_times_its_size(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    bomb = b'{"a":[' + b"[]," * 1_500_000 + b"[]]}"
    path.write_bytes(len(bomb).to_bytes(8, "little") + bomb)
    refused(SafetensorsFile, path, "more entries than any model's")
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(bomb)
    refused(open_checkpoint, index, "more entries than any model's")
    with index.open("wb") as file:
        file.truncate(101_000_000)  # of nothing: it takes no space
    refused(open_checkpoint, index, "larger than 100,000,000 bytes")


def test_text_as_long_as_a_file_without_content(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    start = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 34)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(1 << 35)
    refused(GgufFile, path, "a metadata key of 17,179,869,184 bytes is longer than any model's")


SIZE = b"ctorch\nSize\nq\0]q\1(" + b"K\0" * 5000 + b"e" + (b"h\0h\1\x85R" * 20_000)
PICKLES = {
    "a list copied again and again": (SIZE + b".", "a Size is described wrongly"),
    "a list in itself": (b"]q\0h\0ah\0a.", "holds a list"),
    "deep": (b"(" * 400_000 + b"l" * 400_000 + b".", "holds a list"),
    "tuples of tuples as keys": (b"}K\1" + b"\x85" * 200_000 + b"K\1s.", "a tuple is the key"),
    "a number of a hundred thousand digits": (b"I" + b"9" * 100_000 + b"\n.", "is damaged"),
    "text longer than the file": (b"\x8d" + struct.pack("<Q", 1 << 60) + b"x.", "is damaged"),
    "memo far away": (b"]r\xff\xff\xff\xffj\xff\xff\xff\xff.", "holds a list"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_pickles_that_grow(tmp_path: Path, case: str) -> None:
    content, message = PICKLES[case]
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", content)
    refused(TorchFile, path, message)


STATE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
REFUSED = st.sampled_from([{1, 2}, frozenset("a"), 1j, range(3), b"x", Path("x"), np.float32(1), print])


@FEW
@given(states=st.lists(st.tuples(STATE, st.none() | REFUSED), min_size=1, max_size=3))
def test_whatever_hangs_on_a_parameter_is_inert(states: list[tuple[Any, Any]]) -> None:
    """Plain values beside a parameter are passed over; anything that would have to be made is refused by name."""
    import torch

    parameters = {f"{index}": torch.nn.Parameter(torch.full((2,), float(index))) for index in range(len(states))}
    for parameter, (plain, other) in zip(parameters.values(), states, strict=True):
        parameter.plain = plain
        if other is not None:
            parameter.other = other
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.pt"
        torch.save(parameters, path)
        if any(other is not None for _, other in states):
            with pytest.raises(CheckpointError, match=r"x\.pt: its pickle .*never need"):
                TorchFile(path)
            return
        file = TorchFile(path)
        assert [float(file.read(name)[1]) for name in parameters] == list(range(len(states)))


def test_archives_that_overlap_or_claim_too_much(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x/data.pkl", "x/data/0", "x/data/1"):
            archive.writestr(name, b"}." + b"\0" * 1000)
    sound = path.read_bytes()
    first, second = (sound.index(b"PK\1\2", 0), sound.rindex(b"PK\1\2"))
    both = bytearray(sound)
    both[second + 42 : second + 46] = sound[first + 42 : first + 46]  # where the member begins: one for two
    path.write_bytes(both)
    refused(TorchFile, path, "overlap")
    end = bytearray(sound)
    at = sound.rindex(b"PK\5\6")
    end[at + 10 : at + 12] = b"\xfe\xff"
    path.write_bytes(end)
    refused(TorchFile, path, "entry 3 of the ZIP directory is damaged")


def test_a_tensor_that_reaches_outside_its_storage(samples: dict[str, Sample], folder: Path) -> None:
    target = samples["meta"].targets[0]
    content = target.read_bytes()
    rows = b"J" + struct.pack("<i", 48)
    for forged in (480, -48, 1 << 30):
        path = with_content(samples["meta"], target, content.replace(rows, b"J" + struct.pack("<i", forged)), folder)
        refused(TorchFile, path / target.name, "reaches outside its storage|are not sizes")


@pytest.mark.parametrize("part", ["scales", "biases"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_packed_weights_with_scales_that_are_no_numbers(
    samples: dict[str, Sample], folder: Path, part: str, value: float
) -> None:
    sample = samples["mlx"]
    target = next(file for file in sample.targets if file.suffix == ".safetensors")
    file = SafetensorsFile(target)
    start = file._data_start + file._starts[f"model.layers.0.mlp.up_proj.{part}"]
    content = bytearray(target.read_bytes())
    content[start : start + 2] = np.float16(value).tobytes()
    path = with_content(sample, target, bytes(content), folder)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor .*up_proj\.{part}.*NaN, infinite"):
        Llama.load(path, backend="reference")


@settings(max_examples=150)
@given(content=st.binary(max_size=300) | st.text("{}[]&*!<>:-?a1\n \t'\"|,#%@", max_size=300).map(str.encode))
def test_yaml_is_a_mapping_or_refused_by_name(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "registry.yaml"
        path.write_bytes(content)
        with fuzz_readers._bounded():
            try:
                read_yaml_mapping(path, RegistryError)
            except RegistryError as error:
                assert str(path) in str(error)


def test_a_yaml_bomb(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path.write_text("\n".join(lines))
    with (
        fuzz_readers._bounded(),
        pytest.raises(RegistryError, match=r"registry\.yaml, line \d+: .*stand for more than"),
    ):
        read_yaml_mapping(path, RegistryError)


def test_warnings_of_damaged_files_name_them_too(samples: dict[str, Sample], folder: Path) -> None:
    """What is not refused but left out is said."""
    path = with_content(samples["hf"], samples["hf"].targets[0], samples["hf"].targets[0].read_bytes(), folder)
    (path / "stray.safetensors").write_bytes(b"")
    with pytest.warns(PolyllamaWarning, match=r"not used.*stray\.safetensors"):
        open_checkpoint(path)
