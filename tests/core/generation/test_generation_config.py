"""GenerationConfig against transformers': attributes, files, dictionaries."""

from __future__ import annotations

import json
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import GenerationConfig, LlamaConfig
from polyllama.core.errors import GenerationError, PolyllamaError
from polyllama.core.generation.config import ATTRIBUTES, as_generation_config

VALUES: dict[str, Any] = {
    "max_new_tokens": 5, "do_sample": True, "temperature": 0.5, "top_k": 7, "eos_token_id": [1, 2], "pad_token_id": 0,
    "bad_words_ids": [[1, 2]], "stop_strings": ["a"], "wibble": {"x": 1}, "return_dict_in_generate": True,
    "output_scores": True, "cache_implementation": "static", "min_p": 0.1,
}  # fmt: skip


def without_version(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "transformers_version"}


def test_every_attribute_and_default_is_transformers():
    assert without_version(GenerationConfig().to_dict()) == without_version(transformers.GenerationConfig().to_dict())
    assert GenerationConfig().max_length is None and GenerationConfig().num_beams is None


@settings(max_examples=40, deadline=None)
@given(names=st.sets(st.sampled_from(sorted(VALUES))))
def test_dictionaries_are_transformers(names):
    values = {name: VALUES[name] for name in names}
    if "do_sample" not in names:
        values = {name: value for name, value in values.items() if name not in ("temperature", "top_k", "min_p")}
    if "return_dict_in_generate" not in names:
        values.pop("output_scores", None)
    ours, theirs = GenerationConfig(**values), transformers.GenerationConfig(**values)
    assert without_version(ours.to_dict()) == without_version(theirs.to_dict())
    assert without_version(ours.to_diff_dict()) == without_version(theirs.to_diff_dict())
    assert ours.to_json_string(ignore_metadata=True) == theirs.to_json_string(ignore_metadata=True)
    assert GenerationConfig.from_dict(ours.to_dict()) == ours == as_generation_config(theirs)


def test_files_go_both_ways(tmp_path):
    GenerationConfig(**VALUES).save_pretrained(tmp_path / "ours")
    read = transformers.GenerationConfig.from_pretrained(tmp_path / "ours")
    assert all(getattr(read, name) == value for name, value in VALUES.items())
    transformers.GenerationConfig(**VALUES).save_pretrained(tmp_path / "theirs", "other.json")
    found, unused = GenerationConfig.from_pretrained(
        tmp_path / "theirs", "other.json", top_k=3, foo=1, return_unused_kwargs=True
    )
    assert (found.top_k, found.wibble, unused) == (3, {"x": 1}, {"foo": 1})
    assert GenerationConfig.from_pretrained("tiny").eos_token_id == 2
    with pytest.raises(GenerationError, match=r"has no generation_config.json; GenerationConfig.from_model_config"):
        GenerationConfig.from_pretrained(tmp_path / "theirs" / "..")
    with pytest.raises(PolyllamaError):
        GenerationConfig.from_pretrained(tmp_path / "nowhere")


def test_of_a_models_config():
    config = LlamaConfig(eos_token_id=[4, 5], pad_token_id=3, use_cache=False)
    found = GenerationConfig.from_model_config(config)
    theirs = transformers.GenerationConfig.from_model_config(
        transformers.LlamaConfig(eos_token_id=[4, 5], pad_token_id=3, use_cache=False)
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "return_dict_in_generate"):
        assert getattr(found, name) == getattr(theirs, name), name
    assert not hasattr(found, "hidden_size")
    assert GenerationConfig.from_model_config({"output_attentions": True}).return_dict_in_generate


def test_update_returns_what_it_does_not_know():
    for kind in (GenerationConfig, transformers.GenerationConfig):
        config = kind(max_new_tokens=5)
        assert config.update(max_new_tokens=6, foo=1) == {"foo": 1} and config.max_new_tokens == 6
        assert config.update(defaults_only=True, max_new_tokens=7, max_time=2.0) == {"max_new_tokens": 7}
        assert (config.max_new_tokens, config.max_time) == (6, 2.0)
        assert config.update(allow_custom_entries=True, foo=1) == {} and config.foo == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"early_stopping": "soon"}, "early_stopping is 'soon'"),
        ({"num_return_sequences": 3}, "num_return_sequences=3 without sampling"),
        ({"streamer": 1}, "streamer is an argument of generate"),
        ({"to_dict": 1}, "to_dict is a method of GenerationConfig"),
    ],
)
def test_what_is_wrong_by_itself(values, message):
    with pytest.raises(GenerationError, match=message):
        GenerationConfig(**values)
    with pytest.raises(ValueError if "to_dict" not in values else Exception):
        transformers.GenerationConfig(**values).to_dict()


@pytest.mark.parametrize("values", [{"temperature": 0.5}, {"length_penalty": 2.0}, {"output_scores": True}])
def test_what_would_have_no_effect_is_not_saved(tmp_path, values):
    config = GenerationConfig(**values)
    with pytest.raises(GenerationError, match="options without effect"):
        config.save_pretrained(tmp_path)
    with pytest.raises(ValueError):
        transformers.GenerationConfig(**values).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_has_no_place_in_json_is_made_plain():
    import numpy as np

    config = GenerationConfig(eos_token_id=np.array([1, 2]), suppress_tokens={5, 3}, cache_config={"a": (1, 2)})
    said = json.loads(config.to_json_string())
    assert said == {"eos_token_id": [1, 2], "suppress_tokens": [3, 5], "cache_config": {"a": [1, 2]}}


def test_it_says_what_it_does_not_have():
    with pytest.raises(AttributeError, match="no attribute 'temprature'"):
        _ = GenerationConfig().temprature
    assert len(set(ATTRIBUTES)) == len(ATTRIBUTES)
    with pytest.raises(TypeError):
        hash(GenerationConfig())
