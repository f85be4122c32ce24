"""``polyllama serve``: models behind HTTP."""

from __future__ import annotations

import importlib.util
from typing import Any

import click

from ...cli.console import examples
from ...cli.options import LOAD_NAMES, given, load_options, parse_overrides
from ...core.errors import UnsupportedError

NEEDED = ("starlette", "uvicorn", "prometheus_client")


@click.command(
    "serve",
    epilog=examples(
        "polyllama serve llama-3.2-1b-instruct",
        "polyllama serve tiny poet=./my-model --port 9000 --keep-alive 10m",
        "polyllama serve --any --offline --host 0.0.0.0 --api-key-file keys.txt",
    ),
)
@click.argument("models", nargs=-1)
@click.option("--host", metavar="HOST", help="Address to listen on; 127.0.0.1, which is this machine alone.")
@click.option("--port", type=int, metavar="N", help="Port to listen on; 8000, and 0 for any that is free.")
@click.option("--any", "any_name", is_flag=True, default=None, help="Serve every model of the registry by its name.")
@click.option("--api-key-file", metavar="FILE", type=click.Path(), help="API keys that may ask, one a line.")
@click.option("--max-rows", type=int, metavar="N", help="Texts that a model writes at a time; 32.")
@click.option("--max-queue", type=int, metavar="N", help="Texts that may wait for a model; 128.")
@click.option("--max-tokens", type=int, metavar="N", help="Most new tokens of a text; what the context holds.")
@click.option("--max-body", metavar="SIZE", help="Largest request; 10MB.")
@click.option("--max-time", metavar="TIME", help="Longest time of a request; 10m.")
@click.option("--context", type=int, metavar="N", help="Most tokens of prompt and text together.")
@click.option("--keep-alive", metavar="TIME", help="Unload a model that nobody asks for so long; forever.")
@click.option("--memory", metavar="SIZE", help="What all loaded models may take; what the devices have.")
@click.option("--cors", metavar="ORIGIN", multiple=True, help="Let pages of this origin ask; * for all. Repeatable.")
@click.option("--allow-host", metavar="NAME", multiple=True, help="A name this server is reached by. Repeatable.")
@click.option("--access-log", is_flag=True, default=None, help="Write every request to stdout, as a line of JSON.")
@click.option("--chat-template", metavar="FILE", type=click.Path(), help="A file with another chat template.")
@click.option("--tool-parser", metavar="NAME", help="How models write calls of tools; as their templates say.")
@load_options
def serve(models: tuple[str, ...], **options: Any) -> None:
    """Serve MODELS to programs that speak OpenAI's interface.

    A model is a registry name, a Hub repository or a folder; NAME=MODEL serves it under another name. The first is
    loaded at once, the others when they are first asked for. Requests name a model, and optionally a backend:
    tiny@torch. With --adapters poems=FOLDER the model is served as tiny:poems too; where there are several models, it
    is --adapters tiny:poems=FOLDER.

    Every option is also a setting: serve_port in polyllama.yaml, or POLYLLAMA_SERVE_PORT.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"serving needs the library {missing[0]!r}, which is not installed",
            hint="pip install 'polyllama[serve]'",
        )
    from ..serve.reading import read_options
    from ..serve.server import serve as run

    load = {**given(options, LOAD_NAMES), **parse_overrides(options.pop("overrides"))}
    own = {name: value for name, value in options.items() if name not in LOAD_NAMES and value not in (None, ())}
    run(read_options(models, own, load))
