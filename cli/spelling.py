"""Messages in the words of the command line: what Python calls ``max_new_tokens`` is typed ``--max-new-tokens``.

Messages know where they mention arguments (:mod:`polyllama.core.messages`), so nothing is looked for in their texts.
What a file says (``max_new_tokens=9 (from generation_config.json)``) is no argument and keeps its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import click

from ..core.errors import PolyllamaError, UnknownArgumentError
from ..core.messages import Argument, spelled


def typed_names(parameters: Iterable[click.Parameter]) -> dict[str, str]:
    """How a command's options are typed, by the name that the Python argument has."""
    options = (parameter for parameter in parameters if isinstance(parameter, click.Option) and parameter.name)
    return {str(option.name): max(option.opts, key=len) for option in options}


def error_as_typed(error: PolyllamaError, names: Mapping[str, str]) -> str:
    """What an error says, with its options as they are typed."""
    if "overrides" in names and isinstance(error, UnknownArgumentError) and error.argument not in names:
        text = f"{names['overrides']} {error.argument}: no field of a model's configuration is called so"
        return as_typed(text + "; " + error.advice if error.advice else text, names)
    return as_typed(str(error), names)


def as_typed(message: str, names: Mapping[str, str]) -> str:
    """A message with its options as they are typed.

    >>> from polyllama.core.messages import mention, subject
    >>> names = {"max_new_tokens": "--max-new-tokens", "dtype": "--dtype"}
    >>> message = subject("max_new_tokens", -1) + " is -1; give " + mention("dtype", "float32") + ", or seed=1"
    >>> message
    "max_new_tokens is -1; give dtype='float32', or seed=1"
    >>> as_typed(message, names)
    '--max-new-tokens is -1; give --dtype float32, or seed=1'
    """
    return spelled(message, lambda mentioned: _typed(mentioned, names))


def _typed(mentioned: Argument, names: Mapping[str, str]) -> str:
    option, shown = names.get(mentioned.name), mentioned.shown
    if option is None:
        return mentioned.text
    if shown is None:
        return option
    if mentioned.value is None:
        return f"no {option}"
    if mentioned.value is True:
        return option
    if isinstance(mentioned.value, str) and shown[1:-1] and not any(map(str.isspace, shown)):
        shown = shown[1:].removesuffix(shown[0])  # the quotes of Python
    return f"{option} {shown}"
