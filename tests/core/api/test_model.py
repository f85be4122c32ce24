"""The facade: loading, its errors, saving, prompts in every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig, LlamaForCausalLM, LlamaModel, PolyllamaError
from polyllama.core.errors import CheckpointError, ConfigError, InputError, RegistryError, UnsupportedError
from tiny_models import BACKENDS, SIZES, relative_error

IDS = [[1, 5, 9, 33]]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("source", "arguments", "error", "message"),
    [
        ("tiny", {"load_fromat": "dummy"}, InputError, "did you mean 'load_format'"),
        ("tiny", {"kv_cache": "int8"}, InputError, "it is a setting: POLYLLAMA_KV_CACHE"),
        ("tiny", {"threads": 2}, InputError, "it is a setting: POLYLLAMA_THREADS"),
        ("tiny", {"backned": "torch"}, InputError, "did you mean 'backend'"),
        ("tiny", {"num_hidden_layer": 3}, InputError, "did you mean 'num_hidden_layers'"),
        ("tiny", {"device_map": "auto"}, InputError, "name a device"),
        ("tiny", {"load_in_8bit": True}, InputError, "use quantize='int8'"),
        ("tiny", {"quantize": "int9"}, UnsupportedError, "use int4, int8"),
        ("tiny", {"dtype": "float31"}, PolyllamaError, "float31"),
        ("tiny", {"backend": "tpu"}, PolyllamaError, "no backend is called 'tpu'"),
        ("tiny", {"backend": "torch:cpu:7"}, PolyllamaError, "it has no device 'cpu:7'"),
        ("tiny", {"task": "poetry"}, PolyllamaError, "there is no task 'poetry'"),
        ("tiny", {"task": ""}, InputError, "task is ''"),
        ("tiny", {"task": 3}, InputError, "task is 3"),
        ("tiny", {"hidden_size": "big"}, ConfigError, "hidden_size"),
        ("tiny", {"num_hidden_layers": 6}, CheckpointError, "num_hidden_layers"),
        ("tiny", {"revision": "v2"}, RegistryError, "revision"),
        ("tinny", {}, RegistryError, "tiny"),
        ("./nowhere", {}, RegistryError, "no file or folder"),
        ("x" * 5000, {}, RegistryError, "cannot be looked up|no file"),
        (None, {}, InputError, "no model was named"),
        (b"tiny", {}, InputError, "not by a bytes"),
        (["tiny"], {}, InputError, "not by a list"),
        (LlamaConfig(), {}, InputError, "load_format='dummy'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_loaded_says_why(source: Any, arguments: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        Llama.load(source, **({"backend": "reference"} | arguments))
    assert "\n" not in str(raised.value) or isinstance(raised.value, (CheckpointError, ConfigError))


def test_dtypes_may_be_objects(tiny_models: Any) -> None:
    import torch

    _, folder = tiny_models()
    for dtype, name in [(torch.float16, "float16"), (np.float64, "float64"), ("torch.bfloat16", "bfloat16")]:
        assert Llama.load(folder, backend="torch", dtype=dtype).dtype == name
    assert LlamaForCausalLM.from_pretrained(folder, backend="torch", torch_dtype=torch.float16).dtype == torch.float16
    assert Llama.load(folder, backend="torch", dtype=None, device=torch.device("cpu")).dtype == "float32"
    with pytest.raises(InputError, match="both given"):
        Llama.from_pretrained(folder, dtype="float32", torch_dtype="float32")


def test_dummy_weights_from_a_config_alone(backend: str, tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES)
    first, second = (Llama.load(config, load_format="dummy", backend=backend) for _ in range(2))
    logits = first.forward(IDS).numpy()["logits"]
    assert np.array_equal(logits, second.forward(IDS).numpy()["logits"]) and logits.std() > 0.01
    config.save_pretrained(tmp_path)
    assert np.array_equal(
        Llama.load(tmp_path, load_format="dummy", backend=backend).forward(IDS).numpy()["logits"], logits
    )
    assert LlamaModel(config, backend=backend).config == config
    with pytest.raises(InputError, match="takes a LlamaConfig, not a str"):
        LlamaModel("tiny")  # type: ignore[arg-type]


def test_random_weights_are_the_same_on_every_backend() -> None:
    config = LlamaConfig(**SIZES)
    found = [Llama.load(config, load_format="dummy", backend=b).forward(IDS).numpy()["logits"] for b in BACKENDS]
    assert relative_error(found[1], found[0]) < 1e-5


def test_save_and_load_again(backend: str, tmp_path: Path) -> None:
    llm = Llama.load("tiny", backend=backend)
    folder = llm.save(tmp_path / "a" / "b")
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.model"} <= names
    assert not any(name.startswith(".") for name in names)
    again = Llama.load(folder, backend=backend)
    assert np.array_equal(again.forward(IDS).numpy()["logits"], llm.forward(IDS).numpy()["logits"])
    assert again.config.dtype == "bfloat16"  # as it was stored, on the float64 reference too
    story = llm.generate("Once upon a time", max_new_tokens=12)
    assert again.generate("Once upon a time", max_new_tokens=12).text == story.text
    again.save(folder)  # over the files that are mapped right now
    assert np.array_equal(
        Llama.load(folder, backend=backend).forward(IDS).numpy()["logits"], llm.forward(IDS).numpy()["logits"]
    )


def test_saving_inherits_nothing_that_lies_there(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"max_new_tokens": 1}')
    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="reference")
    llm.save(tmp_path)
    assert "max_new_tokens" not in json.loads((tmp_path / "generation_config.json").read_text())


def test_a_failed_save_leaves_the_model_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import polyllama.core.export.saving as saving

    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="reference")
    llm.save(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save_safetensors", full)
    other = Llama.load(LlamaConfig(**SIZES | {"num_hidden_layers": 1}), load_format="dummy", backend="reference")
    with pytest.raises(CheckpointError, match="No space left"):
        other.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("where", ["/proc/nowhere/x", "", None, 3, "a\0b", "/dev/null"])
def test_places_that_cannot_be_saved_to(where: Any) -> None:
    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="reference")
    with pytest.raises(CheckpointError, match="cannot save"):
        llm.save(where)
    with pytest.raises(UnsupportedError, match="pickle"):
        llm.save_pretrained("anywhere", safe_serialization=False)


@pytest.fixture(scope="module")
def llm() -> Llama:
    return Llama.load("tiny", backend="reference", dtype="float32")


class TestPrompts:
    def test_every_form_of_the_same_prompt(self, llm: Llama) -> None:
        ids = llm.tokenizer.encode("Once upon a time")
        wanted = llm.generate("Once upon a time", max_new_tokens=6).token_ids
        forms: list[Any] = [ids, [np.int64(i) for i in ids], tuple(ids)]
        assert all(llm.generate(form, max_new_tokens=6).token_ids == wanted for form in forms)
        with pytest.raises(InputError, match=r"wanted \[rows, tokens\]; for one row write input_ids\[None\]"):
            llm.generate(np.array(ids), max_new_tokens=6)
        assert llm.generate(np.array(ids)[None], max_new_tokens=6).tolist() == [[*ids, *wanted]]
        padded = [[0, 0, *ids], [0, *ids, 0]]
        mask = [[0, 0] + [1] * len(ids), [0] + [1] * len(ids) + [0]]
        found = llm.generate(input_ids=padded, attention_mask=mask, max_new_tokens=6)
        assert [out.token_ids for out in found] == [wanted, wanted]

    def test_the_empty_prompt_is_the_beginning_of_a_sequence(self, llm: Llama) -> None:
        assert llm.generate("", max_new_tokens=4).token_ids == llm.generate([1], max_new_tokens=4).token_ids

    def test_prompt_and_text_are_what_decoding_gives(self, llm: Llama) -> None:
        for prompt in ["Once", "Once upon a", "One day, ", " leading", "\n\nHi", "caf\u00e9 \U0001f999", "a  b"]:
            out = llm.generate(prompt, max_new_tokens=30, temperature=1.0, seed=3)
            whole = llm.tokenizer.decode([*out.prompt_token_ids, *out.token_ids], skip_special_tokens=True)
            assert prompt + out.text == whole

    def test_the_same_seed_gives_the_same_tokens_on_every_backend(self, llm: Llama) -> None:
        options = {"max_new_tokens": 200, "temperature": 0.8, "seed": 11, "eos_token_id": []}
        wanted = llm.generate("Once upon a time", **options).token_ids
        exact = Llama.load("tiny", backend="reference").generate("Once upon a time", **options).token_ids
        torch32 = Llama.load("tiny", backend="torch", dtype="float32").generate("Once upon a time", **options).token_ids
        assert wanted == exact == torch32 and len(wanted) == 200

    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            (b"Once", "not a bytes"),
            (5, "not a int"),
            ([[1, "a"]], "prompt 0 is neither"),
            ([[True]], "prompt 0 is neither"),
            ([[1, 999999]], "outside the vocabulary"),
        ],
    )
    def test_what_is_no_prompt(self, llm: Llama, prompt: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            llm.generate(prompt)

    def test_a_chat_without_a_template_is_explained(self, llm: Llama) -> None:
        with pytest.raises(PolyllamaError, match="chat template"):
            llm.chat([{"role": "user", "content": "Hi"}])

    def test_the_trunk_does_not_generate(self) -> None:
        trunk = LlamaModel(LlamaConfig(**SIZES), backend="reference")
        with pytest.raises(UnsupportedError, match="task='causal-lm'"):
            trunk.generate([[1]])


def test_keys_that_would_change_the_model_are_said_once() -> None:
    from polyllama import PolyllamaWarning

    config = LlamaConfig.from_dict(LlamaConfig(**SIZES).to_dict() | {"attn_logit_softcapping": 30.0})
    with pytest.warns(PolyllamaWarning, match="attn_logit_softcapping, which a Llama does not have") as said:
        Llama.load(config, load_format="dummy", backend="reference")
    assert len(said) == 1
