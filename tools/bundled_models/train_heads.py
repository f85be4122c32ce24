"""Trains the bundled models with task heads: `tiny-sentiment`, `tiny-entities` and `tiny-questions`.

    python tools/bundled_models/train_heads.py sentiment
    python tools/bundled_models/train_heads.py entities
    python tools/bundled_models/train_heads.py questions
    python tools/bundled_models/train_heads.py sentiment --score

All start from the first layers of `tiny`. They learn from texts that are made as it goes (``sentiment_data.py``,
``entity_data.py``, ``question_data.py``); no text is seen twice on purpose.
Each takes three to fifteen minutes on one CPU core and needs ``polyllama[torch]``. Everything is seeded: the same
versions on the same kind of processor give the same files. The scores in the model cards are measured on texts that
were not trained on, with the weights as they are stored; ``--score`` measures them again from the files. Where to
read on: ``head_text.py`` says what is held out and how, ``head_tasks.py`` how texts become tokens with labels,
``head_card.py`` writes the cards.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import random
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from head_card import model_card
from head_recipe import Recipe, Report, learning_rate
from head_tasks import HEADS, IGNORED, Head, Row
from polyllama import Llama, LlamaConfig
from polyllama.backends.torch.backend import build_module
from polyllama.core.checkpoint.huggingface.save_safetensors import save_safetensors
from polyllama.core.checkpoint.opening import open_checkpoint
from polyllama.core.tokenizer.llama_tokenizer import load_tokenizer

MODELS = Path(__file__).parents[2] / "models"
TRUNK = MODELS / "tiny"
PREFIXES = ("model.", "transformer.")  # what the trunk is called in a checkpoint depends on the head
PAD = 0  # <unk>: with byte fallback no text has it


RECIPES = {
    "sentiment": Recipe("sentiment", 150_000, 3, 3, 1024, 2e-3),
    "entities": Recipe("entities", 100_000, 3, 3, 1536, 2e-3),
    "questions": Recipe("questions", 110_000, 6, 2, 1024, 2e-3, hints=1.0),
}


def config_of(head: Head, recipe: Recipe) -> LlamaConfig:
    """The trunk's configuration with fewer layers and this head's labels."""
    labels = {"id2label": dict(enumerate(head.labels))} if head.labels else {}
    raw = json.loads((TRUNK / "config.json").read_text("utf-8"))
    raw |= {
        "architectures": [head.architecture],
        "num_hidden_layers": recipe.layers,
        "pad_token_id": PAD,
        "tie_word_embeddings": False,  # there is no output embedding to tie
        "use_cache": False,
    }
    return LlamaConfig.from_dict(raw, source="the trunk's configuration", **labels)


def start_weights(module: torch.nn.Module, recipe: Recipe) -> None:
    """Give the embedding, the layers and the final norm the weights of `tiny`.

    Layers beyond the first ``recipe.kept`` add nothing yet to what passes through them, so that at first they see which
    word stands where; in them, half of the heads look for the same word elsewhere (see :func:`matching_heads`). To
    find in a passage what a question names is what takes longest to learn.
    """
    trunk = _without_head(TRUNK)
    deepest = max(int(number) for number in re.findall(r"layers\.(\d+)", " ".join(trunk)))
    config = json.loads((TRUNK / "config.json").read_text("utf-8"))
    heads, groups, width = (config[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            _, _, part = name.partition(".")
            if not name.startswith(PREFIXES):
                continue
            number = next((int(digits) for digits in re.findall(r"^layers\.(\d+)", part)), 0)
            known = trunk[part.replace(f"layers.{number}.", f"layers.{min(number, deepest)}.")]
            parameter.copy_(torch.from_numpy(known.astype(np.float32)))
            if number >= recipe.kept and part.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        layers = next(child for name, child in module.named_modules() if name.endswith(".layers"))
        for layer in list(layers.children())[recipe.kept :]:
            query, key = (layer.get_parameter(f"self_attn.{name}_proj.weight") for name in "qk")
            matching_heads(query.view(groups, heads // groups, width, -1)[:, 0], key.view(groups, width, -1), generator)


def matching_heads(query: torch.Tensor, key: torch.Tensor, generator: torch.Generator) -> None:
    """Let queries and keys ``[heads, head_dim, width]`` be the same, as in Trockman and Kolter (2023), "Mimetic
    initialization": then like attends to like. Only the slow half of RoPE's pairs take part, so that it does not matter
    how far apart the two stand; at a scale of 1.7 the same word has a score of about eight more than another one.
    """
    half = key.shape[1] // 4
    slow = [*range(half, 2 * half), *range(3 * half, 4 * half)]
    for one, other in zip(query, key, strict=True):
        other.zero_()
        noise = torch.randn(key.shape[2], len(slow), generator=generator)
        other[slow] = 1.7 * torch.linalg.qr(noise)[0].T
        one.copy_(other)


def _without_head(folder: Path) -> dict[str, np.ndarray]:
    """The weights of a checkpoint but for its head, by their names within the trunk."""
    checkpoint = open_checkpoint(folder)
    names = [name for name in checkpoint.tensors() if name.startswith(PREFIXES)]
    return {name.partition(".")[2]: checkpoint.read(name) for name in names}


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in groups of ``size``, the last one as long as what is left."""
    return (items[start : start + size] for start in range(0, len(items), size))


