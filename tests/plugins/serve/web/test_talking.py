"""Messages and answers on the page: as the model gives them, stopped, edited, asked again, refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from polyllama import Llama
from running_servers import RunningServer
from web_pages import Visit

from .conftest import KEY

pytestmark = pytest.mark.web

GREEDY = {"temperature": 0, "max_tokens": 12}


def chat(llm: Llama, *messages: tuple[str, str], count: int = 12) -> str:
    said = [{"role": role, "content": content} for role, content in messages]
    return llm.generate([llm.chat_prompt(said)], max_new_tokens=count, temperature=0.0)[0].text


def words(text: str) -> str:
    """A text as it is read: markdown does not keep all of the space between."""
    return " ".join(text.split())


def test_an_answer_is_the_models(page: Visit, llm: Llama) -> None:
    page.set(**GREEDY)
    wanted = chat(llm, ("user", "Once upon a time"))
    assert words(page.ask("Once upon a time")) == words(wanted)
    foot = page.page.inner_text(".foot")
    # Twelve tokens may come in one piece, of which no speed can be told.
    assert re.fullmatch(r"12 tokens · ([\d.]+ tokens/s · )?first after \d+ m?s · token limit reached", foot)
    assert "tiny: cpu, float32, 4.6 MB" in page.page.inner_text("#memory")


def test_how_fast_an_answer_came_is_told(page: Visit) -> None:
    page.set(temperature=0, max_tokens=300)
    page.ask("Once upon a time")
    found = re.match(r"(\d+) tokens · ([\d.]+) tokens/s · first after ([\d.]+) (m?s)", page.page.inner_text(".foot"))
    assert found, page.page.inner_text(".foot")
    answer = page.page.evaluate("""async () => {
        const {Store} = await import("/page/js/store.js");
        return Object.values((await new Store(() => {}).all())[0].turns)[0].answers[0];
    }""")
    assert answer["usage"]["completion_tokens"] == int(found[1]) == len(answer["tokens"])
    assert float(found[2]) == pytest.approx((int(found[1]) - 1) / answer["seconds"], rel=0.01, abs=0.5)


def test_what_was_said_before_goes_along(page: Visit, llm: Llama) -> None:
    page.set(system="The big dog", **GREEDY)
    first = page.ask("and the cat")
    said = [("system", "The big dog"), ("user", "and the cat")]
    assert words(first) == words(chat(llm, *said))
    wanted = chat(llm, *said, ("assistant", chat(llm, *said)), ("user", "went"))
    assert words(page.ask("went")) == words(wanted)


def test_a_text_goes_on(page: Visit, llm: Llama) -> None:
    prompts = []
    page.page.on(
        "request", lambda request: request.method == "POST" and prompts.append(request.post_data_json["prompt"])
    )
    page.set(mode="text", **GREEDY)
    wanted = llm.generate("Once upon a time", max_new_tokens=12, temperature=0.0).text
    assert page.ask("Once upon a time") == wanted
    assert not page.page.is_visible("#system-field")
    longer = llm.generate("Once upon a time" + wanted + " The end", max_new_tokens=12, temperature=0.0).text
    assert page.ask(" The end") == longer
    assert prompts == ["Once upon a time", "Once upon a time" + wanted + " The end"]


def test_an_answer_comes_piece_by_piece_and_can_be_stopped(page: Visit, server: RunningServer) -> None:
    page.set(temperature=1, max_tokens=480)
    page.page.evaluate("""() => {
        window.seen = new Set();
        new MutationObserver(() => seen.add(document.querySelector(".answer .text")?.textContent.length ?? 0))
            .observe(document.getElementById("transcript"), {childList: true, subtree: true});
    }""")
    some = "Boolean(document.querySelector('.turn:last-child .answer .text')?.textContent)"
    # A body of the whole context takes some tenths of a second: enough for several drawings, and to be stopped in.
    for seed in range(20):
        page.set(seed=seed)
        page.send("Once upon a time there was")
        page.until(lambda: page.page.evaluate(some))
        page.page.keyboard.press("Escape")
        page.until_answered()
        if "stopped" in page.page.inner_text(".turn:last-child .foot"):
            break
        page.page.click("#new", force=True)
    assert "stopped" in page.page.inner_text(".turn:last-child .foot"), "each answer was there before it was stopped"
    server.until(lambda: server.metric("requests_running", model="tiny") == 0, 5)
    assert len(page.page.evaluate("[...seen]")) > 1
    assert page.page.evaluate("document.activeElement.id") == "message"


def test_a_question_is_edited_and_asked_again_without_losing_what_was_there(page: Visit, llm: Llama) -> None:
    page.set(**GREEDY)
    page.ask("Once upon a time")
    later = page.ask("and then")
    tab = page.page
    tab.click(".turn >> nth=0 >> [aria-label='Edit what you said']")
    tab.keyboard.press("Control+A")
    tab.keyboard.type("The sun")
    tab.keyboard.press("Enter")
    page.until_answered()
    assert page.said() == ["The sun"]
    assert words(page.answers()[0]) == words(chat(llm, ("user", "The sun")))
    assert tab.text_content(".place") == "Version 2 of 2"
    tab.click("[aria-label='Ask again']")
    page.until_answered()
    assert tab.text_content(".place") == "Version 3 of 3"
    tab.click("[aria-label='The version before']")
    tab.click("[aria-label='The version before']")
    assert page.said() == ["Once upon a time", "and then"] and page.answers()[-1] == later


def test_an_edit_can_be_left(page: Visit) -> None:
    page.set(**GREEDY)
    page.ask("Once")
    page.page.click("[aria-label='Edit what you said']")
    page.page.keyboard.press("Escape")
    assert page.said() == ["Once"]
    assert page.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Edit what you said"


def test_what_the_server_refuses_is_said_in_its_words(page: Visit, server: RunningServer) -> None:
    long = "a " * 600
    page.set(**GREEDY)
    page.send(long)
    page.page.wait_for_selector(".problem")
    body = {"model": "tiny", "messages": [{"role": "user", "content": long.strip()}]}
    answer = server.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].split(",")[1] in page.page.inner_text(".problem")
    # It is no part of what is said from then on.
    assert page.ask("Once")


@pytest.mark.parametrize(
    ("form", "text", "fields", "wanted"),
    [
        ("regex", "[0-9]{3}-[0-9]{2}", {"regex": "[0-9]{3}-[0-9]{2}"}, r"[0-9]{3}-[0-9]{2}"),
        ("choices", "yes\nno", {"choices": ["yes", "no"]}, "yes|no"),
        ("json", "", {"response_format": {"type": "json_object"}}, r"\{.*\}"),
        (
            "json_schema",
            '{"enum": [7, 12]}',
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"enum": [7, 12]}},
                }
            },
            "7|12",
        ),
    ],
)
def test_the_form_of_an_answer(
    page: Visit, server: RunningServer, form: str, text: str, fields: dict[str, Any], wanted: str
) -> None:
    said = [{"role": "user", "content": "Once"}]
    answer = server.http.post("/v1/chat/completions", json={"messages": said, "max_tokens": 40, "seed": 3, **fields})
    page.set(form=form, max_tokens=40, seed=3, **({"form_text": text} if text else {}))
    page.send("Once")
    page.until_answered()
    if answer.status_code == 400:  # this server's polyllama holds answers to no form, and says so
        assert answer.json()["error"]["message"] in page.page.inner_text(".problem")
        return
    content = answer.json()["choices"][0]["message"]["content"]
    # Between JSON's tokens there may be line breaks, which a paragraph of markdown does not show.
    assert "".join(page.answers()[0].split()) == "".join(content.split())
    assert form == "json" or re.fullmatch(wanted, content, re.DOTALL)


@pytest.mark.parametrize(
    ("form", "text", "problem"),
    [
        ("json_schema", "{", "the JSON schema is no JSON"),
        ("regex", "", "lacks a regular expression"),
    ],
)
def test_a_form_that_is_none_is_said_before_anything_is_sent(page: Visit, form: str, text: str, problem: str) -> None:
    page.set(form=form, form_text=text)
    page.send("Once")
    assert problem in page.page.inner_text(".notice.problem")
    assert page.page.evaluate("document.activeElement.name") == "form_text"
    assert page.page.input_value("#message") == "Once" and page.said() == []


def test_a_number_that_is_none_is_said(page: Visit) -> None:
    page.set(top_p=7)
    page.send("Once")
    assert page.page.inner_text(".notice.problem").startswith("Top p: ")
    assert page.page.evaluate("document.activeElement.name") == "top_p"


def test_settings_are_sent_as_they_stand(page: Visit) -> None:
    bodies = []
    page.page.on("request", lambda request: request.method == "POST" and bodies.append(request.post_data_json))
    page.set(temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, seed=3, max_tokens=4, alternatives="3")
    first = page.ask("Once")
    page.page.click("[aria-label='Ask again']")
    page.until_answered()
    assert page.answers() == [first]  # the same seed
    names = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "top_logprobs")
    assert [bodies[0][name] for name in names] == [0.5, 0.9, 40, 0.1, 3, 4, 3]
    page.set(temperature="", top_p="", top_k="", min_p="", seed="", max_tokens="5", alternatives="off")
    page.ask("Once")
    assert bodies[2].keys() == {"model", "stream", "stream_options", "max_tokens", "messages"}


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(visit: Callable[..., Visit], locked: RunningServer) -> None:
    page = visit(locked)
    tab = page.page
    tab.goto(locked.url)
    tab.wait_for_selector(".notice.problem")
    assert "the request has no API key" in tab.inner_text(".notice.problem")
    assert tab.evaluate("document.activeElement.id") == "api-key"
    tab.keyboard.type(KEY)
    tab.keyboard.press("Tab")
    tab.wait_for_selector("#memory span")
    page.set(max_tokens=4)
    assert page.ask("Once upon")
    assert tab.evaluate("Object.values(sessionStorage)") == [KEY]
    assert KEY not in tab.evaluate("JSON.stringify(Object.entries(localStorage))")
    assert visit(locked, like=page).page.evaluate("1") == 1
    page.check()


def test_a_model_without_a_template_goes_on_with_the_text(visit: Callable[..., Visit], locked: RunningServer) -> None:
    page = visit(locked)
    page.page.add_init_script(f"sessionStorage.setItem('polyllama-api-key', '{KEY}')")
    page.open()
    assert page.page.input_value("[name=mode]") == "text"
    page.set(mode="chat", max_tokens=4)
    page.send("Once upon a time")
    page.page.click(".problem button")
    page.until_answered()
    assert page.page.input_value("[name=mode]") == "text"
    assert page.said() == ["Once upon a time"] and page.answers()[0] != ""


def test_a_server_that_is_gone_is_said(page: Visit) -> None:
    page.page.route("**/v1/chat/completions", lambda route: route.abort())
    page.send("Once")
    page.page.wait_for_selector(".problem")
    assert "the server cannot be reached" in page.page.inner_text(".problem")
