"""The scheduler: jobs that arrive one by one beside one batch, a beginning that is shared, guesses beside none.

python benchmarks/scheduling.py [--backend cpu] [--dtype float32] [--rounds 3] [--layers 30] [--tokens 256]

A random model of 134 million parameters, and SmolLM2-135M-Instruct where it is installed (for the guesses, whose worth
depends on what a text is). Everything in one process, contenders one after the other in each round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from typing import Any

from measure import alternate, plot, ratio, report, seconds
from polyllama import Llama, LlamaConfig, PolyllamaError
from polyllama.core.forward.arguments import ForwardArguments
from polyllama.core.generation.cache_memory import bytes_per_token
from polyllama.core.generation.scheduler import Scheduler

SHAPE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}

PASSAGE = (
    "The harbour town of Ellsworth had two lighthouses, one of which had not been lit for forty years. Its keeper, a "
    "retired schoolteacher named Maud Perrin, wound the clockwork every Sunday all the same, and polished the lenses "
    "with vinegar and newspaper. When the storm of November took the power from the whole coast, the other lighthouse "
    "went dark at nine in the evening. At four minutes past nine the old one turned again, for the first time since "
    "the war, and three fishing boats that had been feeling their way along the reef came home by its light. Nobody "
    "in the town asked her why she had kept it ready. They brought her a ham, a case of lamp oil and, after a debate "
    "in the council, a key to the door that she had been climbing through the window to reach."
)

QUESTIONS = (
    "Why is the sky blue?",
    "How do I boil an egg?",
    "Tell me a short story about a fox.",
    "What is the difference between a lake and a pond?",
)


def main() -> None:
    """Measure, print, keep, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=30, help="fewer are quicker to try")
    parser.add_argument("--tokens", type=int, default=256, help="that each job gets")
    asked = parser.parse_args()
    config = LlamaConfig(**SHAPE | {"num_hidden_layers": asked.layers})
    llm = Llama.load(config, load_format="dummy", backend=asked.backend, dtype=asked.dtype)
    measured = {
        "jobs": jobs(llm, asked.tokens, asked.rounds),
        "prefix": prefix(llm, asked.rounds),
        "memory": memory(llm),
        "guesses": guesses(asked.backend, asked.rounds),
    }
    ratios = {name: found for kind in measured.values() for name, found in kind["ratios"].items()}
    rows = [(name, *(f"{found[which]:.3f}" for which in ("min", "median", "max"))) for name, found in ratios.items()]
    report(
        "scheduling",
        {"backend": asked.backend, "dtype": asked.dtype, **measured},
        rows,
        ("ratio", "min", "median", "max"),
    )
    labels = [name.replace(", ", ",\n").replace(": ", ":\n").replace(" / ", "\n/ ") for name in ratios]
    plot("scheduling", labels, {"median": [found["median"] for found in ratios.values()]}, "ratio")


def prompts(count: int, length: int, seed: int = 0) -> list[list[int]]:
    """Random ids."""
    numbers = random.Random(seed)
    return [[numbers.randrange(3, 49152) for _ in range(length)] for _ in range(count)]


