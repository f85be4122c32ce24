"""What every pipeline is: a loaded model, a tokenizer, options for every call, and inputs one, listed or streamed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import InputError, warn
from ...messages import subject
from ...tasks.results import as_data
from ..llama import Llama, facade_of
from .inputs import chunks, items_of
from .options import spelt

if TYPE_CHECKING:
    from ...tokenizer.tokenizer import Tokenizer


class Pipeline:
    """A loaded model that is called with texts; of a plugin's task, its results as plain data.

    A generator, an iterator or a dataset gives an iterator of results, which reads ``batch_size`` items at a time (one
    by default) and no further than it is asked for; a list gives a list.

    Attributes:
        model: the loaded model, as it was given.
        task: the documented name of the task, as it was given.
        defaults: options that every call has, unless it says otherwise.
    """

    own: ClassVar[tuple[str, ...]] = ()
    """Options of the pipeline itself, beside those of ``Llama.predict``."""

    first: ClassVar[str] = "inputs"
    """The documented name of what it is called with."""

    def __init__(
        self, model: Any, defaults: Mapping[str, Any], *, task: str, tokenizer: Tokenizer | None = None
    ) -> None:
        self.model, self.task, self.defaults = model, task, dict(defaults)
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that was given, else the model's own."""
        return self._own_llama.tokenizer if self._tokenizer is None else self._tokenizer

    @property
    def framework(self) -> str:
        """``"pt"`` on the torch backend; else the backend's name."""
        return "pt" if self._own_llama.backend == "torch" else self._own_llama.backend

    @property
    def device(self) -> Any:
        """Where the model runs: a ``torch.device`` on the torch backend, else the device's name."""
        llm = self._own_llama
        return llm.module.device if llm.backend == "torch" else llm.device

    @property
    def dtype(self) -> Any:
        """What the model computes in: a ``torch.dtype`` on the torch backend, else its name."""
        llm = self._own_llama
        return llm.module.dtype if llm.backend == "torch" else llm.dtype

    @property
    def _own_llama(self) -> Llama:
        llm = facade_of(self.model)
        assert llm is not None  # whoever makes a pipeline sees to it
        return llm

    @property
    def llm(self) -> Llama:
        """The model as a :class:`~polyllama.Llama`, with the pipeline's tokenizer."""
        llm = self._own_llama
        if self._tokenizer is None or llm._tokenizer is self._tokenizer:
            return llm
        other = copy.copy(llm)  # the same weights; the model that was given keeps its own tokenizer
        other._tokenizer = self._tokenizer
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    def __call__(self, inputs: Any = None, /, *more: Any, **options: Any) -> Any:
        """The results for a text, or for each of several; options are those of ``Llama.predict``."""
        given = spelt(options)
        inputs = self._first(inputs, more, given)
        asked = self.merged(given)
        read_workers(asked)
        items = items_of(inputs)
        if items is None:
            return self._call(inputs, asked)
        return self._streamed(items, asked)

    def _first(self, inputs: Any, more: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """What the call is about, by position or by its documented name."""
        if more:
            raise InputError(f"a pipeline takes one argument by position, {1 + len(more)} are given")
        if self.first not in given:
            return inputs
        if inputs is not None:
            raise InputError(f"{self.first} is given twice", hint="by position or by name")
        return given.pop(self.first)

    def merged(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a call: those `given` over the pipeline's."""
        return self.defaults | dict(given)

    def _streamed(self, items: Iterator[Any], options: dict[str, Any]) -> Any:
        """Results as they are asked for; an option that is wrong is said at once."""
        size = options.get("batch_size", 1)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(subject("batch_size", size) + f" is {size!r:.80}, wanted a positive integer")
        return (result for part in chunks(items, size) for result in self._call(part, dict(options)))

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        return as_data(self.llm.predict(inputs, **options))


def read_workers(options: dict[str, Any]) -> None:
    """Take ``num_workers`` out of the options: texts are encoded by the process that calls, whatever it says."""
    count = options.pop("num_workers", None)
    if count is None:
        return
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InputError(subject("num_workers", count) + f" is {count!r:.80}, wanted 0 or a positive integer")
    if count > 1:
        warn(f"num_workers={count} starts no processes: texts are encoded where the pipeline is called")
