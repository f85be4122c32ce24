"""lm-eval's own command line, in which ``--model polyllama`` is known: importing this package registers it."""

from __future__ import annotations

import sys

from ...core.errors import PolyllamaError


def main() -> None:
    """Run it; an error of polyllama's is one line.

    lm-eval's own default of ``--device`` is ``cuda:0``, on every machine. Where nobody says one, the backend takes its
    best; a file given as ``--config`` is left to say it.
    """
    from lm_eval.__main__ import cli_evaluate

    if _given("--model", "-M") and not _given("--device") and not _given("--config", "-C"):
        sys.argv += ["--device", "auto"]
    try:
        cli_evaluate()
    except PolyllamaError as error:
        sys.exit(f"Error: {error}")


def _given(*options: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in sys.argv[1:] for option in options)


if __name__ == "__main__":
    main()
