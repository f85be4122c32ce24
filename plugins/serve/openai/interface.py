"""The paths of OpenAI's interface."""

from __future__ import annotations

from ....core.http_interface import Endpoint, HttpInterface
from .chat import ChatBody, chat
from .completions import CompletionBody, complete
from .embeddings import EmbeddingsBody, embed
from .errors import openai_error
from .models import list_models, show_model
from .responses import ResponsesBody, respond
from .sampling import NAMES

INTERFACE = HttpInterface(
    (
        Endpoint("POST", "/v1/chat/completions", chat, ChatBody, "Answer a conversation."),
        Endpoint("POST", "/v1/completions", complete, CompletionBody, "Go on with a text."),
        Endpoint("POST", "/v1/responses", respond, ResponsesBody, "Answer a conversation, and keep nothing of it."),
        Endpoint("POST", "/v1/embeddings", embed, EmbeddingsBody, "Turn texts into vectors."),
        Endpoint("GET", "/v1/models", list_models, summary="List the models, and which are loaded."),
        Endpoint("GET", "/v1/models/{model:path}", show_model, summary="Show one model."),
    ),
    error=openai_error,
    names=NAMES,
)
