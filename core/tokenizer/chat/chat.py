"""Chat templates: a checkpoint's own Jinja template, run in a sandbox.

A template is a stranger's program: see `sandbox.py` for what it may do and how much of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ...errors import TokenizerError

# The system prompt published with Llama 2 (Touvron et al. 2023, https://arxiv.org/abs/2307.09288, appendix A.3.3).
LLAMA2_SYSTEM_PROMPT = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)

Message = Mapping[str, Any]


def check_messages(messages: object) -> list[Message]:
    """The messages of one conversation, or an error that says which is wrong."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise TokenizerError(
            f"a conversation must be a list of messages, got {messages!r:.80}",
            hint='for example [{"role": "user", "content": "Hi"}]',
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TokenizerError(
                f"message {index} must be a mapping with a string 'role', got {message!r:.80}",
                hint='for example {"role": "user", "content": "Hi"}',
            )
    return list(messages)


def render(template: str, variables: Mapping[str, Any], *, source: str) -> str:
    """The text that a chat template makes of ``variables``; ``source`` names the template in errors.

    Errors: TokenizerError with the template's own message where it raises, or its line where it is malformed.

    >>> render("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
    ...        {"messages": [{"role": "user", "content": "Hi"}]}, source="example")
    '<user>Hi'
    """
    import jinja2

    try:
        environment = _environment()
        environment.begin()  # compiling evaluates constants, which the budget covers too
        return str(_compile(template).render(**variables))
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(
            f"{source}: the chat template is malformed at line {error.lineno}: {error.message}"
        ) from None
    except jinja2.exceptions.SecurityError as error:
        raise TokenizerError(
            f"{source}: the chat template asks for something the sandbox forbids: {error}",
            hint="do not trust this checkpoint blindly; pass chat_template=... of your own",
        ) from None
    except jinja2.TemplateError as error:
        raise TokenizerError(f"{source}: the chat template refuses this conversation: {error}") from None
    except (RecursionError, MemoryError) as error:
        raise TokenizerError(f"{source}: the chat template does not end ({type(error).__name__})") from None
    except Exception as error:  # a template's own mistake, such as adding a number to a text
        raise TokenizerError(f"{source}: the chat template failed: {type(error).__name__}: {error}") from None


def render_continued(template: str, variables: Mapping[str, Any], messages: Sequence[Message], *, source: str) -> str:
    """The text up to where the last message ends, for a model to go on with that message.

    A mark is put behind the message and the text is cut there, so it does not matter what else holds the same words.
    Where the template trims messages, white space at the message's end is left out.

    >>> render_continued("{% for m in messages %}<{{ m.content }}>{% endfor %}", {},
    ...                  [{"role": "assistant", "content": "Sure, "}], source="example")
    '<Sure, '
    """
    mark = f"end-of-message-{secrets.token_hex(8)}"
    last, content = _marked(messages[-1], f"{mark} ")
    text = render(template, {**variables, "messages": [*messages[:-1], last]}, source=source) if last else ""
    end = text.rfind(mark)
    if last is None or end < 0 or content.strip() not in text[:end]:
        raise TokenizerError(
            f"{source}: continue_final_message needs a template that shows the last message's text as it is"
        )
    if not text.startswith(f"{mark} ", end) and content.strip():
        trailing = content[len(content.rstrip()) :]
        return text[:end].removesuffix(trailing)
    return text[:end]


def _marked(message: Message, mark: str) -> tuple[Message | None, str]:
    """The message with a mark behind its (last) text, and that text; None where it has no text."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content + mark}, content
    if isinstance(content, Sequence):
        for index in reversed(range(len(content))):
            block = content[index]
            if isinstance(block, Mapping) and isinstance(block.get("text"), str):
                marked = {**block, "text": block["text"] + mark}
                return {**message, "content": [*content[:index], marked, *content[index + 1 :]]}, block["text"]
    return None, ""


@lru_cache(maxsize=1)
def _environment() -> Any:
    from .sandbox import ChatEnvironment  # imports Jinja

    return ChatEnvironment()


@lru_cache(maxsize=16)
def _compile(template: str) -> Any:
    return _environment().from_string(template)
