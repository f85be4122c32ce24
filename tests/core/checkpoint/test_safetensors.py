"""The safetensors reader and writer, against the safetensors package and against damaged files."""

from __future__ import annotations

import gc
import json
import os
import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polyllama.core.checkpoint.huggingface.safetensors import SafetensorsFile
from polyllama.core.checkpoint.huggingface.save_safetensors import parse_size, save_safetensors
from polyllama.core.checkpoint.protocol import TensorInfo
from polyllama.core.dtypes import DTYPES, dtype_name, from_safetensors_code, is_float, numpy_dtype, safetensors_code
from polyllama.core.errors import CheckpointError, UnsupportedError

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def write_raw(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


# ---- dtypes ----


def test_dtype_names_agree_with_numpy_torch_and_safetensors():
    for name in DTYPES:
        assert dtype_name(numpy_dtype(name)) == name
        assert from_safetensors_code(safetensors_code(name)) == name
        tensor = torch.zeros(3, dtype=getattr(torch, name))
        header = json.loads(safetensors.torch.save({"x": tensor})[8:].split(b"}}")[0] + b"}}")
        assert header["x"]["dtype"] == safetensors_code(name)
        assert tensor.element_size() == numpy_dtype(name).itemsize
        assert is_float(name) == tensor.is_floating_point()


@pytest.mark.parametrize("wrong", ["float31", "", None, [], "F32"])
def test_unknown_dtype_names_are_errors(wrong: Any):
    with pytest.raises(UnsupportedError, match=r"unknown dtype|use one of"):
        safetensors_code(wrong)


def test_dtypes_without_a_name_are_errors():
    with pytest.raises(UnsupportedError, match="complex128"):
        dtype_name(np.dtype(complex))


# ---- reading what the oracle wrote ----


@pytest.mark.parametrize("name", DTYPES)
def test_reads_every_dtype_that_the_package_writes(tmp_path: Path, name: str):
    bits = torch.randint(0, 2, (6, 5)) if name == "bool" else torch.randint(0, 100, (6, 5))
    expected = {"a": bits.to(getattr(torch, name)), "scalar": bits[0, 0].clone().to(getattr(torch, name))}
    expected["empty"] = expected["a"][:0]
    safetensors.torch.save_file(expected, tmp_path / "x.safetensors", {"format": "pt"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.metadata == {"format": "pt"}
    assert set(file.tensors()) == set(expected)
    for key, tensor in expected.items():
        info, array = file.tensors()[key], file.read(key)
        assert (info.dtype, info.shape, info.nbytes) == (name, tuple(tensor.shape), tensor.nbytes)
        assert array.shape == info.shape and dtype_name(array.dtype) == name
        assert array.tobytes() == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_metadata_may_be_null_as_mlx_writes_it(tmp_path: Path):
    import mlx.core as mx

    mx.save_safetensors(str(tmp_path / "x.safetensors"), {"a": mx.ones((3,))})
    assert b'"__metadata__":null' in (tmp_path / "x.safetensors").read_bytes()
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.metadata == {} and file.read("a").tolist() == [1.0, 1.0, 1.0]


def test_reading_copies_nothing_and_writing_to_an_array_leaves_the_file_alone(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"w": torch.ones(1 << 20, dtype=torch.bfloat16)}, path)
    before = path.read_bytes()
    file = SafetensorsFile(path)
    tracemalloc.start()
    array = file.read("w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000
    assert array.dtype == ml_dtypes.bfloat16 and array.flags.writeable and not array.flags.owndata
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of read-only arrays
        tensor = torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    tensor.mul_(3)
    assert float(array[5]) == 3.0
    assert float(file.read("w")[5]) == 3.0  # one map, so one memory
    assert float(SafetensorsFile(path).read("w")[5]) == 1.0
    assert path.read_bytes() == before


def test_arrays_outlive_the_file_object(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"w": np.arange(1000.0)}, path)
    array = SafetensorsFile(path).read("w")
    gc.collect()
    os.remove(path)
    assert array.sum() == 499500.0


def test_misaligned_tensors_are_copied_into_place(tmp_path: Path):
    header = {"b": entry("U8", [1], [0, 1]), "w": entry("F32", [2], [1, 9])}
    path = write_raw(tmp_path / "x.safetensors", header, b"\x07" + struct.pack("<2f", 1.5, -2.0))
    file = SafetensorsFile(path)
    array = file.read("w")
    assert array.tolist() == [1.5, -2.0] and array.flags.aligned and array.flags.writeable
    assert file.read("b").tolist() == [7]


@pytest.mark.parametrize(
    ("shape", "offsets", "data"), [([], [0, 4], b"\0" * 4), ([0, 7], [0, 0], b""), ([3, 0], [0, 0], b"")]
)
def test_scalars_and_empty_tensors(tmp_path: Path, shape: list[int], offsets: list[int], data: bytes):
    path = write_raw(tmp_path / "x.safetensors", {"w": entry("F32", shape, offsets)}, data)
    array = SafetensorsFile(path).read("w")
    assert array.shape == tuple(shape) and array.dtype == np.float32
    assert safetensors.numpy.load_file(path)["w"].shape == tuple(shape)


def test_a_file_without_tensors_and_padding_after_the_header(tmp_path: Path):
    assert not SafetensorsFile(write_raw(tmp_path / "x.safetensors", b"{}      ")).tensors()


def test_no_such_tensor(tmp_path: Path):
    path = write_raw(tmp_path / "x.safetensors", b"{}")
    with pytest.raises(CheckpointError, match=r"x\.safetensors: there is no tensor 'nope'"):
        SafetensorsFile(path).read("nope")


# ---- damaged and lying files ----

OVERFLOW = [2**40, 2**40]
BAD_HEADERS = {
    "not JSON": (b'{"w": ', b"", "not valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', b"", "not valid JSON"),
    "a NaN": (b'{"w": NaN}', b"", "NaN is not JSON"),
    "nested": (b'{"a":' + b"[" * 200_000, b"", "nested too deeply"),
    "a huge number": (b'{"a":' + b"9" * 5000 + b"}", b"", "not valid JSON"),
    "a list": (b"[]", b"", "does not start with"),
    "leading space": (b" {}", b"", "does not start with"),
    "duplicate tensor": (b'{"w": 1, "w": 2}', b"", "key 'w' twice"),
    "duplicate field": (b'{"w": {"dtype": "F32", "dtype": "F16"}}', b"", "key 'dtype' twice"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "__metadata__ must map strings to strings"),
    "metadata list": ({"__metadata__": []}, b"", "__metadata__ must map strings to strings"),
    "entry no object": ({"w": 3}, b"", "must have exactly dtype, shape and data_offsets"),
    "entry lacks shape": ({"w": {"dtype": "F32", "data_offsets": [0, 0]}}, b"", "must have exactly"),
    "entry has more": ({"w": entry(strides=[1])}, b"\0" * 8, "must have exactly"),
    "unknown dtype": ({"w": entry("F31")}, b"\0" * 8, "unknown dtype 'F31'"),
    "dtype no string": ({"w": entry(["F32"])}, b"\0" * 8, "unknown dtype"),  # type: ignore[arg-type]
    "negative size": ({"w": entry(shape=[-2])}, b"\0" * 8, r"shape \[-2\] is not a list of sizes"),
    "float size": ({"w": entry(shape=[2.0])}, b"\0" * 8, "is not a list of sizes"),
    "boolean size": ({"w": entry(shape=[True, 2])}, b"\0" * 8, "is not a list of sizes"),
    "overflowing shape": ({"w": entry(shape=OVERFLOW)}, b"\0" * 8, "larger than any machine"),
    "overflow hidden by 0": ({"w": entry(shape=[0, *OVERFLOW], offsets=[0, 0])}, b"", "larger than any machine"),
    "many dimensions": ({"w": entry(shape=[1] * 100, offsets=[0, 4])}, b"\0" * 4, "larger than any machine"),
    "offsets reversed": ({"w": entry(offsets=[8, 0])}, b"\0" * 8, "run backwards"),
    "three offsets": ({"w": entry(offsets=[0, 4, 8])}, b"\0" * 8, "are not two positions"),
    "negative offset": ({"w": entry(offsets=[-8, 0])}, b"\0" * 8, "are not two positions"),
    "size mismatch": ({"w": entry(offsets=[0, 4])}, b"\0" * 4, r"takes 8 bytes, data_offsets say 4"),
    "beyond the end": ({"w": entry()}, b"\0" * 7, "only 7 bytes are there; the file is truncated"),
    "trailing bytes": ({"w": entry()}, b"\0" * 9, "bytes at the end belong to no tensor \\(1\\)"),
    "hole": (
        {"v": entry(), "w": entry(offsets=[9, 17])},
        b"\0" * 17,
        "before tensor 'w' belong to no tensor \\(1\\)",
    ),
    "overlap": ({"v": entry(), "w": entry(offsets=[4, 12])}, b"\0" * 12, "tensors 'v' and 'w' overlap"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_wrong_headers_are_errors_that_name_the_file(tmp_path: Path, case: str):
    header, data, message = BAD_HEADERS[case]
    path = write_raw(tmp_path / "bad.safetensors", header, data)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"1234567", "has only 7 bytes"),
        (struct.pack("<Q", 50) + b"{}", "claims a header of 50 bytes, but the file has only 2"),
        (struct.pack("<Q", 2**63) + b"{}", "more than the 100,000,000 the format allows"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
        (b"PK\x03\x04" + b"\0" * 100, "pickle archive"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"GGUF\x03\0\0\0\0\0\0\0\xff\xff\xff\xff", "GGUF"),
    ],
)
def test_what_is_no_safetensors_file_is_called_by_its_name(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)


def test_folders_pipes_links_and_unreadable_files(tmp_path: Path):
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "link.safetensors").symlink_to("gone")
    for name, message in (
        ("folder", "a folder where"),
        ("pipe", "not a regular file"),
        ("link", "is a link to gone, which is not there"),
        ("nothing", "No such file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            SafetensorsFile(tmp_path / f"{name}.safetensors")


# ---- fuzzing ----

GOOD = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(5, dtype=np.uint8),
    "c": np.float16(2.5)[None],
}
GOOD_BYTES = safetensors.numpy.save(GOOD, {"format": "pt"})


def read_or_refuse(path: Path) -> None:
    """Any bytes are either refused, or all of the values are inside the file, as the headers say."""
    try:
        file = SafetensorsFile(path)
    except CheckpointError as error:
        assert str(path) in str(error)
        return
    data = path.read_bytes()
    for name, info in file.tensors().items():
        array = file.read(name)
        assert array.shape == info.shape and array.nbytes == info.nbytes <= len(data)
        assert array.tobytes() in data
    # What is accepted here, the reference implementation accepts too.
    assert set(safetensors.deserialize(data) and dict(safetensors.deserialize(data))) == set(file.tensors())


@QUICK
@given(st.data())
def test_flipped_and_cut_bytes_are_refused_or_harmless(tmp_path: Path, data: st.DataObject):
    content = bytearray(GOOD_BYTES)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    content += data.draw(st.binary(max_size=3))
    (tmp_path / "f.safetensors").write_bytes(content)
    read_or_refuse(tmp_path / "f.safetensors")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@QUICK
@given(st.data())
def test_altered_headers_are_refused_or_harmless(tmp_path: Path, data: st.DataObject):
    length = struct.unpack("<Q", GOOD_BYTES[:8])[0]
    header = json.loads(GOOD_BYTES[8 : 8 + length])
    name = data.draw(st.sampled_from([*GOOD, "__metadata__", "new"]))
    field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "other", None]))
    small = st.lists(st.integers(-1, 70), max_size=3)
    value = data.draw(small | st.sampled_from([t.upper() for t in ("f32", "i8", "bf16", "f8_e4m3")]) | json_values)
    if field is None or name == "new":
        header[name] = value
    else:
        header.setdefault(name, {})[field] = value
    write_raw(tmp_path / "h.safetensors", header, GOOD_BYTES[8 + length :])
    read_or_refuse(tmp_path / "h.safetensors")


