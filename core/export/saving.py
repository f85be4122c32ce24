"""Writing a loaded model as a Hugging Face folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.huggingface.save_safetensors import save_safetensors
from ..checkpoint.locking import locked
from ..dtypes import is_float
from ..errors import CheckpointError, UnsupportedError
from ..messages import mention

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig
    from ..generation.config import GenerationConfig
    from ..loading.load import Loaded
    from ..tokenizer.tokenizer import Tokenizer

GENERATION = "generation_config.json"


def save(
    loaded: Loaded,
    folder: Any,
    tokenizer: Tokenizer | None,
    *,
    max_shard_size: int | str,
    generation: GenerationConfig | None = None,
) -> Path:
    """Write config, weights, tokenizer and generation defaults into `folder`, which is made if need be.

    Everything but the weights is written beside them first, and moved into place only when the weights are whole; so
    a save that fails leaves a model that was there as it was.

    Args:
        generation: the generation defaults where they are not the checkpoint's own.

    Raises:
        GenerationError: generation defaults that have options without effect.
        CheckpointError: the folder cannot be made or written, or there is not enough space.
    """
    if not isinstance(folder, (str, os.PathLike)) or not str(folder):
        raise CheckpointError(f"cannot save to {folder!r}", hint="give the path of a folder")
    if loaded.graph.adapters:
        raise UnsupportedError(
            "the model runs with adapters beside its weights, which a Hugging Face folder cannot hold",
            hint="save it loaded without adapters, or with "
            + mention("adapter", shown="folder")
            + " and "
            + mention("merge_adapter", True),
        )
    if any(p.role == "adapter" for p in loaded.graph.parameters()):
        raise UnsupportedError(
            "the model runs with an adapter beside its weights, which a Hugging Face folder cannot hold",
            hint="load it with " + mention("merge_adapter", True) + " and save that",
        )
    target = Path(folder).expanduser()
    new = not os.path.lexists(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with locked(target, inside=True), tempfile.TemporaryDirectory(prefix=".saving-", dir=target) as name:
            staging = Path(name)
            tensors = list(loaded.model.state())
            dtype = next(info.dtype for info, _ in tensors if is_float(info.dtype))
            config = loaded.config.describing(dtype=dtype, architectures=[loaded.task.architecture])
            config.save_pretrained(staging)
            if tokenizer is not None:
                tokenizer.save_pretrained(staging)
            if generation is None:
                write_generation_config(loaded.folder, loaded.config, staging)
            else:
                generation.save_pretrained(staging)
            save_safetensors(target, tensors, max_shard_size=max_shard_size)
            for file in sorted(staging.iterdir()):
                os.replace(file, target / file.name)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{str(folder)[:80]}: cannot save there ({reason})") from None
    finally:
        if new:
            with contextlib.suppress(OSError, ValueError):  # there is something in it: it was saved
                target.rmdir()
    return target


def write_generation_config(folder: Path | None, config: LlamaConfig, staging: Path) -> None:
    """The checkpoint's own generation defaults; without any, the ids, so that none that lie there are inherited."""
    source = folder / GENERATION if folder is not None else None
    if source is not None and source.is_file():
        shutil.copyfile(source, staging / GENERATION)
        return
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    (staging / GENERATION).write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")
