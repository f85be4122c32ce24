"""The torch backend as torch users know it: state_dict, training, torch.compile, adapters, devices, dtypes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from polyllama import Llama, LlamaConfig
from polyllama.backends.torch.backend import build_module
from tiny_models import relative_error

IDS = np.random.default_rng(0).integers(0, 97, (2, 12))


@pytest.fixture
def pair(tiny_models: Any) -> tuple[Any, Llama]:
    model, folder = tiny_models()
    return model, Llama.load(folder, backend="torch")


def test_state_dict_is_the_checkpoint(pair: tuple[Any, Llama]) -> None:
    model, llm = pair
    ours, theirs = llm.module.state_dict(), model.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_tied_weights_are_one_parameter(tiny_models: Any) -> None:
    model, folder = tiny_models(tie_word_embeddings=True)
    module = Llama.load(folder, backend="torch").module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert set(module.state_dict()) == set(model.state_dict())
    assert sum(p.numel() for p in module.parameters()) == Llama.load(folder, backend="reference").num_parameters()


def test_module_takes_and_returns_what_the_documentation_says(pair: tuple[Any, Llama]) -> None:
    _, llm = pair
    ids = torch.tensor(IDS)
    found = llm.module(input_ids=ids, labels=ids, output_hidden_states=True, output_attentions=True)
    assert found.loss.requires_grad and found.logits.dtype == torch.float32
    assert found.past_key_values.length == 12  # config.use_cache, as documented
    loss, logits, *_ = llm.module(input_ids=ids, labels=ids, return_dict=False)
    assert torch.equal(logits, llm.module(input_ids=ids).logits) and loss.ndim == 0
    step = llm.module(ids[:, :1], past_key_values=found.past_key_values, cache_position=torch.tensor([12]))
    assert step.past_key_values.length == 13
    with pytest.raises(Exception, match="cache_position starts at 3, the cache holds 13"):
        llm.module(ids[:, :1], past_key_values=found.past_key_values, cache_position=torch.tensor([3]))


def test_gradients_are_those_of_transformers(pair: tuple[Any, Llama]) -> None:
    model, llm = pair
    theirs = copy.deepcopy(model)
    ids, mask = torch.tensor(IDS), torch.ones(2, 12, dtype=torch.long)
    mask[1, 9:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    theirs(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    llm.module.train()
    llm.module(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    others = dict(theirs.named_parameters())
    for name, ours in llm.module.named_parameters():
        other = others[name]
        assert ours.grad is not None and other.grad is not None
        assert relative_error(ours.grad, other.grad) < 1e-4, name


def test_gradients_against_finite_differences() -> None:
    config = LlamaConfig(
        vocab_size=13, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.5,
    )  # fmt: skip
    module = build_module(config, dtype="float64", seed=3).train()
    ids = torch.tensor([[1, 5, 7, 2, 9]])
    module(input_ids=ids, labels=ids).loss.backward()
    for name, parameter in module.named_parameters():
        flat, index = parameter.data.view(-1), parameter.numel() // 2
        assert parameter.grad is not None
        before, h = float(flat[index]), 1e-6
        losses = []
        for value in (before + h, before - h):
            flat[index] = value
            with torch.no_grad():
                losses.append(float(module(input_ids=ids, labels=ids).loss))
        flat[index] = before
        slope = (losses[0] - losses[1]) / (2 * h)
        # Angles are float32 by the numerics contract, the same in both, so float64 differences hold.
        assert float(parameter.grad.view(-1)[index]) == pytest.approx(slope, rel=1e-5, abs=1e-8), name


def test_trains_with_an_ordinary_optimizer() -> None:
    config = LlamaConfig(
        vocab_size=31, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    module = build_module(config, seed=1).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    ids = torch.tensor([[1, 5, 9, 2, 30, 7, 7, 3], [2, 8, 8, 4, 11, 12, 13, 14]])
    losses = []
    for _ in range(60):
        loss = module(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 3.0 and losses[-1] < 0.05


def test_attention_dropout_acts_in_training_only() -> None:
    config = LlamaConfig(
        vocab_size=31, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        attention_dropout=0.5, initializer_range=0.2,
    )  # fmt: skip
    module = build_module(config)
    ids = torch.tensor([[1, 5, 9, 2, 30, 7]])
    module.eval()
    assert torch.equal(module(ids).logits, module(ids).logits)
    module.train()
    assert not torch.allclose(module(ids).logits, module(ids).logits)


def test_torch_compile_gives_the_same(pair: tuple[Any, Llama]) -> None:
    _, llm = pair
    compiled = torch.compile(llm.module, backend="aot_eager", fullgraph=True)
    ids = torch.tensor(IDS)
    with torch.no_grad():
        found = compiled(input_ids=ids, use_cache=False).logits
        assert relative_error(found, llm.module(input_ids=ids, use_cache=False).logits) < 1e-5


def test_peft_adapters_can_be_injected(pair: tuple[Any, Llama]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    _, llm = pair
    before = llm.forward(IDS).numpy()["logits"]
    module = inject_adapter_in_model(LoraConfig(r=4, target_modules=["q_proj", "v_proj", "lm_head"]), llm.module)
    assert relative_error(llm.forward(IDS).numpy()["logits"], before) < 1e-6  # B starts at zero
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=5.0)
    module.train()
    module(input_ids=torch.tensor(IDS), labels=torch.tensor(IDS)).loss.backward()
    optimizer.step()
    module.eval()
    assert relative_error(llm.forward(IDS).numpy()["logits"], before) > 1e-5


@pytest.mark.parametrize(("dtype", "roundings"), [("bfloat16", 8), ("float16", 8), ("float64", 1e9)])
def test_other_dtypes(dtype: str, roundings: float, tiny_models: Any) -> None:
    _, folder = tiny_models()
    exact = Llama.load(folder, backend="reference").forward(IDS).numpy()["logits"]
    llm = Llama.load(folder, backend="torch:cpu", dtype=dtype)
    y = llm.forward(torch.tensor(IDS))
    assert llm.dtype == dtype and str(y.logits.dtype) == ("torch.float64" if dtype == "float64" else "torch.float32")
    # Three layers round some forty times; errors add up like a random walk, so a few roundings in all.
    # (float64 is compared in the float32 that numpy() gives.)
    assert relative_error(y.numpy()["logits"], exact) < roundings * torch.finfo(getattr(torch, dtype)).eps


def test_loading_copies_nothing_where_the_dtype_allows(tmp_path: Path, pair: tuple[Any, Llama]) -> None:
    model, _ = pair
    model = copy.deepcopy(model).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    llm = Llama.load(tmp_path, backend="torch")
    assert llm.dtype == "bfloat16"
    addresses = sorted(p.data_ptr() for p in llm.module.parameters())
    stored = (tmp_path / "model.safetensors").stat().st_size
    # Views of one map lie within the file's size of each other; copies made one by one would not be so ordered.
    assert addresses[-1] - addresses[0] < stored
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in llm.module.parameters():
            parameter.add_(1.0)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_save_after_training_gives_a_checkpoint_transformers_reads(tmp_path: Path, pair: tuple[Any, Llama]) -> None:
    import transformers

    _, llm = pair
    with torch.no_grad():
        for parameter in llm.module.parameters():
            parameter.mul_(1.01)
    llm.save(tmp_path / "saved", max_shard_size="100KB")
    assert (tmp_path / "saved" / "model.safetensors.index.json").is_file()
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        wanted = again(torch.tensor(IDS)).logits
    assert relative_error(llm.forward(IDS).numpy()["logits"], wanted) < 1e-5
    assert Llama.load(tmp_path / "saved", backend="torch").config.dtype == "float32"


def test_a_prompt_read_without_gradients_goes_on_with_them() -> None:
    """The cache of such a prompt has room beyond its tokens, which is no part of what the next pass attends to."""
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    module, ids, kept = build_module(config, dtype="float64", seed=4).train(), torch.tensor(IDS), 5
    module(ids).logits[:, kept:].square().sum().backward()
    head = module.lm_head.weight
    wanted, wanted_slope = module(ids).logits[:, kept:], head.grad.clone()
    head.grad = None
    with torch.no_grad():
        cache = module(ids[:, :kept], use_cache=True).past_key_values
    for start, stop in ((kept, 9), (9, 12)):
        step = module(ids[:, start:stop], past_key_values=cache).logits
        step.square().sum().backward(retain_graph=True)
        # Some 600 sums lie on the way of a logit, each rounded to 1.1e-16 of its size.
        assert relative_error(step.detach(), wanted[:, start - kept : stop - kept].detach()) < 1e-12
    assert relative_error(head.grad, wanted_slope) < 1e-12


def test_one_row_gives_what_a_batch_gives(pair: tuple[Any, Llama]) -> None:
    """A single row takes another road through Linear than several do."""
    _, llm = pair
    with torch.no_grad():
        for module in llm.module.modules():
            if isinstance(module, torch.nn.Linear):
                x = torch.randn(1, 1, module.in_features)
                wanted = torch.nn.functional.linear(x.double(), module.weight.double())
                assert relative_error(module(x), wanted) < 1e-5


def test_a_device_that_is_not_there(tiny_models: Any) -> None:
    from polyllama.core.errors import BackendUnavailableError

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(BackendUnavailableError, match=r"backend 'torch:cuda' cannot run here.*usable here: reference"):
        Llama.load(tiny_models()[1], backend="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_cuda_agrees_with_the_reference(dtype: str, tolerance: float, tiny_models: Any) -> None:
    _, folder = tiny_models("llama3")
    exact = Llama.load(folder, backend="reference")
    llm = Llama.load(folder, backend="torch:cuda", dtype=dtype)
    assert relative_error(llm.forward(IDS).numpy()["logits"], exact.forward(IDS).numpy()["logits"]) < tolerance
    if dtype == "float32":
        wanted = exact.generate([[1, 5, 9]], max_new_tokens=20)[0].token_ids
        assert llm.generate([[1, 5, 9]], max_new_tokens=20)[0].token_ids == wanted


@pytest.mark.parametrize("length", [255, 257, 300, 512, 513])
def test_long_prompts_take_the_same_numbers_by_every_road(length: int, tiny_models: Any) -> None:
    """On a CPU, prompts of 257 to 512 tokens are attended in halves."""
    _, folder = tiny_models(max_position_embeddings=1024)
    ids = np.random.default_rng(1).integers(0, 97, (1, length))
    exact = Llama.load(folder, backend="reference").forward(ids).numpy()["logits"]
    llm = Llama.load(folder, backend="torch:cpu")
    assert relative_error(llm.forward(ids).numpy()["logits"], exact) < 2e-5
    cached = llm.forward(ids[:, :-1], use_cache=True).past_key_values
    step = llm.forward(ids[:, -1:], past_key_values=cached).numpy()["logits"]
    assert relative_error(step[:, -1], exact[:, -1]) < 2e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_decoding_one_row_in_half_precision(dtype: str, tiny_models: Any) -> None:
    """A single row runs through other kernels than a batch; the process's switch for them is put back."""
    _, folder = tiny_models()
    llm = Llama.load(folder, backend="torch:cpu", dtype=dtype)
    before = torch.backends.mkldnn.enabled
    cache = llm.forward(IDS[:1, :-1], use_cache=True).past_key_values
    step = llm.forward(IDS[:1, -1:], past_key_values=cache).numpy()["logits"]
    whole = llm.forward(IDS).numpy()["logits"][:1, -1:]
    assert relative_error(step, whole) < 8 * torch.finfo(getattr(torch, dtype)).eps
    assert torch.backends.mkldnn.enabled == before