def jobs(llm: Llama, tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens per second of eight jobs: together, arriving within a second; and of one, beside a bare loop of passes."""
    asked, given = {"max_new_tokens": tokens, "eos_token_id": []}, prompts(8, 48)

    def together() -> float:
        scheduler = Scheduler(llm.model)

        def all_of_them() -> None:
            for job in [scheduler.submit(ids, **asked) for ids in given]:
                job.result()

        return 8 * tokens / seconds(all_of_them)

    def arriving() -> float:
        scheduler, numbers = Scheduler(llm.model), random.Random(5)
        times = sorted(numbers.random() for _ in given)
        began, threads = time.perf_counter(), []

        def client(ids: list[int], at: float) -> None:
            time.sleep(max(0.0, began + at - time.perf_counter()))
            scheduler.submit(ids, **asked).result()

        for ids, at in zip(given, times, strict=True):
            threads.append(threading.Thread(target=client, args=(ids, at)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        # From the first arrival on: nobody could have run anything before.
        return 8 * tokens / (time.perf_counter() - began - times[0])

    def alone() -> float:
        return tokens / seconds(lambda: Scheduler(llm.model).submit(given[0], **asked).result())

    def bare() -> float:
        return tokens / seconds(lambda: bare_loop(llm, given[0], tokens))

    figures = alternate({"together": together, "arriving": arriving, "alone": alone, "bare loop": bare}, rounds)
    return {
        "tokens_per_second": figures,
        "ratios": {
            "8 arriving / one batch of 8": ratio(figures, "arriving", "together"),
            "one job / bare loop": ratio(figures, "alone", "bare loop"),
        },
    }


def bare_loop(llm: Llama, ids: list[int], tokens: int) -> None:
    """The least that greedy decoding of one text can be."""
    cache, inputs = llm.model.new_cache(1, len(ids) + tokens), ids
    for _ in range(tokens):
        output = llm.model.forward(
            ForwardArguments(input_ids=[inputs], past_key_values=cache, use_cache=True, logits_to_keep=1)
        )
        cache = output.past_key_values
        inputs = [int(llm.model.to_numpy(output.logits)[0, -1].argmax())]


def prefix(llm: Llama, rounds: int) -> dict[str, Any]:
    """Seconds to the first token after 1,000 tokens in common with an earlier job, and without."""
    common, scheduler, number = prompts(1, 1000)[0], Scheduler(llm.model), 0

    def first_token(ids: list[int]) -> float:
        def once() -> None:
            events = iter(scheduler.submit(ids, max_new_tokens=2, eos_token_id=[]))
            next(events)
            for _ in events:
                pass

        return seconds(once)

    def new() -> float:
        nonlocal number
        number += 1
        scheduler.forget()
        return first_token([*common, *prompts(1, 8, number)[0]])

    def known() -> float:
        nonlocal number
        number += 1
        return first_token([*common, *prompts(1, 8, number)[0]])

    figures = alternate({"new": new, "known": known}, rounds)
    return {"seconds": figures, "ratios": {"first token, 1,000 tokens known / new": ratio(figures, "known", "new")}}


def memory(llm: Llama) -> dict[str, Any]:
    """64 jobs where keys and values have room for 16: all end, and how long the last waits beside the first."""
    each = 32 + 32
    scheduler = Scheduler(llm.model, cache_memory=16 * each * bytes_per_token(llm.model))
    began = time.perf_counter()
    waiting = [scheduler.submit(ids, max_new_tokens=32, eos_token_id=[]) for ids in prompts(64, 32)]
    ended: dict[int, float] = {}
    most = 0
    while scheduler.step():
        most = max(most, scheduler.running)
        ended |= {i: time.perf_counter() - began for i, job in enumerate(waiting) if job.done and i not in ended}
    assert len(ended) == 64 and most <= 16
    return {"ended_after_seconds": [ended[i] for i in range(64)], "most_rows": most, "ratios": {}}


def guesses(backend: str, rounds: int) -> dict[str, Any]:
    """Tokens per second with guesses and without, of a passage that is to be repeated and of ordinary answers."""
    try:
        llm = Llama.load("smollm2-135m-instruct", backend=backend)
    except PolyllamaError as error:
        print(f"guesses are not measured: {error}")
        return {"ratios": {}}
    repeat = [[{"role": "user", "content": f"Repeat this text word for word, and nothing else:\n\n{PASSAGE}"}]]
    ordinary = [[{"role": "user", "content": question}] for question in QUESTIONS]
    counts: dict[str, list[int]] = {}

    def speed(chats: list[Any], name: str, **options: Any) -> float:
        def answer() -> None:
            nonlocal tokens
            for messages in chats:
                llm.scheduler.forget()
                found = llm.chat(messages, max_new_tokens=200, temperature=0, **options)
                tokens += len(found.token_ids)
                counts[name] = [found.stats.proposed_tokens, found.stats.accepted_tokens]

        tokens = 0
        taken = seconds(answer)
        return tokens / taken

    guess = {"prompt_lookup_num_tokens": 8}
    figures = alternate(
        {
            "repeating": lambda: speed(repeat, "plain repeating"),
            "repeating, guessing": lambda: speed(repeat, "repeating", **guess),
            "answering": lambda: speed(ordinary, "plain answering"),
            "answering, guessing": lambda: speed(ordinary, "answering", **guess),
        },
        rounds,
    )
    print("proposed and accepted in the last answer:", {name: counts[name] for name in ("repeating", "answering")})
    return {
        "tokens_per_second": figures,
        "proposed_and_accepted": counts,
        "median_tokens_per_second": {name: statistics.median(found) for name, found in figures.items()},
        "ratios": {
            "repeating: guesses / none": ratio(figures, "repeating, guessing", "repeating"),
            "answering: guesses / none": ratio(figures, "answering, guessing", "answering"),
        },
    }


if __name__ == "__main__":
    main()
