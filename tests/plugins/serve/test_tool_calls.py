"""Calls of tools by the clients of three interfaces; the oracle is the same chat in this process.

The bundled model is no chat model: ``required`` holds its answers to calls, whose arguments it writes itself.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import anthropic
import ollama
import openai
import pytest
from polyllama import Llama
from polyllama.plugins.serve.anthropic.bodies import CountBody, told_of_tools
from polyllama.plugins.serve.anthropic.messages import _Blocks
from polyllama.plugins.serve.chats import Reader
from polyllama.plugins.serve.ollama.generating import _calls, _message, _text
from polyllama.plugins.serve.openai.response_items import Output
from polyllama.plugins.serve.openai.tools import delta
from running_servers import RunningServer, events

ASKED: list[Any] = [{"role": "user", "content": "How warm is it?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city", "days"],
}
WEATHER: dict[str, Any] = {"name": "weather", "description": "Say the weather.", "parameters": SCHEMA}
NOW: dict[str, Any] = {"name": "now", "parameters": {"type": "object", "properties": {}}}
TOOLS: list[Any] = [{"type": "function", "function": function} for function in (WEATHER, NOW)]
HOW: dict[str, Any] = {"max_tokens": 180, "seed": 2, "temperature": 1.0}
OURS: dict[str, Any] = {"max_new_tokens": 180, "seed": 2, "temperature": 1.0}
FORCED: dict[str, Any] = {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}}


@pytest.fixture(scope="module")
def openai_client(caller: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{caller.url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def claude(caller: RunningServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=caller.url, api_key="none", max_retries=0, timeout=120)


def calls_of(choice: Any) -> list[tuple[str, Any]]:
    made = choice.message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in made]


def test_a_chat_that_must_call(openai_client: openai.OpenAI, tools_llm: Llama) -> None:
    wanted = tools_llm.chat(ASKED, **FORCED, **OURS)
    assert [call.name for call in wanted.tool_calls] == ["weather"]
    answer = openai_client.chat.completions.create(model="tiny", messages=ASKED, **FORCED, **HOW)
    [choice] = answer.choices
    assert calls_of(choice) == [("weather", dict(wanted.tool_calls[0].arguments))]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert choice.message.tool_calls[0].id.startswith("call_") and choice.message.tool_calls[0].type == "function"
    assert answer.usage.prompt_tokens == len(wanted.prompt_token_ids)
    assert answer.usage.completion_tokens == len(wanted.token_ids)


def test_a_chats_stream(openai_client: openai.OpenAI, caller: RunningServer) -> None:
    body = {"model": "tiny", "messages": ASKED, **FORCED, **HOW}
    whole = openai_client.chat.completions.create(**body).choices[0].message.tool_calls[0].function
    sent = [chunk["choices"][0] for chunk in events(caller, "/v1/chat/completions", {**body, "stream": True})]
    deltas = [call for one in sent for call in one["delta"].get("tool_calls", ())]
    assert deltas[0]["function"] == {"name": "weather", "arguments": ""} and deltas[0]["id"].startswith("call_")
    assert all(set(one) == {"index", "function"} and one["index"] == 0 for one in deltas[1:]) and len(deltas) > 4
    assert json.loads("".join(one["function"]["arguments"] for one in deltas)) == json.loads(whole.arguments)
    assert sent[-1]["finish_reason"] == "tool_calls" and not any(one["delta"].get("content") for one in sent)
    with openai_client.chat.completions.stream(model="tiny", messages=ASKED, **FORCED, **HOW) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion().choices[0]
    assert calls_of(final) == [("weather", json.loads(whole.arguments))]


def test_several_answers_and_several_calls(openai_client: openai.OpenAI, tools_llm: Llama) -> None:
    how: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required"}
    wanted = tools_llm.chat(ASKED, **how, **OURS, num_return_sequences=6)
    expected = [[(call.name, dict(call.arguments)) for call in one.tool_calls] for one in wanted]
    assert max(map(len, expected)) > 1  # else nothing is seen of numbers
    answer = openai_client.chat.completions.create(model="tiny", messages=ASKED, **how, **HOW, n=6)
    assert [calls_of(choice) for choice in answer.choices] == expected
    streamed: list[dict[int, list[str]]] = [{} for _ in expected]
    for chunk in openai_client.chat.completions.create(model="tiny", messages=ASKED, **how, **HOW, n=6, stream=True):
        for call in chunk.choices[0].delta.tool_calls or ():
            parts = streamed[chunk.choices[0].index].setdefault(call.index, ["", ""])
            parts[0] += call.function.name or ""
            parts[1] += call.function.arguments or ""
    assert [[(name, json.loads(text)) for name, text in row.values()] for row in streamed] == expected
    how["parallel_tool_calls"] = False
    single = openai_client.chat.completions.create(model="tiny", messages=ASKED, **how, **HOW, n=6)
    assert all(len(calls_of(choice)) <= 1 for choice in single.choices)
    assert [choice.finish_reason for choice in single.choices].count("tool_calls") > 3


def test_a_call_that_is_cut_off_is_none(caller: RunningServer) -> None:
    """Its text is said all the same, and nobody is told to run it."""
    body = {"model": "tiny", "messages": ASKED, **FORCED, **HOW, "max_tokens": 44}
    choice = caller.http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert choice["finish_reason"] == "length" and "tool_calls" not in choice["message"]
    assert choice["message"]["content"].startswith('<tool_call>\n{"name": "weather", "arguments": {')
    sent = [chunk["choices"][0] for chunk in events(caller, "/v1/chat/completions", {**body, "stream": True})]
    assert sent[-1]["finish_reason"] == "length"
    assert "".join(one["delta"].get("content", "") for one in sent).endswith(choice["message"]["content"][-10:])


def test_log_probabilities_of_a_call(openai_client: openai.OpenAI, caller: RunningServer) -> None:
    body = {"model": "tiny", "messages": ASKED, **FORCED, **HOW, "logprobs": True}
    whole = openai_client.chat.completions.create(**body)
    content = whole.choices[0].logprobs.content
    assert len(content) == whole.usage.completion_tokens
    sent = [chunk["choices"][0] for chunk in events(caller, "/v1/chat/completions", {**body, "stream": True})]
    streamed = [one["token"] for each in sent if each["logprobs"] for one in each["logprobs"]["content"]]
    assert streamed == [one.token for one in content]


def test_the_next_turn(openai_client: openai.OpenAI, caller: RunningServer, tools_llm: Llama) -> None:
    """A call and what came of it, in each interface's form, become the same prompt."""
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    said = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "18 c"},
    ]
    prompt = tools_llm.chat_prompt([*said[:1], {**said[1], "content": ""}, said[2]], tools=TOOLS)
    text = tools_llm.tokenizer.decode(prompt)
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call><tool>18 c' in text
    answer = openai_client.chat.completions.create(model="tiny", messages=said, tools=TOOLS, max_tokens=1)
    assert answer.usage.prompt_tokens == len(prompt)
    items: list[Any] = [
        ASKED[0],
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "18 c"},
    ]
    flat: list[Any] = [{"type": "function", **function} for function in (WEATHER, NOW)]
    made = openai_client.responses.create(model="tiny", input=items, tools=flat, max_output_tokens=1)
    assert made.usage.input_tokens == len(prompt)
    blocks = [
        ASKED[0],
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Oslo"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "18 c"}]},
    ]
    theirs = [{"name": one["name"], "input_schema": one["parameters"]} for one in (WEATHER, NOW)]
    theirs[0]["description"] = WEATHER["description"]
    body = {"model": "tiny", "messages": blocks, "tools": theirs}
    assert caller.http.post("/v1/messages/count_tokens", json=body).json()["input_tokens"] == len(prompt)
    own = [
        ASKED[0],
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]},
        {"role": "tool", "content": "18 c"},
    ]
    body = {"model": "tiny", "messages": own, "tools": TOOLS, "options": {"num_predict": 1}, "stream": False}
    assert caller.http.post("/api/chat", json=body).json()["prompt_eval_count"] == len(prompt)


