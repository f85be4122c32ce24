"""Results people read: labels, entities, answers and vectors, from models that are taught what to say or are random.

What a taught model must answer is known beforehand; random ones are held to plain computations of what is documented.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polyllama
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import Llama, LlamaConfig, PolyllamaWarning, hookimpl
from polyllama.core.errors import BackendError, InputError, PolyllamaError, UnsupportedError
from polyllama.core.hookspecs import TaskDescriptor
from polyllama.core.plugins import plugin_manager, reset_plugins
from polyllama.core.prediction.entities import STRATEGIES, ScoredTokens, find_entities
from polyllama.core.prediction.results import Answer, Entity, Label, as_data
from polyllama.core.prediction.spans import as_answers, best_answers, best_spans, whole_words
from polyllama.core.prediction.windows import Encoder
from polyllama.core.task import Task
from prediction_models import CONTEXT, labels, random_head, taught_head
from support import ALL_BACKENDS, relative_error

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
PEOPLE = {
    "▁Lily": [0, 6, 0, 0, 0],
    "▁Tom": [0, 6, 1, 0, 0],
    "▁Nora": [0, 0, 5, 0, 0],
    "▁sea": [1, 0, 0, 0, 3],
    # Three tokens of one word that do not agree:
    "▁O": [0, 0, 0, 3, 0],
    "s": [0, 0, 0, 0, 2],
    "lo": [0, 0, 7, 0, 0],
}
FEELINGS = {"▁good": [0, 3, 1], "▁sad": [2, -1, 0]}
POINTERS = {"▁Nora": [9, -2], "▁sea": [-3, 9], "▁Tom": [6, 6]}


def soft(logits: Sequence[float], number: int) -> float:
    powers = np.exp(np.asarray(logits, float))
    return float(powers[number] / powers.sum())


class Models:
    """Loaded models by name, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: dict[str, Llama] = {}
        self.makers: dict[str, Callable[[Path], Path]] = {
            "entities": lambda f: taught_head(f, "TokenClassification", PEOPLE, [4, 0, 0, 0, 0], **labels(*TAGS)),
            "feelings": lambda f: taught_head(f, "SequenceClassification", FEELINGS, **labels("sad", "glad", "calm")),
            "several": lambda f: taught_head(
                *(f, "SequenceClassification", FEELINGS),
                **labels("sad", "glad", "calm"),
                problem_type="multi_label_classification",
            ),
            "numbers": lambda f: taught_head(
                *(f, "SequenceClassification", {"▁good": [2.5, 4.0, -1.0]}),
                **labels("price", "size", "age"),
                problem_type="regression",
            ),
            "number": lambda f: taught_head(f, "SequenceClassification", {"▁good": [2.5], "▁sad": [-4]}),
            "answers": lambda f: taught_head(f, "QuestionAnswering", POINTERS),
            "unsure": lambda f: taught_head(f, "QuestionAnswering", POINTERS | {"<s>": [7, 7]}),
            "random entities": lambda f: random_head(f, "ForTokenClassification", num_labels=4),
            "random label": lambda f: random_head(f, "ForSequenceClassification", num_labels=4),
            "random answers": lambda f: random_head(f, "ForQuestionAnswering"),
            "random writer": lambda f: random_head(f, "ForCausalLM"),
            "random trunk": lambda f: random_head(f, "Model"),
        }

    def path(self, name: str) -> Path:
        folder = self.folder / name.replace(" ", "-")
        return folder if folder.exists() else self.makers[name](folder)

    def __call__(self, name: str, backend: str = "reference", **options: Any) -> Llama:
        key = repr((name, backend, sorted(options.items())))
        if key not in self.loaded:
            self.loaded[key] = Llama.load(self.path(name), backend=backend, **options)
        return self.loaded[key]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("predict"))


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


def spans(entities: list[Entity]) -> list[tuple[str, str]]:
    return [(entity.word, entity.label) for entity in entities]


