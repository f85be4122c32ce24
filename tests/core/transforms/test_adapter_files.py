"""Adapters as others save them: PEFT's in every spelling and for every task, mlx-lm's, pickled; on embeddings."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from polyllama import Llama
from polyllama.core.checkpoint.tensor_names import WRAPPERS
from polyllama.core.errors import CheckpointError, PolyllamaWarning, UnsupportedError
from polyllama.core.graph.graph import Graph
from polyllama.core.transforms.adapters.adapter_config import read_settings
from polyllama.extend import LoraEmbedding, nodes_of_type
from safetensors.numpy import load_file, save_file
from tiny_models import ALL_BACKENDS

pytestmark = pytest.mark.filterwarnings("ignore:.*lm_head.weight not used. a head of another task")

BACKENDS = ("reference", "torch:cpu", "mlx:cpu", "jax:cpu", *(("cpu",) if "cpu" in ALL_BACKENDS else ()))
IDS = [[1, 5, 9, 33, 3, 3, 17], [2, 8, 33, 4, 39, 0, 12]]
ROWS, MORE = 40, 44


def _base(folder: Path, **fields: Any) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=ROWS, num_key_value_heads=2, initializer_range=0.3, **sizes, **fields)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _base(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


def _save(
    base: Path,
    folder: Path,
    *,
    kind: Any = transformers.LlamaForCausalLM,
    rows: int | None = None,
    pickled: bool = False,
    **settings: Any,
) -> Any:
    """Save a random adapter of PEFT's, and give its model."""
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own, on tied embeddings and on which embeddings it saves
        model = kind.from_pretrained(base, dtype=torch.float32)
        if rows is not None:
            model.resize_token_embeddings(rows)
        adapted = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "init_lora_weights": False} | settings))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.2 * torch.randn_like(parameter)
        adapted.save_pretrained(folder, safe_serialization=not pickled)
    return adapted.eval()


def _theirs(model: Any) -> np.ndarray:
    with torch.no_grad():
        output = model(torch.tensor(IDS))
    found: np.ndarray = (output.logits if hasattr(output, "logits") else output.last_hidden_state).numpy()
    return found


def _ours(source: Any, backend: str = "reference", **options: Any) -> np.ndarray:
    fields = Llama.load(source, backend=backend, **options).forward(IDS).numpy()
    return next(iter(fields.values()))


def _close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 2e-5) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


PATTERNS: dict[str, Any] = {
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {"model.layers.1.self_attn.v_proj": 2},
    "alpha_pattern": {"model.layers.0.self_attn.q_proj": 64, r"^model\.layers\.1\.self_attn\.v_proj": 3},
}


