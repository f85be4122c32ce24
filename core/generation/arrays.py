"""``generate`` as transformers documents it: an array of prompts in, one array of the prompts and what follows out.

The prompt stays as it came, padding in place, and the new tokens stand behind it; a row that ended before others is
filled with the padding token. Rows are run without their padding, on whichever side it is, so each gets what it gets
alone: where transformers, given padding on the right, goes on from the padding, the text goes on here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..array_kinds import to_kind
from ..errors import GenerationError
from ..forward.documented_caches import DocumentedCache
from ..graph.cache import Cache
from ..messages import mention
from .arguments import warn_once
from .array_outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from .array_prompts import ArrayPrompts
from .callables import ArrayKind
from .continuing import Continued, adapters_of, kept_on_error, remember_adapters
from .loop import GenerationRun
from .options import GenerationOptions
from .recording import Recording
from .request import GenerationTokenizer
from .streamers import Streamer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backend.protocol import Model
    from .outputs import StreamEvent
    from .request_plan import Prompt
    from .scheduler import Scheduler
    from .sequence import GeneratedSequence

_OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def generate_array(
    model: Model,
    tokenizer: GenerationTokenizer | None,
    given: ArrayPrompts,
    options: GenerationOptions,
    *,
    streamer: Streamer | None = None,
    scheduler: Scheduler | None = None,
    past_key_values: Any = None,
) -> Any:
    """Generate for every row of an array.

    Args:
        tokenizer: for stop strings, and for ids that stand for no token; no text is made.
        given: the prompts.
        streamer: is handed the prompts, then the tokens of each step.
        scheduler: which runs other requests of the model too.
        past_key_values: a cache that holds a beginning of the rows, and all but the last token of each afterwards.

    Returns:
        ``[rows * num_return_sequences, width + new]`` ids of the kind, element type and device that came in; with
        ``return_dict_in_generate`` a :class:`~polyllama.GenerateDecoderOnlyOutput` that holds them, with beams a
        :class:`~polyllama.GenerateBeamDecoderOnlyOutput`.

    Raises:
        GenerationError: options that do not fit the model or do not go together.
    """
    options = _checked(given, options)
    many = options.num_return_sequences
    if streamer is not None:
        refuse_beams(options, "a streamer")
        in_step(options, len(given.ids) * many, "a streamer")
        options = in_single_steps(options, len(given.ids))
    pad = _padding(given, options, model.config.vocab_size)
    recording = continued = None
    if options.return_dict_in_generate:
        wanted = {name.removeprefix("output_"): getattr(options, name) for name in _OUTPUTS}
        recording = Recording(given.width, pad, **wanted)
    if past_key_values is not None:
        in_step(options, len(given.ids), "past_key_values")
        continued = Continued.read(model, past_key_values, given, options)
        recording = recording or Recording(given.width, pad)
        recording.begun = continued.cache
    arrays = ArrayKind(given.kind, given.device)
    how: dict[str, Any] = {"recording": recording, "scheduler": scheduler, "arrays": arrays}
    run = GenerationRun(model, tokenizer, given.prompts(), options, texts=False, **how)
    if continued is not None:
        continued.check_budget(given.width, max(row.budget for row in run.sequences))
    prompts = np.repeat(given.ids, many, axis=0)

    def out(array: NDArray[Any], *, host: bool = False) -> Any:
        device = None if host and given.kind == "torch" else given.device
        return to_kind(np.ascontiguousarray(array.astype(given.dtype)), given.kind, device)

    with kept_on_error(continued):
        new = drained(run, streamer, lambda array: out(array, host=True), prompts, pad)
    sequences = out(np.concatenate([prompts, new], axis=1))
    if recording is not None:
        remember_adapters(recording.cache, adapters_of(model, options, len(given.ids)))
        recording.cache = _handed_out(model, recording.cache, continued, given)
    if recording is None or not options.return_dict_in_generate:
        return sequences
    if options.num_beams > 1:
        return _beam_output(recording, sequences, options, given, run.sequences)
    return GenerateDecoderOnlyOutput(sequences=sequences, **_recorded(recording, options, given))


def _handed_out(model: Model, cache: Any, continued: Continued | None, given: ArrayPrompts) -> Any:
    """The newest cache as the caller gets it: in what came with the call, its layers of the kind of the prompts."""
    if continued is not None:
        cache = continued.hand_back(model, cache, given.device if given.kind == "torch" else None)
    if isinstance(cache, Cache | DocumentedCache):
        cache.shown_as = (given.kind, given.device)
    return cache


def drained(
    run: GenerationRun,
    streamer: Streamer | None,
    out: Callable[[NDArray[Any]], Any],
    prompts: NDArray[Any],
    pad_token_id: int,
) -> NDArray[np.int64]:
    """Run to the end and return the new tokens ``[rows, new]``; a row that ended early is filled with padding.

    Args:
        streamer: is handed `prompts`, then ``[rows]`` tokens of each step, as `out` makes them.
    """
    if streamer is not None:
        streamer.put(out(prompts))
    with closing(run.steps()) as steps:  # who fails here leaves no job behind that goes on
        for events in steps:
            if streamer is not None and events:
                streamer.put(out(_step(events, len(run.sequences), pad_token_id)))
    if streamer is not None:
        streamer.end()
    longest = max((len(row.token_ids) for row in run.sequences), default=0)
    new = np.full((len(run.sequences), longest), pad_token_id, np.int64)
    for row, ids in zip(new, (sequence.token_ids for sequence in run.sequences), strict=True):
        row[: len(ids)] = ids
    return new


def padded(prompts: Sequence[Prompt], many: int, pad_token_id: int) -> NDArray[np.int64]:
    """The ids of prompts of any length as one array, padded on the left, each `many` times."""
    width = max((len(prompt.ids) for prompt in prompts), default=0)
    found = np.full((len(prompts), width), pad_token_id, np.int64)
    for row, prompt in zip(found, prompts, strict=True):
        row[width - len(prompt.ids) :] = prompt.ids
    return np.repeat(found, many, axis=0)


def in_step(options: GenerationOptions, rows: int, what: str) -> None:
    """Refuse to run some rows after others where what is asked for needs all of them at every step.

    Raises:
        GenerationError: ``batch_size`` is smaller than the number of rows.
    """
    if options.batch_size is not None and options.batch_size < rows:
        raise GenerationError(
            mention("batch_size", options.batch_size) + f" and {what} do not go together: rows would not be in step",
            hint="leave out " + mention("batch_size"),
        )


def refuse_beams(options: GenerationOptions, what: str) -> None:
    """Refuse to show a text as it comes where beams have none before their end.

    Raises:
        GenerationError: ``num_beams`` is above 1.
    """
    if options.num_beams > 1:
        raise GenerationError(
            options.named("num_beams") + f" and {what} do not go together: a beam has no text before its end",
            hint="give " + mention("num_beams", 1) + ", or use generate without it",
        )


def in_single_steps(options: GenerationOptions, prompts: int) -> GenerationOptions:
    """The options without guesses, where each of several rows is to give one token a step."""
    guesses = options.prompt_lookup_num_tokens is not None or options.draft is not None
    if not guesses or prompts * options.num_return_sequences == 1:
        return options
    about = mention("prompt_lookup_num_tokens") if options.draft is None else mention("assistant_model")
    warn_once(about + " without effect: a streamer is given a token of each row at every step", "streamer", "guesses")
    return replace(options, prompt_lookup_num_tokens=None, draft=None)


def _step(events: Sequence[StreamEvent], rows: int, pad_token_id: int) -> NDArray[np.int64]:
    tokens = np.full(rows, pad_token_id, np.int64)
    for event in events:
        tokens[event.row] = event.token_id
    return tokens


def _checked(given: ArrayPrompts, options: GenerationOptions) -> GenerationOptions:
    """The options as an array of prompts has them; what they ask for in vain is refused or said."""
    if options.logprobs is not None:
        raise GenerationError(
            mention("logprobs", options.logprobs) + " goes with texts and lists, which give Generation objects",
            hint="an array has output_scores=True with return_dict_in_generate=True",
        )
    if given.embeds is not None:
        if not options.use_cache:
            warn_once(
                "use_cache=False without effect: embeddings of the prompt are given, and kept as keys and values",
                "embeddings",
                "use_cache",
            )
            options = replace(options, use_cache=True)
        if not given.ids.shape[1]:
            _say_unknown_prompt(options)
    asked = [name for name in _OUTPUTS if getattr(options, name)]
    if asked and not options.return_dict_in_generate:
        warn_once(f"{', '.join(asked)} without effect: return_dict_in_generate is not True", "no dict", *asked)
    if options.return_dict_in_generate:
        many = 1 if options.num_beams > 1 else options.num_return_sequences
        in_step(options, len(given.ids) * many, "return_dict_in_generate")
        whole = [name for name in ("output_attentions", "output_hidden_states") if name in asked]
        if options.prefill_chunk_size is not None and whole:
            raise GenerationError(
                mention("prefill_chunk_size", options.prefill_chunk_size)
                + f" and {' and '.join(whole)} do not go together: they are of the whole prompt",
                hint="leave out " + mention("prefill_chunk_size"),
            )
    return options


def _say_unknown_prompt(options: GenerationOptions) -> None:
    """Embeddings are no ids, so what looks at the prompt's ids sees none."""
    blind = [n for n, off in (("repetition_penalty", 1.0), ("no_repeat_ngram_size", 0)) if getattr(options, n) != off]
    if blind:
        warn_once(
            f"{' and '.join(blind)} see new tokens alone: of the prompt there are embeddings and no input_ids",
            "embeddings",
            *blind,
        )


