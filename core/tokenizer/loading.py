"""From a path or a name to what the tokenizer's constructor is given."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import warn
from ..messages import mention
from ..sources.access import HubAccess, local_only, refuse_revision
from ..sources.naming import as_path, exists
from .agreement import compare
from .behaviour import OF_FILES, SaidInFiles
from .checked_arguments import check_flags
from .engines.sentencepiece_model import SentencePieceModel
from .files import TokenizerFiles, read_bytes
from .make_engine import is_rank_file

_FLAGS = ("legacy", "add_prefix_space", "add_bos_token", "add_eos_token")
_SENTENCEPIECE_ONLY = ("legacy", "add_prefix_space", "sp_model_kwargs")


def constructor_arguments(path: Path, overrides: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Whether a folder, or a tokenizer file with what lies beside it, is of a SentencePiece model; and the arguments.

    Args:
        overrides: arguments that take the place of what the files say.

    Errors: TokenizerError that names the file: missing, damaged, contradicting another.
    """
    check_flags(**{name: overrides.get(name) for name in _FLAGS})
    files = TokenizerFiles.read(path)
    arguments: dict[str, Any] = files.arguments
    asks_for_clean_up = bool(arguments.pop("clean_up_tokenization_spaces", False))
    arguments[OF_FILES] = SaidInFiles(files.kept, asks_for_clean_up and "clean_up_tokenization_spaces" not in overrides)
    vocab_file = files.vocab_file
    if vocab_file is not None and not is_rank_file(content := read_bytes(vocab_file)):
        if files.tokenizer_file is not None:
            stated = {**arguments, **overrides}
            compare(SentencePieceModel.parse(content, str(vocab_file)), files.tokenizer_file, stated, arguments)
        return True, {"vocab_file": vocab_file, **arguments, **overrides}
    for name in _SENTENCEPIECE_ONLY:
        arguments.pop(name, None)  # what the file's own steps do is what it means
    arguments = {"add_bos_token": None, "add_eos_token": None, **arguments}  # as what the file puts around texts
    if files.tokenizer_file is not None:
        return False, {"tokenizer_file": files.tokenizer_file, **arguments, **overrides}
    return False, {"vocab_file": vocab_file, **arguments, **overrides}


def found_on_this_machine(
    path_or_name: str | PathLike[str], *, trust_remote_code: bool | None = None, **fetching: Any
) -> Path:
    """The folder or file of a tokenizer: a local path as it is, a name through the registry and the Hub.

    Args:
        trust_remote_code: no code of a checkpoint is run; asking for it is answered by a warning.
        fetching: arguments of ``resolve_checkpoint_folder``.
    """
    if trust_remote_code:
        warn(
            mention("trust_remote_code", True) + f": no code of {path_or_name} is run, its files are read as a Llama's",
            general=True,
        )
    path = as_path(path_or_name)
    if not exists(path) and isinstance(path_or_name, str) and not path_or_name.startswith((".", "/", "~")):
        from ..sources.locate import resolve_checkpoint_folder

        return Path(resolve_checkpoint_folder(path_or_name, files="tokenizer", **fetching))
    local_only(fetching.get("offline"), fetching.get("local_files_only"))
    refuse_revision(str(path_or_name), path, fetching.get("revision"))
    return HubAccess.taken_from(fetching).local(path)
