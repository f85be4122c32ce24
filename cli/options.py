"""Options that several commands share, spelt as the Python arguments they stand for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..core.errors import InputError
from ..core.machine.devices import numbered_device
from ..core.public import for_plugins
from .console import Decorated
from .texts import json_or_text

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..core.api.llama import Llama

    ParamType = click.ParamType[str]
else:
    ParamType = click.ParamType  # generic for type checkers only, before click 8.2


class TypedText(ParamType):
    """A text for a model. A path may hold bytes that are no letters here, and is then opened all the same; a text not.

    Raises:
        InputError: the locale cannot read it; names the locale.
    """

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return checked_text(value)


def checked_text(text: str) -> str:
    """A text that was typed; a byte in it that is no letter is an error, which names the locale."""
    for place, letter in enumerate(text):
        if "\udc80" <= letter <= "\udcff":  # what Python makes of a byte that it cannot decode (PEP 383)
            raise _unreadable(place, ord(letter) - 0xDC00)
    return text


def _unreadable(place: int, byte: int) -> InputError:
    variables = ("LC_ALL", "LC_CTYPE", "LANG")
    named = next((f"{name}={os.environ[name]}" for name in variables if os.environ.get(name)), "no LANG is set")
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        hint = "give it in UTF-8, or in a file that iconv has converted"
    else:
        hint = "set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
    return InputError(
        f"the text holds the byte 0x{byte:02x} at character {place}, which is no letter in this locale ({named}, read "
        f"as {encoding})",
        hint=hint,
    )


class TextOrFile(TypedText):
    """A text, or ``@`` and the path of a file that holds it."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.startswith("@"):
            return checked_text(value)
        try:
            return Path(value[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{value[1:]} cannot be read: {error}") from None


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


class DeviceName(ParamType):
    """A device of a backend; a number is one of CUDA's and -1 the CPU, as transformers' command line has them."""

    name = "device"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            number = int(value)
        except ValueError:
            return value
        return numbered_device(number)


model_argument = click.argument("model", type=ModelName())

_SOURCE = [
    click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub repository."),
    click.option("--offline/--no-offline", default=None, help="Use only what is on this machine."),
]
_IGNORE = click.option(
    "--ignore", metavar="NAME", multiple=True, help="Leave out stored tensors called so, * for anything. Repeatable."
)
_LOAD = [
    click.option("--backend", type=PluginName("backend"), help="What runs it: cpu, torch, torch:cuda, auto ..."),
    click.option(
        "--device",
        type=DeviceName(),
        metavar="DEVICE",
        help="A device of the backend: cpu, cuda, cuda:1, mps ...; 0 is cuda:0, -1 cpu.",
    ),
    click.option("--dtype", metavar="DTYPE", help="float64, float32, bfloat16, float16 or auto."),
    click.option("--quantize", metavar="HOW", help="Quantize weights while loading: int4, int8, int4-g32 ..."),
    click.option("--task", type=PluginName("task"), help="The task head; the checkpoint's own by default."),
    *_SOURCE,
    click.option(
        "--adapter", metavar="FOLDER", help="A LoRA adapter that PEFT or mlx-lm saved, to run beside the weights."
    ),
    click.option(
        "--adapters",
        metavar="NAME=FOLDER",
        multiple=True,
        callback=lambda ctx, param, value: named_folders(value),
        help="A LoRA adapter among which --adapter NAME chooses then. Repeatable.",
    ),
    click.option("--merge-adapter", is_flag=True, default=None, help="Add the adapter into the weights instead."),
    click.option("--draft", metavar="MODEL", help="A smaller model of the same vocabulary, which guesses tokens."),
    click.option("--load-format", metavar="FORMAT", help="Format of the weights; dummy makes random ones."),
    _IGNORE,
]
_SET = click.option(
    "--set",
    "overrides",
    type=TypedText(),
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
    click.option("--num-beams", type=int, metavar="N", help="Search with N texts at a time; the best is shown."),
    click.option("--length-penalty", type=float, metavar="X", help="With beams: above 0 favours long texts."),
    click.option(
        "--early-stopping",
        type=click.Choice(["true", "false", "never"]),
        callback=lambda ctx, param, value: {"true": True, "false": False}.get(value, value),
        help="With beams: end with the first N texts; by a guess (default); or when no better one can come.",
    ),
    click.option(
        "--seed", type=int, metavar="N", help="The same seed gives the same text again; in float32 on every backend."
    ),
    click.option("--stop", type=TypedText(), multiple=True, metavar="TEXT", help="End at this text. Repeatable."),
    click.option(
        "--json-schema", type=TextOrFile(), metavar="JSON", help="Write JSON that follows this schema; @FILE reads it."
    ),
    click.option("--regex", type=TypedText(), metavar="REGEX", help="Write what this regular expression matches."),
    click.option(
        "--grammar", type=TextOrFile(), metavar="LARK", help="Write what this Lark grammar allows; @FILE reads it."
    ),
    click.option("--choices", type=TypedText(), multiple=True, metavar="TEXT", help="Write one of these. Repeatable."),
    click.option(
        "--prompt-lookup-num-tokens",
        type=int,
        metavar="N",
        help="Guess up to N tokens at a time from the text before; faster where it repeats itself, never another text.",
    ),
]


_TASK = [
    click.option(
        "--question", type=TypedText(), metavar="TEXT", multiple=True, help="What to ask about a context. Repeatable."
    ),
    click.option("--context", type=TypedText(), metavar="TEXT", help="The text that holds the answer."),
    click.option(
        "--context-file", metavar="FILE", type=click.Path(), help="The same from a file; - is standard input."
    ),
    click.option(
        "--file", metavar="FILE", type=click.Path(), help="Read texts from a file, one per line; - is standard input."
    ),
    click.option(
        "--format",
        "form",
        type=click.Choice(["lines", "jsonl"]),
        help="What a line of --file holds: a text or a JSON document; by its name (.jsonl) by default.",
    ),
    click.option(
        "--option",
        "task_options",
        type=TypedText(),
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
ignore_option = _IGNORE
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
    "adapters",
    "ignore",
    "draft",
)
NO_FIELDS = frozenset({
    *("self", "cls", "source", "raw", "path", "config", "config_overrides", "seed", "fresh_head"),
    *("ignore_mismatched_sizes", "attn_implementation"),
})  # fmt: skip
"""Names that Python's own arguments have on the way to the configuration, so that they would never reach it.

``seed``, ``fresh_head`` and ``ignore_mismatched_sizes`` say how a new head begins, which is for those who train it.
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
    "num_beams",
    "length_penalty",
    "early_stopping",
    "seed",
    "stop",
    "json_schema",
    "regex",
    "grammar",
    "choices",
    "prompt_lookup_num_tokens",
)


def given(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the named options that were given on the command line, tuples as lists."""
    values = {name: options[name] for name in names if options[name] is not None and options[name] != ()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def load_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``Llama.load`` is given; beside --adapters, --adapter is no folder but the name of one of them."""
    found = given(options, LOAD_NAMES)
    if found.get("adapters"):
        found.pop("adapter", None)
    return {**found, **parse_overrides(options["overrides"])}


def adapter_of_call(options: Mapping[str, Any]) -> dict[str, str]:
    """What each call is given of --adapter, where it is the name of one of --adapters."""
    chosen = options.get("adapter") if options.get("adapters") else None
    return {} if chosen is None else {"adapter": chosen}


def generation_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``generate`` is given."""
    return {**given(options, GENERATION_NAMES), **adapter_of_call(options)}


def named_folders(pairs: tuple[str, ...]) -> dict[str, str] | None:
    """Values of --adapters.

    >>> named_folders(("poems=./poems", "code=./a=b"))
    {'poems': './poems', 'code': './a=b'}
    """
    found: dict[str, str] = {}
    for text in pairs:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise click.UsageError(f"--adapters {text!r} is not NAME=FOLDER")
        if name in found:
            raise click.UsageError(f"--adapters gives {name} twice")
        found[name] = folder
    return found or None


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
        found[name] = json_or_text(value, f"{option} {name}")
    return found


@for_plugins
def load_model(model: str, options: Mapping[str, Any]) -> Llama:
    """Load what the command line asks for."""
    from ..core.api.llama import Llama

    return Llama.load(model, **load_arguments(options))


def refuse_others(ctx: click.Context, llm: Llama, *, generates: bool) -> None:
    """Refuse options that were given and are not for this model's task."""
    only_generating = {*GENERATION_NAMES, "stream", "echo"} - {"top_k"}
    only_predicting = {"question", "context", "context_file", "task_options"}
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name not in (only_predicting if generates else only_generating):
            continue
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            what = "classify, find or answer" if generates else "write text"
            raise click.UsageError(f"{parameter.opts[0]} is for models that {what}; this one's task is {llm.task}.")
