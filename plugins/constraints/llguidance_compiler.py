"""llguidance: JSON schemas, regular expressions, Lark grammars and choices as masks of tokens.

Source: https://github.com/guidance-ai/llguidance. Its lexer and parser are in Rust and work without the GIL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...core.constraints.protocol import ConstraintVocabulary
from ...core.errors import GenerationError, UnsupportedError
from .deep_stack import on_deep_stack
from .schema_places import place_of_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIMITS = {
    "initial_lexer_fuel": 1_000_000,  # about 20 ms of building lexers
    "max_grammar_size": 500_000,
    "step_lexer_fuel": 200_000,  # about 15 ms of a step
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 250_000,  # of 1 to 2 kB
}
"""What a grammar may take, in llguidance's units; its own defaults, written out so that they stay."""

JSON_SPACE = r" |\n( {2}){0,12}"
"""White space between JSON's tokens: one space, or a new line and its indentation.

JSON allows any amount, in which a small model can go on for ever. A schema's own ``"x-guidance"`` holds over it.
"""


SHALLOW = 1_000
"""Characters of a source whose rules cannot follow each other deeper than any thread's stack."""


class LLGuidance:
    """Compiles by llguidance; a ``polyllama.extend.ConstraintCompiler``."""

    def compile(self, kind: str, source: str, vocabulary: ConstraintVocabulary) -> LLConstraint:
        """Compile one of the four kinds."""
        library = _library()
        tokenizer = vocabulary.kept(LLGuidance, lambda: _tokenizer(library, vocabulary))
        if len(source) <= SHALLOW:
            return self._compiled(library, kind, source, tokenizer)
        return on_deep_stack(lambda: self._compiled(library, kind, source, tokenizer))

    def _compiled(self, library: Any, kind: str, source: str, tokenizer: Any) -> LLConstraint:
        grammar = _guarded(kind, lambda: _grammar(library, kind, source))
        # With its large tables made now rather than in the first step; other threads run meanwhile.
        limits = library.LLParserLimits(**LIMITS, verbose_errors=False)
        matcher = _guarded(kind, lambda: library.LLMatcher(tokenizer, grammar, log_level=0, limits=limits))
        if matcher.is_error():
            raise _wrong(library, kind, source, matcher.get_error(), limits)
        return LLConstraint(matcher, kind)


class LLConstraint:
    """A compiled grammar."""

    def __init__(self, matcher: Any, kind: str) -> None:
        self._matcher, self._kind = matcher, kind

    def start(self) -> LLState:
        """The state of an empty text."""
        return LLState(self._matcher.deep_copy(), self._kind)


class LLState:
    """Where one text stands in its grammar."""

    def __init__(self, matcher: Any, kind: str) -> None:
        self._matcher, self._kind = matcher, kind

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def fill(self, bits: NDArray[np.uint32]) -> None:
        """Set the bits of the tokens that may follow."""
        if self.finished:
            bits.fill(0)
            return
        _guarded(self._kind, lambda: self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes))
        self._check()

    def advance(self, token_id: int) -> None:
        """Take the next token into account."""
        _guarded(self._kind, lambda: self._matcher.consume_token(token_id))
        self._check()

    def fork(self) -> LLState:
        """A copy that goes its own way."""
        return LLState(self._matcher.deep_copy(), self._kind)

    def _check(self) -> None:
        if self._matcher.is_error():
            if "NoExtensionBias" in self._matcher.get_error():  # a schema that refers to itself alone, an empty class
                raise GenerationError(f"{self._kind}: no text follows it", hint="loosen it, or end what it repeats")
            raise GenerationError(
                f"{self._kind}: llguidance cannot go on: {_plain(self._matcher.get_error())}",
                hint="a simpler schema or grammar takes less of its limits",
            )


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise UnsupportedError(
            "json_schema, regex, grammar and choices need the library llguidance, which is not installed",
            hint="pip install 'polyllama[constraints]', or pip install llguidance",
        ) from None
    return llguidance


