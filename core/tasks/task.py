"""What a task head is: its nodes, labels, outputs and loss, and what a person reads of its output.

It contains no framework, and so runs on every backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import ConfigError, UnsupportedError
from ..messages import subject
from ..public import for_plugins
from .labels import check_integers, check_token_ids
from .outputs import ModelOutput

if TYPE_CHECKING:
    import numpy as np

    from ..config.schema import LlamaConfig
    from ..dtypes import Array
    from ..graph.node import Context, Node
    from ..graph.nodes import Decoder
    from .loaded_model import LoadedModel
    from .windows import Encoder, Example, Window


@for_plugins
class Task:
    """Base of task heads; a plugin subclasses it and registers a descriptor.

    Attributes:
        name: what ``Llama.load(task=...)`` calls it.
        architecture: the HF class name written into a saved config's ``architectures``.
        trunk_prefix: what the names of the trunk's weights begin with in this task's checkpoints; ``"model"`` in most.
        output_type: the class of what forward returns.
        outputs_per: what each entry of an output's first axes stands for. ``"token"``: ``[B, S, ...]``, one for each
            input token, whatever padding there is. ``"row"``: ``[B, ...]``, one for each row, made from those of its
            tokens that are not padding, so a batch of several rows needs a mask or a padding token. ``None``: neither
            is promised, so rows of unequal length never run together.
        generates: whether the outputs are logits ``[B, S, vocab_size]`` of the next token, from which text is
            generated; forward then takes ``logits_to_keep``.
        accepts_cache: whether tokens may follow earlier ones that a cache holds; if not, each row is given whole.
        labels: names of the arguments of forward that hold labels: all of them are given, or none.
        load_options: what ``Llama.load`` takes for this task alone: name -> values, the first the default. A choice is
            kept in the config, and so saved with the model; :meth:`load_option` reads it.
        texts: names of the texts that ``predict`` takes for one result; the first may be given by position.
        optional_texts: further ones that may be given.

    The checkpoint of another task will do for a head without weights of its own, such as a pooling one: the head stored
    there is passed over without a warning.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    trunk_prefix: ClassVar[str] = "model"
    output_type: ClassVar[type[ModelOutput]]
    outputs_per: ClassVar[Literal["token", "row"] | None] = None
    generates: ClassVar[bool] = False
    accepts_cache: ClassVar[bool] = True
    labels: ClassVar[tuple[str, ...]] = ("labels",)
    load_options: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    texts: ClassVar[tuple[str, ...]] = ("text",)
    optional_texts: ClassVar[tuple[str, ...]] = ()

    def head(self, config: LlamaConfig, decoder: Decoder) -> Node | None:
        """The node that turns the trunk's ``[B, S, E]`` into this task's raw output; ``None`` for no head.

        Its parameters' roles begin with ``"head"``: a checkpoint that has none of them gets fresh ones.
        """
        return None

    def outputs(self, ctx: Context, raw: Array, hidden: Array) -> dict[str, Array]:
        """Named output fields from the head's `raw` output and the trunk's `hidden` ``[B, S, E]``.

        Where ``logits_to_keep`` is a number, which only a task that :attr:`generates` is asked for, `hidden` may hold
        no more than these last positions.
        """
        raise NotImplementedError

    def check_labels(self, config: LlamaConfig, labels: Mapping[str, np.ndarray], attended: np.ndarray) -> None:
        """Refuse labels that do not fit, before anything is computed.

        The usual checks are in :mod:`~polyllama.core.tasks.labels`. This is not called where labels are traced or on
        another
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
            options: ``config``; ``attended`` ``[B, S]``, booleans which are false at padding, or ``None`` where no mask
                tells it; and what the caller gave: ``num_items_in_batch``.
        """
        raise UnsupportedError(f"task {self.name!r} has no loss", hint="leave labels out, or load it with another task")

    def examples(self, config: LlamaConfig) -> Iterable[Mapping[str, Any]]:
        """Passes that ``polyllama certify`` tries the loss and its gradients on: arguments of forward by name.

        For labels that are none of the usual forms, which the kit tries by itself where there are no examples here:
        numbers of labels or of tokens per token or per row, or values per row. A few short rows are enough.

        Args:
            config: of the tiny model that is tried, with its ``vocab_size``, ``num_labels`` and ``pad_token_id``.

        >>> import numpy as np
        >>> class Pairs(Task):
        ...     labels = ("better", "worse")
        ...     def examples(self, config):
        ...         ids = np.arange(1, 9).reshape(2, 4)
        ...         return [{"input_ids": ids, "better": np.array([0]), "worse": np.array([1])}]
        """
        return ()

    def result(self, example: Example) -> Any:
        """What a person reads of the output for one text: ``predict``, ``pipeline`` and the command line give it.

        A dataclass is shown field by field, as is a list of them;
        :class:`~polyllama.extend.Label`, ``Entity`` and ``Answer`` are there to be used. Keyword-only
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

    def combine_results(self, results: list[Any]) -> Any:
        """What ``predict`` returns for a list of texts, from the result of each: as it stands, a list of them."""
        return results

    def predict(self, model: LoadedModel, given: Any, options: Mapping[str, Any]) -> Any:
        """All of ``predict``; a task overrides it whose results are no matter of one pass over each text.

        Args:
            model: the model that the head was loaded with.
            given: a text, a mapping of names to texts, or a list of either; ``None`` where `options` name them all.
            options: texts by name, and the other arguments of ``predict``.
        """
        return model.predict_each(given, options)

    def load_option(self, config: LlamaConfig, name: str) -> Any:
        """The choice for one of :attr:`load_options` that `config` holds, or the default.

        Raises:
            ConfigError: a choice that the task does not know.
        """
        choices = self.load_options[name]
        chosen = config.extra.get(name, choices[0])
        if chosen not in choices:
            raise ConfigError(
                subject(name, chosen) + f" is {chosen!r}, which task {self.name!r} does not know",
                hint=f"one of {', '.join(map(repr, choices))}",
            )
        return chosen
