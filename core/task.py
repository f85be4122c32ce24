"""What a task head is: its nodes, labels, outputs and loss, and what a person reads of its output.

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
    from .model import Llama
    from .prediction.windows import Encoder, Example, Window


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
        any_trunk: whether the trunk of any checkpoint will do, so that the head there, of another task, is left aside
            without a word.
        whole_texts: whether a row must be given in one pass, not after others from a cache.
        texts: names of the texts that ``predict`` takes for one result; the first may be given by position.
        optional_texts: further ones that may be given.
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
    any_trunk: ClassVar[bool] = False
    whole_texts: ClassVar[bool] = False
    texts: ClassVar[tuple[str, ...]] = ("text",)
    optional_texts: ClassVar[tuple[str, ...]] = ()

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

    def result(self, example: Example) -> Any:
        """What a person reads of the output for one text: ``predict``, ``pipeline`` and the command line give it.

        A dataclass is shown field by field, as is a list of them;
        :class:`~polyllama.core.prediction.results.Label`, ``Entity`` and ``Answer`` are there to be used. Keyword-only
        arguments are options of ``predict``: ``def result(self, example, *, top_k=1)``.

        Args:
            example: the texts, their tokens, and the outputs as NumPy arrays without padding.
        """
        raise UnsupportedError(
            f"task {self.name!r} does not say how its output becomes a result",
            hint="use forward, or give the task a method result",
        )

    def encode(self, encoder: Encoder, texts: Mapping[str, str]) -> list[Window]:
        """The rows that the model is given for one result: one, if the task does not say otherwise.

        Keyword-only arguments are options of ``predict``. ``encoder.whole`` makes one row, ``encoder.strided`` windows
        of a long text; both can say where in the text each token is.
        """
        return [encoder.whole(*texts.values())]

    def together(self, results: list[Any]) -> Any:
        """What ``predict`` gives for a list of texts, from the result of each: a list of them."""
        return results

    def predict(self, llm: Llama, given: Any, options: Mapping[str, Any]) -> Any:
        """All of ``predict``, for a task whose results are no matter of one pass over each text."""
        from .prediction.predict import predict

        return predict(llm, self, given, options)

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