def test_a_response_that_must_call(openai_client: openai.OpenAI, tools_llm: Llama) -> None:
    wanted = tools_llm.chat(ASKED, **FORCED, max_new_tokens=200, temperature=0)
    how: dict[str, Any] = {
        "model": "tiny",
        "input": "How warm is it?",
        "tools": [{"type": "function", **function} for function in (WEATHER, NOW)],
        "tool_choice": {"type": "function", "name": "weather"},
        "max_output_tokens": 200,
        "temperature": 0,
    }
    answer = openai_client.responses.create(**how)
    assert wanted.finish_reason == "stop" and answer.status == "completed"
    [item] = answer.output
    assert (item.type, item.name, item.status) == ("function_call", "weather", "completed")
    assert json.loads(item.arguments) == dict(wanted.tool_calls[0].arguments) and item.call_id.startswith("call_")
    assert [tool.name for tool in answer.tools] == ["weather", "now"] and answer.tool_choice.name == "weather"
    sent = list(openai_client.responses.create(**how, stream=True))
    assert [event.sequence_number for event in sent] == list(range(len(sent)))
    kinds = [event.type.removeprefix("response.") for event in sent]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "function_call_arguments.delta"]
    assert kinds[-3:] == ["function_call_arguments.done", "output_item.done", "completed"]
    deltas = "".join(event.delta for event in sent if event.type == "response.function_call_arguments.delta")
    assert deltas == sent[-3].arguments == item.arguments == sent[-1].response.output[0].arguments
    with openai_client.responses.stream(**how) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output[0].arguments == item.arguments
    cut = openai_client.responses.create(**{**how, "max_output_tokens": 44})
    assert cut.status == "incomplete" and [one.type for one in cut.output] == ["function_call", "message"]
    assert cut.output[0].status == "incomplete" and cut.output_text.startswith("<tool_call>")