def test_patterns_are_of_the_names_that_were_trained_whatever_the_task(base: Path, tmp_path: Path) -> None:
    """Hidden states of the adapted trunk are the same under every head; and so for an adapter of the bare trunk."""
    adapted = _save(base, tmp_path / "a", task_type="CAUSAL_LM", **PATTERNS)
    with torch.no_grad():
        hidden = adapted.base_model.model.model(torch.tensor(IDS)).last_hidden_state.numpy()
    _close(_ours(base, adapter=tmp_path / "a"), _theirs(adapted))
    trunk = Llama.load(base, task="base", backend="reference", adapter=tmp_path / "a", merge_adapter=False)
    _close(trunk.forward(IDS).numpy()["last_hidden_state"], hidden)
    pooled = hidden.mean(axis=1)
    llm = Llama.load(base, task="embedding", backend="reference", adapter=tmp_path / "a")
    embedded = llm.forward(IDS, attention_mask=np.ones((2, 7), np.int64)).numpy()["embeddings"]
    _close(embedded, pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
    bare = {"rank_pattern": {"layers.1.self_attn.v_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 64}}
    of_trunk = _save(base, tmp_path / "b", kind=transformers.LlamaModel, target_modules=["q_proj", "v_proj"], **bare)
    _close(_ours(base, task="base", adapter=tmp_path / "b"), _theirs(of_trunk))
    _ours(base, adapter=tmp_path / "b")  # and it fits the model with a head


def test_a_pattern_that_names_nothing_is_said(base: Path, tmp_path: Path) -> None:
    _save(base, tmp_path, target_modules=["q_proj"], alpha_pattern={"down_proj": 3})
    with pytest.warns(PolyllamaWarning, match="alpha_pattern of 'down_proj' is the name of no adapted module"):
        _ours(base, adapter=tmp_path)


def test_modules_of_other_models_among_the_targets(base: Path, tmp_path: Path) -> None:
    adapted = _save(base, tmp_path, target_modules=["q_proj", "c_attn", "query_key_value"])
    _close(_ours(base, adapter=tmp_path), _theirs(adapted))


def test_targets_that_the_file_has_nothing_of_are_said(base: Path, tmp_path: Path) -> None:
    _save(base, tmp_path, target_modules=["q_proj", "v_proj"])
    file = tmp_path / "adapter_model.safetensors"
    held = {name: tensor for name, tensor in load_file(file).items() if "v_proj" not in name}
    save_file(held, file)
    with pytest.warns(PolyllamaWarning, match=r"has no tensors for model\.layers\.0\.self_attn\.v_proj, "):
        _ours(base, adapter=tmp_path)


def test_a_head_of_another_task(base: Path, tmp_path: Path) -> None:
    """Passed over, and said, where the task has no head of its own; otherwise the task it wants is named."""
    adapted = _save(base, tmp_path, target_modules=["q_proj", "lm_head"], modules_to_save=None)
    _close(_ours(base, adapter=tmp_path), _theirs(adapted))
    with torch.no_grad():
        hidden = adapted.base_model.model.model(torch.tensor(IDS)).last_hidden_state.numpy()
    with pytest.warns(PolyllamaWarning, match=r"lm_head\.lora_A\.weight, .* not used: of a head"):
        _close(_ours(base, task="base", adapter=tmp_path), hidden)
    kind = transformers.LlamaForSequenceClassification
    _save(base, tmp_path / "b", kind=kind, task_type="SEQ_CLS", target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match="a head for sequence or token classification: load it with that task"):
        _ours(base, adapter=tmp_path / "b")


def test_a_head_for_another_number_of_labels(base: Path, tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "modules_to_save": ["score"], "task_type": "SEQ_CLS"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    score = {"base_model.model.score.weight": np.ones((3, 32), np.float32)}
    save_file(score, tmp_path / "adapter_model.safetensors")
    options: Any = {"backend": "reference", "task": "sequence-classification", "adapter": tmp_path, "pad_token_id": 0}
    with pytest.raises(CheckpointError, match=r"score\S* is of a head for 3 labels, the model has 2; .*num_labels=3"):
        Llama.load(base, **options)
    assert Llama.load(base, num_labels=3, **options).config.num_labels == 3


def test_a_head_that_the_adapter_brings_does_not_start_random(base: Path, tmp_path: Path) -> None:
    kind = transformers.LlamaForSequenceClassification
    adapted = _save(base, tmp_path, kind=kind, task_type="SEQ_CLS", target_modules=["q_proj"])
    adapted.config.pad_token_id = 0
    options: Any = {"task": "sequence-classification", "pad_token_id": 0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = Llama.load(base, backend="reference", adapter=tmp_path, **options)
    assert not any("random" in str(warning.message) for warning in caught)
    with torch.no_grad():
        theirs = adapted(torch.tensor(IDS), attention_mask=torch.ones(2, 7, dtype=torch.int64)).logits.numpy()
    _close(found.forward(IDS, attention_mask=np.ones((2, 7), np.int64)).numpy()["logits"], theirs)


def test_a_head_that_the_adapter_brings_to_a_wrapped_model(base: Path, tmp_path: Path) -> None:
    """A stored head that the adapter replaces is no head of another task, whatever its name was wrapped in."""
    adapted = _save(base, tmp_path / "a", target_modules=["q_proj"], modules_to_save=["lm_head"])
    wrapped = shutil.copytree(base, tmp_path / "wrapped")
    held = load_file(wrapped / "model.safetensors")
    save_file({f"module.{name}": tensor for name, tensor in held.items()}, wrapped / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error", PolyllamaWarning)
        _close(_ours(wrapped, adapter=tmp_path / "a"), _theirs(adapted))


def test_a_pickled_adapter_is_read_without_running_it(base: Path, tmp_path: Path) -> None:
    adapted = _save(base, tmp_path, pickled=True, target_modules=["q_proj", "up_proj"])
    assert not (tmp_path / "adapter_model.safetensors").exists()
    _close(_ours(base, adapter=tmp_path), _theirs(adapted))
    _close(_ours(base, adapter=tmp_path, merge_adapter=True), _theirs(adapted))


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga", "new", 3, []]
)
def test_factors_taken_out_of_the_base_are_refused(start: Any, tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "r": 4, "init_lora_weights": start}))
    with pytest.raises(UnsupportedError, match=r"init_lora_weights is .*path_initial_model_for_weight_conversion"):
        read_settings(file)


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_starts_that_leave_the_base_alone(start: Any, tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "r": 4, "init_lora_weights": start}))
    assert read_settings(file).rank == 4


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_converted_by_peft_fits_the_base_as_it_is(start: str, base: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=start)
    adapted = peft.get_peft_model(model, config)
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path / "start")
    adapted.peft_config["default"].init_lora_weights = start
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value += 0.01
    theirs = _theirs(adapted.eval())
    adapted.save_pretrained(tmp_path / "a", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    _close(_ours(base, adapter=tmp_path / "a"), theirs, 1e-4)


def _renamed(folder: Path, target: Path, change: Any) -> Path:
    shutil.copytree(folder, target)
    held = load_file(folder / "adapter_model.safetensors")
    save_file({change(name): tensor for name, tensor in held.items()}, target / "adapter_model.safetensors")
    return target


def test_names_with_wrappers_and_with_the_adapters_name(base: Path, tmp_path: Path) -> None:
    theirs = _theirs(_save(base, tmp_path / "a", target_modules=["q_proj"]))
    changes = {
        "default": lambda name: name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
        "compiled": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
        "parallel": lambda name: f"module.{name}",
        **{
            wrapper: lambda name, wrapper=wrapper: name.replace("base_model.model.", f"base_model.model.{wrapper}.")
            for wrapper, whose in WRAPPERS.items()
            if whose != "PEFT"
        },
        "bare": lambda name: name.removeprefix("base_model.model."),
    }
    for case, change in changes.items():
        _close(_ours(base, adapter=_renamed(tmp_path / "a", tmp_path / case, change)), theirs)
    file = tmp_path / "a" / "adapter_model.safetensors"
    held = load_file(file)
    name = next(iter(held))
    save_file(held | {name.replace(".lora_A.", ".lora_A.default."): held[name]}, file)
    with pytest.raises(CheckpointError, match="are the same tensor of the model"):
        _ours(base, adapter=tmp_path / "a")


def test_a_file_of_weights_is_the_one_that_was_named(base: Path, tmp_path: Path) -> None:
    theirs = _theirs(_save(base, tmp_path, target_modules=["q_proj"]))
    file = tmp_path / "adapter_model.safetensors"
    save_file({name: 3 * tensor for name, tensor in load_file(file).items()}, tmp_path / "step-9.safetensors")
    _close(_ours(base, adapter=file), theirs)
    _close(_ours(base, adapter=tmp_path / "adapter_config.json"), theirs)
    assert np.abs(_ours(base, adapter=tmp_path / "step-9.safetensors") - theirs).max() > 0.1
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"notes\.txt: is no file of an adapter"):
        _ours(base, adapter=tmp_path / "notes.txt")


