"""Writing a loaded model as a Hugging Face folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoint import save_safetensors

if TYPE_CHECKING:
    from .loading import Loaded
    from .tokenizer import Tokenizer


def save(loaded: Loaded, folder: Path, tokenizer: Tokenizer | None, *, max_shard_size: int | str) -> Path:
    """Write config, weights, tokenizer and generation defaults into `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = list(loaded.model.state())
    save_safetensors(folder, tensors, max_shard_size=max_shard_size)
    dtype = tensors[0][0].dtype
    loaded.config.replace(dtype=dtype, architectures=[loaded.task.architecture]).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    source = loaded.folder / "generation_config.json" if loaded.folder is not None else None
    if source is not None and source.is_file() and source.resolve() != (folder / source.name).resolve():
        shutil.copyfile(source, folder / source.name)
    return folder
