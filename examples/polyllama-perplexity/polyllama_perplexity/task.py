"""The task: a language model's head whose output is log-probabilities. No framework: it runs on every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyllama.extend import Decoder, InputError, Linear, ModelOutput, Node, Task, causal_lm_loss, log_softmax

if TYPE_CHECKING:
    from polyllama import LlamaConfig
    from polyllama.extend import Context, Example

    from .measure import Surprise


@dataclass
class PerplexityOutput(ModelOutput):
    """``log_probs`` ``[B, S, V]`` of the token after each position; ``entropy`` ``[B, S]`` of each, in nats."""

    log_probs: Any = None
    entropy: Any = None


class Perplexity(Task):
    """Reads the checkpoint of any causal language model: its one parameter is the ``lm_head`` that is there already."""

    name = "perplexity"
    architecture = "LlamaForPerplexity"
    output_type = PerplexityOutput
    outputs_per = "token"

    def head(self, config: LlamaConfig, decoder: Decoder) -> Node:
        tied = decoder.embed.name if config.tie_word_embeddings else None
        return Linear("lm_head", config.hidden_size, config.vocab_size, False, "column", tied, role="head")

    def outputs(self, ctx: Context, raw: Any, hidden: Any) -> dict[str, Any]:
        log_probs = log_softmax(ctx.xp, ctx.widen(raw))
        return {"log_probs": log_probs, "entropy": -ctx.xp.sum(ctx.xp.exp(log_probs) * log_probs, axis=-1)}

    def loss(self, xp: Any, outputs: Mapping[str, Any], labels: Any, **options: Any) -> Any:
        """The mean surprisal of `labels` ``[B, S]``, in nats: the logarithm of the perplexity."""
        log_probs = outputs["log_probs"]
        if tuple(labels.shape) != tuple(log_probs.shape[:2]):
            raise InputError(f"labels have shape {list(labels.shape)}, wanted {list(log_probs.shape[:2])}")
        # A softmax of log-probabilities changes nothing, so the language model's own loss is the right one.
        return causal_lm_loss(xp, log_probs, labels, options.get("num_items_in_batch"), options.get("attended"))

    def result(self, example: Example) -> Surprise:
        """How surprised the model is by a text."""
        from .measure import surprise

        return surprise(example.tokenizer, example.input_ids, example.output["log_probs"])
