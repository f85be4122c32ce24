"""Hugging Face folders: which files make up a model, and what is wrong with those that do not."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polyllama.core.checkpoint.check import check
from polyllama.core.checkpoint.huggingface.reader import HuggingFaceFormat
from polyllama.core.checkpoint.huggingface.safetensors import SafetensorsFile
from polyllama.core.checkpoint.huggingface.save_safetensors import save_safetensors
from polyllama.core.checkpoint.opening import open_checkpoint
from polyllama.core.checkpoint.protocol import Checkpoint
from polyllama.core.errors import CheckpointError, PolyllamaWarning, UnsupportedError
from polyllama.core.graph.node import Parameter

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def hf_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    """A random Llama in bfloat16 that transformers made and saved, whole and in shards."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    whole, sharded = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("sharded")
    model.save_pretrained(whole)
    model.save_pretrained(sharded, max_shard_size="10KB")
    return model, whole, sharded


@pytest.fixture
def parameters(hf_model: Any) -> list[Any]:
    """What the model's graph asks for."""
    return [Parameter(name, tuple(t.shape), "linear") for name, t in hf_model[0].state_dict().items()]


@pytest.fixture
def sharded(hf_model: Any, tmp_path: Path) -> Path:
    """A copy of the sharded folder to damage."""
    return Path(shutil.copytree(hf_model[2], tmp_path / "sharded"))


def edit_index(folder: Path, change: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


def bits(array: np.ndarray) -> bytes:
    return array.tobytes()


# ---- reading what transformers wrote ----


@pytest.mark.parametrize("which", ["folder", "sharded folder", "file", "index"])
def test_reads_what_transformers_saved(hf_model: Any, which: str):
    model, whole, sharded = hf_model
    path = {
        "folder": whole,
        "sharded folder": sharded,
        "file": whole / "model.safetensors",
        "index": sharded / INDEX,
    }[which]
    checkpoint = open_checkpoint(path)
    assert isinstance(checkpoint, Checkpoint) and checkpoint.format == "huggingface" and checkpoint.path == path
    expected = model.state_dict()
    assert set(checkpoint.tensors()) == set(expected)
    for name, tensor in expected.items():
        info = checkpoint.tensors()[name]
        assert (info.dtype, info.shape) == ("bfloat16", tuple(tensor.shape))
        assert info.file is not None and info.file.is_file()
        assert bits(checkpoint.read(name)) == bits(tensor.view(torch.uint16).numpy())


def test_transformers_reads_what_we_save(hf_model: Any, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    model, whole, _ = hf_model
    checkpoint = open_checkpoint(whole)
    for limit in ("5GB", "9KB"):
        folder = tmp_path / limit
        save_safetensors(folder, ((n, checkpoint.read(n)) for n in checkpoint.tensors()), max_shard_size=limit)
        assert (folder / INDEX).exists() == (limit == "9KB")
        shutil.copy(whole / "config.json", folder)
        loaded, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
        assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)
        if limit == "9KB":
            size = json.loads((folder / INDEX).read_text())["metadata"]["total_size"]
            assert size == sum(t.nbytes for t in model.state_dict().values())


def test_the_config_beside_the_weights_and_what_it_says_it_is(hf_model: Any):
    _, whole, _ = hf_model
    for path in (whole, whole / "model.safetensors"):
        checkpoint = HuggingFaceFormat.open(path)
        assert checkpoint.model_type == "llama"
        config = checkpoint.config(max_position_embeddings=77)
        assert (config.hidden_size, config.max_position_embeddings) == (32, 77)


def test_links_as_in_the_hugging_face_cache(hf_model: Any, tmp_path: Path):
    _, _, sharded = hf_model
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(sharded.iterdir())):
        shutil.copy(file, blobs / f"blob{number}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"blob{number}")
    assert set(open_checkpoint(snapshot).tensors()) == set(open_checkpoint(sharded).tensors())
    first = next(snapshot.glob("*.safetensors"))
    assert open_checkpoint(first).config().hidden_size == 32  # beside the link, not beside the blob
    first.resolve().unlink()
    with pytest.raises(CheckpointError, match=f"files it names are missing: {first.name}"):
        open_checkpoint(snapshot)


# ---- the index ----


def test_missing_shards_are_all_named(sharded: Path):
    files = sorted(sharded.glob("*.safetensors"))
    for file in files[1:3]:
        file.unlink()
    with pytest.raises(CheckpointError, match=f"2 of {len(files)} files it names are missing") as caught:
        open_checkpoint(sharded)
    assert all(file.name in str(caught.value) for file in files[1:3]) and INDEX in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x.safetensors",
        "a/b.safetensors",
        "..",
        "",
        ".",
        "C:x",
        "a\\b",
        "x\0y",
        "x\ny",
        3,
        None,
        ["a"],
    ],
)
def test_the_index_must_name_files_of_its_own_folder(sharded: Path, name: Any):
    def escape(index: Any) -> None:
        index["weight_map"]["model.norm.weight"] = name

    edit_index(sharded, escape)
    with pytest.raises(CheckpointError, match=r"places tensor 'model\.norm\.weight' in .*do not trust") as caught:
        open_checkpoint(sharded)
    assert str(sharded / INDEX) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a":']
)
def test_an_index_that_is_none(sharded: Path, content: str):
    (sharded / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match=INDEX):
        open_checkpoint(sharded)


