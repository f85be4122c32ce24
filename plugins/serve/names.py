"""The names of models in requests: ``tiny``, ``tiny@torch:cpu``, ``tiny:poet``; which of them are served."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ...core.http_interface import HttpError
from ...core.messages import did_you_mean, few, mention, visible

_BACKEND = re.compile(r"[a-z0-9][a-z0-9._-]*(:[a-z0-9][a-z0-9._:-]*)?")
_SHOWN = 80
"""Letters of a name that somebody sent in a message."""


@dataclass(frozen=True)
class Offer:
    """A model that is served: its name, and what is loaded for it (a registry name, a repository or a path).

    Attributes:
        adapters: names and folders of adapters that are loaded with it; ``name:adapter`` asks for one.
    """

    name: str
    source: str
    adapters: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> list[str]:
        """The names under which it is served: its own, and one for each adapter.

        >>> Offer("tiny", "tiny", (("poems", "./poems"),)).names
        ['tiny', 'tiny:poems']
        """
        return [self.name, *(f"{self.name}:{adapter}" for adapter, _ in self.adapters)]


@dataclass(frozen=True)
class Key:
    """What is loaded as one: a model on a backend with a head.

    >>> Key(Offer("tiny", "tiny"), backend="torch", task="embedding").text
    'tiny@torch#embedding'
    """

    offer: Offer
    backend: str | None = None
    task: str | None = None

    @property
    def text(self) -> str:
        """As the log and the metrics name it."""
        backend = f"@{self.backend}" if self.backend else ""
        return f"{self.offer.name}{backend}" + (f"#{self.task}" if self.task else "")


def read_offers(models: Sequence[str]) -> dict[str, Offer]:
    """The models of the command line by the names under which they are served: ``NAME=MODEL``, or ``MODEL`` alone.

    A path is served under its last part.

    Raises:
        InputError: a name that is none, or two models of one name.

    >>> [offer.name for offer in read_offers(["tiny", "poet=./my-model", "./folder/chat"]).values()]
    ['tiny', 'poet', 'chat']
    """
    found: dict[str, Offer] = {}
    for text in models:
        name, separator, source = text.partition("=")
        if not separator or "/" in name:  # a path may hold the sign
            name, source = text, text
        if not separator and (Path(source).exists() or source.startswith(("path:", ".", "~", "/"))):
            name = Path(source.removeprefix("path:")).expanduser().resolve().name
        if not name or not source or not name.isprintable():
            raise InputError(f"{text!r} names no model to serve", hint="write MODEL or NAME=MODEL")
        if name in found:
            raise InputError(f"two models would be served as {name!r}", hint="write NAME=MODEL for one of them")
        found[name] = Offer(name, source)
    return found


def with_adapters(offers: Mapping[str, Offer], adapters: Mapping[str, str]) -> dict[str, Offer]:
    """The models with adapters beside them.

    Args:
        adapters: ``ADAPTER``, or ``MODEL:ADAPTER`` where there are several models, and its folder.

    Raises:
        InputError: an adapter of no model, or a name that a request could not say.

    >>> made = with_adapters(read_offers(["tiny", "poet=./my-model"]), {"poet:rhymes": "./rhymes"})
    >>> made["tiny"].names, made["poet"].names
    (['tiny'], ['poet', 'poet:rhymes'])
    """
    found = dict(offers)
    for text, folder in adapters.items():
        model, separator, name = text.rpartition(":")
        if not separator and len(found) == 1:
            [model] = found
        if model not in found:
            why = f"of {model!r}, which is not served" if separator else "of which model is not said"
            raise InputError(
                mention("adapters", shown=text) + f" is an adapter {why}",
                hint=f"write MODEL:{name}=FOLDER, with MODEL one of {few(list(found)) or 'those that are named'}",
            )
        if not name or not name.isprintable() or "@" in name or name == "latest":
            raise InputError(f"{name!r} is no name of an adapter that a request could ask for")
        found[model] = replace(found[model], adapters=(*found[model].adapters, (name, folder)))
    return found


def check_offers(offers: Mapping[str, Offer]) -> None:
    """Refuse models that there are none of, before a server starts; the network is not asked.

    Raises:
        RegistryError: a name or path that is none (with the likely one).
    """
    from ...core.errors import RegistryError
    from ...core.sources.locate import interpret

    for offer in offers.values():
        found = interpret(offer.source)
        if found.kind == "path" and found.path is not None and not found.path.exists():
            raise RegistryError(f"there is no file or folder {offer.source!r}")
        for name, folder in offer.adapters:
            if not Path(folder).expanduser().is_dir():
                raise RegistryError(f"adapter {name!r} of {offer.name!r}: there is no folder {folder!r}")


class Names:
    """Which names are served.

    Args:
        offers: those of the command line.
        any_name: every name of a registry too.
    """

    def __init__(self, offers: Mapping[str, Offer], *, any_name: bool) -> None:
        self.offers = dict(offers)
        self._any = any_name

    @property
    def first(self) -> Offer | None:
        """What a request gets that names no model."""
        return next(iter(self.offers.values()), None)

    def find(self, name: str | None, task: str | None = None) -> tuple[Key, str | None]:
        """What a request's name means: what is loaded for it, and the name of its adapter.

        Raises:
            HttpError: nothing that is served (404).
        """
        if name is None:
            if self.first is None:
                raise HttpError("the request names no model", param="model", hint="give one of `GET /v1/models`")
            return Key(self.first, task=task), None
        offer = self._offer(name)
        if offer is not None:
            return Key(offer, task=task), None
        for place in sorted((i for i, sign in enumerate(name) if sign in "@:"), reverse=True):
            offer = self._offer(name[:place])
            if offer is not None:
                return self._with(offer, name[place:], name, task)
        raise self._unknown(name)

    def _with(self, offer: Offer, rest: str, name: str, task: str | None) -> tuple[Key, str | None]:
        adapter, separator, backend = rest.partition("@")
        adapter = adapter.removeprefix(":")
        known = [own for own, _ in offer.adapters]
        if (adapter or rest.startswith(":")) and adapter not in known:
            shown = visible(adapter[:_SHOWN], in_line=True)
            text = f"the model {offer.name!r} has no adapter {shown!r}"
            hint = did_you_mean(adapter, known, f"there are {few(known)}") if known else None
            raise HttpError(text, status=404, kind="model_not_found", param="model", hint=hint)
        if not separator:
            return Key(offer, task=task), adapter
        if not _BACKEND.fullmatch(backend) or backend.partition(":")[0] not in _backends():
            text = f"the model {name[:_SHOWN]!r} names a backend that there is none of"
            hint = f"there are {', '.join(_backends())}"
            raise HttpError(text, status=404, kind="model_not_found", param="model", hint=hint)
        return Key(offer, backend, task), adapter or None

    def _offer(self, name: str) -> Offer | None:
        """The model of exactly this name. What a client sends is looked up, and never taken for a path."""
        if name in self.offers:
            return self.offers[name]
        entry = self._registered(name) if self._any else None
        if entry is None:
            return None
        return self.offers.setdefault(entry.name, Offer(entry.name, f"registry:{entry.name}"))

    @staticmethod
    def _registered(name: str) -> Any:
        from ...core.errors import RegistryError
        from ...core.sources.registry import load_registry

        try:
            return load_registry().get(name)
        except RegistryError:  # two plugins claim it
            return None

    def _unknown(self, name: str) -> HttpError:
        known = list(self.offers)
        if self._any:
            from ...core.sources.registry import load_registry

            known = [*known, *(other for other in load_registry().names() if other not in self.offers)]
        hint = did_you_mean(name, known, f"there are {few(known)}")
        shown = visible(name[:_SHOWN], in_line=True)
        return HttpError(
            f"there is no model {shown!r} here", status=404, kind="model_not_found", param="model", hint=hint
        )


def _backends() -> list[str]:
    from ...core.plugin_system.manager import plugin_manager

    return list(plugin_manager().backends())
