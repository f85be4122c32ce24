"""The paths of polyllama's own interface."""

from __future__ import annotations

from ....core.http_interface import Endpoint, HttpInterface
from .description import describe
from .health import health, show_metrics
from .predicting import ClassifyBody, RerankBody, classify, rerank
from .tokenizing import DetokenizeBody, TokenizeBody, detokenize, tokenize

INTERFACE = HttpInterface(
    (
        Endpoint("GET", "/health", health, summary="Say whether the engine turns.", open=True),
        Endpoint("GET", "/metrics", show_metrics, summary="Counts and times in Prometheus' form."),
        Endpoint("GET", "/openapi.json", describe, summary="Describe all of this.", open=True),
        Endpoint("POST", "/tokenize", tokenize, TokenizeBody, "Turn a text or a conversation into token ids."),
        Endpoint("POST", "/detokenize", detokenize, DetokenizeBody, "Turn token ids into a text."),
        Endpoint("POST", "/v1/classify", classify, ClassifyBody, "Classify texts, by whatever task the model has."),
        Endpoint("POST", "/v1/rerank", rerank, RerankBody, "Put texts in the order in which they answer a question."),
    ),
)