def test_an_index_that_names_a_tensor_twice(sharded: Path):
    file = next(sharded.glob("*.safetensors")).name
    (sharded / INDEX).write_text(f'{{"weight_map": {{"a": "{file}", "a": "{file}"}}}}')
    with pytest.raises(CheckpointError, match="has the key 'a' twice"):
        open_checkpoint(sharded)


def test_tensors_that_the_index_places_wrongly(hf_model: Any, sharded: Path, parameters: list[Any]):
    def misplace(index: Any) -> None:
        where = index["weight_map"]
        where["model.norm.weight"] = next(f for f in where.values() if f != where["model.norm.weight"])

    edit_index(sharded, misplace)
    opened = open_checkpoint(sharded)
    with pytest.warns(
        PolyllamaWarning, match=r"model\.norm\.weight \(in .*\) found in another file than the index says"
    ):
        assert check(opened, parameters)["model.norm.weight"] == "model.norm.weight"
    right = hf_model[0].state_dict()["model.norm.weight"]
    assert bits(opened.read("model.norm.weight")) == bits(right.view(torch.uint16).numpy())


def test_of_a_misplaced_tensor_in_two_shards_both_must_be_the_same(sharded: Path, parameters: list[Any]):
    add_to_last_shard(sharded, **{"model.embed_tokens.weight": np.zeros((96, 32), np.float32)})

    def misplace(index: Any) -> None:
        where = index["weight_map"]
        files = [where["model.embed_tokens.weight"], max(where.values())]
        where["model.embed_tokens.weight"] = next(f for f in where.values() if f not in files)

    edit_index(sharded, misplace)
    with pytest.raises(CheckpointError, match=r"'model\.embed_tokens\.weight' lies in both"):
        open_checkpoint(sharded)


def test_tensors_that_only_the_index_knows(sharded: Path, parameters: list[Any]):
    def add(*names: str) -> None:
        edit_index(sharded, lambda index: index["weight_map"].update(dict.fromkeys(names, first)))

    first = sorted(sharded.glob("*.safetensors"))[0].name
    add("model.layers.0.self_attn.rotary_emb.inv_freq", "score.weight")
    with pytest.warns(PolyllamaWarning, match=r"the index names .*inv_freq, score\.weight, which no file holds"):
        check(open_checkpoint(sharded), parameters)
    more = [*parameters, Parameter("score.weight", (2, 32), "head")]
    with pytest.raises(CheckpointError, match=rf"names 1 tensor that no file holds, such as score.weight, .*{first}"):
        check(open_checkpoint(sharded), more)
    more = [*parameters, Parameter("model.layers.0.self_attn.q_proj.bias", (32,), "linear")]
    add("base_model.model.model.layers.0.self_attn.q_proj.bias")
    with pytest.raises(CheckpointError, match=r"names 1 tensor that no file holds, such as base_model.*q_proj\.bias"):
        check(open_checkpoint(sharded), more)


