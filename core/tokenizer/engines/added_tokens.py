"""Tokens that are matched in the text before the vocabulary's own segmentation sees it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ...errors import TokenizerError
from ...public import public

# Unicode White_Space. `str.isspace` also counts U+001C..U+001F, which the tokenizers library does not.
_WHITE_SPACE = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


@public
@dataclass(frozen=True, slots=True)
class AddedToken:
    """One token that is never split, and how it is matched.

    ``lstrip`` and ``rstrip`` swallow the white space on that side, ``single_word`` matches only between non-word
    characters, ``special`` marks tokens that carry no text (skipped by ``skip_special_tokens``). ``normalized`` is
    kept for the files; Llama vocabularies have no normalization that it could change.

    >>> AddedToken("<|im_end|>", special=True).content
    '<|im_end|>'
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.content, str):
            raise TokenizerError(f"a token's content is text, not {self.content!r:.80}")
        for name in ("single_word", "lstrip", "rstrip", "normalized", "special"):
            if not isinstance(getattr(self, name), bool):
                raise TokenizerError(f"{name} of token {self.content!r:.40} must be true or false")

    def __str__(self) -> str:
        return self.content

    def to_dict(self) -> dict[str, str | bool]:
        """The token as tokenizer_config.json spells it."""
        return {
            "content": self.content,
            "lstrip": self.lstrip,
            "normalized": self.normalized,
            "rstrip": self.rstrip,
            "single_word": self.single_word,
            "special": self.special,
        }

    @classmethod
    def parse(cls, value: object, *, where: str, special: bool | None = None) -> AddedToken:
        """A token from a string, an AddedToken or the mapping of tokenizer_config.json; ``where`` is for errors."""
        if isinstance(value, AddedToken):
            token = value
        elif isinstance(value, str):
            token = cls(value)
        elif isinstance(value, Mapping):
            token = cls._from_mapping(value, where)
        elif type(value).__name__ == "AddedToken" and isinstance(getattr(value, "content", None), str):
            token = cls(  # the tokenizers library's own class
                *(
                    getattr(value, name)
                    for name in ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
                )
            )
        else:
            raise TokenizerError(f"{where}: a token must be a string or an AddedToken, got {value!r:.80}")
        if not token.content:
            raise TokenizerError(f"{where}: a token cannot be the empty string", hint="use None for 'no such token'")
        check_encodable(token.content, where)
        return token if special is None or token.special == special else replace(token, special=special)

    @classmethod
    def _from_mapping(cls, value: Mapping[str, object], where: str) -> AddedToken:
        content = value.get("content")
        if not isinstance(content, str):
            raise TokenizerError(f"{where}: the token has no string 'content': {dict(value)!r:.120}")
        flags: dict[str, bool] = {}
        for name in ("single_word", "lstrip", "rstrip", "normalized", "special"):
            flag = value.get(name, False)
            if not isinstance(flag, bool):
                raise TokenizerError(f"{where}: {name} of token {content!r} must be true or false, got {flag!r:.80}")
            flags[name] = flag
        return cls(content, **flags)


def check_encodable(text: str, where: str = "text") -> None:
    """Raise a TokenizerError for a lone surrogate, which no UTF-8 vocabulary can represent; it says where it is."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"{where} holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}",
            hint="decode the source with errors='replace', or remove it with text.encode('utf-8', 'replace').decode()",
        ) from None


def _is_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character)[0] == "M" or unicodedata.category(character) == "Pc"


class AddedTokenMatcher:
    """Cuts text at added tokens: leftmost first, the longest where several start at one place.

    >>> matcher = AddedTokenMatcher({1: AddedToken("<s>", special=True)})
    >>> list(matcher.split("a<s>b"))
    [(0, 1, None), (1, 4, 1), (4, 5, None)]
    """

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        self._by_content = {token.content: (token_id, token) for token_id, token in tokens.items()}
        self._all = self._compile(token.content for token in tokens.values())
        self._plain = self._compile(token.content for token in tokens.values() if not token.special)

    @staticmethod
    def _compile(contents: Iterator[str]) -> re.Pattern[str] | None:
        ordered = sorted(set(contents), key=lambda content: (-len(content), content))
        return re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def split(self, text: str, *, ignore_special: bool = False) -> Iterator[tuple[int, int, int | None]]:
        """Yield (start, end, token id or None for plain text) from the start of the text to its end."""
        pattern = self._plain if ignore_special else self._all
        done = 0
        for match in pattern.finditer(text) if pattern else ():
            token_id, token = self._by_content[match.group()]
            start, end = match.span()
            if token.single_word and (
                (start > 0 and _is_word(text[start - 1])) or (end < len(text) and _is_word(text[end]))
            ):
                continue
            # Without lstrip, white space that an rstrip swallowed is matched again, as the tokenizers library does.
            if token.lstrip:
                while start > done and text[start - 1] in _WHITE_SPACE:
                    start -= 1
                start = max(start, done)
            while token.rstrip and end < len(text) and text[end] in _WHITE_SPACE:
                end += 1
            if start > done:
                yield done, start, None
            yield start, end, token_id
            done = end
        if done < len(text):
            yield done, len(text), None
