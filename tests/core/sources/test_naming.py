"""By what a model may be named, wherever one is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polyllama
import pytest
from polyllama import AutoTokenizer, GenerationConfig, Llama, LlamaConfig, LlamaTokenizer
from polyllama.core.errors import InputError, PolyllamaError, RegistryError

TAKES_A_NAME: dict[str, Callable[[Any], Any]] = {
    f"{name}.from_pretrained": getattr(polyllama, name).from_pretrained
    for name in sorted(polyllama.__all__)
    if hasattr(getattr(polyllama, name), "from_pretrained")
} | {
    "Llama.load": Llama.load,
    "Llama.plan": Llama.plan,
    "pipeline": lambda source: polyllama.pipeline("text-generation", source),
    "pipeline without a task": lambda source: polyllama.pipeline(model=source),
    "pipeline's tokenizer": lambda source: polyllama.pipeline("text-generation", "tiny", tokenizer=source),
}


class Bytes:
    """A path of bytes, as ``os.scandir(b".")`` gives."""

    def __fspath__(self) -> bytes:
        return b"tiny"


@pytest.mark.parametrize("call", TAKES_A_NAME.values(), ids=TAKES_A_NAME)
def test_what_names_no_model_is_an_error_of_one_line(call: Callable[[Any], Any], tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no model")
    for source in (
        *(None, 5, 1.5, True, b"", b"tiny", [], ["tiny"], {}, object(), Bytes()),
        *("", " ", "a\0b", "\ud800", "x" * 5000, "~nobody-of-that-name/x", text, str(text)),
    ):
        if source is None and call is TAKES_A_NAME["pipeline's tokenizer"]:
            continue  # which is the model's own
        with pytest.raises(PolyllamaError) as caught:
            call(source)
        assert "\n" not in str(caught.value), (source, str(caught.value))


def test_it_says_what_is_wanted() -> None:
    with pytest.raises(InputError, match="no model was named; give a name, a Hub repository or a folder"):
        AutoTokenizer.from_pretrained(None)  # type: ignore[arg-type]
    for call in (
        AutoTokenizer.from_pretrained,
        LlamaConfig.from_pretrained,
        GenerationConfig.from_pretrained,
        Llama.plan,
    ):
        with pytest.raises(InputError, match="a model is named by text or a path, not by a bytes"):
            call(b"tiny")  # type: ignore[arg-type]
        with pytest.raises(RegistryError, match="no model was named"):
            call("")


def test_files_here_have_no_revisions(tmp_path: Path) -> None:
    Llama.load("tiny", backend="reference").save(tmp_path)
    for call in (
        Llama.load,
        LlamaTokenizer.from_pretrained,
        AutoTokenizer.from_pretrained,
        LlamaConfig.from_pretrained,
    ):
        with pytest.raises(RegistryError, match=r"revision='v2' was asked of .* has no revisions"):
            call(tmp_path, revision="v2")
        call(tmp_path, revision="main")


@pytest.mark.parametrize("value", [5, b"", [], object(), 1.5, True])
def test_a_config_that_is_none(value: Any) -> None:
    with pytest.raises(InputError, match="config is a"):
        Llama.load("tiny", config=value)
    with pytest.raises(PolyllamaError, match="no checkpoint format"):
        Llama.load("tiny", load_format=value)


@pytest.mark.parametrize("value", [None, 5, b"x", "", [], object()])
def test_what_is_written_goes_to_a_path(value: Any, tmp_path: Path) -> None:
    tokenizer, config = AutoTokenizer.from_pretrained("tiny"), LlamaConfig()
    for call in (tokenizer.save_pretrained, tokenizer.save_vocabulary, config.save_pretrained, config.to_json_file,
                 LlamaConfig.from_json_file, GenerationConfig().save_pretrained):  # fmt: skip
        with pytest.raises(InputError, match=r"^(save_directory|json_file|json_file_path) is .*, wanted a path$"):
            call(value)
    with pytest.raises(PolyllamaError, match="give the path of a folder"):
        Llama.load("tiny", backend="reference").save(value)


@pytest.mark.parametrize("value", [None, 5, b"x", object()])
def test_what_is_no_dictionary(value: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained("tiny")
    for call in (LlamaConfig().update, LlamaConfig.from_dict, GenerationConfig.from_dict, tokenizer.add_special_tokens):
        with pytest.raises(PolyllamaError, match=r"takes a|takes tokens by role|must be a mapping") as caught:
            call(value)
        assert "\n" not in str(caught.value)
    with pytest.raises(PolyllamaError, match="add_tokens takes a token or a list of them"):
        tokenizer.add_tokens(value)
    for options in ({"content": 5}, {"content": "x", "lstrip": "y"}):
        with pytest.raises(PolyllamaError, match=r"content is text|lstrip of token 'x' must be true or false"):
            polyllama.AddedToken(**options)