class TestEntities:
    TEXT = "Then Lily Tom and Nora went by sea to Oslo."

    def test_the_tokens_are_those_the_tests_speak_of(self, models: Models) -> None:
        tokens = models("entities").tokenizer.tokenize(self.TEXT)
        assert set(PEOPLE) <= set(tokens), tokens

    def test_each_token_by_itself(self, models: Models) -> None:
        found = models("entities").predict(self.TEXT, aggregation_strategy="none")
        assert spans(found) == [
            *(("Lily", "B-PER"), ("Tom", "B-PER"), ("Nora", "I-PER"), ("sea", "I-LOC")),
            *(("O", "B-LOC"), ("s", "I-LOC"), ("lo", "I-PER")),
        ]
        ids = models("entities").tokenizer.encode(self.TEXT)
        pieces = models("entities").tokenizer.convert_ids_to_tokens([ids[entity.index] for entity in found])
        assert pieces == list(PEOPLE)
        assert found[0].score == pytest.approx(soft(PEOPLE["▁Lily"], 1))
        assert found[3].score == pytest.approx(soft(PEOPLE["▁sea"], 4))

    @pytest.mark.parametrize(
        ("strategy", "oslo", "score"),
        [
            ("first", "LOC", soft(PEOPLE["▁O"], 3)),
            ("max", "PER", soft(PEOPLE["lo"], 2)),
            ("average", "PER", np.mean([soft(PEOPLE[token], 2) for token in ("▁O", "s", "lo")])),
        ],
    )
    def test_words_agree_with_themselves(self, models: Models, strategy: str, oslo: str, score: float) -> None:
        found = models("entities").predict(self.TEXT, aggregation_strategy=strategy)
        people = [("Lily", "PER"), ("Tom", "PER"), ("Nora", "PER"), ("sea", "LOC")]
        assert spans(found) == [*people, ("Oslo", oslo)]
        assert found[-1].score == pytest.approx(score)
        assert all(entity.index is None for entity in found)

    def test_a_reader_is_not_shown_parts_of_words(self, models: Models) -> None:
        """A deliberate difference from transformers, where tokens are not put together unless asked for."""
        llm = models("entities")
        assert llm.predict(self.TEXT) == llm.predict(self.TEXT, aggregation_strategy="average")
        assert spans(llm.predict(self.TEXT))[-1] == ("Oslo", "PER")

    def test_simple_joins_tokens_by_their_tags(self, models: Models) -> None:
        def found(text: str) -> list[Entity]:
            entities: list[Entity] = models("entities").predict(text, aggregation_strategy="simple")
            return entities

        people = [("Lily", "PER"), ("Tom", "PER"), ("Nora", "PER"), ("sea", "LOC")]
        assert spans(found(self.TEXT)) == [*people, ("Os", "LOC"), ("lo", "PER")]
        # I- goes on with what is before it, B- does not.
        assert spans(found("Lily Nora Nora Tom")) == [("Lily Nora Nora", "PER"), ("Tom", "PER")]
        both = found("Lily Nora")[0]
        assert both.score == pytest.approx((soft(PEOPLE["▁Lily"], 1) + soft(PEOPLE["▁Nora"], 2)) / 2)
        assert (both.start, both.end) == (0, 9)
        assert spans(found("Nora sea")) == [("Nora", "PER"), ("sea", "LOC")]

    def test_labels_that_are_no_entities(self, models: Models) -> None:
        llm = models("entities")
        assert spans(llm.predict("Lily at sea", ignore_labels=["O", "PER"])) == [("sea", "LOC")]
        every = llm.predict("Lily at sea", ignore_labels=[])
        assert spans(every) == [("Lily", "PER"), ("at", "O"), ("sea", "LOC")]
        assert llm.predict("and so on") == []

    @pytest.mark.parametrize("strategy", ["first", "average", "max"])
    def test_punctuation_around_a_word_is_not_of_it(self, models: Models, strategy: str) -> None:
        for text in ("Ask Lily.", "Lily, he said", "but Lily...", "Lily?! and", "so Lily” said"):
            [found] = models("entities").predict(text, aggregation_strategy=strategy)
            assert (found.word, found.label) == ("Lily", "PER"), text
            assert found.score == pytest.approx(soft(PEOPLE["▁Lily"], 1))

    def test_punctuation_before_and_within_a_word(self) -> None:
        other, person = [0.9, 0.1], [0.2, 0.8]
        offsets = [(0, 1), (1, 2), (2, 3), (3, 7), (7, 8), (8, 11), (11, 12)]
        tokens = ScoredTokens(offsets, np.array([other, person, other, person, other, other, person]), list(range(7)))
        [found] = find_entities("(O'Hara) ran!", tokens, ["O", "PER"], "first")
        assert (found.word, found.score) == ("O'Hara", 0.8)

    def test_text_of_no_latin_letters_keeps_its_characters_whole(self, models: Models) -> None:
        text = "Lily 🏝️ Nora — 日本 Tom\u0301"
        for entity in models("entities").predict(text):
            assert text[entity.start : entity.end] == entity.word
        assert spans(models("entities").predict(text))[:2] == [("Lily", "PER"), ("Nora", "PER")]

    @settings(max_examples=60)
    @given(st.text(min_size=1, max_size=40).filter(str.strip), st.sampled_from(STRATEGIES))
    def test_places_are_characters_of_any_text(self, models: Models, text: str, strategy: str) -> None:
        found = models("random entities").predict(text, aggregation_strategy=strategy)
        seen: set[int] = set()
        for entity in found:
            assert entity.word == text[entity.start : entity.end] == entity.word.strip() != ""
            assert 0 < entity.score <= 1
            places = set(range(entity.start, entity.end))
            assert strategy == "none" or not places & seen, "entities overlap"
            seen |= places
        assert found == sorted(found, key=lambda entity: entity.start)
        # No label of this model is to be ignored, so nothing that can be seen is left out.
        assert {place for place, character in enumerate(text) if not character.isspace()} <= seen

    WORDS = st.sampled_from(["Lily", "Nora", "Tom", "sea", "Oslo", "Ünal", "日本", "and", "so,", "\n", "🏝️"])

    @settings(max_examples=40)
    @given(
        st.lists(WORDS, min_size=1, max_size=25).map(" ".join).filter(str.strip),
        st.sampled_from(STRATEGIES),
        st.integers(4, 20),
        st.data(),
    )
    def test_windows_of_a_long_text_find_what_one_row_finds(
        self, models: Models, text: str, strategy: str, length: int, data: st.DataObject
    ) -> None:
        stride = data.draw(st.integers(0, length - 2))
        llm = models("entities")
        whole = llm.predict(text, aggregation_strategy=strategy)
        found = llm.predict(text, aggregation_strategy=strategy, max_length=length, stride=stride)
        assert found == whole

    def test_tokens_that_windows_share_count_where_most_text_is_before_them(self, models: Models) -> None:
        llm = models("random entities")
        text = "Lily and Tom went to the sea and Nora went on to see a big old fox on a hill"
        ids = llm.tokenizer.encode(text)
        scores = llm.forward([ids[:10]]).numpy()["logits"][0]
        found = llm.predict(text, aggregation_strategy="none", max_length=10, stride=5)
        assert [entity.index for entity in found] == list(range(1, len(ids)))
        for entity in found[:9]:
            assert entity.score == pytest.approx(soft(scores[entity.index], int(scores[entity.index].argmax())))

    def test_one_character_of_several_tokens_is_never_torn(self) -> None:
        tokens = ScoredTokens([(0, 1), (0, 1), (0, 1)], np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8]]), [1, 2, 3])
        [found] = find_entities("日", tokens, ["B-A", "B-B"], "simple")
        assert (found.label, found.word) == ("A", "日") and found.score == pytest.approx((0.9 + 0.1 + 0.2) / 3)


