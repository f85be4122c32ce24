"""The paths of Ollama's interface; its errors are those of whoever has no form of its own."""

from __future__ import annotations

from ....core.http_interface import Endpoint, HttpInterface
from .bodies import NAMES, ChatBody, EmbedBody, EmbeddingsBody, GenerateBody, ShowBody
from .generating import chat, generate
from .listing import running, show, tags, version
from .vectors import embed, embed_one

INTERFACE = HttpInterface(
    (
        Endpoint("POST", "/api/chat", chat, ChatBody, "Answer a conversation."),
        Endpoint("POST", "/api/generate", generate, GenerateBody, "Answer a prompt."),
        Endpoint("POST", "/api/embed", embed, EmbedBody, "Turn texts into vectors."),
        Endpoint("POST", "/api/embeddings", embed_one, EmbeddingsBody, "Turn a text into a vector."),
        Endpoint("GET", "/api/tags", tags, summary="List the models."),
        Endpoint("POST", "/api/show", show, ShowBody, "Show one model."),
        Endpoint("GET", "/api/ps", running, summary="List the models that are loaded."),
        Endpoint("GET", "/api/version", version, summary="Say the version.", open=True),
    ),
    names=NAMES,
)
