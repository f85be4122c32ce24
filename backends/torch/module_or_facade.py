"""The type of the documented classes: what calling one gives, and what is an instance of one."""

from __future__ import annotations

import copyreg
from typing import TYPE_CHECKING, Any

from ...core.errors import UnsupportedError
from ...core.loading.load import asked_backend
from ...core.messages import mention
from .virtual_base import by_name, ours_of

if TYPE_CHECKING:
    from ...core.api.llama import Llama


class ModuleOrFacade(type):
    """The type of the documented classes: on another backend than torch, calling one gives the facade instead."""

    _facade: type[Llama]

    def __call__(cls, *args: Any, **options: Any) -> Any:
        if not torch_is_meant(options.get("backend")):
            return cls._facade_alone(options.get("backend"))(*args, **options)
        own: Any = ours_of(cls)
        return super().__call__(*args, **options) if own is cls else own(*args, **options)

    def __instancecheck__(cls, instance: Any) -> bool:
        """A model of another backend is one too, but none of a class that somebody derived."""
        return super().__instancecheck__(instance) or ("_facade" in vars(cls) and isinstance(instance, cls._facade))

    def __getattr__(cls, name: str) -> Any:
        """What the facade's class has: ``plan``."""
        if name.startswith("_") or not hasattr(cls._facade, name):
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
        return getattr(cls._facade, name)

    def _facade_alone(cls, backend: str | None) -> type[Llama]:
        own: Any = ours_of(cls)  # whichever of the two an object gave
        if "_facade" not in vars(own):
            raise UnsupportedError(
                f"{own.__name__} is a class of your own and a torch module, which no other backend runs",
                hint="load with " + mention("backend", "torch") + ", or by the class that it is derived from",
            )
        return own._facade  # type: ignore[no-any-return]


copyreg.pickle(ModuleOrFacade, by_name)


def torch_is_meant(backend: str | None) -> bool:
    """Whether torch runs a model for which nobody, or somebody, asked for `backend`."""
    asked = asked_backend(backend)
    return asked in (None, "torch")
