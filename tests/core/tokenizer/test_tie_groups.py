"""Pieces that share a score: the tokenizers engine gives the ids of sentencepiece, or sentencepiece runs behind it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from itertools import combinations, permutations, product
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import tokenizers.models
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.errors import PolyllamaWarning
from polyllama.core.tokenizer.engines.merges import pair_merges
from polyllama.core.tokenizer.engines.sentencepiece_model import Piece, PieceKind
from polyllama.core.tokenizer.engines.tie_groups import NotExpressible, last_pair
from polyllama.core.tokenizer.formats.sentencepiece_writer import sentencepiece_model
from polyllama.core.tokenizer.llama_tokenizer import LlamaTokenizer, LlamaTokenizerFast, load_tokenizer

SPACE = "\u2581"
IDS = {"unk": 0, "bos": 1, "eos": 2, "pad": -1}
SPECIAL = [Piece("<unk>", 0, PieceKind.UNKNOWN), *(Piece(name, 0, PieceKind.CONTROL) for name in ("<s>", "</s>"))]
BYTES = [Piece(f"<0x{byte:02X}>", 0, PieceKind.BYTE) for byte in range(256)]


def content(pieces: Iterable[Piece], *, prefix: bool = False) -> bytes:
    return sentencepiece_model([*SPECIAL, *pieces], IDS, add_dummy_prefix=prefix, remove_extra_whitespaces=False)


def normal(scores: Mapping[str, float]) -> list[Piece]:
    return [Piece(text, score, PieceKind.NORMAL) for text, score in scores.items()]


def texts_of(alphabet: str, longest: int) -> list[str]:
    return ["".join(letters) for length in range(2, longest + 1) for letters in product(alphabet, repeat=length)]


def segmented(ranks: Mapping[str, float], texts: list[str]) -> list[list[str]]:
    """What sentencepiece makes of the texts."""
    model = content(normal({text: -rank for text, rank in ranks.items()}))
    return sentencepiece.SentencePieceProcessor(model_proto=model).encode(texts, out_type=str)


def merged(ranks: Mapping[str, float], merges: Iterable[tuple[str, str]], texts: list[str]) -> list[list[str]]:
    """What tokenizers makes of the texts."""
    vocabulary = {text: index for index, text in enumerate(ranks)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=list(merges)))
    return [encoding.tokens for encoding in backend.encode_batch(texts)]


def with_letters(tokens: Iterable[str], alphabet: str = "ab") -> dict[str, float]:
    return dict.fromkeys(alphabet, 0.0) | dict.fromkeys(tokens, 1.0)


def test_every_small_vocabulary_of_one_score() -> None:
    """Up to three tokens of two or three letters: the same pieces for every text of up to seven, or no order can."""
    texts, wordlist = texts_of("ab", 7), texts_of("ab", 3)
    refused = expressed = 0
    for tokens in [tokens for count in (1, 2, 3) for tokens in combinations(wordlist, count)]:
        ranks = with_letters(tokens)
        wanted = segmented(ranks, texts)
        try:
            assert merged(ranks, pair_merges(ranks, source="test"), texts) == wanted, tokens
            expressed += 1
        except NotExpressible:
            refused += 1
            pairs = [pair for pair in (last_pair(ranks, token) for token in tokens) if pair is not None]
            assert not any(merged(ranks, order, texts) == wanted for order in permutations(pairs)), tokens
    assert expressed > 10 * refused > 0


@st.composite
def vocabularies(draw: st.DrawFn) -> dict[str, float]:
    """Tokens with most of their beginnings and ends, of few different ranks, better and worse than their parts."""
    alphabet = draw(st.sampled_from(["ab", "abc"]))
    tokens = draw(st.lists(st.text(alphabet, min_size=2, max_size=6), min_size=2, max_size=8))
    for token in list(tokens):
        while len(token) > 2 and draw(st.integers(0, 4)):
            token = token[:-1] if draw(st.booleans()) else token[1:]
            tokens.append(token)
    highest = draw(st.integers(1, 4))
    return with_letters((), alphabet) | {token: float(draw(st.integers(1, highest))) for token in tokens}


@settings(max_examples=150, deadline=None)
@given(vocabularies(), st.lists(st.text("abc", max_size=40), min_size=1, max_size=10))
def test_vocabularies_with_tie_groups(ranks: dict[str, float], texts: list[str]) -> None:
    letters = [token for token in ranks if len(token) == 1]
    texts = ["".join(letter for letter in text if letter in letters) for text in texts]
    texts = [text for text in [*texts, *texts_of("".join(letters), 5), *map("".join, permutations(ranks, 2))] if text]
    try:
        merges = pair_merges(ranks, source="test")
    except NotExpressible:
        return
    assert merged(ranks, merges, texts) == segmented(ranks, texts)


@pytest.fixture(scope="module")
def like_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary with the traits of Llama 2's: runs of spaces as pieces of one score, far below all others."""
    words = f"{SPACE}t he {SPACE}the in er {SPACE}a re on {SPACE}w or {SPACE}wor ld {SPACE}world return tu rn".split()
    letters = [*"etaoinshrdluw.\n", SPACE]
    words += ["tur", "retu", "retur"]
    scores = dict.fromkeys([SPACE * length for length in range(2, 17)], -1e9)
    scores |= {word: -float(index) for index, word in enumerate(words)}
    scores |= {letter: -float(1000 + index) for index, letter in enumerate(letters)}
    scores[SPACE] = -1e9
    symbols = [Piece(f"{SPACE}<PRE>", 0, PieceKind.USER_DEFINED), Piece("\n\n", 0, PieceKind.USER_DEFINED)]
    path = tmp_path_factory.mktemp("like_llama") / "tokenizer.model"
    path.write_bytes(content([*BYTES, *normal(scores), *symbols], prefix=True))
    return path


