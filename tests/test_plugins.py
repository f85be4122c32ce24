"""Plugins, from real packages on sys.path: discovery, isolation, clashes, allow and block lists, registering."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from polyllama.core.entry_points import EntryPoint, find_entry_points, installed_version
from polyllama.core.errors import PluginError, PolyllamaWarning
from polyllama.core.hookspecs import (
    HOOKS,
    BackendDescriptor,
    CommandDescriptor,
    RegistryDescriptor,
    TaskDescriptor,
    hookimpl,
)
from polyllama.core.plugins import PluginInfo, Plugins, plugin_manager, reset_plugins
from support_processes import run_process

HEADER = """
import polyllama.core.hookspecs as p
hookimpl = p.hookimpl
"""
GOOD = """
@hookimpl
def polyllama_backends():
    return [p.BackendDescriptor("good", "good_backend:Good", "a backend of a test")]
"""


class Site:
    """A folder of installed packages, as pip leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, distribution: str, source: str, *, module: str | None = None, entry: str | None = None) -> str:
        module = module or distribution.replace("-", "_")
        entry = entry or f"{distribution} = {module}"
        (self.folder / f"{module}.py").write_text(HEADER + textwrap.dedent(source))
        info = self.folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n\nName: no\n")
        (info / "entry_points.txt").write_text(f"[other]\nx = y\n\n[polyllama]\n# a comment\n{entry}\n")
        return module

    def load(self, **options: object) -> tuple[Plugins, list[str]]:
        """Everything here and the built-ins, and the warnings loading gave."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plugins = Plugins(find_entry_points("polyllama", [str(self.folder)]), **options)  # type: ignore[arg-type]
        assert all(issubclass(warning.category, PolyllamaWarning) for warning in caught)
        return plugins, [str(warning.message) for warning in caught]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if not name.startswith("polyllama"):
            del sys.modules[name]


@pytest.fixture
def fresh() -> None:
    reset_plugins()
    yield
    reset_plugins()


def info(plugins: Plugins, name: str) -> PluginInfo:
    return next(plugin for plugin in plugins.plugins() if plugin.name == name)


def run_python(code: str, *paths: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), *inherited]), **environment}
    return run_process(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=env, timeout=60
    )


# finding entry points ------------------------------------------------------------------------------------------------


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
        from polyllama.core.plugins import plugin_manager
        print([p.name for p in plugin_manager().plugins()], "good" in plugin_manager().backends())
    """
    result = run_python(code, archive)
    assert result.stdout.strip() == "['polyllama-builtin', 'zipped'] True", result.stderr


# what is found -------------------------------------------------------------------------------------------------------


def test_builtins_come_through_the_entry_point() -> None:
    [point] = [p for p in find_entry_points("polyllama") if p.distribution == "polyllama"]
    assert (point.name, point.value) == ("polyllama-builtin", "polyllama.plugins.builtin")
    plugins = Plugins([point])
    assert {"reference", "torch"} <= set(plugins.backends())
    assert {"causal-lm", "base"} <= set(plugins.tasks())
    assert "huggingface" in plugins.checkpoint_formats()
    assert "builtin" in plugins.registries()
    assert {"run", "chat", "show", "models", "backends", "plugins", "config"} <= set(plugins.commands())
    assert plugins.problems == []


def test_builtins_are_there_without_an_installed_package() -> None:
    plugins = Plugins([])
    assert "reference" in plugins.backends()
    assert info(plugins, "polyllama-builtin").state == "ok"


@pytest.mark.parametrize("kind", ["backends", "tasks", "nodes", "registries", "commands", "checkpoint_formats"])
def test_every_builtin_target_can_be_imported(kind: str) -> None:
    for name, descriptor in getattr(Plugins([]), kind)().items():
        if name != "torch":
            assert descriptor.load() is not None


def test_every_builtin_command_is_a_command_of_that_name() -> None:
    import click

    for name, descriptor in Plugins([]).commands().items():
        command = descriptor.load()
        assert isinstance(command, click.Command)
        assert command.name == name


