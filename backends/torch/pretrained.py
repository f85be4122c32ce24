"""The classes that transformers' documents name, as ``torch.nn.Module``s.

One object has two sides. As a module it holds the weights under the checkpoint's names and runs the documented forward
pass. What it does beyond that (generating, chatting, tokenizing, saving ...) is its facade's, :attr:`llama`: a
:class:`polyllama.Llama` around this very module, which is asked for every public name that a module has not. So
``Llama.load(..., backend="torch").module`` and ``LlamaForCausalLM.from_pretrained(...)`` are the same thing, found from
both sides; on another backend the same names give the facade alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from ...core.api import task_classes
from ...core.api.llama import Llama
from ...core.backend.choice import choose_backend
from ...core.config.schema import LlamaConfig
from ...core.dtypes import name_of
from ...core.errors import NoTokenizerError, TokenizerError, UnsupportedError
from ...core.graph.from_config import build_graph
from ...core.loading.load import Loaded
from ...core.loading.ownership import BuiltModel
from ...core.loading.tasks import find_task
from ...core.plugin_system.manager import plugin_manager
from ...core.public import public
from ...core.settings.schema import load_settings
from .documented_parts import DocumentedParts
from .making import (
    Blueprint,
    arguments_of,
    blueprint_at_hand,
    built_from,
    change,
    config_of,
    take_cpu_unless_asked,
    wanted_at_hand,
    wanting,
)
from .model import TorchModel
from .module import LlamaModule, plain_call
from .module_or_facade import ModuleOrFacade, torch_is_meant
from .origin import Behind, Origin
from .prepared_generation import generate_prepared, is_replaced
from .rotary import RotaryEmbedding
from .tensors import dtype_of
from .virtual_base import VirtualBase, ours_of, their_default

if TYPE_CHECKING:
    from ...core.graph.graph import Graph
    from ...core.tasks.task import Task


_SET_ON_FACADE = ("generation_config",)

# Who finds a `module` unwraps it, and a `model` is the trunk: the facade's mean something else.
_NOT_OF_FACADE = ("model", "module")


class LlamaPreTrainedModel(VirtualBase, DocumentedParts, metaclass=ModuleOrFacade):
    """A Llama as a ``torch.nn.Module``, with whatever head.

    Args:
        config: the model's configuration; the weights are random, drawn from torch's default generator, so
            ``torch.manual_seed`` repeats them. :meth:`from_pretrained` loads real ones.
        options: as for :meth:`polyllama.Llama.load`: ``dtype`` (torch's default dtype unless given), ``device``,
            ``seed``, ``quantize``; fields of the configuration to change.

    Attributes:
        llama: the facade around this module.
    """

    _facade: ClassVar[type[Llama]] = Llama
    _behind: Behind | None = None
    _origin: Origin | None = None

    def __init__(self, config: Any, **options: Any) -> None:
        blueprint = built_from(self)
        if blueprint is not None:
            self._build(self._as_asked(blueprint, config, options))
            return
        config = config_of(config, f"{type(self).__name__}(...)")
        if torch.nn.Linear(1, 1).weight.is_meta:  # inside torch.device("meta"), or accelerate's init_empty_weights
            self._init_without_weights(config, options)
            return
        options.setdefault("dtype", torch.get_default_dtype())
        options["backend"] = options.get("backend") or "torch"
        settings = load_settings(backend=options["backend"])
        if options.get("seed") is None and settings.seed is None:
            options["seed"] = int(torch.randint(2**31, ()).item())
        take_cpu_unless_asked(options, settings)
        with wanting(self):
            type(self)._facade(config, **options)
        self.train()

    def _as_asked(self, blueprint: Blueprint, config: Any, options: dict[str, Any]) -> Blueprint:
        """What is to be built, as a constructor of the user's own asks for it; the weights are of one graph only.

        Raises:
            UnsupportedError: it asks for another model than the one that is loaded.
        """
        attention = options.pop("attn_implementation", None) or blueprint.attn_implementation
        if options or config != blueprint.config:
            asked = f"{sorted(options)[0]}=" if options else "another configuration"
            raise UnsupportedError(
                f"{type(self).__name__}.__init__ asks for {asked}, and the weights are loaded for the model as it is",
                hint=f"give it to {type(self).__name__}.from_pretrained(...)",
            )
        return replace(blueprint, attn_implementation=attention)

    def _init_without_weights(self, config: LlamaConfig, options: dict[str, Any]) -> None:
        """The modules alone, where a program makes them on no device, to put weights into them later."""
        dtype = dtype_of(name_of(options.pop("dtype", None) or torch.get_default_dtype()))
        attention = options.pop("attn_implementation", None) or "sdpa"
        if options.keys() - {"backend", "seed", "device"}:
            raise UnsupportedError(
                f"{type(self).__name__}(...) on no device takes no {sorted(options)[0]}",
                hint="make the config that is meant first: config.replace(...)",
            )
        task = find_task(plugin_manager(load_settings()), type(self)._facade._task, config)
        own = config.owned(BuiltModel(task))
        config._models.add(own)
        self._build(Blueprint(build_graph(own, task), own, task, attention))
        self.to(dtype)

    def _build(self, blueprint: Blueprint) -> None:
        """The modules, on no device yet."""
        with torch.device("meta"):
            LlamaModule.__init__(self, blueprint.graph, blueprint.config, blueprint.task, blueprint.attn_implementation)
        self._describe(blueprint.config)
        # What generation reads is what the config says now, whenever somebody asks.
        self._origin = Origin(generation={"_config_then": copy(blueprint.config)})

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, **options: Any) -> Self:
        """Load by registry name, Hub repository id or local path; the options are those that are documented.

        Returns:
            A module of this class. With ``backend="mlx"`` or another, the facade: the same calls without the module.
        """
        model: Self = cls._loaded_by("from_pretrained", source, options)
        return model

    @classmethod
    def load(cls, source: str | Path | LlamaConfig, **options: Any) -> Self:
        """:meth:`from_pretrained`, with the options of :meth:`polyllama.Llama.load`."""
        model: Self = cls._loaded_by("load", source, options)
        return model

    @classmethod
    def _loaded_by(cls, method: str, source: Any, options: dict[str, Any]) -> Any:
        if not torch_is_meant(options.get("backend")):
            return getattr(cls._facade_alone(options.get("backend")), method)(source, **options)
        take_cpu_unless_asked(options, load_settings(backend=options.get("backend")))
        own: Any = ours_of(cls)
        arguments = {} if "_facade" in vars(own) else arguments_of(own, options)
        with wanting(own, arguments):
            llm = getattr(cls._facade, method)(source, **options)
        return llm.module

    # ---- the facade behind it

    @property
    def llama(self) -> Llama:
        """The facade around this module: generation, chat, the tokenizer, saving, and what it was loaded from."""
        behind = self._behind
        llama = self._new_facade() if behind is None else behind.alive()
        if llama is None:
            assert behind is not None
            llama = behind.again(TorchModel(self))
            self._belongs_to(llama)
        model: Any = llama.model
        model.handed_out = True  # whoever asks has the module
        return llama

    def _belongs_to(self, llama: Llama) -> None:
        self._behind = Behind.of(llama)

    def _new_facade(self) -> Llama:
        llama = type(self)._facade(self._loaded_around())
        if self._origin is not None and self._origin.generation is not None:
            llama.__dict__.update(self._origin.generation)
        return llama

    def _loaded_around(self) -> Loaded:
        """What loading would have given for this module: of a copy, or of one that was made by itself."""
        settings, origin = load_settings(), self._origin or Origin()
        device = self.device.type
        backends = plugin_manager(settings).backends()
        choice = choose_backend("torch", backends, None if device == "meta" else device)  # weights come to a device yet
        return Loaded(
            origin.name,
            origin.folder,
            self.config,
            self.task_head,
            self.graph,
            settings,
            choice,
            TorchModel(self),
            tokenizer_folder=origin.tokenizer_folder,
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_engine" not in self.__dict__:
                raise
            if name.startswith("_") or name in _NOT_OF_FACADE or not hasattr(type(self)._facade, name):
                with suppress(AttributeError):
                    return their_default(type(self), name)
                raise
        try:
            return getattr(self.llama, name)
        except TokenizerError as error:
            if name != "tokenizer":
                raise
            raise NoTokenizerError(error.message, hint=error.hint) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SET_ON_FACADE:
            setattr(self.llama, name, value)
        elif name == "config" and "_engine" in self.__dict__:
            if value is not self.config:  # the model's own stays, and says what it cannot follow
                change(self.config, config_of(value, f"{type(self).__name__}.config"))
                if isinstance(value, LlamaConfig):
                    value._models.add(self.config)
        else:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        facade = [name for name in dir(type(self)._facade) if not name.startswith("_")]
        own: list[str] = super().__dir__()  # type: ignore[no-untyped-call]
        return sorted({*own, *facade})

    @property
    def rotary_emb(self) -> RotaryEmbedding:
        """Cosines and sines of positions; of a model with a head, ``model.model.rotary_emb``."""
        if self.graph.decoder.name:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute 'rotary_emb'")
        return RotaryEmbedding(self.graph.decoder)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has a facade of its own, made when it is asked for.
        state = super().__getstate__()
        behind = state.pop("_behind", None)
        state["_origin"] = self._origin if behind is None else behind.origin()
        return state

    # ---- what goes by another name

    def generate(self, inputs: Any = None, *more: Any, **options: Any) -> Any:
        """Generate from text, ids or a tensor; see :meth:`polyllama.Llama.generate`."""
        if not is_replaced(self.prepare_inputs_for_generation, DocumentedParts.prepare_inputs_for_generation):
            return self.llama.generate(inputs, *more, **options)
        ids = options.pop("input_ids", None) if inputs is None else inputs
        if more:
            options["generation_config"] = more[0]
        mask, prepare = options.pop("attention_mask", None), self.prepare_inputs_for_generation
        return generate_prepared(self.llama, prepare, ids, mask, options)

    def save_pretrained(
        self, save_directory: str | Path, *, state_dict: Mapping[str, Tensor] | None = None, **options: Any
    ) -> Any:
        """Write the model as a Hugging Face folder; see :meth:`polyllama.Llama.save_pretrained`.

        Args:
            save_directory: the folder, made if need be.
            state_dict: these weights instead of the module's, by its parameters' names.
        """
        llama = self.llama
        model: Any = llama.model
        with model.holding(state_dict):
            return llama.save_pretrained(save_directory, **options)


def _forwarded(name: str) -> Any:
    """A method of the facade's, as one of the module: found by ``super()`` and by ``help`` too."""

    @wraps(getattr(Llama, name))
    def method(self: LlamaPreTrainedModel, *given: Any, **named: Any) -> Any:
        return getattr(self.llama, name)(*given, **named)

    return method


def _has_its_own(name: str) -> bool:
    return any(name in vars(kind) for kind in LlamaPreTrainedModel.__mro__)


for _name, _value in inspect.getmembers(Llama, inspect.isfunction):
    if not _name.startswith("_") and _name not in _NOT_OF_FACADE and not _has_its_own(_name):
        setattr(LlamaPreTrainedModel, _name, _forwarded(_name))


@public
class LlamaModel(LlamaPreTrainedModel):
    """The bare trunk, without a head: hidden states out."""

    _facade = task_classes.LlamaModel


@public
class LlamaForCausalLM(LlamaPreTrainedModel):
    """A language model.

    >>> from polyllama import LlamaConfig
    >>> config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
    ...                      num_attention_heads=2)
    >>> model = LlamaForCausalLM(config)
    >>> model(torch.tensor([[1, 2, 3]])).logits.shape
    torch.Size([1, 3, 32])
    """

    _facade = task_classes.LlamaForCausalLM


@public
class LlamaForSequenceClassification(LlamaPreTrainedModel):
    """A classifier of texts: ``LlamaForSequenceClassification.from_pretrained(path, num_labels=3)``."""

    _facade = task_classes.LlamaForSequenceClassification


@public
class LlamaForTokenClassification(LlamaPreTrainedModel):
    """A classifier of tokens: ``LlamaForTokenClassification.from_pretrained(path, id2label={0: "O", 1: "NAME"})``."""

    _facade = task_classes.LlamaForTokenClassification


@public
class LlamaForQuestionAnswering(LlamaPreTrainedModel):
    """A model that points at the answer in a text: ``LlamaForQuestionAnswering.from_pretrained(path)``."""

    _facade = task_classes.LlamaForQuestionAnswering

    @plain_call
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        start_positions: Any = None,
        end_positions: Any = None,
        *more: Any,
        **options: Any,
    ) -> Any:
        """One pass; its labels are `start_positions` and `end_positions` ``[B]``. See :meth:`LlamaModule.forward`."""
        labels = (start_positions, end_positions)
        before = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
        return super().forward(*before, *labels, *more, **options)


_CLASSES: dict[str, type[LlamaPreTrainedModel]] = {
    kind._facade._task or "": kind
    for kind in (
        LlamaModel,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        LlamaForTokenClassification,
        LlamaForQuestionAnswering,
    )
}


def make_module(
    graph: Graph, config: LlamaConfig, task: Task, attn_implementation: str = "sdpa"
) -> LlamaPreTrainedModel:
    """The module of a graph, on no device yet, of the class that was asked for or that the task has."""
    blueprint = Blueprint(graph, config, task, attn_implementation)
    wanted = wanted_at_hand.get()
    wanted_at_hand.set(None)
    if wanted is not None and isinstance(wanted.what, LlamaPreTrainedModel):
        wanted.what._build(blueprint)
        return wanted.what
    kind: Any = _CLASSES.get(task.name, LlamaPreTrainedModel) if wanted is None else wanted.what
    module: LlamaPreTrainedModel = kind.__new__(kind)
    token = blueprint_at_hand.set((module, blueprint))
    try:
        module.__init__(config, **({} if wanted is None else wanted.arguments))  # type: ignore[misc]  # not by calling the class: what is at hand is this object's
        return module
    finally:
        blueprint_at_hand.reset(token)
