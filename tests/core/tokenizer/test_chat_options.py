"""Options of ``apply_chat_template``: variables, tools, documents, masks; nothing that is given is dropped unsaid."""

from __future__ import annotations

import datetime
import enum
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import PolyllamaWarning
from polyllama.core.errors import InputError, TokenizerError
from polyllama.core.tokenizer.llama_tokenizer import LlamaTokenizer, load_tokenizer
from polyllama.core.tokenizer.tokenizer import Tokenizer
from tokenizer_models import Models

HI = [{"role": "user", "content": "Hi"}]
DATED = (
    "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{{ date_string }}|{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %}!{% endif %}"
)
MASKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|start_header_id|>{% generation %}{{ m.content }}<|eot_id|>"
    "{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}>>{% endif %}"
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="session")
def llama3(models: Models) -> Tokenizer:
    return load_tokenizer(models.llama3())


@pytest.fixture(scope="session")
def theirs(models: Models) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(models.llama3())


def text(tokenizer: Tokenizer, template: str = DATED, messages: Any = HI, **options: Any) -> str:
    got = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
    assert isinstance(got, str)
    return got


def test_keywords_are_variables_of_the_template(llama3: Tokenizer) -> None:
    assert text(llama3) == "26 Jul 2024|Hi"
    assert text(llama3, date_string="1 May 2025", enable_thinking=False) == "1 May 2025|Hi!"
    assert text(llama3, template_variables={"date_string": "1 May 2025"}, enable_thinking=True) == "1 May 2025|Hi"
    assert text(llama3, "{{ bos_token }}{{ padding }}", bos_token="<b>", template_variables={"padding": 3}) == "<b>3"
    ids = llama3.apply_chat_template(HI, chat_template=DATED, date_string="1 May 2025")
    assert llama3.decode(ids) == "1 May 2025|Hi"
    with pytest.raises(TokenizerError, match="'date_string' is given twice"):
        text(llama3, date_string="1", template_variables={"date_string": "2"})


def test_the_order_of_the_arguments_is_that_of_transformers(llama3: Tokenizer, theirs: Any) -> None:
    template = "{{ tools | length }}{{ documents[0].text }}{{ messages[-1].content }}{{ add_generation_prompt }}"
    arguments = ([*HI, {"role": "assistant", "content": "Yo"}], [{}], [{"text": "T"}], template, False, True, False)
    assert llama3.apply_chat_template(*arguments) == theirs.apply_chat_template(*arguments) == "1TYo"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add_generation_promt": True}, "no option 'add_generation_promt', .*did you mean 'add_generation_prompt'"),
        ({"date_sting": "1"}, "no option 'date_sting', .*did you mean 'date_string'"),
        ({"tokenise": False}, "did you mean 'tokenize'"),
        ({"document": []}, "did you mean 'documents'"),
        ({"return_tensor": "np"}, "did you mean 'return_tensors'"),
        ({"template_variables": {"enable_thinkin": True}}, "did you mean 'enable_thinking'"),
        ({"return_offsets_mapping": True}, "no option 'return_offsets_mapping'.*tokenizer_kwargs={'return_offsets"),
        ({"messages": HI}, "'messages' is made from conversation"),
        ({"template_variables": {"tools": []}}, "'tools' is made from tools"),
        ({"template_variables": ["tools"]}, "template_variables=.* must be a mapping"),
        ({"sanitize_control_tokens": True}, "sanitize_control_tokens=True is not offered"),
        ({"chat_template": 5}, "chat_template=5 is no text"),
        ({"tokenize": 1}, "tokenize=1 must be True or False"),
        ({"continue_final_message": 1}, "continue_final_message=1 must be"),
        ({"tokenizer_kwargs": {"padding": True}}, "'padding' is an argument of apply_chat_template itself"),
        ({"tokenizer_kwargs": {"return_lenght": True}}, "takes no 'return_lenght'.*did you mean 'return_length'"),
        ({"tokenizer_kwargs": {"add_special_tokens": True}}, "no 'add_special_tokens'; leave it out: the template"),
        ({"add_special_tokens": False}, "no option 'add_special_tokens'.*; leave it out: the template writes the spec"),
        ({"return_ofsets_mapping": True}, "did you mean tokenizer_kwargs={'return_offsets_mapping': ...}"),
        ({"template_variables": {"padding": True}}, "does not read 'padding', which is an option of apply_chat_templ"),
        ({"tokenizer_kwargs": True}, "tokenizer_kwargs=True must be a mapping"),
        ({"return_tensors": "tf"}, "return_tensors is 'tf', which names no framework"),
        ({"documents": [{"text": "a"}, "b"]}, "document 1 must be a mapping, got 'b'"),
        ({"documents": {"text": "a"}}, "documents must be a list"),
        ({"tokenize": False, "padding": True}, "padding has no effect with tokenize=False"),
        ({"tokenize": False, "max_length": 3}, "max_length has no effect with tokenize=False"),
        ({"tokenize": False, "return_dict": True}, "return_dict has no effect with tokenize=False"),
        ({"return_assistant_tokens_mask": True}, "needs return_dict=True"),
        (
            {"return_assistant_tokens_mask": True, "return_dict": True},
            "does not mark what the assistant says.*generation",
        ),
        (
            {"return_assistant_tokens_mask": True, "return_dict": True, "continue_final_message": True},
            "not offered together",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_an_error(llama3: Tokenizer, options: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, TokenizerError), match=message):
        llama3.apply_chat_template(HI, **{"chat_template": DATED, **options})


