"""Arguments of transformers' ``generate`` that are not offered here: the value at which each does nothing, and why not.

A value at which an argument does nothing is taken. Any other is refused where a call asks for it; in a checkpoint's
``generation_config.json``, which was written for other programs, it is said by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import GenerationError
from ..messages import mention


@dataclass(frozen=True)
class NotOffered:
    """Why an argument is not offered.

    Attributes:
        reason: what stands in its place, or what to do.
        inert: values at which it does nothing, beside ``None``.
        needs: what it would take to have an effect, which itself is not offered; so in a file it changes nothing.
    """

    reason: str
    inert: tuple[Any, ...] = ()
    needs: str | None = None


_GROUPS = "transformers has moved it to a repository of code: num_beams with do_sample=True gives other beams too"
_CONSTRAINED = "transformers has moved it to a repository of code; bad_words_ids and logit_bias steer what is generated"
_ASSISTED = "assisted decoding comes with a later release"
_ENCODER = "it is for models with an encoder, which a Llama has not"
_MOVED = "transformers has given it up too"
_FORWARD = "generation makes it of the prompts and attention_mask"
_CONTINUED = "generate takes it with prompts as an array of ids; what texts begin with in common is kept by itself"

NOT_OFFERED: Mapping[str, NotOffered] = {
    "num_beam_groups": NotOffered(_GROUPS, (1,)),
    "diversity_penalty": NotOffered(_GROUPS, (0,)),
    "constraints": NotOffered(_CONSTRAINED, ([],)),
    "force_words_ids": NotOffered(_CONSTRAINED, ([],)),
    "low_memory": NotOffered(_MOVED, (False,)),
    "penalty_alpha": NotOffered(_MOVED, (0,)),
    "dola_layers": NotOffered(_MOVED),
    "use_mtp": NotOffered(_ASSISTED, (False,), "heads"),
    "is_assistant": NotOffered(_ASSISTED, (False,)),
    "num_assistant_tokens_schedule": NotOffered(_ASSISTED, ("constant",), "an assistant"),
    "assistant_confidence_threshold": NotOffered(_ASSISTED, (0.4,), "an assistant"),
    "assistant_early_exit": NotOffered(_ASSISTED, (), "an assistant"),
    "assistant_lookbehind": NotOffered(_ASSISTED, (10,), "an assistant"),
    "target_lookbehind": NotOffered(_ASSISTED, (10,), "an assistant"),
    "assistant_ensemble_weight": NotOffered(_ASSISTED, (), "an assistant"),
    "speculation_type": NotOffered(_ASSISTED, (), "an assistant"),
    "assistant_tokenizer": NotOffered(_ASSISTED),
    "custom_generate": NotOffered("code from a repository is never run"),
    "trust_remote_code": NotOffered("code from a repository is never run", (False,)),
    "synced_gpus": NotOffered("a model runs in one process", (False,)),
    "forced_decoder_ids": NotOffered(_ENCODER, ([],)),
    "token_healing": NotOffered("leave the blank off the end of the prompt", (False,)),
    "watermarking_config": NotOffered("texts are not marked: its random numbers are torch's own"),
    "encoder_repetition_penalty": NotOffered(_ENCODER, (1,), "an encoder"),
    "encoder_no_repeat_ngram_size": NotOffered(_ENCODER, (0,), "an encoder"),
    "decoder_start_token_id": NotOffered(_ENCODER, (), "an encoder"),
    "return_legacy_cache": NotOffered("the cache is an object", (False,), "past_key_values"),
    "generation_kwargs": NotOffered("give its entries as arguments", ({},), "a name"),
    "continuous_batching_config": NotOffered("batch_size says how many rows run together", (), "a server"),
    "position_ids": NotOffered(_FORWARD),
    "cache_position": NotOffered(_FORWARD),
    "token_type_ids": NotOffered("a Llama reads none"),
    "past_key_values": NotOffered(_CONTINUED),
    "ignore_eos": NotOffered("eos_token_id=[] does that", (False,)),
}  # fmt: skip

WITHOUT_EFFECT = ("cache_config", "max_cache_len", "compile_config", "disable_compile")
"""Arguments about speed and memory alone, which here are each backend's business."""


def does_nothing(name: str, value: Any) -> bool:
    """Whether an argument that is not offered has a value at which it does nothing.

    >>> does_nothing("num_beam_groups", 1), does_nothing("num_beam_groups", 4), does_nothing("synced_gpus", None)
    (True, False, True)
    """
    if value is None:
        return True
    if hasattr(value, "shape"):
        return False
    return any(
        value == inert and isinstance(value, bool) == isinstance(inert, bool) for inert in NOT_OFFERED[name].inert
    )


def refuse_unless_inert(name: str, value: Any, where: str = "") -> None:
    """Raise an error about an argument that is not offered, unless its value does nothing.

    Args:
        where: put behind the argument, such as the object it is from.

    >>> refuse_unless_inert("token_healing", True)
    Traceback (most recent call last):
    ...
    polyllama.extend.GenerationError: token_healing=True is not offered; leave the blank off the end of the prompt
    """
    if not does_nothing(name, value):
        raise GenerationError(mention(name, value, limit=60) + f"{where} is not offered", hint=NOT_OFFERED[name].reason)
