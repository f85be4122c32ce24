"""``Llama`` under the names that the reference documentation uses: one class per head."""

from __future__ import annotations

from .llama import Llama


class LlamaModel(Llama):
    """The bare trunk, without a head: hidden states out."""

    _task = "base"


class LlamaForCausalLM(Llama):
    """A language model: ``LlamaForCausalLM.from_pretrained(path, backend="torch")``."""

    _task = "causal-lm"


class LlamaForSequenceClassification(Llama):
    """A classifier of texts: ``LlamaForSequenceClassification.from_pretrained(path, num_labels=3)``."""

    _task = "sequence-classification"


class LlamaForTokenClassification(Llama):
    """A classifier of tokens: ``LlamaForTokenClassification.from_pretrained(path, id2label={0: "O", 1: "NAME"})``."""

    _task = "token-classification"


class LlamaForQuestionAnswering(Llama):
    """A model that points at the answer in a text: ``LlamaForQuestionAnswering.from_pretrained(path)``."""

    _task = "question-answering"
