"""The model that lm-eval asks: texts in, log-probabilities and texts out; one class over every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.api.llama import Llama, facade_of
from ...core.errors import InputError, PluginError, UnsupportedError, warn
from ...core.messages import mention

try:
    import lm_eval.models  # noqa: F401  # the others are registered only while nobody has registered one
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as error:
    raise PluginError(
        f"polyllama.integrations.lm_eval needs lm-eval 0.4.13 or later ({error})", hint="pip install lm-eval"
    ) from None

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

TOKENS_AT_ONCE = 4096
"""Tokens of a batch at most where ``batch_size`` is ``"auto"``, padding included."""

Request = tuple[Any, list[int], list[int]]
"""What is scored: its name in lm-eval's cache, the context's ids and the continuation's."""


@register_model("polyllama")
class PolyllamaLM(TemplateLM):
    """A language model of polyllama's, as lm-eval asks one.

    Args:
        pretrained: a registry name, Hub repository or folder; a loaded model; or the torch module of one.
        batch_size: rows that run together; ``"auto"`` for as many as have 4096 tokens.
        max_batch_size: at most so many rows with ``"auto"``.
        max_length: tokens of a row; by default ``config.max_position_embeddings``. Longer texts lose their beginning.
        max_gen_toks: new tokens where a task does not say how many.
        add_bos_token: whether texts begin with the token for it; by default as the tokenizer says.
        prefix_token_id: the id that a text without a context follows; by default the beginning of a sequence.
        think_end_token: text that ends what a model thinks; what stands before it is left out of answers.
        chat_template_args: variables of the chat template.
        options: as of :meth:`polyllama.Llama.from_pretrained`: ``backend``, ``dtype``, ``quantize``, ``device``,
            ``adapter``, ``revision``, ``subfolder`` ...; ``device="auto"`` is the backend's best.

    Raises:
        UnsupportedError: the model is not a language model.
        InputError: options of loading for a model that is loaded.
    """

    def __init__(
        self,
        pretrained: Any,
        *,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        think_end_token: str | None = None,
        chat_template_args: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        options = {name: value for name, value in options.items() if value is not None}
        if options.get("device") == "auto":
            del options["device"]
        loaded = None if isinstance(pretrained, str) else facade_of(pretrained)
        if loaded is not None and options:
            raise InputError(f"PolyllamaLM: {sorted(options)[0]} is for loading, and the model is loaded")
        self.llama = Llama.from_pretrained(pretrained, **options) if loaded is None else loaded.eval()
        if not self.llama.can_generate():
            raise UnsupportedError(
                f"lm-eval asks a language model, and this one is for {self.llama.task}",
                hint="load it with " + mention("task", "causal-lm"),
            )
        self.tokenizer = self.llama.tokenizer
        self.batch_size = _read_batch_size(batch_size)
        self.max_batch_size = max_batch_size
        self.max_length = int(max_length or self.llama.config.max_position_embeddings)
        self.max_gen_toks = int(max_gen_toks)
        self.add_bos_token = add_bos_token
        self.think_end_token = think_end_token
        self.chat_template_args = dict(chat_template_args or {})
        self._prefix_token_id = prefix_token_id

    # ---- what lm-eval asks about the model

    @property
    def eot_token_id(self) -> int:
        """Id of the token that ends a text."""
        end = self.tokenizer.eos_token_id
        if end is None:
            raise UnsupportedError("the tokenizer has no token that ends a text, which lm-eval asks for")
        return end

    @property
    def prefix_token_id(self) -> int:
        """Id that a text without a context follows."""
        found = self._prefix_token_id
        if found is None:
            found = self.tokenizer.bos_token_id
        return self.eot_token_id if found is None else int(found)

    @property
    def tokenizer_name(self) -> str:
        """Name under which lm-eval keeps prompts of a chat template."""
        return (self.llama.name_or_path or "polyllama").replace("/", "__")

    @property
    def device(self) -> str:
        """Where the model runs."""
        return str(self.llama.device)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes of the model into its results."""
        llama = self.llama
        return {
            "model_num_parameters": llama.num_parameters(),
            "model_dtype": llama.dtype,
            "model_backend": llama.backend,
            "model_device": llama.device,
        }

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt that the checkpoint's template makes of a conversation."""
        text: str = self.tokenizer.apply_chat_template(
            list(chat_history),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self.chat_template_args,
        )
        return text

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **_: Any
    ) -> list[int]:
        """The ids of a text; one that begins with the beginning-of-sequence token gets no second one."""
        if add_special_tokens is None:
            prefix = self.tokenizer.decode(self.prefix_token_id)
            add_special_tokens = False if prefix and string.startswith(prefix) else self.add_bos_token
        named: dict[str, Any] = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = self.tokenizer.encode(string, **named)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    # ---- scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text, in windows of :attr:`max_length` tokens."""
        windows: list[Request] = []
        counts = []
        for request in requests:
            (text,) = request.args
            rolling = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            found = [(None, *make_disjoint_window(pair)) for pair in rolling]
            windows += found
            counts.append(len(found))
        scores = iter(self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm))
        totals = [sum(next(scores)[0] for _ in range(count)) for count in counts]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is what the model would have written."""
        # Requests that differ in their last token alone, as the choices of a question, have one row between them.
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, (_name, context, continuation) in enumerate(requests):
            self._check(context, continuation)
            groups.setdefault(tuple((context + continuation)[-(self.max_length + 1) :][:-1]), []).append(number)
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        rows = sorted(groups, key=lambda row: (-len(row), row))
        progress = tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests")
        for batch in self._batches(rows):
            keep = max(len(requests[number][2]) for row in batch for number in groups[row])
            for row, logits in zip(batch, self._logits(batch, keep), strict=True):
                for number in groups[row]:
                    name, _context, continuation = requests[number]
                    found[number] = _score(logits, continuation)
                    if name is not None:
                        self.cache_hook.add_partial("loglikelihood", name, found[number])
                    progress.update(1)
        progress.close()
        return found

    def _check(self, context: Sequence[int], continuation: Sequence[int]) -> None:
        if not context or not continuation:
            raise InputError("lm-eval asks for the score of a text without tokens", hint="look at the task's texts")
        if len(continuation) > self.max_length:
            raise InputError(
                f"a continuation has {len(continuation)} tokens, and a row {self.max_length}",
                hint="give a larger " + mention("max_length"),
            )

    def _logits(self, rows: Sequence[Sequence[int]], keep: int) -> np.ndarray:
        """``[rows, keep, vocab_size]`` of the last tokens of rows of any length."""
        width = max(len(row) for row in rows)
        ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
        for number, row in enumerate(rows):
            ids[number, width - len(row) :] = row
            mask[number, width - len(row) :] = 1
        padded = None if mask.all() else mask
        output = self.llama.forward(ids, attention_mask=padded, use_cache=False, logits_to_keep=min(keep, width))
        logits: np.ndarray = output.numpy()["logits"]
        return logits

    def _batches(self, rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Rows, longest first, in batches of :attr:`batch_size`."""
        start = 0
        while start < len(rows):
            count = self.batch_size
            if count == "auto":
                count = min(max(1, TOKENS_AT_ONCE // len(rows[start])), self.max_batch_size or len(rows))
            yield rows[start : start + int(count)]
            start += int(count)

    # ---- texts

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text that the model writes after each context, up to the first of its stop strings."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        texts = [""] * len(requests)
        progress = tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests")
        for numbers in groups.values():
            options, until = self._options(requests[numbers[0]].args[1])
            room = self.max_length - options["max_new_tokens"]
            if room < 1:
                raise InputError(
                    f"{options['max_new_tokens']} new tokens leave no room for a prompt in {self.max_length}",
                    hint="give a smaller max_gen_toks or a larger " + mention("max_length"),
                )
            rows = [(self.tok_encode(requests[number].args[0], left_truncate_len=room), number) for number in numbers]
            rows.sort(key=lambda row: -len(row[0]))
            lengths = [ids for ids, _ in rows]
            start = 0
            for batch in self._batches(lengths):
                here = rows[start : start + len(batch)]
                start += len(batch)
                results = self.llama.generate([ids for ids, _ in here], **options)
                for result, (_ids, number) in zip(results, here, strict=True):
                    written = self.tokenizer.decode(result.token_ids, skip_special_tokens=True)
                    texts[number] = postprocess_generated_text(written, until, self.think_end_token)
                    self.cache_hook.add_partial("generate_until", requests[number].args, texts[number])
                    progress.update(1)
        progress.close()
        return texts

    def _options(self, asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """What a task asks of generation, as options of ``generate``, and the strings that end a text."""
        options: dict[str, Any] = dict(normalize_gen_kwargs(dict(asked), self.max_gen_toks))
        ended = self.tokenizer.decode(self.eot_token_id)
        until = handle_stop_sequences(options.pop("until", None), eos=ended)
        options["max_new_tokens"] = options.pop("max_gen_toks")
        if not options.get("do_sample") and not options.get("temperature"):
            options.pop("temperature", None)
        stop = [text for text in until if text and text != ended]
        return options | ({"stop": stop} if stop else {}), until


def _score(logits: np.ndarray, continuation: Sequence[int]) -> tuple[float, bool]:
    rows = logits[-len(continuation) :].astype(np.float64)
    rows = rows - rows.max(-1, keepdims=True)
    picked = rows[np.arange(len(continuation)), continuation] - np.log(np.exp(rows).sum(-1))
    return float(picked.sum()), bool((rows.argmax(-1) == np.asarray(continuation)).all())


def _read_batch_size(value: int | str) -> int | str:
    text = str(value)
    if text.startswith("auto"):
        if text != "auto":
            warn(f"batch_size={text}: the size of a batch follows its longest row, and is not looked for several times")
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise InputError(mention("batch_size", value, limit=40) + " is no number of rows", hint='a number, or "auto"')
    return int(text)
