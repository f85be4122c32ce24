"""Who may ask, and what a server says that cannot start."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from running_servers import RunningServer, said_by

KEYS = "# of the tests\n\nfirst-secret-key\nsecond-secret-key\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(KEYS)
    cors = ("--cors", "https://app.example", "--allow-host", "llama.example")
    running = RunningServer("tiny", *cors, env={"POLYLLAMA_SERVE_API_KEY_FILE": str(keys)}, lasting=True)
    yield running.ready()
    running.end()


def test_keys(guarded: RunningServer) -> None:
    for key in ("first-secret-key", "second-secret-key"):
        client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0)
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert guarded.http.get("/v1/models", headers={"x-api-key": key}).status_code == 200
    for key in ("first-secret-ke", "first-secret-keyy", "# of the tests", "ä" * 8):
        answer = guarded.http.get("/v1/models", headers={"authorization": f"Bearer {key}".encode()})
        assert answer.status_code == 401, key
        assert answer.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError, match="the API key is not valid"):
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong", max_retries=0).models.list()
    for path in ("/v1/models", "/metrics"):
        assert "has no API key" in guarded.http.get(path).text
    assert guarded.http.get("/health").status_code == 200  # for who watches over it


def test_pages_of_other_sites(guarded: RunningServer, server: RunningServer) -> None:
    """A browser sends along who asks: no other site's page may, as long as it is not named."""
    body = {"prompt": "a", "max_tokens": 1}
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = server.http.post("/v1/completions", json=body, headers={"origin": origin})
        assert answer.status_code == 403 and "may not ask" in answer.json()["error"]["message"]
        assert "access-control-allow-origin" not in answer.headers
    own = server.http.post("/v1/completions", json=body, headers={"origin": server.url})
    assert own.status_code == 200
    key = {"authorization": "Bearer first-secret-key", "origin": "https://app.example"}
    named = guarded.http.post("/v1/completions", json=body, headers=key)
    assert named.status_code == 200 and named.headers["access-control-allow-origin"] == "https://app.example"
    ahead = {"origin": "https://app.example", "access-control-request-method": "POST"}
    assert guarded.http.options("/v1/completions", headers=ahead).status_code == 200
    ahead["origin"] = "https://evil.example"
    assert guarded.http.options("/v1/completions", headers=ahead).status_code == 400


def test_other_names_of_the_host(server: RunningServer, guarded: RunningServer) -> None:
    """A site that has its name point here (DNS rebinding) is not served."""
    for host in ("evil.example", "127.0.0.1.evil.example:80", "[", ""):
        assert server.http.get("/health", headers={"host": host}).status_code in (400, 403), host
    for host in ("localhost:1234", "127.0.0.1", "[::1]:80"):
        assert server.http.get("/health", headers={"host": host}).status_code == 200, host
    assert guarded.http.get("/health", headers={"host": "llama.example"}).status_code == 200


@pytest.mark.parametrize(
    "model",
    [
        "/etc/passwd",
        "../tiny",
        "./tiny",
        "hf:org/name",
        "path:/tmp",
        "registry:7b",
        "7b",
        "tiny@nothing",
        "tiny@",
        "tiny:poet",
        "a" * 5000,
        "tiny\x00",
        "",
    ],
)
def test_nothing_that_is_sent_is_taken_for_a_file(server: RunningServer, model: str) -> None:
    answer = server.http.post("/v1/completions", json={"model": model, "prompt": "a"})
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
    assert len(answer.text) < 600


def test_a_port_that_is_taken(server: RunningServer) -> None:
    port = server.url.rpartition(":")[2]
    done = said_by("tiny", "--port", port)
    assert done.returncode == 1
    assert done.stderr == f"error: port {port} of 127.0.0.1 is in use; give another --port, 0 for any\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no model to serve; name one, or give --any"),
        (("tiny", "--port", "70000"), "--port 70000 is no port; take one from 0 to 65535"),
        (("tiny", "--host", "256.1.1.1"), "--host is '256.1.1.1'"),
        (("tiny", "--host", "192.0.2.1", "--port", "0"), "no address of this machine"),
        (("tiny", "--keep-alive", "soon"), "--keep-alive is 'soon', which is no duration; write 30s"),
        (("tiny", "--max-rows", "0"), "--max-rows 0 is less than 1"),
        (("tiny", "tiny"), "two models would be served as 'tiny'; write NAME=MODEL for one of them"),
        (("tiny", "--api-key-file", "no/such/file"), "'no/such/file' cannot be read: No such file or directory"),
        (("tinny", "--port", "0"), "no Hub repository id (organization/name); did you mean 'tiny'"),
        (("./no-such-folder", "--port", "0"), "no-such-folder"),
        (("tiny", "--port", "0", "--backend", "nothing"), "nothing"),
    ],
)  # fmt: skip
def test_what_keeps_it_from_starting_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = said_by(*arguments)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: ") and message in last, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("error: ") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", "holds no key"),
        ("short\n", "line 1: this is no API key"),
        ("good-long-key\nwith a space in it\n", "line 2"),
        ("\xff\xfe", "is no text"),
    ],
)
def test_a_bad_file_of_keys(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(text.encode("latin-1"))
    done = said_by("tiny", env={"POLYLLAMA_SERVE_API_KEY_FILE": str(path)})
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1
    assert "with a space" not in done.stderr  # a key is nothing to show


def test_a_port_that_needs_rights() -> None:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 81))
        except PermissionError:
            pass
        else:
            pytest.skip("whoever runs the tests may take any port")
    assert "needs the rights of root" in said_by("tiny", "--port", "81").stderr
