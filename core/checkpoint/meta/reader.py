"""Meta's originals: params.json beside consolidated.NN.pth, one file for each model-parallel rank.

The ranks hold slices: projections that widen are cut along their outputs, those that narrow along their inputs, norms
are everywhere; the embedding is cut along its width in Llama 1 and 2, along the vocabulary in Llama 3. Where there are
more ranks than key heads, neighbouring ranks hold the same ones. Tensors come out under Hugging Face's names, whole,
with queries and keys in its rotary order.

Source: ``model.py`` and ``generation.py`` of meta-llama/llama and meta-llama/llama-models.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, PolyllamaWarning, TokenizerError
from ...messages import few
from ..huggingface.reader import SAFETENSORS, is_meta_shard
from ..protocol import TensorInfo, own_config
from ..pytorch.torch_file import TorchFile
from ..rotary_order import halves_from_pairs
from ..tensor_names import is_buffer

if TYPE_CHECKING:
    from ...config.schema import LlamaConfig
    from ...tokenizer.tokenizer import Tokenizer
    from ..protocol import Array

PARAMS = "params.json"
_AGAIN = "download the checkpoint again"

COLUMN, ROW, EMBEDDING, WHOLE = "column", "row", "embedding", "whole"
NAMES: Mapping[str, tuple[str, str]] = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", EMBEDDING),
    "norm.weight": ("model.norm.weight", WHOLE),
    "output.weight": ("lm_head.weight", COLUMN),
    "layers.{}.attention_norm.weight": ("model.layers.{}.input_layernorm.weight", WHOLE),
    "layers.{}.attention.wq.weight": ("model.layers.{}.self_attn.q_proj.weight", COLUMN),
    "layers.{}.attention.wk.weight": ("model.layers.{}.self_attn.k_proj.weight", COLUMN),
    "layers.{}.attention.wv.weight": ("model.layers.{}.self_attn.v_proj.weight", COLUMN),
    "layers.{}.attention.wo.weight": ("model.layers.{}.self_attn.o_proj.weight", ROW),
    "layers.{}.ffn_norm.weight": ("model.layers.{}.post_attention_layernorm.weight", WHOLE),
    "layers.{}.feed_forward.w1.weight": ("model.layers.{}.mlp.gate_proj.weight", COLUMN),
    "layers.{}.feed_forward.w2.weight": ("model.layers.{}.mlp.down_proj.weight", ROW),
    "layers.{}.feed_forward.w3.weight": ("model.layers.{}.mlp.up_proj.weight", COLUMN),
}
"""Meta's name -> Hugging Face's, and how the ranks share it. Biases are named alike and shared as their weights are."""
_LAYER = re.compile(r"(?<=^layers\.)\d+(?=\.)|(?<=^model\.layers\.)\d+(?=\.)")


def huggingface_name(name: str) -> tuple[str, str] | None:
    """What Hugging Face calls one of Meta's tensors, and how ranks share it; None for a name that is not Meta's.

    >>> huggingface_name("layers.3.attention.wq.weight")
    ('model.layers.3.self_attn.q_proj.weight', 'column')
    """
    numbers = _LAYER.findall(name)
    pattern = _LAYER.sub("{}", name)
    bias = pattern.endswith(".bias")
    found = NAMES.get(pattern.removesuffix(".bias") + ".weight" if bias else pattern)
    if found is None or (bias and found[1] == EMBEDDING):
        return None
    target, split = found
    if bias:
        target = target.removesuffix(".weight") + ".bias"
        split = WHOLE if split == ROW else split
    return target.format(*numbers), split


def meta_name(name: str) -> str | None:
    """What Meta calls one of Hugging Face's tensors; None where it has no such tensor.

    >>> meta_name("model.layers.3.mlp.down_proj.weight")
    'layers.3.feed_forward.w2.weight'
    """
    pattern = _LAYER.sub("{}", name)
    bias = pattern.endswith(".bias")
    weight = pattern.removesuffix(".bias") + ".weight" if bias else pattern
    found = next((meta for meta, (theirs, _) in NAMES.items() if theirs == weight), None)
    if found is None:
        return None
    return (found.removesuffix(".weight") + ".bias" if bias else found).format(*_LAYER.findall(name))


@dataclass(frozen=True)
class _Merge:
    """How one tensor is put together: along this axis (None: any rank has it whole), of every ``copies``-th rank."""

    stored: str
    axis: int | None
    rotary: bool
    copies: int


class MetaCheckpoint:
    """All ranks of one model behind the ``Checkpoint`` interface, under Hugging Face's names.

    ``path`` is the folder, or any one of its consolidated.NN.pth.
    """

    format = "meta"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder = self.path if self.path.is_dir() else self.path.parent
        self._files = [TorchFile(file) for file in _rank_files(self.folder)]
        stored = _common_tensors(self._files)
        self._stored = stored
        with warnings.catch_warnings():  # whoever loads asks for the config again, and hears what it has to say
            warnings.simplefilter("ignore", PolyllamaWarning)
            self._config = self.config()
        self._tensors: dict[str, TensorInfo] = {}
        self._merges: dict[str, _Merge] = {}
        for name, info in stored.items():
            if is_buffer(info):  # computed from the config instead
                continue
            known = huggingface_name(name)
            # A name that is not Meta's is reported by the check against the graph, beside all else that is wrong.
            target, split = known if known is not None else (name, WHOLE)
            self._tensors[target], self._merges[target] = self._plan(target, info, split)

    def config(self, **overrides: Any) -> LlamaConfig:
        """``params.json``, and from the weights what it leaves to them: vocabulary, dtype; with fields overridden."""
        from ...config.files import read_json_object
        from ...config.reading import Source
        from ...config.schema import LlamaConfig

        file = self.folder / PARAMS
        with own_config():
            if file.exists():
                raw = read_json_object(file)
                weights = Source(str(self._files[0].path), self._files[0].path.name)
                layers = [(raw, Source(str(file), file.name, file.parent)), (self._from_weights(raw), weights)]
                return LlamaConfig.from_sources(layers, **overrides)
            if (self.folder / "config.json").exists():
                return LlamaConfig.from_pretrained(self.folder / "config.json", **overrides)
        raise CheckpointError(f"{self.folder}: {PARAMS} is not there beside the weights", hint=_AGAIN)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor, whole, by Hugging Face's name."""
        return self._tensors

    def read(self, name: str) -> Array:
        """One tensor, merged from the ranks and in rotary order; mapped where there is nothing to do, else a copy."""
        merge = self._merges.get(name)
        if merge is None:
            raise CheckpointError(f"{self.path}: there is no tensor {name!r}")
        if merge.axis is None and not merge.rotary:
            return self._files[0].read(merge.stored)
        return self._merged(merge, self._tensors[name])

    def release(self, name: str) -> None:
        """Give back the memory that reading a tensor brought in; see ``MappedFile.release``."""
        for file in self._files:
            file.release(self._merges[name].stored)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer.model in the folder, or in the one above, where Llama 1 keeps it."""
        from ...tokenizer.llama_tokenizer import load_tokenizer

        for folder in (self.folder, self.folder.absolute().parent):
            if (folder / "tokenizer.model").is_file() or (folder / "tokenizer.json").is_file():
                return load_tokenizer(folder)
        raise TokenizerError(f"{self.folder}: holds no tokenizer.model, nor does the folder above", hint=_AGAIN)

    def _from_weights(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that the weights decide."""
        embedding = self._stored.get("tok_embeddings.weight")
        found: dict[str, Any] = {}
        if embedding is not None:
            found["dtype"] = embedding.dtype
            dim = raw.get("dim")
            if raw.get("vocab_size") in (None, -1) and len(embedding.shape) == 2 and type(dim) is int:
                along_vocabulary = embedding.shape[1] == dim
                found["vocab_size"] = embedding.shape[0] * (len(self._files) if along_vocabulary else 1)
        if "output.weight" not in self._stored:
            found["tie_word_embeddings"] = True
        return found

    def _plan(self, name: str, info: TensorInfo, split: str) -> tuple[TensorInfo, _Merge]:
        shape, copies = list(info.shape), 1
        rotary = ".q_proj." in name or ".k_proj." in name
        axis = None
        if len(self._files) > 1 and split != WHOLE:
            axis = self._axis(info, split)
            if ".k_proj." in name or ".v_proj." in name:
                copies = self._copies(info)
            shape[axis] *= len(self._files) // copies
        if rotary and info.shape[0] % self._config.head_dim:
            raise CheckpointError(
                f"{info.file}: tensor {info.name!r} has {info.shape[0]} rows, no multiple of the "
                f"{self._config.head_dim} components of a head",
                hint=f"does {PARAMS} belong to these weights?",
            )
        return TensorInfo(name, info.dtype, tuple(shape), info.file), _Merge(info.name, axis, rotary, copies)

    def _axis(self, info: TensorInfo, split: str) -> int:
        axis = {COLUMN: 0, ROW: 1}.get(split)
        if axis is None:
            width, hidden = info.shape[-1], self._config.hidden_size
            axis = 0 if width == hidden else 1
        if len(info.shape) <= axis:
            raise CheckpointError(f"{info.file}: tensor {info.name!r} has shape {list(info.shape)}, too few dimensions")
        return axis

    def _copies(self, info: TensorInfo) -> int:
        """How many neighbouring ranks hold the same key heads, as there are more ranks than heads; usually one."""
        wanted = self._config.num_key_value_heads * self._config.head_dim
        copies, rest = divmod(info.shape[0] * len(self._files), wanted)
        return 1 if rest or copies < 1 or len(self._files) % copies else copies

    def _merged(self, merge: _Merge, info: TensorInfo) -> Array:
        import numpy as np

        from ...dtypes import numpy_dtype

        merged = np.empty(info.shape, numpy_dtype(info.dtype))
        position = 0
        for number, file in enumerate(self._files if merge.axis is not None else self._files[:1]):
            part = file.read(merge.stored)
            if number % merge.copies == 0:
                end = position + part.shape[merge.axis or 0]
                target = merged[:, position:end] if merge.axis == 1 else merged[position:end]
                if merge.rotary:
                    halves_from_pairs(part, self._config.head_dim, out=target)
                else:
                    target[...] = part
                original, position = (file, part), end
            else:
                _check_same(original, (file, part), merge.stored)
            file.release(merge.stored)  # nobody else has this view
        return merged


