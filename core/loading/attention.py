"""``attn_implementation``: which way of computing attention a call asks for, and whether a backend has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError, UnsupportedError, warn
from ..messages import did_you_mean, mention

OF_EVERY_BACKEND = ("sdpa", "eager")
"""What a backend's own attention answers to, as there is one result and several ways to it."""

_REFUSED = {
    "flash_attention_2": "the package flash-attn is not called: torch's fused attention has its own flash kernels",
    "flash_attention_3": "the package flash-attn is not called: torch's fused attention has its own flash kernels",
    "flash_attention_4": "the package flash-attn is not called: torch's fused attention has its own flash kernels",
    "flex_attention": "masks here are data, and flex_attention wants them compiled",
}


def attention_asked_for(asked: Any, backend: Any) -> str | None:
    """The implementation a backend is to be given; ``None`` for its own.

    Args:
        asked: ``"sdpa"``, ``"eager"``, ``None``, or as transformers has it for a model of one part, ``{"": "sdpa"}``.

    Raises:
        UnsupportedError: one that cannot run here, with the reason.

    Warns:
        PolyllamaWarning: the backend has one attention only, which is taken.
    """
    if isinstance(asked, Mapping) and set(asked) == {""}:
        asked = asked[""]
    if asked is None:
        return None
    if not isinstance(asked, str):
        raise InputError(f"attn_implementation is a {type(asked).__name__}", hint="give 'sdpa' or 'eager'")
    offered: tuple[str, ...] = getattr(backend, "attn_implementations", ())
    if asked in offered:
        return asked
    if asked in OF_EVERY_BACKEND:
        warn(
            mention("attn_implementation", asked)
            + f": backend {backend.name!r} has one attention, its own, which is taken"
        )
        return None
    raise _refusal(asked)


def _refusal(asked: str) -> UnsupportedError:
    use = "use " + mention("attn_implementation", "sdpa") + ", or leave it out"
    if asked.startswith("paged|"):
        reason: str | None = "a cache in pages belongs to serving many requests"
    elif "/" in asked:
        reason = "kernels are not downloaded from the Hub and run"
    else:
        reason = _REFUSED.get(asked)
    if reason is None:
        likely = did_you_mean(asked, OF_EVERY_BACKEND)
        return UnsupportedError(mention("attn_implementation", asked) + " is not known", hint=likely or use)
    return UnsupportedError(mention("attn_implementation", asked) + f" cannot run here: {reason}", hint=use)
