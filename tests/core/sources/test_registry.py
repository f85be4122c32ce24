"""The registry: the built-in entries are right, levels override each other, and a wrong file says what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polyllama.core.errors import PolyllamaWarning, RegistryError
from polyllama.core.plugin_system.hookspecs import RegistryDescriptor
from polyllama.core.settings.schema import Settings
from polyllama.core.settings.yaml_files import read_yaml_mapping
from polyllama.core.sources.entry import RegistryEntry, is_repo_id, normalize_name
from polyllama.core.sources.packages import PACKAGE_FOLDER
from polyllama.core.sources.registry import (
    BUILTIN_REGISTRY,
    PARSED_REGISTRY,
    Registry,
    load_registry,
    merge_registries,
    read_registry_file,
)
from support_processes import run_process

BUILTIN = read_registry_file(BUILTIN_REGISTRY)
ON_HUB = [entry for entry in BUILTIN if entry.source_kind == "hf"]


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.upper().startswith("POLYLLAMA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "polyllama").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def parameters_of(entry: RegistryEntry) -> int:
    """The tensors of a Llama, counted one kind at a time (Touvron et al. 2023; GQA as in Llama 2)."""
    sizes = entry.config
    assert sizes is not None
    hidden, heads = sizes.hidden_size, sizes.num_attention_heads
    head_dim = sizes.head_dim or hidden // heads
    queries, keys = heads * head_dim, (sizes.num_key_value_heads or heads) * head_dim
    attention = hidden * queries + 2 * hidden * keys + queries * hidden
    if sizes.attention_bias:
        attention += queries + 2 * keys + hidden
    mlp = 3 * hidden * sizes.intermediate_size
    if sizes.mlp_bias:
        mlp += 2 * sizes.intermediate_size + hidden
    embeddings = sizes.vocab_size * hidden * (1 if sizes.tie_word_embeddings else 2)
    return embeddings + sizes.num_hidden_layers * (attention + mlp + 2 * hidden) + hidden


@pytest.mark.parametrize("entry", ON_HUB, ids=lambda entry: entry.name)
def test_stated_parameters_are_what_the_sizes_give(entry: RegistryEntry) -> None:
    assert entry.config is not None and entry.parameters == parameters_of(entry)
    assert entry.config.hidden_size % entry.config.num_attention_heads == 0
    assert entry.config.num_attention_heads % (entry.config.num_key_value_heads or 1) == 0
    # the size in the repository's name: 6.7B means 6.65 to 6.75 or so; makers round as they like, by up to a tenth
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", entry.source.lower().replace("_", "-"))
    assert found, f"{entry.source} has no size in its name"
    named = float(found[1]) * (1e9 if found[2] == "b" else 1e6)
    # 3.2's 1B and 3B count no embeddings; Llama 1's 30B has 32.5
    assert 0.9 * named <= entry.parameters <= 1.24 * named


@pytest.mark.parametrize("entry", ON_HUB, ids=lambda entry: entry.name)
def test_every_entry_has_its_metadata(entry: RegistryEntry) -> None:
    assert entry.context and entry.license and entry.summary and entry.tasks
    assert entry.name == normalize_name(entry.name)
    assert entry.gated == (entry.source_target.startswith("meta-llama/"))
    # nothing here was read from a source that shows a commit, so nothing may claim one
    assert entry.revision is None
    variant = {"chat", "instruct", "python"}
    words = set(re.split(r"[-_]", entry.source_target.lower().partition("/")[2])) & variant
    assert words <= set(re.split(r"[-_]", " ".join([entry.name, *entry.aliases]).replace(" ", "-")))


def test_published_parameter_counts() -> None:
    """Counts as published for these models, independent of the sizes in the file."""
    registry = merge_registries([BUILTIN])
    published = {
        "7b": 6738415616,
        "llama-2-13b": 13015864320,
        "llama-2-70b": 68976648192,
        "llama-3-8b": 8030261248,
        "llama-3.1-70b": 70553706496,
        "llama-3.1-405b": 405853388800,
        "llama-3.2-1b": 1235814400,
        "llama-3.2-3b": 3212749824,
        "tinyllama": 1100048384,
        "smollm2-135m": 134515008,
        "smollm2-360m": 361821120,
        "smollm2-1.7b": 1711376384,
    }
    assert {name: registry.find(name).parameters for name in published} == published


def test_the_promised_names_are_there() -> None:
    registry = merge_registries([BUILTIN])
    sources = {
        "7b": "hf:huggyllama/llama-7b",
        "13b": "hf:huggyllama/llama-13b",
        "30b": "hf:huggyllama/llama-30b",
        "65b": "hf:huggyllama/llama-65b",
        "llama-2-7b": "hf:meta-llama/Llama-2-7b-hf",
        "llama-2-70b-chat": "hf:meta-llama/Llama-2-70b-chat-hf",
        "codellama-34b-instruct": "hf:codellama/CodeLlama-34b-Instruct-hf",
        "llama-3-8b": "hf:meta-llama/Meta-Llama-3-8B",
        "llama-3.1-8b-instruct": "hf:meta-llama/Llama-3.1-8B-Instruct",
        "llama-3.2-1b": "hf:meta-llama/Llama-3.2-1B",
        "llama-3.3-70b-instruct": "hf:meta-llama/Llama-3.3-70B-Instruct",
        "tinyllama": "hf:TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "tiny": "package:models/tiny",
    }
    assert {name: registry.find(name).source for name in sources} == sources
    repos = [entry.source for entry in BUILTIN]
    assert len(repos) == len(set(repos)), "two entries for one repository: make one an alias"


def test_tiny_comes_with_the_package() -> None:
    folder = merge_registries([BUILTIN]).find("tiny").folder()
    assert folder == PACKAGE_FOLDER / "models" / "tiny"
    assert folder.is_dir()


@pytest.mark.parametrize("name", ["LLAMA-2-7B-CHAT", "llama_2_7b_chat", " Llama 2 7B chat ", "llama2-7b-chat"])
def test_names_are_found_however_they_are_written(name: str) -> None:
    assert load_registry(Settings(), {}).find(name).name == "llama-2-7b-chat"


def test_an_unknown_name_says_what_comes_close() -> None:
    registry = load_registry(Settings(), {})
    with pytest.raises(
        RegistryError, match=r"no registry knows the model 'llama-3\.1-8b-instuct'; did you mean"
    ) as caught:
        registry.find("llama-3.1-8b-instuct")
    assert "'llama-3.1-8b-instruct'" in str(caught.value) and "polyllama models" in str(caught.value)
    with pytest.raises(RegistryError, match="`polyllama models` lists all") as caught:
        registry.find("qqqqqqqq")
    assert "did you mean" not in str(caught.value)
    assert registry.get("qqqqqqqq") is None


def test_find_repo() -> None:
    registry = load_registry(Settings(), {})
    entry = registry.find_repo("Meta-Llama/llama-2-7b-HF")
    assert entry is not None and entry.name == "llama-2-7b"
    assert registry.find_repo("nobody/nothing") is None


MINE = "models:\n  mine:\n    source: hf:me/mine-1b\n    aliases: [my-own]\n"


def test_user_files_add_models(world: Path) -> None:
    write(world / "config" / "polyllama" / "registry.yaml", MINE)
    extra = write(
        world / "extra.yaml", "models:\n  local: {source: 'path:weights/local'}\n  far: {source: 'path:/data/far'}\n"
    )
    registry = load_registry(Settings(registries=(extra,)), {})
    assert registry.find("MY_own").name == "mine"
    assert registry.find("local").folder() == world / "weights" / "local"
    assert registry.find("far").folder() == Path("/data/far")
    assert registry.find("7b").source == "hf:huggyllama/llama-7b"
    assert registry.names()[-3:] == ("mine", "local", "far")
    assert registry.find("local").origin == str(extra)


def test_the_user_file_may_be_named_in_the_settings_too(world: Path) -> None:
    path = write(world / "config" / "polyllama" / "registry.yaml", MINE)
    assert load_registry(Settings(registries=(path,)), {}).find("mine").name == "mine"


def test_overriding_a_lower_level_is_said_once_by_name(world: Path) -> None:
    path = write(world / "r.yaml", "models:\n  7b: {source: 'hf:me/seven-7b'}\n")
    with pytest.warns(PolyllamaWarning) as said:
        registry = load_registry(Settings(registries=(path,)), {})
    assert len(said) == 1
    assert "'7b' now means hf:me/seven-7b" in str(said[0].message) and "hf:huggyllama/llama-7b" in str(said[0].message)
    assert str(path) in str(said[0].message) and str(BUILTIN_REGISTRY) in str(said[0].message)
    assert registry.find("7b").source == registry.find("llama-7b").source == "hf:me/seven-7b"  # aliases follow
    assert [entry.name for entry in registry.entries].count("7b") == 1
    assert registry.overridden == (str(said[0].message).removeprefix("registry: "),)


def test_taking_only_an_alias_leaves_the_entry(world: Path) -> None:
    path = write(world / "r.yaml", "models:\n  llama-7b: {source: 'hf:me/seven-7b'}\n")
    with pytest.warns(PolyllamaWarning, match="'llama-7b' now means"):
        registry = load_registry(Settings(registries=(path,)), {})
    assert registry.find("llama-7b").source == "hf:me/seven-7b"
    assert registry.find("7b").source == "hf:huggyllama/llama-7b"
    assert {"7b", "llama-7b"} <= set(registry.names())


@pytest.mark.parametrize("second", ["mine", "MY_OWN"])
def test_a_name_twice_on_one_level_names_both_files(world: Path, second: str) -> None:
    one = write(world / "one.yaml", MINE)
    two = write(world / "two.yaml", f"models:\n  {second}: {{source: 'hf:you/yours'}}\n")
    with pytest.raises(RegistryError, match="is claimed twice") as caught:
        load_registry(Settings(registries=(one, two)), {})
    assert str(one) in str(caught.value) and str(two) in str(caught.value)


def descriptor(
    content: Any, monkeypatch: pytest.MonkeyPatch, name: str = "theirs", plugin: str = "p"
) -> RegistryDescriptor:
    """A plugin's registry whose target is a real attribute of this module."""
    import sys
    import types

    module = types.ModuleType(f"registry_of_{plugin}")
    module.CONTENT = content  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return RegistryDescriptor(name, f"{module.__name__}:CONTENT").offered_by(plugin)


