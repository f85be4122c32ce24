"""Settings: the four layers, where each value came from, and what a mistake in one of them says."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from polyllama.core.errors import PolyllamaWarning, SettingsError
from polyllama.core.settings.files import OTHER_VARIABLES, Defaults, settings_files, user_config_folder
from polyllama.core.settings.listing import listing_settings
from polyllama.core.settings.schema import Settings, load_settings
from polyllama.core.settings.yaml_files import read_yaml_mapping
from support_processes import run_process


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and user config folder, and no variables that matter."""
    for name in list(os.environ):
        if name.upper().startswith("POLYLLAMA_") or name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "polyllama").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def user_yaml(world: Path, text: str) -> Path:
    path = world / "config" / "polyllama" / "polyllama.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def working_yaml(world: Path, text: str) -> Path:
    path = world / "work" / "polyllama.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_without_any_layer() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert (settings.backend, settings.dtype, settings.offline) == ("auto", "auto", False)
    assert set(settings.provenance) == set(Settings.model_fields)
    assert set(settings.provenance.values()) == {"default"}


def test_each_layer_overrides_the_one_before(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = user_yaml(world, "backend: reference\ndevice: cpu\nseed: 1\nthreads: 2\n")
    assert load_settings().backend == "reference"
    work = working_yaml(world, "backend: jax\ndevice: gpu\nseed: 2\n")
    assert load_settings().backend == "jax"
    monkeypatch.setenv("POLYLLAMA_BACKEND", "mlx")
    monkeypatch.setenv("POLYLLAMA_DEVICE", "cuda:1")
    assert load_settings().backend == "mlx"
    settings = load_settings(backend="torch:cuda", device=None)
    assert (settings.backend, settings.device, settings.seed, settings.threads) == ("torch:cuda", "cuda:1", 2, 2)
    assert settings.provenance["backend"] == "argument"
    assert settings.provenance["device"] == "environment: POLYLLAMA_DEVICE"
    assert settings.provenance["seed"] == f"{work}: seed"
    assert settings.provenance["threads"] == f"{user}: threads"
    assert settings.provenance["dtype"] == "default"


def test_every_setting_can_come_from_every_layer(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, tuple[str, object]] = {
        "backend": ("torch", "torch"),
        "device": ("cuda:0", "cuda:0"),
        "dtype": ("bfloat16", "bfloat16"),
        "quantize": ("int4-g32", "int4-g32"),
        "kv_cache": ("int8", "int8"),
        "cache_memory": ("2GB", "2GB"),
        "prefix_cache": ("never", "never"),
        "constraints": ("mine", "mine"),
        "load_format": ("dummy", "dummy"),
        "cache_dir": ("/somewhere/cache", Path("/somewhere/cache")),
        "offline": ("true", True),
        "seed": ("17", 17),
        "threads": ("3", 3),
        "registries": ("/a/r.yaml", (Path("/a/r.yaml"),)),
        "plugins_allow": ("one", ("one",)),
        "plugins_block": ("two", ("two",)),
        "serve_models": ("tiny", ("tiny",)),
        "serve_host": ("0.0.0.0", "0.0.0.0"),
        "serve_port": ("9000", 9000),
        "serve_any_name": ("true", True),
        "serve_api_key_file": ("/a/keys.txt", "/a/keys.txt"),
        "serve_max_rows": ("8", 8),
        "serve_max_queue": ("0", 0),
        "serve_max_tokens": ("512", 512),
        "serve_max_body": ("1MB", "1MB"),
        "serve_max_time": ("5m", "5m"),
        "serve_context": ("2048", 2048),
        "serve_keep_alive": ("forever", "forever"),
        "serve_memory": ("2GB", "2GB"),
        "serve_cors": ("https://a.example", ("https://a.example",)),
        "serve_allow_host": ("llama.example", ("llama.example",)),
        "serve_access_log": ("true", True),
        "serve_tool_parser": ("hermes", "hermes"),
        "serve_chat_template": ("/a/t.jinja", "/a/t.jinja"),
    }
    assert set(values) == set(Settings.model_fields), "a new setting needs a line here"
    for name, (text, expected) in values.items():
        monkeypatch.setenv(f"POLYLLAMA_{name.upper()}", text)
        assert getattr(load_settings(), name) == expected
        assert load_settings().provenance[name] == f"environment: POLYLLAMA_{name.upper()}"
        monkeypatch.delenv(f"POLYLLAMA_{name.upper()}")
        for write in (user_yaml, working_yaml):
            path = write(world, f"{name}: {text}\n")
            assert getattr(load_settings(), name) == expected
            path.unlink()
        assert getattr(load_settings(**{name: expected}), name) == expected
        assert load_settings(**{name: expected}).provenance[name] == "argument"


def test_result_is_frozen_and_of_one_class_whatever_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_settings(backend="torch")
    monkeypatch.setenv("POLYLLAMA_BACKEND", "torch")
    layered = load_settings()
    assert type(plain) is type(layered) is Settings
    assert plain.model_dump() == layered.model_dump()
    with pytest.raises(Exception, match="frozen"):
        layered.backend = "jax"  # type: ignore[misc]


def test_lists_and_paths(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_yaml(world, "registries: [more.yaml, /abs/x.yaml]\ncache_dir: cache\n")
    settings = load_settings()
    base = world / "config" / "polyllama"
    assert settings.registries == (base / "more.yaml", Path("/abs/x.yaml"))  # relative to the file that says so
    assert settings.cache_dir == base / "cache"
    monkeypatch.setenv("POLYLLAMA_REGISTRIES", os.pathsep.join(["one.yaml", "~/two.yaml"]))
    assert load_settings().registries == (world / "work" / "one.yaml", Path.home() / "two.yaml")
    monkeypatch.setenv("POLYLLAMA_PLUGINS_BLOCK", "a, b,,c")
    assert load_settings().plugins_block == ("a", "b", "c")
    working_yaml(world, "plugins_allow: []\n")
    assert load_settings().plugins_allow == ()  # allowing nothing is not the same as not saying


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLLAMA_BACKEND", "")
    monkeypatch.setenv("POLYLLAMA_SEED", "5")
    settings = load_settings()
    assert (settings.backend, settings.provenance["backend"], settings.seed) == ("auto", "default", 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backned: torch", r"polyllama\.yaml: there is no setting 'backned'; did you mean backend\?"),
        ("zzz: 1", r"no setting 'zzz'; known: backend, device"),
        ("dtype: fp16", r"polyllama\.yaml: dtype: dtype must be auto, float64, .* not 'fp16'"),
        ("threads: 0", r"threads must be a whole number from 1 to 65536, not 0"),
        ("threads: true", r"threads must be a whole number from 1 to 65536, not True"),
        ("threads: 2.5", r"threads must be .* not 2\.5"),
        ("seed: -1", r"seed must be a whole number from 0 to 2\*\*64 - 1, not -1"),
        ("offline: perhaps", r"offline must be true or false .* not 'perhaps'"),
        ("backend: no", r"backend must be auto.* not False \(YAML reads yes, no, on and off"),
        ("backend:", r"backend must be auto.* not None"),
        ("backend: [torch]", r"backend must be auto.* not \['torch'\]"),
        ("device: 'cuda 1'", r"device must be the name of a device"),
        ("cache_dir: 7", r"cache_dir must be the path of a folder, not 7"),
        ("cache_dir: ''", r"cache_dir must be the path of a folder, not ''"),
        ("registries: [1]", r"registries must be a list of paths .* not 1"),
        ("plugins_block: {a: 1}", r"plugins_block must be a list of plugin names"),
        ("backend: torch\nbackend: jax", r"polyllama\.yaml, line 2: the key 'backend' appears twice"),
        ("backend: [torch", r"polyllama\.yaml, line \d+: not valid YAML"),
        ("- backend", r"must hold 'key: value' lines, but it holds a list"),
        ("torch", r"must hold 'key: value' lines, but it holds a str"),
        ("1: torch", r"the key 1 is read as a int; put it in quotes"),
        (
            "backend: !!python/object/apply:os.system ['true']",
            r"line 1: not valid YAML: could not determine a constructor",
        ),
        ("a: &a [*a]", r"an alias that contains itself"),
    ],
)
def test_a_wrong_file_says_where_what_and_what_instead(world: Path, text: str, message: str) -> None:
    working_yaml(world, text + "\n")
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    assert str(world / "work" / "polyllama.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('!!int ""', "'' is no int"),
        ('!!bool "x"', "'x' is no bool"),
        ('!!timestamp "abc"', "'abc' is no timestamp"),
        ('!!float "x"', "'x' is no float"),
        ("2026-13-40", "'2026-13-40' is no timestamp"),
    ],
)
def test_a_value_that_does_not_fit_its_tag_says_where(world: Path, value: str, said: str) -> None:
    user_yaml(world, f"backend: torch\nseed: {value}\n")
    with pytest.raises(SettingsError, match=re.escape(f"polyllama.yaml, line 2: not valid YAML: {said}")):
        load_settings()


