"""Which parser an answer is read by, and what its text is held to where a call is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, warn
from ..messages import did_you_mean, mention
from ..plugin_system.hookspecs import ToolParserDescriptor
from ..plugin_system.manager import plugin_manager
from .protocol import ToolParser, tool_function, tool_name

_said: set[tuple[str, ...]] = set()


@dataclass(frozen=True)
class ToolCalling:
    """How the answer of a chat with tools is to be read; :meth:`~polyllama.Llama.chat_request` gives it.

    Attributes:
        tools: the schemas of the tools that the model is told of.
        name: the format's; ``None`` where none is known of the chat template, so that calls stay text.
        grammar: what the text is held to, where a call is asked for.
    """

    tools: tuple[Mapping[str, Any], ...]
    name: str | None
    kind: Any = None
    grammar: str | None = None

    @property
    def shown(self) -> Sequence[str]:
        """Special tokens that are to be in the text, as the format is made of them."""
        return () if self.kind is None else tuple(self.kind.shown)

    def parser(self) -> ToolParser | None:
        """A parser for one answer: ``push`` its text, then ``finish``."""
        found: ToolParser | None = None if self.kind is None else self.kind(self.tools)
        return found


def tool_calling(
    tools: Sequence[Mapping[str, Any]],
    template: str,
    *,
    tool_parser: str | None = None,
    tool_choice: Any = None,
    parallel: bool = True,
) -> ToolCalling:
    """How answers are read that follow a chat template.

    Args:
        tools: schemas, as the template is given them.
        tool_parser: a format by name, in place of the template's.
        tool_choice: ``"auto"``, ``"required"``, a tool's name, or OpenAI's ``{"type": "function", "function": ...}``.
        parallel: whether an answer that must call may call several times.

    Raises:
        InputError: a choice that there is none of; a call is asked for and no format is known.
        PluginError: there is no such format.

    Warns:
        PolyllamaWarning: once, that no format is known of the template, or several are.
    """
    name = tool_parser if tool_parser is not None else _by_template(template)
    kind = None if name is None else plugin_manager().find(ToolParserDescriptor, name).load()
    must = _must_call(tools, tool_choice)
    _check_schemas(tools, must or ())
    if must is None:
        return ToolCalling(tuple(tools), name, kind)
    if kind is None:
        raise InputError(
            mention("tool_choice", tool_choice) + " asks for a call, and how this chat template writes one is unknown",
            hint="name the format: " + mention("tool_parser", "hermes"),
        )
    several = parallel and len(must) == len(tools) and tool_choice == "required"
    return ToolCalling(tuple(tools), name, kind, kind.grammar(must, several=several))


def _by_template(template: str) -> str | None:
    """The format whose marks a chat template has."""
    offers = plugin_manager().offers(ToolParserDescriptor).values()
    found = [offer.name for offer in offers if any(mark in template for mark in offer.marks)]
    if len(found) > 1:
        _say_once(
            f"the chat template has marks of several formats of tool calls ({', '.join(found)}); they are read as "
            f"{found[0]}, unless " + mention("tool_parser", found[1]) + " says another",
            *found,
        )
    if not found:
        known = ", ".join(sorted(offer.name for offer in offers))
        _say_once(
            f"how the chat template writes calls of tools is unknown, so they stay in the text; name the format by "
            f"tool_parser ({known})",
            "unknown",
        )
        return None
    return found[0]


def _say_once(message: str, *about: str) -> None:
    if about not in _said:
        _said.add(about)
        warn(message)


def _check_schemas(tools: Sequence[Mapping[str, Any]], must: Sequence[Mapping[str, Any]]) -> None:
    """Refuse tools whose arguments have no schema, and among those that must be called one without a name."""
    for place, tool in enumerate(tools):
        parameters = tool_function(tool).get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise InputError(
                f"tool {place}: parameters is {parameters!r:.40}, wanted the JSON schema of an object",
                hint='such as {"type": "object", "properties": {"city": {"type": "string"}}}',
            )
        if not tool_name(tool) and any(tool is each for each in must):
            raise InputError(f"tool {place} has no name, by which a model would call it", hint='give "name"')


def _must_call(tools: Sequence[Mapping[str, Any]], choice: Any) -> list[Mapping[str, Any]] | None:
    """The tools of which one must be called; ``None`` where none must."""
    if choice is None or choice == "auto":
        return None
    names = [tool_name(tool) for tool in tools]
    if choice == "required":
        if not tools:
            raise InputError(mention("tool_choice", "required") + " without tools", hint="give tools")
        return list(tools)
    if isinstance(choice, Mapping):
        choice = tool_name(choice)
    found = [tool for tool in tools if choice is not None and tool_name(tool) == choice]
    if not found:
        known = [name for name in names if name]
        raise InputError(
            mention("tool_choice", choice) + " is neither 'auto', 'none' or 'required' nor a tool's name",
            hint=did_you_mean(str(choice), known, f"the tools are {', '.join(known) or 'none'}"),
        )
    return found