def test_plugins_add_registries_as_file_or_mapping(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = descriptor(write(world / "p.yaml", MINE), monkeypatch, "a", "one")
    mapping = descriptor({"models": {"other": {"source": "hf:a/b", "parameters": 5}}}, monkeypatch, "b", "two")
    registry = load_registry(Settings(), {"a": file, "b": mapping})
    assert registry.find("my-own").source == "hf:me/mine-1b"
    assert (registry.find("other").parameters, registry.find("other").origin) == (5, "plugin two")


def test_the_user_overrides_a_plugin(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = descriptor({"models": {"mine": {"source": "hf:a/b"}}}, monkeypatch)
    path = write(world / "r.yaml", MINE)
    with pytest.warns(PolyllamaWarning, match="'mine' now means hf:me/mine-1b.*instead of hf:a/b .from plugin p"):
        registry = load_registry(Settings(registries=(path,)), {"theirs": theirs})
    assert registry.find("mine").source == "hf:me/mine-1b"


def test_two_plugins_claiming_one_model_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"models": {"mine": {"source": "hf:a/b"}}}
    found = {name: descriptor(content, monkeypatch, name, f"plugin_{name}") for name in ("x", "y")}
    said = r"claimed twice.*plugin plugin_x.*plugin plugin_y.*plugins_block"
    with pytest.warns(PolyllamaWarning, match=said):
        registry = load_registry(Settings(), found)
    for look_up in (registry.get, registry.find):
        with pytest.raises(RegistryError, match=said):
            look_up("Mine")
    assert registry.find("tiny").name == "tiny", "every other name still works"


def test_the_user_settles_what_two_plugins_claim(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"models": {"mine": {"source": "hf:a/b", "aliases": ["7b"]}}}
    found = {name: descriptor(content, monkeypatch, name, f"plugin_{name}") for name in ("x", "y")}
    user = write(world / "own.yaml", "models: {mine: {source: 'hf:c/d'}}")
    with pytest.warns(PolyllamaWarning, match="claimed twice"):
        registry = load_registry(Settings(registries=(user,)), found)
    assert registry.find("mine").source == "hf:c/d"
    with pytest.raises(RegistryError, match="'7b' is claimed twice"):
        registry.find("7b")


def test_a_home_folder_that_is_not_there(world: Path) -> None:
    file = write(world / "own.yaml", "models: {mine: {source: 'path:~nosuchuser/m'}}")
    with pytest.raises(RegistryError, match=r"own\.yaml: model 'mine': source = 'path:~nosuchuser/m'.*no such user"):
        read_registry_file(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (7, "it gives a int"),
        ({"models": {"x": {}}}, "plugin p: model 'x': source is missing"),
        ({"models": {"x": {"source": "path:relative"}}}, "must be absolute"),
        ({"models": {"x": {"source": "path:~nosuchuser/m"}}}, "no such user"),
        (Path("/nowhere/registry.yaml"), "/nowhere/registry.yaml: cannot be read"),
    ],
)
def test_a_broken_plugin_registry_is_skipped_by_name(
    content: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(PolyllamaWarning, match=re.escape(message)) as said:
        registry = load_registry(Settings(), {"theirs": descriptor(content, monkeypatch)})
    assert "the registry 'theirs' of plugin p is skipped" in str(said[0].message)
    assert registry.find("tiny")


def test_a_plugin_that_offers_the_builtin_file_does_not_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = load_registry(Settings(), {"builtin": descriptor(BUILTIN_REGISTRY, monkeypatch)})
    assert registry.names() == tuple(entry.name for entry in BUILTIN)


def test_with_the_real_plugin_manager() -> None:
    assert load_registry(Settings()).find("tiny").source == "package:models/tiny"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modles: {}", "unknown key 'modles'; a registry has one key, 'models'"),
        ("models: [a]", "'models' must be a mapping of names to entries, not a list"),
        ("models: {a: b}", "model 'a' must be a mapping with at least a source; source: hf:org/name"),
        ("models: {7: {source: 'hf:a/b'}}", "the model name 7 is read as a int; quote it"),
        ("models: {a: {}}", "model 'a': source is missing"),
        ("models: {a: {sorce: 'hf:a/b'}}", "there is no field 'sorce'; did you mean 'source'?"),
        ("models: {a: {source: a/b}}", 'source = \'a/b\': must be "hf:organization/name", "path:folder"'),
        ("models: {a: {source: 'hf:a'}}", "'a' is no id of a Hub repository"),
        ("models: {a: {source: 'hf:a/../b'}}", "is no id of a Hub repository"),
        ("models: {a: {source: 'package:../../etc'}}", "must stay inside the package"),
        ("models: {a: {source: 'hf:a/b', parameters: 7b}}", "parameters = '7b': input should be a valid integer"),
        (
            "models: {a: {source: 'hf:a/b', parameters: 0}}",
            "parameters = 0: input should be greater than or equal to 1",
        ),
        ("models: {a: {source: 'hf:a/b', revision: 12345678}}", "revision = 12345678: input should be a valid string"),
        ("models: {a: {source: 'hf:a/b', gated: 'yes'}}", "gated = 'yes': input should be a valid boolean"),
        ("models: {a: {source: 'hf:a/b', aliases: b}}", "aliases = 'b'"),
        ("models: {a: {source: 'hf:a/b', aliases: ['b c/d']}}", "'b c/d' is no name"),
        ("models: {'-a': {source: 'hf:a/b'}}", "'-a' is no name"),
        ("models: {a: {source: 'hf:a/b', config: {hiden_size: 4}}}", "did you mean 'hidden_size'?"),
        ("models: {a: {source: 'hf:a/b', name: b}}", "there is no field 'name'"),
        ("models: {a: {source: 'hf:a/b', 1: 2}}", "field names must be text"),
        ("models: {a: {source: 'hf:a/b'}, a: {source: 'hf:c/d'}}", "line 1: the key 'a' appears twice"),
        ("models: {a: {source: 'hf:a/b'", "not valid YAML"),
    ],
)
def test_a_wrong_file_says_where_and_what(world: Path, text: str, message: str) -> None:
    path = write(world / "wrong.yaml", text)
    with pytest.raises(RegistryError) as caught:
        load_registry(Settings(registries=(path,)), {})
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(world: Path) -> None:
    with pytest.raises(RegistryError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_registry(Settings(registries=(world / "nowhere.yaml",)), {})


def test_empty_files_are_fine(world: Path) -> None:
    for text in ("", "models:\n", "models: {}\n"):
        path = write(world / "empty.yaml", text)
        assert read_registry_file(path) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("meta-llama/Llama-2-7b-hf", True),
        ("a/b", True),
        ("01-ai/Yi-6B", True),
        ("tiny", False),
        ("a/b/c", False),
        ("./a", False),
        ("a/.b", False),
        ("a/b.", False),
        ("a--b/c", False),
        ("a/b..c", False),
        ("~/x", False),
        ("a/b\n", False),
        ("a/é", False),
        ("a/" + "b" * 100, False),
    ],
)
def test_repo_ids_agree_with_the_hub(text: str, expected: bool) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    assert is_repo_id(text) is expected
    if expected:
        validate_repo_id(text)
    elif "/" in text and text.count("/") == 1 and not text.startswith(("~", ".")):
        with pytest.raises(HFValidationError):
            validate_repo_id(text)


