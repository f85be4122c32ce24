"""The classes that transformers' documents name: torch modules here, facades on other backends."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polyllama
import pytest
from polyllama import Llama, LlamaConfig, LlamaForCausalLM, LlamaModel, PolyllamaError
from polyllama.core.api import task_classes
from polyllama.core.api.llama import facade_of
from polyllama.core.errors import InputError, NoModuleError, UnsupportedError
from support_processes import run_process

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# The models here have no tokenizer, and say so when they generate.
pytestmark = pytest.mark.filterwarnings("ignore:.*generated texts stay empty")

SIZES: dict[str, Any] = {
    **{"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0},
}
HEADS = (
    *("LlamaModel", "LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaForTokenClassification"),
    "LlamaForQuestionAnswering",
)
IDS = torch.tensor([[1, 5, 9, 30], [1, 7, 2, 11]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model that transformers saved."""
    torch.manual_seed(0)
    found = tmp_path_factory.mktemp("documented")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(found)
    return found


@pytest.fixture
def model(folder: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(folder)


@pytest.fixture
def theirs(folder: Path) -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(folder).eval()


def test_it_is_a_module_with_transformers_logits(model: Any, theirs: Any) -> None:
    assert isinstance(model, torch.nn.Module) and type(model) is LlamaForCausalLM and not model.training
    assert torch.allclose(model(IDS).logits, theirs(IDS).logits, atol=2e-6)
    assert model.dtype == torch.float32 and model.device == torch.device("cpu")
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}
    assert list(model.state_dict()) and set(model.state_dict()) == set(theirs.state_dict())


@pytest.mark.parametrize("name", HEADS)
def test_from_a_config_with_the_weights_of_the_global_generator(name: str) -> None:
    kind, config = getattr(polyllama, name), LlamaConfig(**SIZES)
    torch.manual_seed(3)
    first, second = kind(config), kind(config)
    torch.manual_seed(3)
    again = kind(config)
    assert type(first) is kind and isinstance(first, torch.nn.Module) and first.training
    weights = [dict(m.named_parameters()) for m in (first, second, again)]
    one = next(n for n in weights[0] if n.endswith("q_proj.weight"))
    assert torch.equal(weights[0][one], weights[2][one]) and not torch.equal(weights[0][one], weights[1][one])
    assert abs(float(weights[0][one].detach().std()) - 0.02) < 0.002
    theirs = getattr(transformers, name)(transformers.LlamaConfig(**SIZES)).eval()
    theirs.load_state_dict(first.state_dict())
    output, wanted = first.eval()(IDS), theirs(IDS)
    assert torch.allclose(output[0], wanted[0], atol=2e-6) and next(iter(output.keys())) == next(iter(wanted.keys()))


@pytest.mark.parametrize("name", HEADS)
def test_llm_module_is_the_same_class(name: str) -> None:
    task = getattr(task_classes, name)._task
    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="torch", task=task)
    assert type(llm.module) is getattr(polyllama, name) and llm.module.llama is llm and facade_of(llm.module) is llm
    assert facade_of(llm) is llm and facade_of(torch.nn.Linear(2, 2)) is None


def test_what_the_facade_has_is_there(model: Any) -> None:
    assert (model.backend, model.task) == ("torch", "causal-lm")
    result = model.generate([1, 5, 9], max_new_tokens=3)
    assert (
        result.token_ids
        == Llama.load(model.llama._loaded.folder, backend="torch").generate([1, 5, 9], max_new_tokens=3).token_ids
    )
    assert {"generate", "chat", "tokenizer", "perplexity"} <= set(dir(model))
    for name in ("module", "no_such_name", "_loaded"):
        assert not hasattr(model, name)
    assert not hasattr(LlamaModel(LlamaConfig(**SIZES)), "model")
    assert LlamaForCausalLM.plan("tiny", backend="reference", context=64).fit.ok


def test_why_torch_was_taken(model: Any) -> None:
    (row,) = model.choice.considered
    assert row.name == "torch" and "no backend is asked for" in row.reason


