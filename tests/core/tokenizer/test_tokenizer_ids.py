"""Ids: the same from both engines, sentencepiece, transformers and tokenizers."""

from __future__ import annotations

import re
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import tokenizers.models
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.errors import PolyllamaWarning, TokenizerError
from polyllama.core.tokenizer.engines.added_tokens import AddedToken, AddedTokenMatcher
from polyllama.core.tokenizer.engines.merges import pair_merges
from polyllama.core.tokenizer.llama_tokenizer import LlamaTokenizer, LlamaTokenizerFast, load_tokenizer
from polyllama.core.tokenizer.tokenizer import Tokenizer
from support_processes import run_process
from tokenizer_models import LLAMA3_SPLIT, SYMBOLS, Models, any_text, plain_text, text_with_specials

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*pad_token '<pad>' is not in the vocabulary:polyllama.PolyllamaWarning"
)

FAST_KINDS = ["plain", "symbols", "across_words", "no_bytes", "strip", "no_prefix"]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("tokenizers"))


class Cached:
    """Tokenizers by kind and options, each loaded once: hypothesis asks for them thousands of times."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.loaded: dict[Any, Tokenizer] = {}

    def __call__(self, cls: type[Tokenizer], kind: str, **options: Any) -> Any:
        key = (cls, kind, tuple(sorted(options.items())))
        if key not in self.loaded:
            self.loaded[key] = cls(self.models.model(kind), **options)  # type: ignore[call-arg, arg-type]
        return self.loaded[key]


@pytest.fixture(scope="session")
def made(models: Models) -> Cached:
    return Cached(models)


def without(tokens: list[str], text: str) -> str:
    for token in tokens:
        text = text.replace(token, "")
    return text


@pytest.mark.parametrize("kind", [*FAST_KINDS, "unigram", "nfkc"])
@pytest.mark.parametrize("legacy", [False, True])
def test_plain_text_has_the_ids_of_sentencepiece(models: Models, made: Cached, kind: str, legacy: bool) -> None:
    oracle = models.processor(kind)
    classes = [LlamaTokenizer] + [LlamaTokenizerFast] * (kind in FAST_KINDS)

    @settings(max_examples=150, deadline=None)
    @given(plain_text)
    def check(text: str) -> None:
        for cls in classes:
            tokenizer = made(cls, kind, legacy=legacy)
            assert tokenizer.encode(text, add_special_tokens=False) == oracle.encode(text)
            assert tokenizer.encode(text) == [1, *oracle.encode(text)]

    check()


@pytest.mark.parametrize("kind", ["plain", "symbols", "no_bytes"])
def test_special_tokens_as_text_are_text_when_asked(models: Models, made: Cached, kind: str) -> None:
    oracle = models.processor(kind)

    @settings(max_examples=100, deadline=None)
    @given(text_with_specials)
    def check(text: str) -> None:
        for cls in (LlamaTokenizer, LlamaTokenizerFast):
            ids = made(cls, kind).encode(text, add_special_tokens=False, split_special_tokens=True)
            assert ids == oracle.encode(text)

    check()


@pytest.mark.parametrize("kind", FAST_KINDS)
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("add_prefix_space", [None, False, True])
def test_both_engines_agree(made: Cached, kind: str, legacy: bool, add_prefix_space: bool | None) -> None:
    options = {"legacy": legacy, "add_prefix_space": add_prefix_space, "pad_token": "<pad>"}
    slow, fast = made(LlamaTokenizer, kind, **options), made(LlamaTokenizerFast, kind, **options)

    @settings(max_examples=80, deadline=None)
    @given(any_text)
    def check(text: str) -> None:
        asked = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        assert slow(text, **asked) == fast(text, **asked)
        ids = slow.encode(text)
        assert slow.decode(ids) == fast.decode(ids)

    check()
    assert slow.get_vocab() == fast.get_vocab()
    assert (slow.engine, fast.engine) == ("sentencepiece", "tokenizers")


def transformers_llama(models: Models, kind: str, *, legacy: bool) -> Any:
    """transformers' own LlamaTokenizer from the same pieces; its `.model` reader needs protobuf, its merges do not."""
    from transformers import LlamaTokenizer as Theirs
    from transformers.tokenization_utils_sentencepiece import SentencePieceExtractor

    vocabulary, _, merges = SentencePieceExtractor(str(models.model(kind))).extract()
    return Theirs(vocab=vocabulary, merges=merges, legacy=legacy, add_bos_token=True)