def test_a_plugin_offers_everything(site: Site) -> None:
    site.add(
        "my-plugin",
        """
        @hookimpl
        def polyllama_backends():
            return (p.BackendDescriptor("b", "m:B", "a backend", requires=["lib"]),)
        @hookimpl
        def polyllama_tasks():
            yield p.TaskDescriptor("t", "m:T", "a task", architectures=("LlamaForT",), aliases=("tt",))
        @hookimpl
        def polyllama_nodes():
            return [p.NodeDescriptor("Gate", "m:Gate")]
        @hookimpl
        def polyllama_registries():
            return p.RegistryDescriptor("r", "my_plugin:MODELS")
        @hookimpl
        def polyllama_checkpoint_formats():
            return [p.CheckpointFormatDescriptor("f", "m:F", "a format")]
        @hookimpl(specname="polyllama_commands")
        def commands():
            return [p.CommandDescriptor("c", "m:c", "a command")]
        MODELS = {"mine": 1}
        """,
    )
    plugins, messages = site.load()
    assert messages == []
    mine = info(plugins, "my-plugin")
    assert (mine.state, mine.reason, mine.distribution, mine.version) == ("ok", "", "my-plugin", "1.2")
    assert dict(mine.offers) == {
        "backend": ("b",),
        "task": ("t",),
        "node": ("Gate",),
        "registry": ("r",),
        "checkpoint format": ("f",),
        "command": ("c",),
    }
    assert plugins.registries()["r"].load() == {"mine": 1}
    assert plugins.backends()["b"].requires == ("lib",)
    assert plugins.find(TaskDescriptor, "tt").name == "t"
    assert plugins.task_for_architecture("LlamaForT") == plugins.tasks()["t"]
    assert plugins.task_for_architecture("LlamaForSomethingElse") is None


def test_a_name_nobody_offers_gets_a_suggestion() -> None:
    with pytest.raises(PluginError, match="there is no task 'causal-ml'; did you mean 'causal-lm'"):
        Plugins([]).find(TaskDescriptor, "causal-ml")


def test_listing_imports_no_target() -> None:
    code = """
        import sys
        from polyllama.core.plugins import plugin_manager
        plugins = plugin_manager()
        plugins.registries(), plugins.checkpoint_formats()
        kinds = [plugins.backends(), plugins.tasks(), plugins.nodes(), plugins.commands()]
        targets = [offer.target.partition(":")[0] for kind in kinds for offer in kind.values()]
        print([m for m in [*targets, "torch", "numpy", "click", "rich"] if m in sys.modules])
    """
    result = run_python(code)
    assert result.stdout.strip() == "[]", result.stderr


# each fault costs only the plugin that has it ------------------------------------------------------------------------

