"""The class of the reference documentation that finds out by a checkpoint's files which tokenizer it has."""

from __future__ import annotations

from typing import Any

from ..arguments import checked_methods
from ..errors import TokenizerError
from ..public import public
from .checked_arguments import check_flags
from .given_vocabulary import PathOrName
from .llama_tokenizer import OF_FETCHING, QUICK_TO_START, LlamaTokenizer, LlamaTokenizerFast
from .loading import constructor_arguments, found_on_this_machine


@public
@checked_methods
class AutoTokenizer:
    """The tokenizer of a checkpoint, by ``AutoTokenizer.from_pretrained``; there are none of this class itself.

    >>> AutoTokenizer.from_pretrained("tiny").encode("Once upon a time")
    [1, 701, 766, 260, 475]
    """

    def __init__(self, *given: Any, **options: Any) -> None:
        raise TokenizerError("AutoTokenizer is no tokenizer itself", hint="call AutoTokenizer.from_pretrained(name)")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: PathOrName, *, use_fast: bool = True, **options: Any
    ) -> LlamaTokenizer | LlamaTokenizerFast:
        """Load the tokenizer of a folder, of a tokenizer file, or of a checkpoint by its name.

        A SentencePiece model is run by sentencepiece, which starts at once; LlamaTokenizerFast itself first recovers
        the merges for tokenizers, a second's work. Here that is done where a `tokenizer.json` is saved.

        Args:
            pretrained_model_name_or_path: a path, a name of the registry, or the id of a Hub repository.
            use_fast: False for LlamaTokenizer, which saves no `tokenizer.json`; the ids are the same.
            options: those of ``LlamaTokenizer.from_pretrained``.

        Raises:
            TokenizerError: files that are missing, damaged or contradict each other; ``use_fast=False`` and no
                SentencePiece model.
        """
        check_flags(use_fast=use_fast)
        fetching = {name: options.pop(name) for name in OF_FETCHING if name in options}
        path = found_on_this_machine(pretrained_model_name_or_path, **fetching)
        has_model, arguments = constructor_arguments(path, options)
        if not use_fast and not has_model:
            raise TokenizerError(
                f"{pretrained_model_name_or_path} has no SentencePiece model, so there is no other tokenizer for it",
                hint="leave out use_fast=False",
            )
        arguments = {"name_or_path": str(pretrained_model_name_or_path), **arguments}
        return LlamaTokenizerFast(**{QUICK_TO_START: True, **arguments}) if use_fast else LlamaTokenizer(**arguments)