def test_an_index_whose_shards_are_gone_beside_the_whole_model(hf_model: Any, sharded: Path, parameters: list[Any]):
    shutil.copy(hf_model[1] / "model.safetensors", sharded)
    gone, *others = sorted(sharded.glob("model-*.safetensors"))
    gone.unlink()
    used = rf"model\.safetensors is used; .* are missing: {gone.name}"
    with (
        pytest.warns(PolyllamaWarning, match=rf"not used, as they are not part.*{others[0].name}"),
        pytest.warns(PolyllamaWarning, match=used),
    ):
        open_checkpoint(sharded)
    for file in others:
        file.unlink()
    with pytest.warns(PolyllamaWarning, match=used):
        opened = open_checkpoint(sharded)
    check(opened, parameters)
    assert {info.file for info in opened.tensors().values()} == {sharded / "model.safetensors"}
    with pytest.raises(CheckpointError, match="files it names are missing"):
        open_checkpoint(sharded / INDEX)


def test_tensors_that_the_index_omits_are_used_where_the_model_needs_them(sharded: Path, parameters: list[Any]):
    edit_index(sharded, lambda index: index["weight_map"].pop("model.norm.weight"))
    with pytest.warns(PolyllamaWarning, match="model.norm.weight used, though the index omits it"):
        found = check(open_checkpoint(sharded), parameters)
    assert found["model.norm.weight"] == "model.norm.weight"


def add_to_last_shard(folder: Path, **tensors: np.ndarray) -> Path:
    file = sorted(folder.glob("*.safetensors"))[-1]
    safetensors.numpy.save_file(safetensors.numpy.load_file(file) | tensors, file)
    return file


def test_tensors_that_the_index_omits_and_nobody_needs_are_left_out(sharded: Path, parameters: list[Any]):
    rotary = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    add_to_last_shard(sharded, **rotary)
    check(open_checkpoint(sharded), parameters)  # warnings are errors here
    file = add_to_last_shard(sharded, **{"mtp.weight": np.ones(4, np.float32)})
    with pytest.warns(PolyllamaWarning, match="mtp.weight not used: the model needs no such tensor, and the index"):
        check(open_checkpoint(sharded), parameters)
    edit_index(sharded, lambda index: index["weight_map"].update({"mtp.weight": file.name}))
    with pytest.raises(CheckpointError, match=r"1 unexpected\n  unexpected  mtp\.weight"):
        check(open_checkpoint(sharded), parameters)


def test_of_a_tensor_in_two_shards_the_index_chooses(sharded: Path):
    where = json.loads((sharded / INDEX).read_text())["weight_map"]
    name = next(n for n, file in where.items() if file != max(where.values()))
    right = np.array(open_checkpoint(sharded).read(name))
    other = add_to_last_shard(sharded, **{name: right})
    assert bits(open_checkpoint(sharded).read(name)) == bits(right)
    add_to_last_shard(sharded, **{name: np.zeros(3, np.float32)})
    opened = open_checkpoint(sharded)
    with pytest.warns(PolyllamaWarning, match=rf"{other.name}: its '{name}' is not used, though it differs") as caught:
        assert bits(opened.read(name)) == bits(right)
    opened.read(name)
    assert len(caught) == 1


