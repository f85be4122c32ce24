"""Loading by the documents' keywords: each does what it says, or is refused by name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from polyllama import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Llama,
    LlamaConfig,
    PolyllamaError,
    PolyllamaWarning,
    TorchAoConfig,
    pipeline,
)
from polyllama.core.api.task_classes import LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel
from polyllama.core.errors import CheckpointError, ConfigError, InputError, UnsupportedError
from polyllama.core.graph.quantized import QuantizedLinear
from tiny_models import SIZES

IDS = [[1, 5, 9, 33]]
TINY = Path(__file__).resolve().parents[3] / "models" / "tiny"


def tiny(**options: Any) -> Any:
    return LlamaForCausalLM.from_pretrained("tiny", **({"backend": "torch"} | options))


def logits(llm: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = llm.forward(IDS).numpy()["logits"]
    return found


# ---- keywords that something follows


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"torch_dtype": torch.float16}, "float16"),
        ({"torch_dtype": "auto"}, "bfloat16"),
        ({"dtype": torch.float32}, "float32"),
        ({"dtype": "float16", "torch_dtype": None}, "float16"),
        ({"dtype": None}, "bfloat16"),
    ],
)
def test_dtypes(options: dict[str, Any], dtype: str) -> None:
    assert tiny(**options).dtype == dtype


@pytest.mark.parametrize(
    "device_map",
    ["auto", "cpu", {"": "cpu"}, torch.device("cpu"), {"": torch.device("cpu")}, "cpu:0", torch.device("cpu", 0)],
)
def test_one_device(device_map: Any) -> None:
    assert tiny(device_map=device_map).device == "cpu"
    assert tiny(device_map=device_map, backend="reference").device == "cpu"
    written = pipeline("text-generation", "tiny", backend="reference", device_map=device_map)
    assert written.llm.device == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there() -> None:
    for device_map in ("cuda", "cuda:0", 0, {"": 0}):
        with pytest.raises(PolyllamaError, match="it has no device 'cuda"):
            tiny(device_map=device_map)


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        ({"model": 0, "lm_head": 1}, r"names 2 devices: a model runs on one so far; several come later"),
        ({"model": "cpu", "lm_head": "disk"}, "names 2 devices"),
        ({}, "names 0 devices"),
        ("balanced", "spreads a model over several devices"),
        ("disk", "weights stay on the device"),
        (True, "device_map is True"),
        (-1, "device_map is -1"),
    ],
)
def test_other_devices(device_map: Any, message: str) -> None:
    with pytest.raises(PolyllamaError, match=message):
        tiny(device_map=device_map)


def test_attention_is_torchs_or_eager() -> None:
    assert tiny().module.attn_implementation == "sdpa"
    eager = tiny(attn_implementation="eager", dtype="float32")
    assert eager.module.attn_implementation == eager.config._attn_implementation == "eager"
    assert np.abs(logits(eager) - logits(tiny(attn_implementation={"": "sdpa"}, dtype="float32"))).max() < 1e-4
    eager.resize_token_embeddings(1800)
    assert eager.module.attn_implementation == "eager"


def test_attention_of_other_backends_is_their_own() -> None:
    with pytest.warns(PolyllamaWarning, match="attn_implementation='sdpa': backend 'reference' has one attention"):
        tiny(backend="reference", attn_implementation="sdpa")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("flash_attention_2", "flash-attn is not called"),
        ("flash_attention_3", "flash-attn is not called"),
        ("flex_attention", "masks here are data"),
        ("paged|sdpa", "a cache in pages"),
        ("kernels-community/flash-attn", "kernels are not downloaded"),
        ("sdp", "did you mean 'sdpa'"),
    ],
)
def test_attention_that_cannot_run(name: str, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=f"attn_implementation='{name.replace('|', '.')}'.*{reason}"):
        tiny(attn_implementation=name)


def test_keywords_that_ask_for_what_is_so() -> None:
    llm = tiny(
        low_cpu_mem_usage=True, use_safetensors=True, token=None, force_download=False, local_files_only=True,
        revision="main", trust_remote_code=False, proxies=None, resume_download=None, output_loading_info=False,
        tp_plan=None, max_memory=None, weights_only=True, state_dict=None, key_mapping=None, load_in_8bit=False,
        use_cache=None, output_attentions=None, adapter_kwargs={}, quantization_config=None, config=None,
    )  # fmt: skip
    assert np.array_equal(logits(llm), logits(tiny()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load_in_8bit": True}, "load_in_8bit=True is of bitsandbytes.*quantize='int8'"),
        ({"load_in_4bit": True}, "quantize='int4'"),
        ({"proxies": {"https": "x"}}, "proxies=.* is not offered; set HTTPS_PROXY"),
        ({"mirror": "x"}, "HF_ENDPOINT"),
        ({"output_loading_info": True}, "output_loading_info=True is not offered"),
        ({"state_dict": {"a": 1}}, "state_dict=.* is not offered; give the folder"),
        ({"key_mapping": {"a": "b"}}, "key_mapping=.* is not offered"),
        ({"max_memory": {0: "1GB"}}, "max_memory=.* one device so far"),
        ({"offload_folder": "x"}, "offload_folder='x' is not offered"),
        ({"tp_plan": "auto"}, "tp_plan='auto' is not offered"),
        ({"weights_only": False}, "weights_only=False is not offered"),
        ({"adapter_kwargs": {"a": 1}}, "give the adapter's folder"),
        ({"variant": "fp16"}, "variant='fp16' is not offered"),
        ({"dtype": {"": "float16"}}, "a model has one dtype"),
        ({"use_safetensors": 3}, "use_safetensors is 3"),
        ({"local_files_only": "no"}, "local_files_only is 'no'"),
        ({"local_files_only": True, "offline": False}, "offline and local_files_only are both given"),
        ({"device_map": "cpu", "device": "cpu"}, "device and device_map are both given"),
        ({"quantize": "int8", "quantization_config": {"bits": 4, "group_size": 32}}, "are both given"),
        ({"devce_map": "auto"}, "from_pretrained has no argument 'devce_map'; did you mean 'device_map'"),
        ({"torch_dtpe": "auto"}, "did you mean 'torch_dtype'"),
        ({"hidden_sise": 3}, "did you mean 'hidden_size'"),
        ({"use_safetensors": False}, "holds no .bin file"),
        ({"pretrained_model_name_or_path": "tiny"}, "given the model twice"),
        ({"config": 3}, "config is a int"),
        ({"config": LlamaConfig(), "load_format": "dummy"}, "config goes with stored weights"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_refused_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolyllamaError, match=message):
        tiny(**options)


def test_remote_code_is_never_run_and_that_is_said() -> None:
    with pytest.warns(PolyllamaWarning, match="trust_remote_code=True has no effect"):
        tiny(trust_remote_code=True)


def test_flags_become_the_configs() -> None:
    config = tiny(output_hidden_states=True, output_attentions=True, use_cache=False, use_return_dict=False).config
    assert (config.output_hidden_states, config.output_attentions, config.use_cache, config.return_dict) == (
        *(True, True, False, False),
    )


def test_a_pickled_checkpoint_by_use_safetensors(tmp_path: Path) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    llm = LlamaForCausalLM.from_pretrained(tmp_path, use_safetensors=False, backend="torch")
    assert np.abs(logits(llm) - model(torch.tensor(IDS)).logits.detach().numpy()).max() < 1e-5
    with pytest.raises(CheckpointError, match="safetensors"):
        LlamaForCausalLM.from_pretrained(tmp_path, use_safetensors=True, backend="torch")


def test_files_of_a_repository_by_name(tmp_path: Path) -> None:
    tiny().save(tmp_path / "parts" / "model")
    llm = LlamaForCausalLM.from_pretrained(tmp_path, subfolder="parts/model", backend="torch")
    assert np.array_equal(logits(llm), logits(tiny()))
    assert LlamaConfig.from_pretrained(tmp_path, subfolder="parts/model") == llm.config
    with pytest.raises(PolyllamaError, match="subfolder='no': there is no"):
        LlamaForCausalLM.from_pretrained(tmp_path, subfolder="no", backend="torch")


# ---- config=


@pytest.mark.parametrize("kind", ["ours", "theirs", "dict", "path"])
def test_a_config_instead_of_the_checkpoints(kind: str, tmp_path: Path) -> None:
    changed = LlamaConfig.from_pretrained("tiny", rope_theta=5e4)
    theirs = transformers.LlamaConfig.from_pretrained(TINY)
    theirs.rope_parameters["rope_theta"] = 5e4
    given = {"ours": changed, "theirs": theirs, "dict": changed.to_dict(), "path": changed.save_pretrained(tmp_path)}
    llm = tiny(config=given[kind], dtype="float32")
    oracle = transformers.LlamaForCausalLM.from_pretrained(TINY, config=theirs, dtype=torch.float32)
    assert llm.config.rope_theta == 5e4
    assert np.abs(logits(llm) - oracle(torch.tensor(IDS)).logits.detach().numpy()).max() < 1e-3
    assert Llama.from_pretrained("tiny", config=given[kind], backend="torch").task == "causal-lm"
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        tiny(config=changed.replace(num_hidden_layers=6))


def test_a_config_leaves_how_weights_are_stored_to_the_checkpoint(tmp_path: Path) -> None:
    tiny(quantize="int4-g32").save(tmp_path)
    llm = LlamaForCausalLM.from_pretrained(tmp_path, config=LlamaConfig.from_pretrained("tiny"), backend="torch")
    assert llm.config.quantization is not None and llm.config.quantization.bits == 4


# ---- ignore_mismatched_sizes


def test_a_head_of_another_shape_starts_fresh(tmp_path: Path) -> None:
    kind = transformers.LlamaForSequenceClassification
    kind(transformers.LlamaConfig(**SIZES, num_labels=3, pad_token_id=0)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="score"):
        LlamaForSequenceClassification.from_pretrained(tmp_path, num_labels=5, backend="torch")
    with pytest.warns(PolyllamaWarning, match="score.weight left aside as asked, starting from random"):
        llm = LlamaForSequenceClassification.from_pretrained(
            tmp_path, num_labels=5, ignore_mismatched_sizes=True, backend="torch"
        )
    assert logits(llm).shape == (1, 5)
    stored = LlamaForSequenceClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, backend="torch")
    oracle = kind.from_pretrained(tmp_path)(torch.tensor(IDS)).logits.detach().numpy()
    assert np.abs(logits(stored) - oracle).max() < 1e-5  # one of the right shape is read
    with pytest.raises(CheckpointError, match=r"hidden_size|wrong shape"):
        LlamaForSequenceClassification.from_pretrained(
            tmp_path, intermediate_size=64, num_labels=5, ignore_mismatched_sizes=True, backend="torch"
        )


# ---- quantization_config


def test_torchaos_words_quantize_the_blocks_alone() -> None:
    with pytest.warns(PolyllamaWarning, match="groups of 128 do not divide: they get groups of 32"):
        llm = tiny(quantization_config=TorchAoConfig("int4_weight_only", group_size=128), dtype=torch.bfloat16)
    assert str(llm.config.quantization).startswith("int4-g128")
    packed = {node.name for node in llm.graph.walk() if isinstance(node, QuantizedLinear)}
    assert len(packed) == 7 * 5 and not any("embed" in name or "lm_head" in name for name in packed)
    exact, rounded = logits(tiny()), logits(llm)
    assert 0 < np.abs(exact - rounded).max() < np.abs(exact).max()


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_named_modules_stay_plain(backend: str) -> None:
    kept = ["down_proj", "model.layers.0"]
    config = TorchAoConfig("int8_weight_only", kept, include_input_output_embeddings=True, group_size=32)
    llm = tiny(quantization_config=config, backend=backend)
    packed = {node.name for node in llm.graph.walk() if isinstance(node, QuantizedLinear)}
    assert "model.layers.1.mlp.up_proj" in packed and llm.graph.decoder.embed.bits == 8
    assert not any("down_proj" in name or ".0." in name for name in packed)
    with pytest.warns(PolyllamaWarning, match="modules_to_not_convert: no module is called q_prj"):
        tiny(quantization_config=TorchAoConfig("int8_weight_only", ["q_prj"], group_size=32), backend=backend)


def test_a_quantization_config_of_mlx_is_taken() -> None:
    assert str(tiny(quantization_config={"group_size": 32, "bits": 4}).config.quantization) == "int4-g32"


# ---- the Auto classes


@pytest.mark.parametrize(
    ("kind", "name", "task"),
    [
        (AutoModel, "LlamaModel", "base"),
        (AutoModelForCausalLM, "LlamaForCausalLM", "causal-lm"),
        (AutoModelForSequenceClassification, "LlamaForSequenceClassification", "sequence-classification"),
        (AutoModelForTokenClassification, "LlamaForTokenClassification", "token-classification"),
        (AutoModelForQuestionAnswering, "LlamaForQuestionAnswering", "question-answering"),
    ],
)
def test_auto_classes_give_the_documented_ones(kind: Any, name: str, task: str, tmp_path: Path) -> None:
    made = kind.from_config(transformers.LlamaConfig(**SIZES), backend="torch", torch_dtype=torch.float32)
    assert type(made).__name__ == name and made.config.hidden_size == SIZES["hidden_size"]
    made.save_pretrained(tmp_path)
    again = kind.from_pretrained(pretrained_model_name_or_path=tmp_path, backend="torch", device_map="auto")
    assert type(again) is type(made) and again.config == made.config.describing(dtype="float32", architectures=[name])
    with pytest.raises(InputError, match=rf"{kind.__name__} is not made by calling it; use {kind.__name__}.from_pre"):
        kind(made.config)


def test_auto_config_and_what_is_no_llama(tmp_path: Path) -> None:
    assert AutoConfig.from_pretrained("tiny", use_cache=False) == LlamaConfig.from_pretrained("tiny", use_cache=False)
    assert AutoConfig.for_model("llama", **SIZES) == LlamaConfig(**SIZES)
    with pytest.raises(InputError, match=r"use AutoConfig\.from_pretrained"):
        AutoConfig()
    transformers.MistralConfig(**SIZES).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes())
    for kind in (AutoConfig, AutoModelForCausalLM):
        with pytest.raises(ConfigError, match='not a Llama: model_type is "mistral"'):
            kind.from_pretrained(tmp_path)


# ---- what a model says of itself, and saving


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_what_a_model_says_of_itself(backend: str) -> None:
    llm = tiny(backend=backend)
    theirs = transformers.LlamaForCausalLM.from_pretrained(TINY)
    assert (llm.name_or_path, llm.config.name_or_path, llm.main_input_name) == ("tiny", "tiny", "input_ids")
    assert llm.can_generate() and not LlamaModel.from_pretrained("tiny", backend=backend).can_generate()
    assert llm.num_parameters() == theirs.num_parameters() == llm.num_parameters(only_trainable=True)
    assert llm.num_parameters(exclude_embeddings=True) == theirs.num_parameters(exclude_embeddings=True)
    width = {"reference": 8, "torch": 2}[backend]
    assert llm.get_memory_footprint() == width * llm.num_parameters()
    packed = tiny(quantize="int4-g32", backend="torch")
    assert packed.num_parameters() == llm.num_parameters()
    assert packed.num_parameters(only_trainable=True) < 10_000 and packed.get_memory_footprint() < 2 * 1_152_384 / 3
    assert LlamaModel(LlamaConfig(**SIZES), backend=backend).name_or_path == ""


def test_saving_by_documented_keywords(tmp_path: Path) -> None:
    llm = tiny()
    saved = llm.save_pretrained(
        tmp_path / "a", is_main_process=True, push_to_hub=False, max_shard_size="1MB", safe_serialization=True,
        token=None, variant=None, save_peft_format=True,
    )  # fmt: skip
    assert len(list(saved.glob("*.safetensors"))) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert transformers.LlamaForCausalLM.from_pretrained(saved).num_parameters() == llm.num_parameters()
    assert llm.save_pretrained(tmp_path / "b", is_main_process=False) == tmp_path / "b"
    assert not (tmp_path / "b").exists()
    for options, message in [
        ({"state_dict": {}}, "state_dict: the weights of backend 'torch'"),
        ({"variant": "fp16"}, "variant='fp16' is not written"),
        ({"safe_serialization": False}, "would write a pickle"),
        ({"repo_id": "a/b"}, "repo_id goes with push_to_hub=True"),
    ]:
        with pytest.raises(PolyllamaError, match=message):
            llm.save_pretrained(tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_pushing_offline_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLLAMA_OFFLINE", "1")
    for thing in (tiny(), LlamaConfig(**SIZES)):
        with pytest.raises(PolyllamaError, match=r"a/b cannot be sent to the Hub: this is offline \(environment"):
            thing.push_to_hub("a/b")


def test_arguments_by_their_documented_names(tmp_path: Path) -> None:
    facade = Llama.load("tiny", backend="reference")
    assert facade.save_pretrained(save_directory=tmp_path / "facade") == tmp_path / "facade"
    assert (tmp_path / "facade" / "model.safetensors").exists()
    config = AutoConfig.from_pretrained(pretrained_model_name_or_path=tmp_path / "facade")
    assert config.num_hidden_layers == facade.config.num_hidden_layers
    assert LlamaConfig.from_dict(config_dict=config.to_dict()) == config
    assert config.save_pretrained(save_directory=tmp_path / "config") == tmp_path / "config" / "config.json"
    assert AutoConfig.from_pretrained(tmp_path / "config") == config
    for given in ({}, {"source": "tiny", "pretrained_model_name_or_path": "tiny"}):
        with pytest.raises(PolyllamaError, match=r"from_pretrained (needs the name|is given the model twice)"):
            AutoConfig.from_pretrained(**given)
