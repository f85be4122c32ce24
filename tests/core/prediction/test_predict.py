"""Results people read: labels, entities, answers and vectors, from models that are taught what to say or are random.

What a taught model must answer is known beforehand; random ones are held to plain computations of what is documented.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polyllama
import pytest
from polyllama import Llama, LlamaConfig, PolyllamaWarning, hookimpl
from polyllama.core.plugin_system.manager import reset_plugins
from polyllama.core.tasks.results import as_data
from polyllama.extend import (
    Answer,
    BackendError,
    InputError,
    Label,
    PolyllamaError,
    Task,
    TaskDescriptor,
    UnsupportedError,
    plugin_manager,
)
from prediction_models import taught_head
from scored_models import FEELINGS, Models, soft
from tiny_models import ALL_BACKENDS, relative_error


class TestLabels:
    def test_the_likeliest_label(self, models: Models) -> None:
        found = models("feelings").predict("He is good")
        assert found == Label("glad", pytest.approx(soft([0, 3, 1], 1)))
        assert str(found) == f"glad ({found.score:.3f})"

    def test_a_list_in_a_list_out_in_its_order(self, models: Models) -> None:
        llm = models("feelings")
        texts = ["All of it and every day of it was good", "so sad", "I am good", "sad"]
        found = llm.predict(texts, batch_size=3)
        assert [label.label for label in found] == ["glad", "sad", "glad", "sad"]
        assert llm.predict(iter(texts)) == llm.predict(text=tuple(texts)) == found
        assert llm.predict([texts[0]]) == found[:1]

    def test_several_labels(self, models: Models) -> None:
        found = models("feelings").predict("good", top_k=2)
        assert [label.label for label in found] == ["glad", "calm"]
        assert [label.score for label in found] == pytest.approx([soft([0, 3, 1], 1), soft([0, 3, 1], 2)])
        every = models("feelings").predict("good", top_k="all")
        assert len(every) == 3 and sum(label.score for label in every) == pytest.approx(1)
        assert models("feelings").predict("good", top_k=99) == every

    def test_multi_label_scores_are_each_labels_own(self, models: Models) -> None:
        found = models("several").predict("good", top_k="all")
        sigmoids = {label: 1 / (1 + np.exp(-x)) for label, x in zip(("sad", "glad", "calm"), FEELINGS["▁good"])}  # noqa: B905
        assert {label.label: label.score for label in found} == pytest.approx(sigmoids)
        assert sum(label.score for label in found) > 1.5

    def test_regression_gives_the_value(self, models: Models) -> None:
        found = models("number").predict(["good", "sad"])
        assert [label.score for label in found] == pytest.approx([2.5, -4])

    def test_regression_of_several_gives_every_value(self, models: Models) -> None:
        """None is the likeliest; transformers' pipeline gives the largest alone."""
        llm = models("numbers")
        wanted = [Label("price", 2.5), Label("size", 4.0), Label("age", -1.0)]
        [found] = llm.predict(["all was good"])
        assert [label.label for label in found] == [label.label for label in wanted]
        assert [label.score for label in found] == pytest.approx([label.score for label in wanted], rel=1e-5)
        assert llm.predict("all was good") == found
        assert [label.label for label in llm.predict("all was good", top_k=2)] == ["size", "price"]
        ours = polyllama.pipeline("text-classification", model=llm)
        assert ours("all was good") == as_data(found) and ours(["all was good"]) == [as_data(found)]

    @pytest.mark.parametrize(
        ("function", "wanted"), [("none", 3), ("sigmoid", 1 / (1 + np.exp(-3))), ("softmax", soft([0, 3, 1], 1))]
    )
    def test_another_function(self, models: Models, function: str, wanted: float) -> None:
        assert models("feelings").predict("good", function_to_apply=function).score == pytest.approx(wanted)

    def test_a_pair_of_texts(self, models: Models) -> None:
        llm = models("feelings")
        assert llm.predict("sad", text_pair="good").label == "glad"
        assert llm.predict({"text": "good", "text_pair": "sad"}).label == "sad"
        pairs = [{"text": "sad", "text_pair": "good"}, {"text": "sad"}, "good"]
        assert [label.label for label in llm.predict(pairs)] == ["glad", "sad", "glad"]
        assert [label.label for label in llm.predict("sad", text_pair=["good", "sad"])] == ["glad", "sad"]
        random = models("random label")
        both = random.tokenizer("Lily ran", "to the sea")["input_ids"]
        logits = random.forward([both]).numpy()["logits"][0]
        found = random.predict("Lily ran", text_pair="to the sea", function_to_apply="none", top_k="all")
        assert [label.score for label in found] == pytest.approx(sorted(logits.tolist(), reverse=True), rel=1e-6)


