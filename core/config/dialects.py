"""The dialects a Llama configuration is written in, each read into one :class:`Reading`.

A dialect is a row of :data:`DIALECTS`: a name, a function that recognizes it and a function that reads it. A reader
only renames and derives; whether the values are right is checked afterwards, once, for all dialects.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ConfigError
from .problems import ConfigProblems, Problem, contradiction, same, show
from .reading import (
    ARGUMENT,
    KNOWN_SPELLINGS,
    LABEL_FIELDS,
    LOOSE_ROPE,
    PLAIN_FIELDS,
    QUANTIZATION_BLOCKS,
    ROPE_BLOCKS,
    Reading,
    Source,
    lookalike,
)
from .rope import COMMON, RopeParameters, normalize_rope


def read_huggingface(raw: Mapping[str, Any], source: Source) -> Reading:
    """Hugging Face ``config.json`` of any age, and keyword arguments in the same names.

    Source: transformers' documentation of LlamaConfig from 4.29 to 5.
    """
    _check_model_type(raw, source)
    reading = Reading(source.where)
    for name in (*PLAIN_FIELDS, *LABEL_FIELDS):
        if name in raw:
            reading.put(name, raw[name], source.origin(name, name))
    _read_dtype(raw, source, reading)
    _read_context_length(raw, source, reading)
    _read_rope(raw, source, reading)
    _read_quantization(raw, source, reading)
    taken = {*KNOWN_SPELLINGS, *reading.spelled.values()}
    for name, value in raw.items():
        if name in taken:
            continue
        problem = lookalike(name, value, raw)
        if problem is not None:
            reading.problems.append(problem)
        else:
            reading.extra[name] = value
            reading.origins[name] = source.origin(name, name)
    return reading


def _check_model_type(raw: Mapping[str, Any], source: Source) -> None:
    kind = raw.get("model_type")
    if kind is None:
        names = raw.get("architectures")
        strangers = [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
        if strangers and not any("llama" in name.lower() for name in strangers):
            text = f"not a Llama: architectures is {show(strangers)} and there is no model_type"
            raise ConfigProblems(source.where, [f'{text}; add "model_type": "llama" if it is one'])
    elif kind != "llama":
        text = f"not a Llama: model_type is {show(kind)}"
        if kind in ("mistral", "qwen2", "phi3", "gemma", "granite", "internlm2", "yi"):
            text += ", which is close to a Llama but not one"
        raise ConfigProblems(source.where, [f'{text}; polyllama reads model_type "llama" only'])


def _read_dtype(raw: Mapping[str, Any], source: Source, reading: Reading) -> None:
    found: list[tuple[str, str | Any]] = []
    for name in ("dtype", "torch_dtype"):
        if raw.get(name) is not None:
            found.append((name, _dtype_text(raw[name])))
    if len(found) == 2 and not same(found[0][1], found[1][1]):
        reading.problems.append(Problem("", contradiction(found[0], found[1])))
    if found:
        name, value = found[0]
        reading.put("dtype", value, source.origin(name, "dtype"), name)
    elif "dtype" in raw or "torch_dtype" in raw:
        name = "dtype" if "dtype" in raw else "torch_dtype"
        reading.put("dtype", None, source.origin(name, "dtype"), name)


def _dtype_text(value: Any) -> Any:
    """A torch dtype's or NumPy dtype's name; older files say ``torch.float16``."""
    if not isinstance(value, str):
        name = getattr(value, "name", None) or getattr(value, "__name__", None)
        text = str(value)
        value = text if text.startswith("torch.") else name if isinstance(name, str) else value
    return value.removeprefix("torch.") if isinstance(value, str) else value


def _read_quantization(raw: Mapping[str, Any], source: Source, reading: Reading) -> None:
    """MLX's block; its tools write it again as ``quantization_config``, where others put methods of their own."""
    found = [(name, raw[name]) for name in QUANTIZATION_BLOCKS if raw.get(name)]
    if len(found) == 2 and not same(found[0][1], found[1][1]):
        reading.problems.append(Problem("", contradiction(found[0], found[1])))
    elif found:
        name, block = found[0]
        from ..quantization.scheme import read_quantization

        try:
            reading.put("quantization", read_quantization(block), source.origin(name, "quantization"), name)
        except ConfigError as error:
            hint = f"; {error.hint}" if error.hint else ""
            # A reader whose weights are plain floats says so by giving the field.
            reading.unless_given["quantization"] = Problem(name, f": {error.message}{hint}")
    elif "quantization" in raw:
        reading.put("quantization", None, source.origin("quantization", "quantization"))


