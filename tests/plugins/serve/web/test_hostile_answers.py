"""Whatever a model writes: nothing of it runs, nothing is fetched, and what it wrote can be read."""

from __future__ import annotations

from typing import Any

import pytest
from web_pages import Visit

from .test_keeping import TURN, WHOLE, file_of, import_text

pytestmark = pytest.mark.web

ATTACKS = {
    "script": "<script>window.hit = 1</script>",
    "handler": "<img src=x onerror='window.hit = 1'>",
    "svg": "<svg><script>window.hit = 1</script></svg><svg onload='window.hit = 1'>",
    "math": "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=window.hit=1&gt;'>",
    "link": "[click](javascript:window.hit=1) <a href='javascript:window.hit=1'>click</a>",
    "coded link": "[click](java&#x0A;script:window.hit=1) [click](JaVaScRiPt:window.hit=1) <javascript:window.hit=1>",
    "data link": "[click](data:text/html,<script>window.hit=1</script>) [click](vbscript:window.hit=1)",
    "frame": "<iframe src='https://evil.example/'></iframe><object data='https://evil.example/'></object>",
    "frame's text": "<iframe srcdoc='<script>parent.hit = 1</script>'></iframe>",
    "image": "![a](https://evil.example/a.png) <img src='https://evil.example/b.png'>",
    "reference": "![a][b]\n\n[b]: https://evil.example/c.png 'title'",
    "quoted image": '![a" onerror="window.hit=1](https://evil.example/x" onerror="window.hit=1)',
    "style": "<style>@import 'https://evil.example/a.css'; body { display: none }</style><p style='position:fixed'>x",
    "styled link": "<link rel=stylesheet href='https://evil.example/a.css'><base href='https://evil.example/'>",
    "form": "<form action='https://evil.example/'><button autofocus onfocus='window.hit=1'>x</button></form>",
    "refresh": "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "ids": "<a id=message name=main>x</a><form id=composer><input name=submit></form>",
    "code": "```html\n<script>window.hit = 1</script>\n```\n`<img src=x onerror=window.hit=1>`",
    "language": '```"><img src=x onerror=window.hit=1>\ntext\n```',
    "table": "|a|\n|---|\n|<img src=x onerror=window.hit=1>|",
    "autolink": 'https://evil.example/"onmouseover="window.hit=1',
    "comment": "<!-- --!><img src=x onerror=window.hit=1> -->",
}


def show(page: Visit, text: str, **more: Any) -> None:
    """Have an answer on the page as if a model had given it: by a file, which goes the way of a kept conversation."""
    answer = {"model": "tiny", "text": text, "tokens": [], "state": "done", "finish": "stop", **more}
    import_text(page, file_of({**WHOLE, "title": "it", "turns": {"1": {**TURN, "answers": [answer]}}}))
    page.page.click(".title >> text=it")


def came_to_nothing(page: Visit) -> None:
    tab = page.page
    for link in tab.locator(".text a").all():
        address = link.get_attribute("href") or ""
        assert address.startswith(("http://", "https://", "mailto:", "")) and "script:" not in address.lower()
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
        link.hover()
        if address == "":
            link.click()
    tab.wait_for_timeout(50)
    assert tab.evaluate("window.hit") is None
    plain = "a,b,blockquote,br,code,del,em,h4,h5,h6,hr,i,li,ol,p,pre,strong,sub,sup,table,tbody,td,th,thead,tr,ul"
    assert tab.locator(f".answer .text :not({plain},div.wide)").count() == 0
    names = tab.evaluate("[...document.querySelectorAll('.answer .text *')].flatMap(one => one.getAttributeNames())")
    assert set(names) <= {"href", "title", "start", "align", "rel", "target", "class", "tabindex", "role", "aria-label"}
    assert page.elsewhere == [] and tab.url.rstrip("/") == page.url and tab.is_visible("#message")


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_comes_to_nothing(page: Visit, attack: str) -> None:
    show(page, attack)
    came_to_nothing(page)
    page.page.click("#tokens")
    assert page.page.inner_text(".tokens").split() == attack.split()
    assert page.page.evaluate("window.hit") is None


