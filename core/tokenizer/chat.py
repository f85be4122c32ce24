"""Chat templates: a checkpoint's own Jinja template, run in a sandbox.

A template is a stranger's program. It runs in Jinja's immutable sandbox (no attributes that lead to Python, no change
of its inputs) and within a budget: ``MAX_STEPS`` loop rounds and macro calls, ranges of at most 100000, texts repeated
to at most ``MAX_TEXT`` characters. Not bounded is memory where a template doubles a text by joining it to itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..errors import TokenizerError

MAX_STEPS = 200_000
MAX_TEXT = 10_000_000

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
        environment, compiled = _compile(template)
        environment.begin()
        return str(compiled.render(**variables))
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


@lru_cache(maxsize=16)
def _compile(template: str) -> tuple[Any, Any]:
    environment = _environment_class()()
    return environment, environment.from_string(template)


@lru_cache(maxsize=1)
def _environment_class() -> type[Any]:
    """The sandbox; a function, so that importing this module does not import Jinja."""
    import datetime

    import jinja2
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationBlocks(Extension):
        """``{% generation %}...{% endgeneration %}`` marks what an assistant said; the text is kept as it is."""

        tags = {"generation"}  # noqa: RUF012 (declared so by Jinja)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    class ChatEnvironment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**"])

        def __init__(self) -> None:
            super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationBlocks])
            self.filters["tojson"] = _to_json
            self.globals["raise_exception"] = self._raise
            self.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
            self.steps = 0

        def begin(self) -> None:
            self.steps = 0

        @staticmethod
        def _raise(message: object) -> None:
            raise jinja2.TemplateError(str(message))

        def count_step(self) -> str:
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise SecurityError(f"more than {MAX_STEPS} loop rounds and macro calls")
            return ""

        def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
            tree = super()._parse(source, name, filename)
            # Jinja has no `while`, but loops nest and macros recurse: each round and call spends one step.
            looping: tuple[type[Any], ...] = (nodes.For, nodes.Macro, nodes.CallBlock)
            node: Any
            for node in tree.find_all(looping):
                step = nodes.Call(nodes.EnvironmentAttribute("count_step"), [], [], None, None)
                node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno).set_environment(self))
            return tree

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            numbers = isinstance(left, int | float) and isinstance(right, int | float)
            if operator == "**" and not (numbers and abs(left) < 1e6 and abs(right) < 64):
                raise SecurityError("a power this large")
            if operator == "*" and not numbers:
                text, times = (right, left) if isinstance(left, int) else (left, right)
                if isinstance(times, int) and hasattr(text, "__len__") and len(text) * times > MAX_TEXT:
                    raise SecurityError(f"a text repeated beyond {MAX_TEXT} characters")
            return super().call_binop(context, operator, left, right)

    return ChatEnvironment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models were trained to read it: Jinja's own filter would escape <, > and & for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
