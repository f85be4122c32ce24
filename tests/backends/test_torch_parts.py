"""Parts of the documented torch classes that other programs ask for: the trunk alone, names, losses, wrappers."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import polyllama
import pytest
from polyllama import Llama, LlamaConfig, LlamaForCausalLM, LlamaModel, PolyllamaError
from polyllama.core.errors import CheckpointError, InputError, NoModuleError, UnsupportedError
from support_processes import run_process

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from documented_models import IDS, LABELS, SIZES, TASKS, Saved  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*generated texts stay empty")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def pair(saved: Saved) -> tuple[Any, Any]:
    """Ours and theirs."""
    ours, theirs = saved.both("LlamaForCausalLM")
    return ours, theirs.eval()


def close(found: Any, wanted: Any) -> bool:
    return bool(torch.allclose(found, wanted, atol=1e-5))


def test_the_trunk_by_itself(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    wanted = theirs.model(IDS, output_hidden_states=True)
    for model in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        found = model.model(IDS, output_hidden_states=True)
        assert type(found).__name__ == "BaseModelOutput" and list(found) == list(wanted)
        assert close(found.last_hidden_state, wanted.last_hidden_state)
        assert all(close(a, b) for a, b in zip(found.hidden_states, wanted.hidden_states, strict=True))
        assert close(model.lm_head(found[0]), theirs(IDS).logits)
    alone = copy.deepcopy(ours.model)
    with torch.no_grad():
        ours.model.norm.weight.zero_()
    assert close(alone(IDS)[0], wanted[0]) and not ours.model(IDS)[0].any()


def test_the_trunk_takes_what_a_model_without_a_head_takes(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    wanted, mask = theirs.model(IDS)[0], torch.ones_like(IDS)
    assert close(ours.model(IDS, mask)[0], wanted)
    assert close(ours.model(inputs_embeds=ours.model.embed_tokens(IDS))[0], wanted)
    early = ours.model(IDS[:, :2])
    assert close(ours.model(IDS[:, 2:], past_key_values=early.past_key_values)[0], wanted[:, 2:])
    assert isinstance(ours.model(IDS, return_dict=False, use_cache=False), tuple)
    ours.model(IDS)[0].sum().backward()
    assert ours.model.layers[0].mlp.up_proj.weight.grad.any() and ours.lm_head.weight.grad is None
    with pytest.raises(UnsupportedError, match="task 'base' has no loss"):
        ours.model(IDS, labels=IDS)
    with pytest.raises(InputError, match="forward is given 'input_ids' twice"):
        ours.model(IDS, input_ids=IDS)
    assert ours.get_decoder() is ours.base_model is ours.model
    with pytest.raises(UnsupportedError, match="the trunk of a model cannot be exchanged"):
        ours.set_decoder(ours.model)


def test_an_instance_of_their_base_class_where_it_is_loaded(pair: tuple[Any, Any]) -> None:
    ours, _ = pair
    assert isinstance(ours, transformers.PreTrainedModel) and not isinstance(ours, transformers.LlamaForCausalLM)
    assert isinstance(ours, LlamaForCausalLM) and not isinstance(ours, LlamaModel)
    assert type(ours) is LlamaForCausalLM and ours.__class__.__name__ == "LlamaForCausalLM"
    assert type(ours.__class__(ours.config)) is LlamaForCausalLM
    assert not isinstance(Llama.load(ours.config, load_format="dummy", backend="torch"), transformers.PreTrainedModel)
    assert ours._is_stateful is False and not ours.is_custom_code()
    assert not hasattr(ours, "dequantize") and not hasattr(ours, "_no_such_name")


def test_without_transformers_it_is_none_and_nothing_is_imported() -> None:
    script = """
