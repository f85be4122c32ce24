"""llama2.c's files, laid out as its export.py and tokenizer.py write them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from checkpoint_models import logits_of, our_logits
from llama2c_models import write
from polyllama import Llama, LlamaTokenizer
from polyllama.core.checkpoint.llama2c import Llama2cCheckpoint, Llama2cFormat
from polyllama.core.errors import CheckpointError, TokenizerError
from polyllama.core.sources.locate import locate
from tiny_models import TinyModels, relative_error

SIZES = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
}


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("tied", [False, True])
def test_both_layouts_give_the_logits_of_transformers(
    tiny_models: TinyModels, tmp_path: Path, version: int, tied: bool
) -> None:
    model, _ = tiny_models(**SIZES, tie_word_embeddings=tied)
    path = write(tmp_path / "stories.bin", model, version)
    assert relative_error(our_logits(path), logits_of(model)) < 2e-5
    assert relative_error(our_logits(tmp_path), logits_of(model)) < 2e-5
    checkpoint = Llama2cCheckpoint(path)
    for name, wanted in model.state_dict().items():
        if name in checkpoint.tensors():
            assert np.array_equal(checkpoint.read(name), wanted.numpy()), name
    config = checkpoint.config()
    assert (config.max_position_embeddings, config.tie_word_embeddings, config.dtype) == (64, tied, "float32")
    assert config.provenance["intermediate_size"] == "stories.bin: hidden_dim"


def test_what_is_no_such_file(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(**SIZES)
    path = write(tmp_path / "a.bin", model, 1)
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    with pytest.raises(CheckpointError, match=r"a\.bin: has [\d,]+ bytes, its header wants"):
        Llama.load(path)
    path.write_bytes(content[:4] + struct.pack("<i", 2) + content[8:])
    with pytest.raises(CheckpointError, match=r"a\.bin: is llama2\.c's version 2"):
        Llama.load(path)
    legacy = write(tmp_path / "b.bin", model, 0)
    assert Llama2cFormat.detect(legacy)
    legacy.write_bytes(legacy.read_bytes() + b"\0")
    assert not Llama2cFormat.detect(legacy)
    with pytest.raises(CheckpointError, match=r"b\.bin is a file that no installed reader knows"):
        Llama.load(legacy)
    with pytest.raises(CheckpointError, match=r"b\.bin: has"):
        Llama.load(legacy, load_format="llama2c")
    for content in (b"", b"\0" * 27, b"\xff" * 300, struct.pack("<7i", 5, 1, 1, 2, 1, 1, 1)):
        legacy.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"b\.bin"):
            Llama.load(legacy, load_format="llama2c")


def write_tokenizer(path: Path) -> None:
    """tiny's tokenizer.model as llama2.c's tokenizer.py exports it."""
    from sentencepiece import SentencePieceProcessor

    sp = SentencePieceProcessor(model_file=str(locate("tiny").path / "tokenizer.model"))
    found = b""
    for index in range(len(sp)):
        text = sp.id_to_piece(index)
        if index in (sp.bos_id(), sp.eos_id()):
            text = f"\n{text}\n"
        raw = text.replace("\u2581", " ").encode()
        found += struct.pack("<fI", sp.get_score(index), len(raw)) + raw
    path.write_bytes(struct.pack("<I", 27) + found)


def test_the_tokenizer_beside_it(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, _ = tiny_models(**SIZES | {"vocab_size": 1792})
    llm = Llama.load(write(tmp_path / "stories.bin", model, 0), backend="reference")
    with pytest.raises(TokenizerError, match=r"holds neither tokenizer\.bin nor tokenizer\.model"):
        _ = llm.tokenizer
    write_tokenizer(tmp_path / "tokenizer.bin")
    wanted = LlamaTokenizer(locate("tiny").path / "tokenizer.model")
    for text in ("Once upon a time", "  two", "café 🦙\n"):
        assert llm.tokenizer.encode(text) == wanted.encode(text)
    assert llm.tokenizer.decode(wanted.encode("café")) == wanted.decode(wanted.encode("café"))
    content = (tmp_path / "tokenizer.bin").read_bytes()
    for broken, message in (
        (content[:-1], "reaches outside|damaged"),
        (content[:-9], "reaches|damaged|has 1791 pieces"),
    ):
        (tmp_path / "tokenizer.bin").write_bytes(broken)
        with pytest.raises(TokenizerError, match=message):
            _ = Llama.load(tmp_path / "stories.bin", backend="reference").tokenizer
