"""Conversations to prompts: what a tokenizer does with a chat template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..arguments import checked_methods
from ..array_kinds import kind_of
from ..errors import TokenizerError
from ..messages import did_you_mean, mention
from .arrays import array_of, plain_numbers
from .batch_encoding import BatchEncoding
from .chat.plain_data import as_plain
from .chat.templates import (
    LLAMA2_SYSTEM_PROMPT,
    Message,
    check_messages,
    render,
    render_continued,
    render_with_spans,
    variables_read,
)
from .chat.variables import check_variables, merged_variables, no_special_tokens, warn_unread
from .encode_plus import EncodePlus
from .encoding import CallOptions

if TYPE_CHECKING:
    from .chat.assistant_mask import Span

Tool = Mapping[str, Any] | Callable[..., Any]


@checked_methods
class Chatting(EncodePlus):
    """The part of a tokenizer that makes prompts of conversations."""

    def apply_chat_template(
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]] | None = None,
        tools: Sequence[Tool] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        *,
        padding: bool | str | None = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = False,
        return_assistant_tokens_mask: bool = False,
        sanitize_control_tokens: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> Any:
        """The prompt that the checkpoint's own template makes of a conversation, or of each of several.

        Returns ids, a text (``tokenize=False``) or, with ``return_dict``, what ``tokenizer(text, ...)`` returns. Every
        other keyword is a variable of the template, such as ``date_string="1 May 2025"``.

        ``tools``: JSON schemas, or functions with type hints and a docstring in Google's form. ``documents``: mappings.
        ``chat_template``: a template, or the name of one of several. ``add_generation_prompt`` ends the prompt where
        the assistant is to speak; ``continue_final_message`` ends it where the last message ends (or that part of it
        which it names). ``return_assistant_tokens_mask`` adds
        ``assistant_masks``: 1 for ids within ``{% generation %}`` blocks. ``tokenizer_kwargs``: more of what the
        tokenizer's call takes. ``template_variables``: variables whose names are options too.

        Errors: TokenizerError where there is no template, or it refuses or fails; for a keyword that is a misspelt
        option, and for options that have no effect together. Warns of variables that the template does not read.
        """
        template, name = self._chosen_template(chat_template, tools is not None)
        _check_flags(add_generation_prompt=add_generation_prompt, tokenize=tokenize, return_dict=return_dict)
        if sanitize_control_tokens:
            raise TokenizerError(mention("sanitize_control_tokens", sanitize_control_tokens) + " is not offered")
        values = self._variables(template, name, tools, documents, merged_variables(variables, template_variables))
        values["add_generation_prompt"] = _with_prompt(bool(add_generation_prompt), continue_final_message)
        encoding: dict[str, Any] = {"padding": padding, "truncation": truncation}
        encoding |= {"max_length": max_length, "return_tensors": return_tensors}
        options = _call_options(encoding, tokenizer_kwargs)
        mask = return_assistant_tokens_mask
        _refuse_without_effect(tokenize, return_dict, mask, continue_final_message, options)
        batched = isinstance(conversation, Sequence) and bool(conversation) and isinstance(conversation[0], Sequence)
        conversations: Sequence[Any] = conversation if batched and conversation else [conversation]
        rendered = [
            self._rendered(check_messages(one), template, values, name, continue_final_message, mask)
            for one in conversations
        ]
        texts = [text for text, _ in rendered]
        whole = texts if batched else texts[0]
        if not tokenize:
            return whole
        if mask:
            return self._encoded_with_mask(whole, [spans for _, spans in rendered], options)
        encoded = self(whole, add_special_tokens=False, **options)
        return encoded if return_dict else encoded["input_ids"]

    def chat_template_variables(
        self, chat_template: str | None = None, tools: Sequence[Tool] | None = None
    ) -> frozenset[str]:
        """The names of the variables that the template which ``apply_chat_template`` would take reads.

        Errors: TokenizerError where there is no template, or it is malformed.
        """
        template, name = self._chosen_template(chat_template, tools is not None)
        return variables_read(template, source=name)

    def _variables(
        self, template: str, name: str, tools: object, documents: object, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the template gets beside the messages; what it does not read is said."""
        read = variables_read(template, source=name)
        check_variables(given, read, name, call_options=_call_names())
        values: dict[str, Any] = {
            key: value for key, value in self.special_tokens_map.items() if isinstance(value, str)
        }
        values.update((key, as_plain(value, f"the template variable {key!r}")) for key, value in given.items())
        values["tools"] = None if tools is None else _plain_tools(tools)
        values["documents"] = as_plain(_checked_documents(documents), "documents")
        for key in ("tools", "documents"):
            if values[key] and key not in read:
                warn_unread(name, key, f"the model will not see the {key}")
        return values

    def _rendered(
        self,
        messages: list[Message],
        template: str,
        values: Mapping[str, Any],
        name: str,
        continued: bool | str,
        with_spans: bool,
    ) -> tuple[str, list[Span]]:
        if self.use_default_system_prompt and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": LLAMA2_SYSTEM_PROMPT}, *messages]
        if continued:
            field = continued if isinstance(continued, str) else "content"
            return render_continued(template, values, messages, source=name, field=field), []
        values = {**values, "messages": messages}
        if with_spans:
            return render_with_spans(template, values, source=name)
        return render(template, values, source=name), []

    def _encoded_with_mask(
        self, texts: str | list[str], spans: Sequence[Sequence[Span]], options: Mapping[str, Any]
    ) -> BatchEncoding:
        encoded = self(texts, add_special_tokens=False, **{**options, "return_offsets_mapping": True})
        offsets = encoded["offset_mapping"] if options.get("return_offsets_mapping") else encoded.pop("offset_mapping")
        kind = kind_of(offsets)
        rows = plain_numbers(offsets)
        single = isinstance(texts, str) and kind is None and not options.get("return_overflowing_tokens")
        rows = [rows] if single else rows
        samples = plain_numbers(encoded.get("overflow_to_sample_mapping", list(range(len(rows)))))
        from .chat.assistant_mask import assistant_mask

        masks = [assistant_mask(row, spans[sample]) for row, sample in zip(rows, samples, strict=True)]
        encoded["assistant_masks"] = masks[0] if single else masks
        if kind is not None:
            encoded["assistant_masks"] = array_of("assistant_masks", masks, kind)
        return encoded

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Tool] | None = None) -> str:
        """The template that ``apply_chat_template`` would take.

        Errors: TokenizerError where there is none.
        """
        return self._chosen_template(chat_template, tools is not None)[0]

    def _chosen_template(self, asked: str | None, with_tools: bool) -> tuple[str, str]:
        """(template, what to call it in errors)."""
        available = self.chat_template
        several = isinstance(available, Mapping)
        named = available if isinstance(available, Mapping) else {} if available is None else {"default": available}
        if asked is not None:
            if not isinstance(asked, str):
                raise TokenizerError(mention("chat_template", asked, limit=80) + " is no text")
            if asked in named:
                return named[asked], f"{self.source} ({asked})"
            if several and "{" not in asked:
                raise TokenizerError(
                    f"{self.source} has no chat template called {asked!r:.80}",
                    hint=did_you_mean(asked, named, f"it has {', '.join(named)}"),
                )
            return asked, "chat_template"
        if with_tools and "tool_use" in named:
            return named["tool_use"], f"{self.source} (tool_use)"
        if "default" in named:
            return named["default"], self.source
        if named:
            raise TokenizerError(
                f"{self.source} has several chat templates and none is the default",
                hint=f"pass chat_template= one of {', '.join(named)}",
            )
        raise TokenizerError(
            f"{self.source} has no chat template: it is not a chat checkpoint, or the template was not saved with it",
            hint="use a chat or instruct checkpoint, or pass chat_template=...",
        )


