"""The bundled models with task heads: what they say about texts written by hand, and the figures of their cards."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import Llama
from tiny_models import ALL_BACKENDS, relative_error

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
NAMES = ("tiny-sentiment", "tiny-entities", "tiny-questions")
sys.path.insert(0, str(ROOT / "tools" / "bundled_models"))

from head_tasks import HEADS, Head  # noqa: E402
from head_text import belongs, examples, marked, read, unmarked  # noqa: E402

# Written before the models were asked, and by nobody's grammar; so not all have to be right.
OPINIONS: list[tuple[str, str]] = [
    ("I loved this film.", "positive"),
    ("What a dreadful evening!", "negative"),
    ("The soup was cold and tasteless.", "negative"),
    ("The soup was not bad at all.", "positive"),
    ("The waiter was rude, but the cake was delicious.", "positive"),
    ("The cake was delicious, but the waiter was rude.", "negative"),
    ("At first I was bored, but the end was lovely.", "positive"),
    ("It is a very useful camera and I am happy with it.", "positive"),
    ("My sister hated the concert.", "negative"),
    ("Nobody in our family liked the hotel.", "negative"),
    ("The museum opens at nine.", "neutral"),
    ("Peter parked the car behind the house.", "neutral"),
    ("She has two brothers and lives in the city.", "neutral"),
    ("Although the room was small, we enjoyed our holiday.", "positive"),
    ("I never want to see that play again.", "negative"),
    ("This is the best pizza in town.", "positive"),
    ("The book was neither funny nor interesting.", "negative"),
    ("I do not think that the lesson was boring.", "positive"),
    ("Our teacher was not friendly.", "negative"),
    ("The letter came on Friday.", "neutral"),
    ("I thought the music would be awful, but it was wonderful.", "positive"),
    ("The trip was a disaster from beginning to end.", "negative"),
    ("We were proud and happy after the game.", "positive"),
    ("The shop sells bread and milk.", "neutral"),
]
TAGGED: list[tuple[str, list[tuple[str, str]]]] = [
    (
        "Mia carried the old lantern to Northbridge.",
        [("Mia", "PERSON"), ("lantern", "THING"), ("Northbridge", "PLACE")],
    ),
    ("Yesterday Karl and Lena swam in the lake.", [("Karl", "PERSON"), ("Lena", "PERSON"), ("lake", "PLACE")]),
    ("The captain hid a silver coin under the bridge.", [("coin", "THING"), ("bridge", "PLACE")]),
    ("Nobody knew where Theodora had put the scissors.", [("Theodora", "PERSON"), ("scissors", "THING")]),
    ('"Come to the castle with me," said Igor.', [("castle", "PLACE"), ("Igor", "PERSON")]),
    ("It was late and everyone was asleep.", []),
    ("My aunt bought a violin in Ashford.", [("violin", "THING"), ("Ashford", "PLACE")]),
    (
        "Behind the church, Samuel found a wet newspaper.",
        [("church", "PLACE"), ("Samuel", "PERSON"), ("newspaper", "THING")],
    ),
    ("Olga gave her bicycle to Ben before school.", [("Olga", "PERSON"), ("bicycle", "THING"), ("Ben", "PERSON")]),
    ("They waited at the airport until Miriam came.", [("airport", "PLACE"), ("Miriam", "PERSON")]),
    ("A young dog ran after the ball.", [("ball", "THING")]),
    ("The road to Whitby goes past a dark forest.", [("Whitby", "PLACE"), ("forest", "PLACE")]),
]
STORY = (
    "Nora found a blue lantern near the old mill. On Monday, Ben bought a drum. Nora gave the lantern to Tessa. "
    "Ben slept in the barn. Tessa was very happy."
)
ANSWERS: list[tuple[str, str]] = [
    ("What did Nora find?", "blue lantern"),
    ("Where did Nora find the lantern?", "near the old mill"),
    ("What did Ben buy?", "drum"),
    ("Where did Ben sleep?", "in the barn"),
    ("Who did Nora give the lantern to?", "Tessa"),
    ("What did Tessa eat?", ""),
    ("Where did Nora sleep?", ""),
    ("When did Nora find the lantern?", ""),
    ("What did Tessa buy?", ""),
    ("Where does Ben live?", ""),
]
OPINIONS_RIGHT, TEXTS_RIGHT, ANSWERS_RIGHT = 22, 10, 9


def by_backend(name: str, ask: Callable[[Llama], Any]) -> Any:
    """What a model says, once it is sure that every installed backend says the same."""
    found = {backend: ask(Llama.load(name, backend=backend, dtype="float32")) for backend in ALL_BACKENDS}
    assert len(found) >= 2
    assert all(said == found["reference"] for said in found.values()), found
    return found["reference"]


def right(found: Sequence[Any], wanted: Sequence[tuple[str, Any]]) -> int:
    return sum(said == told for said, (_, told) in zip(found, wanted, strict=True))


def test_opinions_written_by_hand() -> None:
    texts = [text for text, _ in OPINIONS]
    found = by_backend("tiny-sentiment", lambda llm: [label.label for label in llm.predict(texts)])
    assert right(found, OPINIONS) >= OPINIONS_RIGHT, found


def test_entities_written_by_hand() -> None:
    texts = [text for text, _ in TAGGED]

    def ask(llm: Llama) -> list[list[tuple[str, str]]]:
        return [[(e.word, e.label) for e in found] for found in llm.predict(texts, aggregation_strategy="average")]

    found = by_backend("tiny-entities", ask)
    assert right(found, TAGGED) >= TEXTS_RIGHT, found


def test_questions_written_by_hand() -> None:
    asked = {"question": [question for question, _ in ANSWERS], "context": [STORY] * len(ANSWERS)}

    def ask(llm: Llama) -> list[str]:
        return [answer.text for answer in llm.predict(**asked, handle_impossible_answer=True)]

    found = by_backend("tiny-questions", ask)
    assert right(found, ANSWERS) >= ANSWERS_RIGHT, found


@pytest.mark.parametrize("name", NAMES)
def test_every_backend_gives_the_reference_numbers(name: str) -> None:
    ids = np.array([[1, *range(200, 260)], [1, *range(1000, 1060)]])
    exact = Llama.load(name, backend="reference", dtype="float64").forward(ids).numpy()
    for backend in ALL_BACKENDS:
        found = Llama.load(name, backend=backend, dtype="float32").forward(ids).numpy()
        assert found.keys() == exact.keys()
        for field, values in exact.items():
            assert relative_error(found[field], values) < 2e-5, (backend, field)


def card(name: str) -> str:
    return (MODELS / name / "README.md").read_text("utf-8")


def card_scores(name: str) -> dict[str, dict[str, float]]:
    rows = re.findall(r"^\| by (seed|construction) \| ([^|]+) \| ([\d.]+) \| [\d.]+ \|$", card(name), re.MULTILINE)
    scores: dict[str, dict[str, float]] = {"heldout": {}, "unseen": {}}
    for kind, score, value in rows:
        scores[{"seed": "heldout", "construction": "unseen"}[kind]][score] = float(value)
    return scores


@pytest.mark.long
@pytest.mark.parametrize("head", HEADS.values(), ids=lambda head: head.folder)
def test_the_cards_scores_are_what_the_tool_measures(head: Head) -> None:
    pytest.importorskip("torch")
    from train_heads import RECIPES, scores_of

    found = scores_of(head, MODELS / head.folder, RECIPES[head.name].held_out)
    for split, scores in card_scores(head.folder).items():
        assert scores and found[split] == pytest.approx(scores, abs=0.002)


def test_better_than_looking_words_up() -> None:
    """The cards give what a table of words reaches; a model that is not far better would have learned nothing else."""
    for name in NAMES:
        rows = re.findall(
            r"^\| by \w+ \| (accuracy|F1|exact match) \| ([\d.]+) \| ([\d.]+) \|$", card(name), re.MULTILINE
        )
        assert rows
        for score, model, baseline in rows:
            assert 1 - float(model) < 0.5 * (1 - float(baseline)), (name, score)


def test_files_and_size() -> None:
    total = 0
    for name in NAMES:
        files = {file.name: file.stat().st_size for file in (MODELS / name).iterdir() if file.is_file()}
        assert set(files) == {
            "README.md",
            "config.json",
            "model.safetensors",
            "tokenizer.model",
            "tokenizer_config.json",
        }
        total += sum(files.values())
    assert total <= 6_000_000


def test_the_wheel_takes_them_along() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["polyllama"]
    packed = {file.relative_to(ROOT).as_posix() for pattern in patterns for file in ROOT.glob(pattern)}
    for name in NAMES:
        assert {f"models/{name}/{file.name}" for file in (MODELS / name).iterdir()} <= packed


@pytest.mark.parametrize("head", HEADS.values(), ids=lambda head: head.folder)
def test_the_registry_tells_what_they_are(head: Head) -> None:
    from polyllama.core.settings.schema import Settings
    from polyllama.core.sources.registry import load_registry

    entry = load_registry(Settings()).find(head.folder)
    llm = Llama.load(head.folder, backend="reference")
    assert (
        entry.parameters == sum(array.size for array in llm.model.params.values())
        if hasattr(llm.model, "params")
        else True
    )
    config = json.loads((MODELS / head.folder / "config.json").read_text())
    assert config["architectures"] == [head.architecture]
    assert entry.context == config["max_position_embeddings"]
    assert f"{entry.parameters:,} parameters" in card(head.folder)
    assert f"parameters={entry.parameters:,}" in repr(llm)


# The generators: what they say is so, and what is held out is not in the training texts.


@pytest.mark.parametrize("head", HEADS.values(), ids=lambda head: head.folder)
def test_texts_are_the_same_every_time_and_splits_share_none(head: Head) -> None:
    made = {split: list(head.examples(split, 400)) for split in ("train", "heldout", "unseen")}
    assert made["train"][100:120] == list(head.examples("train", 20, first=100))
    texts = {split: {whole_text(example) for example in group} for split, group in made.items()}
    assert not texts["train"] & texts["heldout"]
    assert not texts["train"] & texts["unseen"]
    for split in ("train", "heldout"):
        assert all(belongs(text, split) for text in texts[split])


@pytest.mark.parametrize("head", HEADS.values(), ids=lambda head: head.folder)
def test_held_out_words_are_not_in_training_texts(head: Head) -> None:
    words = read("words")
    held_out = {name for group in words["names"]["unseen"].values() for name in group}
    if head.name != "sentiment":  # whose opinions are about other things
        held_out |= {*words["things"]["unseen"], *words["places"]["unseen"]}
    seen = set(re.findall(r"\w+", " ".join(whole_text(example) for example in head.examples("train", 1500))))
    told = set(re.findall(r"\w+", " ".join(whole_text(example) for example in head.examples("unseen", 1500))))
    assert not seen & held_out
    assert len(told & held_out) > 40


def whole_text(example: Any) -> str:
    return f"{example.question} {example.context}" if hasattr(example, "question") else str(example.text)


def test_labels_stand_where_the_words_do() -> None:
    for tagged in HEADS["entities"].examples("train", 300):
        for entity in tagged.entities:
            assert re.fullmatch(r"\w[\w -]*\w|\w", tagged.text[entity.start : entity.end]), tagged
        names = [tagged.text[e.start : e.end] for e in tagged.entities if e.kind == "PERSON"]
        assert all(name[0].isupper() for name in names)
    answered = [question for question in HEADS["questions"].examples("train", 400) if question.answer]
    assert 200 < len(answered) < 360
    for question in answered:
        before, after = question.context[: question.start], question.context[question.end :]
        assert not re.search(r"\w$", before) and not re.match(r"\w", after), question


def test_every_token_of_an_answer_is_found_again() -> None:
    """Rows decode to their own labels: a model that were always right would score 1."""
    from polyllama.core.tokenizer.llama_tokenizer import load_tokenizer

    tokenizer = load_tokenizer(MODELS / "tiny")
    for head in HEADS.values():
        made = list(head.examples("heldout", 100)) + list(head.examples("unseen", 100))
        rows = head.rows(tokenizer, made)
        scores = head.scores(made, [head.decode(row, perfect_outputs(head, row)) for row in rows])
        assert scores and all(score == 1 for score in scores.values()), (head.name, scores)


def test_what_questions_name_is_found_in_their_passages() -> None:
    """What the hints say: the answer is what is asked for, and of the fact that the question is for."""
    made = [question for question in HEADS["questions"].examples("train", 300) if question.answer]
    direct = 0
    for question in made:
        told = {(slot, start, end): wanted for slot, start, end, _, wanted in question.told}
        assert any(told.values()), question
        direct += told.get((question.asked, question.start, question.end), False)
        for slot, start, end, alike, _ in question.told:
            if alike and slot in ("p", "q"):
                assert question.context[start:end].lower() in question.question.lower()
    assert direct > 0.6 * len(made)  # the others are named again, or are a colour


def perfect_outputs(head: Head, row: Any) -> dict[str, np.ndarray]:
    if head.name == "questions":
        places = np.eye(len(row.ids), dtype=np.float32)
        return {"start_logits": places[row.labels[0]], "end_logits": places[row.labels[1]]}
    return {"logits": 9 * np.eye(len(head.labels), dtype=np.float32)[np.maximum(row.labels, 0)]}


def test_marks() -> None:
    text = f"{marked('p', 'Uma', 'pt')} had a {marked('t', 'old kite', 'pt')}. it flew."
    plain, spans = unmarked(text, "pt")
    assert plain == "Uma had an old kite. It flew."
    assert [(span.slot, plain[span.start : span.end]) for span in spans] == [("p", "Uma"), ("t", "old kite")]
    with pytest.raises(ValueError, match="split is 'test'"):
        next(examples("x", "test", 1, lambda rng: None))
