"""``tokenizer.ggml.pre``: llama.cpp's names for how a byte-level BPE cuts text into words.

The names, what each adds and whether it looks up whole words are llama.cpp's
(https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp, November 2026). Where llama.cpp spells a pattern
in another way because its own engine of regular expressions lacks something (classes such as ``\\p{Lu}``, case,
possessive quantifiers), the pattern is the one of the models' own `tokenizer.json`, which they were trained with. Names
whose texts are not spelled in bytes are not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..engines.word_splitting import (
    ANY_CASE,
    DIGIT,
    GAPS,
    GPT2,
    GPT2_PATTERN,
    LINES,
    LLAMA3,
    LLAMA3_PATTERN,
    NUMBER,
    QWEN2_PATTERN,
    SIGNS,
    UP_TO_THREE,
    WORD,
    WordSplitting,
)

NOT_BYTES = ("gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace")
"""Names that llama.cpp knows and that are no byte-level BPE, as every Llama's is."""

_SIGNS_OR_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_CASED = (f"{_BEFORE}[{_UPPER}]*[{_LOWER}]+", f"{_BEFORE}[{_UPPER}]+[{_LOWER}]*")
"""A word is capitals, then small letters; one of the two may be missing."""
_GPT4O = "|".join([*(f"{word}{ANY_CASE}?" for word in _CASED), UP_TO_THREE, _SIGNS_OR_SLASH, LINES, GAPS])
_TEKKEN = "|".join([*_CASED, DIGIT, _SIGNS_OR_SLASH, LINES, GAPS])
_NO_HAN = r"&&[^\p{Han}]"
_KIMI = "|".join(
    [
        r"[\p{Han}]+",
        f"{_BEFORE}[{_UPPER}{_NO_HAN}]*[{_LOWER}{_NO_HAN}]+{ANY_CASE}?",
        f"{_BEFORE}[{_UPPER}{_NO_HAN}]+[{_LOWER}{_NO_HAN}]*{ANY_CASE}?",
        UP_TO_THREE,
        SIGNS,
        LINES,
        GAPS,
    ]
)


def _characters(ranges: str) -> str:
    """The inside of a character class, from code points and ranges of them in hexadecimal.

    >>> _characters("61-7a b5")
    'a-zµ'
    """
    return "".join("-".join(chr(int(end, 16)) for end in part.split("-")) for part in ranges.split())


_HAN_AND_KANA = f"[{_characters('4e00-9fa5 3040-309f 30a0-30ff')}]+"
_ASCII_SIGNS = r"!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~"
_DEEPSEEK3_WORD = rf"[{_ASCII_SIGNS}][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
_DEEPSEEK3 = rf"{_DEEPSEEK3_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{LINES}|{GAPS}"
_SPARK = rf"{_DEEPSEEK3_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|{GAPS}"
_CJK = f"[{_characters('4e00-9fa5 800-4e00 ac00-d7ff')}]+"
_DEEPSEEK_LETTERS = _characters(
    "41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c "
    "38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b "
    "1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 "
    "1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 "
    "2115 2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b "
    "2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 "
    "fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df "
    "1e900-1e943 "
)
_DEEPSEEK_SIGNS = "!-/:-~" + _characters("ff01-ff0f ff1a-ff5e 2018-201f 3000-3002")
_HANGUL, _BOPOMOFO = _characters("ac00-d7a3 3131-318e"), _characters("3105-312f")
_YOUTU_SIGNS = _characters("ff01 2026 201c 201d 2018 2019 2014 ff1a ff1b ff0c 3001-303f fe30-fe4f")
_YOUTU_ASIAN = f"[{_HANGUL}]+|[{_YOUTU_SIGNS}]+|[{_BOPOMOFO}]+|{_HAN_AND_KANA}"
_AFMOE_ASIAN = _characters(
    "4e00-9fff 3400-4dbf f900-faff 3040-30ff ff65-ff9f 2f00-2fdf e40-e7f e80-eff 1780-17ff 1000-109f aa60-aa7f "
    "a9e0-a9ff ac00-d7af 1100-11ff"
)
_SPACES_HALVED = "|".join([*(rf"\s{{{2**power}}}(?!\S)" for power in range(9, 1, -1)), r"\s{1,2}(?!\S)", r"\s{1}"])
_NO_PHRASE_SIGN = rf" ?[^(\s|.,!?{_characters('2026 3002 ff0c 3001 964 6d4 60c')})]+"

