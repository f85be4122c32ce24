"""What ended a text that is held to a constraint, and what the text means then."""

from __future__ import annotations

from typing import Any

import pytest
from polyllama import Generation, Llama

YES = ["yes", "yesterday"]


@pytest.fixture(scope="module")
def llm() -> Llama:
    return Llama.load("tiny", backend="cpu", dtype="float32")


def _ended(llm: Llama, **options: Any) -> Generation:
    found = llm.generate("Once", **options)
    assert isinstance(found, Generation)
    return found


@pytest.mark.parametrize("beams", [1, 2])
def test_a_stop_string_that_is_an_ending_id_cuts_nothing(llm: Llama, beams: int) -> None:
    soon: dict[str, Any] = {"sequence_bias": {(2,): 30.0}, "num_beams": beams, "max_new_tokens": 20}
    plain, stopped = (_ended(llm, choices=YES, **soon, **stop) for stop in ({}, {"stop": ["</s>"]}))
    assert (stopped.text, stopped.parsed, stopped.parse_error) == ("yes", "yes", None)
    assert (plain.text, plain.parsed) == ("yes", "yes") and stopped.stop_reason == "</s>"


@pytest.mark.parametrize("beams", [1, 2])
def test_a_criterion_that_is_true_at_the_complete_text(llm: Llama, beams: int) -> None:
    length = len(_ended(llm, choices=["yes"], max_new_tokens=20).token_ids)
    start = len(llm.tokenizer.encode("Once"))

    def after(ids: Any, scores: Any) -> bool:
        return bool(ids.shape[1] >= start + length)

    found = _ended(llm, choices=["yes"], num_beams=beams, stopping_criteria=[after], max_new_tokens=20)
    assert (found.text, found.parsed, found.parse_error, found.stop_reason) == ("yes", "yes", None, "after")


def test_what_ended_an_incomplete_text_is_said_by_its_kind(llm: Llama) -> None:
    def at_once(ids: Any, scores: Any) -> bool:
        return True

    first = _ended(llm, choices=["yes, it is"], max_new_tokens=20).token_ids[0]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"choices": ["a long answer"], "stop": ["long"]}, "the stop string 'long'"),
        ({"choices": ["yes"], "stop": ["yes"]}, "the stop string 'yes'"),
        ({"choices": ["a long answer"], "stopping_criteria": [at_once]}, "the stopping criterion at_once"),
        ({"choices": ["yes, it is"], "stop_token_ids": [first]}, f"stop id {first}"),
        ({"choices": ["a long answer"], "max_new_tokens": 1}, "a limit on its length or time"),
    ]
    for options, said in cases:
        found = _ended(llm, **{"max_new_tokens": 20, **options})
        assert (found.parsed, found.parse_error) == (None, f"{said} ended the text before choices was complete")
