"""What transformers' documents and torch's tools expect of a module: names, kinds of integers, transforms."""

from __future__ import annotations

import cProfile
import inspect
import pstats
from pathlib import Path
from typing import Any

import pytest
from polyllama import Llama, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel, PolyllamaError
from polyllama.core.errors import TokenizerError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.*generated texts stay empty")

SIZES: dict[str, Any] = {
    **{"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}
IDS = torch.tensor([[1, 5, 9, 30], [1, 7, 2, 11]])


def made(kind: Any = LlamaForCausalLM, **fields: Any) -> Any:
    torch.manual_seed(0)
    return kind(LlamaConfig(**SIZES, **fields)).eval()


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_emb_is_transformers(rope: dict[str, Any], dtype: Any) -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs = LlamaRotaryEmbedding(transformers.LlamaConfig(**SIZES, rope_parameters={**rope, "rope_theta": 1e4}))
    x, positions = torch.zeros(2, 3, 32, dtype=dtype), torch.tensor([[0, 1, 99], [3, 4, 99]])
    wanted = theirs(x, positions)
    for trunk in (made(rope_parameters=rope).model, made(LlamaModel, rope_parameters=rope)):
        found = trunk.rotary_emb(x, positions)
        assert [table.dtype for table in found] == [dtype] * 2
        assert all(torch.allclose(ours, other, atol=1e-5) for ours, other in zip(found, wanted, strict=True))
    assert not hasattr(made(), "rotary_emb") and not [n for n in made().state_dict() if "rotary" in n]
    with pytest.raises(PolyllamaError, match=r"integers .batch, length."):
        trunk.rotary_emb(x, torch.tensor([0, 1]))


def test_layers_that_were_taken_out_are_named() -> None:
    model = made()
    assert len(model.model.layers[:1]) == 1
    model.model.layers = model.model.layers[:1]
    for call in (model, model.model):
        with pytest.raises(PolyllamaError, match=r"the model has no layers.1 any more"):
            call(IDS)


def test_integers_of_every_width() -> None:
    model, wanted = made(), made()(IDS, labels=IDS)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        few = IDS.to(dtype)
        found = model(few, labels=few, position_ids=torch.arange(4).to(dtype)[None])
        assert torch.equal(found.logits, wanted.logits) and found.loss == wanted.loss
        assert torch.equal(model(few, logits_to_keep=torch.tensor([1, 2]).to(dtype)).logits, wanted.logits[:, 1:3])
        assert torch.equal(model.generate(few, max_new_tokens=2), model.generate(IDS, max_new_tokens=2).to(dtype))
        assert torch.equal(model.loss_function(logits=wanted.logits, labels=few), wanted.loss)
    classes = torch.tensor([0, 1], dtype=torch.int32)
    for head in (LlamaForSequenceClassification,):
        model = made(head, pad_token_id=0)
        assert model(IDS, labels=classes).loss == model(IDS, labels=classes.long()).loss
    with pytest.raises(PolyllamaError, match="inputs_embeds holds int64, wanted floats"):
        model(inputs_embeds=torch.zeros(1, 2, 32, dtype=torch.int64))


def test_transforms_of_torch_func() -> None:
    from torch.func import functional_call, grad, vmap

    model = made()
    parameters = dict(model.named_parameters())
    rows = IDS[:, None]

    def loss(parameters: Any, ids: Any) -> Any:
        return functional_call(model, parameters, (ids,), {"labels": ids}).loss

    each = vmap(grad(loss), (None, 0))(parameters, rows)
    for row, ids in enumerate(rows):
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        one = grad(loss)(parameters, ids)
        for name, parameter in parameters.items():
            assert torch.allclose(one[name], parameter.grad, atol=1e-6)
            assert torch.allclose(each[name][row], parameter.grad, atol=1e-6)
    assert torch.allclose(vmap(lambda ids: model(ids).logits)(rows)[:, 0], model(IDS).logits, atol=1e-6)
    with pytest.raises(PolyllamaError, match=r"torch.jit.trace would keep this call's lengths"):
        torch.jit.trace(model, IDS)


def test_documented_names_are_done_or_refused(tmp_path: Path) -> None:
    model = made()
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager" == model.attn_implementation
    cache = model(IDS).past_key_values
    model.set_attn_implementation("sdpa")  # a cache goes on
    assert model(IDS[:, :1], past_key_values=cache).logits.shape == (2, 1, 96)
    model.tie_weights(missing_keys=set(), recompute_mapping=False)
    for wrong, message in (
        (lambda: model.tie_weights(nonsense=1), "tie_weights has no argument 'nonsense'"),
        (lambda: model.add_adapter(object()), "add_adapter is not offered; use peft.get_peft_model"),
        (lambda: model.load_adapter("x"), "add_adapter is not offered"),
        (lambda: LlamaForCausalLM.from_pretrained(tmp_path, low_cpu_mem_usage="x"), "low_cpu_mem_usage is 'x'"),
        (lambda: Llama.can_generate(), r"ask a model: model.can_generate\(\)"),
    ):
        with pytest.raises(PolyllamaError, match=message):
            wrong()
    assert LlamaForCausalLM.can_generate() and not LlamaModel.can_generate()
    assert model.can_generate() and model.llama.can_generate() and not made(LlamaModel).can_generate()
    assert type("Own", (LlamaForCausalLM,), {}).can_generate()


def test_members_can_be_looked_at() -> None:
    with torch.device("meta"):
        empty = LlamaForCausalLM(LlamaConfig(**SIZES))
    for model in (made(), made(LlamaModel), empty, Llama.load("tiny", backend="torch").module):
        names = {name for name, _ in inspect.getmembers(model)}
        assert {"generate", "generation_config", "config", "forward"} <= names
        assert ("tokenizer" in names) == hasattr(model, "tokenizer") == (model.config.vocab_size == 1792)
    with pytest.raises(TokenizerError, match="a model made from a config alone has no tokenizer"):
        made().tokenizer  # noqa: B018
    for llm in (made().llama, Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="reference")):
        names = {name for name, _ in inspect.getmembers(llm)}
        assert "tokenizer" not in names and ("module" in names) == (llm.backend == "torch")


def calls(run: Any) -> int:
    profile = cProfile.Profile()
    profile.runcall(run)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def test_generation_reads_the_arguments_of_a_pass_once() -> None:
    model = made()

    def tokens(count: int) -> Any:
        return lambda: model.generate(IDS[:1], max_new_tokens=count, eos_token_id=95)

    tokens(2)()
    plain = calls(tokens(40)) - calls(tokens(20))
    seen: list[Any] = []
    handle = model.register_forward_hook(lambda *given: seen.append(given))
    hooked = calls(tokens(40)) - calls(tokens(20))
    handle.remove()
    assert len(seen) == 60 and plain < hooked - 20 * 80  # a hook sees every pass, as a call; without one none is made
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *given: seen.append(given))
    tokens(1)()
    handle.remove()
    assert seen[-1][0] is model

    class Own(LlamaForCausalLM):
        def forward(self, *given: Any, **named: Any) -> Any:
            seen.append("own")
            return super().forward(*given, **named)

    own = made(Own)
    assert own.generate(IDS, max_new_tokens=1).shape == (2, 5) and seen[-1] == "own"
    model.forward = lambda *given, **named: seen.append("replaced") or type(model).forward(model, *given, **named)
    model.generate(IDS, max_new_tokens=1)
    assert seen[-1] == "replaced"


def test_arguments_of_a_constructor_of_ones_own(tmp_path: Path) -> None:
    class Scaled(LlamaForCausalLM):
        def __init__(self, config: LlamaConfig, scale: float = 1.0, *, name: str = "") -> None:
            super().__init__(config)
            self.scale, self.called, self.extra = scale, name, torch.nn.Linear(2, 2)

    made().save_pretrained(tmp_path)
    model = Scaled.from_pretrained(tmp_path, scale=2.0, output_hidden_states=True, dtype="bfloat16")
    assert (model.scale, model.called, model.config.output_hidden_states) == (2.0, "", True)
    assert model.dtype == model.extra.weight.dtype == torch.bfloat16
    loaded = Scaled.load(tmp_path, name="x")
    assert (loaded.scale, loaded.called) == (1.0, "x")
    assert Scaled.from_pretrained(tmp_path).scale == 1.0 == Scaled(LlamaConfig(**SIZES)).scale
    for kind, wrong in ((Scaled, {"skale": 2.0}), (LlamaForCausalLM, {"scale": 2.0})):
        with pytest.raises(PolyllamaError, match=next(iter(wrong))):
            kind.from_pretrained(tmp_path, **wrong)
