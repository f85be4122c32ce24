"""Another size of the vocabulary, on every backend: rows kept, new ones made, tied weights tied, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig
from polyllama.core.errors import InputError, UnsupportedError
from polyllama.core.graph.nodes import Linear
from polyllama.core.tasks.outputs import CausalLMOutput
from tiny_models import ALL_BACKENDS, orders_apart, relative_error
from training_support import FRAMEWORKS, IDS, SIZES, value_and_gradients

EVERY = pytest.mark.parametrize("backend", ALL_BACKENDS)


def fresh(backend: str, task: str = "causal-lm", **fields: Any) -> Llama:
    config = LlamaConfig(**(SIZES | {"initializer_range": 0.3} | fields))
    return Llama.load(config, task=task, load_format="dummy", backend=backend)


def arrays(llm: Llama) -> dict[str, np.ndarray]:
    return {info.name: np.array(read()).astype(np.float64) for info, read in llm.model.state()}


EMBED = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("backend", "tied"), [*((name, False) for name in ALL_BACKENDS), ("reference", True), ("torch", True)]
)
def test_rows_are_kept_and_new_ones_are_the_mean(backend: str, tied: bool, tmp_path: Path) -> None:
    llm = fresh(backend, tie_word_embeddings=tied)
    before, logits = arrays(llm), llm.forward(IDS).numpy()["logits"]
    assert llm.resize_token_embeddings(30) == 30
    after = arrays(llm)
    assert after.keys() == before.keys() and ("lm_head.weight" in after) != tied
    for name, old in before.items():
        assert np.array_equal(after[name][: len(old)], old), name
        if len(after[name]) != len(old):
            assert after[name].shape == (30, 16)
            assert np.allclose(after[name][23:], old.mean(axis=0), atol=1e-7)
    assert llm.config.vocab_size == 30 == llm.graph.decoder.embed.num_embeddings == llm.model.config.vocab_size
    wide = llm.forward(IDS).numpy()["logits"]
    assert relative_error(wide[..., :23], logits) < 1e-6
    # The mean row's logit is the mean of the logits: no token becomes the likeliest by being new.
    assert np.allclose(wide[..., 23:], logits.mean(axis=-1, keepdims=True), atol=1e-5)
    loss = float(llm.forward([[25, 29, 24]], labels=[[25, 29, 24]]).loss)
    assert np.isfinite(loss)
    saved = Llama.load(llm.save(tmp_path), backend=backend)
    assert saved.config.vocab_size == 30
    assert relative_error(saved.forward(IDS).numpy()["logits"], wide) < 1e-6


@EVERY
def test_shrinking_and_rounding_up(backend: str) -> None:
    llm = fresh(backend)
    before = arrays(llm)
    assert llm.resize_token_embeddings(18) == 18
    assert np.array_equal(arrays(llm)[EMBED], before[EMBED][:18])
    assert llm.forward([[3, 17]]).numpy()["logits"].shape == (1, 2, 18)
    with pytest.raises(InputError, match=r"input_ids\[0, 0\] is 18, outside the vocabulary of 18"):
        llm.forward([[18]])
    assert llm.resize_token_embeddings(pad_to_multiple_of=8) == 24
    assert llm.resize_token_embeddings(25, pad_to_multiple_of=8) == 32
    model = llm.model
    assert llm.resize_token_embeddings() == 32 and llm.resize_token_embeddings(32) == 32
    assert llm.model is model


@EVERY
def test_random_rows(backend: str) -> None:
    made = []
    for seed in (0, 0, 5):
        llm = fresh(backend)
        llm.resize_token_embeddings(1023, mean_resizing=False, seed=seed)
        llm.resize_token_embeddings(2023, mean_resizing=False, seed=seed)
        made.append(arrays(llm)[EMBED][23:])
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])
    assert abs(made[0].std() - 0.3) < 0.01 and abs(made[0].mean()) < 0.01
    first, second = made[0][:1000], made[0][1000:]
    assert not np.array_equal(first, second)  # rows added later are not the same again


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_the_model_stays_the_same_object(backend: str) -> None:
    llm = fresh(backend, num_hidden_layers=1)
    model, cache = llm.model, llm.forward([[3, 4]], use_cache=True).past_key_values
    module = getattr(model, "module", None)
    if backend == "torch":
        held, kept = module.model.embed_tokens, module.model.layers[0].mlp.up_proj.weight
        module.model.embed_tokens.weight.requires_grad_(False)
    llm.resize_token_embeddings(29)
    assert llm.model is model and getattr(model, "module", None) is module
    if backend == "torch":
        assert module.model.embed_tokens is held and held.num_embeddings == 29 == module.lm_head.out_features
        assert module.model.layers[0].mlp.up_proj.weight is kept
        assert not held.weight.requires_grad and module.lm_head.weight.requires_grad
        assert module.state_dict()["lm_head.weight"].shape == (29, 16) and module.config.vocab_size == 29
    # A cache from before goes on.
    step = llm.forward([[28]], past_key_values=cache).numpy()["logits"][:, 0]
    assert relative_error(step, llm.forward([[3, 4, 28]]).numpy()["logits"][:, 2]) < 1e-5


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_it_trains_afterwards_with_tied_weights(framework: str) -> None:
    llm = fresh(framework, tie_word_embeddings=True)
    llm.resize_token_embeddings(28)
    ids = [[3, 26, 27, 5]]
    model: Any = llm.model
    loss, found = value_and_gradients(model, lambda xp, output: output.loss, ids, labels=ids)
    reference = Llama.load(llm.config, task="causal-lm", load_format="dummy", backend="reference")
    assert set(found) == set(arrays(reference)) and "lm_head.weight" not in found
    gradient = model.to_numpy(found[EMBED])
    assert gradient.shape == (28, 16) and np.abs(gradient).min(axis=1).max() > 0
    assert np.abs(gradient[26]).max() > np.abs(gradient[20]).max()  # by the embedding and the head, not the head alone
    if framework == "torch":
        assert llm.module.lm_head.weight is llm.module.model.embed_tokens.weight
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("task", ["base", "sequence-classification", "token-classification", "question-answering"])
def test_heads_without_a_vocabulary_keep_their_weights(task: str) -> None:
    llm = fresh("torch" if "torch" in FRAMEWORKS else "reference", task)
    before = arrays(llm)
    llm.resize_token_embeddings(40)
    changed = [name for name, value in arrays(llm).items() if value.shape != before[name].shape]
    assert [name.rpartition("embed")[1] for name in changed] == ["embed"]


@EVERY
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"new_num_tokens": 0}, "new_num_tokens is 0, wanted an integer from 1 up"),
        ({"new_num_tokens": -3}, "new_num_tokens is -3"),
        ({"new_num_tokens": 24.0}, r"new_num_tokens is 24\.0"),
        ({"new_num_tokens": True}, "new_num_tokens is True"),
        ({"new_num_tokens": 24, "pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"new_num_tokens": 24, "seed": -1}, "seed is -1"),
    ],
)
def test_what_does_not_fit_is_a_one_line_error(backend: str, arguments: dict[str, Any], message: str) -> None:
    llm = fresh(backend)
    with pytest.raises(InputError, match=message) as caught:
        llm.resize_token_embeddings(**arguments)
    assert "\n" not in str(caught.value)
    assert llm.config.vocab_size == 23


@EVERY
def test_a_special_token_is_not_cut_off(backend: str) -> None:
    llm = fresh(backend)
    with pytest.raises(InputError, match="would cut off eos_token_id 2"):
        llm.resize_token_embeddings(2)
    assert llm.config.vocab_size == 23 and llm.forward([[22]]).numpy()["logits"].shape == (1, 1, 23)


def test_bfloat16_and_odd_numbers_of_bits() -> None:
    config = LlamaConfig(**(SIZES | {"dtype": "bfloat16"}))
    for backend in ALL_BACKENDS:
        llm = Llama.load(config, load_format="dummy", backend=backend)
        before, dtype = arrays(llm), llm.dtype
        llm.resize_token_embeddings(25)
        after = arrays(llm)[EMBED]
        assert llm.dtype == dtype and np.array_equal(after[:23], before[EMBED])
        assert np.allclose(after[23:], before[EMBED].mean(axis=0), rtol=2**-8, atol=1e-7), backend


def test_a_length_dependent_rope_goes_on() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    for backend in ALL_BACKENDS:
        llm = fresh(backend, max_position_embeddings=4, rope_parameters=rope)
        before = llm.forward(IDS).numpy()["logits"]
        llm.resize_token_embeddings(26)
        assert relative_error(llm.forward(IDS).numpy()["logits"][..., :23], before) < 1e-6, backend


def test_a_backend_without_a_way_of_its_own_is_realized_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = fresh("reference")
    before, model = llm.forward(IDS).logits, llm.model
    llm.resize_token_embeddings(40)
    assert llm.model is not model and llm.model.dtype == "float64"
    found = llm.forward(IDS, output_hidden_states=True)
    # The same sums, but of a wider product, for which a library may take other kernels.
    apart = orders_apart(found.hidden_states[-1], arrays(llm)["lm_head.weight"][:23], 2.0**-53)
    assert (np.abs(found.logits[..., :23] - before) <= apart).all() and apart.max() < 1e-13


def test_adapters_are_in_the_way_and_it_says_so() -> None:
    torch = pytest.importorskip("torch")
    from polyllama.core.errors import CheckpointError

    llm = fresh("torch")
    llm.module.extra = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="holds other parameters than its graph"):
        llm.resize_token_embeddings(40)


def test_a_head_that_uses_the_vocabulary_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from polyllama.plugins.tasks.causal_lm import CausalLM

    def wide(self: Any, config: Any, decoder: Any) -> Any:
        return Linear("lm_head", config.hidden_size, 2 * config.vocab_size, role="head")

    monkeypatch.setattr(CausalLM, "head", wide)
    assert CausalLM.output_type is CausalLMOutput
    llm = fresh("reference")
    with pytest.raises(UnsupportedError, match=r"lm_head\.weight would go from \[46, 16\] to \[80, 16\].*'causal-lm'"):
        llm.resize_token_embeddings(40)


@EVERY
def test_packed_rows_stay_packed(backend: str) -> None:
    config = LlamaConfig(**(SIZES | {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32}))
    llm = Llama.load(config, load_format="dummy", backend=backend, quantize="int4-g32")
    before = llm.forward(IDS).numpy()["logits"]
    llm.resize_token_embeddings(70)
    after = llm.forward(IDS).numpy()["logits"]
    assert after.shape[-1] == 70
    np.testing.assert_allclose(after[..., :64], before, rtol=0, atol=1e-5)
    assert {node.bits for node in llm.graph.walk() if getattr(node, "name", "") == "lm_head"} == {4}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base model, and adapters with weights that do something: one of attention, one of the head over the tokens."""
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    import transformers

    folder = tmp_path_factory.mktemp("adapted")
    config = transformers.LlamaConfig(**(SIZES | {"initializer_range": 0.3}))
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "base")
    for name, modules in (("inner", ["q_proj", "down_proj"]), ("head", ["lm_head"])):
        base = transformers.LlamaForCausalLM.from_pretrained(folder / "base")
        settings = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=modules, use_dora=True)
        model = peft.get_peft_model(base, settings)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.5 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
    return {name: folder / name for name in ("base", "inner", "head")}


