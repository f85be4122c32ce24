"""Arguments of transformers' loader that are no fields of a configuration, and what to give here instead."""

from __future__ import annotations

from ..messages import mention

LOADER_ARGUMENTS = {
    "attn_implementation": "torch takes its fused attention, and eager where attentions are asked for",
    "cache_dir": "the cache folder is a setting: POLYLLAMA_CACHE_DIR, or cache_dir in polyllama.yaml",
    "device_map": "name a device: " + mention("device", "cuda"),
    "force_download": "remove the files from the cache to fetch them again",
    "ignore_mismatched_sizes": "for a head of another size give fresh_head=True to Llama.load",
    "kv_cache": "it is a setting: POLYLLAMA_KV_CACHE, or kv_cache in polyllama.yaml",
    "load_in_4bit": "use " + mention("quantize", "int4"),
    "load_in_8bit": "use " + mention("quantize", "int8"),
    "local_files_only": "use " + mention("offline", True),
    "low_cpu_mem_usage": "weights are mapped rather than copied anyway; leave it out",
    "output_attentions": "give it to forward",
    "output_hidden_states": "give it to forward",
    "proxies": "set HTTPS_PROXY in the environment",
    "quantization_config": "use " + mention("quantize", "int4") + " or 'int8'",
    "resume_download": "downloads always resume; leave it out",
    "return_unused_kwargs": "unknown fields are kept in config.extra; leave it out",
    "seed": "give it to Llama.load or to generate, or set POLYLLAMA_SEED",
    "subfolder": "give the folder itself as the path",
    "threads": "it is a setting: POLYLLAMA_THREADS, or threads in polyllama.yaml",
    "token": "log in with `hf auth login`, or set HF_TOKEN",
    "trust_remote_code": "polyllama never runs code from a checkpoint; leave it out",
    "use_auth_token": "log in with `hf auth login`, or set HF_TOKEN",
    "use_safetensors": "safetensors are taken where there are any, and no pickle is ever run; leave it out",
}
"""Arguments of transformers' loader; taken for fields they would silently do nothing."""
