"""The conformance kit: right backends pass, and every sabotaged one is caught by the check that names what it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama.cli.main import main
from polyllama.core.errors import InputError
from polyllama.core.forward.arguments import ForwardArguments
from polyllama.core.forward.spec_model import SpecModel
from polyllama.core.graph.rope import Rope
from polyllama.testing import certify, read_certificate
from sabotage import SpecBackend, interleaved_rope, outcome

# ---- certificates ----------------------------------------------------------------------------------------------------


class Raises(SpecModel):
    def forward(self, arguments: ForwardArguments) -> Any:
        raise RuntimeError("out of\ncoffee")


def test_a_backend_that_raises_fails_by_name_and_the_rest_goes_on() -> None:
    certificate = certify(SpecBackend(model=Raises), only=["node.linear", "weights.state"])
    by_name = {r.check: r for r in certificate.results}
    assert not certificate.passed
    assert by_name["node.linear"].detail == "RuntimeError: out of coffee"
    assert by_name["weights.state"].status == "passed"
    assert json.loads(json.dumps(certificate.to_dict(), allow_nan=False))["checks"][0]["error"] is None


def test_nan_fails() -> None:
    class Nan(SpecModel):
        def forward(self, arguments: ForwardArguments) -> Any:
            output: Any = super().forward(arguments)
            output.logits = output.logits * np.float32("nan")
            return output

    assert outcome(SpecBackend(model=Nan), "attention.mha").status == "failed"


def test_certificate_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "reference.json"
    arguments = ["certify", "reference", "--dtype", "float32", "--only", "node", "--only", "errors.empty"]
    assert main([*arguments, "--json", str(file)]) == 0
    assert "reference on cpu passes" in capsys.readouterr().out
    data = read_certificate(file)
    assert (data["schema"], data["version"], data["passed"]) == ("polyllama-certificate", 1, True)
    assert data["backend"]["name"] == "reference" and data["device"] == "cpu" and data["dtypes"] == ["float32"]
    assert "numpy" in data["environment"] and set(data["checks"][0]) >= {"check", "dtype", "status", "error", "bound"}
    assert "note" not in data["environment"] and "remark" not in data["backend"]
    assert list(tmp_path.iterdir()) == [file]
    assert main([*arguments, "--json", "-", "--note", "in a train"]) == 0
    noted = json.loads(capsys.readouterr().out)
    assert (noted["passed"], noted["environment"]["note"]) == (True, "in a train")


def test_the_command_line_says_what_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from polyllama.backends.reference.backend import ReferenceBackend

    broken = SpecBackend(overrides={Rope: interleaved_rope})
    monkeypatch.setattr(ReferenceBackend, "realize", lambda self, *a, **k: broken.realize(*a, **k))
    assert main(["certify", "reference", "--dtype", "float32", "--only", "rope.llama3"]) == 1
    out = capsys.readouterr().out
    assert "rope.llama3 [float32] failed: error" in out and "reference on cpu FAILS" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["referense"], "no backend is called 'referense'"),
        (["reference", "--only", "rop"], "no check called 'rop'; did you mean 'rope'?"),
        (["reference", "--dtype", "int4"], "no error bounds are known for dtype 'int4'"),
        (["reference", "--dtype", "float16"], "backend 'reference' does not declare dtype 'float16'; it has float64,"),
    ],
)
def test_mistakes_are_one_line_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", *arguments]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_file_that_is_no_certificate(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for text, message in (("{", "cannot be read"), ("{}", "is no certificate"), ("[1]", "is no certificate")):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            read_certificate(file)
    file.write_text('{"schema": "polyllama-certificate", "version": 9}')
    with pytest.raises(InputError, match="version 9, this release reads 1"):
        read_certificate(file)
