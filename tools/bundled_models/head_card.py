"""The model cards of the bundled heads: what they are, what they were trained on, and the figures of the run."""

from __future__ import annotations

import platform
import textwrap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from head_recipe import Report
    from head_tasks import Head


class About(NamedTuple):
    """What only a person can say about a model."""

    what: str
    example: str
    texts: str
    limits: str


_SEEN = "Held out by seed: made in the same way of the same words, but texts that training leaves out (by checksum)."

ABOUT = {
    "sentiment": About(
        what="tells whether a short English text is positive, negative or neutral",
        example=(
            'llm = Llama.load("tiny-sentiment")\nprint(llm.predict("At first I was bored, but the end was lovely."))'
        ),
        texts=(
            "Opinions and plain reports made by `tools/bundled_models/sentiment_data.py`. No word gives "
            "the label away: what is "
            'denied counts for the other side ("was not happy"), and where a text says both, the main clause or what '
            "is said last decides. Held out by construction: the sentence frames, the ways to join them, the names, "
            "and the things that opinions are about, none of which is in a training text. The "
            "words of praise and blame themselves are those of training, as a word never heard says nothing."
        ),
        limits=(
            "It knows some two hundred words of praise and blame, and no irony. What it says about other words is a "
            "guess."
        ),
    ),
    "entities": About(
        what="finds people, places and things in short English texts",
        example=(
            'llm = Llama.load("tiny-entities")\n'
            'text = "Mia carried the old lantern to Northbridge."\n'
            'print(llm.predict(text, aggregation_strategy="average"))'
        ),
        texts=(
            "Sentences made by `tools/bundled_models/entity_data.py`: names (PERSON), towns and what one "
            "can be in or at (PLACE), "
            "and what one can carry, make or eat (THING), between sentences of `tiny`'s stories that have nothing but "
            "people. Half of the names and a quarter of the nouns are made up of syllables, so that it learns to read "
            "what stands around a word. Held out by construction: the sentence frames, the names, places, things, "
            "animals, foods and times, and the beginnings and ends of the names of towns, none of which is in a "
            "training text. Adjectives, prepositions and verbs are largely those of training: at a word never heard, "
            "a reader from left to right cannot know that it is no noun."
        ),
        limits=(
            "A Llama reads from left to right and decides about a word before it sees what follows, so an entity is "
            "the noun without its adjectives, and a name that opens a text is a person or a town by its look alone."
        ),
    ),
    "questions": About(
        what="answers questions about short English passages by pointing at the answer, or says that there is none",
        example=(
            'llm = Llama.load("tiny-questions")\n'
            'story = "Mia found a red kite in the forest. On Monday, Tom lost his hat near the lake."\n'
            'print(llm.predict(question="What did Mia find?", context=story))'
        ),
        texts=(
            "Passages of one to four facts and a question each, made by `tools/bundled_models/question_data.py`; "
            "more than a third of "
            "the questions have no answer in their passage (the label is then the first token, as in SQuAD 2.0). "
            "Several people do similar things, so that who, what, where and when have to agree. A third of the names "
            "and a sixth of the nouns are made up of syllables. While training, two layers are also asked what each "
            "token is (who, what, where, when), and whether the question has the same and is for this fact; what reads "
            "this there is not part of the model. Held out by construction: the ways to tell and some ways to ask, the "
            "names, things, places, animals, foods, times and colours, none of which is in a training text."
        ),
        limits=(
            "A Llama reads from left to right: at an answer it knows the question and what came before it, and "
            'nothing of what follows. In "Pip found a kite. Tom lost a hat.", asked who lost the hat, it cannot know '
            'at "Tom" what Tom is about to do: it guesses, and prefers a later name where the guess was wrong. So it '
            "can say that a question for what, where, to whom or by whom has no answer, but seldom that nobody did "
            "something. It knows about a hundred verbs; what it says about other ones is a guess."
        ),
    ),
}

_CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: {pipeline}
---

# {name}

A Llama of {parameters:,} parameters that {what}. It ships with polyllama, so that task heads can be tried without a
download:

```python
from polyllama import Llama

{example}
```

## Model

`{architecture}`: {layers} layers, begun from {start} and trained along, and a head.
The weights are stored in bfloat16; the tokenizer is `tiny`'s, with `<unk>` to pad with. {labels}

## Data

{texts}

## Training

`python tools/bundled_models/train_heads.py {head}`: Muon for the layers' matrices and AdamW for the rest, with a peak
learning rate of {learning_rate:g}, {steps:,} steps over {examples:,} texts ({tokens:,} tokens), {cpu_seconds:,.0f} CPU
seconds on one thread ({machine}, torch {torch}), seed {seed}, with the module of polyllama's torch backend and
polyllama's own loss.

## Scores

On {held_out:,} texts of each kind that were not trained on, with the bfloat16 weights computed in float32. The baseline
needs no model: {baseline}

{table}

{seen} {repeat}

## Limits

It knows the small world of its templates; text from elsewhere may come out wrong with high confidence. {limits}
It is made for demonstrations and tests.

## License

Apache-2.0, as is the text it learned from.
"""


def score_table(report: Report) -> str:
    """The scores by split, beside those of the baseline."""
    lines = ["| held out | score | model | baseline |", "| --- | --- | --- | --- |"]
    for split, name in (("heldout", "by seed"), ("unseen", "by construction")):
        for score, value in report.scores[split].items():
            lines.append(f"| {name} | {score} | {value:.4f} | {report.baselines[split][score]:.4f} |")
    return "\n".join(lines)


def wrapped(text: str) -> str:
    """Markdown whose paragraphs have lines of at most 120 characters."""
    kept = ("#", "|", "---", "llm", "from", "story", "text", "print")  # headings, tables, code

    def fill(block: str) -> str:
        is_prose = "`" * 3 not in block and not block.startswith(kept)
        return textwrap.fill(block, 120, break_on_hyphens=False, break_long_words=False) if is_prose else block.strip()

    return "\n\n".join(fill(block) for block in text.split("\n\n")) + "\n"


def model_card(head: Head, report: Report) -> str:
    """The text of the card for one training run."""
    import torch

    about, recipe = ABOUT[head.name], report.recipe
    pipelines = {"sequence-classification": "text-classification"}
    text = _CARD.format(
        pipeline=pipelines.get(head.task, head.task),
        name=head.folder,
        head=head.name,
        what=about.what,
        example=about.example,
        texts=about.texts,
        limits=about.limits,
        architecture=head.architecture,
        labels=f"Its labels: {', '.join(head.labels)}." if head.labels else "",
        layers=recipe.layers,
        start=(
            "those of the bundled `tiny`"
            if recipe.kept == recipe.layers
            else f"the first {recipe.kept} of those of the bundled `tiny`"
        ),
        parameters=report.parameters,
        learning_rate=recipe.learning_rate,
        steps=report.steps,
        examples=recipe.examples,
        tokens=report.tokens,
        cpu_seconds=report.cpu_seconds,
        machine=platform.machine(),
        torch=torch.__version__,
        seed=recipe.seed,
        held_out=recipe.held_out,
        baseline=" ".join((type(head).baseline.__doc__ or "").split()),
        table=score_table(report),
        seen=_SEEN,
        repeat=f"`python tools/bundled_models/train_heads.py {head.name} --score` measures them again from the files.",
    )
    return wrapped(text)
