"""The conformance kit as a pytest suite, and the page that is made of its certificates."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from polyllama.core.errors import PolyllamaError
from polyllama.core.graph.rope import Rope
from polyllama.testing import ConformanceSuite, certify
from polyllama.testing.catalogue import all_checks
from polyllama.testing.certificate import select_checks
from sabotage import SpecBackend, interleaved_rope
from support_processes import run_process

ROOT = Path(__file__).resolve().parents[2]


class TestConformance(ConformanceSuite):
    backend = SpecBackend()
    only = ("node", "rope.default", "errors.id_negative")


SUITE = """
from polyllama.testing import ConformanceSuite

class TestConformance(ConformanceSuite):
    backend = "reference"
"""


def test_a_third_party_runs_the_suite_in_three_lines(tmp_path: Path) -> None:
    """And a failing check is a failing test, by its name."""
    (tmp_path / "test_it.py").write_text(SUITE + "    only = ('rope.yarn', 'cache.step', 'errors')\n")
    sabotage = "from polyllama.core.graph.rope import Rope\nfrom polyllama.testing import ConformanceSuite\n"
    sabotage += "from sabotage import SpecBackend, interleaved_rope\n\nclass TestBroken(ConformanceSuite):\n"
    sabotage += (
        "    backend = SpecBackend(overrides={Rope: interleaved_rope})\n    only = ('rope.yarn', 'node.linear')\n"
    )
    (tmp_path / "test_broken.py").write_text(sabotage)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", str(tmp_path)]
    path = {"PYTHONPATH": str(ROOT / "tests" / "support")}
    done = run_process(
        [*command, "-k", "TestConformance and test_it or TestBroken"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **path},
    )
    out = done.stdout
    assert done.returncode == 1, out + done.stderr
    assert "PASSED test_it.py::TestConformance::test_conformance[float64-rope.yarn]" in out
    assert "PASSED test_it.py::TestConformance::test_conformance[float32-cache.step]" in out
    assert "FAILED test_broken.py::TestBroken::test_conformance[float32-rope.yarn]" in out
    assert "PASSED test_broken.py::TestBroken::test_conformance[float32-node.linear]" in out
    expected = len(select_checks(("rope.yarn", "cache.step", "errors"))) + len(
        select_checks(("rope.yarn", "cache.step"))
    )
    assert out.count("PASSED test_it.py") == expected


def test_testing_imports_no_framework() -> None:
    code = "import polyllama.testing as t; t.ConformanceSuite; t.certify; import sys; print(*sys.modules)"
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "jax", "mlx", "transformers", "pytest"} & set(done.stdout.split())


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_table_is_made_from_the_certificates() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import backend_table
    finally:
        sys.path.pop(0)
    assert backend_table.main(["--check"]) == 0
    data = certify(SpecBackend(overrides={Rope: interleaved_rope}), only=["rope.default", "node.linear"]).to_dict()
    row = backend_table.table([data]).splitlines()[-1]
    assert "saboteur" in row and "rope.default" in row and "| cpu |" in row
    noted = {**data, "environment": {**data["environment"], "note": "in a\ntrain | car"}}
    assert "| cpu (in a train \\| car) |" in backend_table.table([noted]).splitlines()[-1]
    page = f"a\n{backend_table.BEGIN}\nold\n{backend_table.END}\nb"
    assert "old" not in backend_table.with_table(page, "new") and "new" in backend_table.with_table(page, "new")


def test_checks_and_their_names_are_unique_and_explained() -> None:
    for name, check in all_checks().items():
        assert check.name == name and check.summary and "\n" not in check.summary
    assert {"task.causal-lm", "task.base"} <= set(all_checks())
    with pytest.raises(PolyllamaError, match="dtypes must be a tuple"):
        certify(SpecBackend(dtypes="float32"))  # type: ignore[arg-type]
