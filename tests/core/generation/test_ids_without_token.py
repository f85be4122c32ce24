"""A tokenizer smaller than the model's vocabulary: the ids that it lacks are never generated, which is said once."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, PolyllamaWarning
from safetensors.numpy import save_file
from safetensors.torch import load_file
from tiny_models import ALL_BACKENDS

TINY = Path(__file__).parents[3] / "models" / "tiny"
ROWS, BEYOND = 1792, 8


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with eight more rows, of which half have larger logits than any token."""
    folder = tmp_path_factory.mktemp("padded") / "model"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    arrays = {name: tensor.float().numpy() for name, tensor in load_file(TINY / "model.safetensors").items()}
    embedding = arrays["model.embed_tokens.weight"]
    more = 40 * np.random.default_rng(0).standard_normal((BEYOND // 2, embedding.shape[1])).astype(np.float32)
    arrays["lm_head.weight"] = np.concatenate([embedding, more, -more])
    arrays["model.embed_tokens.weight"] = np.concatenate([embedding, more, -more])
    save_file(arrays, folder / "model.safetensors")
    change(folder, vocab_size=ROWS + BEYOND, tie_word_embeddings=False)
    return folder


def change(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_every_backend_generates_as_if_the_vocabulary_ended_with_the_tokenizer(padded: Path, backend: str) -> None:
    whole = Llama.load(TINY, backend=backend, dtype="float32")
    llm = Llama.load(padded, backend=backend, dtype="float32")
    with pytest.warns(PolyllamaWarning, match=r"has 1800 ids.* 1792; the 8 ids .*\(1792 to 1799\) are never") as said:
        greedy = llm.generate("Once upon a time", max_new_tokens=4, logprobs=3)
        options = {"temperature": 1.5, "min_p": 0.001, "top_k": 50, "seed": 3, "do_sample": True}
        sampled = llm.generate("Once upon a time", max_new_tokens=4, **options)
    assert len(said) == 1 and said[0].filename == __file__
    assert sampled.token_ids == whole.generate("Once upon a time", max_new_tokens=4, **options).token_ids
    expected = whole.generate("Once upon a time", max_new_tokens=4, logprobs=3)
    assert greedy.token_ids == expected.token_ids and "\ufffd" not in greedy.text
    for ours, theirs in zip(greedy.logprobs, expected.logprobs, strict=True):
        assert [i for i, _ in ours.top] == [i for i, _ in theirs.top]
        assert abs(ours.logprob - theirs.logprob) < 1e-4
    logits = np.asarray(llm.forward([llm.tokenizer.encode("Once upon a time")]).logits)
    assert logits.shape[-1] == ROWS + BEYOND and logits[0, -1].argmax() >= ROWS


def test_an_id_that_ends_the_text_needs_no_token(padded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(padded, folder)
    llm = Llama.load(folder, backend="reference")
    ids = llm.tokenizer.encode("Once upon a time")
    best = int(np.asarray(llm.forward([ids]).logits)[0, -1].argmax())
    (folder / "generation_config.json").unlink()
    change(folder, eos_token_id=best)
    llm = Llama.load(folder, backend="reference")
    with pytest.warns(PolyllamaWarning, match="the 7 ids that are none"):
        ended = llm.generate("Once upon a time", max_new_tokens=3)
    assert ended.token_ids == [best] and ended.finish_reason == "stop"


def test_a_gap_in_a_tokenizer_json_is_no_token(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("__pycache__", "*.py", "tokenizer.model"))
    llm = Llama.load(folder, backend="reference", dtype="float32")
    first = llm.generate("Once upon a time", max_new_tokens=1).token_ids[0]
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    gone = next(text for text, index in vocabulary.items() if index == first)
    vocabulary.pop(gone)
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if gone not in (*pair, "".join(pair))]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    llm = Llama.load(folder, backend="reference", dtype="float32")
    assert llm.tokenizer.ids_without_token(ROWS) == [first]
    prompt = llm.tokenizer.encode("O")
    with pytest.warns(PolyllamaWarning, match=f"; id {first} is never generated"):
        found = llm.generate(prompt, max_new_tokens=20)
    assert first not in found.token_ids


def test_a_whole_tokenizer_says_nothing() -> None:
    llm = Llama.load(TINY, backend="reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llm.generate("Once", max_new_tokens=1)
    assert llm.tokenizer.ids_without_token(ROWS) == [] and llm.tokenizer.ids_without_token(ROWS + 1) == [ROWS]
