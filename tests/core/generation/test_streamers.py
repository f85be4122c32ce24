"""Streamers: ours in both libraries' generate, transformers' in ours, and what is put into them."""

from __future__ import annotations

from queue import Empty
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import Llama, TextIteratorStreamer, TextStreamer
from polyllama.core.array_kinds import kind_of
from polyllama.core.errors import GenerationError, InputError


@pytest.fixture(scope="module")
def llm():
    return Llama.load("tiny", backend="reference", dtype="float32")


class Recorder:
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.put_so_far: list[Any] = []
        self.ended = 0

    def put(self, value: Any) -> None:
        self.put_so_far.append(value)

    def end(self) -> None:
        self.ended += 1


class Pieces(TextStreamer):
    """Keeps the pieces rather than printing them."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.pieces: list[str] = []

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.pieces.append(text)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_streamer_gets_the_prompts_and_each_steps_tokens(llm, kind):
    ids: Any = np.array([[0, 1, 400], [1, 401, 402]])
    ids = torch.tensor(ids) if kind == "torch" else ids
    streamer = Recorder()
    found = llm.generate(ids, attention_mask=ids != 0, max_new_tokens=4, streamer=streamer)
    prompt, *steps = streamer.put_so_far
    assert {kind_of(value) for value in streamer.put_so_far} == {kind} and streamer.ended == 1
    assert prompt.tolist() == ids.tolist() and all(tuple(step.shape) == (2,) for step in steps)
    assert np.stack(steps, axis=1).tolist() == found[:, 3:].tolist()


def test_a_streamer_with_texts(llm):
    streamer = Recorder()
    first, second = llm.generate(["Once", "Once upon a time"], max_new_tokens=3, streamer=streamer)
    prompt, *steps = streamer.put_so_far
    assert prompt.shape == (2, len(second.prompt_token_ids)) and prompt[1].tolist() == second.prompt_token_ids
    assert np.stack(steps, axis=1).tolist() == [first.token_ids, second.token_ids]
    with pytest.raises(GenerationError, match="batch_size=1 and a streamer do not go together"):
        llm.generate(["Once", "One"], max_new_tokens=3, streamer=streamer, batch_size=1)


def test_a_text_streamer_prints_the_text_in_words(llm, capsys):
    found = llm.generate(
        "Once upon a", max_new_tokens=12, streamer=TextStreamer(llm.tokenizer, skip_special_tokens=True)
    )
    assert capsys.readouterr().out == "Once upon a" + found.text + "\n"
    pieces = Pieces(llm.tokenizer, skip_prompt=True)
    found = llm.generate("Once upon a", max_new_tokens=12, streamer=pieces)
    assert "".join(pieces.pieces) == llm.tokenizer.decode(found.token_ids)
    assert all(piece == "" or piece[-1] in " \n" for piece in pieces.pieces[:-1]) and len(pieces.pieces) > 5


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 1791), min_size=1, max_size=30), skip=st.booleans())
def test_the_pieces_are_what_decoding_gives(llm, ids, skip):
    ids = [token_id for token_id in ids if token_id not in llm.tokenizer.ids_without_token(1792)] or [5]
    pieces = Pieces(llm.tokenizer, skip_special_tokens=skip)
    pieces.put(np.array([ids[:3]]))
    for token_id in ids[3:]:
        pieces.put(np.array([token_id]))
    pieces.end()
    assert "".join(pieces.pieces) == llm.tokenizer.decode(ids, skip_special_tokens=skip)


def test_a_character_of_several_tokens_comes_whole(llm):
    ids = llm.tokenizer.encode("caf\u00e9 \U0001f999 \u4f60\u597d", add_special_tokens=False)
    pieces = Pieces(llm.tokenizer)
    pieces.put(np.array([ids[:1]]))
    for token_id in ids[1:]:
        pieces.put(np.array([token_id]))
        assert "\ufffd" not in "".join(pieces.pieces)
    pieces.end()
    assert "".join(pieces.pieces) == "caf\u00e9 \U0001f999 \u4f60\u597d"


def test_several_rows_are_refused(llm):
    with pytest.raises(InputError, match="a TextStreamer shows one row, 2 are put"):
        llm.generate(["Once", "One"], max_new_tokens=3, streamer=TextStreamer(llm.tokenizer))


def test_text_from_another_thread(llm):
    streamer = TextIteratorStreamer(llm.tokenizer, skip_prompt=True, timeout=60, skip_special_tokens=True)
    found: list[Any] = []
    options = {"max_new_tokens": 8, "streamer": streamer}
    thread = Thread(target=lambda: found.append(llm.generate(torch.tensor([[1, 400]]), **options)))
    thread.start()
    text = "".join(streamer)
    thread.join(timeout=60)
    assert text == llm.tokenizer.decode(found[0][0, 2:].tolist(), skip_special_tokens=True)
    with pytest.raises(Empty):
        next(TextIteratorStreamer(llm.tokenizer, timeout=0.01))


def test_transformers_streamers_here_and_ours_there(llm, capsys):
    import transformers

    folder = str(llm._loaded.folder)
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([llm.tokenizer.encode("Once upon a")])
    printed = []
    for model, streamer in (
        (llm, transformers.TextStreamer(tokenizer)),
        (llm, TextStreamer(tokenizer)),
        (theirs, TextStreamer(tokenizer)),
        (theirs, TextStreamer(llm.tokenizer)),
        (theirs, transformers.TextStreamer(tokenizer)),
    ):
        capsys.readouterr()
        model.generate(ids, max_new_tokens=12, do_sample=False, streamer=streamer)
        printed.append(capsys.readouterr().out)
    assert len(set(printed)) == 1 and len(printed[0]) > 20
    pieces = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True)
    llm.generate(ids, max_new_tokens=5, streamer=pieces)
    assert len("".join(pieces)) > 5


def test_a_chat_takes_a_streamer(llm):
    streamer = Recorder()
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    asked = {"chat_template": template, "max_new_tokens": 3, "streamer": streamer}
    found = llm.chat([{"role": "user", "content": "Once"}], **asked)
    assert [int(step[0]) for step in streamer.put_so_far[1:]] == found.token_ids


# ----------------------------------------------------------------------------------------------- stop strings


def test_stop_strings_with_and_without_a_tokenizer_as_transformers(llm):
    import transformers

    folder = str(llm._loaded.folder)
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = llm.generate("Once upon a", max_new_tokens=40).text
    for stop in ([text[9:12]], text[20:21], [text[5:9], "xyzzy"], ["a" + text[:2]]):  # the last begins in the prompt
        ids = torch.tensor([llm.tokenizer.encode("Once upon a")])
        want = theirs.generate(ids, max_new_tokens=40, stop_strings=stop, tokenizer=tokenizer)
        assert want.shape[1] < ids.shape[1] + 40, stop
        for given_tokenizer in (None, tokenizer, llm.tokenizer):
            found = llm.generate(ids, max_new_tokens=40, stop_strings=stop, tokenizer=given_tokenizer)
            assert found.tolist() == want.tolist(), (stop, given_tokenizer)
    with pytest.raises(GenerationError, match="tokenizer is 3, which does not encode and decode"):
        llm.generate("Once", tokenizer=3)
