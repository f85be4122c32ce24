"""What a server adds to every request's options: its limits, and what holds where nothing is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...core.http_interface import HttpError

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from .options import ServeOptions


def with_defaults(
    options: Mapping[str, Any], llm: Llama, server: ServeOptions, *, temperature: float
) -> dict[str, Any]:
    """Options with the server's limit of time, and a temperature where neither request nor checkpoint name one.

    Args:
        temperature: what the interface's documents say holds then.
    """
    found = dict(options)
    said = llm.generation_config.to_diff_dict()
    if "temperature" not in options and "temperature" not in said and "do_sample" not in said:
        found["temperature"] = temperature
    if server.max_time is not None:
        found["max_time"] = server.max_time
    return found


def token_limit(
    asked: int | None,
    prompt: int,
    llm: Llama,
    server: ServeOptions,
    *,
    otherwise: int | None = None,
    names: tuple[str, str] = ("max_tokens", "messages"),
) -> int:
    """How many tokens a row may get: what is asked for, ended by the server's limit and by the end of the context.

    Args:
        asked: of the request.
        prompt: tokens of the prompt.
        otherwise: where nothing is asked for; ``None`` for as many as there is room for.
        names: what the request calls the limit, and the prompt.

    Raises:
        HttpError: the prompt leaves no room, or more is asked for than the server gives.
    """
    from ...core.config.context_length import context_length

    context = min(filter(None, (context_length(llm.config), server.context)), default=None)
    if context is not None and prompt >= context:
        text = f"the prompt has {prompt} tokens, the model's context is {context}"
        raise HttpError(text, kind="context_length_exceeded", param=names[1], hint="send less")
    if asked is not None and server.max_tokens is not None and asked > server.max_tokens:
        text = f"{names[0]}={asked} is more than this server gives, {server.max_tokens}"
        raise HttpError(text, param=names[0])
    if asked is None:
        asked = otherwise if otherwise is not None else llm.generation_config.max_new_tokens
    limits = [asked, server.max_tokens, None if context is None else context - prompt]
    found = min((limit for limit in limits if limit is not None), default=None)
    return 256 if found is None else found
