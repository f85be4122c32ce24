"""A constraint made ready for a tokenizer: once for each of both, in the thread that asks for it."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary, ref

from ..errors import GenerationError
from ..plugin_system.hookspecs import ConstraintDescriptor
from ..plugin_system.manager import plugin_manager
from ..settings.listing import listing_settings
from .protocol import CompiledConstraint, ConstraintVocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .asked import Asked

LONGEST_SOURCE = 1_000_000
"""Characters of a schema or grammar at most."""

KEPT = 64
"""Compiled constraints that are kept for each vocabulary."""


class TokenizerOfBytes(Protocol):
    """What constraints ask of a tokenizer."""

    @property
    def all_special_ids(self) -> Sequence[int]: ...
    def __len__(self) -> int: ...
    def token_bytes(self, token_id: int) -> bytes | None: ...
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...


class _Prepared:
    """A vocabulary, once it is made, and what was compiled for it."""

    def __init__(self) -> None:
        self.compiled: OrderedDict[tuple[str, str, str], CompiledConstraint] = OrderedDict()
        self.lock = threading.Lock()
        self._vocabulary: ConstraintVocabulary | None = None

    def vocabulary(self, make: Callable[[], ConstraintVocabulary]) -> ConstraintVocabulary:
        """The vocabulary, which the first that asks makes; others of the same tokenizer wait for it."""
        with self.lock:
            if self._vocabulary is None:
                self._vocabulary = make()
            return self._vocabulary


_prepared: WeakKeyDictionary[Any, dict[tuple[int, ...], _Prepared]] = WeakKeyDictionary()

_preparing = [threading.Lock()]
"""Held while an entry is found or begun, never while a vocabulary is made."""


def _begin_anew() -> None:
    """Open in a forked child the locks that threads of its parent held: nobody there would."""
    _preparing[0] = threading.Lock()
    for known in list(_prepared.values()):
        for prepared in list(known.values()):
            prepared.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def compiled(asked: Asked, tokenizer: TokenizerOfBytes, vocab_size: int) -> CompiledConstraint:
    """The constraint for texts of a tokenizer, compiled unless it is known.

    Raises:
        GenerationError: what is wrong with it and where, or that it is too large.
        PluginError: the compiler's library is not installed.
    """
    if len(asked.source) > LONGEST_SOURCE:
        raise GenerationError(
            f"{asked.name} is {len(asked.source):,} characters long; at most {LONGEST_SOURCE:,} are compiled"
        )
    if not asked.source.isascii() and any("\ud800" <= character <= "\udfff" for character in asked.source):
        raise GenerationError(f"{asked.kind} holds half of a surrogate pair, which no text has")
    engine = listing_settings().constraints
    prepared = _prepared_for(tokenizer, vocab_size)
    key = (engine, asked.kind, asked.source)
    with prepared.lock:
        if (known := prepared.compiled.get(key)) is not None:
            prepared.compiled.move_to_end(key)
            return known
    vocabulary = vocabulary_of(tokenizer, vocab_size)
    found: CompiledConstraint = _compiler(engine).compile(asked.kind, asked.source, vocabulary)
    with prepared.lock:
        prepared.compiled[key] = found
        while len(prepared.compiled) > KEPT:
            prepared.compiled.popitem(last=False)
    return found


def vocabulary_of(tokenizer: TokenizerOfBytes, vocab_size: int) -> ConstraintVocabulary:
    """The bytes of each id below `vocab_size`, made once for each tokenizer."""
    prepared = _prepared_for(tokenizer, vocab_size)
    return prepared.vocabulary(lambda: _vocabulary(tokenizer, vocab_size, tuple(tokenizer.all_special_ids)))


def _compiler(name: str) -> Any:
    descriptor = plugin_manager().find(ConstraintDescriptor, name)
    return _made(descriptor.load())


@lru_cache(8)
def _made(kind: Any) -> Any:
    return kind()


def _prepared_for(tokenizer: TokenizerOfBytes, vocab_size: int) -> _Prepared:
    if not callable(getattr(tokenizer, "token_bytes", None)):
        raise GenerationError(
            f"a constraint needs to know the bytes of each token, which a {type(tokenizer).__name__} does not say",
            hint="leave out tokenizer=, and the model's own is taken",
        )
    key = (vocab_size, len(tokenizer), *tokenizer.all_special_ids)
    with _preparing[0]:
        known = _prepared.setdefault(tokenizer, {})
        if key not in known:
            known.clear()  # tokens were added: what was compiled before is of another vocabulary
            known[key] = _Prepared()
        return known[key]


def _vocabulary(tokenizer: TokenizerOfBytes, vocab_size: int, special: Sequence[int]) -> ConstraintVocabulary:
    tokens = tuple(tokenizer.token_bytes(token_id) or b"" for token_id in range(vocab_size))
    theirs = ref(tokenizer)  # which must not keep the key of its own entry

    def encode(text: str) -> list[int] | None:
        own = theirs()
        ids = [] if own is None else own.encode(text, add_special_tokens=False)
        return ids if b"".join(tokens[i] for i in ids if i < vocab_size) == text.encode() else None

    return ConstraintVocabulary(tokens, [i for i in special if i < vocab_size], encode)
