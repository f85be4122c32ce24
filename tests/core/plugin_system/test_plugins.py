"""Plugins, from real packages on sys.path: discovery, isolation, clashes, allow and block lists, registering."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plugin_sites import GOOD, Site, info, run_python
from polyllama.core.errors import PluginError
from polyllama.core.plugin_system.entry_points import find_entry_points
from polyllama.core.plugin_system.hookspecs import (
    HOOKS,
    BackendDescriptor,
    CommandDescriptor,
    TaskDescriptor,
)
from polyllama.core.plugin_system.manager import Plugins

# finding entry points ------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "kind", ["backends", "tasks", "nodes", "registries", "commands", "checkpoint_formats", "routes"]
)
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
        @hookimpl
        def polyllama_routes():
            return [p.RoutesDescriptor("h", "m:H", "an interface")]
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
        "routes": ("h",),
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
        from polyllama.core.plugin_system.manager import plugin_manager
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
        from polyllama.core.plugin_system.manager import plugin_manager
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


# allow and block lists -----------------------------------------------------------------------------------------------


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
        *(f"polyllama_{kind}" for kind in ("backends", "tasks", "nodes", "registries", "commands")),
        *("polyllama_checkpoint_formats", "polyllama_routes"),
    }


# at run time ---------------------------------------------------------------------------------------------------------


def test_a_plugin_that_asks_for_the_plugins_while_loading_is_told(tmp_path: Path) -> None:
    Site(tmp_path).add("eager", "from polyllama.extend import plugin_manager\nplugin_manager()")
    code = (
        "from polyllama.core.plugin_system.manager import plugin_manager; "
        "print('reference' in plugin_manager().backends())"
    )
    result = run_python(code, tmp_path)
    assert result.stdout.strip() == "True"
    assert "plugin_manager() was called while plugins are being loaded" in result.stderr
