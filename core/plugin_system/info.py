"""What is known about each plugin, and who claims which name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from .hookspecs import Descriptor


@dataclass(frozen=True)
class PluginProblem:
    """Something wrong with one plugin: ``plugin`` as a person should see it, and what is wrong."""

    plugin: str
    message: str

    def __str__(self) -> str:
        return f"plugin {self.plugin}: {self.message}"


@dataclass(frozen=True)
class PluginInfo:
    """One plugin as ``polyllama plugins`` lists it.

    Attributes:
        name: its entry point's name, or the name it was registered with.
        distribution, version: the package it came from; empty for one registered at run time.
        origin: the entry point's value, such as "my_plugin.hooks".
        state: "ok"; "problem" (loaded, but something it offers does not work); "failed" (not loaded); "blocked".
        offers: names by kind ("backend", "task", ...).
        problems: what is wrong, one sentence each.
        reason: why it is in that state; empty when ok.
    """

    name: str
    distribution: str
    version: str
    origin: str
    state: str
    offers: Mapping[str, tuple[str, ...]]
    problems: tuple[str, ...]
    reason: str


@dataclass
class Record:
    """What is known about one plugin while plugins are being loaded."""

    name: str
    distribution: str = ""
    version: str = ""
    origin: str = ""
    blocked: str = ""
    failed: bool = False
    problems: list[str] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)
    offers: dict[str, list[Descriptor]] = field(default_factory=dict)

    @property
    def package(self) -> str:
        return " ".join(filter(None, (self.distribution, self.version)))

    @property
    def label(self) -> str:
        return f"{self.name!r} ({self.package})" if self.package else repr(self.name)

    def info(self) -> PluginInfo:
        problems = (*self.problems, *self.clashes)
        state = "blocked" if self.blocked else "failed" if self.failed else "problem" if problems else "ok"
        offers = {kind: tuple(offer.name for offer in found) for kind, found in self.offers.items()}
        return PluginInfo(
            self.name,
            self.distribution,
            self.version,
            self.origin,
            state,
            MappingProxyType(offers),
            problems,
            self.blocked or "; ".join(problems),
        )


CLASH_HINT = "block one of them with the setting plugins_block"


def describe_clash(kind: str, name: str, claims: Sequence[tuple[Record, Descriptor]]) -> str:
    labels = list(dict.fromkeys(record.label for record, _ in claims))
    if len(labels) == 1:
        return f"{kind} {name!r} is offered {len(claims)} times by plugin {labels[0]}"
    return f"{kind} {name!r} is claimed by {len(labels)} plugins: {' and '.join(labels)}"
