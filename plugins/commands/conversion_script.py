"""The arguments of transformers' conversion script for Meta's originals, as ``polyllama convert`` takes them.

``--input_dir IN --model_size 7B --output_dir OUT`` is ``IN/7B OUT --to hf`` (or ``IN OUT``, where the weights are in IN
itself). Underscores and hyphens are the same. What the script has and this command has not is refused with a reason.

Source: the Llama pages of transformers' documentation, and ``convert_llama_weights_to_hf.py`` of transformers 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ...cli.console import Decorated
from ...core.errors import InputError, UnsupportedError
from ...core.messages import counted, few

TOKENIZER_ONLY = "tokenizer_only"

CONTEXT_LENGTHS = {"1": 2048, "2": 4096, "3": 8192, "3.1": 131072, "3.2": 131072}
"""Context length of each version, as the script has them; params.json does not state it."""

SCALED_ROPE = {"3.1": 8.0, "3.2": 32.0}
"""Factor of the llama3 rotary embedding of a version, from the published config.json of its models."""

REFUSED = {
    "special_tokens": "the tokens are those of tokenizer.model; tokenizer.add_tokens(...) adds others afterwards",
    "instruct": "Meta's files hold neither chat template nor sampling defaults: copy tokenizer_config.json and "
    "generation_config.json of the model's repository on the Hub into the output folder",
    "push_to_hub": "`hf upload REPOSITORY FOLDER` uploads the folder that was written",
}
"""Arguments of the script that this command has not, and what to do."""


@dataclass(frozen=True)
class Script:
    """What the script was asked for.

    Attributes:
        source: the folder of the weights; of the tokenizer, where only that is wanted.
        destination: the folder to write.
        config: fields of the configuration that the version decides.
        tokenizer_only: write the tokenizer and no model.
    """

    source: str
    destination: str
    config: Mapping[str, Any]
    tokenizer_only: bool = False


class _Flag(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only, before click 8.2
    """``True`` or ``False``, as the script's users type them; nothing behind the option is ``True``."""

    name = "flag"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if isinstance(value, bool) or str(value).lower() not in known:
            return value if isinstance(value, bool) else self.fail(f"{value!r} is neither True nor False", param, ctx)
        return known[str(value).lower()]


def _option(name: str, **how: Any) -> Callable[[Decorated], Decorated]:
    """An option in both spellings."""
    spellings = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
    return click.option(*spellings, name, **how)


_FLAG: dict[str, Any] = {"type": _Flag(), "is_flag": False, "flag_value": "true", "metavar": "[True|False]"}
_OPTIONS = [
    _option("input_dir", type=click.Path(), metavar="DIR", help="Instead of SOURCE: holds MODEL_SIZE/, or weights."),
    _option("output_dir", type=click.Path(), metavar="DIR", help="Instead of DESTINATION."),
    _option("model_size", metavar="SIZE", help="The folder in --input-dir: 7B, 70B ...; or tokenizer_only."),
    _option("llama_version", type=click.Choice(list(CONTEXT_LENGTHS)), help="Decides the context length and RoPE."),
    _option("num_shards", type=click.IntRange(min=1), metavar="N", help="How many consolidated.NN.pth there are."),
    _option("safe_serialization", **_FLAG, help="Safetensors; there is nothing else."),
    _option("special_tokens", metavar="TOKENS", hidden=True),
    _option("instruct", **_FLAG, hidden=True),
    _option("push_to_hub", **_FLAG, hidden=True),
]
NAMES = (
    *("input_dir", "output_dir", "model_size", "llama_version", "num_shards", "safe_serialization"),
    *("special_tokens", "instruct", "push_to_hub"),
)


