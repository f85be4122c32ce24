"""``polyllama chat``: a conversation, in a terminal or line by line from a pipe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...cli.console import examples, standard_input, write_text
from ...cli.options import (
    TypedText,
    checked_text,
    generation_arguments,
    generation_options,
    load_model,
    load_options,
    model_argument,
    parse_pairs,
)
from ...cli.spelling import as_typed, typed_names
from ...cli.texts import decoded, parse_json
from ...core.errors import InputError, PolyllamaError
from .run import speed

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from ..chat.session import Session

WELCOME = "Enter sends, Alt-Enter begins a new line, Ctrl-C stops an answer, /help lists the commands."


@click.command(
    "chat",
    epilog=examples(
        "polyllama chat llama-3.2-1b-instruct",
        'polyllama chat ./my-model --system "Answer in one sentence." --temperature 0.7',
        "polyllama chat ./my-model --template-variable enable_thinking=false --tools tools.json",
        'echo "What is a llama?" | polyllama chat llama-2-7b-chat --backend torch:cuda',
    ),
)
@model_argument
@click.option("--system", type=TypedText(), metavar="TEXT", help="What the model is told before the conversation.")
@click.option(
    "--overflow",
    type=click.Choice(["drop-oldest", "error"]),
    default="drop-oldest",
    show_default=True,
    help="At the end of the model's context: leave out the oldest turns, or end in an error.",
)
@click.option(
    "--chat-template",
    "--template",
    metavar="TEMPLATE",
    help="A file with another chat template, or the name of one of the model's several.",
)
@click.option(
    "--template-variable",
    "template_variables",
    type=TypedText(),
    metavar="NAME=VALUE",
    multiple=True,
    help="A variable that the template reads; the value is JSON or plain text. Repeatable.",
)
@click.option("--tools", metavar="FILE", type=click.Path(), help="JSON schemas of tools to tell the model of: a list.")
@click.option("--documents", metavar="FILE", type=click.Path(), help="Documents to give to the model: a JSON list.")
@click.option("--stats", is_flag=True, help="Say after each answer how fast it came.")
@load_options
@generation_options
def chat(model: str, system: str | None, overflow: str, stats: bool, **options: Any) -> None:
    """Talk to MODEL; it must be a chat model, one that brings a chat template.

    In a terminal: type a message and press Enter; Alt-Enter begins a new line. Ctrl-C stops an answer, which keeps
    what was said; at the prompt it clears the line, and typed twice it leaves. From a pipe: one message per line, one
    answer after the other.

    A line that begins with / is a command, in a terminal and from a pipe: /help lists them. A message that begins
    with / is typed with //.
    """
    generation = generation_arguments(options)
    prompt = _prompt_options(options)
    stdin = standard_input()
    llm = load_model(model, options)
    from ..chat.conversation import Conversation
    from ..chat.session import Session

    if "chat_template" in prompt:
        prompt["chat_template"] = _template(prompt["chat_template"], llm)
    conversation = Conversation(
        llm, generation=generation, prompt=prompt, overflow=overflow, say=_say, write=write_text
    )
    conversation.system = system
    conversation.check(model)
    session = Session(conversation, model, speed, statistics=stats)
    if stdin.isatty() and (sys.stdout.isatty() or sys.stderr.isatty()):
        _talk(session)
    else:
        _take_lines(session)


def _say(text: str) -> None:
    from ...core.messages import visible

    print(visible(text) if sys.stderr.isatty() else text, file=sys.stderr)


def _prompt_options(options: dict[str, Any]) -> dict[str, Any]:
    """What ``llm.chat_prompt`` is given, read before a model is loaded."""
    found: dict[str, Any] = {}
    if options["chat_template"] is not None:
        found["chat_template"] = options["chat_template"]
    if options["template_variables"]:
        found["template_variables"] = parse_pairs(options["template_variables"], "--template-variable")
    for name in ("tools", "documents"):
        if options[name] is not None:
            found[name] = _json_list(options[name], f"--{name}")
    return found


def _json_list(file: str, option: str) -> list[Any]:
    where = f"{option} {file}"
    data = parse_json(decoded(Path(file).read_bytes(), where), where)
    if not isinstance(data, list):
        raise InputError(f"{option}: {file} holds no list", hint="put a single one in a list: [{...}]")
    return data


def _template(asked: str, llm: Llama) -> str:
    """A template's text from a file, or its name where the checkpoint has several."""
    written_out = "{{" in asked or "{%" in asked
    if not written_out and os.path.isfile(asked):  # unlike Path.is_file, no error for a name that is too long
        return decoded(Path(asked).read_bytes(), f"--chat-template {asked}")
    available = llm.tokenizer.chat_template
    names = list(available) if isinstance(available, dict) else []
    if written_out or asked in names:
        return asked
    raise InputError(
        f"--chat-template {asked:.80}: there is no such file",
        hint=f"the model's own templates are {', '.join(names)}"
        if names
        else "the model has one template, without a name",
    )


def _take_lines(session: Session) -> None:
    for number, line in enumerate(standard_input().buffer, start=1):  # UTF-8 whatever the locale, as every text
        session.take(decoded(line, f"standard input, line {number}"))
        if session.ended:
            return


def _talk(session: Session) -> None:
    import platformdirs

    from ..chat.session import COMMANDS
    from ..chat.terminal import Editor, PlainInput

    history = Path(platformdirs.user_state_path("polyllama", appauthor=False)) / "chat_history"
    editor = PlainInput() if os.environ.get("TERM") == "dumb" else Editor(COMMANDS, history)
    _say(WELCOME)
    interrupted = False
    while not session.ended:
        try:
            line = editor.read()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            _say(f"error: what was typed is no text in {error.encoding}")
            continue
        except KeyboardInterrupt:
            if interrupted and not editor.abandoned:
                raise
            interrupted = True
            _say("(Ctrl-C again leaves)")
            continue
        interrupted = False
        _take(session, line)


def _take(session: Session, line: str) -> None:
    """One line; what goes wrong with it ends the turn, not the conversation."""
    try:
        session.take(checked_text(line))
    except KeyboardInterrupt:
        if not session.conversation.stopped:  # which says so itself
            _say("(stopped)")
    except PolyllamaError as error:
        _say(f"error: {as_typed(str(error), typed_names(chat.params))}")
