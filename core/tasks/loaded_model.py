"""What a task head asks of a loaded model: its configuration and tokenizer, rows through it, texts and generation.

Heads know this protocol and not the facade: :class:`polyllama.Llama` is one that follows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..public import for_plugins

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig
    from ..tokenizer.tokenizer import Tokenizer
    from .outputs import ModelOutput


FIELDS_ALONE: Mapping[str, bool] = {
    "use_cache": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
}
"""Flags for whoever reads the task's own fields: all of them said, so that no configuration adds to what comes out."""


@for_plugins
class LoadedModel(Protocol):
    """A model with weights and a head, on some backend.

    Attributes:
        config: the model's configuration.
        tokenizer: the checkpoint's tokenizer; a ``TokenizerError`` where it has none.
        backend: name of the backend that runs it; `dtype` is what that computes in.
        training: whether it is in training mode, in which dropout changes what a pass gives.
        adapters: names of those among which each row of a pass may have its own.
    """

    @property
    def config(self) -> LlamaConfig: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def backend(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def training(self) -> bool: ...

    @property
    def adapters(self) -> tuple[str, ...]: ...

    def forward(self, input_ids: Any = None, *, attention_mask: Any = None, **flags: Any) -> ModelOutput:
        """Run rows ``[B, S]`` of token ids through the model once; ``.numpy()`` of the output gives NumPy arrays.

        Args:
            flags: ``use_cache``, ``output_hidden_states``, ``output_attentions``, ``return_dict``; the model's
                configuration may say otherwise where one is not given. ``adapter``: the name of one for each row.
        """
        ...

    def predict_each(self, given: Any, options: Any) -> Any:
        """Encode texts as the task says, run them in batches, and return the task's result of each.

        Args:
            given: a text, a mapping of names to texts, or a list of either; ``None`` where `options` name them all.
            options: texts by name, options of running, and keyword-only arguments of the task's methods.
        """
        ...

    def generate(self, prompts: Any = None, **options: Any) -> Any:
        """Generate from a prompt, or from each of a list of prompts."""
        ...
