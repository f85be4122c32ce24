"""``LlamaConfig``: the one description of a Llama, whichever dialect it was written in.

Hugging Face's ``config.json`` of transformers 4 and 5, Meta's ``params.json`` and MLX's configs are read into one
strict, frozen schema; both spellings of the rotary parameters are written back, so every reader finds the one it knows.
Each field remembers where its value came from.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from ..errors import ConfigError, PolyllamaWarning
from ..public import public
from ..quantization.settings import Quantization
from .checks import ConfigProblems, field_problems
from .dialects import describes_a_model, read_any, read_arguments
from .files import find_config, read_json_object, write_json
from .loader_arguments import LOADER_ARGUMENTS
from .reading import Reading, Source
from .resolve import DEFAULTS, check_relations, rendered, resolve
from .rope import MAX_INT, RopeParameters

__all__ = ["LlamaConfig", "RopeParameters"]


@public
class LlamaConfig(BaseModel):
    """A Llama's architecture. Fields have the names and defaults of transformers' LlamaConfig.

    Older spellings are accepted as keyword arguments too: ``rope_theta`` and ``rope_scaling``, ``torch_dtype``,
    ``num_labels``. Unknown keys are kept in ``extra``, readable as attributes and written back.

    Attributes:
        vocab_size: rows of the embedding.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the MLP.
        num_hidden_layers: decoder layers.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads; divides the query heads; by default as many.
        head_dim: components of a head; by default ``hidden_size / num_attention_heads``.
        hidden_act: activation of the MLP (``core/graph/activations.py`` lists them).
        max_position_embeddings: context length in tokens.
        initializer_range: standard deviation of random weights.
        rms_norm_eps: added to the mean square before its root is taken.
        use_cache: whether generation keeps keys and values.
        pad_token_id, bos_token_id: token ids or ``None``.
        eos_token_id: a token id, several, or ``None``.
        pretraining_tp: tensor parallelism at training time; the result is the same up to rounding.
        tie_word_embeddings: whether the output projection is the embedding.
        attention_bias, mlp_bias: whether those projections have biases.
        attention_dropout: probability, in training.
        dtype: element type of the stored weights, if stated.
        rope_parameters: see :class:`RopeParameters`.
        architectures: class names the weights were saved from.
        id2label, label2id: names of a classification head's outputs.
        problem_type: "regression", "single_label_classification", "multi_label_classification" or inferred (``None``).
        classifier_dropout, hidden_dropout: probabilities of a classification head, or ``None``.
        quantization: how the weights are quantized, as MLX writes it, or ``None``.
        extra: keys the schema does not know.

    Raises:
        ConfigError: everything that is wrong, in one message, each with field, value and remedy.

    >>> config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_theta=500000.0)
    >>> config.head_dim, config.num_key_value_heads, config.rope_parameters.rope_theta
    (16, 4, 500000.0)
    >>> config.provenance["head_dim"]
    'derived: hidden_size / num_attention_heads'
    """

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="forbid")
    model_type: ClassVar[str] = "llama"

    vocab_size: int = Field(default=DEFAULTS["vocab_size"], ge=1, le=MAX_INT)
    hidden_size: int = Field(default=DEFAULTS["hidden_size"], ge=1, le=MAX_INT)
    intermediate_size: int = Field(default=DEFAULTS["intermediate_size"], ge=1, le=MAX_INT)
    num_hidden_layers: int = Field(default=DEFAULTS["num_hidden_layers"], ge=1, le=10_000)
    num_attention_heads: int = Field(default=DEFAULTS["num_attention_heads"], ge=1, le=MAX_INT)
    num_key_value_heads: int = Field(default=DEFAULTS["num_attention_heads"], ge=1, le=MAX_INT)
    head_dim: int = Field(default=128, ge=1, le=MAX_INT)
    hidden_act: str = DEFAULTS["hidden_act"]
    max_position_embeddings: int = Field(default=DEFAULTS["max_position_embeddings"], ge=1, le=MAX_INT)
    initializer_range: float = Field(default=DEFAULTS["initializer_range"], ge=0, le=1)
    rms_norm_eps: float = Field(default=DEFAULTS["rms_norm_eps"], gt=0, le=1)
    use_cache: bool = DEFAULTS["use_cache"]
    pad_token_id: int | None = None
    bos_token_id: int | None = DEFAULTS["bos_token_id"]
    eos_token_id: int | list[int] | None = DEFAULTS["eos_token_id"]
    pretraining_tp: int = Field(default=DEFAULTS["pretraining_tp"], ge=1, le=MAX_INT)
    tie_word_embeddings: bool = DEFAULTS["tie_word_embeddings"]
    attention_bias: bool = DEFAULTS["attention_bias"]
    mlp_bias: bool = DEFAULTS["mlp_bias"]
    attention_dropout: float = Field(default=DEFAULTS["attention_dropout"], ge=0, lt=1)
    dtype: str | None = None
    rope_parameters: RopeParameters = Field(default_factory=RopeParameters)
    architectures: list[str] = Field(default_factory=list)
    id2label: dict[int, str] = Field(default_factory=dict)
    label2id: dict[str, int] = Field(default_factory=dict)
    problem_type: str | None = None
    classifier_dropout: float | None = Field(default=None, ge=0, lt=1)
    hidden_dropout: float | None = Field(default=None, ge=0, lt=1)
    quantization: Quantization | None = None
    extra: dict[str, Any] = Field(default_factory=dict)

    _reading: Reading = PrivateAttr()
    _provenance: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, /, **fields: Any) -> None:
        self._build(read_arguments(fields, type(self).__name__))

    def _build(self, reading: Reading) -> None:
        resolved = resolve(reading)
        problems = resolved.problems
        try:
            super().__init__(**resolved.values)
        except ValidationError as error:
            problems = problems + field_problems(error, DEFAULTS, skip={p.field for p in problems})
        bad = {problem.field for problem in problems}
        problems = problems + check_relations(reading, resolved, bad)
        if problems:
            lines = [rendered(problem, reading) for problem in problems]
            raise ConfigProblems(reading.where, lines, field=problems[0].field)
        self._reading = reading
        self._provenance = resolved.provenance
        for note in resolved.notes:
            warnings.warn(note, PolyllamaWarning, stacklevel=4)

    @classmethod
    def _from_reading(cls, reading: Reading) -> Self:
        config = cls.__new__(cls)
        config._build(reading)
        return config

    # ---- reading and writing

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, source: str | Path = "dict", **overrides: Any) -> Self:
        """Read a mapping in any dialect.

        Args:
            raw: the content of a config.json, params.json or MLX config.
            source: what to call it in errors and provenance; of a path, provenance keeps the file's name.
            overrides: fields that win over the mapping's, in any spelling.

        >>> config = LlamaConfig.from_dict({"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 99, "norm_eps": 1e-5})
        >>> config.hidden_size, config.provenance["hidden_size"]
        (64, 'dict: dim')
        """
        return cls.from_sources([(raw, Source.of(source))], **overrides)

    @classmethod
    def from_sources(cls, layers: Sequence[tuple[Mapping[str, Any], Source]], **overrides: Any) -> Self:
        """Read several mappings laid over each other, the last one on top; each in any dialect.

        For a reader of weights that knows some fields from a file and others from the weights themselves.
        """
        reading = read_any(*layers[0])
        for raw, source in layers[1:]:
            reading = reading.overlaid(read_any(raw, source))
        if overrides:
            reading = reading.overlaid(read_arguments(overrides, reading.where))
        return cls._from_reading(reading)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, revision: str | None = None, offline: bool | None = None, **overrides: Any
    ) -> Self:
        """Read the configuration of a checkpoint.

        Args:
            path: a folder with config.json or params.json, such a file, or a name that the registry or the Hub knows.
            revision: branch, tag or commit, for names on the Hub.
            offline: use only what is cached, for names on the Hub.
            overrides: fields that win over the file's, in any spelling.

        Raises:
            ConfigError: no such file, not a configuration, not a Llama, or wrong values; the message names the file.
        """
        for name in overrides:
            if name in LOADER_ARGUMENTS:
                raise ConfigError(f"from_pretrained does not take {name}", hint=LOADER_ARGUMENTS[name])
        given = Path(path).expanduser() if str(path) else Path(path)
        if not _is_local(path, given):
            from ..sources.locate import resolve_checkpoint_folder

            given = resolve_checkpoint_folder(str(path), revision=revision, offline=offline, files="config")
        file = find_config(given)
        raw = read_json_object(file)
        if not describes_a_model(raw):
            raise ConfigError(
                f"{file}: holds no field of a Llama configuration", hint="is this the config.json of a model?"
            )
        return cls.from_sources([(raw, Source(str(file), file.name, file.parent))], **overrides)

    def to_dict(self) -> dict[str, Any]:
        """The content of a Hugging Face config.json, with the rotary parameters in both spellings.

        ``rope_theta`` and ``rope_scaling`` are read by transformers 4, MLX and most other tools, ``rope_parameters`` by
        transformers 5; the same goes for ``torch_dtype`` and ``dtype``.

        >>> written = LlamaConfig(rope_theta=500000.0).to_dict()
        >>> written["rope_theta"], written["rope_scaling"], written["rope_parameters"]
        (500000.0, None, {'rope_type': 'default', 'rope_theta': 500000.0})
        """
        found: dict[str, Any] = {"model_type": self.model_type}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in _WRITTEN_APART or (value is None and name in _OPTIONAL):
                continue
            found[name] = list(value) if isinstance(value, list) else value
        if not self.architectures:
            del found["architectures"]
        if self.dtype is not None:
            found["torch_dtype"] = self.dtype
        if self.quantization is not None:  # the second is where the Hub looks
            found["quantization"] = found["quantization_config"] = self.quantization.to_dict()
        if self.id2label != {0: "LABEL_0", 1: "LABEL_1"}:
            found["id2label"] = {str(number): label for number, label in self.id2label.items()}
            found["label2id"] = dict(self.label2id)
        rope = self.rope_parameters
        found["rope_parameters"] = rope.to_dict()
        found["rope_theta"] = rope.rope_theta
        found["rope_scaling"] = rope.scaling_dict()
        if rope.partial_rotary_factor != 1.0:
            found["partial_rotary_factor"] = rope.partial_rotary_factor
        if rope.rope_type == "longrope":  # transformers 4 looks for it there
            found["original_max_position_embeddings"] = rope.original_max_position_embeddings
        return self.extra | found

    def to_json_string(self) -> str:
        """:meth:`to_dict` as JSON text."""
        import json

        return json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n"

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json into a folder, made if need be, and return the file's path.

        Raises:
            ConfigError: the folder cannot be made or written to.
        """
        return write_json(Path(folder).expanduser(), "config.json", self.to_dict())

    def replace(self, /, **changes: Any) -> Self:
        """A copy with some fields changed, checked again; what was derived is derived anew.

        >>> LlamaConfig(hidden_size=64, num_attention_heads=4).replace(hidden_size=128).head_dim
        32
        """
        return self._from_reading(self._reading.overlaid(read_arguments(changes, self._reading.where)))

    def describing(self, **facts: Any) -> Self:
        """A copy that says what was made of the model: its ``dtype``, ``architectures`` or ``quantization``.

        No other field depends on these, so nothing is read or derived again, as :meth:`replace` does.

        >>> LlamaConfig(hidden_size=64, num_attention_heads=4).describing(dtype="bfloat16").dtype
        'bfloat16'
        """
        unknown = facts.keys() - {"dtype", "architectures", "quantization"}
        if unknown:
            raise TypeError(f"{', '.join(sorted(unknown))}: other fields depend on it, so use replace")
        copy = super().model_copy(update=facts)
        copy._reading = self._reading.overlaid(read_arguments(facts, self._reading.where))
        copy._provenance = {**self._provenance, **dict.fromkeys(facts, "argument")}
        return copy

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """pydantic's copy, except that changes are checked as :meth:`replace` does."""
        return self.replace(**update) if update else super().model_copy(deep=deep)

    # ---- derived

    @property
    def provenance(self) -> Mapping[str, str]:
        """Where each value came from: "default", "argument", "derived: ..." or "FILE: KEY".

        Rotary parameters are listed one by one as ``rope_parameters.NAME``, and unknown keys under their own names.
        """
        return MappingProxyType(self._provenance)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a text; empty where there is none."""
        if self.eos_token_id is None:
            return ()
        return tuple(self.eos_token_id) if isinstance(self.eos_token_id, list) else (self.eos_token_id,)

    @property
    def num_labels(self) -> int:
        """Outputs of a classification head."""
        return len(self.id2label)

    @property
    def rotary_dim(self) -> int:
        """Components of each head that are rotated."""
        return int(self.head_dim * self.rope_parameters.partial_rotary_factor)

    @property
    def rope_theta(self) -> float:
        """Base of the rotary frequencies."""
        return self.rope_parameters.rope_theta

    @property
    def rope_scaling(self) -> dict[str, Any] | None:
        """The rotary parameters as transformers 4 spells them."""
        return self.rope_parameters.scaling_dict()

    @property
    def partial_rotary_factor(self) -> float:
        """Share of each head that is rotated."""
        return self.rope_parameters.partial_rotary_factor

    @property
    def torch_dtype(self) -> str | None:
        """``dtype`` under its older name."""
        return self.dtype

    # ---- behaviour as a value

    def __eq__(self, other: object) -> bool:
        """Equal in every field; where the values came from does not matter."""
        if not isinstance(other, LlamaConfig):
            return NotImplemented
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        names = (n for n in type(self).model_fields if n not in ("extra", "id2label", "label2id", "architectures"))
        return hash(tuple(tuple(v) if isinstance(v := getattr(self, n), list) else v for n in names))

    def __repr__(self) -> str:
        """What is not at its default, as an expression that makes an equal config."""
        shown = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in ("label2id", "extra") or (name in DEFAULTS and value == DEFAULTS[name]):
                continue
            if self._provenance[name].startswith("derived") and name in ("num_key_value_heads", "head_dim"):
                continue
            if name == "id2label" and value == {0: "LABEL_0", 1: "LABEL_1"}:
                continue
            if name == "rope_parameters" and value == RopeParameters():
                continue
            shown.append(f"{name}={value!r}")
        plain = {name: value for name, value in self.extra.items() if name.isidentifier() and not iskeyword(name)}
        shown += [f"{name}={value!r}" for name, value in plain.items()]
        if len(plain) < len(self.extra):
            shown.append(f"**{ {name: value for name, value in self.extra.items() if name not in plain}!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self).__private_attributes__:
            text = f"{type(self).__name__} is frozen: {name} cannot be set"
            raise ConfigError(text, hint=f"make a changed copy: config = config.replace({name}={value!r})")
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # a type checker that saw this would take every misspelt field for an extra key

        def __getattr__(self, name: str) -> Any:
            extra = self.__dict__.get("extra")
            if extra and name in extra and name not in type(self).__private_attributes__:
                return extra[name]
            if name in type(self).__private_attributes__:
                return super().__getattr__(name)
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")


_WRITTEN_APART = ("rope_parameters", "id2label", "label2id", "quantization", "extra")
_OPTIONAL = ("dtype", "problem_type", "classifier_dropout", "hidden_dropout")


def _is_local(path: str | Path, given: Path) -> bool:
    """Whether a source is a path here rather than a name to look up."""
    text = str(path)
    if isinstance(path, Path) or not text or text.startswith((".", "/", "~")) or text.endswith(".json"):
        return True
    # A bare name may be a folder here and a model in the registry: the resolver decides, and says so.
    return ("/" in text and given.exists()) or text.count("/") > 1 or "\\" in text
