"""``/openapi.json`` says what there is, and nothing that is made of it breaks the server."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
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


@schema.parametrize()
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
def test_nothing_breaks_it(case: schemathesis.Case, limited: RunningServer) -> None:
    answer = case.call(base_url=limited.url, timeout=60)
    case.validate_response(answer, checks=[not_a_server_error])
    assert "Traceback" not in answer.text


def test_the_server_is_still_there(limited: RunningServer) -> None:
    assert limited.http.get("/health").json()["status"] == "ok"
    assert not [line for line in limited.said if "Error" in line or "Traceback" in line], limited.said
