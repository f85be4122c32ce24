"""A caller's own code at every step: transformers' objects and ours, which arrays it gets, what goes wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import polyllama
import pytest
import torch
from generation_twins import EOS, VOCAB
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import Llama, LogitsProcessor, LogitsProcessorList, PolyllamaWarning, StoppingCriteria
from polyllama.core.array_kinds import kind_of
from polyllama.core.errors import GenerationError
from polyllama.core.generation.callables import NUMPY, ArrayKind, CallerCode, CustomProcessor, array_kind

pytestmark = [
    pytest.mark.filterwarnings("ignore:generated texts stay empty"),
    pytest.mark.usefixtures("unsaid"),
]

IDS = torch.tensor([[9, 10, 11, 12, 13, 14], [5, 6, 7, 8, 9, 9]])


@pytest.fixture(scope="module")
def llm(twin_folder):
    return Llama.load(twin_folder, backend="reference", dtype="float32")


def wanted(model: Any, *arguments: Any, **options: Any) -> list[list[int]]:
    """What transformers gives, without what it says beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(*arguments, **options).tolist()


# -------------------------------------------------------------------------------- transformers' own, and ours like them

MADE = {  # both have them
    "MinLengthLogitsProcessor": (9, EOS),
    "MinNewTokensLengthLogitsProcessor": (6, 3, [EOS, 30]),
    "TemperatureLogitsWarper": (0.7,),
    "TopKLogitsWarper": (3,),
    "TopPLogitsWarper": (0.6,),
    "RepetitionPenaltyLogitsProcessor": (1.4,),
    "NoRepeatNGramLogitsProcessor": (1,),
    "SuppressTokensLogitsProcessor": ([8, 20, 40],),
}
FOREIGN = {  # transformers' alone
    "SequenceBiasLogitsProcessor": ([[[8], 3.0], [[8, 8], -50.0]],),
    "NoBadWordsLogitsProcessor": ([[8], [9, 10]],),
    "ForcedEOSTokenLogitsProcessor": (12, EOS),
    "ExponentialDecayLengthPenalty": ((2, 1.5), EOS, 6),
    "LogitNormalization": (),
    "WatermarkLogitsProcessor": (VOCAB, "cpu"),
    "EpsilonLogitsWarper": (0.05,),
}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([*MADE, *FOREIGN]), min_size=1, max_size=4, unique=True),
    st.booleans(),
    st.sampled_from([{}, {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2}, {"suppress_tokens": [9, 12]}]),
)
@pytest.mark.filterwarnings("ignore:.*that is given takes its place")
def test_any_processors_give_transformers_tokens(llm, theirs, names, of_ours, more):
    from transformers.generation import logits_process

    def made(ours: bool) -> list[Any]:
        homes = [polyllama if ours and name in MADE else logits_process for name in names]
        return [getattr(home, name)(*{**MADE, **FOREIGN}[name]) for home, name in zip(homes, names, strict=True)]

    theirs_list = logits_process.LogitsProcessorList(made(False))
    expected = wanted(theirs, IDS, logits_processor=theirs_list, max_new_tokens=8, **more)
    given_list = LogitsProcessorList(made(of_ours)) if of_ours else logits_process.LogitsProcessorList(made(False))
    assert llm.generate(IDS, logits_processor=given_list, max_new_tokens=8, **more).tolist() == expected


@pytest.mark.parametrize("name", MADE)
def test_ours_are_theirs_by_themselves_on_any_arrays(name):
    from transformers.generation import logits_process

    random = np.random.default_rng(0)
    ids, scores = random.integers(3, VOCAB, (2, 7)), random.normal(size=(2, VOCAB)).astype(np.float32) * 3
    expected = getattr(logits_process, name)(*MADE[name])(torch.tensor(ids), torch.tensor(scores))
    processor = getattr(polyllama, name)(*MADE[name])
    found = processor(torch.tensor(ids), torch.tensor(scores))
    torch.testing.assert_close(found, expected)
    assert np.array_equal(processor(ids, scores), found.numpy())
    listed = LogitsProcessorList([processor, lambda ids, scores: scores + 1])
    torch.testing.assert_close(listed(torch.tensor(ids), torch.tensor(scores)), expected + 1)


def test_one_that_an_option_makes_too_takes_its_place(llm, theirs):
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    # Before bad_words_ids, in the place of the option's: it would change what is forbidden otherwise.
    asked = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "max_new_tokens": 8}
    processors = [RepetitionPenaltyLogitsProcessor(0.5)]
    expected = wanted(theirs, IDS, logits_processor=processors, **asked)
    with pytest.warns(PolyllamaWarning, match="repetition_penalty=5.0 without effect: the RepetitionPenaltyLogitsProc"):
        assert llm.generate(IDS, logits_processor=processors, **asked).tolist() == expected


