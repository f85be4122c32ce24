"""What a dialect reads: fields, problems and warnings, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from ..messages import closest
from .keys import FOREIGN_KEYS, OTHER_SPELLINGS
from .problems import Problem, contradiction, same, show

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
    "output_hidden_states",
    "output_attentions",
    "return_dict",
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
