"""Writing Meta's originals: consolidated.00.pth, params.json and the tokenizer.

A .pth file is a ZIP archive around a pickle. The pickle is put together here opcode by opcode, from the few that torch
itself writes for a dictionary of tensors; torch is not needed, and ``torch.load(weights_only=True)`` reads it.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config.files import write_json
from ...errors import CheckpointError
from ..protocol import TensorInfo
from ..pytorch.pickle_reader import STORAGES
from ..rotary_order import pairs_from_halves
from ..writing import without_place
from .reader import PARAMS, MetaFormat, meta_name

if TYPE_CHECKING:
    from ...config.schema import LlamaConfig
    from ..protocol import Array
    from ..writing import ModelToWrite

_STORAGE_OF = {dtype: name for name, dtype in STORAGES.items() if name != "UntypedStorage"}
_ALIGNMENT = 64
_CHUNK = 1 << 24
_FORMAT = "Meta's format"
_META_CONSTANTS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class MetaWriter(MetaFormat):
    """Reader and writer of Meta's originals; it writes one rank."""

    suffix = ""
    keeps_packed = False
    sharded = False

    @staticmethod
    def write(model: ModelToWrite, target: Path) -> None:
        """See ``FormatWriter.write``."""
        config = model.config
        params = params_of(config)
        entries = [(meta_name(name), name) for name in model.weights]
        strangers = [ours for theirs, ours in entries if theirs is None]
        if strangers:
            raise without_place(", ".join(strangers[:5]), _FORMAT)
        if config.tie_word_embeddings:  # its code always has an output matrix of its own
            entries.append(("output.weight", "model.embed_tokens.weight"))
        infos = [
            TensorInfo(str(theirs), model.weights.info(ours).dtype, model.weights.info(ours).shape)
            for theirs, ours in entries
        ]
        write_json(target, PARAMS, params)
        _copy_tokenizer(model, target)

        def arrays() -> Iterator[Array]:
            for _, name in entries:
                array = model.weights[name]
                rotary = ".q_proj." in name or ".k_proj." in name
                yield pairs_from_halves(array, config.head_dim) if rotary else array

        write_torch_file(target / "consolidated.00.pth", infos, arrays())


def params_of(config: LlamaConfig) -> dict[str, Any]:
    """The content of params.json.

    Raises:
        UnsupportedError: the format has no way to say something that this model needs.
    """
    rope = config.rope_parameters
    refused = {
        f"head_dim={config.head_dim} beside hidden_size={config.hidden_size}": config.head_dim
        * config.num_attention_heads
        != config.hidden_size,
        f"hidden_act={config.hidden_act!r}": config.hidden_act not in ("silu", "swish"),
        "biases (attention_bias, mlp_bias)": config.attention_bias or config.mlp_bias,
        f"rope_type={rope.rope_type!r}": rope.rope_type not in ("default", "llama3"),
        "Llama 3.1's RoPE with other constants": rope.rope_type == "llama3"
        and any(getattr(rope, name) != value for name, value in _META_CONSTANTS.items()),
        "partial_rotary_factor": config.partial_rotary_factor != 1.0,
    }
    for what, is_so in refused.items():
        if is_so:
            raise without_place(what, _FORMAT, hint="convert to gguf or hf")
    found: dict[str, Any] = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        **intermediate_size_rule(config.hidden_size, config.intermediate_size),
    }
    if rope.rope_type == "llama3":
        found["use_scaled_rope"] = True
        if rope.factor != 8.0:
            found["rope_scaling_factor"] = rope.factor
    return found


