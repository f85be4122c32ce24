"""Texts cut into rows for a model, at the very lengths where one row becomes two."""

from __future__ import annotations

from pathlib import Path

import polyllama
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from polyllama import Llama
from polyllama.core.errors import InputError
from polyllama.core.tasks.windows import Encoder, Window
from polyllama.core.tokenizer.tokenizer import Tokenizer
from prediction_models import vocabulary

WORDS = sorted(word[1:] for word in vocabulary() if word[0] == "▁" and word[1:].isalpha() and len(word) > 4)[:60]
QUESTION = "Tom and Lily"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    found = Llama.load(Path(polyllama.__file__).parent / "models" / "tiny", backend="reference").tokenizer
    assert found is not None
    return found


def text_of(count: int) -> str:
    """So many words of one token each, no two alike."""
    return " ".join(WORDS[:count])


def words_of(window: Window, text: str, source: int = 0) -> list[str]:
    """The words that a window's offsets name."""
    return [text[slice(*window.offsets[place])].strip() for place in window.places(source)]


def windows_by_definition(count: int, room: int, stride: int) -> list[tuple[int, int]]:
    """First and last word of each window: as many as fit, `stride` of them again, until the text ends."""
    found = [(0, min(room, count))]
    while found[-1][1] < count:
        start = found[-1][1] - stride
        found.append((start, min(start + room, count)))
    return found


@pytest.mark.parametrize("source", ["the model's context is", "max_length is"])
@pytest.mark.parametrize("limit", [2, 9, 30])
def test_a_text_of_the_limit_is_one_row_and_of_one_token_more_is_too_long(
    limit: int, source: str, tokenizer: Tokenizer
) -> None:
    # With a limit of its own the context does not matter, be it smaller or larger.
    limits = {"context": limit} if "context" in source else {"context": 5, "max_length": limit}
    fits, over = text_of(limit - 1), text_of(limit)  # and one token that begins a text
    assert len(tokenizer.encode(fits)) == limit and len(tokenizer.encode(over)) == limit + 1
    for truncation in (False, True):
        encoder = Encoder(tokenizer, truncation=truncation, **limits)
        assert encoder.whole(fits).input_ids == tokenizer.encode(fits) and encoder.cut == []
    with pytest.raises(InputError, match=f"the text has {limit + 1} tokens, {source} {limit}") as raised:
        Encoder(tokenizer, **limits).whole(over)
    assert "truncation=True" in str(raised.value)
    cut = Encoder(tokenizer, truncation=True, **limits)
    assert cut.whole(over).input_ids == tokenizer.encode(over)[:limit] and cut.cut == [limit + 1]


def test_without_a_limit_nothing_is_cut(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer)
    assert len(encoder.whole(text_of(60))) == 61
    [window] = encoder.strided(text_of(60), stride=100)
    assert words_of(window, text_of(60)) == WORDS


@pytest.mark.parametrize("pair", [False, True])
@hypothesis_settings(max_examples=60)
@given(data=st.data())
def test_windows_share_what_was_asked_for_and_cover_the_text(
    pair: bool, tokenizer: Tokenizer, data: st.DataObject
) -> None:
    room = data.draw(st.integers(1, 12), "room")
    count = data.draw(st.one_of(st.integers(1, 40), st.just(room), st.just(room + 1)), "count")
    stride = data.draw(st.integers(0, room - 1), "stride")
    text = text_of(count)
    before = (
        len(tokenizer.encode(QUESTION, text_pair=text)) - count if pair else 1
    )  # of a pair: the question, what is around
    texts = (QUESTION, text) if pair else (text,)
    found = Encoder(tokenizer, 512).strided(*texts, stride=stride, limit=room + before)
    wanted = windows_by_definition(count, room, stride)
    assert [words_of(window, text, int(pair)) for window in found] == [WORDS[a:b] for a, b in wanted]
    assert [window.first for window in found] == [start for start, _ in wanted]
    assert all(len(window) <= room + before for window in found)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("room", [1, 6])
@pytest.mark.parametrize("more", [0, 1, 50])
def test_a_stride_of_the_room_or_more(room: int, more: int, pair: bool, tokenizer: Tokenizer) -> None:
    """A text that fits needs no second window, so nothing is wrong with the stride; others would never end."""
    before = len(tokenizer.encode(QUESTION, text_pair=WORDS[0])) - 1 if pair else 1
    for count in range(1, room + 1):
        texts = (QUESTION, text_of(count)) if pair else (text_of(count),)
        [window] = Encoder(tokenizer, room + before).strided(*texts, stride=room + more)
        assert words_of(window, text_of(count), int(pair)) == WORDS[:count] and window.first == 0
    texts = (QUESTION, text_of(room + 1)) if pair else (text_of(room + 1),)
    with pytest.raises(InputError, match=f"windows hold {room} tokens? of the text, and would share {room + more}"):
        Encoder(tokenizer, room + before).strided(*texts, stride=room + more)


@pytest.mark.parametrize("pair", [False, True])
def test_no_room_at_all(pair: bool, tokenizer: Tokenizer) -> None:
    before = len(tokenizer.encode(QUESTION, text_pair=WORDS[0])) - 1 if pair else 1
    texts = (QUESTION, text_of(3)) if pair else (text_of(3),)
    what = "the question leaves" if pair else "special tokens leave"
    with pytest.raises(InputError, match=f"{what} no room in {before} tokens?"):
        Encoder(tokenizer, 512).strided(*texts, stride=0, limit=before)
    assert len(Encoder(tokenizer, 512).strided(*texts, stride=0, limit=before + 1)) == 3
