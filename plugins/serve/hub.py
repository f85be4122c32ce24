"""Which models are loaded: on first use, where they fit; idle ones make room, or go when nobody asks for long."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...core.errors import PolyllamaError
from ...core.http_interface import HttpError
from .engine import Engine, Lane, Ticket
from .fitting import Fit, Fitting, weight_bytes
from .metrics import Metrics
from .names import Key, Names, Offer

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from ...core.generation.options import GenerationOptions
    from ...core.generation.scheduler import Scheduler
    from .options import ServeOptions

OFTEN = 1.0
"""Seconds between looks for models that nobody has asked for in long."""


Prepared = tuple[Sequence[Sequence[int]], "Mapping[str, Any] | GenerationOptions"]
"""Prompts as token ids, and the options of generation by name, or resolved as ``chat_request`` has them."""


class Held:
    """A model that is loaded.

    Attributes:
        name: as the log and the metrics name it.
        uses: requests that use it just now; `rows` that they have submitted and that have not ended.
        since: when it was loaded; `used`: when a request last left it, by ``time.time()``.
        keep_alive: seconds after which it goes when nobody uses it; ``None`` for never.
        nbytes: what its weights take; `running`: what it takes as it runs, by the plan.
    """

    def __init__(self, key: Key, llm: Llama, lane: Lane | None, fit: Fit, keep_alive: float | None) -> None:
        self.key, self.llm, self.lane, self.keep_alive = key, llm, lane, keep_alive
        self.nbytes = weight_bytes(llm) if fit.nbytes is None else fit.nbytes
        self.running = self.nbytes if fit.running is None else fit.running
        self.uses = self.rows = 0
        self.since = self.used = time.time()

    @property
    def name(self) -> str:
        return self.key.text

    @property
    def scheduler(self) -> Scheduler | None:
        """What runs its requests; ``None`` where its task is not to generate."""
        return None if self.lane is None else self.lane.scheduler

    @property
    def expires(self) -> float | None:
        """When it goes if nobody asks for it, by ``time.time()``."""
        return None if self.keep_alive is None else self.used + self.keep_alive


class Served:
    """A loaded model as one request has it; :meth:`release` when the request is over.

    Attributes:
        adapter: the name of the adapter that the request asks for, where it does.
    """

    def __init__(self, hub: Hub, held: Held, name: str, adapter: str | None = None) -> None:
        self.name, self.held, self.adapter, self._hub = name, held, adapter, hub
        self.tickets: list[Ticket] = []
        held.uses += 1

    @property
    def llm(self) -> Llama:
        return self.held.llm

    @property
    def chosen(self) -> dict[str, Any]:
        """The adapter as an option of generation, of ``predict`` and ``forward``."""
        return {} if self.adapter is None else {"adapter": self.adapter}

    async def generate(self, prepare: Callable[[], Prepared], rows: int = 1) -> Ticket:
        """Have prompts continued; see :class:`~polyllama.core.http_interface.ServedModel`.

        Args:
            rows: how many rows there will be, where that is known before: what the queue is checked against.

        Raises:
            HttpError: the queue is full (429), or the model does not generate.
        """
        begun = time.perf_counter()
        held, options = self.held, self._hub.options
        if held.lane is None:
            text = f"the model {self.name!r} is for {held.llm.task}, it does not write text"
            raise HttpError(text, param="model", hint="see /v1/classify, /v1/embeddings")
        if held.rows and held.rows + rows > options.max_rows + options.max_queue:
            raise HttpError(
                f"{held.rows} requests run or wait, no more are taken",
                status=429,
                kind="rate_limit_exceeded",
                retry_after=self._hub.seconds_until_room(held),
            )
        held.rows += rows
        making = asyncio.ensure_future(self._hub.run(partial(self._submit, prepare)))
        try:
            job = await asyncio.shield(making)
        except BaseException:
            held.rows -= rows
            making.add_done_callback(self._abandoned)
            raise
        ticket = self._hub.engine.submit(held.lane, job, begun)
        held.rows += len(job.rows) - rows
        ticket.when_ended(lambda: self._ended(len(job.rows)))
        self.tickets.append(ticket)
        return ticket

    def _abandoned(self, making: asyncio.Future[Any]) -> None:
        """End a job whose client has left while it was being made."""
        if not making.cancelled() and making.exception() is None:
            self._hub.engine.cancel(making.result())

    def _ended(self, rows: int) -> None:
        self.held.rows -= rows

    def _submit(self, prepare: Callable[[], Prepared]) -> Any:
        from ...core.generation.options import GenerationOptions
        from ...core.generation.request import make_rows

        prompts, options = prepare()
        llm, lane = self.held.llm, self.held.lane
        assert lane is not None
        if not isinstance(options, GenerationOptions):
            options = llm.generation_options(**options)
        options = replace(options, **self.chosen).seeded()
        return lane.scheduler.add(options, make_rows(llm.model, llm.tokenizer, prompts, options))

    def release(self) -> None:
        """Let the model go when nobody else has it."""
        for ticket in self.tickets:
            ticket.cancel()
        self.held.uses -= 1
        self.held.used = time.time()


class Hub:
    """The models of a server.

    Args:
        log: where a line about a model that was loaded, unloaded or failed goes.
    """

    def __init__(
        self, names: Names, options: ServeOptions, engine: Engine, metrics: Metrics, log: Callable[[str], None]
    ) -> None:
        self.names, self.options, self.engine, self.metrics, self._log = names, options, engine, metrics, log
        self._held: dict[Key, Held] = {}
        self._loads: dict[Key, asyncio.Task[Held]] = {}
        self._default: tuple[str, str, bool] | None = None  # a backend, its device, and whether it has no other
        self._one_at_a_time = asyncio.Lock()
        self._fitting = Fitting(options)
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="polyllama request")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="polyllama load")

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def loaded(self) -> list[Held]:
        """What is loaded, the most recently loaded last."""
        return list(self._held.values())

    def loading(self) -> list[Key]:
        """What is being loaded."""
        return list(self._loads)

    async def use(self, name: str | None, task: str | None = None) -> Served:
        """The model of a request's name, loaded where it is not.

        Raises:
            HttpError: there is none of this name (404), it cannot be loaded (500), or does not fit (503).
        """
        key, adapter = self.names.find(name, task)
        key = self._same(key)
        while (held := self._held.get(key)) is None:  # again, where it had to go before anybody could use it
            if key not in self._loads:
                self._loads[key] = asyncio.create_task(self._load(key))
            # Others may wait for it too, and a client that leaves does not end it.
            await asyncio.shield(self._loads[key])
        return Served(self, held, name or key.text, adapter)

    def _same(self, key: Key) -> Key:
        """The key without its backend, where the model runs on this by itself: it would be loaded twice."""
        if key.backend is None or key in self._held or self._default is None:
            return key
        backend, device, only = self._default
        base, _, wanted = key.backend.partition(":")
        same = base == backend and (wanted == device or (not wanted and only))
        return replace(key, backend=None) if same else key

    async def _load(self, key: Key) -> Held:
        try:
            async with self._one_at_a_time:
                fit = await self._room(key)
                begun = time.perf_counter()
                held: Held = await self._in_loader(self._loaded, key, fit)
                self._held[key] = held
                if key.backend is None:
                    devices = held.llm.choice.backend.availability().devices
                    self._default = held.llm.backend, held.llm.device, len(devices) == 1
                if held.lane is not None:
                    self.engine.add(held.lane)
                self.metrics.of(key.text).loads += 1
                self._log(f"loaded {key.text} on {held.llm.backend} in {time.perf_counter() - begun:.1f} s")
                return held
        except HttpError:
            raise
        except PolyllamaError as error:
            text = f"the model {key.offer.name!r} cannot be loaded: {error}"
            raise HttpError(text, status=500, kind="model_not_available") from error
        finally:
            del self._loads[key]

    async def _in_loader(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._loader, function, *arguments)

    def _loaded(self, key: Key, fit: Fit) -> Held:
        from ...core.api.llama import Llama

        llm = Llama.load(key.offer.source, **self._fitting.arguments(key))
        lane = None
        if llm.task_head.generates:
            if self.options.chat_template is not None:
                llm.tokenizer.chat_template = self.options.chat_template
            llm.scheduler.max_rows = self.options.max_rows
            lane = Lane(llm.scheduler, self.metrics.of(key.text))
        self._fitting.remember(key, llm, self._log)
        return Held(key, llm, lane, fit, self.options.keep_alive)

    async def _room(self, key: Key) -> Fit:
        """What the plan says of a model, once there is room for it."""
        while True:
            fit: Fit = await self._in_loader(self._fitting.look, key, sum(held.running for held in self._held.values()))
            if fit.fits:
                return fit
            idle = min((h for h in self._held.values() if not h.uses), key=lambda h: h.used, default=None)
            if idle is not None:
                await self.unload(idle)
            elif self._held:
                text = f"the model {key.offer.name!r} does not fit beside those that are in use"
                raise HttpError(text, status=503, kind="overloaded", retry_after=5, hint=fit.advice or None)
            else:
                text = f"the model {key.offer.name!r} does not fit here"
                raise HttpError(text, status=503, kind="model_not_available", hint=fit.advice or None)

    async def unload(self, held: Held) -> None:
        """Give the memory of a model back that nobody uses."""
        self._held.pop(held.key, None)
        if held.lane is not None:
            self.engine.remove(held.lane)
            held.lane.scheduler.forget()
        self.metrics.of(held.key.text).unloads += 1
        self._log(f"unloaded {held.key.text}")
        del held.llm, held.lane
        await self._in_loader(gc.collect)

    async def watch(self) -> None:
        """Unload models that nobody has asked for in their time; runs as long as the server."""
        while True:
            await asyncio.sleep(OFTEN)
            for held in self.loaded():
                if held.expires is not None and not held.uses and held.expires <= time.time():
                    async with self._one_at_a_time:
                        if not held.uses and held.key in self._held:
                            await self.unload(held)

    def seconds_until_room(self, held: Held) -> int:
        """A guess of when it may be worth asking again: how long the requests that wait take at the present speed."""
        whole = self.metrics.request_seconds
        count = sum(whole.counts)
        mean = whole.total / count if count else 1.0
        rounds = max(1.0, held.rows / self.options.max_rows)
        return int(min(60.0, max(1.0, mean * rounds)))

    def close(self) -> None:
        """Take no more work; what runs in threads goes on to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._loader.shutdown(wait=False, cancel_futures=True)

    def offers(self) -> list[Offer]:
        """Every model that is served by name, loaded or not."""
        return list(self.names.offers.values())
