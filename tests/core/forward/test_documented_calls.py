"""Calls of forward as the reference documentation writes them, against transformers: positions, flags, array kinds."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polyllama import (
    Llama,
    LlamaConfig,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    PolyllamaWarning,
)
from polyllama.core.array_kinds import KINDS, as_numpy, kind_of, to_kind
from polyllama.core.errors import InputError, UnknownArgumentError, UnsupportedError
from polyllama.core.forward.call import WORDS
from polyllama.core.generation.options import option_names
from tiny_models import ALL_BACKENDS, relative_error

IDS = np.random.default_rng(5).integers(0, 97, (2, 9))
MASK = np.array([[1] * 9, [0, 0, 0] + [1] * 6])
LABELS = np.where(MASK == 1, IDS, -100)
LABELS[1, 3] = -100  # would be predicted from padding, of which each library gives what it likes
TOLERANCE = 1e-5

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}


def runnable(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Those kinds of array whose framework is here."""
    return tuple(kind for kind in kinds if kind in ("torch", "numpy") or kind in ALL_BACKENDS)


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def pair(request: pytest.FixtureRequest, tiny_models: Any) -> tuple[Any, Llama]:
    """A model of transformers', and ours."""
    model, folder = tiny_models()
    backend = str(request.param)
    return model, Llama.load(folder, backend=backend, dtype="auto" if backend == "reference" else "float32")


def theirs(model: Any, *given: Any, **named: Any) -> Any:
    with torch.no_grad():
        return model(*given, **named)


def arrays_of(output: Mapping[str, Any]) -> list[Any]:
    """Every array of an output's fields, that of a cache left out."""
    fields = [value for name, value in output.items() if name != "past_key_values"]
    return [item for value in fields for item in (value if isinstance(value, tuple) else (value,))]