class TestVectors:
    @pytest.mark.parametrize("pooling", ["mean", "last"])
    def test_embeddings_are_what_forward_gives(self, models: Models, pooling: str) -> None:
        llm = models("random trunk", task="embedding", pooling=pooling)
        texts = ["Lily went to the sea", "so", "Tom and Nora"]
        found = llm.predict(texts)
        assert found.shape == (3, 32) and found.dtype == np.float32
        hidden = Llama.load(models.path("random trunk"), task="base", backend="reference")
        for text, vector in zip(texts, found, strict=True):
            states = hidden.forward([llm.tokenizer.encode(text)]).numpy()["last_hidden_state"][0]
            pooled = states.mean(axis=0) if pooling == "mean" else states[-1]
            assert vector == pytest.approx(pooled / np.linalg.norm(pooled), abs=1e-5)
        assert llm.predict("so").shape == (32,)

    def test_the_trunk_gives_a_row_for_each_token(self, models: Models) -> None:
        llm = models("random trunk", task="base")
        texts = ["Lily went", "Tom and Nora went to the sea"]
        for text, states in zip(texts, llm.predict(texts), strict=True):
            assert states.shape == (len(llm.tokenizer.encode(text)), 32)

    def test_a_language_model_writes(self, models: Models) -> None:
        llm = models("random writer")
        options = {"max_new_tokens": 3, "temperature": 0}
        assert llm.predict("Lily", **options).token_ids == llm.generate("Lily", **options).token_ids
        assert len(llm.predict(["Lily", "Tom"], **options)) == 2


BATCH = ["Lily", "Tom and Nora went to the sea, and so on and on", "Ünal 🏝️", "a", "Then all was good"]


@pytest.mark.parametrize("backend", ALL_BACKENDS)
class TestEveryBackend:
    """Padded batches give what each text gets alone, and every backend gives what the reference does."""

    def results(self, llm: Llama, texts: Any, **options: Any) -> Any:
        if llm.task == "question-answering":
            return as_data(llm.predict("Who?", context=texts, top_k=3, **options))
        if llm.task == "token-classification":
            return as_data(llm.predict(texts, aggregation_strategy="none", **options))
        if llm.task == "sequence-classification":
            return as_data(llm.predict(texts, top_k="all", **options))
        return as_data(llm.predict(texts, **options))

    @pytest.mark.parametrize(
        ("name", "task"),
        [
            ("random label", None),
            ("random entities", None),
            ("random answers", None),
            ("random trunk", "embedding"),
            ("random trunk", "base"),
        ],
    )
    def test_batches_and_the_reference_agree(self, backend: str, name: str, task: str | None, models: Models) -> None:
        options: dict[str, Any] = {} if task is None else {"task": task}
        llm = models(name, backend, **options)
        batched = self.results(llm, BATCH)
        assert len(batched) == len(BATCH)
        solo = self.results(llm, BATCH, batch_size=1)
        reference = self.results(models(name, "reference", **options), BATCH)
        for found, alone, wanted in zip(batched, solo, reference, strict=True):
            close(found, alone)
            close(found, wanted)


