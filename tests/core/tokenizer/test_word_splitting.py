"""How byte-level vocabularies cut text into words: llama.cpp's names, read and written."""

from __future__ import annotations

import json
import warnings
from functools import cache
from typing import Any

import pytest
from gguf_tokenizers import PREFIX, SPECIAL, metadata, oracle, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import PolyllamaWarning
from polyllama.core.errors import TokenizerError
from polyllama.core.tokenizer.engines.word_splitting import patterns_of
from polyllama.core.tokenizer.files import InMemory
from polyllama.core.tokenizer.formats.gguf import tokenizer_from_gguf
from polyllama.core.tokenizer.formats.gguf_words import NOT_BYTES, SPLITTINGS, name_of
from polyllama.core.tokenizer.formats.gguf_writer import gguf_from_tokenizer
from polyllama.core.tokenizer.llama_tokenizer import LlamaTokenizerFast
from polyllama.core.tokenizer.tokenizer import Tokenizer
from tokenizer_models import LLAMA3_SPLIT
from tokenizers import Regex, pre_tokenizers

DISTINCT = {splitting: name for name, splitting in reversed(SPLITTINGS.items())}
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
# llama.cpp's spelling, which leaves the last alternative to what lies between matches.
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"


def splits(*patterns: str) -> Any:
    return pre_tokenizers.Sequence([*(pre_tokenizers.Split(Regex(p), "isolated") for p in patterns), BYTES])


TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}"
    r"\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The steps as the models' own tokenizer.json have them, and whether whole words are looked up.
