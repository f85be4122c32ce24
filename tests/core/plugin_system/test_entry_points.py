"""Entry points are found as importlib.metadata finds them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from plugin_sites import GOOD, HEADER, Site, run_python
from polyllama.core.plugin_system.entry_points import EntryPoint, find_entry_points, installed_version


@pytest.mark.parametrize("group", ["polyllama", "console_scripts", "pytest11", "no.such.group"])
def test_entry_points_are_those_importlib_metadata_finds(group: str) -> None:
    ours = {(p.name, p.value, p.distribution, p.version) for p in find_entry_points(group)}
    theirs = {
        (p.name, p.value, p.dist.name, p.dist.version) for p in importlib.metadata.entry_points(group=group) if p.dist
    }
    assert ours == theirs
    assert bool(ours) == (group != "no.such.group")


def test_installed_versions_are_those_importlib_metadata_finds() -> None:
    wanted = {d.name: importlib.metadata.version(d.name) for d in importlib.metadata.distributions() if d.name}
    assert len(wanted) > 10 and wanted["polyllama"]
    assert {name: installed_version(name) for name in wanted} == wanted
    assert installed_version("POLYLLAMA") == wanted["polyllama"]
    assert installed_version("no-such-package") is None


def test_entry_points_come_from_the_first_copy_of_a_package(tmp_path: Path) -> None:
    first, second = Site(tmp_path / "a"), Site(tmp_path / "b")
    for site, entry in ((first, "mine = one"), (second, "mine = two")):
        site.folder.mkdir()
        site.add("my-plugin", "", entry=entry)
    paths = [str(tmp_path / "missing"), str(second.folder), str(first.folder)]
    assert find_entry_points("polyllama", paths) == [EntryPoint("mine", "two", "my-plugin", "1.2")]


def test_hyphens_in_the_names_of_folders(tmp_path: Path) -> None:
    said = {
        "stranger-a-1.0.dist-info": "Name: stranger-a\nVersion: 1.0\n",
        "stranger-b-1.0.dist-info": "Name: stranger-b\nVersion: 1.0\n",
        "stranger_c-2.0-py3.12.egg-info": "Name: stranger.c\nVersion: 2.0\n",
        "stranger-d-3.0.dist-info": None,
    }
    for folder, metadata in said.items():
        info = tmp_path / folder
        info.mkdir()
        if metadata is not None:
            file = "PKG-INFO" if folder.endswith(".egg-info") else "METADATA"
            (info / file).write_text(f"Metadata-Version: 2.1\n{metadata}")
        (info / "entry_points.txt").write_text(f"[polyllama]\n{folder[9:10]} = m\n")
    found = {(p.name, p.distribution, p.version) for p in find_entry_points("polyllama", [str(tmp_path)])}
    assert found == {
        ("a", "stranger-a", "1.0"),
        ("b", "stranger-b", "1.0"),
        ("c", "stranger.c", "2.0"),
        ("d", "stranger-d", "3.0"),
    }


def test_entry_points_of_odd_packages(tmp_path: Path) -> None:
    info = tmp_path / "bare-3.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(
        b"[polyllama]\r\nbare = bare.mod : attr [extra]\r\n\r\n[polyllama.x]\nn = m\n"
    )
    (tmp_path / "file-1.0.egg-info").write_text("Name: file\n")
    (tmp_path / "~are-3.0.dist-info").mkdir()
    (tmp_path / "~are-3.0.dist-info" / "entry_points.txt").write_text("[polyllama]\nbare = bare.mod\n")
    [point] = find_entry_points("polyllama", [str(tmp_path)])
    assert (point.name, point.distribution, point.version) == ("bare", "bare", "3.0")
    assert point.split_value() == ("bare.mod", "attr")


def test_entry_points_inside_a_zip_are_found(tmp_path: Path) -> None:
    import zipfile

    archive = tmp_path / "bundle.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped.py", HEADER + GOOD)
        file.writestr("zipped-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 1.0\n")
        file.writestr("zipped-1.0.dist-info/entry_points.txt", "[polyllama]\nzipped = zipped\n")
    code = """
        from polyllama.core.plugin_system.manager import plugin_manager
        print([p.name for p in plugin_manager().plugins()], "good" in plugin_manager().backends())
    """
    result = run_python(code, archive)
    assert result.stdout.strip() == "['polyllama-builtin', 'zipped'] True", result.stderr
