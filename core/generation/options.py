"""What a request asks of generation: every option checked, defaults from the checkpoint, contradictions refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..constraints.asked import Asked
from ..errors import GenerationError
from ..messages import mention
from .arguments import read_arguments, warn_once
from .option_conflicts import (
    NEUTRAL,
    applicable,
    asked_of,
    means_sampling,
    refuse_filters,
    say_unused,
    say_without_beams,
)
from .option_rules import check_option
from .seeding import fresh_seed

if TYPE_CHECKING:
    from ..backend.protocol import Model
    from .defaults import GenerationDefaults
    from .sampling import Filters

DEFAULT_MAX_NEW_TOKENS = 256


class HasEosIds(Protocol):
    """What `GenerationOptions.resolve` asks of a config."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...


class HasEosId(Protocol):
    """What `GenerationOptions.resolve` asks of a tokenizer."""

    @property
    def eos_token_id(self) -> int | None: ...


@dataclass(frozen=True)
class GenerationOptions:
    """One request's options, as numbers; :meth:`resolve` builds it from what a user and a checkpoint say.

    Attributes:
        max_new_tokens: most tokens to generate per sequence; ``None`` leaves it to `max_length`, or else 256 or what is
            left of the context, if that is less.
        max_length: most tokens of prompt and generated text together; only where `max_new_tokens` is ``None``.
        min_new_tokens: fewer than this many are never generated: until then ending ids are impossible, and a stop
            string that is completed counts as ordinary text.
        do_sample: draw tokens; ``False`` takes the likeliest (greedy). Greedy too when `temperature` is 0.
        min_length: the same for prompt and generated text together; only where `min_new_tokens` is 0.
        max_time: seconds after which no further token is begun.
        temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, top_h: see
            :class:`~polyllama.core.generation.sampling.Filters`; ``top_k=0`` is off, and there is no hidden top_k of 50
            as in transformers.
        repetition_penalty: above 1 discourages tokens of the prompt and the generated text, below 1 encourages them.
        presence_penalty, frequency_penalty: subtracted from the logits of generated tokens: once, and per occurrence.
        no_repeat_ngram_size: no n-gram of this size appears twice in prompt and generated text together; 0 is off.
        bad_words_ids: sequences of ids that are never completed, the prompt counted; one that is an ending id alone is
            none of them.
        suppress_tokens, begin_suppress_tokens: ids that are never generated, and never as the first token.
        sequence_bias: pairs of token ids and what is added to the logit of the last where the others stand before it.
        forced_bos_token_id: the first token after a prompt of one token.
        forced_eos_token_id: ids of which one is the last token that the limit allows.
        exponential_decay_length_penalty: after so many tokens, by which factor ending ids become likelier a token.
        remove_invalid_values: NaN and infinity among the logits become numbers; without, they are an error.
        logits_processor: a caller's own functions or objects ``f(input_ids, scores) -> scores``, called for each row
            with its own ``[1, n]`` ids and ``[1, vocab]`` scores.
        stopping_criteria: the same ``f(input_ids, scores)``, true where the row is to end.
        prefix_allowed_tokens_fn: ``f(row, input_ids) -> ids``, of which one may follow.
        guidance_scale: how far to go away from what would follow `negative_prompt_ids` (the last token of the prompt
            where there are none); 1 is off. Source: Sanchez et al. 2023, "Stay on topic with classifier-free guidance".
        negative_prompt_ids, negative_prompt_attention_mask: ids for all prompts, or for each; which of them are real.
        renormalize_logits: report `output_scores` as logarithms of probabilities; what is generated stays the same.
        logit_bias: token id -> what to add to its logit; ``-inf`` forbids it.
        stop: strings that end the text; they are not part of it.
        stop_token_ids: further ids that end the sequence, like `eos_token_id`; the text of one that is not special is
            part of the text.
        eos_token_id: ids that end the sequence; empty to never end by itself.
        pad_token_id: what stands behind rows that ended before others, where an array comes out.
        bos_token_id: what an empty prompt begins with, in place of the tokenizer's.
        num_return_sequences: sequences per prompt: independent ones that are drawn, or the best of `num_beams`.
        num_beams: texts of a prompt that are gone on with at a time, of which the best is returned (beam search); with
            `do_sample` their continuations are drawn. 1 is off.
        length_penalty: a beam's text is ranked by its log probability over its length to this power: above 0 favours
            long texts, below 0 short ones.
        early_stopping: ``True`` ends with the first `num_beams` texts that have ended; ``False`` when no beam would be
            better if it ended now; ``"never"`` when none can become better.
        seed: 0 to 2**64 - 1; ``None`` draws a fresh one, which the result reports.
        logprobs: report each token's log-probability and those of this many likeliest tokens; ``None`` is off.
        skip_special_tokens: leave special tokens such as end-of-turn marks out of the text.
        prefill_chunk_size: most prompt tokens to run at once; bounds memory, changes nothing else.
        batch_size: most sequences to run at once (with beams: prompts); bounds memory, changes nothing else. ``None``
            runs all together.
        adapter: the name of one of the adapters that the model was loaded with (``adapters=``), or a list with one for
            each prompt; ``None`` is the model without any.
        use_cache: keep keys and values; without, every step runs all tokens again.
        prompt_lookup_num_tokens: how many tokens to guess at a time, at most, from where the last ones stood before;
            guesses are checked together in one pass. The text is the same; where it repeats itself it comes faster.
        max_matching_ngram_size: how many of the last tokens are looked up for that at most, 3 by default.
        num_assistant_tokens: how many tokens a draft model guesses at a time at most, 8 by default.
        shown: special ids that are in the text all the same, as calls of tools are made of them.
        held_to: what messages call the grammar where another option made it.
        draft: the draft model, which guesses tokens that are then checked together.
        json_schema: what the text must follow: a JSON schema as a dictionary or its text, or a pydantic model class,
            whose instance is the result's `parsed`.
        regex, grammar: a regular expression, or a Lark grammar, that the whole text must match.
        choices: texts of which the whole text must be one. Of these four options at most one.
        return_dict_in_generate, output_scores, output_logits, output_attentions, output_hidden_states: what is returned
            of every step beside an array of ids.
        origin: option -> the file its value is from, for messages; :meth:`resolve` fills it in.

    Raises:
        GenerationError: an option out of range or of the wrong type, or options that contradict each other.

    >>> GenerationOptions(max_new_tokens=8).do_sample
    False
    >>> GenerationOptions(do_sample=True, top_p=1.5)
    Traceback (most recent call last):
    ...
    polyllama.extend.GenerationError: top_p is 1.5; wanted a number above 0 and at most 1 (1 is off)
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int = 0
    min_length: int = 0
    max_time: float | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    top_h: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] = ()
    suppress_tokens: Sequence[int] = ()
    begin_suppress_tokens: Sequence[int] = ()
    sequence_bias: Sequence[tuple[Sequence[int], float]] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: Sequence[int] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    remove_invalid_values: bool = False
    logits_processor: Sequence[Callable[..., Any]] = ()
    stopping_criteria: Sequence[Callable[..., Any]] = ()
    prefix_allowed_tokens_fn: Callable[..., Any] | None = None
    guidance_scale: float = 1.0
    negative_prompt_ids: Sequence[Sequence[int]] | None = None
    negative_prompt_attention_mask: Sequence[Sequence[int]] | None = None
    renormalize_logits: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    eos_token_id: Sequence[int] = ()
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    num_return_sequences: int = 1
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    seed: int | None = None
    logprobs: int | None = None
    skip_special_tokens: bool = True
    prefill_chunk_size: int | None = None
    batch_size: int | None = None
    use_cache: bool = True
    adapter: str | Sequence[str | None] | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None
    num_assistant_tokens: int | None = None
    json_schema: Any = None
    regex: str | None = None
    grammar: str | None = None
    choices: Sequence[str] | None = None
    return_dict_in_generate: bool = False
    output_scores: bool = False
    output_logits: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False
    origin: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    draft: Model | None = field(default=None, repr=False, compare=False)
    shown: tuple[int, ...] = field(default=(), repr=False)
    held_to: str | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in _INTERNAL or (value is None and name in _OPTIONAL):
                continue
            object.__setattr__(self, name, check_option(name, value))
        Asked.of(vars(self))
        if not self.do_sample:
            refuse_filters(vars(self))
        if self.do_sample and self.temperature == 0:
            raise GenerationError(
                "do_sample=True and " + mention("temperature", 0) + " contradict",
                hint=mention("temperature", 0) + " is greedy; leave do_sample out, or give a temperature above 0",
            )
        if self.max_new_tokens is not None and self.max_length is not None:
            raise GenerationError(
                self.named("max_new_tokens") + " and " + self.named("max_length") + " are two limits",
                hint="give one of them; max_length counts the prompt too",
            )
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise GenerationError(
                self.named("min_new_tokens") + " is more than " + self.named("max_new_tokens"),
                hint="give " + mention("max_new_tokens") if "max_new_tokens" in self.origin else None,
            )
        if self.num_beams > 1:
            _check_beams(self)
        elif self.num_return_sequences > 1 and not self.do_sample:
            raise GenerationError(
                f"num_return_sequences={self.num_return_sequences} without sampling would give the same text each time",
                hint="give " + mention("do_sample", True) + ", or " + mention("num_beams"),
            )

    def named(self, name: str) -> str:
        """An option as messages say it, with the file it is from where it was not given.

        >>> GenerationOptions(max_length=9, origin={"max_length": "generation_config.json"}).named("max_length")
        'max_length=9 (from generation_config.json)'
        """
        source = self.origin.get(name)
        value = getattr(self, name)
        return f"{name}={value!r} (from {source})" if source else mention(name, value)

    @property
    def filters(self) -> Filters | None:
        """How to draw tokens, or ``None`` for greedy."""
        from .sampling import Filters

        if not self.do_sample:
            return None
        return Filters(**{name: getattr(self, name) for name in NEUTRAL})

    @classmethod
    def resolve(
        cls,
        arguments: Mapping[str, Any] | None = None,
        *,
        defaults: GenerationDefaults | None = None,
        config: HasEosIds | None = None,
        tokenizer: HasEosId | None = None,
        documented: bool = False,
    ) -> Self:
        """Build the options of one request: explicit `arguments` win over `defaults`, the layers below them.

        An argument that is ``None`` counts as not given. Giving a temperature above 0, or a top_k, top_p or another
        filter that filters, means sampling; temperature 0 means greedy; without any, the defaults decide by their
        do_sample, else it is greedy. The ids that end a sequence come from the arguments, else from the defaults, else
        from the config, else from the tokenizer.

        Args:
            documented: arrays go in and come out as transformers documents it, so only do_sample means sampling.

        Raises:
            GenerationError: an unknown argument (with the likely one), a wrong value, a contradiction, or an argument
                of transformers' that is not offered.

        Warns:
            PolyllamaWarning: once, of arguments without effect.

        >>> GenerationOptions.resolve({"temperature": 0.8}).do_sample
        True
        >>> GenerationOptions.resolve({"temprature": 0.8})
        Traceback (most recent call last):
        ...
        polyllama.extend.GenerationError: generation has no option 'temprature'; did you mean 'temperature'?
        """
        given = read_arguments(arguments or {})
        values = {**applicable(defaults, given), **given}
        if "max_new_tokens" in given and "max_length" in given:
            warn_once(
                mention("max_new_tokens", given["max_new_tokens"])
                + " and "
                + mention("max_length", given["max_length"])
                + " are two limits; max_new_tokens holds",
                "two limits",
            )
            del values["max_length"]
        values["do_sample"] = means_sampling(given, values, documented)
        if not values["do_sample"]:
            asked = asked_of(defaults)
            heard = given.get("do_sample") is False or documented
            say_unused({**asked, **given} if heard else asked)
            values = {name: value for name, value in values.items() if name not in NEUTRAL}
        if values.get("num_beams", 1) == 1:
            say_without_beams({**asked_of(defaults), **given})
        if "eos_token_id" not in values:
            ids: Sequence[int] = () if config is None else config.eos_token_ids
            if not ids and tokenizer is not None and tokenizer.eos_token_id is not None:
                ids = (tokenizer.eos_token_id,)
            values["eos_token_id"] = tuple(ids)
        below = defaults.values.keys() & values.keys() - given.keys() if defaults is not None else ()
        return cls(**values, origin={name: defaults.origin(name) for name in below} if defaults is not None else {})

    def seeded(self) -> Self:
        """Return the same options with a seed: a fresh random one where sampling has none."""
        if self.seed is not None or not self.do_sample:
            return self
        return dataclasses.replace(self, seed=fresh_seed())


_INTERNAL = frozenset({"origin", "draft", "shown", "held_to"})
_OPTIONAL = frozenset({
    "max_new_tokens", "max_length", "max_time", "pad_token_id", "bos_token_id", "seed", "logprobs",
    "prefill_chunk_size", "batch_size", "prompt_lookup_num_tokens", "max_matching_ngram_size", "num_assistant_tokens",
    "top_h", "forced_bos_token_id", "exponential_decay_length_penalty", "prefix_allowed_tokens_fn",
    "negative_prompt_ids", "negative_prompt_attention_mask", "adapter", "json_schema", "regex", "grammar", "choices",
})  # fmt: skip


def option_names() -> frozenset[str]:
    """Names of all generation options, for who is given one and takes none."""
    return frozenset(
        entry.name for entry in dataclasses.fields(GenerationOptions) if entry.name not in ("draft", "shown", "held_to")
    )


def _check_beams(options: GenerationOptions) -> None:
    """Refuse what does not go with beams."""
    if options.num_return_sequences > options.num_beams:
        raise GenerationError(
            options.named("num_return_sequences") + " is more than " + options.named("num_beams"),
            hint="give " + mention("num_beams") + " at least as many",
        )
    if options.guidance_scale != 1.0:
        raise GenerationError(
            options.named("num_beams") + " and " + options.named("guidance_scale") + " do not go together",
            hint="leave one of them out: a second prompt would have to follow every beam",
        )