CRITERIA = {
    "MaxLengthCriteria": (9,),
    "EosTokenCriteria": (list(range(20, 35)),),
    "MaxTimeCriteria": (1e6,),
}


@pytest.mark.parametrize("home", ["polyllama", "transformers.generation.stopping_criteria"])
@pytest.mark.parametrize("names", [[name] for name in CRITERIA] + [list(CRITERIA)], ids="+".join)
@pytest.mark.parametrize("limit", [{}, {"max_new_tokens": 5}, {"max_length": 300}], ids=str)
@pytest.mark.filterwarnings("ignore:.*MaxLengthCriteria takes its place")
def test_criteria_stop_where_transformers_stops(llm, theirs, home, names, limit):
    import importlib

    from transformers.generation import stopping_criteria

    if "MaxLengthCriteria" not in names and "max_new_tokens" not in limit:
        limit = {"max_new_tokens": 12}
    made = [getattr(stopping_criteria, name)(*CRITERIA[name]) for name in names]
    kind = importlib.import_module(home)
    given_list = kind.StoppingCriteriaList([getattr(kind, name)(*CRITERIA[name]) for name in names])
    expected = wanted(theirs, IDS, stopping_criteria=stopping_criteria.StoppingCriteriaList(made), **limit)
    assert llm.generate(IDS, stopping_criteria=given_list, **limit).tolist() == expected


def test_a_limit_that_a_criterion_sets_aside_is_said(llm):
    with pytest.warns(PolyllamaWarning, match="max_new_tokens=3 without effect: MaxLengthCriteria takes its place"):
        found = llm.generate(
            [5, 6], max_new_tokens=3, eos_token_id=[], stopping_criteria=[polyllama.MaxLengthCriteria(9)]
        )
    assert len(found.token_ids) == 7 and found.finish_reason == "length"
    assert len(llm.generate([5, 6, 7], stopping_criteria=[polyllama.MaxLengthCriteria(2)]).token_ids) == 1


def test_stop_strings_of_transformers_and_ours():
    from transformers import AutoTokenizer, StopStringCriteria

    tiny = Llama.load("tiny", backend="reference")
    tokenizer = AutoTokenizer.from_pretrained(tiny._loaded.folder)
    text = tiny.generate("Once upon a time", max_new_tokens=30).text
    word = text.split()[3]
    for criterion in (StopStringCriteria(tokenizer, [word]), polyllama.StopStringCriteria(tiny.tokenizer, [word])):
        found = tiny.generate("Once upon a time", max_new_tokens=30, stopping_criteria=[criterion])
        assert text.startswith(found.text) and found.text.endswith(word)
        assert (found.finish_reason, found.stop_reason) == ("stop", "StopStringCriteria")


