"""Texts held to schemas, regular expressions, grammars and choices: valid by other judges, and equal in any company."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import jsonschema
import lark
import numpy as np
import pytest
from polyllama import Llama, PolyllamaError
from polyllama.core.constraints.asked import KINDS
from polyllama.core.constraints.compiling import _prepared, compiled, vocabulary_of
from polyllama.core.generation.scheduler import Scheduler
from polyllama.extend import GenerationError, UnsupportedError
from pydantic import BaseModel, field_validator
from schemas import DIGIT, SCHEMAS, record
from tiny_models import ALL_BACKENDS

MOST = 300
PHONE = r"[0-9]{3}-[0-9]{4}( ext\. [1-9])?"
SUMS = 'start: sum\nsum: NUMBER ("+" NUMBER)~1..3\nNUMBER: /[1-9][0-9]{0,2}/'


@pytest.fixture(scope="module")
def llm() -> Llama:
    return Llama.load("tiny", backend="cpu", dtype="float32")


# other judges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_sampled_text_follows_its_schema(llm: Llama, name: str) -> None:
    """jsonschema judges, which shares no line with what made the masks."""
    schema = SCHEMAS[name]
    check = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate
    options: dict[str, Any] = {"temperature": 1.5, "seed": 11, "max_new_tokens": MOST, "num_return_sequences": 24}
    found = llm.generate("Once", json_schema=schema, **options)
    for one in found:
        assert one.finish_reason == "stop" and one.parse_error is None, one
        check(json.loads(one.text))
        assert one.parsed == json.loads(one.text)
    assert len({one.text for one in found}) > 1 or name in ("const", "boolean")


@pytest.mark.long
@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_on_smollm2(smollm2: Path, name: str, request: pytest.FixtureRequest) -> None:
    if not hasattr(request.config, "constrained_smollm2"):
        request.config.constrained_smollm2 = Llama.load(smollm2, backend="cpu")  # type: ignore[attr-defined]
    big: Llama = request.config.constrained_smollm2  # type: ignore[attr-defined]
    asked = [{"role": "user", "content": "Give me some JSON."}]
    options: dict[str, Any] = {"temperature": 1.0, "seed": 5, "max_new_tokens": MOST, "num_return_sequences": 6}
    for one in big.chat(asked, json_schema=SCHEMAS[name], **options):
        assert one.finish_reason == "stop", one
        jsonschema.validate(json.loads(one.text), SCHEMAS[name])


def test_a_regular_expression_is_matched_whole(llm: Llama) -> None:
    texts = [one.text for one in llm.generate("Call", regex=PHONE, temperature=2.0, seed=3, num_return_sequences=20)]
    assert all(re.fullmatch(PHONE, text) for text in texts) and len(set(texts)) > 10


def test_a_grammar_is_followed(llm: Llama) -> None:
    parse = lark.Lark(SUMS).parse
    found = llm.generate("Count", grammar=SUMS, temperature=1.5, seed=3, num_return_sequences=20)
    for one in found:
        parse(one.text)
        assert one.parsed is None and one.parse_error is None
    assert len({one.text for one in found}) > 10


def test_one_of_the_choices(llm: Llama) -> None:
    choices = ["yes", "no", "no way", 'a "quoted"\nline', "größer"]
    found = llm.generate("Is it?", choices=choices, temperature=3.0, seed=1, num_return_sequences=40)
    assert {one.text for one in found} <= set(choices) and len({one.text for one in found}) > 2
    assert all(one.parsed == one.text for one in found)


class Fox(BaseModel):
    name: Literal["Rey", "Tod"]
    age: int

    @field_validator("age")
    @classmethod
    def young(cls, value: int) -> int:
        if value > 5:
            raise ValueError("too old")
        return value


def test_a_model_class_gives_its_instance_or_says_why_not(llm: Llama) -> None:
    found = llm.generate(
        "A fox", json_schema=Fox, temperature=1.5, seed=2, num_return_sequences=20, max_new_tokens=MOST
    )
    good = [one for one in found if one.parsed is not None]
    refused = [one for one in found if one.parse_error is not None and "too old" in one.parse_error]
    assert good and all(isinstance(one.parsed, Fox) and json.loads(one.text)["age"] <= 5 for one in good)
    assert refused and len(good) + len(refused) == len(found)
    assert all(set(json.loads(one.text)) == {"name", "age"} for one in found), (
        "a model's further names are not asked for"
    )


# the same everywhere --------------------------------------------------------------------------------------------------


def test_the_same_tokens_on_all_backends() -> None:
    options: dict[str, Any] = {"temperature": 1.0, "seed": 4, "max_new_tokens": 40}
    asked = [{"json_schema": SCHEMAS["record"]}, {"regex": PHONE}, {"grammar": SUMS}, {"choices": ["a", "an", "and"]}]
    found = {}
    for backend in ALL_BACKENDS:
        other = Llama.load("tiny", backend=backend, dtype="float32")
        found[backend] = [other.generate("Once", **constraint, **options).token_ids for constraint in asked]
    assert all(ids == found["reference"] for ids in found.values())


def test_rows_among_others_get_what_they_get_alone(llm: Llama) -> None:
    """Also those that are free, those that leave early, and those that wait because memory is short."""
    prompts = [llm.tokenizer.encode(text) for text in ("Once", "The sun was", "A", "One day a little girl", "Tom")]
    asked: list[dict[str, Any]] = [
        {"json_schema": SCHEMAS["nested"]},
        {},
        {"regex": "[a-z ]{40,60}"},
        {"choices": ["never", "ever"]},
        {"json_schema": SCHEMAS["array"], "temperature": 1.3, "seed": 9},
    ]
    alone = [
        Scheduler(llm.model, llm.tokenizer).submit(ids, max_new_tokens=60, **how).result()
        for ids, how in zip(prompts, asked, strict=True)
    ]
    per_token = Scheduler(llm.model, llm.tokenizer)._memory.per_token
    for memory in (None, 150 * per_token):
        scheduler = Scheduler(llm.model, llm.tokenizer, cache_memory=memory, first_capacity=16)
        jobs = [scheduler.submit(i, max_new_tokens=60, **how) for i, how in zip(prompts, asked, strict=True)]
        for job, one in zip(jobs, alone, strict=True):
            assert job.result().token_ids == one.token_ids
            assert job.result().parsed == one.parsed


@pytest.mark.parametrize("how", [{"prompt_lookup_num_tokens": 6}, {"assistant_model": "tiny"}])
@pytest.mark.parametrize("sampled", [{}, {"temperature": 0.9, "seed": 8}])
def test_guesses_are_checked_through_the_mask(llm: Llama, how: dict[str, Any], sampled: dict[str, Any]) -> None:
    schema = {
        "type": "array",
        "items": record(x=DIGIT, name={"type": "string", "maxLength": 4}),
        "minItems": 5,
        "maxItems": 5,
    }
    plain = llm.generate('[{"x": 1, "name"', json_schema=schema, max_new_tokens=MOST, **sampled)
    guessed = llm.generate('[{"x": 1, "name"', json_schema=schema, max_new_tokens=MOST, **sampled, **how)
    assert guessed.token_ids == plain.token_ids and guessed.parsed == plain.parsed
    assert guessed.stats.proposed_tokens > 0


def test_a_stream_and_an_array_are_held_too(llm: Llama) -> None:
    whole = llm.generate("Once", json_schema=SCHEMAS["record"], max_new_tokens=MOST)
    pieces = llm.stream("Once", json_schema=SCHEMAS["record"], max_new_tokens=MOST)
    assert "".join(pieces) == whole.text
    assert pieces.result is not None and pieces.result.parsed == whole.parsed
    ids = np.array([llm.tokenizer.encode("Once")])
    rows = llm.generate(ids, json_schema=SCHEMAS["record"], max_new_tokens=MOST)
    assert rows[0, ids.shape[1] :].tolist() == whole.token_ids


def test_an_empty_prompt_begins_with_the_text_itself(llm: Llama) -> None:
    """The space that decoding drops at a text's beginning must not be one that the constraint counts."""
    for regex in ("[ a-z]{5}", " ?[a-z]{1,6}!"):
        for one in llm.generate("", regex=regex, temperature=2.0, seed=1, num_return_sequences=20):
            assert re.fullmatch(regex, one.text), one
    with pytest.raises(GenerationError, match="regex and the other options leave no token possible"):
        llm.generate("", regex=" a")
    assert llm.generate("Once", regex=" a").text == " a"


