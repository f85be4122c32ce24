"""What tools/certify_arm.py says before it gets anything, and when it gets things anew."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "certify_arm.py"

if importlib.util.find_spec("pip") is None:
    pytest.skip("the tool takes this Python's pip", allow_module_level=True)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("certify_arm", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "certify_arm", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "arm")
    (tmp_path / "arm").mkdir()
    return module


def test_everything_that_is_missing_is_said_at_once(tool: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "ubuntu"})
    monkeypatch.setattr(tool, "EMULATOR", None)
    monkeypatch.setattr(tool, "keyring", lambda name: tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"g\+\+-aarch64-linux-gnu qemu-user-static ubuntu-keyring$"):
        tool.main([])
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "arch"})
    with pytest.raises(SystemExit, match="takes Debian or Ubuntu, not arch"):
        tool.main([])

    def no_such_file() -> dict[str, str]:
        raise OSError("Unable to read files /etc/os-release, /usr/lib/os-release")

    monkeypatch.setattr(platform, "freedesktop_os_release", no_such_file)
    with pytest.raises(SystemExit, match="takes Debian or Ubuntu, not linux"):
        tool.main([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["avx2", "neon"], "no instruction set of ARM's: avx2; there are neon, neon_i8mm, portable"),
        (["--to", "/no/folder"], "--to /no/folder: there is no such folder; make it first"),
    ],
)
def test_wrong_arguments(tool: Any, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert message in capsys.readouterr().err


def test_what_was_made_is_kept_until_its_sources_change(tool: Any) -> None:
    first = tool.Stage("site", ["numpy==1"])
    assert not first.fresh()
    (first.folder / "numpy").touch()
    assert not tool.Stage("site", ["numpy==1"]).fresh()  # begun, and not done
    assert not (first.folder / "numpy").exists()
    (first.folder / "numpy").touch()
    first.done()
    assert tool.Stage("site", ["numpy==1"]).fresh() and (first.folder / "numpy").exists()
    assert not tool.Stage("site", ["numpy==2"]).fresh() and not (first.folder / "numpy").exists()
    assert not tool.Stage("site", ["numpy==1"]).fresh()  # of which nothing is left


def test_a_command_that_fails_is_said_with_its_last_lines(tool: Any) -> None:
    code = "import sys; print('many', *range(40), sep='\\n'); sys.exit('the reason')"
    with pytest.raises(SystemExit, match=r"39\nthe reason\nerror: this failed with 1: ") as failed:
        tool.run([sys.executable, "-c", code])
    assert "many" not in str(failed.value).partition("error:")[0]


@pytest.mark.skipif(platform.machine() in ("aarch64", "arm64"), reason="this machine is the one that is emulated")
def test_a_certificate_of_another_machine_is_none(tool: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("polyllama.backends.cpu._kernels", reason="the kernels are not built")
    monkeypatch.setattr(tool, "EMULATOR", sys.executable)  # it has a --version
    file = tmp_path / "cpu-portable.json"
    file.write_text("earlier")
    options = ["--only", "node.embedding", "--dtype", "float32"]
    with pytest.raises(SystemExit, match="is of something else: 'runs as portable;"):
        tool.certify(Path(sys.executable), "portable", tmp_path, options)
    assert tool.certify(Path(sys.executable), "portable", tmp_path, ["--list"])
    assert file.read_text() == "earlier" and {path.name for path in tmp_path.iterdir()} == {"arm", file.name}
