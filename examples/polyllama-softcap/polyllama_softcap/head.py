"""The node, and the head that it is part of. Both in array-API terms: they run on every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from polyllama.extend import CausalLMOutput, Chain, Decoder, Linear, Node, Task, causal_lm_loss, check_shape

if TYPE_CHECKING:
    from polyllama import LlamaConfig
    from polyllama.extend import Context, LoadedModel


@dataclass(frozen=True)
class SoftCap(Node):
    """``cap * tanh(x / cap)``: close to ``x`` where that is small, and never beyond the cap."""

    cap: float

    def apply(self, xp: Any, weights: Mapping[str, Any], x: Any, ctx: Context) -> Any:
        return xp.tanh(x / self.cap) * self.cap


class SoftCappedLM(Task):
    """Reads the checkpoint of any language model; ``Llama.load(..., softcap=50)`` chooses the cap."""

    name = "softcapped-lm"
    architecture = "LlamaForSoftCappedLM"
    output_type = CausalLMOutput
    outputs_per = "token"
    generates = True
    load_options: ClassVar[Mapping[str, tuple[int, ...]]] = {"softcap": (30, 50)}

    def head(self, config: LlamaConfig, decoder: Decoder) -> Node:
        tied = decoder.embed.name if config.tie_word_embeddings else None
        lm_head = Linear("lm_head", config.hidden_size, config.vocab_size, False, "column", tied, role="head")
        return Chain((lm_head, SoftCap(float(self.load_option(config, "softcap")))))

    def outputs(self, ctx: Context, raw: Any, hidden: Any) -> dict[str, Any]:
        return {"logits": ctx.widen(raw)}

    def loss(self, xp: Any, outputs: Mapping[str, Any], labels: Any, **options: Any) -> Any:
        logits = outputs["logits"]
        check_shape(labels.shape, logits.shape[:2], hint="give one label per input token")
        return causal_lm_loss(xp, logits, labels, options.get("num_items_in_batch"), options.get("attended"))

    def predict(self, model: LoadedModel, given: Any, options: Mapping[str, Any]) -> Any:
        """The text that goes on from each given one; options are those of ``Llama.generate``."""
        return model.generate(given, **options)