def test_an_attack_that_streams_comes_to_nothing_at_any_point(page: Visit) -> None:
    """The server itself cannot be made to write this, so its stream is written here, a letter at a time."""
    whole = "\n\n".join(ATTACKS.values())
    page.answer_by([{"content": letter} for letter in whole])
    page.ask("Write something evil")
    came_to_nothing(page)
    code = "async text => { const {fromMarkdown} = await import('/page/js/markdown.js');"
    code += " for (let end = 1; end < text.length; end += 1) document.body.append(fromMarkdown(text.slice(0, end)));"
    code += " return document.querySelectorAll('script:not([src]), iframe, img, object, link:not(head link)').length }"
    assert page.page.evaluate(code, whole) == 0
    assert page.page.evaluate("window.hit") is None


def test_names_titles_and_tokens_are_text(page: Visit) -> None:
    evil = "<img src=x onerror='window.hit = 1'>"
    token = {"text": evil, "logprob": -1, "others": [[evil, -1], [f"{evil}2", -2]]}
    answer = {"model": evil, "text": evil, "tokens": [token], "state": "failed", "error": evil}
    turn = {**TURN, "user": evil, "answers": [answer, {**answer, "model": "b"}]}
    models = [{"name": evil, "backend": evil}]
    import_text(page, file_of({**WHOLE, "title": evil, "turns": {"1": turn}, "models": models}))
    page.page.click(".title")
    page.page.click("#tokens")
    page.page.hover(".token >> nth=0")
    page.page.wait_for_selector("#token-card")
    page.page.click("[aria-label^=Delete]")
    assert page.page.locator("img, #token-card script").count() == 0
    assert page.page.evaluate("window.hit") is None


def test_links_lead_to_the_web_alone(page: Visit) -> None:
    show(
        page,
        "[a](ftp://x.example) [b](/page/) [c](tel:1) [d](https://x.example) [e](mailto:x@x.example) ![f](http://x.example)",
    )
    found = page.page.eval_on_selector_all(
        ".text a", "all => all.map(one => [one.textContent, one.getAttribute('href')])"
    )
    assert found == [
        *(["a", None], ["b", None], ["c", None]),
        *(["d", "https://x.example"], ["e", "mailto:x@x.example"], ["f", "http://x.example"]),
    ]


def test_html_is_shown_as_it_was_written(page: Visit) -> None:
    show(page, "It is <b>bold</b> and **strong**, 1 < 2 && 3 > 2.")
    assert page.page.inner_text(".answer .text") == "It is <b>bold</b> and strong, 1 < 2 && 3 > 2."


def test_markdown_looks_as_it_should(page: Visit) -> None:
    blocks = (
        "# One",
        "- a\n- *b*",
        "3. c",
        "```py\nx = 1\n```",
        "|k|v|\n|--|--:|\n|1|2|",
        "[x](https://example.org 't')",
    )
    show(page, "\n\n".join(blocks))
    found = page.page.eval_on_selector_all(
        ".text > *", "all => all.map(one => [one.tagName, one.firstElementChild?.tagName])"
    )
    assert found == [["H4", None], ["UL", "LI"], ["OL", "LI"], ["DIV", "PRE"], ["DIV", "TABLE"], ["P", "A"]]
    assert page.page.get_attribute(".text ol", "start") == "3"
    assert page.page.get_attribute(".text a", "href") == "https://example.org"


def test_the_browser_itself_refuses_what_the_page_never_does(page: Visit) -> None:
    """The second wall: were the sanitizer gone, scripts in the markup would still not run, nor pictures be fetched."""
    refused = """async () => {
        const seen = [];
        document.addEventListener("securitypolicyviolation", event => seen.push(event.effectiveDirective));
        try { document.body.insertAdjacentHTML("beforeend", "<b>x</b>"); } catch { seen.push("markup"); }
        const image = document.createElement("img"); image.src = "https://evil.example/a.png";
        const script = document.createElement("script");
        try { script.textContent = "window.hit = 1"; document.body.append(script); } catch { seen.push("script") }
        try { await fetch("https://evil.example/"); } catch {}
        await new Promise(resolve => setTimeout(resolve, 200));
        return seen;
    }"""
    seen = set(page.page.evaluate(refused))
    assert {"markup", "script", "img-src", "connect-src"} <= seen, seen
    assert page.page.evaluate("window.hit") is None
    page.errors.clear()
    page.elsewhere.clear()
