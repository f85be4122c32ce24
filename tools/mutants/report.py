"""What a run of mutants comes to: the score, and the survivors with their place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .known import Key, Known
from .trying import CAUGHT, SURVIVED, Trial


@dataclass
class Report:
    """Trials of one kind, and what is known of survivors."""

    kind: str
    trials: list[Trial]
    known: dict[Key, Known] = field(default_factory=dict)

    @property
    def caught(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.verdict == CAUGHT]

    @property
    def judged(self) -> list[Trial]:
        """Survivors that are equivalent or defensive."""
        return [t for t in self.trials if t.verdict != CAUGHT and t.mutation.key in self.known]

    @property
    def survivors(self) -> list[Trial]:
        return [t for t in self.trials if t.verdict != CAUGHT and t.mutation.key not in self.known]

    @property
    def score(self) -> float:
        """Share of what is neither equivalent nor defensive that is caught."""
        counted = len(self.caught) + len(self.survivors)
        return len(self.caught) / counted if counted else 1.0

    def lines(self) -> list[str]:
        """Lines to print."""
        judged = [self.known[trial.mutation.key].verdict for trial in self.judged]
        lines = [
            f"{self.kind}: {self.score:.1%} caught ({len(self.caught)} of {len(self.caught) + len(self.survivors)}); "
            f"left out: {judged.count('equivalent')} equivalent, {judged.count('defensive')} defensive"
        ]
        for trial in sorted(self.survivors, key=lambda t: (t.mutation.file, t.mutation.line)):
            m = trial.mutation
            why = f"survived {trial.tests} tests" if trial.verdict == SURVIVED else "no test calls it"
            lines += [f"  {m.file}:{m.line} {m.function}: {m.operator} ({why})"]
            lines += [f"    - {m.original}", f"    + {m.mutated}"]
        return lines

    def data(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {
            "kind": self.kind,
            "score": self.score,
            "caught": len(self.caught),
            "trials": [
                {
                    **{name: getattr(t.mutation, name) for name in ("file", "function", "line", "operator")},
                    **{name: getattr(t.mutation, name) for name in ("original", "mutated", "occurrence")},
                    "verdict": t.verdict,
                    "known": self.known[t.mutation.key].verdict if t.mutation.key in self.known else None,
                    "by": t.by,
                    "tests": t.tests,
                    "seconds": round(t.seconds, 1),
                }
                for t in self.trials
            ],
        }


def write(reports: list[Report], path: Path, seed: int) -> None:
    path.write_text(json.dumps({"seed": seed, "kinds": [report.data() for report in reports]}, indent=1) + "\n")
