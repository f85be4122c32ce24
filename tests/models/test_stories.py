"""The story grammar that the bundled model learns from: sound, varied, deterministic, and honestly held out."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from support_processes import run_process

TOOLS = Path(__file__).parents[2] / "tools" / "bundled_models"
sys.path.insert(0, str(TOOLS))

import story_templates  # noqa: E402
from stories import (  # noqa: E402
    PRONOUNS,
    SPLITS,
    Grammar,
    Story,
    Storyteller,
    is_held_out,
    seeds,
    split_of,
    stories,
    unknown_slots,
)

HOW_MANY = 600
KNOWN_BEGINNING = (
    "Once upon a time, a small boy called Kofi and a small girl named Freya lived near a sleepy railway crossing. "
    "Trains puffed in and out, and the old clock ticked."
)


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar()


@pytest.fixture(scope="module")
def told() -> dict[str, list[Story]]:
    return {split: list(stories(split, HOW_MANY)) for split in SPLITS}


@pytest.fixture(scope="module")
def everything(told: dict[str, list[Story]]) -> list[Story]:
    return [story for group in told.values() for story in group]


def test_every_slot_is_filled(grammar: Grammar) -> None:
    assert unknown_slots(grammar) == set()


def test_every_line_of_every_plot_can_be_told(grammar: Grammar) -> None:
    """Tags may forbid lines, but never all of them, and no line is dead."""
    for plot in grammar.plots:
        reachable: set[frozenset[str]] = {frozenset()}
        for number, part in enumerate(plot.parts, 1):
            used, after = set(), set()
            for tags in reachable:
                fitting = [line for line in part.lines if line.fits(set(tags))]
                assert fitting, f"{plot.name}, part {number}: nothing fits after {sorted(tags)}"
                used.update(fitting)
                after.update(tags | line.sets for line in fitting)
            dead = set(part.lines) - used
            assert not dead, f"{plot.name}, part {number}: never told: {[line.text for line in dead]}"
            reachable = after


def test_a_seed_is_a_story() -> None:
    first, second = Storyteller(), Storyteller()
    assert [first.tell(seed) for seed in range(20)] == [second.tell(seed) for seed in range(20)]


def test_a_story_does_not_depend_on_the_ones_before() -> None:
    assert list(stories("heldout", 5))[4] == next(stories("heldout", 1, first=4))


def test_known_beginning() -> None:
    """The stream of random numbers is part of the data set: the same seed means the same story on every machine."""
    assert Storyteller().tell(0).text.startswith(KNOWN_BEGINNING)


def test_length_and_alphabet(everything: list[Story]) -> None:
    for story in everything:
        assert 80 <= len(story.text.split()) <= 200, story.seed
        assert re.fullmatch(r"[A-Za-z ,.!?:'\"\n-]+", story.text), story.seed
        assert "  " not in story.text and " \n" not in story.text and "\n " not in story.text, story.seed
        assert "\n\n\n" not in story.text and re.search(r"[^\n]\n[^\n]", story.text) is None, story.seed
        assert story.text == story.text.strip(), story.seed


def test_sentences_begin_with_a_capital_and_end(everything: list[Story]) -> None:
    for story in everything:
        for paragraph in story.text.split("\n\n"):
            assert re.match(r'"?[A-Z]', paragraph), (story.seed, paragraph)
            assert re.search(r'[.!?]"?$', paragraph), (story.seed, paragraph)
        assert re.search(r'\.\"? "?[a-z]', story.text) is None, story.seed
        assert re.search(r'[^"][!?] [a-z]', story.text) is None, story.seed
        assert re.search(r"[.,!?]{2}| [.,!?]", story.text) is None, story.seed


def test_quotation_marks_pair_within_a_paragraph(everything: list[Story]) -> None:
    for story in everything:
        for paragraph in story.text.split("\n\n"):
            assert paragraph.count('"') % 2 == 0, (story.seed, paragraph)


def test_articles_agree(everything: list[Story]) -> None:
    for story in everything:
        wrong = re.findall(r"\b[Aa] [aeio]\w+|\b[Aa]n [^aeiou\W]\w+", story.text)
        assert [phrase for phrase in wrong if not phrase.lower().startswith(("a one", "an hour", "an honest"))] == []


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a apple", "an apple"),
        ("A old owl", "An old owl"),
        ("a hour", "an hour"),
        ("a one", "a one"),
        ("a unicorn", "a unicorn"),
        ("Mia apple", "Mia apple"),
    ],
)
def test_articles(text: str, right: str) -> None:
    assert story_templates.articles(text) == right


def test_pronouns_are_those_of_the_characters(everything: list[Story]) -> None:
    """No "he" where only a she acts, and the other way round (dreams and passers-by aside)."""
    strangers = ("A small king", "an old woman", "My grandmother")
    for story in everything:
        if any(stranger in story.text for stranger in strangers):
            continue
        present = {story.hero.pronoun}
        if story.friend.name in story.text:
            present.add(story.friend.pronoun)
        for pronoun in PRONOUNS.keys() - present:
            forms = set(PRONOUNS[pronoun])
            assert not forms & set(re.findall(r"[a-z]+", story.text.lower())), (story.seed, story.text)


def test_the_hero_and_the_place_run_through_the_story(everything: list[Story]) -> None:
    for story in everything:
        assert story.text.count(story.hero.name) >= 2, story.seed
        assert story.hero.name in story.text.split("\n\n")[0], story.seed
    named = sum(story.place.removeprefix("the ") in story.text for story in everything)
    assert named > 0.7 * len(everything)


def test_splits_are_told_apart_by_seed(told: dict[str, list[Story]]) -> None:
    for split, group in told.items():
        assert [story.seed for story in group] == list(seeds(split, HOW_MANY))
        assert {split_of(story.seed) for story in group} == {split}
    with pytest.raises(ValueError, match="must be from 0 to"):
        split_of(-1)
    with pytest.raises(ValueError, match="must be from 0 to"):
        split_of(300_000_000)


def test_unseen_pairs_never_occur_in_training(told: dict[str, list[Story]]) -> None:
    def pairs(group: list[Story]) -> set[tuple[str, str]]:
        return {(story.hero.name, word) for story in group for word in (story.place, story.thing)}

    assert not pairs(told["unseen"]) & (pairs(told["train"]) | pairs(told["heldout"]))
    assert all(is_held_out(*pair) for pair in pairs(told["unseen"]))
    # the names, places and things themselves are all known from training
    assert {story.place for story in told["unseen"]} <= {story.place for story in told["train"]}
    assert {story.thing for story in told["unseen"]} <= {story.thing for story in told["train"]}


def test_no_story_is_told_twice(everything: list[Story]) -> None:
    assert len({story.text for story in everything}) == len(everything)


def test_variety(grammar: Grammar, told: dict[str, list[Story]]) -> None:
    assert grammar.estimate() > 10**12
    plots = Counter(story.plot for story in told["train"])
    assert set(plots) == {plot.name for plot in grammar.plots}
    assert max(plots.values()) < 0.12 * HOW_MANY
    openings = Counter(" ".join(story.text.split()[:2]) for story in told["train"])
    assert max(openings.values()) < 0.25 * HOW_MANY
    assert len(openings) > 100
    assert {story.hero.pronoun for story in told["train"]} == {"he", "she"}


@pytest.mark.parametrize("text", ["a [b", "a b]", "a {b", "a } b", "a | b"])
def test_malformed_templates_are_errors(text: str) -> None:
    with pytest.raises(story_templates.GrammarError, match=re.escape(text)):
        story_templates.parse(text)


def test_malformed_grammar_files_name_the_line(tmp_path: Path) -> None:
    for file in (TOOLS / "story_grammar").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    Grammar(tmp_path)
    with (tmp_path / "plots.txt").open("a") as plots:
        plots.write("a line that is nothing\n")
    with pytest.raises(story_templates.GrammarError, match=r"plots\.txt, line \d+: .*a line that is nothing"):
        Grammar(tmp_path)


def test_command_line() -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, str(TOOLS / "stories.py"), *arguments]
        return run_process(command, check=True, capture_output=True, text=True).stdout

    assert run("--count", "2", "--seed", "5").strip() == "\n\n* * *\n\n".join(s.text for s in stories("train", 2, 5))
    (line,) = run("--json", "--split", "unseen").splitlines()
    assert json.loads(line)["text"] == next(stories("unseen", 1)).text
