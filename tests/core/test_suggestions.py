"""Misspelt arguments and values: the right function is named, and what was probably meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from polyllama import Llama, PolyllamaError, convert, pipeline
from polyllama.core.dtypes import meant_dtype, numpy_dtype
from polyllama.core.loading.tasks import check_overrides
from polyllama.core.planning.plan import plan_arguments
from polyllama.extend import UnknownArgumentError


def error_of(call: Callable[[], Any]) -> PolyllamaError:
    with pytest.raises(PolyllamaError) as caught:
        call()
    return caught.value


@pytest.fixture(scope="module")
def llm() -> Llama:
    return Llama.load("tiny", backend="reference")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"contxt": 64}, "plan has no argument 'contxt'; did you mean 'context'?"),
        ({"prefil_chunk_size": 64}, "plan has no argument 'prefil_chunk_size'; did you mean 'prefill_chunk_size'?"),
        ({"ignor": "*.cos"}, "plan has no argument 'ignor'; did you mean 'ignore'?"),
        ({"max_position_embedding": 1}, "did you mean 'max_position_embeddings'?"),
        ({"load_format": "dummy"}, "plan has no argument 'load_format'; it is an argument of Llama.load"),
        (
            {"device_map": "auto"},
            "plan has no argument 'device_map'; from_pretrained takes it; name a device: device='cuda'",
        ),
        ({"zebra": 1}, "plan has no argument 'zebra'; it takes fields of LlamaConfig"),
    ],
)
def test_arguments_of_plan(given: Mapping[str, Any], said: str) -> None:
    error = error_of(lambda: Llama.plan("tiny", **given))
    assert isinstance(error, UnknownArgumentError) and said in str(error) and error.argument == next(iter(given))


def test_plans_arguments_are_those_of_its_signature() -> None:
    taken = set(inspect.signature(Llama.plan).parameters) - {"source", "config_overrides"}
    assert set(plan_arguments()) == taken and {"ignore", "backend"} <= taken


def test_every_argument_of_load_is_suggested() -> None:
    for name in set(inspect.signature(Llama.load).parameters) - {"source", "config_overrides"}:
        with pytest.raises(UnknownArgumentError, match=f"did you mean '{name}'"):
            check_overrides({f"{name}_": 1})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("atention_mask", "forward has no argument 'atention_mask'; did you mean 'attention_mask'?"),
        ("outputs_hidden_states", "did you mean 'output_hidden_states'?"),
        ("return_dic", "did you mean 'return_dict'?"),
        ("label", "did you mean 'labels'?"),
        ("num_items", "did you mean 'num_items_in_batch'?"),
        ("start_positions", "the labels of task 'causal-lm' are labels"),
        ("max_new_tokens", "it takes input_ids, attention_mask, position_ids, "),
        ("train", "on torch and mlx llm.train() turns dropout on"),
    ],
)
def test_arguments_of_forward(llm: Llama, given: str, said: str) -> None:
    error = error_of(lambda: llm.forward([[1, 5]], **{given: 1}))
    assert isinstance(error, UnknownArgumentError) and error.argument == given
    assert str(error).startswith(f"forward has no argument {given!r}; ") and said in str(error)


def test_a_backends_own_arguments_and_a_tasks_labels_are_suggested() -> None:
    jax = Llama.load("tiny", backend="jax")
    assert "did you mean 'dropout_rng'?" in str(error_of(lambda: jax.forward([[1, 5]], dropout_rgn=1)))
    reader = Llama.load("tiny-questions", backend="reference")
    assert "did you mean 'end_positions'?" in str(error_of(lambda: reader.forward([[1, 5]], end_position=1)))


def test_arguments_of_masks_and_pipelines(llm: Llama) -> None:
    said = str(error_of(lambda: llm.attention_mask("a", atention=True)))
    assert said == "attention_mask has no argument 'atention'; did you mean 'attention'?"
    assert "it takes padding_side, packed, " in str(error_of(lambda: llm.attention_mask("a", zebra=True)))
    for name, meant in (("backen", "backend"), ("load_fromat", "load_format")):
        said = str(error_of(lambda name=name: pipeline("text-generation", model="tiny", **{name: "x"})))  # type: ignore[misc]
        assert said == f"a pipeline has no option {name!r}; did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *[("fp16", "float16"), ("half", "float16"), ("f32", "float32"), ("Float32", "float32"), ("bf16", "bfloat16")],
        *[("fp32", "float32"), ("double", "float64"), ("floaat16", "float16"), ("BFLOAT16", "bfloat16")],
    ],
)
def test_dtypes_by_other_names(given: str, meant: str, tmp_path: Path) -> None:
    hint = f"did you mean {meant!r}?"
    assert hint in str(error_of(lambda: Llama.load("tiny", backend="reference", dtype=given)))
    assert hint in str(error_of(lambda: numpy_dtype(given)))
    if meant != "float64":
        assert hint in str(error_of(lambda: convert("tiny", tmp_path / "out", to="hf", dtype=given)))


def test_what_does_not_come_close_is_answered_by_what_there_is() -> None:
    assert meant_dtype("zebra") is None and meant_dtype("fp16", ["float32"], "use float32") == "use float32"
    assert "did you mean" not in str(error_of(lambda: Llama.load("tiny", backend="zebra")))


@pytest.mark.parametrize(("given", "meant"), [("tourch", "torch"), ("pytorch", "torch"), ("refrence", "reference")])
def test_backends(given: str, meant: str) -> None:
    said = str(error_of(lambda: Llama.load("tiny", backend=given)))
    assert said.startswith(f"no backend is called {given!r}; did you mean {meant!r}? there are: ")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("safetensor", "huggingface"), ("SafeTensors", "huggingface"), ("gguff", "gguf")],
)
def test_formats_by_their_files(given: str, meant: str, tmp_path: Path) -> None:
    hint = f"did you mean {meant!r}?"
    assert hint in str(error_of(lambda: Llama.load("tiny", backend="reference", load_format=given)))
    assert hint in str(error_of(lambda: convert("tiny", tmp_path / "out", to=given)))
