"""What a documented module has around its embeddings and its size: reading, replacing, tying, counting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...core.arguments import checked
from ...core.errors import InputError
from .module import LlamaModule

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


class Embeddings(LlamaModule):
    """The token embedding and the projection onto the vocabulary of a module."""

    _grads_hook: RemovableHandle | None = None

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another module in the place of the token embedding; it takes ids and gives ``[..., hidden_size]``."""
        self._replace(self.graph.decoder.embed.name, value, "set_input_embeddings")
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Module | None:
        """The projection onto the vocabulary, ``None`` where the head is none."""
        path = self._output_path()
        return None if path is None else self.get_submodule(path)

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Put another module in the place of the projection onto the vocabulary."""
        path = self._output_path()
        if path is None:
            raise InputError(f"set_output_embeddings: {type(self).__name__} has no projection onto the vocabulary")
        self._replace(path, value, "set_output_embeddings")

    def _output_path(self) -> str | None:
        head = self.graph.head
        path = None if head is None else head.path
        return path if path and self.graph.task == "causal-lm" else None

    def _replace(self, path: str, value: nn.Module, function: str) -> None:
        if not isinstance(value, nn.Module):
            raise InputError(f"{function}: wanted a module, not a {type(value).__name__}")
        parent, _, name = path.rpartition(".")
        setattr(self.get_submodule(parent), name, value)

    @checked
    def tie_weights(self, missing_keys: Any = None, recompute_mapping: bool = True) -> None:
        """Share the parameters again that the configuration ties: after one of them was replaced.

        Args:
            missing_keys, recompute_mapping: taken as documented; what is tied is what the configuration says, always.
        """
        self._tie()

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
        **options: Any,
    ) -> nn.Module:
        """Give the vocabulary another size; see :meth:`polyllama.Llama.resize_token_embeddings`.

        Returns:
            The token embedding.
        """
        self.llama.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing, **options)  # type: ignore[operator,union-attr]
        return self.get_input_embeddings()

    def enable_input_require_grads(self) -> None:
        """Record gradients from the embedding's output on, for adapters whose base is frozen."""
        if self._grads_hook is None:
            self._grads_hook = self.get_input_embeddings().register_forward_hook(_require_gradients)

    def disable_input_require_grads(self) -> None:
        """Undo :meth:`enable_input_require_grads`."""
        if self._grads_hook is not None:
            self._grads_hook.remove()
            self._grads_hook = None

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of parameters, tied ones once; packed weights count as what they stand for.

        Args:
            only_trainable: those that gradients are recorded for.
            exclude_embeddings: all but the token embedding.
        """
        # Scales and biases of packed weights count as nothing, the words as the weights that they stand for.
        sizes = {p.name: 0 if p.purpose == "quantization" else p.size for p in self.graph.parameters()}
        left_out = {id(p) for p in self.get_input_embeddings().parameters()} if exclude_embeddings else ()
        return sum(
            sizes.get(name, parameter.numel())
            for name, parameter in self.named_parameters()
            if id(parameter) not in left_out and (parameter.requires_grad or not only_trainable)
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of all parameters, and of the buffers beside them."""
        held = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _require_gradients(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    output.requires_grad_(True)
