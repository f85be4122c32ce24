"""Answers of a given form, by each interface's own words; the oracle is the same constraint in this process."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Any

import anthropic
import ollama
import openai
import pytest
from polyllama import Llama
from pydantic import BaseModel
from running_servers import RunningServer

HI: list[Any] = [{"role": "user", "content": "A fox:"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
NAMED = {"name": "fox", "schema": SCHEMA, "strict": True}
HOW: dict[str, Any] = {"max_tokens": 120, "seed": 4, "temperature": 1.0}
OURS: dict[str, Any] = {"max_new_tokens": 120, "seed": 4, "temperature": 1.0}


class Fox(BaseModel):
    name: str
    age: int


def test_a_chats_schema(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.chat(HI, json_schema=SCHEMA, **OURS)
    form: Any = {"type": "json_schema", "json_schema": NAMED}
    answer = client.chat.completions.create(model="tiny", messages=HI, response_format=form, **HOW)
    assert answer.choices[0].message.content == wanted.text and set(wanted.parsed) == {"name", "age"}
    assert answer.choices[0].finish_reason == "stop"
    chunks = client.chat.completions.create(model="tiny", messages=HI, response_format=form, **HOW, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted.text
    parsed = client.chat.completions.parse(
        model="tiny", messages=HI, response_format=Fox, max_tokens=300, temperature=0, presence_penalty=2
    )
    assert isinstance(parsed.choices[0].message.parsed, Fox)
    anything = {"type": "json_object"}
    text = client.chat.completions.create(model="tiny", messages=HI, response_format=anything, **HOW)  # type: ignore
    choice = text.choices[0]
    assert choice.message.content.startswith("{")
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)


def test_further_forms(client: openai.OpenAI, server: RunningServer) -> None:
    def ask(**form: Any) -> str:
        answer = client.completions.create(model="tiny", prompt="Call", **HOW, extra_body=form)
        assert answer.choices[0].finish_reason == "stop"
        return answer.choices[0].text

    assert re.fullmatch("[0-9]{3}-[0-9]{4}", ask(regex="[0-9]{3}-[0-9]{4}"))
    assert ask(choices=["happy", "sad"]) in ("happy", "sad")
    assert re.fullmatch(r"[1-9][0-9]?(\+[1-9][0-9]?){1,3}", ask(grammar='start: N ("+" N)~1..3\nN: /[1-9][0-9]?/'))
    assert set(json.loads(ask(response_format={"type": "json_schema", "json_schema": NAMED}))) == {"name", "age"}


def test_a_responses_format(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.chat(HI, json_schema=SCHEMA, max_new_tokens=120, temperature=0)
    form: Any = {"format": {"type": "json_schema", **NAMED}}
    answer = client.responses.create(model="tiny", input="A fox:", text=form, max_output_tokens=120, temperature=0)
    assert answer.output_text == wanted.text and answer.text.format.type == "json_schema"
    assert answer.text.format.schema_ == SCHEMA


def test_anthropics_format(server: RunningServer, llm: Llama) -> None:
    wanted = llm.chat(HI, json_schema=SCHEMA, max_new_tokens=120, temperature=0)
    claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120)
    more = {"temperature": 0, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    answer = claude.messages.create(model="tiny", max_tokens=120, messages=HI, extra_body=more)
    assert answer.content[0].text == wanted.text and answer.stop_reason == "end_turn"


def test_ollamas_format(server: RunningServer, llm: Llama) -> None:
    wanted = llm.chat(HI, json_schema=SCHEMA, max_new_tokens=120, temperature=0)
    remote = ollama.Client(host=server.url, timeout=120)
    how = {"temperature": 0, "num_predict": 120}
    assert remote.chat("tiny", HI, format=SCHEMA, options=how).message.content == wanted.text
    assert remote.generate("tiny", "A fox:", format="json", options=how).response.startswith("{")


BAD: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integr"}}}}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": {"schema": BAD}}}, "/a/items"),
    ("/v1/chat/completions", {"response_format": {"type": "json_schema"}}, "response_format lacks json_schema.schema"),
    ("/v1/chat/completions", {"regex": "[0-9"}, "regex"),
    ("/v1/chat/completions", {"grammar": "start: x"}, "grammar"),
    ("/v1/chat/completions", {"choices": []}, "choices"),
    ("/v1/chat/completions", {"regex": "a", "choices": ["a"]}, "regex and choices are two constraints"),
    ("/v1/responses", {"text": {"format": {"type": "json_schema", "schema": BAD}}}, "/a/items"),
    ("/v1/messages", {"output_config": {"format": {"type": "json_schema", "schema": BAD}}}, "/a/items"),
    ("/api/chat", {"format": BAD}, "/a/items"),
    ("/api/chat", {"format": "yaml"}, "wanted 'json' or a JSON schema"),
]


@pytest.mark.parametrize(("path", "change", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_form_that_is_none_is_said_with_its_place(
    server: RunningServer, path: str, change: dict[str, Any], message: str
) -> None:
    asked = {"input": "a"} if path == "/v1/responses" else {"messages": HI}
    asked |= {"max_tokens": 4} if path == "/v1/messages" else {}
    answer = server.http.post(path, json={"model": "tiny", **asked, **change})
    error = answer.json()["error"]
    said = error if isinstance(error, str) else error["message"]
    assert answer.status_code == 400 and message in said and "\n" not in said, answer.text


def test_compiling_holds_up_nobody(server: RunningServer) -> None:
    """A schema that takes long is compiled in the thread of its request."""
    words = [{"const": f"word {n} of many"} for n in range(24_000)]
    form = {"type": "json_schema", "json_schema": {"schema": {"anyOf": words}}}
    body = {"model": "tiny", "messages": HI, "max_tokens": 2, "response_format": form}
    ended: list[tuple[int, float]] = []

    def ask() -> None:
        begun = time.perf_counter()
        answer = server.http.post("/v1/chat/completions", json=body)
        ended.append((answer.status_code, time.perf_counter() - begun))

    thread = threading.Thread(target=ask)
    thread.start()
    waits = []
    while thread.is_alive():
        before = time.perf_counter()
        assert server.http.get("/api/version").status_code == 200
        waits.append(time.perf_counter() - before)
    thread.join(60)
    [(status, seconds)] = ended
    assert status == 200 and max(waits) < seconds / 2, (status, seconds, max(waits))
