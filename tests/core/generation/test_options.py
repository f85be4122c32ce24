"""Options and the checkpoint's defaults for them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import settings
from polyllama.core.config.schema import LlamaConfig
from polyllama.core.errors import GenerationError, PolyllamaWarning
from polyllama.core.generation.calls import generate
from polyllama.core.generation.defaults import GenerationDefaults
from polyllama.core.generation.options import GenerationOptions
from scripted_models import BOS, EOS, MODEL, SMALL, TOKENIZER, VOCAB, options, run

# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)


settings.load_profile("no deadline")


def test_giving_a_temperature_or_a_filter_means_sampling():
    assert not options().do_sample and options().filters is None
    for given_option in ({"temperature": 0.8}, {"temperature": 1.0}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}):
        assert options(**given_option).do_sample, given_option
    for given_option in ({"temperature": 0}, {"temperature": 0, "top_p": 0.5}, {"top_p": 1.0}, {"seed": 7}):
        assert options(**given_option).filters is None, given_option
    assert options(do_sample=True).filters.temperature == 1.0
    assert options(do_sample=True, temperature=None).filters.top_k == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1}, "temperature is -1; wanted a finite number, 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_p": 0}, "top_p is 0; wanted a number above 0 and at most 1"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_k": -1}, r"top_k is -1; wanted a whole number, 0 or more \(0 is off\)"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_k": True}, "top_k is True"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"typical_p": 0}, "typical_p is 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; wanted a finite number above 0"),
        ({"presence_penalty": float("inf")}, "presence_penalty is inf"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size is -2"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; wanted a whole number, 1 or more"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"stop": ""}, "stop is ''"),
        ({"stop": ["a", ""]}, "stop is"),
        ({"stop": 5}, "stop is 5"),
        ({"stop_token_ids": [1, -1]}, "stop_token_ids is"),
        ({"stop_token_ids": "</s>"}, "stop_token_ids is '</s>'"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias is"),
        ({"logit_bias": {"1": 1.0}}, "logit_bias is .*whole numbers"),
        ({"logit_bias": [1, 2]}, "logit_bias is"),
        ({"do_sample": 1}, "do_sample is 1; wanted True or False"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"do_sample": True, "temperature": 0}, "do_sample=True and temperature=0 contradict"),
        ({"max_new_tokens": 5, "min_new_tokens": 9}, "min_new_tokens=9 is more than max_new_tokens=5"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 without sampling.*do_sample=True"),
        ({"num_return_sequences": 0, "temperature": 1}, "num_return_sequences is 0"),
        ({"temprature": 1}, "no option 'temprature'; did you mean 'temperature'"),
        ({"max_tokens": 1}, "did you mean 'max_new_tokens'"),
        ({"stop_sequences": "a"}, "did you mean 'stop'"),
        ({"stop_strings": "a", "stop": "b"}, "stop is given twice"),
        ({"num_beam_groups": 4}, "num_beam_groups=4 is not offered; transformers has moved it"),
        ({"min_length": -1}, "min_length is -1"),
        ({"max_time": 0}, "max_time is 0; wanted a number of seconds above 0"),
        ({"bad_words_ids": [[]]}, r"bad_words_ids is \[\[\]\]; wanted a list of lists"),
        ({"bad_words_ids": [5]}, "bad_words_ids is"),
        ({"suppress_tokens": [-1]}, "suppress_tokens is"),
        ({"pad_token_id": -1}, "pad_token_id is -1; wanted a token id"),
        ({"use_cache": 1}, "use_cache is 1; wanted True or False"),
        (
            {"cache_implementation": "quantized"},
            "cache_implementation='quantized' is not offered; whether a model has it",
        ),
        ({"cache_implementation": "hybrid"}, "cache_implementation='hybrid' is not offered; a Llama attends to all"),
        ({"cache_implementation": "fast"}, "cache_implementation='fast' is not offered; wanted one of 'dynamic', 'st"),
        ({"assistant_tokenizer": object()}, "assistant_tokenizer=.* is not offered"),
        ({"logits_processor": [1]}, r"logits_processor is \[1\]; wanted a list of functions or objects"),
        ({"stopping_criteria": "now"}, "stopping_criteria is 'now'; wanted a list of functions or objects"),
        ({"prefix_allowed_tokens_fn": [1]}, r"prefix_allowed_tokens_fn is \[1\]; wanted a function"),
        ({"sequence_bias": {5: 1.0}}, "sequence_bias is .*wanted a dictionary of tuples"),
        ({"sequence_bias": [[[5], float("inf")]]}, "sequence_bias is"),
        ({"exponential_decay_length_penalty": 1.5}, "exponential_decay_length_penalty is 1.5; wanted a number of tok"),
        ({"epsilon_cutoff": 1.0, "do_sample": True}, "epsilon_cutoff is 1.0; wanted a number from 0"),
        ({"top_h": 0, "do_sample": True}, "top_h is 0; wanted a number above 0 and at most 1"),
        ({"do_sample": False, "eta_cutoff": 0.1, "watermarking_config": {}}, "watermarking_config=.* is not offered"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan; wanted a finite number"),
        ({"negative_prompt_ids": [[]]}, r"negative_prompt_ids is \[\[\]\]; wanted token ids"),
        ({"xyzzy": None}, "no option 'xyzzy'; there are: max_new_tokens"),
    ],
)
def test_wrong_options_say_what_is_wanted(arguments, message):
    with pytest.raises(GenerationError, match=message) as error:
        options(**arguments)
    assert "\n" not in str(error.value)


def test_two_limits_in_one_call_are_said_and_the_one_on_new_tokens_holds(unsaid):
    with pytest.warns(PolyllamaWarning, match="max_new_tokens=5 and max_length=9 are two limits; max_new_tokens holds"):
        asked = options(max_new_tokens=5, max_length=9)
    assert (asked.max_new_tokens, asked.max_length) == (5, None)
    with pytest.raises(GenerationError, match="max_new_tokens=5 and max_length=9 are two limits"):
        GenerationOptions(max_new_tokens=5, max_length=9)


def test_what_greedy_decoding_leaves_unused_is_said_once(unsaid):
    with pytest.warns(
        PolyllamaWarning, match="^temperature=0.7, top_k=5 without effect: do_sample is not True"
    ) as said:
        for _ in range(2):
            asked = options(do_sample=False, temperature=0.7, top_k=5)
    assert len(said) == 1 and asked.filters is None


def test_other_values_of_the_same_options_are_not_said_again(unsaid):
    with pytest.warns(PolyllamaWarning) as said:
        for value in (3, 4, 5):
            options(do_sample=False, temperature=value / 10)
            options(do_sample=False, temperature=value / 10, top_k=value)
            options(max_new_tokens=value, max_length=value)
            options(max_cache_len=value)
    assert [str(each.message).partition(" ")[0] for each in said] == [
        *("temperature=0.3", "temperature=0.3,", "max_new_tokens=3", "max_cache_len=3")
    ]


def test_where_arrays_go_in_do_sample_alone_means_sampling(unsaid):
    def resolve(defaults=None, **arguments):
        return GenerationOptions.resolve(arguments, defaults=defaults, documented=True)

    assert resolve(do_sample=True, top_k=5).filters.top_k == 5
    assert resolve(read(do_sample=True), temperature=0.5).filters.temperature == 0.5
    assert resolve(temperature=0).filters is None
    with pytest.warns(PolyllamaWarning, match="temperature=0.5 without effect"):
        assert resolve(temperature=0.5).filters is None


@pytest.mark.parametrize("value", [{"cache_implementation": "static"}, {"disable_compile": True}, {"max_cache_len": 9}])
def test_what_changes_nothing_here_is_said_once(unsaid, value):
    with pytest.warns(PolyllamaWarning, match=f"{next(iter(value))}=.* changes nothing here") as said:
        assert [options(**value), options(**value)] == [options(), options()]
    assert len(said) == 1


def test_what_does_nothing_is_taken():
    # pytest turns PolyllamaWarning into an error
    inert = {
        "num_beams": 1, "early_stopping": False, "length_penalty": 1.0, "logits_processor": [],
        "stopping_criteria": None, "synced_gpus": False, "assistant_tokenizer": None, "guidance_scale": 1.0, 
        "epsilon_cutoff": 0.0, "sequence_bias": None, "remove_invalid_values": False, "use_mtp": False,
    }  # fmt: skip
    assert options(**inert) == options()
    with pytest.raises(GenerationError, match="use_mtp=True is not offered"):
        options(use_mtp=True)
    with pytest.raises(GenerationError, match="num_beam_groups=True is not offered"):
        options(num_beam_groups=True)


def test_a_given_generation_config_stands_between_the_call_and_the_model():
    model = read(max_length=40, top_p=0.9, do_sample=True)
    given = GenerationDefaults.from_dict({"max_new_tokens": 5, "temperature": 0.5}, strict=True)
    layered = given.over(model)
    asked = GenerationOptions.resolve({}, defaults=layered)
    assert (asked.max_new_tokens, asked.max_length, asked.temperature, asked.top_p) == (5, None, 0.5, 0.9)
    assert asked.origin["top_p"] == "generation_config.json" and asked.origin["max_new_tokens"] == "generation_config"
    assert GenerationOptions.resolve({"max_length": 9}, defaults=layered).max_new_tokens is None
    whole = GenerationDefaults.from_dict({"max_length": 30}, strict=True).over(read(max_new_tokens=7))
    assert GenerationOptions.resolve({}, defaults=whole).max_length == 30 and "max_new_tokens" not in whole.values
    with pytest.raises(GenerationError, match=r"num_beam_groups=4 \(from generation_config\) is not offered"):
        GenerationDefaults.from_dict({"num_beam_groups": 4}, strict=True)


def test_numpy_numbers_are_numbers():
    asked = options(temperature=np.float32(0.5), top_k=np.int64(4), seed=np.uint64(3), stop_token_ids=[np.int32(2)])
    assert (asked.temperature, asked.top_k, asked.seed, asked.stop_token_ids) == (0.5, 4, 3, (2,))
    assert {type(asked.top_k), type(asked.seed)} == {int}


def test_options_are_frozen_and_checked_when_built_directly():
    with pytest.raises(dataclasses.FrozenInstanceError):
        options().temperature = 2.0
    with pytest.raises(GenerationError, match=r"do_sample=False and temperature=0\.8 contradict"):
        GenerationOptions(temperature=0.8)
    assert GenerationOptions(stop="x").stop == ("x",)


def read(**content) -> GenerationDefaults:
    return GenerationDefaults.from_dict(content, source="generation_config.json")


def test_the_checkpoints_defaults_apply_and_arguments_win():
    defaults = read(do_sample=True, temperature=0.6, top_p=0.9, max_length=4096, repetition_penalty=1.1)

    def resolve(**arguments):
        return GenerationOptions.resolve(arguments, defaults=defaults)

    assert resolve().filters == GenerationOptions(do_sample=True, temperature=0.6, top_p=0.9).filters
    assert resolve().max_length == 4096 and resolve().repetition_penalty == 1.1
    assert resolve(max_new_tokens=5).max_length is None
    assert resolve(top_p=0.5).filters.top_p == 0.5 and resolve(top_p=0.5).filters.temperature == 0.6
    assert resolve(temperature=0).filters is None
    assert resolve(do_sample=False).filters is None
    assert resolve(temperature=None).filters.temperature == 0.6

    # Without do_sample the file's temperature waits until sampling is asked for, as in transformers.
    waiting = read(temperature=0.9, top_p=0.6)
    assert GenerationOptions.resolve({}, defaults=waiting).filters is None
    assert GenerationOptions.resolve({"do_sample": True}, defaults=waiting).filters.temperature == 0.9
    assert GenerationOptions.resolve({"temperature": 0.5}, defaults=waiting).filters.top_p == 0.6
    held = GenerationOptions.resolve({"max_new_tokens": 3}, defaults=read(min_new_tokens=10))
    assert held.min_new_tokens == 3


def test_limits_of_the_file_that_stand_against_an_argument_are_errors_that_name_it():
    for file in (read(max_length=6), read(max_length=4)):
        asked = GenerationOptions.resolve({"min_new_tokens": 5}, defaults=file)
        with pytest.raises(GenerationError, match=r"max_length=\d \(from generation_config.json\).*give max_new"):
            generate(MODEL, TOKENIZER, [[BOS] * 4], asked)
    with pytest.raises(GenerationError, match=r"max_new_tokens=2 \(from generation_config.json\).*give max_new"):
        GenerationOptions.resolve({"min_new_tokens": 5}, defaults=read(max_new_tokens=2))
    with pytest.raises(GenerationError, match=r"^max_length=6 leaves 2 .* min_new_tokens=5 wants more"):
        run([[BOS] * 4], max_new_tokens=None, max_length=6, min_new_tokens=5)
    fits = GenerationOptions.resolve({"min_new_tokens": 5}, defaults=read(max_length=9))
    assert len(generate(MODEL, TOKENIZER, [[BOS] * 4], fits)[0].token_ids) == 5


@pytest.mark.parametrize("ids", [np.int64(3), np.array([3, 5]), {5, 3}, frozenset({3}), [np.int32(3), 5], np.array(3)])
def test_ids_may_be_numpy_numbers_arrays_and_sets(ids):
    found = options(stop_token_ids=ids).stop_token_ids
    assert found in ((3,), (3, 5)) and all(type(token_id) is int for token_id in found)
    for wrong in (np.array([True]), {1.5}, np.array([1.5]), {"a", 1}, [-1]):
        with pytest.raises(GenerationError, match="stop_token_ids"):
            options(stop_token_ids=wrong)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"top_k": 3}', encoding="utf-8-sig")
    assert GenerationDefaults.from_pretrained(tmp_path).values == {"top_k": 3}


def test_the_ids_that_end_a_sequence():
    config = LlamaConfig(vocab_size=VOCAB, eos_token_id=[7, 8], **SMALL)
    without = LlamaConfig(vocab_size=VOCAB, eos_token_id=None, **SMALL)

    def ids(arguments=None, **sources):
        return GenerationOptions.resolve(arguments, **sources).eos_token_id

    file = read(eos_token_id=[9, 10])
    assert ids({"eos_token_id": 5}, defaults=file, config=config, tokenizer=TOKENIZER) == (5,)
    assert ids({"eos_token_id": []}, defaults=file, config=config) == ()
    assert ids(defaults=file, config=config, tokenizer=TOKENIZER) == (9, 10)
    assert ids(defaults=read(eos_token_id=9), config=config) == (9,)
    assert ids(config=config, tokenizer=TOKENIZER) == (7, 8)
    assert ids(config=without, tokenizer=TOKENIZER) == (EOS,)
    assert ids(config=without) == ()


def test_keys_that_would_change_the_output_are_named():
    with pytest.warns(PolyllamaWarning, match=r"not honoured.*num_beam_groups=4, token_healing=true, wibble=\"x\"$"):
        defaults = read(num_beam_groups=4, token_healing=True, wibble="x", temperature=0.5)
    assert defaults.not_honoured == ("num_beam_groups", "token_healing", "wibble")
    assert dict(defaults.values) == {"temperature": 0.5}


def test_keys_that_change_nothing_are_quiet():
    # pytest turns PolyllamaWarning into an error
    defaults = read(
        _from_model_config=True, transformers_version="4.45.0.dev0", bos_token_id=1, pad_token_id=0, num_beams=1,
        diversity_penalty=0.0, guidance_scale=None, length_penalty=2.0, cache_implementation="static",
        bad_words_ids=None, top_k=None,
    )  # fmt: skip
    wanted = {"bos_token_id": 1, "pad_token_id": 0, "num_beams": 1, "length_penalty": 2.0}
    assert dict(defaults.values) == wanted and defaults.not_honoured == ()
    assert GenerationOptions.resolve({}, defaults=defaults).num_beams == 1
    assert dict(read(pad_token_id=-1).values) == {}, "so some files say that there is none"


def test_everything_transformers_writes_is_known(tmp_path):
    from transformers import GenerationConfig

    GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=[1, 2]).save_pretrained(tmp_path)
    assert GenerationDefaults.from_pretrained(tmp_path).values["temperature"] == 0.6
    # ... and so is every field it has: each is honoured, named or harmless, none is a surprise
    from polyllama.core.generation.option_rules import is_option

    fields = {name for name in GenerationConfig().to_dict() if not name.startswith("_")} - {"transformers_version"}
    assert all(is_option(name) for name in fields), [name for name in fields if not is_option(name)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"top_p": 7}', "generation_config.json: top_p is 7; wanted"),
        ("[1]", "holds a list, wanted a JSON object"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("\x00", "not valid JSON"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, message):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(GenerationError, match=message) as error:
        GenerationDefaults.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_no_file_is_no_defaults(tmp_path):
    assert GenerationDefaults.from_pretrained(tmp_path) is None
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.5}))
    assert GenerationDefaults.from_pretrained(tmp_path).values == {"temperature": 0.5}


@pytest.fixture
def unsaid(monkeypatch):
    """As in a process in which nothing has been said yet."""
    monkeypatch.setattr("polyllama.core.generation.arguments._said", set())


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models this small gain nothing from threads, and lose a lot when the machine is busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
