"""The Auto classes of the documents: by what a checkpoint is, the class that runs it. Here that is always a Llama's."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, ClassVar

from ..config.schema import LlamaConfig
from ..errors import InputError
from ..public import public


def documented_class(name: str) -> Any:
    """The public class of that name, looked up when it is needed: a framework may stand behind it."""
    return getattr(importlib.import_module("polyllama"), name)


class _Auto:
    """What the Auto classes share."""

    _stands_for: ClassVar[str]

    def __init__(self, *given: Any, **options: Any) -> None:
        name = type(self).__name__
        raise InputError(
            f"{name} is not made by calling it", hint=f"use {name}.from_pretrained(...) or .from_config(...)"
        )

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, **options: Any) -> Any:
        """Load a model by its name, repository or folder, with the keywords of :meth:`polyllama.Llama.from_pretrained`.

        Raises:
            PolyllamaError: as there; of a checkpoint that is no Llama, which architecture it is.
        """
        return documented_class(cls._stands_for).from_pretrained(source, **options)

    @classmethod
    def from_config(cls, config: LlamaConfig, **options: Any) -> Any:
        """A model with random weights.

        Args:
            config: what it is to be; transformers' LlamaConfig is read too.
            options: those of :meth:`polyllama.Llama.load`, and their documented names.
        """
        from ..loading.documented import config_of, load_arguments

        return documented_class(cls._stands_for)(config_of(config), **load_arguments(options))


@public
class AutoModel(_Auto):
    """Gives a :class:`polyllama.LlamaModel`: ``AutoModel.from_pretrained("tiny")``."""

    _stands_for = "LlamaModel"


@public
class AutoModelForCausalLM(_Auto):
    """Gives a :class:`polyllama.LlamaForCausalLM`.

    >>> AutoModelForCausalLM.from_pretrained("tiny", backend="reference").task
    'causal-lm'
    """

    _stands_for = "LlamaForCausalLM"


@public
class AutoModelForSequenceClassification(_Auto):
    """Gives a :class:`polyllama.LlamaForSequenceClassification`."""

    _stands_for = "LlamaForSequenceClassification"


@public
class AutoModelForTokenClassification(_Auto):
    """Gives a :class:`polyllama.LlamaForTokenClassification`."""

    _stands_for = "LlamaForTokenClassification"


@public
class AutoModelForQuestionAnswering(_Auto):
    """Gives a :class:`polyllama.LlamaForQuestionAnswering`."""

    _stands_for = "LlamaForQuestionAnswering"


@public
class AutoConfig:
    """Gives a :class:`polyllama.LlamaConfig`: ``AutoConfig.from_pretrained("tiny")``."""

    def __init__(self, *given: Any, **options: Any) -> None:
        raise InputError("AutoConfig is not made by calling it", hint="use AutoConfig.from_pretrained(...)")

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, **options: Any) -> LlamaConfig:
        """Read the configuration of a checkpoint; see :meth:`polyllama.LlamaConfig.from_pretrained`.

        Args:
            source: as there; ``pretrained_model_name_or_path`` is its documented name.

        >>> AutoConfig.from_pretrained("tiny").num_hidden_layers
        5
        """
        return LlamaConfig.from_pretrained(source, **options)

    @classmethod
    def for_model(cls, model_type: str, **fields: Any) -> LlamaConfig:
        """A configuration with these fields; `model_type` is ``"llama"``."""
        return LlamaConfig(**{"model_type": model_type, **fields})
