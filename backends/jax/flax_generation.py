"""``generate`` of the Flax names: padded arrays of ids in, ``sequences`` of one width out.

Source: ``FlaxGenerationMixin.generate`` of transformers 4's documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ...core.api.prompts import read_pad_token
from ...core.config.context_length import context_length
from ...core.errors import InputError, UnsupportedError, about_model
from ...core.forward.inputs import as_integers, as_mask
from ...core.generation.array_prompts import read_array_prompts
from ...core.generation.arrays import generate_array
from ...core.generation.options import DEFAULT_MAX_NEW_TOKENS
from ...core.messages import counted, mention, subject
from ...core.tasks.outputs import ModelOutput
from .arrays import is_traced
from .flax_params import seed_of

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from ...core.generation.options import GenerationOptions
    from .model import JaxModel


@dataclass
class FlaxGenerateOutput(ModelOutput):
    """Generated ids.

    Attributes:
        sequences: ``[rows, max_length]``: each prompt as it was given, what was generated, and padding.
    """

    sequences: Any = None


def generate_sequences(
    llm: Llama,
    model: JaxModel,
    input_ids: Any,
    attention_mask: Any,
    options: Mapping[str, Any],
) -> FlaxGenerateOutput:
    """Generate from each row of a padded array.

    Args:
        llm: whose defaults and tokenizer are taken.
        model: what runs, with the parameters to run on.
        input_ids: ``[rows, width]``.
        attention_mask: ``[rows, width]``, which of them are real; all by default.
        options: as ``FlaxLlamaForCausalLM.generate`` has them.
    """
    asked = dict(options)
    if is_traced(input_ids, attention_mask, model.params, asked.get("prng_key")):
        raise InputError(
            "generate cannot go through a JAX transform", hint="call it itself: each pass of it is compiled already"
        )
    _refuse_beams(asked)
    given = read_array_prompts(
        as_integers(input_ids, "input_ids"),
        attention_mask if attention_mask is None else as_mask(attention_mask),
        None,
        vocab_size=llm.config.vocab_size,
        hidden_size=llm.config.hidden_size,
        pad_token_id=None,  # without a mask all are real
        eos_token_id=(),
    )
    pad = asked.pop("pad_token_id", None)
    resolved = _resolved(llm, asked, given.width)
    new = resolved.max_new_tokens
    assert new is not None  # _resolved saw to it
    filler = _padding(llm, resolved, pad)
    with about_model(llm._name):
        found = generate_array(model, llm._tokenizer_or_none(), given, replace(resolved, pad_token_id=filler))
    rest = given.width + new - found.shape[1]
    sequences = np.pad(found, [(0, 0), (0, rest)], constant_values=filler)
    return FlaxGenerateOutput(sequences=jnp.asarray(sequences.astype(np.int32)))


def _refuse_beams(asked: dict[str, Any]) -> None:
    """Take out arguments that mean nothing at their usual values, and refuse the others."""
    beams = asked.pop("num_beams", None)
    if beams not in (None, 1):
        raise UnsupportedError(
            mention("num_beams", beams) + ": beam search comes with a later release",
            hint="leave it out, or give do_sample=True",
        )
    trace = asked.pop("trace", True)
    if not isinstance(trace, bool):
        raise InputError(subject("trace", trace) + f" is {trace!r:.40}, wanted True or False")
    for name, usual in (("early_stopping", (None, False)), ("length_penalty", (None, 1.0))):
        value = asked.pop(name, None)
        if value not in usual:
            raise UnsupportedError(mention(name, value) + " is of beam search, which comes with a later release")
    for name in ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "bos_token_id"):
        value = asked.pop(name, None)
        if value is not None:
            raise UnsupportedError(mention(name, value) + " is not offered", hint="put the token into the prompt")


def _resolved(llm: Llama, asked: dict[str, Any], width: int) -> GenerationOptions:
    """The options with one limit, a count of new tokens: lengths count the padded prompt, as documented."""
    if asked.get("max_length") is not None and asked.get("max_new_tokens") is not None:
        raise InputError(
            "max_length and max_new_tokens are two limits", hint="give one; max_length counts the padded prompt too"
        )
    key = asked.pop("prng_key", None)
    shortest = asked.pop("min_length", None)
    if shortest is not None:
        if isinstance(shortest, bool) or not isinstance(shortest, int) or shortest < 0:
            raise InputError(
                subject("min_length", shortest) + f" is {shortest!r:.40}, wanted a whole number, 0 or more"
            )
        asked.setdefault("min_new_tokens", max(0, shortest - width))
    options = {name: value for name, value in asked.items() if value is not None}
    options["seed"] = (llm._loaded.settings.seed or 0) if key is None else seed_of(key)
    given = llm.generation_options(**options)
    new = given.max_new_tokens
    if new is None and given.max_length is not None:
        new = given.max_length - width
        if new < 1:
            raise InputError(
                f"the prompts have {counted(width, 'token')}, " + given.named("max_length") + " counts them too",
                hint="give " + mention("max_new_tokens") + ", or a larger max_length",
            )
    if new is None:
        context = context_length(llm.config)
        room = DEFAULT_MAX_NEW_TOKENS if context is None else context - width
        new = max(min(DEFAULT_MAX_NEW_TOKENS, room), given.min_new_tokens, 1)
    rest = {name: value for name, value in options.items() if name != "max_length"}
    return llm.generation_options(**{**rest, "max_new_tokens": new})


def _padding(llm: Llama, resolved: GenerationOptions, pad: Any) -> int:
    """The token that fills rows up: the one that is given, the config's, or the one that ends a text."""
    if pad is not None:
        return read_pad_token(pad, llm.config.vocab_size)
    if llm.config.pad_token_id is not None and llm.config.pad_token_id >= 0:
        return int(llm.config.pad_token_id)
    return int(resolved.eos_token_id[0]) if resolved.eos_token_id else 0
