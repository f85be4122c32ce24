"""The rows of one request: prompts and options checked against the model, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import numpy as np

from ..config.context_length import context_length
from ..errors import GenerationError, InputError, warn
from ..forward.adapters import named_adapters
from ..messages import counted, mention
from .arguments import warn_once
from .callables import NUMPY, ArrayKind, CallerCode, say_what_is_replaced
from .constrained import make_constraint
from .guidance import second_prompts
from .logit_processing import Processing
from .options import DEFAULT_MAX_NEW_TOKENS, GenerationOptions
from .request_plan import Prompt, RequestPlan, least_new_tokens
from .sequence import GeneratedSequence
from .stopping_criteria import GivenCriteria
from .streaming import StreamDecoder, TextAssembler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backend.protocol import Model


LARGEST_POWER = 80.0
"""Logarithm of the largest power of a length that texts are ranked by: a score over it is still a number of float32."""


class GenerationTokenizer(Protocol):
    """What generation asks of a tokenizer."""

    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def all_special_ids(self) -> Sequence[int]: ...
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...
    def ids_without_token(self, size: int) -> list[int]: ...
    def stream_decoder(self, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> StreamDecoder: ...


def make_rows(
    model: Model,
    tokenizer: GenerationTokenizer | None,
    prompts: Sequence[Sequence[int] | Prompt],
    options: GenerationOptions,
    *,
    open_end: bool = False,
    text: TextAssembler | None = None,
    texts: bool = True,
    record: bool = False,
    arrays: ArrayKind = NUMPY,
) -> list[GeneratedSequence]:
    """The rows of a request, in order of prompt and then of ``num_return_sequences``.

    Args:
        prompts: token ids, or what was made of an array.
        options: seeded.
        open_end: a row that reaches its budget keeps back what is not certain, for a text that goes on.
        text: what has begun so, of the one row that there is.
        texts: whether texts are wanted; without, only stop strings have them made.
        record: keep each step's scores.
        arrays: the kind that came in, which a caller's own code is given.

    Raises:
        InputError: a prompt that is no list of ids of the vocabulary, or empty without a bos token; an adapter that is
            not loaded.
        GenerationError: options that do not fit the model.
    """
    context = context_length(model.config)
    bos = options.bos_token_id
    if bos is None and tokenizer is not None:
        bos = tokenizer.bos_token_id
    bos = model.config.bos_token_id if bos is None else bos
    vocab_size = model.config.vocab_size
    checked = [_check_prompt(place, prompt, vocab_size, bos) for place, prompt in enumerate(prompts)]
    if options.adapter is not None:
        adapters = named_adapters(model.graph.adapters, options.adapter, len(checked))
        checked = [replace(prompt, adapter=name) for prompt, name in zip(checked, adapters, strict=True)]
    criteria = GivenCriteria.of(options)
    plan = replace(_make_plan(options, vocab_size, tokenizer, criteria), open_end=open_end, record=record)
    if text is not None and plan.constraint is not None:
        raise GenerationError(
            f"{plan.constraint.asked.name} holds a whole text, and this one goes on from another stream",
            hint="generate it in one stream, with a larger max_new_tokens",
        )
    if criteria.called or options.logits_processor or options.prefix_allowed_tokens_fn is not None:
        say_what_is_replaced(options)
        code = CallerCode(options.logits_processor, criteria.called, options.prefix_allowed_tokens_fn, arrays)
        plan = replace(plan, code=code)
    negatives = second_prompts(options, checked, vocab_size)
    rows: list[GeneratedSequence] = []
    for place, prompt in enumerate(checked):
        budget = criteria.budget(prompt.counted)
        budget = _budget(options, prompt, context) if budget is None else budget
        _check_length_penalty(options, budget)
        for _ in range(options.num_return_sequences):
            decoder, before = None, ""
            if tokenizer is not None and (texts or plan.stop_strings):
                decoder = _decoder(tokenizer, prompt.ids, options, constrained=plan.constraint is not None)
                before = "" if texts else _text_of(tokenizer, prompt.ids, options.skip_special_tokens)
            rows.append(GeneratedSequence(len(rows), prompt, budget, plan, decoder, text, before))
            rows[-1].negative = None if negatives is None else negatives[place]
    return rows


def _decoder(
    tokenizer: GenerationTokenizer, ids: Sequence[int], options: GenerationOptions, *, constrained: bool
) -> StreamDecoder:
    """What makes a row's text; under a constraint nothing changes the text that the tokens' bytes make."""
    how: dict[str, Any] = {"clean_up_tokenization_spaces": False} if constrained else {}
    if options.shown:
        how["shown_special_ids"] = options.shown
    make: Any = tokenizer.stream_decoder  # these are our own tokenizers', which a foreign one is told before
    decoder: StreamDecoder = make(ids, options.skip_special_tokens, **how)
    return decoder


def _budget(options: GenerationOptions, prompt: Prompt, context: int | None) -> int:
    """Return how many tokens a prompt may get."""
    prompt_length, least = prompt.counted, least_new_tokens(options, prompt)
    asked = "min_new_tokens" if options.min_new_tokens else "min_length"
    if options.max_new_tokens is not None:
        if options.max_new_tokens < least:
            raise GenerationError(
                options.named("max_new_tokens")
                + f" after a prompt of {prompt_length} is less than "
                + options.named(asked)
                + " wants",
                hint="give a larger max_new_tokens, or a smaller " + asked,
            )
        return options.max_new_tokens
    if options.max_length is not None:
        if prompt_length >= options.max_length:
            raise GenerationError(
                f"the prompt has {counted(prompt_length, 'token')}, "
                + options.named("max_length")
                + " counts prompt and text together",
                hint="give " + mention("max_new_tokens") + ", or a larger max_length",
            )
        if options.max_length - prompt_length < least:
            raise GenerationError(
                options.named("max_length")
                + f" leaves {counted(options.max_length - prompt_length, 'token')} after a prompt of {prompt_length}, "
                + options.named(asked)
                + " wants more",
                hint="give " + mention("max_new_tokens") + ", or a larger max_length",
            )
        return options.max_length - prompt_length
    default = max(DEFAULT_MAX_NEW_TOKENS, least)
    if context is None or prompt_length >= context:
        return default
    return max(min(default, context - prompt_length), least)


def _check_length_penalty(options: GenerationOptions, budget: int) -> None:
    """Refuse a power of the length that float32, in which texts are ranked, has no number for."""
    if options.num_beams > 1 and abs(options.length_penalty) * math.log(max(budget, 2)) > LARGEST_POWER:
        raise GenerationError(
            options.named("length_penalty") + f" is too far from 0 to rank texts of up to {budget} tokens",
            hint="give " + mention("length_penalty") + " a number such as 2.0 or -2.0",
        )


def _check_prompt(place: int, prompt: Sequence[int] | Prompt, vocab_size: int, bos: int | None) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str | bytes):
        raise InputError(f"prompt {place} is text, wanted token ids", hint="encode it with the tokenizer first")
    try:
        array = np.asarray(prompt)
    except ValueError:  # lists of unequal length
        array = np.zeros((0, 0))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"prompt {place} is not a list of token ids", hint="wanted whole numbers, such as [1, 15043]")
    ids: list[int] = array.tolist()
    if not ids:
        if bos is None:
            raise InputError(
                f"prompt {place} is empty, and the tokenizer has no beginning-of-sequence token to start from",
                hint="give at least one token",
            )
        ids = [bos]
    for index, token_id in enumerate(ids):
        if not 0 <= token_id < vocab_size:
            raise InputError(
                f"prompt {place}, token {index}: id {token_id} is outside the vocabulary of {vocab_size}",
                hint="is it the tokenizer of this model?",
            )
    return Prompt(ids, counted=len(ids))


def _text_of(tokenizer: GenerationTokenizer, ids: Sequence[int], skip_special_tokens: bool) -> str:
    """The text of a prompt, in whose end a stop string may begin."""
    decoder = tokenizer.stream_decoder((), skip_special_tokens)
    return "".join(decoder.push(token_id) for token_id in ids)


def _check_ids(options: GenerationOptions, vocab_size: int) -> None:
    """Refuse ids that the model has not."""
    named: dict[str, Iterable[int]] = {
        "stop_token_ids": options.stop_token_ids,
        "logit_bias": options.logit_bias,
        "suppress_tokens": options.suppress_tokens,
        "begin_suppress_tokens": options.begin_suppress_tokens,
        "bad_words_ids": [token_id for word in options.bad_words_ids for token_id in word],
        "sequence_bias": [token_id for ids, _ in options.sequence_bias for token_id in ids],
        "forced_bos_token_id": () if options.forced_bos_token_id is None else (options.forced_bos_token_id,),
        "forced_eos_token_id": options.forced_eos_token_id,
    }
    for name, ids in named.items():
        for token_id in ids:
            if token_id >= vocab_size:
                raise GenerationError(f"{name}: id {token_id} is outside the vocabulary of {vocab_size}")


def _make_plan(
    options: GenerationOptions, vocab_size: int, tokenizer: GenerationTokenizer | None, criteria: GivenCriteria
) -> RequestPlan:
    """Check what the options say about ids and stop strings against the model and tokenizer, and put it together."""
    _check_ids(options, vocab_size)
    if options.stop and tokenizer is None:
        raise GenerationError("stop strings need a tokenizer, and this model has none", hint="use stop_token_ids")
    # An eos id beyond the vocabulary (a config's default) can never come up; it is no mistake of the request's.
    end_ids = options.eos_token_id if criteria.eos_token_id is None else criteria.eos_token_id
    ending: dict[int, int | str] = {i: i for i in (*end_ids, *options.stop_token_ids) if i < vocab_size}
    strings: list[str] = []
    for stop in options.stop:
        special = _special_id(stop, tokenizer) if options.skip_special_tokens else None
        if special is None:
            strings.append(stop)
        else:
            ending[special] = stop
    masked = _masked(tokenizer, vocab_size, ending)
    alone = {(token_id,) for token_id in options.eos_token_id}  # a text may end, whatever words are bad
    processing = Processing(
        logit_bias=tuple(options.logit_bias.items()),
        repetition_penalty=options.repetition_penalty,
        frequency_penalty=options.frequency_penalty,
        presence_penalty=options.presence_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        bad_words=tuple(tuple(word) for word in options.bad_words_ids if tuple(word) not in alone),
        suppressed=tuple(options.suppress_tokens),
        suppressed_at_first=tuple(options.begin_suppress_tokens),
        min_new_tokens=options.min_new_tokens,
        ending=tuple(ending),
        sequence_bias=tuple((tuple(ids), bias) for ids, bias in options.sequence_bias),
        only_finite=options.remove_invalid_values,
        decay=options.exponential_decay_length_penalty,
    )
    if options.exponential_decay_length_penalty is not None and not ending:
        warn_once(mention("exponential_decay_length_penalty") + " without effect: no id ends a text", "decay")
    # One more than can end, so that as many texts go on as there are beams.
    per_beam = max(2, 1 + len({*options.eos_token_id, *ending}))
    filters = options.filters
    if filters is not None and options.num_beams > 1:
        filters = replace(filters, least=per_beam)
    plan = RequestPlan(options, filters, processing, ending, tuple(strings), vocab_size, masked, per_beam=per_beam)
    return replace(plan, constraint=make_constraint(options, tokenizer, vocab_size, ending))


_told: WeakSet[GenerationTokenizer] = WeakSet()


def _masked(tokenizer: GenerationTokenizer | None, vocab_size: int, ending: Container[int]) -> NDArray[np.int64] | None:
    """The ids that are never chosen because they stand for no token; said once for each tokenizer.

    An id that ends the text is chosen whatever it stands for.
    """
    ids = [] if tokenizer is None else [i for i in tokenizer.ids_without_token(vocab_size) if i not in ending]
    if not ids or tokenizer is None:
        return None
    if tokenizer not in _told:
        _told.add(tokenizer)
        many = f"the {len(ids)} ids that are none ({ids[0]} to {ids[-1]}) are" if len(ids) > 1 else f"id {ids[0]} is"
        warn(
            f"the model's vocabulary has {vocab_size} ids, of which the tokenizer has tokens for "
            f"{vocab_size - len(tokenizer.ids_without_token(vocab_size))}; {many} never generated"
        )
    return np.array(ids, np.int64)


def _special_id(stop: str, tokenizer: GenerationTokenizer | None) -> int | None:
    """The id of a stop string that is a special token: the text leaves those out, so only the id can be found."""
    if tokenizer is None:
        return None
    ids = tokenizer.encode(stop, add_special_tokens=False)
    return ids[0] if len(ids) == 1 and ids[0] in tokenizer.all_special_ids else None
