"""Prompts of one batch with different adapters, against each adapter loaded alone, and against peft."""

from __future__ import annotations

import asyncio
import copy
import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polyllama import Llama
from polyllama.core.errors import CheckpointError, GenerationError, InputError, PolyllamaWarning, UnsupportedError
from polyllama.core.generation.cache_memory import bytes_per_token
from polyllama.core.generation.scheduler import Scheduler
from polyllama.core.graph.graph import Graph
from random_adapters import save_adapter
from tiny_models import ALL_BACKENDS, relative_error

pytestmark = pytest.mark.filterwarnings("ignore:generated texts stay empty")

TARGETS: dict[str, dict[str, Any]] = {
    "attention": {"targets": ["q_proj", "v_proj"], "rank": 3},
    "mlp": {"targets": ["down_proj", "gate_proj"], "rank": 5, "use_rslora": True, "lora_alpha": 4},
    "all": {"targets": ["q_proj", "o_proj", "up_proj", "lm_head", "embed_tokens"], "rank_pattern": {"o_proj": 7}},
}
NAMES = (None, *TARGETS)
PROMPTS = [[1, 5, 9, 60, 3, 3, 17], [2, 8, 33], [1, 5, 9, 60, 3, 3, 17], [7, 8, 7, 8, 7, 8]]
EACH: list[str | None] = ["all", None, "attention", "mlp"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        attention_bias=True,
        max_position_embeddings=256,
        eos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    graph, folder = Llama.load(base, backend="reference").graph, tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(folder / name, graph, seed=number, **how)
        for number, (name, how) in enumerate(TARGETS.items())
    }


def _load(base: Path, backend: str = "reference", **how: Any) -> Llama:
    return Llama.load(base, backend=backend if backend == "reference" else f"{backend}:cpu", dtype="float32", **how)


def _tokens(llm: Llama, prompts: Any, **options: Any) -> list[list[int]]:
    return [result.token_ids for result in llm.generate(prompts, **{"max_new_tokens": 12, **options})]


@pytest.fixture(scope="module")
def alone(base: Path, adapters: dict[str, Path]) -> dict[str | None, Llama]:
    """The model with each adapter alone, and with none, on the reference backend."""
    return {name: _load(base, adapter=adapters[name] if name else None) for name in NAMES}


@pytest.fixture(scope="module")
def wanted(alone: dict[str | None, Llama]) -> dict[tuple[int, str | None], list[int]]:
    """The tokens of every prompt with every adapter."""
    pairs = itertools.product(range(len(PROMPTS)), NAMES)
    return {(place, name): _tokens(alone[name], [PROMPTS[place]])[0] for place, name in pairs}


@pytest.fixture(scope="module")
def mixed(base: Path, adapters: dict[str, Path]) -> Llama:
    return _load(base, adapters=adapters)


@pytest.mark.filterwarnings("ignore::polyllama.core.errors.PolyllamaWarning")
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_mixed_batch_has_the_tokens_of_each_adapter_alone(
    backend: str, base: Path, adapters: dict[str, Path], alone: Any, wanted: Any
) -> None:
    llm = _load(base, backend, adapters=adapters)
    assert llm.adapters == tuple(TARGETS)
    assert len({tuple(wanted[0, name]) for name in NAMES}) == len(NAMES)  # they all do something
    # Each number of rows and tokens is compiled anew on jax.
    for names in (EACH, ["mlp", "all", None, "attention"], ["mlp"] * 4, [None] * 4)[: 2 if backend == "jax" else 4]:
        assert _tokens(llm, PROMPTS, adapter=names) == [wanted[place, name] for place, name in enumerate(names)]
    assert _tokens(llm, PROMPTS, adapter="mlp") == [wanted[place, "mlp"] for place in range(4)]
    found = llm.forward([PROMPTS[0]] * 3, adapter=["all", None, "attention"]).numpy()["logits"]
    for row, name in enumerate(("all", None, "attention")):
        assert relative_error(found[row], alone[name].forward([PROMPTS[0]]).numpy()["logits"][0]) < 2e-5


