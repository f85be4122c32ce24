"""What is counted in Prometheus' form; prometheus-client is imported when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hub import Hub
    from .metrics import Metrics

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