def _grammar(library: Any, kind: str, source: str) -> str:
    if kind == "json_schema":
        source = "{}" if source == "true" else source  # which mean the same; options go into an object alone
        return str(library.LLMatcher.grammar_from_json_schema(source, defaults={"whitespace_pattern": JSON_SPACE}))
    if kind == "regex":
        return str(library.LLMatcher.grammar_from_regex(source))
    if kind == "grammar":
        return str(library.LLMatcher.grammar_from_lark(source))
    if kind == "choices":
        # One expression: as a rule's alternatives, a few thousand are more than a step's limit.
        return str(library.LLMatcher.grammar_from_regex("|".join(map(_literal, json.loads(source)))))
    raise UnsupportedError(f"llguidance compiles no {kind!r}", hint="it knows json_schema, regex, grammar and choices")


def _literal(text: str) -> str:
    """An expression that a text alone matches.

    >>> _literal("so-so? [1]")
    'so\\\\-so\\\\? \\\\[1\\\\]'
    """
    return re.sub(r"([][\\.+*?()|{}^$#&~-])", r"\\\1", text)


class _Tokens:
    """A vocabulary as llguidance asks for it.

    An id beyond the vocabulary stands for the end, so that the vocabulary's own may be named in grammars and which of
    them end a text is each request's affair.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: ConstraintVocabulary) -> None:
        self.tokens = [*vocabulary.tokens, b""]
        self.special_token_ids = list(vocabulary.special)
        self.eos_token_id = len(vocabulary)
        self._special = frozenset(vocabulary.special)
        # Of the vocabulary no more than this, as the vocabulary keeps what is made of it.
        self._greedy = ConstraintVocabulary(vocabulary.tokens, vocabulary.special, vocabulary.encode).greedy
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        """The ids of text that has to follow: as the tokenizer has them, whose models have seen no others."""
        ids = self._encode(text)
        if ids is None or not self._special.isdisjoint(ids):  # text is never a special token, whatever it looks like
            return self._greedy(text.encode())
        return ids


def _tokenizer(library: Any, vocabulary: ConstraintVocabulary) -> Any:
    tokens = _Tokens(vocabulary)
    return library.LLTokenizer(tokens, n_vocab=len(tokens.tokens), eos_token=[tokens.eos_token_id])


def _guarded(kind: str, call: Callable[[], Any]) -> Any:
    """A call into Rust, whose panic is an error of this constraint."""
    try:
        return call()
    except Exception as error:
        raise GenerationError(f"{kind}: llguidance failed: {_plain(str(error))}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise GenerationError(f"{kind}: llguidance failed: {_plain(str(error))}") from None


def _wrong(library: Any, kind: str, source: str, message: str, limits: Any) -> GenerationError:
    """What is wrong with a constraint, and where in it."""
    where = ""
    if kind == "json_schema":

        def problem(schema: str) -> str:
            return str(library.LLMatcher.validate_grammar(_grammar(library, kind, schema), limits=limits))

        where = place_of_error(source, message, problem)
    hint = None
    if "too big" in message or "limit" in message or "fuel" in message:
        hint = "it is larger than what is compiled; divide it, or allow more than it says"
    elif "Unimplemented keys" in message:
        hint = "leave these keywords out, and check them in the result"
    return GenerationError(f"{kind}{where}: {_plain(_placed(kind, message))}", hint=hint)


_OF_REGEX = re.compile(r"regex parse error:\n {4}.*\n {4}( *)\^+\nerror: (.*)")
_OF_GRAMMAR = re.compile(r"(?:at )?(\d+)\((\d+)\): (.*)")


def _placed(kind: str, message: str) -> str:
    """A message in one line, with the place that llguidance draws below the text."""
    found = _OF_REGEX.search(message)
    if found is not None and kind != "grammar":
        return f"at character {len(found[1]) + 1}: {found[2]}"
    if kind == "regex":
        return message.split("\n")[0].rpartition("(in regex): ")[2]
    found = _OF_GRAMMAR.match(message)
    if found is not None and kind == "grammar":
        return f"line {found[1]}, character {found[2]}: {found[3]}"
    return message


def _plain(message: str) -> str:
    """A message of several lines in one, of bearable length."""
    text = " ".join(message.split())
    return text if len(text) <= 400 else text[:400] + " ..."
