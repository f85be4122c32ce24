"""``generate(..., past_key_values=cache)``: a cache that holds a beginning of the prompts, and what follows afterwards.

As transformers has it, the ids are those of the whole texts. Slots of the cache are the first columns of the array, so
the rows stay in place: padding is on the left, and no row leaves before the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..array_kinds import as_numpy
from ..errors import GenerationError, InputError
from ..forward.adapters import named_adapters
from ..forward.arguments import ForwardArguments
from ..forward.past import Past
from ..graph.cache import Cache
from ..messages import counted, mention

if TYPE_CHECKING:
    from ..backend.protocol import Model
    from .array_prompts import ArrayPrompts
    from .options import GenerationOptions


@dataclass(frozen=True)
class Continued:
    """A cache that came with a call.

    Attributes:
        cache: the backend's, whose tokens are not run again; ``None`` while there are none.
        limit: tokens of a row at most, where it has a fixed size.
    """

    past: Past
    cache: Cache | None
    limit: int | None

    @classmethod
    def read(cls, model: Model, given: Any, prompts: ArrayPrompts, options: GenerationOptions) -> Continued:
        """Read what was given as ``past_key_values`` for these prompts.

        Raises:
            InputError: it is no cache of this model's for such prompts.
            GenerationError: options that do not go with it.
        """
        _check_options(options, prompts)
        past = Past.of(model, given)
        held = 0 if given is None else _length(past.cache)
        if held >= prompts.width:
            raise InputError(
                f"past_key_values holds {counted(held, 'token')}, the prompts have {prompts.width}",
                hint="give the ids of the whole texts, what the cache holds and at least one more; or crop the cache",
            )
        names = adapters_of(model, options, len(prompts.ids))
        ids = prompts.ids[:, held:]
        arguments = past.take(ForwardArguments(input_ids=ids, use_cache=True, adapter_names=names))
        cache = arguments.past_key_values
        if cache is not None and not isinstance(cache, Cache):
            raise InputError(
                f"past_key_values is a {type(cache).__name__}, wanted a DynamicCache, or the cache of an earlier output"
            )
        found = cls(past, cache, getattr(past.given, "limit", None))
        found._check_rows(prompts)
        return found

    def _check_rows(self, prompts: ArrayPrompts) -> None:
        rows, mask, cache = len(prompts.ids), prompts.mask, self.cache
        if (np.diff(mask.astype(np.int8), axis=1) < 0).any():
            raise InputError(
                "past_key_values: attention_mask has padding behind tokens of a row", hint="pad prompts on the left"
            )
        if cache is None or not cache.length:
            return
        if cache.batch != rows:
            raise InputError(
                f"past_key_values holds {counted(cache.batch or 0, 'row')}, there are {counted(rows, 'prompt')}",
                hint="use batch_repeat_interleave(...) or select_rows(...), or begin with a new cache",
            )
        known = None if cache.mask is None else as_numpy(cache.mask)[:, : cache.length].astype(bool)
        if known is not None and not np.array_equal(known, mask[:, : cache.length]):
            raise InputError(
                "past_key_values and attention_mask differ in which tokens are padding",
                hint="give the attention_mask of the whole texts, that of the passes before included",
            )

    def check_budget(self, width: int, new: int) -> None:
        """Refuse to begin what would not fit into a cache of a fixed size."""
        if self.limit is not None and width + new - 1 > self.limit:
            raise GenerationError(
                f"a StaticCache for {counted(self.limit, 'token')} has no room for prompts of {width} "
                f"and {new} new ones",
                hint="lower " + mention("max_new_tokens") + ", or make it with a larger max_cache_len",
            )

    def hand_back(self, model: Model, cache: Any, device: Any) -> Any:
        """Put what was run into what was given; that comes out, or the backend's cache where arrays were given."""
        output: Any = SimpleNamespace(past_key_values=cache)
        self.past.hand_back(model, output, device)
        return output.past_key_values


@contextmanager
def kept_on_error(continued: Continued | None) -> Iterator[None]:
    """Crop a cache that came with a call back to what it held, if the call fails: then it can be made again."""
    cache = None if continued is None else continued.cache
    held = 0 if cache is None else cache.length
    try:
        yield
    except BaseException:
        if cache is not None:
            cache.crop(held)
        raise


def adapters_of(model: Model, options: GenerationOptions, rows: int) -> tuple[str | None, ...] | None:
    """The name of each row's adapter, for its cache to remember; ``None`` of a model that has none."""
    known = getattr(model.graph, "adapters", ())
    return named_adapters(known, options.adapter, rows) if known else None


def remember_adapters(cache: Any, names: tuple[str | None, ...] | None) -> None:
    """Let a cache know the adapter of each prompt, of which it may hold several rows next to each other, as beams."""
    if names and isinstance(cache, Cache):
        each = (cache.batch or 0) // len(names)
        cache.adapters = tuple(name for name in names for _ in range(each))


def _length(cache: Any) -> int:
    return int(cache.get_seq_length()) if isinstance(cache, Cache) else 0


def _check_options(options: GenerationOptions, prompts: ArrayPrompts) -> None:
    if prompts.embeds is not None:
        raise GenerationError(
            "past_key_values and inputs_embeds do not go together", hint="run the embeddings by forward, then give ids"
        )
    if not options.use_cache:
        raise GenerationError("past_key_values and use_cache=False do not go together", hint="leave one of them out")
    if options.num_beams > 1:
        raise GenerationError(
            mention("num_beams", options.num_beams) + " and past_key_values do not go together",
            hint="leave one of them out: beams begin by running the prompt",
        )
    if options.num_return_sequences > 1:
        raise GenerationError(
            mention("num_return_sequences", options.num_return_sequences) + " and past_key_values do not go together",
            hint="repeat the prompts and the cache's rows: cache.batch_repeat_interleave(...)",
        )