# the end --------------------------------------------------------------------------------------------------------------


def test_the_end_comes_where_the_text_may_end(llm: Llama) -> None:
    eos = llm.tokenizer.eos_token_id
    whole = llm.generate("One", regex="ab")
    assert (whole.text, whole.finish_reason, whole.stop_reason) == ("ab", "stop", None) and eos not in whole.token_ids
    open_ended = llm.generate("One", regex="[0-9]+", logit_bias={eos: 1000.0})
    assert len(open_ended.text) >= 1 and open_ended.stop_reason == eos
    for regex, ending in (("[0-9]+", []), ("[0-9]{2,4}", [])):
        endless = llm.generate("One", regex=regex, eos_token_id=ending, max_new_tokens=9)
        assert re.fullmatch(regex, endless.text) and eos not in endless.token_ids
    longest = llm.generate("One", regex="[0-9]{4}", eos_token_id=[], max_new_tokens=9)
    assert (len(longest.text), longest.finish_reason) == (4, "stop")


def test_a_text_that_was_cut_off_says_so(llm: Llama) -> None:
    cut = llm.generate("Once", json_schema=SCHEMAS["nested"], max_new_tokens=4)
    assert (cut.finish_reason, cut.parsed) == ("length", None)
    assert cut.parse_error == "a limit on its length or time ended the text before json_schema was complete"
    stopped = llm.generate("Once", json_schema=record(a={"const": "x.y"}), stop=".", max_new_tokens=MOST)
    assert (stopped.finish_reason, stopped.stop_reason, stopped.parsed) == ("stop", ".", None)
    assert "the stop string '.' ended the text" in str(stopped.parse_error)
    number = llm.generate("Once", regex="[0-9]+", max_new_tokens=2, min_new_tokens=2)
    assert number.parse_error is None


