"""How a model generates where a call says nothing: its ``generation_config``; and the options of a call over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import checked_methods
from ..errors import GenerationError, warn
from ..messages import subject

if TYPE_CHECKING:
    from ..backend.protocol import Model
    from ..config.schema import LlamaConfig
    from ..generation.config import GenerationConfig
    from ..generation.defaults import GenerationDefaults
    from ..generation.options import GenerationOptions
    from ..loading.load import Loaded
    from ..tokenizer.tokenizer import Tokenizer


_KEPT = ("_generation_config", "_generation_begun", "_generation_source", "_generation_file", "_config_then")

_IDS = ("eos_token_id", "bos_token_id", "pad_token_id")
"""Fields that a model's config and its generation config both have, and that decide what is generated."""


@checked_methods
class GenerationSettings:
    """The part of :class:`~polyllama.Llama` that knows how it generates."""

    _loaded: Loaded
    _generation_config: GenerationConfig | None = None
    _generation_begun: Mapping[str, Any] | None = None
    _generation_source = ""
    _generation_file: Path | None = None
    _config_then: LlamaConfig | None = None
    _generation_read: tuple[Mapping[str, Any], GenerationDefaults] | None = None

    @staticmethod
    def _generation_kept(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Those of a facade's attributes that say how it generates, which copies of its model keep."""
        return {name: attributes[name] for name in _KEPT if name in attributes}

    if TYPE_CHECKING:

        @property
        def config(self) -> LlamaConfig: ...
        @property
        def model(self) -> Model: ...
        def _tokenizer_or_none(self) -> Tokenizer | None: ...
        def _encoded(self, text: str) -> list[int]: ...
        def _draft_model(self, given: Any) -> Model | None: ...

    @property
    def generation_config(self) -> GenerationConfig:
        """What calls do that say nothing else: of the checkpoint's ``generation_config.json``, else its config.

        It is what either said when the model was loaded: ``config.eos_token_id`` that is set later does not reach it.
        It can be changed, or set to another, and :meth:`~polyllama.Llama.save` writes it.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", backend="reference")
        >>> llm.generation_config.max_new_tokens = 3
        >>> len(llm.generate("Once").token_ids)
        3
        """
        if self._generation_config is None:
            from ..generation.config import GenerationConfig, read_file

            file = self._generation_file
            if file is not None:
                self._generation_config, self._generation_source = GenerationConfig(**read_file(file)), str(file)
            else:
                self._generation_config = GenerationConfig.from_model_config(self._config_then or self.config)
                self._generation_source = "the model's config"
            self._generation_begun = self._generation_config.to_diff_dict()
        return self._generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        from ..generation.config import GenerationConfig, as_generation_config

        self.generation_config  # noqa: B018 - what it was is what a save compares with
        read = as_generation_config(value)
        # An object of transformers' stays what it is: who changes it later changes how the model generates.
        foreign = not isinstance(value, GenerationConfig | Mapping)
        self._generation_config = value if foreign else read

    def _begin_generation(self) -> None:
        """Keep what the generation config is made of when somebody asks: what is said now, as the model is loaded."""
        from ..generation.config import FILE

        folder = self._loaded.folder
        file = None if folder is None else folder / FILE
        self._generation_file = file if file is not None and file.is_file() else None
        self._config_then = copy(self.config)

    def _generation_now(self) -> GenerationConfig:
        """The generation config, read anew where it is an object of transformers'."""
        from ..generation.config import as_generation_config

        return as_generation_config(self.generation_config)

    def _changed_generation_config(self) -> GenerationConfig | None:
        """The model's own generation config where it is not as it was loaded."""
        if self._generation_config is None:
            return None
        config = self._generation_now()
        return config if config.to_diff_dict() != self._generation_begun else None

    def generation_options(self, **options: Any) -> GenerationOptions:
        """The options that ``generate`` runs with, given these: the checkpoint's defaults where they say nothing.

        Raises:
            GenerationError: an unknown option (with the likely one), a wrong value, a contradiction.
        """
        from ..generation.option_rules import CALL_ARGUMENTS

        read_here = ("generation_config", "assistant_model", "negative_prompt")
        beside = [name for name in CALL_ARGUMENTS if name not in read_here]
        return self._options({name: value for name, value in options.items() if name not in beside})

    def _options(self, options: Mapping[str, Any], *, documented: bool = False) -> GenerationOptions:
        """The options of a call, over those of its ``generation_config``, over the model's own."""
        from ..generation.config import as_generation_config
        from ..generation.defaults import GenerationDefaults
        from ..generation.options import GenerationOptions

        given = self._without_cache(options)
        assistant = given.pop("assistant_model", None)
        if (text := given.pop("negative_prompt", None)) is not None:
            given["negative_prompt_ids"] = self._negative_ids(text, given)
        defaults = self._model_defaults()
        if (config := given.pop("generation_config", None)) is not None:
            said = self._without_cache(as_generation_config(config).to_diff_dict())
            layer = GenerationDefaults.from_dict(said, source="generation_config", strict=True)
            defaults = layer.over(defaults)
        if given.get("seed") is None and self._loaded.settings.seed is not None:
            given["seed"] = self._loaded.settings.seed
        tokenizer = None if self.config.eos_token_ids else self._tokenizer_or_none()
        resolved = GenerationOptions.resolve(
            given, defaults=defaults, config=self.config, tokenizer=tokenizer, documented=documented
        )
        self._say_unread(given, resolved, _IDS if documented else _IDS[:2])
        draft = self._draft_model(assistant)
        return resolved if draft is None else replace(resolved, draft=draft)

    def _negative_ids(self, text: Any, given: Mapping[str, Any]) -> list[list[int]]:
        """The ids of a second prompt that is given as text, or of several.

        Raises:
            GenerationError: it is none, or ids are given too.
        """
        if given.get("negative_prompt_ids") is not None:
            raise GenerationError("negative_prompt and negative_prompt_ids are given together", hint="give one of them")
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, list | tuple) or not texts or not all(isinstance(one, str) for one in texts):
            wanted = "wanted a text, or a list of one for each prompt; ids are negative_prompt_ids"
            raise GenerationError(subject("negative_prompt", text) + f" is {text!r:.60}", hint=wanted)
        return [self._encoded(one) for one in texts]

    def _without_cache(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments without a kind of cache that this model has, which asks for nothing then."""
        if arguments.get("cache_implementation") is None:
            return dict(arguments)
        from ..generation.arguments import warn_once
        from ..generation.cache_kinds import taken_by_model

        left, unused = taken_by_model(arguments, self.model)
        if unused:
            warn_once(
                f"cache_config: {', '.join(unused)} without effect: each key and value has a scale of its own", *unused
            )
        return left

    def _say_unread(self, given: Mapping[str, Any], resolved: GenerationOptions, names: Sequence[str]) -> None:
        """Say which ids were set in the model's config after it was loaded, and are others in what generates."""
        then = self._config_then
        if then is None or then is self.config:
            return
        for name in names:
            now = getattr(self.config, name)
            if (
                given.get(name) is None
                and now != getattr(then, name)
                and _listed(now) != _listed(getattr(resolved, name))
            ):
                held = getattr(self._generation_now(), name)
                warn(
                    f"config.{name}={now!r} was set after the model was loaded, and generation does not read it: "
                    f"generation_config.{name} is {held!r}; set model.generation_config.{name}"
                )

    def _model_defaults(self) -> GenerationDefaults:
        """The model's own generation config as defaults, read again when it has changed."""
        from ..generation.defaults import GenerationDefaults

        said = self._generation_now().to_diff_dict()
        if self._generation_read is None or self._generation_read[0] != said:
            as_loaded = said == self._generation_begun
            source = self._generation_source if as_loaded else "generation_config"
            self._generation_read = said, GenerationDefaults.from_dict(said, source=source)
        return self._generation_read[1]


def _listed(ids: Any) -> list[Any]:
    return [] if ids is None else list(ids) if isinstance(ids, list | tuple) else [ids]
