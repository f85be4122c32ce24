"""The kinds of a constructor's arguments, checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import TokenizerError
from ..messages import subject
from .engines.added_tokens import AddedToken


def check_flags(**flags: object) -> None:
    """Raise an error for a flag that is neither true nor false, nor ``None`` for what the files say."""
    for name, value in flags.items():
        if value is not None and not isinstance(value, bool):
            raise TokenizerError(subject(name, value) + f" must be true, false or None, got {value!r:.80}")


def check_roles(roles: Mapping[str, object]) -> None:
    """Raise an error for a special token that is no token."""
    for role, value in roles.items():
        if value is not None:
            AddedToken.parse(value, where=role)


def listed_tokens(name: str, tokens: object) -> list[AddedToken]:
    """The special tokens of an argument that is a list of them; ``None`` is none.

    Errors: TokenizerError for anything else; of a dict, whose keys transformers makes attributes, what to give.
    """
    if tokens is None:
        return []
    if isinstance(tokens, Mapping) and tokens:
        raise TokenizerError(
            subject(name, tokens) + " is a dict, whose keys would be attributes, which are not offered",
            hint="give the list of its values",
        )
    if isinstance(tokens, str | bytes | AddedToken) or not isinstance(tokens, Iterable):
        raise TokenizerError(subject(name, tokens) + f" must be a list of tokens, got {tokens!r:.80}")
    return [AddedToken.parse(token, where=name, special=True) for token in tokens]


def tokens_by_id(name: str, tokens: object) -> dict[int, AddedToken]:
    """The tokens of an argument that is a dict of ids and tokens; ``None`` is none.

    Errors: TokenizerError for anything else.
    """
    if tokens is None:
        return {}
    if not isinstance(tokens, Mapping):
        raise TokenizerError(subject(name, tokens) + f" must be a dict of ids and tokens, got {tokens!r:.80}")
    return {token_id(key, name): AddedToken.parse(token, where=f"{name}[{key!r:.20}]") for key, token in tokens.items()}


def token_id(value: object, where: str) -> int:
    """An id: a whole number from 0 up, or the text of one, as JSON's keys are."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise TokenizerError(f"{where}: a token id must be a whole number from 0 up, got {value!r:.80}")
