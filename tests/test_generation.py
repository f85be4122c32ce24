"""The generation loop: batching, stopping, streaming, options, on a small NumPy model and on real tiny Llamas."""

from __future__ import annotations

import codecs
import dataclasses
import gc
import json
import warnings
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.cache import Cache
from polyllama.core.config import LlamaConfig
from polyllama.core.errors import GenerationError, InputError, PolyllamaWarning
from polyllama.core.forward_arguments import ForwardArguments
from polyllama.core.generation import (
    GenerationDefaults,
    GenerationOptions,
    GenerationRun,
    TextStream,
    batch,
    by_prompt,
    generate,
    stream,
)
from polyllama.core.generation.decoding import context_length
from polyllama.core.generation.streaming import StopStrings
from polyllama.core.outputs import CausalLMOutput
from support import BACKENDS, ROPE_TYPES

# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
BOS, EOS, EOT = 1, 2, 3
BYTES = 4  # first of 256 byte tokens
WORDS = ["he", "ll", "o E", "END", "ND", "世界", "é", " the", "a", "\n\n"]
VOCAB = BYTES + 256 + len(WORDS)


SPECIAL = {0: "<unk>", BOS: "<s>", EOS: "</s>", EOT: "<eot>"}


class ByteTokenizer:
    """A whole small tokenizer: bytes and a few longer pieces, greedily matched, and three special tokens."""

    bos_token_id = BOS
    eos_token_id = EOS
    all_special_ids = tuple(SPECIAL)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        for token_id, name in SPECIAL.items():
            if text == name:
                return [BOS] * add_special_tokens + [token_id]
        ids, place = [BOS] * add_special_tokens, 0
        while place < len(text):
            word = max((w for w in WORDS if text.startswith(w, place)), key=len, default=None)
            if word is None:
                ids += [BYTES + byte for byte in text[place].encode()]
                place += 1
            else:
                ids.append(BYTES + 256 + WORDS.index(word))
                place += len(word)
        return ids

    def piece(self, token_id: int, skip_special_tokens: bool) -> bytes:
        if token_id < BYTES:
            return b"" if skip_special_tokens else SPECIAL[token_id].encode()
        return bytes([token_id - BYTES]) if token_id < BYTES + 256 else WORDS[token_id - BYTES - 256].encode()

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return b"".join(self.piece(i, skip_special_tokens) for i in token_ids).decode(errors="replace")

    def stream_decoder(self, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> ByteDecoder:
        return ByteDecoder(self, prompt_ids, skip_special_tokens)


class ByteDecoder:
    def __init__(self, tokenizer: ByteTokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._piece = lambda token_id: tokenizer.piece(token_id, skip_special_tokens)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token_id in prompt_ids:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        return self._decoder.decode(self._piece(token_id))

    def finish(self) -> str:
        return self._decoder.decode(b"", True)


class EchoCache(Cache):
    """What the recurrent model remembers: the ids so far."""

    ids: np.ndarray

    def _take(self, array, rows):
        return array[rows]

    def _select(self, source, rows):
        self.ids = source.ids[rows]


class RecurrentModel:
    """A language model whose logits depend on every attended token, on how far back it is and on the position.

    ``logits = position[p] + last[token] + sum over attended tokens of 0.7**distance * memory[token]``: a padded token
    that is attended to, a position that counts padding, or a cache row that is mixed up changes them.
    """

    def __init__(self, seed: int = 0, config: LlamaConfig | None = None, sharpness: float = 3.0) -> None:
        random = np.random.default_rng(seed)
        self.config = config or LlamaConfig(vocab_size=VOCAB, max_position_embeddings=512, **SMALL)
        vocab = self.config.vocab_size
        self.graph, self.dtype, self.device = None, "float32", "cpu"
        self.position, self.last, self.memory = (
            (random.normal(size=(rows, vocab)) * sharpness).astype(np.float32) for rows in (700, vocab, vocab)
        )
        self.calls: list[tuple[int, int]] = []
        self.caches: list[weakref.ref] = []

    def new_cache(self, batch: int, capacity: int) -> EchoCache:
        cache = EchoCache(batch, capacity)
        cache.ids = np.zeros((batch, 0), np.int64)
        self.caches.append(weakref.ref(cache))
        return cache

    def to_numpy(self, array):
        return np.asarray(array, np.float32)

    def forward(self, arguments):
        assert arguments.use_cache and arguments.logits_to_keep == 1
        ids, cache = np.asarray(arguments.input_ids), arguments.past_key_values
        attention_mask = arguments.attention_mask
        cache.claim(self, ids.shape[0])
        assert attention_mask.shape == (ids.shape[0], cache.length + ids.shape[1])
        assert attention_mask.any(axis=1).all()
        assert attention_mask.shape[1] <= cache.capacity
        self.calls.append(ids.shape)
        cache.ids = np.concatenate([cache.ids, ids], axis=1)
        cache.advance(ids.shape[1], attention_mask.astype(bool))
        rows = []
        for row, mask in zip(cache.ids, cache.mask, strict=True):
            seen = row[mask]
            weights = 0.7 ** np.arange(len(seen) - 1, -1, -1)
            rows.append(self.position[len(seen) - 1] + self.last[seen[-1]] + weights @ self.memory[seen])
        return CausalLMOutput(logits=np.stack(rows)[:, None].astype(np.float32), past_key_values=cache)


class Scripted(RecurrentModel):
    """The same model with positions so strong that it says a given sequence after any prompt of one token."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        super().__init__(1)
        for position, token_id in enumerate(token_ids):
            self.position[position, token_id] += 1000


MODEL = RecurrentModel()
TOKENIZER = ByteTokenizer()
PROMPTS = [[BOS, 40, 50, 60], [BOS], [BOS, 7, 7, 9, 200, 31, 5], [BOS, 40, 50, 60]]


def options(**arguments) -> GenerationOptions:
    return GenerationOptions.resolve(arguments)


def run(prompts=PROMPTS, model=MODEL, **arguments):
    return generate(model, TOKENIZER, prompts, options(**{"max_new_tokens": 12, **arguments}))


def tokens(results) -> list[list[int]]:
    return [result.token_ids for result in results]


def brute_force(prompt: list[int], count: int, model=MODEL) -> list[int]:
    """Greedy decoding by definition: the whole text again for every token, alone, without a loop of ours."""
    ids = list(prompt)
    for _ in range(count):
        out = model.forward(
            ForwardArguments(
                input_ids=[ids],
                attention_mask=np.ones((1, len(ids)), int),
                past_key_values=model.new_cache(1, len(ids)),
                use_cache=True,
                logits_to_keep=1,
            )
        )
        ids.append(int(out.logits[0, -1].argmax()))
    return ids[len(prompt) :]


# ------------------------------------------------------------------------------------------------- batches


def test_greedy_is_the_argmax_of_the_whole_text_run_again():
    assert tokens(run()) == [brute_force(prompt, 12) for prompt in PROMPTS]


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=1, max_size=5),
    st.integers(0, 5),
    st.sampled_from([None, 1, 2, 5]),
    st.sampled_from([None, 1, 2, 3]),
)
def test_a_batch_gives_each_row_what_it_gets_alone(prompts, seed, chunk, size):
    model = RecurrentModel(seed)
    batched = run(prompts, model, prefill_chunk_size=chunk, batch_size=size)
    assert tokens(batched) == [brute_force(prompt, 12, model) for prompt in prompts]
    assert [str(r) for r in batched] == [run([prompt], model)[0].text for prompt in prompts]


@pytest.mark.parametrize("size", [None, 1, 2, 3, 5])
@pytest.mark.parametrize("chunk", [None, 3])
def test_sampling_does_not_depend_on_how_rows_are_batched(size, chunk):
    asked = {"temperature": 1.5, "top_p": 0.95, "seed": 3, "num_return_sequences": 3}
    assert tokens(run(**asked, batch_size=size, prefill_chunk_size=chunk)) == tokens(run(**asked))


def test_the_first_prompt_of_a_batch_is_sampled_as_alone():
    assert tokens(run(temperature=1.5, seed=3))[0] == tokens(run(PROMPTS[:1], temperature=1.5, seed=3))[0]


def test_rows_that_end_leave_the_batch_without_disturbing_the_others():
    stop_ids = [brute_force(PROMPTS[0], 3)[-1], brute_force(PROMPTS[1], 5)[-1]]
    model = RecurrentModel()
    results = run(model=model, eos_token_id=stop_ids, max_new_tokens=30)
    expected = []
    for prompt in PROMPTS:
        alone = brute_force(prompt, 30)
        ends = [i + 1 for i, token_id in enumerate(alone) if token_id in stop_ids]
        expected.append(alone[: ends[0]] if ends else alone)
    assert tokens(results) == expected
    widths = [shape[0] for shape in model.calls]
    assert widths[0] == 3 and widths[1] == 4 and widths[-1] <= 2  # three distinct prompts, four rows, then fewer


def test_a_prompt_is_prefilled_once_however_many_sequences_it_has():
    model = RecurrentModel()
    results = run([PROMPTS[0]] * 2, model, temperature=2.0, num_return_sequences=3, seed=5)
    assert model.calls[0] == (1, 4) and model.calls[1] == (6, 1)
    assert results[0].stats.prompt_tokens == 4
    assert len({tuple(ids) for ids in tokens(results)}) == 6
    assert [r.row for r in results] == list(range(6))
    assert [[r.row for r in group] for group in by_prompt(results, 3)] == [[0, 1, 2], [3, 4, 5]]
    assert by_prompt(results, 1) == results


def test_prefill_chunks_reach_into_the_shortest_prompt():
    model = RecurrentModel()
    run([[BOS] * 9, [BOS] * 5], model, prefill_chunk_size=2, max_new_tokens=2)
    assert model.calls == [(2, 5), (2, 2), (2, 2), (2, 1)]


def test_no_prompts_give_no_results():
    assert run([]) == []


# --------------------------------------------------------------------------------------------- seeds and sampling


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others():
    first = run(temperature=1.0, seed=7)
    assert tokens(first) == tokens(run(temperature=1.0, seed=7))
    assert tokens(first) != tokens(run(temperature=1.0, seed=8))
    assert first[0].token_ids != first[3].token_ids, "equal prompts of one request draw on their own"


def test_without_a_seed_a_fresh_one_is_drawn_and_reported():
    first, second = run(temperature=1.0), run(temperature=1.0)
    assert first[0].seed != second[0].seed and tokens(first) != tokens(second)
    assert tokens(run(temperature=1.0, seed=first[0].seed)) == tokens(first)
    assert run()[0].seed is None


def test_every_step_of_a_row_draws_anew():
    flat = RecurrentModel(0, sharpness=0.0)
    result = run([[BOS]], flat, temperature=1.0, seed=1, max_new_tokens=30)[0]
    assert len(set(result.token_ids)) > 20


def test_filters_reach_the_sampler():
    greedy = tokens(run())
    assert tokens(run(top_k=1)) == greedy == tokens(run(temperature=0, top_p=0.9))
    assert tokens(run(temperature=1.0, top_p=1e-6, seed=1)) == greedy
    assert tokens(run(temperature=1.0, min_p=1.0, seed=1)) == greedy
    assert tokens(run(temperature=5.0, seed=1)) != greedy


# ----------------------------------------------------------------------------------------------------- processors


def test_logit_bias_forces_and_forbids():
    assert set(tokens(run(logit_bias={33: 1e4}))[0]) == {33}
    drawn = {"temperature": 3.0, "seed": 1, "max_new_tokens": 60}
    first = tokens(run(**drawn))[0][0]  # which comes up without a bias
    assert all(first not in ids for ids in tokens(run(logit_bias={first: float("-inf")}, **drawn)))


def test_min_new_tokens_holds_every_ending_back():
    ending = brute_force(PROMPTS[0], 1)[0]
    for name in ("eos_token_id", "stop_token_ids"):
        assert len(run(PROMPTS[:1], **{name: [ending]})[0].token_ids) == 1
        for minimum in (1, 4):
            result = run(PROMPTS[:1], **{name: [ending]}, min_new_tokens=minimum)[0]
            assert len(result.token_ids) >= minimum and ending not in result.token_ids[:minimum]


@pytest.mark.parametrize("minimum", [0, 1, 4])
def test_an_ending_is_held_back_for_exactly_so_many_tokens(minimum):
    always = Scripted([77] * 12)
    [result] = run([[BOS]], always, eos_token_id=[77], min_new_tokens=minimum)
    assert result.token_ids.index(77) == minimum == len(result.token_ids) - 1
    assert result.finish_reason == "stop" and result.stop_reason == 77


@pytest.mark.parametrize(("minimum", "cut"), [(0, True), (3, True), (4, True), (5, False)])
def test_a_stop_string_counts_from_the_least_number_of_tokens_on(minimum, cut):
    says = Scripted([BYTES + byte for byte in b"aEND" + b"z" * 8])
    [result] = run([[BOS]], says, stop=["END"], min_new_tokens=minimum)
    assert (len(result.token_ids), result.text) == ((4, "a") if cut else (12, "aENDzzzzzzzz"))
    assert (result.finish_reason, result.stop_reason) == (("stop", "END") if cut else ("length", None))


@given(st.integers(1, 3), st.integers(0, 20))
@settings(max_examples=20)
def test_no_ngram_repeats(size, seed):
    model = RecurrentModel(seed, sharpness=0.3)
    prompt = [BOS, 9, 9, 8, 9]
    result = run([prompt], model, no_repeat_ngram_size=size, max_new_tokens=40)[0]
    ids = prompt + result.token_ids
    for start in range(len(prompt) - size + 1, len(ids) - size + 1):
        ngram = ids[start : start + size]
        assert all(ids[i : i + size] != ngram for i in range(start)), "an n-gram that ends in a new token is new"


def test_penalties_keep_tokens_from_repeating():
    model = RecurrentModel(2, sharpness=0.01)
    model.position[:, 77] += 1  # says 77 for ever
    assert set(run([[BOS]], model)[0].token_ids) == {77}
    for name, value in (("repetition_penalty", 1e6), ("presence_penalty", 1e3), ("frequency_penalty", 1e3)):
        ids = run([[BOS]], model, **{name: value}, max_new_tokens=6)[0].token_ids
        assert len(set(ids)) == 6, name
    # the prompt counts for one kind, and not for the other
    assert run([[BOS, 77]], model, repetition_penalty=1e6)[0].token_ids[0] != 77
    assert run([[BOS, 77]], model, presence_penalty=1e3)[0].token_ids[0] == 77


def test_when_every_token_is_forbidden_the_row_and_step_are_named():
    bias = {token_id: float("-inf") for token_id in range(VOCAB)}
    with pytest.raises(GenerationError, match=r"row 0, step 0: no token is possible.*logit_bias"):
        run(logit_bias=bias)


def test_logits_that_are_not_finite_name_the_row_and_step():
    model = RecurrentModel()
    model.position[len(PROMPTS[2]) + 1, 5] = np.nan  # row 2, being the longest, gets there first: at its step 2
    with pytest.raises(GenerationError, match=r"row 2, step 2: .*NaN"):
        run(model=model)


def test_a_model_without_a_vocabulary_is_refused():
    class Classifier(RecurrentModel):
        def forward(self, arguments):
            out = super().forward(arguments)
            return CausalLMOutput(logits=out.logits[:, 0, :2], past_key_values=out.past_key_values)

    with pytest.raises(GenerationError, match=r"logits of shape \[1, 2\].*causal"):
        run([[BOS]], Classifier())


# -------------------------------------------------------------------------------------------------------- logprobs


def test_logprobs_are_the_raw_ones_of_the_model():
    prompt = PROMPTS[0]
    result = run([prompt], logprobs=3, temperature=2.0, seed=4, repetition_penalty=1.5, logit_bias={9: 5.0})[0]
    assert [entry.token_id for entry in result.logprobs] == result.token_ids
    for step, entry in enumerate(result.logprobs):
        ids = prompt + result.token_ids[:step]
        out = MODEL.forward(
            ForwardArguments(
                input_ids=[ids],
                attention_mask=np.ones((1, len(ids)), int),
                past_key_values=MODEL.new_cache(1, 99),
                use_cache=True,
                logits_to_keep=1,
            )
        )
        raw = out.logits[0, -1].astype(np.float64)
        expected = raw - raw.max() - np.log(np.exp(raw - raw.max()).sum())
        assert entry.logprob == pytest.approx(expected[entry.token_id], abs=1e-4)
        assert [i for i, _ in entry.top] == np.argsort(-raw, kind="stable")[:3].tolist()
    assert run([prompt])[0].logprobs is None
    assert [entry.top for entry in run([prompt], logprobs=0)[0].logprobs] == [()] * 12


# ----------------------------------------------------------------------------------------------- stopping and text


def say(text_or_ids, **arguments):
    """What comes out when the model says this (and then an eos) after the beginning-of-sequence token."""
    ids = TOKENIZER.encode(text_or_ids, False) if isinstance(text_or_ids, str) else list(text_or_ids)
    model = Scripted([*ids, EOS])
    asked = options(**{"max_new_tokens": len(ids) + 1, "eos_token_id": EOS, **arguments})
    whole = generate(model, TOKENIZER, [[BOS]], asked)[0]
    pieces = TextStream(model, TOKENIZER, [BOS], asked)
    assert "".join(pieces) == whole.text, "a stream shows what generate gives"
    assert pieces.result == whole
    return whole


def test_an_eos_is_in_the_ids_and_not_in_the_text():
    result = say("hello the世")
    assert result.token_ids == [*TOKENIZER.encode("hello the世", False), EOS]
    assert (result.text, result.finish_reason, result.stop_reason) == ("hello the世", "stop", EOS)
    assert str(result) == result.text
    assert TOKENIZER.decode([BOS, *result.token_ids], True) == "hello the世"


def test_a_stop_id_that_carries_text_is_in_the_text():
    the = TOKENIZER.encode(" the", False)[0]
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
    ids = [*TOKENIZER.encode("he", False), EOT, *TOKENIZER.encode("ll", False)]
    result = say(ids, stop=["<eot>", "zzz"])
    assert (result.text, result.stop_reason, result.token_ids[-1]) == ("he", "<eot>", EOT)
    shown = say(ids, stop="<eot>", skip_special_tokens=False)
    assert (shown.text, shown.stop_reason) == ("he", "<eot>")
    assert say(ids, skip_special_tokens=False).text == "he<eot>ll</s>"


@pytest.mark.parametrize("arguments", [{}, {"temperature": 1.0, "seed": 2}, {"stop": ["a", "\n"], "logprobs": 2}])
def test_streams_and_events_add_up_to_the_results(arguments):
    asked = options(max_new_tokens=40, **arguments)
    events_run = GenerationRun(MODEL, TOKENIZER, PROMPTS, asked)
    events = list(events_run)
    for result in events_run.results():
        own = [event for event in events if event.row == result.row]
        assert "".join(event.text for event in own) == result.text
        assert [event.token_id for event in own] == result.token_ids
        assert [event.finish_reason for event in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason == result.finish_reason
        if result.logprobs is not None:
            assert [event.logprob for event in own] == result.logprobs
    assert events_run.results() == generate(MODEL, TOKENIZER, PROMPTS, asked)
    for row in (1, 2):
        pieces = list(stream(MODEL, TOKENIZER, PROMPTS[row], asked))
        assert all(pieces) and "".join(pieces) == generate(MODEL, TOKENIZER, [PROMPTS[row]], asked)[0].text


def test_prompt_and_text_are_the_decoded_ids():
    for result in run(max_new_tokens=50, temperature=1.0, seed=1):
        prompt = TOKENIZER.decode(result.prompt_token_ids, True)
        assert prompt + result.text == TOKENIZER.decode(result.prompt_token_ids + result.token_ids, True)


def test_closing_a_stream_early_frees_the_cache():
    model = RecurrentModel()
    with stream(model, TOKENIZER, PROMPTS[0], options(max_new_tokens=100)) as pieces:
        next(pieces)
        gc.collect()
        assert [ref() is not None for ref in model.caches] == [True]
    assert [ref() for ref in model.caches] == [None], "freed at once, not when a collector comes by"
    assert pieces.result is None and 0 < pieces.stats.new_tokens < 100
    assert list(pieces) == []


def test_a_run_is_for_one_iteration():
    events_run = GenerationRun(MODEL, TOKENIZER, PROMPTS, options(max_new_tokens=2))
    with pytest.raises(GenerationError, match="has not finished"):
        events_run.results()
    list(events_run)
    with pytest.raises(GenerationError, match="already"):
        iter(events_run)


def test_statistics_count_tokens_and_leave_out_the_consumers_time():
    events_run = GenerationRun(MODEL, TOKENIZER, PROMPTS, options(max_new_tokens=5))
    import time

    began = time.perf_counter()
    for _ in events_run:
        time.sleep(0.005)
    stats, elapsed = events_run.stats, time.perf_counter() - began
    assert (stats.prompt_tokens, stats.new_tokens, stats.first_tokens) == (4 + 1 + 7, 20, 4)
    assert min(stats.prefill_seconds, stats.decode_seconds) > 0
    assert stats.prefill_seconds + stats.decode_seconds < elapsed - 20 * 0.005 + 1e-3
    assert stats.tokens_per_second == pytest.approx(16 / stats.decode_seconds)
    assert stats.prompt_tokens_per_second == pytest.approx(12 / stats.prefill_seconds)
    assert run([[BOS]], max_new_tokens=1)[0].stats.tokens_per_second is None


# -------------------------------------------------------------------------------------------------------- prompts


def test_an_empty_prompt_is_the_beginning_of_sequence_token():
    assert run([[]]) == run([[BOS]])
    assert run([[]])[0].prompt_token_ids == [BOS]

    class Without(ByteTokenizer):
        bos_token_id = None

    model = RecurrentModel(config=MODEL.config.model_copy(update={"bos_token_id": None}))
    with pytest.raises(InputError, match=r"prompt 1 is empty.*no beginning-of-sequence"):
        generate(model, Without(), [[5], []])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([1, VOCAB], f"prompt 0, token 1: id {VOCAB} is outside the vocabulary of {VOCAB}"),
        ([-1], "prompt 0, token 0: id -1 is outside"),
        ([[1, 2]], "prompt 0 is not a list of token ids"),
        ([0.5], "prompt 0 is not a list of token ids"),
        ([True], "prompt 0 is not a list of token ids"),
        ([[1], [1, 2]], "prompt 0 is not a list of token ids"),
        (5, "prompt 0 is not a list of token ids"),
        ("text", "prompt 0 is text"),
    ],
)
def test_prompts_that_are_not_ids_of_the_vocabulary(prompt, message):
    with pytest.raises(InputError, match=message):
        run([prompt])


def test_prompts_may_be_arrays():
    assert run([np.array([1, 5, 9])]) == run([[1, 5, 9]])


def test_without_a_tokenizer_ids_come_out_and_stop_strings_are_refused():
    result = generate(MODEL, None, [[BOS, 9]], options(max_new_tokens=4))[0]
    assert result.text == "" and result.token_ids == run([[BOS, 9]], max_new_tokens=4)[0].token_ids
    with pytest.raises(GenerationError, match="stop strings need a tokenizer"):
        generate(MODEL, None, [[BOS]], options(stop="x"))


def test_a_stream_shows_one_sequence_and_fails_at_once():
    with pytest.raises(GenerationError, match="one sequence, num_return_sequences is 2"):
        stream(MODEL, TOKENIZER, [BOS], options(temperature=1, num_return_sequences=2))
    with pytest.raises(InputError, match="outside the vocabulary"):
        stream(MODEL, TOKENIZER, [10**6])
    with pytest.raises(GenerationError, match="stop_token_ids: id 999999 is outside"):
        stream(MODEL, TOKENIZER, [BOS], options(stop_token_ids=999_999))
    with pytest.raises(GenerationError, match="logit_bias: id 999999 is outside"):
        stream(MODEL, TOKENIZER, [BOS], options(logit_bias={999_999: 1}))


# ------------------------------------------------------------------------------------------------ length and context


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


# --------------------------------------------------------------------------------------------------------- options


def test_giving_a_temperature_or_a_filter_means_sampling():
    assert not options().do_sample and options().filters is None
    for given_option in ({"temperature": 0.8}, {"temperature": 1.0}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}):
        assert options(**given_option).do_sample, given_option
    for given_option in ({"temperature": 0}, {"temperature": 0, "top_p": 0.5}, {"top_p": 1.0}, {"seed": 7}):
        assert options(**given_option).filters is None, given_option
    assert options(do_sample=True).filters.temperature == 1.0
    assert options(do_sample=True, temperature=None).filters.top_k == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1}, "temperature is -1; wanted a finite number, 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_p": 0}, "top_p is 0; wanted a number above 0 and at most 1"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_k": -1}, r"top_k is -1; wanted a whole number, 0 or more \(0 is off\)"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_k": True}, "top_k is True"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"typical_p": 0}, "typical_p is 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; wanted a finite number above 0"),
        ({"presence_penalty": float("inf")}, "presence_penalty is inf"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size is -2"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; wanted a whole number, 1 or more"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"stop": ""}, "stop is ''"),
        ({"stop": ["a", ""]}, "stop is"),
        ({"stop": 5}, "stop is 5"),
        ({"stop_token_ids": [1, -1]}, "stop_token_ids is"),
        ({"stop_token_ids": "</s>"}, "stop_token_ids is '</s>'"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias is"),
        ({"logit_bias": {"1": 1.0}}, "logit_bias is .*whole numbers"),
        ({"logit_bias": [1, 2]}, "logit_bias is"),
        ({"do_sample": 1}, "do_sample is 1; wanted True or False"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"do_sample": False, "temperature": 0.7}, "do_sample=False and temperature=0.7 contradict.*leave out"),
        ({"do_sample": False, "top_p": 0.7}, "do_sample=False and top_p=0.7 contradict"),
        ({"do_sample": True, "temperature": 0}, "do_sample=True and temperature=0 contradict"),
        ({"max_new_tokens": 5, "max_length": 9}, "max_new_tokens=5 and max_length=9 are two limits"),
        ({"max_new_tokens": 5, "min_new_tokens": 9}, "min_new_tokens=9 is more than max_new_tokens=5"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 without sampling.*temperature"),
        ({"num_return_sequences": 0, "temperature": 1}, "num_return_sequences is 0"),
        ({"temprature": 1}, "no option 'temprature'; did you mean 'temperature'"),
        ({"max_tokens": 1}, "did you mean 'max_new_tokens'"),
        ({"stop_strings": "a"}, "did you mean 'stop'"),
        ({"num_beams": 4}, "no option 'num_beams'; there is no beam search"),
        ({"xyzzy": None}, "no option 'xyzzy'; there are: max_new_tokens"),
    ],
)
def test_wrong_options_say_what_is_wanted(arguments, message):
    with pytest.raises(GenerationError, match=message) as error:
        options(**arguments)
    assert "\n" not in str(error.value)


def test_numpy_numbers_are_numbers():
    asked = options(temperature=np.float32(0.5), top_k=np.int64(4), seed=np.uint64(3), stop_token_ids=[np.int32(2)])
    assert (asked.temperature, asked.top_k, asked.seed, asked.stop_token_ids) == (0.5, 4, 3, (2,))
    assert {type(asked.top_k), type(asked.seed)} == {int}


def test_options_are_frozen_and_checked_when_built_directly():
    with pytest.raises(dataclasses.FrozenInstanceError):
        options().temperature = 2.0
    with pytest.raises(GenerationError, match=r"do_sample=False and temperature=0\.8 contradict"):
        GenerationOptions(temperature=0.8)
    assert GenerationOptions(stop="x").stop == ("x",)


# ------------------------------------------------------------------------------------------ generation_config.json


def read(**content) -> GenerationDefaults:
    return GenerationDefaults.from_dict(content, source="generation_config.json")


def test_the_checkpoints_defaults_apply_and_arguments_win():
    defaults = read(do_sample=True, temperature=0.6, top_p=0.9, max_length=4096, repetition_penalty=1.1)

    def resolve(**arguments):
        return GenerationOptions.resolve(arguments, defaults=defaults)

    assert resolve().filters == GenerationOptions(do_sample=True, temperature=0.6, top_p=0.9).filters
    assert resolve().max_length == 4096 and resolve().repetition_penalty == 1.1
    assert resolve(max_new_tokens=5).max_length is None
    assert resolve(top_p=0.5).filters.top_p == 0.5 and resolve(top_p=0.5).filters.temperature == 0.6
    assert resolve(temperature=0).filters is None
    assert resolve(do_sample=False).filters is None
    assert resolve(temperature=None).filters.temperature == 0.6

    # Without do_sample the file's temperature waits until sampling is asked for, as in transformers.
    waiting = read(temperature=0.9, top_p=0.6)
    assert GenerationOptions.resolve({}, defaults=waiting).filters is None
    assert GenerationOptions.resolve({"do_sample": True}, defaults=waiting).filters.temperature == 0.9
    assert GenerationOptions.resolve({"temperature": 0.5}, defaults=waiting).filters.top_p == 0.6
    held = GenerationOptions.resolve({"max_new_tokens": 3}, defaults=read(min_new_tokens=10))
    assert held.min_new_tokens == 3


def test_limits_of_the_file_that_stand_against_an_argument_are_errors_that_name_it():
    for file in (read(max_length=6), read(max_length=4)):
        asked = GenerationOptions.resolve({"min_new_tokens": 5}, defaults=file)
        with pytest.raises(GenerationError, match=r"max_length=\d \(from generation_config.json\).*give max_new"):
            generate(MODEL, TOKENIZER, [[BOS] * 4], asked)
    with pytest.raises(GenerationError, match=r"max_new_tokens=2 \(from generation_config.json\).*give max_new"):
        GenerationOptions.resolve({"min_new_tokens": 5}, defaults=read(max_new_tokens=2))
    with pytest.raises(GenerationError, match=r"^max_length=6 leaves 2 .* min_new_tokens=5 wants more"):
        run([[BOS] * 4], max_new_tokens=None, max_length=6, min_new_tokens=5)
    fits = GenerationOptions.resolve({"min_new_tokens": 5}, defaults=read(max_length=9))
    assert len(generate(MODEL, TOKENIZER, [[BOS] * 4], fits)[0].token_ids) == 5


@pytest.mark.parametrize("ids", [np.int64(3), np.array([3, 5]), {5, 3}, frozenset({3}), [np.int32(3), 5], np.array(3)])
def test_ids_may_be_numpy_numbers_arrays_and_sets(ids):
    found = options(stop_token_ids=ids).stop_token_ids
    assert found in ((3,), (3, 5)) and all(type(token_id) is int for token_id in found)
    for wrong in (np.array([True]), {1.5}, np.array([1.5]), {"a", 1}, [-1]):
        with pytest.raises(GenerationError, match="stop_token_ids"):
            options(stop_token_ids=wrong)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"top_k": 3}', encoding="utf-8-sig")
    assert GenerationDefaults.from_pretrained(tmp_path).values == {"top_k": 3}


def test_the_ids_that_end_a_sequence():
    config = LlamaConfig(vocab_size=VOCAB, eos_token_id=[7, 8], **SMALL)
    without = LlamaConfig(vocab_size=VOCAB, eos_token_id=None, **SMALL)

    def ids(arguments=None, **sources):
        return GenerationOptions.resolve(arguments, **sources).eos_token_id

    file = read(eos_token_id=[9, 10])
    assert ids({"eos_token_id": 5}, defaults=file, config=config, tokenizer=TOKENIZER) == (5,)
    assert ids({"eos_token_id": []}, defaults=file, config=config) == ()
    assert ids(defaults=file, config=config, tokenizer=TOKENIZER) == (9, 10)
    assert ids(defaults=read(eos_token_id=9), config=config) == (9,)
    assert ids(config=config, tokenizer=TOKENIZER) == (7, 8)
    assert ids(config=without, tokenizer=TOKENIZER) == (EOS,)
    assert ids(config=without) == ()


def test_keys_that_would_change_the_output_are_named():
    with pytest.warns(PolyllamaWarning, match=r"not honoured.*num_beams=4, guidance_scale=1.5, wibble=\"x\"$"):
        defaults = read(num_beams=4, guidance_scale=1.5, wibble="x", temperature=0.5)
    assert defaults.not_honoured == ("num_beams", "guidance_scale", "wibble")
    assert dict(defaults.values) == {"temperature": 0.5}


def test_keys_that_change_nothing_are_quiet():
    # pytest turns PolyllamaWarning into an error
    defaults = read(
        _from_model_config=True, transformers_version="4.45.0.dev0", bos_token_id=1, pad_token_id=0, num_beams=1,
        diversity_penalty=0.0, guidance_scale=None, length_penalty=2.0, cache_implementation="static", min_length=0,
        bad_words_ids=None, num_return_sequences=1, use_cache=True, top_k=None,
    )  # fmt: skip
    assert dict(defaults.values) == {} and defaults.not_honoured == ()


def test_everything_transformers_writes_is_known(tmp_path):
    from transformers import GenerationConfig

    GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=[1, 2]).save_pretrained(tmp_path)
    assert GenerationDefaults.from_pretrained(tmp_path).values["temperature"] == 0.6
    # ... and so is every field it has: each is honoured, named or harmless, none is a surprise
    from polyllama.core.generation import defaults as module

    known = set(module._HONOURED) | set(module._INERT_AT) | module._HARMLESS
    fields = {name for name in GenerationConfig().to_dict() if not name.startswith("_")}
    assert fields <= known, fields - known


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"top_p": 7}', "generation_config.json: top_p is 7; wanted"),
        ("[1]", "holds a list, wanted a JSON object"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("\x00", "not valid JSON"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, message):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(GenerationError, match=message) as error:
        GenerationDefaults.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_no_file_is_no_defaults(tmp_path):
    assert GenerationDefaults.from_pretrained(tmp_path) is None
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.5}))
    assert GenerationDefaults.from_pretrained(tmp_path).values == {"temperature": 0.5}


# ----------------------------------------------------------------------------------------- real Llamas, real backends

RAGGED = [[1, 5, 9, 17, 30, 41, 8], [1], [1, 60, 61], [1, 5, 9, 17, 30, 41, 8, 2, 77, 3, 12, 50]]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models this small gain nothing from threads, and lose a lot when the machine is busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(tiny_models, backend, rope="default", **fields):
    from polyllama.core.model import Llama

    hf, folder = tiny_models(rope, **fields)
    return hf, Llama.load(folder, backend=backend, dtype="float32").model


def hf_greedy(hf, prompt, count, **asked):
    import torch
    from transformers import GenerationConfig

    hf.generation_config.eos_token_id = None  # it fills what the config of the call leaves out
    config = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=None, **asked)
    return hf.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rope", sorted(ROPE_TYPES))
def test_a_batch_of_unequal_prompts_is_what_transformers_gives_each_alone(tiny_models, backend, rope):
    hf, model = load(tiny_models, backend, rope)
    asked = options(max_new_tokens=10)
    expected = [generate(model, None, [prompt], asked)[0].token_ids for prompt in RAGGED]
    if rope not in ("dynamic", "longrope"):  # transformers scales a growing text by its final length, and caches that
        assert expected == [hf_greedy(hf, prompt, 10) for prompt in RAGGED]
    assert len({tuple(ids) for ids in expected}) == 4
    for chunk, size in ((None, None), (4, None), (5, 2)):
        asked = options(max_new_tokens=10, prefill_chunk_size=chunk, batch_size=size)
        assert tokens(generate(model, None, RAGGED, asked)) == expected, (chunk, size)


@pytest.mark.parametrize(
    "asked",
    [{"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}, {"repetition_penalty": 0.8, "min_new_tokens": 4}],
)
def test_processed_greedy_is_what_transformers_gives(tiny_models, asked):
    hf, model = load(tiny_models, "reference")
    results = generate(model, None, RAGGED, options(max_new_tokens=16, **asked))
    assert tokens(results) == [hf_greedy(hf, prompt, 16, **asked) for prompt in RAGGED]


def test_the_same_seed_gives_the_same_tokens_on_every_backend(tiny_models):
    asked = options(max_new_tokens=20, temperature=1.3, top_p=0.95, min_p=0.01, seed=11, num_return_sequences=3)
    drawn = [tokens(generate(load(tiny_models, backend)[1], None, RAGGED, asked)) for backend in BACKENDS]
    assert drawn[0] == drawn[1]
    assert len({tuple(ids) for ids in drawn[0]}) == 12


def test_logprobs_are_those_of_transformers(tiny_models):
    import torch

    hf, model = load(tiny_models, "reference")
    for result in generate(model, None, RAGGED, options(max_new_tokens=8, temperature=1.0, seed=2, logprobs=4)):
        ids = result.prompt_token_ids + result.token_ids
        with torch.no_grad():
            raw = hf(torch.tensor([ids])).logits[0, len(result.prompt_token_ids) - 1 : -1].double().log_softmax(-1)
        for entry, row in zip(result.logprobs, raw, strict=True):
            assert entry.logprob == pytest.approx(row[entry.token_id].item(), abs=1e-4)
            best = row.topk(4)
            assert [i for i, _ in entry.top] == best.indices.tolist()


@pytest.fixture(scope="module")
def sentencepiece_tokenizer(tmp_path_factory):
    import sentencepiece
    from polyllama.core.tokenizer import load_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    text = ["Once upon a time there was a llama. It liked naïve 世界 🦙 stories!"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=str(folder / "tokenizer"), vocab_size=320, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return load_tokenizer(folder)


@settings(max_examples=40)
@given(
    st.sampled_from(["Once upon", "", "a 世界", " two  spaces "]),
    st.integers(0, 50),
    st.sampled_from([None, ["e", " l"]]),
)
def test_prompt_and_text_are_the_decoded_ids_of_a_real_tokenizer(sentencepiece_tokenizer, prompt, seed, stop):
    tokenizer = sentencepiece_tokenizer
    config = LlamaConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=512, **SMALL)
    model = RecurrentModel(seed, config)
    ids = tokenizer.encode(prompt)
    asked = GenerationOptions.resolve(
        {"max_new_tokens": 25, "temperature": 2.0, "seed": seed, "stop": stop}, config=config, tokenizer=tokenizer
    )
    result = generate(model, tokenizer, [ids], asked)[0]
    whole = tokenizer.decode(ids + result.token_ids, skip_special_tokens=True)
    start = tokenizer.stream_decoder(ids).prompt_text
    if isinstance(result.stop_reason, str):
        assert (start + result.text + result.stop_reason) in whole
        assert "e" not in result.text and " l" not in result.text
    else:
        assert start + result.text == whole
        assert start == tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(stream(model, tokenizer, ids, asked)) == result.text