@pytest.mark.parametrize("legacy", [False, True])
def test_ids_are_those_of_transformers(models: Models, made: Cached, legacy: bool) -> None:
    oracle = transformers_llama(models, "plain", legacy=legacy)
    special = re.compile("(<s>|</s>|<unk>)")

    @settings(max_examples=250, deadline=None)
    @given(any_text)
    def check(text: str) -> None:
        # Deliberate difference: transformers 5 puts no prefix space before a text that begins with a space already (or
        # with U+2581); sentencepiece, which the models were trained with, does.
        chunks = special.split(text) if legacy else [text]
        if any(chunk.startswith((" ", "▁")) for chunk in chunks):
            return
        for cls in (LlamaTokenizer, LlamaTokenizerFast):
            assert made(cls, "plain", legacy=legacy).encode(text) == oracle.encode(text)

    check()


def test_difference_leading_space_follows_sentencepiece_not_transformers(models: Models, made: Cached) -> None:
    theirs = transformers_llama(models, "plain", legacy=False)
    for cls in (LlamaTokenizer, LlamaTokenizerFast):
        ours = made(cls, "plain")
        assert ours.encode(" hello", add_special_tokens=False) == models.processor("plain").encode(" hello")
        assert ours.encode(" hello") != theirs.encode(" hello")


def test_legacy_ids_are_those_of_the_sentencepiece_backend_of_transformers(models: Models, made: Cached) -> None:
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    oracle = SentencePieceBackend(
        vocab_file=str(models.model("symbols")),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<ctl>"],
        legacy=True,
    )

    @settings(max_examples=150, deadline=None)
    @given(text_with_specials)
    def check(text: str) -> None:
        expected = oracle.convert_tokens_to_ids(oracle.tokenize(text))
        for cls in (LlamaTokenizer, LlamaTokenizerFast):
            assert made(cls, "symbols", legacy=True).encode(text, add_special_tokens=False) == expected

    check()


def test_legacy_puts_a_space_after_every_special_token(made: Cached) -> None:
    for cls in (LlamaTokenizer, LlamaTokenizerFast):
        assert made(cls, "plain", legacy=True).tokenize("hello</s>hello") == ["▁hello", "</s>", "▁hello"]
        assert made(cls, "plain", legacy=False).tokenize("hello</s>hello") == ["▁hello", "</s>", "hello"]
        assert made(cls, "plain", legacy=False).tokenize("</s>hello") == ["</s>", "hello"]
        assert made(cls, "plain", legacy=True).tokenize("</s>") == ["</s>"]


def test_user_defined_symbols_are_found_as_sentencepiece_finds_them(made: Cached) -> None:
    for cls in (LlamaTokenizer, LlamaTokenizerFast):
        tokens = made(cls, "symbols").tokenize("def <PRE>x<EOT>the <SUF>")
        assert tokens[1:2] + tokens[-1:] == SYMBOLS[:2]
        assert "<EOT>" in tokens


