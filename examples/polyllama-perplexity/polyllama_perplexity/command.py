"""``polyllama perplexity``. Nothing but click is imported until the command runs."""

from __future__ import annotations

import dataclasses
import json
import sys

import click


@click.command("perplexity")
@click.argument("model")
@click.argument("text", required=False)
@click.option("--backend", help="What runs it; the best that can by default.")
@click.option("--dtype", default="auto", help="What it computes in.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def perplexity(model: str, text: str | None, backend: str | None, dtype: str, as_json: bool) -> None:
    """Measure how surprised MODEL is by TEXT, or by standard input."""
    from polyllama import Llama

    from .measure import measure

    if text is None:
        text = sys.stdin.read().removesuffix("\n")
    llm = Llama.load(model, task="perplexity", backend=backend, dtype=dtype)
    surprise = measure(llm, text)
    if as_json:
        click.echo(json.dumps({"model": model, "backend": llm.backend, **dataclasses.asdict(surprise)}))
        return
    for token, nats in zip(surprise.tokens[1:], surprise.surprisals, strict=True):
        click.echo(f"{nats:8.3f}  {token!r}")
    click.echo(f"perplexity {surprise.perplexity:.4g} over {len(surprise.surprisals)} tokens")
