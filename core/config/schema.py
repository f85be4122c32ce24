"""``LlamaConfig``: the one description of a Llama, whichever dialect it was written in.

Hugging Face's ``config.json`` of transformers 4 and 5, Meta's ``params.json`` and MLX's configs are read into one
strict schema, whose fields are checked when they are read and when they are set; a built model's own copy refuses what
the model cannot follow. Both spellings of the rotary parameters are written back, so every reader finds the one it
knows. Each field remembers where its value came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from ..arguments import checked_methods
from ..public import public
from ..sources.naming import path_given
from .assigning import assign, remove
from .dialects import read_arguments
from .documented import ABSENT, DocumentedConfig
from .fields import ConfigFields, Owner
from .files import write_json
from .models_made import ModelsMade
from .pretrained import read_pretrained
from .reading import Source
from .rope import RopeParameters
from .writing import as_dict, as_expression

__all__ = ["LlamaConfig", "RopeParameters"]


@public
@checked_methods
class LlamaConfig(DocumentedConfig, ConfigFields):
    """A Llama's architecture. Fields have the names and defaults of transformers' LlamaConfig.

    Older spellings are accepted as keyword arguments too: ``rope_theta`` and ``rope_scaling``, ``torch_dtype``,
    ``num_labels``. Unknown keys are kept in ``extra``, readable as attributes and written back. Fields may be set, and
    are checked as :meth:`polyllama.LlamaConfig.replace` does; a built model's refuses what the model cannot follow.

    Attributes:
        vocab_size: rows of the embedding.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the MLP.
        num_hidden_layers: decoder layers.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads; divides the query heads; by default as many.
        head_dim: components of a head; by default ``hidden_size / num_attention_heads``.
        hidden_act: activation of the MLP (``core/graph/activations.py`` lists them).
        max_position_embeddings: context length in tokens.
        initializer_range: standard deviation of random weights.
        rms_norm_eps: added to the mean square before its root is taken.
        use_cache: whether generation keeps keys and values.
        output_hidden_states, output_attentions: what a forward pass gives without being asked.
        return_dict: whether a forward pass gives an object; a plain tuple where not.
        pad_token_id, bos_token_id: token ids or ``None``.
        eos_token_id: a token id, several, or ``None``.
        pretraining_tp: tensor parallelism at training time; the result is the same up to rounding.
        tie_word_embeddings: whether the output projection is the embedding.
        attention_bias, mlp_bias: whether those projections have biases.
        attention_dropout: probability, in training.
        dtype: element type of the stored weights, if stated.
        rope_parameters: see :class:`RopeParameters`.
        architectures: class names the weights were saved from.
        id2label, label2id: names of a classification head's outputs.
        problem_type: "regression", "single_label_classification", "multi_label_classification" or inferred (``None``).
        classifier_dropout, hidden_dropout: probabilities of a classification head, or ``None``.
        quantization: how the weights are quantized, as MLX writes it, or ``None``.
        extra: keys the schema does not know.

    Raises:
        ConfigError: everything that is wrong, in one message, each with field, value and remedy.

    >>> config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_theta=500000.0)
    >>> config.head_dim, config.num_key_value_heads, config.rope_parameters.rope_theta
    (16, 4, 500000.0)
    >>> config.provenance["head_dim"]
    'derived: hidden_size / num_attention_heads'
    """

    # ---- reading and writing

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], *, source: str | Path = "dict", **overrides: Any) -> Self:
        """Read a mapping in any dialect.

        Args:
            config_dict: the content of a config.json, params.json or MLX config.
            source: what to call it in errors and provenance; of a path, provenance keeps the file's name.
            overrides: fields that win over the mapping's, in any spelling.

        >>> config = LlamaConfig.from_dict({"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 99, "norm_eps": 1e-5})
        >>> config.hidden_size, config.provenance["hidden_size"]
        (64, 'dict: dim')
        """
        return cls.from_sources([(config_dict, Source.of(source))], **overrides)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        revision: str | None = None,
        offline: bool | None = None,
        **options: Any,
    ) -> Self:
        """Read the configuration of a checkpoint.

        Args:
            path: a folder with config.json or params.json, such a file, or a name that the registry or the Hub knows;
                ``pretrained_model_name_or_path`` is its documented name.
            revision: branch, tag or commit, for names on the Hub.
            offline: use only what is cached, for names on the Hub; ``local_files_only`` is the same.
            options: fields that win over the file's, in any spelling; ``cache_dir``, ``token`` and ``force_download``
                for the Hub; ``subfolder``, which holds the file.

        Raises:
            ConfigError: no such file, not a configuration, not a Llama, or wrong values; the message names the file.
        """
        config: Self = read_pretrained(cls, path, revision, offline, options)
        return config

    def to_dict(self) -> dict[str, Any]:
        """The content of a Hugging Face config.json, with the rotary parameters in both spellings.

        ``rope_theta`` and ``rope_scaling`` are read by transformers 4, MLX and most other tools, ``rope_parameters`` by
        transformers 5; the same goes for ``torch_dtype`` and ``dtype``.

        >>> written = LlamaConfig(rope_theta=500000.0).to_dict()
        >>> written["rope_theta"], written["rope_scaling"], written["rope_parameters"]
        (500000.0, None, {'rope_type': 'default', 'rope_theta': 500000.0})
        """
        return as_dict(self)

    def save_pretrained(self, save_directory: str | Path) -> Path:
        """Write config.json into a folder, made if need be, and return the file's path.

        Raises:
            ConfigError: the folder cannot be made or written to.
        """
        return write_json(path_given("save_directory", save_directory), "config.json", self.to_diff_dict())

    def owned(self, owner: Owner) -> Self:
        """A copy that belongs to a built model, which `owner` speaks for; the copy's own copies belong to nobody."""
        copy = self.model_copy(deep=True)
        copy._owner = owner
        return copy

    def __copy__(self) -> Self:
        copy = super().__copy__()
        copy._owner, copy._beside, copy._models = None, dict(self._beside), ModelsMade()
        return copy

    def describing(self, **facts: Any) -> Self:
        """A copy that says what was made of the model: its ``dtype``, ``architectures`` or ``quantization``.

        No other field depends on these, so nothing is read or derived again, as ``replace`` does.

        >>> LlamaConfig(hidden_size=64, num_attention_heads=4).describing(dtype="bfloat16").dtype
        'bfloat16'
        """
        unknown = facts.keys() - {"dtype", "architectures", "quantization"}
        if unknown:
            raise TypeError(f"{', '.join(sorted(unknown))}: other fields depend on it, so use replace")
        copy = super().model_copy(update=facts)
        copy._reading = self._reading.overlaid(read_arguments(facts, self._reading.where))
        copy._provenance = {**self._provenance, **dict.fromkeys(facts, "argument")}
        return copy

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """pydantic's copy, except that changes are checked as :meth:`polyllama.LlamaConfig.replace` does."""
        return self.replace(**update) if update else super().model_copy(deep=deep)

    # ---- derived

    @property
    def provenance(self) -> Mapping[str, str]:
        """Where each value came from: "default", "argument", "derived: ..." or "FILE: KEY".

        Rotary parameters are listed one by one as ``rope_parameters.NAME``, and unknown keys under their own names.
        """
        return MappingProxyType(self._provenance)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a text; empty where there is none."""
        if self.eos_token_id is None:
            return ()
        return tuple(self.eos_token_id) if isinstance(self.eos_token_id, list) else (self.eos_token_id,)

    @property
    def num_labels(self) -> int:
        """Outputs of a classification head."""
        return len(self.id2label)

    @property
    def rotary_dim(self) -> int:
        """Components of each head that are rotated."""
        return int(self.head_dim * self.rope_parameters.partial_rotary_factor)

    @property
    def rope_theta(self) -> float:
        """Base of the rotary frequencies."""
        return self.rope_parameters.rope_theta

    @property
    def rope_scaling(self) -> dict[str, Any] | None:
        """The rotary parameters as transformers 4 spells them."""
        return self.rope_parameters.scaling_dict()

    @property
    def partial_rotary_factor(self) -> float:
        """Share of each head that is rotated."""
        return self.rope_parameters.partial_rotary_factor

    @property
    def torch_dtype(self) -> str | None:
        """``dtype`` under its older name."""
        return self.dtype

    @property
    def use_return_dict(self) -> bool:
        """``return_dict`` under its older name."""
        return self.return_dict

    # ---- behaviour as a value

    def __eq__(self, other: object) -> bool:
        """Equal in every field; where the values came from does not matter."""
        if not isinstance(other, LlamaConfig):
            return NotImplemented
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        names = (n for n in type(self).model_fields if n not in ("extra", "id2label", "label2id", "architectures"))
        return hash(tuple(tuple(v) if isinstance(v := getattr(self, n), list) else v for n in names))

    def __repr__(self) -> str:
        """What is not at its default, as an expression that makes an equal config."""
        return as_expression(self, self._provenance)

    __str__ = __repr__

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field, checked; or any other attribute, which is kept in ``extra`` where JSON can hold it.

        Raises:
            ConfigError: a wrong value, or one that the built model of this config cannot follow.
        """
        if name in type(self).__private_attributes__:
            super().__setattr__(name, value)
        else:
            assign(self, {name: value})

    def __delattr__(self, name: str) -> None:
        """Take out a key that the schema does not know.

        Raises:
            ConfigError: it is a field, and every Llama has it.
        """
        if name in type(self).__private_attributes__:
            super().__delattr__(name)
        else:
            remove(self, name)

    if not TYPE_CHECKING:  # a type checker that saw this would take every misspelt field for an extra key

        def __getattr__(self, name: str) -> Any:
            extra = self.__dict__.get("extra")
            if extra and name in extra and name not in type(self).__private_attributes__:
                return extra[name]
            if name in type(self).__private_attributes__:
                return super().__getattr__(name)
            beside = (self.__pydantic_private__ or {}).get("_beside") or {}
            if name in beside or name in ABSENT:
                return beside.get(name, ABSENT.get(name))
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")
