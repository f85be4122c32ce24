"""``Llama`` under the names that the reference documentation uses: one class per head."""

from __future__ import annotations

from ..public import public
from .llama import Llama


@public
class LlamaModel(Llama):
    """The bare trunk, without a head: hidden states out."""

    _task = "base"


@public
class LlamaForCausalLM(Llama):
    """A language model: ``LlamaForCausalLM.from_pretrained(path, backend="torch")``."""

    _task = "causal-lm"


@public
class LlamaForSequenceClassification(Llama):
    """A classifier of texts: ``LlamaForSequenceClassification.from_pretrained(path, num_labels=3)``."""

    _task = "sequence-classification"


@public
class LlamaForTokenClassification(Llama):
    """A classifier of tokens: ``LlamaForTokenClassification.from_pretrained(path, id2label={0: "O", 1: "NAME"})``."""

    _task = "token-classification"


@public
class LlamaForQuestionAnswering(Llama):
    """A model that points at the answer in a text: ``LlamaForQuestionAnswering.from_pretrained(path)``."""

    _task = "question-answering"
