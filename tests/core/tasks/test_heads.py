"""Task heads on every backend: logits and losses against transformers, and where it is deliberately not followed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from head_models import IDS, SEQUENCE, SPAN, TOKEN, TOLERANCE, Heads, agree, fresh, oracle
from polyllama import Llama, LlamaConfig
from polyllama.extend import InputError, UnsupportedError
from tiny_models import ALL_BACKENDS, SIZES, forward, relative_error

EVERY = pytest.mark.parametrize("backend", ALL_BACKENDS)


@functools.cache
def loaded(folder: Path, backend: str) -> Llama:
    """A saved model, loaded once per backend: JAX compiles for each anew."""
    return Llama.load(folder, backend=backend)


@functools.cache
def shared(task: str, backend: str, num_labels: int = 2) -> Llama:
    """A :func:`fresh` one for tests that leave it as it is."""
    return fresh(task, backend, num_labels=num_labels)


rng = np.random.default_rng(5)
PROBLEMS: dict[str, tuple[dict[str, Any], Any]] = {
    "single label": ({"num_labels": 4}, [3, 0, 2]),
    "single label, one ignored": ({"num_labels": 4}, [3, -100, 2]),
    "single label, said so": ({"num_labels": 4, "problem_type": "single_label_classification"}, [3, 1, 2]),
    "regression": ({"num_labels": 1}, [0.5, -2.0, 3.25]),
    "regression of several": ({"num_labels": 3, "problem_type": "regression"}, rng.normal(size=(3, 3))),
    "multi label": ({"num_labels": 3}, [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.5, 1.0, 0.0]]),
    "multi label, said so": ({"num_labels": 3, "problem_type": "multi_label_classification"}, np.eye(3)),
}


@pytest.mark.long
@EVERY
class TestAgainstTransformers:
    @pytest.mark.parametrize("problem", PROBLEMS)
    def test_sequence_classification(self, backend: str, problem: str, heads: Heads) -> None:
        fields, labels = PROBLEMS[problem]
        # transformers writes what it infers into the model's config, so that each case needs a model of its own.
        model, folder = heads("ForSequenceClassification", **fields, bos_token_id=list(PROBLEMS).index(problem) + 3)
        llm = loaded(folder, backend)
        assert llm.task == "sequence-classification"
        agree(llm.forward(IDS, labels=labels), oracle(model, IDS, labels=labels))
        assert llm.config.problem_type == fields.get("problem_type")  # inferred, never written down

    def test_token_classification(self, backend: str, heads: Heads) -> None:
        model, folder = heads("ForTokenClassification", num_labels=5)
        labels = rng.integers(0, 5, IDS.shape)
        labels[0, 2:5] = -100
        llm = loaded(folder, backend)
        asked = {"labels": labels, "output_hidden_states": True, "output_attentions": True}
        model.set_attn_implementation("eager")
        agree(llm.forward(IDS, **asked), oracle(model, IDS, **asked))

    @pytest.mark.parametrize("ends", [[4, 9, 10], [4, 11, 500]], ids=["inside", "beyond the end"])
    def test_question_answering(self, backend: str, ends: list[int], heads: Heads) -> None:
        model, folder = heads("ForQuestionAnswering")
        spans = {"start_positions": [0, 9, 10], "end_positions": ends}
        llm = loaded(folder, backend)
        agree(llm.forward(IDS, **spans), oracle(model, IDS, **spans))
        columns = {name: np.asarray(places)[:, None] for name, places in spans.items()}
        assert float(llm.forward(IDS, **columns).loss) == pytest.approx(float(oracle(model, IDS, **spans).loss))

    @pytest.mark.parametrize("side", ["left", "right", "both"])
    def test_padding_with_a_mask(self, backend: str, side: str, heads: Heads) -> None:
        model, folder = heads("ForSequenceClassification", num_labels=4)
        llm = loaded(folder, backend)
        ids, mask = padded(side)
        positions = np.maximum(mask.cumsum(1) - 1, 0)  # ours by itself; transformers counts padding in forward
        found = llm.forward(ids, attention_mask=mask)
        agree(found, oracle(model, ids, attention_mask=mask, position_ids=positions))
        solo = llm.forward(IDS[1:2, :6]).numpy()["logits"]
        assert relative_error(found.numpy()["logits"][1], solo[0]) < TOLERANCE

    @pytest.mark.parametrize("side", ["left", "right", "both"])
    def test_padding_by_the_padding_id_alone(self, backend: str, side: str, heads: Heads) -> None:
        model, folder = heads("ForSequenceClassification", num_labels=4)
        ids, _ = padded(side)
        agree(loaded(folder, backend).forward(ids), oracle(model, ids))

    def test_padding_of_tokens_and_spans(self, backend: str, heads: Heads) -> None:
        ids, mask = padded("left")
        arguments = {"attention_mask": mask, "position_ids": np.maximum(mask.cumsum(1) - 1, 0)}
        for kind in ("ForTokenClassification", "ForQuestionAnswering"):
            model, folder = heads(kind, **({"num_labels": 5} if "Token" in kind else {}))
            found, wanted = loaded(folder, backend).forward(ids, attention_mask=mask).numpy(), None
            wanted = oracle(model, ids, **arguments)
            for name, value in found.items():
                assert relative_error(value[mask == 1], wanted[name].numpy()[mask == 1]) < TOLERANCE, name

    def test_masks_with_holes(self, backend: str, heads: Heads) -> None:
        """Any tokens may be masked, also in the middle and at both ends, in rows of any number of them."""
        numbers = np.random.default_rng(8)
        mask = (numbers.random(IDS.shape) < 0.5).astype(int)
        mask[np.arange(3), [0, 5, 10]] = 1
        arguments = {"attention_mask": mask, "position_ids": np.maximum(mask.cumsum(1) - 1, 0)}
        last = (mask * np.arange(11)).argmax(axis=1)
        for kind in ("ForTokenClassification", "ForQuestionAnswering", "ForSequenceClassification"):
            model, folder = heads(kind, **({} if "Question" in kind else {"num_labels": 5 if "Token" in kind else 4}))
            found = loaded(folder, backend).forward(IDS, attention_mask=mask).numpy()
            if kind == "ForSequenceClassification":
                states = oracle(model.model, IDS, **arguments).last_hidden_state.numpy()[np.arange(3), last]
                assert relative_error(found["logits"], states @ model.score.weight.detach().numpy().T) < TOLERANCE
                continue
            wanted = oracle(model, IDS, **arguments)
            for name, value in found.items():
                assert relative_error(value[mask == 1], wanted[name].numpy()[mask == 1]) < TOLERANCE, name

    def test_embeddings_as_input(self, backend: str, heads: Heads) -> None:
        model, folder = heads("ForSequenceClassification", num_labels=4)
        llm, ids = loaded(folder, backend), IDS[:1]
        embeds = model.model.embed_tokens.weight.detach().numpy()[ids]
        agree(llm.forward(inputs_embeds=embeds), oracle(model, inputs_embeds=embeds))
        rows, mask = padded("left")
        embeds = model.model.embed_tokens.weight.detach().numpy()[rows]
        found = llm.forward(inputs_embeds=embeds, attention_mask=mask).numpy()["logits"]
        assert relative_error(found, llm.forward(rows, attention_mask=mask).numpy()["logits"]) < TOLERANCE

    def test_after_a_cache(self, backend: str, heads: Heads) -> None:
        _, folder = heads("ForSequenceClassification", num_labels=4)
        llm = loaded(folder, backend)
        first = llm.forward(IDS[:, :6], use_cache=True)
        step = llm.forward(IDS[:, 6:], past_key_values=first.past_key_values).numpy()["logits"]
        assert relative_error(step, llm.forward(IDS).numpy()["logits"]) < TOLERANCE

    @pytest.mark.parametrize("pooling", ["mean", "last"])
    def test_embedding(self, backend: str, pooling: str, heads: Heads, tiny_models: Any) -> None:
        model, folder = heads("Model")
        llm = Llama.load(folder, task="embedding", pooling=pooling, backend=backend)
        ids, mask = padded("both")
        found = llm.forward(ids, attention_mask=mask).numpy()["embeddings"]
        for index, row in enumerate(ids):
            states = oracle(model, row[mask[index] == 1][None]).last_hidden_state[0].numpy().astype(np.float64)
            wanted = states.mean(axis=0) if pooling == "mean" else states[-1]
            assert relative_error(found[index], wanted / np.linalg.norm(wanted)) < TOLERANCE
        assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


def padded(side: str) -> tuple[np.ndarray, np.ndarray]:
    """Three rows, the second of them six tokens long."""
    start = {"left": 5, "right": 0, "both": 3}[side]
    ids, mask = IDS.copy(), np.ones_like(IDS)
    ids[1], mask[1] = 0, 0
    ids[1, start : start + 6], mask[1, start : start + 6] = IDS[1, :6], 1
    return ids, mask


@EVERY
class TestWhereTransformersIsNotFollowed:
    """Each deliberate difference, with what transformers does beside it."""

    def test_a_real_last_token_that_is_also_the_padding_is_kept_by_the_mask(self, backend: str, heads: Heads) -> None:
        model, folder = heads("ForSequenceClassification", num_labels=4, pad_token_id=2)
        llm, ids = loaded(folder, backend), IDS.copy()
        ids[:, -1] = 2
        whole = llm.forward(ids, attention_mask=np.ones_like(ids), output_hidden_states=True).numpy()
        score = model.score.weight.detach().numpy()
        assert relative_error(whole["logits"], whole["hidden_states"][-1][:, -1] @ score.T) < TOLERANCE
        stripped = oracle(model, ids, attention_mask=np.ones_like(ids)).logits
        assert relative_error(whole["logits"], stripped) > 0.01
        assert relative_error(llm.forward(ids).numpy()["logits"], stripped) < TOLERANCE  # without a mask, as there

    def test_without_a_padding_id_a_mask_will_do_and_nothing_at_all_is_an_error(
        self, backend: str, heads: Heads
    ) -> None:
        model, folder = heads("ForSequenceClassification", num_labels=4, pad_token_id=None)
        llm = loaded(folder, backend)
        ids, mask = padded("left")
        with pytest.raises(ValueError, match="batch sizes > 1"):
            oracle(model, ids, attention_mask=mask)
        found = llm.forward(ids, attention_mask=mask).numpy()["logits"]
        assert relative_error(found[1], oracle(model, IDS[1:2, :6]).logits[0]) < TOLERANCE
        with pytest.raises(InputError, match=r"no attention_mask, and no pad_token_id.*give an attention_mask"):
            llm.forward(ids)
        agree(llm.forward(IDS[:1]), oracle(model, IDS[:1]))

    def test_rows_of_embeddings_need_a_mask(self, backend: str, heads: Heads) -> None:
        model, folder = heads("ForSequenceClassification", num_labels=4)
        embeds = np.ones((2, 3, 48), np.float32)
        assert oracle(model, inputs_embeds=embeds).logits.shape == (2, 4)  # takes every row's last for its text's
        with pytest.raises(InputError, match="2 rows of embeddings"):
            loaded(folder, backend).forward(inputs_embeds=embeds)

    def test_negative_positions_are_ignored(self, backend: str, heads: Heads) -> None:
        model, folder = heads("ForQuestionAnswering")
        spans = {"start_positions": [-1, 2, 3], "end_positions": [-1, 5, 3]}
        without = {name: places[1:] for name, places in spans.items()}
        found = float(loaded(folder, backend).forward(IDS, **spans).loss)
        assert found == pytest.approx(float(oracle(model, IDS[1:], **without).loss), rel=1e-5)
        zero = {name: [0, *places[1:]] for name, places in spans.items()}
        assert float(oracle(model, IDS, **spans).loss) == pytest.approx(float(oracle(model, IDS, **zero).loss))

    def test_half_a_span_is_an_error(self, backend: str, heads: Heads) -> None:
        model, folder = heads("ForQuestionAnswering")
        assert oracle(model, IDS, start_positions=[1, 2, 3]).loss is None
        with pytest.raises(InputError, match="takes start_positions and end_positions, start_positions given"):
            loaded(folder, backend).forward(IDS, start_positions=[1, 2, 3])

    def test_one_label_told_by_integers(self, backend: str, heads: Heads) -> None:
        model, folder = heads("ForSequenceClassification", num_labels=1)
        wanted = oracle(model, IDS, labels=[3.0, 1.0, 2.0]).loss
        found = loaded(folder, backend).forward(IDS, labels=[3, 1, 2]).loss
        assert float(found) == pytest.approx(float(wanted), rel=1e-5)

    def test_truth_values_are_several_labels(self, backend: str, heads: Heads) -> None:
        _, folder = heads("ForSequenceClassification", num_labels=3)
        llm = loaded(folder, backend)
        assert float(llm.forward(IDS, labels=np.eye(3) == 1).loss) == pytest.approx(
            float(llm.forward(IDS, labels=np.eye(3)).loss)
        )


MASK = [[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "a class there is not": (SEQUENCE, {"labels": [0, 3]}, r"labels hold 3, the model has 3 labels \(0 to 2\)"),
    "a negative class": (SEQUENCE, {"labels": [0, -1]}, "labels hold -1"),
    "too few labels": (SEQUENCE, {"labels": [0]}, r"have shape \[1\], wanted \[2\]"),
    "labels per token": (SEQUENCE, {"labels": np.zeros((2, 5), int)}, r"have shape \[2, 5\], wanted \[2\]"),
    "several labels as integers": (SEQUENCE, {"labels": np.zeros((2, 3), int)}, "given as floats"),
    "values for classes": (SEQUENCE, {"labels": [0.0, 1.0]}, "classes are given as integers"),
    "values beyond 1": (SEQUENCE, {"labels": [[0.0, 1.5, 0.0]] * 2}, "labels hold 1.5, those of multi_label"),
    "no number": (SEQUENCE, {"labels": [[0.0, float("nan"), 0.0]] * 2}, "labels hold nan"),
    "text": (SEQUENCE, {"labels": ["good", "bad"]}, "wanted numbers"),
    "ragged labels": (TOKEN, {"labels": [[0, 1], [1]]}, "labels is not a rectangular array"),
    "a token class there is not": (TOKEN, {"labels": np.full((2, 5), 7)}, "labels hold 7, the model has 3"),
    "token labels of another length": (TOKEN, {"labels": np.zeros((2, 4), int)}, r"\[2, 4\], wanted \[2, 5\]"),
    "token labels of another type": (TOKEN, {"labels": np.zeros((2, 5))}, "labels holds float64, wanted integers"),
    "a span under another name": (SPAN, {"labels": [1, 2]}, "takes start_positions and end_positions, labels given"),
    "a span for another task": (TOKEN, {"start_positions": [1, 2]}, "no argument 'start_positions'"),
    "a misspelt span": (SPAN, {"start_position": [1, 2]}, "did you mean 'start_positions'"),
    "a span that ends before it starts": (
        SPAN,
        {"start_positions": [3, 1], "end_positions": [2, 1]},
        r"row 0 has an answer that ends before it starts \(3 to 2\)",
    ),
    "a span on padding": (
        SPAN,
        {"attention_mask": MASK, "start_positions": [1, 3], "end_positions": [1, 4]},
        r"end_positions\[1\] is 4, which the attention mask says is padding",
    ),
    "a span on the first token, which is padding": (
        SPAN,
        {"attention_mask": MASK, "start_positions": [0, 0], "end_positions": [3, 1]},
        r"start_positions\[0\] is 0, which the attention mask says is padding",
    ),
    "a span in fractions": (
        SPAN,
        {"start_positions": [0.5, 1], "end_positions": [1, 1]},
        "start_positions holds float",
    ),
    "a span of another shape": (SPAN, {"start_positions": [1], "end_positions": [1]}, r"\[1\], wanted \[2\]"),
    "a row of padding": (SEQUENCE, {"input_ids": [[5, 6, 0, 0, 0], [0] * 5]}, "row 1 is padding alone"),
    "a row of padding for an embedding": ("embedding", {"input_ids": [[0] * 5]}, "row 0 is padding alone"),
    "an empty text": (SEQUENCE, {"input_ids": [[]]}, "input_ids is empty"),
    "labels without a loss": ("embedding", {"labels": [1, 2]}, "task 'embedding' has no loss"),
    "labels for the trunk": ("base", {"labels": [[1] * 5] * 2}, "task 'base' has no loss"),
    "kept logits": (TOKEN, {"logits_to_keep": 1}, "logits_to_keep is for language models"),
}


@EVERY
@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_a_one_line_error(backend: str, case: str) -> None:
    task, arguments, message = BAD[case]
    llm = shared(task, backend, num_labels=3)
    with pytest.raises((InputError, UnsupportedError), match=message) as raised:
        llm.forward(**({"input_ids": IDS[:2, :5]} | arguments))
    assert "\n" not in str(raised.value)


@EVERY
class TestOnEveryBackend:
    def test_a_head_of_whole_texts_accepts_no_cache(self, backend: str) -> None:
        llm = shared("embedding", backend)
        cache = llm.forward(IDS, use_cache=True).past_key_values
        with pytest.raises(InputError, match="wants whole texts"):
            llm.forward(IDS, past_key_values=cache)

    def test_a_chunk_of_padding_alone_has_no_result(self, backend: str) -> None:
        llm = shared(SEQUENCE, backend)
        with pytest.raises(InputError, match=r"attention_mask\[1\] attends to none of these"):
            llm.forward(IDS[:2, :2], attention_mask=[[1, 1], [0, 0]], use_cache=True)

    def test_outputs_by_attribute_key_and_tuple(self, backend: str) -> None:
        llm = shared(SPAN, backend)
        spans = {"start_positions": [1, 2, 3], "end_positions": [1, 2, 3]}
        y = llm.forward(IDS, **spans, use_cache=True)
        assert list(y.keys()) == ["loss", "start_logits", "end_logits", "past_key_values"]
        assert y.start_logits is y["start_logits"] is y[1] is y.to_tuple()[1]
        plain = llm.forward(IDS, **spans, return_dict=False)
        assert isinstance(plain, tuple) and len(plain) == 3

    def test_num_items_in_batch_divides_the_sum(self, backend: str) -> None:
        spans = {"start_positions": [1, 2, -1], "end_positions": [3, 2, -1]}
        for task, labels, count in (
            (SEQUENCE, {"labels": [0, 1, 1]}, 3),
            (SEQUENCE, {"labels": np.eye(3, 2)}, 6),
            (TOKEN, {"labels": np.zeros_like(IDS)}, IDS.size),
            (SPAN, spans, 2),
        ):
            llm = shared(task, backend)
            mean, total = (float(llm.forward(IDS, **labels, **o).loss) for o in ({}, {"num_items_in_batch": 1}))
            assert total == pytest.approx(mean * count, rel=1e-5)

    @pytest.mark.parametrize("count", [0, -3, np.int64(-3), np.array(0.0), np.float32("nan"), True, "3", [3]])
    def test_a_number_of_items_that_is_none(self, backend: str, count: Any) -> None:
        with pytest.raises(InputError, match=r"num_items_in_batch is .*, wanted a positive number"):
            shared(SEQUENCE, backend).forward(IDS, labels=[0, 1, 1], num_items_in_batch=count)

    def test_a_number_of_items_of_numpy(self, backend: str) -> None:
        llm = shared(SEQUENCE, backend)
        plain = float(llm.forward(IDS, labels=[0, 1, 1], num_items_in_batch=2).loss)
        for count in (np.int64(2), np.float32(2), np.array(2), np.array([2])):
            found = llm.forward(IDS, labels=[0, 1, 1], num_items_in_batch=count).numpy()["loss"]
            assert np.shape(found) == () and float(found) == pytest.approx(plain), repr(count)

    @pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
    def test_where_nothing_counts_the_loss_is_not_a_number(self, backend: str) -> None:
        assert np.isnan(float(shared(SEQUENCE, backend).forward(IDS, labels=[-100] * 3).loss))

    def test_a_task_with_labels_of_its_own(self, backend: str) -> None:
        """What a plugin may bring: several labels by any name, pooling, and a loss in array terms."""
        from polyllama.core.backend.choice import choose_backend
        from polyllama.core.backend.protocol import RealizeOptions
        from polyllama.core.checkpoint.weights import dummy_weights
        from polyllama.core.graph.from_config import build_graph
        from polyllama.core.graph.nodes import Chain, Linear, Pool
        from polyllama.core.plugin_system.manager import plugin_manager
        from polyllama.core.tasks.outputs import SequenceClassifierOutput
        from polyllama.core.tasks.task import Task

        class Weighted(Task):
            name, architecture = "weighted", "LlamaForWeighted"
            output_type, labels = SequenceClassifierOutput, ("scores", "weights")

            def head(self, config: Any, decoder: Any) -> Any:
                return Chain((Pool("mean", config.pad_token_id), Linear("rate", config.hidden_size, 1, role="head")))

            def outputs(self, ctx: Any, raw: Any, hidden: Any) -> dict[str, Any]:
                return {"logits": ctx.widen(raw)}

            def check_labels(self, config: Any, labels: Any, attended: Any) -> None:
                if (labels["weights"] < 0).any():
                    raise InputError("weights are negative")

            def loss(self, xp: Any, outputs: Any, scores: Any, weights: Any, **options: Any) -> Any:
                assert options["config"] is config
                weights = xp.astype(weights, outputs["logits"].dtype)
                return xp.sum((outputs["logits"][:, 0] - scores) ** 2 * weights) / xp.sum(weights)

        config, task = LlamaConfig(**SIZES, pad_token_id=0), Weighted()
        graph = build_graph(config, task)
        choice = choose_backend(backend, plugin_manager().backends())
        weights = dummy_weights(graph.parameters(), dtype="float32", initializer_range=0.15)
        model = choice.backend.realize(graph, weights, RealizeOptions(dtype="float32"), config=config, task=task)
        scores, shares = np.float32([0.5, -1.0, 2.0]), [1, 0, 3]
        y = forward(model, IDS, scores=scores, weights=shares)
        errors = (model.to_numpy(y.logits)[:, 0] - scores) ** 2
        assert float(y.loss) == pytest.approx(float(errors @ shares) / 4, rel=1e-5)
        with pytest.raises(InputError, match="weights are negative"):
            forward(model, IDS, scores=scores, weights=[1, 0, -3])
        with pytest.raises(InputError, match="takes scores and weights, scores given"):
            forward(model, IDS, scores=scores)


@pytest.mark.parametrize("backend", [name for name in ALL_BACKENDS if name != "reference"])
def test_two_backends_are_compared_node_by_node(backend: str, heads: Heads) -> None:
    from polyllama.testing import compare_backends

    for kind in ("ForSequenceClassification", "ForTokenClassification"):
        _, folder = heads(kind, num_labels=4, pad_token_id=None)
        found = compare_backends(folder, ["reference", backend], token_ids=IDS[0].tolist())
        assert found.verdict == "rounding" and "score" in found.distances


@pytest.mark.skipif("jax" not in ALL_BACKENDS, reason="jax is not installed")
class TestOnJax:
    def test_texts_of_many_lengths_share_a_trace(self) -> None:
        """A mask tells what the passes are padded with from the text."""
        llm: Any = fresh(SEQUENCE, "jax")
        for length in range(2, 12):
            ids, mask = IDS[:, :length], np.ones((3, length), int)
            found = llm.forward(ids, attention_mask=mask).numpy()["logits"]
        assert llm.model.traces == 1
        solo = llm.forward(IDS[:1]).numpy()["logits"]  # without a mask, at its own length
        assert relative_error(found[0], solo[0]) < TOLERANCE

    def test_a_loss_as_a_pure_function(self) -> None:
        import jax

        llm: Any = shared(SPAN, "jax")
        spans = {"start_positions": np.array([1, 2, -1]), "end_positions": np.array([3, 2, -1])}

        def loss(params: Any, spans: Any) -> Any:
            return llm.model.apply(params, IDS, **spans).loss

        value, gradients = jax.jit(jax.value_and_grad(loss))(llm.model.params, spans)
        assert float(value) == pytest.approx(float(llm.forward(IDS, **spans).loss), rel=1e-5)
        assert float(abs(gradients["qa_outputs.bias"]).max()) > 0
        with pytest.raises(InputError, match="ends before it starts"):
            llm.model.apply(llm.model.params, IDS, start_positions=[2] * 3, end_positions=[1] * 3)
        pooled: Any = shared(SEQUENCE, "jax")
        with pytest.raises(InputError, match="row 1 is padding alone"):
            pooled.model.apply(pooled.model.params, [[5, 0], [0, 0]])
