"""A Hub on this machine: the routes that downloads use, and ``locate`` run against it in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from support_processes import run_process

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = '{"model_type": "llama"}'
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})


def fill(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@dataclass
class Hub:
    """The few routes of the Hub's API that a download uses, and a record of what was asked."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)  # file -> bytes after which its next transfers are cut
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)  # what requests said of who asks
    url: str = ""

    def fetched(self, repo_id: str = "org/name") -> set[str]:
        """The files of a repository whose content was sent."""
        paths = [path for verb, path, _ in self.requests if verb == "GET" and path.startswith(f"/{repo_id}/resolve/")]
        return {"/".join(path.split("/")[5:]) for path in paths}


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.tokens.add(self.headers.get("Authorization"))
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.removeprefix("/api/models").strip("/").split("/")
        repo_id = "/".join(parts[:2])
        if repo_id in self.hub.refusals:
            status, code = self.hub.refusals[repo_id]
            return self.reply(status, b"{}", {"X-Error-Code": code} if code else {}, body)
        files = self.hub.repos.get(repo_id)
        if files is None:
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        revision = parts[3] if len(parts) > 3 else "main"
        if revision not in ("main", COMMIT):
            return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        if not path.startswith("/api/"):
            return self.file(files, "/".join(parts[4:]), body)
        if parts[2] == "tree":
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            return self.reply(200, json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
        info = {"id": repo_id, "modelId": repo_id, "sha": COMMIT, "private": False, "tags": [], "downloads": 0,
                "likes": 0, "siblings": [{"rfilename": name} for name in files]}  # fmt: skip
        return self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"}, body)

    def file(self, files: dict[str, bytes], name: str, body: bool) -> None:
        if name not in files:
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        data = files[name]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        if asked and body:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.reply(206, data[start:], headers, body)
        return self.reply(200, data, headers, body)

    def reply(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        cuts = self.hub.cuts.get(self.path.rpartition("/")[2])
        if cuts:
            cut = cuts.pop(0)
            self.wfile.write(data[:cut])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(data)


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # connections that the tests cut


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that answers while the block runs."""
    state = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": state})
    server = QuietServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join(30)
    assert not thread.is_alive()


CLIENT = """
import json, sys, warnings
from polyllama.core.errors import PolyllamaError, PolyllamaWarning
from polyllama.core.sources.access import HubAccess
from polyllama.core.sources.locate import locate
results = []
for source, arguments in json.loads(sys.argv[1]):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            if "access" in arguments:
                arguments["access"] = eval(arguments["access"])
            found = locate(source, **arguments)
            result = {"path": str(found.path), "commit": found.commit, "revision": found.revision}
        except PolyllamaError as error:
            result = {"error": type(error).__name__, "text": str(error)}
    result["said"] = [str(w.message) for w in said if issubclass(w.category, PolyllamaWarning)]
    results.append(result)
print(json.dumps(results))
"""


def load_all(
    world: Path, url: str, jobs: list[tuple[str, dict[str, Any]]], environment: dict[str, str] | None = None
) -> list[Any]:
    """``locate`` in a process of its own: huggingface_hub reads HF_ENDPOINT when it is imported."""
    done = run_process(
        [sys.executable, "-c", CLIENT, json.dumps(jobs)],
        env={
            **os.environ, "HF_ENDPOINT": url, "HF_HOME": str(world / "hf"), "HF_HUB_DISABLE_XET": "1",
            "POLYLLAMA_CACHE_DIR": str(world / "cache"), "NO_PROXY": "127.0.0.1", **(environment or {}),
        },
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout)
    return results


def load(world: Path, url: str, source: str, *, environment: dict[str, str] | None = None, **arguments: Any) -> Any:
    return load_all(world, url, [(source, arguments)], environment)[0]


SHARDED: dict[str, bytes] = {
    "README.md": b"# hi",
    "config.json": CONFIG.encode(),
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors.index.json": INDEX.encode(),
    "model-00001-of-00002.safetensors": b"one" * 100,
    "model-00002-of-00002.safetensors": b"two" * 100,
    "pytorch_model.bin": b"pickle",
    "original/consolidated.00.pth": b"pickle",
}
NEEDED = {name for name in SHARDED if name.endswith((".json", ".safetensors"))}
