"""``polyllama list`` and ``polyllama rm``, on a cache as huggingface_hub lays it out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Outcome, Terminal

CONFIG = b'{"model_type": "llama"}'
OLD, NEW, OTHER = "a" * 40, "b" * 40, "c" * 40


def cache_revision(cache: Path, repo_id: str, commit: str, files: dict[str, bytes], ref: str = "main") -> Path:
    """One commit of a repository: blobs, links to them, and what the branch stands for."""
    base = cache / f"models--{repo_id.replace('/', '--')}"
    for folder in (base / "refs", base / "blobs", base / "snapshots" / commit):
        folder.mkdir(parents=True, exist_ok=True)
    (base / "refs" / ref).write_text(commit)
    for name, content in files.items():
        blob = base / "blobs" / f"{len(content)}-{name}"
        blob.write_bytes(content)
        (base / "snapshots" / commit / name).symlink_to(f"../../blobs/{blob.name}")
    return base


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits of llama-7b that share their config, another model, and a dataset and a fork with its commit."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("POLYLLAMA_CACHE_DIR", str(folder))
    monkeypatch.chdir(tmp_path)
    llama = cache_revision(folder, "huggyllama/llama-7b", OLD, {"config.json": CONFIG, "model.safetensors": b"1" * 900})
    cache_revision(folder, "huggyllama/llama-7b", NEW, {"config.json": CONFIG, "model.safetensors": b"2" * 500}, "v2")
    (llama / "blobs" / "abc.incomplete").write_bytes(b"0" * 70)
    cache_revision(folder, "org/other", OTHER, {"config.json": CONFIG})
    cache_revision(folder, "org/fork", OTHER, {"config.json": CONFIG})
    (folder / "datasets--org--texts" / "snapshots" / OTHER).mkdir(parents=True)
    return folder


def rows(call: Callable[..., Outcome]) -> dict[str, dict[str, object]]:
    code, out, err = call("list", "--json")
    assert (code, err) == (0, "")
    return {row["name"]: row for row in json.loads(out)}


def test_the_list_has_names_sizes_and_revisions(cache: Path, call: Callable[..., Outcome]) -> None:
    found = rows(call)
    llama, other = found["7b"], found["org/other"]
    size = len(CONFIG) + 900 + 500
    assert (llama["repo_id"], llama["bytes"], llama["unfinished_bytes"]) == ("huggyllama/llama-7b", size + 70, 70)
    assert {(r["commit"], *r["refs"], r["bytes"]) for r in llama["revisions"]} == {  # type: ignore[attr-defined]
        (OLD, "main", len(CONFIG) + 900),
        (NEW, "v2", len(CONFIG) + 500),
    }
    assert "llama-7b" in llama["aliases"]  # type: ignore[operator]
    assert (other["bytes"], other["origin"]) == (len(CONFIG), "hf")
    assert found["tiny"]["origin"] == "package" and found["tiny"]["bytes"] > 1_000_000  # type: ignore[operator]
    assert "org/texts" not in found
    code, out, err = call("list")
    assert (code, err) == (0, "")
    assert re.match(r"7b +1\.49 kB \(unfinished: 70 B\)  ", out.splitlines()[1])
    assert out.endswith(f"\n3 models downloaded, {(size + 70 + 2 * len(CONFIG)) / 1000:.2f} kB\n")


def test_nothing_downloaded(cache: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLLAMA_CACHE_DIR", str(cache / "nowhere"))
    assert call("list")[1].endswith("\nnothing is downloaded\n")
    code, out, err = call("rm", "7b", "--yes")
    assert (code, out) == (1, "") and err == "error: '7b' is not downloaded; nothing is downloaded\n"
    (cache / "file").write_text("")
    monkeypatch.setenv("POLYLLAMA_CACHE_DIR", str(cache / "file"))
    code, _, err = call("list")
    assert code == 1 and "the cache of downloads cannot be read" in err and "cache_dir" in err


def test_one_revision_is_removed_and_what_it_shares_stays(cache: Path, call: Callable[..., Outcome]) -> None:
    code, out, err = call("rm", "llama-7b", "--revision", NEW[:6], "--yes")
    assert (code, out, err) == (0, "removed huggyllama/llama-7b: 500 B\n", "")
    kept = cache / "models--huggyllama--llama-7b" / "snapshots" / OLD
    assert (kept / "config.json").read_bytes() == CONFIG and (kept / "model.safetensors").stat().st_size == 900
    assert [r["commit"] for r in rows(call)["7b"]["revisions"]] == [OLD]  # type: ignore[attr-defined]
    code, _, err = call("rm", "7b", "--revision", "v2", "--yes")
    assert code == 1 and err.startswith("error: huggyllama/llama-7b has no downloaded revision 'v2'; there are main")


def test_several_models_by_name_and_by_id(cache: Path, call: Callable[..., Outcome]) -> None:
    code, out, _ = call("rm", "7B", "huggyllama/llama-7b", "hf:ORG/other", "--yes", "--json")
    found = json.loads(out)
    assert code == 0 and found["removed"] == ["huggyllama/llama-7b", "org/other"]
    assert found["bytes"] == 2 * len(CONFIG) + 900 + 500 + 70
    assert sorted(path.name for path in cache.iterdir()) == ["datasets--org--texts", "models--org--fork"]


def test_a_download_that_was_cut_off_is_listed_and_removed(cache: Path, call: Callable[..., Outcome]) -> None:
    blobs = cache / "models--org--half" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.incomplete").write_bytes(b"0" * 30)
    assert rows(call)["org/half"]["unfinished_bytes"] == 30
    assert call("rm", "org/half", "--yes") == (0, "removed org/half: 30 B\n", "")
    assert not blobs.parent.exists() and "7b" in rows(call)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("org/othr", "'org/othr' is not downloaded; did you mean 'org/other'?"),
        ("zebra", "'zebra' is not downloaded; downloaded are huggyllama/llama-7b, org/fork, org/other"),
        ("tiny", "'tiny' comes with polyllama, no download; it is "),
        ("./cache", "'./cache' is a folder of yours, no download; it is "),
    ],
)
def test_what_is_no_download_stays(cache: Path, call: Callable[..., Outcome], name: str, words: str) -> None:
    before = sorted(cache.rglob("*"))
    code, out, err = call("rm", "7b", name, "--yes")
    assert (code, out) == (1, "") and err.startswith(f"error: {words}")
    assert sorted(cache.rglob("*")) == before


def test_without_anybody_to_ask_nothing_is_removed(cache: Path, call: Callable[..., Outcome]) -> None:
    code, out, err = call("rm", "7b", stdin=b"y\n")
    assert (code, out) == (2, "") and "There is nobody to ask whether to remove this; give --yes." in err
    assert "7b" in rows(call)


def test_it_asks_on_a_terminal(cache: Path) -> None:
    folder = cache / "models--org--other"
    for answer, code in (("n", 1), ("y", 0)):
        terminal = Terminal("rm", "org/other")
        terminal.read_until("Remove org/other (23 B)? [y/N]: ")
        terminal.type(answer + "\n")
        left = terminal.finish()
        assert (left[0], folder.exists()) == (code, answer == "n"), left
        assert ("nothing is removed" if answer == "n" else "removed org/other: 23 B") in left[1]
    assert (cache / "models--org--fork" / "snapshots" / OTHER / "config.json").read_bytes() == CONFIG