added = st.builds(
    lambda content, left, right, word, special: tokenizers.AddedToken(
        content, lstrip=left, rstrip=right, single_word=word, special=special, normalized=False
    ),
    st.sampled_from(["<x>", "<x>y", "ana", "x", "<s", " in "]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
around_added = st.lists(
    st.sampled_from(
        ["<x>", "<x>y", "ana", "x", " in ", " ", "  ", "\n", "\t", "\u3000", "\x1c", "b", "é", "_", "-", "<s>", "好"]
    ),
    max_size=10,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(added, min_size=1, max_size=3, unique_by=lambda token: token.content), around_added)
def test_added_tokens_match_as_in_the_tokenizers_library(tokens: list[Any], text: str) -> None:
    letters = {letter: index for index, letter in enumerate(sorted({*text, "?"}))}
    oracle = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=letters, merges=[]))
    oracle.add_tokens(tokens)
    ours = {oracle.token_to_id(token.content): AddedToken.parse(token, where="test") for token in tokens}
    for ignore_special in (False, True):
        oracle.encode_special_tokens = ignore_special
        ids, offsets = [], []
        for start, end, token_id in AddedTokenMatcher(ours).split(text, ignore_special=ignore_special):
            ids += [letters[letter] for letter in text[start:end]] if token_id is None else [token_id]
            offsets += [(i, i + 1) for i in range(start, end)] if token_id is None else [(start, end)]
        if ignore_special and any(a.content in b.content for a in tokens for b in tokens if a is not b):
            continue  # the library then matches nothing at all where the special token was the longer one
        expected = oracle.encode(text)
        assert (ids, offsets) == (expected.ids, expected.offsets)


def test_llama3_has_the_ids_of_its_tokenizer_json(models: Models) -> None:
    from transformers import PreTrainedTokenizerFast

    ours = load_tokenizer(models.llama3())
    oracle = tokenizers.Tokenizer.from_file(str(models.llama3() / "tokenizer.json"))
    theirs = PreTrainedTokenizerFast.from_pretrained(models.llama3())
    assert isinstance(ours, LlamaTokenizerFast)
    assert (ours.bos_token_id, ours.eos_token_id, len(ours)) == (theirs.bos_token_id, theirs.eos_token_id, len(theirs))
    assert ours.decode(ours.encode("Hello world"), skip_special_tokens=True) == "Hello world"

    @settings(max_examples=250, deadline=None)
    @given(any_text)
    def check(text: str) -> None:
        encoding = oracle.encode(text)
        mine = ours(text, return_offsets_mapping=True)
        assert mine.input_ids == encoding.ids == theirs.encode(text)
        assert mine.offset_mapping == encoding.offsets
        plain = theirs.encode(text, split_special_tokens=True)
        assert ours.encode(text, split_special_tokens=True) == plain

    check()


def tiktoken_reference(ranks: dict[bytes, int], text: str) -> list[int]:
    """tiktoken's definition: within each piece of the pattern, join the lowest-ranking neighbours while any are."""
    import regex

    ids: list[int] = []
    for match in regex.finditer(LLAMA3_SPLIT, text):
        content = match.group().encode()
        if content in ranks:
            ids.append(ranks[content])
            continue
        parts = [content[i : i + 1] for i in range(len(content))]
        while True:
            candidates = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
            if not candidates:
                break
            _, place = min(candidates)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def test_rank_file_of_meta_gives_the_ids_of_tiktoken(models: Models) -> None:
    path, ranks = models.ranks()
    tokenizer = load_tokenizer(path.parent)
    size = len(ranks)
    assert tokenizer.convert_tokens_to_ids(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]) == [
        size,
        size + 1,
        size + 9,
    ]
    assert tokenizer.convert_tokens_to_ids(["<|start_header_id|>", "<|reserved_special_token_250|>"]) == [
        size + 6,
        size + 255,
    ]
    assert (tokenizer.bos_token, tokenizer.eos_token, len(tokenizer)) == (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        size + 256,
    )
    assert tokenizer.encode("<|eot_id|>") == [size, size + 9]
    assert tokenizer.encode("qzqzq", add_special_tokens=False) == [
        size - 1
    ]  # whole, though no pair of its parts is a token

    @settings(max_examples=250, deadline=None)
    @given(any_text)
    def check(text: str) -> None:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ids == tiktoken_reference(ranks, text)
        assert tokenizer.decode(ids) == text

    check()