_PARTS = st.text(alphabet="aB0-_.", min_size=1, max_size=4)
_IDS = st.builds("{}/{}{}".format, _PARTS, _PARTS, st.sampled_from(["", "", ".git", "-GGUF", "/a", "é"]))


def _hub_takes(text: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


@settings(max_examples=500)
@given(_IDS)
@example("a/b.git")
@example("a/" + "b" * 94)
@example("a/" + "b" * 95)
def test_whatever_counts_as_a_repo_id_is_one_for_the_hub(text: str) -> None:
    """And what does not is none there, but for two rules: 96 characters in all, no underscore around an organization.

    The library checks the length of each part, and looks for letters with a pattern to which "_" is one.
    """
    organization = text.partition("/")[0]
    ours_alone = len(text) > 96 or organization.startswith("_") or organization.endswith("_")
    assert is_repo_id(text) == (_hub_takes(text) and not ours_alone)


@given(st.text(max_size=20))
def test_normalizing_is_idempotent(name: str) -> None:
    assert normalize_name(normalize_name(name)) == normalize_name(name)


def test_the_registry_is_light() -> None:
    import sys

    script = (
        "import sys; from polyllama.core.sources.registry import load_registry; "
        "load_registry(descriptors={}).find('tiny');"
        "print([m for m in ('numpy', 'torch', 'huggingface_hub', 'pydantic_settings', 'rich') if m in sys.modules])"
    )
    assert run_process([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_registry_is_a_value() -> None:
    assert Registry(()).names() == ()
    with pytest.raises(RegistryError, match="no registry knows"):
        Registry(()).find("x")


# the built-in file, parsed ahead --------------------------------------------------------------------------------------


def test_what_was_parsed_ahead_is_the_file() -> None:
    made = json.loads(PARSED_REGISTRY.read_text(encoding="utf-8"))
    assert made["content"] == read_yaml_mapping(BUILTIN_REGISTRY, RegistryError), "run python tools/registry_json.py"
    assert made["made_from"] == hashlib.sha256(BUILTIN_REGISTRY.read_bytes()).hexdigest(), "run tools/registry_json.py"


@pytest.mark.parametrize("content", ["", "[]", '{"made_from": "0", "content": {"models": {}}}', None])
def test_where_it_is_of_another_file_that_is_parsed(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "registry.json"
    if content is not None:
        other.write_text(content)
    monkeypatch.setattr("polyllama.core.sources.registry.PARSED_REGISTRY", other)
    assert [entry.name for entry in read_registry_file(BUILTIN_REGISTRY)] == [entry.name for entry in BUILTIN]
