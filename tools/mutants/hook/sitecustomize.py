"""Start-up of every process that a mutant's tests start: Python imports this from PYTHONPATH before anything else."""

from __future__ import annotations

import replaced  # type: ignore[import-not-found]

replaced.install()
