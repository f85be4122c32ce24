"""The part of :class:`~polyllama.Llama` by which requests of several callers run together."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..arguments import checked_methods
from ..errors import InputError
from ..messages import subject
from .generation_settings import GenerationSettings

if TYPE_CHECKING:
    from ..backend.protocol import Model
    from ..generation.calls import TextStream
    from ..generation.scheduler import Scheduler
    from ..tokenizer.tokenizer import Tokenizer


_MAKING = [threading.Lock()]
"""Held while a scheduler is made; a forked child has one of its own, as nobody there would open its parent's."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _MAKING.__setitem__(0, threading.Lock()))


class SharedScheduler:
    """What copies of a facade have in common: their model's scheduler, once somebody has asked for it."""

    scheduler: Scheduler | None = None


@checked_methods
class Scheduling(GenerationSettings):
    """One scheduler for all requests of a model, and the calls of asyncio's programs."""

    if TYPE_CHECKING:
        _shared: SharedScheduler

        @property
        def model(self) -> Model: ...
        def _tokenizer_or_none(self) -> Tokenizer | None: ...
        def generate(self, prompts: Any = None, *more: Any, **options: Any) -> Any: ...
        @classmethod
        def load(cls, source: Any, **options: Any) -> Self: ...
        def stream(self, prompt: Any, **options: Any) -> TextStream: ...

    @property
    def scheduler(self) -> Scheduler:
        """What runs this model's requests, those of all threads together: :meth:`generate` and the others submit to it.

        ``copy.copy(llm)`` has the same model, and so the same scheduler.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> job = llm.scheduler.submit(llm.tokenizer.encode("Once"), max_new_tokens=4)
        >>> len(job.result().token_ids)
        4
        """
        known = self._shared.scheduler
        return known if known is not None and known.model is self.model else self._new_scheduler()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that were loaded with ``adapters=``, among which each prompt may choose.

        >>> from polyllama import Llama
        >>> Llama.load("tiny", backend="reference").adapters
        ()
        """
        return self._loaded.graph.adapters

    def _new_scheduler(self) -> Scheduler:
        """The one that all threads share, whichever asks first; of another model than the copies have, one apart."""
        with _MAKING[0]:
            known = self._shared.scheduler
            if known is not None and known.model is self.model:
                return known
            if known is not None:
                self._shared = SharedScheduler()
            made = self._shared.scheduler = self._made_scheduler()
            return made

    def _made_scheduler(self) -> Scheduler:
        from ..checkpoint.huggingface.save_safetensors import parse_size
        from ..generation.scheduler import Scheduler

        settings = self._loaded.settings
        return Scheduler(
            self.model,
            self._tokenizer_or_none(),
            cache_memory=parse_size(settings.cache_memory, "cache_memory"),
            prefix_cache={"always": True, "never": False}.get(settings.prefix_cache),
        )

    @property
    def draft(self) -> Any:
        """A smaller model of the same vocabulary, which guesses what is then checked several tokens at a time.

        Texts are the same with it as without; how much faster they come depends on how often it is right. It can be set
        to a loaded model, or to the name or path of one that this backend then loads; ``None`` for none.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference", draft="tiny")
        >>> stats = llm.generate("Once", max_new_tokens=8).stats
        >>> stats.proposed_tokens == stats.accepted_tokens > 0
        True
        """
        return getattr(self, "_draft", None)

    @draft.setter
    def draft(self, value: Any) -> None:
        draft = None if value is None else self._as_draft(value)
        if draft is self:
            raise InputError("a model is no draft of its own", hint="a draft is a smaller model of the same vocabulary")
        self._draft = draft

    def _drafted_by(self, draft: Any) -> Self:
        """The model itself, with a draft."""
        self.draft = draft
        return self

    def _as_draft(self, value: Any) -> Any:
        """A draft model: a loaded one, or one to load; checked.

        Raises:
            InputError: it is no model, or has another vocabulary.
        """
        from ..generation.draft import check_draft

        if isinstance(value, str | Path):
            choice = self._loaded.choice
            value = self.load(value, backend=choice.backend.name, device=choice.device)
        draft = getattr(value, "llama", value)  # of a torch module its facade
        model = getattr(draft, "model", None)
        if model is None or not hasattr(model, "new_cache"):
            text = subject("draft", value) + f" is a {type(value).__name__}, wanted a loaded model, or the name of one"
            raise InputError(text, hint="it is a smaller model of the same vocabulary")
        ours, theirs = self._tokenizer_or_none(), draft._tokenizer_or_none()
        vocabularies = [None if one is None else one.get_vocab() for one in (ours, theirs)]
        check_draft(self.model, vocabularies[0], model, vocabularies[1])
        return draft

    def _draft_model(self, given: Any) -> Model | None:
        """The model that guesses for a call: the one that is given, else :attr:`draft`."""
        draft = self.draft if given is None else self._as_draft(given)
        return None if draft is None else draft.model

    async def agenerate(self, prompts: Any = None, generation_config: Any = None, **options: Any) -> Any:
        """:meth:`generate`, for asyncio: the event loop goes on meanwhile, and what comes together runs together.

        >>> import asyncio
        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> async def both():
        ...     return await asyncio.gather(*(llm.agenerate(text, max_new_tokens=4) for text in ("Once", "One day")))
        >>> [len(result.token_ids) for result in asyncio.run(both())]
        [4, 4]
        """
        call = _Call()
        try:
            return await call.run(partial(self.generate, prompts, generation_config, **options))
        finally:
            call.cancel()

    async def astream(self, prompt: Any, **options: Any) -> AsyncIterator[str]:
        """:meth:`stream`, for asyncio: an asynchronous iterator of the text's pieces; leaving it ends the request.

        >>> import asyncio
        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> async def text():
        ...     return "".join([piece async for piece in llm.astream("Once", max_new_tokens=8)])
        >>> asyncio.run(text()) == llm.generate("Once", max_new_tokens=8).text
        True
        """
        call = _Call()
        try:
            pieces = await call.run(partial(self.stream, prompt, **options))
            while (piece := await call.run(partial(next, pieces, None))) is not None:
                yield piece
        finally:
            call.cancel()


class _Call:
    """A call beside the event loop, in a context of its own that knows the jobs which the call has submitted."""

    def __init__(self) -> None:
        from ..generation.job import JOBS_OF_CALL

        self._jobs: list[Any] = []
        self._context = copy_context()
        self._context.run(JOBS_OF_CALL.set, self._jobs)

    async def run(self, call: Callable[[], Any]) -> Any:
        """Run a part of it, in one of as many threads as there are calls: each waits for its own job."""
        return await asyncio.get_running_loop().run_in_executor(_threads(), self._context.run, call)

    def cancel(self) -> None:
        """Cancel what has not ended."""
        for job in self._jobs:
            job.cancel()


@cache
def _threads() -> ThreadPoolExecutor:
    from ..generation.scheduler import MOST_ROWS

    return ThreadPoolExecutor(MOST_ROWS, thread_name_prefix="polyllama")


if hasattr(os, "register_at_fork"):  # a child has none of the threads, and its pool would believe that it has
    os.register_at_fork(after_in_child=_threads.cache_clear)