@EVERY
def test_an_adapter_beside_the_weights_stays(backend: str, adapted: dict[str, Path], tmp_path: Path) -> None:
    llm = Llama.load(adapted["base"], adapter=adapted["inner"], backend=backend)
    plain = Llama.load(adapted["base"], backend=backend).forward(IDS).numpy()["logits"]
    before, names = llm.forward(IDS).numpy()["logits"], set(arrays(llm))
    assert relative_error(before, plain) > 0.05
    llm.resize_token_embeddings(30)
    assert set(arrays(llm)) == names == {p.name for p in llm.graph.parameters()}
    assert relative_error(llm.forward(IDS).numpy()["logits"][..., :23], before) < 1e-5
    with pytest.raises(UnsupportedError, match="runs with an adapter beside its weights"):
        llm.save(tmp_path)


@EVERY
def test_an_adapter_of_what_is_resized_is_in_the_way(backend: str, adapted: dict[str, Path]) -> None:
    llm = Llama.load(adapted["base"], adapter=adapted["head"], backend=backend)
    before = llm.forward(IDS).numpy()["logits"]
    with pytest.raises(UnsupportedError, match=r"lm_head has an adapter.*merge_adapter=True"):
        llm.resize_token_embeddings(30)
    assert np.array_equal(llm.forward(IDS).numpy()["logits"], before) and llm.config.vocab_size == 23