def test_a_damaged_shard_is_named(sharded: Path):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{shard.name}.*truncated"):
        open_checkpoint(sharded)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_indexes_are_refused_or_harmless(hf_model: Any, tmp_path: Path, data: st.DataObject):
    folder = tmp_path / "fuzzed"
    if not folder.exists():
        shutil.copytree(hf_model[2], folder)
    content = bytearray((hf_model[2] / INDEX).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / INDEX).write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        checkpoint = open_checkpoint(folder)
    except CheckpointError as error:
        assert str(folder) in str(error)
    else:
        assert set(checkpoint.tensors()) == set(hf_model[0].state_dict())


# ---- which files ----


def one(path: Path, name: str = "a") -> Path:
    safetensors.numpy.save_file({name: np.ones(2, np.float32)}, path)
    return path


def test_any_single_name_will_do(tmp_path: Path):
    one(tmp_path / "weights.safetensors")
    assert set(open_checkpoint(tmp_path).tensors()) == {"a"}


def test_shards_without_their_index(sharded: Path):
    expected = set(open_checkpoint(sharded).tensors())
    (sharded / INDEX).unlink()
    assert set(open_checkpoint(sharded).tensors()) == expected
    gone = sorted(sharded.glob("*.safetensors"))[0]
    gone.unlink()
    with pytest.raises(CheckpointError, match=f"shards are missing: {gone.name}; the download is incomplete"):
        open_checkpoint(sharded)


def test_shards_without_index_that_share_a_tensor(tmp_path: Path):
    for number in (1, 2):
        one(tmp_path / f"model-0000{number}-of-00002.safetensors")
    assert set(open_checkpoint(tmp_path).tensors()) == {"a"}  # the same in both
    safetensors.numpy.save_file({"a": np.zeros(2, np.float32)}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="tensor 'a' lies in both"):
        open_checkpoint(tmp_path)


def test_several_files_that_are_no_set(tmp_path: Path):
    one(tmp_path / "x.safetensors"), one(tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 2 .* and no .*: x\.safetensors, y\.safetensors"):
        open_checkpoint(tmp_path)
    assert set(open_checkpoint(tmp_path / "y.safetensors").tensors()) == {"a"}


def test_files_that_are_left_out_are_named(tmp_path: Path, sharded: Path):
    one(tmp_path / "model.safetensors"), one(tmp_path / "adapter_model.safetensors", "b")
    with pytest.warns(PolyllamaWarning, match=r"not used.*: adapter_model\.safetensors"):
        assert set(open_checkpoint(tmp_path).tensors()) == {"a"}
    one(sharded / "consolidated.safetensors")
    with pytest.warns(PolyllamaWarning, match=r"not used.*: consolidated\.safetensors"):
        open_checkpoint(sharded)


def test_two_sets_of_weights(sharded: Path):
    one(sharded / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds two sets of weights"):
        open_checkpoint(sharded)
    assert set(open_checkpoint(sharded / "model.safetensors").tensors()) == {"a"}
    assert len(open_checkpoint(sharded / INDEX).tensors()) > 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin"], r"pytorch_model\.bin is a file that no installed reader knows \(installed: hugg"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"], "are files that no installed"),
        (["consolidated.00.pth", "params.json"], r"consolidated\.00\.pth is a file that no installed reader knows"),
        (["llama.Q4_0.gguf"], r"llama\.Q4_0\.gguf is a file that no installed reader knows"),
        (["config.json", "model.safetensors.incomplete"], "the download of .* was not finished"),
        (["config.json"], "holds no weights"),
        ([], "holds no weights.*config.json beside model.safetensors"),
    ],
)
def test_folders_without_readable_weights(tmp_path: Path, names: list[str], message: str):
    for name in names:
        (tmp_path / name).write_bytes(b"\x80\x02garbage")
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)
    if len(names) == 1 and not names[0].startswith("config"):
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path / names[0])


def test_weights_one_folder_further_down(tmp_path: Path):
    (tmp_path / "checkpoint-500").mkdir()
    one(tmp_path / "checkpoint-500" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"did you mean .*checkpoint-500"):
        open_checkpoint(tmp_path)


def test_an_adapter_is_not_a_model(tmp_path: Path):
    one(tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="is a PEFT adapter, not a model"):
        open_checkpoint(tmp_path)


