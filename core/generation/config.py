"""``GenerationConfig``: what a program or a checkpoint's ``generation_config.json`` says of generation, to be changed.

It is a bag of attributes under their documented names, as transformers 5 has them: ``None`` where nothing is said, and
unknown ones kept. What of it acts, and how, is decided where a request is made (``options.py``).
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ..errors import GenerationError, UnsupportedError, refuse_lfs_pointer
from ..messages import mention, subject
from ..public import public
from ..sources.naming import as_path, exists, path_given

FILE = "generation_config.json"
_MAX_BYTES = 1 << 20

ATTRIBUTES = (
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "early_stopping", "max_time", "stop_strings",
    "do_sample", "num_beams", "use_mtp", "use_cache", "cache_implementation", "cache_config", "max_cache_len",
    "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "repetition_penalty", "encoder_repetition_penalty", "length_penalty", "no_repeat_ngram_size", "bad_words_ids",
    "renormalize_logits", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "token_healing",
    "guidance_scale", "watermarking_config", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "return_dict_in_generate", "pad_token_id", "bos_token_id", "eos_token_id",
    "encoder_no_repeat_ngram_size", "decoder_start_token_id", "is_assistant", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "prompt_lookup_num_tokens",
    "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind",
    "assistant_ensemble_weight", "speculation_type", "compile_config", "disable_compile",
    "continuous_batching_config", "low_memory", "penalty_alpha", "dola_layers", "diversity_penalty",
    "num_beam_groups", "constraints", "force_words_ids", "prefill_chunk_size",
)  # fmt: skip
"""The documented attributes; each is ``None`` unless something is said."""

_METADATA = ("_from_model_config", "transformers_version")
_OF_SAMPLING = {
    "temperature": (1.0,), "top_k": (50,), "top_p": (1.0,), "min_p": (), "typical_p": (1.0,), "top_h": (),
    "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,),
}  # fmt: skip
_OF_BEAMS = {"early_stopping": False, "length_penalty": 1.0}
_OUTPUTS = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")
_OF_CALLS = (
    "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "synced_gpus", "assistant_model", "streamer",
    "negative_prompt", "negative_prompt_ids", "negative_prompt_attention_mask",
)  # fmt: skip


@public
class GenerationConfig:
    """Options of generation as an object: ``generate(..., generation_config=GenerationConfig(max_new_tokens=8))``.

    Every documented attribute is there, ``None`` where it is not given; others are kept. ``llm.generation_config`` is
    the model's own: what is set there holds for every later call.

    Raises:
        GenerationError: a value that is wrong by itself, or an argument of ``generate`` that is no option.

    >>> config = GenerationConfig(max_new_tokens=8, do_sample=True)
    >>> config.top_k = 5
    >>> config.to_diff_dict()
    {'max_new_tokens': 8, 'do_sample': True, 'top_k': 5}
    """

    def __init__(self, **values: Any) -> None:
        from_model = values.pop("_from_model_config", None)
        version = values.pop("transformers_version", None)
        values.pop("_commit_hash", None)
        for name in ATTRIBUTES:
            setattr(self, name, values.pop(name, None))
        self._from_model_config = from_model
        self.transformers_version = version
        if not from_model:  # a model's configuration has fields of other kinds
            for name, value in values.items():
                if hasattr(type(self), name):
                    raise GenerationError(f"{name} is a method of GenerationConfig, and cannot be an option")
                setattr(self, name, value)
        self.validate()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this GenerationConfig has no attribute {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationConfig):
            return NotImplemented
        return self._said() == other._said()

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string(ignore_metadata=True)}"

    def _said(self) -> dict[str, Any]:
        return {name: value for name, value in self.to_dict().items() if name not in _METADATA and value is not None}

    # ---- from and to files and dictionaries

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str],
        config_file_name: str | os.PathLike[str] | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: Any = None,
        revision: str | None = None,
        subfolder: str = "",
        return_unused_kwargs: bool = False,
        **values: Any,
    ) -> Any:
        """Read the ``generation_config.json`` of a folder, a registry name or a Hub repository.

        Args:
            pretrained_model_name: as for ``Llama.load``.
            config_file_name: another name of the file.
            cache_dir, local_files_only, revision: where downloads are, whether only they count, which version.
            subfolder: where in it the file is.
            return_unused_kwargs: return the config and those `values` that are no attributes.
            values: attributes to set over the file's.

        Raises:
            GenerationError: there is no such file, or it is damaged.

        >>> GenerationConfig.from_pretrained("tiny", top_k=3).top_k
        3
        """
        if force_download or token not in (None, False):
            name = "force_download" if force_download else "token"
            raise UnsupportedError(
                mention(name) + " is not offered for a generation config", hint="`polyllama pull` downloads a model"
            )
        folder = as_path(pretrained_model_name)
        file = folder / subfolder / (config_file_name or FILE)
        if not (exists(folder) and file.is_file()):
            from ..settings.schema import load_settings
            from ..sources.locate import locate

            asked = {"offline": local_files_only or None, "cache_dir": cache_dir and Path(cache_dir)}
            settings = load_settings(**{name: value for name, value in asked.items() if value})
            version = None if revision == "main" else revision
            folder = locate(pretrained_model_name, revision=version, files="config", settings=settings).path
            file = (folder if folder.is_dir() else folder.parent) / subfolder / (config_file_name or FILE)
        if not file.is_file():
            raise GenerationError(
                f"{file.parent} has no {file.name}", hint="GenerationConfig.from_model_config makes one of its config"
            )
        return cls.from_dict(read_file(file), return_unused_kwargs=return_unused_kwargs, **values)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **values: Any) -> Any:
        """Make one of a dictionary, such as a file's content; `values` are set over it."""
        if not isinstance(config_dict, Mapping):
            raise GenerationError(f"from_dict takes a dictionary, not {config_dict!r:.60}")
        config = cls(**{**config_dict, **values})
        if not return_unused_kwargs:
            return config
        return config, {name: value for name, value in values.items() if name not in ATTRIBUTES}

    @classmethod
    def from_model_config(cls, model_config: Any) -> Self:
        """Make one of what a model's configuration says of generation: its ids, and what older files hold.

        Args:
            model_config: a configuration, ours or transformers', or its dictionary.
        """
        content = dict(model_config if isinstance(model_config, Mapping) else model_config.to_dict())
        found = cls(**{n: v for n, v in content.items() if v is not None} | {"_from_model_config": True})
        if any(getattr(found, name) for name in _OUTPUTS):
            vars(found)["return_dict_in_generate"] = True
        return found

    def to_dict(self) -> dict[str, Any]:
        """Every attribute, also those that say nothing."""
        return copy.deepcopy(vars(self))

    def to_diff_dict(self) -> dict[str, Any]:
        """The attributes that say something: what a file holds."""
        return {name: value for name, value in self.to_dict().items() if value is not None}

    def to_json_string(
        self, use_diff: bool = True, ignore_metadata: bool = False, keys_to_pop: Sequence[str] | None = None
    ) -> str:
        """The attributes as JSON: those that say something, or with ``use_diff=False`` all."""
        content = self.to_diff_dict() if use_diff else self.to_dict()
        left_out = {*(keys_to_pop or ()), *(_METADATA if ignore_metadata else ())}
        content = {str(name): _plain(value) for name, value in content.items() if name not in left_out}
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    def to_json_file(
        self, json_file_path: str | os.PathLike[str], use_diff: bool = True, keys_to_pop: Sequence[str] | None = None
    ) -> None:
        """Write :meth:`to_json_string` into a file."""
        Path(json_file_path).write_text(self.to_json_string(use_diff, keys_to_pop=keys_to_pop), encoding="utf-8")

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        config_file_name: str | os.PathLike[str] | None = None,
        push_to_hub: bool = False,
    ) -> None:
        """Write the file into a folder, which is made if need be; transformers reads it.

        Raises:
            GenerationError: options that do not go together, or the folder cannot be written.
        """
        if push_to_hub:
            raise UnsupportedError("push_to_hub is not offered for a generation config", hint="save the model and push")
        self.validate(strict=True)
        folder = path_given("save_directory", save_directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.to_json_file(folder / (config_file_name or FILE), keys_to_pop=["compile_config"])
        except OSError as error:
            raise GenerationError(f"{save_directory}: cannot save there ({error.strerror})") from error

    # ---- changing and checking

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: Any) -> dict[str, Any]:
        """Set those of `values` that are attributes, and return the others.

        Args:
            defaults_only: set only what says nothing so far.
            allow_custom_entries: take the others as new attributes.

        >>> config = GenerationConfig(top_k=5)
        >>> config.update(top_k=3, wibble=1), config.top_k
        ({'wibble': 1}, 3)
        """
        unused = {}
        for name, value in values.items():
            known = name in vars(self)
            kept = known and defaults_only and getattr(self, name) is not None
            if kept or (not known and not allow_custom_entries):
                unused[name] = value
            elif hasattr(type(self), name):
                raise GenerationError(f"{name} is a method of GenerationConfig, and cannot be an option")
            else:
                setattr(self, name, value)
        self.validate()
        return unused

    def validate(self, strict: bool = False) -> None:
        """Check what can be known without a model.

        Args:
            strict: an option that would have no effect beside the others is an error too.

        Raises:
            GenerationError: a wrong value; options that do not go together.
        """
        for name in _OF_CALLS:
            if name in vars(self):
                raise GenerationError(subject(name, vars(self)[name]) + " is an argument of generate, no option of it")
        if self.early_stopping not in (None, True, False, "never"):
            raise GenerationError(
                subject("early_stopping", self.early_stopping) + f" is {self.early_stopping!r:.40}",
                hint="wanted True, False or 'never'",
            )
        if isinstance(self.max_new_tokens, int) and self.max_new_tokens <= 0:
            raise GenerationError(
                subject("max_new_tokens", self.max_new_tokens) + f" is {self.max_new_tokens}",
                hint="wanted a whole number, 1 or more",
            )
        many = self.num_return_sequences or 1
        if isinstance(many, int) and many > 1 and not self.do_sample and self.num_beams in (None, 1):
            raise GenerationError(
                mention("num_return_sequences", many) + " without sampling would give the same text each time",
                hint="set do_sample=True or num_beams",
            )
        if isinstance(many, int) and isinstance(self.num_beams, int) and many > self.num_beams > 1:
            raise GenerationError(
                mention("num_return_sequences", many) + " is more than " + mention("num_beams", self.num_beams),
                hint="give " + mention("num_beams") + " at least as many",
            )
        unused = self.without_effect() if strict else []
        if unused:
            raise GenerationError(
                "this GenerationConfig has options without effect: " + ", ".join(unused),
                hint="set do_sample=True, num_beams or return_dict_in_generate=True, or leave them out",
            )

    def without_effect(self) -> list[str]:
        """What has no effect beside the other options, as ``name=value``: a temperature without ``do_sample`` ..."""
        found: list[str] = []
        if not self.do_sample:
            found += [
                n for n, off in _OF_SAMPLING.items() if getattr(self, n) is not None and getattr(self, n) not in off
            ]
        if self.num_beams in (None, 1):
            found += [n for n, off in _OF_BEAMS.items() if getattr(self, n) not in (None, off)]
        if not self.return_dict_in_generate:
            found += [n for n in _OUTPUTS if getattr(self, n)]
        return [f"{name}={getattr(self, name)!r:.40}" for name in found]


