"""Arguments of transformers' loader that are no fields of a configuration, and what to give here instead."""

from __future__ import annotations

from typing import Any

from ..messages import mention

_DEVICES = "a model runs on one device so far; leave it out"
_TAKEN = "from_pretrained takes it; "

REFUSED: dict[str, str] = {
    "adapter_kwargs": "give the adapter's folder: " + mention("adapter", shown="folder"),
    "adapter_name": "give the adapter's folder: " + mention("adapter", shown="folder"),
    "code_revision": "code of a checkpoint is never run; leave it out",
    "device_mesh": _DEVICES,
    "distributed_config": _DEVICES,
    "from_flax": "convert the checkpoint to safetensors with transformers 4 first",
    "from_tf": "convert the checkpoint to safetensors with transformers 4 first",
    "fusion_config": "backends fuse what they can; leave it out",
    "generation_config": "give its options to generate",
    "kernel_config": "kernels are the backend's; leave it out",
    "key_mapping": "names that known tools store are recognized; rename the tensors of others in the file",
    "max_memory": _DEVICES,
    "mirror": "set HF_ENDPOINT in the environment",
    "offload_buffers": _DEVICES,
    "offload_folder": _DEVICES,
    "offload_state_dict": _DEVICES,
    "output_loading_info": "tensors that are missing or do not fit are errors, and a fresh head is warned of by name",
    "proxies": "set HTTPS_PROXY in the environment",
    "resume_download": "downloads always resume; leave it out",
    "return_unused_kwargs": "unknown fields are kept in config.extra; leave it out",
    "state_dict": "give the folder of the weights; on torch, llm.module.load_state_dict(...) takes a dictionary",
    "tp_plan": _DEVICES,
    "tp_size": _DEVICES,
    "use_auth_token": "its name is token",
    "use_kernels": "kernels are the backend's; leave it out",
    "variant": "give the file's path, or the folder of its own that holds it",
    "weights_only": "pickles are read without being run, always; leave it out",
}
"""What is not offered, and what to do instead."""

NEUTRAL: dict[str, tuple[Any, ...]] = dict.fromkeys(REFUSED, (None, False)) | {
    "adapter_kwargs": (None, {}),
    "key_mapping": (None, {}),
    "resume_download": (None, True),
    "weights_only": (None, True),
}
"""The values of refused arguments that ask for nothing."""

LOADER_ARGUMENTS = REFUSED | {
    "device_map": _TAKEN + "name a device: " + mention("device", "cuda"),
    "kv_cache": "it is a setting: POLYLLAMA_KV_CACHE, or kv_cache in polyllama.yaml",
    "load_in_4bit": "use " + mention("quantize", "int4"),
    "load_in_8bit": "use " + mention("quantize", "int8"),
    "local_files_only": _TAKEN + "use " + mention("offline", True),
    "low_cpu_mem_usage": "weights are mapped rather than copied anyway; leave it out",
    "quantization_config": _TAKEN + "use " + mention("quantize", "int4") + " or 'int8'",
    "seed": "give it to Llama.load or to generate, or set POLYLLAMA_SEED",
    "threads": "it is a setting: POLYLLAMA_THREADS, or threads in polyllama.yaml",
    "trust_remote_code": "polyllama never runs code from a checkpoint; leave it out",
    "use_safetensors": "safetensors are taken where there are any, and no pickle is ever run; leave it out",
}
"""Arguments of transformers' loader; taken for fields they would silently do nothing."""

OF_A_MODEL = (
    *("attn_implementation", "ignore_mismatched_sizes", "gguf_file", "backend", "task", "device", "quantize"),
    *("load_format", "fresh_head", "adapter", "merge_adapter", "adapters", "ignore"),
)
"""Arguments of ``Llama.load`` that a configuration alone has no use for."""
