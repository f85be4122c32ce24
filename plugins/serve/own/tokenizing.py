"""``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....core.http_interface import HttpError
from ..fields import Body
from ..openai.messages import ChatMessage, plain_messages
from ..openai.sampling import Token

if TYPE_CHECKING:
    from ..answering import Request
    from ..hub import Served


class TokenizeBody(Body):
    """A text, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool | None = None
    return_token_strs: bool = False


class DetokenizeBody(Body):
    """Token ids."""

    model: str | None = None
    tokens: list[Token]
    skip_special_tokens: bool = False


async def tokenize(call: Request) -> Any:
    """Turn a text or a conversation into token ids."""
    body: TokenizeBody = call.body
    if (body.prompt is None) == (body.messages is None):
        raise HttpError("give either prompt or messages", param="prompt")
    served = await call.model(body.model)
    return await call.run(_tokens, body, served)


def _tokens(body: TokenizeBody, served: Served) -> dict[str, Any]:
    llm = served.llm
    if body.messages is not None:
        ids = llm.chat_prompt(plain_messages(body.messages), add_generation_prompt=body.add_generation_prompt)
    else:
        ids = llm.tokenizer.encode(body.prompt or "", add_special_tokens=body.add_special_tokens)
    found: dict[str, Any] = {"tokens": list(ids), "count": len(ids)}
    if body.return_token_strs:
        found["token_strs"] = llm.tokenizer.convert_ids_to_tokens(ids)
    return found


async def detokenize(call: Request) -> Any:
    """Turn token ids into a text."""
    body: DetokenizeBody = call.body
    served = await call.model(body.model)
    size = served.llm.config.vocab_size
    for place, token_id in enumerate(body.tokens):
        if token_id >= size:
            raise HttpError(f"tokens[{place}] is {token_id}, the vocabulary has {size}", param="tokens")

    def decoded() -> Any:
        return served.llm.tokenizer.decode(body.tokens, skip_special_tokens=body.skip_special_tokens)

    return {"prompt": await call.run(decoded)}
