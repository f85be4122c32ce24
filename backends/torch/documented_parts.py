"""What transformers' documents and its callers find on a pretrained model, beside its weights and its passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from ...core.config.schema import LlamaConfig
from ...core.errors import InputError, UnsupportedError
from ...core.messages import mention
from .embeddings import Embeddings
from .loss_function import loss_function, refuse_another


class DocumentedParts(Embeddings):
    """Names of transformers' ``PreTrainedModel`` whose meaning needs nothing but the module."""

    config_class = LlamaConfig
    main_input_name = "input_ids"
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    is_parallelizable = False
    model_parallel = False
    _no_split_modules: ClassVar[list[str]] = ["LlamaDecoderLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _keys_to_ignore_on_save: ClassVar[list[str] | None] = None
    _keys_to_ignore_on_load_missing: ClassVar[list[str] | None] = None
    _supports_sdpa = True

    accepts_loss_kwargs = True
    """That ``num_items_in_batch`` reaches the loss."""

    def _describe(self, config: Any) -> None:
        """What an instance says of itself, where callers look for it: among its own attributes."""
        self.name_or_path = config.name_or_path
        self.warnings_issued: dict[str, bool] = {}
        self.model_tags: list[str] | None = None
        architecture = self.task_head.architecture
        self.loss_type = architecture.removeprefix("Llama") if architecture.startswith("LlamaFor") else None

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """Names of parameters that are others, and theirs."""
        return self.tied_names()

    @property
    def is_quantized(self) -> bool:
        """Whether weights are packed, so that no gradient reaches them."""
        return any(parameter.purpose == "quantization" for parameter in self.graph.parameters())

    @property
    def base_model(self) -> nn.Module:
        """The trunk: the part below the head, or this module where it has none."""
        prefix = self.graph.decoder.name
        return self.get_submodule(prefix) if prefix else self

    def get_decoder(self) -> nn.Module:
        """The trunk, as :attr:`base_model`."""
        return self.base_model

    def set_decoder(self, decoder: nn.Module) -> NoReturn:
        """Refused: the weights of a trunk are put into its parameters."""
        raise UnsupportedError(
            "the trunk of a model cannot be exchanged", hint="load its weights with model.model.load_state_dict(...)"
        )

    @property
    def loss_function(self) -> Callable[..., Tensor]:
        """The head's loss as a function: ``model.loss_function(logits=logits, labels=labels)``."""
        return loss_function(self.task_head, self.config)

    @loss_function.setter
    def loss_function(self, value: Any) -> None:
        refuse_another(value)

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Compute attention by torch's fused kernels (``"sdpa"``) or step by step (``"eager"``) from now on."""
        self._set_attention(attn_implementation)
        self.config._attn_implementation = attn_implementation

    def add_adapter(self, *given: Any, **named: Any) -> NoReturn:
        """Refused: PEFT puts an adapter around the module, and an adapter's folder can be loaded with the model."""
        raise UnsupportedError(
            "add_adapter is not offered",
            hint="use peft.get_peft_model(model, config), or load a folder: " + mention("adapter", shown="folder"),
        )

    load_adapter = add_adapter

    def prune_heads(self, heads_to_prune: Mapping[int, Any]) -> NoReturn:
        """Refused: a Llama whose layers have different numbers of heads is one that no configuration describes."""
        raise UnsupportedError(
            "prune_heads: a Llama's configuration has one number of heads for all layers",
            hint="to leave some out of a pass, zero their columns of o_proj.weight",
        )

    def add_model_tags(self, tags: str | list[str]) -> None:
        """Note tags for the card of a model, which trainers write: they are kept in ``model_tags``."""
        given = [tags] if isinstance(tags, str) else list(tags)
        if not all(isinstance(tag, str) for tag in given):
            raise InputError(f"add_model_tags takes text, not {tags!r:.60}")
        held = self.model_tags or []
        self.model_tags = held + [tag for tag in dict.fromkeys(given) if tag not in held]

    @classmethod
    def is_custom_code(cls) -> bool:
        """Whether the class came with a checkpoint, as transformers may load them: never."""
        return False

    is_remote_code = is_custom_code

    def get_parameter_or_buffer(self, target: str) -> Tensor:
        """The parameter or the buffer of a dotted name."""
        path, _, leaf = target.rpartition(".")
        held = self.get_submodule(path)
        return self.get_buffer(target) if leaf in held._buffers else self.get_parameter(target)

    def post_init(self) -> None:
        """What a class of one's own calls at its end: ties weights again; torch has initialized new modules."""
        self.tie_weights()

    def prepare_inputs_for_generation(
        self,
        input_ids: Any,
        past_key_values: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The arguments of the pass that generates the next token; ids that a cache holds are left out."""
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        first = inputs_embeds is not None and not past
        inputs: dict[str, Any] = {"inputs_embeds": inputs_embeds} if first else {"input_ids": input_ids[:, past:]}
        inputs |= {"past_key_values": past_key_values, "attention_mask": attention_mask}
        return inputs | {name: value for name, value in options.items() if value is not None}

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """Ids to try a pass with."""
        ids = torch.tensor([[3, 2, 1], [2, 1, 0]], device=self.device) % self.config.vocab_size
        return {"input_ids": ids}
