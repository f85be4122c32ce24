"""What is quantized and how: the ``quantization`` block of a config, and the short texts that ask for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..errors import ConfigError, UnsupportedError
from ..messages import counted, mention
from .affine import GROUP_SIZES, check_group_size
from .packing import BITS, check_bits

DEFAULT_GROUP = 64
_TEXT = re.compile(r"int(\d+)(?:-g(\d+))?")


class ModuleQuantization(BaseModel):
    """How one module is quantized: groups of `group_size` inputs, `bits` bits for each weight."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    group_size: int
    bits: int
    mode: Literal["affine"] = "affine"

    @field_validator("group_size")
    @classmethod
    def _known_group(cls, value: int) -> int:
        if value not in GROUP_SIZES:
            raise ValueError(f"must be {', '.join(map(str, GROUP_SIZES[:-1]))} or {GROUP_SIZES[-1]}")
        return value

    @field_validator("bits")
    @classmethod
    def _known_bits(cls, value: int) -> int:
        if value not in BITS:
            raise ValueError(f"must be {', '.join(map(str, BITS[:-1]))} or {BITS[-1]}")
        return value

    @property
    def bits_per_weight(self) -> float:
        """Bits that a weight takes, with its share of a scale and a bias of 16 bits each."""
        return self.bits + 32 / self.group_size

    def __str__(self) -> str:
        return f"int{self.bits}-g{self.group_size}"


class Quantization(ModuleQuantization):
    """How a model is quantized: for every module, but for those that ``modules`` sets apart by checkpoint path.

    >>> Quantization(group_size=64, bits=4, modules={"lm_head": None}).of("lm_head") is None
    True
    """

    modules: dict[str, ModuleQuantization | None] = Field(default_factory=dict)

    def of(self, name: str) -> ModuleQuantization | None:
        """How the module called `name` is quantized; ``None`` where it is not.

        A trunk is the same under any prefix, so ``"layers.0"`` finds what is said of ``"model.layers.0"``.
        """
        for spelling in spellings(name):
            if spelling in self.modules:
                return self.modules[spelling]
        return ModuleQuantization(group_size=self.group_size, bits=self.bits)

    def to_dict(self) -> dict[str, Any]:
        """As MLX writes it into config.json.

        >>> Quantization(group_size=64, bits=4, modules={"lm_head": None}).to_dict()
        {'group_size': 64, 'bits': 4, 'mode': 'affine', 'lm_head': False}
        """
        written: dict[str, Any] = {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}
        for name, module in self.modules.items():
            same = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode} if module else False
            written[name] = same
        return written

    def __hash__(self) -> int:
        return hash((self.group_size, self.bits, self.mode, tuple(sorted(self.modules))))

    def __str__(self) -> str:
        own = ModuleQuantization.__str__(self)
        return f"{own}, {counted(len(self.modules), 'module')} otherwise" if self.modules else own


def spellings(name: str) -> tuple[str, ...]:
    """The names a module may go by: its own, and with and without the trunk's usual prefix."""
    return (name, name.removeprefix("model.")) if name.startswith("model.") else (name, f"model.{name}")


def parse_quantize(text: Any, argument: str = "quantize") -> ModuleQuantization:
    """``"int4"``, ``"int8"`` (groups of 64), ``"int4-g32"`` and so on.

    Raises:
        UnsupportedError: anything else; says what there is.

    >>> str(parse_quantize("int4")), str(parse_quantize("int8-g128"))
    ('int4-g64', 'int8-g128')
    """
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if match:
        bits, group = int(match[1]), int(match[2] or DEFAULT_GROUP)
        if bits in BITS and group in GROUP_SIZES:
            return ModuleQuantization(group_size=group, bits=bits)
    known = "int4, int8 (also int2, int3, int5, int6), each with -g32, -g64 or -g128 for the group size"
    raise UnsupportedError(mention(argument, text) + " is not known", hint=f"use {known}; groups of 64 by default")


def checked_setting(bits: Any, group_size: Any) -> ModuleQuantization:
    """Bits and group size given one by one.

    Raises:
        UnsupportedError: one that the layout does not know.
    """
    check_bits(bits)
    check_group_size(group_size)
    return ModuleQuantization(group_size=group_size, bits=bits)


def asks_for_group(text: str) -> bool:
    """Whether a text names its group size, which is then not bent to what a module can be divided into."""
    return "-g" in text


def read_quantization(block: Any) -> Quantization:
    """A config's ``quantization`` (or MLX's ``quantization_config``).

    Raises:
        ConfigError: another method, unknown bits or groups, or anything else that is not of MLX's shape; the message
            is without the file, which the caller knows.
    """
    if isinstance(block, Quantization):
        return block
    if not isinstance(block, Mapping):
        raise ConfigError('must be an object such as {"group_size": 64, "bits": 4}')
    method = block.get("quant_method")
    if method is not None or "load_in_4bit" in block or "load_in_8bit" in block:
        raise ConfigError(
            f"the weights are quantized by {method or 'bitsandbytes'}, which is not read here",
            hint="use the unquantized edition, or one in MLX's layout",
        )
    mode = block.get("mode", "affine")
    if mode != "affine":
        raise ConfigError(f"mode {mode!r} is not read here", hint="only MLX's affine mode is")
    own = {key: block[key] for key in ("group_size", "bits") if key in block}
    modules = {
        key: None if value is False else value
        for key, value in block.items()
        if key not in ("group_size", "bits", "mode") and value is not True
    }
    strangers = [key for key, value in modules.items() if value is not None and not isinstance(value, Mapping)]
    if strangers:
        raise ConfigError(f"{strangers[0]!r} must be false, true or an object with group_size and bits")
    try:
        return Quantization(**own, modules=modules)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]).removeprefix("modules.")
        what = first["msg"].removeprefix("Value error, ")
        given = f"={first['input']!r}" if first["type"] != "missing" else ""
        raise ConfigError(f"{where}{given}: {what}") from None
