"""``FlaxLlamaModel`` and ``FlaxLlamaForCausalLM`` of the reference documentation, as names over the JAX backend.

There is no Flax in them: the parameters are a pytree (a dict by checkpoint name), the call is a function of them that
``jax.jit``, ``jax.grad``, ``jax.vmap`` and sharded arrays take. Importing this module does not import JAX.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.array_kinds import as_numpy, kind_of
from ...core.errors import InputError
from ...core.forward.arguments import ForwardArguments
from ...core.forward.past import Past
from ...core.loading.load import check_seed
from ...core.messages import subject
from ...core.public import public

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from ...core.config.schema import LlamaConfig
    from .cache import JaxCache
    from .flax_generation import FlaxGenerateOutput
    from .model import JaxModel


class FlaxLlamaPreTrainedModel:
    """What the two classes share.

    Args:
        config: the model's configuration; the weights are random. :meth:`from_pretrained` loads real ones.
        input_shape: accepted because the documentation has it; no parameter's shape depends on it.
        seed: of the random weights.
        dtype: what is computed in and what parameters are made in, e.g. ``jax.numpy.float32`` or ``"bfloat16"``.
        _do_init: ``False`` makes no parameters: :meth:`init_weights` makes them, and every call takes ``params=``.
        options: ``backend="jax:gpu"`` or ``device``; fields of the configuration to change.

    Attributes:
        key: the random key of `seed`.
        input_shape: as given.
    """

    _task: ClassVar[str]
    framework = "flax"
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
        from .flax_loading import without_params

        check_seed(seed, most=2**32 - 1)  # JAX makes a key of 32 bits of it
        _check_shape(input_shape)
        self.llama = without_params(config, self._task, _dtype_name(dtype), _backend(options), options)
        self._seed, self.input_shape, self._is_initialized = seed, input_shape, _do_init
        if _do_init:
            self.model.params = self.init_weights(self.key, input_shape)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        dtype: Any = "float32",
        *,
        device_map: Any = None,
        _do_init: bool = True,
        **options: Any,
    ) -> Any:
        """Load by registry name, Hub repository id or local path; other options as ``from_pretrained`` of Llama.

        Args:
            dtype: what is computed in and what parameters are held in.
            device_map: ``"auto"`` spreads the parameters over all of JAX's devices, where there are several, so that
                a model may be larger than one of them; else the device that is meant.
            _do_init: ``False`` gives ``(model, params)``: a model without parameters, and them.
        """
        from .flax_loading import load

        model = cls.__new__(cls)
        model._seed, model.input_shape, model._is_initialized = 0, (1, 1), _do_init
        backend = _backend(options)
        model.llama = load(pretrained_model_name_or_path, cls._task, _dtype_name(dtype), backend, device_map, options)
        if _do_init:
            return model
        params, model.model.params = model.model.params, {}
        return model, params

    @property
    def key(self) -> Any:
        """The random key of the seed."""
        import jax

        return jax.random.PRNGKey(self._seed)

    @property
    def config(self) -> LlamaConfig:
        """The model's configuration."""
        return self.llama.config

    @property
    def dtype(self) -> Any:
        """What is computed in."""
        from .arrays import dtype_of

        return dtype_of(self.model.dtype)

    @property
    def model(self) -> JaxModel:
        """The realized graph below these names."""
        return self.llama.model  # type: ignore[return-value]

    @property
    def params(self) -> dict[str, Any]:
        """The weights as a pytree: a dict by checkpoint name."""
        self._check_initialized("read from")
        return self.model.params

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        import jax

        from .params import check_held, check_params

        self._check_initialized("put into")
        given = _unwrapped(params)
        check_params(self.llama.graph, given)
        check_held(given)
        # JAX's own arrays stay where they are, sharded or not; others go where the weights are now.
        places = {name: array.sharding for name, array in self.model.params.items()}
        self.model.params = {
            name: given[name] if isinstance(given[name], jax.Array) else jax.device_put(given[name], places[name])
            for name in given
        }

    @property
    def required_params(self) -> set[str]:
        """The names that params have to have."""
        return set(self.params_shape_tree)

    @property
    def params_shape_tree(self) -> dict[str, Any]:
        """Shape and dtype of every parameter by its name, as ``jax.eval_shape`` gives them."""
        return self.model.shapes

    def init_weights(
        self, rng: Any, input_shape: tuple[int, ...] = (1, 1), params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Make random parameters from a random key; JAX's transforms take it, ``jax.jit`` and ``jax.eval_shape``.

        Args:
            rng: ``jax.random.key(seed)``.
            input_shape: accepted because the documentation has it.
            params: those that are there already, which stay.
        """
        from .flax_params import initial_params

        _check_shape(input_shape)
        model = self.model
        made = initial_params(model.graph, rng, model.dtype, self.config.initializer_range, model.jax_device)
        return made if params is None else {**made, **_unwrapped(params)}

    def to_bf16(self, params: Mapping[str, Any], mask: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The parameters in bfloat16, those alone where `mask` is true; ``model.params = model.to_bf16(model.params)``.

        Calls compute in the model's own :attr:`dtype` all the same, from values that are rounded.
        """
        return self._cast(params, "bfloat16", mask)

    def to_fp16(self, params: Mapping[str, Any], mask: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The parameters in float16; see :meth:`to_bf16`."""
        return self._cast(params, "float16", mask)

    def to_fp32(self, params: Mapping[str, Any], mask: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The parameters in float32; see :meth:`to_bf16`."""
        return self._cast(params, "float32", mask)

    def enable_gradient_checkpointing(self) -> None:
        """Let gradients compute each layer anew instead of keeping what is in it."""
        self.model.gradient_checkpointing_enable()

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the class has ``generate``."""
        return cls._task == "causal-lm"

    def init_cache(self, batch_size: int, max_length: int) -> JaxCache:
        """An empty cache for `max_length` tokens, to pass as ``past_key_values``; calls write into it."""
        for name, size in (("batch_size", batch_size), ("max_length", max_length)):
            if not isinstance(size, int) or size < 1:
                raise InputError(f"init_cache: {name} is {size!r}, wanted a positive integer")
        return self.model.new_cache(batch_size, max_length)

    def save_pretrained(
        self, save_directory: str | Path, params: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Write config, weights as they are now, and tokenizer as a Hugging Face folder.

        Args:
            params: other weights, e.g. ``model.to_bf16(params)``, which are written in their dtype.
            options: as ``save_pretrained`` of Llama has them.
        """
        return self._with(params).save_pretrained(save_directory, **options)

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        params: Mapping[str, Any] | None = None,
        past_key_values: Any = None,
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
            past_key_values: a cache from :meth:`init_cache` or an earlier output, or a ``DynamicCache`` or
                ``StaticCache``; it is written into.
            dropout_rng: the random key of attention dropout, with ``train=True``.
            return_dict: ``False`` gives a plain tuple.

        Raises:
            InputError: an argument of the wrong shape, type or range.
        """
        from .arrays import is_traced

        dropout = {"train": train, "dropout_rng": dropout_rng}
        weights = self.params if params is None else _unwrapped(params)
        said = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        flags: dict[str, Any] = {
            name: bool(getattr(self.config, name, False) if value is None else value) for name, value in said.items()
        }
        if return_dict is None:
            return_dict = getattr(self.config, "return_dict", True)
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
            past = Past.of(self.model, past_key_values)
            arguments = ForwardArguments(
                input_ids=input_ids,
                attention_mask=_used_part(attention_mask, input_ids, past.cache),
                position_ids=position_ids,
                own={"params": weights, **dropout},
                **flags,
            )
            output = self.model.forward(past.take(arguments))
            past.hand_back(self.model, output)
        return output if return_dict else output.to_tuple()

    def _cast(self, params: Mapping[str, Any], dtype: str, mask: Mapping[str, Any] | None) -> dict[str, Any]:
        from .flax_params import cast

        return cast(_unwrapped(params), dtype, None if mask is None else _unwrapped(mask))

    def _with(self, params: Mapping[str, Any] | None) -> Llama:
        """The model below with other parameters; with its own where none are given."""
        if params is None:
            self._check_initialized("taken from")
            return self.llama
        from dataclasses import replace

        other = copy.copy(self.llama)
        other._loaded = replace(self.llama._loaded, model=self.model.with_params(_unwrapped(params)))
        return other

    def _check_initialized(self, how: str) -> None:
        if not self._is_initialized:
            raise InputError(
                f"params cannot be {how} a model that was made with _do_init=False",
                hint="keep what init_weights or from_pretrained gives, and pass it as params=",
            )

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

    def generate(
        self,
        input_ids: Any,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        *,
        attention_mask: Any = None,
        params: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> FlaxGenerateOutput:
        """Generate from each row of ids, by the same loop and sampler as every backend.

        Args:
            input_ids: ``[rows, width]``, of any framework.
            max_length: most tokens of a row, the padded prompt counted; or `max_new_tokens`, without it. Without
                either 256 new tokens, or what is left of the context.
            attention_mask: ``[rows, width]``, which of `input_ids` are real.
            params: other weights than the model's.
            options: ``do_sample``, ``prng_key`` (the random key of sampling; by default that of seed 0), ``top_k``,
                ``top_p``, ``temperature``, ``pad_token_id``, ``eos_token_id``, ``min_length``,
                ``no_repeat_ngram_size``, and others of :meth:`polyllama.Llama.generate`.

        Returns:
            ``sequences``, an array of JAX's ``[rows, max_length]``: each prompt as given, what was generated, padding.

        Raises:
            InputError: ids or a mask of the wrong shape; a call inside a JAX transform.
            UnsupportedError: beam search.
        """
        from .flax_generation import generate_sequences

        limits = {"max_length": max_length, "max_new_tokens": max_new_tokens}
        llm = self._with(params)
        return generate_sequences(llm, llm.model, input_ids, attention_mask, {**limits, **options})  # type: ignore[arg-type]


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
    found = params["params"] if set(params) == {"params"} else params
    return {name: as_numpy(array) if kind_of(array) in ("torch", "mlx") else array for name, array in found.items()}


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, tuple | list) or any(type(size) is not int or size < 1 for size in shape):
        raise InputError(subject("input_shape", shape) + f" is {shape!r:.40}, wanted a tuple of sizes such as (1, 1)")


def _used_part(mask: Any, input_ids: Any, cache: Any) -> Any:
    """Of a mask as long as the whole cache the part for the slots in use."""
    import numpy as np

    from .cache import JaxCache

    if mask is None or not isinstance(cache, JaxCache):
        return mask

    array, used = np.asarray(mask), cache.length + np.shape(input_ids)[-1]
    return array[:, :used] if array.ndim == 2 and array.shape[1] == cache.capacity else mask
