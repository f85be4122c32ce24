"""Answers: spans of a text, scored."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import Llama
from polyllama.core.tasks.results import Answer
from polyllama.core.tasks.spans import as_answers, best_answers, best_spans, whole_words
from polyllama.core.tasks.windows import Encoder
from prediction_models import CONTEXT
from scored_models import Models


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
    from polyllama.core.tasks.spans import Span

    return [Span(0.5, first, last) for first, last in places]