def test_criteria_of_a_users_see_scores_where_they_are_kept(llm, theirs):
    steps: list[Any] = []

    def third(input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        steps.append(None if scores is None else [step.shape for step in scores])
        return torch.tensor([input_ids.shape[1] >= 9] * input_ids.shape[0])

    expected = wanted(theirs, IDS[:1], stopping_criteria=[third], max_new_tokens=9)
    for more, kept in (({}, [None] * 3), ({"return_dict_in_generate": True, "output_scores": True}, [[(1, 61)] * 3])):
        steps.clear()
        found = llm.generate(IDS[:1], stopping_criteria=[third], max_new_tokens=9, **more)
        assert (found.sequences if more else found).tolist() == expected
        assert steps[-len(kept) :] == kept
    lists = llm.generate(IDS.tolist(), stopping_criteria=[third], max_new_tokens=9)
    assert [(len(each.token_ids), each.stop_reason) for each in lists] == [(3, "third")] * 2


def test_a_list_of_criteria_by_itself():
    criteria = polyllama.StoppingCriteriaList([polyllama.MaxLengthCriteria(4), polyllama.EosTokenCriteria(7)])
    assert criteria(torch.tensor([[1, 7], [7, 1]]), None).tolist() == [True, False]
    assert criteria.max_length == 4 and polyllama.StoppingCriteriaList().max_length is None
    with pytest.raises(NotImplementedError, match="StoppingCriteria is to define __call__"):
        StoppingCriteria()(None, None)
    with pytest.raises(NotImplementedError, match="LogitsProcessor is to define __call__"):
        LogitsProcessor()(None, None)


# --------------------------------------------------------------------------------------------- which arrays, which rows


class Typed(LogitsProcessor):
    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return scores


class Asking(LogitsProcessor):
    array_kind = "jax"

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> Any:
        return scores


def unknown(input_ids, scores):
    return scores


def optional(input_ids: torch.LongTensor | None, scores: Any) -> Any:
    return scores


def test_which_arrays_code_is_given():
    from transformers import TemperatureLogitsWarper

    for code, kind in (
        (Typed(), "torch"), (Asking(), "jax"), (optional, "torch"), (Typed().__call__, "torch"),
        (TemperatureLogitsWarper(2.0), "torch"), (type("Own", (TemperatureLogitsWarper,), {})(2.0), "torch"),
        (polyllama.TopKLogitsWarper(3), "numpy"),
    ):  # fmt: skip
        assert array_kind(code, ArrayKind("mlx")).kind == kind
    for code in (unknown, partial(unknown), LogitsProcessor()):
        assert array_kind(code, ArrayKind("mlx")).kind == "mlx" and array_kind(code) is NUMPY
    device = ArrayKind("torch", torch.device("cpu"))
    assert array_kind(Typed(), device) is device
    wrong = Asking()
    wrong.array_kind = "tensorflow"
    with pytest.raises(GenerationError, match=r"Asking.array_kind is 'tensorflow', which names no framework"):
        array_kind(wrong)


def test_each_row_is_called_by_itself_with_what_it_has(llm):
    seen: list[tuple[str, list[int], tuple[int, ...], str]] = []

    def look(input_ids: Any, scores: Any) -> Any:
        seen.append((kind_of(scores), input_ids[0].tolist(), tuple(scores.shape), str(scores.dtype)))
        return scores

    prompts = [[5, 6], [9, 10, 11, 12]]
    plain = llm.generate(prompts, max_new_tokens=3)
    found = llm.generate(prompts, max_new_tokens=3, logits_processor=look)
    assert [each.token_ids for each in found] == [each.token_ids for each in plain]
    expected = [
        ("numpy", [*prompt, *result.token_ids[:step]], (1, VOCAB), "float32")
        for step in range(3)
        for prompt, result in zip(prompts, plain, strict=True)
    ]
    assert seen == expected
    seen.clear()
    padded = torch.tensor([[0, 0, 5, 6], [9, 10, 11, 12]])
    llm.generate(padded, attention_mask=(padded != 0).long(), max_new_tokens=1, logits_processor=[look])
    assert [(kind, ids, dtype) for kind, ids, _, dtype in seen] == [
        ("torch", prompt, "torch.float32") for prompt in prompts
    ]


class Counting(LogitsProcessor):
    """Makes the n-th token n: what it keeps is of one text."""

    def __init__(self) -> None:
        self.steps = 0
        self.kept: dict[str, list[int]] = {"ids": []}
        self.tensor = torch.zeros(1)

    def __call__(self, input_ids, scores):
        self.kept["ids"].append(int(input_ids[0, -1]))
        scores[:, 10 + self.steps + 0 * int(self.tensor)] = 100.0
        self.steps += 1
        self.tensor += 1
        return scores


@pytest.mark.parametrize("more", [{}, {"prompt_lookup_num_tokens": 4}, {"batch_size": 1}], ids=str)
def test_rows_have_copies_of_what_has_a_state_and_the_first_the_object_itself(llm, more):
    counting = Counting()
    found = llm.generate([[5, 6], [7]], max_new_tokens=4, logits_processor=[counting], **more)
    assert [each.token_ids for each in found] == [[10, 11, 12, 13]] * 2
    assert counting.kept == {"ids": [6, 10, 11, 12]} and counting.steps == int(counting.tensor) == 4


def test_recorded_steps_call_once(llm):
    recorded = {"return_dict_in_generate": True, "output_scores": True}
    found = llm.generate(IDS, max_new_tokens=4, logits_processor=[Counting()], **recorded)
    assert found.sequences[:, 6:].tolist() == [[10, 11, 12, 13]] * 2
    assert [int(step.argmax()) for step in found.scores] == [10, 11, 12, 13]


def test_a_fork_goes_its_own_way():
    state = CustomProcessor(Counting(), NUMPY, [5], 0)
    state.apply(np.zeros(VOCAB))
    other = state.fork()
    for each, token_id in ((state, 20), (other, 21)):
        each.append(token_id)
        row = np.zeros(VOCAB)
        each.apply(row)
        assert row.argmax() == 11
    assert state._code.call.kept["ids"] == [5, 20] and other._code.call.kept["ids"] == [5, 21]

    class Forked(Counting):
        def fork(self):
            return self

    shared = Forked()
    assert CustomProcessor(shared, NUMPY, [5], 0).fork()._code.call is shared
    criteria = CallerCode(criteria=[lambda ids, scores: ids[0, 1] == 8]).of_row([5], 1)[2]
    assert [criteria.fork().met(token_id, None) for token_id in (8, 9)] == ["<lambda>", None]


def test_what_it_leaves_alone_keeps_its_digits():
    row = np.array([1 / 3, 2 / 3, 0.1])

    def middle(input_ids, scores):
        scores[0, 1] = 5
        return scores

    CustomProcessor(middle, NUMPY, [1], 0).apply(row)
    assert row.tolist() == [1 / 3, 5.0, 0.1]


# -------------------------------------------------------------------------------------------------- what goes wrong


def broken(input_ids, scores):
    raise ZeroDivisionError("by nothing")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (broken, "row 0, step 0: logits_processor broken failed with ZeroDivisionError: by nothing"),
        (lambda ids, scores: None, r"logits_processor <lambda> returned None; wanted an array of floats \[1, 61\]"),
        (lambda ids, scores: scores[0], r"returned float32 of shape \[61\]; wanted"),
        (lambda ids, scores: scores > 0, r"returned bool of shape \[1, 61\]; wanted"),
        (lambda ids, scores: scores * np.nan, "returned NaN; wanted numbers, or -inf"),
        (lambda ids, scores: scores + np.inf, "returned inf; wanted numbers: a token is certain where"),
        (
            lambda ids, scores: scores - np.inf,
            "no token is possible, every logit is -inf; loosen logit_bias, logits",
        ),
        (lambda ids, scores, more: scores, "failed with TypeError: .*more"),
    ],
)
def test_a_processor_that_goes_wrong_is_named_and_is_its_jobs_alone(llm, code: Callable[..., Any], message: str):
    jobs = [llm.scheduler.submit([5, 6], max_new_tokens=3, **more) for more in ({}, {"logits_processor": [code]})]
    assert len(jobs[0].result().token_ids) == 3
    with pytest.raises(GenerationError, match=message):
        jobs[1].result()
    with pytest.raises(GenerationError, match=message):
        llm.generate(IDS, max_new_tokens=3, logits_processor=[code])