def test_peft_mixes_them_to_the_same_logits(base: Path, adapters: dict[str, Path]) -> None:
    model: Any = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    for name in ("attention", "mlp"):
        if isinstance(model, peft.PeftModel):
            model.load_adapter(str(adapters[name]), adapter_name=name)
        else:
            model = peft.PeftModel.from_pretrained(model, str(adapters[name]), adapter_name=name)
    ids = torch.tensor([PROMPTS[0]] * 4)
    with torch.no_grad():
        theirs = model.eval()(ids, adapter_names=["mlp", "__base__", "attention", "mlp"]).logits
    ours = _load(base, "torch", adapters=adapters).forward(ids, adapter=["mlp", None, "attention", "mlp"]).logits
    assert relative_error(ours, theirs) < 2e-5


@pytest.mark.filterwarnings("ignore::polyllama.core.errors.PolyllamaWarning")
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_beside_packed_weights(backend: str, base: Path, adapters: dict[str, Path]) -> None:
    how: dict[str, Any] = {"quantize": "int8-g32", "backend": "reference", "dtype": "float32"}
    llm, ids = Llama.load(base, adapters=adapters, **{**how, "backend": backend}), [PROMPTS[0]]
    found = llm.forward(ids * 3, adapter=["mlp", None, "all"]).numpy()["logits"]
    for row, name in enumerate(("mlp", None, "all")):
        one = Llama.load(base, adapter=adapters[name] if name else None, **how)
        assert relative_error(found[row], one.forward(ids).numpy()["logits"][0]) < 2e-5


# Any mix, and any order of coming and going.

