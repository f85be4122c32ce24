"""Calls that nobody should make: they are refused in a sentence, at once, and what runs goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from polyllama import DynamicCache, Llama
from polyllama.core.errors import GenerationError, InputError
from polyllama.core.generation.cache_memory import bytes_per_token
from polyllama.core.generation.scheduler import Scheduler


@pytest.fixture(scope="module")
def llm() -> Llama:
    return Llama.load("tiny", backend="cpu", dtype="float32")


@pytest.mark.parametrize("way", ["a step", "asyncio"])
def test_code_inside_a_step_cannot_wait_for_another(llm: Llama, way: str) -> None:
    """With asyncio in another thread, which would wait for this step for ever."""

    def careless(input_ids: Any, scores: Any) -> Any:
        if way == "a step":
            llm.scheduler.step()
        else:
            asyncio.run(llm.agenerate("x", max_new_tokens=1))
        return scores

    with pytest.raises(GenerationError, match="cannot have the same model generate"):
        llm.generate("Once", logits_processor=careless, max_new_tokens=2)
    assert llm.generate("Once", max_new_tokens=2).token_ids


def test_a_task_that_outlives_its_step_may_generate(llm: Llama) -> None:
    """It has the step's context still, when another step runs or none."""
    import contextvars

    held: list[contextvars.Context] = []

    def keep(input_ids: Any, scores: Any) -> Any:
        held.append(contextvars.copy_context())
        return scores

    llm.generate("Once", logits_processor=keep, max_new_tokens=2)
    wanted = llm.generate("Once", max_new_tokens=3).text
    assert held[0].run(lambda: llm.generate("Once", max_new_tokens=3).text) == wanted


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"num_beams": 10**9}, "num_beams is 1000000000; wanted a whole number from 1 to 65,536"),
        ({"num_return_sequences": 10**30, "do_sample": True}, "wanted a whole number from 1 to 65,536"),
        ({"num_beams": 2, "length_penalty": 1e9}, "length_penalty=1000000000.0 is too far from 0 to rank texts"),
        ({"num_beams": 2, "length_penalty": -200}, "length_penalty=-200.0 is too far from 0 to rank texts"),
        ({"num_beams": 2, "length_penalty": -8}, "scores below -1000000000 do not count: raise length_penalty"),
        ({"cache_implementation": np.array([1, 2])}, "cache_implementation=.* is not offered"),
        ({"cache_implementation": np.zeros(0)}, "cache_implementation=.* is not offered"),
    ],
)
def test_values_beyond_all_sense(llm: Llama, asked: Any, said: str) -> None:
    with pytest.raises(GenerationError, match=said):
        llm.generate("Once", max_new_tokens=60, **asked)


def test_second_prompts_count_in_the_cache(llm: Llama) -> None:
    prompt, second = llm.tokenizer.encode("The sun"), [1, 500]
    tokens = 2 * (max(len(prompt), len(second)) + 20)
    asked: Any = {"guidance_scale": 1.5, "negative_prompt_ids": second, "max_new_tokens": 20}
    fits = Scheduler(llm.model, cache_memory=tokens * bytes_per_token(llm.model))
    assert len(fits.submit(prompt, **asked).result().token_ids) == 20
    with pytest.raises(GenerationError, match="in 2 rows take"):
        Scheduler(llm.model, cache_memory=(tokens - 1) * bytes_per_token(llm.model)).submit(prompt, **asked)


def weather(city: str) -> str:
    """Say the weather.

    Args:
        city: Where.
    """
    return city


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"description": "Says.", **function}}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"tools": [weather, tool(name="x", parameters="city")]},
            "tool 1: parameters is 'city', wanted the JSON schema",
        ),
        ({"tools": [tool(name="x", parameters=True)]}, "tool 0: parameters is True, wanted the JSON schema"),
        ({"tools": [tool(parameters={})]}, "tool 0 has no name"),
        ({"tools": [tool(name="")]}, "tool 0 has no name"),
        ({"tools": [weather], "parallel_tool_calls": "no"}, "parallel_tool_calls='no' is neither True nor False"),
    ],
)
def test_tools_that_nobody_could_call(asked: Any, said: str) -> None:
    llm = Llama.load("tiny", backend="reference", dtype="float32")
    llm.tokenizer.chat_template = "{{ tools | tojson }}<tool_call>{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(InputError, match=said):
        llm.chat([{"role": "user", "content": "Hi"}], tool_choice="required", max_new_tokens=2, **asked)


def test_caches_that_are_none(llm: Llama) -> None:
    ids = np.array([[1, 400, 401]])
    with pytest.raises(InputError, match="past_key_values is a type, wanted"):
        llm.generate(ids, past_key_values=DynamicCache, max_new_tokens=2)
    cache = DynamicCache()
    for _ in range(2):  # without a backend's cache and with one
        for length in (None, "x", 1.5):
            with pytest.raises(InputError, match=r"crop: max_length is .*, wanted a whole number"):
                cache.crop(length)  # type: ignore[arg-type]
        llm.forward(ids, past_key_values=cache)
