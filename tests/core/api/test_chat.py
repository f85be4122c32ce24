"""``llm.chat``: options of generation, of the prompt, and variables of the template, each where it belongs."""

from __future__ import annotations

from typing import Any

import pytest
from polyllama import Llama, PolyllamaWarning
from polyllama.core.errors import GenerationError, InputError, TokenizerError, UnsupportedError

TEMPLATE = (
    "{% for d in documents or [] %}{{ d.text }} {% endfor %}"
    "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}"
    "{% for m in messages %}{{ m.content }}{% if not loop.last or add_generation_prompt %}, {% endif %}{% endfor %}"
    "{% if ending is defined %}{{ ending }}{% endif %}{{ seed }}"
)
ONCE = [{"role": "user", "content": "Once upon a time"}]


@pytest.fixture(scope="module")
def llm() -> Llama:
    llm = Llama.load("tiny", backend="reference", dtype="float32")
    llm.tokenizer.chat_template = TEMPLATE
    return llm


def walk(where: str) -> str:
    """Walk.

    Args:
        where: Where to.
    """
    return where


@pytest.mark.filterwarnings("ignore:how the chat template writes calls of tools is unknown")
@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({}, "Once upon a time, "),
        ({"ending": "there"}, "Once upon a time, there"),
        ({"template_variables": {"seed": 5, "ending": "x"}}, "Once upon a time, x5"),
        ({"tools": [walk], "documents": [{"text": "Doc"}]}, "Doc walk Once upon a time, "),
        ({"chat_template": "{{ messages[0].content }}!"}, "Once upon a time!"),
        ({"continue_final_message": True}, "Once upon a time"),
        ({"add_generation_prompt": False}, "Once upon a time"),
    ],
)
def test_what_the_prompt_is_made_of(llm: Llama, options: dict[str, Any], prompt: str) -> None:
    assert llm.tokenizer.decode(llm.chat_prompt(ONCE, **options), skip_special_tokens=True) == prompt
    answer = llm.chat(ONCE, max_new_tokens=3, **options)
    wanted = llm.generate(llm.tokenizer.encode(prompt, add_special_tokens=False), max_new_tokens=3)
    assert answer.text == wanted.text
    stream = llm.chat_stream(ONCE, max_new_tokens=3, **options)
    assert "".join(stream) == answer.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 0.5}, "generation has no option 'temprature', .*did you mean 'temperature'"),
        ({"endin": "x"}, "no option 'endin', and the chat template does not read it; did you mean 'ending'"),
        ({"tool": []}, "did you mean 'tools'"),
        ({"max_tokens": 4}, "did you mean 'max_new_tokens'"),
        ({"enable_thinking": True}, "no option 'enable_thinking'.*there are: max_new_tokens.*chat_template.*ending"),
        ({"tokenize": False}, "no option 'tokenize'"),
    ],
)
def test_options_that_nobody_knows(llm: Llama, options: dict[str, Any], message: str) -> None:
    for call in (llm.chat, llm.chat_stream):
        with pytest.raises(GenerationError, match=message):
            call(ONCE, **options)


def test_a_variable_that_is_not_read_is_said(llm: Llama) -> None:
    with pytest.warns(PolyllamaWarning, match="does not read 'enable_thinking'"):
        llm.chat(ONCE, max_new_tokens=1, template_variables={"enable_thinking": True})
    with pytest.raises(TokenizerError, match="did you mean 'ending'"):
        llm.chat_prompt(ONCE, endin="x")


@pytest.mark.parametrize("name", ["tokenize", "return_dict", "return_tensors", "truncation", "tokenizer_kwargs"])
def test_no_variable_becomes_an_option_of_the_tokenizer(llm: Llama, name: str) -> None:
    template = "{{ messages[0].content }}{{ " + name + " }}"
    for options in ({name: False}, {"template_variables": {name: False}}):
        with pytest.raises(TokenizerError, match=f"does not read '{name}', which is an option of apply_chat_template"):
            llm.chat_prompt(ONCE, **options)
        ids = llm.chat_prompt(ONCE, chat_template=template, **options)
        assert llm.tokenizer.decode(ids) == "Once upon a timeFalse"
    assert llm.chat(ONCE, chat_template=template, max_new_tokens=1, **{name: False}).prompt_token_ids == ids
    with pytest.raises(TokenizerError, match=f"'{name}' is given twice"):
        llm.chat_prompt(ONCE, template_variables={name: 1}, **{name: 1})


def test_a_chat_is_one_conversation(llm: Llama) -> None:
    with pytest.raises(InputError, match="one conversation, got a list of them"):
        llm.chat([ONCE, ONCE], max_new_tokens=1)  # type: ignore[list-item]


def test_options_are_resolved_as_generate_resolves_them(llm: Llama) -> None:
    assert llm.generation_options(temperature=0.5).do_sample
    assert llm.generation_options().max_new_tokens == 320  # as generation_config.json says
    with pytest.raises(GenerationError, match="temperature is -1"):
        llm.generation_options(temperature=-1)


def test_a_model_without_a_template_names_the_option_first() -> None:
    plain = Llama.load("tiny", backend="reference")
    with pytest.raises(GenerationError, match="generation has no option 'temprature'; did you mean 'temperature'"):
        plain.chat(ONCE, temprature=1)
    with pytest.raises(TokenizerError, match="no chat template"):
        plain.chat(ONCE, temperature=1)
    with pytest.raises(UnsupportedError, match="does not generate"):
        Llama.load("tiny-sentiment", backend="reference").chat(ONCE)
