"""accelerate on the documented classes, unpatched: preparing, placing, offloading, models without weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from polyllama.core.errors import UnsupportedError

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")

from documented_models import IDS, SIZES  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*generated texts stay empty")


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """accelerate keeps one state for a process."""
    accelerate.state.AcceleratorState._reset_state(True)
    yield
    accelerate.state.AcceleratorState._reset_state(True)


@pytest.fixture
def model(saved: Any) -> Any:
    return LlamaForCausalLM.from_pretrained(saved.of("LlamaForCausalLM"))


@pytest.fixture
def wanted(saved: Any) -> Any:
    """Their logits."""
    with torch.no_grad():
        return transformers.LlamaForCausalLM.from_pretrained(saved.of("LlamaForCausalLM")).eval()(IDS).logits


def close(found: Any, wanted: Any) -> bool:
    return bool(torch.allclose(found.detach(), wanted, atol=1e-5))


def test_a_prepared_loop_and_what_it_saves(saved: Any, tmp_path: Path) -> None:
    found = []
    for model in saved.both("LlamaForCausalLM"):
        accelerator = accelerate.Accelerator(cpu=True)
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
        rows = [{"input_ids": row, "labels": row} for row in torch.randint(3, 96, (6, 8), generator=_generator())]
        prepared, optimizer, loader = accelerator.prepare(
            model, optimizer, torch.utils.data.DataLoader(rows, batch_size=2)
        )
        losses = []
        for batch in loader:
            loss = prepared(**batch).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        found.append(losses)
        assert accelerator.unwrap_model(prepared) is model
        if not isinstance(model, LlamaForCausalLM):
            continue
        accelerator.save_model(prepared, tmp_path / "bare")
        accelerator.save_state(tmp_path / "state")
        model.save_pretrained(
            tmp_path / "whole",
            is_main_process=accelerator.is_main_process,
            save_function=accelerator.save,
            state_dict=accelerator.get_state_dict(prepared),
        )
        trained = model.eval()(IDS).logits.detach()
        with torch.no_grad():
            model.lm_head.weight.zero_()
        accelerator.load_state(tmp_path / "state")
        assert close(model(IDS).logits, trained)
    assert np.allclose(*found, atol=1e-5) and len(set(found[0])) == 3
    assert close(transformers.LlamaForCausalLM.from_pretrained(tmp_path / "whole").eval()(IDS).logits, trained)
    other = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    accelerate.load_checkpoint_in_model(other, str(tmp_path / "bare"))
    assert close(other(IDS).logits, trained)


def _generator() -> Any:
    return torch.Generator().manual_seed(0)


def test_mixed_precision_gives_our_outputs_in_float32(model: Any) -> None:
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare(model.train())
    output = prepared(input_ids=IDS, labels=IDS)
    assert output.logits.dtype == torch.float32 and type(output).__name__ == "CausalLMOutput"
    accelerator.backward(output.loss)
    plain = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert plain is model and type(pickle.loads(pickle.dumps(plain))) is LlamaForCausalLM


def test_device_maps_are_those_of_their_model(saved: Any) -> None:
    maps = []
    for model in saved.both("LlamaForCausalLM"):
        kept = model._no_split_modules
        limits = {"cpu": 80_000, "disk": 10**9}
        maps.append(dict(accelerate.infer_auto_device_map(model, max_memory=limits, no_split_module_classes=kept)))
    maps[1].pop("model.rotary_emb", None)  # a module of theirs that holds no weights
    assert maps[0] == maps[1] and set(maps[0].values()) == {"cpu", "disk"}
    assert maps[0]["model.layers.0"] == "cpu" and maps[0]["model.layers.1"] == "disk"


def test_placed_and_offloaded(model: Any, saved: Any, wanted: Any, tmp_path: Path) -> None:
    made = {
        "placed": lambda m: accelerate.dispatch_model(m, device_map={"": "cpu"}),
        "a layer on disk": lambda m: accelerate.dispatch_model(
            m,
            device_map={
                **{"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"},
                **{"model.norm": "cpu", "lm_head": "cpu"},
            },
            main_device="cpu",
            offload_dir=str(tmp_path / "layer"),
            force_hooks=True,
        ),
        "all on the host": lambda m: accelerate.cpu_offload(m, execution_device="cpu"),
        "all on disk": lambda m: accelerate.disk_offload(m, str(tmp_path / "all"), execution_device="cpu"),
    }
    ids = model.generate(IDS, max_new_tokens=3, do_sample=False)
    for name, place in made.items():
        one = LlamaForCausalLM.from_pretrained(saved.of("LlamaForCausalLM"))
        place(one)
        assert close(one(IDS).logits, wanted), name
        assert one.device == torch.device("cpu"), name
        assert torch.equal(one.generate(IDS, max_new_tokens=3, do_sample=False), ids), name
        if name == "all on disk":
            assert all(parameter.is_meta for parameter in one.parameters())
        one.set_attn_implementation("eager")
        assert close(one(IDS, output_attentions=True).logits, wanted), name


@pytest.mark.parametrize("nowhere", [accelerate.init_empty_weights, lambda: torch.device("meta")])
def test_models_without_weights(nowhere: Callable[[], Any], saved: Any, wanted: Any) -> None:
    folder = str(saved.of("LlamaForCausalLM"))
    with nowhere():
        model: Any = LlamaForCausalLM(LlamaConfig(**SIZES))
        head: Any = LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=3), dtype="bfloat16")
        tied: Any = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))
        with pytest.raises(UnsupportedError, match="on no device takes no quantize"):
            LlamaForCausalLM(LlamaConfig(**SIZES), quantize="int4")
    for one in (model, head, tied):
        assert all(parameter.is_meta for parameter in one.parameters()) and one.training
    assert head.dtype == torch.bfloat16 and head.score.weight.shape == (3, 32)
    tied.tie_weights()
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    accelerate.load_checkpoint_and_dispatch(model, folder, device_map={"": "cpu"})
    assert close(model.eval()(IDS).logits, wanted)
    with nowhere():
        model = LlamaForCausalLM(LlamaConfig(**SIZES))
    limits = {"cpu": 10**9}
    accelerate.load_checkpoint_and_dispatch(model, folder, device_map="auto", max_memory=limits)
    assert close(model.eval()(IDS).logits, wanted) and model.llama.backend == "torch"


def test_hooks_on_any_part(model: Any, wanted: Any) -> None:
    seen = []

    class Noting(accelerate.hooks.ModelHook):
        def pre_forward(self, module: Any, *given: Any, **named: Any) -> Any:
            seen.append(type(module).__name__)
            return given, named

    for part in (model, model.model, model.model.layers[0], model.model.layers[0].self_attn, model.lm_head):
        accelerate.hooks.add_hook_to_module(part, Noting())
    assert close(model(IDS).logits, wanted)
    assert seen == ["LlamaForCausalLM", "Decoder", "LlamaDecoderLayer", "LlamaAttention", "Linear"]
    assert close(copy.deepcopy(model)(IDS).logits, wanted)
    accelerate.hooks.remove_hook_from_module(model, recurse=True)
    del seen[:]
    assert close(model(IDS).logits, wanted) and not seen
