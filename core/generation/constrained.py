"""A row that is held to a constraint: tokens that may not follow are impossible."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..constraints.asked import Asked
from ..errors import GenerationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..constraints.protocol import CompiledConstraint, ConstraintState, ConstraintVocabulary
    from .options import GenerationOptions
    from .streaming import StreamDecoder


class Decodes(Protocol):
    """What a row's constraint asks of a tokenizer, beside its tokens' bytes."""

    def stream_decoder(self, prompt_ids: Sequence[int] = ()) -> StreamDecoder: ...


@dataclass(frozen=True, eq=False)
class Constraint:
    """What all rows of a request are held to.

    Attributes:
        closing: ids that end a text and are no part of it: possible where the constraint lets the text end.
    """

    asked: Asked
    compiled: CompiledConstraint
    vocabulary: ConstraintVocabulary
    closing: NDArray[np.int64]
    tokenizer: Decodes

    def start(self, prompt_ids: Sequence[int]) -> Constrained:
        """The state of a row behind its prompt."""
        return Constrained(self, self.compiled.start(), self._dropped(prompt_ids))

    def parsed(self, token_ids: Sequence[int]) -> Any:
        """What a complete text means.

        Raises:
            ValueError: a model's own validator refuses it.
        """
        special = {*self.vocabulary.special, *self.closing.tolist()}
        whole = b"".join(self.vocabulary.tokens[i] for i in token_ids if i not in special)
        return self.asked.parse(whole.decode("utf-8", "replace"))

    def _dropped(self, prompt_ids: Sequence[int]) -> NDArray[np.int64] | None:
        """Ids whose first space would not be in the text, as it would stand at the text's very beginning."""
        if not set(prompt_ids) <= set(self.vocabulary.special):
            return None
        with_space: NDArray[np.int64] = self.vocabulary.kept("with space", self._with_space)
        # A space that is a byte token stays; those of words all go, or none of them.
        alone = [i for i in with_space if self.vocabulary.tokens[i] == b" "]
        words = [i for i in with_space if self.vocabulary.tokens[i] != b" "]
        lost = [i for i in alone if not self._begins_with_space(prompt_ids, i)]
        if words and not self._begins_with_space(prompt_ids, words[0]):
            lost += words
        return np.array(lost, np.int64) if lost else None

    def _begins_with_space(self, prompt_ids: Sequence[int], token_id: int) -> bool:
        decoder = self.tokenizer.stream_decoder(prompt_ids)
        return (decoder.push(int(token_id)) + decoder.finish()).startswith(" ")

    def _with_space(self) -> NDArray[np.int64]:
        return np.array([i for i, token in enumerate(self.vocabulary.tokens) if token.startswith(b" ")], np.int64)


class NothingPossible(GenerationError):
    """A constraint and other options leave no token to a row."""


class Constrained:
    """One row's place in its constraint; the last of its logits' states.

    Attributes:
        finished: nothing but the end can follow.
    """

    def __init__(self, constraint: Constraint, state: ConstraintState, dropped: NDArray[np.int64] | None) -> None:
        self._constraint, self._state, self._dropped = constraint, state, dropped
        self._bits = np.zeros(len(constraint.vocabulary) // 32 + 1, np.uint32)
        self._allowed: NDArray[np.bool_] | None = None
        self._closed = False
        self.finished = state.finished

    @property
    def active(self) -> bool:
        """Whether it holds anything back at this step."""
        return not self._closed

    @property
    def complete(self) -> bool:
        """Whether the text so far is all that the constraint asks for."""
        return self._state.accepting

    def apply(self, row: NDArray[np.float64]) -> None:
        """Make impossible what may not follow.

        Raises:
            NothingPossible: nothing is left.
        """
        np.copyto(row, -np.inf, where=~self.allowed())
        if row.max() == -np.inf:
            raise NothingPossible(
                f"{self._constraint.asked.name} and the other options leave no token possible here",
                hint="logit_bias, bad_words_ids, suppress_tokens, no_repeat_ngram_size or min_new_tokens forbid what "
                "would have to follow",
            )

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may follow ``[vocab]``; computed once a step."""
        if self._allowed is None:
            self._state.fill(self._bits)
            bits = self._bits.view(np.uint8)
            self._allowed = np.unpackbits(bits, bitorder="little", count=len(self._constraint.vocabulary)).view(bool)
            if self._dropped is not None:
                self._allowed[self._dropped] = False
            if self._state.accepting:
                self._allowed[self._constraint.closing] = True
        return self._allowed

    def append(self, token_id: int) -> None:
        """Take the next token into account."""
        if self._closed:
            return
        if self._state.accepting and token_id in self._constraint.closing:
            self.close()
            return
        self._state.advance(token_id)
        self._allowed = self._dropped = None
        self.finished = self._state.finished
        if not self.finished and self._state.accepting and not len(self._constraint.closing):
            self.finished = not self.allowed().any()

    def close(self) -> None:
        """Hold nothing back any more: the row has ended."""
        self._closed = True

    def fork(self) -> Constrained:
        """A copy that goes its own way."""
        other = copy.copy(self)
        other._state, other._bits = self._state.fork(), self._bits.copy()
        return other

    def outcome(self, token_ids: Sequence[int], cut: str | None, ended_by: str) -> tuple[Any, str | None]:
        """What the row's text means, and why it means nothing where it is not complete.

        Args:
            cut: the stop string that the text was cut before.
            ended_by: what ended it, as messages say it.
        """
        asked = self._constraint.asked
        if cut is not None or not self.complete:
            return None, f"{ended_by} ended the text before {asked.name} was complete"
        try:
            return self._constraint.parsed(token_ids), None
        except Exception as error:  # a model's validators are somebody's code
            return None, f"the text follows {asked.name}, but: {error}"


def make_constraint(
    options: GenerationOptions,
    tokenizer: Decodes | None,
    vocab_size: int,
    ending: Mapping[int, int | str],
) -> Constraint | None:
    """What a request's rows are held to; compiled here, in the thread of whoever asks.

    Raises:
        GenerationError: what is wrong with it, and where; there is no tokenizer.
    """
    asked = Asked.of(vars(options))
    if asked is None:
        return None
    if tokenizer is None:
        raise GenerationError(f"{asked.name} needs a tokenizer, and this model has none")
    from ..constraints.compiling import compiled, vocabulary_of

    theirs: Any = tokenizer
    ready = compiled(asked, theirs, vocab_size)
    vocabulary = vocabulary_of(theirs, vocab_size)
    special = {*vocabulary.special, *options.eos_token_id}
    closing = np.array([i for i in ending if i in special or not vocabulary.tokens[i]], np.int64)
    return Constraint(asked, ready, vocabulary, closing, tokenizer)
