"""What ends a text: ids, stop strings, lengths."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.config.context_length import context_length
from polyllama.core.config.schema import LlamaConfig
from polyllama.core.errors import GenerationError, PolyllamaWarning
from polyllama.core.generation import batch
from polyllama.core.generation.calls import TextStream, generate
from polyllama.core.generation.loop import GenerationRun
from polyllama.core.generation.streaming import StopStrings
from scripted_models import (
    BOS,
    BYTES,
    EOS,
    EOT,
    MODEL,
    PROMPTS,
    SMALL,
    TOKENIZER,
    VOCAB,
    EchoCache,
    RecurrentModel,
    Scripted,
    brute_force,
    options,
    run,
    tokens,
)

# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)


settings.load_profile("no deadline")


@pytest.mark.parametrize(("minimum", "cut"), [(0, True), (3, True), (4, True), (5, False)])
def test_a_stop_string_counts_from_the_least_number_of_tokens_on(minimum, cut):
    says = Scripted([BYTES + byte for byte in b"aEND" + b"z" * 8])
    [result] = run([[BOS]], says, stop=["END"], min_new_tokens=minimum)
    assert (len(result.token_ids), result.text) == ((4, "a") if cut else (12, "aENDzzzzzzzz"))
    assert (result.finish_reason, result.stop_reason) == (("stop", "END") if cut else ("length", None))


def say(text_or_ids, **arguments):
    """What comes out when the model says this (and then an eos) after the beginning-of-sequence token."""
    ids = TOKENIZER.encode(text_or_ids, add_special_tokens=False) if isinstance(text_or_ids, str) else list(text_or_ids)
    model = Scripted([*ids, EOS])
    asked = options(**{"max_new_tokens": len(ids) + 1, "eos_token_id": EOS, **arguments})
    whole = generate(model, TOKENIZER, [[BOS]], asked)[0]
    pieces = TextStream(model, TOKENIZER, [BOS], asked)
    assert "".join(pieces) == whole.text, "a stream shows what generate gives"
    assert pieces.result == whole
    return whole


def test_an_eos_is_in_the_ids_and_not_in_the_text():
    result = say("hello the世")
    assert result.token_ids == [*TOKENIZER.encode("hello the世", add_special_tokens=False), EOS]
    assert (result.text, result.finish_reason, result.stop_reason) == ("hello the世", "stop", EOS)
    assert str(result) == result.text
    assert TOKENIZER.decode([BOS, *result.token_ids], True) == "hello the世"


def test_a_stop_id_that_carries_text_is_in_the_text():
    the = TOKENIZER.encode(" the", add_special_tokens=False)[0]
    result = say("hello the end", stop_token_ids=the)
    assert (result.text, result.token_ids[-1], result.stop_reason) == ("hello the", the, the)
    assert result.text == TOKENIZER.decode(result.token_ids, True)


def test_with_special_tokens_shown_the_eos_is_in_the_text():
    result = say("hello", skip_special_tokens=False)
    assert result.text == TOKENIZER.decode(result.token_ids) == "hello</s>"
    assert result.stop_reason == EOS


def test_a_huge_limit_takes_no_memory_beforehand():
    result = say("hello", max_new_tokens=10**12)
    assert (result.text, result.finish_reason) == ("hello", "stop")


def test_storage_grows_as_the_text_does(monkeypatch):
    monkeypatch.setattr(batch, "FIRST_CAPACITY", 3)
    model = RecurrentModel()
    monkeypatch.setattr(EchoCache, "capacity", property(lambda self: 10**6, lambda self, value: None), raising=False)
    assert tokens(run(model=model)) == [brute_force(prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("failure", [MemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_names_the_options(failure):
    class Full(RecurrentModel):
        def forward(self, arguments):
            raise failure

    with pytest.raises(GenerationError, match=r"out of memory.*max_new_tokens=12.*lower max_new_tokens"):
        run(model=Full())


@pytest.mark.parametrize(
    "asked",
    [{"repetition_penalty": 1e-308}, {"frequency_penalty": -1.7e308, "presence_penalty": -1.7e308}],
)
def test_extreme_penalties_do_not_blame_the_weights(asked):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(GenerationError, match="penalties make logits overflow to inf"):
            run(**asked)
    broken = RecurrentModel()
    broken.last[:] = np.nan
    with pytest.raises(GenerationError, match="model's logits hold NaN"):
        run(model=broken, **asked)


def test_without_an_ending_the_length_ends_it():
    result = say("hello", max_new_tokens=2)
    assert (result.text, result.finish_reason, result.stop_reason) == ("hell", "length", None)
    assert say("abc", eos_token_id=[], max_new_tokens=3).finish_reason == "length"


def test_characters_of_several_bytes_are_never_shown_in_part():
    emoji = [BYTES + byte for byte in "a🦙b".encode()]
    model = Scripted([*emoji, EOS])
    events = list(GenerationRun(model, TOKENIZER, [[BOS]], options(max_new_tokens=9, eos_token_id=EOS)))
    assert [event.text for event in events] == ["a", "", "", "", "🦙", "b", ""]
    assert [event.finish_reason for event in events] == [None] * 6 + ["stop"]
    # cut off in the middle of one, the text says so, as decode does
    assert say(emoji, max_new_tokens=3).text == TOKENIZER.decode(emoji[:3]) == "a\ufffd"


def reference_cut(text: str, stops: list[str]) -> str:
    """The definition: characters arrive one by one; the first that completes a stop string ends the text before it."""
    for end in range(1, len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            return text[: end - max(map(len, done))]
    return text


@given(st.text("abE", max_size=14), st.lists(st.text("abE", min_size=1, max_size=4), max_size=3), st.data())
def test_where_a_stop_string_cuts_does_not_depend_on_the_pieces(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    matcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += matcher.push(piece)
        assert reference_cut(text, stops).startswith(shown), "what was shown is never taken back"
    matched = matcher.matched
    shown += matcher.finish()
    assert shown == reference_cut(text, stops)
    assert (matched is not None) == (shown != text)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([*range(BYTES + 97, BYTES + 100), *range(BYTES + 256, VOCAB)]), max_size=10),
    st.lists(st.sampled_from(["END", "he", "llo", "o", "世", "界a", "é", "\n", "ENDEND", "zzz"]), max_size=3),
)
def test_stop_strings_across_token_borders(ids, stops):
    result = say(ids, stop=stops) if stops else say(ids)
    text = TOKENIZER.decode(ids)
    assert result.text == reference_cut(text, stops)
    assert result.finish_reason == "stop"
    if result.text == text:
        assert result.token_ids == [*ids, EOS] and result.stop_reason == EOS
    else:
        assert result.stop_reason in stops and result.token_ids == ids[: len(result.token_ids)]
        # it stopped with the very token that completed the string
        assert reference_cut(before := TOKENIZER.decode(result.token_ids[:-1]), stops) == before


def test_a_stop_string_that_never_comes_is_shown_in_the_end():
    assert say("hello E", stop="END").text == "hello E"
    assert say("hello EN", stop="END", eos_token_id=[], max_new_tokens=4).text.startswith("hello E")


def test_min_new_tokens_lets_a_stop_string_pass():
    result = say("a END b END c", stop="END", min_new_tokens=4)
    assert result.text == "a END b "
    assert result.stop_reason == "END"


def test_a_stop_string_that_passed_unarmed_stays_passed():
    matcher = StopStrings(["ab", "xaby"])
    assert matcher.push("xab", armed=False) == ""  # could still become the longer one
    assert matcher.push("z") == "xabz" and matcher.matched is None
    assert matcher.push("ab") == "" and matcher.matched == "ab"


def test_a_special_token_as_a_stop_string_is_found_by_its_id():
    ids = [*TOKENIZER.encode("he", add_special_tokens=False), EOT, *TOKENIZER.encode("ll", add_special_tokens=False)]
    result = say(ids, stop=["<eot>", "zzz"])
    assert (result.text, result.stop_reason, result.token_ids[-1]) == ("he", "<eot>", EOT)
    shown = say(ids, stop="<eot>", skip_special_tokens=False)
    assert (shown.text, shown.stop_reason) == ("he", "<eot>")
    assert say(ids, skip_special_tokens=False).text == "he<eot>ll</s>"


def test_the_default_length_is_256_or_what_the_context_leaves():
    assert len(generate(MODEL, None, [[BOS]])[0].token_ids) == 256
    short = RecurrentModel(config=LlamaConfig(vocab_size=VOCAB, max_position_embeddings=20, **SMALL))
    assert [len(ids) for ids in tokens(generate(short, None, [[BOS] * 5, [BOS] * 19]))] == [15, 1]
    # max_length counts the prompt, row by row
    limited = generate(MODEL, None, [[BOS] * 5, [BOS] * 9], options(max_length=12))
    assert [len(ids) for ids in tokens(limited)] == [7, 3]
    with pytest.raises(GenerationError, match=r"the prompt has 12 tokens, max_length=12 counts"):
        generate(MODEL, None, [[BOS] * 12], options(max_length=12))


def test_running_past_the_context_is_said_once():
    short = RecurrentModel(config=LlamaConfig(vocab_size=VOCAB, max_position_embeddings=8, **SMALL))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        generate(short, None, [[BOS] * 4], options(max_new_tokens=5))
        assert caught == []  # the fifth token is never run, so position 8 is not used
        generate(short, None, [[BOS] * 4, [BOS] * 2], options(max_new_tokens=9))
        generate(short, None, [[BOS] * 30], options(max_new_tokens=1))
    assert [w.category for w in caught] == [PolyllamaWarning] * 2
    assert "row 0 is 9 tokens long now, more than the model's context of 8" in str(caught[0].message)
    assert "row 0 is 30 tokens long now" in str(caught[1].message)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (None, 64),
        ({"rope_type": "linear", "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "factor": 2.0}, None),
        ({"rope_type": "yarn", "factor": 4.0}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            64,
        ),
    ],
)
def test_context_length_follows_the_rope(rope, expected):
    raw = {"model_type": "llama", "vocab_size": VOCAB, "max_position_embeddings": 64, **SMALL}
    if rope is not None:
        raw["rope_scaling"] = rope
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PolyllamaWarning)
        config = LlamaConfig.from_dict(raw)
    assert context_length(config) == expected


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models this small gain nothing from threads, and lose a lot when the machine is busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