# Embeddings.

EMBEDDINGS: dict[str, tuple[bool, dict[str, Any]]] = {
    "untied": (False, {"target_modules": ["embed_tokens", "q_proj"]}),
    "tied": (True, {"target_modules": ["embed_tokens", "q_proj"]}),
    "tied together": (True, {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    "trained whole": (True, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_lora_on_embeddings(name: str, base: Path, tied: Path, tmp_path: Path) -> None:
    """On every backend; merged where nothing else reads the table."""
    is_tied, settings = EMBEDDINGS[name]
    source = tied if is_tied else base
    theirs = _theirs(_save(source, tmp_path, task_type="CAUSAL_LM", **settings))
    assert np.abs(_ours(source) - theirs).max() > 0.05 * np.abs(theirs).max()
    for backend in BACKENDS:
        _close(_ours(source, backend, adapter=tmp_path), theirs, 1e-5 if backend == "reference" else 1e-4)
    if name == "tied":
        with pytest.raises(UnsupportedError, match=r"model\.embed_tokens, to which a head is tied that the adapter"):
            _ours(source, adapter=tmp_path, merge_adapter=True)
    else:
        _close(_ours(source, "torch:cpu", adapter=tmp_path, merge_adapter=True), theirs, 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_lora_beside_a_packed_embedding(backend: str, tmp_path: Path) -> None:
    """What it adds to packed rows is what it adds to the same rows as floats."""
    source = _base(tmp_path / "base", tie_word_embeddings=False)
    _save(source, tmp_path / "a", target_modules=["embed_tokens"])
    for file in ("adapter_model.safetensors",):  # the table that is stored with it is not packed
        held = load_file(tmp_path / "a" / file)
        save_file({n: t for n, t in held.items() if "base_layer" not in n}, tmp_path / "a" / file)
    options = {"quantize": "int8-g32", "dtype": "float32", "adapter": tmp_path / "a"}
    oracle = _ours(source, **options)
    plain = _ours(source, adapter=tmp_path / "a")
    assert np.abs(oracle - plain).max() < 0.1 * np.abs(plain).max()
    _close(_ours(source, backend, **options), oracle, 1e-4)


def test_the_node_in_a_graph(base: Path, tmp_path: Path) -> None:
    _save(base, tmp_path, target_modules=["embed_tokens"])
    llm = Llama.load(base, backend="reference", adapter=tmp_path)
    (node,) = nodes_of_type(llm.graph, LoraEmbedding)
    assert (node.num_embeddings, node.dim, node.down.dim) == (ROWS, 32, 4)
    assert Graph.from_json(llm.graph.to_json()) == llm.graph
    with pytest.raises(UnsupportedError, match="would have to be resized with it"):
        llm.resize_token_embeddings(MORE)


def test_dora_on_an_embedding_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    _save(base, tmp_path, target_modules=["embed_tokens"], use_dora=True)
    with pytest.raises(UnsupportedError, match="DoRA on an embedding is not done here"):
        _ours(base, adapter=tmp_path)


# Another vocabulary.


@pytest.mark.parametrize("saved", [None, ["embed_tokens", "lm_head"]])
@pytest.mark.parametrize("is_tied", [False, True])
def test_a_resized_vocabulary(is_tied: bool, saved: Any, base: Path, tied: Path, tmp_path: Path) -> None:
    """The model has the adapter's rows, merged or not; without a tokenizer of its own that is said."""
    source = tied if is_tied else base
    settings = {"target_modules": ["q_proj"], "modules_to_save": saved}
    theirs = _theirs(_save(source, tmp_path, rows=MORE, task_type="CAUSAL_LM", **settings))
    assert theirs.shape[-1] == MORE
    for merge in (False, True):
        with pytest.warns(PolyllamaWarning, match=f"brings a vocabulary of {MORE} tokens and no tokenizer"):
            llm = Llama.load(source, backend="torch:cpu", adapter=tmp_path, merge_adapter=merge)
        _close(llm.forward(IDS).numpy()["logits"], theirs, 1e-4)
        assert llm.config.vocab_size == MORE
    with pytest.raises(UnsupportedError, match=r"brings a .*, which is not quantized here"):
        _ours(source, adapter=tmp_path, quantize="int8-g32")


def test_the_tokenizer_of_a_resized_vocabulary_is_the_adapters(tmp_path: Path) -> None:
    tiny = Path(Llama.load("tiny", backend="reference")._loaded.folder or "")
    shutil.copytree(tiny, tmp_path / "base")
    rows = Llama.load("tiny", backend="reference").config.vocab_size + 3
    theirs = _theirs(_save(tmp_path / "base", tmp_path / "a", rows=rows, target_modules=["q_proj"]))
    tokenizer = Llama.load("tiny", backend="reference").tokenizer
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "a")
    llm = Llama.load(tmp_path / "base", backend="torch:cpu", dtype="float32", adapter=tmp_path / "a")
    _close(llm.forward(IDS).numpy()["logits"], theirs, 1e-4)
    assert llm.tokenizer.encode("<new>", add_special_tokens=False) == tokenizer.encode(
        "<new>", add_special_tokens=False
    )
    assert len(llm.tokenizer) == len(tokenizer)


def test_an_embedding_without_its_head_names_the_remedy(base: Path, tmp_path: Path) -> None:
    _save(base, tmp_path, rows=MORE, task_type="CAUSAL_LM", target_modules=["q_proj"])
    file = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "lm_head" not in name}, file)
    with pytest.raises(
        UnsupportedError, match=rf"{MORE} tokens for a model of {ROWS}, and no lm_head\.weight"
    ) as error:
        _ours(base, adapter=tmp_path)
    assert "save_embedding_layers=True" in str(error.value)


# mlx-lm's.


def _mlx_adapter(base: Path, folder: Path, *, keys: Any = None, method: str = "lora", layers: int = 2) -> np.ndarray:
    """Save a random adapter as mlx-lm does, and give its logits."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(base)
    numbers: dict[str, Any] = {"rank": 4, "scale": 2.0, "dropout": 0.0} | ({} if keys is None else {"keys": keys})
    model.freeze()
    if method == "full":
        for layer in model.layers[-layers:]:
            layer.unfreeze()
    else:
        linear_to_lora_layers(model, layers, numbers, use_dora=method == "dora")
    rng = np.random.default_rng(7)
    trained = {
        name: mx.array(np.array(value) + rng.normal(size=value.shape).astype(np.float32) * 0.3)
        for name, value in tree_flatten(model.trainable_parameters())
    }
    model.load_weights(list(trained.items()), strict=False)
    folder.mkdir(exist_ok=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), trained)
    settings = {"fine_tune_type": method, "num_layers": layers, "lora_parameters": numbers, "iters": 100, "seed": 0}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return np.array(model(mx.array(IDS)))


MLX: dict[str, tuple[bool, dict[str, Any]]] = {
    "lora": (False, {}),
    "last layer": (False, {"layers": 1, "keys": ["self_attn.q_proj", "mlp.down_proj"]}),
    "dora": (False, {"method": "dora", "keys": ["self_attn.q_proj", "self_attn.v_proj"]}),
    "full": (False, {"method": "full", "layers": 1}),
    "embedding": (False, {"keys": ["self_attn.q_proj", "model.embed_tokens", "lm_head"]}),
    "tied embedding": (True, {"keys": ["self_attn.q_proj", "model.embed_tokens"]}),
}


@pytest.mark.parametrize("name", MLX)
def test_mlx_lms_adapters(name: str, base: Path, tied: Path, tmp_path: Path) -> None:
    is_tied, options = MLX[name]
    source = tied if is_tied else base
    theirs = _mlx_adapter(source, tmp_path / "a", **options)
    for backend in ("reference", "torch:cpu"):
        for merge in (False, True):
            _close(_ours(source, backend, adapter=tmp_path / "a", merge_adapter=merge), theirs, 1e-4)


def _mlx_settings(folder: Path, **changes: Any) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_what_is_refused_of_mlx_lms(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    theirs = _mlx_adapter(base, folder)
    numbers = {"rank": 4, "scale": 2.0, "dropout": 0.0}
    for changes, said in (
        ({"fine_tune_type": "vera"}, "fine_tune_type is 'vera'"),
        ({"lora_parameters": {"rank": 4, "dropout": 0.0}}, "lora_parameters has no scale"),
        ({"lora_parameters": numbers | {"rank": 5}}, "for rank 5"),
        ({"lora_parameters": numbers | {"twist": 1}}, r"lora_parameters\.twist=1 is not known"),
        ({"fine_tune_type": "dora"}, "use_dora=True, but its tensors say otherwise"),
    ):
        original = (folder / "adapter_config.json").read_text()
        with pytest.raises((CheckpointError, UnsupportedError), match=said):
            _ours(base, adapter=_mlx_settings(folder, **changes))
        (folder / "adapter_config.json").write_text(original)
    _mlx_settings(folder, lora_parameters=numbers | {"alpha": 16})
    with pytest.warns(PolyllamaWarning, match="alpha is ignored, as mlx-lm ignores it"):
        _close(_ours(base, adapter=folder), theirs, 1e-4)
    _mlx_settings(folder, lora_parameters=numbers)
    (folder / "adapters.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"has no adapters\.safetensors"):
        _ours(base, adapter=folder)
