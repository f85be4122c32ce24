"""A conversation with a model: its messages, its answers, and what of it still fits the model's context."""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...core.config.context_length import context_length
from ...core.errors import GenerationError, InputError, TokenizerError
from ...core.generation.options import DEFAULT_MAX_NEW_TOKENS, GenerationOptions
from ...core.generation.outputs import GenerationStats
from ...core.messages import mention
from ...core.tokenizer.chat.variables import check_variables

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from ...core.generation.calls import TextStream

Message = dict[str, Any]
DROP_OLDEST, ERROR = OVERFLOWS = ("drop-oldest", "error")
_SPARE = 4  # this part of the context is kept for an answer, so that turns are not left out in the middle of each


class Conversation:
    """The messages so far, of which an answer that was stopped keeps what it had said.

    Attributes:
        messages: all of them, as ``llm.chat`` takes them, those that no longer fit included.
        left_out: how many of them, after the system message, are no longer given to the model.
        generation: options of generation.
        prompt: options of ``llm.chat_prompt``.
        unanswered: the last message where nothing was said to it; it is none of the `messages`.
        stats: of the last answer, ``None`` before the first.
        tokens: of the last prompt and answer.
        stopped: whether the last answer was interrupted.

    Args:
        overflow: what happens at the end of the context: the oldest turns are left out, or it is an error.
        say: how something is said about the conversation.
        write: how the text of an answer is written, piece by piece.
    """

    def __init__(
        self,
        llm: Llama,
        *,
        generation: Mapping[str, Any],
        prompt: Mapping[str, Any],
        overflow: str,
        say: Callable[[str], None],
        write: Callable[[str], None],
    ) -> None:
        self.llm = llm
        self.generation = dict(generation)
        self.prompt = dict(prompt)
        self.overflow = overflow
        self.say = say
        self.write = write
        self.context = context_length(llm.config)
        self.messages: list[Message] = []
        self.left_out = 0
        self.unanswered: str | None = None
        self.stats: GenerationStats | None = None
        self.tokens = 0
        self.stopped = False
        self._said_dropping = False

    def check(self, model: str) -> None:
        """Say at once, not after the first message, that a model cannot chat or an option is wrong."""
        tokenizer = self.llm.tokenizer
        if not tokenizer.chat_template and "chat_template" not in self.prompt:
            raise TokenizerError(
                f"{model!r} has no chat template, so it is not a chat model",
                hint="take an instruct or chat version of it, give "
                + mention("chat_template", shown="FILE")
                + ", or `polyllama run` it on a plain prompt",
            )
        self.llm.generation_options(**self.generation)
        template = self.prompt.get("chat_template")
        read = tokenizer.chat_template_variables(template, self.prompt.get("tools"))
        source = "chat_template" if template else tokenizer.source
        check_variables(self.prompt.get("template_variables", {}), read, source)

    # -- messages

    @property
    def system(self) -> str | None:
        """What the model is told before the conversation."""
        return str(self.messages[0].get("content")) if self._head else None

    @system.setter
    def system(self, text: str | None) -> None:
        before = [{"role": "system", "content": text}] if text else []
        self.messages = [*before, *self.messages[self._head :]]

    @property
    def _head(self) -> int:
        return int(bool(self.messages) and self.messages[0].get("role") == "system")

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.replace(self.messages[: self._head])

    def replace(self, messages: list[Message]) -> None:
        """Go on from other messages."""
        self.messages, self.left_out, self.unanswered = messages, 0, None
        self.stats, self.tokens, self._said_dropping = None, 0, False

    # -- answers

    def ask(self, text: str) -> None:
        """Answer a message.

        Raises:
            PolyllamaError: what went wrong; what was said by then is kept, or else the message is taken back.
            KeyboardInterrupt: likewise.
        """
        self.unanswered = text
        self._answer([*self.messages, {"role": "user", "content": text}])

    def retry(self) -> None:
        """Answer the last message again."""
        if self.unanswered is not None:
            self.ask(self.unanswered)
            return
        asked = self.messages[:-1] if self._answered else self.messages
        if not asked or asked[-1].get("role") == "system":
            raise InputError("there is no message to answer again", hint="type one")
        options = self.llm.generation_options(**self.generation)
        if self._answered and (not options.do_sample or options.seed is not None):
            how = "a fixed seed" if options.do_sample else "no temperature"
            self.say(f"({how}: the answer will be the same; /set temperature 0.8 or /set seed none changes that)")
        self._answer(list(asked))

    def go_on(self) -> None:
        """Go on with the last answer."""
        if not self._answered:
            raise InputError("there is no answer to go on with", hint="type a message")
        if not isinstance(self.messages[-1].get("content"), str):
            raise InputError("the last answer is no plain text, which cannot be gone on with")
        self._answer(list(self.messages), begun=True)

    @property
    def _answered(self) -> bool:
        return bool(self.messages) and self.messages[-1].get("role") == "assistant"

    def _answer(self, messages: list[Message], *, begun: bool = False) -> None:
        """Write the answer to `messages`; where it is `begun`, the rest of the last of them."""
        said: list[str] = []
        notices: list[str] = []
        finished, self.stopped, before = False, False, self.left_out
        try:
            with contextlib.closing(self._pieces(messages, begun, notices)) as pieces:
                for piece in pieces:
                    said.append(piece)
                    self.write(piece)
            finished = True
        except KeyboardInterrupt:
            self.stopped = True
            notices.append("(stopped; /continue goes on)" if said else "(stopped before the answer began)")
            raise
        finally:
            if said or finished:
                self.write("\n")
                self._keep(messages, "".join(said), begun)
            else:
                self.left_out = before
            for notice in notices:
                self.say(notice)

    def _keep(self, messages: list[Message], text: str, begun: bool) -> None:
        self.unanswered = None
        if begun:
            *messages, last = messages
            text = last["content"] + text
        self.messages = [*messages, {"role": "assistant", "content": text.strip()}]

    def _pieces(self, messages: list[Message], begun: bool, notices: list[str]) -> Generator[str]:
        """The text of an answer; where it reaches the end of the context, it goes on with the oldest turns left out."""
        options = self.llm.generation_options(**self.generation)
        ids = self._fitted(messages, begun, self._spare(options))
        self._say_dropping(self.say)
        limit = _most_tokens(options, len(ids))
        answered: list[int] = []
        self.stats = None
        stream: TextStream | None = None
        while True:
            room = limit - len(answered)
            if self.context is not None:
                room = min(room, self.context - len(ids) - len(answered))
            least = max(0, options.min_new_tokens - len(answered))
            part = {**self.generation, "max_new_tokens": room, "max_length": None, "min_new_tokens": min(least, room)}
            # One text over all the parts: a character or a stop string may begin in one and end in the next.
            stream = self.llm.stream([*ids, *answered], open_end=True, after=stream, **part)
            before = self.stats
            try:
                for piece in stream:
                    self._count(before, stream.stats, len(ids) + len(answered))
                    yield piece
            finally:
                self._count(before, stream.stats, len(ids) + len(answered))
            result = stream.result
            assert result is not None  # set once the pieces are exhausted
            answered += result.token_ids
            if result.finish_reason == "stop":
                return
            if len(answered) >= limit:
                if "max_new_tokens" not in self.generation:
                    more = "/continue goes on with it, /set max_new_tokens N allows more"
                    notices.append(f"(the answer was cut after {limit} tokens; {more})")
                yield from _left(stream)
                return
            try:
                ids = self._fitted(messages, begun, self._spare(options), answered=len(answered))
            except GenerationError:
                yield from _left(stream)
                raise
            if len(ids) + len(answered) >= (self.context or 0):
                notices.append(f"(the answer ends here, at the end of the model's context of {self.context} tokens)")
                yield from _left(stream)
                return
            self._say_dropping(notices.append)

    def _count(self, before: GenerationStats | None, now: GenerationStats, prompt: int) -> None:
        pairs = vars(before or GenerationStats()).items()
        self.stats = GenerationStats(**{name: value + getattr(now, name) for name, value in pairs})
        self.tokens = prompt + now.new_tokens

    # -- the end of the context

    def _spare(self, options: GenerationOptions) -> int:
        if self.context is None or self.overflow == ERROR:
            return 1
        return max(1, min(options.max_new_tokens or DEFAULT_MAX_NEW_TOKENS, self.context // _SPARE))

    def _fitted(self, messages: list[Message], begun: bool, spare: int, *, answered: int = 0) -> list[int]:
        """The prompt, of so many of the last turns that `spare` tokens can follow it and what is already `answered`.

        Raises:
            GenerationError: the whole does not fit and nothing may be left out, or the last message alone does not fit.
        """
        ids = self._prompt(messages, begun, self.left_out)
        if self.context is None or len(ids) + answered + spare <= self.context:
            return ids
        if self.overflow == ERROR:
            what = f"the answer reaches the end of the model's context of {self.context} tokens"
            if not answered:
                what = f"the conversation takes {len(ids)} tokens, the model's context is {self.context}"
            raise GenerationError(
                what, hint="/reset starts over; " + mention("overflow", DROP_OLDEST) + " leaves out the oldest turns"
            )
        head = int(messages[0].get("role") == "system")
        roles = [message.get("role") for message in messages[head:]]
        starts = [place for place in range(self.left_out + 1, len(roles)) if roles[place] == "user"]
        prompts: dict[int, list[int]] = {self.left_out: ids}

        def fits(start: int) -> bool:
            prompts[start] = self._prompt(messages, begun, start)
            return len(prompts[start]) + answered + spare <= (self.context or 0)

        place = bisect_left(starts, True, key=fits)
        start = starts[min(place, len(starts) - 1)] if starts else self.left_out
        if len(prompts[start]) >= self.context and not answered:
            raise GenerationError(
                f"the message takes {len(prompts[start])} tokens with the template, "
                f"the model's context is {self.context}",
                hint="shorten it",
            )
        if len(prompts[start]) + answered < self.context:
            self.left_out = start
        return prompts[start]

    def _prompt(self, messages: list[Message], begun: bool, left_out: int) -> list[int]:
        head = int(messages[0].get("role") == "system")
        sent = [*messages[:head], *messages[head + left_out :]]
        return self.llm.chat_prompt(sent, continue_final_message=begun, **self.prompt)

    def _say_dropping(self, say: Callable[[str], None]) -> None:
        if self.left_out and not self._said_dropping:
            self._said_dropping = True
            say(
                f"(the conversation no longer fits the model's context of {self.context} tokens: "
                "from here on its oldest turns are left out)"
            )


def _left(stream: TextStream) -> Iterator[str]:
    """The end of an answer, where none of it follows that could make it whole."""
    rest = stream.rest()
    if rest:
        yield rest


def _most_tokens(options: GenerationOptions, prompt: int) -> int:
    """How many tokens an answer may have, as far as the options go."""
    if options.max_new_tokens is not None:
        return options.max_new_tokens
    if options.max_length is None:
        return max(DEFAULT_MAX_NEW_TOKENS, options.min_new_tokens)
    if options.max_length <= prompt:
        raise GenerationError(
            f"the conversation takes {prompt} tokens, " + options.named("max_length") + " counts it and the answer",
            hint="give " + mention("max_new_tokens"),
        )
    return options.max_length - prompt
