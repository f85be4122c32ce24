"""The page of ``polyllama serve`` in a browser, as the tests talk with it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 60_000
"""Milliseconds that something on the page may take; a busy machine is no reason to fail."""


def package(module: str, name: str) -> Any:
    """A package that the tests in a browser want; where it is not installed, they are skipped."""
    return pytest.importorskip(module, reason=f"pip install {name}, or make test-web")


def find_chromium() -> str:
    """Where Chromium is; without one, the tests are skipped."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    pytest.skip("needs Chromium: apt-get install chromium")


def launch(playwright: Any) -> Any:
    """Start Chromium with an empty profile of its own."""
    root = ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []  # as root it starts no other way
    return playwright.chromium.launch(executable_path=find_chromium(), headless=True, args=[*root, *SWITCHES])


class Visit:
    """The page in a tab, and what went wrong there.

    Attributes:
        errors: what the page's scripts threw or complained of.
        elsewhere: addresses that it asked for and that are not the server's.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self._complained(message))
        page.on("request", lambda request: self._asked(request.url))

    def _complained(self, message: Any) -> None:
        # Chromium writes down every answer that is an error; those are the server's, and tests look for them.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.url, "blob:")):
            self.elsewhere.append(url)

    def open(self) -> Visit:
        """Open the page and wait until it knows the models."""
        self.page.goto(self.url)
        self.page.wait_for_selector("#memory span")
        return self

    def set(self, **settings: Any) -> Visit:
        """Fill fields of the settings."""
        if not self.page.is_visible("#settings"):
            self.page.click("#open-settings")
        for name, value in settings.items():
            control = self.page.locator(f"#settings-form [name={name}]")
            if control.evaluate("control => control.tagName") == "SELECT":
                control.select_option(value)
            else:
                control.fill(str(value))
        return self

    def send(self, text: str) -> None:
        """Send a message, and do not wait."""
        self.page.fill("#message", text)
        self.page.click("#send")

    def ask(self, text: str) -> str:
        """Send a message and wait for the answer: its text."""
        self.send(text)
        self.until_answered()
        return self.answers()[-1]

    def until_answered(self) -> None:
        """Wait until nothing is written any more."""
        self.page.wait_for_selector("#stop", state="hidden")

    def answers(self) -> list[str]:
        """The texts of all answers that are shown."""
        found: list[str] = self.page.eval_on_selector_all(
            ".answer > .text, .answer > .tokens", "all => all.filter(one => !one.hidden).map(one => one.textContent)"
        )
        return found

    def said(self) -> list[str]:
        """What the user has said, as shown."""
        found: list[str] = self.page.locator(".said").all_inner_texts()
        return found

    def answer_by(self, deltas: Sequence[dict[str, Any]], logprobs: Sequence[Any] = ()) -> None:
        """Answer chats by a stream that is written here: for what no model can be made to say."""
        events: list[Any] = []
        for place, delta in enumerate(deltas):
            told = {"content": logprobs[place]} if logprobs else None
            events.append({"index": 0, "delta": delta, "logprobs": told, "finish_reason": None})
        events.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        lines = [json.dumps({"choices": [event]}) for event in events]
        body = "".join(f"data: {line}\n\n" for line in (*lines, "[DONE]"))
        stream = {"status": 200, "headers": {"content-type": "text/event-stream"}, "body": body}
        self.page.route("**/v1/chat/completions", lambda route: route.fulfill(**stream))

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until something holds."""
        for _ in range(int(seconds / 0.02)):
            if condition():
                return
            self.page.wait_for_timeout(20)
        raise AssertionError("it did not come to pass")

    def check(self) -> None:
        """Nothing went wrong, and nothing came from elsewhere."""
        assert (self.errors, self.elsewhere) == ([], [])
