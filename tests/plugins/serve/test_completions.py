"""``/v1/completions``, ``/v1/embeddings``, ``/v1/models``, ``/tokenize``: beside the same model in this process."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import openai
import pytest
from polyllama import Llama
from polyllama.plugins.serve.openai.prompt_scores import score_prompt
from running_servers import RunningServer, events

PROMPTS = ["Once upon a time", "The sun was", "One day"]


def test_a_text_goes_on(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.generate("Once upon", max_new_tokens=16, temperature=0)
    answer = client.completions.create(model="tiny", prompt="Once upon", temperature=0)
    assert answer.choices[0].text == wanted.text  # 16 tokens where nothing is said, as OpenAI has it
    assert answer.usage.total_tokens == len(wanted.prompt_token_ids) + 16
    ids = llm.tokenizer.encode("Once upon")
    assert client.completions.create(model="tiny", prompt=ids, temperature=0).choices[0].text == wanted.text
    pieces = client.completions.create(model="tiny", prompt="Once upon", temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == wanted.text


def test_several_prompts_with_several_texts_each(client: openai.OpenAI, llm: Llama) -> None:
    how: dict[str, Any] = {"max_new_tokens": 8, "seed": 11, "temperature": 1.0, "num_return_sequences": 2}
    wanted = [one.text for pair in llm.generate(PROMPTS, **how) for one in pair]
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "seed": 11, "temperature": 1.0, "n": 2}
    answer = client.completions.create(prompt=PROMPTS, **asked)
    assert [choice.text for choice in answer.choices] == wanted
    assert answer.usage.prompt_tokens == sum(len(llm.tokenizer.encode(text)) for text in PROMPTS)
    texts = [""] * 6
    for chunk in client.completions.create(prompt=PROMPTS, **asked, stream=True, echo=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [PROMPTS[place // 2] + text for place, text in enumerate(wanted)]


def test_how_likely_a_prompt_is(client: openai.OpenAI, llm: Llama) -> None:
    """What lm-eval asks for: echo, log-probabilities and no new token."""
    ids = llm.tokenizer.encode(PROMPTS[0])
    logits = llm.forward([ids]).numpy()["logits"][0].astype(np.float64)
    exact = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    exact -= logits.max(-1, keepdims=True)
    wanted = [exact[place, token_id] for place, token_id in enumerate(ids[1:])]
    answer = client.completions.create(model="tiny", prompt=PROMPTS[0], max_tokens=0, echo=True, logprobs=1)
    found = answer.choices[0].logprobs
    assert answer.choices[0].text == PROMPTS[0] and answer.usage.completion_tokens == 0
    assert found.token_logprobs[0] is None and found.token_logprobs[1:] == pytest.approx(wanted, abs=1e-4)
    assert found.top_logprobs[0] is None and all(len(best) <= 2 for best in found.top_logprobs[1:])
    # the texts of the tokens are the prompt, behind the mark of its beginning
    assert "".join(found.tokens[1:]).strip() == PROMPTS[0]
    both = client.completions.create(
        model="tiny", prompt=PROMPTS[0], max_tokens=3, echo=True, logprobs=0, temperature=0
    )
    made = llm.generate(PROMPTS[0], max_new_tokens=3, temperature=0, logprobs=0)
    assert both.choices[0].text == PROMPTS[0] + made.text
    later = [one.logprob for one in made.logprobs]
    assert both.choices[0].logprobs.token_logprobs[1:] == pytest.approx([*wanted, *later], abs=1e-4)
    assert [one.logprob for one in score_prompt(llm, ids, 0).logprobs[1:]] == pytest.approx(wanted, abs=1e-4)


def test_no_number_that_json_does_not_have(server: RunningServer) -> None:
    """A token that cannot come up has a log-probability of minus infinity."""
    body = {"model": "tiny", "prompt": "Once", "max_tokens": 3, "logprobs": 20, "logit_bias": {"5": -100}}
    text = server.http.post("/v1/completions", json=body).text
    assert "Infinity" not in text and "NaN" not in text
    assert json.loads(text)["choices"][0]["logprobs"]["token_logprobs"]
    [chunk, *_] = events(server, "/v1/completions", {**body, "stream": True})
    assert len(chunk["choices"][0]["logprobs"]["tokens"]) >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": []}, "prompt holds 0 prompts"),
        ({"prompt": [1, 99999]}, "outside the vocabulary of 1792"),
        ({"prompt": "a", "suffix": "b"}, "suffix is not offered"),
        ({"prompt": "a", "best_of": 3}, "best_of is not offered"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens=0 without echo"),
        ({"prompt": "word " * 700}, "context is 512"),
        ({"prompt": {"text": "a"}}, "the field 'prompt'"),
        ({}, "the request lacks the field 'prompt'"),
        ({"prompt": "a", "response_format": {"type": "json"}}, "response_format.type"),
    ],
)
def test_what_is_wrong_with_a_completion(server: RunningServer, change: dict[str, Any], message: str) -> None:
    answer = server.http.post("/v1/completions", json={"model": "tiny", **change})
    assert answer.status_code == 400 and message in answer.json()["error"]["message"], answer.text


def test_the_context_ends_a_text(client: openai.OpenAI, llm: Llama) -> None:
    ids = llm.tokenizer.encode("Once upon a time there was a dog. " * 60)[:500]
    answer = client.completions.create(model="tiny", prompt=ids, max_tokens=100, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 12


def test_vectors(client: openai.OpenAI) -> None:
    wanted = Llama.load("tiny", task="embedding", dtype="float32").predict(PROMPTS)
    answer = client.embeddings.create(model="tiny", input=PROMPTS, encoding_format="float")
    assert np.array([row.embedding for row in answer.data]) == pytest.approx(wanted, abs=1e-5)
    packed = client.embeddings.create(model="tiny", input=PROMPTS[0])  # the client asks for base64 and unpacks it
    assert packed.data[0].embedding == pytest.approx(wanted[0].tolist(), abs=1e-5)
    assert answer.usage.prompt_tokens > 6
    with pytest.raises(openai.BadRequestError, match="an empty text"):
        client.embeddings.create(model="tiny", input=["a", " "])
    with pytest.raises(openai.BadRequestError, match="this model's vectors have 128"):
        client.embeddings.create(model="tiny", input="a", dimensions=64)
    raw = client.embeddings.with_raw_response.create(model="tiny", input="a", encoding_format="base64")
    assert len(base64.b64decode(json.loads(raw.text)["data"][0]["embedding"])) == 4 * 128


def test_models(client: openai.OpenAI, server: RunningServer) -> None:
    [model] = client.models.list().data
    shown = client.models.retrieve("tiny").to_dict()
    assert model.id == "tiny" == shown["id"]
    [loaded] = [one for one in shown["loaded"] if one["task"] == "causal-lm"]
    assert (
        loaded["dtype"] == "float32"
        and loaded["bytes"] == pytest.approx(4 * 1_152_384, rel=0.01)
        and loaded["context"] == 512
    )
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.models.retrieve("no/such")
    assert server.http.get("/v1/models/..%2f..%2fetc%2fpasswd").status_code == 404


def test_tokens(server: RunningServer, llm: Llama) -> None:
    ids = llm.tokenizer.encode("Once upon a time")
    found = server.http.post("/tokenize", json={"prompt": "Once upon a time", "return_token_strs": True}).json()
    assert found["tokens"] == ids and found["count"] == len(ids) == len(found["token_strs"])
    bare = server.http.post("/tokenize", json={"prompt": "Once upon a time", "add_special_tokens": False}).json()
    assert bare["tokens"] == ids[1:]
    said = [{"role": "user", "content": "Once"}]
    assert server.http.post("/tokenize", json={"messages": said}).json()["tokens"] == llm.chat_prompt(said)
    text = server.http.post("/detokenize", json={"tokens": ids, "skip_special_tokens": True}).json()
    assert text == {"prompt": "Once upon a time"}
    wrong = server.http.post("/detokenize", json={"tokens": [1, 5000]})
    assert wrong.status_code == 400 and "tokens[1] is 5000, the vocabulary has 1792" in wrong.json()["error"]
    assert server.http.post("/tokenize", json={}).status_code == 400
