"""What the command line prints, to the eye: tables in narrow terminals, colours, plurals, options as they are typed."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from polyllama.plugins.commands import _console
from polyllama.plugins.commands._console import print_table
from rich.cells import cell_len
from test_cli import Terminal, spawn

HEADERS = ["name", "size", "source", "summary"]
ROWS = [
    (
        "a-rather-long-name-of-a-model",
        "8.03 G",
        "hf:organization/A-Repository-Of-Some-Length",
        "what it is, [bold]",
    ),
    ("short", "", "here", "wide: 你好吗 🙂"),
    ("名前-model", "1 k", "", "x" * 70),
]


def letters(text: str) -> Counter[str]:
    """Every character that is not layout."""
    return Counter(re.sub(r"\s|─", "", text))


# (a) tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [10, 25, 40, 58, 70, 80, 100, 130, 250])
def test_a_table_keeps_every_name_whole_and_every_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(_console, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(HEADERS, ROWS)
    out = capsys.readouterr().out
    for name, *_ in ROWS:
        assert re.search(rf"^ *{re.escape(name)}( |$)", out, re.MULTILINE), out
    assert "…" not in out
    assert all(cell_len(line.rstrip()) <= max(width, 29) for line in out.splitlines())
    cells = [cell for row in ROWS for cell in row]
    if "─" in out:
        assert letters(out) == letters("".join(HEADERS + cells))
    else:
        labels = [f"{header}:" for row in ROWS for header, cell in zip(HEADERS[1:], row[1:], strict=True) if cell]
        assert letters(out) == letters("".join(labels + cells))
    assert ("─" in out) == (width >= 70)


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("command", ["models", "backends", "plugins"])
def test_listings_in_a_terminal_name_everything(command: str, width: int) -> None:
    code, seen = Terminal(command, interrupts=False, COLUMNS=str(width), NO_COLOR="1").finish()
    data = json.loads(spawn(command, "--json").stdout)
    entries = data if command == "models" else data[command]
    assert code == 0 and "…" not in seen and len(entries) >= 1
    for entry in entries:
        assert re.search(rf"^ *{re.escape(entry['name'])} *( |\r?$)", seen, re.MULTILINE), entry["name"]


# (b) NO_COLOR --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", ["40", "200"])
@pytest.mark.parametrize("command", ["models", "backends"])
def test_no_color_means_no_escapes_at_all(command: str, width: str) -> None:
    assert "\x1b[1m" in Terminal(command, interrupts=False, COLUMNS=width, NO_COLOR="").finish()[1]
    assert "\x1b" not in Terminal(command, interrupts=False, COLUMNS=width, NO_COLOR="1").finish()[1]
