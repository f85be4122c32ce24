"""Where the seed of a request comes from that was given none: a fresh number, or one that a program made repeatable.

A request's noise is a function of its seed (``sampling.py``), so whole programs repeat where their seeds do.
:func:`set_seed` makes them: the first request after it has one seed, the next another, and after the next ``set_seed``
of the same number the same two again. Where torch is loaded seeds are drawn from its generator, as the documented
``generate`` draws its tokens, so ``torch.manual_seed`` and ``transformers.set_seed`` do the same.
"""

from __future__ import annotations

import random
import sys
from typing import Any

from ..errors import InputError
from ..messages import subject
from ..public import public
from .after_import import after_import

_BITS = 32  # short enough to type again

_own: random.Random | None = None  # what set_seed seeded; None where torch has been seeded by it, or nothing has
_torch_seed: int | None = None  # torch's seed when it was loaded after set_seed, which seeded it then


@public
def set_seed(seed: int, deterministic: bool = False) -> None:
    """Make sampling repeatable: requests without a ``seed`` draw theirs in the same order after each ``set_seed``.

    Python's, NumPy's and torch's own generators are seeded too; torch's when it is loaded, if it is not yet.

    Args:
        seed: 0 to 2**32 - 1, which is NumPy's range.
        deterministic: have torch use deterministic algorithms only, as soon as it is loaded.

    Raises:
        InputError: `seed` is no such number.

    >>> from polyllama import Llama, set_seed
    >>> llm = Llama.load("tiny", backend="reference")
    >>> write = lambda: llm.generate("Once", temperature=1.0, max_new_tokens=9).token_ids
    >>> set_seed(3); first = write(), write()
    >>> set_seed(3); first == (write(), write()), first[0] == first[1]
    (True, False)
    """
    global _own, _torch_seed
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 32:
        raise InputError(subject("seed", seed) + f" is {seed!r:.40}, wanted a whole number from 0 to 2**32 - 1")
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    _own, _torch_seed = random.Random(seed), None
    was_loaded = "torch" in sys.modules

    def seed_torch(torch: Any) -> None:
        global _own, _torch_seed
        torch.manual_seed(seed)
        if deterministic:
            torch.use_deterministic_algorithms(True)
        _own, _torch_seed = (None if was_loaded else _own), seed

    after_import("torch", seed_torch)


def fresh_seed() -> int:
    """Draw the seed of a request that was given none."""
    global _own
    torch = _torch()
    # What set_seed said holds until torch, loaded since, is seeded itself.
    if torch is not None and _torch_seed is not None and torch.initial_seed() != _torch_seed:
        _own = None
    if _own is not None:
        return _own.getrandbits(_BITS)
    if torch is not None:
        return int(torch.randint(0, 1 << _BITS, (1,), device="cpu").item())
    import secrets

    return secrets.randbits(_BITS)


def _torch() -> Any:
    """torch where it is loaded, and whole: another thread may be importing it."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "randint") and hasattr(torch, "initial_seed") else None
