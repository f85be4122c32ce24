"""``Llama``: the facade. A name in, a model out that forwards, generates, chats and saves, on any backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..arguments import checked_methods
from ..dtypes import name_of
from ..errors import InputError, TokenizerError, UnsupportedError
from ..forward.call import Reader
from ..forward.in_kind import InKind
from ..forward.inputs import check_cache_position
from ..forward.past import Past
from ..forward.row_length import ContextWatch
from ..loading.load import Loaded, Lora, load
from ..messages import mention
from ..public import public
from ..sources.access import HubAccess
from .chatting import Chatting
from .copying import Copying
from .module_parts import ModuleParts
from .planning import Planning
from .predicting import Predicting
from .pretrained import Pretrained
from .saving import Saving
from .scheduling import SharedScheduler
from .scoring import Scoring
from .training import Training

if TYPE_CHECKING:
    from ..attention_mask.picture import AttentionMask
    from ..backend.choice import Choice
    from ..backend.protocol import Model
    from ..config.schema import LlamaConfig
    from ..graph.graph import Graph
    from ..quantization.torchao import TorchAoConfig
    from ..tasks.outputs import ModelOutput
    from ..tasks.task import Task
    from ..tokenizer.tokenizer import Tokenizer


@public
@checked_methods
class Llama(Pretrained, Chatting, Scoring, Predicting, Saving, Training, Planning, Copying, ModuleParts):
    """A loaded model. Get one from :meth:`load`; given a :class:`LlamaConfig` it has random weights.

    Attributes:
        config: the model's configuration.
        graph: the spec it was built from.
        task: the head it has, e.g. ``"causal-lm"``.
        backend: name of the backend that runs it; :attr:`device` and :attr:`dtype` say where and in what.
        model: the backend's own realization.
    """

    # Beside the dictionary of the other attributes, which torch's module shares: that holds no model.
    __slots__ = ("_loaded", "_shared")

    _task: ClassVar[str | None] = None
    _prefers: ClassVar[str | None] = None

    def __init__(self, loaded: Loaded | LlamaConfig, **options: Any) -> None:
        if not isinstance(loaded, Loaded):
            # As the reference documentation writes it: LlamaModel(config) has random weights.
            if not hasattr(loaded, "num_hidden_layers"):
                raise InputError(
                    f"{type(self).__name__}(...) takes a LlamaConfig, not a {type(loaded).__name__}",
                    hint=f"{type(self).__name__}.load(...) loads a model by name or path",
                )
            loaded = type(self).load(loaded, load_format="dummy", **options)._loaded
        self._loaded, self._shared = loaded, SharedScheduler()
        self._tokenizer: Tokenizer | None = None
        self._context = ContextWatch(loaded.name, loaded.config)
        self._begin_generation()
        self._tell_model()

    def _tell_model(self) -> None:
        """Tell the model which facade is around it, where it wants to know."""
        belongs_to = getattr(self._loaded.model, "belongs_to", None)
        if belongs_to is not None:
            belongs_to(self)

    @classmethod
    def load(
        cls,
        source: str | Path | LlamaConfig,
        *,
        backend: str | None = None,
        task: str | None = None,
        dtype: Any = "auto",
        device: Any = None,
        quantize: str | TorchAoConfig | None = None,
        revision: str | None = None,
        load_format: str = "auto",
        offline: bool | None = None,
        seed: int | None = None,
        fresh_head: bool = False,
        adapter: str | Path | None = None,
        merge_adapter: bool = False,
        adapters: Mapping[str, str | Path] | None = None,
        ignore: str | Sequence[str] | None = None,
        attn_implementation: str | None = None,
        config: LlamaConfig | None = None,
        ignore_mismatched_sizes: bool = False,
        draft: Any = None,
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
                ``"int4-g128"`` ...: quantize the weights while loading; or a :class:`TorchAoConfig`. A checkpoint that
                is stored quantized needs nothing.
            revision: branch, tag or commit of a Hub repository.
            load_format: ``"auto"``, a checkpoint format, or ``"dummy"`` for seeded random weights from a config alone.
            offline: use only what is on this machine.
            seed: of weights that are not read: of all with ``"dummy"``, of a head that the checkpoint lacks. They are
                normal with standard deviation ``config.initializer_range``, biases 0. By default the settings' seed,
                else 0.
            fresh_head: start a new head though the checkpoint has one, e.g. for another number of labels.
            adapter: the folder of a LoRA adapter that PEFT or mlx-lm saved; it runs beside the weights, quantized too.
            merge_adapter: add it into the weights instead, which then are as fast as without.
            adapters: names of several adapters and their folders: each call, and each prompt of one batch, then says
                by ``adapter="name"`` which it wants; see :attr:`adapters`.
            ignore: names of stored tensors to leave out, ``*`` for anything: ``["*.cos_cached"]``. Without it, a tensor
                that the model has no place for is an error; rotary tables that older code stored are none of these.
            attn_implementation: on torch ``"sdpa"`` or ``"eager"``; other backends have one attention of their own.
            config: a configuration instead of the checkpoint's.
            ignore_mismatched_sizes: start a head anew whose stored shape is another.
            draft: a smaller model of the same vocabulary, loaded or by name, which guesses tokens: see :attr:`draft`.
            config_overrides: fields of :class:`LlamaConfig` to change, e.g. ``num_labels=3``; options of the `task`,
                e.g. ``pooling="last"`` of ``"embedding"``. Beside them, ``cache_dir``, ``token`` and
                ``force_download`` for the Hub, and ``subfolder`` and ``gguf_file``: the folder, and the one file, in
                the repository or folder that hold the model.

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
                lora=Lora(adapter, merge_adapter, adapters),
                ignore=ignore,
                prefers=cls._prefers,
                attn_implementation=attn_implementation,
                config=config,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                access=HubAccess.taken_from(config_overrides),
                config_overrides=config_overrides,
            )
        )._drafted_by(draft)

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
        model: Any = self.model
        module = getattr(model, "module", None)
        if module is not None:
            model.handed_out = True
        else:
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
            self._tokenizer = self._loaded.load_tokenizer()
        return self._tokenizer

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        *more: Any,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Any = None,
        logits_to_keep: Any = 0,
        **options: Any,
    ) -> Any:
        """Run the model once. Arrays of torch, NumPy, JAX or MLX give arrays of the same kind, on the same device.

        So it is on every backend; nested lists give the backend's own arrays. While training
        (:meth:`polyllama.Llama.train`) the backend's own come out whatever comes in: only these can be differentiated.

        Args:
            input_ids: ``[B, S]`` token ids.
            attention_mask: ``[B, past + S]`` of 1 (attended) and 0 (padding, on either side); or ``[B, S]``, and the
                cache remembers the rest; or ``[B or 1, 1, S, past + S]``, who may look at whom.
            position_ids: ``[B or 1, S]``; by default each token's count of attended tokens before it.
            past_key_values: the cache of an earlier output, and only the new tokens are given then; or ``(keys,
                values)`` of each layer, each ``[B, kv heads, past, head_dim]``; or a cache of transformers', which is
                written to and comes out again. Arrays cannot go on where RoPE depends on how long a row is.
            inputs_embeds: ``[B, S, hidden_size]`` instead of `input_ids`.
            more: by position, the task's labels and then `use_cache`, `output_attentions`, `output_hidden_states`,
                `return_dict` and `cache_position`, as the reference documentation has them.
            labels: what the task's loss is to be against: for a language model ``[B, S]`` token ids, -100 ignored,
                shifted inside. Question answering has ``start_positions`` and ``end_positions`` instead.
            use_cache: give a cache back as ``past_key_values``. ``None``, here and in the next three, is what the
                configuration says: ``config.use_cache``, by itself true, gives one for language models, the bare trunk
                and classifiers of texts, outside training.
            output_attentions: give every layer's probabilities ``[B, heads, S, past + S]``.
            output_hidden_states: give the embeddings and every layer's output, the last after the final norm.
            return_dict: ``False`` gives a plain tuple.
            cache_position: ``[S]``, checked against the cache, which knows how many tokens it holds.
            logits_to_keep: logits for only the last so many positions, or for the given positions; 0 for all.
            options: ``adapter``, the name of one of :attr:`adapters`, or a list with one for each row; the task's
                labels under other names; for the loss, ``num_items_in_batch``; on jax ``train`` and ``dropout_rng``.
                What other libraries pass along and a Llama has no use for is said and left out.

        Returns:
            The task's output: by attribute, key or ``to_tuple()``; ``.numpy()`` for float32 NumPy arrays.

        Raises:
            InputError: an argument of the wrong shape, type or range; arrays of several frameworks.
            UnsupportedError: a keyword of another library that would change the result.

        >>> llm = Llama.load("tiny", backend="reference")
        >>> llm.forward([[1, 5, 9]]).numpy()["logits"].shape
        (1, 3, 1792)
        """
        if not isinstance(self, Llama):
            raise InputError("forward is called on a model, not on its class", hint="load one: Llama.load(...)")
        model = self.model
        training = self.training or bool(options.get("train"))
        own = getattr(model, "forward_options", ())
        adapters = self.graph.adapters
        reader = Reader(self._loaded.task, self._loaded.config, training, own, _generation_options, adapters)
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "labels": labels,
            "use_cache": use_cache,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "return_dict": return_dict,
            "cache_position": cache_position,
            "logits_to_keep": logits_to_keep,
        }
        arguments, as_output, position = reader.read(more, given, options)
        kind = InKind.of(arguments, getattr(model, "arrays", None), position, training=training)
        past = Past.of(model, arguments.past_key_values)
        arguments = past.take(kind.take(arguments))
        check_cache_position(past.cache, position, arguments.new_tokens)
        self._context.look_at(arguments)
        output: ModelOutput = model.forward(arguments)
        past.hand_back(model, output, kind.device if kind.kind == "torch" else None, arguments.adapter_names)
        output = kind.give(output)
        return output if as_output else output.to_tuple()

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

    def __dir__(self) -> list[str]:
        """The names that give something: no ``module`` where the backend has none, no ``tokenizer`` without one."""
        none = [] if hasattr(self.model, "module") else ["module"]
        none += [] if self._tokenizer_or_none() is not None else ["tokenizer"]
        return [name for name in super().__dir__() if name not in none]

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


def facade_of(model: Any) -> Llama | None:
    """The facade of a model of ours, whichever side of it is at hand; ``None`` for what is none.

    >>> llm = Llama.load("tiny", backend="reference")
    >>> facade_of(llm) is llm, facade_of("tiny")
    (True, None)
    """
    found = model if isinstance(model, Llama) else getattr(model, "llama", None)
    return found if isinstance(found, Llama) else None


def _generation_options() -> frozenset[str]:
    from ..generation.options import option_names

    return option_names()