@pytest.mark.parametrize(
    "text", ["cache_dir: ~nosuchuser/c", "registries: ~nosuchuser/r.yaml", "registries: [a.yaml, ~nosuchuser/r.yaml]"]
)
def test_a_home_folder_that_is_not_there(world: Path, text: str) -> None:
    user_yaml(world, text)
    with pytest.raises(SettingsError, match=r"polyllama\.yaml: \w+: '~nosuchuser/\w.*no such user"):
        load_settings()


def test_all_wrong_values_are_named_at_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_yaml(world, "threads: many\n")
    monkeypatch.setenv("POLYLLAMA_OFFLINE", "maybe")
    with pytest.raises(SettingsError) as caught:
        load_settings(dtype="int4")
    text = str(caught.value)
    assert "config/polyllama/polyllama.yaml: threads: threads must be" in text.replace(os.sep, "/")
    assert "environment: POLYLLAMA_OFFLINE: offline must be" in text
    assert "argument: dtype must be auto, float64, float32, bfloat16 or float16, not 'int4'" in text


def test_a_wrong_argument_without_other_layers() -> None:
    with pytest.raises(SettingsError, match="argument: threads must be a whole number"):
        load_settings(threads="x")
    with pytest.raises(SettingsError, match="there is no setting 'bakend'; did you mean backend"):
        load_settings(bakend="torch")