_MIX = st.lists(
    st.tuples(
        st.sets(
            st.sampled_from(["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "lm_head", "embed_tokens"]),
            min_size=1,
        ),
        st.integers(1, 9),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)
_JOBS = st.lists(
    st.tuples(
        st.integers(0, 4),  # which adapter, counted round
        st.lists(st.integers(1, 5), min_size=1, max_size=24),  # few ids, so that texts begin alike
        st.integers(1, 9),  # new tokens
        st.integers(0, 4),  # steps before the next comes
        st.sampled_from([None, 3]),  # guesses
    ),
    min_size=1,
    max_size=7,
)


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mix=_MIX, jobs=_JOBS, room=st.integers(40, 120))
def test_any_mix_of_adapters_in_any_company(
    mix: Any, jobs: Any, room: int, base: Path, numbers: Iterator[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows join and leave, share beginnings, guess, and are put off for want of memory."""
    folder, graph = tmp_path_factory.mktemp("mix"), Llama.load(base, backend="reference").graph
    paths = {}
    for place, (targets, rank, rslora) in enumerate(mix):
        paths[f"a{place}"] = save_adapter(
            folder / f"a{place}", graph, targets, rank=rank, seed=next(numbers), use_rslora=rslora, lora_alpha=2
        )
    llm = _load(base, adapters=paths)
    names = [None, *paths]
    scheduler = Scheduler(
        llm.model, cache_memory=room * bytes_per_token(llm.model), prefill_tokens=6, first_capacity=4, prefix_cache=True
    )
    submitted = []
    for number, prompt, count, steps, guesses in jobs:
        name = names[number % len(names)]
        options = {"max_new_tokens": count, "adapter": name, "prompt_lookup_num_tokens": guesses}
        submitted.append((name, prompt, count, scheduler.submit(prompt, **options)))
        for _ in range(steps):
            scheduler.step()
    one = {name: _load(base, adapter=paths[name] if name else None) for name in {name for name, *_ in submitted}}
    for name, prompt, count, job in submitted:
        assert job.result().token_ids == one[name].generate(prompt, max_new_tokens=count).token_ids


# What was run before.


def test_what_another_adapter_has_run_is_no_beginning(base: Path, adapters: dict[str, Path], wanted: Any) -> None:
    llm, long = _load(base, adapters=adapters), [*range(1, 60)]
    counts = []
    for name in ("mlp", "mlp", "attention", None, "attention", None):
        counts.append(llm.generate(long, max_new_tokens=2, adapter=name).stats.cached_tokens)
    assert counts == [0, 58, 0, 0, 58, 58]
    scheduler = llm.scheduler
    scheduler.forget()
    jobs = [scheduler.submit(long, max_new_tokens=4, adapter=name) for name in ("mlp", "all", "mlp")]
    alone = {name: _load(base, adapter=adapters[name]) for name in ("mlp", "all")}
    for name, job in zip(("mlp", "all", "mlp"), jobs, strict=True):
        assert job.result().token_ids == alone[name].generate(long, max_new_tokens=4).token_ids


# Every way to ask.


def test_every_call_takes_an_adapter(mixed: Llama, wanted: Any) -> None:
    prompt, tokens = PROMPTS[0], wanted[0, "all"]
    assert mixed.generate(prompt, max_new_tokens=12, adapter="all").token_ids == tokens
    assert mixed.generate(prompt, max_new_tokens=12, adapter="all", use_cache=False).token_ids == tokens
    assert asyncio.run(mixed.agenerate(prompt, max_new_tokens=12, adapter="all")).token_ids == tokens
    job = mixed.scheduler.submit(prompt, max_new_tokens=12, adapter="all")
    assert job.result().token_ids == tokens
    each = mixed.generate_each(PROMPTS, batch_size=2, max_new_tokens=12, adapter=EACH)
    assert [result.token_ids for result in each] == [wanted[place, name] for place, name in enumerate(EACH)]
    drawn = mixed.generate(
        PROMPTS[:2], max_new_tokens=3, adapter=["all", None], num_return_sequences=2, temperature=2.0
    )
    assert [len(results) for results in drawn] == [2, 2]


def test_arrays_of_prompts_take_a_list(mixed: Llama, alone: Any, wanted: Any) -> None:
    ids = np.array([PROMPTS[0]] * 3)
    found = mixed.generate(ids, max_new_tokens=12, adapter=["mlp", None, "all"])
    assert found[:, 7:].tolist() == [wanted[0, name] for name in ("mlp", None, "all")]
    how: dict[str, Any] = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
    output = mixed.generate(ids, adapter=["mlp", None, "all"], **how)
    for row, name in enumerate(("mlp", None, "all")):
        one = alone[name].generate(ids[:1], **how)
        for ours, theirs in zip(output.logits, one.logits, strict=True):
            assert relative_error(ours[row], theirs[0]) < 2e-5


def test_a_draft_guesses_for_rows_with_adapters(base: Path, adapters: dict[str, Path], wanted: Any) -> None:
    llm = _load(base, adapters=adapters, draft=str(base))
    found = llm.generate(PROMPTS, max_new_tokens=12, adapter=EACH)
    assert [result.token_ids for result in found] == [wanted[place, name] for place, name in enumerate(EACH)]
    assert found[1].stats.proposed_tokens > 0


def test_copies_have_the_adapters(mixed: Llama, wanted: Any) -> None:
    for other in (copy.deepcopy(mixed), pickle.loads(pickle.dumps(mixed))):
        assert other.adapters == tuple(TARGETS)
        assert _tokens(other, PROMPTS, adapter=EACH) == [wanted[place, name] for place, name in enumerate(EACH)]
    assert Graph.from_json(mixed.graph.to_json()) == mixed.graph


def test_on_jax_a_mix_is_data(base: Path, adapters: dict[str, Path]) -> None:
    """Other adapters for the same rows are traced no second time."""
    if "jax" not in ALL_BACKENDS:
        pytest.skip("no jax here")
    llm: Any = _load(base, "jax", adapters=adapters)
    llm.forward([PROMPTS[0]] * 2, adapter=["mlp", None])
    before = llm.model.traces
    for names in (["all", "mlp"], [None, "attention"], ["all", "all"]):
        llm.forward([PROMPTS[0]] * 2, adapter=names)
    assert llm.model.traces == before


def test_a_module_runs_without_and_trains_what_a_call_asks_for(
    base: Path, adapters: dict[str, Path], alone: Any
) -> None:
    llm = _load(base, "torch", adapters=adapters)
    module, ids = llm.module, torch.tensor([PROMPTS[0]] * 2)
    assert relative_error(module(ids).logits[0].detach(), alone[None].forward([PROMPTS[0]]).numpy()["logits"][0]) < 2e-5
    module.train()
    module(ids, adapter=["mlp", None], labels=ids).loss.backward()
    first = dict(module.named_parameters())["model.layers.0.mlp.down_proj_adapter.lora_B.weight"]
    assert first.grad is not None and first.shape[1] == 5
    module.zero_grad()
    module(ids, labels=ids).loss.backward()
    assert first.grad is None


# What is refused.


def test_wrong_adapters_of_a_call_are_refused(mixed: Llama, base: Path) -> None:
    cases: list[tuple[Any, str]] = [
        ("mpl", "no adapter 'mpl' is loaded; did you mean 'mlp'"),
        ("zebra", "there are attention, mlp, all"),
        (["mlp"], "names 1 adapter for 4 prompts"),
        (["mlp", 3, None, None], "wanted the name of a loaded adapter"),
        ("", "wanted the name of a loaded adapter"),
    ]
    for adapter, said in cases:
        with pytest.raises((InputError, GenerationError), match=said) as error:
            mixed.generate(PROMPTS, adapter=adapter)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no adapter 'mpl' is loaded; did you mean 'mlp'"):
        mixed.scheduler.submit([1, 2], adapter="mpl")
    with pytest.raises(InputError, match="names 1 adapter for 2 rows"):
        mixed.forward([[1], [2]], adapter=["mlp"])
    with pytest.raises(InputError, match="no adapter 'mlp' is loaded, and no other"):
        Llama.load(base, backend="reference").generate([1, 2], adapter="mlp")


def test_adapters_that_change_other_rows_are_refused(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "brings lm_head.weight whole"),
        ({"target_modules": ["q_proj"], "use_dora": True}, "DoRA is not done for some rows"),
        ({"target_modules": ["q_proj"], "lora_bias": True}, "lora_bias is not done for some rows"),
    ]
    for number, (how, said) in enumerate(cases):
        model = transformers.LlamaForCausalLM.from_pretrained(base)
        made = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, **how))
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1
        made.save_pretrained(tmp_path / str(number))
        with pytest.raises(UnsupportedError, match=said) as error:
            _load(base, adapters={"a": tmp_path / str(number)})
        assert "adapter=folder" in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_embedding_that_peft_stores_beside_its_adapter_is_the_models(base: Path, tmp_path: Path) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    made: Any = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=["embed_tokens"]))
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    made.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    with torch.no_grad():
        theirs = made.eval()(torch.tensor([PROMPTS[0]])).logits
    found = _load(base, adapters={"a": tmp_path / "a"}).forward([PROMPTS[0]] * 2, adapter=[None, "a"]).numpy()["logits"]
    assert relative_error(found[1], theirs[0]) < 2e-5 and relative_error(found[0], theirs[0]) > 0.01


def test_other_mistakes_at_load(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"adapters": {}}, "give names and folders"),
        ({"adapters": [adapters["mlp"]]}, "give names and folders"),
        ({"adapters": {"": adapters["mlp"]}}, "'' is no name"),
        ({"adapters": adapters, "adapter": adapters["mlp"]}, "do not go together"),
        ({"adapters": adapters, "merge_adapter": True}, "do not go together"),
        ({"adapters": {"a": tmp_path / "nowhere"}}, "no such folder"),
    ]
    for how, said in cases:
        with pytest.raises((InputError, CheckpointError), match=said) as error:
            _load(base, **how)
        assert "\n" not in str(error.value)


def test_saving_is_refused(mixed: Llama, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="adapters beside its weights") as error:
        mixed.save(tmp_path / "saved")
    assert "without adapters" in str(error.value)


def test_a_backend_that_cannot_is_refused_by_name(
    base: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from polyllama.core.forward.spec_model import SpecModel

    monkeypatch.setattr(SpecModel, "adapts_rows", False)
    with pytest.raises(UnsupportedError, match="backend 'reference' cannot give the rows of a batch different"):
        _load(base, adapters=adapters)


def test_a_configuration_of_generation_names_no_adapter(mixed: Llama, wanted: Any) -> None:
    """As other options of polyllama's own: it is said that it does nothing there."""
    with pytest.warns(PolyllamaWarning, match='not honoured.*adapter="mlp"'):
        found = mixed.generate(PROMPTS[0], generation_config={"adapter": "mlp", "max_new_tokens": 12})
    assert found.token_ids == wanted[0, None]
