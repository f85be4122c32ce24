"""Small tokenizers of every kind that Llama checkpoints have, trained here, for the tokenizer tests."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import sentencepiece
from hypothesis import strategies as st

WORDS = (  # noqa: SIM905
    "the a once upon time there was little girl named Lily who loved banana bananas ananas anana 123 4567 89 hello "
    "Hello world is this test naïve café été 日本 日本語 你好 世界 Привет мир return def print if else =="
).split()
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus(sentences: int = 4000) -> list[str]:
    chance = random.Random(7)
    lines = []
    for _ in range(sentences):
        words = chance.choices(WORDS, k=12)
        gaps = chance.choices([" ", " ", " ", "  ", "    ", "", "\t", ", "], k=12)
        lines.append(
            "".join(a + b for a, b in zip(words, gaps, strict=True)) + chance.choice([".", "!", "?", " (x)", "aaaaaaa"])
        )
    return lines


def train(path: Path, **options: Any) -> Path:
    """A SentencePiece model with Llama's trainer settings."""
    settings: dict[str, Any] = {
        "sentence_iterator": iter(corpus()),
        "model_prefix": str(path.with_suffix("")),
        "vocab_size": 900,
        "model_type": "bpe",
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 0.999,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(**(settings | options))
    return path


SYMBOLS = ["▁<PRE>", "▁<SUF>", "▁<MID>", "<EOT>", "<fill me>"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "symbols": {"user_defined_symbols": SYMBOLS, "control_symbols": ["<ctl>"]},
    "across_words": {"split_by_whitespace": False, "vocab_size": 1500},
    "no_bytes": {"byte_fallback": False},
    "strip": {"remove_extra_whitespaces": True},
    "no_prefix": {"add_dummy_prefix": False},
    "unigram": {"model_type": "unigram", "vocab_size": 600},
    "nfkc": {"normalization_rule_name": "nmt_nfkc"},
}


class Models:
    """Trains on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def model(self, kind: str) -> Path:
        path = self.folder / f"{kind}.model"
        return path if path.exists() else train(path, **KINDS[kind])

    def processor(self, kind: str) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_file=str(self.model(kind)))

    def checkpoint(self, name: str, model: str = "plain", **config: Any) -> Path:
        """A folder with a `tokenizer.model` and a `tokenizer_config.json`."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.model").write_bytes(self.model(model).read_bytes())
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    def llama3(self) -> Path:
        """A folder with a byte-level `tokenizer.json` like Llama 3's."""
        folder = self.folder / "llama3"
        if folder.exists():
            return folder
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

        backend = Tokenizer(models.BPE(ignore_merges=True))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        backend.train_from_iterator(corpus(), trainer)
        names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
        begin = names[0]
        backend.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{begin} $A",
                    pair=f"{begin} $A {begin}:1 $B:1",
                    special_tokens=[(begin, backend.token_to_id(begin))],
                ),
            ]
        )
        folder.mkdir()
        backend.save(str(folder / "tokenizer.json"))
        config = {
            "bos_token": begin,
            "eos_token": "<|eot_id|>",
            "clean_up_tokenization_spaces": True,
            "model_max_length": 131072,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": CHAT_TEMPLATE,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    def ranks(self) -> tuple[Path, dict[bytes, int]]:
        """Meta's kind of `tokenizer.model`, from the vocabulary of ``llama3``."""
        from tokenizers import Tokenizer, pre_tokenizers

        backend = Tokenizer.from_file(str(self.llama3() / "tokenizer.json"))
        alphabet = {character: byte for byte, character in _byte_characters().items()}
        assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = sorted(backend.get_vocab(with_added_tokens=False).items(), key=lambda entry: entry[1])
        tokens = [bytes(alphabet[character] for character in token) for token, _ in vocabulary]
        singles = [bytes([byte]) for byte in range(256)]
        ranks = {
            token: rank
            for rank, token in enumerate(singles + [token for token in tokens if len(token) > 1] + [b"qzqzq"])
        }
        path = self.folder / "ranks" / "tokenizer.model"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))
        return path, ranks


def _byte_characters() -> dict[int, str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(shifted)}


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

SPECIALS = ["<s>", "</s>", "<unk>", "<ctl>", "<|eot_id|>", "<|begin_of_text|>", "<0x0A>", "<s", "[INST]", *SYMBOLS]
FRAGMENTS = [
    *WORDS,
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    "▁",
    "\x00",
    "\x1f",
    "\x7f",
    "\u200b",
    "\u3000",
    "\xa0",
    "\ufeff",
    "🦙",
    "👩‍👩‍👧",
    "🇫🇷",
    "é",
    "aaaa",
    "ana",
    "anan",
    "\u210c",
    "ﬁ",
    "'s",
    " ' ",
    " .",
    "n't",
    "\ufffd",
    "0",
    "12",
]

# Left alone, hypothesis also tries strings that it finds in the code under test, such as special tokens.
plain_text = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join),
    st.text(alphabet="anb ▁\n", max_size=40),
).filter(lambda text: not any(token in text for token in SPECIALS[:6]))
text_with_specials = st.lists(
    st.one_of(st.sampled_from(SPECIALS), st.sampled_from(FRAGMENTS), st.text(max_size=6)), max_size=12
).map("".join)
any_text = st.one_of(plain_text, text_with_specials)
