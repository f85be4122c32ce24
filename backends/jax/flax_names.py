"""``FlaxLlamaModel`` and ``FlaxLlamaForCausalLM`` of the reference documentation, as names over the JAX backend.

There is no Flax in them: the parameters are a pytree (a dict by checkpoint name), the call is a function of them that
``jax.jit``, ``jax.grad``, ``jax.vmap`` and sharded arrays take. Importing this module does not import JAX.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ...core.errors import InputError, UnsupportedError
from ...core.forward.arguments import ForwardArguments
from ...core.public import public

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from ...core.config.schema import LlamaConfig
    from .cache import JaxCache
    from .model import JaxModel


class FlaxLlamaPreTrainedModel:
    """What the two classes share.

    Args:
        config: the model's configuration; the weights are random. :meth:`from_pretrained` loads real ones.
        input_shape: accepted because the documentation has it; no parameter's shape depends on it.
        seed: of the random weights.
        dtype: what is computed in, e.g. ``jax.numpy.float32`` or ``"bfloat16"``.
    """

    _task: ClassVar[str]
    llama: Llama

    def __init__(
        self,
        config: LlamaConfig,
        input_shape: tuple[int, ...] = (1, 1),
        seed: int = 0,
        dtype: Any = "float32",
        _do_init: bool = True,
        **options: Any,
    ) -> None:
        from ...core.api.llama import Llama
        from ...core.checkpoint.weights import dummy_weights

        if not _do_init:
            raise UnsupportedError(
                "_do_init=False: parameters are always made", hint="take them from .params and pass your own as params="
            )
        name = _dtype_name(dtype)
        self.llama = Llama.load(
            config, load_format="dummy", backend=_backend(options), task=self._task, dtype=name, **options
        )
        graph = self.llama.graph
        random = dummy_weights(graph.parameters(), seed=seed, dtype=name, initializer_range=config.initializer_range)
        self.params = {parameter.name: random[parameter.name] for parameter in graph.parameters()}

    @classmethod
    def from_pretrained(cls, source: str | Path, *, dtype: Any = "float32", **options: Any) -> Self:
        """Load by registry name, Hub repository id or local path; other options as :meth:`polyllama.Llama.load`."""
        from ...core.api.llama import Llama

        model = cls.__new__(cls)
        model.llama = Llama.load(source, backend=_backend(options), task=cls._task, dtype=_dtype_name(dtype), **options)
        return model

    @property
    def config(self) -> LlamaConfig:
        """The model's configuration."""
        return self.llama.config

    @property
    def model(self) -> JaxModel:
        """The realized graph below these names."""
        return self.llama.model  # type: ignore[return-value]

    @property
    def params(self) -> dict[str, Any]:
        """The weights as a pytree: a dict by checkpoint name."""
        return self.model.params

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        import jax

        from .params import check_params

        given = _unwrapped(params)
        check_params(self.llama.graph, given, self.model.dtype)
        # JAX's own arrays stay where they are, sharded or not; others go where the weights are now.
        places = {name: array.sharding for name, array in self.model.params.items()}
        self.model.params = {
            name: given[name] if isinstance(given[name], jax.Array) else jax.device_put(given[name], places[name])
            for name in given
        }

    def init_cache(self, batch_size: int, max_length: int) -> JaxCache:
        """An empty cache for `max_length` tokens, to pass as ``past_key_values``; calls write into it."""
        for name, size in (("batch_size", batch_size), ("max_length", max_length)):
            if not isinstance(size, int) or size < 1:
                raise InputError(f"init_cache: {name} is {size!r}, wanted a positive integer")
        return self.model.new_cache(batch_size, max_length)

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write config, weights as they are now, and tokenizer as a Hugging Face folder."""
        return self.llama.save(folder, **options)

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        params: Mapping[str, Any] | None = None,
        past_key_values: JaxCache | None = None,
        dropout_rng: Any = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """One pass. Inside a JAX transform any array may be traced, and there is no cache.

        Args:
            input_ids: ``[B, S]`` token ids.
            attention_mask: ``[B, past + S]`` of 1 (attended) and 0 (padding, on either side); with a cache also
                ``[B, max_length]``, of which the slots in use are read.
            position_ids: ``[B, S]``; by default each token's count of attended tokens before it.
            params: other weights than :attr:`params`, of the same names and shapes.
            past_key_values: a cache from :meth:`init_cache` or an earlier output; it is written into.
            dropout_rng: the random key of attention dropout, with ``train=True``.
            return_dict: ``False`` gives a plain tuple.

        Raises:
            InputError: an argument of the wrong shape, type or range.
        """
        from .arrays import is_traced

        dropout = {"train": train, "dropout_rng": dropout_rng}
        weights = self.params if params is None else _unwrapped(params)
        flags: dict[str, Any] = {
            "output_attentions": bool(output_attentions),
            "output_hidden_states": bool(output_hidden_states),
        }
        if is_traced(input_ids, attention_mask, position_ids, weights, dropout_rng):
            if past_key_values is not None:
                raise InputError(
                    "past_key_values cannot go through a JAX transform",
                    hint="call the model itself: cached calls are compiled already, and once for all tokens",
                )
            output = self.model.apply(
                weights, input_ids, attention_mask=attention_mask, position_ids=position_ids, **dropout, **flags
            )
        else:
            output = self.model.forward(
                ForwardArguments(
                    input_ids=input_ids,
                    attention_mask=_used_part(attention_mask, input_ids, past_key_values),
                    position_ids=position_ids,
                    past_key_values=past_key_values,
                    own={"params": weights, **dropout},
                    **flags,
                )
            )
        return output if return_dict or return_dict is None else output.to_tuple()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.llama!r})"


@public
class FlaxLlamaModel(FlaxLlamaPreTrainedModel):
    """The bare trunk: ``last_hidden_state`` out."""

    _task = "base"


@public
class FlaxLlamaForCausalLM(FlaxLlamaPreTrainedModel):
    """A language model: ``logits`` out."""

    _task = "causal-lm"


def _backend(options: dict[str, Any]) -> str:
    """The JAX backend, on the device that the options name."""
    backend = str(options.pop("backend", "jax"))
    if backend.partition(":")[0] != "jax":
        raise InputError(f"backend {backend!r}: these classes are of the jax backend", hint="use polyllama.Llama")
    return backend


def _dtype_name(dtype: Any) -> str:
    """``"float32"`` from itself, ``jax.numpy.float32`` or a NumPy dtype."""
    if isinstance(dtype, str):
        return dtype
    import numpy as np

    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        raise InputError(f"dtype {dtype!r} is not a dtype", hint="e.g. jax.numpy.bfloat16 or 'bfloat16'") from None


def _unwrapped(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` without the outer ``{"params": ...}`` that Flax puts around them."""
    if not isinstance(params, Mapping):
        raise InputError(f"params is a {type(params).__name__}, wanted a dict by parameter name")
    return dict(params["params"]) if set(params) == {"params"} else dict(params)


def _used_part(mask: Any, input_ids: Any, cache: JaxCache | None) -> Any:
    """Of a mask as long as the whole cache the part for the slots in use."""
    if mask is None or cache is None:
        return mask
    import numpy as np

    array, used = np.asarray(mask), cache.length + np.shape(input_ids)[-1]
    return array[:, :used] if array.ndim == 2 and array.shape[1] == cache.capacity else mask