def test_an_error_has_its_cause_and_where_it_was(llm):
    with pytest.raises(GenerationError) as error:
        llm.generate([5], max_new_tokens=1, logits_processor=[broken])
    assert isinstance(error.value.__cause__, ZeroDivisionError) and error.value.__cause__.__traceback__ is None
    assert "in broken" in error.value.__notes__[0] and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        (
            "stopping_criteria",
            [lambda ids, scores: None],
            "stopping_criteria <lambda> returned None; wanted True",
        ),
        ("stopping_criteria", [lambda ids, scores: [1, 2]], r"returned \[1, 2\]; wanted True or False"),
        ("stopping_criteria", [broken], "step 0: stopping_criteria broken failed with ZeroDivisionError"),
        (
            "prefix_allowed_tokens_fn",
            lambda row, ids: [],
            r"returned \[\]; wanted a list of ids",
        ),
        ("prefix_allowed_tokens_fn", lambda row, ids: [61], r"returned \[61\]; wanted"),
        ("prefix_allowed_tokens_fn", lambda row, ids: None, "returned None; wanted a list of token ids"),
        ("prefix_allowed_tokens_fn", broken, "prefix_allowed_tokens_fn broken failed with ZeroDivisionError"),
    ],
)
def test_criteria_and_allowed_tokens_that_go_wrong_are_named(llm, option, code, message):
    with pytest.raises(GenerationError, match=message):
        llm.generate([5, 6], max_new_tokens=2, **{option: code})


def test_allowed_tokens_that_nothing_else_allows_are_forced(llm, theirs):
    asked = {"max_new_tokens": 3, "bad_words_ids": [[7], [8]], "prefix_allowed_tokens_fn": lambda row, ids: [7, 8]}
    assert llm.generate(IDS, **asked).tolist() == wanted(theirs, IDS, **asked)
    ours = llm.generate(IDS.tolist(), max_new_tokens=2, prefix_allowed_tokens_fn=lambda row, ids: np.array([40 + row]))
    assert [each.token_ids for each in ours] == [[40, 40], [41, 41]]


def test_a_processor_cannot_generate_with_the_model_whose_step_it_is_in(llm):
    def nested(input_ids, scores):
        llm.generate([5], max_new_tokens=1)
        return scores

    with pytest.raises(GenerationError, match=r"logits_processor nested failed with GenerationError: .* inside a step"):
        llm.generate([5, 6], max_new_tokens=2, logits_processor=[nested])
    assert len(llm.generate([5, 6], max_new_tokens=2).token_ids) == 2


@pytest.mark.parametrize(("beams", "calls"), [(1, 4), (2, 0)])
def test_every_beam_has_a_copy_and_else_the_first_row_the_object_itself(beams: int, calls: int) -> None:
    class Counts:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            self.calls += 1
            return scores if scores is not None else False

    llm, processor, criterion = Llama.load("tiny", backend="reference"), Counts(), Counts()
    llm.generate("Once", logits_processor=[processor], stopping_criteria=[criterion], num_beams=beams, max_new_tokens=4)
    assert (processor.calls, criterion.calls) == (calls, calls)