def test_nothing_there_and_no_tensors(tmp_path: Path):
    with pytest.raises(CheckpointError, match="there is no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(CheckpointError, match="is a link to something that is not there"):
        open_checkpoint(tmp_path / "link")
    safetensors.numpy.save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds no tensors at all"):
        open_checkpoint(tmp_path)
    one(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="there is no tensor 'b'"):
        open_checkpoint(tmp_path).read("b")


# ---- readers from plugins ----


class RawFloats:
    """A format of somebody else's: the bytes of one float32 vector."""

    @staticmethod
    def detect(path: Path) -> bool:
        return path.suffix == ".raw" or (path.is_dir() and any(path.glob("*.raw")))

    @staticmethod
    def open(path: Path) -> Any:
        return f"opened {path.name}"


class Broken:
    @staticmethod
    def detect(path: Path) -> bool:
        raise ImportError("no module named gguf")


@dataclass(frozen=True)
class Descriptor:
    name: str
    target: Any
    files: tuple[str, ...] = ()

    def load(self) -> Any:
        return self.target


def test_readers_are_found_by_their_files_or_their_names(tmp_path: Path):
    formats = [Descriptor("huggingface", HuggingFaceFormat), Descriptor("raw", RawFloats)]
    (tmp_path / "x.raw").write_bytes(b"")
    assert open_checkpoint(tmp_path, formats=formats) == f"opened {tmp_path.name}"
    assert open_checkpoint(tmp_path / "x.raw", formats={d.name: d for d in formats}) == "opened x.raw"
    assert open_checkpoint(tmp_path, "raw", formats) == f"opened {tmp_path.name}"
    with pytest.raises(UnsupportedError, match=r"no checkpoint format 'gguf'; use auto or one of huggingface, raw"):
        open_checkpoint(tmp_path, "gguf", formats)
    one(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="could be read as huggingface or raw; choose one"):
        open_checkpoint(tmp_path, formats=formats)
    assert set(open_checkpoint(tmp_path, "huggingface", formats).tensors()) == {"a"}


def test_a_broken_reader_is_named_and_the_others_still_work(tmp_path: Path):
    one(tmp_path / "model.safetensors")
    formats = [Descriptor("broken", Broken), Descriptor("huggingface", HuggingFaceFormat)]
    with pytest.warns(PolyllamaWarning, match="'broken' not tried .*: ImportError: no module named gguf"):
        assert set(open_checkpoint(tmp_path, formats=formats).tensors()) == {"a"}


def test_a_reader_is_asked_where_a_folder_has_its_files(tmp_path: Path):
    huggingface = Descriptor("huggingface", HuggingFaceFormat)
    one(tmp_path / "model.safetensors")
    unasked = Descriptor("broken", Broken, ("*.raw", "*.rawer"))
    assert set(open_checkpoint(tmp_path, formats=[unasked, huggingface]).tensors()) == {"a"}
    (tmp_path / "x.rawer").touch()
    with pytest.warns(PolyllamaWarning, match="'broken' not tried"):
        open_checkpoint(tmp_path, formats=[unasked, huggingface])


def test_files_that_are_no_pattern_cost_only_their_own_reader(tmp_path: Path):
    one(tmp_path / "model.safetensors")
    formats = [Descriptor("raw", RawFloats, ("/*.raw",)), Descriptor("huggingface", HuggingFaceFormat)]
    with pytest.warns(PolyllamaWarning, match="'raw' not tried .*: NotImplementedError"):
        assert set(open_checkpoint(tmp_path, formats=formats).tensors()) == {"a"}


def test_shards_are_opened_once_and_read_from_the_right_file(hf_model: Any):
    _, _, sharded = hf_model
    checkpoint = open_checkpoint(sharded)
    for name, info in checkpoint.tensors().items():
        assert info.file is not None
        assert bits(SafetensorsFile(info.file).read(name)) == bits(checkpoint.read(name))