def _read_context_length(raw: Mapping[str, Any], source: Source, reading: Reading) -> None:
    """The first Llama conversions said ``max_sequence_length``; in later files it is a remark beside the field."""
    older = raw.get("max_sequence_length")
    if older is None:
        return
    newer = raw.get("max_position_embeddings")
    if newer is None:
        origin = source.origin("max_sequence_length", "max_position_embeddings")
        reading.put("max_position_embeddings", older, origin, "max_sequence_length")
    elif not same(newer, older):
        text = f"max_sequence_length={show(older)} is not used: max_position_embeddings={show(newer)} is given"
        reading.notes.append(("max_position_embeddings", f"{source.where}: {text}"))


def _read_rope(raw: Mapping[str, Any], source: Source, reading: Reading) -> None:
    for block_name in ROPE_BLOCKS:
        if block_name not in raw:
            continue
        block = raw[block_name]
        reading.scaling_given = True
        if block is None:
            continue
        reading.block = block_name
        if isinstance(block, RopeParameters):
            block = block.to_dict()
        if not isinstance(block, Mapping):
            example = '{"rope_type": "linear", "factor": 2.0}'
            problem = Problem(block_name, f"={show(block)} must be an object such as {example}, or null")
            reading.problems.append(problem)
            continue
        values, problems = normalize_rope(block)
        reading.problems += [replace(p, text=f"{block_name}: {p.text}") for p in problems]
        for name, value in values.items():
            given = name if name != "rope_type" or block.get("rope_type") is not None else "type"
            spelled = f"{block_name}.{given}"
            reading.put_rope(name, value, source.origin(spelled, f"rope_parameters.{name}"), spelled)
    for name in LOOSE_ROPE:
        if raw.get(name) is not None:
            reading.put_rope(name, raw[name], source.origin(name, name), name)
            reading.loose.add(name)


def read_arguments(fields: Mapping[str, Any], where: str) -> Reading:
    """Keyword arguments, in any spelling of Hugging Face."""
    return read_huggingface(_isolated(fields, where), Source(where, ARGUMENT))


def _recognize_meta(raw: Mapping[str, Any]) -> bool:
    return "dim" in raw and ("n_layers" in raw or "n_heads" in raw) and "model_type" not in raw


def _read_meta(raw: Mapping[str, Any], source: Source) -> Reading:
    from .meta import read_meta

    return read_meta(raw, source)


def _recognize_gguf(raw: Mapping[str, Any]) -> bool:
    return "general.architecture" in raw


def _read_gguf(raw: Mapping[str, Any], source: Source) -> Reading:
    from .gguf import read_gguf

    return read_gguf(raw, source)


def _recognize_mlx(raw: Mapping[str, Any]) -> bool:
    block = raw.get("quantization")
    return isinstance(block, Mapping) and "group_size" in block and "bits" in block


@dataclass(frozen=True)
class Dialect:
    """One way to write a configuration down."""

    name: str
    recognizes: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], Source], Reading]


DIALECTS: tuple[Dialect, ...] = (
    Dialect("meta", _recognize_meta, _read_meta),
    Dialect("gguf", _recognize_gguf, _read_gguf),
    # The names are Hugging Face's.
    Dialect("mlx", _recognize_mlx, read_huggingface),
    Dialect("huggingface", lambda raw: True, read_huggingface),
)
"""Every dialect, in the order they are asked; the last one takes what no other recognizes."""


def detect_dialect(raw: Mapping[str, Any]) -> Dialect:
    """The dialect a mapping is written in.

    >>> detect_dialect({"dim": 4096, "n_layers": 32, "n_heads": 32}).name
    'meta'
    >>> detect_dialect({"model_type": "llama"}).name
    'huggingface'
    """
    return next(dialect for dialect in DIALECTS if dialect.recognizes(raw))


def read_any(raw: Any, source: Source) -> Reading:
    """Read a mapping in whichever dialect it is written."""
    raw = _isolated(raw, source.where)
    return detect_dialect(raw).read(raw, source)


def _isolated(raw: Any, where: str) -> dict[str, Any]:
    """A copy that later changes to the caller's own objects do not reach."""
    if not isinstance(raw, Mapping):
        raise ConfigProblems(where, [f"must be a mapping of fields, not {show(raw)}"])
    try:
        return {key: copy.deepcopy(value) for key, value in raw.items()}
    except Exception as error:  # an object that refuses to be copied cannot be stored either
        raise ConfigProblems(where, [f"holds a value that cannot be stored as JSON ({error})"]) from error


def describes_a_model(raw: Mapping[str, Any]) -> bool:
    """Whether a file's content says anything at all about a model; else it is the wrong file."""
    return detect_dialect(raw).name != "huggingface" or any(name in raw for name in (*KNOWN_SPELLINGS, *COMMON))
