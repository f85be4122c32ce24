"""Bug or rounding: `polyllama compare` names the first node that its dtype does not explain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from polyllama.cli.main import main
from polyllama.core.errors import InputError, PolyllamaWarning
from polyllama.core.forward.spec_model import SpecModel
from polyllama.testing import compare_backends

IDS = [1, 5, 9, 33, 2, 60]


@pytest.fixture
def folder(tiny_models: Any) -> Path:
    found: Path = tiny_models("longrope", tie_word_embeddings=True, attention_bias=True)[1]
    return found


@pytest.fixture
def break_torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Change one method of a torch class."""
    from polyllama.backends.torch import modules

    def change(name: str, made: Any, owner: str | None = None) -> None:
        target = modules if owner is None else getattr(modules, owner)
        original = getattr(target, name)
        monkeypatch.setattr(target, name, lambda *a, **k: made(original, *a, **k))

    return change


@pytest.mark.parametrize("dtype", ["auto", "float64"])
@pytest.mark.parametrize("rope", ["default", "yarn", "dynamic", "longrope"])
def test_right_backends_differ_by_rounding(tiny_models: Any, rope: str, dtype: str) -> None:
    found = compare_backends(tiny_models(rope)[1], ["torch", "reference"], token_ids=IDS, dtype=dtype)
    assert (found.verdict, found.first) == ("rounding", None)
    torch, reference = found.runs
    # Three layers of 14 nodes (two rotations each), embedding, norm, trunk and head; then the layers unwatched.
    assert len(torch.values) == len(reference.values) == 3 * 14 + 4
    assert len(torch.nodes) > len(torch.values)
    assert 0 < found.last_distance < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounding_too(folder: Path, dtype: str) -> None:
    with pytest.warns(PolyllamaWarning, match=f"'reference' does not compute in {dtype}"):
        found = compare_backends(folder, ["torch", "reference"], token_ids=IDS, dtype=dtype)
    assert found.verdict == "rounding" and found.runs[0].dtype == dtype
    assert found.last_distance > 1e-4


@pytest.mark.parametrize(
    ("backends", "dtype", "message"),
    [
        (["torch", "reference"], "int9", "neither backend computes in 'int9'; they have float32, bfloat16, float16"),
        (["torch", ""], "auto", "backends holds an empty name"),
    ],
)
def test_what_nobody_computes_in_is_a_mistake(folder: Path, backends: list[str], dtype: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare_backends(folder, backends, token_ids=IDS, dtype=dtype)


def test_the_same_backend_is_equal(folder: Path) -> None:
    found = compare_backends(folder, ["reference", "reference"], token_ids=IDS)
    assert (found.verdict, found.last_distance) == ("equal", 0.0)


def test_a_wrong_rotation_is_named(folder: Path, break_torch: Any) -> None:
    break_torch("rotate", lambda rotate, x, cos, sin: rotate(x, cos, -sin))
    first = compare_backends(folder, ["reference", "torch"], token_ids=IDS).first
    assert first is not None
    assert (first.backend, first.kind, first.node) == ("torch", "Rope", "model.layers.0.self_attn.rope.q")
    assert first.distance is not None and first.distance > 1e-3


def test_one_wrong_layer_is_named(folder: Path, break_torch: Any) -> None:
    """Everything after it is wrong too, and right given what it got."""

    def forward(original: Any, self: Any, x: Any) -> Any:
        y = original(self, x)
        return y * 1.001 if self is target[0] else y

    from polyllama.backends.torch import model

    target: list[Any] = []
    realize = model.TorchModel.__init__

    def remember(self: Any, module: Any) -> None:
        realize(self, module)
        target[:] = [module.get_submodule("model.layers.1.mlp.up_proj")]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.TorchModel, "__init__", remember)
        break_torch("forward", forward, owner="Linear")
        found = compare_backends(folder, ["torch", "reference"], token_ids=IDS)
    assert found.first is not None and found.first.node == "model.layers.1.mlp.up_proj"
    watched = [n.node for n in found.runs[0].nodes[: len(found.runs[0].values)] if not n.measured.passed]
    assert watched == ["model.layers.1.mlp.up_proj"]


def test_a_fused_kernel_that_only_runs_unwatched_is_caught(folder: Path, break_torch: Any) -> None:
    break_torch("attend", lambda attend, *a: attend(*a) * 1.01)
    found = compare_backends(folder, ["torch", "reference"], token_ids=IDS)
    assert found.verdict == "differs" and found.first is not None
    assert (found.first.node, found.first.kind) == ("model.layers.0", "DecoderLayer")


def test_wrong_weights_are_found_where_they_are_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from polyllama.backends.torch import realize

    read = realize.from_numpy

    def flipped(array: Any) -> Any:
        return read(array[::-1].copy() if array.shape == (80, 48) else array)

    monkeypatch.setattr(realize, "from_numpy", flipped)
    first = compare_backends(folder, ["torch", "reference"], token_ids=IDS).first
    assert first is not None and first.node == "model.layers.0.mlp.gate_proj"


class Blind(SpecModel):
    """Knows no ``observe``."""

    def forward(self, arguments: Any) -> Any:
        if arguments.observe is not None:
            raise InputError("forward has no argument observe")
        return super().forward(arguments)


def test_a_backend_that_shows_no_nodes_is_judged_by_layers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from polyllama.core.forward import spec_model

    monkeypatch.setattr(spec_model, "SpecModel", Blind)
    found = compare_backends(folder, ["reference", "torch"], token_ids=IDS)
    assert found.verdict == "rounding" and not found.runs[0].observed and found.runs[1].observed
    assert [n.node for n in found.runs[0].nodes] == ["model.embed_tokens", "model.layers.0", "model.layers.1",
                                                     "model.norm", "lm_head"]  # fmt: skip


def test_on_the_command_line(
    folder: Path, break_torch: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyllama.testing.comparing._ids", lambda *a: IDS)  # this model has no tokenizer
    arguments = ["compare", str(folder), "--backends", "torch,reference"]
    assert main(arguments) == 0
    assert "rounding: every node gives what its inputs and its dtype explain" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["verdict"] == "rounding" and data["first"] is None and data["token_ids"] == IDS
    break_torch("rotate", lambda rotate, x, cos, sin: rotate(x, cos, -sin))
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "differs: Rope model.layers.0.self_attn.rope.q of torch is off by" in out


def test_the_bundled_model_by_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "tiny", "--backends", "torch,reference", "--prompt", "A llama", "--dtype", "float32"]
    assert main(arguments) == 0
    assert "tokens; the last outputs are" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("backends", "message"),
    [("torch", "two backends are compared, 1 given"), ("torch,nope", "no backend is called 'nope'")],
)
def test_mistakes_are_one_line_errors(
    folder: Path, backends: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyllama.testing.comparing._ids", lambda *a: IDS)
    assert main(["compare", str(folder), "--backends", backends]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