import sys, torch
from polyllama import LlamaConfig, LlamaForCausalLM
model = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                     num_attention_heads=2))
assert model.__class__ is LlamaForCausalLM and not hasattr(model, "_is_stateful")
loaded = {"transformers", "peft", "accelerate"} & set(sys.modules)
print(model.model(torch.tensor([[1, 2]]))[0].shape[-1], sorted(loaded))
"""
    done = run_process([sys.executable, "-c", script], capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == "8 []"


def test_what_a_model_says_of_itself(pair: tuple[Any, Any], saved: Saved) -> None:
    ours, theirs = pair
    for name in ("name_or_path", "main_input_name", "base_model_prefix", "loss_type", "model_tags"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert set(ours._no_split_modules) == set(theirs._no_split_modules) and ours.config_class is LlamaConfig
    assert not ours.is_quantized and ours.warnings_issued == {} and ours.dummy_inputs["input_ids"].shape == (2, 3)
    sizes = LlamaConfig(**{**SIZES, "intermediate_size": 64})
    packed: Any = Llama.load(sizes, load_format="dummy", backend="torch", quantize="int8-g32").module
    assert packed.is_quantized
    for model in (ours, theirs):
        model.add_model_tags("a")
        model.add_model_tags(["b", "a"])
    assert ours.model_tags == theirs.model_tags == ["a", "b"]
    assert ours.get_parameter_or_buffer("lm_head.weight") is ours.lm_head.weight
    with pytest.raises(UnsupportedError, match="one number of heads for all layers"):
        ours.prune_heads({0: [1]})
    elsewhere: Any = Llama.load(saved.of("LlamaForCausalLM"), backend="reference")
    with pytest.raises(
        NoModuleError, match="prune_heads is a part of a torch module, and backend 'reference' has none"
    ):
        elsewhere.prune_heads({0: [1]})
    tied = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))
    assert tied._tied_weights_keys == {"lm_head.weight": "model.embed_tokens.weight"}


@pytest.mark.parametrize("name", TASKS)
def test_losses_as_functions(saved: Saved, name: str) -> None:
    ours, theirs = saved.both(name)
    if name == "LlamaModel":
        with pytest.raises(UnsupportedError, match="task 'base' has no loss"):
            ours.loss_function(logits=IDS.float(), labels=IDS)
        return
    output = ours(IDS)
    if name == "LlamaForQuestionAnswering":
        given = {**{key: output[key].detach() for key in ("start_logits", "end_logits")}, **LABELS[name]}
        wanted = theirs(IDS, **LABELS[name]).loss
        with pytest.raises(InputError, match="the loss function takes start_logits"):
            ours.loss_function(**given, extra=1)
    else:
        given = {"logits": output.logits.detach(), **LABELS[name]}
        wanted = theirs(IDS, **LABELS[name]).loss
    assert torch.allclose(ours.loss_function(**given), wanted, atol=1e-6)
    if name == "LlamaForCausalLM":
        more = {"vocab_size": 96, "num_items_in_batch": 7, "ignore_index": 5}
        assert torch.allclose(ours.loss_function(**given, **more), theirs.loss_function(**given, **more), atol=1e-6)
        moved = {"logits": given["logits"], "labels": None, "vocab_size": 96, "shift_labels": IDS}
        assert torch.allclose(ours.loss_function(**moved), theirs.loss_function(**moved), atol=1e-6)
    with pytest.raises(UnsupportedError, match="loss_function is the head's and cannot be set"):
        ours.loss_function = print


def test_a_state_dict_of_ones_own_is_saved(pair: tuple[Any, Any], tmp_path: Path) -> None:
    ours, _ = pair
    other = {name: tensor * 2 for name, tensor in ours.state_dict().items()}
    ours.save_pretrained(tmp_path / "twice", state_dict=other)
    read = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "twice")
    assert torch.equal(read.model.norm.weight, ours.model.norm.weight * 2)
    ours.save_pretrained(tmp_path / "once")
    assert torch.equal(LlamaForCausalLM.from_pretrained(tmp_path / "once").lm_head.weight, ours.lm_head.weight)
    del other["lm_head.weight"]
    with pytest.raises(CheckpointError, match="state_dict holds other parameters than its graph"):
        ours.save_pretrained(tmp_path / "less", state_dict=other)
    tied = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))
    tied.save_pretrained(tmp_path / "tied", state_dict=tied.state_dict())
    assert torch.equal(LlamaForCausalLM.from_pretrained(tmp_path / "tied").lm_head.weight, tied.lm_head.weight)


def test_gradient_checkpointing_by_both_names(pair: tuple[Any, Any]) -> None:
    ours, _ = pair
    ours.train()
    plain = ours(IDS, labels=IDS).loss
    plain.backward()
    wanted = {name: p.grad.clone() for name, p in ours.named_parameters()}
    runs = []
    ours.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *given: runs.append(0))
    ours.model.layers[1].self_attn.q_proj.register_forward_hook(lambda *given: runs.append(1))
    for options, twice in (({}, {0, 1}), ({"every_n_layers": 2}, {0})):
        for kwargs in (None, {"use_reentrant": True}, {"use_reentrant": False, "preserve_rng_state": False}):
            ours.activation_checkpointing_enable(kwargs, **options)
            assert ours.is_activation_checkpointing and ours.is_gradient_checkpointing
            ours.zero_grad()
            del runs[:]
            ours(IDS, labels=IDS).loss.backward()
            assert {number for number in (0, 1) if runs.count(number) == 2} == twice and len(runs) == 2 + len(twice)
            assert all(torch.allclose(p.grad, wanted[name], atol=1e-6) for name, p in ours.named_parameters())
    ours.activation_checkpointing_disable()
    assert not ours.is_gradient_checkpointing


def test_what_checkpointing_refuses(pair: tuple[Any, Any]) -> None:
    ours, _ = pair
    for options, said in (
        ({"offload": True}, "offload=True is not offered"),
        ({"every_n_layers": 0}, "every_n_layers is 0, wanted a number from 1"),
        (
            {"activation_checkpointing_kwargs": {"use_reentrant": True, "determinism_check": "none"}},
            "determinism_check",
        ),
        ({"activation_checkpointing_kwargs": {"no_such": 1}}, "has no argument no_such"),
    ):
        with pytest.raises(PolyllamaError, match=said):
            ours.activation_checkpointing_enable(**options)
    ours.activation_checkpointing_enable({"use_reentrant": True})
    ours.train().requires_grad_(False)
    with pytest.raises(InputError, match="gives no gradients, as the embeddings' output needs none"):
        ours(IDS)
    ours.requires_grad_(True)
    with pytest.raises(InputError, match="output_attentions does not go with gradient checkpointing"):
        ours(IDS, output_attentions=True, use_cache=False)


def test_wrapped_by_torch(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    wanted = theirs(IDS).logits
    assert close(torch.nn.DataParallel(ours)(IDS).logits, wanted)
    replica = ours._replicate_for_data_parallel()  # what it makes for each of several devices
    assert replica._engine is not ours._engine and replica.dtype == torch.float32 and close(replica(IDS).logits, wanted)
    sharded = copy.deepcopy(ours)
    torch.save(sharded.state_dict(), buffer := io.BytesIO())
    buffer.seek(0)
    sharded.load_state_dict(torch.load(buffer))
    assert close(sharded(IDS).logits, wanted)


def test_distributed_in_one_process(tmp_path: Path, saved: Saved) -> None:
    script = f"""
