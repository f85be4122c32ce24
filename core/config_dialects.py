"""The dialects a Llama configuration is written in, each read into one :class:`Reading`.

A dialect is a row of :data:`DIALECTS`: a name, a function that recognizes it and a function that reads it. A reader
only renames and derives; whether the values are right is checked afterwards, once, for all dialects.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from .config_checks import ConfigProblems, Problem, contradiction, same, show
from .config_keys import FOREIGN_KEYS, OTHER_SPELLINGS
from .config_rope import COMMON, RopeParameters, normalize_rope
from .errors import ConfigError
from .messages import closest

PLAIN_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "pretraining_tp",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "attention_dropout",
    "architectures",
    "problem_type",
    "classifier_dropout",
    "hidden_dropout",
)
"""Fields that every dialect of Hugging Face spells alike."""

LABEL_FIELDS = ("num_labels", "id2label", "label2id")
ROPE_BLOCKS = ("rope_parameters", "rope_scaling")
LOOSE_ROPE = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
QUANTIZATION_BLOCKS = ("quantization", "quantization_config")
KNOWN_SPELLINGS = (
    *PLAIN_FIELDS,
    *LABEL_FIELDS,
    *ROPE_BLOCKS,
    *LOOSE_ROPE,
    *QUANTIZATION_BLOCKS,
    "dtype",
    "torch_dtype",
    "model_type",
)

ARGUMENT = "argument"


@dataclass(frozen=True)
class Source:
    """Where a mapping came from.

    Attributes:
        where: what an error message starts with: a path, or a caller's name for it.
        label: what provenance calls it: the file's name, or "argument".
        folder: the folder of the file, where a dialect looks for what the file itself leaves out.
    """

    where: str
    label: str
    folder: Path | None = None

    @classmethod
    def of(cls, source: str | Path) -> Source:
        """A path is called by its file name in provenance; any other text stands for itself."""
        return cls(str(source), PurePath(source).name or str(source))

    def origin(self, spelled: str, name: str) -> str:
        """Provenance of a field that was spelled `spelled` here."""
        if self.label == ARGUMENT:
            return ARGUMENT if spelled == name else f"{ARGUMENT}: {spelled}"
        return f"{self.label}: {spelled}"


@dataclass
class Reading:
    """What one source, or several laid over each other, says: raw values under the schema's names.

    Attributes:
        where: what error messages start with.
        values: fields, rope and labels' spellings apart.
        rope: parameters of ``rope_parameters``, in the schema's names.
        origins: provenance by field; rope parameters as ``rope_parameters.NAME``.
        spelled: how the source spells a field, where not by the schema's name.
        loose: rope parameters given outside a block of them.
        block: what the source calls its block of rope parameters.
        scaling_given: whether a block of rope parameters was given, an empty one included: it replaces an earlier one.
        extra: keys the schema does not know.
        problems: what is already known to be wrong.
        unless_given: problems that a later source settles by giving the field.
        notes: what to warn about, and which field it is about.
    """

    where: str
    values: dict[str, Any] = field(default_factory=dict)
    rope: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)
    loose: set[str] = field(default_factory=set)
    block: str = "rope_parameters"
    scaling_given: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unless_given: dict[str, Problem] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def put(self, name: str, value: Any, origin: str, spelled: str | None = None) -> None:
        """Record a field."""
        self.values[name] = value
        self.origins[name] = origin
        self.spelled[name] = spelled or name

    def put_rope(self, name: Any, value: Any, origin: str, spelled: str) -> None:
        """Record a rope parameter; given twice and differently is a problem."""
        key = f"rope_parameters.{name}"
        if name in self.rope:
            if not same(self.rope[name], value):
                text = contradiction((self.spelled[key], self.rope[name]), (spelled, value))
                self.problems.append(Problem("", text))
            return
        self.rope[name] = value
        self.origins[key] = origin
        self.spelled[key] = spelled

    def gives(self, name: str) -> bool:
        """Whether this source decides a field."""
        return name in self.values or (name == "rope_parameters" and self.scaling_given)

    def name_of(self, name: str) -> str:
        """The spelling to use for a field in a message."""
        return self.spelled.get(name) or name.replace("rope_parameters.", f"{self.block}.", 1)

    def overlaid(self, over: Reading) -> Reading:
        """This reading with a later one on top, which wins field by field."""
        merged = replace(
            self,
            values=dict(self.values),
            rope=dict(self.rope),
            origins=dict(self.origins),
            spelled=dict(self.spelled),
            loose=self.loose | over.loose,
            block=over.block if over.scaling_given else self.block,
            scaling_given=self.scaling_given or over.scaling_given,
            extra=self.extra | over.extra,
            problems=self.problems + over.problems,
            unless_given=self.unless_given | over.unless_given,
            notes=[note for note in self.notes if not over.gives(note[0])] + over.notes,
        )
        if over.scaling_given:
            kept = self.loose | {"rope_theta", "partial_rotary_factor"}
            merged.rope = {name: value for name, value in self.rope.items() if name in kept}
        if any(name in over.values for name in LABEL_FIELDS):
            # One of the three decides; an older one of the others would only contradict it. But a number of labels
            # that there already is does not take away their names.
            names = self.values.get("id2label")
            keeps = set(LABEL_FIELDS) & set(over.values) == {"num_labels"} and isinstance(names, Mapping)
            if not (keeps and len(names or ()) == over.values["num_labels"]):
                for name in LABEL_FIELDS:
                    merged.values.pop(name, None)
        merged.values |= over.values
        merged.rope |= over.rope
        merged.origins |= over.origins
        merged.spelled |= over.spelled
        return merged


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
        from .quantization.settings import read_quantization

        try:
            reading.put("quantization", read_quantization(block), source.origin(name, "quantization"), name)
        except ConfigError as error:
            hint = f"; {error.hint}" if error.hint else ""
            reading.problems.append(Problem(name, f": {error.message}{hint}"))
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


def lookalike(name: Any, value: Any, raw: Mapping[str, Any]) -> Problem | None:
    """The problem with an unknown key that is most likely a field misspelt, or ``None`` for a key to keep.

    >>> lookalike("num_hidden_layer", 2, {}).text
    '=2 is not a field (did you mean "num_hidden_layers"?); rename or remove it'
    >>> lookalike("hidden_activation", "silu", {}) is None
    True
    """
    if not isinstance(name, str):
        return Problem(show(name), f"={show(value)}: a key must be text")
    if name in FOREIGN_KEYS:
        return None
    meant = OTHER_SPELLINGS.get(name)
    if meant is not None:
        if raw.get(meant) is not None:
            return None
    else:
        plain = {spelling.replace("_", ""): spelling for spelling in KNOWN_SPELLINGS}
        squashed = name.lower().replace("_", "").replace("-", "").replace(" ", "")
        # Compared as written too: without underscores short names come closer to each other than they look.
        meant = plain.get(squashed) or closest(name, KNOWN_SPELLINGS, cutoff=0.88)
    if meant is None:
        return None
    return Problem(name, f'={show(value)} is not a field (did you mean "{meant}"?); rename or remove it')


def read_arguments(fields: Mapping[str, Any], where: str) -> Reading:
    """Keyword arguments, in any spelling of Hugging Face."""
    return read_huggingface(_isolated(fields, where), Source(where, ARGUMENT))


def _recognize_meta(raw: Mapping[str, Any]) -> bool:
    return "dim" in raw and ("n_layers" in raw or "n_heads" in raw) and "model_type" not in raw


def _read_meta(raw: Mapping[str, Any], source: Source) -> Reading:
    from .config_meta import read_meta

    return read_meta(raw, source)


def _recognize_gguf(raw: Mapping[str, Any]) -> bool:
    return "general.architecture" in raw


def _read_gguf(raw: Mapping[str, Any], source: Source) -> Reading:
    from .config_gguf import read_gguf

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
