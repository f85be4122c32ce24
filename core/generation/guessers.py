"""Who guesses a job's tokens: the text before, a draft model, or nobody, which is then said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..messages import mention
from .arguments import warn_once
from .draft import MOST, DraftGuesses
from .prompt_lookup import LONGEST, PromptLookup

if TYPE_CHECKING:
    from .job import Job
    from .options import GenerationOptions
    from .sequence import Proposer


def let_guess(job: Job, *, by_length: bool) -> None:
    """Give the rows of a job what guesses their tokens, where it asks for that and it can be.

    Args:
        by_length: the model's keys depend on how long a row has become.

    Warns:
        PolyllamaWarning: once, where it cannot be.
    """
    options = job.options
    if options.prompt_lookup_num_tokens is None and options.draft is None:
        return
    reason = None
    if job.alone:
        unguided = "every step is recorded" if job.recording is not None else "use_cache is False"
        reason = "a second prompt runs beside the first (guidance_scale)" if job.guided else unguided
        if options.num_beams > 1:
            reason = "beams are ranked at every step"
    elif by_length:
        reason = "this model's RoPE depends on the length, so that a wrong guess would have everything run again"
    elif any(row.prompt.embeds is not None for row in job.rows):
        reason = "of the prompt there are embeddings, and no ids to go by"
    if reason is not None:
        about = mention("prompt_lookup_num_tokens") if options.draft is None else mention("assistant_model")
        warn_once(about + f" without effect: {reason}", "guesses", reason)
        return
    for row in job.rows:
        row.proposer = _guesser(options, row.prompt.ids)


def _guesser(options: GenerationOptions, ids: Sequence[int]) -> Proposer:
    """What guesses a row's tokens: looking up comes before asking a model, which takes longer."""
    if options.prompt_lookup_num_tokens is not None:
        return PromptLookup(ids, options.prompt_lookup_num_tokens, options.max_matching_ngram_size or LONGEST)
    assert options.draft is not None
    return DraftGuesses(options.draft, ids, options.num_assistant_tokens or MOST)
