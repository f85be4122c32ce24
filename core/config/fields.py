"""The fields of a configuration, read in whatever dialect, checked, and replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from ..errors import warn
from ..quantization.scheme import Quantization
from .dialects import read_any, read_arguments
from .models_made import ModelsMade
from .problems import ConfigProblems, field_problems
from .reading import Reading, Source
from .resolve import DEFAULTS, check_relations, rendered, resolve
from .rope import MAX_INT, RopeParameters


class Owner(Protocol):
    """The built model that a configuration belongs to."""

    def check(self, before: Any, after: Any, changes: Mapping[str, Any]) -> None:
        """Raise ``ConfigError`` where the model cannot become what `after` says."""
        ...


class ConfigFields(BaseModel):
    """A Llama's architecture as plain data; :class:`~polyllama.LlamaConfig` says what each field means."""

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
    output_hidden_states: bool = DEFAULTS["output_hidden_states"]
    output_attentions: bool = DEFAULTS["output_attentions"]
    return_dict: bool = DEFAULTS["return_dict"]
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
    _notes: tuple[str, ...] = PrivateAttr(default=())
    _beside: dict[str, Any] = PrivateAttr(default_factory=dict)
    _owner: Owner | None = PrivateAttr(default=None)
    _models: ModelsMade = PrivateAttr(default_factory=ModelsMade)

    def __init__(self, /, **fields: Any) -> None:
        self._build(read_arguments(fields, type(self).__name__))

    def _build(self, reading: Reading, said: tuple[str, ...] = ()) -> None:
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
        self._notes = _say_notes(resolved.notes, said)

    @classmethod
    def _from_reading(cls, reading: Reading, said: tuple[str, ...] = ()) -> Self:
        config = cls.__new__(cls)
        config._build(reading, said)
        return config

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

    def replace(self, /, **changes: Any) -> Self:
        """A copy with some fields changed, checked again; what was derived is derived anew.

        >>> ConfigFields(hidden_size=64, num_attention_heads=4).replace(hidden_size=128).head_dim
        32
        """
        made = self._from_reading(self._reading.overlaid(read_arguments(changes, self._reading.where)))
        made._beside = dict(self._beside)
        return made

    def become(self, other: ConfigFields) -> None:
        """Take on all that `other` says, as a built model does that is given another vocabulary."""
        self.__dict__.update(other.__dict__)
        self._reading, self._provenance, self._notes = other._reading, other._provenance, other._notes


def _say_notes(notes: list[str], said: tuple[str, ...]) -> tuple[str, ...]:
    """Warn of what a config converted or left unused, each thing once for a config and what became of it."""
    for note in notes:
        if note not in said:
            warn(note)
    return tuple(notes)
