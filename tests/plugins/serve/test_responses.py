"""``/v1/responses``, ``/v1/classify`` and ``/v1/rerank``."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from polyllama import Llama
from running_servers import RunningServer

SAID = [{"role": "system", "content": "Once upon"}, {"role": "user", "content": "a time"}]


def test_a_response(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.chat(SAID, max_new_tokens=20, temperature=0)
    how: dict[str, Any] = {"model": "tiny", "instructions": "Once upon", "max_output_tokens": 20, "temperature": 0}
    answer = client.responses.create(**how, input="a time")
    assert answer.output_text == wanted.text and answer.status == "incomplete" and answer.store is False
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage.output_tokens == 20 and answer.usage.input_tokens == len(wanted.prompt_token_ids)
    parts: Any = [{"role": "user", "content": [{"type": "input_text", "text": "a time"}]}]
    assert client.responses.create(**how, input=parts).output_text == wanted.text
    events = list(client.responses.create(**how, input="a time", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.incomplete"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == wanted.text
    assert events[-1].response.output_text == wanted.text


def test_a_response_that_came_to_its_end(client: openai.OpenAI, llm: Llama) -> None:
    with client.responses.stream(model="tiny", input="Once", max_output_tokens=400, temperature=0) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_response()
    wanted = llm.chat([{"role": "user", "content": "Once"}], max_new_tokens=400, temperature=0)
    assert answer.output_text == wanted.text
    assert answer.status == ("completed" if wanted.finish_reason == "stop" else "incomplete")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"previous_response_id": "resp_1"}, "nothing is kept here, send the whole conversation"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tells it of no tools"),
        ({"background": True}, "background is not offered"),
        ({"truncation": "auto"}, "truncation is not offered"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0] is of type 'item_reference'"),
        ({"inpt": 1}, "unknown field 'inpt'; did you mean 'input'?"),
        ({"max_output_tokens": 0}, "the field 'max_output_tokens' is 0"),
    ],
)
def test_what_is_not_kept_or_offered(server: RunningServer, change: dict[str, Any], message: str) -> None:
    answer = server.http.post("/v1/responses", json={"model": "tiny", "input": "a", **change})
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def heads() -> Any:
    running = RunningServer("tiny-sentiment", "tiny-questions", "tiny-entities", "tiny", lasting=True)
    yield running.ready()
    running.end()


def test_every_tasks_results(heads: RunningServer) -> None:
    texts = ["What a lovely day!", "I hate this."]
    wanted = [label.to_dict() for label in Llama.load("tiny-sentiment").predict(texts)]
    found = heads.http.post("/v1/classify", json={"model": "tiny-sentiment", "input": texts}).json()
    assert [row["result"] for row in found["data"]] == [
        {"label": one["label"], "score": pytest.approx(one["score"])} for one in wanted
    ]
    assert found["task"] == "sequence-classification"
    every = {"model": "tiny-sentiment", "input": texts[0], "options": {"top_k": "all"}}
    assert len(heads.http.post("/v1/classify", json=every).json()["data"][0]["result"]) > 1
    asked = {"question": "Where does Tom live?", "context": "Tom lives in a house by the sea."}
    answer = heads.http.post("/v1/classify", json={"model": "tiny-questions", "input": asked}).json()
    assert answer["data"][0]["result"]["answer"] == Llama.load("tiny-questions").predict(**asked).text
    entities = heads.http.post("/v1/classify", json={"model": "tiny-entities", "input": "Tom met Anna."}).json()
    assert isinstance(entities["data"][0]["result"], list)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "tiny", "input": "a"}, "writes text, it does not classify"),
        ({"model": "tiny-sentiment", "input": []}, "input holds 0 texts"),
        ({"model": "tiny-sentiment", "input": "a", "options": {"top_q": 1}}, "top_k"),
        ({"model": "tiny-sentiment", "input": "a", "options": {"progress": True}}, "the server's matter"),
        ({"model": "tiny-sentiment", "input": "word " * 900}, "truncat"),
    ],
)
def test_what_cannot_be_classified(heads: RunningServer, body: dict[str, Any], message: str) -> None:
    answer = heads.http.post("/v1/classify", json=body)
    assert answer.status_code == 400 and message in answer.json()["error"], answer.text


def test_texts_in_the_order_in_which_they_answer(heads: RunningServer) -> None:
    texts = ["The dog ran home.", "The sun is hot.", "It is warm in the sun."]
    body = {"model": "tiny", "query": "The sun is warm", "documents": texts, "top_n": 2}
    found = heads.http.post("/v1/rerank", json=body).json()
    vectors = Llama.load("tiny", task="embedding").predict(["The sun is warm", *texts])
    scores = (vectors[1:] @ vectors[0]).tolist()
    best = sorted(range(3), key=lambda place: -scores[place])[:2]
    assert [row["index"] for row in found["results"]] == best
    assert [row["relevance_score"] for row in found["results"]] == pytest.approx([scores[i] for i in best], abs=1e-3)
    assert found["results"][0]["document"] == {"text": texts[best[0]]}
    none = heads.http.post("/v1/rerank", json={**body, "model": "tiny-entities"})
    assert none.status_code == 400 and "scores no pairs" in none.json()["error"]
