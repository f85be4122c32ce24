"""Writing a Hugging Face folder, and MLX's, which is the same with packed weights allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config.files import write_json
from .reader import HuggingFaceCheckpoint, HuggingFaceFormat
from .save_safetensors import save_safetensors

if TYPE_CHECKING:
    from ..writing import ModelToWrite

GENERATION = "generation_config.json"


class HuggingFaceWriter:
    """config.json, model.safetensors or shards with an index, tokenizer, generation defaults."""

    suffix = ""
    keeps_packed = False
    sharded = True
    metadata = "pt"

    @classmethod
    def write(cls, model: ModelToWrite, target: Path) -> None:
        """See ``FormatWriter.write``."""
        save_safetensors(target, model.weights, max_shard_size=model.max_shard_size, metadata={"format": cls.metadata})
        write_json(target, "config.json", model.config.to_diff_dict())
        if model.tokenizer is not None and not _copy_tokenizer(model.folder, target):
            model.tokenizer.save_pretrained(target)
        defaults = model.folder / GENERATION if model.folder is not None else None
        if defaults is not None and defaults.is_file():
            (target / GENERATION).write_bytes(defaults.read_bytes())
        else:
            ids = {"bos_token_id": model.config.bos_token_id, "eos_token_id": model.config.eos_token_id}
            (target / GENERATION).write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")


def _copy_tokenizer(folder: Path | None, target: Path) -> bool:
    """The source's own tokenizer files, byte for byte, where it is a folder that has them."""
    from ...sources.download import TEMPLATE_FOLDER, TOKENIZER_FILES

    if folder is None or not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return False
    names = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    names += [TEMPLATE_FOLDER + file.name for file in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))]
    for name in names:
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_bytes((folder / name).read_bytes())
    return True


class HuggingFaceReaderWriter(HuggingFaceWriter, HuggingFaceFormat):
    """Reader and writer of Hugging Face's folder."""


class MlxFormat(HuggingFaceWriter):
    """MLX's folder: Hugging Face's names and files, with ``quantization`` in config.json where weights are packed.

    Reading one is reading Hugging Face's, so only who asks for it by name gets this reader.
    """

    name = "mlx"
    keeps_packed = True
    metadata = "mlx"

    @staticmethod
    def detect(path: Path) -> bool:
        """Never: the reader of Hugging Face's folders takes these."""
        return False

    @staticmethod
    def open(path: Path) -> Any:
        """Open it as what it is, a Hugging Face folder."""
        return HuggingFaceCheckpoint(path)