def test_special_tokens_in_the_text_are_no_part_of_the_value(llm: Llama) -> None:
    eos = llm.tokenizer.eos_token_id
    options: dict[str, Any] = {"skip_special_tokens": False, "logit_bias": {eos: 1000.0}, "max_new_tokens": 30}
    shown = llm.generate("Once", json_schema={"type": "integer", "minimum": 1}, **options)
    assert shown.text.endswith("</s>") and isinstance(shown.parsed, int)


# beside other options -------------------------------------------------------------------------------------------------


def test_other_options_keep_their_meaning(llm: Llama) -> None:
    letter = llm.tokenizer.encode("b", add_special_tokens=False)[-1]
    assert "b" in llm.generate("Once", regex="[ab]{6}", logit_bias={letter: 100.0}).text
    with_b = [i for i in range(len(llm.tokenizer)) if b"b" in (llm.tokenizer.token_bytes(i) or b"")]
    assert llm.generate("Once", regex="[ab]{6}", suppress_tokens=with_b, temperature=2.0, seed=1).text == "aaaaaa"
    long = llm.generate("Once", regex="a{1,30}", min_new_tokens=12, max_new_tokens=40)
    assert len(long.token_ids) >= 12
    for option in ({"repetition_penalty": 1.5}, {"frequency_penalty": 1.0}, {"top_k": 3, "seed": 1}):
        one = llm.generate("Once", json_schema=SCHEMAS["record"], max_new_tokens=MOST, **option)
        jsonschema.validate(json.loads(one.text), SCHEMAS["record"])


