"""Setting fields of a config: checked, of one model only, and refused where a built model cannot follow."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from polyllama import Llama, LlamaConfig, RopeParameters
from polyllama.core.api.task_classes import LlamaForCausalLM, LlamaForSequenceClassification
from polyllama.core.errors import ConfigError, DownloadError, PolyllamaWarning
from tiny_models import BACKENDS

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


# ---- a config of its own


def test_fields_are_set_and_derived_anew() -> None:
    config = LlamaConfig(**SIZES)
    config.hidden_size = 64
    config.use_cache = False
    config.rope_theta = 5e5
    config.num_labels = 3
    config.use_return_dict = False
    config.torch_dtype = "float16"
    assert config == LlamaConfig(
        **SIZES | {"hidden_size": 64}, use_cache=False, rope_theta=5e5, num_labels=3, return_dict=False, dtype="float16"
    )
    assert (config.head_dim, config.provenance["use_cache"]) == (32, "argument")
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    config.id2label = {0: "no", 1: "yes"}
    assert (config.num_labels, config.label2id) == (2, {"no": 0, "yes": 1})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("use_cache", "no", 'use_cache="no" must be true or false'),
        ("hidden_size", 33, "hidden_size=33 is not a multiple"),
        ("eos_token_id", 64, "outside the vocabulary"),
        ("hidden_sise", 3, 'did you mean "hidden_size"'),
        ("model_type", "gpt2", "not a Llama"),
        ("to_dict", 3, "to_dict is a method"),
        ("eos_token_ids", [3], "eos_token_ids cannot be set; set eos_token_id"),
        ("extra", {}, "extra cannot be set"),
        ("rotary_dim", 3, "rotary_dim cannot be set"),
    ],
)
def test_a_wrong_value_changes_nothing(name: str, value: Any, message: str) -> None:
    config = LlamaConfig(**SIZES)
    with pytest.raises(ConfigError, match=message):
        setattr(config, name, value)
    assert config == LlamaConfig(**SIZES)


def test_several_are_set_together_or_none() -> None:
    config = LlamaConfig(**SIZES)
    config.update({"vocab_size": 128, "eos_token_id": 100})
    with pytest.raises(ConfigError, match="eos_token_id"):
        config.update({"vocab_size": 100})
    assert (config.vocab_size, config.eos_token_id) == (128, 100)


def test_what_libraries_set_is_kept() -> None:
    config = LlamaConfig(**SIZES)
    thing = object()
    config.is_encoder_decoder = False
    config.my_note = [1]
    config._attn_implementation = "eager"
    config.thing = thing
    config.name_or_path = "here"
    assert (config.extra, config.my_note, config.thing) == ({"is_encoder_decoder": False, "my_note": [1]}, [1], thing)
    assert (config._attn_implementation, config._name_or_path, config.name_or_path) == ("eager", "here", "here")
    assert not {"thing", "_attn_implementation", "_name_or_path"} & config.to_dict().keys()
    kept = config.replace(use_cache=False)
    assert (kept.my_note, kept._attn_implementation) == ([1], "eager")


def test_what_libraries_ask_for_is_answered() -> None:
    ours, theirs = LlamaConfig(**SIZES), transformers.LlamaConfig(**SIZES)
    for name in ("is_encoder_decoder", "chunk_size_feed_forward", "_attn_implementation", "name_or_path",
                 "_name_or_path", "keys_to_ignore_at_inference", "attribute_map", "output_hidden_states",
                 "output_attentions", "return_dict", "use_cache", "problem_type", "num_labels"):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.get_text_config() is ours and ours.get_text_config(decoder=True) is ours
    with pytest.raises(ConfigError, match="a Llama is a decoder"):
        ours.get_text_config(encoder=True)
    assert not hasattr(ours, "no_such_thing")


@pytest.mark.parametrize("flags", [{}, {"output_hidden_states": True, "output_attentions": True, "return_dict": False}])
def test_files_have_the_flags_that_transformers_writes(flags: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = LlamaConfig(**SIZES, **flags), transformers.LlamaConfig(**SIZES, **flags)
    names = ("output_hidden_states", "output_attentions", "return_dict")
    for mine, other in ((ours.to_dict(), theirs.to_dict()), (ours.to_diff_dict(), theirs.to_diff_dict())):
        assert {n: mine[n] for n in names if n in mine} == {n: other[n] for n in names if n in other}
    file = ours.to_json_file(tmp_path / "mine.json")
    assert json.loads(file.read_text()) == json.loads(ours.to_json_string())
    assert json.loads(ours.to_json_string(use_diff=False)) == json.loads(json.dumps(ours.to_dict()))
    assert LlamaConfig.from_json_file(file) == ours
    theirs.save_pretrained(tmp_path)
    read = LlamaConfig.from_pretrained(tmp_path)
    assert [getattr(read, n) for n in names] == [getattr(theirs, n) for n in names] and not set(names) & set(read.extra)


def test_a_note_is_given_once() -> None:
    raw = {**SIZES, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "beta_fast": 3, "rope_theta": 1e4}}
    with pytest.warns(PolyllamaWarning, match="beta_fast=3 is not used"):
        config = LlamaConfig.from_dict(raw)
    config.use_cache = False  # a warning would be an error here
    assert config.use_cache is False


def test_rotary_parameters_are_read_as_a_mapping() -> None:
    ours = LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5})
    theirs = transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    )
    rope = ours.rope_parameters
    assert rope == theirs.rope_parameters and theirs.rope_parameters == dict(rope) == {**rope} == dict(rope.items())
    assert (rope["rope_theta"], rope.get("factor"), rope.get("beta_fast", 7), "beta_fast" in rope) == (
        5e5,
        2.0,
        7,
        False,
    )
    assert sorted(rope) == sorted(rope.keys()) == ["factor", "rope_theta", "rope_type"] and len(rope) == 3
    assert rope != {**rope, "factor": 3.0} and rope != RopeParameters() and set(rope.values()) == {"linear", 2.0, 5e5}
    with pytest.raises(KeyError):
        _ = rope["beta_fast"]
    with pytest.raises(ConfigError, match=r"frozen: rope_theta cannot be set; set config.rope_parameters = "):
        rope["rope_theta"] = 1.0
    ours.rope_parameters = {**rope, "factor": 4.0}
    assert ours.rope_parameters["factor"] == 4.0


def test_the_loaders_keywords_are_taken_or_refused(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES)
    config.save_pretrained(tmp_path)
    given: dict[str, Any] = {"local_files_only": True, "token": None, "trust_remote_code": False, "proxies": None}
    assert LlamaConfig.from_pretrained(pretrained_model_name_or_path=tmp_path, **given) == config
    for options, message in [
        ({"attn_implementation": "sdpa"}, "attn_implementation; give it when loading a model"),
        ({"trust_remote_code": True}, "does not take trust_remote_code"),
        ({"token": 3}, "token is a int"),
    ]:
        with pytest.raises(Exception, match=message):
            LlamaConfig.from_pretrained(tmp_path, **options)
    for arguments in ((), (tmp_path, tmp_path)):
        named = {"pretrained_model_name_or_path": arguments[1]} if len(arguments) > 1 else {}
        with pytest.raises(ConfigError, match=r"from_pretrained (needs the name|is given the model twice)"):
            LlamaConfig.from_pretrained(*arguments[:1], **named)
    with pytest.raises(DownloadError, match="cannot be loaded offline"):
        LlamaConfig.from_pretrained("org/name", local_files_only=True, cache_dir=tmp_path / "empty")


def test_what_is_not_a_llamas_can_be_deleted() -> None:
    config = LlamaConfig(**SIZES)
    config.my_note, config._beside_it = 3, object()
    del config.my_note, config._beside_it
    assert not hasattr(config, "my_note") and not hasattr(config, "_beside_it") and "my_note" not in config.to_dict()
    assert config == LlamaConfig(**SIZES) and not hasattr(config.replace(use_cache=False), "my_note")
    for name in ("hidden_size", "rope_theta", "to_dict", "extra", "head_dim"):
        with pytest.raises(ConfigError, match=f"^{name} cannot be deleted: every Llama has it; set it"):
            delattr(config, name)
    with pytest.raises(AttributeError, match="LlamaConfig has no field 'no_such'"):
        del config.no_such


# ---- the config of a model

COPIES: dict[str, Any] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy in a list": lambda config: copy.deepcopy([config])[0],
    "pickle": lambda config: pickle.loads(pickle.dumps(config)),
    "pickle in a dict": lambda config: pickle.loads(pickle.dumps({"config": config}))["config"],
    "to_dict": lambda config: LlamaConfig.from_dict(config.to_dict()),
    "model_copy": lambda config: config.model_copy(deep=True),
    "replace": lambda config: config.replace(use_cache=False),
}


@pytest.mark.parametrize("made", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copy_is_free_to_change(backend: str, made: Any) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES), backend=backend)
    free = made(model.config)
    free.hidden_size = 64
    assert (free.hidden_size, model.config.hidden_size) == (64, 32)
    with pytest.raises(ConfigError, match="hidden_size cannot be set"):
        model.config.hidden_size = 64


def test_the_config_of_a_copied_model_is_that_models() -> None:
    from polyllama import LlamaForCausalLM as OnTorch

    model = OnTorch(LlamaConfig(**SIZES))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ConfigError, match="hidden_size cannot be set"):
            other.config.hidden_size = 64
        other.config.pad_token_id = 3
        assert model.config.pad_token_id is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_model_has_a_config_of_its_own(backend: str) -> None:
    config = LlamaConfig(**SIZES)
    one, two = (LlamaForCausalLM(config, backend=backend) for _ in range(2))
    assert one.config == config and one.config is one.model.config and one.config is not config
    one.config.pad_token_id = 3
    with pytest.warns(PolyllamaWarning, match="hidden_size set on a config that a model was made from"):
        config.hidden_size = 64
    assert (one.config.pad_token_id, two.config.pad_token_id, config.pad_token_id) == (3, None, None)
    assert (one.config.hidden_size, one.model.config.pad_token_id) == (32, 3)
    held = one.config
    one.resize_token_embeddings(70)
    assert one.config is held is one.model.config and held.vocab_size == 70
    with pytest.raises(ConfigError, match="vocab_size cannot be set"):
        held.vocab_size = 71


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", 64), ("num_hidden_layers", 3), ("rope_theta", 5e5), ("num_labels", 5), ("rms_norm_eps", 1e-3),
     ("hidden_act", "gelu"), ("tie_word_embeddings", True), ("quantization", {"group_size": 32, "bits": 4}),
     ("attention_dropout", 0.5), ("pad_token_id", None)],
)  # fmt: skip
def test_what_a_built_model_cannot_follow_says_to_load_again(name: str, value: Any) -> None:
    llm = LlamaForSequenceClassification(LlamaConfig(**SIZES, pad_token_id=0, num_labels=3), backend="reference")
    if name == "tie_word_embeddings":
        llm = LlamaForCausalLM(LlamaConfig(**SIZES), backend="reference")  # type: ignore[assignment]
    before = llm.config.to_dict()
    with pytest.raises(
        ConfigError, match=rf"{name} cannot be set: .*; load it with the change: from_pretrained\(..., "
    ):
        setattr(llm.config, name, value)
    assert llm.config.to_dict() == before
    free = copy.deepcopy(llm.config)
    setattr(free, name, value)  # a copy belongs to no model
    task = llm.task_head
    for copied in (copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))):
        own, _ = copied([llm.config, task])  # as a part of a copied model, which holds its task
        with pytest.raises(ConfigError, match="cannot be set"):
            setattr(own, name, value)


def test_what_nothing_in_the_graph_follows_can_be_set() -> None:
    llm = LlamaForCausalLM(LlamaConfig(**SIZES), backend="reference")
    llm.config.num_labels = 5  # a language model has no labels
    llm.config.initializer_range = 0.1
    llm.config.eos_token_id = [1, 2]
    llm.config.use_cache = False
    assert llm.config.num_labels == 5 and llm.config.eos_token_ids == (1, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_padding_id_that_is_set_counts(backend: str) -> None:
    llm = LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=3), backend=backend)
    first, second = [5, 6, 7, 0, 0], [8, 9, 10, 11, 12]
    with pytest.raises(Exception, match="no pad_token_id"):
        llm([first, second])
    masked = llm([first, second], attention_mask=[[1, 1, 1, 0, 0], [1] * 5]).numpy()["logits"]
    llm.config.pad_token_id = 0
    assert np.allclose(llm([first, second]).numpy()["logits"], masked, atol=1e-5)
    llm.config.pad_token_id = 13
    other = llm([[5, 6, 7, 13, 13], second]).numpy()["logits"]
    assert np.allclose(other, masked, atol=1e-5)
    assert not np.allclose(llm([first, second]).numpy()["logits"][0], masked[0], atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_problem_type_that_is_set_counts(backend: str) -> None:
    llm = LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=3, pad_token_id=0), backend=backend)
    losses = []
    for kind in ("regression", "multi_label_classification", "regression"):
        llm.config.problem_type = kind
        losses.append(float(np.asarray(llm([[5, 6, 7]], labels=[[1.0, 0.0, 1.0]]).numpy()["loss"])))
    scores = llm([[5, 6, 7]]).numpy()["logits"][0].astype(np.float64)
    wanted = np.array([1.0, 0.0, 1.0])
    square = ((scores - wanted) ** 2).mean()
    crossed = (np.log1p(np.exp(scores)) - scores * wanted).mean()
    assert np.allclose(losses, [square, crossed, square], rtol=1e-4)


def test_a_saved_model_has_what_was_set(tmp_path: Path) -> None:
    llm = Llama.load("tiny", backend="reference")
    llm.config.pad_token_id, llm.config.note = 5, "mine"
    llm.save(tmp_path)
    again = LlamaConfig.from_pretrained(tmp_path)
    assert (again.pad_token_id, again.note, again.name_or_path) == (5, "mine", str(tmp_path))