def script_options(command: Decorated) -> Decorated:
    """Add the script's arguments to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_script(source: str | None, destination: str | None, options: dict[str, Any]) -> Script | None:
    """Take the script's arguments out of `options`; ``None`` where SOURCE and DESTINATION are given as words.

    Raises:
        UsageError: an argument that is missing, or given in both ways.
        InputError: a folder without weights, or another number of files than is said.
        UnsupportedError: an argument that this command has not.
    """
    script = {name: options.pop(name) for name in NAMES}
    if all(value is None for value in script.values()):
        return None
    folder, out = script["input_dir"], script["output_dir"]
    if folder is None or out is None:
        given = next(name for name, value in script.items() if value is not None)
        missing = "input" if folder is None else "output"
        raise click.UsageError(f"--{given} goes with --{missing}_dir, which is not given.")
    if source is not None or destination is not None:
        raise click.UsageError("--input_dir and --output_dir stand for SOURCE and DESTINATION; give one of the two.")
    for name, instead in REFUSED.items():
        if script[name] not in (None, False):
            raise UnsupportedError(f"--{name} is an argument of transformers' script that is not here", hint=instead)
    if script["safe_serialization"] is False:
        raise UnsupportedError("--safe_serialization False would write a pickle", hint="leave it out")
    if script["model_size"] == TOKENIZER_ONLY:
        return Script(folder, out, {}, tokenizer_only=True)
    weights = _weights_in(Path(folder), script["model_size"])
    _check_shards(weights, script["num_shards"])
    return Script(str(weights), out, _config_of(weights, script["llama_version"]))


def _weights_in(folder: Path, size: str | None) -> Path:
    """The folder of the weights: the one of that size, or the whole folder, where they are in it."""
    if not folder.is_dir():
        raise InputError(f"--input_dir {folder}: there is no such folder")
    if size is not None and (folder / size / "params.json").is_file():
        return folder / size
    if (folder / "params.json").is_file():
        return folder
    inner = sorted(path.parent.name for path in folder.glob("*/params.json"))
    if size is None:
        hint = f"give --model_size: there is {few(inner)}" if inner else "is it what Meta's download made?"
        raise InputError(f"--input_dir {folder}: holds no params.json", hint=hint)
    hint = f"there is {few(inner)}" if inner else "the folder should hold params.json and consolidated.00.pth"
    raise InputError(f"--model_size {size}: neither {folder / size} nor {folder} holds a params.json", hint=hint)


def _check_shards(folder: Path, wanted: int | None) -> None:
    found = len(list(folder.glob("consolidated.*.pth")))
    if wanted is not None and wanted != found:
        raise InputError(
            f"--num_shards is {wanted}, and {folder} holds {counted(found, 'consolidated.NN.pth file')}",
            hint="leave it out; or the download is incomplete",
        )


def _config_of(folder: Path, version: str | None) -> dict[str, Any]:
    """The fields that a version of Llama decides, beside what params.json says."""
    if version is None:
        return {}
    from ...core.config.files import read_json_object
    from ...core.config.meta import LLAMA3_VOCABULARY

    params = read_json_object(folder / "params.json")
    theta = params.get("rope_theta")
    newer = params.get("use_scaled_rope") is True
    if (newer and version not in SCALED_ROPE) or (params.get("vocab_size") == LLAMA3_VOCABULARY and version < "3"):
        said = "use_scaled_rope" if newer else f"a vocabulary of {LLAMA3_VOCABULARY}"
        raise InputError(
            f"--llama_version is {version}, and {folder / 'params.json'} has {said}, as later versions have",
            hint="give 3.1 or 3.2" if newer else "give 3, 3.1 or 3.2",
        )
    if version < "3" and isinstance(theta, int | float) and theta > 10000:
        return {}  # Code Llama, whose context the reader knows by this
    found: dict[str, Any] = {"max_position_embeddings": CONTEXT_LENGTHS[version]}
    if version in SCALED_ROPE and params.get("rope_scaling_factor") is None:
        constants = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        rope = {"rope_type": "llama3", "factor": SCALED_ROPE[version], **constants}
        found["rope_parameters"] = rope | ({} if theta is None else {"rope_theta": float(theta)})
    return found


def write_tokenizer(script: Script) -> Path:
    """Write the tokenizer of the input folder, and nothing else, and return the folder."""
    from ...core.tokenizer.llama_tokenizer import load_tokenizer

    target = Path(script.destination).expanduser()
    load_tokenizer(script.source).save_pretrained(target)
    return target
