"""What transformers' configurations offer beside their fields, for programs and libraries that ask for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..errors import ConfigError
from ..sources.naming import path_given
from .files import read_json_object, write_json

if TYPE_CHECKING:
    from .fields import ConfigFields

_WRITTEN_IF_SET = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}
"""Flags that transformers writes into a file only where they are not as usual."""


class DocumentedConfig:
    """Names of transformers' ``PretrainedConfig``; a base of :class:`polyllama.LlamaConfig`."""

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {}
    is_composition: ClassVar[bool] = False
    sub_configs: ClassVar[dict[str, Any]] = {}

    if TYPE_CHECKING:
        _beside: dict[str, Any]

        def to_dict(self) -> dict[str, Any]: ...

        @classmethod
        def from_dict(cls, config_dict: Mapping[str, Any], **more: Any) -> Self: ...

    @property
    def name_or_path(self) -> str:
        """What the model was loaded by; empty for a configuration of its own."""
        return str(self._beside.get("_name_or_path") or "")

    def to_diff_dict(self) -> dict[str, Any]:
        """:meth:`to_dict` without the flags that are as usual: the content of a saved config.json."""
        return {
            name: value
            for name, value in self.to_dict().items()
            if name not in _WRITTEN_IF_SET or value != _WRITTEN_IF_SET[name]
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """The configuration as JSON text: :meth:`to_diff_dict`, or with ``use_diff=False`` :meth:`to_dict`."""
        content = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> Path:
        """Write :meth:`to_json_string` into a file, whose folder is made if need be."""
        target = path_given("json_file_path", json_file_path)
        return write_json(target.parent, target.name, self.to_diff_dict() if use_diff else self.to_dict())

    @classmethod
    def from_json_file(cls, json_file: str | Path) -> Self:
        """Read the configuration in a JSON file.

        Raises:
            ConfigError: no such file, or it holds no Llama's configuration; the message names it.
        """
        file = path_given("json_file", json_file)
        return cls.from_dict(read_json_object(file), source=file)

    def update(self: ConfigFields, config_dict: Mapping[str, Any]) -> None:  # type: ignore[misc]
        """Set several fields at once; see :meth:`polyllama.LlamaConfig.__setattr__`."""
        from .assigning import assign

        if not isinstance(config_dict, Mapping):
            raise ConfigError(f"update takes a mapping of fields, not {config_dict!r:.60}")
        assign(self, dict(config_dict))

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Self:
        """The configuration itself, as a Llama has one part only.

        Raises:
            ConfigError: an encoder alone is asked for.
        """
        if encoder and not decoder:
            raise ConfigError("a Llama is a decoder and has no encoder's config", hint="leave encoder out")
        return self

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Send config.json to a repository of the Hub; see :meth:`polyllama.Llama.push_to_hub`."""
        import tempfile

        from ..sources.upload import check_online, push_folder

        check_online(repo_id)
        with tempfile.TemporaryDirectory(prefix="polyllama-push-") as folder:
            write_json(Path(folder), "config.json", self.to_diff_dict())
            return push_folder(Path(folder), repo_id, **options)


ABSENT = {
    "is_encoder_decoder": False,
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "chunk_size_feed_forward": 0,
    "torchscript": False,
    "gradient_checkpointing": False,
    "transformers_version": None,
    "_attn_implementation": None,
    "_commit_hash": None,
    "_name_or_path": "",
    "sep_token_id": None,
    "decoder_start_token_id": None,
}
"""What a program may ask a configuration for and a Llama has not: the answer where nothing was said."""
