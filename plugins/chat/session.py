"""What is typed into a chat: messages, and commands that begin with a slash."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cli.texts import decoded, json_or_text, parse_json
from ...core.api.chatting import CHAT_OPTIONS
from ...core.errors import GenerationError, InputError
from ...core.messages import closest, counted
from ...core.tokenizer.chat.templates import check_messages
from .conversation import Conversation

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from ...core.generation.outputs import GenerationStats

_SETTING = re.compile(r"([^\s=]*)\s*=?\s*(.*)", re.DOTALL)
_NOT_SHOWN = {
    "num_return_sequences": "a chat gives one answer; /retry gives another",
    "num_beams": "a chat shows its answer as it comes, and a beam has no text before its end",
    "logprobs": "a chat does not show them",
}


@dataclass(frozen=True)
class SlashCommand:
    """A command of a chat: how it is typed, what it does, and the method of :class:`Session` that does it."""

    arguments: str
    summary: str
    run: Callable[[Session, str], None]

    @property
    def optional(self) -> bool:
        """Whether it may be typed alone."""
        return not self.arguments or self.arguments.startswith("[")


class Session:
    """A conversation, taken line by line from whoever talks to the model.

    Attributes:
        ended: whether ``/exit`` was typed.
        statistics: whether each answer is followed by how fast it came.

    Args:
        model: the model's name, for files of conversations.
        speed: how a line on the speed of an answer is written.
    """

    def __init__(
        self,
        conversation: Conversation,
        model: str,
        speed: Callable[[GenerationStats, Llama], str],
        *,
        statistics: bool = False,
    ) -> None:
        self.conversation = conversation
        self.model = model
        self.speed = speed
        self.statistics = statistics
        self.ended = False
        self._file: Path | None = None

    def take(self, line: str) -> None:
        """Answer a message, or do what a command says; ``//`` begins a message with ``/``.

        Raises:
            PolyllamaError: what went wrong; the conversation can go on.
        """
        text = line.strip()
        if text.startswith("/") and not text.startswith("//"):
            self._command(text)
        elif text:
            self._answered_by(lambda: self.conversation.ask(text.removeprefix("/")))

    def _command(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        argument = argument.strip()
        command = COMMANDS.get(name)
        if command is None:
            meant = closest(name, COMMANDS)
            raise InputError(
                f"there is no command {name!r:.80}",
                hint=(f"did you mean {meant}? " if meant else "/help lists the commands; ")
                + "a message that begins with / is typed with //",
            )
        if argument and not command.arguments:
            raise InputError(f"{name} takes nothing after it, got {argument!r:.80}")
        if not argument and not command.optional:
            raise InputError(f"{name} needs {command.arguments}", hint=f"{name} {command.arguments}: {command.summary}")
        command.run(self, argument)

    def _answered_by(self, answer: Callable[[], None]) -> None:
        answer()
        if self.statistics:
            self._say_statistics()

    def _say(self, text: str) -> None:
        self.conversation.say(text)

    # -- commands

    def help(self, _: str) -> None:
        typed = {name: f"{name} {command.arguments}".rstrip() for name, command in COMMANDS.items()}
        width = max(map(len, typed.values()))
        for name, command in COMMANDS.items():
            self._say(f"{typed[name]:<{width}}  {command.summary}")
        self._say(f"{'//...':<{width}}  a message that begins with /")

    def exit(self, _: str) -> None:
        self.ended = True

    def reset(self, _: str) -> None:
        self.conversation.reset()
        self._say("The conversation starts over.")

    def retry(self, _: str) -> None:
        self._answered_by(self.conversation.retry)

    def go_on(self, _: str) -> None:
        self._answered_by(self.conversation.go_on)

    def system(self, text: str) -> None:
        if not text:
            self._say(self.conversation.system or "There is no system message.")
            return
        self.conversation.system = None if text == "-" else text
        self._say("The system message is gone." if text == "-" else "The system message is another from here on.")

    def set(self, text: str) -> None:
        given = {**self.conversation.generation, **self.conversation.prompt.get("template_variables", {})}
        if not text:
            lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in given.items()]
            self._say("\n".join(lines) if lines else "Nothing is set; the model's own defaults hold.")
            return
        found = _SETTING.match(text)
        assert found is not None  # it matches any text
        name, value = found[1].lstrip("-").replace("-", "_"), found[2]
        known = self._belongs(name)
        if value:
            self._change(name, _parsed(name, value), known)
        else:
            self._say_value(name, given.get(name))

    def _belongs(self, name: str) -> bool:
        """Whether a name is an option of generation, not a variable of the template; an error where it is neither."""
        if name in _NOT_SHOWN:
            raise GenerationError(f"{name} cannot be set here", hint=_NOT_SHOWN[name])
        if name in CHAT_OPTIONS:
            raise GenerationError(f"{name} cannot be set here", hint="give it when the chat is started")
        conversation = self.conversation
        prompt = {key: one for key, one in conversation.prompt.items() if key in ("chat_template", "tools")}
        generation, _ = conversation.llm.split_chat_options({**prompt, name: None})
        return name in generation

    def _change(self, name: str, value: Any, of_generation: bool) -> None:
        """Set an option of generation or a variable of the template; ``None`` unsets it."""
        conversation = self.conversation
        if of_generation:
            generation = _changed(conversation.generation, name, value)
            conversation.llm.generation_options(**generation)  # raises where they contradict each other
            conversation.generation = generation
        else:
            variables = _changed(conversation.prompt.get("template_variables", {}), name, value)
            conversation.prompt = _changed(conversation.prompt, "template_variables", variables or None)
        self._say_value(name, value)

    def _say_value(self, name: str, value: Any) -> None:
        self._say(f"{name} is not set." if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}")

    def save(self, name: str) -> None:
        path = _path(name)
        data = {"model": self.model, "messages": self.conversation.messages}
        with _naming_files():
            if path != self._file and path.exists() and path.stat().st_size:
                raise InputError(f"{name} exists already", hint="take another name")
            text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
            path.write_bytes(text.encode("utf-8", "backslashreplace"))  # half a surrogate pair as JSON escapes it
        self._file = path
        self._say(f"{_count(len(self.conversation.messages))} saved to {name}.")

    def load(self, name: str) -> None:
        path = _path(name)
        with _naming_files():
            content = path.read_bytes()
        data = parse_json(decoded(content, name), name, hint="it should be what /save writes")
        messages = data.get("messages") if isinstance(data, Mapping) else data
        if messages != []:  # what /save writes of a conversation that has not begun
            messages = [dict(message) for message in check_messages(messages)]
        self.conversation.replace(messages)
        self._file = path
        asked = bool(messages) and messages[-1]["role"] == "user"
        self._say(f"{_count(len(messages))} loaded{'; /retry answers the last' if asked else ''}.")

    def stats(self, text: str) -> None:
        if text not in ("", "on", "off"):
            raise InputError(f"/stats takes on or off, got {text!r:.80}")
        if text:
            self.statistics = text == "on"
            self._say(f"Statistics after each answer are {text}.")
        else:
            self._say_statistics()

    def _say_statistics(self) -> None:
        conversation = self.conversation
        if conversation.stats is None:
            self._say("There is no answer yet.")
            return
        self._say(self.speed(conversation.stats, conversation.llm))
        limit = "" if conversation.context is None else f" of {conversation.context}"
        left_out = f"; {_count(conversation.left_out)} left out" if conversation.left_out else ""
        self._say(f"context: {conversation.tokens}{limit} tokens{left_out}")


COMMANDS: Mapping[str, SlashCommand] = {
    "/help": SlashCommand("", "list the commands", Session.help),
    "/retry": SlashCommand("", "answer the last message again", Session.retry),
    "/continue": SlashCommand("", "go on with the last answer", Session.go_on),
    "/reset": SlashCommand("", "start over; the system message stays", Session.reset),
    "/system": SlashCommand("[TEXT]", "show or change what the model is told first; - for nothing", Session.system),
    "/set": SlashCommand(
        "[NAME VALUE]",
        "show or change an option such as temperature, or a variable of the template; none unsets",
        Session.set,
    ),
    "/save": SlashCommand("FILE", "write the conversation into a JSON file", Session.save),
    "/load": SlashCommand("FILE", "go on from a conversation in a JSON file", Session.load),
    "/stats": SlashCommand("[on|off]", "how fast the last answer came and how full the context is", Session.stats),
    "/exit": SlashCommand("", "end (so does Ctrl-D)", Session.exit),
}
COMMANDS = {**COMMANDS, "/quit": COMMANDS["/exit"]}


@contextlib.contextmanager
def _naming_files() -> Iterator[None]:
    """A file that cannot be read or written, as an error that does not end the chat."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from None
    except UnicodeEncodeError as error:
        raise InputError(
            f"{error.object}: in this locale ({error.encoding}) no file can be called so",
            hint="set LC_ALL=C.UTF-8, or PYTHONUTF8=1",
        ) from None


def _path(name: str) -> Path:
    if "\0" in name:
        raise InputError(f"{name!r:.80}: a name of a file has no null character")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise InputError(f"{name}: there is no such user's folder", hint=f"./{name} is a file called so") from None


def _parsed(name: str, value: str) -> Any:
    return None if value == "none" else json_or_text(value, name)


def _changed(values: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    return {**{key: one for key, one in values.items() if key != name}, **({} if value is None else {name: value})}


def _count(messages: int) -> str:
    return counted(messages, "message")
