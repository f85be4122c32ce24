"""Chat templates: a stranger's program, run as transformers runs it, within bounds."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.errors import TokenizerError
from polyllama.core.tokenizer import LlamaTokenizer, Tokenizer, load_tokenizer
from tokenizer_models import Models

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="session")
def llama3(models: Models) -> Tokenizer:
    return load_tokenizer(models.llama3())


FEATURES = (
    "{%- if messages[0]['role'] == 'system' -%}\n  {%- set system = messages[0]['content'] | trim %}\n{%- endif %}\n"
    "{{- bos_token }}\n    {% for m in messages %}\n{% if loop.index0 > 5 %}{% break %}{% endif %}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}"
    "[{{ m['role'] | upper }}] {{ m['content'] }}{% endif %}\n{% endfor %}"
    "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{{ {'a': '<é>'} | tojson }}"
    "{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}"
    "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('y') }}{{ extra }}{{ strftime_now('%Y') | length }}"
    "{% if add_generation_prompt %}>>{% endif %}"
)
conversations = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=10)}),
    min_size=1,
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(conversations, st.booleans(), st.booleans())
def test_prompts_are_those_of_transformers(models: Models, messages: Any, prompt: bool, with_tools: bool) -> None:
    ours, theirs = load_both(models)
    tools = [{"type": "function", "function": {"name": "f<x>", "parameters": {}}}] if with_tools else None
    for template in (None, FEATURES):
        options = {"add_generation_prompt": prompt, "chat_template": template, "tools": tools}
        expected = theirs.apply_chat_template(messages, tokenize=False, extra="E", **options)
        assert (
            ours.apply_chat_template(messages, tokenize=False, template_variables={"extra": "E"}, **options) == expected
        )
        ids = ours.apply_chat_template(messages, template_variables={"extra": "E"}, **options)
        assert ids == theirs.apply_chat_template(messages, extra="E", return_dict=False, **options)


_LOADED: dict[Any, Any] = {}


def load_both(models: Models) -> Any:
    if models not in _LOADED:
        from transformers import PreTrainedTokenizerFast

        folder = models.llama3()
        _LOADED[models] = load_tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    return _LOADED[models]


def test_forms_of_the_result(llama3: Tokenizer) -> None:
    text = llama3.apply_chat_template(HI, tokenize=False)
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    ids = llama3.apply_chat_template(HI)
    assert ids == llama3.encode(text, add_special_tokens=False) and ids.count(llama3.bos_token_id) == 1
    both = llama3.apply_chat_template([HI, [*HI, {"role": "assistant", "content": "Yo"}]])
    assert both[0] == ids and len(both) == 2
    assert llama3.apply_chat_template(HI, return_dict=True).input_ids == ids
    assert llama3.apply_chat_template(HI, truncation=True, max_length=3) == ids[:3]
    started = [*HI, {"role": "assistant", "content": "Once upon"}]
    continued = llama3.apply_chat_template(started, tokenize=False, continue_final_message=True)
    assert continued.endswith("Once upon") and text in continued
    with pytest.raises(TokenizerError, match="contradict"):
        llama3.apply_chat_template(HI, continue_final_message=True, add_generation_prompt=True)


def test_named_templates(models: Models) -> None:
    folder = models.checkpoint(
        "named", chat_template=[{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer.apply_chat_template(HI, tokenize=False) == "D"
    assert tokenizer.apply_chat_template(HI, tokenize=False, tools=[{}]) == "T"
    assert tokenizer.apply_chat_template(HI, tokenize=False, chat_template="tool_use") == "T"
    tokenizer.chat_template = {"a": "A", "b": "B"}
    with pytest.raises(TokenizerError, match="one of a, b"):
        tokenizer.apply_chat_template(HI)


def test_without_a_template_none_is_invented(models: Models) -> None:
    with pytest.raises(TokenizerError, match=r"plain\.model has no chat template.*pass chat_template"):
        LlamaTokenizer(models.model("plain"), use_default_system_prompt=True).apply_chat_template(HI)


def test_default_system_prompt(models: Models) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    tokenizer = LlamaTokenizer(models.model("plain"), use_default_system_prompt=True, chat_template=template)
    text = tokenizer.apply_chat_template(HI, tokenize=False)
    assert text.startswith("<system>You are a helpful, respectful and honest assistant.") and text.endswith("<user>Hi")
    own = [{"role": "system", "content": "S"}, *HI]
    assert tokenizer.apply_chat_template(own, tokenize=False) == "<system>S<user>Hi"
    tokenizer.use_default_system_prompt = False
    assert tokenizer.apply_chat_template(HI, tokenize=False) == "<user>Hi"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses this conversation: roles must alternate"),
        ("{% for %}", "malformed at line 1"),
        ("ok\n{% bogus %}", "malformed at line 2"),
        ("{{ 1 + 'x' }}", "failed: TypeError"),
        ("{{ messages[5].content.x }}", "refuses this conversation"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "sandbox forbids"),
        ("{{ messages.append(1) }}", "sandbox forbids"),
        ("{{ cycler.__init__.__globals__ }}", "sandbox forbids"),
        ("{% include '/etc/passwd' %}", "failed|refuses"),
        ("{% for a in range(1000000) %}{% endfor %}", "failed|forbids"),
        ("{% set r = range(90000) | list %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}", "loop rounds"),
        ("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "does not end"),
        ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}", "loop rounds"),
        ("{{ 'x' * 10000000000 }}", "repeated beyond"),
        ("{{ 10000000000 * 'x' }}", "repeated beyond"),
        ("{{ 9 ** 99999999 }}", "a power this large"),
    ],
)
def test_bad_templates_end_in_an_error(llama3: Tokenizer, template: str, message: str) -> None:
    began = time.perf_counter()
    with pytest.raises(TokenizerError, match=message) as caught:
        llama3.apply_chat_template(HI, chat_template=template)
    assert time.perf_counter() - began < 5
    assert "\n" not in str(caught.value)
    assert (
        llama3.apply_chat_template(HI, chat_template="{{ 2 * 3 }}{{ 'a' * 3 }}{{ 2 ** 5 }}", tokenize=False) == "6aaa32"
    )


@pytest.mark.parametrize("messages", ["Hi", [], {"role": "user"}, ["Hi"], [{"content": "Hi"}], [{"role": 1}], None])
def test_wrong_conversations_are_errors(llama3: Tokenizer, messages: Any) -> None:
    with pytest.raises(TokenizerError, match="role"):
        llama3.apply_chat_template(messages)
