"""The access log: a line of JSON on stdout for every request."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hub import Served


def log_request(said: Mapping[str, Any], models: Sequence[Served]) -> None:
    """Write a request down.

    Args:
        said: what is known of the request itself.
        models: those that it used.
    """
    line: dict[str, Any] = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **said}
    tickets = [ticket for served in models for ticket in served.tickets]
    if models:
        line["model"] = models[0].name
    if tickets:
        jobs = [ticket.job for ticket in tickets]
        line["prompt_tokens"] = sum(row.prompt.counted for job in jobs for row in job.rows)
        line["new_tokens"] = sum(job.stats.new_tokens for job in jobs)
        first = tickets[0].first_seconds
        line["first_token_seconds"] = None if first is None else round(first, 4)
    print(json.dumps(line), flush=True)
