"""Text from the ids of another library's tokenizer: what decoding everything gives, without decoding everything."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import transformers
from polyllama import Llama
from polyllama.core.generation.foreign_tokenizer import as_generation_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = "Once upon a time, Lily didn't go . Größe, naïve — 日本語のテキスト 🙂🙃 \n\n\tTom said: \" I 'm here ! \" " * 6


def sentencepiece() -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(Llama.load("tiny", backend="reference")._loaded.folder))


def byte_level() -> Any:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=True)


class Counting:
    """A tokenizer that counts the ids it decodes."""

    def __init__(self, own: Any) -> None:
        self._own, self.decoded = own, 0

    def encode(self, text: str) -> list[int]:
        return list(self._own.encode(text))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        self.decoded += len(ids)
        return str(self._own.decode(ids, skip_special_tokens=skip_special_tokens))


def pieces_of_everything(tokenizer: Any, prompt: list[int], ids: list[int], skip: bool) -> list[str]:
    """Each id's piece, by decoding all that there are."""
    pieces, known = [], len(tokenizer.decode(prompt[-8:], skip_special_tokens=skip))
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(prompt[-8:] + ids[:count], skip_special_tokens=skip)
        if text.endswith("\ufffd"):
            pieces.append("")
            continue
        pieces.append(text[known:])
        known = max(known, len(text))
    text = tokenizer.decode(prompt[-8:] + ids, skip_special_tokens=skip)
    return [*pieces, text[known:]]


@pytest.mark.parametrize("make", [sentencepiece, byte_level])
@pytest.mark.parametrize("what", ["text", "random", "bytes", "specials between"])
def test_pieces_are_those_of_decoding_everything(make: Any, what: str) -> None:
    own = make()
    draw, size, ids = random.Random(5), len(own), own.encode(TEXT)
    if what == "random":
        ids = [draw.randrange(size) for _ in range(300)]
    elif what == "bytes":  # characters in parts, and parts of none
        ids = [draw.choice(range(3, 259)) if draw.random() < 0.4 else each for each in ids for _ in range(2)][:400]
    elif what == "specials between":
        ids = [part for each in ids for part in [each, *[own.bos_token_id or 0] * draw.choice((0, 0, 1, 40))]][:400]
    for skip in (True, False):
        for prompt in ([], own.encode("The sea is")):
            decoder = as_generation_tokenizer(own).stream_decoder(prompt, skip_special_tokens=skip)
            found = [*map(decoder.push, ids), decoder.finish()]
            assert found == pieces_of_everything(own, prompt, ids, skip)


@pytest.mark.parametrize("make", [sentencepiece, byte_level])
def test_what_is_decoded_grows_with_the_text_and_not_with_its_square(make: Any) -> None:
    counting = Counting(make())
    ids = (counting.encode(TEXT) * 4)[:2000]
    decoder = as_generation_tokenizer(counting).stream_decoder()
    for each in ids:
        decoder.push(each)
    assert len(ids) > 800 and counting.decoded < 100 * len(ids)