@pytest.mark.parametrize("backend", ["cpu", "reference", "jax", "mlx"])
def test_another_backend_gives_the_facade(folder: Path, theirs: Any, backend: str) -> None:
    if backend == "cpu":
        pytest.importorskip("polyllama.backends.cpu._kernels")
    elif backend != "reference":
        pytest.importorskip("mlx.core" if backend == "mlx" else backend)
    model: Any = LlamaForCausalLM.from_pretrained(folder, backend=backend)
    assert type(model) is task_classes.LlamaForCausalLM and model.backend == backend
    assert isinstance(model, LlamaForCausalLM) and not isinstance(model, LlamaModel)
    assert not isinstance(model, torch.nn.Module)
    logits = model(IDS.tolist()).numpy()["logits"]
    assert np.abs(logits - theirs(IDS).logits.detach().numpy()).max() < 1e-5
    with pytest.raises(
        NoModuleError, match=f"parameters is a part of a torch module, and backend '{backend}' has none"
    ):
        model.parameters()
    assert not hasattr(model, "state_dict") and not hasattr(model, "lm_head")
    made = LlamaForCausalLM(LlamaConfig(**SIZES), backend=backend)
    assert type(made) is task_classes.LlamaForCausalLM


def test_the_facade_on_torch_has_the_modules_parts(folder: Path) -> None:
    llm: Any = Llama.load(folder, backend="torch")
    assert next(iter(llm.parameters())) is next(iter(llm.module.parameters()))
    assert llm.lm_head is llm.module.lm_head
    with pytest.raises(AttributeError, match="has no attribute 'parametres'"):
        llm.parametres  # noqa: B018


def test_what_is_asked_for_elsewhere_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLLAMA_BACKEND", "reference")
    assert LlamaForCausalLM.from_pretrained(folder).backend == "reference"
    assert LlamaForCausalLM(LlamaConfig(**SIZES)).backend == "reference"
    assert isinstance(LlamaForCausalLM.from_pretrained(folder, backend="torch"), torch.nn.Module)