def test_the_conversation_under_another_name(llama3: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="'messages' is made from conversation"):
        llama3.apply_chat_template(messages=HI)
    with pytest.raises(TokenizerError, match="a conversation must be a list of messages, got None"):
        llama3.apply_chat_template()


def test_what_a_template_does_not_read_is_said(llama3: Tokenizer) -> None:
    for options, said in (
        ({"budget": 3}, "chat_template does not read 'budget', so it has no effect; it reads date_string, enable_"),
        ({"tools": [{}]}, "does not read 'tools', so it has no effect; the model will not see the tools"),
        ({"documents": [{}]}, "does not read 'documents'.*the model will not see the documents"),
    ):
        with pytest.warns(PolyllamaWarning, match=said) as warned:
            assert text(llama3, **options) == "26 Jul 2024|Hi"
        assert [Path(one.filename).name for one in warned] == [Path(__file__).name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert text(llama3, tools=[], documents=[], add_generation_prompt=True) == "26 Jul 2024|Hi"


class Role(enum.StrEnum):
    USER = "user"


def test_templates_get_plain_data_only(llama3: Tokenizer, tmp_path: Path) -> None:
    assert text(llama3, "{{ a }}{{ b }}{{ c }}", a=np.float32(0.5), b=np.int64(3), c=np.bool_(False)) == "0.53False"
    assert text(llama3, "{{ messages[0].role }}", [{"role": Role.USER, "content": "Hi"}]) == "user"
    for name, value in (("d", datetime.date.today()), ("d", {"x": [print]}), ("d", np.zeros(3)), ("d", b"x")):
        with pytest.raises(TokenizerError, match=r"the template variable 'd'.* which a chat template cannot be given"):
            text(llama3, "{{ d }}", **{name: value})
    with pytest.raises(TokenizerError, match=r"message 0\['image'\]\[1\] is "):
        text(llama3, messages=[{"role": "user", "image": [1, tmp_path]}])
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(TokenizerError, match="the template variable 'd' holds itself"):
        text(llama3, "{{ d }}", d=circle)
    given_messages = [{"role": "user", "content": ["a"]}]
    text(llama3, "{% set x = messages[0].content %}{{ x }}", given_messages)
    assert given_messages == [{"role": "user", "content": ["a"]}]


def test_functions_are_tools(llama3: Tokenizer, theirs: Any) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: the first
            b: the second
        """
        return a + b

    template = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ documents | tojson }}"
    options: dict[str, Any] = {"tools": [add, {"name": "f"}], "documents": [{"title": "T", "text": "é"}]}
    got = text(llama3, template, **options)
    assert json.loads(got[: got.index('{"name": "f"}')])["function"]["name"] == "add"
    assert got == theirs.apply_chat_template(HI, chat_template=template, tokenize=False, **options)


def test_what_is_none_is_not_there_and_reasoning_has_its_names(llama3: Tokenizer, theirs: Any) -> None:
    template = (
        "{% for m in messages %}{% if m.content is defined %}{{ m.content }}{% endif %}{{ m.tool_calls }}"
        "<{{ m.reasoning_content }}|{{ m.thinking }}>{% endfor %}"
    )
    for message in (
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},
        {"role": "assistant", "content": "C", "reasoning": "R"},
        {"role": "assistant", "content": "C", "thinking": "T", "reasoning_content": None},
        {"role": "assistant", "content": "C", "thinking": "T", "reasoning_content": "R"},
    ):
        expected = theirs.apply_chat_template([message], chat_template=template, tokenize=False)
        assert text(llama3, template, [message]) == expected


def test_the_part_that_is_continued_can_be_named(llama3: Tokenizer, theirs: Any) -> None:
    template = "{% for m in messages %}[{{ m.reasoning_content }}]{{ m.content }}.{% endfor %}"
    message = {"role": "assistant", "content": "C", "thinking": "so far"}
    for field, expected in (("reasoning_content", "[so far"), ("thinking", "[so far"), ("content", "[so far]C")):
        options: dict[str, Any] = {"chat_template": template, "tokenize": False, "continue_final_message": field}
        assert llama3.apply_chat_template([message], **options) == expected
        assert theirs.apply_chat_template([message], **options) == expected
    with pytest.raises(TokenizerError, match="shows the last message's plan as it is"):
        text(llama3, template, [message], continue_final_message="plan")


conversations = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]), "content": st.text("ab lou'\n", min_size=1, max_size=12)}
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(conversations, st.booleans())
def test_masks_are_those_of_transformers(llama3: Tokenizer, theirs: Any, messages: Any, prompt: bool) -> None:
    options: dict[str, Any] = {"chat_template": MASKED, "add_generation_prompt": prompt, "return_dict": True}
    ours = llama3.apply_chat_template(messages, return_assistant_tokens_mask=True, **options)
    other = theirs.apply_chat_template(messages, return_assistant_tokens_mask=True, **options)
    assert ours["input_ids"] == other["input_ids"] and ours["assistant_masks"] == other["assistant_masks"]
    said = [t for t, m in zip(ours["input_ids"], ours["assistant_masks"], strict=True) if m]
    spoken = "".join(m["content"] + "<|eot_id|>" for m in messages if m["role"] == "assistant")
    assert llama3.decode(said, clean_up_tokenization_spaces=False) == spoken


TURNS = [*HI, {"role": "assistant", "content": "Yo there"}]


def test_masks_of_batches(llama3: Tokenizer) -> None:
    options: dict[str, Any] = {"chat_template": MASKED, "return_dict": True, "return_assistant_tokens_mask": True}
    options["add_generation_prompt"] = False
    one = llama3.apply_chat_template(TURNS, **options)
    assert "offset_mapping" not in one and sum(one["assistant_masks"]) == len(llama3.encode("Yo there<|eot_id|>")) - 1
    rows = llama3.apply_chat_template([TURNS, [*TURNS, *TURNS]], **options)["assistant_masks"]
    assert rows[0] == one["assistant_masks"] and sum(rows[1]) == 2 * sum(rows[0])
    llama3.pad_token = "<|eot_id|>"
    more = {"return_offsets_mapping": True, "padding_side": "left"}
    padded = llama3.apply_chat_template(
        [TURNS, [*TURNS, *TURNS]], padding=True, return_tensors="np", tokenizer_kwargs=more, **options
    )
    llama3.pad_token = None
    assert padded["assistant_masks"].tolist()[1] == rows[1] and padded["offset_mapping"].shape[-1] == 2
    assert padded["assistant_masks"].tolist()[0] == [0] * (len(rows[1]) - len(rows[0])) + rows[0]
    assert padded["assistant_masks"].dtype == padded["input_ids"].dtype
    cut = llama3.apply_chat_template(TURNS, truncation=True, max_length=3, **options)
    assert cut["assistant_masks"] == one["assistant_masks"][:3]
    over = {"return_overflowing_tokens": True}
    windows = llama3.apply_chat_template(
        [TURNS, TURNS], truncation=True, max_length=3, tokenizer_kwargs=over, **options
    )
    assert [m for row in windows["assistant_masks"] for m in row] == one["assistant_masks"] * 2


def test_masks_have_every_byte_of_a_character(llama3: Tokenizer) -> None:
    options: dict[str, Any] = {"return_dict": True, "return_assistant_tokens_mask": True}
    template = "{{ messages[0].content }}{% generation %}🦙{% endgeneration %}🦙"
    found = llama3.apply_chat_template(HI, chat_template=template, **options)
    said = [t for t, m in zip(found["input_ids"], found["assistant_masks"], strict=True) if m]
    assert llama3.decode(said) == "🦙" and len(said) > 1


def test_masks_of_sentencepiece(models: Models) -> None:
    tokenizer = LlamaTokenizer(models.model("plain"))
    template = "{{ messages[0].content }}{% generation %} {{ messages[1].content }}{% endgeneration %} end"
    options: dict[str, Any] = {"return_dict": True, "return_assistant_tokens_mask": True}
    found = tokenizer.apply_chat_template(TURNS, chat_template=template, **options)
    said = [t for t, m in zip(found["input_ids"], found["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(said).strip() == "Yo there"


def test_masks_follow_text_into_macros_and_refuse_where_it_is_lost(llama3: Tokenizer) -> None:
    options: dict[str, Any] = {"return_dict": True, "return_assistant_tokens_mask": True}
    macro = "{% macro say(x) %}[{% generation %}{{ x }}{% endgeneration %}]{% endmacro %}{{ say('a') }}-{{ say('b') }}"
    found = llama3.apply_chat_template(HI, chat_template=macro, **options)
    assert llama3.decode(found["input_ids"]) == "[a]-[b]" and sum(found["assistant_masks"]) == 2
    upper = "{% set x %}{% generation %}ab{% endgeneration %}{% endset %}{{ x | upper }}c"
    found = llama3.apply_chat_template(HI, chat_template=upper, **options)
    said = [t for t, m in zip(found["input_ids"], found["assistant_masks"], strict=True) if m]
    assert llama3.decode(said) == "AB"
    for lost in (
        "{% set x %}{% generation %} a {% endgeneration %}{% endset %}{{ x | trim }}",
        "{% set x %}{% generation %}ab{% endgeneration %}{% endset %}{{ x | length }}",
        "{% set x %}{% generation %}ab{% endgeneration %}{% endset %}{{ x[0] }}",
        "{% set x %}{% generation %}ab{% endgeneration %}{% endset %}{{ x[:-1] }}",
        "{% set x %}{% generation %}ab{% endgeneration %}{% endset %}{{ x | reverse }}",
    ):
        with pytest.raises(TokenizerError, match="cannot be followed"):
            llama3.apply_chat_template(HI, chat_template=lost, **options)
    assert text(llama3, "{% set generation = 1 %}{{ generation }}") == "1"


def test_the_variables_of_a_template_can_be_asked_for(llama3: Tokenizer, models: Models) -> None:
    assert llama3.chat_template_variables() == {"messages", "bos_token", "add_generation_prompt"}
    assert llama3.chat_template_variables(DATED) == {"messages", "date_string", "enable_thinking"}
    plain = LlamaTokenizer(models.model("plain"))
    with pytest.raises(TokenizerError, match="no chat template"):
        plain.chat_template_variables()
    with pytest.raises(TokenizerError, match="malformed at line 1"):
        plain.chat_template_variables("{% for %}")