@settings(max_examples=300, deadline=None)
@given(any_text)
def test_offsets_cover_the_text_that_each_token_stands_for(made: Cached, text: str) -> None:
    tokenizer = made(LlamaTokenizerFast, "symbols")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    end = 0
    for token_id, (start, stop) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
        assert start <= stop <= len(text) and start <= end
        token = tokenizer.convert_ids_to_tokens(token_id)
        if not token.startswith("<0x"):
            piece = token.replace("▁", " ")
            assert text[start:stop].replace("▁", " ") in (piece, piece[1:] if piece.startswith(" ") else piece)
        end = max(end, stop)
    assert end == len(text)


@pytest.mark.parametrize("text", ["\ud800", "ab\udfffc"])
def test_a_lone_surrogate_is_an_error_that_says_where(made: Cached, text: str) -> None:
    place = str(next(i for i, c in enumerate(text) if 0xD800 <= ord(c) < 0xE000))
    for cls in (LlamaTokenizer, LlamaTokenizerFast):
        with pytest.raises(TokenizerError, match=f"at character {place}"):
            made(cls, "plain").encode(text)


@pytest.mark.parametrize("cls", [LlamaTokenizer, LlamaTokenizerFast])
def test_long_text_takes_linear_time(made: Cached, cls: type[Tokenizer]) -> None:
    tokenizer = made(cls, "plain")

    def seconds(text: str) -> float:
        began = time.perf_counter()
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        return time.perf_counter() - began

    unit = "Once upon a time 日本 <s there was\n"
    small, large = seconds(unit * 3000), seconds(unit * 30000)  # the larger is 1 MB
    assert large < 60 * small + 5  # quadratic would be a hundred times
    assert seconds("a" * 300_000) < 120


def test_sampling_draws_different_segmentations_of_the_same_text(models: Models) -> None:
    options = {"enable_sampling": True, "nbest_size": -1, "alpha": 0.5}
    tokenizer = LlamaTokenizer(models.model("plain"), sp_model_kwargs=options)
    drawn = {tuple(tokenizer.encode("hello world, banana time")) for _ in range(20)}
    assert len(drawn) > 3
    assert {tokenizer.decode(ids, skip_special_tokens=True) for ids in drawn} == {"hello world, banana time"}
    offsets = tokenizer("hello world", return_offsets_mapping=True).offset_mapping
    assert offsets[-1][1] == 11
    with pytest.raises(TokenizerError, match="use LlamaTokenizer"):
        LlamaTokenizerFast(models.model("plain"), sp_model_kwargs=options)
    for wrong in (
        {"alhpa": 1},
        {"alpha": "x"},
        {"alpha": float("nan")},
        {"enable_sampling": 1},
        {"enable_sampling": True},
    ):
        with pytest.raises(TokenizerError, match="sp_model_kwargs"):
            LlamaTokenizer(models.model("plain"), sp_model_kwargs=wrong)


@pytest.mark.parametrize(("kind", "reason"), [("unigram", "unigram model"), ("nfkc", "normalizes text")])
def test_fast_leaves_to_sentencepiece_what_it_cannot_reproduce(models: Models, kind: str, reason: str) -> None:
    with pytest.warns(PolyllamaWarning, match=f"{reason}.*runs it by sentencepiece"):
        fast = LlamaTokenizerFast(models.model(kind))
    slow = LlamaTokenizer(models.model(kind))
    for text in ("hello  world", "caf\u00e9 \u210c banana", " \t日本"):
        assert fast.encode(text) == slow.encode(text)
    with pytest.raises(TokenizerError, match="normalizes text"):
        LlamaTokenizer(models.model("nfkc"))("x", return_offsets_mapping=True)