def test_without_torch_they_are_facades_and_say_so_once(folder: Path) -> None:
    script = f"""
import sys, warnings
sys.modules["torch"] = None
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else found(name, *rest)
from polyllama import LlamaForCausalLM
from polyllama.core.api import task_classes
assert LlamaForCausalLM is task_classes.LlamaForCausalLM
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model = LlamaForCausalLM.from_pretrained({str(folder)!r})
assert model.backend != "torch"
print(len(said), said[0].message)
"""
    done = run_process([sys.executable, "-c", script], capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode()
    assert said.startswith("1 ") and "run on torch, which cannot run here (torch is not installed" in said


class Scored(LlamaForCausalLM):
    """Somebody's own class."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.value = torch.nn.Linear(config.hidden_size, 1)

    def forward(self, *given: Any, **named: Any) -> Any:
        output = super().forward(*given, **named, output_hidden_states=True)
        output.value = self.value(output.hidden_states[-1])
        return output


def test_a_class_of_ones_own(folder: Path, model: Any) -> None:
    made, loaded = Scored(LlamaConfig(**SIZES)), Scored.from_pretrained(folder, dtype="bfloat16")
    assert isinstance(made, Scored) and isinstance(made, LlamaForCausalLM) and issubclass(Scored, torch.nn.Module)
    assert type(loaded) is Scored and loaded.value.weight.dtype == torch.bfloat16 and not loaded.value.weight.is_meta
    assert loaded(IDS).value.shape == (2, 4, 1)
    exact = Scored.from_pretrained(folder)
    assert torch.equal(exact(IDS).logits, model(IDS).logits)
    assert not isinstance(Llama.load(folder, backend="reference"), Scored)
    with pytest.raises(UnsupportedError, match="Scored is a class of your own and a torch module"):
        Scored.from_pretrained(folder, backend="reference")
    with pytest.raises(UnsupportedError, match="Scored is a class of your own"):
        Scored(LlamaConfig(**SIZES), backend="reference")  # type: ignore[call-arg]


def test_what_fails_leaves_nothing_behind(folder: Path) -> None:
    for call in (
        lambda: LlamaForCausalLM.from_pretrained(folder / "none"),
        lambda: Scored.from_pretrained(folder, dtype="int3"),
        lambda: LlamaForCausalLM("tiny"),
        lambda: LlamaForCausalLM(LlamaConfig(**SIZES), dtpye="float32"),
    ):
        with pytest.raises(PolyllamaError):
            call()
    assert type(Llama.load(folder, backend="torch").module) is LlamaForCausalLM
    assert type(LlamaModel(LlamaConfig(**SIZES))) is LlamaModel
    with pytest.raises(InputError, match=r"LlamaForCausalLM\(\.\.\.\) takes a LlamaConfig, not a str"):
        LlamaForCausalLM("tiny")


def test_copies_and_pickles_are_whole(model: Any) -> None:
    wanted, text = model(IDS).logits, model.generate([1, 5], max_new_tokens=4).token_ids
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), _through_torch(model)):
        assert type(other) is type(model) and other is not model
        assert torch.equal(other(IDS).logits, wanted)
        assert other.generate([1, 5], max_new_tokens=4).token_ids == text
        assert other.llama is not model.llama and other.llama._loaded.folder == model.llama._loaded.folder
        with torch.no_grad():
            other.lm_head.weight.zero_()
        assert torch.equal(model(IDS).logits, wanted) and not other(IDS).logits.any()


def _through_torch(model: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_the_embeddings(model: Any, theirs: Any) -> None:
    assert model.get_input_embeddings() is model.model.embed_tokens
    assert model.get_output_embeddings() is model.lm_head
    assert model.base_model is model.model and LlamaModel(LlamaConfig(**SIZES)).base_model.layers
    assert model.num_parameters() == theirs.num_parameters()
    assert model.num_parameters(exclude_embeddings=True) == theirs.num_parameters(exclude_embeddings=True)
    model.lm_head.requires_grad_(False)
    theirs.lm_head.requires_grad_(False)
    assert model.num_parameters(only_trainable=True) == theirs.num_parameters(only_trainable=True)
    assert model.get_memory_footprint() == sum(p.numel() * 4 for p in model.parameters())
    new = torch.nn.Embedding(96, 32)
    model.set_input_embeddings(new)
    theirs.set_input_embeddings(new)
    assert torch.allclose(model(IDS).logits, theirs(IDS).logits, atol=2e-6)
    head = torch.nn.Linear(32, 96, bias=False)
    model.set_output_embeddings(head)
    theirs.set_output_embeddings(head)
    assert torch.allclose(model(IDS).logits, theirs(IDS).logits, atol=2e-6)
    assert LlamaModel(LlamaConfig(**SIZES)).get_output_embeddings() is None
    resized = model.resize_token_embeddings(101)
    assert resized is model.get_input_embeddings() and resized.weight.shape == (101, 32)
    assert model.config.vocab_size == 101 and model(IDS).logits.shape[-1] == 101


def test_tied_embeddings_stay_tied() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.set_input_embeddings(torch.nn.Embedding(96, 32))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(96, 32))
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight and model(IDS).logits.any()


def test_gradients_reach_the_inputs_where_asked_for(model: Any) -> None:
    model.requires_grad_(False)
    assert not model(IDS).logits.requires_grad
    model.enable_input_require_grads()
    assert model(IDS).logits.requires_grad
    model.disable_input_require_grads()
    assert not model(IDS).logits.requires_grad


def test_a_training_loop(model: Any, theirs: Any) -> None:
    losses = []
    for one in (model, theirs):
        one.train()
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-2)
        found = []
        for _ in range(3):
            loss = one(input_ids=IDS, labels=IDS).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(float(loss))
        losses.append(found)
    assert np.allclose(losses[0], losses[1], rtol=1e-5) and losses[0][2] < losses[0][0]


def test_hooks_see_the_layers(model: Any) -> None:
    seen = []
    model.model.layers[1].register_forward_hook(lambda module, given, output: seen.append(output.shape))
    model(IDS)
    assert seen == [(2, 4, 32)] and type(model.model.layers[1]).__name__ == "LlamaDecoderLayer"


def test_attention_may_change_its_implementation(model: Any) -> None:
    wanted = model(IDS).logits
    model.set_attn_implementation("eager")
    assert torch.allclose(model(IDS).logits, wanted, atol=1e-6) and model.attn_implementation == "eager"
    with pytest.raises(PolyllamaError, match="attn_implementation 'flash' is not known"):
        model.set_attn_implementation("flash")


def test_moving_and_casting(model: Any) -> None:
    assert model.half().dtype == torch.float16 and model.llama.dtype == "float16"
    assert model.float().to("cpu").dtype == torch.float32 and model.to(torch.float64).llama.dtype == "float64"
    assert model(IDS).logits.shape == (2, 4, 96)


def test_what_was_saved_is_transformers(model: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    model.save_pretrained(tmp_path / "out")
    back = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.allclose(back(IDS).logits, model(IDS).logits, atol=4e-6)


def test_importing_polyllama_imports_no_torch() -> None:
    code = "import sys, polyllama; polyllama.Llama; print('torch' in sys.modules)"
    done = run_process([sys.executable, "-c", code], capture_output=True, timeout=120, check=True)
    assert done.stdout.decode().strip() == "False"


class Cropped(LlamaForCausalLM):
    """Somebody's class that asks for another model than the one that is loaded."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config.replace(num_hidden_layers=1))


class Eager(LlamaForCausalLM):
    """Somebody's class that asks for another way of attention, and generates in its own way."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config, attn_implementation="eager")

    def generate(self, *inputs: Any, **options: Any) -> Any:
        return super().generate(*inputs, **{**options, "max_new_tokens": 2})

    def chat(self, *messages: Any, **options: Any) -> Any:
        return super().chat(*messages, **options)


class Prepared(LlamaForCausalLM):
    """Somebody's class that prepares its inputs itself, and no embeddings."""

    def prepare_inputs_for_generation(self, *given: Any, **named: Any) -> Any:
        return super().prepare_inputs_for_generation(*given, **named)


def test_what_a_constructor_of_ones_own_asks_for_is_kept_or_refused(folder: Path) -> None:
    assert Cropped(LlamaConfig(**SIZES)).config.num_hidden_layers == 1
    with pytest.raises(UnsupportedError, match=r"Cropped\.__init__ asks for another configuration"):
        Cropped.from_pretrained(folder)
    assert Eager.from_pretrained(folder).attn_implementation == "eager"


def test_methods_of_the_facade_can_be_overridden(folder: Path) -> None:
    model = Eager.from_pretrained(folder)
    assert model.generate(IDS, max_new_tokens=9).shape == (2, 6)
    assert torch.equal(LlamaForCausalLM.generate(model, IDS, max_new_tokens=3)[:, :6], model.generate(IDS))
    with pytest.raises(PolyllamaError, match="tokenizer"):
        model.chat([{"role": "user", "content": "Hi"}])
    with pytest.raises(UnsupportedError, match="replaced by one that prepares no inputs_embeds"):
        Prepared.from_pretrained(folder).generate(IDS, max_new_tokens=2)


def test_generation_records_no_gradients_while_training() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    model.gradient_checkpointing_enable()
    assert model.training
    found = model.generate(IDS, max_new_tokens=3, return_dict_in_generate=True, output_logits=True)
    assert not any(logits.requires_grad for logits in found.logits)
    keys, values = found.past_key_values[0]
    assert not keys.requires_grad and not values.requires_grad
    assert model(input_ids=IDS, labels=IDS).loss.requires_grad


def test_a_configuration_that_is_assigned_reaches_both_sides(model: Any, tmp_path: Path) -> None:
    own = model.config
    model.config = own.replace(pad_token_id=5)
    assert model.config is own and model.llama.config.pad_token_id == 5
    model.save_pretrained(tmp_path)
    assert LlamaConfig.from_pretrained(tmp_path).pad_token_id == 5
    with pytest.raises(PolyllamaError, match="num_hidden_layers cannot be set"):
        model.config = own.replace(num_hidden_layers=1)
    with pytest.raises(InputError, match="takes a LlamaConfig, not a dict"):
        model.config = {"pad_token_id": 3}


def test_documented_names_of_arguments(folder: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(pretrained_model_name_or_path=folder)
    model.save_pretrained(save_directory=tmp_path / "a")
    theirs = transformers.LlamaConfig(**SIZES)
    assert LlamaForCausalLM(theirs).config.hidden_size == 32 and LlamaForCausalLM(config=theirs).training


def test_a_module_is_on_the_cpu_unless_asked(folder: Path) -> None:
    assert LlamaForCausalLM.from_pretrained(folder).choice.device == "cpu"
    assert LlamaForCausalLM(LlamaConfig(**SIZES)).choice.device == "cpu"
    assert LlamaForCausalLM.from_pretrained(folder, device_map="auto").choice.device != "none"


def test_the_class_that_an_object_gives_is_as_good_as_its_own(model: Any, folder: Path) -> None:
    again = model.__class__.from_pretrained(folder, backend="reference")
    assert again.backend == "reference" and type(model.__class__.from_pretrained(folder)) is LlamaForCausalLM
    assert pickle.loads(pickle.dumps(model.__class__)) is LlamaForCausalLM
