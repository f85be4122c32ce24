"""What a model on the Hub holds, from its configuration and the headers of its safetensors files alone.

A header is the first part of a file, so it is asked for by an HTTP range (RFC 9110, section 14): some kilobytes of a
model of many gigabytes. The server is huggingface.co, or what ``HF_ENDPOINT`` names.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, DownloadError
from ..protocol import TensorInfo, parse_strict_json
from .reader import INDEX_NAME, SINGLE_NAME, aliases_in, is_plain_name
from .safetensors import MAX_HEADER_BYTES, check_spans, read_entry, read_metadata

FIRST_BYTES = 1 << 16
"""Asked for at first: holds the whole header of most files."""

MAX_JSON_BYTES = 64 << 20
TIMEOUT = 20.0


@dataclass(frozen=True)
class RemoteModel:
    """A model that has not been downloaded: its config.json, its tensors, and how many bytes it took to know.

    ``unlisted``, ``aliases`` and ``ignored`` are those of a checkpoint on this machine.
    """

    repo_id: str
    revision: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    received: int
    unlisted: Collection[str] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    ignored: Collection[str] = ()

    @property
    def model_type(self) -> str | None:
        """What config.json calls the architecture, if it says so."""
        value = self.config.get("model_type")
        return value if isinstance(value, str) else None


def read_remote(repo_id: str, revision: str | None = None) -> RemoteModel:
    """Configuration and tensors of a repository.

    Raises:
        DownloadError: it cannot be reached, is not given to this user, or has no safetensors files.
        CheckpointError: what it holds is damaged.
    """
    return _Reader(repo_id, revision or "main").read()


class _Reader:
    def __init__(self, repo_id: str, revision: str) -> None:
        self.repo_id, self.revision, self.received = repo_id, revision, 0
        self.endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"

    def read(self) -> RemoteModel:
        config = self._json("config.json")
        if config is None:
            raise DownloadError(f"{self.repo_id} ({self.revision}) has no config.json that this user may read")
        index = self._json(INDEX_NAME)
        files = [SINGLE_NAME] if index is None else _shards(index, Path(f"{self.repo_id}/{INDEX_NAME}"))
        tensors: dict[str, TensorInfo] = {}
        said: dict[str, str] = {}
        for name in files:
            found, metadata = self._header(name)
            tensors |= found
            said |= metadata
        placed = tensors if index is None else index["weight_map"]
        unlisted = [name for name in tensors if name not in placed]
        aliases = aliases_in(said, tensors)
        return RemoteModel(self.repo_id, self.revision, config, tensors, self.received, unlisted, aliases)

    def _json(self, name: str) -> dict[str, Any] | None:
        got = self._get(name, None)
        if got is None:
            return None
        found = parse_strict_json(got[0], Path(f"{self.repo_id}/{name}"), "file")
        if not isinstance(found, dict):
            raise CheckpointError(f"{self.repo_id}/{name}: is no JSON object")
        return found

    def _header(self, name: str) -> tuple[dict[str, TensorInfo], dict[str, str]]:
        """The tensors and the metadata of one file, checked as those of a local one are."""
        path = Path(f"{self.repo_id}/{name}")
        got = self._get(name, FIRST_BYTES)
        if got is None:
            raise DownloadError(
                f"{self.repo_id} ({self.revision}) has no {name}",
                hint="only safetensors files say what they hold without being downloaded",
            )
        data, size = got
        length = int.from_bytes(data[:8], "little") if len(data) >= 8 else MAX_HEADER_BYTES + 1
        if length > MAX_HEADER_BYTES or 8 + length > size:
            raise CheckpointError(f"{path}: is no safetensors file: its header would not fit into it")
        if 8 + length > len(data):
            more = self._get(name, 8 + length - len(data), start=len(data))
            data += more[0] if more is not None else b""
        header = parse_strict_json(data[8 : 8 + length], path, "header")
        if not isinstance(header, dict):
            raise CheckpointError(f"{path}: the header is no JSON object")
        metadata = read_metadata(header.pop("__metadata__", {}), path)
        entries = {tensor: read_entry(tensor, entry, path) for tensor, entry in header.items()}
        check_spans([(start, end, tensor) for tensor, (_, start, end) in entries.items()], size - 8 - length, path)
        return {tensor: info for tensor, (info, _, _) in entries.items()}, metadata

    def _get(self, name: str, count: int | None, start: int = 0) -> tuple[bytes, int] | None:
        """Bytes of a file and its whole size; ``None`` where there is no such file."""
        quoted = "/".join(urllib.parse.quote(part, safe="") for part in (self.revision, name))
        request = urllib.request.Request(f"{self.endpoint}/{self.repo_id}/resolve/{quoted}")
        request.add_header("User-Agent", "polyllama")
        token = _token()
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")  # storage elsewhere wants none
        if count is not None:
            request.add_header("Range", f"bytes={start}-{start + count - 1}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                if start and answer.status != 206:
                    raise DownloadError(f"{self.endpoint} does not give parts of files", hint="download the model")
                data: bytes = answer.read(MAX_JSON_BYTES if count is None else count)
                self.received += len(data)
                total = answer.headers.get("Content-Range", "").rpartition("/")[2]
                return data, int(total if total.isdigit() else answer.headers.get("Content-Length") or len(data))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            if error.code in (401, 403):
                raise DownloadError(
                    f"the Hub does not give {self.repo_id} to this user (HTTP {error.code})",
                    hint=f"accept its licence at {self.endpoint}/{self.repo_id}, then log in with `hf auth login`",
                ) from None
            raise DownloadError(f"the Hub answered HTTP {error.code} for {self.repo_id}", hint="try again") from None
        except (OSError, ValueError) as error:  # URLError and time-outs are OSErrors
            reason = getattr(error, "reason", None) or error
            raise DownloadError(
                f"{self.endpoint} cannot be reached for {self.repo_id} ({reason})",
                hint="check the network and the proxy (HTTPS_PROXY), or give the path of a local copy",
            ) from None


def _shards(index: Mapping[str, Any], path: Path) -> list[str]:
    placed = index.get("weight_map")
    names = sorted(set(placed.values())) if isinstance(placed, dict) and all(map(_is_text, placed.values())) else []
    strangers = [name for name in names if not is_plain_name(name)]
    if not names or strangers:
        raise CheckpointError(f"{path}: has no usable weight_map{f': it names {strangers[0]!r}' if strangers else ''}")
    return names


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _token() -> str | None:
    """The user's own, as huggingface_hub finds it."""
    from huggingface_hub import get_token

    found: str | None = get_token()
    return found
