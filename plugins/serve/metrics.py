"""What the server counts and measures, as numbers; ``/metrics`` shows them in Prometheus' form.

Counting happens on the event loop's thread (the engine's thread sets `running` and `waiting` alone), so it takes no
lock and no library. ``exposition.py`` shows it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...core.generation.job import Job

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of the histograms' buckets, in seconds."""


class Histogram:
    """How often a time was at most each bound.

    >>> seen = Histogram()
    >>> seen.see(0.004, 2)
    >>> seen.total, [bound for bound, count in seen.buckets() if count == 2][0]
    (0.008, '0.005')
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def see(self, seconds: float, times: int = 1) -> None:
        """Count a time, or the same one several times."""
        self.counts[bisect_left(SECONDS, seconds)] += times
        self.total += seconds * times

    def buckets(self) -> list[tuple[str, float]]:
        """Bounds and how many were at most so long, as prometheus-client wants them."""
        found: list[tuple[str, float]] = []
        so_far = 0
        for bound, count in zip((*map(str, SECONDS), "+Inf"), self.counts, strict=True):
            so_far += count
            found.append((bound, so_far))
        return found


@dataclass
class ModelMetrics:
    """Of one model by the name under which it is served, whether it is loaded just now or not."""

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    proposed_tokens: int = 0
    accepted_tokens: int = 0
    loads: int = 0
    unloads: int = 0
    first_token: Histogram = field(default_factory=Histogram)
    per_token: Histogram = field(default_factory=Histogram)

    def ended(self, job: Job) -> None:
        """Add the counts of a job that has ended."""
        stats = job.stats
        self.prompt_tokens += stats.prompt_tokens
        self.cached_tokens += stats.cached_tokens
        self.proposed_tokens += stats.proposed_tokens
        self.accepted_tokens += stats.accepted_tokens


@dataclass
class Metrics:
    """Of the whole server.

    Attributes:
        requests: how many were answered, by path of the endpoint and status; 499 is a client that has left.
        in_flight: requests that are being answered.
    """

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    in_flight: int = 0
    request_seconds: Histogram = field(default_factory=Histogram)
    models: dict[str, ModelMetrics] = field(default_factory=dict)

    def of(self, model: str) -> ModelMetrics:
        """Those of a model, begun where there are none."""
        return self.models.setdefault(model, ModelMetrics())