def as_generation_config(value: Any) -> GenerationConfig:
    """A ``generation_config`` as it was given: ours, transformers' own, or a dictionary.

    Raises:
        GenerationError: it is none of these.
    """
    if isinstance(value, GenerationConfig):
        return value
    if isinstance(value, Mapping):
        return GenerationConfig(**{str(name): content for name, content in value.items()})
    if type(value).__name__.endswith("GenerationConfig") and callable(getattr(value, "to_dict", None)):
        return GenerationConfig(**value.to_dict())
    raise GenerationError(
        subject("generation_config", value) + f" is {value!r:.60}", hint="wanted a GenerationConfig or a dictionary"
    )


def read_file(path: Path) -> dict[str, Any]:
    """The content of a ``generation_config.json``.

    Raises:
        GenerationError: the file is unreadable or not a JSON object.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise GenerationError(f"{path} is larger than 1 MiB", hint="it is not a generation config")
        content = path.read_bytes()
        refuse_lfs_pointer(content[:64], path, GenerationError)
        raw = json.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise GenerationError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise GenerationError(f"{path} is not valid JSON: {error}", hint="repair the file or delete it") from error
    if not isinstance(raw, dict):
        raise GenerationError(f"{path} holds a {type(raw).__name__}, wanted a JSON object")
    return raw


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value and all(isinstance(name, tuple) for name in value):  # sequence_bias, which JSON has as a list
            return [[_plain(name), _plain(item)] for name, item in value.items()]
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.to_dict() if callable(getattr(value, "to_dict", None)) else value
