"""Passes from a cache in the order that is rarely tried: masks that come late, passes that fail, caches never used.

And the last layer, which is computed for the positions that are read alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from polyllama import Llama
from polyllama.core.errors import InputError
from polyllama.core.graph.cache import ConcatenatingCache
from tiny_models import ALL_BACKENDS, relative_error

IDS = np.random.default_rng(3).integers(0, 97, (2, 30))
TOLERANCE = 1e-5


def logits(llm: Llama, ids: Any, **arguments: Any) -> Any:
    return llm.forward(ids, **arguments).numpy()["logits"]


@pytest.fixture(params=ALL_BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def llm(backend: str, tiny_models: Any) -> Llama:
    return Llama.load(tiny_models()[1], backend=backend, dtype="auto" if backend == "reference" else "float32")


class TestAMaskThatComesAfterAnUnmaskedCache:
    """The first tokens had no mask, so the cache knows of none: all of them are text."""

    MASK = np.array([[1, 1, 1, 1], [0, 1, 0, 1]])

    def alone(self, llm: Llama, extra: int = 0) -> tuple[Any, ...]:
        """Each row's last logits from its own text, without what is masked."""
        kept = [[*range(9), *(9 + np.flatnonzero(mask)), *range(13, 13 + extra)] for mask in self.MASK]
        return tuple(logits(llm, IDS[row : row + 1, places])[0, -1] for row, places in enumerate(kept))

    @pytest.mark.parametrize("whole", [False, True], ids=["of-the-new-tokens", "of-all-tokens"])
    def test_the_new_tokens_masked(self, llm: Llama, whole: bool) -> None:
        cache = llm.forward(IDS[:, :9], use_cache=True).past_key_values
        assert cache.mask is None
        mask = np.concatenate([np.ones((2, 9), int), self.MASK], axis=1) if whole else self.MASK
        found = logits(llm, IDS[:, 9:13], attention_mask=mask, past_key_values=cache)
        for row, wanted in enumerate(self.alone(llm)):
            assert relative_error(found[row, -1], wanted) < TOLERANCE
        assert np.asarray(cache.mask).tolist() == [[True] * 13, [True] * 9 + [False, True, False, True]]
        found = logits(llm, IDS[:, 13:15], past_key_values=cache)  # and the cache remembers
        for row, wanted in enumerate(self.alone(llm, 2)):
            assert relative_error(found[row, -1], wanted) < TOLERANCE

    def test_a_mask_of_ones_is_no_mask(self, llm: Llama) -> None:
        cache = llm.forward(IDS[:, :9], use_cache=True).past_key_values
        found = logits(llm, IDS[:, 9:13], attention_mask=np.ones((2, 4), int), past_key_values=cache)
        assert relative_error(found, logits(llm, IDS[:, :13])[:, 9:]) < TOLERANCE


FAILING = tuple(name for name in ALL_BACKENDS if name != "jax")
"""Where a pass writes into the cache as it goes. JAX's gives new buffers at its end, or none."""


