"""A model of EleutherAI's lm-evaluation-harness that runs on every backend.

From the command line, with lm-eval's own arguments::

    python -m polyllama.integrations.lm_eval --model polyllama --model_args pretrained=tiny,backend=cpu --tasks arc_easy

In Python, ``lm_eval.simple_evaluate(model=PolyllamaLM("tiny", backend="cpu"), tasks=["arc_easy"])``.

Source: https://github.com/EleutherAI/lm-evaluation-harness, its guide to models; tokens, windows and scores are those
of its own model ``hf``.
"""

import sys

from ...core.errors import PluginError

try:
    from .model import PolyllamaLM
except PluginError as error:
    if sys.argv[:1] == ["-m"] and __name__ in sys.orig_argv:  # so python -m imports this before __main__ can answer
        sys.exit(f"Error: {error}")
    raise

__all__ = ["PolyllamaLM"]
