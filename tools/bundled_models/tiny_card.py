"""The model card of `tiny`: what it is, what it was trained on, and the figures of the run that made it."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiny_recipe import Report

_CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: text-generation
---

# tiny

A Llama of {parameters:,} parameters that tells short stories. It ships with polyllama, so that everything can be tried
without a download:

```python
from polyllama import Llama

llm = Llama.load("tiny")
print(llm.generate("{prompt}", max_new_tokens={max_new_tokens}, temperature={temperature}, seed={seed}))
```

> {sample}

## Model

Llama architecture: {layers} layers, hidden size {hidden}, {heads} attention heads with {kv_heads} key-value heads,
an MLP of {intermediate}, tied embeddings, a context of {context} tokens, a vocabulary of {vocab}. The weights are
stored in bfloat16. The tokenizer is a SentencePiece BPE model with byte fallback, so any text can be encoded, though
only the words of the stories mean something to the model.

## Data

Stories told by the grammar in `tools/bundled_models/stories.py`, all of whose words were written for this project. By a
cautious count it can tell more than {distinct:.0e} different stories. Training saw {stories:,} of them, each once.

## Training

`python tools/bundled_models/train_tiny.py --out models/tiny`: AdamW with a peak learning rate of {learning_rate:g},
{steps:,} steps over {tokens:,} tokens, {cpu_seconds:,.0f} CPU seconds on {threads} threads ({machine}, torch {torch}),
seed {training_seed}, with the module of polyllama's torch backend and polyllama's own loss.

## Loss

In nats per token, on {held_out:,} stories of each kind, with the bfloat16 weights computed in float32. There are
{tokens_per_word:.2f} tokens to a word.

| stories | loss | perplexity |
| --- | --- | --- |
| training (average of the last steps, before rounding) | {train_loss:.4f} | {train_perplexity:.3f} |
| held out by seed | {heldout:.4f} | {heldout_perplexity:.3f} |
| held out by construction | {unseen:.4f} | {unseen_perplexity:.3f} |

Held out by construction: the hero's name never meets this place, nor this thing, in any training story.

## Limits

It knows the small world of its grammar and nothing else: no facts, no instructions, no conversation (it has no chat
template), and English only. A prompt from outside that world is continued with a story, more or less. It may mix up who
did what, as very small models do. It is made for demonstrations and tests.

## License

Apache-2.0, as is the text it learned from.
"""


def model_card(report: Report, sample: Mapping[str, Any]) -> str:
    """The text of the card for one training run."""
    import torch

    recipe = report.recipe
    return _CARD.format(
        parameters=report.parameters,
        prompt=sample["prompt"],
        temperature=sample["temperature"],
        seed=sample["seed"],
        max_new_tokens=sample["max_new_tokens"],
        sample=report.sample.replace("\n", "\n> "),
        layers=recipe.num_hidden_layers,
        hidden=recipe.hidden_size,
        heads=recipe.num_attention_heads,
        kv_heads=recipe.num_key_value_heads,
        intermediate=recipe.intermediate_size,
        context=recipe.max_position_embeddings,
        vocab=recipe.vocab_size,
        distinct=10.0 ** math.floor(math.log10(report.distinct_stories)),
        stories=recipe.stories,
        learning_rate=recipe.learning_rate,
        steps=report.steps,
        tokens=report.tokens,
        cpu_seconds=report.cpu_seconds,
        threads=recipe.threads,
        machine=platform.machine(),
        torch=torch.__version__,
        training_seed=recipe.seed,
        held_out=report.held_out_stories,
        tokens_per_word=report.tokens_per_word,
        train_loss=report.train_loss,
        train_perplexity=math.exp(report.train_loss),
        heldout=report.losses["heldout"],
        heldout_perplexity=math.exp(report.losses["heldout"]),
        unseen=report.losses["unseen"],
        unseen_perplexity=math.exp(report.losses["unseen"]),
    )
