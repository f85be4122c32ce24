"""Tokens as a person can read them: in one line, without what would steer a terminal or break an XML file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..tokenizer.tokenizer import Tokenizer

SPACE_SIGN = "▁"
_NAMED = {" ": SPACE_SIGN, "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_LOOKS_LIKE_AN_ESCAPE = re.compile(r"\\(?=[nrtxuU\\])")
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})


def printable(text: str) -> str:
    r"""Text in one visible line: spaces as ``▁``, whatever has no shape of its own as an escape.

    >>> print(printable("a b\n\u202e\x1b"), printable(r"\n"), printable(r"\frac"))
    a▁b\n\u202e\x1b \\n \frac
    """
    shown = "".join(_shown(character) for character in _LOOKS_LIKE_AN_ESCAPE.sub(r"\\\\", text))
    # A combining mark alone would sit on whatever stands before it.
    return f"\u25cc{shown}" if text and unicodedata.category(text[0]).startswith("M") else shown


def _shown(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no text by itself, as "surrogateescape" reads it
        return f"<0x{code - 0xDC00:02X}>"
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def token_labels(tokenizer: Tokenizer | None, ids: Sequence[int]) -> list[str]:
    """A label per token: its text, its number where there is none.

    A token that is a part of a character shows its bytes, and the first of them the character that they make.

    >>> from polyllama.core.sources.locate import resolve_checkpoint_folder
    >>> from polyllama.core.tokenizer.llama_tokenizer import load_tokenizer
    >>> tokenizer = load_tokenizer(resolve_checkpoint_folder("tiny"))
    >>> token_labels(tokenizer, tokenizer.encode("the\\né"))
    ['<s>', '▁the', '\\\\n', '<0xC3> é', '<0xA9>']
    """
    contents = [None if tokenizer is None else tokenizer.token_bytes(token_id) for token_id in ids]
    labels = []
    for index, (token_id, content) in enumerate(zip(ids, contents, strict=True)):
        if not content:
            labels.append(f"#{token_id}")
            continue
        label = printable(content.decode("utf-8", "surrogateescape"))
        whole = _completed(contents[index : index + 4])
        labels.append(f"{label} {printable(whole)}" if whole else label)
    return labels


def _completed(contents: Sequence[bytes | None]) -> str:
    """The text that a token begins and the next ones end, where it ends amid a character; else nothing."""
    joined = b""
    for count, content in enumerate(contents, start=1):
        if content is None:
            break
        joined += content
        try:
            text = joined.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                break
            continue
        return text.strip() if count > 1 else ""
    return ""


def width_of(text: str) -> int:
    """Terminal columns a text takes: 2 for a wide character, 0 for a combining one."""
    from rich.cells import cell_len

    return cell_len(text)


def fitted(text: str, width: int, ellipsis: str = "…") -> str:
    """A text in exactly `width` columns: filled up, or cut with an ellipsis.

    >>> fitted("ab", 4), fitted("abcdef", 4), fitted("你好吗", 4)
    ('ab  ', 'abc…', '你… ')
    """
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text + " " * (width - cell_len(text))
    kept = set_cell_size(text, max(width - len(ellipsis), 0)).rstrip(" ") + ellipsis
    return kept + " " * (width - cell_len(kept))
