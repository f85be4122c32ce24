"""Names that two plugins claim, and lists of plugins that are allowed or blocked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from plugin_sites import GOOD, Site, info, run_python
from polyllama.core.errors import PluginError
from polyllama.core.plugin_system.hookspecs import BackendDescriptor, TaskDescriptor


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
        from polyllama.core.plugin_system.manager import plugin_manager
        print({p.name: p.state for p in plugin_manager().plugins()})
    """
    result = run_python(code, tmp_path, POLYLLAMA_PLUGINS_BLOCK="good,tipo")
    assert eval(result.stdout) == {"polyllama-builtin": "ok", "good": "blocked"}, result.stderr
    assert "plugin 'tipo': the setting plugins_block names it" in result.stderr