def test_lying_sizes_cost_no_memory(tmp_path: Path):
    header = {"w": entry("F64", [2**33], [0, 2**36])}
    path = write_raw(tmp_path / "big.safetensors", header, b"\0" * 64)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="truncated"):
        SafetensorsFile(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


# ---- writing ----

arrays = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda s: s != "__metadata__"),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


@QUICK
@given(arrays, st.integers(1, 200))
def test_what_is_written_comes_back_here_and_in_the_package(tmp_path: Path, specs: Any, limit: int):
    tensors = {
        name: np.full(shape, fill % 2 if dtype == "bool" else fill % 100).astype(numpy_dtype(dtype))
        for name, (dtype, shape, fill) in specs.items()
    }
    written = save_safetensors(tmp_path, tensors, max_shard_size=limit)
    assert sorted(written) == sorted(p for p in tmp_path.iterdir())  # nothing stale, nothing temporary
    shards = [p for p in written if p.suffix == ".safetensors"]
    assert (len(shards) > 1) == (len(written) == len(shards) + 1)
    seen: dict[str, Any] = {}
    for shard in shards:
        with safetensors.safe_open(shard, "pt") as oracle:
            assert oracle.metadata() == {"format": "pt"}
            file = SafetensorsFile(shard)
            assert set(oracle.keys()) == set(file.tensors())
            assert (
                sum(i.nbytes for i in file.tensors().values()) <= limit
                or len(file.tensors()) == 1
                or all(i.nbytes == 0 for i in list(file.tensors().values())[1:])
            )
            for name in oracle.keys():  # noqa: SIM118
                seen[name] = file.read(name)
                theirs = oracle.get_tensor(name).reshape(-1).view(torch.uint8).numpy()
                assert theirs.tobytes() == tensors[name].tobytes()
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in seen.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in tensors.items()
    }


