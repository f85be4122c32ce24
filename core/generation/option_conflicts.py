"""Options that contradict each other or have no effect beside others: refused, or said once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import GenerationError
from ..messages import joined, mention
from .arguments import warn_once

if TYPE_CHECKING:
    from .defaults import GenerationDefaults

NEUTRAL: Mapping[str, float | None] = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0, "top_h": None,
}  # fmt: skip
"""Options of drawing, and the values at which they change nothing."""

OF_BEAMS: Mapping[str, Any] = {"length_penalty": 1.0, "early_stopping": False}
"""Options of beam search, and their usual values."""


def asked_of(defaults: GenerationDefaults | None) -> dict[str, Any]:
    """Those of the defaults that this program asks for, and no file."""
    return {} if defaults is None else {n: v for n, v in defaults.values.items() if n in defaults.asked}


def say_without_beams(given: Mapping[str, Any]) -> None:
    """Say once which options of beam search are asked for without beams."""
    unused = [name for name, usual in OF_BEAMS.items() if given.get(name, usual) != usual]
    if unused:
        listed = joined(", ", [mention(name, given[name]) for name in unused])
        warn_once(listed + " without effect: num_beams is 1; set num_beams=4 to search", "no beams", *unused)


def applicable(defaults: GenerationDefaults | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's values that still make sense beside the arguments."""
    values = {} if defaults is None else dict(defaults.values)
    if "max_new_tokens" in values or "max_new_tokens" in given:
        values.pop("max_length", None)
    if "max_length" in given:
        values.pop("max_new_tokens", None)
    if "min_new_tokens" in values and "max_new_tokens" in given:
        values["min_new_tokens"] = min(values["min_new_tokens"], given["max_new_tokens"])
    return values


def means_sampling(given: Mapping[str, Any], values: Mapping[str, Any], documented: bool) -> bool:
    """Whether the arguments `given`, over all `values`, ask for tokens to be drawn."""
    temperature = values.get("temperature", 1.0)
    if "do_sample" in given or documented:
        # With temperature 0 the constructor says that the two contradict.
        return bool(values.get("do_sample", False))
    if temperature == 0:
        return False
    asked = any(name in given and given[name] != neutral for name, neutral in NEUTRAL.items())
    return asked or "temperature" in given or bool(values.get("do_sample", False))


def say_unused(given: Mapping[str, Any]) -> None:
    """Say once which of the options that are asked for would have an effect if tokens were drawn."""
    unused = [name for name, neutral in NEUTRAL.items() if given.get(name, neutral) != neutral]
    # Temperature 0 is greedy itself, and 50 is what an older GenerationConfig has for top_k where nobody asked.
    unused = [name for name in unused if (name, given[name]) not in (("temperature", 0), ("top_k", 50))]
    if unused:
        listed = joined(", ", [mention(name, given[name]) for name in unused])
        warn_once(
            listed + " without effect: do_sample is not True, so nothing is drawn; set do_sample=True to sample",
            "not sampling",
            *unused,
        )


def refuse_filters(values: Mapping[str, Any]) -> None:
    for name, neutral in NEUTRAL.items():
        value = values.get(name, neutral)
        if value != neutral and not (name == "temperature" and value == 0):
            raise GenerationError(
                "do_sample=False and " + mention(name, value) + " contradict: greedy decoding draws nothing",
                hint="leave out " + mention(name) + ", or set do_sample=True",
            )
