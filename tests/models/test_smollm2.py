"""The one real model: SmolLM2-135M-Instruct as GGUF, 4 bits, from an installed package. Its oracle is transformers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_tokenizers import texts
from hypothesis import given, settings
from polyllama import Llama
from polyllama.core.checkpoint.gguf.reader import GgufCheckpoint
from polyllama.core.tokenizer.formats.gguf import PREFIX, tokenizer_from_gguf
from polyllama.core.tokenizer.formats.gguf_writer import gguf_from_tokenizer
from tiny_models import relative_error
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
BACKENDS = ["reference", "cpu", "torch", "mlx", "jax"]


@pytest.fixture(scope="module")
def checkpoint(smollm2: Path) -> GgufCheckpoint:
    return GgufCheckpoint(smollm2)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: GgufCheckpoint) -> Any:
    return checkpoint.tokenizer()


@pytest.fixture(scope="module")
def pieces(checkpoint: GgufCheckpoint) -> Tokenizer:
    """The same pieces in the tokenizers library, with the steps of the model's own tokenizer.json."""
    said = checkpoint.metadata
    tokens, merges = said[f"{PREFIX}tokens"], said[f"{PREFIX}merges"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, said[f"{PREFIX}token_type"], strict=True) if kind == 3]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return backend


SAMPLES = [
    "Hello world! 12345 llamas, naïve café",
    "  def f(x):\n\n\treturn x ** 2  # ½",
    "日本語 한국어 Привет \U0001f999 e\u0301\r\n   end  ",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
]


@settings(max_examples=200)
@given(text=texts)
def test_ids_are_those_of_the_tokenizers_library(tokenizer: Any, pieces: Tokenizer, text: str) -> None:
    ids = pieces.encode(text).ids
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == pieces.decode(ids, skip_special_tokens=False)  # it lacks some bytes of rare text


def test_special_tokens_are_found_in_text(tokenizer: Any, pieces: Tokenizer) -> None:
    for text in SAMPLES:
        assert tokenizer.encode(text) == pieces.encode(text).ids
    assert tokenizer.encode(SAMPLES[3])[0] == 1 and tokenizer.eos_token_id == 2
    assert tokenizer.encode("Hello world! 123") == [19556, 905, 17, 216, 33, 34, 35]  # as other engines have it


def test_the_tokenizer_is_written_and_read_again(tokenizer: Any) -> None:
    pairs = gguf_from_tokenizer(tokenizer, 49152)
    assert pairs[f"{PREFIX}pre"] == "smollm"
    again = tokenizer_from_gguf(pairs, "again.gguf")
    for text in SAMPLES:
        assert again.encode(text) == tokenizer.encode(text)
    assert again.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("messages", [QUESTION, [{"role": "system", "content": "Be brief."}, *QUESTION]])
@pytest.mark.parametrize("ask", [True, False])
def test_the_chat_template_is_rendered_as_jinja_does(
    checkpoint: GgufCheckpoint, tokenizer: Any, messages: list[dict[str, str]], ask: bool
) -> None:
    import jinja2

    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        checkpoint.metadata["tokenizer.chat_template"]
    )
    wanted = template.render(messages=messages, add_generation_prompt=ask)
    found = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    assert found == wanted
    assert wanted.startswith("<|im_start|>system\n") and wanted.endswith("assistant\n") == ask


@pytest.fixture(scope="module")
def conversation(tokenizer: Any) -> tuple[list[int], int]:
    """The ids of the question and its answer, and where the answer begins."""
    prompt = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    asked = tokenizer.encode(prompt)
    return [*asked, *tokenizer.encode(f"{ANSWER}<|im_end|>")], len(asked)


@pytest.fixture(scope="module")
def expected(smollm2: Path, conversation: tuple[list[int], int]) -> np.ndarray:
    """transformers' logits, from the same file.

    It reads the file twice and makes the map of the tensors' names for each module; once is enough for the same model.
    """
    import gguf
    import torch
    import transformers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
        patch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32
        ).eval()
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([conversation[0]])).logits[0].numpy()
    return logits


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_backend_computes_what_transformers_does(
    smollm2: Path, conversation: tuple[list[int], int], expected: np.ndarray
) -> None:
    """All in one test, as reading the file with transformers takes longer than all the rest."""
    ids, begin = conversation
    assert expected[begin - 1 : -1].argmax(-1).tolist() == ids[begin:]
    for backend in BACKENDS:
        llm = Llama.load(smollm2, backend=backend, dtype="float32")
        logits = llm.forward([ids]).numpy()["logits"][0]
        # In units of the largest logit, 38; transformers itself lies 2e-6 from float64, the others 2e-6 to 4e-6.
        assert relative_error(logits, expected) < 1e-5, backend
        # Each token of the answer is the likeliest after those before it: what greedy decoding gives.
        assert logits[begin - 1 : -1].argmax(-1).tolist() == ids[begin:], backend


def test_the_answer(smollm2: Path) -> None:
    llm = Llama.load(smollm2, backend="cpu", dtype="float32")
    answer = llm.chat(QUESTION, max_new_tokens=20, temperature=0)
    assert (answer.text, answer.finish_reason) == (ANSWER, "stop")


def test_its_name_asks_for_float32(smollm2: Path) -> None:
    """In bfloat16 it answers wrong, so nobody gets that who has not asked for it."""
    assert Llama.load("smollm2", backend="cpu").dtype == "float32"
    assert Llama.load("smollm2", backend="cpu", dtype="bfloat16").dtype == "bfloat16"
    assert Llama.plan("smollm2", backend="cpu", context=512).chosen.dtype == "float32"


def test_the_plan_knows_the_file(smollm2: Path) -> None:
    plan = Llama.plan("smollm2", backend="cpu", context=512)
    assert plan.parameters == 134_515_008 and plan.known_from == "files"
    assert 90e6 < plan.stored_bytes < smollm2.stat().st_size
