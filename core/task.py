"""What a task head is: the nodes it attaches to the trunk, its labels, its outputs and its loss.

It contains no framework, and so runs on every backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from .errors import UnsupportedError
from .labels import check_integers, check_token_ids
from .outputs import ModelOutput

if TYPE_CHECKING:
    import numpy as np

    from .config import LlamaConfig
    from .context import Context
    from .graph import Array, Decoder, Node


class Task:
    """Base of task heads; a plugin subclasses it and registers a descriptor.

    Attributes:
        name: what ``Llama.load(task=...)`` calls it.
        architecture: the HF class name written into a saved config's ``architectures``.
        prefix: where the trunk's weights sit in this task's checkpoints (``"model"`` in most).
        output: the class of what forward returns.
        labels: names of the arguments of forward that hold labels: all of them are given, or none.
        options: what ``Llama.load`` takes for this task alone: name -> values, the first the default. A choice is kept
            in the config, and so saved with the model; :meth:`option` reads it.
        generates: whether the head gives next-token logits.
        keeps_positions: whether ``logits_to_keep`` makes sense for it.
        per_position: whether every output has one entry for each input token, on its second axis.
        pools: whether a row gives one result, so that it must be known which of its tokens are padding.
        whole_texts: whether a row must be given in one pass, not after others from a cache.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    prefix: ClassVar[str] = "model"
    output: ClassVar[type[ModelOutput]]
    labels: ClassVar[tuple[str, ...]] = ("labels",)
    options: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    generates: ClassVar[bool] = False
    keeps_positions: ClassVar[bool] = False
    per_position: ClassVar[bool] = False
    pools: ClassVar[bool] = False
    whole_texts: ClassVar[bool] = False

    def head(self, config: LlamaConfig, decoder: Decoder) -> Node | None:
        """The node that turns the trunk's ``[B, S, E]`` into this task's raw output; ``None`` for no head.

        Its parameters' roles begin with ``"head"``: a checkpoint that has none of them gets fresh ones.
        """
        return None

    def outputs(self, ctx: Context, raw: Array, hidden: Array) -> dict[str, Array]:
        """Named output fields from the head's `raw` output and the trunk's `hidden` ``[B, S, E]``.

        Where ``logits_to_keep`` is a number, which only a task with ``keeps_positions`` is asked for, `hidden` may hold
        no more than these last positions.
        """
        raise NotImplementedError

    def check_labels(self, config: LlamaConfig, labels: Mapping[str, np.ndarray], attended: np.ndarray) -> None:
        """Refuse labels that do not fit, before anything is computed.

        The usual checks are in :mod:`~polyllama.core.labels`. This is not called where labels are traced or on another
        device: what would go wrong silently there, such as a shape that broadcasts, the loss refuses too.

        Args:
            labels: numbers or booleans, by the names of :attr:`labels`.
            attended: ``[B, S]`` booleans: which of the new tokens are attended to.

        Raises:
            InputError: what is wrong, in one line. As long as a task does not say otherwise, labels that are neither
                -100 nor a token id.
        """
        for name, array in labels.items():
            check_integers(array, name)
            check_token_ids(array, config.vocab_size, name)

    def loss(self, xp: Any, outputs: Mapping[str, Array], *labels: Any, **options: Any) -> Array:
        """The training loss, a scalar. Labels come as keywords, by the names of :attr:`labels`.

        Args:
            xp: the array namespace.
            options: ``config``, and what the caller gave: ``num_items_in_batch``.
        """
        raise UnsupportedError(f"task {self.name!r} has no loss", hint="leave labels out, or load it with another task")

    def option(self, config: LlamaConfig, name: str) -> Any:
        """The choice for one of :attr:`options` that `config` holds, or the default.

        Raises:
            ConfigError: a choice that the task does not know.
        """
        from .errors import ConfigError

        choices = self.options[name]
        chosen = config.extra.get(name, choices[0])
        if chosen not in choices:
            raise ConfigError(
                f"{name} is {chosen!r}, which task {self.name!r} does not know",
                hint=f"one of {', '.join(map(repr, choices))}",
            )
        return chosen
