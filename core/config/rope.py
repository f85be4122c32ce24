"""Rotary position parameters: the fields of all six types, and what each type requires."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ConfigError
from ..public import public
from .problems import ConfigProblems, Problem, contradiction, did_you_mean, field_problems, same, show

MAX_INT = 2**31 - 1


@dataclass(frozen=True)
class RopeRule:
    """Which parameters a RoPE type has, beside ``rope_theta`` and ``partial_rotary_factor`` that all of them have."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


_ORIGINAL = "original_max_position_embeddings"
COMMON = ("rope_type", "rope_theta", "partial_rotary_factor")
ROPE_RULES: dict[str, RopeRule] = {
    "default": RopeRule(),
    "linear": RopeRule(("factor",)),
    "dynamic": RopeRule(("factor",), (_ORIGINAL,)),
    "yarn": RopeRule(
        ("factor",),
        (
            _ORIGINAL,
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
            "finetuned",
        ),
    ),
    "longrope": RopeRule(("short_factor", "long_factor"), ("factor", _ORIGINAL, "attention_factor")),
    "llama3": RopeRule(("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL)),
}
"""The six types; a yarn or longrope without an original length takes ``max_position_embeddings``."""

ROPE_TYPE_ALIASES = {"su": "longrope"}
"""Older names of a type; Phi-3 called LongRoPE "su"."""

YARN_DEFAULTS: dict[str, Any] = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
"""What the YaRN paper (arXiv:2309.00071) recommends for a Llama."""


class _RopeFields(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="forbid")

    rope_type: str = "default"
    rope_theta: float = Field(default=10000.0, gt=0)
    partial_rotary_factor: float = Field(default=1.0, gt=0, le=1)
    factor: float | None = Field(default=None, ge=1)
    original_max_position_embeddings: int | None = Field(default=None, ge=1, le=MAX_INT)
    low_freq_factor: float | None = Field(default=None, gt=0)
    high_freq_factor: float | None = Field(default=None, gt=0)
    attention_factor: float | None = Field(default=None, gt=0)
    beta_fast: float | None = Field(default=None, gt=0)
    beta_slow: float | None = Field(default=None, gt=0)
    mscale: float | None = Field(default=None, ge=0)
    mscale_all_dim: float | None = Field(default=None, ge=0)
    truncate: bool | None = None
    finetuned: bool | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None


@public
class RopeParameters(_RopeFields):
    """How queries and keys are rotated by their positions (``config.rope_parameters``).

    Attributes:
        rope_type: "default", "linear", "dynamic", "yarn", "longrope" or "llama3".
        rope_theta: base of the inverse frequencies.
        partial_rotary_factor: the share of each head that is rotated, 0 < share <= 1.
        factor: how many times longer the context became (all types but "default"), at least 1.
        original_max_position_embeddings: tokens of context before scaling ("llama3", "yarn", "longrope").
        low_freq_factor, high_freq_factor: where "llama3" starts and stops blending, low < high.
        attention_factor: multiplies cosine and sine ("yarn", "longrope"); ``None``: by the type's formula.
        beta_fast, beta_slow, mscale, mscale_all_dim, truncate: of "yarn" (arXiv:2309.00071).
        finetuned: a remark in the YaRN authors' checkpoints; changes nothing.
        short_factor, long_factor: of "longrope" (arXiv:2402.13753), one number for each of rotary_dim / 2 frequencies.

    Raises:
        ConfigError: a parameter is unknown, missing for the type or out of range; all problems in one message.

    >>> RopeParameters(rope_type="linear", factor=2.0)
    RopeParameters(rope_type='linear', rope_theta=10000.0, factor=2.0)
    >>> RopeParameters(type="su", short_factor=[1, 1], long_factor=[2, 4]).rope_type
    'longrope'
    """

    def __init__(self, **parameters: Any) -> None:
        values, problems = normalize_rope(parameters)
        problems += check_rope(values)
        if problems:
            lines = [f"{problem.field}{problem.text}" for problem in problems]
            raise ConfigProblems("RopeParameters", lines, field=problems[0].field)
        super().__init__(**_complete(values))

    def to_dict(self) -> dict[str, Any]:
        """The parameters as ``rope_parameters`` of a config.json spells them; those at their default are left out.

        >>> RopeParameters(rope_type="yarn", factor=4.0, beta_fast=32).to_dict()
        {'rope_type': 'yarn', 'rope_theta': 10000.0, 'factor': 4.0}
        """
        found: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None or (name == "partial_rotary_factor" and value == 1.0) or YARN_DEFAULTS.get(name) == value:
                continue
            found[name] = list(value) if isinstance(value, tuple) else value
        return found

    def scaling_dict(self) -> dict[str, Any] | None:
        """The parameters as the older ``rope_scaling`` spells them: without theta, ``None`` where nothing is scaled.

        The type goes under both its names, ``rope_type`` and ``type``: readers exist that know only one of them.
        """
        if self.rope_type == "default":
            return None
        found = self.to_dict()
        del found["rope_theta"]
        found.pop("partial_rotary_factor", None)
        return found | {"type": self.rope_type}

    # ---- as a mapping, which it is in transformers 5

    def _given(self) -> dict[str, Any]:
        """Every parameter that has a value, but for a share of 1 of each head, which transformers leaves out."""
        return {
            name: value
            for name in type(self).model_fields
            if (value := getattr(self, name)) is not None and (name, value) != ("partial_rotary_factor", 1.0)
        }

    def __getitem__(self, name: str) -> Any:
        return self._given()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.__setattr__(name, value)

    def __contains__(self, name: object) -> bool:
        return name in self._given()

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self._given())

    def __len__(self) -> int:
        return len(self._given())

    def get(self, name: str, default: Any = None) -> Any:
        """A parameter by its name, or `default` where it has no value.

        >>> RopeParameters().get("rope_theta"), RopeParameters().get("factor", 1.0), "factor" in RopeParameters()
        (10000.0, 1.0, False)
        """
        return self._given().get(name, default)

    def keys(self) -> KeysView[str]:
        """Names of the parameters that have a value."""
        return self._given().keys()

    def values(self) -> ValuesView[Any]:
        """Their values."""
        return self._given().values()

    def items(self) -> ItemsView[str, Any]:
        """Their names and values."""
        return self._given().items()

    def __eq__(self, other: object) -> bool:
        """Equal in every parameter; to a dictionary, as transformers has it, where that says the same."""
        if isinstance(other, dict):
            return self._given() == {n: tuple(v) if isinstance(v, list) else v for n, v in other.items()}
        return bool(super().__eq__(other))

    __hash__ = _RopeFields.__hash__

    def __setattr__(self, name: str, value: Any) -> None:
        text = f"RopeParameters is frozen: {name} cannot be set"
        raise ConfigError(text, hint="set config.rope_parameters = {...} as a whole, or give it to config.replace")

    def __repr__(self) -> str:
        return f"RopeParameters({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    __str__ = __repr__


def normalize_rope(block: Mapping[Any, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """One spelling for a block of parameters: ``type`` becomes ``rope_type``, older type names the current ones."""
    values = {name: value for name, value in block.items() if value is not None and name != "type"}
    problems: list[Problem] = []
    older = block.get("type")
    newer = block.get("rope_type")
    names = [ROPE_TYPE_ALIASES.get(n, n) if isinstance(n, str) else n for n in (newer, older) if n is not None]
    if len(names) == 2 and not same(names[0], names[1]):
        problems.append(Problem("", contradiction(("rope_type", newer), ("type", older))))
    if names:
        values["rope_type"] = names[0]
    return values, problems


def _complete(values: Mapping[str, Any]) -> dict[str, Any]:
    full = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    if full.get("rope_type") == "yarn":
        full = YARN_DEFAULTS | full
    return full


def check_rope(values: Mapping[str, Any]) -> list[Problem]:
    """Everything wrong with normalized parameters, as far as it can be told without the rest of the config."""
    kind = values.get("rope_type", "default")
    unnamed = [name for name in values if name not in COMMON]
    if "rope_type" not in values and unnamed:
        return [
            Problem(
                "rope_type",
                f" is missing beside {', '.join(map(str, unnamed[:5]))}; give one of {', '.join(ROPE_RULES)}",
            )
        ]
    rule = ROPE_RULES.get(kind) if isinstance(kind, str) else None
    if rule is None:
        known = ", ".join(ROPE_RULES)
        text = f"={show(kind)} is not a known type{did_you_mean(kind, ROPE_RULES)}; use one of {known}"
        return [Problem("rope_type", text)]
    problems = [
        Problem(name, f' is missing: rope_type "{kind}" requires it') for name in rule.required if name not in values
    ]
    allowed = COMMON + rule.required + rule.optional
    strangers = [name for name in values if name not in allowed]
    problems += [_stranger(name, values[name], kind, allowed) for name in strangers]
    known_values = _complete({name: value for name, value in values.items() if name in allowed})
    try:
        _RopeFields(**known_values)
    except ValidationError as error:
        problems += field_problems(error, {"rope_theta": 10000.0, "partial_rotary_factor": 1.0, **YARN_DEFAULTS})
    bad = {problem.field for problem in problems}
    return problems + _relations(known_values, bad)


def _stranger(name: Any, value: Any, kind: str, allowed: tuple[str, ...]) -> Problem:
    if name in _RopeFields.model_fields:
        others = [t for t, rule in ROPE_RULES.items() if name in rule.required + rule.optional]
        text = f'={show(value)} does not belong to rope_type "{kind}" but to {" and ".join(others)}; remove it'
        return Problem(str(name), f"{text}, or change rope_type")
    remedy = did_you_mean(name, allowed) or "; remove it"
    return Problem(str(name), f"={show(value)} is not a RoPE parameter{remedy}")


def _relations(values: Mapping[str, Any], bad: set[str]) -> list[Problem]:
    problems: list[Problem] = []

    def fine(*names: str) -> bool:
        return not bad.intersection(names) and all(values.get(name) is not None for name in names)

    if fine("low_freq_factor", "high_freq_factor") and values["low_freq_factor"] >= values["high_freq_factor"]:
        text = f"={values['low_freq_factor']} must be less than high_freq_factor={values['high_freq_factor']}"
        problems.append(Problem("low_freq_factor", f"{text}; Llama 3.1 uses 1.0 and 4.0"))
    if fine("beta_fast", "beta_slow") and values["beta_fast"] < values["beta_slow"]:
        text = f"={values['beta_fast']} must be at least beta_slow={values['beta_slow']}; the paper uses 32 and 1"
        problems.append(Problem("beta_fast", text))
    if values.get("rope_type") == "yarn" and fine("rope_theta") and values["rope_theta"] <= 1:
        problems.append(Problem("rope_theta", f"={values['rope_theta']} must be greater than 1 for yarn"))
    if values.get("rope_type") == "longrope" and fine(_ORIGINAL) and values[_ORIGINAL] < 2:
        problems.append(Problem(_ORIGINAL, f"={values[_ORIGINAL]} must be at least 2 for longrope"))
    for name in ("short_factor", "long_factor"):
        if fine(name) and not all(number > 0 for number in values[name]):
            problems.append(Problem(name, f"={show(list(values[name]))} must hold positive numbers only"))
    return problems
