"""``Llama`` under the names that the reference documentation uses: one class per head.

Where torch is installed, these names of the package are torch modules (``backends/torch/pretrained.py``) with one of
these behind them; on other backends, and without torch, these are what one gets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..public import public
from .copying import Copying
from .llama import Llama

if TYPE_CHECKING:
    from ..loading.load import Loaded


def _documented(name: str, loaded: Loaded) -> Copying:
    made: Copying = globals()[name](loaded)
    return made


class Documented(Llama):
    """What these classes share: they take torch where nothing else is asked for, as the documents have it."""

    _prefers = "torch"

    def _kind(self) -> Callable[[Loaded], Copying]:
        # Pickle finds a class by its public name, which the torch module has too.
        name = type(self).__name__
        return functools.partial(_documented, name) if globals().get(name) is type(self) else type(self)


@public
class LlamaModel(Documented):
    """The bare trunk, without a head: hidden states out."""

    _task = "base"


@public
class LlamaForCausalLM(Documented):
    """A language model: ``LlamaForCausalLM.from_pretrained(path, backend="torch")``."""

    _task = "causal-lm"


@public
class LlamaForSequenceClassification(Documented):
    """A classifier of texts: ``LlamaForSequenceClassification.from_pretrained(path, num_labels=3)``."""

    _task = "sequence-classification"


@public
class LlamaForTokenClassification(Documented):
    """A classifier of tokens: ``LlamaForTokenClassification.from_pretrained(path, id2label={0: "O", 1: "NAME"})``."""

    _task = "token-classification"


@public
class LlamaForQuestionAnswering(Documented):
    """A model that points at the answer in a text: ``LlamaForQuestionAnswering.from_pretrained(path)``."""

    _task = "question-answering"
