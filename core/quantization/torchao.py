"""``TorchAoConfig``: torchao's words for weight-only quantization, read as polyllama's one packed layout.

The documents name torchao's types; what they ask for, groups of so many inputs in 4 or 8 bits, is what the layout of
:mod:`polyllama.core.quantization.affine` has, on every backend. Nothing of torchao is imported: its own config objects
are known by the names of their classes.

Source: torchao's ``quantization/quant_api.py`` and transformers' documentation of TorchAoConfig, versions 4 and 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..arguments import checked_methods
from ..errors import InputError, UnsupportedError, warn
from ..messages import counted, did_you_mean, few, mention
from ..public import public
from .affine import GROUP_SIZES
from .scheme import ModuleQuantization


@dataclass(frozen=True)
class _Kind:
    """One of torchao's types: its bits here, and the group size that it has without being asked."""

    bits: int
    group_size: int


_KINDS = {"int4_weight_only": _Kind(4, 128), "int8_weight_only": _Kind(8, 64)}

_CLASSES = {"Int4WeightOnlyConfig": "int4_weight_only", "Int8WeightOnlyConfig": "int8_weight_only"}

_NEAREST = {
    "int8_dynamic_activation_int8_weight": "int8_weight_only",
    "int8_dynamic_activation_int4_weight": "int4_weight_only",
    "int4_dynamic_activation_int4_weight": "int4_weight_only",
    "float8_weight_only": "int8_weight_only",
    "float8_dynamic_activation_float8_weight": "int8_weight_only",
    "float8_static_activation_float8_weight": "int8_weight_only",
    "autoquant": "int8_weight_only",
}

_LAYOUT = frozenset(
    {
        *("layout", "inner_k_tiles", "int4_packing_format", "int4_tile_packed_ntile", "packing_format", "version"),
        *("set_inductor_config", "preserve_zero", "zero_point_domain", "granularity"),
    }
)
"""How torchao stores and compiles; of no meaning in another layout."""