STEPS: dict[str, tuple[Any, bool]] = {
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2_BYTES]), False),
    "gpt-2": (GPT2_BYTES, False),
    "llama-bpe": (splits(LLAMA3_SPLIT), True),
    "falcon3": (splits(LLAMA3_SPLIT), True),
    "smaug-bpe": (splits(LLAMA3_SPLIT), False),
    "dbrx": (splits(LLAMA3_SPLIT), False),
    "qwen2": (splits(LLAMA3_SPLIT.replace("{1,3}", "")), False),
    "tekken": (splits(TEKKEN), True),
    "deepseek-coder": (
        splits("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"),
        False,
    ),
    "default": (splits(r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", "[0-9][0-9][0-9]"), False),
    "falcon": (splits(r"[\p{P}\$\+<=>\^~\|`]+", GPT2_SPLIT, "[0-9][0-9][0-9]"), False),
}


@cache
def read(pre: str) -> Tokenizer:
    return tokenizer_from_gguf(metadata(pre), "x.gguf")


@cache
def expected(pre: str) -> Any:
    steps, whole_words = STEPS[pre]
    return oracle(steps, whole_words=whole_words)


@pytest.mark.parametrize("pre", STEPS)
@settings(max_examples=60)
@given(text=texts)
def test_ids_are_those_of_the_models_own_steps(pre: str, text: str) -> None:
    assert read(pre).encode(text, add_special_tokens=False) == expected(pre).encode(text).ids


TEXT = "It's IT'S 12345 (x)\n\n  été É日本。٣٤  \r\n\tfoo_bar?! camelCase "
WORDS = {
    "smollm": "It|'s| IT|'|S| |1|2|3|4|5| (|x|)|\n\n | été| É日本|。|٣|٤|  \r\n|\t|foo|_|bar|?!| camelCase| ",
    "llama-bpe": "It|'s| IT|'S| |123|45| (|x|)\n\n| | été| É日本|。|٣٤|  \r\n|\tfoo|_bar|?!| camelCase| ",
    "qwen2": "It|'s| IT|'S| |1|2|3|4|5| (|x|)\n\n| | été| É日本|。|٣|٤|  \r\n|\tfoo|_bar|?!| camelCase| ",
    "default": "It|'|s| IT|'|S| |123|45| |(|x|)|\n\n | été| É日本|。|٣٤|  \r\n|\t|foo|_|bar|?!| camelCase| ",
    "tekken": "It|'s| IT|'S| |1|2|3|4|5| (|x|)\n\n| | été| É日本|。|٣|٤|  \r\n|\tfoo|_bar|?!| camel|Case| ",
    "gpt-4o": "It's| IT'S| |123|45| (|x|)\n\n| | été| É日本|。|٣٤|  \r\n|\tfoo|_bar|?!| camel|Case| ",
    "deepseek-llm": "It|'|s| IT|'|S| |12345| (|x|)|\n|\n| | é|t|é| É|日本|。|٣٤|  |\r|\n|\tfoo|_|bar|?!| camelCase| ",
    "deepseek-v3": "It|'s| IT|'S| |123|45| (|x|)\n\n| | été| É|日本|。|٣٤|  \r\n|\tfoo|_bar|?!| camelCase| ",
    "kimi-k2": "It's| IT'S| |123|45| (|x|)\n\n| | été| É|日本|。|٣٤|  \r\n|\tfoo|_bar|?!| camel|Case| ",
    "viking": "It's| IT'S| |1|2|3|4|5| (|x|)\n\n | été| É日本|。|٣|٤|  \r\n\t|foo_bar|?!| camelCase| ",
    "afmoe": "It|'s| IT|'S| |12|345| (|x|)\n\n| | été| É|日本|。|٣٤|  \r\n|\tfoo|_bar|?!| camelCase| ",
    "superbpe": "It's IT'S |12|345| (x)\n\n  été É日本。|٣٤|  \r\n\tfoo_bar?! camelCase ",
}


@pytest.mark.parametrize("pre", WORDS)
def test_words(pre: str) -> None:
    found = [TEXT[begin:end] for _, (begin, end) in SPLITTINGS[pre].pre_tokenizer().pre_tokenize_str(TEXT)]
    assert "|".join(found) == WORDS[pre]


@pytest.mark.parametrize("pre", SPLITTINGS)
def test_every_name_keeps_every_character(pre: str) -> None:
    text = TEXT + "<sentinel:3>IMGIMGABZ $+<=>^~|` 1234567 e\u0301 ①½ 한국어ㅋㅋ ไทย \U0001f999 \x85\u2028"
    ids = read(pre).encode(text, add_special_tokens=False)
    assert read(pre).decode(ids) == text
    bos = read(pre).encode("a")[0] == read(pre).bos_token_id
    assert bos == (pre in DEFAULT_BOS)


DEFAULT_BOS = [
    "llama-bpe",
    "llama3",
    "llama-v3",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
    "tekken",
    "chameleon",
]  # where tokenizer.ggml.add_bos_token is absent, and these alone


@pytest.mark.parametrize("says", [True, False])
def test_the_file_says_whether_texts_begin_with_bos(says: bool) -> None:
    for pre in ("llama-bpe", "smollm"):
        tokenizer = tokenizer_from_gguf(metadata(pre, add_bos_token=says), "x.gguf")
        assert (tokenizer.encode("a")[0] == tokenizer.bos_token_id) == says
    pairs = metadata("llama-bpe")
    del pairs[f"{PREFIX}bos_token_id"]
    assert tokenizer_from_gguf(pairs, "x.gguf").encode("a") == read("gpt-2").encode("a")


@pytest.mark.parametrize("pairs", [metadata(None), metadata("")])
def test_no_name_is_the_default_and_is_said(pairs: dict[str, Any]) -> None:
    with pytest.warns(PolyllamaWarning, match=r"x\.gguf does not say how it splits .*tokenizer\.ggml\.pre") as said:
        tokenizer = tokenizer_from_gguf(pairs, "x.gguf")
    assert len(said) == 1
    assert tokenizer.encode(TEXT, add_special_tokens=False) == expected("default").encode(TEXT).ids
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer_from_gguf(metadata("default"), "x.gguf")


@pytest.mark.parametrize(
    ("pre", "message"),
    [
        ("smolm", r"x\.gguf: splits text into words as 'smolm' does .*not known; known are smollm"),
        ("a-new-one", "as 'a-new-one' does .*not known"),
        (7, "as 7 does .*not known; known are llama-bpe"),
        *[(name, f"splits text as '{name}' does .*not of bytes") for name in NOT_BYTES],
    ],
)
def test_unknown_names(pre: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer_from_gguf(metadata(pre), "x.gguf")


def from_json(backend: Any) -> LlamaTokenizerFast:
    content = backend.to_str().encode()
    return LlamaTokenizerFast(
        tokenizer_file=InMemory("tokenizer.json", content), bos_token=SPECIAL[0], eos_token=SPECIAL[1], unk_token=None
    )


@pytest.mark.parametrize("pre", DISTINCT.values())
def test_written_and_read_again(pre: str) -> None:
    splitting = SPLITTINGS[pre]
    made = from_json(oracle(splitting.pre_tokenizer(), whole_words=splitting.whole_words))
    pairs = gguf_from_tokenizer(made, len(made))
    assert pairs[f"{PREFIX}pre"] == pre
    again = tokenizer_from_gguf(pairs, "x.gguf")
    assert again.encode(TEXT) == made.encode(TEXT)
    assert again.decode(again.encode(TEXT)) == made.decode(made.encode(TEXT))


@pytest.mark.parametrize("pre", STEPS)
def test_the_models_own_steps_are_recognized(pre: str) -> None:
    steps, whole_words = STEPS[pre]
    patterns = patterns_of(json.loads(steps.__getstate__()))
    if pre in ("default", "falcon"):  # spelled as llama.cpp does
        return
    assert patterns is not None
    assert SPLITTINGS[name_of(patterns, whole_words=whole_words) or ""] == SPLITTINGS[pre]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=True), "by ByteLevel, which GGUF has no name"),
        (pre_tokenizers.Whitespace(), "by Whitespace"),
        (pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Digits(), BYTES]), "by Digits and Digits"),
        (
            pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "removed"), BYTES]),
            "by Split and ByteLevel",
        ),
        (
            pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated", invert=True), BYTES]),
            "by Split and ByteLevel",
        ),
        (pre_tokenizers.Sequence([]), "by nothing"),
    ],
)
def test_what_has_no_name_is_not_written(steps: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        gguf_from_tokenizer(from_json(oracle(steps)), 2000)


def test_normalizers_are_not_written() -> None:
    from tokenizers import normalizers

    backend = oracle(GPT2_BYTES)
    backend.normalizer = normalizers.NFC()
    with pytest.raises(TokenizerError, match=r"normalizes text \(NFC\)"):
        gguf_from_tokenizer(from_json(backend), 2000)


@settings(max_examples=30)
@given(text=texts, pre=st.sampled_from(list(DISTINCT.values())))
def test_any_text_comes_back(text: str, pre: str) -> None:
    assert read(pre).decode(read(pre).encode(text, add_special_tokens=False)) == text
