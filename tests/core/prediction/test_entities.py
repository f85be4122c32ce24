"""Entities: tokens' labels put together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.tasks.entities import STRATEGIES, ScoredTokens, find_entities
from polyllama.core.tasks.results import Entity
from scored_models import PEOPLE, Models, soft, spans


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