def test_strided_and_big_endian_arrays_are_written_right(tmp_path: Path):
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    tensors = {"t": values.T, "s": values[::2, ::3], "column": values[:, 2], "backwards": values[0, ::-1]}
    save_safetensors(tmp_path, {**tensors, "big": values.astype(">f4")})
    loaded = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    for name, expected in {**tensors, "big": values}.items():
        np.testing.assert_array_equal(loaded[name], expected)


def test_what_is_written_can_be_read_without_copying_whatever_the_dtypes(tmp_path: Path):
    tensors = {name: np.ones(3, numpy_dtype(name)) for name in reversed(DTYPES)}
    [path] = save_safetensors(tmp_path, tensors, metadata={"note": "x" * 3})
    file = SafetensorsFile(path)
    assert file.metadata == {"format": "pt", "note": "xxx"}
    for name in tensors:
        array = file.read(name)
        assert array.flags.aligned and np.shares_memory(array, file.read(name)), name


def test_one_tensor_at_a_time_is_held(tmp_path: Path):
    size, count = 1 << 20, 24

    def make(index: int) -> Any:
        return lambda: np.full(size, index, np.uint8)

    tensors = [(TensorInfo(f"t{i}", "uint8", (size,)), make(i)) for i in range(count)]
    tracemalloc.start()
    files = save_safetensors(tmp_path, tensors, max_shard_size=5 * size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(files) == 6 and peak < 2.5 * size
    assert SafetensorsFile(files[-2]).read("t23")[0] == 23


def test_saving_over_the_files_that_are_mapped(tmp_path: Path):
    save_safetensors(tmp_path, {"a": np.arange(1000.0), "b": np.ones(1000)})
    file = SafetensorsFile(tmp_path / "model.safetensors")
    mapped = {name: file.read(name) for name in file.tensors()}
    save_safetensors(tmp_path, {"a": mapped["b"], "b": mapped["a"]}, max_shard_size=8000)
    assert not (tmp_path / "model.safetensors").exists()
    again = SafetensorsFile(tmp_path / "model-00002-of-00002.safetensors").read("b")
    np.testing.assert_array_equal(again, np.arange(1000.0))


def test_files_of_the_weights_before_are_removed_and_nothing_else(tmp_path: Path):
    folder = tmp_path / "model"
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"keep")
    save_safetensors(folder, {c: np.ones(4) for c in "abc"}, max_shard_size=32)
    for keep in ("config.json", "other.safetensors"):
        (folder / keep).write_text("{}")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] |= {"x": "../outside.safetensors", "y": "config.json", "z": 3}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_safetensors(folder, {"a": np.ones(4)})
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "config.json", "other.safetensors"}
    assert outside.read_bytes() == b"keep"


