"""How long rows become: what a call says of padding, truncation and ``max_length``, in the words of transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import TokenizerError
from ..messages import mention, subject
from .truncation import TRUNCATIONS

PADDINGS = ("longest", "max_length", "do_not_pad")
NO_LIMIT = int(1e30)
"""``model_max_length`` where no file states one, as transformers has it."""


@dataclass(frozen=True)
class Lengths:
    """One of :data:`PADDINGS`, one of :data:`TRUNCATIONS`, and the length that they mean, where they mean one."""

    padding: str = "do_not_pad"
    truncation: str = "do_not_truncate"
    limit: int | None = None

    @classmethod
    def asked(
        cls,
        padding: object,
        truncation: object,
        max_length: int | None,
        model_max_length: int,
        *,
        source: str,
        say: Callable[[str], None],
    ) -> Lengths:
        """Read the arguments of a call.

        ``max_length`` alone cuts. Where a length is needed and none is given, `model_max_length` is it.

        Args:
            source: what states `model_max_length`.
            say: warns of what has no effect.

        Errors: TokenizerError for values that there are none of.
        """
        pad = choose(padding, "padding", PADDINGS, "longest", "do_not_pad")
        if max_length is not None:
            max_length = positive(max_length, "max_length")
        if truncation is None and max_length is not None and pad == "do_not_pad":
            say(mention("max_length") + " is given alone: longer texts are cut (pass truncation=True to say so)")
            truncation = True
        cut = choose(truncation, "truncation", TRUNCATIONS, "longest_first", "do_not_truncate")
        if pad != "max_length" and cut == "do_not_truncate":
            if max_length is not None:
                instead = "padding='max_length'" if pad == "longest" else "truncation=True"
                say(mention("max_length", max_length) + f" has no effect without {instead}")
            return cls(pad, cut)
        if max_length is not None:
            return cls(pad, cut, max_length)
        if model_max_length < NO_LIMIT:
            return cls(pad, cut, model_max_length)
        what = "cut" if pad != "max_length" else "padded" if cut == "do_not_truncate" else "cut or padded"
        say(f"no max_length is given and {source} states none, so texts are not {what} (pass max_length=...)")
        return cls("do_not_pad" if pad == "max_length" else pad)


def choose(value: object, argument: str, choices: Sequence[str], yes: str, no: str) -> str:
    """True, False, None, a name or an enumeration's member -> a name."""
    value = getattr(value, "value", value)  # transformers' PaddingStrategy and TruncationStrategy
    if value is None or value is False:
        return no
    if value is True:
        return yes
    if isinstance(value, str) and value in choices:
        return value
    raise TokenizerError(
        mention(argument, value, limit=80) + " is unknown", hint=f"known: True, False, {', '.join(choices)}"
    )


def positive(value: object, argument: str) -> int:
    """A positive integer argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TokenizerError(subject(argument, value) + f" must be a positive integer, got {value!r:.80}")
    return value
