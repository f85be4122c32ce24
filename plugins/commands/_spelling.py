"""Messages in the words of the command line: what Python calls ``max_new_tokens`` is typed ``--max-new-tokens``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import click


def typed_names(parameters: Iterable[click.Parameter]) -> dict[str, str]:
    """How a command's options are typed, by the name that the Python argument has."""
    options = (parameter for parameter in parameters if isinstance(parameter, click.Option) and parameter.name)
    return {str(option.name): max(option.opts, key=len) for option in options}


def as_typed(message: str, names: Mapping[str, str]) -> str:
    """A message with its options as they are typed.

    Only what must be an option is changed: ``name=value``, the subject of the message, a name with an underscore. What
    a file says (``(from generation_config.json)``, ``FILE: name``) keeps its name, because there it is called so.

    >>> names = {"max_new_tokens": "--max-new-tokens", "dtype": "--dtype"}
    >>> as_typed("max_new_tokens is -1; give dtype='float32', or a larger max_new_tokens", names)
    '--max-new-tokens is -1; give --dtype float32, or a larger --max-new-tokens'
    >>> as_typed("config.json: max_new_tokens is -1", names)
    'config.json: max_new_tokens is -1'
    """
    if not names:
        return message
    any_name = "|".join(map(re.escape, names))
    message = re.sub(
        rf"^load has no argument '(?!(?:{any_name})')(\w+)'; (it takes fields of LlamaConfig)?",
        lambda match: f"--set {match[1]}: no field of a model's configuration is called so{'' if match[2] else '; '}",
        message,
    )
    message = re.sub(
        rf"(?<![\w.'\"/-])({any_name})=('[^'\n]*'|\"[^\"\n]*\"|\[[^\]\n]*\]|[\w.+-]*\w)(?! \(from )",
        lambda match: _with_value(names[match[1]], match[2]),
        message,
    )
    message = re.sub(rf"^(?:argument: )?({any_name})(?= (?:is|must|and)\b)", lambda match: names[match[1]], message)
    if " has no option '" not in message:  # what is given as --option NAME=VALUE is called so there
        message = re.sub(rf"\bdid you mean '({any_name})'", lambda match: f"did you mean {names[match[1]]}", message)
    message = re.sub(rf"\b(leave (?:out )?)({any_name})\b", lambda match: f"{match[1]}{names[match[2]]}", message)
    underscored = "|".join(re.escape(name) for name in names if "_" in name)
    if underscored:
        message = re.sub(
            rf"(?<![\w.'\"/=-])(?<!: )({underscored})(?![\w.'\"/=-]*[\w'\"/=])", lambda match: names[match[1]], message
        )
    return message


def _with_value(option: str, value: str) -> str:
    if value == "None":
        return f"no {option}"
    if value == "True":
        return option
    if value[0] in "'\"" and len(value) > 2 and not re.search(r"\s", value):
        value = value[1:-1]
    return f"{option} {value}"