def test_a_failed_save_leaves_what_was_there(tmp_path: Path):
    save_safetensors(tmp_path, {"a": np.arange(8.0)})
    before = (tmp_path / "model.safetensors").read_bytes()

    def broken() -> Any:
        raise RuntimeError("no such weight")

    tensors = [(TensorInfo("a", "float64", (8,)), np.ones(8)), (TensorInfo("b", "float64", (8,)), broken)]
    for limit in (None, 64):
        with pytest.raises(RuntimeError, match="no such weight"):
            save_safetensors(tmp_path, tensors, max_shard_size=limit)
        assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
        assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_link_into_a_cache_is_replaced_not_written_through(tmp_path: Path):
    blob, folder = tmp_path / "blob", tmp_path / "snapshot"
    save_safetensors(folder, {"a": np.zeros(2)})
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    before = blob.read_bytes()
    save_safetensors(folder, {"a": np.ones(2)})
    assert blob.read_bytes() == before
    assert SafetensorsFile(folder / "model.safetensors").read("a").tolist() == [1.0, 1.0]


def test_mistakes_in_saving_are_errors(tmp_path: Path):
    ones = np.ones(2)
    (tmp_path / "file").write_text("")
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ([], {}, "no tensors"),
        ([("a", ones), ("a", ones)], {}, "comes twice"),
        ([("__metadata__", ones)], {}, "the format's own name"),
        ([("a", np.ones(2, complex))], {}, "'a': unknown dtype 'complex128'"),
        ([("a", lambda: ones)], {}, "give a TensorInfo"),
        ([(TensorInfo("a", "float32", (2,)), ones)], {}, r"announced as float32 \[2\], it is float64 \[2\]"),
        ([(TensorInfo("a", "float64", (3,)), lambda: ones)], {}, r"announced as float64 \[3\]"),
        ([("a", ones)], {"metadata": {"a": 1}}, "strings to strings"),
        ([("a", ones)], {"max_shard_size": "5 apples"}, "'5 apples' is not a size"),
        ([("a", ones)], {"max_shard_size": 0}, "0 is not a size"),
        ([("a", ones)], {"max_shard_size": "0.1B"}, "is not a size"),
    ]
    for tensors, options, message in cases:
        with pytest.raises(CheckpointError, match=message):
            save_safetensors(tmp_path / "out", tensors, **options)
        assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True
    with pytest.raises(CheckpointError, match="cannot save there"):
        save_safetensors(tmp_path / "file", [("a", ones)])


def test_too_little_disk_space_is_known_beforehand(tmp_path: Path):
    def never() -> Any:
        raise AssertionError("asked for a tensor before looking at the space")

    with pytest.raises(CheckpointError, match=r"saving takes 1000000\.00 GB, only"):
        save_safetensors(tmp_path, [(TensorInfo("a", "uint8", (10**15,)), never)], max_shard_size=None)
    assert not list(tmp_path.iterdir())


def test_sizes():
    assert [parse_size(s) for s in ("5GB", "1.5GiB", "10 mb", "2KB", "7B", 12, None)] == [
        5 * 10**9,
        3 * 2**29,
        10**7,
        2000,
        7,
        12,
        None,
    ]
