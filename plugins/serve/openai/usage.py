"""Counts of tokens as OpenAI's interface has them, and what an answer begins with."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from ..answering import as_json

if TYPE_CHECKING:
    from ..engine import Ticket
    from ..hub import Served

DONE = b"data: [DONE]\n\n"


def usage(ticket: Ticket, rows: int = 1) -> dict[str, Any]:
    """Tokens of prompts and answers of a request.

    Args:
        rows: sequences of each prompt, which counts once.
    """
    job = ticket.job
    prompt = sum(row.prompt.counted for row in job.rows[::rows])
    new = sum(len(row.token_ids) for row in job.rows)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": int(job.stats.cached_tokens)},
    }


def head(kind: str, prefix: str, served: Served) -> dict[str, Any]:
    """What every answer and chunk begins with."""
    llm = served.llm
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": f"polyllama-{llm.backend}-{llm.dtype}",
    }


def data(value: Any) -> bytes:
    """An event of a stream.

    >>> data({"a": 1})
    b'data: {"a":1}\\n\\n'
    """
    return b"data: " + as_json(value) + b"\n\n"
