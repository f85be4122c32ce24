"""From raw values to complete ones: defaults, derived fields, and the checks between fields.

Values leave here under the schema's names but not yet type-checked; a check between fields runs only where the fields
it reads are right by themselves, so one mistake is reported once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..messages import counted
from .files import not_json
from .keys import ACTIVATION_NAMES
from .problems import ConfigProblems, Problem, did_you_mean, divisors_hint, is_count, same, show
from .reading import ARGUMENT, LABEL_FIELDS, PLAIN_FIELDS, Reading
from .rope import COMMON, ROPE_RULES, RopeParameters, check_rope

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "use_cache": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "return_dict": True,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pretraining_tp": 1,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "dtype": None,
    "architectures": [],
    "problem_type": None,
    "classifier_dropout": None,
    "hidden_dropout": None,
    "quantization": None,
}
"""The documented defaults of a Llama (those of the first 7B model)."""

NULL_IS_DEFAULT = (
    *("pretraining_tp", "attention_dropout", "architectures"),
    *("attention_bias", "mlp_bias", "tie_word_embeddings"),  # null was as good as false before transformers 5
    *("output_hidden_states", "output_attentions", "return_dict"),
)
CONFIG_DTYPES = ("float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
MAX_LABELS = 1_000_000
_ORIGINAL = "original_max_position_embeddings"


@dataclass
class Resolved:
    """Complete values, where each came from, and what is wrong so far."""

    values: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def resolve(reading: Reading) -> Resolved:
    """Fill in defaults and derived fields."""
    found = Resolved(problems=list(reading.problems), notes=[text for _, text in reading.notes])
    for name in (*PLAIN_FIELDS, "dtype", "quantization"):
        if name in ("num_key_value_heads", "head_dim"):
            continue
        if name in reading.values and not (reading.values[name] is None and name in NULL_IS_DEFAULT):
            found.values[name] = reading.values[name]
            found.provenance[name] = reading.origins[name]
        else:
            found.values[name] = copy.copy(DEFAULTS[name])
            found.provenance[name] = (
                f"default (null in {reading.origins[name]})" if name in reading.values else "default"
            )
    found.problems += [p for name, p in reading.unless_given.items() if name not in reading.values]
    _resolve_heads(reading, found)
    _resolve_tokens(found)
    _resolve_choices(found)
    _resolve_labels(reading, found)
    extra = dict(reading.extra)
    _resolve_rope(reading, found, extra)
    for name, value in extra.items():
        reason = not_json(value)
        if reason:
            found.problems.append(Problem(str(name), f"={show(value)} cannot be stored as JSON: {reason}; remove it"))
        found.provenance[name] = reading.origins[name]
    found.values["extra"] = extra
    return found


def _resolve_heads(reading: Reading, found: Resolved) -> None:
    heads, hidden = found.values["num_attention_heads"], found.values["hidden_size"]
    given = reading.values.get("num_key_value_heads")
    if given is not None:
        found.values["num_key_value_heads"] = given
        found.provenance["num_key_value_heads"] = reading.origins["num_key_value_heads"]
    elif is_count(heads):
        found.values["num_key_value_heads"] = heads
        found.provenance["num_key_value_heads"] = "derived: num_attention_heads"
    given = reading.values.get("head_dim")
    if given is not None:
        found.values["head_dim"] = given
        found.provenance["head_dim"] = reading.origins["head_dim"]
    elif is_count(heads) and is_count(hidden):
        if hidden % heads == 0:
            found.values["head_dim"] = hidden // heads
            found.provenance["head_dim"] = "derived: hidden_size / num_attention_heads"
        else:
            name = reading.name_of("num_attention_heads")
            text = f"={hidden} is not a multiple of {name}={heads}; change one of them, or give head_dim"
            found.problems.append(Problem("hidden_size", text))


def _resolve_tokens(found: Resolved) -> None:
    if found.values["pad_token_id"] == -1 and not isinstance(found.values["pad_token_id"], bool):
        found.values["pad_token_id"] = None
        found.provenance["pad_token_id"] += " (-1 there, which means none)"


def _resolve_choices(found: Resolved) -> None:
    def check(name: str, choices: tuple[str, ...], *, optional: bool) -> None:
        value = found.values[name]
        if (value is None and optional) or (isinstance(value, str) and value in choices):
            return
        remedy = f"use one of {', '.join(choices)}" + (", or null" if optional else "")
        text = f"={show(value)} is not known{did_you_mean(value, choices)}; {remedy}"
        found.problems.append(Problem(name, text))

    check("hidden_act", ACTIVATION_NAMES, optional=False)
    check("dtype", CONFIG_DTYPES, optional=True)
    check("problem_type", PROBLEM_TYPES, optional=True)


def _resolve_labels(reading: Reading, found: Resolved) -> None:
    """``id2label`` decides; the other two are derived from it or must agree with it."""
    count, names, ids = (reading.values.get(name) for name in LABEL_FIELDS)
    problems: list[Problem] = []
    if count is not None and not (is_count(count) and count <= MAX_LABELS):
        problems.append(Problem("num_labels", f"={show(count)} must be an integer from 1 to {MAX_LABELS}"))
        count = None
    by_id = _labels_by_id(names, problems) if names is not None else None
    by_label = _ids_by_label(ids, problems) if ids is not None else None
    if by_id is None and by_label is not None:
        by_id = {number: label for label, number in sorted(by_label.items(), key=lambda item: item[1])}
        origin = "derived: label2id"
    elif by_id is not None:
        origin = reading.origins["id2label"]
    else:
        by_id = {number: f"LABEL_{number}" for number in range(count or 2)}
        origin = f"derived: {reading.origins['num_labels']}" if count is not None else "default"
    if not problems:
        if sorted(by_id) != list(range(len(by_id))):
            text = f"={show(names or ids)} must number its labels 0 to {len(by_id) - 1}"
            problems.append(Problem("id2label" if names is not None else "label2id", text))
        elif by_label is not None and {label: number for number, label in by_id.items()} != by_label:
            problems.append(Problem("label2id", f"={show(ids)} contradicts id2label={show(names)}; remove label2id"))
        elif count is not None and count != len(by_id):
            text = f"={count} contradicts the {counted(len(by_id), 'label')} named; remove num_labels"
            problems.append(Problem("num_labels", text))
        elif found.values["problem_type"] == "single_label_classification" and len(by_id) == 1:
            text = '="single_label_classification" needs at least 2 labels; use "regression" for a single output'
            problems.append(Problem("problem_type", text))
    found.problems += problems
    found.values["id2label"] = dict(sorted(by_id.items())) if not problems else {}
    found.values["label2id"] = {label: number for number, label in found.values["id2label"].items()}
    found.provenance["id2label"] = origin
    found.provenance["label2id"] = reading.origins["label2id"] if by_label is not None else "derived: id2label"


def _labels_by_id(names: Any, problems: list[Problem]) -> dict[int, str] | None:
    if not isinstance(names, Mapping) or not names:
        problems.append(Problem("id2label", f'={show(names)} must be an object such as {{"0": "no", "1": "yes"}}'))
        return None
    found: dict[int, str] = {}
    for key, label in names.items():
        number = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10 else key
        if not isinstance(number, int) or isinstance(number, bool) or str(number) != str(key):
            problems.append(Problem("id2label", f": the key {show(key)} must be a label's number"))
            return None
        if not isinstance(label, str):
            problems.append(Problem("id2label", f"[{number}]={show(label)} must be text in quotes"))
            return None
        found[number] = label
    if len(set(found.values())) < len(found):
        twice = next(label for label in found.values() if list(found.values()).count(label) > 1)
        problems.append(Problem("id2label", f": the label {show(twice)} is used twice; labels must differ"))
        return None
    return found


def _ids_by_label(ids: Any, problems: list[Problem]) -> dict[str, int] | None:
    if not isinstance(ids, Mapping) or not ids:
        problems.append(Problem("label2id", f'={show(ids)} must be an object such as {{"no": 0, "yes": 1}}'))
        return None
    for label, number in ids.items():
        if not isinstance(label, str) or not isinstance(number, int) or isinstance(number, bool):
            problems.append(Problem("label2id", f": {show(label)}: {show(number)} must be a name and an integer"))
            return None
    return dict(ids)


def _resolve_rope(reading: Reading, found: Resolved, extra: dict[str, Any]) -> None:
    values = dict(reading.rope)
    origins = {name: reading.origins[f"rope_parameters.{name}"] for name in values}
    kind = values.get("rope_type", "default")
    rule = ROPE_RULES.get(kind) if isinstance(kind, str) else None
    takes_original = rule is not None and _ORIGINAL in rule.required + rule.optional
    if _ORIGINAL in reading.loose and not takes_original and _ORIGINAL in values:
        # At the top level it is a remark about the model; only some types read it.
        extra[_ORIGINAL] = values.pop(_ORIGINAL)
        reading.origins[_ORIGINAL] = origins.pop(_ORIGINAL)
    for name in _inert(values, origins):
        origins.pop(name)
        spelled, value = reading.name_of(f"rope_parameters.{name}"), show(values.pop(name))
        found.notes.append(f'{reading.where}: {spelled}={value} is not used: rope_type "{kind}" does not read it')
    length = found.values["max_position_embeddings"]
    if kind in ("yarn", "longrope") and _ORIGINAL not in values and is_count(length):
        values[_ORIGINAL] = length
        origins[_ORIGINAL] = "derived: max_position_embeddings"
    problems = check_rope(values)
    bad = {problem.field for problem in problems}
    if kind == "longrope" and "factor" not in values and _ORIGINAL not in bad and is_count(length):
        values["factor"] = max(1.0, length / values[_ORIGINAL])
        origins["factor"] = f"derived: max_position_embeddings / {_ORIGINAL}"
    found.problems += [replace(p, field=f"rope_parameters.{p.field}") for p in problems]
    if not problems:
        rope = RopeParameters(**values)
        found.values["rope_parameters"] = rope
        _note_unused(reading, found, rope)
    found.provenance["rope_parameters"] = _summary(reading, origins)
    for name in RopeParameters.model_fields:
        default = name in ("rope_type", "rope_theta", "partial_rotary_factor") or (
            kind == "yarn" and name in ("beta_fast", "beta_slow", "truncate")
        )
        if name in origins or default:
            found.provenance[f"rope_parameters.{name}"] = origins.get(name, "default")


def _inert(values: Mapping[str, Any], origins: Mapping[str, str]) -> list[str]:
    """Parameters in a file that its type does not read, in transformers either; a misspelt one is none of them.

    In a call they are mistakes. Without a type, a factor other than 1 means that one is missing.
    """
    kind = values.get("rope_type", "default")
    rule = ROPE_RULES.get(kind) if isinstance(kind, str) else None
    if rule is None or ("rope_type" not in values and not _says_nothing(values)):
        return []
    read = (*COMMON, *rule.required, *rule.optional)
    known = RopeParameters.model_fields
    return [
        name
        for name in values
        if name not in read
        and not origins[name].startswith(ARGUMENT)
        and (name in known or (name, values[name]) == ("attn_factor", 1) or not did_you_mean(name, read, cutoff=0.8))
    ]


def _says_nothing(values: Mapping[str, Any]) -> bool:
    return all(name in (*COMMON, _ORIGINAL) or (name == "factor" and value == 1) for name, value in values.items())


def _summary(reading: Reading, origins: Mapping[str, str]) -> str:
    """Where a block of rotary parameters came from: the keys that hold it, each once."""
    keys = set()
    for name, origin in origins.items():
        key, _, inside = reading.name_of(f"rope_parameters.{name}").partition(".")
        keys.add(origin.removesuffix(f".{inside}") if key in origin else origin)
    return ", ".join(sorted(keys)) or "default"


def _note_unused(reading: Reading, found: Resolved, rope: RopeParameters) -> None:
    """Parameters that are allowed but that the type's formula does not read."""
    original, length = rope.original_max_position_embeddings, found.values["max_position_embeddings"]
    where = reading.where
    if rope.rope_type == "dynamic" and original is not None and not same(original, length):
        name = reading.name_of(f"rope_parameters.{_ORIGINAL}")
        found.notes.append(
            f'{where}: {name}={original} is not used: "dynamic" scales from max_position_embeddings={length}'
        )
    pair = {"mscale": rope.mscale, "mscale_all_dim": rope.mscale_all_dim}
    alone = [name for name, value in pair.items() if value]
    if len(alone) == 1 and rope.attention_factor is None:
        other = next(name for name in pair if name != alone[0])
        name = reading.name_of(f"rope_parameters.{alone[0]}")
        found.notes.append(f"{where}: {name}={pair[alone[0]]} is not used: YaRN reads it only together with {other}")