@pytest.mark.parametrize("backend", FAILING)
@pytest.mark.parametrize(("rope", "filled"), [("dynamic", 20), ("dynamic", 18), ("longrope", 20)])
class TestAPassThatStartsOverAndFails:
    """A row grows into other frequencies, all keys are written again, and half-way an exception comes."""

    @pytest.fixture
    def filled_cache(self, backend: str, rope: str, filled: int, tiny_models: Any) -> tuple[Llama, Any]:
        single = "auto" if backend == "reference" else "float32"
        llm = Llama.load(tiny_models(rope)[1], backend=backend, dtype=single)
        return llm, llm.forward(IDS[:1, :filled], use_cache=True).past_key_values

    def interrupt(self, llm: Llama, cache: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A pass whose second layer's keys are not written any more; the first layer's are, anew and of all tokens."""
        update, lengths = cache.update, []

        def failing(name: str, keys: Any, values: Any) -> Any:
            lengths.append(keys.shape[2])
            if len(lengths) == 2:
                raise KeyboardInterrupt
            return update(name, keys, values)

        with monkeypatch.context() as patched:
            patched.setattr(cache, "update", failing)
            with pytest.raises(KeyboardInterrupt):
                # Attentions are asked for, so that on every backend keys go through the cache's own method.
                llm.forward(tokens, past_key_values=cache, output_attentions=True)
        assert lengths == [cache.length + tokens.shape[1]] * 2

    def test_the_same_tokens_again(
        self, filled_cache: tuple[Llama, Any], filled: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        llm, cache = filled_cache
        self.interrupt(llm, cache, IDS[:1, filled : filled + 2], monkeypatch)
        assert cache.length == filled
        for stop in (filled + 2, filled + 3, filled + 7):
            found = logits(llm, IDS[:1, cache.length : stop], past_key_values=cache)
            assert relative_error(found[:, -1], logits(llm, IDS[:1, :stop])[:, -1]) < TOLERANCE

    def test_other_tokens_with_which_no_row_grows(
        self, filled_cache: tuple[Llama, Any], filled: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The frequencies are those of before the failed pass; the keys in the cache are not."""
        llm, cache = filled_cache
        twin = llm.forward(IDS[:1, :filled], use_cache=True).past_key_values
        self.interrupt(llm, cache, IDS[:1, filled : filled + 2], monkeypatch)
        again = {"attention_mask": [[0]]}  # a padding token, so the row is as long as it was
        found = logits(llm, IDS[:1, 5:6], past_key_values=cache, **again)
        assert relative_error(found, logits(llm, IDS[:1, 5:6], past_key_values=twin, **again)) < TOLERANCE

    def test_rows_taken_from_what_is_left(
        self, filled_cache: tuple[Llama, Any], filled: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        llm, cache = filled_cache
        self.interrupt(llm, cache, IDS[:1, filled : filled + 2], monkeypatch)
        picked = cache.select_rows([0, 0])
        found = logits(llm, IDS[[0, 0], filled : filled + 2], past_key_values=picked)
        wanted = logits(llm, IDS[:1, : filled + 2])[:, -1]
        assert relative_error(found[:, -1], np.repeat(wanted, 2, axis=0)) < TOLERANCE


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_a_pass_that_starts_over_keeps_what_was_asked_for(backend: str, rope: str, tiny_models: Any) -> None:
    """All positions are computed again; what comes out are those of the new tokens, or the last few of them."""
    llm = Llama.load(tiny_models(rope)[1], backend=backend, dtype="auto" if backend == "reference" else "float32")
    whole = logits(llm, IDS[:, :24])
    for keep in (0, 1, 3, np.array([2, 3])):
        cache = llm.forward(IDS[:, :20], use_cache=True).past_key_values
        found = logits(llm, IDS[:, 20:24], past_key_values=cache, logits_to_keep=keep)
        wanted = whole[:, 20:][:, keep] if isinstance(keep, np.ndarray) else whole[:, -(keep or 4) :]
        assert relative_error(found, wanted) < TOLERANCE


class TestACacheThatWasNeverUsed:
    def test_its_rows_can_be_taken(self, llm: Llama) -> None:
        cache = llm.model.new_cache(2, 16)
        picked = cache.select_rows([1, 0, 1])
        assert (picked.batch, picked.length, cache.batch, cache.length) == (3, 0, 2, 0)
        for held, rows in ((picked, [1, 0, 1]), (cache, [0, 1])):
            found = [logits(llm, IDS[rows, start:stop], past_key_values=held) for start, stop in ((0, 7), (7, 20))]
            assert relative_error(np.concatenate(found, axis=1), logits(llm, IDS[rows, :20])) < TOLERANCE

    @pytest.mark.parametrize("rows", [[2], [-1], [], [0, 5]])
    def test_rows_that_it_does_not_have(self, llm: Llama, rows: list[int]) -> None:
        with pytest.raises(InputError, match="of a cache of 2 rows"):
            llm.model.new_cache(2, 16).select_rows(rows)

    def test_without_a_number_of_rows_there_is_none_to_take(self, llm: Llama) -> None:
        with pytest.raises(InputError, match="select_rows"):
            llm.model.new_cache(None, 16).select_rows([0])  # type: ignore[arg-type]

    def test_one_that_knows_no_arrays(self) -> None:
        with pytest.raises(InputError, match="no array namespace"):
            ConcatenatingCache(2).select_rows([0])


class TestTheLastLayerOfWhatIsRead:
    """``logits_to_keep`` saves the last layer's work too on MLX; whoever looks at everything gets everything."""

    @pytest.fixture
    def mlx(self, tiny_models: Any) -> Llama:
        pytest.importorskip("mlx.core", reason="mlx is not installed")
        return Llama.load(tiny_models("llama3")[1], backend="mlx")

    @pytest.fixture
    def lengths(self, mlx: Llama, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
        """Module name -> positions that each call of it was given."""
        from polyllama.backends.mlx.modules import MlxContext

        found: dict[str, list[int]] = {}
        child = MlxContext.child

        def counted(self: Any, module: Any, node: Any, x: Any) -> Any:
            found.setdefault(getattr(node, "name", ""), []).append(x.shape[1])
            return child(self, module, node, x)

        monkeypatch.setattr(MlxContext, "child", counted)
        return found

    CUT = ("self_attn.q_proj", "self_attn.o_proj", "post_attention_layernorm", "mlp", "mlp.gate_proj", "mlp.down_proj")
    WHOLE = ("input_layernorm", "self_attn.k_proj", "self_attn.v_proj")

    @pytest.mark.parametrize("keep", [1, 3, 12])
    @pytest.mark.parametrize("past", [0, 9])
    def test_is_computed_for_these_positions_alone(
        self, keep: int, past: int, mlx: Llama, lengths: dict[str, list[int]]
    ) -> None:
        whole = logits(mlx, IDS[:, : past + 12])
        cache = mlx.forward(IDS[:, :past], use_cache=True).past_key_values if past else None
        lengths.clear()
        found = logits(mlx, IDS[:, past : past + 12], past_key_values=cache, logits_to_keep=keep)
        assert relative_error(found, whole[:, -keep:]) < TOLERANCE
        for layer in range(3):
            cut = keep if layer == 2 else 12
            assert {lengths[f"model.layers.{layer}.{name}"][0] for name in self.CUT} == {cut}, layer
            assert {lengths[f"model.layers.{layer}.{name}"][0] for name in self.WHOLE} == {12}, layer
        assert lengths["model.norm"] == [keep]

    def test_under_a_mask_too(self, mlx: Llama) -> None:
        mask = np.ones((2, 12), int)
        mask[1, :5] = 0
        whole = logits(mlx, IDS[:, :12], attention_mask=mask)
        for keep in (1, 4):
            found = logits(mlx, IDS[:, :12], attention_mask=mask, logits_to_keep=keep)
            assert relative_error(found, whole[:, -keep:]) < TOLERANCE

    def test_then_the_cache_goes_on(self, mlx: Llama) -> None:
        cache = mlx.forward(IDS[:, :12], use_cache=True, logits_to_keep=1).past_key_values
        step = logits(mlx, IDS[:, 12:15], past_key_values=cache)
        assert relative_error(step, logits(mlx, IDS[:, :15])[:, 12:]) < TOLERANCE

    def test_not_where_somebody_looks(self, mlx: Llama, lengths: dict[str, list[int]]) -> None:
        seen: dict[str, int] = {}

        def observe(node: Any, y: Any) -> None:
            seen[getattr(node, "name", "")] = y.shape[1]

        for looking in ({"output_hidden_states": True}, {"output_attentions": True}, {"observe": observe}):
            plain = mlx.forward(IDS[:, :12], **looking).numpy()
            lengths.clear()
            found = mlx.forward(IDS[:, :12], logits_to_keep=2, **looking).numpy()
            assert relative_error(found["logits"], plain["logits"][:, -2:]) < TOLERANCE
            assert {lengths[f"model.layers.2.{name}"][0] for name in (*self.CUT, *self.WHOLE)} == {12}, looking
            for name in set(looking) & {"output_hidden_states", "output_attentions"}:
                field = name.removeprefix("output_")
                assert len(found[field]) == len(plain[field]) >= 3
                for one, other in zip(found[field], plain[field], strict=True):
                    assert relative_error(one, other) < TOLERANCE
        assert seen["model.layers.2"] == seen["model.norm"] == 12 and seen["lm_head"] == 2

    def test_not_for_positions_by_number(self, mlx: Llama, lengths: dict[str, list[int]]) -> None:
        lengths.clear()
        found = logits(mlx, IDS[:, :12], logits_to_keep=np.array([0, 7]))
        assert relative_error(found, logits(mlx, IDS[:, :12])[:, [0, 7]]) < TOLERANCE
        assert lengths["model.norm"][0] == 12
