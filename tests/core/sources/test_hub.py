"""Locating and downloading: huggingface_hub itself, against a hand-made cache and against a small Hub on 127.0.0.1."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from local_hub import (
    COMMIT,
    CONFIG,
    INDEX,
    NEEDED,
    SHARDED,
    Handler,
    Hub,
    QuietServer,
    fill,
    load,
    load_all,
)
from polyllama.core.errors import DownloadError, PolyllamaWarning, RegistryError
from polyllama.core.settings.schema import Settings, load_settings
from polyllama.core.sources.download import explain, select_files
from polyllama.core.sources.locate import Located, interpret, locate, resolve_checkpoint_folder
from polyllama.core.sources.packages import PACKAGE_FOLDER
from polyllama.core.sources.registry import Registry, load_registry, merge_registries, read_registry_file
from support_processes import run_process

OTHER_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture
def registry() -> Registry:
    return load_registry(Settings(), {})


def cache_repo(cache: Path, repo_id: str, files: dict[str, str | bytes], commit: str = COMMIT) -> Path:
    """A repository as huggingface_hub lays it out."""
    base = cache / f"models--{repo_id.replace('/', '--')}"
    (base / "refs").mkdir(parents=True, exist_ok=True)
    (base / "refs" / "main").write_text(commit)
    return fill(base / "snapshots" / commit, files)


WHOLE: dict[str, str | bytes] = {"config.json": CONFIG, "tokenizer.json": "{}", "model.safetensors": b"weights"}


# --- what a source means -------------------------------------------------------------------------------------------


def test_registry_names_and_packages(registry: Registry) -> None:
    meaning = interpret("tiny", registry=registry)
    assert (meaning.kind, meaning.path) == ("package", PACKAGE_FOLDER / "models" / "tiny")
    meaning = interpret("7B", registry=registry)
    assert (meaning.kind, meaning.repo_id, meaning.path) == ("hf", "huggyllama/llama-7b", None)
    assert meaning.entry is not None and meaning.entry.name == "7b"
    assert interpret("registry:llama-2-7b", registry=registry).repo_id == "meta-llama/Llama-2-7b-hf"


def test_hub_ids(registry: Registry) -> None:
    assert interpret("someone/something", registry=registry).repo_id == "someone/something"
    known = interpret("meta-llama/Llama-2-7b-hf", registry=registry)
    assert known.entry is not None and known.entry.gated
    assert interpret("hf:a/b", registry=registry).repo_id == "a/b"
    with pytest.raises(RegistryError, match="'a' is no Hub repository id"):
        interpret("hf:a", registry=registry)


def test_local_paths(world: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world / "work" / "mine", {"config.json": CONFIG})
    for source in ("mine", "./mine", "path:mine", str(world / "work" / "mine"), Path("mine"), "mine/config.json"):
        meaning = interpret(source, registry=registry)
        assert meaning.kind == "path" and meaning.path is not None and meaning.path.exists()
    monkeypatch.setenv("HOME", str(world / "work"))
    assert interpret("~/mine", registry=registry).path == world / "work" / "mine"
    fill(world / "work" / "org" / "name", {"config.json": CONFIG})
    assert interpret("org/name", registry=registry).kind == "path"  # what lies here comes before the Hub
    assert interpret("hf:org/name", registry=registry).kind == "hf"


def test_a_folder_named_like_a_registry_name_is_taken_and_said(world: Path, registry: Registry) -> None:
    fill(world / "work" / "7b", {"config.json": CONFIG})
    with pytest.warns(PolyllamaWarning, match=r"'7b' is both .*/7b and a registry name for hf:huggyllama/llama-7b"):
        assert interpret("7b", registry=registry).kind == "path"
    assert interpret("./7b", registry=registry).kind == "path"  # PolyllamaWarning is an error in this suite
    assert interpret("registry:7b", registry=registry).kind == "hf"
    assert interpret(Path("7b"), registry=registry).kind == "path"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "no model was named"),
        ("  ", "no model was named"),
        ("./nowhere", "there is no file or folder './nowhere'"),
        ("/no/where", "there is no file or folder '/no/where'"),
        ("a/b/c", "there is no file or folder 'a/b/c'"),
        ("path:nowhere", "there is no file or folder 'path:nowhere'"),
        ("path:", "names no path"),
        ("registry:zzzzzz", "no registry knows the model 'zzzzzz'"),
        ("tinny", "no name in the registry, and no Hub repository id (organization/name); did you mean 'tiny'"),
        ("~nosuchuser/x", "there is no file or folder|Could not determine home|'~nosuchuser/x'"),
    ],
)
def test_what_is_nothing_says_so(source: str, message: str, registry: Registry) -> None:
    with pytest.raises(RegistryError) as caught:
        locate(source, registry=registry, settings=Settings())
    assert any(part in str(caught.value) for part in message.split("|"))
    assert "\n" not in str(caught.value)


def test_a_local_model_has_no_revisions(world: Path, registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"revision='v2' was asked of 'tiny', .* has no revisions"):
        locate("tiny", revision="v2", registry=registry)
    assert locate("tiny", revision="main", registry=registry) == locate("tiny", registry=registry)  # as the Hub's own


def test_a_registry_path_that_is_gone_names_the_file(world: Path) -> None:
    (world / "r.yaml").write_text("models: {gone: {source: 'path:not/here'}}\n")
    registry = merge_registries([read_registry_file(world / "r.yaml")])
    with pytest.raises(RegistryError, match=r"'gone' should lie in .*not/here, which does not exist; .*r\.yaml"):
        locate("gone", registry=registry)


def test_tiny_is_located_without_the_hub() -> None:
    script = (
        "import sys; from polyllama.core.sources.locate import locate; print(locate('tiny').path.name,"
        "[m for m in ('huggingface_hub', 'numpy', 'torch', 'asyncio', 'pydantic_settings') if m in sys.modules])"
    )
    done = run_process([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["tiny", "[]"], done.stderr


# --- which files ---------------------------------------------------------------------------------------------------


def no_index(name: str) -> list[str]:
    raise AssertionError(f"{name} must not be read here")


def test_only_one_set_of_weights_and_what_goes_with_it() -> None:
    names = [
        ".gitattributes", "README.md", "LICENSE", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
        "additional_chat_templates/tool.jinja", "model.safetensors", "pytorch_model.bin", "consolidated.safetensors",
        "original/consolidated.00.pth", "original/params.json", "original/tokenizer.model", "onnx/model.onnx",
        "flax_model.msgpack", "model-q4.gguf", "adapter_model.safetensors", "training_args.bin",
    ]  # fmt: skip
    assert set(select_files(names, "all", no_index)) == {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
        "special_tokens_map.json", "chat_template.jinja", "additional_chat_templates/tool.jinja", "model.safetensors",
    }  # fmt: skip
    assert select_files(names, "config", no_index) == ["config.json", "generation_config.json"]
    assert "model.safetensors" not in select_files(names, "tokenizer", no_index)
    assert {"tokenizer.json", "tokenizer.model", "chat_template.jinja"} <= set(
        select_files(names, "tokenizer", no_index)
    )


def test_shards_are_those_the_index_names() -> None:
    names = ["config.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors", "model-old.safetensors"]
    chosen = select_files(names, "all", lambda index: ["model-00001-of-00001.safetensors"])
    assert chosen == ["config.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors"]


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [
        (["weights.00.safetensors", "weights.01.safetensors"], ["weights.00.safetensors", "weights.01.safetensors"]),
        (["consolidated.safetensors", "pytorch_model.bin"], ["consolidated.safetensors"]),
        (["m.gguf"], ["m.gguf"]),
    ],
)
def test_other_layouts(weights: list[str], chosen: list[str]) -> None:
    assert select_files(["config.json", *weights], "all", no_index) == ["config.json", *chosen]


@pytest.mark.parametrize(
    ("names", "files", "message"),
    [
        (
            ["config.json", "pytorch_model.bin"],
            "all",
            "only as pickles (pytorch_model.bin), which are not downloaded",
        ),
        (["params.json", "consolidated.00.pth"], "all", "only as pickles (consolidated.00.pth)"),
        (["adapter_config.json", "adapter_model.safetensors"], "all", "is an adapter"),
        (["a-q4.gguf", "a-q8.gguf"], "all", "holds 2 GGUF files: a-q4.gguf, a-q8.gguf"),
        (["README.md"], "config", "has no config.json; it holds README.md"),
        ([], "config", "has no config.json; it is empty"),
        (["config.json"], "tokenizer", "neither tokenizer.json nor tokenizer.model"),
    ],
)
def test_what_cannot_be_used_says_why(names: list[str], files: Any, message: str) -> None:
    with pytest.raises(DownloadError) as caught:
        select_files(names, files, no_index)
    assert message in str(caught.value)


# --- offline -------------------------------------------------------------------------------------------------------


def offline(world: Path, **more: Any) -> Settings:
    return load_settings(offline=True, cache_dir=world / "cache", **more)


def test_offline_and_cached(world: Path, registry: Registry) -> None:
    folder = cache_repo(world / "cache", "org/name", WHOLE)
    located = locate("org/name", settings=offline(world), registry=registry)
    assert located == Located(folder, "hf", "org/name", None, "org/name", "main", COMMIT)
    assert locate("org/name", revision=COMMIT, settings=offline(world), registry=registry).path == folder


def test_the_revision_the_registry_pins_is_used_unless_another_is_asked_for(world: Path) -> None:
    cache_repo(world / "cache", "org/name", WHOLE)
    pinned = cache_repo(world / "cache", "org/name", WHOLE, OTHER_COMMIT)
    (world / "cache" / "models--org--name" / "refs" / "main").write_text(COMMIT)
    (world / "r.yaml").write_text(f"models: {{mine: {{source: 'hf:org/name', revision: {OTHER_COMMIT}}}}}\n")
    registry = merge_registries([read_registry_file(world / "r.yaml")])
    located = locate("mine", settings=offline(world), registry=registry)
    assert (located.path, located.commit, located.entry) == (pinned, OTHER_COMMIT, registry.find("mine"))
    assert locate("mine", revision="main", settings=offline(world), registry=registry).commit == COMMIT


def test_offline_by_variable(world: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache_repo(world / "cache", "org/name", WHOLE)
    monkeypatch.setenv("POLYLLAMA_OFFLINE", "1")
    monkeypatch.setenv("POLYLLAMA_CACHE_DIR", str(world / "cache"))
    assert resolve_checkpoint_folder("org/name") == folder
    with pytest.raises(
        DownloadError, match=r"org/other \(main\) cannot be loaded offline \(environment: POLYLLAMA_OFFLINE\)"
    ):
        resolve_checkpoint_folder("org/other")


def test_offline_and_not_cached_says_what_to_do(world: Path, registry: Registry) -> None:
    with pytest.raises(DownloadError) as caught:
        locate("tinyllama", settings=offline(world), registry=registry)
    text = str(caught.value)
    assert "cannot be loaded offline (argument): it is not in the cache" in text
    assert "hf download TinyLlama/TinyLlama-1.1B-Chat-v1.0" in text and "local copy" in text


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({"config.json": CONFIG}, "there are no weights"),
        (
            {"config.json": CONFIG, "model.safetensors.index.json": INDEX, "model-00001-of-00002.safetensors": b"x"},
            "names files that are not there (model-00002-of-00002.safetensors)",
        ),
    ],
)
def test_offline_and_cached_in_part(
    world: Path, registry: Registry, files: dict[str, str | bytes], missing: str
) -> None:
    cache_repo(world / "cache", "org/name", files)
    with pytest.raises(DownloadError) as caught:
        locate("org/name", settings=offline(world), registry=registry)
    assert missing in str(caught.value)
    located = locate("org/name", files="config", settings=offline(world), registry=registry)
    assert (located.path / "config.json").is_file()


def test_a_link_to_a_lost_blob_counts_as_missing(world: Path, registry: Registry) -> None:
    folder = cache_repo(world / "cache", "org/name", {"config.json": CONFIG})
    (folder / "model.safetensors").symlink_to("../../blobs/gone")
    with pytest.raises(DownloadError, match=r"only in part \(model\.safetensors missing\)"):
        locate("org/name", settings=offline(world), registry=registry)


@pytest.mark.parametrize("index", ["", "{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_a_broken_index_names_the_file(world: Path, registry: Registry, index: str) -> None:
    cache_repo(world / "cache", "org/name", {"config.json": CONFIG, "model.safetensors.index.json": index})
    with pytest.raises(DownloadError, match=r"model\.safetensors\.index\.json: not a usable index"):
        locate("org/name", settings=offline(world), registry=registry)


# --- online, against a Hub on this machine ---------------------------------------------------------------------------


def test_only_the_needed_files_are_downloaded_and_then_work_offline(world: Path, hub: Hub) -> None:
    hub.repos["org/name"] = hub.repos["org/config"] = SHARDED
    jobs: list[tuple[str, dict[str, Any]]] = [("org/config", {"files": "config"}), ("org/name", {})]
    config, whole = load_all(world, hub.url, jobs)
    assert hub.fetched("org/config") == {"config.json", "generation_config.json"} and config["commit"] == COMMIT
    assert hub.fetched("org/name") == NEEDED
    folder = Path(whole["path"])
    assert folder.is_relative_to(world / "cache")
    assert {path.name for path in folder.iterdir()} == NEEDED
    assert (folder / "model-00002-of-00002.safetensors").read_bytes() == b"two" * 100
    assert whole["said"] == [] and whole["revision"] == "main"

    asked = len(hub.requests)
    assert load(world, hub.url, "org/name", revision=COMMIT)["path"] == str(folder)  # a commit cannot change
    jobs = [("org/name", {}), ("org/config", {"files": "config"}), ("org/config", {})]
    whole, config, part = load_all(world, hub.url, jobs, {"HF_HUB_OFFLINE": "1"})
    assert whole["path"] == str(folder) and "error" not in config
    assert "cannot be loaded offline (environment: HF_HUB_OFFLINE)" in part["text"] and "only in part" in part["text"]
    assert len(hub.requests) == asked


def test_cut_transfers_resume_and_whole_files_are_kept(world: Path, hub: Hub) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    data = os.urandom(12_000_000)  # huggingface_hub writes in pieces of 10 MiB
    hub.repos["org/name"] = {**SHARDED, first: data}
    hub.cuts = {first: [11_000_000], second: [0] * 100}
    result = load(world, hub.url, "org/name")
    assert result["error"] == "DownloadError"
    assert "cannot be reached" in result["text"] and "run it again: files that arrived whole are kept" in result["text"]
    asked = [span for verb, path, span in hub.requests if verb == "GET" and path.endswith(first)]
    assert asked == [None, f"bytes={10 * 1024 * 1024}-"]  # within a run, a transfer goes on from where it stopped
    hub.cuts = {}
    before = len(hub.requests)
    result = load(world, hub.url, "org/name")
    assert (Path(result["path"]) / first).read_bytes() == data
    assert {
        path.rpartition("/")[2] for verb, path, _ in hub.requests[before:] if verb == "GET" and "/resolve/" in path
    } == {second}


def test_refusals_say_what_to_do(world: Path, hub: Hub) -> None:
    cases = [
        ("org/a", "org/a", (403, "GatedRepo"), ["org/a is gated", "https://huggingface.co/org/a", "hf auth login"]),
        (
            "llama-2-7b",
            "meta-llama/Llama-2-7b-hf",
            (401, "GatedRepo"),
            ["Llama-2-7b-hf is gated", "hf auth", "HF_TOKEN"],
        ),
        ("llama-2-13b", "meta-llama/Llama-2-13b-hf", (401, "RepoNotFound"), ["it is gated", "accept its licence"]),
        ("org/b", "org/b", (404, "RepoNotFound"), ["the Hub has no public model 'org/b'", "spelling", "private"]),
        ("org/c", "org/c", (401, ""), ["org/c", "hf auth login"]),
        ("org/d", "org/d", (403, ""), ["the Hub refused org/d (HTTP 403)", "hf auth login"]),
        ("org/e", "org/e", (500, ""), ["the Hub answered HTTP 500 for org/e", "try again later"]),
    ]
    hub.refusals = {repo_id: refusal for _, repo_id, refusal, _ in cases}
    results = load_all(world, hub.url, [(source, {}) for source, _, _, _ in cases])
    for (source, _, _, parts), result in zip(cases, results, strict=True):
        assert result["error"] == "DownloadError", source
        assert all(part in result["text"] for part in parts), result["text"]
        assert "\n" not in result["text"]


def test_revision_not_found(world: Path, hub: Hub) -> None:
    hub.repos["org/name"] = SHARDED
    result = load(world, hub.url, "org/name", revision="v9")
    assert "org/name has no revision 'v9'" in result["text"]
    assert result["error"] == "DownloadError"


def test_only_pickles_on_the_hub(world: Path, hub: Hub) -> None:
    hub.repos["org/name"] = {"config.json": CONFIG.encode(), "pytorch_model.bin": b"pickle"}
    result = load(world, hub.url, "org/name")
    assert "org/name (main) has its weights only as pickles (pytorch_model.bin)" in result["text"]
    assert hub.fetched() == set()


def test_an_index_that_names_what_is_not_there(world: Path, hub: Hub) -> None:
    index = json.dumps({"weight_map": {"a": "../../../evil.safetensors"}}).encode()
    hub.repos["org/name"] = {"config.json": CONFIG.encode(), "model.safetensors.index.json": index}
    result = load(world, hub.url, "org/name")
    assert "names files that are not there (../../../evil.safetensors)" in result["text"]


def test_no_network(world: Path) -> None:
    closed = QuietServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{closed.server_address[1]}"
    closed.server_close()
    result = load(world, url, "org/name")
    assert "the Hub cannot be reached for org/name (ConnectError)" in result["text"]
    assert "check the network" in result["text"]
    folder = cache_repo(world / "cache", "org/name", WHOLE)
    result = load(world, url, "org/name")
    assert result["path"] == str(folder)
    assert "cannot be reached" in result["said"][0] and f"commit {COMMIT[:12]}" in result["said"][0]


def test_a_refusal_with_a_cached_copy_uses_it_and_says_so(world: Path, hub: Hub) -> None:
    folder = cache_repo(world / "cache", "org/name", WHOLE)
    hub.refusals["org/name"] = (401, "GatedRepo")
    result = load(world, hub.url, "org/name")
    assert result["path"] == str(folder)
    assert "org/name is gated" in result["said"][0] and "using the copy in the cache" in result["said"][0]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_cache_that_cannot_be_written(world: Path, hub: Hub) -> None:
    hub.repos["org/name"] = SHARDED
    (world / "cache").mkdir(mode=0o500)
    assert "cache_dir" in load(world, hub.url, "org/name")["text"]


def test_a_cache_that_is_a_file(world: Path, hub: Hub) -> None:
    hub.repos["org/name"] = SHARDED
    (world / "cache").write_text("not a folder")
    result = load(world, hub.url, "org/name")
    assert "org/name cannot be stored" in result["text"] and "POLYLLAMA_CACHE_DIR" in result["text"]


def test_no_space_left() -> None:
    error = explain(OSError(28, "No space left on device"), "org/name", "main")
    assert "cannot be stored: [Errno 28] No space left on device; free some space" in str(error)


def test_a_network_that_goes_away_meanwhile_is_no_full_disk() -> None:
    from huggingface_hub.errors import FileMetadataError, LocalEntryNotFoundError

    for lost in (LocalEntryNotFoundError("an error happened"), FileMetadataError("no ETag"), TimeoutError()):
        text = str(explain(lost, "org/name", "main", started=True))
        assert "the Hub cannot be reached for org/name" in text and "files that arrived whole are kept" in text
