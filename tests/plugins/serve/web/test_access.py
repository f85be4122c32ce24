"""The page without a mouse, to a screen reader, narrow, and in both colour schemes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest
from running_servers import RunningServer
from web_pages import Visit, package

pytestmark = pytest.mark.web

NARROW = {"width": 390, "height": 844}


def focused(page: Visit) -> str:
    """What has the focus: its label, else its text, else its id."""
    code = "(e => e.getAttribute('aria-label') || e.labels?.[0]?.textContent.trim() || e.textContent.trim() || e.id)"
    found: str = page.page.evaluate(f"{code}(document.activeElement)")
    return found


def tab_to(page: Visit, name: str, *, back: bool = False) -> None:
    """Press Tab until something has the focus."""
    for _ in range(60):
        page.page.keyboard.press("Shift+Tab" if back else "Tab")
        if focused(page).startswith(name):
            return
    raise AssertionError(f"{name!r} is not reached")


def violations(page: Visit) -> list[str]:
    """What axe, the checker of accessibility, finds wrong; by rule and element."""
    package("axe_playwright_python", "axe-playwright-python")
    # Its code alone: its own way in adds a script to the page, which the page's policy refuses.
    page.page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = page.page.evaluate("async () => (await axe.run()).violations")
    return [f"{one['id']}: {node['html']}: {node['failureSummary']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["start", "text", "tokens", "compared", "panels", "problem", "narrow"])
def test_axe_finds_nothing(visit: Callable[..., Visit], server: RunningServer, scheme: str, view: str) -> None:
    narrow = {"viewport": NARROW} if view == "narrow" else {}
    page = visit(server, color_scheme=scheme, **narrow).open()
    page.page.emulate_media(reduced_motion="reduce", color_scheme=scheme)
    if view != "start":
        page.set(temperature=0, max_tokens=20)
        page.page.click("#settings .close")
    if view in ("text", "panels", "narrow"):
        page.ask("Once upon a time")
    if view == "tokens":
        page.page.click("#tokens")
        page.ask("Once upon a time")
        page.page.hover(".token >> nth=3")
    if view == "compared":
        page.page.click("#compare")
        page.ask("Once upon a time")
    if view == "panels":
        page.set(form="regex")
        page.page.click("[aria-label^=Delete]")
    if view == "problem":
        page.page.click("#compare")
        page.page.select_option("[aria-label='Second model']", label="another name …")
        page.page.fill("[aria-label='Second model: its name']", "nobody")
        page.page.keyboard.press("Enter")
        page.ask("Once")
    assert violations(page) == []
    page.check()


def test_axe_would_find_something(page: Visit) -> None:
    page.page.evaluate("document.getElementById('send').replaceChildren()")
    assert any("button-name" in one for one in violations(page))


def test_everything_is_done_by_keyboard_alone(page: Visit) -> None:
    keys = page.page.keyboard
    assert focused(page) == "Message"
    tab_to(page, "Settings", back=True)
    keys.press("Enter")
    assert focused(page) == "Close the settings"
    tab_to(page, "Temperature")
    keys.type("0")
    tab_to(page, "Max tokens")
    keys.press("Control+A")
    keys.type("6")
    keys.press("Escape")
    assert focused(page) == "Settings" and page.page.is_hidden("#settings")
    tab_to(page, "Compare", back=True)
    keys.press("Space")
    assert page.page.get_attribute("#compare", "aria-pressed") == "true"
    tab_to(page, "Message")
    keys.type("Once upon a time")
    keys.press("Enter")
    page.until_answered()
    assert focused(page) == "Message"
    tab_to(page, "Copy the answer", back=True)
    tab_to(page, "Edit what you said", back=True)
    page.page.keyboard.press("Shift+Tab")  # the tokens of the second answer: one stop, arrows go on from there
    first = focused(page)
    keys.press("ArrowRight")
    assert focused(page) != first and page.page.is_visible("#token-card")
    keys.press("Escape")
    assert page.page.is_hidden("#token-card")
    tab_to(page, "Rename", back=True)
    keys.press("Enter")
    keys.type("Mine")
    keys.press("Enter")
    assert focused(page) == "Mine"
    tab_to(page, "Delete “Mine”")
    keys.press("Enter")
    page.until(lambda: page.page.locator("#conversations li").count() == 0)
    tab_to(page, "Undo")
    keys.press("Enter")
    assert page.page.locator("#conversations li").count() == 1


def test_the_first_stop_leads_past_the_bar(page: Visit) -> None:
    tab_to(page, "Go to the message field", back=True)
    assert page.page.evaluate("document.activeElement.getBoundingClientRect().top") > 0
    page.page.keyboard.press("Enter")
    assert focused(page) == "Message"


def test_whoever_has_the_focus_is_seen(page: Visit) -> None:
    page.set()
    page.ask("Once")
    page.page.evaluate("document.activeElement.blur()")
    seen = 0
    for _ in range(40):
        page.page.keyboard.press("Tab")
        shown = """() => {
            const one = document.activeElement, box = one.getBoundingClientRect();
            const frame = one.id === 'message' ? one.parentElement : one;
            const {outlineStyle, outlineWidth} = getComputedStyle(frame);
            return {name: one.outerHTML.slice(0, 80), ring: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2,
                    inside: box.width > 0 && box.height > 0 && box.bottom <= innerHeight + 1 && box.top >= -1,
                    body: one === document.body};
        }"""
        found: dict[str, Any] = page.page.evaluate(shown)
        if not found["body"]:
            seen += 1
            assert found["ring"] and found["inside"], found
    assert seen > 20


def test_a_screen_reader_hears_the_answer_once_it_is_there(page: Visit) -> None:
    page.page.evaluate("""() => {
        window.heard = [];
        const status = document.getElementById("status");
        new MutationObserver(() => heard.push(status.textContent)).observe(status, {childList: true});
    }""")
    page.set(temperature=0, max_tokens=6)
    answer = page.ask("Once")
    heard = page.page.evaluate("heard")
    assert heard[0] == "tiny is answering" and len(heard) == 2
    assert " ".join(heard[1].split()) == " ".join(f"tiny: {answer}".split())


def test_headings_and_landmarks(page: Visit) -> None:
    page.set(temperature=0, max_tokens=4)
    page.ask("Once")
    tree = page.page.locator("body").aria_snapshot()
    for part in ("banner:", 'navigation "Conversations":', "main:", 'complementary "Settings":', "status"):
        assert part in tree, tree
    for part in ('heading "polyllama" [level=1]', 'heading "You" [level=2]', 'heading "tiny" [level=3]'):
        assert part in tree, tree
    assert 'textbox "Message"' in tree and 'combobox "Model"' in tree


def test_a_narrow_page_has_its_panels_above_and_scrolls_one_way(
    visit: Callable[..., Visit], server: RunningServer
) -> None:
    page = visit(server, viewport=NARROW).open()
    tab = page.page
    page.set(temperature=0, max_tokens=60)
    assert tab.evaluate("document.getElementById('main').inert")
    tab.keyboard.press("Escape")
    assert tab.is_hidden("#settings") and not tab.evaluate("document.getElementById('main').inert")
    tab.click("#compare")
    page.ask("Once upon a time " + "x" * 200)
    assert tab.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    left, right = (tab.locator(f".answer >> nth={place}").bounding_box() for place in (0, 1))
    assert left["x"] == right["x"] and left["y"] < right["y"]
    tab.click("#open-side")
    tab.click("#conversations .title")
    assert tab.is_hidden("#side")
    page.check()


def test_at_four_times_the_size_nothing_is_lost(visit: Callable[..., Visit], server: RunningServer) -> None:
    """1280 pixels at 400 %, as guidelines ask: 320 pixels wide, and nothing is beside the page."""
    page = visit(server, viewport={"width": 320, "height": 256}).open()
    page.page.fill("#message", "Once")
    page.page.click("#send")
    page.until_answered()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 320
    page.check()


def test_colours_follow_the_system_until_one_is_chosen(visit: Callable[..., Visit], server: RunningServer) -> None:
    page = visit(server, color_scheme="dark").open()
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.page.evaluate(ground)
    page.page.emulate_media(color_scheme="light")
    light = page.page.evaluate(ground)
    assert dark != light
    page.page.click("#theme")  # light
    page.page.click("#theme")
    assert page.page.evaluate(ground) == dark
    assert page.page.get_attribute("#theme", "aria-label") == "Colours: dark. Change"
    page.open()
    assert page.page.evaluate(ground) == dark
    page.page.click("#theme")
    assert page.page.evaluate(ground) == light
    page.check()
