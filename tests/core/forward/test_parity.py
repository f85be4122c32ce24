"""Logits, hidden states, attentions, losses and greedy text against transformers; cached, chunked and padded runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaModel
from tiny_models import BACKENDS, ROPE_TYPES, relative_error

SHAPES: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha-biases": {"num_key_value_heads": 6, "attention_bias": True, "mlp_bias": True},
    "mqa-tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "own-head-dim": {"hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
}
TOLERANCE = 1e-5

CASES = [(rope, "gqa") for rope in ROPE_TYPES] + [("default", shape) for shape in SHAPES if shape != "gqa"]
CASES += [("longrope", "mha-biases"), ("dynamic", "mqa-tied"), ("llama3", "own-head-dim")]

rng = np.random.default_rng(0)
IDS = rng.integers(0, 97, (2, 30))


def oracle(model: Any, ids: Any, **arguments: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids), **arguments)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rope", "shape"), CASES)
class TestAgainstTransformers:
    @pytest.fixture
    def pair(self, backend: str, rope: str, shape: str, tiny_models: Any) -> tuple[Any, Llama]:
        model, folder = tiny_models(rope, **SHAPES[shape])
        return model, Llama.load(folder, backend=backend)

    def test_everything_a_forward_pass_gives(self, pair: tuple[Any, Llama]) -> None:
        import torch

        model, llm = pair
        labels = IDS.copy()
        labels[0, 5:9] = -100
        wanted = oracle(model, IDS, output_hidden_states=True, output_attentions=True, labels=torch.tensor(labels))
        found = llm.forward(IDS, output_hidden_states=True, output_attentions=True, labels=labels).numpy()
        assert relative_error(found["logits"], wanted.logits) < TOLERANCE
        assert len(found["hidden_states"]) == len(wanted.hidden_states) == 4
        for ours, theirs in zip(found["hidden_states"], wanted.hidden_states, strict=True):
            assert relative_error(ours, theirs) < TOLERANCE
        for ours, theirs in zip(found["attentions"], wanted.attentions, strict=True):
            assert relative_error(ours, theirs) < 2 * TOLERANCE
        assert abs(float(found["loss"]) - float(wanted.loss)) < 1e-5 * float(wanted.loss)

    def test_fused_attention_gives_the_same(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        assert relative_error(llm.forward(IDS).numpy()["logits"], oracle(model, IDS).logits) < TOLERANCE

    @pytest.mark.filterwarnings("ignore:generated texts stay empty")
    def test_greedy_text(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        length = 5 if model.config.rope_parameters["rope_type"] in ("dynamic", "longrope") else 40
        # Beyond their length limit transformers keeps keys rotated by old frequencies, so there it is no oracle.
        ids = [[1, 5, 9, 33]]
        import torch

        wanted = model.generate(
            torch.tensor(ids), max_new_tokens=length, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, 4:].tolist()
        assert llm.generate(ids, max_new_tokens=length, eos_token_id=[])[0].token_ids == wanted

    def test_cached_and_chunked_equal_whole(self, pair: tuple[Any, Llama]) -> None:
        _, llm = pair
        cache = None
        for start, stop in [(0, 7), (7, 12), (12, 13), (13, 17), (17, 18), (18, 19), (19, 20), (20, 21), (21, 30)]:
            step = llm.forward(IDS[:, start:stop], past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            whole = llm.forward(IDS[:, :stop]).numpy()["logits"]
            # Earlier positions of a chunk may know of fewer tokens than the whole run; the last knows all.
            assert relative_error(step.numpy()["logits"][:, -1], whole[:, -1]) < TOLERANCE
        assert cache.length == 30

    @pytest.mark.parametrize("side", ["left", "right", "both"])
    def test_padded_rows_equal_solo(self, pair: tuple[Any, Llama], side: str) -> None:
        _, llm = pair
        solo, length = llm.forward(IDS[1:, :13]).numpy()["logits"], 13
        start = {"left": 17, "right": 0, "both": 9}[side]
        ids, mask = IDS.copy(), np.ones((2, 30), int)
        mask[1] = 0
        mask[1, start : start + length] = 1
        ids[1, start : start + length] = IDS[1, :13]
        found = llm.forward(ids, attention_mask=mask).numpy()["logits"]
        assert relative_error(found[1, start : start + length], solo[0]) < TOLERANCE
        assert relative_error(found[0], llm.forward(IDS[:1]).numpy()["logits"][0]) < TOLERANCE

    def test_padded_rows_then_cached(self, pair: tuple[Any, Llama]) -> None:
        _, llm = pair
        ids, mask = IDS.copy(), np.ones((2, 30), int)
        ids[1, 11:24], mask[1, :11] = IDS[1, :13], 0
        first = llm.forward(ids[:, :24], attention_mask=mask[:, :24], use_cache=True)
        cache = first.past_key_values
        second = llm.forward(ids[:, 24:27], attention_mask=mask[:, :27], past_key_values=cache)
        third = llm.forward(ids[:, 27:], past_key_values=cache)  # the cache remembers which slots are padding
        assert second.past_key_values is cache
        row = np.concatenate([IDS[1:, :13], ids[1:, 24:]], axis=1)
        solo = llm.forward(row).numpy()["logits"]
        assert relative_error(third.numpy()["logits"][1, -1], solo[0, -1]) < TOLERANCE
        assert relative_error(third.numpy()["logits"][0, -1], llm.forward(ids[:1]).numpy()["logits"][0, -1]) < TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
class TestForward:
    @pytest.fixture
    def llm(self, backend: str, tiny_models: Any) -> Llama:
        return Llama.load(tiny_models()[1], backend=backend)

    def test_embeddings_instead_of_ids(self, llm: Llama) -> None:
        table = llm.forward([[i] for i in range(97)], output_hidden_states=True).numpy()["hidden_states"][0][:, 0]
        embedded = llm.forward(inputs_embeds=table[IDS]).numpy()["logits"]
        assert relative_error(embedded, llm.forward(IDS).numpy()["logits"]) < TOLERANCE

    def test_logits_to_keep(self, llm: Llama) -> None:
        whole = llm.forward(IDS).numpy()["logits"]
        assert relative_error(llm.forward(IDS, logits_to_keep=3).numpy()["logits"], whole[:, -3:]) < 1e-6
        kept = llm.forward(IDS, logits_to_keep=np.array([0, 7])).numpy()["logits"]
        assert relative_error(kept, whole[:, [0, 7]]) < 1e-6

    def test_position_ids_are_used(self, llm: Llama) -> None:
        plain = llm.forward(IDS).numpy()["logits"]
        shifted = llm.forward(IDS, position_ids=np.arange(30)[None] + 5).numpy()["logits"]
        assert relative_error(shifted, plain) < 1e-4  # RoPE is relative
        spread = llm.forward(IDS, position_ids=2 * np.arange(30)[None]).numpy()["logits"]
        assert relative_error(spread, plain) > 1e-2

    def test_packed_sequences_by_a_four_dimensional_mask(self, llm: Llama) -> None:
        first, second = IDS[:1, :4], IDS[:1, 4:9]
        mask = np.zeros((1, 1, 9, 9), bool)
        mask[..., :4, :4] = np.tril(np.ones((4, 4)))
        mask[..., 4:, 4:] = np.tril(np.ones((5, 5)))
        positions = [[0, 1, 2, 3, 0, 1, 2, 3, 4]]
        packed = llm.forward(IDS[:1, :9], attention_mask=mask, position_ids=positions).numpy()["logits"]
        assert relative_error(packed[:, :4], llm.forward(first).numpy()["logits"]) < TOLERANCE
        assert relative_error(packed[:, 4:], llm.forward(second).numpy()["logits"]) < TOLERANCE

    def test_packed_sequences_by_positions_that_start_again(self, llm: Llama) -> None:
        packed = llm.forward(IDS[:1, :9], position_ids=[[0, 1, 2, 3, 0, 1, 2, 3, 4]]).numpy()["logits"]
        assert relative_error(packed[:, 4:], llm.forward(IDS[:1, 4:9]).numpy()["logits"]) < TOLERANCE

    def test_chunks_of_padding_alone(self, llm: Llama) -> None:
        ids, mask = IDS[:, :18].copy(), np.ones((2, 18), int)
        ids[1, 7:], mask[1, :7] = IDS[1, :11], 0
        cache = llm.forward(ids[:, :5], attention_mask=mask[:, :5], use_cache=True).past_key_values
        rest = llm.forward(ids[:, 5:], attention_mask=mask, past_key_values=cache).numpy()["logits"]
        assert relative_error(rest[1, 2:], llm.forward(IDS[1:, :11]).numpy()["logits"][0]) < TOLERANCE
        assert relative_error(rest[0], llm.forward(ids[:1]).numpy()["logits"][0, 5:]) < TOLERANCE

    def test_a_failed_pass_leaves_the_cache_as_it_was(self, llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
        from polyllama.core.graph.node import Context

        cache = llm.forward(IDS[:, :10], use_cache=True).past_key_values

        def broken(self: Any, x: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(Context, "keep_attention", broken)
        with pytest.raises(KeyboardInterrupt):
            llm.forward(IDS[:, 10:11], past_key_values=cache, output_attentions=True)
        monkeypatch.undo()
        step = llm.forward(IDS[:, 10:11], past_key_values=cache).numpy()["logits"]
        assert relative_error(step, llm.forward(IDS[:, :11]).numpy()["logits"][:, -1:]) < TOLERANCE

    def test_a_cache_of_another_model_is_refused(self, llm: Llama, backend: str, tiny_models: Any) -> None:
        from polyllama.core.errors import InputError

        other = Llama.load(tiny_models("linear")[1], backend=backend)
        cache = other.forward(IDS[:, :5], use_cache=True).past_key_values
        with pytest.raises(InputError, match="another model"):
            llm.forward(IDS[:, 5:], past_key_values=cache)

    def test_cache_rows_can_be_taken_and_go_on_alone(self, llm: Llama) -> None:
        cache = llm.forward(IDS[:, :10], use_cache=True).past_key_values
        picked = cache.select_rows([1, 0, 1])
        step = llm.forward(IDS[[1, 0, 1], 10:11], past_key_values=picked).numpy()["logits"]
        whole = llm.forward(IDS[:, :11]).numpy()["logits"][:, -1:]
        assert relative_error(step, whole[[1, 0, 1]]) < TOLERANCE
        assert cache.length == 10

    def test_output_by_attribute_key_and_tuple(self, llm: Llama) -> None:
        y = llm.forward(IDS, labels=IDS)
        assert y.logits is y["logits"] and y.to_tuple()[0] is y.loss and y[1] is y.logits
        assert y.past_key_values.length == 30  # as the configuration says
        y = llm.forward(IDS, labels=IDS, use_cache=False)
        assert y.past_key_values is None and "past_key_values" not in y
        plain = llm.forward(IDS, labels=IDS, use_cache=False, return_dict=False)
        assert isinstance(plain, tuple) and len(plain) == 2

    def test_the_bare_trunk(self, llm: Llama, backend: str, tiny_models: Any) -> None:
        from polyllama import PolyllamaWarning

        with pytest.warns(PolyllamaWarning, match=r"lm_head\.weight"):
            trunk = LlamaModel.from_pretrained(tiny_models()[1], backend=backend)
        hidden = trunk.forward(IDS).numpy()["last_hidden_state"]
        wanted = oracle(tiny_models()[0].model, IDS).last_hidden_state
        assert relative_error(hidden, wanted) < TOLERANCE

    def test_num_items_in_batch_divides_the_sum(self, llm: Llama) -> None:
        mean = float(llm.forward(IDS, labels=IDS).numpy()["loss"])
        summed = float(llm.forward(IDS, labels=IDS, num_items_in_batch=1).numpy()["loss"])
        assert summed == pytest.approx(mean * 2 * 29, rel=1e-6)


BAD_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "an id out of range": ({"input_ids": [[1, 97]]}, r"input_ids\[0, 1\] is 97, outside the vocabulary of 97"),
    "a negative id": ({"input_ids": [[-1, 2]]}, r"input_ids\[0, 0\] is -1"),
    "one row without its brackets": ({"input_ids": [1, 2]}, r"write \[\[1, 2, 3\]\]"),
    "ragged rows": ({"input_ids": [[1, 2], [3]]}, "pad the rows"),
    "no tokens": ({"input_ids": [[]]}, "input_ids is empty"),
    "floats": ({"input_ids": [[1.5, 2.0]]}, "wanted integers"),
    "text": ({"input_ids": "Once"}, "wanted integers"),
    "nothing": ({}, "exactly one of input_ids and inputs_embeds"),
    "both": ({"input_ids": [[1]], "inputs_embeds": np.zeros((1, 1, 48))}, "both given"),
    "embeddings of another size": ({"inputs_embeds": np.zeros((1, 2, 47))}, r"wanted \[batch, sequence, 48\]"),
    "a mask of another shape": ({"input_ids": [[1, 2]], "attention_mask": [[1, 1, 1]]}, r"wanted \[1, 2\]"),
    "a mask of other numbers": ({"input_ids": [[1, 2]], "attention_mask": [[2, 1]]}, "other than 0 and 1"),
    "a row that attends to nothing": ({"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}, "attends to nothing"),
    "labels out of range": ({"input_ids": [[1, 2]], "labels": [[1, 99]]}, "labels hold 99"),
    "labels of another shape": ({"input_ids": [[1, 2]], "labels": [[1]]}, r"labels have shape \[1, 1\]"),
    "a negative count of logits": ({"input_ids": [[1, 2]], "logits_to_keep": -1}, "logits_to_keep is -1"),
    "positions of another shape": ({"input_ids": [[1, 2]], "position_ids": [[0]]}, r"wanted \[1, 2\]"),
    "negative positions": ({"input_ids": [[1, 2]], "position_ids": [[-1, 0]]}, "positions start at 0"),
    "a foreign cache": ({"input_ids": [[1, 2]], "past_key_values": 5}, "past_key_values is a int"),
    "a four-dimensional mask of another shape": (
        {"input_ids": [[1, 2]], "attention_mask": np.ones((1, 1, 2, 3), bool)},
        r"wanted \[1, 1, 2, 2\]",
    ),
    "a mask of fractions": ({"input_ids": [[1, 2]], "attention_mask": np.array([[0.5, 1.0]])}, "holds floats"),
    "ragged embeddings": ({"inputs_embeds": [[[1.0], [2.0, 3.0]]]}, "not an array of numbers"),
    "embeddings of text": ({"inputs_embeds": [["a", "b"]]}, "wanted floats"),
    "a count of logits that is no count": ({"input_ids": [[1, 2]], "logits_to_keep": True}, "logits_to_keep is True"),
    "no items in the batch": ({"input_ids": [[1]], "labels": [[1]], "num_items_in_batch": 0}, "positive number"),
    "an unknown argument": ({"input_ids": [[1, 2]], "attention_masks": [[1, 1]]}, "no argument 'attention_masks'"),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs_are_one_line_errors(backend: str, case: str, tiny_models: Any) -> None:
    from polyllama.core.errors import InputError

    arguments, message = BAD_INPUTS[case]
    llm = Llama.load(tiny_models()[1], backend=backend)
    with pytest.raises(InputError, match=message) as raised:
        llm.forward(**arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cache_of_another_batch_is_refused(backend: str, tiny_models: Any) -> None:
    from polyllama.core.errors import InputError

    llm = Llama.load(tiny_models()[1], backend=backend)
    cache = llm.forward(IDS, use_cache=True).past_key_values
    with pytest.raises(InputError, match="holds 2 rows, the inputs have 1"):
        llm.forward(IDS[:1], past_key_values=cache)
