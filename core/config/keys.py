"""Keys met in config.json files: the ones that are no business of the schema's, and spellings of other projects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORDS = """
_name_or_path name_or_path _commit_hash transformers_version auto_map attn_implementation _attn_implementation
_attn_implementation_autoset _attn_implementation_internal _experts_implementation hidden_activation is_decoder
is_encoder_decoder cross_attention_hidden_size add_cross_attention tie_encoder_decoder chunk_size_feed_forward
torchscript use_bfloat16 tf_legacy_loss pruned_heads finetuning_task
task_specific_params tokenizer_class prefix decoder_start_token_id sep_token_id compression_config sparsity_config
use_sliding_window sliding_window max_window_layers layer_types per_layer_config gradient_checkpointing unsloth_version
unsloth_fixed rope_interleaved max_sequence_length max_seq_len seq_length model_max_length
original_max_position_embeddings max_length min_length max_new_tokens min_new_tokens do_sample early_stopping max_time
stop_strings num_beams num_beam_groups diversity_penalty temperature top_k top_p min_p typical_p epsilon_cutoff
eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty no_repeat_ngram_size
encoder_no_repeat_ngram_size bad_words_ids force_words_ids forced_bos_token_id forced_eos_token_id remove_invalid_values
suppress_tokens begin_suppress_tokens exponential_decay_length_penalty num_return_sequences output_scores
return_dict_in_generate renormalize_logits cache_implementation v_head_dim qk_head_dim hidden_sizes head_type
layer_norm_elementwise_affine text_config vision_config language_model mlp_only_layers unk_token_id unk_index
tokenizer_vocab_size neftune_noise_alpha neftune_alpha lora_rank mm_hidden_size
"""
FOREIGN_KEYS = frozenset(_WORDS.split())
"""Known keys of Hugging Face, MLX and training tools; kept as they are, and never taken for a misspelt field."""

CHANGES_THE_MODEL = (
    "sliding_window",
    "rope_interleaved",
    "no_rope_layers",
    "attention_chunk_size",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "query_pre_attn_scalar",
    "logits_scaling",
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "qk_layernorm",
    "use_qk_norm",
    "qk_norm",
    "logit_scale",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "layer_types",
)
"""Keys of kindred architectures that change what is computed. A Llama has none; where one is set, it is said."""

_ONE_IS_NONE = frozenset(
    {
        *("logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier"),
        *("num_experts", "num_local_experts", "n_routed_experts"),
    }
)


def changes_the_model(extra: Mapping[str, Any]) -> list[str]:
    """Which of a config's further keys would change what is computed.

    >>> changes_the_model({"sliding_window": 512, "logit_scale": 1.0, "layer_types": ["full_attention"]})
    ['sliding_window']
    """
    found = [key for key in CHANGES_THE_MODEL if extra.get(key) and not (key in _ONE_IS_NONE and extra[key] == 1)]
    types = extra.get("layer_types")
    if isinstance(types, list) and all(kind == "full_attention" for kind in types):
        found = [key for key in found if key != "layer_types"]
    if extra.get("use_sliding_window") is False:
        full = isinstance(types, list) and set(map(str, types)) <= {"full_attention", "sliding_attention"}
        found = [key for key in found if key != "sliding_window" and not (full and key == "layer_types")]
    return found


OTHER_SPELLINGS = {
    "n_layers": "num_hidden_layers",
    "n_layer": "num_hidden_layers",
    "num_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_head": "num_attention_heads",
    "num_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "num_kv_heads": "num_key_value_heads",
    "kv_heads": "num_key_value_heads",
    "dim": "hidden_size",
    "n_embd": "hidden_size",
    "d_model": "hidden_size",
    "hidden_dim": "intermediate_size",
    "ffn_dim": "intermediate_size",
    "n_inner": "intermediate_size",
    "ffn_hidden_size": "intermediate_size",
    "mlp_hidden_size": "intermediate_size",
    "n_vocab": "vocab_size",
    "n_positions": "max_position_embeddings",
    "n_ctx": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "layer_norm_eps": "rms_norm_eps",
    "layer_norm_epsilon": "rms_norm_eps",
    "rms_norm_epsilon": "rms_norm_eps",
    "rope_base": "rope_theta",
    "rotary_base": "rope_theta",
    "rotary_emb_base": "rope_theta",
    "rotary_pct": "partial_rotary_factor",
    "activation_function": "hidden_act",
    "tie_embeddings": "tie_word_embeddings",
    "tied_embeddings": "tie_word_embeddings",
    "tie_word_embedding": "tie_word_embeddings",
    "qkv_bias": "attention_bias",
}
"""What other projects call a field. Taken for a mistake where the field itself is not given beside it."""


ACTIVATION_NAMES = (
    "silu",
    "swish",
    "gelu",
    "gelu_new",
    "gelu_pytorch_tanh",
    "gelu_fast",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "leaky_relu",
    "sigmoid",
    "tanh",
    "mish",
    "elu",
    "softplus",
    "linear",
)
"""What ``hidden_act`` may be: the names of ``core/graph/activations.py``, which has their definitions."""
