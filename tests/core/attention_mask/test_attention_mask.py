"""Pictures of attention masks: that they are the model's own, and that every form of them says the same."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_cases import BACKENDS, CASES, ROWS
from polyllama import AttentionMaskVisualizer, Llama, LlamaConfig, PolyllamaError
from polyllama.core.forward.arguments import ForwardArguments
from polyllama.core.sources.locate import resolve_checkpoint_folder
from support_processes import run_process
from tiny_models import SIZES

LAYERS = SIZES["num_hidden_layers"]


def inputs_of(texts: Any, padding_side: str = "left", packed: bool = False) -> dict[str, np.ndarray]:
    """What a user would give ``forward`` for the texts of a case, made without what is tried."""
    rows = texts if isinstance(texts[0], list) else [texts]
    if packed:
        ids, positions = [i for row in rows for i in row], [i for row in rows for i in range(len(row))]
        return {"input_ids": np.array([ids]), "position_ids": np.array([positions])}
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    left = padding_side == "left"
    ids = [gap + row if left else row + gap for gap, row in zip(gaps, rows, strict=True)]
    mask = [gap + [1] * len(row) if left else [1] * len(row) + gap for gap, row in zip(gaps, rows, strict=True)]
    return {"input_ids": np.array(ids), "attention_mask": np.array(mask)}


# the masks are the model's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_the_picture_is_where_the_model_puts_weight(models: dict[str, Llama], backend: str, case: str) -> None:
    llm = models[backend]
    picture = llm.attention_mask(**CASES[case])
    inputs = inputs_of(**CASES[case])
    attentions = llm.forward(**inputs, output_attentions=True).numpy()["attentions"]
    assert len(attentions) == LAYERS
    for weights in attentions:  # [B, H, S, S]
        assert np.array_equal(weights > 0, np.broadcast_to(picture.mask[:, None], weights.shape))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_only_tokens_that_may_be_looked_at_change_anything(models: dict[str, Llama], backend: str, case: str) -> None:
    """Another token in place of one: the logits change exactly where a chain of looks leads to it (without attentions
    asked for, so that fused kernels are what is tried)."""
    llm = models[backend]
    picture = llm.attention_mask(**CASES[case])
    inputs = inputs_of(**CASES[case])
    before = llm.forward(**inputs).numpy()["logits"]
    for changed in range(before.shape[1]):
        ids = inputs["input_ids"].copy()
        ids[:, changed] = (ids[:, changed] + 1) % SIZES["vocab_size"]
        after = llm.forward(**{**inputs, "input_ids": ids}).numpy()["logits"]
        differs = np.abs(after - before).max(axis=-1) > 1e-5  # [B, S]
        reached = np.stack([np.linalg.matrix_power(row.astype(int), LAYERS) for row in picture.mask])
        assert np.array_equal(differs, reached[:, :, changed] > 0), changed


@pytest.mark.parametrize("case", CASES)
def test_the_masks_are_those_of_transformers(models: dict[str, Llama], case: str) -> None:
    import torch
    import transformers
    from transformers.masking_utils import create_causal_mask

    picture = models["reference"].attention_mask(**CASES[case])
    config = transformers.LlamaConfig(**SIZES)
    config._attn_implementation = "eager"
    inputs = {name: torch.tensor(value) for name, value in inputs_of(**CASES[case]).items()}
    attended = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    theirs = create_causal_mask(
        config=config,
        inputs_embeds=torch.zeros(*attended.shape, 4),
        attention_mask=inputs.get("attention_mask"),
        past_key_values=None,
        position_ids=inputs.get("position_ids"),
    )
    allowed = (theirs == 0)[:, 0].numpy()
    real = attended.numpy()  # what padding looks at is nobody's business, and differs
    assert np.array_equal(allowed[real], picture.mask[real])
    assert case not in ("left", "right") or not real.all()


def test_a_padded_text_gets_what_it_gets_alone(models: dict[str, Llama]) -> None:
    llm = models["reference"]
    alone = llm.attention_mask(ROWS[1], attention=True, head=1).rows[0]
    for side, place in (("left", slice(3, 6)), ("right", slice(0, 3))):
        row = llm.attention_mask(ROWS, padding_side=side, attention=True, head=1).rows[1]
        assert row.positions[place] == alone.positions
        assert np.array_equal(row.mask[place, place], alone.mask)
        assert not row.mask[place, [not flag for flag in row.attended]].any()
        assert np.allclose(row.heats[0].weights[place, place], alone.heats[0].weights, atol=1e-6)


# attention weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_heat_is_the_attention_of_the_layer_and_head(models: dict[str, Llama], backend: str) -> None:
    llm = models[backend]
    wanted = llm.forward([ROWS[0]], output_attentions=True).numpy()["attentions"]
    (row,) = llm.attention_mask(ROWS[0], attention=True, layer="all", head="all").rows
    assert [(h.layer, h.head) for h in row.heats] == [(layer, head) for layer in range(3) for head in range(6)]
    for heat in row.heats:
        assert np.allclose(heat.weights, wanted[heat.layer][0, heat.head], atol=1e-6)  # type: ignore[index]
    (last,) = llm.attention_mask(ROWS[0], attention=True).rows[0].heats
    assert (last.layer, last.head) == (2, "mean")
    assert np.allclose(last.weights, wanted[2][0].mean(axis=0), atol=1e-6)
    assert llm.attention_mask(ROWS[0], attention=True, layer=-3, head=-1).rows[0].heats[0].name == "layer 0, head 5"


def test_a_backend_without_attention_weights_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="reference")
    forward = llm.model.forward

    def without(arguments: ForwardArguments) -> Any:
        return forward(replace(arguments, output_attentions=False))

    monkeypatch.setattr(llm.model, "forward", without)  # as a backend that fuses everything would
    with pytest.raises(PolyllamaError, match="backend 'reference' gives no attention weights"):
        llm.attention_mask([1, 2], attention=True)


def test_weights_are_loaded_only_for_attention(tmp_path: Path) -> None:
    """A folder whose weights are rubbish shows its masks all the same."""
    tiny_folder = resolve_checkpoint_folder("tiny")
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    visualizer = AttentionMaskVisualizer(tmp_path, backend="reference")
    assert visualizer.picture("The sun").mask.tolist() == [[[True, False, False], [True, True, False], [True] * 3]]
    with pytest.raises(PolyllamaError, match=r"model\.safetensors"):
        visualizer.picture("The sun", attention=True)


def test_a_model_that_carries_its_tokenizer(tiny: AttentionMaskVisualizer, tmp_path: Path) -> None:
    import polyllama

    file = tmp_path / "tiny.gguf"
    polyllama.convert("tiny", file, to="gguf")
    wanted = tiny.picture("Once upon a time")
    for source in (file, Llama.load(file, backend="reference")):
        found = AttentionMaskVisualizer(source).picture("Once upon a time")
        assert found.rows[0].labels == wanted.rows[0].labels and np.array_equal(found.mask, wanted.mask)


def test_showing_a_mask_imports_no_framework_and_no_picture_library() -> None:
    code = (
        "import sys; from polyllama.cli.main import main; main(['mask', 'tiny', 'The sun'])\n"
        "bad = ('torch', 'mlx', 'jax', 'transformers', 'PIL', 'huggingface_hub', 'tokenizers')\n"
        "print([name for name in bad if name in sys.modules], file=sys.stderr)"
    )
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]" and "▁sun" in done.stdout


# labels --------------------------------------------------------------------------------------------------------------


# in a terminal -------------------------------------------------------------------------------------------------------


# SVG and PNG ---------------------------------------------------------------------------------------------------------


# mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ([], {}, "there is no text; give at least one"),
        ("", {"add_special_tokens": False}, "text 1 has no tokens"),
        (["a", ""], {"add_special_tokens": False}, "text 2 has no tokens"),
        (7, {}, "not a int"),
        (b"a", {}, "not a bytes"),
        (["a", 7], {}, "text 2 is neither text nor a list of token ids"),
        ([[1, 5000]], {}, "outside the vocabulary of 1792"),
        ("a", {"padding_side": "top"}, "padding_side is 'top'; give 'left' or 'right'"),
        ("a", {"packed": True}, "one text cannot be packed; give two or more"),
        (["a", "b"], {"packed": True, "padding_side": "left"}, "packed texts are not padded"),
        ("a", {"layer": 1}, "pass attention=True too"),
        ("a", {"attention": True, "layer": 5}, "layer is 5, and the model has 5 layers, 0 to 4"),
        ("a", {"attention": True, "layer": -6}, "layer is -6"),
        ("a", {"attention": True, "layer": True}, "layer is True"),
        ("a", {"attention": True, "layer": "mean"}, "layer is 'mean'"),
        ("a", {"attention": True, "head": "first"}, "head is 'first', and the model has 4 heads"),
        ("a\ud800", {}, "surrogate"),
        ([[1] * 6000], {}, "too many for a picture"),
    ],
)
def test_mistakes_are_explained(tiny: AttentionMaskVisualizer, texts: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(PolyllamaError) as caught:
        tiny.picture(texts, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_mistakes_around_models() -> None:
    llm = Llama.load(LlamaConfig(**SIZES), load_format="dummy", backend="reference")
    with pytest.raises(PolyllamaError, match="has no tokenizer; give token ids"):
        llm.attention_mask("text")
    with pytest.raises(PolyllamaError, match="backend: a loaded model takes no options of load"):
        AttentionMaskVisualizer(llm, backend="torch")
    with pytest.raises(PolyllamaError, match="no argument 'bakend'; did you mean 'backend'"):
        AttentionMaskVisualizer("tiny", bakend="torch")


def test_saving_leaves_nothing_half_done(tiny: AttentionMaskVisualizer, tmp_path: Path) -> None:
    picture = tiny.picture("a")
    with pytest.raises(PolyllamaError, match=r"'.*a\.gif' does not end in \.svg or \.png"):
        picture.save(tmp_path / "a.gif")
    with pytest.raises(PolyllamaError, match=r"nowhere/a\.svg' cannot be written: No such file"):
        picture.save(tmp_path / "nowhere" / "a.svg")
    (tmp_path / "b.svg").mkdir()
    with pytest.raises(PolyllamaError, match="cannot be written"):
        picture.save(tmp_path / "b.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.svg"]
    saved = picture.save(tmp_path / "A.SVG")
    assert saved.read_text(encoding="utf-8") == picture.svg()


def test_a_tokenizer_without_a_padding_token_pads_all_the_same(tiny: AttentionMaskVisualizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = tiny.picture(["The sun", "The"], padding_side="right", attention=True)
    assert picture.rows[1].labels == ("<s>", "▁The", "(padding)")


# the command ---------------------------------------------------------------------------------------------------------
