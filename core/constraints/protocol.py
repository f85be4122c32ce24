"""What a plugin that holds text to schemas and grammars has to be, and the vocabulary it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from ..public import for_plugins

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@for_plugins
class ConstraintVocabulary:
    """The tokens of a model as bytes: what a compiler is given to know which of them may follow.

    Attributes:
        tokens: of each id the bytes it adds to the text; empty for an id that stands for no token.
        special: ids that are no text, such as those that begin and end texts.
        encode: a text's ids as its tokenizer makes them; their bytes together are the text's, or it gives ``None``.

    >>> vocabulary = ConstraintVocabulary([b"a", b"b", b"ab", b""], [3], lambda text: None)
    >>> len(vocabulary), vocabulary.greedy(b"aab")
    (4, [0, 2])
    """

    def __init__(
        self, tokens: Sequence[bytes], special: Sequence[int], encode: Callable[[str], list[int] | None]
    ) -> None:
        self.tokens = tuple(tokens)
        self.special = tuple(special)
        self.encode = encode
        self._kept: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        """Ids by their bytes; of several the first, as byte tokens and rarities stand behind."""
        special = set(self.special)
        found: dict[bytes, int] = {}
        for token_id, token in enumerate(self.tokens):
            if token and token_id not in special:
                found.setdefault(token, token_id)
        return found

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids), default=0)

    def greedy(self, text: bytes) -> list[int]:
        """The ids of the longest tokens from left to right; what no token begins is left out."""
        found, place = [], 0
        while place < len(text):
            for length in range(min(self._longest, len(text) - place), 0, -1):
                token_id = self._ids.get(text[place : place + length])
                if token_id is not None:
                    found.append(token_id)
                    break
            else:
                length = 1
            place += length
        return found

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """What a compiler keeps beside a vocabulary, made when it is first asked for.

        It lives as long as the vocabulary, so it must not refer to it.
        """
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


@for_plugins
class ConstraintState(Protocol):
    """Where one text stands: what may follow what it has so far.

    Attributes:
        accepting: whether the text may end here.
        finished: whether nothing but the end may follow.
    """

    @property
    def accepting(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    def fill(self, bits: NDArray[np.uint32]) -> None:
        """Set the bit of each token that may follow, and no other: token ``i`` is bit ``i % 32`` of ``bits[i // 32]``.

        Ids that end the text are none of its business. `bits` has room for one id more than the vocabulary.

        Raises:
            GenerationError: it cannot be told, as a limit was reached.
        """
        ...

    def advance(self, token_id: int) -> None:
        """Take the next token into account.

        Raises:
            GenerationError: the token may not follow.
        """
        ...

    def fork(self) -> ConstraintState:
        """A copy that goes its own way."""
        ...


@for_plugins
class CompiledConstraint(Protocol):
    """A schema or grammar that is ready for a vocabulary; texts of many threads share it."""

    def start(self) -> ConstraintState:
        """The state of an empty text."""
        ...


@for_plugins
class ConstraintCompiler(Protocol):
    """What turns a schema or grammar into what may follow a text."""

    def compile(self, kind: str, source: str, vocabulary: ConstraintVocabulary) -> CompiledConstraint:
        """Compile, within limits on time and memory; called from many threads.

        Args:
            kind: ``"json_schema"``, ``"regex"`` or ``"grammar"`` (Lark), whose text is `source`; or ``"choices"``,
                of which `source` is a JSON list of strings.

        Raises:
            UnsupportedError: it knows no such kind.
            GenerationError: what is wrong with the source, and where in it; or that it is too large.
        """
        ...
