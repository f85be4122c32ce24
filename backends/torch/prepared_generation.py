"""Generating where somebody replaced ``prepare_inputs_for_generation``, as PEFT does for its learned prompts.

transformers asks that method before each pass. Here passes are prepared by the engine that all backends share, so it is
asked once, for the prompt: what it puts in front as embeddings is what is generated from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.errors import InputError, UnsupportedError
from ...core.messages import mention

if TYPE_CHECKING:
    from ...core.api.llama import Llama

_UNSUPPORTED = ("return_dict_in_generate", "streamer", "inputs_embeds")


def is_replaced(method: Callable[..., Any], own: Callable[..., Any]) -> bool:
    """Whether `method` of a model is another than its class's own."""
    return getattr(method, "__func__", None) is not own


def generate_prepared(
    llama: Llama,
    prepare: Callable[..., Mapping[str, Any]],
    input_ids: Any,
    attention_mask: Any,
    options: dict[str, Any],
) -> Tensor:
    """Ids ``[rows, prompt + new]``, generated from the embeddings that the replaced method prepares.

    Raises:
        UnsupportedError: it prepares no embeddings, but a cache, as prefix tuning does; or an option that needs more
            than new ids.
    """
    if not isinstance(input_ids, Tensor) or input_ids.ndim != 2:
        raise InputError(
            "generate: with prepare_inputs_for_generation replaced, input_ids is a tensor [rows, width]",
            hint="give what tokenizer(..., return_tensors='pt') gives",
        )
    for name in _UNSUPPORTED:
        if options.get(name) is not None and options[name] is not False:
            raise UnsupportedError(f"generate: {mention(name)} does not go with a learned prompt", hint="leave it out")
    width = input_ids.shape[1]
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    prepared = prepare(
        input_ids,
        attention_mask=mask,
        past_key_values=None,
        cache_position=torch.arange(width, device=input_ids.device),
        is_first_iteration=True,
    )
    embeds = prepared.get("inputs_embeds")
    if embeds is None:
        raise UnsupportedError(
            "generate: prepare_inputs_for_generation was replaced by one that prepares no inputs_embeds, "
            "such as prefix tuning's",
            hint="generate with a LoRA adapter or prompt tuning, or with transformers' own model",
        )
    if options.get("max_length") is not None and options.get("max_new_tokens") is None:
        options["max_new_tokens"] = options.pop("max_length") - width
    new = llama.generate(inputs_embeds=embeds, attention_mask=prepared["attention_mask"].long(), **options)
    return torch.cat([input_ids.repeat_interleave(new.shape[0] // input_ids.shape[0], 0), new], 1)
