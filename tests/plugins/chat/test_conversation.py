"""A conversation: what is kept of it, and what happens at the end of the model's context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from chat_models import CONTEXT, Talk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polyllama import Llama
from polyllama.core.errors import GenerationError, InputError, TokenizerError
from polyllama.plugins.chat.conversation import ERROR, Conversation

Talks = Callable[..., Talk]


def sent(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages that the model is still given."""
    head = int(conversation.messages[0]["role"] == "system")
    return [*conversation.messages[:head], *conversation.messages[head + conversation.left_out :]]


def test_answers_are_those_of_chat(talk: Talks, talker: Llama) -> None:
    one = talk(prompt={"template_variables": {"mood": "Happily"}})
    one.conversation.system = "Be brief"
    one.conversation.ask("Once")
    asked = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Once"}]
    answer = talker.chat(asked, max_new_tokens=6, mood="Happily").text
    assert one.text() == answer + "\n" and one.said == []
    assert one.conversation.messages == [*asked, {"role": "assistant", "content": answer.strip()}]
    assert one.conversation.stats is not None and one.conversation.stats.new_tokens == 6
    assert one.conversation.tokens == len(talker.chat_prompt(asked, mood="Happily")) + 6
    one.conversation.reset()
    assert one.conversation.messages == asked[:1] and one.conversation.stats is None
    one.conversation.system = None
    assert one.conversation.messages == [] and one.conversation.system is None


def test_going_on_with_an_answer(talk: Talks, talker: Llama) -> None:
    one = talk()
    with pytest.raises(InputError, match="no answer to go on with"):
        one.conversation.go_on()
    one.conversation.ask("Once")
    before = list(one.conversation.messages)
    one.text()
    one.conversation.go_on()
    more = talker.chat(before, max_new_tokens=6, continue_final_message=True).text
    assert one.text() == more + "\n"
    assert one.conversation.messages == [before[0], {**before[1], "content": (before[1]["content"] + more).strip()}]


def test_a_stopped_answer_keeps_what_was_said(talk: Talks, talker: Llama) -> None:
    one = talk(generation={"max_new_tokens": 30})
    whole = talker.chat([{"role": "user", "content": "Once"}], max_new_tokens=30).text
    one.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        one.conversation.ask("Once")
    assert one.conversation.stopped
    said = one.text().removesuffix("\n")
    assert whole.startswith(said) and 0 < len(said) < len(whole)
    assert one.said == ["(stopped; /continue goes on)"]
    assert [message["content"] for message in one.conversation.messages] == ["Once", said.strip()]
    one.conversation.ask("And then?")
    assert len(one.conversation.messages) == 4 and not one.conversation.stopped


