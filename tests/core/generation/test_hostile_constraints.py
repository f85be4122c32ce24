"""Constraints that nobody should give: what has no text, no end of rules, or characters that no text has."""

from __future__ import annotations

import string
import threading
from typing import Any

import pytest
from polyllama import Llama
from polyllama.core.errors import GenerationError

pytest.importorskip("llguidance")


@pytest.fixture(scope="module")
def llm() -> Llama:
    return Llama.load("tiny", backend="cpu", dtype="float32")


def chain_of_rules(count: int) -> Any:
    rules = (f'r{i}: "a" r{i + 1} | "b" r{i + 1}' for i in range(count))
    return "start: r0\n" + "\n".join(rules) + f'\nr{count}: "c"'


def chain_of_schemas(count: int) -> Any:
    parts = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**parts, f"d{count}": {"type": "integer"}}}


@pytest.mark.parametrize("asked", [{"grammar": chain_of_rules(12000)}, {"json_schema": chain_of_schemas(6000)}])
@pytest.mark.parametrize("aside", [False, True])
def test_rules_behind_rules_do_not_end_the_process(llm: Llama, asked: Any, aside: bool) -> None:
    texts: list[str] = []

    def ask() -> None:
        texts.append(llm.generate("Once", max_new_tokens=3, **asked).text)

    if aside:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(120)
    else:
        ask()
    assert len(texts[0]) >= 3 and set(texts[0]) <= set("ab[ \n")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"json_schema": {"$ref": "#"}}, "json_schema: no text follows it"),
        ({"regex": r"[^\s\S]"}, "regex: no text follows it"),
        ({"grammar": "start: start"}, "grammar: no text follows it"),
        ({"regex": "\ud800"}, "regex holds half of a surrogate pair"),
        ({"grammar": 'start: "\udfff"'}, "grammar holds half of a surrogate pair"),
        ({"choices": ["a", "b\ud800"]}, "choices holds half of a surrogate pair"),
        ({"json_schema": {"properties": {"\ud800": {}}}}, "json_schema holds half of a surrogate pair"),
        ({"json_schema": {"const": float("nan")}}, "json_schema holds what JSON cannot say"),
        ({"json_schema": '{"maximum": Infinity}'}, "json_schema holds what JSON cannot say"),
    ],
)
def test_what_no_text_follows_is_said(llm: Llama, asked: Any, said: str) -> None:
    with pytest.raises(GenerationError, match=said):
        llm.generate("Once", max_new_tokens=4, **asked)


@pytest.mark.parametrize("schema", [True, "true"])
def test_a_schema_may_allow_everything(llm: Llama, schema: Any) -> None:
    like = llm.generate("Once", json_schema={}, max_new_tokens=8)
    assert llm.generate("Once", json_schema=schema, max_new_tokens=8).text == like.text


ODD = [
    *map(chr, range(128)),
    "a\r\nb",
    "/",
    "//",
    "\\/",
    "\\d",
    "é日😀",
    "\u2028",
    "(?i)a",
    "a-b&&c~~d",
    "{2}",
    "# x",
    "%json",
]


def test_choices_may_hold_any_characters(llm: Llama) -> None:
    for text in ODD:
        choices = [text, text + "x"]
        found = llm.generate("Once", choices=choices, max_new_tokens=20)
        assert found.text in choices and found.parsed == found.text


def test_choices_may_look_like_special_tokens(llm: Llama) -> None:
    ending = llm.tokenizer.eos_token
    assert llm.generate("Once", choices=[ending], max_new_tokens=9, skip_special_tokens=False).text == ending
    assert llm.generate("Once", json_schema={"const": "a" + ending}, max_new_tokens=19).parsed == "a" + ending


def test_there_may_be_many_choices(llm: Llama) -> None:
    choices = [a + b + c for a in string.ascii_lowercase for b in string.ascii_lowercase for c in "abcdefghijklmnop"]
    assert llm.generate("Once", choices=choices, max_new_tokens=9).parsed in choices


@pytest.mark.parametrize("sampled", [{}, {"temperature": 1.0, "seed": 3}])
def test_beside_a_second_prompt(llm: Llama, sampled: Any) -> None:
    asked = {"guidance_scale": 1.5, "negative_prompt": "A dog", "max_new_tokens": 8, **sampled}
    alone = [llm.generate(prompt, regex="[0-9]{3}", **asked).text for prompt in ("Call ", "The sun has")]
    assert all(len(text) == 3 and text.isdigit() for text in alone)
    assert [each.text for each in llm.generate(["Call ", "The sun has"], regex="[0-9]{3}", **asked)][:1] == alone[:1]
