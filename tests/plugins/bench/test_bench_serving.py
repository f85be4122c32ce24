"""``polyllama bench --serve``: a server of ours, one that fails, one that is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from polyllama.plugins.bench.serving import Answered, Load, rows
from running_servers import RunningServer
from support_processes import run_process


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "polyllama", "bench", *arguments]
    return run_process(command, capture_output=True, text=True)


def test_a_server(tmp_path: Path) -> None:
    running = RunningServer("tiny", "--max-rows", "4").ready()
    file = tmp_path / "figures.json"
    how = ("--serve", running.url, "--streams", "3", "--requests", "6", "--tokens", "10")
    done = bench("tiny", *how, "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "tokens a second" in done.stdout and "the client's own ceiling" in done.stdout
    found = json.loads(file.read_text())
    assert found["errors"] == 0 and found["requests"] == 6
    assert 0 < found["tokens_per_second"] < found["client_ceiling"]
    assert 0 < found["first_token_seconds"] <= found["first_token_seconds_95"] and 0 < found["slowest_to_median"] <= 1
    assert running.metric("generated_tokens_total", model="tiny") == 6 * 10 + 2  # and the probe
    unknown = bench("llama", *how)
    assert unknown.returncode == 1 and "there is no model 'llama' here" in unknown.stderr


def test_what_is_no_server() -> None:
    nobody = bench("--serve", "http://127.0.0.1:1")
    assert nobody.returncode == 1 and "does not answer" in nobody.stderr and nobody.stderr.count("\n") == 1
    wrong = bench("--serve", "ftp://x")
    assert wrong.returncode == 1 and "--serve is 'ftp://x', wanted an address such as" in wrong.stderr


def test_the_figures_that_are_shown() -> None:
    assert Load("http://x", "m").body["ignore_eos"] is True
    assert Answered(0.1, 1.0, 10).error is None
    found = {"tokens_per_second": 1234.5, "errors": 1, "error": "no", "client_ceiling": 5e4}
    assert dict(rows(found)) == {
        "tokens a second": "1,234.5",
        "errors": "1 (no)",
        "the client's own ceiling": "50,000 tokens a second",
    }
