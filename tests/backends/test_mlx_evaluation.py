"""What makes the mlx backend fast changes no result: the last layer cut short, attention in blocks, running ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig
from polyllama.core.generation.loop import GenerationRun
from polyllama.core.generation.options import GenerationOptions
from polyllama.core.graph.from_config import build_graph
from tiny_models import relative_error

mx = pytest.importorskip("mlx.core", reason="mlx is not installed here: pip install 'polyllama[mlx]'")

import mlx.nn as nn  # noqa: E402
from polyllama.backends.mlx.attention import BLOCK, causal_attention  # noqa: E402
from polyllama.backends.mlx.modules import MOST_STARTS, layers_between_starts  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*max_position_embeddings")

IDS = np.random.default_rng(0).integers(0, 97, (2, 2 * BLOCK + 9))


def pair(tiny_models: Any, rope: str = "default", **fields: Any) -> tuple[Llama, Llama]:
    folder = tiny_models(rope, **fields)[1]
    return Llama.load(folder, backend="reference"), Llama.load(folder, backend="mlx:cpu", dtype="float32")


class Seen(nn.Linear):
    """A linear map that keeps the shapes it was given."""

    def __init__(self, original: nn.Linear) -> None:
        super().__init__(1, 1, bias=False)
        self.weight = original.weight
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, x: Any) -> Any:
        self.shapes.append(x.shape)
        return super().__call__(x)


@pytest.mark.parametrize("rope", ["default", "dynamic"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_last_positions_alone(rope: str, padded: bool, layers: int, tiny_models: Any) -> None:
    reference, llm = pair(tiny_models, rope, num_hidden_layers=layers)
    mask = np.ones_like(IDS)
    mask[1, :7] = not padded
    whole = reference.forward(IDS, attention_mask=mask).numpy()["logits"]
    for keep in (1, 2, BLOCK + 1, IDS.shape[1]):
        found = llm.forward(IDS, attention_mask=mask, logits_to_keep=keep).numpy()["logits"]
        assert relative_error(found, whole[:, -keep:]) < 1e-5, keep
    for start in (1, 12, IDS.shape[1] - 1):
        cache = llm.forward(IDS[:, :start], attention_mask=mask[:, :start], use_cache=True, logits_to_keep=1)
        rest = {"attention_mask": mask, "past_key_values": cache.past_key_values, "logits_to_keep": 2}
        found = llm.forward(IDS[:, start:], **rest).numpy()["logits"]
        assert relative_error(found, whole[:, -found.shape[1] :]) < 1e-5, start
        assert found.shape[1] == min(2, IDS.shape[1] - start)


def test_the_last_layer_computes_only_what_is_read(tiny_models: Any) -> None:
    _, llm = pair(tiny_models)
    first, last = llm.module.model.layers[0].mlp, llm.module.model.layers[-1].mlp
    first.up_proj, last.up_proj = Seen(first.up_proj), Seen(last.up_proj)
    llm.forward(IDS, logits_to_keep=3)
    llm.forward(IDS)
    llm.forward(IDS, logits_to_keep=3, output_hidden_states=True)
    llm.forward(IDS, logits_to_keep=3, output_attentions=True)
    llm.forward(IDS, logits_to_keep=3, observe=lambda node, y: None)
    llm.module.train()
    llm.forward(IDS, logits_to_keep=3)
    length, width = IDS.shape[1], llm.config.hidden_size
    assert last.up_proj.shapes == [(2, 3, width), *[(2, length, width)] * 5]
    assert first.up_proj.shapes == [(2, length, width)] * 6


def test_an_attention_put_in_the_place_of_the_last_one_sees_every_position(tiny_models: Any) -> None:
    _, llm = pair(tiny_models)
    layer = llm.module.model.layers[-1]

    class Twice(type(layer.self_attn)):  # type: ignore[misc]
        """A residual of its own, which would not fit an output that is cut short."""

        def __call__(self, x: Any, ctx: Any) -> Any:
            return x + super().__call__(x, ctx)

    layer.self_attn.__class__ = Twice
    whole = llm.forward(IDS).numpy()["logits"]
    assert relative_error(llm.forward(IDS, logits_to_keep=1).numpy()["logits"], whole[:, -1:]) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("length", "keys"), [(1, 5), (BLOCK, BLOCK), (BLOCK + 1, BLOCK + 1), (3 * BLOCK - 2, 130)])
def test_attention_in_blocks_is_attention(length: int, keys: int, dtype: str) -> None:
    rng, scale = np.random.default_rng(length), 0.3
    native = getattr(mx, dtype)
    q, k, v = (
        mx.array(rng.normal(size=(2, heads, n, 8)).astype(np.float32)).astype(native)
        for heads, n in ((6, length), (2, keys), (2, keys))
    )

    def causal_mask(rows: int, columns: int) -> Any:
        return (mx.arange(columns)[None] <= mx.arange(columns - rows, columns)[:, None])[None, None]

    found = causal_attention(q, k, v, scale, causal_mask)
    assert found.dtype == native
    wide = [np.array(x.astype(mx.float32)).astype(np.float64) for x in (q, k, v)]
    wide[1:] = [np.repeat(x, 3, axis=1) for x in wide[1:]]
    scores = wide[0] @ wide[1].swapaxes(-1, -2) * scale
    scores[..., np.arange(keys)[None] > np.arange(keys - length, keys)[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = weights / weights.sum(-1, keepdims=True) @ wide[2]
    rounding = {"float32": 1e-6, "bfloat16": 2**-8, "float16": 2**-11}[dtype]
    assert relative_error(np.array(found.astype(mx.float32)), wanted) < rounding


def config(layers: int, hidden: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=50,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        eos_token_id=None,
    )


def test_what_is_recorded_is_handed_over_along_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def stride(layers: int, hidden: int) -> int:
        return layers_between_starts(build_graph(config(layers, hidden)).decoder)

    assert stride(4, 16) > 4  # done before it is handed over
    assert stride(4, 256) == 1
    assert stride(10 * MOST_STARTS, 256) == 10
    llm = Llama.load(config(4, 256), load_format="dummy", backend="mlx:cpu")
    starts: list[int] = []
    start = mx.async_eval
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: (starts.append(len(arrays)), start(*arrays)))
    wanted = llm.forward([[1, 2, 3]]).numpy()["logits"]
    assert len(starts) == 5
    llm.module.train()
    assert relative_error(llm.forward([[1, 2, 3]]).numpy()["logits"], wanted) < 1e-6
    assert len(starts) == 5  # a pass that is differentiated is not looked at


PROMPTS = [[5, 9, 3], [7, 1, 4, 4, 8], [2]]


@pytest.mark.parametrize(
    "asked",
    [
        {"max_new_tokens": 12, "do_sample": True, "temperature": 0.8, "seed": 3},
        {"max_new_tokens": 9, "do_sample": True, "seed": 1, "num_return_sequences": 2, "batch_size": 4},
        # Rows end at different steps, so that rows are taken out of a batch whose next pass is begun ahead.
        {"max_new_tokens": 20, "do_sample": True, "seed": 5, "stop_token_ids": tuple(range(0, 97, 7))},
        {"max_new_tokens": 1},
    ],
)
def test_running_ahead_gives_the_same_tokens(asked: dict[str, Any], tiny_models: Any) -> None:
    reference, llm = pair(tiny_models)
    assert llm.model.asynchronous and not getattr(reference.model, "asynchronous", False)
    runs = [GenerationRun(each.model, None, PROMPTS, GenerationOptions(**asked)) for each in (reference, llm)]
    events = [[(event.row, event.token_id, event.finish_reason) for event in run] for run in runs]
    assert events[0] == events[1] and runs[0].finished and runs[1].finished
    assert (runs[0].stats.new_tokens, runs[0].stats.prompt_tokens) == (
        runs[1].stats.new_tokens,
        runs[1].stats.prompt_tokens,
    )


def test_the_next_pass_is_begun_before_a_token_is_handed_out(tiny_models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for llm, ahead in zip(pair(tiny_models), (0, 1), strict=True):
        passes: list[int] = []
        forward = llm.model.forward

        def counted(arguments: Any, forward: Any = forward, passes: list[int] = passes) -> Any:
            passes.append(1)
            return forward(arguments)

        monkeypatch.setattr(llm.model, "forward", counted)
        run = GenerationRun(llm.model, None, [[5, 9, 3]], GenerationOptions(max_new_tokens=4))
        counts = [len(passes) for _ in run]
        assert counts == [min(n + ahead, 4) for n in (1, 2, 3, 4)]  # and none for a token that nobody wants
