"""The parts of a split GGUF model: named as they were, renamed, joined, missing or mixed up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoint_models import gguf_tensors
from polyllama.core.checkpoint.gguf.reader import GgufCheckpoint
from polyllama.core.errors import CheckpointError
from tiny_models import TinyModels

SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 1}
FIRST, SECOND = "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"


def write_part(path: Path, model: Any, number: int, count: int = 2, total: int | None = None) -> Path:
    """One part, with every ``count``-th tensor, as llama-gguf-split writes it."""
    writer = gguf.GGUFWriter(path, "llama")
    c, tensors = model.config, gguf_tensors(model)
    if number == 0:
        writer.add_context_length(64)
        writer.add_embedding_length(c.hidden_size)
        writer.add_block_count(c.num_hidden_layers)
        writer.add_feed_forward_length(c.intermediate_size)
        writer.add_head_count(c.num_attention_heads)
        writer.add_head_count_kv(c.num_key_value_heads)
        writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_uint16("split.no", number)
    writer.add_uint16("split.count", count)
    writer.add_int32("split.tensors.count", len(tensors) if total is None else total)
    for name, array in list(tensors.items())[number::count]:
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def model(tiny_models: TinyModels) -> Any:
    return tiny_models(**SIZES)[0]


@pytest.fixture
def parts(model: Any, tmp_path: Path) -> Path:
    for number, name in enumerate((FIRST, SECOND)):
        write_part(tmp_path / name, model, number)
    return tmp_path


def is_whole(path: Path, model: Any) -> bool:
    checkpoint = GgufCheckpoint(path)
    names = {name for name in model.state_dict() if "rotary" not in name}
    norm = checkpoint.read("model.norm.weight")
    return names <= set(checkpoint.tensors()) and np.array_equal(norm, model.state_dict()["model.norm.weight"].numpy())


@pytest.mark.parametrize(
    "names",
    [(FIRST, SECOND), ("model.gguf", SECOND), (FIRST, "tail.gguf"), ("a.gguf", "b.gguf"), ("z.gguf", "y.gguf")],
)
def test_parts_are_found_under_any_name(parts: Path, model: Any, names: tuple[str, str]) -> None:
    for old, new in zip((FIRST, SECOND), names, strict=True):
        (parts / old).rename(parts / f"{new}.aside")
    for new in names:
        (parts / f"{new}.aside").rename(parts / new)
    for path in [parts, *(parts / name for name in names)]:
        assert is_whole(path, model), path


def test_parts_whose_names_are_exchanged(parts: Path, model: Any) -> None:
    (parts / FIRST).rename(parts / "aside")
    (parts / SECOND).rename(parts / FIRST)
    (parts / "aside").rename(parts / SECOND)
    assert is_whole(parts, model)


def test_other_models_in_the_folder_are_not_parts_of_it(parts: Path, model: Any) -> None:
    (parts / FIRST).rename(parts / "model.gguf")
    other = gguf.GGUFWriter(parts / "other.gguf", "llama")
    other.add_tensor("token_embd.weight", np.zeros((40, 32), np.float32))
    other.write_header_to_file()
    other.write_kv_data_to_file()
    other.write_tensors_to_file()
    other.close()
    (parts / "damaged.gguf").write_bytes(b"GGUF and no more than that")
    assert is_whole(parts / "model.gguf", model)


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST), (FIRST, FIRST)])
@pytest.mark.parametrize("gap", [0, 7, 32])
def test_joined_parts(parts: Path, order: tuple[str, str], gap: int) -> None:
    joined = parts / "joined.gguf"
    joined.write_bytes((parts / order[0]).read_bytes() + bytes(gap) + (parts / order[1]).read_bytes())
    which = 1 if order[0] == FIRST else 2
    with pytest.raises(CheckpointError, match=rf"part {which} of 2 of a split model .*joined end to end; .*--merge"):
        GgufCheckpoint(joined)


def test_joined_models_that_were_never_split(model: Any, tmp_path: Path) -> None:
    path = write_part(tmp_path / "one.gguf", model, 0, 1)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(CheckpointError, match=r"one\.gguf: behind the tensors of this GGUF file another one begins"):
        GgufCheckpoint(path)


def test_bytes_behind_the_tensors_are_no_other_file(model: Any, tmp_path: Path) -> None:
    path = write_part(tmp_path / "one.gguf", model, 0, 1)
    path.write_bytes(path.read_bytes() + bytes(100) + b"GGU")
    assert is_whole(path, model)


def test_a_lone_part_says_what_it_is(parts: Path) -> None:
    (parts / SECOND).unlink()
    (parts / FIRST).rename(parts / "model.gguf")
    with pytest.raises(
        CheckpointError, match=r"model\.gguf: is part 1 of 2 .*split\.count.*no part 2; .*-00001-of-00002"
    ):
        GgufCheckpoint(parts / "model.gguf")
    with pytest.raises(CheckpointError, match=r"is part 1 of 2 of a split model"):
        GgufCheckpoint(parts)


def test_two_files_that_can_be_the_same_part(parts: Path) -> None:
    (parts / FIRST).rename(parts / "model.gguf")
    shutil.copy(parts / SECOND, parts / "copy.gguf")
    with pytest.raises(CheckpointError, match=rf"can be part 2: copy\.gguf, {SECOND}"):
        GgufCheckpoint(parts / "model.gguf")


def test_parts_that_are_not_what_their_names_say(parts: Path, model: Any) -> None:
    shutil.copy(parts / FIRST, parts / SECOND)
    with pytest.raises(CheckpointError, match=rf"{SECOND}: says that it is part 1 of 2 .*, as does {FIRST}"):
        GgufCheckpoint(parts)
    write_part(parts / SECOND, model, 1, 3)
    with pytest.raises(CheckpointError, match=rf"{SECOND}: says that it is part 2 of 3 .*, not of 2"):
        GgufCheckpoint(parts)
    write_part(parts / FIRST, model, 0, 2, total=99)
    write_part(parts / SECOND, model, 1, 2, total=99)
    with pytest.raises(CheckpointError, match=r"its model has 99 tensors \(split\.tensors\.count\), its 2 parts 12"):
        GgufCheckpoint(parts)


@pytest.mark.parametrize(("number", "count"), [(2, 2), (5, 1)])
def test_impossible_places(model: Any, tmp_path: Path, number: int, count: int) -> None:
    path = write_part(tmp_path / "x.gguf", model, number, count)
    with pytest.raises(CheckpointError, match=rf"split\.no={number} and split\.count={count}, which is no part"):
        GgufCheckpoint(path)


@pytest.mark.parametrize("name", ["x.gguf-split-a", "x.gguf.part1of2", "x.gguf-part-1of2"])
def test_pieces_of_a_file_say_that_they_are_to_be_joined(model: Any, tmp_path: Path, name: str) -> None:
    whole = write_part(tmp_path / "x.gguf", model, 0, 1).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"ends at byte .*; '.*' in its name says .*join the pieces"):
        GgufCheckpoint(tmp_path / name)
