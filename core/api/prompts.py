"""Prompts as token ids: of a text, of ids, of a list of either, of a padded array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

from ..array_kinds import kind_of
from ..errors import GenerationError, InputError
from ..messages import mention, subject


def is_array(value: Any) -> bool:
    """Whether a value is an array of a framework, so that an array is to come out."""
    return kind_of(value) is not None


def one_of(**given: Any) -> Any:
    """The one of several names for the same argument that was given; ``None`` where none was.

    Raises:
        InputError: several were.

    >>> one_of(prompts=None, inputs=3)
    3
    """
    found = {name: value for name, value in given.items() if value is not None}
    if len(found) > 1:
        raise InputError(f"{' and '.join(found)} are both given, and are the same", hint="give one of them")
    return next(iter(found.values()), None)


def refuse_outputs(options: Mapping[str, Any]) -> None:
    """Refuse what only an array of prompts is answered with.

    Raises:
        GenerationError: ``return_dict_in_generate`` or an output of steps.
    """
    names = ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states")
    for name in names:
        if options.get(name):
            raise GenerationError(
                mention(name, options[name])
                + " goes with an array of prompts: texts and lists give Generation objects",
                hint="give input_ids as an array; " + mention("logprobs") + " tells how likely each token was",
            )


def read_prompts(
    prompts: Any, input_ids: Any, attention_mask: Any, encode: Callable[[str], list[int]]
) -> tuple[bool, list[list[int]]]:
    """Return whether there is one prompt, and every prompt as ids; `encode` makes ids of a text.

    Raises:
        InputError: both or neither of `prompts` and `input_ids`, a mask without `input_ids`, or no prompt at all.
    """
    if (prompts is None) == (input_ids is None):
        raise InputError("give either prompts or input_ids")
    if input_ids is not None:
        return False, _unpadded(input_ids, attention_mask)
    if attention_mask is not None:
        raise InputError("attention_mask goes with input_ids", hint="a list of prompts needs no mask")
    if isinstance(prompts, str):
        return True, [encode(prompts)]
    if hasattr(prompts, "tolist"):
        prompts = prompts.tolist()
    if not isinstance(prompts, Sequence) or isinstance(prompts, (bytes, bytearray)):
        raise InputError(f"a prompt is text or token ids, not a {type(prompts).__name__}")
    if prompts and all(isinstance(item, Integral) for item in prompts):
        return True, [_ids(prompts, 0)]
    return False, [encode(p) if isinstance(p, str) else _ids(p, i) for i, p in enumerate(prompts)]


def _ids(prompt: Any, index: int) -> list[int]:
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    listed = isinstance(prompt, Sequence) and not isinstance(prompt, (str, bytes, bytearray))
    if not listed or not all(isinstance(item, Integral) and not isinstance(item, bool) for item in prompt):
        raise InputError(f"prompt {index} is neither text nor a list of token ids")
    return [int(item) for item in prompt]


def _unpadded(input_ids: Any, attention_mask: Any) -> list[list[int]]:
    """Rows of a padded array, without what the mask masks."""
    from ..forward.inputs import as_integers, as_mask, check_mask

    ids = as_integers(input_ids, "input_ids")
    if ids.ndim != 2:
        raise InputError(f"input_ids has shape {list(ids.shape)}, wanted [batch, sequence]")
    mask = None
    if attention_mask is not None:
        mask = check_mask(as_mask(attention_mask), ids.shape[0], ids.shape[1], 0)
    if mask is None:
        return [row.tolist() for row in ids]
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask has shape {list(mask.shape)}, input_ids {list(ids.shape)}")
    return [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]


def read_pad_token(token: Any, vocab_size: int) -> int:
    """A padding token's id, as Python's or an array library's integer.

    Raises:
        InputError: it is none of the vocabulary's.

    >>> read_pad_token(3, 32)
    3
    """
    if isinstance(token, bool) or not hasattr(token, "__index__") or not 0 <= int(token) < vocab_size:
        text = f" is {token!r:.80}, wanted one of the {vocab_size} ids of the vocabulary"
        raise InputError(subject("pad_token_id", token) + text)
    return int(token)
