"""The mutator of tools/mutants: what its operators make of a source, and that it tells a caught mutant from another."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import polyllama
import pytest
from support_processes import run_process

ROOT = Path(polyllama.__file__).parent
sys.path.insert(0, str(ROOT / "tools"))
HOOK = ROOT / "tools" / "mutants" / "hook"

from mutants import calls, choosing, known, native_operators, operators, report, trying  # noqa: E402


def changes(source: str) -> set[tuple[str, str]]:
    return {(m.original, m.mutated) for m in operators.mutations("a.py", source)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return a < b", ["return a <= b", "return a >= b", "return None"]),
        ("return a == b", ["return a != b"]),
        ("return a is None", ["return a is not None"]),
        ("return a not in b", ["return a in b"]),
        ("return a and b", ["return a or b", "return a", "return b"]),
        ("return not a", ["return a"]),
        ("return f(not a)", ["return f(a)"]),
        ("return a + b", ["return a - b"]),
        ("return a // b", ["return a * b", "return a % b"]),
        ("return -a", ["return a"]),
        ("return f(a, b)", ["return f(b, a)"]),
        ("return f(a, axis=-1)", ["return f(a)", "return f(a, axis=1)", "return f(a, axis=-2)"]),
        ("return f(a, keepdims=True)", ["return f(a, keepdims=False)"]),
        ("return min(a, b)", ["return max(a, b)"]),
        ("return a[2:n]", ["return a[:n]", "return a[2:]", "return a[2:n + 1]", "return a[3:n]", "return a[1:n]"]),
        ("return [x for x in a if x]", ["return [x for x in a]"]),
        ("return a if b else c", ["return a if not b else c"]),
        ("a += 1", ["pass", "a -= 1", "a += 2", "a += 0"]),
        ("f(a)", ["pass"]),
        ("a.b = c", ["pass"]),
        ("raise ValueError('a')", ["pass"]),
        ("x = 0.5", ["x = 1.0"]),
    ],
)
def test_operators_make_the_mistakes_they_are_for(before: str, after: list[str]) -> None:
    found = changes(f"def function(a, b, c, n):\n    {before}")
    assert {(before, text) for text in after} <= found
    for mutation in operators.mutations("a.py", f"def function(a, b, c, n):\n    {before}"):
        compile(operators.mutated(f"def function(a, b, c, n):\n    {before}", mutation), "a.py", "exec")


def test_what_computes_nothing_is_left_alone() -> None:
    source = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import b\n"
        "def function(a: int = 1) -> 'list[int]':\n    '''Says 2 < 3.'''\n    x: dict[int, 4]\n"
    )
    # The default of an argument is a value like any other.
    assert changes(source) == {
        ("def function(a: int=1) -> 'list[int]':", "def function(a: int=2) -> 'list[int]':"),
        ("def function(a: int=1) -> 'list[int]':", "def function(a: int=0) -> 'list[int]':"),
    }


def test_mutations_are_known_by_what_they_say_and_not_by_lines() -> None:
    source = "class A:\n    def b(self):\n        x = 1\n        x = 1\n        return x\n"
    found = operators.mutations("a.py", source)
    moved = operators.mutations("a.py", f"import os\n\n{source.replace('x = 1', 'x  =  1  # one', 1)}")
    assert [m.key for m in found] == [m.key for m in moved]
    assert {m.function for m in found} == {"A.b"}
    twice = [m for m in found if m.mutated == "x = 2"]
    assert [m.occurrence for m in twice] == [1, 2]
    assert operators.mutated(source, twice[0]).split("\n")[3:5] == ["        x = 2", "        x = 1"]
    assert operators.mutated(source, twice[1]).split("\n")[3:5] == ["        x = 1", "        x = 2"]


def test_the_choice_is_repeatable_and_fair() -> None:
    found = choosing.python_mutations(["core/tasks/losses.py", "core/tasks/labels.py"])
    first = choosing.choose(found, 3, 30)
    assert choosing.choose(list(reversed(found)), 3, 30) == first
    assert choosing.choose(found, 4, 30) != first
    places = {(m.file, m.function) for m in found}
    assert len({(m.file, m.function) for m in choosing.choose(found, 3, len(places))}) == len(places)
    # What a file gains elsewhere changes no other file's order.
    assert [m for m in choosing.choose(found, 3, len(found)) if "labels" in m.file] == choosing.choose(
        choosing.python_mutations(["core/tasks/labels.py"]), 3, len(found)
    )


def test_chosen_files_exist_and_a_moved_one_is_reported(tmp_path: Path) -> None:
    assert len(choosing.files("python")) > 40 and len(choosing.files("native")) > 15
    assert not [file for file in choosing.files("native") if "neon" in file]
    chosen = tmp_path / "chosen.toml"
    chosen.write_text('python = ["core/nowhere.py"]')
    with pytest.raises(SystemExit, match=r"no file matches core/nowhere\.py"):
        choosing.files("python", chosen=chosen)


def python(code: str, **environment: str) -> str:
    done = run_process(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(HOOK)} | environment,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_mutant_takes_a_modules_place_in_every_process_and_leaves_the_file_alone(tmp_path: Path) -> None:
    file = "core/dtypes.py"
    source = (ROOT / file).read_text()
    mutant = tmp_path / "mutant.py"
    mutant.write_text(f"{source}\nMUTATED = True\n")
    code = "import polyllama.core.dtypes as m; print(hasattr(m, 'MUTATED'), m.__file__)"
    environment = {"MUTANT_MODULE": "polyllama.core.dtypes", "MUTANT_SOURCE": str(mutant)}
    assert python(code) == f"False {ROOT / file}"
    assert python(code, **environment) == f"True {ROOT / file}"
    child = f"import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', {code!r}], text=True))"
    assert python(child, **environment) == f"True {ROOT / file}"
    assert (ROOT / file).read_text() == source


def test_calls_are_recorded_by_function_and_from_child_processes(tmp_path: Path) -> None:
    python("import polyllama; polyllama.LlamaConfig(vocab_size=9)", MUTANTS_CALLS=str(tmp_path))
    (written,) = tmp_path.glob("*.json")
    called = json.loads(written.read_text())
    assert "polyllama.core.config.resolve:resolve" in called
    assert not [name for name in called if name.startswith("polyllama.core.tasks.losses:")]


TOY = """
import sys
from pathlib import Path
sys.path.insert(0, {tools!r})
from mutants import operators, trying
from mutants.calls import Test
root = Path({root!r})
source = (root / "toy/calc.py").read_text()
attempts = []
for number, mutation in enumerate(operators.mutations("toy/calc.py", source)):
    if mutation.mutated not in {patience!r}:
        continue
    folder = root / f"mutant-{{number}}"
    folder.mkdir()
    (folder / "mutant.py").write_text(operators.mutated(source, mutation))
    environment = {{"MUTANT_MODULE": "toy.calc", "MUTANT_SOURCE": str(folder / "mutant.py")}}
    nodes = ["test_calc.py::test_sum", "test_calc.py::test_loop"]
    rounds = [[Test(node, 0.0, frozenset())] for node in nodes]
    trial = trying.Trial(mutation, trying.SURVIVED)
    attempts.append(trying.Attempt(trial, environment, folder, rounds, root, patience={patience!r}[mutation.mutated]))
