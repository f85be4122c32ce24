"""Patterns of names in an adapter's settings: matched as PEFT matches them, and refused where that can take forever."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polyllama.core.errors import CheckpointError, UnsupportedError
from polyllama.core.transforms.adapters.name_patterns import check_patterns, matches

FILE = Path("adapter_config.json")
NAMES = [f"model.layers.{n}.{part}" for n in range(80) for part in ("self_attn.q_proj", "mlp.down_proj")]


@pytest.mark.parametrize(
    "pattern",
    [
        *("q_proj", "model.layers.0.self_attn.q_proj", r"^model\.layers\.1\.mlp\.down_proj", r"layers\.[0-9]+\..*proj"),
        r".*layers\.(\d+)\..*proj",
        rf"model\.layers\.({'|'.join(map(str, range(80)))})\.self_attn\.(q|k|v)_proj",
        r"(?:self_attn\.)?q_proj",
    ],
)
def test_what_people_write_is_taken(pattern: str) -> None:
    check_patterns(FILE, "rank_pattern", [pattern])
    theirs = [name for name in NAMES if re.match(rf"(.*\.)?({pattern})$", name)]
    assert theirs and [name for name in NAMES if matches(pattern, name)] == theirs


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("([a-z0-9_.]+)+!", "repeats a group"),
        ("(a|a)*!", "repeats a group"),
        ("(a|b){1,9}!", "repeats a group"),
        (".*.*.*.*!", "too many wildcards and alternatives"),
        ("(.|.)" * 16 + "!", "too many wildcards and alternatives"),
        (".?" * 16 + "!", "too many wildcards and alternatives"),
        (r"(.*)\1!", "refers back to a group"),
        ("(?=.*)!", "group of a special kind"),
        ("(?i)q_proj", "no regular expression"),
    ],
)
def test_what_could_take_forever_is_refused_by_name(pattern: str, said: str) -> None:
    with pytest.raises((CheckpointError, UnsupportedError), match=said) as error:
        check_patterns(FILE, "alpha_pattern", [pattern])
    assert str(error.value).startswith("adapter_config.json: alpha_pattern: ")


@pytest.mark.parametrize("pattern", ["(" * 5000 + ")" * 5000, "a{99999999999999999999}", "[", "("])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises((CheckpointError, UnsupportedError)):
        check_patterns(FILE, "rank_pattern", [pattern])


def test_many_costly_patterns_are_refused_together() -> None:
    with pytest.raises(UnsupportedError, match="rank_pattern has too many wildcards"):
        check_patterns(FILE, "rank_pattern", [f".*.*.*{n}!" for n in range(6)])


@given(st.text(st.sampled_from(r"a.*+?|()[]^$\d{1,}"), max_size=24))
def test_whatever_is_taken_is_matched_at_once(pattern: str) -> None:
    try:
        check_patterns(FILE, "rank_pattern", [pattern])
    except (CheckpointError, UnsupportedError):
        return
    start = time.process_time()
    matches(pattern, "a.aa.a1a." * 7 + "!")
    assert time.process_time() - start < 1