def test_anthropics_blocks(claude: anthropic.Anthropic, tools_llm: Llama) -> None:
    wanted = tools_llm.chat(ASKED, **FORCED, max_new_tokens=200, temperature=0)
    how: dict[str, Any] = {
        "model": "tiny",
        "messages": ASKED,
        "max_tokens": 200,
        "tools": [
            {"name": "weather", "description": WEATHER["description"], "input_schema": SCHEMA},
            {"name": "now", "input_schema": NOW["parameters"]},
        ],
        "tool_choice": {"type": "tool", "name": "weather"},
        "extra_body": {"temperature": 0},
    }
    answer = claude.messages.create(**how)
    [block] = answer.content
    assert (block.type, block.name, answer.stop_reason) == ("tool_use", "weather", "tool_use")
    assert block.input == dict(wanted.tool_calls[0].arguments)
    whole = answer.usage.input_tokens + answer.usage.cache_read_input_tokens
    assert whole == len(wanted.prompt_token_ids)
    with claude.messages.stream(**how) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.content[0].input == block.input and final.stop_reason == "tool_use"
    assert kinds.count("input_json") > 2 and kinds.count("content_block_stop") == 1
    choice = {"type": "any", "disable_parallel_tool_use": True}
    single = claude.messages.create(**{**how, "tool_choice": choice})
    assert [one.type for one in single.content] == ["tool_use"]
    told = told_of_tools(CountBody.model_validate({"messages": ASKED, "tools": how["tools"], "tool_choice": choice}))
    assert told == {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    silent = claude.messages.create(**{**how, "tool_choice": {"type": "none"}, "max_tokens": 4})
    assert silent.content[0].text == tools_llm.chat(ASKED, max_new_tokens=4, temperature=0).text


def test_text_beside_calls_as_it_comes(tools_llm: Llama) -> None:
    """A model that speaks, calls, breaks off and calls again; the only choice stands for what it would say."""
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    broken = '<tool_call>{"name": "weather", "arguments": {"city"]}</tool_call>'
    request = tools_llm.chat_request(
        ASKED, tools=TOOLS, choices=[f"I look. {call} Then. {broken} {call}"], max_new_tokens=300, temperature=0
    )
    tokens = list(tools_llm.scheduler.submit(request.prompt, request.options))
    reader = Reader(request.calling)
    pieces = [piece for event in tokens for piece in reader.take([event])]
    kinds = [kind for kind, _ in groupby(piece.kind for piece in pieces)]
    whole = ["begin", "arguments", "end"]
    assert kinds == ["text", *whole, "text", "begin", "arguments", "broken", "text", *whole]
    assert reader.calls == 2 and reader.reason("stop") == "tool_calls" and reader.reason("length") == "length"
    assert Reader(None).reason("stop") == "stop"

    deltas = [made for piece in pieces if (made := delta(piece)) is not None]
    indices = [made["tool_calls"][0]["index"] for made in deltas if "tool_calls" in made]
    assert [index for index, _ in groupby(indices)] == [0, 1, 2]
    assert "".join(made.get("content", "") for made in deltas) == f"I look.  Then. {broken} " == _text(pieces)
    line = _message("", _calls(pieces))["message"]
    assert [made.function.name for made in ollama.Message.model_validate(line).tool_calls] == ["now", "now"]

    output = Output()
    told = [*output.take(pieces), *output.finish("completed")]
    types = ["message", "function_call", "message", "function_call", "message", "function_call"]
    assert [item["type"] for item in output.items] == types
    assert [item["status"] for item in output.items] == ["completed"] * 3 + ["incomplete"] + ["completed"] * 2
    assert [kind for kind, _ in told].count("output_item.added") == [kind for kind, _ in told].count("output_item.done")
    assert [values["output_index"] for _, values in told] == sorted(values["output_index"] for _, values in told)

    blocks = _Blocks()
    sent = (blocks.take(pieces) + blocks.close()).decode()
    made = [json.loads(line.partition("data: ")[2]) for line in sent.split("\n\n") if line]
    begun = [one["content_block"]["type"] for one in made if one["type"] == "content_block_start"]
    assert begun == ["text", "tool_use", "text", "tool_use", "text", "tool_use"]
    assert [one["index"] for one in made if one["type"] == "content_block_stop"] == list(range(6))
    # all at once, as a slow reader gets it, it is the same
    at_once = Reader(request.calling).take(tokens)
    assert [piece.kind for piece in at_once if piece.kind != "text"] == [kind for kind in kinds if kind != "text"]
    assert _text(at_once) == _text(pieces)


def test_ollama(caller: RunningServer, tools_llm: Llama) -> None:
    remote = ollama.Client(host=caller.url, timeout=120)
    schema = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string", "description": "Of"}}}
    tools = [{"type": "function", "function": {"name": "weather", "description": "Say it.", "parameters": schema}}]
    wanted = tools_llm.chat(ASKED, tools=tools, max_new_tokens=8, temperature=0)
    found = remote.chat("tiny", ASKED, tools=tools, options={"num_predict": 8, "temperature": 0})
    assert found.message.content == wanted.text and not found.message.tool_calls
    assert found.prompt_eval_count == len(wanted.prompt_token_ids)
    assert "tools" in remote.show("tiny").capabilities


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"tool_choice": "required"}, "tool_choice='required' without tools"),
    ("/v1/chat/completions", {"tools": TOOLS, "tool_choice": "wether"}, "tool_choice"),
    (
        "/v1/chat/completions",
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "wether"}}},
        "did you mean 'weather'",
    ),
    ("/v1/chat/completions", {"tools": [{"type": "custom"}]}, "tools[0].type"),
    ("/v1/chat/completions", {"tools": [{"function": {}}]}, "tools[0].function.name"),
    ("/v1/chat/completions", {"tools": TOOLS + TOOLS}, "two tools are called 'weather'"),
    (
        "/v1/chat/completions",
        {"tools": TOOLS, "response_format": {"type": "json_object"}},
        "response_format holds the whole answer, so that no tool could be called",
    ),
    (
        "/v1/chat/completions",
        {
            "tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "strin"}}}}}],
            "tool_choice": "required",
        },
        "tools[0], 'f': json_schema at /properties/a: ",
    ),
    ("/v1/responses", {"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ("/v1/responses", {"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
    ("/v1/responses", {"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
    ("/v1/messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "is of type 'bash_20250124'"),
    ("/v1/messages", {"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ("/v1/messages", {"tool_choice": {"type": "any"}}, "without tools"),
    ("/v1/messages", {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "1"}]}]}, "'name'"),
    ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "'tool_use_id'"),
]


@pytest.mark.parametrize(("path", "change", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_said_in_one_line(
    caller: RunningServer, path: str, change: dict[str, Any], message: str
) -> None:
    asked = {"input": "a"} if path == "/v1/responses" else {"messages": ASKED, "max_tokens": 4}
    answer = caller.http.post(path, json={"model": "tiny", **asked, **change})
    said = answer.json()["error"]["message"]
    assert answer.status_code == 400 and message in said and "\n" not in said, answer.text