class TestWhatComesInDecidesWhatGoesOut:
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        kind=st.sampled_from(runnable(KINDS)),
        masked=st.booleans(),
        labelled=st.booleans(),
        flags=st.fixed_dictionaries({n: st.sampled_from([None, False, True]) for n in (
            "use_cache", "output_hidden_states", "output_attentions")}),
        keep=st.sampled_from([0, 1, 3]),
    )  # fmt: skip
    def test_of_every_kind_on_every_backend(
        self, pair: tuple[Any, Llama], kind: str, masked: bool, labelled: bool, flags: dict[str, Any], keep: int
    ) -> None:
        model, llm = pair
        positions = np.maximum(MASK.cumsum(1) - 1, 0)
        # transformers counts padding as positions by itself, and so is told which they are.
        extra = {"attention_mask": MASK, "position_ids": positions} if masked else {}
        extra |= {"labels": LABELS} if labelled and not keep else {}
        wanted = theirs(
            model, torch.tensor(IDS), **{n: torch.tensor(v) for n, v in extra.items()}, **flags, logits_to_keep=keep
        )
        given = {name: to_kind(array, kind) for name, array in {"input_ids": IDS, **extra}.items()}
        found = llm(**given, **flags, logits_to_keep=keep)
        assert list(found) == list(wanted)
        assert {kind_of(array) for array in arrays_of(found)} == {kind}
        attended = MASK[:, -keep:] == 1 if masked else np.ones_like(MASK[:, -keep:], bool)
        assert relative_error(as_numpy(found.logits)[attended], wanted.logits.numpy()[attended]) < TOLERANCE
        for name in ("hidden_states", "attentions"):
            assert len(found.get(name, ())) == len(wanted.get(name, ()))
        if "loss" in found:
            assert abs(float(found.loss) - float(wanted.loss)) < TOLERANCE * float(wanted.loss)
        assert found.numpy()["logits"].dtype == np.float32

    def test_lists_give_the_backends_own(self, pair: tuple[Any, Llama]) -> None:
        _, llm = pair
        own = {"torch": "torch", "mlx": "mlx", "jax": "jax"}.get(llm.backend, "numpy")
        assert kind_of(llm(IDS.tolist(), labels=IDS.tolist()).logits) == own
        assert kind_of(llm(IDS.tolist(), labels=torch.tensor(IDS)).logits) == "torch"

    def test_embeddings_of_any_kind_in_half_precision(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        embeds = model.get_input_embeddings()(torch.tensor(IDS)).detach().bfloat16()
        wanted = theirs(model, inputs_embeds=embeds.float()).logits
        for kind in runnable(("torch", "jax", "mlx")):
            found = llm(inputs_embeds=to_kind(embeds, kind))
            assert kind_of(found.logits) == kind
            assert relative_error(as_numpy(found.logits), wanted) < TOLERANCE

    def test_arrays_of_two_frameworks(self, pair: tuple[Any, Llama]) -> None:
        with pytest.raises(InputError, match="arrays of torch and of numpy are given together"):
            pair[1](torch.tensor(IDS), attention_mask=MASK)

    def test_numbers_of_numpy_are_numbers(self, pair: tuple[Any, Llama]) -> None:
        ids = torch.tensor(IDS)
        found = pair[1](ids, labels=ids, num_items_in_batch=np.int64(16))
        assert float(found.loss) == pytest.approx(float(pair[1](ids, labels=ids).loss), rel=1e-6)

    def test_an_input_that_records_gradients(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        embeds = model.get_input_embeddings()(torch.tensor(IDS))
        assert embeds.requires_grad
        if llm.backend == "torch":
            slope = torch.autograd.grad(llm(inputs_embeds=embeds).logits.square().sum(), embeds)[0]
            wanted = torch.autograd.grad(model(inputs_embeds=embeds).logits.square().sum(), embeds)[0]
            assert relative_error(slope, wanted) < 1e-4
            return
        with pytest.raises(InputError, match="inputs_embeds records gradients"):
            llm(inputs_embeds=embeds)


def test_while_training_the_backends_own_come_out(tiny_models: Any) -> None:
    llm = Llama.load(tiny_models()[1], backend="torch:cpu").train()
    found = llm(IDS, labels=IDS)
    assert "past_key_values" not in found
    found.loss.backward()
    assert llm.module.lm_head.weight.grad is not None
    assert isinstance(llm.eval()(IDS, labels=IDS).logits, np.ndarray)


class TestByPosition:
    def test_of_a_language_model(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        ids, mask = torch.tensor(IDS), torch.tensor(MASK)
        positions = torch.clamp(mask.cumsum(1) - 1, min=0)
        labels = torch.tensor(LABELS)
        wanted = theirs(model, ids, mask, positions, None, None, labels, False)
        found = llm(ids, mask, positions, None, None, labels, False)
        assert list(found) == list(wanted) == ["loss", "logits"]
        assert abs(float(found.loss) - float(wanted.loss)) < TOLERANCE * float(wanted.loss)
        full = llm(ids, None, None, None, None, None, True, True, True, False, torch.arange(9))
        assert isinstance(full, tuple) and len(full) == 4
        logits, cache, states, weights = full
        assert cache.length == 9 and len(states) == 4 and weights[0].shape == (2, 6, 9, 9)
        assert relative_error(logits, theirs(model, ids).logits) < TOLERANCE

    def test_of_heads_with_other_labels_or_none(self) -> None:
        ids, config = torch.tensor(IDS), LlamaConfig(**SMALL)
        reader = LlamaForQuestionAnswering(config, backend="reference")
        spans = torch.tensor([1, 2]), torch.tensor([3, 4])
        found = reader(ids, None, None, None, None, *spans, None, True)
        assert list(found) == ["loss", "start_logits", "end_logits", "attentions"]
        trunk = LlamaModel(config, backend="reference")
        assert list(trunk(ids, None, None, None, None, False, False, True)) == ["last_hidden_state", "hidden_states"]
        assert len(trunk(ids, None, None, None, None, False, False, True, False)) == 2

    def test_what_does_not_fit(self, pair: tuple[Any, Llama]) -> None:
        ids = torch.tensor(IDS)
        with pytest.raises(InputError, match="forward is given 'labels' twice"):
            pair[1](ids, None, None, None, None, ids, labels=ids)
        with pytest.raises(
            InputError, match="forward takes 11 arguments by position, 13 are given; after inputs_embeds"
        ):
            pair[1](ids, *[None] * 12)
        with pytest.raises(InputError, match="output_attentions is 1, wanted True, False or None"):
            pair[1](ids, None, None, None, None, None, True, 1)  # logits_to_keep, where transformers 5 has it
        with pytest.raises(InputError, match="past_key_values is a Tensor"):
            pair[1](ids, None, None, ids)


class TestFlagsOfTheConfiguration:
    @pytest.mark.parametrize("backend", ["reference", "torch"])
    def test_none_reads_them(self, backend: str) -> None:
        config = LlamaConfig(**SMALL, output_hidden_states=True, output_attentions=True, return_dict=False)
        llm, ids = Llama.load(config, load_format="dummy", backend=backend), torch.tensor(IDS)
        for call in (llm, *([llm.module] if backend == "torch" else [])):
            found = call(ids, return_dict=None, use_cache=None, output_attentions=None, output_hidden_states=None)
            assert isinstance(found, tuple) and [type(field).__name__ for field in found[2:]] == ["tuple", "tuple"]
            plain = call(ids, return_dict=True, use_cache=False, output_attentions=False, output_hidden_states=False)
            assert list(plain) == ["logits"]

    @pytest.mark.filterwarnings("ignore:generated texts stay empty")
    def test_what_reads_an_output_itself_does_not_mind(self) -> None:
        config = LlamaConfig(**SMALL, output_hidden_states=True, output_attentions=True, return_dict=False)
        scorer = Llama.load(config, load_format="dummy", backend="reference")
        assert len(scorer.generate([[1, 2]], max_new_tokens=3, eos_token_id=[])[0].token_ids) == 3
        torch_model = Llama.load(config, load_format="dummy", backend="torch:cpu")
        assert len(torch_model.generate([[1, 2]], max_new_tokens=3, eos_token_id=[])[0].token_ids) == 3

    def test_a_cache_where_transformers_outputs_have_one(self) -> None:
        import transformers

        ids = torch.tensor(IDS)
        made = {"config": LlamaConfig(**SMALL), "backend": "reference"}
        for ours, other in (
            (Llama.load(made["config"], load_format="dummy", backend="reference"), "LlamaForCausalLM"),
            (LlamaModel(**_first(made)), "LlamaModel"),
            (LlamaForSequenceClassification(**_first(made)), "LlamaForSequenceClassification"),
            (LlamaForTokenClassification(**_first(made)), "LlamaForTokenClassification"),
            (LlamaForQuestionAnswering(**_first(made)), "LlamaForQuestionAnswering"),
        ):
            model = getattr(transformers, other)(transformers.LlamaConfig(**SMALL)).eval()
            assert list(ours(ids)) == list(theirs(model, ids)), other
        without = Llama.load(LlamaConfig(**SMALL, use_cache=False), load_format="dummy", backend="reference")
        assert "past_key_values" not in without(ids) and "past_key_values" in without(ids, use_cache=True)


def _first(made: dict[str, Any]) -> dict[str, Any]:
    return {"loaded": made["config"], "backend": made["backend"]}


class TestKeywordsOfOtherLibraries:
    @pytest.fixture
    def llm(self, tiny_models: Any) -> Llama:
        return Llama.load(tiny_models()[1], backend="torch:cpu")

    @pytest.mark.parametrize("name", sorted(WORDS))
    def test_those_that_are_known(self, llm: Llama, name: str) -> None:
        ids = torch.tensor(IDS)
        plain = llm(ids).logits
        for call in (llm, llm.module):
            for harmless in WORDS[name].harmless:
                assert relative_error(call(ids, **{name: harmless}).logits.detach(), plain) < 1e-6
            given: dict[str, Any] = {name: False if name == "is_causal" else torch.tensor([1, 2])}
            if WORDS[name].refused:
                with pytest.raises(UnsupportedError, match=f"forward does not take {name}="):
                    call(ids, **given)
                continue
            with pytest.warns(PolyllamaWarning, match=f"^{name} is left out: "):
                assert relative_error(call(ids, **given).logits.detach(), plain) < 1e-6

    def test_one_that_nobody_knows(self, llm: Llama) -> None:
        for call in (llm, llm.module):
            with pytest.warns(PolyllamaWarning, match="forward has no argument zebra: it is left out"):
                call(torch.tensor(IDS), zebra=1)

    def test_misspelt_and_misplaced_ones_are_errors(self, llm: Llama) -> None:
        for call in (llm, llm.module):
            for name, said in (("attn_mask", "'attention_mask'"), ("cache_positon", "'cache_position'")):
                with pytest.raises(UnknownArgumentError, match=f"did you mean {said}"):
                    call(torch.tensor(IDS), **{name: None})
            for name in ("do_sample", "max_new_tokens", "temperature"):
                assert name in option_names()
                with pytest.raises(UnknownArgumentError, match="generate has options of its own"):
                    call(torch.tensor(IDS), **{name: 1})

    def test_the_old_name_of_logits_to_keep(self, llm: Llama) -> None:
        ids = torch.tensor(IDS)
        for call in (llm, llm.module):
            assert torch.equal(call(ids, num_logits_to_keep=2).logits, call(ids, logits_to_keep=2).logits)
            with pytest.raises(InputError, match="given 'logits_to_keep' twice"):
                call(ids, num_logits_to_keep=2, logits_to_keep=2)


class TestInputsThatAreNone:
    WRONG: Mapping[str, tuple[Any, str]] = {
        "bools": (torch.ones(1, 3, dtype=torch.bool), "input_ids holds bool, wanted integers"),
        "floats": (torch.ones(1, 3), "input_ids holds float32, wanted integers"),
        "no rows": (torch.zeros(0, 3, dtype=torch.long), "input_ids is empty"),
        "no tokens": (torch.zeros(2, 0, dtype=torch.long), "input_ids is empty"),
        "ragged": ([[1, 2], [3]], "input_ids is not a rectangular array"),
        "bools in lists": ([[True, False]], "input_ids holds bool, wanted integers"),
        "NumPy's bools": (np.ones((1, 3), bool), "input_ids holds bool, wanted integers"),
    }

    @pytest.mark.parametrize("what", WRONG)
    def test_one_line(self, pair: tuple[Any, Llama], what: str) -> None:
        ids, said = self.WRONG[what]
        for call in (pair[1], *([pair[1].module] if pair[1].backend == "torch" else [])):
            with pytest.raises(InputError, match=said) as caught:
                call(ids)
            assert "\n" not in str(caught.value)

    def test_cache_positions(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        ids = torch.tensor(IDS)
        first = llm(ids[:, :6], cache_position=torch.arange(6))
        second = llm(ids[:, 6:], past_key_values=first.past_key_values, cache_position=torch.arange(6, 9))
        assert relative_error(second.logits, theirs(model, ids).logits[:, 6:]) < TOLERANCE
        for wrong, said in (([3, 4, 5], "starts at 3, the cache holds 9 tokens"), ([9, 10, 12], "is not 9 to 11")):
            with pytest.raises(InputError, match=said):
                llm(ids[:, 6:], past_key_values=first.past_key_values, cache_position=torch.tensor(wrong))
            with pytest.raises(InputError, match=said):
                llm(ids[:, 6:].tolist(), past_key_values=first.past_key_values, cache_position=wrong)


class TestTheModuleByItself:
    @pytest.fixture
    def module(self, tiny_models: Any) -> Any:
        return Llama.load(tiny_models()[1], backend="torch:cpu").module

    def test_lists_and_arrays(self, module: Any) -> None:
        wanted = module(torch.tensor(IDS), labels=torch.tensor(IDS))
        listed = module(IDS.tolist(), labels=IDS.tolist())
        assert torch.equal(listed.logits, wanted.logits) and listed.loss.requires_grad
        found = module(IDS, attention_mask=np.ones_like(IDS), labels=IDS, output_hidden_states=True)
        assert {kind_of(array) for array in arrays_of(found)} == {"numpy"}
        assert np.array_equal(found.logits, wanted.logits.detach().numpy())

    def test_in_training_it_stays_differentiable(self, module: Any) -> None:
        module = copy.deepcopy(module).train()
        module(IDS, labels=IDS).loss.backward()
        assert module.lm_head.weight.grad is not None


class TestOutputs:
    @pytest.fixture
    def output(self, tiny_models: Any) -> Any:
        llm = Llama.load(tiny_models()[1], backend="torch:cpu")
        return llm(torch.tensor(IDS), labels=torch.tensor(IDS), output_hidden_states=True)

    def test_as_a_mapping(self, output: Any) -> None:
        names = ["loss", "logits", "past_key_values", "hidden_states"]
        assert isinstance(output, dict) and list(output) == list(output.keys()) == list(dict(output)) == names
        assert output[0] is output["loss"] is output.loss and output[1:3] == (output.logits, output.past_key_values)
        assert dict(**output)["logits"] is output.logits is output.get("logits") and len(output) == 4
        assert output.to_tuple() == tuple(output.values()) == tuple(value for _, value in output.items())
        assert output.get("attentions", 3) == 3 and "attentions" not in output
        with pytest.raises(KeyError, match="has no 'attentions'; it has loss, logits"):
            output["attentions"]

    def test_fields_that_are_set_afterwards(self, output: Any) -> None:
        loss, output.loss = output.loss, None
        assert list(output) == ["logits", "past_key_values", "hidden_states"] and output[0] is output.logits
        output["loss"] = loss
        assert list(output)[:2] == ["loss", "logits"] and output.loss is loss
        output["extra"] = 1
        assert output.extra == 1 and list(output)[-1] == "extra"
        for change in (output.clear, lambda: output.pop("logits"), lambda: output.update(loss=None)):
            with pytest.raises(UnsupportedError, match="the fields of CausalLMOutput stay"):
                change()
        assert output["logits"] is output.logits

    def test_rebuilt_by_its_class(self, output: Any) -> None:
        from accelerate.utils.operations import convert_to_fp32, recursively_apply, send_to_device

        output["logits"] = output.logits.bfloat16()
        for again in (convert_to_fp32(output), send_to_device(output, "cpu"), recursively_apply(torch.clone, output)):
            assert type(again) is type(output) and list(again) == list(output)
            assert again.past_key_values is output.past_key_values
        assert convert_to_fp32(output).logits.dtype == torch.float32
        made = type(output)((name, value) for name, value in output.items())  # as torch's gather makes one
        assert list(made) == list(output) and made.loss is output.loss

    def test_copied_and_pickled(self, output: Any) -> None:
        for again in (copy.copy(output), copy.deepcopy(output), pickle.loads(pickle.dumps(output))):
            assert list(again) == list(output) and torch.equal(again.logits, output.logits)
            assert np.array_equal(again.numpy()["logits"], output.numpy()["logits"])

    def test_as_a_pytree(self, output: Any) -> None:
        from torch.utils import _pytree

        leaves, spec = _pytree.tree_flatten(output)
        assert any(leaf is output.logits for leaf in leaves) and len(leaves) >= 7
        again = _pytree.tree_unflatten(leaves, spec)
        assert type(again) is type(output) and again.logits is output.logits

    def test_what_transformers_trainer_does(self, output: Any) -> None:
        from transformers.trainer_pt_utils import nested_detach

        loss = output["loss"] if isinstance(output, dict) else output[0]
        logits = tuple(value for name, value in output.items() if name not in ("loss", "past_key_values"))
        assert loss is output.loss and torch.equal(nested_detach(logits)[0], output.logits)
        assert output[1:][0] is output.logits


def test_no_warning_without_a_reason(tiny_models: Any) -> None:
    llm = Llama.load(tiny_models()[1], backend="reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llm(torch.tensor(IDS), None, None, use_cache=None, is_causal=True, output_router_logits=False)


def test_jax_compiles_a_batch_once_for_all_flags_that_are_none(tiny_models: Any, tmp_path: Path) -> None:
    if "jax" not in ALL_BACKENDS:
        pytest.skip("jax cannot run here")
    llm = Llama.load(tiny_models()[1], backend="jax")
    for _ in range(3):
        llm(torch.tensor(IDS))
    assert llm.model.traces == 1  # type: ignore[attr-defined]
