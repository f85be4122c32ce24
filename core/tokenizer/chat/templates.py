"""Chat templates: a checkpoint's own Jinja template, run in a sandbox.

A template is a stranger's program: see `sandbox.py` for what it may do and how much of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from ...errors import TokenizerError
from .plain_data import as_plain

# The system prompt published with Llama 2 (Touvron et al. 2023, https://arxiv.org/abs/2307.09288, appendix A.3.3).
LLAMA2_SYSTEM_PROMPT = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)

Message = Mapping[str, Any]
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names that an assistant's reasoning goes by; templates read the first, and some the second."""


def check_messages(messages: object) -> list[Message]:
    """The messages of one conversation as a template reads them, or an error that says which is wrong.

    Keys whose value is ``None`` are left out, as other interfaces write them for what is not there; reasoning is given
    under the names that templates read.

    >>> check_messages([{"role": "assistant", "content": None, "thinking": "2 + 2 = 4"}])
    [{'thinking': '2 + 2 = 4', 'role': 'assistant', 'reasoning_content': '2 + 2 = 4'}]
    """
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
    return [_as_read(as_plain(message, f"message {index}")) for index, message in enumerate(messages)]


def _as_read(message: dict[Any, Any]) -> dict[Any, Any]:
    given = {key: value for key, value in message.items() if value is not None}
    reasoning = next((given[name] for name in _REASONING if name in given), None)
    return given if reasoning is None else {"thinking": reasoning, **given, "reasoning_content": reasoning}


def render(template: str, variables: Mapping[str, Any], *, source: str) -> str:
    """The text that a chat template makes of ``variables``; ``source`` names the template in errors.

    Errors: TokenizerError with the template's own message where it raises, or its line where it is malformed.

    >>> render("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
    ...        {"messages": [{"role": "user", "content": "Hi"}]}, source="example")
    '<user>Hi'
    """
    with _explained(source):
        return str(_compile(template).render(**variables))


def render_with_spans(template: str, variables: Mapping[str, Any], *, source: str) -> tuple[str, list[tuple[int, int]]]:
    """The text, and the (start, end) characters of what ``{% generation %}`` blocks made of it, in order.

    Errors: TokenizerError where the template has no such blocks, or does something to their text afterwards that hides
    where it went.

    >>> render_with_spans("<{% generation %}Yes{% endgeneration %}>", {}, source="example")
    ('<Yes>', [(1, 4)])
    """
    plain = render(template, variables, source=source)
    with _explained(source), _environment().marking() as mark:
        marked = str(_compile(template).render(**variables))
    if not _marks_generation(template):
        raise TokenizerError(
            f"{source}: the chat template does not mark what the assistant says, so there is no mask of it",
            hint="pass chat_template=... with {% generation %}...{% endgeneration %} around it",
        )
    text, *pieces = marked.split(mark)
    spans: list[tuple[int, int]] = []
    opened: list[int] = []
    for piece in pieces:
        if piece.startswith("<"):
            opened.append(len(text))
        elif piece.startswith(">") and opened:
            spans.append((opened.pop(), len(text)))
        text += piece[1:]
    if text != plain or opened:
        raise TokenizerError(f"{source}: where the text of the template's generation blocks goes cannot be followed")
    return text, sorted(spans)


@lru_cache(maxsize=16)
def _marks_generation(template: str) -> bool:
    from jinja2 import nodes

    found = _environment().parse(template).find_all(nodes.EnvironmentAttribute)
    return any(node.name == "generation_mark" for node in found)


@lru_cache(maxsize=16)
def variables_read(template: str, *, source: str) -> frozenset[str]:
    """The names of the variables that a chat template reads, whichever way it takes.

    Errors: TokenizerError where it is malformed.

    >>> sorted(variables_read("{% if tools %}{{ tools }}{% endif %}{% set a = 1 %}{{ a ~ b }}", source="example"))
    ['b', 'tools']
    """
    from jinja2.meta import find_undeclared_variables

    with _explained(source):
        return frozenset(find_undeclared_variables(_environment().parse(template)))


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Whatever a template does wrong, as a TokenizerError; what it may use up begins anew."""
    import jinja2

    try:
        _environment().begin()  # compiling evaluates constants, which the budget covers too
        yield
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


def render_continued(
    template: str, variables: Mapping[str, Any], messages: Sequence[Message], *, source: str, field: str = "content"
) -> str:
    """The text up to where the last message ends, for a model to go on with that message.

    A mark is put behind the message and the text is cut there, so it does not matter what else holds the same words.
    Where the template trims messages, white space at the message's end is left out. ``field`` is the part of the
    message that goes on, such as ``reasoning_content``.

    >>> render_continued("{% for m in messages %}<{{ m.content }}>{% endfor %}", {},
    ...                  [{"role": "assistant", "content": "Sure, "}], source="example")
    '<Sure, '
    """
    mark = f"end-of-message-{secrets.token_hex(8)}"
    last, content = _marked(messages[-1], f"{mark} ", field)
    text = render(template, {**variables, "messages": [*messages[:-1], last]}, source=source) if last else ""
    end = text.rfind(mark)
    if last is None or end < 0 or content.strip() not in text[:end]:
        shown = "text" if field == "content" else field
        raise TokenizerError(
            f"{source}: continue_final_message needs a template that shows the last message's {shown} as it is"
        )
    if not text.startswith(f"{mark} ", end) and content.strip():
        trailing = content[len(content.rstrip()) :]
        return text[:end].removesuffix(trailing)
    return text[:end]


def names_of_part(message: Message, field: str) -> list[str]:
    """The keys under which a message has a part that is text: reasoning goes by several names. Empty for no text.

    >>> names_of_part({"role": "assistant", "content": "4", "thinking": "2 + 2"}, "reasoning_content")
    ['thinking']
    """
    copies = [field, *_REASONING] if field in _REASONING else [field]
    text = next((message[name] for name in copies if message.get(name) is not None), None)
    return [name for name in dict.fromkeys(copies) if message.get(name) == text] if isinstance(text, str) else []


def _marked(message: Message, mark: str, field: str) -> tuple[Message | None, str]:
    """The message with a mark behind its (last) text, and that text; None where it has no text."""
    content = message.get(field)
    if isinstance(content, str):
        return {**message, **dict.fromkeys(names_of_part(message, field), content + mark)}, content
    if isinstance(content, Sequence):
        for index in reversed(range(len(content))):
            block = content[index]
            if isinstance(block, Mapping) and isinstance(block.get("text"), str):
                marked = {**block, "text": block["text"] + mark}
                return {**message, field: [*content[:index], marked, *content[index + 1 :]]}, block["text"]
    return None, ""


@lru_cache(maxsize=1)
def _environment() -> Any:
    from .sandbox import ChatEnvironment  # imports Jinja

    return ChatEnvironment()


@lru_cache(maxsize=16)
def _compile(template: str) -> Any:
    return _environment().from_string(template)
