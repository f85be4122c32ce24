"""``/v1/chat/completions`` with OpenAI's own client, beside the same model in this process."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from polyllama import Llama
from running_servers import RunningServer, events

HI: list[Any] = [{"role": "system", "content": "Once upon"}, {"role": "user", "content": "a time"}]
ASK: dict[str, Any] = {"model": "tiny", "messages": HI}


def test_an_answer_is_that_of_the_model_itself(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.chat(HI, max_new_tokens=20, temperature=0)
    answer = client.chat.completions.create(**ASK, max_tokens=20, temperature=0)
    assert answer.choices[0].message.content == wanted.text and len(wanted.text) > 20
    assert answer.choices[0].finish_reason == wanted.finish_reason == "length"
    assert answer.usage.prompt_tokens == len(wanted.prompt_token_ids)
    assert answer.usage.completion_tokens == 20
    assert answer.model == "tiny" and answer.object == "chat.completion"
    # max_completion_tokens is the newer name
    again = client.chat.completions.create(**ASK, max_completion_tokens=20, temperature=0)
    assert again.choices[0].message.content == wanted.text


def test_a_stream_is_the_same_piece_by_piece(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.chat(HI, max_new_tokens=24, seed=5, temperature=0.9, top_p=0.95).text
    how = {"max_tokens": 24, "seed": 5, "temperature": 0.9, "top_p": 0.95}
    chunks = list(client.chat.completions.create(**ASK, **how, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert all(chunk.usage is None for chunk in chunks)  # only when asked for
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_usage_chunk_comes_only_when_asked_for(server: RunningServer) -> None:
    body = {**ASK, "max_tokens": 5, "temperature": 0, "stream": True}
    plain = events(server, "/v1/chat/completions", body)
    assert all("usage" not in chunk and len(chunk["choices"]) == 1 for chunk in plain)
    counted = events(server, "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    assert [chunk["usage"] for chunk in counted[:-1]] == [None] * (len(counted) - 1)
    assert counted[-1]["choices"] == [] and counted[-1]["usage"]["completion_tokens"] == 5
    answer = server.http.post("/v1/chat/completions", json={**ASK, "stream_options": {"include_usage": True}})
    assert answer.status_code == 400 and "stream_options goes with stream" in answer.text


def test_several_answers(client: openai.OpenAI, llm: Llama, server: RunningServer) -> None:
    made = llm.chat(HI, max_new_tokens=12, seed=3, temperature=1.2, num_return_sequences=3)
    wanted = [found.text for found in made]
    how: dict[str, Any] = {"n": 3, "max_tokens": 12, "seed": 3, "temperature": 1.2}
    answer = client.chat.completions.create(**ASK, **how)
    assert [choice.message.content for choice in answer.choices] == wanted and len(set(wanted)) == 3
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == sum(len(found.token_ids) for found in made)
    assert answer.usage.prompt_tokens == len(llm.chat_prompt(HI))
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**ASK, **how, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == wanted


def test_a_model_without_a_template_is_told_apart_and_its_path_is_nobodys_business() -> None:
    bare = RunningServer("tiny").ready()
    answer = bare.http.post("/v1/chat/completions", json={"messages": HI})
    bare.end()
    assert answer.status_code == 400
    said = answer.json()["error"]["message"]
    assert "has no chat template" in said and "/v1/completions" in said and "tokenizer" not in said


def test_log_probabilities(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.chat(HI, max_new_tokens=6, temperature=0, logprobs=3)
    answer = client.chat.completions.create(**ASK, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert [round(one.logprob, 4) for one in content] == [round(one.logprob, 4) for one in wanted.logprobs]
    assert "".join(one.token for one in content) == wanted.text
    assert b"".join(bytes(one.bytes) for one in content).decode() == wanted.text
    assert all(len(one.top_logprobs) == 3 and one.top_logprobs[0].token == one.token for one in content)
    how: dict[str, Any] = {"temperature": 0, "logprobs": True, "top_logprobs": 3, "stream": True}
    chunks = list(client.chat.completions.create(**ASK, max_tokens=6, **how))
    streamed = [one for c in chunks if c.choices[0].logprobs for one in c.choices[0].logprobs.content]
    assert [one.token for one in streamed] == [one.token for one in content]


@pytest.mark.parametrize("start", range(2, 26, 3))
def test_a_stop_string_never_leaks_and_nothing_before_it_is_lost(server: RunningServer, llm: Llama, start: int) -> None:
    """Wherever it begins, in the middle of a token or not, and however it was divided into pieces."""
    text = llm.chat(HI, max_new_tokens=20, temperature=0).text
    stop = text[start : start + 5]
    body = {**ASK, "max_tokens": 20, "temperature": 0, "stop": [stop, "never in it"]}
    found = events(server, "/v1/chat/completions", {**body, "stream": True})
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in found]
    assert "".join(pieces) == text[: text.index(stop)]
    assert found[-1]["choices"][0]["finish_reason"] == "stop"
    whole = server.http.post("/v1/chat/completions", json=body).json()
    assert whole["choices"][0]["message"]["content"] == text[: text.index(stop)]


def test_fields_that_clients_send_by_habit(client: openai.OpenAI) -> None:
    habit: dict[str, Any] = {"user": "me", "store": False, "metadata": {"a": "b"}, "service_tier": "auto"}
    answer = client.chat.completions.create(**ASK, **habit, max_tokens=1, parallel_tool_calls=True)
    assert answer.usage.completion_tokens == 1


def test_contents_in_parts_and_a_templates_variables(client: openai.OpenAI, llm: Llama) -> None:
    parts = [{"type": "text", "text": "Once upon"}, {"type": "text", "text": " a time"}]
    said = [{"role": "user", "content": "Once upon a time"}]
    wanted = llm.chat(said, max_new_tokens=6, temperature=0, mood=", in a").text
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": parts}],
        max_tokens=6,
        temperature=0,
        extra_body={"chat_template_kwargs": {"mood": ", in a"}},
    )
    assert answer.choices[0].message.content == wanted


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"temprature": 1}, "the request has an unknown field 'temprature'; did you mean 'temperature'?"),
    ({"max_tokens": "5"}, "the field 'max_tokens' is '5': input should be a valid integer"),
    ({"max_tokens": -1}, "the field 'max_tokens' is -1: input should be greater than or equal to 0"),
    ({"max_tokens": 0}, "max_tokens is 0"),
    ({"temperature": -1}, "the field 'temperature' is -1"),
    ({"messages": []}, "the field 'messages' is []"),
    ({"messages": "hi"}, "the field 'messages' is 'hi'"),
    ({"messages": [{"content": "hi"}]}, "the request lacks the field 'messages[0].role'"),
    ({"messages": [{"role": "user", "content": "a", "contents": 1}]}, "unknown field 'messages[0].contents'"),
    ({"messages": [{"role": "tyrant", "content": "a"}]}, "no tyrants here"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
    ({"messages": [{"role": "user", "content": "word " * 600}]}, "tokens, the model's context is 512"),
    ({"n": 2, "temperature": 0}, "would give the same text"),
    ({"top_logprobs": 3}, "top_logprobs goes with logprobs"),
    ({"logit_bias": {"x": 1}}, "logit_bias has the key 'x', wanted a token id"),
    ({"logit_bias": {"99999": 1}}, "outside the vocabulary"),
    ({"stop": [""]}, "stop"),
    ({"min_tokens": 9, "max_tokens": 3}, "min_tokens=9 is more than max_tokens=3"),
    ({"modalities": ["audio"]}, "answers are text alone"),
    ({"seed": 1.5}, "the field 'seed' is 1.5"),
    ({"chat_template_kwargs": {"moud": 1}}, "moud"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=lambda v: str(v)[:40])
def test_what_is_wrong_is_said_in_one_line(server: RunningServer, change: dict[str, Any], message: str) -> None:
    for stream in (False, True):
        answer = server.http.post("/v1/chat/completions", json={**ASK, "stream": stream, **change})
        error = answer.json()["error"]
        assert answer.status_code == 400, error
        assert message in error["message"] and "\n" not in error["message"], error["message"]
        assert error["type"] == "invalid_request_error" and "Traceback" not in answer.text


def test_what_is_no_json_and_what_is_not_there(server: RunningServer, client: openai.OpenAI) -> None:
    for content in (b"", b"{", b"[1]", b'"a"', b"\xff\xfe", b"[" * 10_000, b'{"messages": NaN}'):
        answer = server.http.post("/v1/chat/completions", content=content)
        assert answer.status_code == 400, answer.text
        assert "\n" not in answer.json()["error"]["message"]
    with pytest.raises(openai.NotFoundError, match="there is no model 'tinny' here; did you mean 'tiny'") as caught:
        client.chat.completions.create(model="tinny", messages=HI)
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    assert server.http.get("/v1/chat/completions").status_code == 405
    missing = server.http.get("/v1/chats/completions")
    assert missing.status_code == 404 and "did you mean '/v1/chat/completions'" in missing.json()["error"]
    with pytest.raises(openai.BadRequestError, match="tells it of no tools"):
        tool: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}
        client.chat.completions.create(**ASK, tools=[tool])
