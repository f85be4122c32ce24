"""The config on disk: what is read and written, and what a broken file is called."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from polyllama.core.config.dialects import DIALECTS
from polyllama.core.config.schema import LlamaConfig
from polyllama.core.errors import ConfigError, PolyllamaError
from support_processes import run_process

SMALL = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


def test_from_pretrained_takes_folders_files_and_text_paths(tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL)
    file = config.save_pretrained(tmp_path / "a" / "b")
    for path in (file, file.parent, str(file), str(file.parent)):
        assert LlamaConfig.from_pretrained(path) == config
    assert LlamaConfig.from_pretrained(file).provenance["vocab_size"] == "config.json: vocab_size"
    (tmp_path / "params.json").write_text(json.dumps({"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 99}))
    assert LlamaConfig.from_pretrained(tmp_path).provenance["hidden_size"] == "params.json: dim"
    assert [path.name for path in file.parent.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"vocab_size": 3', "not valid JSON"),
        (b"[1]", "must hold a JSON object, but holds a list"),
        (b"\xff\xfe{", "not UTF-8 text"),
        (b'{"vocab_size": 3, "vocab_size": 4}', 'the key "vocab_size" appears twice'),
        (b'{"a": ' + b"[" * 100_000, "nested deeper|not valid JSON"),
        (b'{"vocab_size": 99, "a": ' + b"[" * 200 + b"]" * 200 + b"}", "nested deeper than 64"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"rms_norm_eps": NaN}', "must be a finite number"),
        (b'{"rms_norm_eps": 1e999}', "must be a finite number"),
        (b'{"foo": Infinity, "vocab_size": 99}', "foo=inf cannot be stored"),
        (b"{}", "holds no field of a Llama configuration"),
        (b'{"tokenizer_class": "LlamaTokenizer"}', "holds no field of a Llama configuration"),
        (b'{"vocab_size": 99, "pad": "' + b"x" * (16 * 1024 * 1024) + b'"}', "larger than 16 MiB"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        LlamaConfig.from_pretrained(tmp_path)
    assert str(caught.value).startswith(str(file))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds neither config.json nor params.json"):
        LlamaConfig.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no such file or folder"):
        LlamaConfig.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no such file or folder"):
        LlamaConfig.from_pretrained(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match="not a file"):
        LlamaConfig.from_pretrained(tmp_path)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    with pytest.raises(ConfigError, match="cannot be written"):
        LlamaConfig().save_pretrained(blocked)
    assert not list(tmp_path.glob("**/*.part"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LlamaConfig(**SMALL).save_pretrained(tmp_path)
    before = file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("polyllama.core.config.files.os.replace", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        LlamaConfig().save_pretrained(tmp_path)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("raw", [None, 3, "text", [("vocab_size", 3)]])
def test_from_dict_wants_a_mapping(raw: Any) -> None:
    with pytest.raises(ConfigError, match="dict: must be a mapping of fields"):
        LlamaConfig.from_dict(raw)


def test_values_that_contain_themselves() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConfigError, match="it contains itself"):
        LlamaConfig(foo=loop)


@pytest.mark.parametrize("name", ["device_map", "trust_remote_code", "proxies"])
def test_loader_arguments_of_transformers_are_no_fields(tmp_path: Path, name: str) -> None:
    LlamaConfig(**SMALL).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"from_pretrained does not take {name}; "):
        LlamaConfig.from_pretrained(tmp_path, **{name: True})


def test_a_name_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolyllamaError, match="no-such-model-anywhere"):
        LlamaConfig.from_pretrained("no-such-model-anywhere", offline=True)
    LlamaConfig(**SMALL).save_pretrained(tmp_path / "mine")
    assert LlamaConfig.from_pretrained("mine") == LlamaConfig(**SMALL)


def test_dialects_are_a_table() -> None:
    assert [dialect.name for dialect in DIALECTS] == ["meta", "gguf", "mlx", "huggingface"]


def test_import_is_light() -> None:
    code = (
        "import sys, polyllama.core.config.schema; "
        "print([m for m in ('numpy', 'torch', 'yaml', 'huggingface_hub', 'sentencepiece', 'transformers', 'mlx', 'jax')"
        " if m in sys.modules])"
    )
    result = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
