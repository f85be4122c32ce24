"""What training asks of a backend, and what :class:`~polyllama.Llama` offers for it.

A backend whose framework differentiates says so with ``trains = True``, and its models are
:class:`~polyllama.core.backend.training.Trains`. How a step of training is written is the framework's own: see
docs/training.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from ..arguments import checked_methods
from ..errors import UnsupportedError

if TYPE_CHECKING:
    from ..loading.load import Loaded


@checked_methods
class Training:
    """The part of :class:`~polyllama.Llama` that training needs; the weights and the backend are its own."""

    _loaded: Loaded

    if TYPE_CHECKING:

        def _tell_model(self) -> None: ...

        @property
        def module(self) -> Any: ...

    def train(self, mode: bool = True) -> Self:
        """Put the framework's module into training mode, where dropout acts and gradients are recorded.

        Args:
            mode: ``False`` is :meth:`eval`.

        Raises:
            UnsupportedError: the backend has no module to train; on jax, ``llm.model.apply`` takes ``train=True``.
        """
        if not mode:
            return self.eval()
        self.module.train()
        return self

    def eval(self) -> Self:
        """Put the framework's module out of training mode, as it is after loading; other backends are never in it."""
        module = getattr(self._loaded.model, "module", None)
        if module is not None:
            module.eval()
        return self

    @property
    def training(self) -> bool:
        """Whether the framework's module is in training mode; backends without one never are."""
        return bool(getattr(getattr(self._loaded.model, "module", None), "training", False))

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradients compute each layer anew instead of keeping what is in it."""
        return bool(getattr(self._loaded.model, "is_gradient_checkpointing", False))

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Train in less memory: keep what goes into each layer, and compute the rest anew for the gradients.

        It costs one more forward pass. Results and gradients stay the same, dropout's included. Takes effect while
        training; jax has no such mode and takes it whenever it differentiates.

        Args:
            gradient_checkpointing_kwargs: options of the framework's own: torch ``preserve_rng_state``,
                ``determinism_check``; jax ``policy``, ``prevent_cse``.

        Raises:
            UnsupportedError: the backend has no gradient checkpointing.

        Source: Chen et al. 2016, "Training deep nets with sublinear memory cost" (arXiv:1604.06174).
        """
        self._checkpointing().gradient_checkpointing_enable(gradient_checkpointing_kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """Keep what the layers compute, as at first."""
        self._checkpointing().gradient_checkpointing_disable()

    def _checkpointing(self) -> Any:
        model = self._loaded.model
        if not hasattr(model, "gradient_checkpointing_enable"):
            raise UnsupportedError(
                f"backend {self._loaded.choice.backend.name!r} has no gradient checkpointing",
                hint="load with a backend that trains: 'torch', 'mlx' or 'jax'",
            )
        return model

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
        *,
        seed: int | None = None,
    ) -> int:
        """Give the vocabulary another size, on any backend; ids keep their rows.

        The embedding and whatever else has a row per token id (``lm_head``) grow or shrink at their end, tied weights
        stay tied, ``config.vocab_size`` follows. On torch, mlx and jax the model stays the same object, and every
        parameter of another shape is a new one: make the optimizer afterwards.

        Args:
            new_num_tokens: rows from now on; by default as many as there are.
            pad_to_multiple_of: round that up to a multiple, which some hardware multiplies faster.
            mean_resizing: start each new row as the mean of the old ones, so that a trained model finds the new tokens
                neither likely nor unlikely (Hewitt 2021, "Initializing new word embeddings for pretrained language
                models"). Otherwise new rows are normal with standard deviation ``config.initializer_range``.
            seed: of random rows; by default the settings' seed, else 0.

        Returns:
            The number of rows.

        Raises:
            InputError: a number that is none, or below 1; or a special token of the config would be cut off.
            UnsupportedError: the embedding or the head over the vocabulary is packed, or an adapter lies beside it.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> llm.resize_token_embeddings(1793, pad_to_multiple_of=64)
        1856
        >>> llm.forward([[1800]]).logits.shape
        (1, 1, 1856)
        """
        from ..loading.resize import resize

        self._loaded = resize(self._loaded, new_num_tokens, pad_to_multiple_of, mean_resizing=mean_resizing, seed=seed)
        self._tell_model()
        return self._loaded.config.vocab_size