def test_an_answer_stopped_before_it_begins_takes_its_message_back(
    talk: Talks, talker: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = talk()
    one.conversation.ask("Once")
    before = list(one.conversation.messages)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(talker, "stream", interrupted)
        with pytest.raises(KeyboardInterrupt):
            one.conversation.ask("And then?")
        assert one.conversation.messages == before and one.said == ["(stopped before the answer began)"]
        with pytest.raises(KeyboardInterrupt):
            one.conversation.retry()  # of the message that was taken back
        assert one.conversation.messages == before
    one.conversation.retry()
    assert [message["content"] for message in one.conversation.messages][2] == "And then?"


def test_answering_again(talk: Talks) -> None:
    one = talk()
    with pytest.raises(InputError, match="no message to answer again"):
        one.conversation.retry()
    one.conversation.system = "Be brief"
    with pytest.raises(InputError, match="no message to answer again"):
        one.conversation.retry()
    one.conversation.ask("Once")
    before = list(one.conversation.messages)
    one.conversation.retry()
    assert one.conversation.messages == before and "no temperature: the answer will be the same" in one.said[0]
    one.conversation.generation |= {"temperature": 2.0, "seed": 1}
    one.conversation.retry()
    assert one.conversation.messages[:-1] == before[:-1] and "a fixed seed" in one.said[1]
    del one.conversation.generation["seed"]
    one.conversation.retry()
    assert len(one.said) == 2 and len(one.conversation.messages) == 3


def test_the_oldest_turns_are_left_out_whole_and_it_is_said_once(talk: Talks, talker: Llama) -> None:
    one = talk()
    one.conversation.system = "Be brief"
    counts = []
    for number in range(8):
        one.conversation.ask(f"Once there were {number} birds")
        counts.append(one.conversation.left_out)
        assert one.conversation.tokens <= CONTEXT
        assert [message["role"] for message in sent(one.conversation)[:2]] == ["system", "user"]
        answer = talker.chat(sent(one.conversation)[:-1], max_new_tokens=6).text
        assert one.text() == answer + "\n"
    assert counts[0] == 0 and counts[-1] > 2 and counts == sorted(counts) and all(n % 2 == 0 for n in counts)
    assert len(one.conversation.messages) == 17  # all are kept, to be saved
    assert len(one.said) == 1 and "no longer fits the model's context of 96 tokens" in one.said[0]
    # No more than is needed: with one turn more, a quarter of the context, or the whole answer, would not be left.
    more = one.conversation.messages[: 1 + 0] + one.conversation.messages[1 + counts[-1] - 2 : -1]
    assert len(talker.chat_prompt(more)) + 6 > CONTEXT
    one.conversation.reset()
    assert one.conversation.left_out == 0


def test_turns_that_were_left_out_for_an_answer_that_never_began_come_back(
    talk: Talks, talker: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = talk()
    while one.conversation.tokens < CONTEXT - 30:
        one.conversation.ask("Once there was a bird")
    before = one.conversation.left_out

    def interrupted(*_: Any, **__: Any) -> None:
        assert one.conversation.left_out > before
        raise KeyboardInterrupt

    monkeypatch.setattr(talker, "stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.conversation.ask("Once there was a bird and then there was another bird in a tree")
    assert one.conversation.left_out == before and one.said[-1] == "(stopped before the answer began)"


@pytest.mark.parametrize("tokens", [80, 120])
def test_an_answer_goes_on_past_the_end_of_the_context(
    talk: Talks, talker: Llama, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    one = talk(generation={"max_new_tokens": 6, "min_new_tokens": 6})
    for _ in range(2):
        one.conversation.ask("Once there was a bird")
    one.text()
    one.conversation.generation = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    prompts: list[list[int]] = []
    results: list[Any] = []
    stream = talker.stream

    def watched(prompt: list[int], **options: Any) -> Any:
        prompts.append(prompt)
        results.append(stream(prompt, **options))
        return results[-1]

    monkeypatch.setattr(talker, "stream", watched)
    one.conversation.ask("Tell me more")
    text = one.text().removesuffix("\n")
    assert one.conversation.left_out == 4 and len(prompts) > 1
    # The parts are one answer: each goes on from the tokens before it, after a prompt of fewer turns.
    *turns, _ = one.conversation.messages
    said: list[int] = []
    for prompt, part in zip(prompts, results, strict=True):
        chats = [talker.chat_prompt(turns[n:]) for n in (0, 2, 4)]
        assert prompt in [chat + said for chat in chats]
        said += part.result.token_ids
    decoder = talker.tokenizer.stream_decoder(prompts[0])
    assert text == "".join(map(decoder.push, said)) + decoder.finish()
    # It is told once the answer has ended, not amid it (which `Talk` sees to).
    assert "no longer fits" in one.said[0]
    if tokens == 80:
        assert len(said) == 80 and len(one.said) == 1
    else:
        assert len(said) < 120 and one.conversation.tokens == CONTEXT
        assert "the answer ends here, at the end of the model's context of 96 tokens" in one.said[1]


@pytest.mark.parametrize("message", ["a", "ab cd", "abc de fgh"])
def test_characters_and_stop_strings_are_whole_where_turns_are_left_out(
    talk: Talks, talker: Llama, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    ids = [talker.tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "🙂".encode()]
    follows = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    forward = talker.model.forward

    def smiling(arguments: Any) -> Any:
        output = forward(arguments)
        logits = np.zeros_like(np.asarray(output.logits))
        logits[0, -1, follows.get(int(np.asarray(arguments.input_ids)[0, -1]), ids[0])] = 99
        return replace(output, logits=logits)

    monkeypatch.setattr(talker.model, "forward", smiling)
    for options, written in (
        ({"max_new_tokens": 71}, "🙂" * 17 + "\ufffd" * 3),
        ({"max_new_tokens": 72, "stop": ["x" + "🙂" * 3, "🙂" * 19]}, "🙂" * 18),
        ({"max_new_tokens": 72, "stop": ["🙂" * 17]}, ""),
    ):
        one = talk(generation={"max_new_tokens": 8})
        for _ in range(3):
            one.conversation.ask(message)
        one.text()
        one.conversation.generation = options
        one.conversation.ask("x")
        assert one.text() == written + "\n"
        assert one.conversation.left_out


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 50)), min_size=1, max_size=4), st.booleans())
def test_no_prompt_is_longer_than_the_context(talk: Talks, turns: list[tuple[int, int]], system: bool) -> None:
    one = talk()
    one.conversation.system = "Be brief" if system else None
    for words, tokens in turns:
        one.conversation.generation = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        one.conversation.ask(" a" * words)  # warnings, such as of a text beyond the context, are errors here
        assert one.conversation.tokens <= CONTEXT
        assert sent(one.conversation)[int(system)]["role"] == "user"
        cut = any("the answer ends here" in line for line in one.said)
        assert one.conversation.stats is not None and (one.conversation.stats.new_tokens == tokens or cut)
    assert sum("no longer fits" in line for line in one.said) == int(one.conversation.left_out > 0)


def test_a_message_beyond_the_context_is_an_error(talk: Talks) -> None:
    for overflow in ("drop-oldest", ERROR):
        one = talk(overflow=overflow)
        one.conversation.ask("Once")
        before = list(one.conversation.messages)
        with pytest.raises(GenerationError, match=r"takes \d+ tokens.*the model's context is 96"):
            one.conversation.ask("word " * 200)
        assert one.conversation.messages == before and one.conversation.left_out == 0
        one.conversation.ask("Short")
        assert len(one.conversation.messages) == 4


def test_the_end_of_the_context_as_an_error(talk: Talks) -> None:
    one = talk(overflow=ERROR, generation={"max_new_tokens": 20, "min_new_tokens": 20})
    with pytest.raises(GenerationError, match=r"overflow='drop-oldest' leaves out the oldest turns") as caught:
        for _ in range(9):
            one.conversation.ask("Once there was a bird")
            one.text()
    assert one.conversation.left_out == 0 and one.said == []
    assert 90 < one.conversation.tokens <= CONTEXT
    partial = one.text().removesuffix("\n")
    assert ("the answer reaches the end" in str(caught.value)) == bool(partial)
    if partial:  # what was said is kept
        assert one.conversation.messages[-1] == {"role": "assistant", "content": partial.strip()}


def test_an_answer_that_is_cut_is_said_where_nobody_asked_for_it(talk: Talks) -> None:
    one = talk(generation={"min_new_tokens": 3, "max_length": 40})
    one.conversation.ask("Once there was a bird")
    assert one.conversation.tokens == 40
    [said] = one.said
    assert said.startswith("(the answer was cut after ") and "/continue goes on with it" in said
    asked = talk()
    asked.conversation.ask("Once")
    assert asked.said == []
    with pytest.raises(GenerationError, match="max_length=40 counts it and the answer"):
        one.conversation.ask("Once there was another bird")


def test_what_cannot_chat_is_said_at_once(talk: Talks) -> None:
    plain = Talk(Llama.load("tiny", backend="reference"))
    with pytest.raises(TokenizerError, match="'tiny' has no chat template, so it is not a chat model"):
        plain.conversation.check("tiny")
    plain.conversation.prompt["chat_template"] = "{{ messages[0].content }}"
    plain.conversation.check("tiny")
    plain.conversation.prompt["chat_template"] = "{% for %}"
    with pytest.raises(TokenizerError, match="malformed"):
        plain.conversation.check("tiny")
    with pytest.raises(GenerationError, match="top_p is 2"):
        talk(generation={"top_p": 2}).conversation.check("tiny")
