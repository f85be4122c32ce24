"""``Llama``: the facade. A name in, a model out that forwards, generates, chats and saves, on any backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..dtypes import name_of
from ..errors import InputError, TokenizerError, UnsupportedError
from ..forward.arguments import ForwardArguments
from ..loading.describe import tokenizer_of
from ..loading.load import Loaded, load
from ..messages import mention
from ..public import public
from .generating import Generating
from .predicting import Predicting
from .training import Training

if TYPE_CHECKING:
    from ..attention_mask.picture import AttentionMask
    from ..backend.choice import Choice
    from ..backend.protocol import Model
    from ..config.schema import LlamaConfig
    from ..generation.defaults import GenerationDefaults
    from ..graph.graph import Graph
    from ..planning.result import Plan
    from ..tasks.outputs import ModelOutput
    from ..tasks.task import Task
    from ..tokenizer.base import Tokenizer


@public
class Llama(Generating, Predicting, Training):
    """A loaded model. Get one from :meth:`load`; given a :class:`LlamaConfig` it has random weights.

    Attributes:
        config: the model's configuration.
        graph: the spec it was built from.
        task: the head it has, e.g. ``"causal-lm"``.
        backend: name of the backend that runs it; :attr:`device` and :attr:`dtype` say where and in what.
        model: the backend's own realization.
    """

    _task: ClassVar[str | None] = None

    def __init__(self, loaded: Loaded | LlamaConfig, **options: Any) -> None:
        if not isinstance(loaded, Loaded):
            # As the reference documentation writes it: LlamaModel(config) has random weights.
            if not hasattr(loaded, "num_hidden_layers"):
                raise InputError(
                    f"{type(self).__name__}(...) takes a LlamaConfig, not a {type(loaded).__name__}",
                    hint=f"{type(self).__name__}.load(...) loads a model by name or path",
                )
            loaded = type(self).load(loaded, load_format="dummy", **options)._loaded
        self._loaded: Loaded = loaded
        self._tokenizer: Tokenizer | None = None
        self._defaults: GenerationDefaults | None = None
        self._defaults_read = False

    @classmethod
    def load(
        cls,
        source: str | Path | LlamaConfig,
        *,
        backend: str | None = None,
        task: str | None = None,
        dtype: Any = "auto",
        device: Any = None,
        quantize: str | None = None,
        revision: str | None = None,
        load_format: str = "auto",
        offline: bool | None = None,
        seed: int | None = None,
        fresh_head: bool = False,
        adapter: str | Path | None = None,
        merge_adapter: bool = False,
        **config_overrides: Any,
    ) -> Self:
        """Load a model by registry name, Hub repository id or local path.

        Args:
            source: ``"tiny"``, ``"7b"``, ``"org/name"``, ``"./folder"``; a :class:`LlamaConfig` with
                ``load_format="dummy"``.
            backend: ``"torch"``, ``"torch:cuda"``, ``"reference"`` ...; by default what the settings say, else the best
                that can run here.
            task: the head: ``"causal-lm"``, ``"base"``, ``"sequence-classification"``, ``"token-classification"``,
                ``"question-answering"``, ``"embedding"`` or a plugin's; by default what the checkpoint's
                ``architectures`` says.
            dtype: ``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``, or a framework's own.
            device: a device of the backend.
            quantize: ``"int4"`` or ``"int8"`` (groups of 64 weights; 32 where 64 does not divide), ``"int4-g32"``,
                ``"int4-g128"`` ...: quantize the weights while loading. A checkpoint that is stored quantized needs
                nothing.
            revision: branch, tag or commit of a Hub repository.
            load_format: ``"auto"``, a checkpoint format, or ``"dummy"`` for seeded random weights from a config alone.
            offline: use only what is on this machine.
            seed: of weights that are not read: of all with ``"dummy"``, of a head that the checkpoint lacks. They are
                normal with standard deviation ``config.initializer_range``, biases 0. By default the settings' seed,
                else 0.
            fresh_head: start a new head though the checkpoint has one, e.g. for another number of labels.
            adapter: the folder of a LoRA adapter that PEFT saved; it runs beside the weights, quantized ones too.
            merge_adapter: add it into the weights instead, which then are as fast as without.
            config_overrides: fields of :class:`LlamaConfig` to change, e.g. ``num_labels=3``; options of the `task`,
                e.g. ``pooling="last"`` of ``"embedding"``.

        Raises:
            PolyllamaError: one line that says what is wrong and what to do.

        >>> Llama.load("tiny", backend="reference").config.num_hidden_layers
        5
        """
        if cls._task is not None and task is not None and task != cls._task:
            raise InputError(f"{cls.__name__} is for task {cls._task!r}, not {task!r}", hint="use Llama.load")
        return cls(
            load(
                source,
                backend=backend,
                task=cls._task if task is None else task,
                dtype=name_of(dtype),
                device=None if device is None else str(device),
                quantize=quantize,
                revision=revision,
                load_format=load_format,
                offline=offline,
                seed=seed,
                fresh_head=fresh_head,
                adapter=adapter,
                merge_adapter=merge_adapter,
                config_overrides=config_overrides,
            )
        )

    @classmethod
    def plan(
        cls,
        source: str | Path | LlamaConfig,
        *,
        backend: str | None = None,
        context: int | None = None,
        batch: int = 1,
        quantize: str | None = None,
        dtype: Any = "auto",
        device: Any = None,
        prompt: int | None = None,
        prefill_chunk_size: int | None = None,
        task: str | None = None,
        revision: str | None = None,
        offline: bool | None = None,
        **config_overrides: Any,
    ) -> Plan:
        """What a model would take on each backend here, and whether it would load; reads headers and metadata only.

        Args:
            source: as for :meth:`load`. A Hub repository is not downloaded: its configuration and the headers of its
                files are asked for, or offline what the registry knows.
            backend: look at this one only; by default at all that can run here.
            context: tokens of a row, prompt and generated text together; by default the model's, at most 4096.
            batch: rows that go through together.
            quantize, dtype, device: as for :meth:`load`; by default several are looked at.
            prompt: tokens of the prompt; by default the whole context, which takes most.
            prefill_chunk_size: run a prompt so many tokens at a time, as the generation option of that name.
            task, revision, offline, config_overrides: as for :meth:`load`.

        Returns:
            A :class:`~polyllama.core.planning.result.Plan`: tensors that do not fit and likely causes, memory by
            backend, dtype and quantization, what fits, which backend would be taken and why, and what to change where
            it does not fit.

        Raises:
            PolyllamaError: nothing is known under that name, or an argument is wrong.

        >>> plan = Llama.plan("tiny", backend="reference", context=64)
        >>> plan.fit.ok, plan.chosen.memory.weights == 8 * plan.parameters
        (True, True)
        """
        from ..planning.plan import plan

        return plan(
            source,
            backend=backend,
            device=None if device is None else str(device),
            dtype=name_of(dtype),
            quantize=quantize,
            batch=batch,
            context=context,
            prompt=prompt,
            prefill_chunk_size=prefill_chunk_size,
            task=cls._task if task is None else task,
            revision=revision,
            offline=offline,
            config_overrides=config_overrides,
        )

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """:meth:`load` by the name the reference documentation uses; ``torch_dtype`` is read as ``dtype``."""
        if "torch_dtype" in options:
            if "dtype" in options:
                raise InputError(mention("dtype") + " and torch_dtype are both given", hint="give dtype")
            options["dtype"] = options.pop("torch_dtype")
        return cls.load(source, **options)

    @property
    def config(self) -> LlamaConfig:
        """The model's configuration."""
        return self._loaded.config

    @property
    def graph(self) -> Graph:
        """The spec the model was built from; ``print(llm.graph)`` draws it."""
        return self._loaded.graph

    @property
    def model(self) -> Model:
        """The backend's realization of the graph."""
        return self._loaded.model

    @property
    def task(self) -> str:
        """Name of the task head."""
        return self._loaded.task.name

    @property
    def task_head(self) -> Task:
        """The task head itself: what it takes and gives."""
        return self._loaded.task

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return self._loaded.choice.backend.name

    @property
    def choice(self) -> Choice:
        """The backend and why it was chosen over the others."""
        return self._loaded.choice

    @property
    def device(self) -> str:
        """Where the model runs."""
        return self.model.device

    @property
    def dtype(self) -> str:
        """What it computes in."""
        return self.model.dtype

    @property
    def module(self) -> Any:
        """The framework's own trainable object, where the backend has one (torch: an ``nn.Module``)."""
        module = getattr(self.model, "module", None)
        if module is None:
            raise UnsupportedError(
                f"backend {self.backend!r} has no module to train",
                hint="load with " + mention("backend", "torch") + " or 'mlx'; on jax, llm.model.apply is a function",
            )
        return module

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, loaded when first used.

        Raises:
            TokenizerError: the checkpoint has none.
        """
        if self._tokenizer is None:
            if self._loaded.folder is None:
                raise TokenizerError("a model made from a config alone has no tokenizer", hint="give token ids")
            self._tokenizer = tokenizer_of(self._loaded.folder, self._loaded.checkpoint)
        return self._tokenizer

    def forward(
        self,
        input_ids: Any = None,
        *,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        past_key_values: Any = None,
        labels: Any = None,
        use_cache: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        logits_to_keep: Any = 0,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """Run the model once. Nested lists, NumPy or the backend's own arrays in; the backend's own arrays out.

        Args:
            input_ids: ``[B, S]`` token ids.
            attention_mask: ``[B, past + S]`` of 1 (attended) and 0 (padding, on either side); or ``[B, S]``, and the
                cache remembers the rest; or ``[B or 1, 1, S, past + S]``, who may look at whom.
            position_ids: ``[B or 1, S]``; by default each token's count of attended tokens before it.
            inputs_embeds: ``[B, S, hidden_size]`` instead of `input_ids`.
            past_key_values: the cache of an earlier output; only the new tokens are given then.
            labels: what the task's loss is to be against: for a language model ``[B, S]`` token ids, -100 ignored,
                shifted inside. Question answering has ``start_positions`` and ``end_positions`` instead.
            use_cache: give a cache back as ``past_key_values``.
            output_hidden_states: give the embeddings and every layer's output, the last after the final norm.
            output_attentions: give every layer's probabilities ``[B, heads, S, past + S]``.
            logits_to_keep: logits for only the last so many positions, or for the given positions; 0 for all.
            return_dict: ``False`` gives a plain tuple.
            options: the task's labels under other names; for the loss, ``num_items_in_batch``; on jax ``train`` and
                ``dropout_rng``.

        Returns:
            The task's output: by attribute, key or ``to_tuple()``; ``.numpy()`` for float32 NumPy arrays.

        Raises:
            InputError: an argument of the wrong shape, type or range.

        >>> llm = Llama.load("tiny", backend="reference")
        >>> llm.forward([[1, 5, 9]]).numpy()["logits"].shape
        (1, 3, 1792)
        """
        arguments = ForwardArguments.of(
            self._loaded.task,
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            logits_to_keep=logits_to_keep,
            options=getattr(self.model, "forward_options", ()),
            **options,
        )
        output: ModelOutput = self.model.forward(arguments)
        return output if return_dict else output.to_tuple()

    __call__ = forward

    def attention_mask(self, texts: Any, **options: Any) -> AttentionMask:
        """Which token may look at which, as a picture: ``print`` it, ``.save("mask.svg")`` it, take its ``.mask``.

        Several texts are padded to one length, or with ``packed=True`` put into one row; ``attention=True`` adds
        attention weights. For the options and errors see :meth:`polyllama.AttentionMaskVisualizer.picture`.

        >>> print(Llama.load("tiny", backend="reference").attention_mask("The sun"))
        tiny: 3 tokens
                 0 1 2
        0 <s>    ■ · ·
        1 ▁The   ■ ■ ·
        2 ▁sun   ■ ■ ■
        ■ looks at it   · comes later
        """
        from ..attention_mask.build import MaskSource, build_picture

        loaded = self._loaded
        source = MaskSource(
            loaded.name,
            loaded.config,
            loaded.task,
            tokenizer=lambda: None if loaded.folder is None else self.tokenizer,
            loaded=lambda: self,
        )
        return build_picture(source, texts, **options)

    def save(self, folder: str | Path, *, max_shard_size: int | str = "5GB") -> Path:
        """Write the model as a Hugging Face folder: config, weights, tokenizer, generation defaults.

        Weights are written one at a time; files appear under their final name only when whole.

        Returns:
            The folder.
        """
        from ..export.saving import save

        return save(self._loaded, folder, self._tokenizer_or_none(), max_shard_size=max_shard_size)

    def save_pretrained(
        self, folder: str | Path, *, max_shard_size: int | str = "5GB", safe_serialization: bool = True
    ) -> Path:
        """:meth:`save` by the name the reference documentation uses; weights are always safetensors."""
        if not safe_serialization:
            raise UnsupportedError("safe_serialization=False would write a pickle", hint="leave it out")
        return self.save(folder, max_shard_size=max_shard_size)

    def num_parameters(self) -> int:
        """Number of weights; tied ones count once."""
        return self.graph.num_parameters()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self._loaded.name!r}, task={self.task!r}, backend={self.backend!r}, "
            f"device={self.device!r}, dtype={self.dtype!r}, parameters={self.num_parameters():,})"
        )

    def _tokenizer_or_none(self) -> Tokenizer | None:
        try:
            return self.tokenizer
        except TokenizerError:
            return None