def check_relations(reading: Reading, resolved: Resolved, bad: set[str]) -> list[Problem]:
    """What is wrong between fields that are right by themselves."""
    problems: list[Problem] = []
    values = resolved.values
    name_of = reading.name_of

    def fine(*names: str) -> bool:
        return not bad.intersection(names) and all(name in values for name in names)

    if fine("num_attention_heads", "num_key_value_heads"):
        heads, groups = values["num_attention_heads"], values["num_key_value_heads"]
        if heads % groups:
            text = f"={groups} must divide {name_of('num_attention_heads')}={heads}; use {divisors_hint(heads)}"
            problems.append(Problem("num_key_value_heads", text))
    if fine("vocab_size"):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if fine(name):
                size = (name_of("vocab_size"), values["vocab_size"])
                problems += _token_problems(name, values[name], size, resolved.provenance[name])
    rope_bad = any(name.startswith("rope_parameters") for name in bad)
    if fine("head_dim", "rope_parameters") and not rope_bad:
        problems += _rotary_problems(values["rope_parameters"], values["head_dim"])
    return problems


def _token_problems(name: str, value: Any, vocabulary: tuple[str, int], origin: str) -> list[Problem]:
    size_name, size = vocabulary
    if value == []:
        return [Problem(name, "=[] names no token; use null for none")]
    wrong = [i for i in (value if isinstance(value, list) else [value]) if i is not None and not 0 <= i < size]
    if not wrong:
        return []
    default = " (the default)" if origin == "default" else ""
    text = f"={show(value)}{default} is outside the vocabulary ({size_name}={size})"
    text += f"; use an id from 0 to {size - 1}, or null for none"
    return [Problem(name, text)]