class MetaFormat:
    """The reader of Meta's originals."""

    name = "meta"

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether the path is a consolidated.NN.pth, or a folder of them without weights in another layout."""
        if path.is_dir():
            return any(is_meta_shard(file.name) for file in path.glob("consolidated.*.pth")) and not any(
                SAFETENSORS.files(path)
            )
        return is_meta_shard(path.name)

    @staticmethod
    def open(path: Path) -> MetaCheckpoint:
        """Open it; ``CheckpointError`` names the file that is wrong."""
        return MetaCheckpoint(path)


def _check_same(original: tuple[TorchFile, Array], other: tuple[TorchFile, Array], name: str) -> None:
    import numpy as np

    one, two = (part.reshape(-1).view(np.uint8) for _, part in (original, other))
    if not np.array_equal(one, two):
        raise CheckpointError(
            f"{other[0].path}: tensor {name!r} should equal the one in {original[0].path.name}, "
            "as the ranks outnumber the key heads, but does not",
            hint=_AGAIN,
        )


def _rank_files(folder: Path) -> list[Path]:
    numbered = {int(f.name.split(".")[1]): f for f in folder.glob("consolidated.*.pth") if is_meta_shard(f.name)}
    if not numbered:
        raise CheckpointError(f"{folder}: holds no consolidated.NN.pth", hint=_AGAIN)
    count = max(numbered) + 1
    missing = [f"consolidated.{n:02d}.pth" for n in range(min(count, 1000)) if n not in numbered]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {count} files of the model are missing: {few(missing)}",
            hint="the download is incomplete: run it again",
        )
    return [numbered[n] for n in range(count)]


def _common_tensors(files: list[TorchFile]) -> Mapping[str, TensorInfo]:
    """The tensors of the first rank, having checked that the others have the same ones."""
    first = files[0].tensors()
    if not first:
        raise CheckpointError(f"{files[0].path}: holds no tensors at all", hint=_AGAIN)
    for file in files[1:]:
        tensors = file.tensors()
        if differing := sorted(set(first) ^ set(tensors)):
            raise CheckpointError(
                f"{file.path}: does not hold the same tensors as {files[0].path.name}: {few(differing)}",
                hint="the files belong to different checkpoints",
            )
        for name, info in tensors.items():
            if (info.dtype, info.shape) != (first[name].dtype, first[name].shape):
                raise CheckpointError(
                    f"{file.path}: tensor {name!r} is {info.dtype} {list(info.shape)}, in {files[0].path.name} "
                    f"{first[name].dtype} {list(first[name].shape)}",
                    hint="the files belong to different checkpoints",
                )
    return first
