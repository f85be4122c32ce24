"""Random jobs and cancellations from several threads, for minutes: tokens as alone, and memory that stays where it is.

python benchmarks/soak.py [--backend cpu] [--minutes 20] [--threads 6]

Each job is one of some hundred: a prompt, some of which begin alike, and options. What it gets by itself, where
nothing is kept of others, is found out first. Then threads submit jobs at random times, read them whole, leave them
halfway or have them cancelled, under a budget of memory for fewer rows than there are; every token is compared.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import psutil
from measure import RESULTS, report
from polyllama import Llama, LlamaConfig
from polyllama.core.generation.cache_memory import bytes_per_token
from polyllama.core.generation.scheduler import Scheduler

SHAPE: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}

OPTIONS: tuple[dict[str, Any], ...] = (
    {"max_new_tokens": 1},
    {"max_new_tokens": 16},
    {"max_new_tokens": 90},
    {"max_new_tokens": 60, "prompt_lookup_num_tokens": 8},
    {"max_new_tokens": 50, "do_sample": True, "temperature": 1.2, "seed": 11},
    {"max_new_tokens": 40, "do_sample": True, "top_p": 0.9, "seed": 3, "num_return_sequences": 3},
    {"max_new_tokens": 30, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    {"max_new_tokens": 70, "prefill_chunk_size": 19},
)

ROWS = 10
"""Rows of the longest prompt and answer that there is memory for."""


@dataclass
class Soak:
    """What the threads share: the jobs that there are, what they gave, how much memory was held."""

    llm: Llama
    scheduler: Scheduler
    prompts: list[list[int]]
    wanted: dict[tuple[int, int], list[list[int]]]
    until: float
    jobs: int = 0
    tokens: int = 0
    left: int = 0
    most: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, seed: int) -> None:
        """Submit jobs, one after the other, until the time is over."""
        numbers = random.Random(seed)
        while time.perf_counter() < self.until and not self.wrong:
            which = numbers.choice(list(self.wanted))
            try:
                self.one(numbers, which)
            except Exception as error:
                self.wrong.append(f"{which}: {type(error).__name__}: {error}")
            time.sleep(numbers.random() * 0.05)

    def one(self, numbers: random.Random, which: tuple[int, int]) -> None:
        """Submit one job and read it, all or some."""
        job = self.scheduler.submit(self.prompts[which[0]], **OPTIONS[which[1]])
        found: list[list[int]] = [[] for _ in job.rows]
        manner = numbers.choice(("whole", "events", "leave", "cancel"))
        if manner == "cancel":
            threading.Timer(numbers.random() * 0.2, job.cancel).start()
        if manner == "whole":
            found = [result.token_ids for result in job.results()]
        else:
            some = numbers.randrange(1, 40) if manner == "leave" else None
            for count, event in enumerate(job, 1):
                found[event.row].append(event.token_id)
                if count == some:
                    break
        whole = manner in ("whole", "events")
        for got, right in zip(found, self.wanted[which], strict=True):
            if got != (right if whole else right[: len(got)]):
                self.wrong.append(f"{which}, {manner}: {got} and not {right}")
        with self.lock:
            self.jobs += 1
            self.left += not whole
            self.tokens += sum(map(len, found))

    def watch(self) -> None:
        """Note every few seconds what the process holds, and the rows that run."""
        process, began = psutil.Process(), time.perf_counter()
        while time.perf_counter() < self.until and not self.wrong:
            gc.collect()
            self.memory.append((time.perf_counter() - began, process.memory_info().rss / 1e6))
            for _ in range(20):
                time.sleep(0.1)
                self.most = max(self.most, self.scheduler.running)


def main() -> None:
    """Soak, print, keep, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=6)
    asked = parser.parse_args()
    soak = prepare(asked.backend, asked.minutes)
    threads = [threading.Thread(target=soak.client, args=(seed,)) for seed in range(asked.threads)]
    for thread in threads:
        thread.start()
    soak.watch()
    for thread in threads:
        thread.join(60)
        if thread.is_alive():
            soak.wrong.append("a thread waits for a job that does not end")
    show(asked, soak)
    if soak.wrong:
        raise SystemExit(f"wrong: {soak.wrong[0]}")


def prepare(backend: str, minutes: float) -> Soak:
    """The model, the jobs, and what each gets alone."""
    llm = Llama.load(LlamaConfig(**SHAPE), load_format="dummy", backend=backend, dtype="float32")
    numbers = random.Random(1)
    common = [numbers.randrange(3, 2048) for _ in range(300)]
    lengths = (1, 7, 40, 200, 500)
    prompts = [[numbers.randrange(3, 2048) for _ in range(length)] for length in lengths]
    prompts += [[*common, *(numbers.randrange(3, 2048) for _ in range(length))] for length in lengths]
    prompts += [[*common[:50], *range(60, 90), *range(60, 80)], common[:120]]
    wanted = {}
    for place, prompt in enumerate(prompts):
        for which, options in enumerate(OPTIONS):
            alone = {name: value for name, value in options.items() if name != "prompt_lookup_num_tokens"}
            job = Scheduler(llm.model, prefix_cache=False).submit(prompt, **alone)
            wanted[place, which] = [result.token_ids for result in job.results()]
    longest = max(map(len, prompts)) + 90
    scheduler = Scheduler(llm.model, cache_memory=ROWS * longest * bytes_per_token(llm.model))
    return Soak(llm, scheduler, prompts, wanted, time.perf_counter() + 60 * minutes)


def show(asked: argparse.Namespace, soak: Soak) -> None:
    """Print what was found, keep it, and draw the memory."""
    quarter = max(1, len(soak.memory) // 4)
    early, late = (
        statistics.median(size for _, size in part)
        for part in (soak.memory[quarter : 2 * quarter], soak.memory[-quarter:])
    )
    found = {
        "backend": asked.backend,
        "minutes": asked.minutes,
        "threads": asked.threads,
        "jobs": soak.jobs,
        "left_or_cancelled": soak.left,
        "tokens": soak.tokens,
        "most_rows": soak.most,
        "wrong": len(soak.wrong),
        "memory_mb_second_quarter": round(early, 1),
        "memory_mb_last_quarter": round(late, 1),
    }
    report("soak", found, [(name, str(value)) for name, value in found.items()], ("", ""))
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3))
    axes.plot([at / 60 for at, _ in soak.memory], [size for _, size in soak.memory])
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory, MB")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{soak.jobs} jobs on {asked.backend}, {soak.left} of them left or cancelled")
    figure.tight_layout()
    figure.savefig(RESULTS / "soak.png", dpi=120)


if __name__ == "__main__":
    main()
