"""Chat templates: a stranger's program, run as transformers runs it, within bounds."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.errors import PolyllamaWarning, TokenizerError
from polyllama.core.tokenizer.llama_tokenizer import LlamaTokenizer, load_tokenizer
from polyllama.core.tokenizer.tokenizer import Tokenizer
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
        options: dict[str, Any] = {"add_generation_prompt": prompt, "chat_template": template}
        if template:  # what a template does not read is warned of here
            options |= {"tools": tools, "extra": "E"}
        expected = theirs.apply_chat_template(messages, tokenize=False, **options)
        assert ours.apply_chat_template(messages, tokenize=False, **options) == expected
        ids = ours.apply_chat_template(messages, **options)
        assert ids == theirs.apply_chat_template(messages, return_dict=False, **options)


_LOADED: dict[Any, Any] = {}


def load_both(models: Models) -> Any:
    if models not in _LOADED:
        from transformers import PreTrainedTokenizerFast

        folder = models.llama3()
        _LOADED[models] = load_tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    return _LOADED[models]


def test_forms_of_the_result(llama3: Tokenizer) -> None:
    said = llama3.apply_chat_template(HI, tokenize=False)
    assert said.endswith("Hi<|eot_id|>")
    text = llama3.apply_chat_template(HI, tokenize=False, add_generation_prompt=True)
    assert text == said + "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ids = llama3.apply_chat_template(HI, add_generation_prompt=True)
    assert ids == llama3.encode(text, add_special_tokens=False) and ids.count(llama3.bos_token_id) == 1
    both = llama3.apply_chat_template([HI, [*HI, {"role": "assistant", "content": "Yo"}]], add_generation_prompt=True)
    assert both[0] == ids and len(both) == 2
    assert llama3.apply_chat_template(HI, add_generation_prompt=True, return_dict=True).input_ids == ids
    assert llama3.apply_chat_template(HI, truncation=True, max_length=3) == ids[:3]
    with pytest.warns(PolyllamaWarning, match="max_length=3 has no effect without truncation=True"):
        assert llama3.apply_chat_template(HI, max_length=3, add_generation_prompt=True) == ids
    started = [*HI, {"role": "assistant", "content": "Once upon"}]
    continued = llama3.apply_chat_template(started, tokenize=False, continue_final_message=True)
    assert continued.endswith("Once upon") and text in continued
    with pytest.raises(TokenizerError, match="contradict"):
        llama3.apply_chat_template(HI, continue_final_message=True, add_generation_prompt=True)


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = CHATML.replace("m['content']", "m['content'] | trim")


@pytest.mark.parametrize("content", ["e", "end", "", "Sure, ", " lead", "user\n", "<|im_end|>", "Sure,\n\n"])
@pytest.mark.parametrize("template", [CHATML, TRIMMED])
def test_continuing_ends_where_the_last_message_does(models: Models, content: str, template: str) -> None:
    ours, theirs = load_both(models)
    messages = [*HI, {"role": "assistant", "content": content}]
    options: dict[str, Any] = {"chat_template": template, "continue_final_message": True, "tokenize": False}
    text = ours.apply_chat_template(messages, **options)
    shown = content if template == CHATML else content.strip()
    assert text == f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{shown}"
    if shown:  # of an empty message, transformers strips the template's own line break before it too
        assert text == theirs.apply_chat_template(messages, **options)


def test_continuing_a_message_of_parts(llama3: Tokenizer) -> None:
    template = "{% for m in messages %}<{% for part in m.content %}{{ part.text }}{% endfor %}>{% endfor %}"
    messages = [{"role": "assistant", "content": [{"type": "text", "text": "On"}, {"type": "text", "text": "ce"}]}]
    options: dict[str, Any] = {"chat_template": template, "continue_final_message": True, "tokenize": False}
    assert llama3.apply_chat_template(messages, **options) == "<Once"
    assert "mark" not in str(messages) and "end-of" not in str(messages)
    for broken in ([{"role": "assistant"}], [{"role": "assistant", "content": []}]):
        with pytest.raises(TokenizerError, match="shows the last message's text"):
            llama3.apply_chat_template(broken, **options)
    with pytest.raises(TokenizerError, match="shows the last message's text"):
        llama3.apply_chat_template(HI, **{**options, "chat_template": "nothing"})


def test_ordinary_filters_and_formats_work_within_the_budget(llama3: Tokenizer) -> None:
    template = (
        "{{ '%-5s|%02d' % ('a', 7) }} {{ '{:>3}{x}'.format(1, x='y') }} {{ 'a' | center(3) }} {{ 'a\nb' | indent(2) }}"
        " {{ ['a', 'b'] | join('-') }} {{ 'abc'.replace('b', 'B') }} {{ [3, 1] | sort }} {{ [1, 2] | sum }}"
        " {{ {'a': 1}.items() | list }} {{ messages | map(attribute='role') | join }} {{ 'a' ~ 1 ~ none }}"
        " {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ 'x'.split('x') }} {{ 10 % 3 }}"
    )
    expected = "a    |07   1y  a  a\n  b a-b aBc [1, 3] 3 [('a', 1)] user a1None 1 ['', ''] 1"
    assert llama3.apply_chat_template(HI, chat_template=template, tokenize=False) == expected


def test_named_templates(models: Models) -> None:
    folder = models.checkpoint(
        "named",
        chat_template=[{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T{{ tools | length }}"}],
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer.apply_chat_template(HI, tokenize=False) == "D"
    assert tokenizer.apply_chat_template(HI, tokenize=False, tools=[{}]) == "T1"
    assert tokenizer.apply_chat_template(HI, tokenize=False, tools=[], chat_template="tool_use") == "T0"
    with pytest.raises(TokenizerError, match=r"no chat template called 'tool_user'; did you mean 'tool_use'\?"):
        tokenizer.apply_chat_template(HI, chat_template="tool_user")
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


GROWING = (
    "{{% macro twice(x) %}}{{{{ x }}}}{{{{ x }}}}{{% endmacro %}}{{% set ns = namespace(x={start}) %}}"
    "{{% for i in range(64) %}}{{% set ns.x = {} %}}{{% endfor %}}"
)


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
        (GROWING.format("ns.x * ns.x", start=99), "a number this large"),
        (GROWING.format("ns.x + ns.x", start="'x'"), "a value beyond"),
        (GROWING.format("ns.x ~ ns.x", start="'x'"), "a value beyond"),
        (GROWING.format("[ns.x, ns.x]", start="'x'") + "{{ ns.x }}", "of output|does not end|beyond"),
        (GROWING.format("ns.x | replace('x', 'xx')", start="'x'"), "a value beyond"),
        (GROWING.format("ns.x.replace('x', 'xx')", start="'x'"), "a value beyond"),
        (GROWING.format("[ns.x, ns.x] | join", start="'x'"), "a value beyond"),
        (GROWING.format("''.join([ns.x, ns.x])", start="'x'"), "a value beyond"),
        (GROWING.format("'%s%s' % (ns.x, ns.x)", start="'x'"), "a value beyond"),
        (GROWING.format("'%s%s' | format(ns.x, ns.x)", start="'x'"), "a value beyond"),
        (GROWING.format("'{0}{0}'.format(ns.x)", start="'x'"), "a value beyond"),
        (GROWING.format("ns.x.translate({120: 'xx'})", start="'x'"), "a value beyond"),
        (GROWING.format("twice(ns.x)", start="'x'"), "of output|beyond|together"),
        ("{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}", "of output"),
        ("{{ '%1000000000d' % 1 }}", "a format that pads"),
        ("{{ '%*d' % (1000000000, 1) }}", "a format that pads"),
        ("{{ '%1000000000d' | format(1) }}", "a format that pads"),
        ("{{ '{:1000000000}'.format(1) }}", "a format that pads"),
        ("{{ '{:{}}'.format(1, 1000000000) }}", "a format that pads"),
        ("{{ ['{:1000000000}'] | map('format', 1) | list }}", "failed|forbids|refuses"),
        ("{{ 'x' | center(1000000000) }}", "center with 1000000000"),
        ("{{ 'x'.ljust(1000000000) }}", "ljust with 1000000000"),
        ("{{ 'x'.rjust(width=1000000000) }}", "failed|rjust with 1000000000"),
        ("{{ 'x'.zfill(1000000000) }}", "zfill with 1000000000"),
        ("{{ '\t'.expandtabs(1000000000) }}", "expandtabs with 1000000000"),
        ("{{ (1).to_bytes(1000000000, 'big') }}", "to_bytes with 1000000000"),
        ("{{ 'x' | indent(1000000000, first=True) }}", "indent with 1000000000"),
        ("{{ [1] | tojson(indent=1000000000) }}", "tojson with 1000000000"),
        ("{{ [1] | batch(1000000000, 'x') | list }}", "batch with 1000000000"),
        ("{{ [1] | slice(1000000000) | list }}", "slice with 1000000000"),
        ("{{ 1.5 | round(1000000000, 'ceil') }}", "round with 1000000000"),
        ("{{ [[1], [2]] | sum(start=[]) }}", "a sum of anything but numbers"),
        ("{{ lipsum(1000000) }}", "refuses|failed"),
        (
            "{% set big = ['xy' * 2000] * 2000 %}{% for i in range(99999) %}{% set y = big | sort %}{% endfor %}",
            "together|seconds",
        ),
    ],
)
def test_bad_templates_end_in_an_error(
    llama3: Tokenizer, template: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine takes longer than 10 seconds to what each case is about; the limit of time has cases of its own.
    if "seconds" not in message:
        monkeypatch.setattr("polyllama.core.tokenizer.chat.sandbox.MAX_SECONDS", 50.0)
    began = time.perf_counter()
    with pytest.raises(TokenizerError, match=message) as caught:
        llama3.apply_chat_template(HI, chat_template=template)
    assert time.perf_counter() - began < 60  # it ends at all; how soon depends on the machine
    assert "\n" not in str(caught.value)
    assert (
        llama3.apply_chat_template(HI, chat_template="{{ 2 * 3 }}{{ 'a' * 3 }}{{ 2 ** 5 }}", tokenize=False) == "6aaa32"
    )


@pytest.mark.parametrize("messages", ["Hi", [], {"role": "user"}, ["Hi"], [{"content": "Hi"}], [{"role": 1}], None])
def test_wrong_conversations_are_errors(llama3: Tokenizer, messages: Any) -> None:
    with pytest.raises(TokenizerError, match="role"):
        llama3.apply_chat_template(messages)
