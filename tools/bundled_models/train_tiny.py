"""Trains the bundled model `tiny`, tokenizer included, on the stories of ``stories.py``.

    python tools/bundled_models/train_tiny.py --out models/tiny

Runs on two CPU cores in about twenty minutes and needs ``polyllama[torch]``. Everything is seeded: the same versions on
the same kind of processor give the same files. No story is seen twice; the losses in the model card are measured on
stories that were not trained on, with the weights as they are stored.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from polyllama import Llama, LlamaConfig, LlamaTokenizerFast
from polyllama.backends.torch.backend import build_module
from polyllama.core.checkpoint.huggingface.save_safetensors import save_safetensors
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from stories import Grammar, stories
from tiny_card import model_card
from tiny_recipe import BOS, EOS, HELD_OUT_STORIES, IGNORED, Recipe, Report, learning_rate

SAMPLE = {"prompt": "Once upon a time", "temperature": 0.8, "seed": 7, "max_new_tokens": 320}


def train_tokenizer(recipe: Recipe) -> bytes:
    """A SentencePiece BPE model in the manner of Llama: no normalization, byte fallback, digits apart."""
    import sentencepiece

    model = io.BytesIO()
    paragraphs = (part for text in texts_of("train", recipe.tokenizer_stories) for part in text.split("\n\n"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=paragraphs,
        model_writer=model,
        model_type="bpe",
        vocab_size=recipe.vocab_size,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        num_threads=1,  # several threads do not always merge in the same order
        minloglevel=2,
    )
    return model.getvalue()


def encode(tokenizer: bytes, texts: Iterable[str]) -> list[np.ndarray]:
    """Every text as ``[tokens]``, from the beginning-of-sequence token to the end-of-sequence token."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    return [np.array([BOS, *processor.encode(text), EOS], np.int64) for text in texts]


def texts_of(split: str, how_many: int) -> Iterator[str]:
    """The texts of a split's first stories."""
    return (story.text for story in stories(split, how_many))


def chunks(items: Sequence[np.ndarray], size: int) -> Iterator[Sequence[np.ndarray]]:
    """The items in groups of ``size``, the last one as long as what is left."""
    return (items[start : start + size] for start in range(0, len(items), size))


