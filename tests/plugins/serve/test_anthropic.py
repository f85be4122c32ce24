"""Anthropic's interface with Anthropic's own client."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from polyllama import Llama
from running_servers import RunningServer

SAID: list[Any] = [{"role": "user", "content": "a time"}]
ASK: dict[str, Any] = {"model": "tiny", "max_tokens": 20, "system": "Once upon", "messages": SAID}
GREEDY: dict[str, Any] = {"extra_body": {"temperature": 0}}  # newer clients have no argument for it
PLAIN = [{"role": "system", "content": "Once upon"}, *SAID]


@pytest.fixture(scope="module")
def claude(server: RunningServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120)


def test_a_message(claude: anthropic.Anthropic, llm: Llama) -> None:
    wanted = llm.chat(PLAIN, max_new_tokens=20, temperature=0)
    answer = claude.messages.create(**ASK, **GREEDY)
    assert answer.content[0].text == wanted.text and answer.role == "assistant" and answer.type == "message"
    assert (answer.stop_reason, answer.stop_sequence) == ("max_tokens", None)
    whole = answer.usage.input_tokens + answer.usage.cache_read_input_tokens
    assert whole == len(wanted.prompt_token_ids) and answer.usage.output_tokens == 20
    stop = wanted.text[8:12]
    stopped = claude.messages.create(**ASK, **GREEDY, stop_sequences=[stop])
    assert stopped.content[0].text == wanted.text[: wanted.text.index(stop)]
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)


def test_a_stream_of_events(claude: anthropic.Anthropic, llm: Llama) -> None:
    wanted = llm.chat(PLAIN, max_new_tokens=20, temperature=0)
    with claude.messages.stream(**ASK, **GREEDY) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert message.content[0].text == wanted.text and message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 20
    assert kinds[0] == "message_start" and kinds[1] == "content_block_start" and kinds[-1] == "message_stop"
    assert kinds.count("content_block_delta") > 1 and "content_block_stop" in kinds and "message_delta" in kinds


def test_counting_and_blocks(claude: anthropic.Anthropic, llm: Llama) -> None:
    blocks: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "time"}]}
    ]
    system: list[Any] = [{"type": "text", "text": "Once upon", "cache_control": {"type": "ephemeral"}}]
    found = claude.messages.count_tokens(model="tiny", messages=blocks, system=system)
    assert found.input_tokens == len(llm.chat_prompt(PLAIN))


def test_errors_have_its_form(claude: anthropic.Anthropic, server: RunningServer) -> None:
    with pytest.raises(anthropic.NotFoundError, match="there is no model 'claude'"):
        claude.messages.create(**{**ASK, "model": "claude"})
    with pytest.raises(anthropic.BadRequestError, match="tells it of no tools"):
        claude.messages.create(**ASK, tools=[{"name": "f", "input_schema": {"type": "object"}}])
    image: Any = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]
    with pytest.raises(anthropic.BadRequestError, match="takes text alone"):
        claude.messages.create(**{**ASK, "messages": image})
    wrong = server.http.post("/v1/messages", json={"model": "tiny", "messages": SAID})
    assert wrong.status_code == 400
    error = wrong.json()
    assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error"
    assert error["error"]["message"] == "the request lacks the field 'max_tokens'"
