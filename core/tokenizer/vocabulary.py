"""Tokens, ids and special tokens of a tokenizer."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import overload

from ..arguments import checked_methods
from ..array_kinds import check_plain
from ..errors import TokenizerError
from ..messages import subject
from .declared import SPECIAL_ROLES, DeclaredTokens, TokenLike
from .engines.added_tokens import AddedToken


class RoleToken:
    """The text of a special token by its role, such as ``tokenizer.bos_token``; None where there is none."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.role = name

    @overload
    def __get__(self, tokenizer: None, owner: type) -> RoleToken: ...
    @overload
    def __get__(self, tokenizer: DeclaredTokens, owner: type) -> str | None: ...
    def __get__(self, tokenizer: DeclaredTokens | None, owner: type) -> RoleToken | str | None:
        return self if tokenizer is None else tokenizer._role_text(self.role)

    def __set__(self, tokenizer: DeclaredTokens, value: TokenLike | None) -> None:
        before = len(tokenizer)
        tokenizer._set_role(self.role, value)
        token_id = tokenizer._role_id(self.role)
        if token_id is not None:
            tokenizer._say_new({token_id: f"{self.role} {str(value)!r}"}, before)


class RoleTokenId:
    """The id of a special token by its role, such as ``tokenizer.bos_token_id``; None where there is none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.role = name.removesuffix("_id")
        self.__doc__ = f"The id of ``{self.role}``."

    @overload
    def __get__(self, tokenizer: None, owner: type) -> RoleTokenId: ...
    @overload
    def __get__(self, tokenizer: DeclaredTokens, owner: type) -> int | None: ...
    def __get__(self, tokenizer: DeclaredTokens | None, owner: type) -> RoleTokenId | int | None:
        return self if tokenizer is None else tokenizer._role_id(self.role)

    def __set__(self, tokenizer: Vocabulary, value: int | None) -> None:
        tokenizer._set_role(self.role, None if value is None else tokenizer.convert_ids_to_tokens(value))


@checked_methods
class Vocabulary(DeclaredTokens):
    """The part of a tokenizer that knows tokens by id and by text."""

    # -- ids and tokens

    @property
    def vocab_size(self) -> int:
        """Tokens of the base vocabulary, without added ones."""
        return self._engine.size

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id, added ones included."""
        vocabulary = self._engine.vocabulary()
        vocabulary.update((token.content, token_id) for token_id, token in sorted(self._added.items()))
        return vocabulary

    @property
    def vocab(self) -> dict[str, int]:
        """The same as ``get_vocab()``."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id -> token, of the tokens that are matched before segmentation."""
        return dict(sorted(self._added.items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Text -> id, of the same tokens."""
        return {token.content: token_id for token_id, token in sorted(self._added.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """The same as ``added_tokens_encoder``."""
        return self.added_tokens_encoder

    def _token_id(self, token: str) -> int | None:
        token_id = self._added_ids.get(token)
        return token_id if token_id is not None else self._engine.token_id(token)

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...  # type: ignore[overload-overlap]
    @overload
    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int]:
        """The id of a token, or of each; the unknown token's id for those there are none of.

        Errors: TokenizerError where a token is unknown and the vocabulary has no unknown token.
        """
        if not isinstance(tokens, str):
            if isinstance(tokens, bytes | Mapping) or not isinstance(tokens, Iterable):
                raise TokenizerError(
                    subject("tokens", tokens) + f" must be a str or a list of them, got {tokens!r:.80}"
                )
            return [self.convert_tokens_to_ids(token) for token in tokens]
        token_id = self._token_id(tokens)
        if token_id is None:
            token_id = self.unk_token_id
        if token_id is None:
            raise TokenizerError(f"{tokens!r} is not in the vocabulary, which has no unknown token")
        return token_id

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Iterable[int], skip_special_tokens: bool = False) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str | list[str]:
        """The token of an id, or of each (less the special ones); out of range is a TokenizerError."""
        if not is_one_id(ids):
            skip = set(self.all_special_ids) if skip_special_tokens else set()
            return [self.convert_ids_to_tokens(token_id) for token_id in as_ids(ids) if token_id not in skip]
        (token_id,) = as_ids(ids)
        token = self._engine.token_of(token_id, self._added)
        if token is None:
            raise TokenizerError(f"token id {token_id} is not in the vocabulary (ids 0 to {len(self) - 1})")
        return token

    def token_bytes(self, token_id: int) -> bytes | None:
        """The UTF-8 bytes a token stands for, perhaps part of a character; None where there is no such id."""
        return self._engine.bytes_of(token_id, self._added)

    def ids_without_token(self, size: int) -> list[int]:
        """The ids below ``size``, the rows of a model's vocabulary, that stand for no token here."""
        key = (size, len(self), len(self._added))
        if self._without_token[0] != key:
            self._without_token = key, self._engine.ids_without_token(size, self._added)
        return list(self._without_token[1])

    # -- special tokens

    bos_token = RoleToken("The token sequences begin with.")
    eos_token = RoleToken("The token that ends a text.")
    unk_token = RoleToken("The token for text that the vocabulary cannot express.")
    sep_token = RoleToken("The token between texts, of other models; Llamas have none.")
    pad_token = RoleToken("The token that fills up shorter rows; the original Llamas have none.")
    cls_token = RoleToken("The token that stands for a whole text, of other models; Llamas have none.")
    mask_token = RoleToken("The token that hides others in training, of other models; Llamas have none.")

    bos_token_id = RoleTokenId()
    eos_token_id = RoleTokenId()
    unk_token_id = RoleTokenId()
    sep_token_id = RoleTokenId()
    pad_token_id = RoleTokenId()
    cls_token_id = RoleTokenId()
    mask_token_id = RoleTokenId()

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """Role -> token text, of the roles that are set; the additional tokens that have none."""
        named: dict[str, str | list[str]] = {
            role: token.content for role, token in self._roles.items() if token is not None
        }
        others = [token for token in self.additional_special_tokens if token not in named.values()]
        if others:
            named["additional_special_tokens"] = others
        return named

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens without a role of their own, as declared."""
        return [token.content for token in self._additional]

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens: Iterable[TokenLike]) -> None:
        self.add_special_tokens({"additional_special_tokens": list(tokens)})

    extra_special_tokens = additional_special_tokens
    """The name of transformers 5."""

    @property
    def all_special_ids(self) -> list[int]:
        """Ids that carry no text: those with a role, the additional ones, control pieces; skipped on request."""
        first = [token_id for role in SPECIAL_ROLES if (token_id := self._role_id(role)) is not None]
        others = [token_id for token_id, token in sorted(self._added.items()) if token.special]
        return list(dict.fromkeys(first + others))

    @property
    def all_special_tokens(self) -> list[str]:
        """Texts of ``all_special_ids``."""
        return [self._added[token_id].content for token_id in self.all_special_ids]


def as_ids(token_ids: int | Iterable[int]) -> list[int]:
    """Ids as plain integers; arrays and tensors are welcome.

    Errors: TokenizerError for anything else, text and fractions among it.
    """
    check_plain(token_ids, "token_ids")
    listed = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
    if is_one_id(listed):
        return [_integer(listed)]
    if isinstance(listed, str | bytes | Mapping) or not isinstance(listed, Iterable):
        raise TokenizerError(f"token ids must be integers, got {listed!r:.80}")
    return [_integer(token_id) for token_id in listed]


def is_one_id(value: object) -> bool:
    """Whether a value is one integer, of Python or of an array library."""
    return isinstance(value, int) or (hasattr(value, "__index__") and not getattr(value, "shape", ()))


def _integer(value: object) -> int:
    if isinstance(value, int):
        return value
    if is_one_id(value):
        return int(operator.index(value))  # type: ignore[arg-type]
    hint = "give rows of one depth" if isinstance(value, list | tuple) else None
    raise TokenizerError(f"token ids must be integers, got {value!r:.80}", hint=hint)