_DIGITS_THEN_GPT2 = WordSplitting((DIGIT, GPT2_PATTERN))
_LLAMA3_MERGED = WordSplitting((LLAMA3_PATTERN,))
_QWEN2 = WordSplitting((QWEN2_PATTERN,))
_CASED_WORDS = WordSplitting((_GPT4O,))
_DEEPSEEK_V3 = WordSplitting((UP_TO_THREE, _HAN_AND_KANA, _DEEPSEEK3))
_BLOOM = WordSplitting((_NO_PHRASE_SIGN,))
_QWEN35 = "|".join([ANY_CASE, _BEFORE + r"[\p{L}\p{M}]+", DIGIT, r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", LINES, GAPS])
_BAILING = WordSplitting(
    (rf"'(?i:[sdmt]|ll|ve|re)|{_BEFORE}+\p{{L}}+|{DIGIT}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|\s*[\r\n]|{GAPS}",)
)
DEFAULT = WordSplitting((r"[\p{P}$+<=>^~|]+", GPT2_PATTERN, NUMBER, "[0-9][0-9][0-9]"))
"""What llama.cpp does for the name "default", and where there is none."""

_NAMED: Sequence[tuple[WordSplitting, str]] = (
    (LLAMA3, "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"),
    (GPT2, "gpt-2 gpt2 phi-2 mpt olmo jais trillion granite-docling gigachat a.x-4.0 mellum modern-bert exaone4"),
    (GPT2, "jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe"),
    (_DIGITS_THEN_GPT2, "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    (_LLAMA3_MERGED, "dbrx smaug-bpe chatglm-bpe glm4"),
    (_QWEN2, "qwen2 deepseek-r1-qwen megrez stablelm2 hunyuan solar-open kormo f2llmv2 grok-2"),
    (WordSplitting((_TEKKEN,), whole_words=True, adds_bos=True), "tekken"),
    (
        WordSplitting(
            (
                "[\r\n]",
                rf"\s?[{_DEEPSEEK_LETTERS}]+",
                rf"\s?[{_DEEPSEEK_SIGNS}]+",
                r"\s+$",
                _CJK,
                NUMBER,
            )
        ),
        "deepseek-llm",
    ),
    (WordSplitting(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, DIGIT)), "deepseek-coder"),
    (_DEEPSEEK_V3, "deepseek-v3 hunyuan-dense joyai-llm hy_v4"),
    (DEFAULT, "default"),
    (WordSplitting((r"[\p{P}$+<=>^~|`]+", GPT2_PATTERN, "[0-9][0-9][0-9]")), "falcon"),
    (_CASED_WORDS, "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (WordSplitting((_GPT4O,), whole_words=True), "granite-embed-multi-97m"),
    (WordSplitting((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)), "tiny_aya cohere2moe"),
    (WordSplitting((_KIMI,)), "kimi-k2"),
    (_BLOOM, "bloom poro-chat gpt3-finnish"),
    (WordSplitting((_NO_PHRASE_SIGN, DIGIT)), "viking"),
    (
        WordSplitting(
            (
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                "([\t\n]|    |  )",
                DIGIT,
                r"[\p{P}!-/:-@\[-`{-~]",
                GPT2_PATTERN,
            ),
            adds_bos=True,
        ),
        "chameleon",
    ),
    (WordSplitting((NUMBER, r"(?=(\d{3})+(?!\d))")), "superbpe"),
    (_BAILING, "bailingmoe bailingmoe2 llada-moe"),
    (
        WordSplitting((f"{ANY_CASE}|{WORD}|{DIGIT}{{1}}| ?[^\\s\\p{{L}}\\p{{N}}\r\n]+|{LINES}|{GAPS}",)),
        "seed-coder",
    ),
    (WordSplitting((f"{WORD}|{DIGIT}|{SIGNS}|{LINES}|{GAPS}",)), "ufakzeka"),
    (
        WordSplitting(
            (rf"{ANY_CASE}|{_BEFORE}[\p{{L}}\p{{M}}]+|{DIGIT}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{LINES}|{GAPS}",)
        ),
        "qwen35",
    ),
    (WordSplitting((r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", f"[{_AFMOE_ASIAN}]+", _DEEPSEEK3)), "afmoe"),
    (WordSplitting(("[^\n]+|[\n]+", QWEN2_PATTERN)), "laguna"),
    (
        WordSplitting(
            (
                rf"{ANY_CASE}|{_BEFORE}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|{DIGIT}|"
                rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{GAPS}",
            )
        ),
        "exaone-moe",
    ),
    (
        WordSplitting((UP_TO_THREE, f"{ANY_CASE}|{WORD}|{NUMBER}|{SIGNS}|{LINES}|{GAPS}"), whole_words=True),
        "minicpm5",
    ),
    (WordSplitting((f"{ANY_CASE}|{WORD}|{UP_TO_THREE}|{SIGNS}|{LINES}|{_SPACES_HALVED}",)), "jais-2"),
    (WordSplitting((UP_TO_THREE, _HAN_AND_KANA, _SPARK, DIGIT)), "spark2_5"),
    (
        WordSplitting(
            (
                _YOUTU_ASIAN,
                "|".join([*(f"{word}{ANY_CASE}?" for word in _CASED), DIGIT, _SIGNS_OR_SLASH, LINES, GAPS]),
            ),
            whole_words=True,
        ),
        "youtu",
    ),
)
SPLITTINGS: Mapping[str, WordSplitting] = {name: splitting for splitting, names in _NAMED for name in names.split()}
"""llama.cpp's name -> what it stands for; of names for the same, the one written comes first."""


def name_of(patterns: Sequence[str], *, whole_words: bool) -> str | None:
    """llama.cpp's name for what cuts by these patterns; None where it has none.

    >>> name_of([DIGIT, GPT2_PATTERN], whole_words=False)
    'smollm'
    """
    wanted = [_spelled(pattern) for pattern in patterns]
    for name, splitting in SPLITTINGS.items():
        if whole_words == splitting.whole_words and wanted == [_spelled(pattern) for pattern in splitting.patterns]:
            return name
    return None


def _spelled(pattern: str) -> str:
    """A pattern with line ends and tabs always written as escapes; files have them either way."""
    return pattern.replace("\r", r"\r").replace("\n", r"\n").replace("\t", r"\t")
