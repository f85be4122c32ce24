"""Plugins registered at run time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from polyllama.core.plugin_system.manager import Plugins, reset_plugins
from polyllama.extend import PluginError, PolyllamaWarning, RegistryDescriptor, hookimpl, plugin_manager


@pytest.fixture
def fresh() -> None:
    reset_plugins()
    yield
    reset_plugins()


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
