"""Tokens, ids and special tokens of a tokenizer."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import overload

from ..errors import TokenizerError
from ..messages import subject
from .declared import SPECIAL_ROLES, DeclaredTokens, TokenLike
from .engines.added_tokens import AddedToken


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

    # -- special tokens

    def _role_text(self, role: str) -> str | None:
        token = self._roles[role]
        return None if token is None else token.content

    @property
    def bos_token(self) -> str | None:
        """The token sequences begin with."""
        return self._role_text("bos_token")

    @bos_token.setter
    def bos_token(self, value: TokenLike | None) -> None:
        self._set_role("bos_token", value)

    @property
    def bos_token_id(self) -> int | None:
        """The id of ``bos_token``."""
        return self._role_id("bos_token")

    @bos_token_id.setter
    def bos_token_id(self, value: int | None) -> None:
        self._set_role("bos_token", None if value is None else self.convert_ids_to_tokens(value))

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text."""
        return self._role_text("eos_token")

    @eos_token.setter
    def eos_token(self, value: TokenLike | None) -> None:
        self._set_role("eos_token", value)

    @property
    def eos_token_id(self) -> int | None:
        """The id of ``eos_token``."""
        return self._role_id("eos_token")

    @eos_token_id.setter
    def eos_token_id(self, value: int | None) -> None:
        self._set_role("eos_token", None if value is None else self.convert_ids_to_tokens(value))

    @property
    def unk_token(self) -> str | None:
        """The token for text that the vocabulary cannot express."""
        return self._role_text("unk_token")

    @unk_token.setter
    def unk_token(self, value: TokenLike | None) -> None:
        self._set_role("unk_token", value)

    @property
    def unk_token_id(self) -> int | None:
        """The id of ``unk_token``."""
        return self._role_id("unk_token")

    @unk_token_id.setter
    def unk_token_id(self, value: int | None) -> None:
        self._set_role("unk_token", None if value is None else self.convert_ids_to_tokens(value))

    @property
    def pad_token(self) -> str | None:
        """The token that fills up shorter rows; the original Llamas have none."""
        return self._role_text("pad_token")

    @pad_token.setter
    def pad_token(self, value: TokenLike | None) -> None:
        self._set_role("pad_token", value)

    @property
    def pad_token_id(self) -> int | None:
        """The id of ``pad_token``."""
        return self._role_id("pad_token")

    @pad_token_id.setter
    def pad_token_id(self, value: int | None) -> None:
        self._set_role("pad_token", None if value is None else self.convert_ids_to_tokens(value))

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """Role -> token text, of the roles that are set."""
        named: dict[str, str | list[str]] = {
            role: token.content for role, token in self._roles.items() if token is not None
        }
        if self._additional:
            named["additional_special_tokens"] = self.additional_special_tokens
        return named

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens without a role of their own, as declared."""
        return [token.content for token in self._additional]

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
    hint = "use batch_decode for several rows" if isinstance(value, list | tuple) else None
    raise TokenizerError(f"token ids must be integers, got {value!r:.80}", hint=hint)