import copy, torch, torch.distributed as dist, transformers
from torch.distributed.fsdp import fully_shard
from polyllama import LlamaForCausalLM
dist.init_process_group("gloo", init_method="file://{tmp_path / "meet"}", rank=0, world_size=1)
ids = torch.tensor([[1, 5, 9, 30]])
plain = LlamaForCausalLM.from_pretrained({str(saved.of("LlamaForCausalLM"))!r}).train()
wrapped = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
sharded = copy.deepcopy(plain)
for layer in sharded.model.layers:
    fully_shard(layer)
fully_shard(sharded)
grads = []
for model in (plain, wrapped, sharded):
    model(input_ids=ids, labels=ids).loss.backward()
    held = dict(model.named_parameters())
    grad = next(p for name, p in held.items() if name.endswith("layers.0.mlp.up_proj.weight")).grad
    grads.append(grad.full_tensor() if hasattr(grad, "full_tensor") else grad)
assert grads[0].any() and torch.allclose(grads[0], grads[1]) and torch.allclose(grads[0], grads[2], atol=1e-6)
print(type(sharded).__name__, isinstance(sharded, LlamaForCausalLM))
dist.destroy_process_group()
"""
    done = run_process([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip().splitlines()[-1] == "FSDPLlamaForCausalLM True"


class Headed(LlamaForCausalLM):
    """A class of one's own, written as the documents have it."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.value = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids: Any = None, labels: Any = None, **options: Any) -> Any:
        hidden = self.model(input_ids, **options).last_hidden_state
        logits = self.lm_head(hidden)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size)
        return {"loss": loss, "logits": logits, "value": self.value(hidden)}


def test_a_class_that_writes_its_own_pass(pair: tuple[Any, Any], saved: Saved) -> None:
    _, theirs = pair
    model: Any = Headed.from_pretrained(saved.of("LlamaForCausalLM"))
    found, wanted = model(IDS, labels=IDS), theirs(IDS, labels=IDS)
    assert close(found["logits"], wanted.logits) and torch.allclose(found["loss"], wanted.loss, atol=1e-6)
    assert isinstance(model, transformers.PreTrainedModel) and type(copy.deepcopy(model)) is Headed
    assert polyllama.LlamaForCausalLM is LlamaForCausalLM