def batches(documents: Sequence[np.ndarray], recipe: Recipe) -> list[list[np.ndarray]]:
    """Rows for every step: one story each, of about the same length, or (a few batches) stories in a row.

    A story at the start of its row is what a user's prompt is; the filled rows train the positions beyond.
    """
    order = list(documents)
    rng = random.Random(recipe.seed)
    rng.shuffle(order)
    packed_until = int(len(order) * recipe.packed_share)
    width = recipe.max_position_embeddings
    stream = np.concatenate(order[:packed_until]) if packed_until else np.zeros(0, np.int64)
    packed = [stream[start : start + width] for start in range(0, len(stream) - width + 1, width)]
    result = [list(rows) for rows in chunks(packed, recipe.batch_tokens // width)]
    single = order[packed_until:]
    for chunk in chunks(single, 2048):
        rows: list[np.ndarray] = []
        for document in sorted(chunk, key=len):
            if rows and len(document) * (len(rows) + 1) > recipe.batch_tokens:
                result.append(rows)
                rows = []
            rows.append(document)
        result.append(rows)
    rng.shuffle(result)
    return result


def tensors(rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """``input_ids`` and ``labels`` ``[B, S]``, padded on the right; the padding has no label."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), EOS, np.int64)
    labels = np.full((len(rows), width), IGNORED, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = labels[index, : len(row)] = row
    return torch.from_numpy(ids), torch.from_numpy(labels)


def optimizer_for(module: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves the norms alone."""
    matrices = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    norms = [parameter for parameter in module.parameters() if parameter.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, recipe.learning_rate, recipe.betas, weight_decay=recipe.weight_decay, fused=True)


@torch.inference_mode()
def mean_loss(module: torch.nn.Module, documents: Sequence[np.ndarray]) -> float:
    """Mean negative log-likelihood in nats over every token that is predicted, the final one included."""
    module.eval()
    total, count = 0.0, 0
    for rows in chunks(sorted(documents, key=len), 24):
        ids, labels = tensors(rows)
        predicted = sum(len(row) - 1 for row in rows)
        total += float(module(input_ids=ids, labels=labels).loss) * predicted
        count += predicted
    module.train()
    return total / count


def columns() -> Iterator[Any]:
    yield from (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    yield from (TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tokens/s"))


def train(
    module: torch.nn.Module, documents: Sequence[np.ndarray], watched: Sequence[np.ndarray], report: Report
) -> None:
    """One pass over the documents; ``watched`` are held out and only measured."""
    recipe = report.recipe
    plan = batches(documents, recipe)
    optimizer = optimizer_for(module, recipe)
    started, cpu_started, seen, average = time.monotonic(), time.process_time(), 0, math.nan
    with Progress(*columns()) as progress:
        task = progress.add_task("training", total=len(plan), loss=math.nan, speed=0)
        for step, rows in enumerate(plan):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, len(plan), recipe)
            ids, labels = tensors(rows)
            loss = module(input_ids=ids, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seen += int(ids.numel())
            average = loss.item() if math.isnan(average) else 0.98 * average + 0.02 * loss.item()
            speed = seen / (time.monotonic() - started)
            progress.update(task, advance=1, loss=average, speed=speed)
            if (step + 1) % 100 == 0 or step + 1 == len(plan):
                held_out = mean_loss(module, watched)
                report.curve.append((step + 1, average, held_out))
                progress.console.print(f"step {step + 1}: train {average:.4f}, held out {held_out:.4f}")
    report.steps, report.train_loss = len(plan), average
    report.tokens = sum(len(row) for rows in plan for row in rows)
    report.cpu_seconds = time.process_time() - cpu_started


def round_weights(module: torch.nn.Module) -> None:
    """Give every weight the value that bfloat16 stores, so that what is measured is what is saved."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.bfloat16().float())


def save(folder: Path, module: torch.nn.Module, config: LlamaConfig, tokenizer: bytes) -> None:
    """Write the checkpoint: configuration, weights in bfloat16, tokenizer."""
    import ml_dtypes

    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    stored = {name: weight.numpy().astype(ml_dtypes.bfloat16) for name, weight in module.state_dict().items()}
    stored.pop("lm_head.weight", None)  # tied to the embedding, which is there
    save_safetensors(folder, stored)
    (folder / "tokenizer.model").write_bytes(tokenizer)
    with tempfile.TemporaryDirectory() as scratch:  # tokenizer.json too, for readers without SentencePiece
        LlamaTokenizerFast(str(folder / "tokenizer.model"), legacy=False).save_pretrained(scratch)
        shutil.copyfile(Path(scratch) / "tokenizer.json", folder / "tokenizer.json")
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_position_embeddings,
    }
    generation = {"bos_token_id": BOS, "eos_token_id": EOS, "max_new_tokens": SAMPLE["max_new_tokens"]}
    for name, content in (("tokenizer_config.json", settings), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def run(recipe: Recipe, out: Path) -> Report:
    """Train, measure, save, and describe."""
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    report = Report(recipe, distinct_stories=Grammar().estimate())
    print(f"training a tokenizer of {recipe.vocab_size} pieces on {recipe.tokenizer_stories:,} stories")
    tokenizer = train_tokenizer(recipe)
    print(f"telling {recipe.stories:,} stories")
    documents = encode(tokenizer, texts_of("train", recipe.stories))
    held_out = {split: encode(tokenizer, texts_of(split, HELD_OUT_STORIES)) for split in ("heldout", "unseen")}
    words = sum(len(text.split()) for text in texts_of("heldout", HELD_OUT_STORIES))
    report.tokens_per_word = sum(len(document) - 2 for document in held_out["heldout"]) / words

    config = recipe.config()
    module = build_module(config, task="causal-lm", dtype="float32", seed=recipe.seed).train()
    report.parameters = sum(parameter.numel() for parameter in module.parameters())
    print(f"{report.parameters:,} parameters")
    train(module, documents, held_out["heldout"][:96], report)
    round_weights(module)
    report.losses = {split: mean_loss(module, documents) for split, documents in held_out.items()}
    save(out, module, config, tokenizer)

    llm = Llama.load(out, backend="reference", dtype="float32")
    prompt = str(SAMPLE["prompt"])
    report.sample = prompt + llm.generate(prompt, **{k: v for k, v in SAMPLE.items() if k != "prompt"}).text
    (out / "README.md").write_text(model_card(report, SAMPLE), "utf-8")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, e.g. models/tiny")
    parser.add_argument("--stories", type=int, default=Recipe.stories, help=f"default {Recipe.stories:,}")
    parser.add_argument("--threads", type=int, default=Recipe.threads, help=f"default {Recipe.threads}")
    arguments = parser.parse_args()
    recipe = Recipe(stories=arguments.stories, threads=arguments.threads)
    report = run(recipe, arguments.out)
    print(f"\n{report.sample}\n")
    for split, loss in report.losses.items():
        print(f"{split}: {loss:.4f} nats per token, perplexity {math.exp(loss):.3f}")
    size = sum(file.stat().st_size for file in arguments.out.iterdir() if file.is_file())
    print(f"wrote {arguments.out}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
