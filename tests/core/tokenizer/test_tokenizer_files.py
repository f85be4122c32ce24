"""Folders: what is chosen, what is kept, what is refused."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polyllama.core.errors import PolyllamaWarning, TokenizerError
from polyllama.core.tokenizer.llama_tokenizer import LlamaTokenizer, LlamaTokenizerFast, load_tokenizer
from polyllama.core.tokenizer.tokenizer import Tokenizer
from tokenizer_models import CHAT_TEMPLATE, Models, any_text

TEXTS = ["", " hello  world", "<s>hello</s> hello<pad>x", "def <PRE>\n\t🦙 日本 \x00", "don't <|eot_id|> 12345"]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("tokenizers"))


def same(first: Tokenizer, second: Tokenizer) -> None:
    """Both do the same, in every way a file can say."""
    for text in TEXTS:
        assert first(text, return_offsets_mapping=True) == second(text, return_offsets_mapping=True)
        ids = first.encode(text)
        assert first.decode(ids, clean_up_tokenization_spaces=False) == second.decode(
            ids, clean_up_tokenization_spaces=False
        )
    assert first.get_vocab() == second.get_vocab() and len(first) == len(second)
    assert first.special_tokens_map == second.special_tokens_map
    assert first.added_tokens_decoder == second.added_tokens_decoder
    for name in (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "chat_template",
        "add_bos_token",
        "add_eos_token",
        "spaces_between_special_tokens",
        "use_default_system_prompt",
        "split_special_tokens",
        "legacy",
        "add_prefix_space",
    ):
        assert getattr(first, name) == getattr(second, name), name


def test_a_model_alone_makes_both(models: Models) -> None:
    folder = models.checkpoint("alone")
    slow, fast = load_tokenizer(folder), load_tokenizer(folder, engine="tokenizers")
    assert type(slow) is LlamaTokenizer and type(fast) is LlamaTokenizerFast
    same(slow, fast)
    same(slow, LlamaTokenizer.from_pretrained(folder))
    same(slow, LlamaTokenizerFast.from_pretrained(str(folder)))
    same(slow, load_tokenizer(folder / "tokenizer.model"))
    assert load_tokenizer(models.llama3()).engine == "tokenizers"
    same(load_tokenizer(models.llama3()), LlamaTokenizer.from_pretrained(models.llama3()))
    with pytest.raises(TokenizerError, match="use LlamaTokenizerFast"):
        load_tokenizer(models.ranks()[0], engine="sentencepiece")
    with pytest.raises(TokenizerError, match="Llama 3 rank file"):
        LlamaTokenizer(models.ranks()[0])
    with pytest.raises(TokenizerError, match="engine='rust'"):
        load_tokenizer(folder, engine="rust")


RICH: dict[str, Any] = {
    "legacy": True,
    "add_bos_token": True,
    "add_eos_token": True,
    "model_max_length": 512,
    "padding_side": "right",
    "truncation_side": "left",
    "pad_token": "<pad>",
    "bos_token": {"content": "<s>", "lstrip": True},
    "additional_special_tokens": ["<a>"],
    "chat_template": CHAT_TEMPLATE,
    "use_default_system_prompt": True,
    "spaces_between_special_tokens": True,
    "something_else": {"kept": 1},
    "added_tokens_decoder": {
        "900": {"content": "<pad>", "special": True},
        "901": {"content": "<word>", "rstrip": True},
    },
}


@pytest.mark.parametrize("engine", ["sentencepiece", "tokenizers"])
@pytest.mark.parametrize(
    ("model", "config"), [("plain", {}), ("plain", RICH), ("symbols", {"legacy": False, "add_prefix_space": False})]
)
def test_saving_and_loading_changes_nothing(
    models: Models, tmp_path: Path, engine: str, model: str, config: Any
) -> None:
    first = load_tokenizer(models.checkpoint(f"rich_{model}_{len(config)}", model, **config), engine=engine)
    written = first.save_pretrained(tmp_path / "saved")
    assert sorted(written) == sorted(str(path) for path in (tmp_path / "saved").iterdir())
    same(first, load_tokenizer(tmp_path / "saved", engine=engine))
    if config is RICH:
        assert first.encode(" hello <s>x<word> y") == load_tokenizer(tmp_path / "saved").encode(" hello <s>x<word> y")
        assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["something_else"] == {"kept": 1}
        assert (first.pad_token_id, first.model_max_length, first.padding_side) == (900, 512, "right")


@pytest.mark.parametrize("changed", [False, True])
def test_saving_llama3_changes_nothing(models: Models, tmp_path: Path, changed: bool) -> None:
    for source in (models.llama3(), models.ranks()[0].parent):
        first = load_tokenizer(source)
        if changed:
            first.add_tokens(["<new>"])
            first.add_eos_token = True
        folder = tmp_path / source.name
        first.save_pretrained(folder)
        same(first, load_tokenizer(folder))
        (folder / "tokenizer.model").unlink(missing_ok=True)
        same(first, load_tokenizer(folder))  # from its tokenizer.json alone


def test_saved_files_are_read_by_transformers_and_tokenizers(models: Models, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from transformers import AutoTokenizer

    with pytest.warns(PolyllamaWarning, match="pad_token '<pad>' is not in the vocabulary; it becomes id 900"):
        fast = LlamaTokenizerFast(models.model("plain"), pad_token="<pad>", legacy=True)
    fast.save_pretrained(tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.pad_token_id, theirs.bos_token_id, len(theirs)) == (fast.pad_token_id, 1, len(fast))

    @settings(max_examples=150, deadline=None)
    @given(any_text)
    def check(text: str) -> None:
        assert backend.encode(text).ids == fast.encode(text)

    check()
    assert theirs.encode("hello world") == fast.encode("hello world")


def test_save_vocabulary_takes_a_prefix(models: Models, tmp_path: Path) -> None:
    (written,) = LlamaTokenizer(models.model("plain")).save_vocabulary(tmp_path, "en")
    assert written == str(tmp_path / "en-tokenizer.model")
    assert Path(written).read_bytes() == models.model("plain").read_bytes()
    with pytest.raises(TokenizerError, match="must not lead out"):
        LlamaTokenizer(models.model("plain")).save_vocabulary(tmp_path, "../x")
    with pytest.raises(TokenizerError, match="cannot be written"):
        LlamaTokenizer(models.model("plain")).save_vocabulary(written)


def test_older_files_are_read(models: Models, tmp_path: Path) -> None:
    folder = models.checkpoint("older", bos_token={"__type": "AddedToken", "content": "<s>", "lstrip": False})
    (folder / "special_tokens_map.json").write_text(
        '{"pad_token": {"content": "<pad>"}, "additional_special_tokens": ["<x>"]}'
    )
    (folder / "added_tokens.json").write_text('{"<pad>": 900, "<x>": 902, "<y>": 901}')
    (folder / "chat_template.json").write_text('{"chat_template": "old"}')
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids(["<y>", "<x>"]), len(tokenizer)) == (
        900,
        [901, 902],
        903,
    )
    assert tokenizer.all_special_ids == [1, 2, 0, 900, 902] and tokenizer.chat_template == "old"
    (folder / "chat_template.jinja").write_text("new")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert load_tokenizer(folder).chat_template == {"default": "new", "tool_use": "tools"}
    again = tmp_path / "again"
    load_tokenizer(folder).save_pretrained(again)
    same(load_tokenizer(again), load_tokenizer(folder))
    shutil.rmtree(folder)


def both_files(models: Models, folder: Path, written_legacy: bool, **config: Any) -> Path:
    LlamaTokenizerFast(models.model("plain"), legacy=written_legacy).save_vocabulary(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("legacy", [False, True])
def test_where_both_files_lie_together_legacy_is_the_files(models: Models, tmp_path: Path, legacy: bool) -> None:
    for engine in ("sentencepiece", "tokenizers"):
        tokenizer = load_tokenizer(both_files(models, tmp_path, legacy), engine=engine)
        assert tokenizer.legacy is legacy and tokenizer.engine == engine  # type: ignore[attr-defined]
    with pytest.warns(PolyllamaWarning, match=f"legacy={legacy}.*legacy={not legacy}"):
        assert load_tokenizer(both_files(models, tmp_path, legacy, legacy=not legacy)).legacy is not legacy  # type: ignore[attr-defined]


def test_files_that_contradict_each_other_are_refused(models: Models, tmp_path: Path) -> None:
    folder = both_files(models, tmp_path, False)
    shutil.copy(models.model("symbols"), folder / "tokenizer.model")
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json and .*tokenizer\.model hold different vocabularies.*remove"
    ):
        load_tokenizer(folder)
    shutil.copy(models.llama3() / "tokenizer.json", folder / "tokenizer.json")
    with pytest.raises(TokenizerError, match="different vocabularies"):
        load_tokenizer(folder)
    folder = models.checkpoint("contradict", added_tokens_decoder={"5": {"content": "<s>"}})
    with pytest.raises(TokenizerError, match="'<s>' is declared as id 5 but has the id 1"):
        load_tokenizer(folder)
    folder = models.checkpoint("contradict", added_tokens_decoder={"950": {"content": "<x>"}})
    (folder / "added_tokens.json").write_text('{"<y>": 950}')
    with pytest.raises(TokenizerError, match="id 950 to '<y>'"):
        load_tokenizer(folder)
    (folder / "added_tokens.json").unlink()
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<s>"}')
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.warns(PolyllamaWarning, match=r"special_tokens_map.json: eos_token is '<s>'; using that, not '</s>'"):
        assert load_tokenizer(folder).eos_token == "<s>"


def test_a_sentencepiece_like_tokenizer_json_is_run_as_it_is_written(models: Models, tmp_path: Path) -> None:
    for legacy in (False, True):
        path = LlamaTokenizerFast(models.model("plain"), legacy=legacy).save_vocabulary(tmp_path)[0]
        tokenizer = LlamaTokenizerFast(tokenizer_file=path)
        assert (tokenizer.legacy, tokenizer.add_prefix_space) == (legacy, True)
        assert tokenizer.encode("hello</s>hello") == LlamaTokenizerFast(models.model("plain"), legacy=legacy).encode(
            "hello</s>hello"
        )
        other = LlamaTokenizerFast(tokenizer_file=path, legacy=not legacy)
        assert other.tokenize("hello</s>hello")[2] == ("hello" if legacy else "▁hello")
        bare = LlamaTokenizerFast(tokenizer_file=path, add_prefix_space=False)
        assert bare.decode(bare.encode(" hello", add_special_tokens=False)) == " hello" and bare.tokenize("hello") == [
            "hello"
        ]
    with pytest.raises(TokenizerError, match="byte-level"):
        LlamaTokenizerFast(tokenizer_file=models.llama3() / "tokenizer.json", legacy=True)


def test_truncation_and_padding_baked_into_a_tokenizer_json_are_said_and_not_done(
    models: Models, tmp_path: Path
) -> None:
    content = json.loads((models.llama3() / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.warns(PolyllamaWarning, match=r"cut texts to 2 tokens.*truncation=True"):
        assert len(load_tokenizer(tmp_path).encode("hello world and more")) > 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", "{", "is not JSON"),
        ("tokenizer_config.json", "[]", "must hold a JSON object"),
        ("tokenizer_config.json", "[" * 100000, "is not JSON"),
        ("tokenizer_config.json", '{"a": ' + "9" * 10000 + "}", "is not JSON"),
        ("tokenizer_config.json", b"\xff\xfe", "is not UTF-8"),
        ("tokenizer_config.json", '{"legacy": "yes"}', "legacy must be true or false, got 'yes'"),
        ("tokenizer_config.json", '{"bos_token": 5}', "bos_token: a token must be a string"),
        ("tokenizer_config.json", '{"bos_token": {"lstrip": true}}', "no string 'content'"),
        ("tokenizer_config.json", '{"bos_token": {"content": "x", "lstrip": 1}}', "lstrip of token 'x'"),
        ("tokenizer_config.json", '{"bos_token": "\\ud800"}', "lone surrogate"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}', "whole number"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"99999999999": {"content": "<y>"}}}', "impossible id"),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}', "must be an object"),
        ("tokenizer_config.json", '{"additional_special_tokens": "x"}', "must be a list of tokens"),
        ("tokenizer_config.json", '{"model_max_length": -1}', "model_max_length must be a positive number"),
        ("tokenizer_config.json", '{"padding_side": 1}', "padding_side must be"),
        ("tokenizer_config.json", '{"padding_side": "up"}', "padding_side must be"),
        ("tokenizer_config.json", '{"chat_template": [1]}', "chat_template must be"),
        ("tokenizer_config.json", '{"sp_model_kwargs": {"add_bos": true}}', "sp_model_kwargs"),
        ("special_tokens_map.json", '{"eos_token": []}', "eos_token: a token must be"),
        ("added_tokens.json", '{"<x>": "y"}', "whole number"),
        ("chat_template.jinja", b"\xff", "is not UTF-8"),
        ("tokenizer.json", "{}", "tokenizer.json"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": []}}', "tokenizer.json"),
        ("tokenizer.model", b"", "is not a SentencePiece model"),
        (
            "tokenizer.model",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a Git LFS pointer",
        ),
        ("tokenizer.model", b"YQ== 0\nYg== 5\n", "expected rank 1"),
        ("tokenizer.model", b"YQ== 0\nYg==\n", "line 2"),
        ("tokenizer.model", b"YQ== 0\nYg== 1\n", "single bytes are missing"),
    ],
)
def test_wrong_files_are_errors_that_name_the_file(
    models: Models, tmp_path: Path, name: str, content: Any, message: str
) -> None:
    shutil.copy(models.model("plain"), tmp_path / "tokenizer.model")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value) or message == "sp_model_kwargs"
    assert "\n" not in str(caught.value)


def test_missing_and_huge_files(tmp_path: Path, models: Models) -> None:
    for path, message in ((tmp_path, "holds no tokenizer"), (tmp_path / "no", "does not exist")):
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(path)
    with pytest.raises(TokenizerError, match="is not a file"):
        LlamaTokenizer(tmp_path)
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate(1 << 40)  # sparse: only its size is large
    with pytest.raises(TokenizerError, match="has 1099511627776 bytes"):
        load_tokenizer(tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["cut", "flip", "junk"]), st.integers(0, 2**32))
@pytest.mark.filterwarnings("ignore:.*so LlamaTokenizerFast runs it by sentencepiece:polyllama.PolyllamaWarning")
def test_damaged_vocabularies_are_errors_or_still_whole(models: Models, tmp_path: Path, how: str, seed: int) -> None:
    chance = random.Random(seed)
    for source in (models.model("plain"), models.llama3() / "tokenizer.json", models.ranks()[0]):
        content = bytearray(source.read_bytes())
        if how == "cut":
            del content[chance.randrange(len(content)) :]
        elif how == "flip":
            for _ in range(chance.randint(1, 20)):
                content[chance.randrange(len(content))] = chance.randrange(256)
        else:
            content = bytearray(chance.randbytes(chance.randrange(200)))
        path = tmp_path / source.name
        path.write_bytes(content)
        for load in (
            LlamaTokenizer,
            LlamaTokenizerFast,
            lambda vocab_file: LlamaTokenizerFast(tokenizer_file=vocab_file),
        ):
            try:
                tokenizer = load(vocab_file=path)
                tokenizer.decode(tokenizer.encode("hello world"))
            except TokenizerError as error:
                assert "\n" not in str(error)


def test_no_file_is_left_half_written(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(TokenizerError, match="disk full"):
        LlamaTokenizer(models.model("plain")).save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
