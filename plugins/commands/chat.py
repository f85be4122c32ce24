"""``polyllama chat``: a conversation, in a terminal or line by line from a pipe."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...cli.console import examples, standard_input, write_text
from ...cli.options import GENERATION_NAMES, generation_options, given, load_model, load_options, model_argument
from ...cli.spelling import as_typed, typed_names
from ...core.errors import PolyllamaError, TokenizerError
from .run import speed, stream_text

if TYPE_CHECKING:
    from ...core.api.llama import Llama

HELP = "/reset starts over, /exit ends (so does Ctrl-D); Ctrl-C stops an answer."
HISTORY_LENGTH = 1000


@click.command(
    "chat",
    epilog=examples(
        "polyllama chat llama-3.2-1b-instruct",
        'polyllama chat ./my-model --system "Answer in one sentence." --temperature 0.7',
        'echo "What is a llama?" | polyllama chat llama-2-7b-chat --backend torch:cuda',
    ),
)
@model_argument
@click.option("--system", metavar="TEXT", help="What the model is told before the conversation.")
@load_options
@generation_options
def chat(model: str, system: str | None, **options: Any) -> None:
    """Talk to MODEL; it must be a chat model, one that brings a chat template.

    In a terminal: type a message and press Enter. /reset starts over, /exit ends, Ctrl-C stops an answer. From a pipe:
    one message per line, one answer after the other.
    """
    generation = given(options, GENERATION_NAMES)
    stdin = standard_input()
    llm = load_model(model, options)
    conversation = Conversation(llm, system, generation)
    conversation.check(model)
    if stdin.isatty():
        _talk(conversation)
    else:
        _answer_lines(conversation)


class Conversation:
    """The messages so far; an answer that failed or was stopped takes its question with it."""

    def __init__(self, llm: Llama, system: str | None, generation: dict[str, Any]) -> None:
        self.llm = llm
        self.generation = generation
        self.start = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, str]] = list(self.start)

    def check(self, model: str) -> None:
        """Say at once, not after the first message, that a model cannot chat."""
        if not getattr(self.llm.tokenizer, "chat_template", None):
            raise TokenizerError(
                f"{model!r} has no chat template, so it is not a chat model",
                hint="take an instruct or chat version of it, or `polyllama run` it on a plain prompt",
            )

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = list(self.start)

    def answer(self, message: str) -> str:
        """Stream the answer to a message and return the line on its speed."""
        asked = [*self.messages, {"role": "user", "content": message}]
        result = stream_text(self.llm.chat_stream(asked, **self.generation))
        write_text("\n")
        self.messages = [*asked, {"role": "assistant", "content": result.text.strip()}]
        return speed(result.stats, self.llm)


def _answer_lines(conversation: Conversation) -> None:
    for line in sys.stdin:
        if message := line.strip():
            print(conversation.answer(message), file=sys.stderr)


def _talk(conversation: Conversation) -> None:
    history = _keep_history()
    print(HELP, file=sys.stderr)
    try:
        while True:
            try:
                message = input("> ").strip()
            except EOFError:
                print(file=sys.stderr)
                return
            if message in ("/exit", "/quit"):
                return
            if message == "/reset":
                conversation.reset()
                print("The conversation starts over.", file=sys.stderr)
            elif message.startswith("/"):
                print(HELP, file=sys.stderr)
            elif message:
                _answer_once(conversation, message)
    finally:
        _save_history(history)


def _answer_once(conversation: Conversation, message: str) -> None:
    """One turn; what goes wrong in it ends the turn, not the conversation."""
    try:
        print(conversation.answer(message), file=sys.stderr)
    except KeyboardInterrupt:
        print("(stopped; your message and this answer are forgotten)", file=sys.stderr)
    except PolyllamaError as error:
        print(f"error: {as_typed(str(error), typed_names(chat.params))}", file=sys.stderr)


def _keep_history() -> Path | None:
    """Line editing and the messages of earlier conversations, where Python has readline."""
    try:
        import readline
    except ImportError:  # Windows
        return None
    import platformdirs

    path = Path(platformdirs.user_state_path("polyllama", appauthor=False)) / "chat_history"
    readline.set_history_length(HISTORY_LENGTH)
    with contextlib.suppress(OSError):  # none yet, or not readable: the chat works without
        readline.read_history_file(path)
    return path


def _save_history(path: Path | None) -> None:
    if path is None:
        return
    import readline

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(path)
        path.chmod(0o600)
    except OSError as error:
        print(f"warning: the history of this chat was not kept: {error}", file=sys.stderr)
