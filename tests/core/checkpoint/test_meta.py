"""Meta's originals and files of torch.save: read without unpickling, merged, and equal to transformers."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_models import logits_of, our_logits, write_meta
from polyllama import Llama, PolyllamaError
from polyllama.core.checkpoint.meta.reader import MetaCheckpoint, meta_name
from polyllama.core.checkpoint.pytorch.torch_file import TorchFile
from polyllama.core.errors import CheckpointError
from tiny_models import TinyModels, relative_error

SIZES = {"vocab_size": 96, "hidden_size": 48, "intermediate_size": 128, "num_attention_heads": 6}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("ranks", "llama", "fields", "params"),
    [
        pytest.param(1, 1, {"num_key_value_heads": 6}, {"n_kv_heads": None}, id="llama1"),
        pytest.param(2, 2, {"num_key_value_heads": 2}, {}, id="llama2-gqa-2-ranks"),
        pytest.param(4, 2, {"num_attention_heads": 8, "num_key_value_heads": 4}, {}, id="llama2-4-ranks"),
        pytest.param(
            2,
            2,
            {"num_key_value_heads": 2, "intermediate_size": 176},
            {"multiple_of": 16, "ffn_dim_multiplier": 1.3},
            id="ffn-multiplier",
        ),
        pytest.param(
            2,
            3,
            {"num_key_value_heads": 2, "rope": LLAMA3, "max_position_embeddings": 131072},
            {"rope_theta": 500000.0, "use_scaled_rope": True},
            id="llama3-scaled",
        ),
        pytest.param(
            4,
            3,
            {"num_attention_heads": 8, "num_key_value_heads": 2, "rope": {"rope_type": "default", "rope_theta": 5e5}},
            {"rope_theta": 500000.0},
            id="llama3-more-ranks-than-key-heads",
        ),
    ],
)
def test_meta_originals_give_the_logits_of_transformers(
    tiny_models: TinyModels, tmp_path: Path, ranks: int, llama: int, fields: dict[str, Any], params: dict[str, Any]
) -> None:
    model, _ = tiny_models(**SIZES | fields)
    folder = write_meta(tmp_path / "meta", model, ranks, llama=llama, **params)
    assert relative_error(our_logits(folder), logits_of(model)) < 2e-5
    checkpoint = MetaCheckpoint(folder)
    for name, wanted in model.state_dict().items():
        assert np.array_equal(checkpoint.read(name), wanted.numpy()), name
    assert relative_error(our_logits(folder / "consolidated.00.pth"), logits_of(model)) < 2e-5


def test_what_params_json_leaves_to_the_weights(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(**SIZES, dtype="bfloat16")
    folder = write_meta(tmp_path, model.to(torch.bfloat16), 2)
    model.float()
    config = MetaCheckpoint(folder).config()
    assert (config.vocab_size, config.dtype, config.intermediate_size) == (96, "bfloat16", 128)
    assert config.provenance["vocab_size"] == "consolidated.00.pth: vocab_size"
    assert config.provenance["hidden_size"] == "params.json: dim"
    assert MetaCheckpoint(folder).config(max_position_embeddings=77).max_position_embeddings == 77
    model_bf16 = MetaCheckpoint(folder).read("model.norm.weight")
    assert model_bf16.dtype.name == "bfloat16"


def test_the_tokenizer_may_lie_one_folder_above(tiny_models: TinyModels, tmp_path: Path) -> None:
    from polyllama.core.sources.locate import locate

    model, _ = tiny_models(**SIZES)
    folder = write_meta(tmp_path / "7B", model)
    llm = Llama.load(folder, backend="reference")
    with pytest.raises(PolyllamaError, match=r"holds no tokenizer\.model, nor does the folder above"):
        _ = llm.tokenizer
    shutil.copy(locate("tiny").path / "tokenizer.model", tmp_path)
    assert llm.tokenizer.decode(llm.tokenizer.encode("Once upon")) == "<s> Once upon"


def test_names_of_meta_both_ways(tiny_models: TinyModels) -> None:
    model, _ = tiny_models(**SIZES)
    from checkpoint_models import meta_tensors

    assert {meta_name(name) for name in model.state_dict()} == set(meta_tensors(model))
    assert meta_name("score.weight") is None


def test_broken_sets_of_ranks_are_named(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(**SIZES | {"num_attention_heads": 8, "num_key_value_heads": 2})
    folder = write_meta(tmp_path / "a", model, 4, llama=3)
    (folder / "consolidated.02.pth").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"1 of 4 files of the model are missing: consolidated\.02\.pth"):
        MetaCheckpoint(folder)
    shard = torch.load(tmp_path / "gone", weights_only=True)
    changed = dict(shard)
    changed["layers.0.attention.wk.weight"] = shard["layers.0.attention.wk.weight"].clone()
    torch.save(changed, folder / "consolidated.02.pth")
    # Ranks 2 and 3 share a key head.
    third = torch.load(folder / "consolidated.03.pth", weights_only=True)
    third["layers.0.attention.wk.weight"] = third["layers.0.attention.wk.weight"] + 1
    torch.save(third, folder / "consolidated.03.pth")
    with pytest.raises(CheckpointError, match=r"consolidated\.03\.pth: tensor 'layers\.0\.attention\.wk.*should equal"):
        MetaCheckpoint(folder).read("model.layers.0.self_attn.k_proj.weight")
    torch.save({**shard, "more": torch.ones(1)}, folder / "consolidated.02.pth")
    with pytest.raises(CheckpointError, match=r"consolidated\.02\.pth: does not hold the same tensors.*more"):
        MetaCheckpoint(folder)
    torch.save({**shard, "norm.weight": torch.ones(3)}, folder / "consolidated.02.pth")
    with pytest.raises(CheckpointError, match=r"consolidated\.02\.pth: tensor 'norm\.weight' is float32 \[3\]"):
        MetaCheckpoint(folder)
    (folder / "params.json").unlink()
    for rank in (1, 2, 3):
        (folder / f"consolidated.{rank:02d}.pth").unlink()
    with pytest.raises(CheckpointError, match=r"params\.json is not there"):
        Llama.load(folder, backend="reference")


# ---- pytorch_model.bin


@pytest.mark.parametrize("shards", [1, 3])
def test_older_folders_of_transformers(tiny_models: TinyModels, tmp_path: Path, shards: int) -> None:
    model, saved = tiny_models(**SIZES)
    shutil.copy(saved / "config.json", tmp_path)
    state = model.state_dict()
    if shards == 1:
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        names = list(state)
        placed = {n: f"pytorch_model-{1 + i % shards:05d}-of-{shards:05d}.bin" for i, n in enumerate(names)}
        for file in set(placed.values()):
            torch.save({n: state[n].clone() for n in names if placed[n] == file}, tmp_path / file)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    torch.save({"lr": 1e-3}, tmp_path / "training_args.bin")
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    assert relative_error(our_logits(tmp_path), logits_of(model)) < 2e-5
    if shards == 1:
        assert relative_error(our_logits(tmp_path / "pytorch_model.bin"), logits_of(model)) < 2e-5


def test_safetensors_are_preferred(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, saved = tiny_models(**SIZES)
    folder = tmp_path / "both"
    shutil.copytree(saved, folder)
    (folder / "pytorch_model.bin").write_bytes(b"PK garbage")
    assert relative_error(our_logits(folder), logits_of(model)) < 2e-5


# ---- the reader itself


def everything() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32)
    marked = torch.nn.Parameter(torch.ones(2))
    marked._is_hf_initialized = True  # transformers leaves this, and torch then pickles parameters with their state
    return {
        "bfloat16": torch.randn(4, 5).bfloat16(),
        "float8": torch.ones(4).to(torch.float8_e4m3fn),
        "uint16": torch.ones(3, dtype=torch.uint16),
        "bool": torch.tensor([True, False, True]),
        "transposed": base.reshape(4, 6).t(),
        "slice": base[5:9],
        "steps": base[::3],
        "shared": base,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "parameter with state": marked,
    }


def test_every_kind_of_tensor_as_torch_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(everything(), path)
    file = TorchFile(path)
    for name, wanted in torch.load(path, weights_only=True).items():
        found = file.read(name)
        assert np.array_equal(found.astype(np.float32), wanted.detach().float().numpy()), name
        assert (found.dtype.name, found.shape) == (str(wanted.dtype).removeprefix("torch."), tuple(wanted.shape)), name
    one = file.read("shared")
    one[:] = 7  # a private map: the file keeps its values
    file.release("shared")
    assert TorchFile(path).read("shared")[3] == 3


def test_reading_maps_and_copies_nothing(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(100, 100)}, tmp_path / "x.pt")
    found = TorchFile(tmp_path / "x.pt").read("a")
    assert found.base is not None and not found.flags.owndata


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["bare", "inside", "state", "legacy", "alone"])
def test_a_malicious_pickle_is_inert(tmp_path: Path, place: str) -> None:
    owned, path = tmp_path / "owned", tmp_path / "pytorch_model.bin"
    content: Any = Bomb(owned) if place == "bare" else {"a": torch.ones(2), "b": Bomb(owned)}
    if place == "state":  # what hangs on a parameter is pickled along with it
        content = {"a": torch.nn.Parameter(torch.ones(2))}
        content["a"].note = [{"deep": (Bomb(owned),)}]
    if place == "alone":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=place != "legacy")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for source in (path, tmp_path):
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin") as caught:
            Llama.load(source, backend="reference")
        assert not owned.exists()
    if place in ("bare", "inside", "state"):
        assert "asks for 'posix.mkdir'" in str(caught.value)
        torch.load(path, weights_only=False)  # the same file, read as pickles are
        assert owned.exists()


GLOBALS = [
    (b"cos\nsystem\n(S'true'\ntR.", "asks for 'os.system'"),
    (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "asks for 'builtins.eval'"),
    (b"ccollections\nOrderedDict\n)R}S'x'\nS'y'\nsb.", "sets the state of an object"),
    (b"ccollections\nOrderedDict\n)\x81.", "uses the opcode NEWOBJ"),
    (b"\x82\x01.", "uses the opcode EXT1"),
    (b"]\x8c\x01a\x85R.", "calls 'list'"),
    (b"ctorch\nload\n.", "asks for 'torch.load'"),
    (b"]" * 1_100_000 + b".", "more steps"),
    (b"}(K\x01K\x02K\x01K\x03u.", "the key 1 is there twice"),
    (b"}))s.", "a tuple is the key"),
    (b"(", "does not end|no newline|exhausted"),
    (b"K\x01.", "holds a int, not a dictionary"),
    (b"}\x8c\x01aK\x01s.", "holds a int under 'a'"),
]


@pytest.mark.parametrize(("content", "message"), GLOBALS)
def test_pickles_that_do_more_than_describe_tensors(tmp_path: Path, content: bytes, message: str) -> None:
    import zipfile

    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", content)
    with pytest.raises(CheckpointError, match=message) as caught:
        TorchFile(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_state_dict(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "x.pt"
    for content, message in (
        (torch.ones(2), "holds a StoredTensor, not a dictionary"),
        ({"state_dict": {"a": torch.ones(1)}, "epoch": 3}, "is a training checkpoint.*'state_dict'"),
        ({"a": torch.ones(1).expand(9)}, "is an expanded tensor"),
        (torch.nn.Linear(2, 2), "asks for 'torch.nn.modules.linear.Linear'"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            TorchFile(path)
    torch.save(everything(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"format from before version 1\.6"):
        TorchFile(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # a zip bomb: 50 MB in 50 kB
        archive.writestr("x/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(CheckpointError, match="is compressed, which PyTorch never does"):
        TorchFile(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", b"hello")
    with pytest.raises(CheckpointError, match=r"not one of torch\.save"):
        TorchFile(path)
