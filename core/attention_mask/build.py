"""From texts to the masks that the model would use for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError, TokenizerError, UnknownArgumentError, UnsupportedError
from ..forward.arguments import ForwardArguments
from ..forward.inputs import read_inputs
from ..forward.layout import lay_out
from ..graph.node import causal_mask
from ..messages import counted, did_you_mean, mention, subject
from ..tasks.loaded_model import FIELDS_ALONE
from ..tasks.outputs import as_float32
from .layers_and_heads import heads_of, layers_of
from .picture import AttentionMask
from .rows import Heat, Row
from .token_texts import token_labels

if TYPE_CHECKING:
    import numpy as np

    from ..config.schema import LlamaConfig
    from ..tasks.task import Task
    from ..tokenizer.tokenizer import Tokenizer

SIDES = ("left", "right")
MAX_CELLS = 1 << 25
"""Largest picture, over all rows; beyond it the mask alone would take gigabytes as text."""


@dataclass(frozen=True)
class Batch:
    """Inputs of a forward pass, as :meth:`polyllama.Llama.forward` takes them, and what they came from."""

    input_ids: np.ndarray
    attention_mask: np.ndarray | None
    position_ids: np.ndarray | None
    texts: np.ndarray
    titles: tuple[str, ...]

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``forward``."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


def token_rows(texts: Any, tokenizer: Tokenizer | None, *, add_special_tokens: bool) -> list[list[int]]:
    """The ids of one text or several; lists of ids are taken as they are.

    Raises:
        InputError: neither text nor ids, or a text without a token.
        TokenizerError: text for a model without a tokenizer.
    """
    if isinstance(texts, str):
        texts = [texts]
    elif hasattr(texts, "tolist"):
        texts = texts.tolist()
    if not isinstance(texts, Sequence) or isinstance(texts, (bytes, bytearray)):
        raise InputError(f"give a text, a list of texts or lists of token ids, not a {type(texts).__name__}")
    if texts and all(isinstance(item, Integral) for item in texts):
        texts = [texts]
    if not texts:
        raise InputError("there is no text", hint="give at least one")
    rows = [_ids(text, index, tokenizer, add_special_tokens) for index, text in enumerate(texts)]
    for index, row in enumerate(rows):
        if not row:
            raise InputError(f"text {index + 1} has no tokens", hint="leave it out, or add the special tokens")
    return rows


def _ids(text: Any, index: int, tokenizer: Tokenizer | None, special: bool) -> list[int]:
    if isinstance(text, str):
        if tokenizer is None:
            raise TokenizerError("a model made from a config alone has no tokenizer", hint="give token ids")
        return list(tokenizer.encode(text, add_special_tokens=special))
    listed = text.tolist() if hasattr(text, "tolist") else text
    if not isinstance(listed, Sequence) or not all(isinstance(i, Integral) and not isinstance(i, bool) for i in listed):
        raise InputError(f"text {index + 1} is neither text nor a list of token ids")
    return [int(item) for item in listed]


def pack(rows: list[list[int]]) -> Batch:
    """Every text in one row, told apart by positions that begin again.

    Raises:
        InputError: there is only one.
    """
    import numpy as np

    if len(rows) < 2:
        raise InputError("one text cannot be packed", hint="give two or more")
    _check_size(1, sum(map(len, rows)))
    ids = np.array([[token for row in rows for token in row]], np.int64)
    positions = np.concatenate([np.arange(len(row)) for row in rows])[None]
    texts = np.repeat(np.arange(len(rows)), [len(row) for row in rows])[None]
    return Batch(ids, None, positions, texts, (f"{counted(len(rows), 'text')} packed into one row",))


def pad(rows: list[list[int]], side: str, pad_token_id: int) -> Batch:
    """A row per text, padded to the longest.

    Raises:
        InputError: a side that is neither "left" nor "right".
    """
    import numpy as np

    if side not in SIDES:
        raise InputError(subject("padding_side", side) + f" is {side!r}", hint="give 'left' or 'right'")
    longest = max(map(len, rows))
    _check_size(len(rows), longest)
    ids = np.full((len(rows), longest), pad_token_id, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    titles = []
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[index, place] = row
        mask[index, place] = 1
        padded = f", {longest - len(row)} of padding on the {side}" if len(row) < longest else ""
        titles.append(f"text {index + 1} of {len(rows)}{padded}" if len(rows) > 1 else "")
    return Batch(ids, mask if len(rows) > 1 else None, None, np.zeros_like(ids), tuple(titles))


def _check_size(batch: int, length: int) -> None:
    if batch * length**2 > MAX_CELLS:
        raise InputError(
            f"{batch} x {length} x {length} cells are too many for a picture (at most {MAX_CELLS:,})",
            hint="take a shorter text, or fewer",
        )


def masked_rows(batch: Batch, config: LlamaConfig, task: Task, tokenizer: Tokenizer | None) -> tuple[Row, ...]:
    """The rows of a picture, without heat: inputs checked and laid out by what every backend uses for that.

    Raises:
        InputError: an id outside the vocabulary.
    """
    import numpy as np

    given = read_inputs(config, task, None, ForwardArguments(**batch.arguments()))
    count, length = batch.input_ids.shape
    layout = lay_out(
        np,
        new=length,
        past=0,
        attention_mask=given.attention_mask,
        past_mask=None,
        position_ids=given.position_ids,
        masked=given.masked,
    )
    mask = layout.mask if layout.mask is not None else causal_mask(np, length, length, batch.input_ids)
    masks = np.broadcast_to(mask, (count, 1, length, length))[:, 0]
    positions = np.broadcast_to(layout.positions, (count, length))
    attended = np.ones((count, length), bool) if layout.key_mask is None else layout.key_mask
    rows = []
    for index in range(count):
        ids, real = batch.input_ids[index].tolist(), attended[index].tolist()
        labels = token_labels(tokenizer, ids)
        rows.append(
            Row(
                title=batch.titles[index],
                token_ids=tuple(ids),
                labels=tuple(label if flag else "(padding)" for label, flag in zip(labels, real, strict=True)),
                positions=tuple(positions[index].tolist()),
                attended=tuple(real),
                texts=tuple(batch.texts[index].tolist()),
                mask=masks[index],
                heats=(),
                start=0,
                total=length,
            )
        )
    return tuple(rows)


class RunsPasses(Protocol):
    """What attention weights are asked of: a loaded model."""

    @property
    def backend(self) -> str: ...
    @property
    def model(self) -> Any: ...
    def forward(self, input_ids: Any = None, **options: Any) -> Any: ...


@dataclass(frozen=True)
class MaskSource:
    """A model whose masks are drawn: what they follow from, and how to get the rest where it is needed.

    Attributes:
        name: as titles say it.
        tokenizer: loads it; ``None`` for a model that has none.
        loaded: the model with its weights.
    """

    name: str
    config: LlamaConfig
    task: Task
    tokenizer: Callable[[], Tokenizer | None]
    loaded: Callable[[], RunsPasses]


def build_picture(
    source: MaskSource,
    texts: Any,
    *,
    padding_side: str | None = None,
    packed: bool = False,
    add_special_tokens: bool = True,
    attention: bool = False,
    layer: int | str | None = None,
    head: int | str | None = None,
    **unknown: Any,
) -> AttentionMask:
    """The masks that a model uses for these texts; see :meth:`polyllama.AttentionMaskVisualizer.picture`."""
    for name in unknown:
        options = list(inspect.signature(build_picture).parameters)[2:-1]
        advice, known = did_you_mean(name, options), f"it takes {', '.join(options)}"
        raise UnknownArgumentError(name, function="attention_mask", advice=advice, otherwise=known)
    if not attention and (layer is not None or head is not None):
        raise InputError(
            mention("layer") + " and head are of attention weights", hint="pass " + mention("attention", True) + " too"
        )
    if packed and padding_side is not None:
        raise InputError(
            "packed texts are not padded", hint="leave out " + mention("packed") + " or " + mention("padding_side")
        )
    layers, heads = layers_of(layer, source.config), heads_of(head, source.config)
    tokenizer = _tokenizer_for(source, texts)
    rows = token_rows(texts, tokenizer, add_special_tokens=add_special_tokens)
    side = padding_side or (tokenizer.padding_side if tokenizer is not None else "left")
    batch = pack(rows) if packed else pad(rows, side, _pad_token_id(source.config, tokenizer))
    found = masked_rows(batch, source.config, source.task, tokenizer)
    if attention:
        found = _with_heats(source, found, batch, layers, heads)
    return AttentionMask(source.name, found)


def _tokenizer_for(source: MaskSource, texts: Any) -> Tokenizer | None:
    """The tokenizer, an error where text needs one and there is none."""
    try:
        return source.tokenizer()
    except TokenizerError:
        if isinstance(texts, str) or any(isinstance(text, str) for text in texts):
            raise
        return None


def _pad_token_id(config: LlamaConfig, tokenizer: Tokenizer | None) -> int:
    """What fills up a row; any id will do, as nothing looks at it."""
    known = (tokenizer.pad_token_id if tokenizer is not None else None, config.pad_token_id)
    return next((i for i in known if i is not None and 0 <= i < config.vocab_size), 0)


def _with_heats(
    source: MaskSource, rows: tuple[Row, ...], batch: Batch, layers: list[int], heads: list[int | str]
) -> tuple[Row, ...]:
    """The rows with attention weights of these layers and heads."""
    llm = source.loaded()
    keep: dict[str, Any] = {"logits_to_keep": 1} if source.task.generates else {}
    given = getattr(
        llm.forward(**batch.arguments(), **keep, **{**FIELDS_ALONE, "output_attentions": True}), "attentions", None
    )
    if given is None:
        raise UnsupportedError(
            f"backend {llm.backend!r} gives no attention weights", hint="take another, such as reference"
        )
    heats: list[list[Heat]] = [[] for _ in rows]
    for layer in layers:
        weights = as_float32(given[layer])  # [B, H, S, S]
        for index, own in enumerate(heats):
            of_row = weights[index]
            own += [Heat(layer, h, of_row.mean(axis=0) if isinstance(h, str) else of_row[h]) for h in heads]
    return tuple(replace(row, heats=tuple(own)) for row, own in zip(rows, heats, strict=True))
