"""``/v1/classify`` for whatever task a model has, and ``/v1/rerank``."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ....core.http_interface import HttpError
from ....core.tasks.results import as_data
from ..fields import Body, Part
from ..vectors import MOST_TEXTS, embedded

if TYPE_CHECKING:
    from ..answering import Request
    from ..hub import Served

OF_RUNNING = ("progress", "batch_size")
"""Options of ``predict`` that are about how it runs."""


class ClassifyBody(Body):
    """A text or several; of a task that takes several texts for one result, each by its name."""

    model: str | None = None
    input: str | dict[str, str] | list[str] | list[dict[str, str]]
    options: dict[str, Any] | None = None
    truncate: bool | None = None


class Document(Part):
    text: str


class RerankBody(Body):
    """A question and texts that may answer it."""

    model: str | None = None
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[str | Document], Field(min_length=1, max_length=MOST_TEXTS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = True
    truncate: bool | None = None


async def classify(call: Request) -> Any:
    """What the model's task makes of texts: labels, entities, answers, vectors."""
    body: ClassifyBody = call.body
    served = await call.model(body.model)
    if served.llm.task_head.generates:
        text = f"the model {served.name!r} writes text, it does not classify"
        raise HttpError(text, param="model", hint="see /v1/completions")
    for name in body.options or {}:
        if name in OF_RUNNING:
            raise HttpError(f"options has no {name!r}: how a model runs is the server's matter", param="options")
    inputs = body.input if isinstance(body.input, list) else [body.input]
    if not 0 < len(inputs) <= MOST_TEXTS:
        raise HttpError(f"input holds {len(inputs)} texts, wanted 1 to {MOST_TEXTS}", param="input")

    def predicted() -> list[Any]:
        options = {"truncation": bool(body.truncate), **served.chosen, **(body.options or {})}
        return [as_data(result) for result in served.llm.predict(inputs, **options)]

    found = [{"index": index, "result": result} for index, result in enumerate(await call.run(predicted))]
    return {"object": "list", "model": served.name, "task": served.llm.task, "data": found}


async def rerank(call: Request) -> Any:
    """Texts by how well they go with a question, the best first.

    A classifier with one value scores each pair of question and text; of any other model the vectors of both are
    compared.
    """
    body: RerankBody = call.body
    served = await call.model(body.model)
    if not (served.llm.task == "sequence-classification" and served.llm.config.num_labels == 1):
        if served.llm.task not in ("causal-lm", "embedding", "base"):
            text = f"the model {served.name!r} is for {served.llm.task}, which scores no pairs of texts"
            raise HttpError(text, param="model", hint="take an embedding model, or a classifier of one value")
        served = await call.model(body.model, task="embedding")
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    scores = await call.run(_scores, served, body.query, texts, bool(body.truncate))
    ranked = sorted(range(len(texts)), key=lambda place: -scores[place])[: body.top_n]
    results = []
    for place in ranked:
        found: dict[str, Any] = {"index": place, "relevance_score": scores[place]}
        results.append({**found, "document": {"text": texts[place]}} if body.return_documents else found)
    return {"id": f"rerank-{uuid.uuid4().hex}", "model": served.name, "results": results}


def _scores(served: Served, query: str, texts: list[str], truncate: bool) -> list[float]:
    if served.llm.task == "sequence-classification":
        pairs = [{"text": query, "text_pair": text} for text in texts]
        return [float(label.score) for label in served.llm.predict(pairs, truncation=truncate, **served.chosen)]
    vectors, _ = embedded(served, [query, *texts], truncate)
    return [float(score) for score in (vectors[1:] @ vectors[0]).tolist()]
