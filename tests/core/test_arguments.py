"""Calls that do not fit a public function's arguments: the misspelt name is said, and what was probably meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import polyllama
import pytest
from polyllama import AttentionMaskVisualizer, Llama, PolyllamaError
from polyllama.core.arguments import checked, checked_methods
from polyllama.core.attention_mask.picture import AttentionMask
from polyllama.extend import InputError, UnknownArgumentError, UnsupportedError


@pytest.fixture(scope="module")
def llm() -> Llama:
    return Llama.load("tiny", backend="reference")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda llm: polyllama.convert("a", "b", to="hf", quantise="int4"), "convert .*'quantise'; did you mean 'qu"),
        (lambda llm: llm.save("a", max_shard="1GB"), "save .*'max_shard'; did you mean 'max_shard_size'"),
        (lambda llm: llm.perplexity("abc", ctx=3), "perplexity .*'ctx'; did you mean 'context'"),
        (lambda llm: llm.chat(message="hi"), "chat .*'message'; did you mean 'messages'"),
        (lambda llm: llm.attention_mask(text="x"), "attention_mask .*'text'; did you mean 'texts'"),
        (lambda llm: llm.stream(text="x"), "stream .*'text'; did you mean 'prompt'"),
        (lambda llm: llm.stream("x", prompts="y"), "stream .*'prompts'; did you mean 'prompt'"),
        (lambda llm: llm.generate(prompt="x"), "generate .*'prompt'; did you mean 'prompts'"),
        (lambda llm: llm.generate(text="x"), "generate .*'text'; did you mean 'prompts'"),
        (lambda llm: llm.generate(input="x"), "generate .*'input'; did you mean 'prompts'"),
        (lambda llm: llm.generate(input_id=[[1]]), "generate .*'input_id'; did you mean 'input_ids'"),
        (lambda llm: llm.generate_each(text=["x"]), "generate_each .*'text'; did you mean 'prompts'"),
        (lambda llm: llm.predict(texts="x"), "predict .*'texts'; did you mean 'text'"),
        (lambda llm: Llama.load("tiny", lora="x"), "load .*'lora'; did you mean 'adapter'"),
        (lambda llm: Llama.load(model="tiny"), "load .*'model'; did you mean 'source'"),
        (lambda llm: Llama.plan("tiny", seq_len=3), "plan .*'seq_len'; did you mean 'context'"),
        (lambda llm: llm.tokenizer.decode([3], skip_special=True), "decode .*; did you mean 'skip_special_tokens'"),
        (lambda llm: llm.tokenizer("x", max_len=3), "the call .*'max_len'; did you mean 'max_length'"),
        (lambda llm: AttentionMaskVisualizer("tiny").picture("x", atention=True), "picture .*did you mean 'attention'"),
        (lambda llm: llm.num_parameters(trainable=True), "'trainable'; did you mean 'only_trainable'?"),
        (lambda llm: llm.config.save_pretrained(path="a"), "save_pretrained .*'path'; did you mean 'save_directory'"),
        (lambda llm: llm.attention_mask("x").save(file="a.svg"), "save .*'file'; did you mean 'path'"),
    ],
)  # fmt: skip
def test_a_misspelt_argument_is_named(llm: Llama, call: Callable[[Llama], Any], said: str) -> None:
    with pytest.raises(UnknownArgumentError, match=said) as caught:
        call(llm)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_a_task_without_generation_says_so_first() -> None:
    critic = Llama.load("tiny-sentiment", backend="reference")
    with pytest.raises(UnsupportedError, match="does not generate text"):
        critic.generate(prompt="x")
    with pytest.raises(InputError, match="'txet'; did you mean 'text'"):
        critic.predict(txet="x")


def test_other_calls_that_do_not_fit(llm: Llama) -> None:
    with pytest.raises(InputError, match="convert needs 'to', which is not given"):
        polyllama.convert("a", "b")  # type: ignore[call-arg]
    with pytest.raises(InputError, match="load takes 1 argument by position, 2 are given; give the others by name: ba"):
        Llama.load("tiny", "torch")  # type: ignore[misc]
    with pytest.raises(InputError, match="eval takes 0 arguments by position, 1 are given; leave the others"):
        llm.eval(1)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="load is given 'source' twice; by position or by name"):
        Llama.load("tiny", source="tiny")  # type: ignore[misc]


def public_methods() -> Iterator[tuple[str, Any]]:
    """What a user can call without making anything first but a model and its tokenizer."""
    yield from (("convert", polyllama.convert), ("pipeline", polyllama.pipeline))
    tokenizers = (polyllama.LlamaTokenizer, polyllama.LlamaTokenizerFast)
    for kind in (Llama, AttentionMaskVisualizer, AttentionMask, *tokenizers):
        for name, value in inspect.getmembers(kind, callable):
            if not name.startswith("_") or name == "__call__":
                yield f"{kind.__name__}.{name}", value


@pytest.mark.parametrize("name", [name for name, _ in public_methods()])
def test_no_public_function_answers_with_a_type_error(name: str) -> None:
    function = dict(public_methods())[name]
    with pytest.raises(PolyllamaError):
        function(*["x"] * 50, zebra=1)
    required = inspect.signature(function).parameters.values()
    if any(p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in required):
        with pytest.raises(PolyllamaError):
            function(zebra=1)


def test_what_a_function_raises_itself_stays() -> None:
    @checked
    def outer(value: Any, *more: Any, unit: str = "m") -> Any:
        return value + 1

    with pytest.raises(TypeError, match="can only concatenate str"):
        outer("a", 2, 3)
    assert outer(1, unit="cm") == 2 and inspect.signature(outer).parameters.keys() == {"value", "more", "unit"}


def test_classes_keep_what_their_methods_are() -> None:
    @checked_methods
    class Scale:
        def __init__(self, factor: float) -> None:
            self.factor = factor

        @classmethod
        def double(cls) -> Scale:
            return cls(2.0)

        @property
        def half(self) -> float:
            return self.factor / 2

        def _own(self, factor: float) -> None: ...

    assert Scale.double().half == 1.0
    with pytest.raises(UnknownArgumentError, match="Scale has no argument 'faktor'; did you mean 'factor'"):
        Scale(faktor=2.0)  # type: ignore[call-arg]
    with pytest.raises(UnknownArgumentError, match="double has no argument 'factor'; it takes no more arguments"):
        Scale.double(factor=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Scale(1.0)._own()  # type: ignore[call-arg]
