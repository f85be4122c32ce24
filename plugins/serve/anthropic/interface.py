"""The paths of Anthropic's interface, and its form of errors."""

from __future__ import annotations

from ....core.http_interface import Endpoint, HttpInterface
from .bodies import CountBody, MessagesBody
from .errors import anthropic_error
from .messages import NAMES, answer, count_tokens

INTERFACE = HttpInterface(
    (
        Endpoint("POST", "/v1/messages", answer, MessagesBody, "Answer a conversation."),
        Endpoint("POST", "/v1/messages/count_tokens", count_tokens, CountBody, "Count the tokens of a conversation."),
    ),
    error=anthropic_error,
    names=NAMES,
)
