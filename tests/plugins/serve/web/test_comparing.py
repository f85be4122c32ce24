"""Two models side by side: what is marked is what differs; each token with its probability."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
from running_servers import RunningServer
from web_pages import Visit

pytestmark = pytest.mark.web


def longest_common(left: list[str], right: list[str]) -> int:
    """Length of the longest common subsequence, by the textbook's recurrence."""
    row = [0] * (len(right) + 1)
    for one in left:
        before = 0
        for place, other in enumerate(right, start=1):
            before, row[place] = row[place], before + 1 if one == other else max(row[place], row[place - 1])
    return row[-1]


def tokens_of(page: Visit, column: int) -> list[str]:
    found: list[str] = page.page.locator(f".answer >> nth={column}").locator(".token").all_text_contents()
    return found


def marked(page: Visit, column: int) -> list[bool]:
    found: list[bool] = (
        page.page.locator(f".answer >> nth={column}")
        .locator(".token")
        .evaluate_all("all => all.map(token => token.classList.contains('differs'))")
    )
    return found


def compare(page: Visit, name: str, backend: str = "") -> None:
    page.page.click("#compare")
    page.page.select_option("[aria-label='Second model']", name)
    page.page.select_option("[aria-label='Backend of the second model']", backend)


def test_two_models_answer_and_what_differs_is_marked(page: Visit) -> None:
    page.set(temperature=0, max_tokens=40)
    compare(page, "other")
    page.ask("Once upon a time")
    assert page.page.locator(".answer h3").all_inner_texts() == ["tiny", "other"]
    left, right = tokens_of(page, 0), tokens_of(page, 1)
    assert left != right and left[0] == right[0], "the second model is to begin alike and go on otherwise"
    kept = [[t for t, differs in zip(tokens_of(page, c), marked(page, c), strict=True) if not differs] for c in (0, 1)]
    assert kept[0] == kept[1] and len(kept[0]) == longest_common(left, right)
    first = next(place for place, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    share = 2 * len(kept[0]) / (len(left) + len(right))
    said = page.page.inner_text(".difference")
    assert said.startswith(f"The answers part at token {first + 1}; {round(100 * share)} %")
    label = page.page.get_attribute(".token.differs", "aria-label")
    assert label is not None and label.endswith(", differs")


def test_one_model_on_two_backends_says_the_same(page: Visit) -> None:
    page.set(temperature=0, max_tokens=20)
    compare(page, "tiny", "reference")
    page.ask("Once upon a time")
    assert page.page.locator(".answer h3").all_inner_texts() == ["tiny", "tiny@reference"]
    assert page.page.inner_text(".difference") == "Both answers are the same."
    assert not any(marked(page, 0)) and not any(marked(page, 1))
    assert "reference" in page.page.inner_text("#memory")
    # Each column goes on from what it said itself.
    page.ask("and then")
    assert page.page.locator(".difference").count() == 2


def test_a_column_that_fails_leaves_the_other_alone(page: Visit) -> None:
    page.set(temperature=0, max_tokens=6)
    page.page.click("#compare")
    page.page.select_option("[aria-label='Second model']", label="another name …")
    page.page.fill("[aria-label='Second model: its name']", "nobody@torch")
    page.page.keyboard.press("Enter")
    page.ask("Once upon a time")
    assert len(tokens_of(page, 0)) == 6
    assert "there is no model 'nobody@torch' here" in page.page.inner_text(".problem")


def test_a_token_tells_its_probability_by_pointer_and_by_keyboard(page: Visit, server: RunningServer) -> None:
    page.set(temperature=0, max_tokens=8, alternatives="3")
    page.page.click("#tokens")
    page.ask("Once upon a time")
    said = [{"role": "user", "content": "Once upon a time"}]
    body: dict[str, Any] = {"model": "tiny", "messages": said, "temperature": 0}
    body |= {"max_tokens": 8, "logprobs": True, "top_logprobs": 3}
    answer = server.http.post("/v1/chat/completions", json=body)
    told = answer.json()["choices"][0]["logprobs"]["content"]
    assert tokens_of(page, 0) == [token["token"] for token in told]
    tab = page.page
    tab.hover(".token >> nth=2")
    check_card(tab, told[2])
    tab.mouse.move(0, 0)
    tab.wait_for_selector("#token-card", state="hidden")
    tab.focus(".token >> nth=0")
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    check_card(tab, told[3])
    assert tab.evaluate("document.activeElement.getAttribute('aria-describedby')") == "token-card"
    tab.keyboard.press("End")
    check_card(tab, told[7])
    tab.keyboard.press("Escape")
    assert tab.is_hidden("#token-card")
    assert tab.locator(".token[tabindex='0']").count() == 1


def test_the_card_stays_with_its_token_where_the_arrow_keys_scroll(page: Visit) -> None:
    page.page.set_viewport_size({"width": 1280, "height": 300})
    page.set(temperature=0, max_tokens=300)
    page.page.click("#tokens")
    page.ask("Once upon a time")
    tab = page.page
    tab.focus(".token >> nth=0")
    scrolled = "document.getElementById('scroll').scrollTop"
    tab.wait_for_timeout(100)
    before = tab.evaluate(scrolled)
    tab.keyboard.press("End")
    page.until(lambda: tab.evaluate(scrolled) > before)
    tab.wait_for_timeout(100)
    assert tab.is_visible("#token-card")
    token, card = (tab.locator(one).bounding_box() for one in (".token:focus", "#token-card"))
    assert card["y"] >= 0 and card["y"] + card["height"] <= 300
    assert card["y"] + card["height"] <= token["y"] or card["y"] >= token["y"] + token["height"] / 2


def check_card(tab: Any, token: dict[str, Any]) -> None:
    """The card shows a token's likeliest alternatives with their probabilities."""
    tab.wait_for_selector("#token-card")
    cells = "all => all.map(row => [...row.children].map(cell => cell.textContent))"
    rows = tab.eval_on_selector_all("#token-card tr", cells)
    wanted = token["top_logprobs"]
    assert [row[0].removesuffix(" (chosen)").replace("␣", " ") for row in rows] == [one["token"] for one in wanted]
    assert rows[0][0].endswith(" (chosen)")  # greedy
    for row, one in zip(rows, wanted, strict=True):
        share, shown = 100 * math.exp(one["logprob"]), row[1].removesuffix(" %")
        if shown[0] in "<>":
            assert share < 0.1 or share > 99.9
        else:
            assert abs(float(shown) - share) < 0.6


def test_a_letter_of_several_tokens_stands_at_the_last_of_them(page: Visit) -> None:
    bytes_of = ["é".encode()[:1], "é".encode()[1:], b"!"]
    told = [[{"token": "\ufffd", "bytes": list(one), "logprob": -1.0, "top_logprobs": []}] for one in bytes_of]
    page.answer_by([{"content": ""}, {"content": "é"}, {"content": "!"}], told)
    page.page.click("#tokens")
    page.ask("Once")
    assert tokens_of(page, 0) == ["", "é", "!"]
    page.page.focus(".token >> nth=0")
    assert page.page.inner_text("#token-card code") == "part of a letter"


def test_without_probabilities_words_are_compared(page: Visit) -> None:
    page.set(temperature=0, max_tokens=30, alternatives="off")
    compare(page, "other")
    page.ask("Once upon a time")
    assert "part at word" in page.page.inner_text(".difference")
    page.page.hover(".token >> nth=1")
    assert page.page.inner_text("#token-card") == "The server told no probability of this token."


def test_the_comparison_is_a_longest_common_subsequence(page: Visit) -> None:
    draw = random.Random(4)
    pairs = [[draw.choices("abc", k=draw.randrange(12)) for _ in range(2)] for _ in range(200)]
    code = "async pairs => (await import('/page/js/diff.js').then(({compare}) => pairs.map(pair => compare(...pair))))"
    for pair, found in zip(pairs, page.page.evaluate(code, pairs), strict=True):
        kept = [[x for x, same in zip(s, m, strict=True) if same] for s, m in zip(pair, found["same"], strict=True)]
        assert kept[0] == kept[1] and len(kept[0]) == longest_common(*pair)
        alike = itertools.takewhile(lambda both: both[0] == both[1], itertools.zip_longest(*pair))
        assert found["first"] == (None if pair[0] == pair[1] else len(list(alike)))