FAULTS = {
    "import-error": (
        "raise RuntimeError('no licence')",
        "failed",
        "importing bad failed with RuntimeError: no licence",
    ),
    "exit": ("import sys; sys.exit('bye')", "failed", "importing bad failed with SystemExit: bye"),
    "syntax": ("def (:", "failed", "importing bad failed with SyntaxError: invalid syntax"),
    "missing-library": (
        "import no_such_lib.sub",
        "failed",
        "importing bad failed with ModuleNotFoundError: No module named 'no_such_lib'",
    ),
    "hook-raises": (
        "@hookimpl\ndef polyllama_tasks():\n    raise KeyError('x')",
        "problem",
        "polyllama_tasks failed with KeyError: 'x'",
    ),
    "hook-exits": (
        "@hookimpl\ndef polyllama_tasks():\n    raise SystemExit",
        "problem",
        "polyllama_tasks failed with SystemExit",
    ),
    "generator-raises": (
        "@hookimpl\ndef polyllama_tasks():\n    yield 1 / 0",
        "problem",
        "polyllama_tasks failed with ZeroDivisionError",
    ),
    "misspelt": (
        "@hookimpl\ndef polyllama_backend():\n    return []",
        "problem",
        "there is no hook 'polyllama_backend'; did you mean 'polyllama_backends'?",
    ),
    "misspelt-specname": (
        "@hookimpl(specname='polyllama_task')\ndef f():\n    return []",
        "problem",
        "there is no hook 'polyllama_task'; did you mean 'polyllama_tasks'?",
    ),
    "unmarked": (
        "def polyllama_backends():\n    return []",
        "problem",
        "the function 'polyllama_backends' is not used: mark it @polyllama.hookimpl",
    ),
    "arguments": (
        "@hookimpl\ndef polyllama_backends(settings):\n    return []",
        "failed",
        "its hooks cannot be registered",
    ),
    "none": ("@hookimpl\ndef polyllama_backends():\n    pass", "problem", "returned None instead of a list"),
    "string": (
        "@hookimpl\ndef polyllama_backends():\n    return 'torch'",
        "problem",
        "returned 'torch' instead of a list",
    ),
    "mapping": ("@hookimpl\ndef polyllama_backends():\n    return {'a': 'b:C'}", "problem", "instead of a list"),
    "wrong-type": (
        "@hookimpl\ndef polyllama_backends():\n    return [p.TaskDescriptor('t', 'm:T', 's')]",
        "problem",
        "polyllama_backends must return BackendDescriptors, not TaskDescriptor(name='t'",
    ),
    "bad-name": (
        "@hookimpl\ndef polyllama_backends():\n    return [p.BackendDescriptor('Mine:cuda', 'm:T', 's')]",
        "problem",
        "'Mine:cuda' is no name for a backend; use lower-case",
    ),
    "bad-target": (
        "@hookimpl\ndef polyllama_backends():\n    return [p.BackendDescriptor('mine', 'm.T', 's')]",
        "problem",
        "the target 'm.T' does not say where the code is; write it as \"package.module:attribute\"",
    ),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef polyllama_backends():\n    return (yield)",
        "problem",
        "polyllama_backends is a hook wrapper",
    ),
    "nothing": ("x = 1", "problem", "it offers nothing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_plugin_is_named_and_costs_only_itself(site: Site, fault: str) -> None:
    source, state, message = FAULTS[fault]
    site.add("bad-dist", source, module="bad", entry="bad = bad")
    site.add("good", GOOD)
    plugins, messages = site.load()
    [warning] = messages
    assert warning.startswith("plugin 'bad' (bad-dist 1.2): ")
    assert message in warning
    assert "\n" not in warning
    assert [str(problem) for problem in plugins.problems] == messages
    assert info(plugins, "bad").state == state
    assert message in info(plugins, "bad").reason
    assert {"good", "reference"} <= set(plugins.backends())
    assert info(plugins, "good").state == "ok"


def test_what_is_right_in_a_partly_broken_plugin_still_counts(site: Site) -> None:
    site.add(
        "half",
        """
        @hookimpl
        def polyllama_backends():
            return [p.BackendDescriptor("fine", "m:B", "works"), "nonsense"]
        @hookimpl
        def polyllama_tasks():
            raise OSError("no disk")
        """,
    )
    plugins, messages = site.load()
    assert "fine" in plugins.backends()
    assert len(messages) == 2
    assert info(plugins, "half").state == "problem"


@pytest.mark.parametrize("entry", ["bad = not a module!", "bad = ", "bad = os:no_such_attribute", "bad = os:"])
def test_a_malformed_entry_point_is_named(site: Site, entry: str) -> None:
    site.add("bad-dist", "", entry=entry)
    plugins, [warning] = site.load()
    assert "plugin 'bad' (bad-dist 1.2)" in warning
    assert "reference" in plugins.backends()


def test_discovery_in_a_real_process_survives_every_fault_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for number, (source, _, _) in enumerate(FAULTS.values()):
        site.add(f"bad-{number}", source)
    site.add("good", GOOD)
    code = """
        import json
        from polyllama.core.plugins import plugin_manager
        plugins = plugin_manager()
        assert plugin_manager() is plugins
        print(json.dumps({p.name: p.state for p in plugins.plugins()}))
    """
    result = run_python(code, tmp_path)
    states = json.loads(result.stdout)
    expected = {f"bad-{number}": state for number, (_, state, _) in enumerate(FAULTS.values())}
    assert states == {"polyllama-builtin": "ok", "good": "ok", **expected}
    for number in range(len(FAULTS)):
        assert result.stderr.count(f"plugin 'bad-{number}' ") == 1
    assert "Traceback" not in result.stderr


# clashes -------------------------------------------------------------------------------------------------------------


def claim(name: str) -> str:
    return f"""
    @hookimpl
    def polyllama_backends():
        return [p.BackendDescriptor({name!r}, "string:digits", "claims a name")]
    """


@pytest.mark.parametrize(("other", "name"), [("builtin", "reference"), ("first-plugin", "mine")])
def test_two_plugins_that_claim_a_name_are_both_named(site: Site, other: str, name: str) -> None:
    if other != "builtin":
        site.add(other, claim(name))
    site.add("second-plugin", claim(name))
    plugins, [warning] = site.load()
    mine, theirs = "'second-plugin' (second-plugin 1.2)", f"'{other}" if other != "builtin" else "'polyllama-builtin'"
    assert name in warning and mine in warning and theirs in warning
    with pytest.raises(PluginError) as caught:
        plugins.backends()[name].load()
    assert mine in str(caught.value) and theirs in str(caught.value) and "plugins_block" in str(caught.value)
    with pytest.raises(PluginError, match="is claimed by 2 plugins"):
        plugins.find(BackendDescriptor, name)
    assert info(plugins, "second-plugin").state == "problem"
    assert plugins.backends()["torch"].clash == ""  # the rest of both plugins is untouched


def test_a_clash_ends_when_one_side_is_blocked(site: Site) -> None:
    site.add("first-plugin", claim("mine"))
    site.add("second-plugin", claim("mine"))
    plugins, messages = site.load(block=["First.Plugin"])
    assert messages == []
    assert plugins.backends()["mine"].load() == "0123456789"
    assert plugins.backends()["mine"].plugin == "second-plugin"


def test_one_plugin_offering_a_name_twice_is_a_clash_too(site: Site) -> None:
    site.add(
        "twice",
        """
        @hookimpl
        def polyllama_backends():
            return [p.BackendDescriptor("mine", "string:digits", text) for text in ("one", "two")]
        """,
    )
    plugins, [warning] = site.load()
    assert "backend 'mine' is offered 2 times by plugin 'twice' (twice 1.2)" in warning
    with pytest.raises(PluginError, match="2 times"):
        plugins.backends()["mine"].load()


def test_aliases_and_architectures_clash_too(site: Site) -> None:
    site.add(
        "heads",
        """
        @hookimpl
        def polyllama_tasks():
            return [p.TaskDescriptor("mine", "m:T", "s", architectures=("LlamaModel",), aliases=("base",))]
        """,
    )
    plugins, messages = site.load()
    assert len(messages) == 2
    with pytest.raises(PluginError, match="architecture 'LlamaModel' is claimed by 2 plugins"):
        plugins.task_for_architecture("LlamaModel")
    with pytest.raises(PluginError, match="task 'base' is claimed by 2 plugins"):
        plugins.find(TaskDescriptor, "base")
    with pytest.raises(PluginError, match="task 'base' is claimed by 2 plugins"):
        plugins.tasks()["base"].load()
    assert plugins.find(TaskDescriptor, "mine").name == "mine"


def test_two_entry_points_of_one_name_are_told_apart(site: Site) -> None:
    site.add("dist-a", claim("a"), entry="same = dist_a")
    site.add("dist-b", claim("b"), entry="same = dist_b")
    plugins, messages = site.load()
    assert messages == []
    assert {"a", "b"} <= set(plugins.backends())
    assert [plugin.name for plugin in plugins.plugins()][1:] == ["same", "same of dist-b"]


# allow and block lists -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["my-entry", "My_Entry", "my-dist", "my.dist"])
def test_blocking_by_either_name_does_not_even_import(site: Site, spelling: str) -> None:
    site.add("my-dist", "raise RuntimeError('imported')", entry="my-entry = my_dist")
    plugins, messages = site.load(block=[spelling])
    assert messages == []
    assert info(plugins, "my-entry").state == "blocked"
    assert info(plugins, "my-entry").reason == "blocked by the setting plugins_block"
    assert "my_dist" not in sys.modules


def test_an_allow_list_leaves_the_builtins_alone(site: Site) -> None:
    site.add("good", GOOD)
    site.add("other", claim("other"))
    plugins, messages = site.load(allow=["good"])
    assert messages == []
    assert {"good", "reference"} <= set(plugins.backends())
    assert "other" not in plugins.backends()
    assert info(plugins, "other").reason == "not among the setting plugins_allow"
    assert "good" not in site.load(allow=[])[0].backends()


@pytest.mark.parametrize("name", ["polyllama-builtin", "polyllama", "Polyllama_Builtin"])
def test_the_builtins_cannot_be_blocked(site: Site, name: str) -> None:
    plugins, [warning] = site.load(block=[name])
    assert "torch" in plugins.backends() and "run" in plugins.commands()
    assert info(plugins, "polyllama-builtin").state == "ok"
    assert "'polyllama-builtin': the setting plugins_block names it" in warning


@pytest.mark.parametrize("setting", ["allow", "block"])
def test_a_typo_in_a_list_warns(site: Site, setting: str) -> None:
    site.add("good", GOOD)
    _, [warning] = site.load(**{setting: ["good", "goood"]})
    assert warning == (
        f"plugin 'goood': the setting plugins_{setting} names it, but no such plugin is installed; did you mean 'good'?"
    )


def test_the_lists_come_from_the_settings(tmp_path: Path) -> None:
    Site(tmp_path).add("good", GOOD)
    code = """
        from polyllama.core.plugins import plugin_manager
        print({p.name: p.state for p in plugin_manager().plugins()})
    """
    result = run_python(code, tmp_path, POLYLLAMA_PLUGINS_BLOCK="good,tipo")
    assert eval(result.stdout) == {"polyllama-builtin": "ok", "good": "blocked"}, result.stderr
    assert "plugin 'tipo': the setting plugins_block names it" in result.stderr


# descriptors ---------------------------------------------------------------------------------------------------------


def test_loading_names_plugin_target_and_missing_library(site: Site) -> None:
    (site.folder / "needy.py").write_text("import no_such_accelerator.kernels\n")
    site.add(
        "my-plugin",
        """
        @hookimpl
        def polyllama_backends():
            targets = {"needy": "needy:Needy", "gone": "my_plugin.gone:X", "typo": "string:digit"}
            return [p.BackendDescriptor(name, target, "s") for name, target in targets.items()]
        """,
    )
    plugins, messages = site.load()
    assert messages == []
    expected = {
        "needy": "backend 'needy' of plugin 'my-plugin' cannot be loaded from 'needy:Needy': it needs the library "
        "'no_such_accelerator', which is not installed; pip install no_such_accelerator",
        "gone": "there is no module 'my_plugin.gone'",
        "typo": "string has no 'digit'; did they mean 'digits'?",
    }
    for name, message in expected.items():
        with pytest.raises(PluginError) as caught:
            plugins.backends()[name].load()
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "source", ["raise ValueError('boom')", "raise SystemExit('boom')", "raise ImportError('boom')"]
)
def test_loading_isolates_whatever_the_import_raises(site: Site, source: str) -> None:
    (site.folder / "explosive.py").write_text(source)
    with pytest.raises(PluginError, match=r"backend 'x' cannot be loaded from 'explosive:X': importing .*: boom"):
        BackendDescriptor("x", "explosive:X", "s").load()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BackendDescriptor("", "m:X", "s"), "'' is no name"),
        (lambda: BackendDescriptor(3, "m:X", "s"), "3 is no name"),
        (lambda: BackendDescriptor("a b", "m:X", "s"), "is no name"),
        (lambda: BackendDescriptor("a", "m:X:Y", "s"), "does not say where"),
        (lambda: BackendDescriptor("a", "m:", "s"), "does not say where"),
        (lambda: BackendDescriptor("a", ".m:X", "s"), "does not say where"),
        (lambda: BackendDescriptor("a", None, "s"), "does not say where"),
        (lambda: BackendDescriptor("a", "m:X"), "has no summary"),
        (lambda: BackendDescriptor("a", "m:X", "two\nlines"), "one line"),
        (lambda: BackendDescriptor("a", "m:X", "s", requires="torch"), r"write \('torch',\)"),
        (lambda: TaskDescriptor("a", "m:X", "s", architectures=(1,)), "architectures must be a tuple of strings"),
        (lambda: TaskDescriptor("a", "m:X", "s", aliases=("a",)), "no alias"),
        (lambda: CommandDescriptor("a", "m:X", "s", aliases=("B",)), "no alias"),
    ],
)
def test_a_wrong_descriptor_is_refused(make: object, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        make()  # type: ignore[operator]


def test_descriptors_are_frozen_and_hashable() -> None:
    descriptor = TaskDescriptor("a", "m:X", "s", architectures=["A"])  # type: ignore[arg-type]
    assert descriptor.architectures == ("A",)
    assert hash(descriptor) == hash(TaskDescriptor("a", "m:X", "s", architectures=("A",)))
    with pytest.raises(AttributeError):
        descriptor.name = "b"  # type: ignore[misc]


def test_the_hook_names_are_fixed() -> None:
    assert set(HOOKS) == {
        f"polyllama_{kind}" for kind in ("backends", "tasks", "nodes", "registries", "commands", "checkpoint_formats")
    }


# at run time ---------------------------------------------------------------------------------------------------------


class Notebook:
    """What a user might write in a notebook."""

    def __init__(self, name: str = "mine") -> None:
        self.name = name

    @hookimpl
    def polyllama_registries(self) -> list[RegistryDescriptor]:
        return [RegistryDescriptor(self.name, "string:digits")]


@pytest.mark.usefixtures("fresh")
def test_registering_at_run_time_reaches_every_later_use() -> None:
    assert plugin_manager().register(Notebook(), "book") == "book"
    assert "mine" in plugin_manager().registries()
    other = SimpleNamespace(plugins_allow=[], plugins_block=[])
    assert "mine" in plugin_manager(other).registries()
    plugin_manager().unregister("book")
    assert "mine" not in plugin_manager().registries()
    before = plugin_manager()
    reset_plugins()
    assert plugin_manager() is not before
    assert "mine" not in plugin_manager().registries()


def test_registering_again_wants_replace() -> None:
    plugins = Plugins([])
    plugins.register(Notebook("one"))
    with pytest.raises(PluginError, match=r"already a plugin 'Notebook'.*replace=True"):
        plugins.register(Notebook("two"))
    plugins.register(Notebook("two"), replace=True)
    assert "two" in plugins.registries() and "one" not in plugins.registries()


def test_a_refused_registration_changes_nothing() -> None:
    plugins = Plugins([])
    before = plugins.plugins()
    with pytest.raises(PluginError, match="registry 'builtin' is claimed by 2 plugins"):
        plugins.register(Notebook("builtin"))
    with pytest.raises(PluginError, match="offers nothing"):
        plugins.register(object(), "empty")
    with pytest.raises(PluginError, match="None"):
        plugins.register(None, "empty")
    with pytest.raises(PluginError, match="choose another name"):
        plugins.register(Notebook(), "polyllama-builtin", replace=True)
    assert plugins.plugins() == before
    assert plugins.problems == []
    plugins.register(Notebook("one"), "book")
    with pytest.raises(PluginError, match="builtin"):
        plugins.register(Notebook("builtin"), "book", replace=True)
    assert "one" in plugins.registries()


def test_a_blocked_name_cannot_be_registered_either() -> None:
    with pytest.warns(PolyllamaWarning, match="no such plugin"):
        plugins = Plugins([], block=["book"])
    with pytest.raises(PluginError, match="plugins_block"):
        plugins.register(Notebook(), "book")


def test_unregistering_what_was_not_registered_is_an_error() -> None:
    with pytest.raises(PluginError, match="plugins_block"):
        Plugins([]).unregister("polyllama-builtin")


def test_a_plugin_that_asks_for_the_plugins_while_loading_is_told(tmp_path: Path) -> None:
    Site(tmp_path).add("eager", "from polyllama.core.plugins import plugin_manager\nplugin_manager()")
    code = "from polyllama.core.plugins import plugin_manager; print('reference' in plugin_manager().backends())"
    result = run_python(code, tmp_path)
    assert result.stdout.strip() == "True"
    assert "plugin_manager() was called while plugins are being loaded" in result.stderr