@public
@checked_methods
class TorchAoConfig:
    """Quantize the weights while loading, as torchao's config of that name asks.

    Args:
        quant_type: ``"int4_weight_only"`` (groups of 128 inputs) or ``"int8_weight_only"`` (groups of 64), or torchao's
            own ``Int4WeightOnlyConfig(...)`` or ``Int8WeightOnlyConfig()``.
        modules_to_not_convert: names of modules, or parts of names, that stay as they are, such as ``["down_proj"]``.
        include_input_output_embeddings: quantize the embedding and the head too; by default they stay as they are.
        untie_embedding_weights: not offered.
        options: ``group_size`` 32, 64 or 128. A module whose inputs it does not divide gets a smaller group, which a
            warning says.

    Raises:
        UnsupportedError: a type or group size that there is not here; names the nearest.

    >>> TorchAoConfig("int4_weight_only", group_size=128).quantize
    'int4-g128'
    """

    quant_method = "torchao"

    def __init__(
        self,
        quant_type: Any,
        modules_to_not_convert: Iterable[str] | None = None,
        include_input_output_embeddings: bool = False,
        untie_embedding_weights: bool = False,
        **options: Any,
    ) -> None:
        if untie_embedding_weights:
            raise UnsupportedError(
                mention("untie_embedding_weights", True) + " is not offered: a tied embedding is quantized once",
                hint="leave it out",
            )
        if isinstance(modules_to_not_convert, str):
            modules_to_not_convert = [modules_to_not_convert]
        self.quant_type = quant_type
        self.quant_type_kwargs = dict(options)
        self.modules_to_not_convert = None if modules_to_not_convert is None else list(modules_to_not_convert)
        self.include_input_output_embeddings = include_input_output_embeddings
        self.untie_embedding_weights = False
        self.how = _read(quant_type, options)

    @property
    def quantize(self) -> str:
        """What it is as ``quantize=`` of :meth:`polyllama.Llama.load`."""
        return f"int{self.how.bits}-g{self.how.group_size}"

    def keeps(self, name: str) -> bool:
        """Whether ``modules_to_not_convert`` leaves the module of this checkpoint path as it is."""
        dotted = f".{name}."
        return any(f".{kept}." in dotted for kept in self.modules_to_not_convert or ())

    def to_dict(self) -> dict[str, Any]:
        """As transformers writes it: version 4's form for a named type, version 5's for one of torchao's objects."""
        found: dict[str, Any] = {
            "quant_method": self.quant_method,
            "modules_to_not_convert": self.modules_to_not_convert,
            "include_input_output_embeddings": self.include_input_output_embeddings,
            "untie_embedding_weights": self.untie_embedding_weights,
        }
        if isinstance(self.quant_type, str):
            return found | {"quant_type": self.quant_type, "quant_type_kwargs": dict(self.quant_type_kwargs)}
        if isinstance(self.quant_type, Mapping):
            return found | {"quant_type": dict(self.quant_type)}
        data = {"group_size": self.how.group_size}
        return found | {"quant_type": {"default": {"_type": type(self.quant_type).__name__, "_data": data}}}

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict`, transformers 4 or transformers 5 wrote.

        >>> TorchAoConfig.from_dict({"quant_method": "torchao", "quant_type": "int8_weight_only"}).quantize
        'int8-g64'
        """
        fields = {name: value for name, value in written.items() if name != "quant_method"}
        options = fields.pop("quant_type_kwargs", None) or {}
        if "quant_type" not in fields:
            raise InputError("a torchao quantization config without quant_type", hint="such as 'int4_weight_only'")
        return cls(fields.pop("quant_type"), **{**options, **fields})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TorchAoConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.quant_type_kwargs.items())
        return f"TorchAoConfig({self.quant_type!r}{options})"


def _read(quant_type: Any, options: Mapping[str, Any]) -> ModuleQuantization:
    name, given = _named(quant_type)
    given = {**given, **options}
    kind = _KINDS.get(name)
    if kind is None:
        nearest = _NEAREST.get(name)
        likely = did_you_mean(name, _KINDS)
        known = f"use one of {', '.join(_KINDS)}"
        hint = f"the nearest is TorchAoConfig({nearest!r})" if nearest else f"{likely} {known}" if likely else known
        raise UnsupportedError(f"torchao's {name} is not offered here", hint=hint)
    group = given.pop("group_size", None)
    algorithm = given.pop("int4_choose_qparams_algorithm", None)
    if given.pop("use_hqq", False) or "hqq" in str(algorithm).lower():
        raise UnsupportedError("torchao's HQQ rounding is not offered here", hint="leave use_hqq out")
    unknown = [option for option in given if option not in _LAYOUT]
    if unknown:
        likely = did_you_mean(unknown[0], ["group_size"])
        raise InputError(f"TorchAoConfig has no option {unknown[0]!r} for {name}", hint=likely or "it takes group_size")
    if options and (idle := [option for option in options if option in _LAYOUT]):
        warn(f"{few(idle, 3)}: about torchao's layout, and of no meaning in polyllama's", general=True)
    size = kind.group_size if group is None else group
    if isinstance(size, bool) or size not in GROUP_SIZES:
        sizes = ", ".join(map(str, GROUP_SIZES))
        raise UnsupportedError(
            mention("group_size", group) + f": groups here have {sizes} inputs", hint=_nearest_size(group)
        )
    return ModuleQuantization(group_size=size, bits=kind.bits)


def _named(quant_type: Any) -> tuple[str, dict[str, Any]]:
    """The type's name as a text, and the options that an object or a saved form of one carries."""
    if isinstance(quant_type, str):
        return quant_type, {}
    if isinstance(quant_type, Mapping):
        inner = quant_type.get("default", quant_type)
        if not isinstance(inner, Mapping) or "_type" not in inner:
            raise InputError(f"quant_type is {quant_type!r:.80}", hint="give 'int4_weight_only' or 'int8_weight_only'")
        return _CLASSES.get(str(inner["_type"]), str(inner["_type"])), _carried(inner.get("_data") or {})
    kind = type(quant_type).__name__
    carried = {name: value for name, value in vars(quant_type).items()} if hasattr(quant_type, "__dict__") else {}
    return _CLASSES.get(kind, kind), _carried(carried)


def _carried(options: Mapping[str, Any]) -> dict[str, Any]:
    """What an object of torchao's says that has a meaning here; its other attributes are about its own layout."""
    known = ("group_size", "use_hqq", "int4_choose_qparams_algorithm")
    return {name: options[name] for name in known if name in options}


def _nearest_size(group: Any) -> str:
    if isinstance(group, bool) or not isinstance(group, int):
        return f"give one of {counted(len(GROUP_SIZES), 'size')}"
    return f"use {mention('group_size', min(GROUP_SIZES, key=lambda size: abs(size - group)))}"


def asked_for(config: Any) -> TorchAoConfig | str | None:
    """What a ``quantization_config`` of the documents asks for: for ``quantize=`` of ``Llama.load``.

    Args:
        config: a :class:`TorchAoConfig`, transformers' own, the dictionary of either, or MLX's block.

    Raises:
        UnsupportedError: another method of quantization, by its name, with what to give instead.

    >>> asked_for({"group_size": 32, "bits": 4})
    'int4-g32'
    """
    if config is None or isinstance(config, TorchAoConfig):
        return config
    kind = type(config).__name__
    if not isinstance(config, Mapping):
        if kind == "TorchAoConfig":  # transformers'; its to_dict would import torchao
            kept = getattr(config, "modules_to_not_convert", None)
            both = bool(getattr(config, "include_input_output_embeddings", False))
            return TorchAoConfig(config.quant_type, kept, both)
        if not callable(getattr(config, "to_dict", None)):
            raise InputError(f"quantization_config is a {kind}", hint="give TorchAoConfig('int4_weight_only')")
        written = config.to_dict()
    else:
        written, kind = config, "quantization_config"
    method = str(getattr(written.get("quant_method"), "value", written.get("quant_method") or ""))
    if method == "torchao":
        return TorchAoConfig.from_dict(written)
    if not method and {"group_size", "bits"} <= written.keys():
        return f"int{written['bits']}-g{written['group_size']}"
    four = written.get("load_in_4bit") or written.get("bits") == 4
    named = kind if kind != "quantization_config" else f"quantization_config of method {method or 'unknown'!r}"
    raise UnsupportedError(
        f"{named} is not offered: weights are quantized in one layout on every backend",
        hint="use " + mention("quantize", "int4" if four else "int8") + " or a TorchAoConfig",
    )