def by_length(rows: Sequence[Row], batch_tokens: int) -> list[list[Row]]:
    """Batches of about the same length and number of tokens, padding included."""
    result: list[list[Row]] = [[]]
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if result[-1] and len(row.ids) * (len(result[-1]) + 1) > batch_tokens:
            result.append([])
        result[-1].append(row)
    return result


def batches(head: Head, tokenizer: Any, recipe: Recipe) -> Iterator[tuple[float, list[Row]]]:
    """Every batch of the training, with how much of the training is behind it."""
    rng = random.Random(recipe.seed)
    texts = head.examples("train", recipe.examples)
    warm = int(recipe.examples * recipe.shortest_first)
    seen = 0
    if warm:  # in one piece, from short to long, but for a little disorder
        first = [next(texts) for _ in range(warm)]
        rows = sorted(head.rows(tokenizer, first), key=lambda row: len(row.ids) * (0.75 + 0.5 * rng.random()))
        for group in chunks(rows, recipe.chunk // 4):
            for batch in by_length(group, recipe.batch_tokens):
                yield seen / recipe.examples, batch
                seen += len(batch)
    while seen < recipe.examples:
        some = [next(texts) for _ in range(min(recipe.chunk, recipe.examples - seen))]
        groups = by_length(head.rows(tokenizer, some), recipe.batch_tokens)
        rng.shuffle(groups)
        for batch in groups:
            yield seen / recipe.examples, batch
            seen += len(batch)


def inputs(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask`` ``[B, S]``, padded on the right."""
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), PAD, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.ids
        mask[index, : len(row.ids)] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


class Hints:
    """Asks some layers what each token is, while training only: more to learn from than the labels alone."""

    def __init__(self, module: torch.nn.Module, head: Head) -> None:
        layers = next(child for name, child in module.named_modules() if name.endswith(".layers"))
        self.seen: dict[int, torch.Tensor] = {}
        self.classify = torch.nn.ModuleDict()
        for index in head.hint_layers:
            layer = list(layers.children())[index]
            width = next(parameter.shape[-1] for parameter in layer.parameters() if parameter.ndim == 1)
            self.classify[str(index)] = torch.nn.Linear(width, head.hints)
            layer.register_forward_hook(functools.partial(self._keep, index))

    def _keep(self, index: int, module: torch.nn.Module, given: Any, output: torch.Tensor) -> None:
        self.seen[index] = output

    def loss(self, rows: Sequence[Row]) -> torch.Tensor:
        """The mean cross entropy of what these layers saw in the last pass."""
        losses = []
        for number, (index, seen) in enumerate(self.seen.items()):
            wanted = np.full(seen.shape[:2], IGNORED)
            for place, row in enumerate(rows):
                wanted[place, : len(row.ids)] = row.hints[number]
            found = self.classify[str(index)](torch.nn.functional.rms_norm(seen, seen.shape[-1:]))
            target = torch.from_numpy(wanted).flatten()
            losses.append(torch.nn.functional.cross_entropy(found.flatten(0, 1), target, ignore_index=IGNORED))
        return torch.stack(losses).mean()


def optimizers_for(module: torch.nn.Module, recipe: Recipe, hints: Hints | None) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the layers' matrices, which then learn in half the steps; AdamW for the rest."""
    inner = [p for name, p in module.named_parameters() if p.ndim == 2 and ".layers." in name]
    embeddings = [p for name, p in module.named_parameters() if p.ndim == 2 and ".layers." not in name]
    others = [p for p in module.parameters() if p.ndim == 1]
    if hints is not None:
        others += hints.classify.parameters()
    groups: list[dict[str, Any]] = [{"params": embeddings}, {"params": others, "weight_decay": 0.0}]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    muon = torch.optim.Muon(inner, rate, decay, ns_steps=3, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(groups, rate, recipe.betas, weight_decay=decay, fused=True)]


def train(module: torch.nn.Module, head: Head, tokenizer: Any, report: Report) -> None:
    """One pass over the training texts."""
    recipe = report.recipe
    hints = Hints(module, head) if head.hints and recipe.hints else None
    optimizers = optimizers_for(module, recipe, hints)
    watched = head.rows(tokenizer, list(head.examples("heldout", 300)))
    started, average = time.process_time(), math.nan
    module.train()
    for step, (progress, rows) in enumerate(batches(head, tokenizer, recipe), 1):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress, recipe)
        given = inputs(rows)
        labels = {name: torch.from_numpy(array) for name, array in head.collate(rows).items()}
        loss = module(**given, **labels).loss
        (loss if hints is None else loss + recipe.hints * hints.loss(rows)).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
        for optimizer in optimizers:
            optimizer.step()
        module.zero_grad(set_to_none=True)
        report.tokens += sum(len(row.ids) for row in rows)
        report.steps = step
        average = loss.item() if math.isnan(average) else 0.98 * average + 0.02 * loss.item()
        if step % 100 == 0:
            seconds = time.process_time() - started
            found = ", ".join(f"{name} {value:.3f}" for name, value in evaluate(module, head, watched).items())
            print(f"{progress:4.0%} step {step}: loss {average:.4f}, {found}, {seconds:.0f} CPU seconds", flush=True)
    report.loss, report.cpu_seconds = average, time.process_time() - started


@torch.inference_mode()
def evaluate(module: torch.nn.Module, head: Head, rows: Sequence[Row]) -> dict[str, float]:
    """The head's scores on some rows."""
    module.eval()
    order = sorted(rows, key=lambda row: len(row.ids))
    found = []
    for group in by_length(order, 8192):
        output = module(**inputs(group))
        arrays = {name: output[name].float().numpy() for name in head.outputs}
        found += [
            head.decode(row, {name: array[index] for name, array in arrays.items()}) for index, row in enumerate(group)
        ]
    module.train()
    return head.scores([row.example for row in order], found)


def round_weights(module: torch.nn.Module) -> None:
    """Give every weight the value that bfloat16 stores, so that what is measured is what is saved."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.bfloat16().float())


def save(folder: Path, module: torch.nn.Module, config: LlamaConfig) -> None:
    """Write the checkpoint: configuration, weights in bfloat16, the trunk's tokenizer with a token to pad with."""
    import ml_dtypes

    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_safetensors(
        folder, {name: weight.numpy().astype(ml_dtypes.bfloat16) for name, weight in module.state_dict().items()}
    )
    shutil.copyfile(TRUNK / "tokenizer.model", folder / "tokenizer.model")
    settings = json.loads((TRUNK / "tokenizer_config.json").read_text("utf-8"))
    settings["pad_token"] = "<unk>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def scores_of(head: Head, folder: Path, how_many: int) -> dict[str, dict[str, float]]:
    """The scores of a saved model on what it was not trained on, by split."""
    llm = Llama.load(folder, backend="torch:cpu", dtype="float32")
    return {
        split: evaluate(llm.module, head, head.rows(llm.tokenizer, list(head.examples(split, how_many))))
        for split in ("heldout", "unseen")
    }


def run(recipe: Recipe, out: Path) -> Report:
    """Train, measure, save, and describe."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    head, report = HEADS[recipe.head], Report(recipe)
    tokenizer = load_tokenizer(TRUNK)
    config = config_of(head, recipe)
    torch.manual_seed(recipe.seed)  # for dropout
    module = build_module(config, task=head.task, dtype="float32", seed=recipe.seed)
    start_weights(module, recipe)
    report.parameters = sum(parameter.numel() for parameter in module.parameters())
    print(f"{head.folder}: {report.parameters:,} parameters", flush=True)
    train(module, head, tokenizer, report)
    round_weights(module)
    save(out, module, config)
    baseline = head.baseline(list(head.examples("train", 20_000)))
    for split in ("heldout", "unseen"):
        texts = list(head.examples(split, recipe.held_out))
        report.baselines[split] = head.scores(texts, [baseline(text) for text in texts])
    report.scores = scores_of(head, out, recipe.held_out)
    (out / "README.md").write_text(model_card(head, report), "utf-8")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("head", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, help="the folder to write, by default the bundled model's")
    parser.add_argument("--examples", type=int, help="how many texts to train on, by default as the recipe says")
    parser.add_argument("--score", action="store_true", help="only measure the model that is there")
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.head]
    if arguments.examples is not None:
        recipe = replace(recipe, examples=arguments.examples)
    head = HEADS[recipe.head]
    out = arguments.out or MODELS / head.folder
    scores = scores_of(head, out, recipe.held_out) if arguments.score else run(recipe, out).scores
    for split, values in scores.items():
        for name, value in values.items():
            print(f"{split}: {name} {value:.4f}")


if __name__ == "__main__":
    main()
