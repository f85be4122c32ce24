"""Loading a model with an adapter: merged into its weights, or beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError, warn
from ..messages import counted, mention
from ..transforms.adapters.adapt_graph import adapt_graph
from ..transforms.adapters.adapt_weights import adapted_weights, merged_weights, replaced_weights
from ..transforms.adapters.adapter_file import AdapterFile
from ..transforms.adapters.adapter_tensors import Adapter
from .describe import has_tokenizer

if TYPE_CHECKING:
    from ..settings.schema import Settings
    from .describe import Described


def adapted(
    described: Described, settings: Settings, path: str | Path, *, merge: bool, **head: Any
) -> tuple[Described, Mapping[str, Any]]:
    """What is loaded with an adapter instead: the model as described, and its weights.

    What is merged is rounded once, to a float32 or float64 that is asked for or else to what it was stored in. Merged
    weights are quantized after merging, where that is asked for; beside packed ones an adapter stays as it is.

    Args:
        head: ``seed``, ``fresh_head`` and ``ignore_mismatched_sizes``: which heads start anew, and how.
    """
    from .read_weights import stored_weights

    plain = described.plain_graph if described.plain_graph is not None else described.graph
    adapter = Adapter(path, plain)
    stored = stored_weights(described, plain, settings, brought=adapter.replaced, **head)
    wide = settings.dtype in ("float32", "float64") and settings.quantize is None
    if merge:
        weights = merged_weights(stored, adapter, settings.dtype if wide else None)
    else:
        weights = replaced_weights(stored, adapter, exact=wide)
    graph = adapter.graph if described.plain_graph is None else described.graph
    if adapter.graph != plain and (described.plain_graph is not None or described.config.quantization is not None):
        what = "a head for a model whose head is tied" if adapter.untied else "a vocabulary of another size"
        raise UnsupportedError(
            f"{adapter.path}: brings {what}, which is not quantized here",
            hint="leave " + mention("quantize") + " out, or merge the adapter first and quantize the result",
        )
    if described.plain_graph is not None:
        from ..transforms.quantize_weights import quantized_weights

        weights = quantized_weights(weights, graph)
    if not merge:
        with_adapter = adapt_graph(graph, adapter)
        weights = adapted_weights(weights, graph, with_adapter, adapter)
        graph = with_adapter
    config = adapter.config(described.config)
    if config.vocab_size != described.config.vocab_size:
        described = replace(described, tokenizer_folder=tokenizer_folder(path, config.vocab_size))
    return replace(described, graph=graph, config=config), weights


def tokenizer_folder(path: str | Path, tokens: int) -> Path | None:
    """The folder of an adapter that changes the number of tokens, where it has the tokenizer that goes with them.

    Warns:
        PolyllamaWarning: it has none.
    """
    folder = AdapterFile(path).folder
    if has_tokenizer(folder):
        return folder
    warn(
        f"{folder}: brings a vocabulary of {counted(tokens, 'token')} and no tokenizer: "
        "the model's own does not know the new"
    )
    return None
