"""The part of :class:`~polyllama.Llama` that loads by documented keywords, and says what a pretrained model says."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..arguments import checked, checked_methods
from ..dtypes import itemsize
from ..errors import InputError

if TYPE_CHECKING:
    from ..graph.graph import Graph
    from ..loading.load import Loaded


class OfModelOrClass:
    """A method that is called on a model, or on its class."""

    def __init__(self, function: Callable[[Any, type], Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, model: Any, kind: type) -> Callable[[], Any]:
        function = self._function

        def call() -> Any:
            return function(model, kind)

        call.__name__, call.__doc__ = function.__name__.lstrip("_"), self.__doc__
        return partial(checked(call))  # no function, which a class would take for a method of its own


def _can_generate(model: Any, kind: Any) -> bool:
    """Whether a model, or one of a class that has one task, writes on: whether the task is a language model's."""
    if model is not None:
        return bool(model._loaded.task.generates)
    if kind._task is None:
        raise InputError(f"{kind.__name__} is a class for every task", hint="ask a model: model.can_generate()")
    return str(kind._task) == "causal-lm"


@checked_methods
class Pretrained:
    """Loading as the documents have it."""

    main_input_name: ClassVar[str] = "input_ids"

    _loaded: Loaded

    if TYPE_CHECKING:

        @property
        def graph(self) -> Graph: ...

        @classmethod
        def load(cls, source: Any, **options: Any) -> Self: ...

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, **options: Any) -> Self:
        """:meth:`load` by its documented name and keywords; those of :meth:`load` are taken too.

        Args:
            source: as for :meth:`load`; ``pretrained_model_name_or_path`` is its documented name.
            options: ``dtype`` or ``torch_dtype``; ``device_map`` with one device, ``"auto"`` for the backend's best;
                ``attn_implementation``; ``quantization_config`` (:class:`polyllama.TorchAoConfig`); ``config``;
                ``ignore_mismatched_sizes``; ``revision``, ``token``, ``cache_dir``, ``force_download``,
                ``local_files_only``, ``subfolder``, ``gguf_file``; ``use_safetensors=False`` reads pytorch_model.bin;
                fields of :class:`polyllama.LlamaConfig`, such as ``num_labels`` and ``output_hidden_states``.

        Raises:
            PolyllamaError: as :meth:`load`; a documented keyword that is not offered is refused by name.

        >>> from polyllama import Llama
        >>> Llama.from_pretrained("tiny", backend="reference", device_map="cpu", use_cache=False).config.use_cache
        False
        """
        from ..loading.documented import load_arguments

        named = options.pop("pretrained_model_name_or_path", None)
        if named is not None and source is not None:
            raise InputError("from_pretrained is given the model twice", hint="by position or by name")
        source = source if named is None else named
        if source is None:
            raise InputError("from_pretrained needs a model", hint="give a name, a Hub repository or a folder")
        return cls.load(source, **load_arguments(options))

    @property
    def name_or_path(self) -> str:
        """What the model was loaded by; the empty text for one made from a config alone."""
        return "" if self._loaded.folder is None else self._loaded.name

    can_generate = OfModelOrClass(_can_generate)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of weights; tied ones count once, and packed ones as what they stand for.

        Args:
            only_trainable: without packed ones, which no step changes.
            exclude_embeddings: without the token embedding, and so without a head that is tied to it.
        """
        return sum(
            parameter.size
            for parameter in self.graph.parameters()
            if parameter.purpose != "quantization"
            and not (only_trainable and parameter.bits is not None)
            and not (exclude_embeddings and parameter.purpose == "embedding")
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the weights in the model's dtype, packed ones as they are packed.

        Args:
            return_buffers: taken as documented; there are none, as rotary tables are made in each pass.
        """
        dtype = self._loaded.model.dtype
        return sum(math.prod(p.shape) * itemsize(p.held_as(dtype)) for p in self.graph.parameters())
