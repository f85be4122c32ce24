"""Conversations kept in the browser: after a reload, in another tab, renamed, removed, as a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running_servers import RunningServer
from web_pages import Visit

pytestmark = pytest.mark.web


def titles(page: Visit) -> list[str]:
    found: list[str] = page.page.locator("#conversations .title").all_inner_texts()
    return found


def talk(page: Visit, *texts: str) -> None:
    page.set(temperature=0, max_tokens=4)
    for text in texts:
        page.ask(text)


def export(page: Visit) -> dict[str, Any]:
    with page.page.expect_download() as download:
        page.page.click("#export")
    found: dict[str, Any] = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    return found


def import_text(page: Visit, text: str) -> None:
    file: Any = {"name": "c.json", "mimeType": "application/json", "buffer": text.encode()}
    page.page.set_input_files("#import-file", files=[file])


def test_a_conversation_is_there_after_a_reload(page: Visit) -> None:
    page.set(system="The big dog", top_k=7)
    talk(page, "Once", "and")
    page.page.click("#new")
    talk(page, "Another one")
    before = page.answers()
    page.open()
    assert titles(page) == ["Another one", "Once"] and page.said() == []
    page.page.click(".title >> text=Another one")
    assert page.answers() == before
    page.page.click(".title >> text=Once")
    assert page.said() == ["Once", "and"]
    assert page.page.input_value("[name=system]") == "The big dog" and page.page.input_value("[name=top_k]") == "7"
    assert page.page.get_attribute(".title >> text=Once", "aria-current") == "true"


def test_another_tab_shows_what_was_said_here(page: Visit, visit: Callable[..., Visit], server: RunningServer) -> None:
    beside = visit(server, like=page).open()
    talk(page, "Once")
    beside.until(lambda: titles(beside) == ["Once"])
    beside.page.click(".title >> text=Once")
    talk(page, "and then")
    beside.until(lambda: beside.said() == ["Once", "and then"] and beside.answers() == page.answers())
    beside.check()


def test_two_tabs_with_two_conversations(page: Visit, visit: Callable[..., Visit], server: RunningServer) -> None:
    beside = visit(server, like=page).open()
    talk(beside, "Mine")
    talk(page, "Once")
    beside.until(lambda: titles(beside) == ["Once", "Mine"])
    talk(beside, "again")
    assert titles(beside) == ["Mine", "Once"] and beside.said() == ["Mine", "again"]
    beside.check()


def test_what_was_cut_off_by_a_reload_is_not_said_to_be_coming(page: Visit) -> None:
    page.page.route("**/v1/chat/completions", lambda route: None)  # an answer that never comes
    page.send("Once")
    page.page.wait_for_selector(".waiting")
    page.page.wait_for_timeout(200)
    page.open()
    page.page.click(".title")
    assert page.page.inner_text(".foot") == "stopped"


def test_a_conversation_is_renamed(page: Visit) -> None:
    talk(page, "Once")
    page.page.hover("#conversations li")
    page.page.click("[aria-label='Rename “Once”']")
    page.page.keyboard.type("A <b>new</b> name")
    page.page.keyboard.press("Enter")
    assert titles(page) == ["A <b>new</b> name"]
    page.page.hover("#conversations li")
    page.page.click("[aria-label^=Rename]")
    page.page.keyboard.type("no")
    page.page.keyboard.press("Escape")
    page.open()
    assert titles(page) == ["A <b>new</b> name"]


def test_a_conversation_is_removed_and_brought_back(page: Visit) -> None:
    talk(page, "Once")
    page.page.hover("#conversations li")
    page.page.click("[aria-label='Delete “Once”']")
    assert titles(page) == [] and page.said() == []
    page.page.click("text=Undo")
    assert titles(page) == ["Once"]
    page.page.hover("#conversations li")
    page.page.click("[aria-label='Delete “Once”']")
    page.open()
    assert titles(page) == []


def test_what_is_exported_can_be_imported(page: Visit, visit: Callable[..., Visit], server: RunningServer) -> None:
    page.page.click("#compare")
    talk(page, "Once upon", "and")
    page.page.click(".turn >> nth=1 >> [aria-label='Ask again']")
    page.until_answered()
    file = export(page)
    assert (file["format"], file["version"], len(file["conversations"])) == ("polyllama-conversations", 1, 1)
    elsewhere = visit(server).open()
    whole = json.dumps(file)
    import_text(elsewhere, whole)
    elsewhere.page.click(".title >> text=Once upon")
    assert elsewhere.said() == page.said() and elsewhere.answers() == page.answers()
    assert elsewhere.page.locator(".place").all_text_contents() == ["Version 2 of 2"]
    again = export(elsewhere)
    for conversation in (*file["conversations"], *again["conversations"]):
        del conversation["id"]
        for turn in conversation["turns"].values():
            for answer in turn["answers"]:
                usage = answer["usage"]
                answer["usage"] = {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
    assert again == file
    import_text(elsewhere, whole)  # nothing is overwritten
    elsewhere.until(lambda: titles(elsewhere) == ["Once upon", "Once upon"])
    elsewhere.open()
    assert titles(elsewhere) == ["Once upon", "Once upon"]
    elsewhere.check()


TURN = {"id": "1", "parent": None, "user": "Hi", "settings": {}, "answers": []}
WHOLE: dict[str, Any] = {"title": "", "settings": {}, "models": [], "turns": {"1": TURN}, "leaf": "1"}


@pytest.mark.parametrize(
    ("conversation", "problem"),
    [
        ({"turns": []}, "turns is no object"),
        ({"turns": {"1": {**TURN, "parent": "1"}}}, "it follows no turn before it"),
        ({"turns": {"1": {**TURN, "user": 7}}}, "user is no text"),
        ({"turns": {"1": {**TURN, "answers": [{"model": "m", "text": "t", "tokens": 3}]}}}, "tokens is no list"),
        ({"leaf": "9"}, "leaf names no turn"),
        ({"title": None}, "title is no text"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_words(page: Visit, conversation: dict[str, Any], problem: str) -> None:
    import_text(page, file_of({**WHOLE, **conversation}))
    page.page.wait_for_selector(".notice.problem")
    text = page.page.inner_text(".notice.problem")
    assert text.startswith("nothing was imported: conversation 1") and problem in text
    assert titles(page) == []


def file_of(*conversations: dict[str, Any]) -> str:
    return json.dumps({"format": "polyllama-conversations", "version": 1, "conversations": conversations})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "the file is no JSON"),
        ("[]", "no conversations of this page"),
        ('{"format": "polyllama-conversations", "version": 2, "conversations": []}', "of version 2"),
    ],
)
def test_another_file_is_refused_in_words(page: Visit, text: str, problem: str) -> None:
    import_text(page, text)
    page.page.wait_for_selector(".notice.problem")
    assert problem in page.page.inner_text(".notice.problem")


def test_settings_of_a_file_that_mean_nothing_are_the_defaults(page: Visit) -> None:
    import_text(page, file_of({**WHOLE, "settings": {"temperature": "hot", "mode": "dance", "form": [], "top_k": 3}}))
    page.page.click(".title >> text=Hi")
    page.set()
    values = [page.page.input_value(f"[name={name}]") for name in ("temperature", "mode", "form", "top_k")]
    assert values == ["", "chat", "free", "3"]
