"""generation_config.json: the defaults a checkpoint ships for generation, read into polyllama's terms."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import GenerationError, PolyllamaWarning
from ..messages import shortened
from .option_rules import check_option

_MAX_BYTES = 1 << 20

# Keys of the file that are options here, under the name they have here.
_HONOURED: Mapping[str, str] = {
    name: name
    for name in (
        "max_new_tokens", "max_length", "min_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p",
        "typical_p", "repetition_penalty", "no_repeat_ngram_size", "eos_token_id", "presence_penalty",
        "frequency_penalty",
    )
} | {"stop_strings": "stop"}  # fmt: skip

# Keys that would change the output and are not implemented, with the values at which they do nothing.
_INERT_AT: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,), "num_beam_groups": (1,), "diversity_penalty": (0,), "penalty_alpha": (0,),
    "guidance_scale": (1,), "epsilon_cutoff": (0,), "eta_cutoff": (0,), "top_h": (), "min_length": (0,),
    "max_time": (), "bad_words_ids": ([],), "force_words_ids": ([],), "constraints": ([],),
    "forced_bos_token_id": (), "forced_eos_token_id": (), "suppress_tokens": ([],), "begin_suppress_tokens": ([],),
    "forced_decoder_ids": ([],), "sequence_bias": ({}, []), "exponential_decay_length_penalty": (),
    "remove_invalid_values": (False,), "token_healing": (False,), "watermarking_config": (), "dola_layers": (),
    "num_return_sequences": (1,), "use_cache": (True,), "low_memory": (False,), "is_assistant": (False,),
}  # fmt: skip

# Keys that say something about speed, about beams, about encoders, or about the shape of transformers' own result.
_HARMLESS = frozenset({
    "transformers_version", "bos_token_id", "pad_token_id", "length_penalty", "early_stopping", "renormalize_logits",
    "encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "decoder_start_token_id", "output_attentions",
    "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate", "return_legacy_cache",
    "cache_implementation", "cache_config", "max_cache_len", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind",
    "assistant_ensemble_weight", "speculation_type", "prompt_lookup_num_tokens", "use_mtp", "max_matching_ngram_size",
    "disable_compile", "compile_config", "prefill_chunk_size", "generation_kwargs", "continuous_batching_config",
})  # fmt: skip


@dataclass(frozen=True)
class GenerationDefaults:
    """A checkpoint's defaults: option name -> checked value, the file they are from, and the keys not honoured.

    >>> GenerationDefaults.from_dict({"temperature": 0.6, "do_sample": True}).values["temperature"]
    0.6
    """

    values: Mapping[str, Any]
    source: str
    not_honoured: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(cls, folder: Path) -> GenerationDefaults | None:
        """Read ``generation_config.json`` of a checkpoint folder; ``None`` where there is none.

        Warns:
            PolyllamaWarning: once, naming every key that would change the output and is not honoured.

        Raises:
            GenerationError: the file is unreadable or not a JSON object, or one of its values is wrong.
        """
        path = Path(folder) / "generation_config.json"
        if not path.is_file():
            return None
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise GenerationError(f"{path} is larger than 1 MiB", hint="it is not a generation config")
            raw = json.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise GenerationError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise GenerationError(f"{path} is not valid JSON: {error}", hint="repair the file or delete it") from error
        if not isinstance(raw, dict):
            raise GenerationError(f"{path} holds a {type(raw).__name__}, wanted a JSON object")
        return cls.from_dict(raw, source=str(path))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, source: str = "generation_config") -> GenerationDefaults:
        """Read the content of a ``generation_config.json``; ``null`` counts as not given.

        Warns and raises as :meth:`from_pretrained` does.
        """
        values: dict[str, Any] = {}
        ignored: dict[str, Any] = {}
        for key, value in raw.items():
            if value is None or key in _HARMLESS or key.startswith("_"):
                continue
            if key in _HONOURED:
                values[_HONOURED[key]] = check_option(_HONOURED[key], value, where=f"{source}: ")
            elif key not in _INERT_AT or value not in _INERT_AT[key]:
                ignored[key] = value
        if ignored:
            listing = ", ".join(f"{key}={_short(value)}" for key, value in ignored.items())
            warnings.warn(
                f"{source}: not honoured, so the output may differ from the one intended: {listing}",
                PolyllamaWarning,
                stacklevel=2,
            )
        return cls(MappingProxyType(values), source, tuple(ignored))


def _short(value: Any) -> str:
    return shortened(json.dumps(value, default=str), 40)