def test_unknown_variables_are_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLLAMA_BACKNED", "torch")
    with pytest.warns(PolyllamaWarning, match="POLYLLAMA_BACKNED means nothing.*did you mean POLYLLAMA_BACKEND"):
        settings = load_settings()
    assert settings.backend == "auto"


def test_listings_see_the_same_settings_by_the_short_way(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLLAMA_DEBUG", "1")  # no setting
    names = [field.name for field in dataclasses.fields(Defaults)]
    found, wanted = listing_settings(), load_settings()
    assert isinstance(found, Defaults)
    assert {name: getattr(wanted, name) for name in names} == vars(found)
    assert {name: wanted.provenance[name] for name in names} == found.provenance
    monkeypatch.setenv("polyllama_backend", "torch")
    assert listing_settings() == load_settings() and listing_settings().backend == "torch"
    monkeypatch.delenv("polyllama_backend")
    monkeypatch.setenv("POLYLLAMA_BAKEND", "torch")
    with pytest.warns(PolyllamaWarning, match="POLYLLAMA_BAKEND means nothing"):
        listing_settings()
    monkeypatch.delenv("POLYLLAMA_BAKEND")
    for write in (user_yaml, working_yaml):
        path = write(world, "plugins_block: [mine]\n")
        assert listing_settings().plugins_block == ("mine",)
        path.rename(path.with_suffix(".yml"))
        with pytest.warns(PolyllamaWarning, match="is not read"):
            listing_settings()
        path.with_suffix(".yml").unlink()


def test_known_variables_of_other_parts_are_not_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLLAMA_CPU_ISA", "avx2")  # PolyllamaWarning is an error in this suite
    load_settings()
    monkeypatch.setenv("POLYLLAMA_MY_PLUGIN", "1")
    with pytest.warns(PolyllamaWarning, match="POLYLLAMA_MY_PLUGIN"):
        load_settings()
    monkeypatch.setitem(OTHER_VARIABLES, "POLYLLAMA_MY_PLUGIN", "mine")
    load_settings()


@pytest.mark.skipif(os.name == "nt", reason="variables have no case there")
def test_two_spellings_of_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("polyllama_backend", "torch")
    assert load_settings().provenance["backend"] == "environment: polyllama_backend"
    monkeypatch.setenv("POLYLLAMA_BACKEND", "jax")
    with pytest.raises(SettingsError, match="both polyllama_backend and POLYLLAMA_BACKEND are set"):
        load_settings()


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_hubs_own_offline_variable_is_honoured(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "0")
    assert load_settings().offline is False
    monkeypatch.setenv(variable, "1")
    before = load_settings(backend="torch")
    assert before.offline is True
    assert before.provenance["offline"] == f"environment: {variable}"
    assert before.provenance["backend"] == "argument"
    assert load_settings(offline=True).provenance["offline"] == "argument"
    with pytest.warns(PolyllamaWarning, match=rf"offline=false \(argument\) has no effect: {variable}=1"):
        assert load_settings(offline=False).offline is True


def test_dot_yml_is_not_silently_ignored(world: Path) -> None:
    (world / "work" / "polyllama.yml").write_text("backend: torch\n")
    with pytest.warns(PolyllamaWarning, match=r"polyllama\.yml is not read; rename it to polyllama\.yaml"):
        load_settings()


def test_the_user_folder(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    assert user_config_folder() == world / "config" / "polyllama"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert user_config_folder() == Path(platformdirs.user_config_path("polyllama", appauthor=False))


def test_a_file_that_is_both_is_read_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = user_yaml(world, "backend: torch\n")
    monkeypatch.chdir(path.parent)
    assert settings_files() == [path]


def test_unreadable_files(world: Path) -> None:
    path = working_yaml(world, "")
    assert load_settings().backend == "auto"  # empty is fine
    path.write_bytes(b"backend: \xff\n")
    with pytest.raises(SettingsError, match="not UTF-8 text"):
        load_settings()
    path.write_bytes(b"\xef\xbb\xbfbackend: torch\n")
    assert load_settings().backend == "torch"  # a byte order mark is no part of the first key
    path.write_text("# " + "x" * 70_000)
    with pytest.raises(SettingsError, match="larger than 64 KiB"):
        load_settings()
    path.unlink()
    path.mkdir()
    with pytest.raises(SettingsError, match=r"polyllama\.yaml: cannot be read: Is a directory|cannot be read"):
        load_settings()


def test_alias_bombs_are_refused_quickly(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path.write_text("\n".join(lines))
    started = time.perf_counter()
    with pytest.raises(SettingsError, match="aliases stand for more than"):
        read_yaml_mapping(path, SettingsError)
    assert time.perf_counter() - started < 60
    path.write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")  # honest aliases work
    assert read_yaml_mapping(path, SettingsError) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize("text", ["a: " + "[" * 100_000 + "]" * 100_000, "- " * 100_000, "a: " + "[" * 60 + "]" * 60])
def test_deep_nesting_is_an_error_and_no_crash(tmp_path: Path, text: str) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"nested more than|not valid YAML"):
        read_yaml_mapping(path, SettingsError)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=60), st.text(alphabet="abc:&*-[]{}!<> \n\"'#|1.~\t", max_size=40).map(str.encode)))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(read_yaml_mapping(path, SettingsError), dict)
    except SettingsError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error).replace(str(path), "")


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(Settings.model_fields)),
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
)
def test_any_text_in_a_variable_is_taken_or_refused_by_name(name: str, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"POLYLLAMA_{name.upper()}", text)
        try:
            settings = load_settings()
        except SettingsError as error:
            assert f"POLYLLAMA_{name.upper()}: {name} must be" in str(error)
        else:
            assert settings.provenance[name] == f"environment: POLYLLAMA_{name.upper()}"