def intermediate_size_rule(hidden_size: int, intermediate_size: int) -> dict[str, Any]:
    """``multiple_of`` and, if need be, ``ffn_dim_multiplier`` from which Meta's code computes this size.

    >>> intermediate_size_rule(4096, 11008), intermediate_size_rule(4096, 14336)
    ({'multiple_of': 256}, {'multiple_of': 1024, 'ffn_dim_multiplier': 1.3})
    """

    def gives(multiple: int, multiplier: float | None) -> bool:
        size = int(2 * (4 * hidden_size) / 3)
        size = size if multiplier is None else int(multiplier * size)
        return multiple * math.ceil(size / multiple) == intermediate_size

    multiples = [m for m in (256, 1024, 4096, 512, 128, 64, 32, 16, 8, 4, 2, 1) if intermediate_size % m == 0]
    for multiple in multiples:
        if gives(multiple, None):
            return {"multiple_of": multiple}
    for multiple in sorted(multiples, reverse=True):
        for multiplier in (1.3, 1.5, 1.4, 1.2, 1.1, 1.0):
            if multiple >= 256 and gives(multiple, multiplier):
                return {"multiple_of": multiple, "ffn_dim_multiplier": multiplier}
    base = int(2 * (4 * hidden_size) / 3)
    return {"multiple_of": 1, "ffn_dim_multiplier": (intermediate_size + 0.5) / base}


def _copy_tokenizer(model: ModelToWrite, target: Path) -> None:
    if model.tokenizer is None:
        return
    content = getattr(model.tokenizer, "_model_bytes", None)
    if content is None:
        from ...errors import warn

        warn("the tokenizer is not written: Meta's format has a tokenizer.model only, and this model a tokenizer.json")
        return
    (target / "tokenizer.model").write_bytes(content)


# ---- the file


def write_torch_file(path: Path, infos: list[TensorInfo], arrays: Iterator[Array]) -> None:
    """A file that torch.load reads, its tensors taken from `arrays` one by one, in the order of `infos`."""
    for info in infos:
        if info.dtype not in _STORAGE_OF:
            raise CheckpointError(f"tensor {info.name!r} is {info.dtype}, which a .pth file of old has no storage for")
    root = path.stem
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr(f"{root}/data.pkl", pickled_tensors(infos))
        archive.writestr(f"{root}/byteorder", "little")
        for key, (info, array) in enumerate(zip(infos, arrays, strict=True)):
            member = zipfile.ZipInfo(f"{root}/data/{key}")
            member.file_size = info.nbytes  # decides between 32 and 64 bits
            _align(archive, member)
            with archive.open(member, "w", force_zip64=True) as stream:
                _write_values(stream, info, array)
        archive.writestr(f"{root}/version", "3\n")


def _align(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Pad the local header so that the values begin at a multiple of 64, and can be mapped."""
    assert archive.fp is not None
    header = 30 + len(member.filename.encode()) + 20  # 20: the 64-bit sizes
    padding = -(archive.fp.tell() + header + 4) % _ALIGNMENT
    member.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding


def _write_values(stream: Any, info: TensorInfo, array: Array) -> None:
    import numpy as np

    if tuple(array.shape) != info.shape or array.dtype.name != info.dtype:
        raise CheckpointError(f"tensor {info.name!r} was announced as {info.dtype} {list(info.shape)}, but is not")
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, data.size, _CHUNK):
        stream.write(data[start : start + _CHUNK].data)


def pickled_tensors(infos: list[TensorInfo]) -> bytes:
    """A pickle of ``{name: tensor}`` in torch's own terms; storages are named by their number."""
    parts = [b"\x80\x02", b"}", b"("]
    for key, info in enumerate(infos):
        storage = b"ctorch\n" + _STORAGE_OF[info.dtype].encode() + b"\n"
        count = math.prod(info.shape)
        strides = tuple(math.prod(info.shape[axis + 1 :]) for axis in range(len(info.shape)))
        where = b"(" + _text("storage") + storage + _text(str(key)) + _text("cpu") + _integer(count) + b"tQ"
        hooks = b"ccollections\nOrderedDict\n)R"
        parts.append(_text(info.name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + where + _integer(0))
        parts.append(_tuple(info.shape) + _tuple(strides) + b"\x89" + hooks + b"tR")
    return b"".join([*parts, b"u."])


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(9, "little")
    return b"\x8a" + bytes([len(raw)]) + raw


def _tuple(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"
