"""Variables of chat templates: which of those that a caller gives a template reads, and what was probably meant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ...errors import TokenizerError, warn
from ...messages import closest, few, mention

TEMPLATE_OPTIONS = (
    "conversation",
    "tools",
    "documents",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "sanitize_control_tokens",
    "tokenizer_kwargs",
    "template_variables",
)
"""What ``apply_chat_template`` takes beside the template's own variables."""
_OWN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Variables that are made from the options."""
_MISSPELT = 0.75  # `add_gen_prompt` and `date_str` are as close as this, `enable_thinking` is not to `thinking`


def check_variables(
    given: Mapping[str, Any], read: Collection[str], source: str, *, call_options: Collection[str] = ()
) -> None:
    """Refuse variables that are misspelt options, and warn of others that the template never reads.

    Args:
        given: what the caller gives by keyword.
        read: the names that the template reads.
        source: what to call the template.
        call_options: names that the tokenizer takes when it is called.

    Errors: TokenizerError with the name that was probably meant.
    """
    for name in given:
        if name in _OWN:
            instead = "conversation" if name == "messages" else name
            raise TokenizerError(
                f"the template variable {name!r} is made from " + mention(instead), hint="give it as that argument"
            )
        if name in read:
            continue
        if name in TEMPLATE_OPTIONS:
            raise TokenizerError(
                f"the chat template of {source} does not read {name!r}, which is an option of apply_chat_template",
                hint="give it to tokenizer.apply_chat_template, beside the variables",
            )
        what = f"apply_chat_template has no option {name!r}, and the chat template of {source} does not read it"
        if name == "add_special_tokens":
            raise no_special_tokens(what)
        if name in call_options:
            raise TokenizerError(what, hint=f"pass tokenizer_kwargs={{{name!r}: ...}}")
        meant = closest(name, [*TEMPLATE_OPTIONS, *sorted(read), *call_options], cutoff=_MISSPELT)
        if meant is not None:
            elsewhere = meant in call_options and meant not in TEMPLATE_OPTIONS and meant not in read
            hint = f"tokenizer_kwargs={{{meant!r}: ...}}" if elsewhere else repr(meant)
            raise TokenizerError(what, hint=f"did you mean {hint}?")
        others = sorted(set(read) - _OWN)
        warn_unread(source, name, f"it reads {few(others)}" if others else "")


def merged_variables(variables: Mapping[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    """The variables that are given by keyword and those of ``template_variables``; one in both is an error."""
    if more is not None and not isinstance(more, Mapping):
        raise TokenizerError(mention("template_variables", more, limit=80) + " must be a mapping of names to values")
    twice = sorted(variables.keys() & (more or {}).keys())
    if twice:
        raise TokenizerError(f"the template variable {twice[0]!r} is given twice: by keyword and in template_variables")
    return {**variables, **(more or {})}


def no_special_tokens(what: str) -> TokenizerError:
    """Why a conversation's special tokens are no option."""
    return TokenizerError(what, hint="leave it out: the template writes the special tokens itself, and none are added")


def warn_unread(source: str, name: str, more: str = "") -> None:
    """Say that a template is given what it does not read."""
    warn(f"the chat template of {source} does not read {name!r}, so it has no effect" + (f"; {more}" if more else ""))
