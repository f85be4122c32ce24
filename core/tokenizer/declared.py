"""Tokens that are declared beside the engine's vocabulary: added ones, special ones, those put around sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..arguments import checked_methods
from ..errors import TokenizerError, warn
from ..messages import few
from .checked_arguments import listed_tokens
from .engines.added_tokens import AddedToken
from .engines.engine import Engine
from .engines.special_tokens_template import SpecialTokensTemplate

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


@checked_methods
class DeclaredTokens:
    """The part of a tokenizer that knows the tokens declared beside the engine's own, and which of them is special."""

    def __init__(self, engine: Engine, special: SpecialTokens, *, source: str) -> None:
        self._engine = engine
        self.source = source
        self._added: dict[int, AddedToken] = {}
        self._added_ids: dict[str, int] = {}
        self._roles: dict[str, AddedToken | None] = dict.fromkeys(SPECIAL_ROLES)
        self._template = special.template
        self._without_token: tuple[tuple[int, ...], list[int]] = ((), [])
        for token_id, token in sorted(special.added.items()):
            self._declare_at(token_id, token)
        self._additional = [
            AddedToken.parse(token, where=f"{source}: additional_special_tokens", special=True)
            for token in special.additional
        ]
        before, new = len(self), dict[int | None, str]()
        for role, value in special.roles.items():
            self._roles[role] = None if value is None else self._declared(value, f"{source}: {role}")
            new.setdefault(self._role_id(role), f"{role} {str(value)!r}")
        for token in self._additional:
            self._declare(token)
        self._say_new({token_id: named for token_id, named in new.items() if token_id is not None}, before)
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
        tokens = [new_tokens] if isinstance(new_tokens, str | AddedToken) else new_tokens
        if isinstance(tokens, bytes | Mapping) or not isinstance(tokens, Iterable):
            raise TokenizerError(f"add_tokens takes a token or a list of them, not {tokens!r:.80}")
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
        if not isinstance(special_tokens_dict, Mapping):
            raise TokenizerError(f"add_special_tokens takes tokens by role, not {special_tokens_dict!r:.80}")
        for role, value in special_tokens_dict.items():
            if role in ("additional_special_tokens", "extra_special_tokens"):
                tokens = listed_tokens(role, value)
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

    def _say_new(self, named: Mapping[int, str], before: int) -> None:
        """Say which roles got ids that no file declares, as the embedding ends before them; the others ask for ids."""
        new = {token_id: text for token_id, text in named.items() if token_id >= before}
        if new:
            become = "is not in the vocabulary; it becomes id"
            if len(new) > 1:
                become = "are not in the vocabulary; they become ids"
            warn(
                f"{self.source}: {few([*new.values()], 4)} {become} {few([*map(str, new)], 4)}, for which a model's "
                "embedding must have a row: model.resize_token_embeddings(len(tokenizer))"
            )

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

    def __len__(self) -> int:
        """The rows an embedding needs for every token: one more than the greatest id."""
        return max(self._engine.size, max(self._added, default=-1) + 1)

    def _role_text(self, role: str) -> str | None:
        token = self._roles[role]
        return None if token is None else token.content

    def _role_id(self, role: str) -> int | None:
        token = self._roles[role]
        return None if token is None else self._added_ids[token.content]