def test_pydantic_settings_is_imported_only_where_there_is_something_to_read(world: Path) -> None:
    script = (
        "import sys; from polyllama.core.settings.schema import load_settings; load_settings(backend='reference');"
        "print('pydantic_settings' in sys.modules, 'asyncio' in sys.modules, 'yaml' in sys.modules,"
        " any(m in sys.modules for m in ('numpy', 'torch', 'huggingface_hub', 'rich')))"
    )

    def run(**extra: str) -> str:
        environment = {**os.environ, **extra}
        return run_process([sys.executable, "-c", script], env=environment, capture_output=True, text=True).stdout

    assert run().split() == ["False", "False", "False", "False"]
    assert run(POLYLLAMA_SEED="1").split()[0] == "True"


def test_describe_has_a_row_for_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLLAMA_SEED", "3")
    rows = {row.name: row for row in load_settings().describe()}
    assert list(rows) == list(Settings.model_fields)
    assert (rows["seed"].value, rows["seed"].source, rows["seed"].variable) == (
        3,
        "environment: POLYLLAMA_SEED",
        "POLYLLAMA_SEED",
    )
    assert all(row.summary for row in rows.values())
    for field in Settings.model_fields.values():
        assert isinstance(field.json_schema_extra, dict) and field.json_schema_extra["allowed"]