def _rotary_problems(rope: RopeParameters, head_dim: int) -> list[Problem]:
    rotary = int(head_dim * rope.partial_rotary_factor)
    share = f" * partial_rotary_factor={rope.partial_rotary_factor}" if rope.partial_rotary_factor != 1.0 else ""
    if rotary < 2 or rotary % 2:
        text = f"={head_dim}{share} gives {rotary} rotated components; it must be even and at least 2"
        return [Problem("head_dim", text)]
    if rope.rope_type == "dynamic" and rotary < 4:
        return [Problem("head_dim", f"={head_dim}{share} is too small for dynamic RoPE, which needs 4 components")]
    problems = []
    for name in ("short_factor", "long_factor"):
        numbers = getattr(rope, name)
        if numbers is not None and len(numbers) != rotary // 2:
            text = f" has {counted(len(numbers), 'number')}; it must have {rotary // 2}, half of "
            text += f"head_dim={head_dim}{share}"
            problems.append(Problem(f"rope_parameters.{name}", text))
    return problems


def rendered(problem: Problem, reading: Reading) -> str:
    """A problem as a line, with the field spelled as the source spells it."""
    return f"{reading.name_of(problem.field) if problem.field else ''}{problem.text}"


__all__ = ["DEFAULTS", "ConfigProblems", "Resolved", "check_relations", "rendered", "resolve"]