for trial in trying.try_all(attempts, 2, shared=("pytest", "hypothesis")):
    print(trial.verdict, trial.by, trial.mutation.mutated, sep="|")
"""


def test_caught_and_surviving_mutants_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/__init__.py").touch()
    (tmp_path / "toy/calc.py").write_text(
        "def add(a, b):\n    return a + b\n\ndef unseen(a):\n    return a < 1\n\n"
        "def loop(n):\n    while n > 0:\n        n -= 1\n    return 7\n"
    )
    (tmp_path / "conftest.py").write_text(
        "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent))\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_calc.py").write_text(
        "from toy import calc\n\ndef test_sum():\n    assert calc.add(2, 3) == 5\n\n"
        "def test_loop():\n    assert calc.loop(3) == 7\n\ndef test_not_chosen():\n    assert calc.unseen(0)\n"
    )
    patience = {"return a - b": 200.0, "return a < 2": 200.0, "return 8": 200.0, "n -= 0": 8.0}
    script = TOY.format(tools=str(ROOT / "tools"), root=str(tmp_path), patience=patience)
    done = run_process([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    verdicts = {line.split("|")[2]: line.split("|")[:2] for line in done.stdout.splitlines()}
    assert verdicts["return a - b"] == ["caught", "test_calc.py::test_sum"]
    assert verdicts["return a < 2"] == ["survived", ""]
    assert verdicts["return 8"] == ["caught", "test_calc.py::test_loop"]
    # One that never ends is caught by its time.
    assert verdicts["n -= 0"] == ["caught", "test_calc.py (timeout)"]


def test_related_tests_come_by_function_then_by_module() -> None:
    record = calls.Record(
        [
            calls.Test("tests/test_a.py::slow", 9.0, frozenset({"p.m:f", "p.m:C.g"})),
            calls.Test("tests/test_a.py::quick", 1.0, frozenset({"p.m:f"})),
            calls.Test("tests/test_b.py::other", 1.0, frozenset({"p.n:f"})),
        ]
    )
    nodes = {
        name: [t.node for t in trying.related(record, "p.m", name)] for name in ("f", "f.inner", "C.g", "<module>")
    }
    both = ["tests/test_a.py::slow", "tests/test_a.py::quick"]
    assert nodes == {"f": both, "f.inner": both, "C.g": both[:1], "<module>": both}
    assert trying.related(record, "p.unknown", "f") == []
    # A function that no test calls is tried on its module's tests, and said to be unreached if these pass.
    assert [t.node for t in trying.related(record, "p.m", "unseen")] == both
    reached = [trying._reaches(record.tests[0], "p.m", name) for name in ("f", "f.inner", "C", "C.g", "unseen", "C.h")]
    assert reached == [True, True, True, True, False, False]
    (only,) = trying.rounds(record, trying.related(record, "p.m", "f"), budget=9.5)
    assert [t.node for t in only] == ["tests/test_a.py::quick"]  # the quickest first, and no more than fits


def test_the_record_is_narrowed_to_files_of_tests_by_pattern() -> None:
    files = ["tests/backends/cpu/test_cpu.py", "tests/core/test_cpu_like.py", "tests/core/test_graph.py"]
    record = calls.Record([calls.Test(f"{file}::test", 1.0, frozenset()) for file in files], dict.fromkeys(files, "a"))
    for patterns, wanted in (
        ([], files),
        (["test_cpu*.py"], files[:2]),
        (["tests/core/*"], files[1:]),
        (["core/test_graph.py", "cpu/test_cpu.py"], [files[0], files[2]]),
        (["graph"], []),
    ):
        assert calls.like(files, patterns) == wanted
        assert [test.file for test in record.of_files(patterns).tests] == wanted
    assert record.of_files(["test_cpu*.py"]).digests == record.digests  # what was recorded is not forgotten


KERNEL = """
constexpr int kStep = 4 + 1;
template <int N>
int sum(const int* x, int n) {
    int total = 0;
    for (int i = 0; i < n; ++i) total += x[i * kStep + 1];
    prepare(total);
    return std::min(total, n);
}
"""


def test_native_operators_switch_expressions_and_keep_lines() -> None:
    found = native_operators.native_mutations("a.h", KERNEL)
    texts = {(m.original, m.mutated) for m in found}
    loop = "for (int i = 0; i < n; ++i) total += x[i * kStep + 1];"
    for changed in (
        "for (int i = 1; i < n; ++i) total += x[i * kStep + 1];",
        "for (int i = 0; i <= n; ++i) total += x[i * kStep + 1];",
        "for (int i = 0; i < n; ++i) total += x[i + kStep + 1];",
        "for (int i = 0; i < n; ++i) total += x[i + 1];",
        "for (int i = 0; i < n; ++i) total += x[i * kStep + 2];",
    ):
        assert (loop, changed) in texts
    assert ("return std::min(total, n);", "return std::max(total, n);") in texts
    assert ("prepare(total);", "removed") in texts
    assert not [m for m in found if "constexpr" in m.original] and {m.function for m in found} == {"sum"}
    chosen = native_operators.numbered([m for m in found if m.operator in ("comparison", "removed statement")])
    written = native_operators.switched(KERNEL, chosen)
    assert written.count("\n") == KERNEL.count("\n")
    assert "(polyllama_fault(1) ? (i <= n) : (i < n))" in written
    assert "if (!polyllama_fault(2)) { prepare(total); }" in written


def test_every_native_mutation_is_one_of_a_line_and_numbered_from_one() -> None:
    chosen = native_operators.numbered(choosing.choose(choosing.all_native_mutations(), 1, 80))
    assert [m.number for m in chosen] == list(range(1, len(chosen) + 1))
    assert len({(m.file, m.line) for m in chosen}) == len(chosen)


def test_known_survivors_are_left_out_of_the_score_and_stale_ones_are_reported(tmp_path: Path) -> None:
    first, second, third = operators.mutations("a.py", "def f(a):\n    return a < b")[:3]
    file = tmp_path / "known.toml"
    filled = (
        known.as_toml(first).replace('verdict = ""', 'verdict = "equivalent"').replace('reason = ""', 'reason = "b"')
    )
    file.write_text(filled)
    judged = known.read_known(file)
    assert known.stale(judged, [first, second]) == []
    assert [entry.key for entry in known.stale(judged, [second])] == [first.key]
    trials = [trying.Trial(first, "survived"), trying.Trial(second, "caught", "t"), trying.Trial(third, "survived")]
    result = report.Report("python", trials, judged)
    assert result.score == 0.5
    assert result.lines()[0] == "python: 50.0% caught (1 of 2); left out: 1 equivalent, 0 defensive"
    assert [t["known"] for t in result.data()["trials"]] == ["equivalent", None, None]
    file.write_text(known.as_toml(first))
    with pytest.raises(SystemExit, match="a verdict is one of equivalent, defensive, with a reason"):
        known.read_known(file)


def test_the_known_survivors_of_this_repository_are_all_there_still() -> None:
    judged = known.read_known()
    files = {key[0] for key in judged} or {"nothing"}
    there = [*choosing.python_mutations(files), *choosing.all_native_mutations(files)]
    assert [entry.key for entry in known.stale(judged, there)] == []


def test_the_command_line_lists_what_it_would_try() -> None:
    command = [
        sys.executable,
        "-m",
        "tools.mutants",
        "--list",
        "--module",
        "core/graph/rope",
        "--count",
        "3",
        "--seed",
        "5",
    ]
    done = run_process(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    heads = [line for line in done.stdout.splitlines() if not line.startswith("  ")]
    assert len(heads) == 3 and all(line.startswith("core/graph/rope.py:") for line in heads)