def _padding(given: ArrayPrompts, options: GenerationOptions, vocab_size: int) -> int:
    """The id that stands behind rows that have ended."""
    ending = [token_id for token_id in options.eos_token_id if token_id < vocab_size]
    if options.num_beams > 1 and not options.pad_token_id and ending:
        return ending[0]  # transformers' beam search takes a padding token of 0 for none
    if options.pad_token_id is not None:
        if options.pad_token_id >= vocab_size:
            text = options.named("pad_token_id") + f" is outside the vocabulary of {vocab_size}"
            raise GenerationError(text, hint="give an id of the model")
        return options.pad_token_id
    if ending:
        return ending[0]
    if options.stop and len(given.ids) * options.num_return_sequences > 1:
        raise GenerationError(
            "rows end one before the other by stop strings, and there is no id to fill them with",
            hint="give pad_token_id",
        )
    return 0


def _beam_output(
    recording: Recording,
    sequences: Any,
    options: GenerationOptions,
    given: ArrayPrompts,
    rows: Sequence[GeneratedSequence],
) -> GenerateBeamDecoderOnlyOutput:
    scores = np.array([row.score for row in rows], np.float32)
    indices = np.full((len(rows), max(len(row.beams) for row in rows)), -1, np.int32)
    for place, row in enumerate(rows):
        number = place // options.num_return_sequences
        indices[place, : len(row.beams)] = np.array(row.beams, np.int32) + number * options.num_beams
    return GenerateBeamDecoderOnlyOutput(
        sequences=sequences,
        sequences_scores=to_kind(scores, given.kind, given.device) if options.output_scores else None,
        beam_indices=to_kind(indices, given.kind, given.device),
        **_recorded(recording, options, given),
    )


def _recorded(recording: Recording, options: GenerationOptions, given: ArrayPrompts) -> dict[str, Any]:
    def arrays(steps: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(to_kind(step, given.kind, given.device) for step in steps)

    def layers(steps: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        return tuple(arrays(step) for step in steps)

    return {
        "scores": arrays(recording.all_scores) if options.output_scores else None,
        "logits": arrays(recording.all_logits) if options.output_logits else None,
        "attentions": layers(recording.all_attentions) if options.output_attentions else None,
        "hidden_states": layers(recording.all_hidden_states) if options.output_hidden_states else None,
        "past_key_values": recording.cache,
    }
