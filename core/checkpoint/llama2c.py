"""llama2.c's .bin: a header of seven numbers, then every weight in float32, in the legacy order or that of version 1.

Source: ``export.py`` and ``run.c`` of karpathy/llama2.c. The legacy header has no magic number, so a file is known by
its size, which the header decides to the byte. Version 2 is quantized in groups and is refused by name. The tokenizer
is llama2.c's tokenizer.bin, or a tokenizer.model, beside the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, TokenizerError
from .mapped import INCOMPLETE, MappedFile
from .protocol import TensorInfo, own_config
from .rotary_order import halves_from_pairs

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig
    from ..tokenizer.tokenizer import Tokenizer
    from .protocol import Array

_MAGIC = 0x616B3432  # "ak42"
_VERSION_1_START = 256
_FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len")
_MOST = 1 << 24  # no model has so many of anything
_NORM_EPS = 1e-5
_LAYER = "model.layers.{}."
_ATTENTION_NORM, _MLP_NORM = _LAYER + "input_layernorm.weight", _LAYER + "post_attention_layernorm.weight"


@dataclass(frozen=True)
class _Header:
    """What the file says of itself; the fields as params.json would say them."""

    version: int
    fields: dict[str, int]
    shared_classifier: bool
    start: int

    def layout(self) -> Iterator[tuple[str | None, tuple[int, ...]]]:
        """Name and shape of each tensor in file order; no name for tables that are computed anew."""
        f = self.fields
        dim, hidden, layers, vocabulary = f["dim"], f["hidden_dim"], f["n_layers"], f["vocab_size"]
        head = dim // f["n_heads"]
        narrow = f["n_kv_heads"] * head

        def each(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
            return ((name.format(layer), shape) for layer in range(layers))

        legacy = self.version == 0
        if legacy:
            yield "model.embed_tokens.weight", (vocabulary, dim)
        yield from each(_ATTENTION_NORM, dim)
        if not legacy:
            yield from each(_MLP_NORM, dim)
            yield "model.norm.weight", (dim,)
            yield "model.embed_tokens.weight", (vocabulary, dim)
        yield from each(_LAYER + "self_attn.q_proj.weight", dim, dim)
        yield from each(_LAYER + "self_attn.k_proj.weight", narrow, dim)
        yield from each(_LAYER + "self_attn.v_proj.weight", narrow, dim)
        yield from each(_LAYER + "self_attn.o_proj.weight", dim, dim)
        if legacy:
            yield from each(_MLP_NORM, dim)
        yield from each(_LAYER + "mlp.gate_proj.weight", hidden, dim)
        yield from each(_LAYER + "mlp.down_proj.weight", dim, hidden)
        yield from each(_LAYER + "mlp.up_proj.weight", hidden, dim)
        if legacy:
            yield "model.norm.weight", (dim,)
            yield None, (2 * f["max_seq_len"] * (head // 2),)
        if not self.shared_classifier:
            yield "lm_head.weight", (vocabulary, dim)

    def nbytes(self) -> int:
        """Bytes the whole file must have."""
        f = self.fields
        head = f["dim"] // f["n_heads"]
        layer = 2 * f["dim"] + 2 * f["dim"] * f["dim"] + 2 * f["n_kv_heads"] * head * f["dim"]
        layer += 3 * f["dim"] * f["hidden_dim"]
        tables = 2 * f["max_seq_len"] * (head // 2) if self.version == 0 else 0
        embeddings = f["vocab_size"] * f["dim"] * (1 if self.shared_classifier else 2)
        return self.start + 4 * (f["n_layers"] * layer + f["dim"] + tables + embeddings)


class Llama2cCheckpoint:
    """One file of llama2.c behind the ``Checkpoint`` interface, under Hugging Face's names and in its rotary order."""

    format = "llama2c"

    def __init__(self, path: str | Path) -> None:
        self.path = _file_of(Path(path))
        self._file = MappedFile(self.path, "a llama2.c file", 28)
        header = _header(self._file.data[: _VERSION_1_START + 1])
        if header is None:
            raise CheckpointError(f"{self.path}: does not begin with a header of llama2.c", hint=INCOMPLETE)
        if header.version not in (0, 1):
            raise CheckpointError(
                f"{self.path}: is llama2.c's version {header.version}; the legacy one and version 1 are read",
                hint="export it again with --version 1",
            )
        if header.nbytes() != self._file.size:
            raise CheckpointError(
                f"{self.path}: has {self._file.size:,} bytes, its header wants {header.nbytes():,}", hint=INCOMPLETE
            )
        self._header = header
        self._starts: dict[str, int] = {}
        self._tensors: dict[str, TensorInfo] = {}
        position = header.start
        for name, shape in header.layout():
            info = TensorInfo(name or "", "float32", shape, self.path)
            if name is not None:
                self._tensors[name], self._starts[name] = info, position
            position += info.nbytes

    def config(self, **overrides: Any) -> LlamaConfig:
        """The header's numbers, with the constants of llama2.c, and fields overridden."""
        from ..config.reading import Source
        from ..config.schema import LlamaConfig

        source = Source(str(self.path), self.path.name)
        more = {"dtype": "float32", "tie_word_embeddings": self._header.shared_classifier}
        layers: list[tuple[dict[str, Any], Source]] = [
            ({**self._header.fields, "norm_eps": _NORM_EPS}, source),
            (more, source),
        ]
        with own_config():
            return LlamaConfig.from_sources(layers, **overrides)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by Hugging Face's name."""
        return self._tensors

    def read(self, name: str) -> Array:
        """One tensor; mapped, but for queries and keys, whose rows move."""
        info = self._tensors.get(name)
        if info is None:
            raise CheckpointError(f"{self.path}: there is no tensor {name!r}")
        array = self._file.array("float32", info.shape, self._starts[name])
        if ".q_proj." in name or ".k_proj." in name:
            return halves_from_pairs(array, self._header.fields["dim"] // self._header.fields["n_heads"])
        return array

    def release(self, name: str) -> None:
        """Give back the memory that reading a tensor brought in; see ``MappedFile.release``."""
        self._file.release(self._starts[name], self._tensors[name].nbytes)

    def tokenizer(self) -> Tokenizer:
        """tokenizer.bin or tokenizer.model beside the file."""
        from ..tokenizer.formats.llama2c import read_tokenizer_bin
        from ..tokenizer.llama_tokenizer import load_tokenizer

        folder = self.path.parent
        if (folder / "tokenizer.bin").is_file():
            return read_tokenizer_bin(folder / "tokenizer.bin", self._header.fields["vocab_size"])
        if not (folder / "tokenizer.model").is_file():
            raise TokenizerError(f"{folder}: holds neither tokenizer.bin nor tokenizer.model", hint="put one there")
        return load_tokenizer(folder / "tokenizer.model")


class Llama2cFormat:
    """The reader of llama2.c's files."""

    name = "llama2c"

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether the path is such a file, or a folder with one of them and no other weights."""
        if path.is_dir():
            others = any(path.glob("*.safetensors")) or any(path.glob("*.gguf")) or any(path.glob("*.pth"))
            return not others and len(_candidates(path)) == 1
        return _looks_right(path)

    @staticmethod
    def open(path: Path) -> Llama2cCheckpoint:
        """Open it; ``CheckpointError`` names the file that is wrong."""
        return Llama2cCheckpoint(path)


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = _candidates(path)
    if len(found) != 1:
        raise CheckpointError(f"{path}: holds {len(found)} files of llama2.c", hint="give the path of one of them")
    return found[0]


def _candidates(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*.bin")) if _looks_right(file)]


def _looks_right(path: Path) -> bool:
    if path.suffix != ".bin" or not path.is_file():
        return False
    with path.open("rb") as file:
        header = _header(file.read(_VERSION_1_START + 1))
    return header is not None and (header.version > 0 or header.nbytes() == path.stat().st_size)


def _header(start: bytes) -> _Header | None:
    """The header, or None where the numbers are none that a model could have."""
    if len(start) < 28:
        return None
    magic, version = struct.unpack_from("<Ii", start)
    if magic == _MAGIC:
        if version != 1 or len(start) < 37:
            return _Header(max(version, 2), {}, False, 0)
        fields = dict(zip(_FIELDS, struct.unpack_from("<7i", start, 8), strict=True))
        return _checked(_Header(1, fields, bool(start[36]), _VERSION_1_START))
    fields = dict(zip(_FIELDS, struct.unpack_from("<7i", start), strict=True))
    shared = fields["vocab_size"] > 0
    fields["vocab_size"] = abs(fields["vocab_size"])
    return _checked(_Header(0, fields, shared, 28))


def _checked(header: _Header) -> _Header | None:
    f = header.fields
    if not all(0 < value <= _MOST for value in f.values()) or f["n_layers"] > 10_000:
        return None
    fits = f["dim"] % f["n_heads"] == 0 and f["n_heads"] % f["n_kv_heads"] == 0 and (f["dim"] // f["n_heads"]) % 2 == 0
    return header if fits else None
