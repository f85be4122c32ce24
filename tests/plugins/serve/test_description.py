"""``/openapi.json`` says what there is, and nothing that is made of it breaks the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polyllama
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from polyllama.plugins.serve.fields import ignored_fields
from polyllama.plugins.serve.own.description import description
from polyllama.plugins.serve.state import load_interfaces
from running_servers import RunningServer
from schemathesis.checks import not_a_server_error

DESCRIPTION = description(load_interfaces())
schema = schemathesis.openapi.from_dict(DESCRIPTION)


@pytest.fixture(scope="module")
def limited() -> Any:
    """A server that is done soon, whatever it is asked for."""
    limits = ("--max-tokens", "4", "--context", "64", "--max-rows", "64")
    running = RunningServer("tiny", *limits, lasting=True)
    yield running.ready()
    running.end()


def test_it_describes_every_endpoint(limited: RunningServer) -> None:
    assert limited.http.get("/openapi.json").json() == DESCRIPTION
    paths = {(method.upper(), path) for path, methods in DESCRIPTION["paths"].items() for method in methods}
    assert {("POST", "/v1/chat/completions"), ("POST", "/api/chat"), ("GET", "/v1/models/{model}")} <= paths
    chat = DESCRIPTION["components"]["schemas"]["openai.ChatBody"]
    assert chat["required"] == ["messages"] and chat["properties"]["user"]["x-no-effect"] is True


def test_the_guide_lists_the_fields_without_effect() -> None:
    guide = (Path(polyllama.__file__).parent / "docs" / "serving.md").read_text()
    table = guide.partition("<!-- no effect: begin -->")[2].partition("<!-- no effect: end -->")[0]
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", table, re.MULTILINE))
    listed = {body: re.findall(r"`(\w+)`", fields) for body, fields in rows.items()}
    bodies = {
        f"{name}.{endpoint.body.__name__}": ignored_fields(endpoint.body)
        for name, interface in load_interfaces().items()
        for endpoint in interface.endpoints
        if endpoint.body is not None
    }
    assert listed == {name: fields for name, fields in bodies.items() if fields}


@schema.parametrize()
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
def test_nothing_breaks_it(case: schemathesis.Case, limited: RunningServer) -> None:
    answer = case.call(base_url=limited.url, timeout=60)
    case.validate_response(answer, checks=[not_a_server_error])
    assert "Traceback" not in answer.text


def test_the_server_is_still_there(limited: RunningServer) -> None:
    assert limited.http.get("/health").json()["status"] == "ok"
    assert not [line for line in limited.said if "Error" in line or "Traceback" in line], limited.said