def close(found: Any, wanted: Any) -> None:
    """The same but for rounding."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            close(found[name], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            close(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=2e-4, abs=2e-5)
    else:
        assert found == wanted


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "given", "options", "said"),
        [
            ("feelings", "", {}, "text is empty"),
            ("feelings", " \n", {}, "text is only white space"),
            ("feelings", ["a", ""], {}, "text 1 is empty"),
            ("feelings", [], {}, "the list of text is empty; give at least one"),
            ("feelings", None, {}, "takes text; give a text or a list"),
            ("feelings", 3, {}, "text is a int, wanted a text or a list of texts"),
            ("feelings", b"a", {}, "text is a bytes, wanted a text or a list of texts; decode bytes first"),
            ("feelings", ["a", 3], {}, "text 1 is a int, wanted a text"),
            ("feelings", {"txt": "a"}, {}, "the mapping has no text; task 'sequence-classification' takes text and"),
            ("feelings", {"text": "a", "pair": "b"}, {}, "the mapping has 'pair'"),
            (
                "answers",
                "Who?",
                {"question": "Why?", "context": "c"},
                "question is given twice; by position or by name",
            ),
            ("feelings", "a", {"text_pair": ""}, "text_pair is empty"),
            ("feelings", ["a", "b"], {"text_pair": ["c"]}, "lists of different lengths: 2 of text and 1 of text_pair"),
            ("feelings", "a", {"topk": 2}, "has no option 'topk'; did you mean 'top_k'?"),
            ("feelings", "a", {"doc_stride": 2}, "has no option 'doc_stride'; it takes text, "),
            ("feelings", "a", {"top_k": 0}, "top_k is 0, wanted a whole number from 1 up"),
            ("feelings", "a", {"top_k": "two"}, "top_k is 'two'; give a number, or 'all'"),
            ("feelings", "a", {"top_k": True}, "top_k is True"),
            ("feelings", "a", {"function_to_apply": "relu"}, "function_to_apply is 'relu'; one of softmax, sigmoid"),
            ("feelings", "a", {"batch_size": 0}, "batch_size is 0, wanted a positive integer"),
            ("feelings", "a", {"progress": "yes"}, "progress is 'yes', wanted True, False or a function"),
            ("feelings", "a", {"truncation": "yes"}, "truncation is 'yes', wanted True or False"),
            ("feelings", "a", {"max_length": 999}, "max_length is 999, the model's context is 256"),
            (
                "feelings",
                "a b c d",
                {"max_length": 3},
                "the text has 5 tokens, max_length is 3; truncation=True cuts it",
            ),
            ("feelings", ["a", "so " * 300], {}, "text 1 has 302 tokens, the model's context is 256; truncation=True"),
            ("entities", "so " * 300, {}, "truncation=True cuts it, stride=... reads it in windows"),
            ("entities", "a", {"aggregation_strategy": "mean"}, "aggregation_strategy is 'mean'; one of none, simple,"),
            ("entities", "a", {"ignore_labels": "O"}, "ignore_labels is 'O', wanted a list of labels"),
            ("entities", "a", {"ignore_labels": ["B-PER"]}, "ignore_labels has 'B-PER'; entities are O, PER, LOC"),
            ("entities", "a", {"stride": -1}, "stride is -1, wanted a whole number from 0 up"),
            (
                "entities",
                "so on and on",
                {"stride": 9, "max_length": 4},
                "windows hold 3 tokens of the text, and would",
            ),
            (
                "entities",
                "so on and on",
                {"stride": 3, "max_length": 4},
                "windows hold 3 tokens of the text, and would",
            ),
            ("answers", "Who?", {}, "context is missing: task 'question-answering' takes question and context"),
            ("answers", "Who?", {"context": ""}, "context is empty"),
            ("answers", "", {"context": "Tom"}, "question is empty"),
            ("answers", "Who?", {"context": "Tom", "max_answer_len": 0}, "max_answer_len is 0"),
            ("answers", "Who?", {"context": "Tom", "doc_stride": -1}, "doc_stride is -1"),
            ("answers", "Who?", {"context": "Tom", "handle_impossible_answer": 1}, "handle_impossible_answer is 1"),
            ("answers", "Who? " * 200, {"context": "Tom"}, "the question leaves no room in 256 tokens"),
            ("answers", ["Who?", {"question": "Who?", "context": "Tom"}], {}, "item 0 is no mapping with question and"),
            ("answers", {"question": "Who?"}, {}, "the mapping has no context"),
            ("answers", {"question": "Who?", "context": "T"}, {"context": "T"}, "a mapping names its texts itself"),
        ],
    )
    def test_a_clear_line(self, models: Models, name: str, given: Any, options: dict[str, Any], said: str) -> None:
        with pytest.raises(InputError) as caught:
            models(name).predict(given, **options)
        assert said in str(caught.value) and "\n" not in str(caught.value)

    def test_a_cut_text_is_said_once_where_it_was_asked_for(self, models: Models) -> None:
        texts = ["good", "so " * 300, "so " * 400]
        with pytest.warns(
            PolyllamaWarning,
            match=r"^2 of 3 texts were cut to 256 tokens \(the longest had 402\) \(model",
        ) as said:
            found = models("feelings").predict(texts, truncation=True)
        assert len(said) == 1 and said[0].filename == __file__
        assert len(found) == 3 and found[0].label == "glad"
        with pytest.warns(PolyllamaWarning, match=r"^the text was cut to 4 tokens \(the longest had 5\) \(model"):
            models("feelings").predict("so on and on", truncation=True, max_length=4)

    def test_numbers_that_are_none_are_no_result(self, tmp_path: Path) -> None:
        for value, word in ((np.nan, "NaN"), (np.inf, "infinite")):
            folder = taught_head(tmp_path / word, "SequenceClassification", {"▁good": [value, 0.0]})
            with pytest.raises(BackendError, match=f"logits came out as (NaN|{word}) on reference in float"):
                Llama.load(folder, backend="reference").predict("good")

    def test_a_model_in_training_would_give_another_result_each_time(self, models: Models) -> None:
        llm = Llama.load(models.path("random entities"), backend="torch")
        llm.module.train()
        with pytest.raises(InputError, match="training mode"):
            llm.predict("Lily")
        llm.module.eval()
        assert llm.predict("Lily")

    def test_a_model_without_a_tokenizer(self) -> None:
        config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_attention_heads=2)
        llm = Llama.load(config, task="embedding", load_format="dummy", backend="reference")
        with pytest.raises(PolyllamaError, match="no tokenizer"):
            llm.predict("a")


class TestProgress:
    def test_a_function_hears_of_every_text(self, models: Models) -> None:
        heard: list[tuple[int, int]] = []
        models("feelings").predict(["a b", "c", "d e f"], progress=lambda *news: heard.append(news), batch_size=2)
        assert heard == [(1, 3), (2, 3), (3, 3)]

    def test_a_terminal_shows_it_after_a_while(
        self, models: Models, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("polyllama.core.prediction.progress.PATIENCE", -1)
        models("feelings").predict(["a", "b"])
        assert capsys.readouterr().err == ""  # this is no terminal
        models("feelings").predict(["a", "b"], progress=True)
        shown = capsys.readouterr().err
        assert "\r1 of 2 texts" in shown and "\r2 of 2 texts" in shown and shown.endswith(f"\r{' ' * 12}\r")


class Loudness(Task):
    """A stranger's task: the first number of each text's last hidden state, which padding would change."""

    name = "loudness"
    architecture = "LlamaForLoudness"
    output_type = polyllama.extend.BaseModelOutput
    labels = ()
    texts = ("shout",)

    def outputs(self, ctx: Any, raw: Any, hidden: Any) -> dict[str, Any]:
        return {"last_hidden_state": ctx.widen(hidden)[:, -1, :]}

    def result(self, example: Any, *, times: float = 1.0) -> dict[str, Any]:
        return {
            "first": times * float(example.output["last_hidden_state"][0]),
            "tokens": len(example.input_ids),
        }


@pytest.fixture
def stranger() -> Iterator[None]:
    class Plugin:
        @hookimpl
        def polyllama_tasks(self) -> list[TaskDescriptor]:
            return [TaskDescriptor("loudness", f"{__name__}:Loudness", "a test's", aliases=("volume",))]

    sys.modules.setdefault(__name__, sys.modules[Loudness.__module__])
    reset_plugins()
    plugin_manager().register(Plugin(), "stranger")
    yield
    reset_plugins()


@pytest.mark.usefixtures("stranger")
class TestStrangers:
    def test_a_task_of_somebody_else(self, models: Models) -> None:
        """It does not say what its outputs are per, so that rows of one length alone run together."""
        llm = Llama.load(models.path("random trunk"), task="loudness", backend="reference")
        texts = ["Lily", "Tom and Nora went", "so", "Nora"]
        found = llm.predict(texts)
        for text, result in zip(texts, found, strict=True):
            ids = llm.tokenizer.encode(text)
            state = llm.forward([ids]).numpy()["last_hidden_state"][0]
            assert result == {"first": pytest.approx(float(state[0]), rel=1e-6), "tokens": len(ids)}
        assert llm.predict("Lily", times=2.0)["first"] == pytest.approx(2 * found[0]["first"])
        with pytest.raises(InputError, match="no option 'time'; did you mean 'times'"):
            llm.predict("Lily", time=2.0)
        with pytest.raises(InputError, match="shout is empty"):
            llm.predict("")

    def test_a_task_that_gives_no_result_says_so(self, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(Loudness, "result")
        llm = Llama.load(models.path("random trunk"), task="volume", backend="reference")
        with pytest.raises(UnsupportedError, match="task 'loudness' does not say how its output becomes a result"):
            llm.predict("Lily")


def test_a_backend_of_somebody_else(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example package's, which this repository knows nothing of."""
    monkeypatch.syspath_prepend(str(Path(polyllama.__file__).parent / "examples" / "polyllama-numpy32"))
    import polyllama_numpy32

    reset_plugins()
    try:
        plugin_manager().register(polyllama_numpy32, "numpy32")
        for name in ("random label", "random entities", "random answers"):
            mine, theirs = models(name), Llama.load(models.path(name), backend="numpy32")
            assert theirs.backend == "numpy32"
            same = TestEveryBackend()
            close(same.results(theirs, BATCH), same.results(mine, BATCH))
    finally:
        reset_plugins()


def test_nothing_is_warned_of_in_ordinary_use(models: Models) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert relative_error([models("number").predict("good").score], [2.5]) < 1e-6
        assert isinstance(models("answers").predict("Who?", context="Tom"), Answer)
