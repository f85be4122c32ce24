"""The files of the page at ``/``, without a browser: what is handed out, by which rules; that nothing is missing."""

from __future__ import annotations

import glob
import hashlib
import re
import tomllib
from pathlib import Path

import pytest
from polyllama.plugins.serve.page.files import STATIC, page_files
from running_servers import RunningServer

SOURCES = [path for path in sorted(STATIC.rglob("*")) if path.suffix in (".js", ".css", ".html")]
OURS = [path for path in SOURCES if "vendor" not in path.parts]


def test_the_page_and_its_files_are_there_without_a_key(server: RunningServer) -> None:
    assert len(page_files()) > 25
    assert server.http.get("/").text == (STATIC / "index.html").read_text(encoding="utf-8")
    for name, (content, media_type) in page_files().items():
        answer = server.http.get(f"/page/{name}")
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, content, media_type), name


def test_the_browser_is_told_to_let_nothing_else_in(server: RunningServer) -> None:
    for path in ("/", "/page/js/main.js"):
        headers = server.http.get(path).headers
        rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert rules.pop("default-src") == rules.pop("frame-ancestors") == "'none'"
        assert rules.pop("base-uri") == rules.pop("form-action") == "'none'"
        assert rules.pop("require-trusted-types-for") == "'script'" and rules.pop("trusted-types") == "dompurify"
        assert rules and set(rules.values()) == {"'self'"}
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "name",
    [
        "nothing.js",
        "../interface.py",
        "..%2finterface.py",
        "%2e%2e/interface.py",
        "/etc/passwd",
        "js",
        "js/%2e%2e/icon.svg",
    ],
)
def test_what_a_request_names_is_no_path(server: RunningServer, name: str) -> None:
    answer = server.http.get(f"/page/{name}")
    assert answer.status_code == 404 or answer.url.path == "/page/icon.svg"  # the client itself makes b of a/../b
    assert b"def " not in answer.content


def test_what_the_page_asks_about_the_server(server: RunningServer) -> None:
    found = server.http.get("/page/server.json").json()
    assert {"name": "reference", "usable": True, "reason": None} in found["backends"]
    assert {"name": "tiny", "writes": True, "chats": True} in found["loaded"]


def test_every_file_that_one_names_is_there() -> None:
    names = set(page_files())
    for path in OURS:
        text = path.read_text(encoding="utf-8")
        for found in re.findall(r'"/page/([^"#?]+?)(?:#[^"]*)?"', text):
            assert found in names | {"server.json"}, f"{path.name} names {found}"
        for found in re.findall(r'from "(\.[^"]+)"', text):
            wanted = (path.parent / found).resolve()
            assert wanted.is_file(), f"{path.name} imports {found}"
    icons = set(re.findall(r'id="([^"]+)"', (STATIC / "icons.svg").read_text(encoding="utf-8")))
    pattern = r'icons\.svg#(\w+)|[iI]con(?:Button)?\("(\w+)"'
    asked = {pair for path in OURS for pair in re.findall(pattern, path.read_text(encoding="utf-8"))}
    wanted_icons = {name for pair in asked for name in pair if name}
    assert len(wanted_icons) > 10 and wanted_icons <= icons


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", page)
    for path in OURS:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://[\w.]", text), path.name
        assert "innerHTML" not in text and "eval(" not in text


def test_every_module_is_short_and_says_what_it_is() -> None:
    for path in OURS:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 400 and max(map(len, lines)) <= 120, path.name
        if path.suffix == ".js":
            assert lines[0].startswith("// "), path.name
        if path.suffix == ".css":
            assert lines[0].startswith("/* "), path.name


def test_libraries_of_others_are_as_their_table_says() -> None:
    vendor = STATIC / "vendor"
    rows = re.findall(r"\| ([\d.]+) \| [^|]+ \| `([^`]+)` \| `([0-9a-f]{64})` \|", (vendor / "README.md").read_text())
    assert {name for _, name, _ in rows} == {
        path.relative_to(vendor).as_posix() for path in vendor.rglob("*") if path.suffix in (".js", ".mjs")
    }
    for version, name, digest in rows:
        content = (vendor / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, name
        assert version.encode() in content[:400]
        assert (vendor / Path(name).parent / "LICENSE").is_file()


def test_the_wheel_takes_every_file_along() -> None:
    root = STATIC.parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["polyllama.plugins.serve.page"]
    taken = {Path(one) for pattern in patterns for one in glob.glob(str(STATIC.parent / pattern), recursive=True)}
    assert {path for path in STATIC.rglob("*") if path.is_file()} <= taken