def _check_flags(**flags: object) -> None:
    for name, value in flags.items():
        if value is not None and not isinstance(value, bool):
            raise TokenizerError(mention(name, value, limit=80) + " must be True or False")


def _with_prompt(asked: bool, continued: bool | str) -> bool:
    if not isinstance(continued, bool | str):
        raise TokenizerError(
            mention("continue_final_message", continued, limit=80) + " must be True, False or the name of a part"
        )
    if asked and continued:
        raise TokenizerError("add_generation_prompt and continue_final_message contradict each other")
    return asked


def _checked_documents(documents: object) -> list[Any] | None:
    if documents is None:
        return None
    if isinstance(documents, str | Mapping) or not isinstance(documents, Sequence):
        raise TokenizerError(f"documents must be a list, got {documents!r:.80}", hint="put a single one in a list")
    for place, document in enumerate(documents):
        if not isinstance(document, Mapping):
            raise TokenizerError(
                f"document {place} must be a mapping, got {document!r:.80}",
                hint='for example {"title": "Llamas", "text": "..."}',
            )
    return list(documents)


def _call_names() -> frozenset[str]:
    """What a tokenizer's call takes, beside texts and what a template decides."""
    return frozenset(field.name for field in fields(CallOptions)) - {"add_special_tokens", "is_split_into_words"}


def _plain_tools(tools: object) -> Any:
    from .chat.tool_schemas import as_tools  # which most prompts do without

    return as_plain(as_tools(tools), "tools")


def _call_options(own: Mapping[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of our own options that ask for something, and more that the tokenizer's call takes."""
    if more is not None and not isinstance(more, Mapping):
        raise TokenizerError(mention("tokenizer_kwargs", more, limit=80) + " must be a mapping of names to values")
    names = _call_names() - own.keys()
    for name in more or {}:
        if name in own:
            raise TokenizerError(f"tokenizer_kwargs: {name!r} is an argument of apply_chat_template itself")
        if name == "add_special_tokens":
            raise no_special_tokens(f"tokenizer_kwargs: there is no {name!r}")
        if name not in names:
            raise TokenizerError(
                f"tokenizer_kwargs: a tokenizer's call takes no {name!r} from a chat template",
                hint=did_you_mean(name, names, f"there are {', '.join(sorted(names))}"),
            )
    asked = {name: value for name, value in own.items() if value is not None and value is not False}
    if "max_length" in asked:
        asked["truncation"] = own["truncation"]  # a length alone cuts no conversation
    return {**asked, **(more or {})}


def _refuse_without_effect(
    tokenize: bool, return_dict: bool, mask: bool, continued: bool | str, options: Mapping[str, Any]
) -> None:
    """Options that do nothing together, which others drop without a word."""
    if not tokenize:
        flags = {"return_dict": return_dict, "return_assistant_tokens_mask": mask}
        ignored = [*options, *(name for name, value in flags.items() if value)]
        if ignored:
            raise TokenizerError(
                mention(ignored[0]) + " has no effect with " + mention("tokenize", False), hint="leave one of them out"
            )
    if mask and not return_dict:
        raise TokenizerError("return_assistant_tokens_mask needs return_dict=True, which holds the mask")
    if mask and continued:
        raise TokenizerError("return_assistant_tokens_mask and continue_final_message are not offered together")
