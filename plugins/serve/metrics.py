"""What the server counts and measures, as numbers; ``/metrics`` shows them in Prometheus' form.

Counting happens on the event loop's thread (the engine's thread sets `running` and `waiting` alone), so it takes no lock
and no library; prometheus-client is imported when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...core.generation.job import Job
    from .hub import Hub

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of the histograms' buckets, in seconds."""


class Histogram:
    """How often a time was at most each bound.

    >>> seen = Histogram()
    >>> seen.see(0.004, 2)
    >>> seen.total, [bound for bound, count in seen.buckets() if count == "2"][0]
    (0.008, '0.005')
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def see(self, seconds: float, times: int = 1) -> None:
        """Count a time, or the same one several times."""
        self.counts[bisect_left(SECONDS, seconds)] += times
        self.total += seconds * times

    def buckets(self) -> list[tuple[str, str]]:
        """Bounds and how many were at most so long, as prometheus-client wants them."""
        found, so_far = [], 0
        for bound, count in zip((*map(str, SECONDS), "+Inf"), self.counts, strict=True):
            so_far += count
            found.append((bound, str(so_far)))
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


_GAUGES = {
    "running": ("requests_running", "Rows that are generated just now."),
    "waiting": ("requests_waiting", "Rows that wait for their turn."),
}
_COUNTERS = {
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts that were run."),
    "cached_tokens": ("cached_prompt_tokens", "Tokens of prompts that were there from before."),
    "generated_tokens": ("generated_tokens", "Tokens that were generated."),
    "proposed_tokens": ("proposed_tokens", "Tokens that were guessed."),
    "accepted_tokens": ("accepted_tokens", "Guessed tokens that held."),
    "loads": ("model_loads", "How often the model was loaded."),
    "unloads": ("model_unloads", "How often the model was unloaded."),
}
_HISTOGRAMS = {
    "first_token": ("time_to_first_token_seconds", "From the arrival of a request to its first token."),
    "per_token": ("time_per_token_seconds", "Between the tokens of a row, after its first."),
}


class Collector:
    """Makes prometheus-client's metrics of ours, at each look."""

    def __init__(self, metrics: Metrics, hub: Hub) -> None:
        self._metrics, self._hub = metrics, hub

    def collect(self) -> Iterator[Any]:
        """One family after the other."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        metrics = self._metrics
        requests = CounterMetricFamily("polyllama_http_requests", "Requests answered.", labels=("path", "status"))
        for (path, status), count in metrics.requests.items():
            requests.add_metric((path, str(status)), count)
        yield requests
        yield GaugeMetricFamily("polyllama_http_requests_in_flight", "Requests now.", value=metrics.in_flight)
        whole = HistogramMetricFamily("polyllama_http_request_seconds", "How long requests took.")
        whole.add_metric((), metrics.request_seconds.buckets(), metrics.request_seconds.total)
        yield whole
        for kind, families in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
            for name, (called, about) in families.items():
                family = kind(f"polyllama_{called}", about, labels=("model",))
                for model, own in metrics.models.items():
                    family.add_metric((model,), getattr(own, name))
                yield family
        for name, (called, about) in _HISTOGRAMS.items():
            histogram = HistogramMetricFamily(f"polyllama_{called}", about, labels=("model",))
            for model, own in metrics.models.items():
                histogram.add_metric((model,), getattr(own, name).buckets(), getattr(own, name).total)
            yield histogram
        yield from self._sizes()

    def _sizes(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        weights = GaugeMetricFamily("polyllama_model_bytes", "Weights of a loaded model.", labels=("model",))
        cache = GaugeMetricFamily("polyllama_cache_bytes", "Keys and values of running rows.", labels=("model",))
        limit = GaugeMetricFamily("polyllama_cache_limit_bytes", "What they may take.", labels=("model",))
        for held in self._hub.loaded():
            weights.add_metric((held.name,), held.nbytes)
            if held.scheduler is not None:
                cache.add_metric((held.name,), held.scheduler.cache_bytes)
                limit.add_metric((held.name,), held.scheduler.cache_limit)
        yield from (weights, cache, limit)
