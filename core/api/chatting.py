"""The part of :class:`~polyllama.Llama` that answers conversations, by a chat template and with tools."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..arguments import checked_methods
from ..constraints.asked import Asked
from ..errors import GenerationError, InputError, about_model
from ..messages import mention
from .generating import Generating
from .prompts import refuse_outputs

if TYPE_CHECKING:
    from ..generation.answers import ChatRequest
    from ..generation.calls import TextStream
    from ..generation.options import GenerationOptions
    from ..tool_calls.choosing import ToolCalling

CHAT_OPTIONS = (
    "tools",
    "documents",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "template_variables",
    "tool_choice",
    "tool_parser",
    "parallel_tool_calls",
)
"""What ``chat`` takes beside options of generation and the template's variables."""

OF_TOOLS = ("tool_choice", "tool_parser", "parallel_tool_calls")
"""Those of them that are about reading the answer."""

_HARMLESS = {"tool_choice": "none", "parallel_tool_calls": True}
"""What is no mistake without tools either, as it asks for nothing; clients send it habitually."""

OF_CALLS = "the call that tool_choice asks for"
"""What messages call the grammar that an answer is held to which must call."""


@checked_methods
class Chatting(Generating):
    """Conversations with a loaded model."""

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """Answer a conversation by the checkpoint's own chat template, or by another.

        Args:
            messages: ``[{"role": "user", "content": "Hi"}, ...]``.
            options: as for :meth:`generate`, ``streamer`` too; as for :meth:`chat_prompt` and :meth:`chat_request`; and
                variables of the template, such as ``date_string="1 May 2025"``.

        Returns:
            A :class:`~polyllama.Generation`; a list of them with ``num_return_sequences`` above 1. With
            ``continue_final_message`` its text is what follows the last message. With ``tools`` the calls that the
            model asks for are its ``tool_calls``, and its text is the rest.

        Raises:
            TokenizerError: the checkpoint has no chat template.
            GenerationError: an option that neither generation nor the template knows.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> template = "{% for m in messages %}{{ m.content }}{% endfor %}, {{ ending }}"
        >>> chat = {"messages": [{"role": "user", "content": "Once"}], "chat_template": template, "ending": "there"}
        >>> llm.tokenizer.decode(llm.chat_prompt(**chat)), len(llm.chat(**chat, max_new_tokens=4).token_ids)
        ('Once, there', 4)
        """
        from ..generation.calls import generate
        from ..generation.outputs import by_prompt

        options = dict(options)
        streamer, tokenizer = options.pop("streamer", None), options.pop("tokenizer", None)
        with about_model(self._name):
            self._check_streamer(streamer)
            refuse_outputs(options)
            request = self.chat_request(messages, **options)
            known = self.tokenizer if tokenizer is None else self._given_tokenizer(tokenizer)
            how: dict[str, Any] = {"streamer": streamer, "scheduler": self.scheduler}
            results = generate(self.model, known, [request.prompt], request.options, **how)
        return by_prompt([request.read(one) for one in results], request.options.num_return_sequences)[0]

    def chat_stream(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> TextStream:
        """:meth:`chat`, piece by piece.

        With ``tools`` it is an :class:`~polyllama.core.generation.answers.AnswerStream`, whose ``pieces()`` give the
        calls as they come, too.
        """
        from ..generation.answers import AnswerStream
        from ..generation.calls import TextStream

        with about_model(self._name):
            request = self.chat_request(messages, **options)
            how: dict[str, Any] = {"scheduler": self.scheduler}
            if request.calling is None:
                return TextStream(self.model, self.tokenizer, request.prompt, request.options, **how)
            how["calling"] = request.calling
            return AnswerStream(self.model, self.tokenizer, request.prompt, request.options, **how)

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | str = False,
        template_variables: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> list[int]:
        """The token ids that a conversation becomes by the checkpoint's chat template.

        Args:
            messages: ``[{"role": "user", "content": "Hi"}, ...]``. Calls of an earlier answer are ``tool_calls`` of an
                assistant's message, and what came of them messages of the role ``tool``.
            tools: what the model may call: JSON schemas, or functions with type hints and a docstring.
            documents: what the model may read: mappings such as ``{"title": ..., "text": ...}``.
            chat_template: another template, or the name of one of the checkpoint's.
            add_generation_prompt: end where the assistant is to speak; true unless `continue_final_message`.
            continue_final_message: end where the last message ends, so that the model goes on with it.
            template_variables: variables of the template whose names are options too.
            variables: further variables of the template.

        Raises:
            TokenizerError: there is no template, or it refuses or fails; a variable that is a misspelt option, or an
                option of ``apply_chat_template`` alone.
            InputError: several conversations.

        Warns:
            PolyllamaWarning: a variable, tools or documents that the template does not read.
        """
        self._require_generation()
        if isinstance(messages, Sequence) and messages and isinstance(messages[0], list | tuple):
            raise InputError("a chat is one conversation, got a list of them", hint="call it with each")
        from ..generation.answers import as_messages
        from ..tokenizer.chat.variables import merged_variables

        if add_generation_prompt is None:
            add_generation_prompt = not continue_final_message
        # None of the variables may become an option of it: `tokenize` would change what this returns.
        ids = self.tokenizer.apply_chat_template(
            as_messages(messages),
            tools,
            documents,
            chat_template,
            add_generation_prompt,
            continue_final_message,
            template_variables=merged_variables(variables, template_variables),
        )
        return list(ids)

    def chat_request(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        tool_choice: Any = None,
        tool_parser: str | None = None,
        parallel_tool_calls: bool | None = None,
        **options: Any,
    ) -> ChatRequest:
        """What :meth:`chat` runs and how it reads the answer, for those who submit requests themselves.

        Args:
            messages, options: as for :meth:`chat`.
            tools: what the model may call: JSON schemas, or functions with type hints and a docstring.
            tool_choice: ``"auto"``; ``"none"``, which does not tell the model of the tools; ``"required"``, which holds
                the answer to calls of them; a tool's name (or OpenAI's mapping with it), which holds it to one of this.
            tool_parser: the format in which the model calls tools, by its name; else by the chat template.
            parallel_tool_calls: whether an answer that is held to calls may have several; true by default.

        Raises:
            InputError: choices that there are none of, or without tools.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> chat = {"messages": [{"role": "user", "content": "Once"}], "chat_template": "{{ messages[0].content }}"}
        >>> request = llm.chat_request(**chat, max_new_tokens=4)
        >>> len(llm.scheduler.submit(request.prompt, request.options).result().token_ids)
        4
        """
        from ..generation.answers import ChatRequest

        self._require_generation()
        if parallel_tool_calls is not None and not isinstance(parallel_tool_calls, bool):
            text = mention("parallel_tool_calls", parallel_tool_calls) + " is neither True nor False"
            raise InputError(text, hint="give one, or leave it out")
        if tools is None:
            asked = {"tool_choice": tool_choice, "tool_parser": tool_parser, "parallel_tool_calls": parallel_tool_calls}
            for name, value in asked.items():
                if value is not None and value != _HARMLESS.get(name):
                    raise InputError(mention(name, value) + " without tools", hint="give tools=[...]")
        silent = tools is None or tool_choice == "none"
        generation, prompt = self.split_chat_options(options if silent else {**options, "tools": tools})
        resolved = self.generation_options(**generation)
        ids = self.chat_prompt(messages, **prompt)
        if silent:
            return ChatRequest(ids, resolved)
        choice = {"tool_choice": tool_choice, "tool_parser": tool_parser}
        calling = self._tool_calling(tools, prompt.get("chat_template"), parallel_tool_calls, **choice)
        return ChatRequest(ids, self._with_calling(resolved, calling), calling)

    def _tool_calling(self, tools: Any, template: str | None, parallel: bool | None, **choice: Any) -> ToolCalling:
        """How the answer is read."""
        from ..tokenizer.chat.plain_data import as_plain
        from ..tokenizer.chat.tool_schemas import as_tools
        from ..tool_calls.choosing import tool_calling

        schemas = as_plain(as_tools(tools), "tools")
        text = self.tokenizer.get_chat_template(template, tools)
        return tool_calling(schemas, text, parallel=parallel is not False, **choice)

    def _with_calling(self, resolved: GenerationOptions, calling: ToolCalling) -> GenerationOptions:
        """The options with what the format needs."""
        from ..generation.answers import check_grammar

        special, added = set(self.tokenizer.all_special_ids), self.tokenizer.added_tokens_encoder
        shown = tuple(added[token] for token in calling.shown if added.get(token) in special)
        if calling.grammar is None:
            return replace(resolved, shown=shown)
        if (other := Asked.of(vars(resolved))) is not None:
            raise GenerationError(
                f"tool_choice holds the answer to calls, and {other.kind} to something else", hint="give one of the two"
            )
        check_grammar(calling, self.tokenizer, self.config.vocab_size)
        return replace(resolved, shown=shown, grammar=calling.grammar, held_to=OF_CALLS)

    def split_chat_options(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Those of :meth:`chat`'s options that are about generation, and those that are about the prompt.

        Raises:
            GenerationError: an option that neither generation nor the chat template knows (with the likely one).
        """
        from ..generation.option_rules import is_option, unknown_option_hint

        generation = {name: value for name, value in options.items() if is_option(name)}
        prompt = {name: value for name, value in options.items() if name not in generation}
        unknown = [name for name in prompt if name not in CHAT_OPTIONS]
        if not unknown:
            return generation, prompt
        read = self.read_by_template(options)
        for name in unknown:
            if name not in read:
                raise GenerationError(
                    f"generation has no option {name!r}" + (", and the chat template does not read it" if read else ""),
                    hint=unknown_option_hint(name, [*CHAT_OPTIONS, *sorted(read)] if read else ()),
                )
        return generation, prompt

    def read_by_template(self, options: Mapping[str, Any]) -> Collection[str]:
        """The variables that the template reads which :meth:`chat` would take; none where there is no template."""
        template, tokenizer = options.get("chat_template"), self._tokenizer_or_none()
        if tokenizer is None or not (template or tokenizer.chat_template):
            return ()
        return tokenizer.chat_template_variables(template, options.get("tools"))
