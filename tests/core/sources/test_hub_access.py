"""Where in a repository, as whom, and whether again: ``subfolder``, ``gguf_file``, ``token``, ``force_download``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from local_hub import COMMIT, SHARDED, Hub, fill, load_all
from polyllama.core.errors import DownloadError, InputError, RegistryError
from polyllama.core.settings.schema import load_settings
from polyllama.core.sources.access import HubAccess, local_only
from polyllama.core.sources.locate import locate, resolve_checkpoint_folder

INSIDE = {f"fp16/{name}": data for name, data in SHARDED.items()} | {"config.json": b"{}", "model.safetensors": b"no"}


def located(access: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """A job for ``load_all``, whose client evaluates what an access is made of."""
    return "org/name", {"access": access, **arguments}


def test_a_subfolder_is_fetched_alone_and_is_the_model(world: Path, hub: Hub) -> None:
    hub.repos["org/name"] = INSIDE
    found, again, absent = load_all(
        world,
        hub.url,
        [located("HubAccess(subfolder='fp16')"), located("HubAccess(subfolder='fp16/')"),
         located("HubAccess(subfolder='fp32')")],
    )  # fmt: skip
    assert Path(found["path"]).name == "fp16" and found["commit"] == COMMIT and again["path"] == found["path"]
    assert all(name.startswith("fp16/") for name in hub.fetched()) and "fp16/config.json" in hub.fetched()
    assert "fp16/pytorch_model.bin" not in hub.fetched()
    assert "folder 'fp32', has no files" in absent["text"]
    offline = load_all(world, hub.url, [located("HubAccess(subfolder='fp16')")], {"HF_HUB_OFFLINE": "1"})[0]
    assert offline["path"] == found["path"]


def test_one_file_of_several_is_fetched(world: Path, hub: Hub) -> None:
    hub.repos["org/name"] = {"a.gguf": b"one", "b.gguf": b"two"}
    several, one, absent = load_all(
        world,
        hub.url,
        [located("HubAccess()"), located("HubAccess(file='b.gguf')"), located("HubAccess(file='c.gguf')")],
    )
    assert "holds 2 GGUF files" in several["text"] and "gguf_file=" in several["text"]
    assert Path(one["path"]).read_bytes() == b"two" and hub.fetched() == {"b.gguf"}
    assert "has no file 'c.gguf'; it holds a.gguf, b.gguf" in absent["text"]


def test_the_token_is_sent_and_none_is_where_it_is_false(world: Path, hub: Hub) -> None:
    hub.repos["org/name"] = {name: SHARDED[name] for name in ("config.json", "generation_config.json")}
    load_all(world, hub.url, [located("HubAccess(token='hf_mine')", files="config")])
    assert hub.tokens - {None} == {"Bearer hf_mine"}  # huggingface_hub sends none with the content itself
    hub.tokens.clear()
    load_all(world, hub.url, [located("HubAccess(token=False)", files="config")], {"HF_TOKEN": "hf_stored"})
    assert hub.tokens == {None}
    assert "hf_mine" not in repr(HubAccess(token="hf_mine"))


def test_files_are_fetched_again_where_asked(world: Path, hub: Hub) -> None:
    hub.repos["org/name"] = SHARDED
    asked = "HubAccess(force_download=True)"
    load_all(world, hub.url, [located("HubAccess()")])
    hub.requests.clear()
    load_all(world, hub.url, [located("HubAccess()", revision=COMMIT)])
    assert not hub.requests
    load_all(world, hub.url, [located(asked, revision=COMMIT)])
    assert "model-00001-of-00002.safetensors" in hub.fetched()
    hub.refusals["org/name"] = (500, "")
    used, refused = load_all(world, hub.url, [located("HubAccess()"), located(asked)])
    assert "HTTP 500" in used["said"][0] and "HTTP 500" in refused["text"]  # no copy stands in for what was asked


def test_a_cache_of_the_call_comes_before_the_setting(world: Path, hub: Hub) -> None:
    hub.repos["org/name"] = SHARDED
    found = load_all(world, hub.url, [located("HubAccess(cache_dir='here')", files="config")])[0]
    assert Path(found["path"]).is_relative_to(world / "work" / "here") and not (world / "cache").exists()


def test_forced_and_offline_contradict(world: Path) -> None:
    settings = load_settings(offline=True)
    with pytest.raises(InputError, match=r"force_download=True fetches, but this is offline \(argument\)"):
        locate("org/name", settings=settings, access=HubAccess(force_download=True))
    with pytest.raises(InputError, match="local_files_only=True and offline=False contradict"):
        local_only(False, True)
    assert local_only(None, None) is None and local_only(True, False) is True
    with pytest.raises(DownloadError, match="cannot be loaded offline"):
        resolve_checkpoint_folder("org/name", local_files_only=True, cache_dir=world / "empty")


def test_subfolders_and_files_of_local_folders(world: Path) -> None:
    folder = fill(world / "work" / "mine", {"fp16/config.json": "{}", "x.gguf": "GGUF"})
    assert locate("./mine", access=HubAccess(subfolder="fp16")).path == Path("mine/fp16")
    assert locate(folder, access=HubAccess(file="x.gguf")).path == folder / "x.gguf"
    with pytest.raises(RegistryError, match=r"subfolder='fp32': there is no .*fp32"):
        locate(folder, access=HubAccess(subfolder="fp32"))
    with pytest.raises(RegistryError, match=r"gguf_file='y.gguf': there is no .*y.gguf"):
        locate(folder, access=HubAccess(file="y.gguf"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"subfolder": ".."}, "subfolder='..' leaves the model's folder"),
        ({"subfolder": "a/../../b"}, "leaves the model's folder"),
        ({"file": os.sep + "etc"}, "gguf_file='/etc' leaves"),
        ({"subfolder": 3}, "subfolder is a int"),
        ({"token": 3}, "token is a int, wanted text"),
        ({"force_download": "yes"}, "force_download is 'yes'"),
        ({"cache_dir": 3}, "cache_dir is 3, wanted the path"),
    ],
)
def test_what_is_no_access(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("..", r"\.\.")):
        HubAccess(**given)
