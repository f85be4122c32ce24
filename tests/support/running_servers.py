"""``polyllama serve`` as a process of its own, on a port that is free."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
from support_processes import LONGEST, end_process, run_process, start_process

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tyrant' %}{{ raise_exception('no tyrants here') }}{% endif %}"
    "{{ m.content }}{% if not loop.last %} {% endif %}{% endfor %}{{ mood }}"
)
"""A chat template that makes of a conversation the text that the bundled model goes on with."""

TOOLS_TEMPLATE = (
    "{% if tools %}Tools: {{ tools | tojson }}, called as <tool_call>...</tool_call>\n{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or () %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}\n{% endfor %}"
    "<assistant>"
)
"""A chat template that tells of tools, in Hermes' format."""


class RunningServer:
    """A server, its address, and what it has said so far.

    Args:
        arguments: of the command line.
        lasting: it serves several tests, and is ended by :meth:`end`.
    """

    def __init__(self, *arguments: str, lasting: bool = False, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "polyllama", "serve", *arguments, "--port", "0"]
        self.process = start_process(
            command,
            lasting=lasting,
            timeout=10 * LONGEST if lasting else LONGEST,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.said: list[str] = []
        self.logged: list[str] = []
        self._threads = [self._read(self.process.stderr, self.said), self._read(self.process.stdout, self.logged)]
        self.url = self._address()
        self.http = httpx.Client(base_url=self.url, timeout=LONGEST, trust_env=False)

    @staticmethod
    def _read(stream: Any, into: list[str]) -> threading.Thread:
        def read() -> None:
            for line in stream:
                into.append(line.rstrip("\n"))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def _address(self) -> str:
        until = time.monotonic() + LONGEST
        while time.monotonic() < until:
            for line in list(self.said):
                if found := re.search(r"serves .* on (http://\S+)", line):
                    return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError("\n".join(["the server does not answer", *self.said]))

    def ready(self) -> RunningServer:
        """Wait until it answers requests."""
        until = time.monotonic() + LONGEST
        while self.http.get("/health").status_code != 200:
            assert self.process.poll() is None and time.monotonic() < until, self.said
            time.sleep(0.02)
        return self

    def metric(self, name: str, **labels: str) -> float:
        """A number of ``/metrics``; 0 where it is not there yet."""
        shown = self.http.get("/metrics").text
        for line in shown.splitlines():
            named = line.startswith((f"polyllama_{name}{{", f"polyllama_{name} "))
            if named and all(f'{label}="{value}"' in line for label, value in labels.items()):
                return float(line.rpartition(" ")[2])
        return 0.0

    def until(self, condition: Any, seconds: float = 30.0) -> None:
        """Wait until something holds."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "it did not come to pass"
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Have it end by a signal; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=LONGEST)
        self.http.close()
        end_process(self.process)
        for thread in self._threads:
            thread.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code


def said_by(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What a server says that is to end by itself, and how it ends."""
    command = [sys.executable, "-m", "polyllama", "serve", *arguments]
    return run_process(command, capture_output=True, text=True, env={**os.environ, **(env or {})})


def events(server: RunningServer, path: str, body: dict[str, Any]) -> list[Any]:
    """The events of a stream as they were sent."""
    answer = server.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
