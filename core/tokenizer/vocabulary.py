"""Tokens, ids and special tokens of a tokenizer."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from ..errors import TokenizerError
from ..messages import subject
from .engines.added_tokens import AddedToken
from .engines.engine import Engine
from .engines.template import SpecialTokensTemplate

TokenLike = str | AddedToken
SPECIAL_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass
class SpecialTokens:
    """What the constructor is told about special tokens; ``added`` maps ids to tokens that files declare."""

    roles: dict[str, object] = field(default_factory=dict)
    additional: Iterable[object] = ()
    added: Mapping[int, AddedToken] = field(default_factory=dict)
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    template: SpecialTokensTemplate | None = None  # of a tokenizer.json, used until bos or eos are changed


class Vocabulary:
    """The part of a tokenizer that knows tokens by id and by text."""

    def __init__(self, engine: Engine, special: SpecialTokens, *, source: str) -> None:
        self._engine = engine
        self.source = source
        self._added: dict[int, AddedToken] = {}
        self._added_ids: dict[str, int] = {}
        self._roles: dict[str, AddedToken | None] = dict.fromkeys(SPECIAL_ROLES)
        self._template = special.template
        for token_id, token in sorted(special.added.items()):
            self._declare_at(token_id, token)
        self._additional = [
            AddedToken.parse(token, where=f"{source}: additional_special_tokens", special=True)
            for token in special.additional
        ]
        for role, value in special.roles.items():
            self._roles[role] = None if value is None else self._declared(value, f"{source}: {role}")
        for token in self._additional:
            self._declare(token)
        self._engine.set_added_tokens(self._added)
        self._add_bos = self._initial(special.add_bos_token, "bos_token")
        self._add_eos = self._initial(special.add_eos_token, "eos_token")
        if special.add_bos_token is not None or special.add_eos_token is not None:
            self._template = None

    def _initial(self, asked: bool | None, role: str) -> bool:
        """add_bos_token or add_eos_token: as asked, else as the file's template does it."""
        if asked is not None:
            if asked and self._roles[role] is None:
                raise TokenizerError(
                    f"{self.source}: add_{role} is true but there is no {role}", hint=f"pass {role}=..."
                )
            return asked
        if self._template is None:
            return False
        steps = self._template.single
        edge = steps[0 if role == "bos_token" else -1][0] if steps else ()
        return isinstance(edge, tuple) and self._role_id(role) in edge

    # -- adding tokens

    def _declared(self, value: object, where: str) -> AddedToken:
        token = AddedToken.parse(value, where=where, special=True)
        known = self._added.get(self._added_ids.get(token.content, -1))
        if known is not None and isinstance(value, str):  # a bare name must not undo lstrip and rstrip from the files
            token = replace(known, special=True)
        self._declare(token)
        return token

    def _declare(self, token: AddedToken) -> int:
        known = self._added_ids.get(token.content)
        token_id = known if known is not None else self._engine.token_id(token.content)
        if token_id is None:
            token_id = len(self)
        self._declare_at(token_id, token)
        return token_id

    def _declare_at(self, token_id: int, token: AddedToken) -> None:
        known = self._added_ids.get(token.content, self._engine.token_id(token.content))
        if known is not None and known != token_id:
            raise TokenizerError(
                f"{self.source}: token {token.content!r} is declared as id {token_id} but has the id {known}",
                hint="the tokenizer files of this checkpoint contradict each other: fetch them again",
            )
        present = self._added.get(token_id)
        if present is not None and present.content != token.content:
            raise TokenizerError(
                f"{self.source}: id {token_id} is declared as {token.content!r} but is {present.content!r}",
                hint="the tokenizer files of this checkpoint contradict each other: fetch them again",
            )
        if not 0 <= token_id < 1 << 31:
            raise TokenizerError(f"{self.source}: token {token.content!r} has the impossible id {token_id}")
        self._added[token_id] = token
        self._added_ids[token.content] = token_id

    def add_tokens(self, new_tokens: TokenLike | Iterable[TokenLike], special_tokens: bool = False) -> int:
        """Add tokens that are never split; returns how many are new ids, for which a model needs embedding rows."""
        tokens = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        before = len(self)
        for value in tokens:
            token = AddedToken.parse(value, where="add_tokens")
            known = self._added.get(self._added_ids.get(token.content, -1))
            special = special_tokens or token.special or (known is not None and known.special)
            self._declare(replace(token, special=special))
        self._engine.set_added_tokens(self._added)
        return len(self) - before

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_additional_special_tokens: bool = True
    ) -> int:
        """Set special tokens by role (``{"pad_token": "<pad>"}``); returns how many are new ids.

        ``additional_special_tokens`` (or ``extra_special_tokens``) is a list; it replaces the previous list, whose
        tokens keep their ids, unless ``replace_additional_special_tokens`` is false.
        """
        before = len(self)
        for role, value in special_tokens_dict.items():
            if role in ("additional_special_tokens", "extra_special_tokens"):
                if isinstance(value, str) or not isinstance(value, Iterable):
                    raise TokenizerError(f"{role} must be a list of tokens, got {value!r:.80}")
                tokens = [AddedToken.parse(token, where=role, special=True) for token in value]
                for token in tokens:
                    self._declare(token)
                kept = [] if replace_additional_special_tokens else [t for t in self._additional if t not in tokens]
                self._additional = kept + tokens
            elif role in SPECIAL_ROLES:
                self._set_role(role, value)
            else:
                raise TokenizerError(
                    f"{role!r} is no special token role",
                    hint=f"known: {', '.join(SPECIAL_ROLES)}, additional_special_tokens",
                )
        self._engine.set_added_tokens(self._added)
        return len(self) - before

    def _set_role(self, role: str, value: object) -> None:
        self._roles[role] = None if value is None else self._declared(value, role)
        self._engine.set_added_tokens(self._added)
        if role in ("bos_token", "eos_token"):
            self._template = None  # the file's template speaks of the old token
            if value is None:  # nothing is left to add
                if role == "bos_token":
                    self._add_bos = False
                else:
                    self._add_eos = False

    def update_post_processor(self) -> None:
        """Surround sequences by the current bos and eos tokens as add_bos_token and add_eos_token say.

        Setting any of the four does so at once; calling this drops what a tokenizer.json had in its place.

        Errors: TokenizerError where a token is to be added but is None.
        """
        for flag, role in ((self._add_bos, "bos_token"), (self._add_eos, "eos_token")):
            if flag and self._roles[role] is None:
                raise TokenizerError(f"add_{role} is true but there is no {role}", hint=f"set tokenizer.{role} first")
        self._template = None

    def template(self) -> SpecialTokensTemplate:
        """The special tokens put around sequences."""
        if self._template is not None:
            return self._template
        before = [self._role_id("bos_token")] if self._add_bos else []
        after = [self._role_id("eos_token")] if self._add_eos else []
        return SpecialTokensTemplate.around([i for i in before if i is not None], [i for i in after if i is not None])

    @property
    def add_bos_token(self) -> bool:
        """Whether sequences begin with the bos token."""
        return self._add_bos

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._add_bos = bool(value)
        self.update_post_processor()

    @property
    def add_eos_token(self) -> bool:
        """Whether sequences end with the eos token."""
        return self._add_eos

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._add_eos = bool(value)
        self.update_post_processor()

    # -- ids and tokens

    @property
    def vocab_size(self) -> int:
        """Tokens of the base vocabulary, without added ones."""
        return self._engine.size

    def __len__(self) -> int:
        """The rows an embedding needs for every token: one more than the greatest id."""
        return max(self._engine.size, max(self._added, default=-1) + 1)

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

    def _role_id(self, role: str) -> int | None:
        token = self._roles[role]
        return None if token is None else self._added_ids[token.content]

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