class TestAsAnOrdinaryModule:
    """What people do to modules."""

    @pytest.fixture
    def module(self, pair: tuple[Any, Llama]) -> Any:
        return pair[1].module

    def test_hooks_hold_what_the_modules_returned(self, pair: tuple[Any, Llama]) -> None:
        model, llm = pair
        names = ["self_attn.o_proj", "mlp.down_proj", "mlp.up_proj", "mlp.gate_proj"]

        def captured(module: Any) -> dict[str, Any]:
            kept: dict[str, Any] = {}
            for name in names:
                part = module.get_submodule(f"model.layers.0.{name}")
                part.register_forward_hook(lambda m, i, o, name=name: kept.__setitem__(name, o))
            with torch.no_grad():
                module(torch.tensor(IDS))
            return kept

        ours, theirs = captured(llm.module), captured(copy.deepcopy(model))
        for name in names:
            assert relative_error(ours[name], theirs[name]) < 1e-4, name

    def test_hooks_on_the_trunk_fire_and_it_can_be_called_alone(self, module: Any) -> None:
        seen: list[Any] = []
        hook = module.model.register_forward_hook(lambda m, i, o: seen.append(o))
        hidden = module(torch.tensor(IDS), output_hidden_states=True).hidden_states[-1]
        assert [states.shape for states in seen] == [torch.Size([2, 12, 48])] and torch.equal(seen[0], hidden)
        hook.remove()
        alone = module.model(torch.tensor(IDS))
        assert torch.equal(alone.last_hidden_state, hidden) and alone.past_key_values is not None

    def test_copies_and_pickles_run_their_own_weights(self, module: Any) -> None:
        import io

        before = module(torch.tensor(IDS)).logits.detach()
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
            assert torch.equal(other(torch.tensor(IDS)).logits, before)
            with torch.no_grad():
                other.lm_head.weight.zero_()
            assert not other(torch.tensor(IDS)).logits.any()
        assert torch.equal(module(torch.tensor(IDS)).logits, before)

    def test_an_additive_mask_means_what_it_means_elsewhere(self, pair: tuple[Any, Llama]) -> None:
        _, llm = pair
        plain = llm.module(torch.tensor(IDS)).logits
        mask = torch.triu(torch.full((12, 12), torch.finfo(torch.float32).min), 1)[None, None]
        assert relative_error(llm.module(torch.tensor(IDS), attention_mask=mask).logits.detach(), plain.detach()) < 1e-5
        assert relative_error(llm.forward(IDS, attention_mask=mask.numpy()).logits, plain.detach()) < 1e-5

    def test_a_cache_made_in_inference_mode_goes_on_without_it(self, module: Any) -> None:
        with torch.inference_mode():
            cache = module(torch.tensor(IDS[:, :-1]), use_cache=True).past_key_values
        with torch.no_grad():
            step = module(torch.tensor(IDS[:, -1:]), past_key_values=cache).logits
            assert relative_error(step, module(torch.tensor(IDS)).logits[:, -1:]) < 1e-5

    def test_gradients_reach_embeddings_given_by_the_user(self, pair: tuple[Any, Llama]) -> None:
        _, llm = pair
        embeds = torch.randn(1, 4, 48, requires_grad=True)
        llm.forward(inputs_embeds=embeds, attention_mask=[[0, 1, 1, 1]], labels=[[-100, 2, 3, 4]]).loss.backward()
        assert embeds.grad is not None and float(embeds.grad.abs().max()) > 0

    def test_saving_with_adapters_in_place_is_refused(self, pair: tuple[Any, Llama], tmp_path: Path) -> None:
        from peft import LoraConfig, inject_adapter_in_model
        from polyllama.core.errors import CheckpointError

        inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), pair[1].module)
        with pytest.raises(CheckpointError, match="merge adapters"):
            pair[1].save(tmp_path / "saved")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"labels": torch.tensor([[1, 2, 500]])}, "labels hold 500"),
            ({"labels": torch.tensor([[1.0, 2.0, 3.0]])}, "labels holds float32"),
            ({"attention_mask": torch.tensor([[5, -1, 1]])}, "other than 0 and 1"),
            ({"attention_mask": torch.tensor([[1, 1]])}, r"wanted \[1, 3\]"),
            ({"position_ids": torch.tensor([[-1, 0, 1]])}, "positions start at 0"),
            ({"position_ids": torch.tensor([[0, 1]])}, r"wanted \[1, 3\]"),
            ({"logits_to_keep": torch.tensor([True, False, True])}, "booleans"),
            ({"logits_to_keep": torch.tensor([7])}, "not positions"),
            ({"attention_mask": [[1, 1]]}, r"wanted \[1, 3\]"),
            ({"attention_mask": np.ones((1, 3), int)}, "arrays of torch and of numpy are given together"),
            ({"attention_mask": "111"}, "wanted integers"),
            ({"num_items_in_batch": 0, "labels": torch.tensor([[1, 2, 3]])}, "wanted a positive number"),
        ],
    )
    def test_wrong_tensors_are_named(self, module: Any, arguments: dict[str, Any], message: str) -> None:
        from polyllama.core.errors import InputError

        with pytest.raises(InputError, match=message):
            module(torch.tensor([[1, 2, 3]]), **arguments)


def test_the_threads_setting_reaches_torch(tiny_models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("POLYLLAMA_THREADS", "3")
        Llama.load(tiny_models()[1], backend="torch")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