def spaced_texts() -> list[str]:
    chance = random.Random(5)
    runs = [" " * length for length in range(130)]
    texts = [before + run + after for run in runs for before, after in (("", ""), ("the", "world"), ("\n", "return"))]
    parts = ["the", "world", " ", "  ", "\n", "\n\n", "return", " <PRE>", "é", "🦙", "\t"]
    return texts + ["".join(chance.choices([*parts, *runs[:40]], k=12)) for _ in range(300)]


def test_runs_of_spaces_of_one_score_as_llama_2_has_them(like_llama: Path) -> None:
    slow, fast = LlamaTokenizer(like_llama), LlamaTokenizerFast(like_llama)
    assert fast.engine == "tokenizers" and slow.engine == "sentencepiece"
    for text in spaced_texts():
        assert fast.encode(text) == slow.encode(text), text


def test_a_folder_with_the_model_and_a_tokenizer_json_of_it(like_llama: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    LlamaTokenizerFast(like_llama).save_pretrained(ours)
    transformers.LlamaTokenizerFast.from_pretrained(str(like_llama.parent)).save_pretrained(str(theirs))
    (theirs / "tokenizer.model").write_bytes(like_llama.read_bytes())
    expected = LlamaTokenizer(like_llama)
    for folder in (ours, theirs):
        assert {"tokenizer.json", "tokenizer.model"} <= {path.name for path in folder.iterdir()}
        for engine in ("sentencepiece", "tokenizers"):
            tokenizer = load_tokenizer(folder, engine=engine)
            assert tokenizer.engine == engine
            for text in spaced_texts()[::7]:
                assert tokenizer.encode(text) == expected.encode(text), (folder, text)


CIRCLE = {"a": -9.0, "b": -9.0, "c": -9.0, "ab": 0.0, "bc": 0.0, "ca": 0.0}
BEYOND = {
    "leftmost": normal(CIRCLE),
    "no piece of its own": normal({"a": -1.0, "ab": 0.0, "c": -2.0}),
    "unused": [*normal(CIRCLE), Piece("cab", 0, PieceKind.UNUSED)],
    "control piece": [*normal({"a": -1.0, "b": -2.0, "ab": 0.0}), Piece("c", 0, PieceKind.CONTROL)],
    "score inf": normal({"a": -1.0, "b": -2.0, "ab": float("inf"), "c": -4.0}),
}


@pytest.mark.parametrize("reason", BEYOND)
def test_what_tokenizers_cannot_give_is_run_by_sentencepiece(tmp_path: Path, reason: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content([*BYTES, *BEYOND[reason]]))
    with pytest.warns(PolyllamaWarning, match=f"{reason}.*LlamaTokenizerFast runs it by sentencepiece") as said:
        fast = LlamaTokenizerFast(tmp_path / "tokenizer.model")
    assert len(said) == 1 and said[0].filename == __file__
    slow = LlamaTokenizer(tmp_path / "tokenizer.model")
    assert isinstance(fast, LlamaTokenizerFast) and fast.engine == "sentencepiece"
    for text in [*texts_of("abc", 6), "é ab", "<s>ca"]:
        assert fast.encode(text) == slow.encode(text)
        assert fast.decode(fast.encode(text)) == slow.decode(slow.encode(text))
    with pytest.warns(PolyllamaWarning, match=r"tokenizer.model is written without tokenizer.json"):
        fast.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "tokenizer.json").exists()
    with pytest.warns(PolyllamaWarning, match="by sentencepiece"):
        again = LlamaTokenizerFast.from_pretrained(tmp_path / "saved")
    assert again.encode("abcab") == slow.encode("abcab")


def test_a_vocabulary_of_thousands_of_equal_scores_is_given_up_in_time() -> None:
    """Words of one score among which no two pairs of characters contradict each other: found by counting alone."""
    twos = ["".join(pair) for pair in product("abcdefgh", "ijklmnop")]
    ranks = with_letters([*twos, *("".join(four) for four in product(twos, repeat=2))], "abcdefghijklmnop")
    with pytest.raises(NotExpressible, match="4160 pieces share scores with others, too many to look for"):
        pair_merges(ranks, source="test")
