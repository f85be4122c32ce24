"""``compute_transition_scores`` against transformers, of arrays of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import polyllama
import pytest
import torch
from polyllama import Llama
from polyllama.core.array_kinds import KINDS, as_numpy, kind_of, to_kind
from polyllama.core.errors import GenerationError, InputError
from tiny_models import ALL_BACKENDS, relative_error

IDS = np.random.default_rng(4).integers(1, 97, (2, 5))
OUTPUTS = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


@pytest.mark.parametrize("normalize", [False, True])
def test_of_what_transformers_generated(tiny_models: Any, normalize: bool) -> None:
    model, folder = tiny_models()
    torch.manual_seed(0)
    out = model.generate(torch.tensor(IDS), max_new_tokens=4, do_sample=True, top_k=5, pad_token_id=0, **OUTPUTS)
    ours: Any = polyllama.LlamaForCausalLM.from_pretrained(folder)
    for scores in (out.scores, out.logits):
        wanted = model.compute_transition_scores(out.sequences, scores, normalize_logits=normalize)
        for llm in (Llama.load(folder, backend="reference"), ours):
            found = llm.compute_transition_scores(out.sequences, scores, normalize_logits=normalize)
            assert found.dtype == torch.float32 and relative_error(found, wanted) < 1e-6


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("torch", "numpy", *ALL_BACKENDS)])
def test_of_every_kind(kind: str) -> None:
    llm = Llama.load("tiny", backend="reference")
    out = llm.generate(to_kind(IDS, kind), max_new_tokens=4, **OUTPUTS)
    found = llm.compute_transition_scores(out.sequences, out.scores, None, True)
    assert kind_of(found) == kind and tuple(found.shape) == (2, 4)
    each = llm.generate(IDS.tolist(), max_new_tokens=4, logprobs=1)
    wanted = np.array([[token.logprob for token in row.logprobs] for row in each])
    assert relative_error(as_numpy(found), wanted) < 1e-5


def test_what_does_not_fit(tiny_models: Any) -> None:
    llm = Llama.load(tiny_models()[1], backend="reference")
    out = llm.generate(IDS, max_new_tokens=4, **OUTPUTS)
    compute = llm.compute_transition_scores
    with pytest.raises(InputError, match=r"scores is a NoneType, wanted an array for each step.*output_scores=True"):
        compute(out.sequences, None)
    with pytest.raises(InputError, match="scores is empty"):
        compute(out.sequences, ())
    with pytest.raises(InputError, match=r"scores\[0\] of 4 steps has shape \[2, 97\], and sequences \[1, 9\]"):
        compute(out.sequences[:1], out.scores)
    with pytest.raises(InputError, match=r"and sequences \[2, 3\]"):
        compute(out.sequences[:, :3], out.scores)
    with pytest.raises(InputError, match=r"beam_indices has shape \[3, 4\] and numbers up to 0, sequences"):
        compute(out.sequences, out.scores, np.zeros((3, 4), int))


def test_several_of_one_prompt_want_sampling() -> None:
    llm = Llama.load("tiny", backend="reference")
    for prompts in (IDS, IDS.tolist()):
        with pytest.raises(GenerationError, match=r"num_return_sequences=2 .* give do_sample=True"):
            llm.generate(prompts, num_return_sequences=2)
    assert llm.generate(IDS, num_return_sequences=2, max_new_tokens=2, do_sample=True, seed=1).shape == (4, 7)
    assert len(llm.generate(IDS.tolist(), num_return_sequences=2, max_new_tokens=2, do_sample=True, seed=1)[0]) == 2