def test_contradictions_are_that_jobs_error(llm: Llama) -> None:
    letters = [i for i in range(len(llm.tokenizer)) if b"a" in (llm.tokenizer.token_bytes(i) or b"")]
    scheduler = Scheduler(llm.model, llm.tokenizer)
    prompt = llm.tokenizer.encode("Once")
    wrong = scheduler.submit(prompt, regex="xa", suppress_tokens=letters, max_new_tokens=8)
    short = scheduler.submit(prompt, regex="xa", min_new_tokens=8, max_new_tokens=8)
    good = scheduler.submit(prompt, regex="xa", max_new_tokens=8)
    assert good.result().text == "xa"
    with pytest.raises(GenerationError, match="regex and the other options leave no token possible"):
        wrong.result()
    with pytest.raises(GenerationError, match=r"regex lets nothing follow after . tokens, and at least 8"):
        short.result()


# what is wrong is said at once ----------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"json_schema": {"type": "strin"}}, "json_schema: Invalid type: strin"),
    ({"json_schema": record(a={"type": "array", "items": {"not": {}}})}, r"json_schema at /properties/a/items: .*not"),
    ({"json_schema": record(**{"a/b": {"uniqueItems": True}})}, r"at /properties/a~1b: .*uniqueItems.*leave these"),
    ({"json_schema": {"$ref": "#/$defs/x"}}, "json_schema: .*x"),
    ({"json_schema": {"enum": []}}, "Unsatisfiable"),
    (
        {"json_schema": {"type": "array", "items": {"type": "string"}, "minItems": 3, "maxItems": 2}},
        "Unsatisf|minItems",
    ),
    ({"json_schema": "{"}, "json_schema is no JSON: .*line 1 column 2"),
    ({"json_schema": {"const": object()}}, "json_schema holds what JSON cannot say"),
    ({"json_schema": {"const": "x" * 1_000_001}}, "1,000,0.. characters long; at most 1,000,000"),
    ({"json_schema": 3}, "json_schema.* is 3; wanted a JSON schema"),
    ({"regex": "a(b"}, "regex: at character 2: unclosed group"),
    ({"regex": "(?=a)b"}, "regex: .*look-around"),
    ({"regex": ""}, "regex"),
    ({"grammar": "start: foo"}, r'grammar: line 1, character 8: unknown name: "foo"'),
    ({"choices": []}, "choices"),
    ({"choices": "yes"}, "wanted a list of strings"),
    ({"regex": "a", "choices": ["a"]}, "regex and choices are two constraints"),
    ({"guided_json": {}}, "did you mean 'json_schema'"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_what_is_wrong_and_where(llm: Llama, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(PolyllamaError, match=message):
        llm.scheduler.submit(llm.tokenizer.encode("Once"), **wrong)
    assert llm.generate("Once", regex="ok").text == "ok"


def test_deep_schemas_are_refused_and_not_a_crash(llm: Llama) -> None:
    deep: Any = {"type": "integer"}
    for _ in range(5_000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(GenerationError, match=r"nested too deeply|recursion"):
        llm.generate("Once", json_schema=deep)
    text = '{"items":' * 3_000 + "{}" + "}" * 3_000
    with pytest.raises(GenerationError, match=r"nested too deeply|recursion"):
        llm.generate("Once", json_schema=text)
    loop: dict[str, Any] = {}
    loop["items"] = loop
    with pytest.raises(GenerationError, match=r"nested too deeply|cannot say"):
        llm.generate("Once", json_schema=loop)


@pytest.mark.parametrize(
    "regex", ["((a{1,500}){1,500}){1,500}", "(a|aa)*(b|bb)*(a?){300}c", "(x+x+)+y", "(.{0,900}a){60}"]
)
def test_hostile_expressions_end_in_time(llm: Llama, regex: str) -> None:
    """Either the text comes, or an error that names the limit; never minutes."""
    try:
        found = llm.generate("Once", regex=regex, max_new_tokens=20)
    except GenerationError as error:
        assert "regex" in str(error)
    else:
        assert found.token_ids


def test_a_stream_does_not_go_on_from_another_under_a_constraint(llm: Llama) -> None:
    first = llm.stream("Once", regex="a{20}", max_new_tokens=4, open_end=True)
    list(first)
    with pytest.raises(GenerationError, match="goes on from another stream"):
        llm.stream("Once", regex="a{20}", after=first)


def test_without_a_tokenizer_or_with_anothers(llm: Llama) -> None:
    with pytest.raises(GenerationError, match="regex needs a tokenizer"):
        Scheduler(llm.model).submit([1, 5], regex="a")

    class Foreign:
        def encode(self, text: str, **options: Any) -> list[int]:
            return []

        def decode(self, ids: Any, **options: Any) -> str:
            return ""

    with pytest.raises(GenerationError, match="bytes of each token"):
        llm.generate("Once", regex="a", tokenizer=Foreign())


def test_the_library_may_be_missing(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UnsupportedError, match=r"need the library llguidance.*polyllama\[constraints\]"):
        llm.generate("Once", regex="never compiled before")


# what is kept ---------------------------------------------------------------------------------------------------------


def test_compiled_once_for_a_tokenizer_and_forgotten_with_it() -> None:
    import gc

    from polyllama.core.constraints.asked import Asked
    from polyllama.core.tokenizer import load_tokenizer

    folder = Path(__import__("polyllama").__file__).parent / "models" / "tiny"
    tokenizer = load_tokenizer(folder)
    asked = Asked("regex", "abc")
    assert compiled(asked, tokenizer, 1792) is compiled(Asked("regex", "abc"), tokenizer, 1792)
    assert vocabulary_of(tokenizer, 1792) is vocabulary_of(tokenizer, 1792)
    before = len(_prepared)
    del tokenizer
    gc.collect()
    assert len(_prepared) == before - 1


def test_every_kind_is_an_option(llm: Llama) -> None:
    from polyllama.core.generation.option_rules import OPTION_RULES

    assert set(KINDS) <= set(OPTION_RULES)


def test_rows_of_an_array_that_end_before_others_are_padded(llm: Llama) -> None:
    """With scores, which go on with padding that no constraint knows."""
    ids = np.array([llm.tokenizer.encode(text) for text in ("Once", "Tom", "She", "A")])
    options: dict[str, Any] = {"do_sample": True, "temperature": 1.5, "seed": 2, "max_new_tokens": 40}
    for constraint in ({"regex": "[ab]{2,9}"}, {"regex": "(a|b){9}", "stop": "ab"}, {"choices": ["a", "abc", "b a b"]}):
        kept = llm.generate(ids, return_dict_in_generate=True, output_scores=True, **constraint, **options)
        alone = [llm.scheduler.submit(row, **constraint, **options).result() for row in ids.tolist()[:1]]
        assert kept.sequences[0, ids.shape[1] :].tolist()[: len(alone[0].token_ids)] == alone[0].token_ids
        assert len(kept.scores) == kept.sequences.shape[1] - ids.shape[1]


def test_many_threads_share_what_was_compiled(llm: Llama) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> str:
        options: dict[str, Any] = {"temperature": 1.0, "seed": number}
        return str(llm.generate("Once", regex=f"[a-z]{{{number % 5 + 3}}}", **options).text)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(one, range(16)))
    assert [len(text) for text in found] == [number % 5 + 3 for number in range(16)]
    assert found == [one(number) for number in range(16)]
