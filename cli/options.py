"""Options that several commands share, spelt as the Python arguments they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from ..core.public import for_plugins
from .console import Decorated

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..core.api.llama import Llama

    ParamType = click.ParamType[str]
else:
    ParamType = click.ParamType  # generic for type checkers only, before click 8.2


class ModelName(ParamType):
    """A registry name, a Hub repository or a folder; registry names complete in the shell."""

    name = "model"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from ..core.sources.registry import load_registry

        entries = [entry for entry in load_registry().entries if entry.name.startswith(incomplete)]
        return [*(CompletionItem(entry.name, help=entry.summary) for entry in entries), CompletionItem("", type="dir")]


class PluginName(ParamType):
    """The name of something plugins offer, completed from what they do offer."""

    def __init__(self, kind: str) -> None:
        self.name = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from ..core.plugin_system.manager import plugin_manager

        offers = plugin_manager().backends() if self.name == "backend" else plugin_manager().tasks()
        return [
            CompletionItem(name, help=offer.summary) for name, offer in offers.items() if name.startswith(incomplete)
        ]


model_argument = click.argument("model", type=ModelName())

_SOURCE = [
    click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub repository."),
    click.option("--offline/--no-offline", default=None, help="Use only what is on this machine."),
]
_LOAD = [
    click.option("--backend", type=PluginName("backend"), help="What runs it: cpu, torch, torch:cuda, auto ..."),
    click.option("--device", metavar="DEVICE", help="A device of the backend: cpu, cuda, cuda:1, mps ..."),
    click.option("--dtype", metavar="DTYPE", help="float64, float32, bfloat16, float16 or auto."),
    click.option("--quantize", metavar="HOW", help="Quantize weights while loading: int4, int8, int4-g32 ..."),
    click.option("--task", type=PluginName("task"), help="The task head; the checkpoint's own by default."),
    *_SOURCE,
    click.option("--adapter", metavar="FOLDER", help="A LoRA adapter that PEFT saved, to run beside the weights."),
    click.option("--merge-adapter", is_flag=True, default=None, help="Add the adapter into the weights instead."),
    click.option("--load-format", metavar="FORMAT", help="Format of the weights; dummy makes random ones."),
]
_SET = click.option(
    "--set",
    "overrides",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Override a field of the model's configuration; the value is JSON or plain text. Repeatable.",
)
_GENERATION = [
    click.option("--max-new-tokens", type=int, metavar="N", help="Most tokens to generate."),
    click.option("--min-new-tokens", type=int, metavar="N", help="Never end before this many tokens."),
    click.option("--temperature", type=float, metavar="T", help="Below 1 safer, above 1 wilder; 0 is greedy."),
    click.option("--top-k", type=int, metavar="K", help="Draw from the K likeliest tokens only."),
    click.option("--top-p", type=float, metavar="P", help="Draw from the likeliest tokens that sum to P."),
    click.option("--min-p", type=float, metavar="P", help="Drop tokens less likely than P times the likeliest."),
    click.option("--typical-p", type=float, metavar="P", help="Draw from the P most typical probability mass."),
    click.option("--repetition-penalty", type=float, metavar="X", help="Above 1 discourages repeating tokens."),
    click.option("--presence-penalty", type=float, metavar="X", help="Subtracted from tokens that occurred."),
    click.option("--frequency-penalty", type=float, metavar="X", help="Subtracted per occurrence of a token."),
    click.option("--no-repeat-ngram-size", type=int, metavar="N", help="No N tokens in a row occur twice."),
    click.option("--seed", type=int, metavar="N", help="The same seed gives the same text, on every backend."),
    click.option("--stop", multiple=True, metavar="TEXT", help="End at this text. Repeatable."),
]


_TASK = [
    click.option("--question", metavar="TEXT", multiple=True, help="What to ask about a context. Repeatable."),
    click.option("--context", metavar="TEXT", help="The text that holds the answer."),
    click.option(
        "--context-file", metavar="FILE", type=click.Path(), help="The same from a file; - is standard input."
    ),
    click.option("--file", metavar="FILE", type=click.Path(), help="Read texts from a file, one per line."),
    click.option(
        "--option",
        "task_options",
        metavar="NAME=VALUE",
        multiple=True,
        help="An option of the task, as Python's predict has it; the value is JSON or plain text. Repeatable.",
    ),
]


def _all(options: list[Callable[[Decorated], Decorated]]) -> Callable[[Decorated], Decorated]:
    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


source_options = _all(_SOURCE)
load_options = _all([*_LOAD, _SET])
overrides_option = _SET
generation_options = _all(_GENERATION)
task_options = _all(_TASK)

LOAD_NAMES = (
    "backend",
    "device",
    "dtype",
    "quantize",
    "task",
    "revision",
    "offline",
    "load_format",
    "adapter",
    "merge_adapter",
)
NO_FIELDS = frozenset({"self", "cls", "source", "raw", "path", "config_overrides", "seed", "fresh_head"})
"""Names that Python's own arguments have on the way to the configuration, so that they would never reach it.

``seed`` and ``fresh_head`` say how a new head begins, which is for those who train it.
"""
GENERATION_NAMES = (
    "max_new_tokens",
    "min_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "no_repeat_ngram_size",
    "seed",
    "stop",
)


def given(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the named options that were given on the command line, tuples as lists."""
    values = {name: options[name] for name in names if options[name] is not None and options[name] != ()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def parse_overrides(overrides: tuple[str, ...]) -> dict[str, Any]:
    """``FIELD=VALUE`` pairs as keyword arguments; a value that is not JSON is text.

    >>> parse_overrides(("num_hidden_layers=2", "hidden_act=gelu"))
    {'num_hidden_layers': 2, 'hidden_act': 'gelu'}
    """
    found = parse_pairs(overrides, "--set", "FIELD=VALUE")
    for name in found:
        if name in NO_FIELDS:
            raise click.UsageError(f"--set {name}: it is no field of a model's configuration")
        if name in LOAD_NAMES or name in GENERATION_NAMES:
            raise click.UsageError(f"--set {name}: it is an option, --{name.replace('_', '-')}")
    return found


def parse_pairs(pairs: tuple[str, ...], option: str, form: str = "NAME=VALUE") -> dict[str, Any]:
    """``NAME=VALUE`` pairs of a repeatable option by name; a value that is not JSON is text.

    >>> parse_pairs(("top_k=3", "aggregation_strategy=first"), "--option")
    {'top_k': 3, 'aggregation_strategy': 'first'}
    """
    found: dict[str, Any] = {}
    for text in pairs:
        name, separator, value = text.partition("=")
        name = name.strip()
        if not separator or not name.isidentifier():
            raise click.UsageError(f"{option} {text!r} is not {form}")
        if name in found:
            raise click.UsageError(f"{option} gives {name} twice")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


@for_plugins
def load_model(model: str, options: Mapping[str, Any]) -> Llama:
    """Load what the command line asks for."""
    from ..core.api.llama import Llama

    return Llama.load(model, **given(options, LOAD_NAMES), **parse_overrides(options["overrides"]))