def with_scores(models: Models, path: Path, score_of: Any) -> Path:
    """The model again, with other scores: each piece is followed in its message by a float field 2."""
    import struct

    from polyllama.core.tokenizer.engines.sentencepiece_model import SentencePieceModel

    content = bytearray(models.model("plain").read_bytes())
    model = SentencePieceModel.parse(bytes(content), "plain")
    for piece_id, (start, end) in enumerate(model.spans):
        place = content.rfind(b"\x15" + struct.pack("<f", model.piece(piece_id).score), start, end)
        if place >= 0 and model.piece(piece_id).kind == 1:
            content[place + 1 : place + 5] = struct.pack("<f", score_of(piece_id, model.piece(piece_id).text))
    path.write_bytes(content)
    return path


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.lists(plain_text, min_size=5, max_size=20))
def test_any_distinct_scores_give_the_ids_of_sentencepiece(models: Models, seed: int, texts: list[str]) -> None:
    import random

    # Shorter pieces first, as any trainer has it, in a random order within a length: overlaps of one result abound.
    order = random.Random(seed)
    path = with_scores(models, models.folder / "scores.model", lambda _, text: -len(text) - order.random())
    slow, fast = LlamaTokenizer(path), LlamaTokenizerFast(path)
    for text in [*texts, "anananananaana", "aaaaaaaaaaa", "        x"]:
        assert fast.encode(text) == slow.encode(text)


letters = st.text(alphabet="ab", min_size=1, max_size=6)


def joined_by_rank(ranks: dict[str, float], text: str) -> list[str]:
    """What SentencePiece defines: join the neighbours whose result ranks best, the leftmost of equals."""
    parts = list(text)
    while True:
        candidates = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not candidates:
            return parts
        place = min(candidates)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


@settings(max_examples=400, deadline=None)
@given(st.lists(letters, min_size=2, max_size=12, unique=True), st.text(alphabet="ab", max_size=30), st.booleans())
def test_merges_keep_the_leftmost_of_equal_ranks(tokens: list[str], text: str, equal: bool) -> None:
    ordered = sorted(
        {*tokens, "a", "b"}, key=lambda token: len(token) if equal else (len(token), tokens.count(token), token)
    )
    ranks = {token: float(len(token) if equal else index) for index, token in enumerate(ordered)}
    try:
        merges = pair_merges(ranks, source="test")
    except TokenizerError:
        assert equal
        return
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={token: i for i, token in enumerate(ordered)}, merges=merges)
    )
    assert backend.encode(text).tokens == joined_by_rank(ranks, text)


def test_scores_that_are_all_equal_are_left_to_sentencepiece(models: Models) -> None:
    path = with_scores(models, models.folder / "equal.model", lambda *_: 0.0)
    slow = LlamaTokenizer(path)
    with pytest.warns(PolyllamaWarning, match=r"pieces share .*always joins the leftmost first.*by sentencepiece"):
        fast = LlamaTokenizerFast(path)
    for text in ("hello banana", "once upon  a time"):
        assert fast.encode(text) == slow.encode(text)


def test_a_vocabulary_of_llamas_size_makes_both_engines(tmp_path: Path) -> None:
    """32000 pieces of random words: the merges recovered from the model alone give the same ids."""
    import random

    from tokenizer_models import train

    chance = random.Random(0)
    syllables = [a + b + c for a in "bcdfghklmnprst" for b in "aeiou" for c in ["", "n", "r", "s"]]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(60000)]
    lines = [" ".join(words[i : i + 50]) for i in range(0, len(words), 50)]
    path = train(tmp_path / "large.model", sentence_iterator=iter(lines), vocab_size=32000)
    fast, slow = LlamaTokenizerFast(path), LlamaTokenizer(path)
    assert len(fast) > 25000
    assert [fast.encode(line) for line in lines[:50]] == [slow.encode(line) for line in lines[:50]]


def test_imports_stay_light(models: Models) -> None:
    program = (
        "import sys, pathlib; import polyllama.core.tokenizer.llama_tokenizer as t\n"
        "heavy = ('tokenizers', 'sentencepiece', 'jinja2', 'huggingface_hub', 'numpy', 'transformers', 'torch')\n"
        "assert not [m for m in heavy if m in sys.modules], 'import'\n"
        f"tokenizer = t.load_tokenizer(pathlib.Path({str(models.checkpoint('light'))!r}))\n"
        "tokenizer.decode(tokenizer.encode('hello'))\n"
        "loaded = [m for m in heavy if m in sys.modules]\n"
        "assert loaded == ['sentencepiece'], loaded\n"
    )
    run_process([sys.executable, "-c", program], check=True)