class TestAnswers:
    STORY = "One day Nora met a fox by the sea. Then Tom slept."

    def ask(self, llm: Llama, context: str | None = None, **options: Any) -> Any:
        return llm.predict(question="Who is it?", context=self.STORY if context is None else context, **options)

    def test_a_piece_of_the_context(self, models: Models) -> None:
        found = self.ask(models("answers"), max_answer_len=10)
        assert found.text == "Nora met a fox by the sea" == self.STORY[found.start : found.end] == str(found)

    def test_short_answers_only(self, models: Models) -> None:
        llm = models("answers")
        assert self.ask(llm, max_answer_len=2).text == "Tom"
        assert len(llm.tokenizer.tokenize("Nora met a fox by the sea")) > 5
        assert self.ask(llm, max_answer_len=5).text == "Tom"

    def test_several_answers_are_different_pieces(self, models: Models) -> None:
        found = self.ask(models("answers"), top_k=6)
        assert [answer.text for answer in found[:3]] == [
            "Nora met a fox by the sea",
            "Nora met a fox by the sea. Then Tom",
            "Tom",
        ]
        assert len({(answer.start, answer.end) for answer in found}) == 6
        assert [answer.score for answer in found] == sorted((answer.score for answer in found), reverse=True)

    def test_what_the_question_says_is_no_answer(self, models: Models) -> None:
        found = models("answers").predict(question="Did Nora go by sea?", context="It was Tom.")
        assert found.text == "Tom" and found.score > 0.9

    def test_no_answer(self, models: Models) -> None:
        llm = models("unsure")
        none = self.ask(llm, "The fox slept on a hill.", handle_impossible_answer=True)
        assert (none.text, none.start, none.end) == ("", 0, 0) and none.score > 0.9
        assert self.ask(llm, handle_impossible_answer=True).text == "Nora met a fox by the sea"
        assert self.ask(llm, "The fox slept on a hill.").text != ""
        every = self.ask(llm, handle_impossible_answer=True, top_k=999)
        assert every[0].text == "Nora met a fox by the sea" and sum(not answer.text for answer in every) == 1

    def test_an_answer_in_one_window_is_enough(self, models: Models) -> None:
        filler = "The fox slept on a hill. " * 12
        options = {"handle_impossible_answer": True, "max_length": 40, "doc_stride": 12}
        for context in (f"{filler}{self.STORY}", f"{self.STORY} {filler}", f"{filler}{self.STORY} {filler}"):
            assert self.ask(models("unsure"), context, **options).text == "Nora met a fox by the sea"
        assert self.ask(models("unsure"), filler, **options).text == ""

    def test_what_several_windows_say_counts_as_the_surest_says_it(self) -> None:
        said = [Answer("a", 0.2, 0, 1), Answer("b", 0.5, 2, 3), Answer("a", 0.7, 0, 1), Answer("a", 0.1, 0, 1)]
        assert best_answers(said, 9) == [said[2], said[1]]
        assert best_answers(said, 1) == [said[2]]

    def test_spaces_are_no_answer(self) -> None:
        offsets = [(0, 1), (1, 2), (2, 4)]
        for aligned in (True, False):
            found = as_answers("a  b", offsets, _spans((1, 1), (1, 2), (2, 2)), 3, align_to_words=aligned)
            assert [(answer.text, answer.start) for answer in found] == [("b", 3)]

    @settings(max_examples=25)
    @given(before=st.integers(0, 40), after=st.integers(0, 40), length=st.integers(28, 60))
    def test_an_answer_is_found_wherever_it_stands(self, models: Models, before: int, after: int, length: int) -> None:
        context = f"{'ünd so ' * before}Nora met a fox by the sea{' on a hill' * after}"
        found = self.ask(models("answers"), context, max_length=length, doc_stride=12)
        assert found.text == "Nora met a fox by the sea" == context[found.start : found.end]
        assert found.start == len("ünd so " * before)

    @pytest.mark.parametrize(("length", "shared"), [(None, 128), (300, 128), (100, 50)])
    def test_what_windows_share_by_default(self, models: Models, length: int | None, shared: int) -> None:
        llm = models("answers")
        encoder = Encoder(llm.tokenizer, None, length)
        first, second, *_ = llm.task_head.encode(encoder, {"question": "Who?", "context": "so on " * 400})
        assert len(first) == (length or 384)
        held = [[window.input_ids[place] for place in window.places(1)] for window in (first, second)]
        assert second.first == len(held[0]) - shared and held[0][-shared:] == held[1][:shared]

    def test_long_contexts_need_no_option(self, models: Models) -> None:
        context = f"{'The fox slept on a hill. ' * 80}{self.STORY}{' The fox slept on a hill.' * 80}"
        assert len(models("answers").tokenizer.encode(context)) > 3 * CONTEXT
        assert self.ask(models("answers"), context).text == "Nora met a fox by the sea"

    @pytest.mark.parametrize("longest", [1, 3, 15])
    def test_scores_are_products_of_probabilities(self, models: Models, longest: int) -> None:
        llm = models("random answers")
        question, context = "Who went?", "Lily and Tom went to the sea"
        encoded = llm.tokenizer(question, context, return_offsets_mapping=True, return_sequence_ids=True)
        output = llm.forward([encoded["input_ids"]]).numpy()
        places = [place for place, text in enumerate(encoded["sequence_ids"]) if text == 1]
        start, end = (np.exp(output[name][0][places].astype(float)) for name in ("start_logits", "end_logits"))
        wanted: dict[tuple[int, int], float] = {}
        for i in range(len(places)):
            for j in range(i, min(i + longest, len(places))):
                begin, stop = encoded["offset_mapping"][places[i]][0], encoded["offset_mapping"][places[j]][1]
                begin += len(context[begin:stop]) - len(context[begin:stop].lstrip())
                if begin < stop:
                    score = float(start[i] / start.sum() * end[j] / end.sum())
                    wanted[begin, stop] = max(score, wanted.get((begin, stop), 0))
        found = llm.predict(
            *(question,), context=context, top_k=len(wanted) + 5, max_answer_len=longest, align_to_words=False
        )
        assert {(answer.start, answer.end): answer.score for answer in found} == pytest.approx(wanted, rel=1e-5)

    @settings(max_examples=50)
    @given(st.integers(2, 9), st.integers(1, 9), st.booleans(), st.integers(0, 2**32 - 1))
    def test_spans_against_trying_all(self, size: int, longest: int, may_be_none: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        start, end = rng.normal(size=(2, size)) * 3
        allowed = rng.random(size) < 0.6
        allowed[0], allowed[rng.integers(1, size)] = False, True
        considered = [place for place in range(size) if allowed[place] or (may_be_none and place == 0)]
        totals = [sum(np.exp(logits[place]) for place in considered) for logits in (start, end)]
        wanted = {
            (i, j): np.exp(start[i]) / totals[0] * np.exp(end[j]) / totals[1]
            for i in range(size)
            for j in range(i, min(size, i + longest))
            if allowed[i] and allowed[j]
        }
        spans, none = best_spans(start, end, allowed, longest, may_be_none=may_be_none)
        found = list(spans)
        assert {(span.first, span.last): span.score for span in found} == pytest.approx(wanted)
        assert [span.score for span in found] == sorted((span.score for span in found), reverse=True)
        null = np.exp(start[0]) / totals[0] * np.exp(end[0]) / totals[1] if may_be_none else 0
        assert none == pytest.approx(null)

    @given(st.text(max_size=30) | st.text("ab1_ .日", max_size=12), st.data())
    def test_answers_end_where_words_end(self, text: str, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, len(text)))
        if start == end:
            return
        begin, stop = whole_words(text, start, end)
        assert 0 <= begin <= start < end <= stop <= len(text)
        assert whole_words(text, begin, stop) == (begin, stop)
        added = text[begin:start] + text[end:stop]
        assert not any(character.isspace() for character in added)
        for place in (begin, stop):  # and no word goes on beyond them
            around = text[max(0, place - 1) : place + 1]
            assert len(around) < 2 or place in (0, len(text)) or not re.fullmatch(r"[a-z0-9_]{2}", around, re.ASCII)

    def test_words_are_completed_unless_told_otherwise(self, models: Models) -> None:
        llm = models("answers")
        context = "There was Nora and all by the seaside"
        assert "▁sea" in llm.tokenizer.tokenize(context)
        assert self.ask(llm, context).text == "Nora and all by the seaside"
        assert self.ask(llm, context, align_to_words=False).text == "Nora and all by the sea"

    def test_scripts_without_spaces_are_not_run_together(self) -> None:
        [found] = as_answers(*("東京は日本の首都です", [(0, 0), (3, 5)]), _spans((1, 1)), 1, align_to_words=True)
        assert found.text == "日本"
        [found] = as_answers(*("un cafe\u0301 noir", [(0, 0), (3, 6)]), _spans((1, 1)), 1, align_to_words=True)
        assert found.text == "cafe\u0301"  # the accent is a character of its own

    def test_many_questions(self, models: Models) -> None:
        llm = models("answers")
        contexts = [self.STORY, "It was Tom."]
        both = llm.predict(question=["Who?", "Who was it?"], context=contexts)
        assert [answer.text for answer in both] == ["Nora met a fox by the sea", "Tom"]
        assert llm.predict(["Who?", "Who was it?"], context=contexts) == both
        asked = [{"question": "Who?", "context": contexts[0]}, {"question": "Who was it?", "context": contexts[1]}]
        assert llm.predict(asked) == both
        assert llm.predict(question="Who?", context=contexts)[0] == both[0]
        assert llm.predict(asked[1]) == both[1]


def _spans(*places: tuple[int, int]) -> list[Any]:
    from polyllama.core.prediction.spans import Span

    return [Span(0.5, first, last) for first, last in places]


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
            ("feelings", "a", {"doc_stride": 2}, "has no option 'doc_stride'; it takes batch_size"),
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
            PolyllamaWarning, match=r"^2 of 3 texts were cut to 256 tokens \(the longest had 402\)$"
        ) as said:
            found = models("feelings").predict(texts, truncation=True)
        assert len(said) == 1 and said[0].filename == __file__
        assert len(found) == 3 and found[0].label == "glad"
        with pytest.warns(PolyllamaWarning, match=r"^the text was cut to 4 tokens \(the longest had 5\)$"):
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
    output_type = polyllama.core.outputs.BaseModelOutput
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
