"""``pipeline`` as programs written from the reference documentation call it: what comes in, and what comes out."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from polyllama import (
    Llama,
    LlamaForCausalLM,
    LlamaTokenizer,
    PolyllamaError,
    PolyllamaWarning,
    pipeline,
)
from polyllama.core.errors import GenerationError, InputError
from prediction_models import labels, random_head

TEXTS = ["Lily went to the sea", "One day Tom and Nora saw a big old fox on a hill", "so they went on"]
FOLDERS: dict[str, Callable[[Path], Path]] = {
    "labels": lambda f: random_head(f, "ForSequenceClassification", **labels("sad", "glad", "calm", "wild")),
    "entities": lambda f: random_head(f, "ForTokenClassification", **labels("O", "B-PER", "I-PER")),
    "answers": lambda f: random_head(f, "ForQuestionAnswering"),
    "writer": lambda f: random_head(f, "ForCausalLM"),
    "bytes": lambda f: _byte_level(random_head(f, "ForCausalLM")),
}


def _byte_level(folder: Path) -> Path:
    """The folder with a byte-level tokenizer, as Llama 3 has one, in the place of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS * 5, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    state = json.loads(made.to_str())  # and tokens that no merge makes, so that every id of the model is one
    state["model"]["vocab"] |= {f"Ġx{number}": number for number in range(made.get_vocab_size(), 1792)}
    made = Tokenizer.from_str(json.dumps(state))
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, "eos_token_id": None, "bos_token_id": None}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base = tmp_path_factory.mktemp("documented-pipelines")

    def made(name: str) -> Path:
        return base / name if (base / name).exists() else FOLDERS[name](base / name)

    return made


@pytest.fixture(scope="module")
def ours(folder: Callable[[str], Path]) -> Any:
    return pipeline("text-generation", model=folder("writer"), backend="reference", max_new_tokens=5)


@pytest.fixture(scope="module")
def theirs(folder: Callable[[str], Path]) -> Callable[[str, str], Any]:
    import transformers

    transformers.logging.set_verbosity_error()
    made: dict[str, Any] = {}

    def of(task: str, name: str) -> Any:
        if name not in made:
            made[name] = transformers.pipeline(task, model=str(folder(name)), device="cpu")
        return made[name]

    return of


def texts_of(records: list[dict[str, Any]]) -> list[str]:
    return [record["generated_text"] for record in records]


class TestAgainstTransformers:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"return_full_text": False},
            {"return_tensors": True},
            {"prefix": "One day "},
            {"prefix": "One day ", "max_length": 20},
            {"clean_up_tokenization_spaces": True, "return_full_text": False},
            {"no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
        ],
        ids=str,
    )
    def test_texts_and_ids_are_theirs(self, folder: Any, theirs: Any, options: dict[str, Any]) -> None:
        limit = {} if "max_length" in options else {"max_new_tokens": 6}
        written = pipeline("text-generation", model=folder("bytes"), backend="reference")
        for prompts in (TEXTS[0], TEXTS):
            wanted = theirs("text-generation", "bytes")(prompts, do_sample=False, **limit, **options)
            assert written(prompts, **limit, **options) == wanted

    def test_a_stop_sequence_is_part_of_the_text(self, folder: Any, theirs: Any) -> None:
        written = pipeline("text-generation", model=folder("bytes"), backend="reference", max_new_tokens=12)
        whole = written(TEXTS[0], return_full_text=False)[0]["generated_text"]
        stop = whole[len(whole) // 2]
        found = written(TEXTS[0], stop_sequence=stop, return_full_text=False)
        assert found == theirs("text-generation", "bytes")(
            TEXTS[0], max_new_tokens=12, do_sample=False, stop_sequence=stop, return_full_text=False
        )
        assert stop in found[0]["generated_text"] and len(found[0]["generated_text"]) < len(whole)

    def test_a_long_prompt_is_cut_from_its_beginning(self, folder: Any, theirs: Any) -> None:
        written = pipeline("text-generation", model=folder("bytes"), backend="reference", max_new_tokens=6)
        oracle = theirs("text-generation", "bytes")
        context = written.llm.config.max_position_embeddings
        before, oracle.tokenizer.model_max_length = oracle.tokenizer.model_max_length, context
        long = " ".join(TEXTS) * (context // 10)
        wanted = oracle(long, max_new_tokens=6, do_sample=False, handle_long_generation="hole", return_tensors=True)
        oracle.tokenizer.model_max_length = before
        found = written(long, handle_long_generation="hole", return_tensors=True)
        assert found == wanted and len(found[0]["generated_token_ids"]) == context
        with pytest.raises(InputError, match="leave no room for a prompt in a context"):
            written(long, handle_long_generation="hole", max_new_tokens=context)

    def test_labels_of_a_generator_and_of_every_score(self, folder: Any, theirs: Any) -> None:
        made, oracle = (
            pipeline("text-classification", model=folder("labels"), backend="reference"),
            theirs("text-classification", "labels"),
        )
        found, wanted = list(made(text for text in TEXTS)), list(oracle(text for text in TEXTS))
        assert [one["label"] for one in found] == [one["label"] for one in wanted]
        assert [one["score"] for one in found] == pytest.approx([one["score"] for one in wanted], abs=1e-5)
        order = ["sad", "glad", "calm", "wild"]
        [every] = made(TEXTS[0], return_all_scores=True)
        assert [label["label"] for label in every] == order
        assert sorted(every, key=lambda label: -label["score"]) == made(TEXTS[0], top_k=None)
        rows = made(TEXTS, return_all_scores=True)
        assert rows[0] == every and [len(row) for row in rows] == [4, 4, 4]
        pair = {"text": TEXTS[0], "text_pair": TEXTS[2]}
        assert [label["label"] for label in made(pair, return_all_scores=True)] == order
        assert made(TEXTS[0], return_all_scores=False) == made(TEXTS[0])
        assert made(TEXTS, function_to_apply="SIGMOID") == made(TEXTS, function_to_apply="sigmoid")
        assert made(TEXTS, padding=True, truncation=True) == made(TEXTS)
        with pytest.raises(InputError, match="return_all_scores and top_k are both given"):
            made(TEXTS, return_all_scores=True, top_k=2)


class TestWhatComesIn:
    def test_a_generator_is_read_as_results_are_asked_for(self, ours: Any) -> None:
        read: list[int] = []

        def endless() -> Iterator[str]:
            for number in itertools.count():
                read.append(number)
                yield TEXTS[number % 3]

        results = ours(endless())
        assert not isinstance(results, list)
        assert next(results) == ours(TEXTS[0]) and read == [0]
        assert next(results) == ours(TEXTS[1]) and read == [0, 1]
        read.clear()
        pairs = ours(endless(), batch_size=2)
        assert next(pairs) == ours(TEXTS[0]) and read == [0, 1]
        assert next(pairs) == ours(TEXTS[1]) and read == [0, 1]

    def test_datasets_and_iterators(self, ours: Any, folder: Any) -> None:
        class Dataset:
            def __len__(self) -> int:
                return 3

            def __getitem__(self, number: int) -> str:
                return TEXTS[number]

        wanted = ours(TEXTS)
        for source in (Dataset(), iter(TEXTS), (text for text in TEXTS), map(str, TEXTS)):
            assert list(ours(source)) == wanted
        torch = pytest.importorskip("torch")

        class TorchDataset(torch.utils.data.Dataset):  # type: ignore[misc]
            def __len__(self) -> int:
                return 3

            def __getitem__(self, number: int) -> str:
                return TEXTS[number]

        assert list(ours(TorchDataset(), batch_size=2)) == wanted
        from transformers.pipelines.pt_utils import KeyDataset

        rows = [{"text": text} for text in TEXTS]
        assert list(ours(KeyDataset(rows, "text"))) == wanted
        questions = [{"question": "Who?", "context": TEXTS[1]}, {"question": "Where?", "context": TEXTS[0]}]
        made = pipeline("question-answering", model=folder("answers"), backend="reference")
        assert list(made(row for row in questions)) == made(questions)

    def test_what_is_wrong_with_a_stream_is_said_at_once(self, ours: Any) -> None:
        with pytest.raises(InputError, match="batch_size is 0"):
            ours((text for text in TEXTS), batch_size=0)
        with pytest.raises(InputError, match="num_workers is -1"):
            ours((text for text in TEXTS), num_workers=-1)
        assert list(ours(iter(()))) == []

    def test_conversations_message_by_message_and_one_by_one(self, folder: Any) -> None:
        template = "{% for m in messages %}{{ m.content }} {% endfor %}"
        made = pipeline(
            "text-generation", folder("writer"), backend="reference", max_new_tokens=3, chat_template=template
        )
        chat = [{"role": "user", "content": text} for text in TEXTS]
        wanted = made(chat)
        assert len(wanted[0]["generated_text"]) == 4
        assert made(message for message in chat) == wanted
        assert list(made(talk for talk in (chat, chat[:1]))) == [wanted, made(chat[:1])]
        [ids] = made(chat, return_tensors=True)
        assert ids["generated_token_ids"][:-3] == made.llm.chat_prompt(chat, chat_template=template)
        with pytest.raises(InputError, match="prefix is for texts, and this is a conversation"):
            made(chat, prefix="x")

    def test_names_of_the_input(self, ours: Any, folder: Any) -> None:
        assert ours(text_inputs=TEXTS[0]) == ours(TEXTS[0])
        with pytest.raises(InputError, match="text_inputs is given twice"):
            ours(TEXTS[0], text_inputs=TEXTS[0])
        made = pipeline("text-classification", model=folder("labels"), backend="reference")
        assert made(inputs=TEXTS) == made(TEXTS)

    def test_a_question_and_its_context(self, folder: Any) -> None:
        made = pipeline("question-answering", model=folder("answers"), backend="reference")
        wanted = made(question="Who went?", context=TEXTS[0])
        assert made("Who went?", TEXTS[0]) == wanted == made({"question": "Who went?", "context": TEXTS[0]})
        assert made(question="Who went?", context=TEXTS[:2]) == [wanted, made("Who went?", TEXTS[1])]
        with pytest.raises(InputError, match="takes one argument by position, 3 are given"):
            made("Who?", "a", "b")


class TestOptions:
    def test_generate_kwargs_and_defaults(self, ours: Any) -> None:
        assert ours(TEXTS[0], generate_kwargs={"max_new_tokens": 2}) == ours(TEXTS[0], max_new_tokens=2)
        with pytest.raises(InputError, match="max_new_tokens is given beside and in generate_kwargs"):
            ours(TEXTS[0], max_new_tokens=2, generate_kwargs={"max_new_tokens": 2})

    def test_what_a_call_says_of_its_record_stands(self, folder: Any) -> None:
        made = pipeline(
            "text-generation", folder("writer"), backend="reference", max_new_tokens=3, return_full_text=False
        )
        [short] = texts_of(made(TEXTS[0]))
        assert texts_of(made(TEXTS[0], return_text=True)) == [TEXTS[0] + short]
        assert list(made(TEXTS[0], return_tensors=True)[0]) == ["generated_token_ids"]
        for wrong in ({"return_text": True, "return_tensors": True}, {"return_full_text": True, "return_text": True}):
            with pytest.raises(InputError, match="exclude each other"):
                made(TEXTS[0], **wrong)
        with pytest.raises(InputError, match="return_text=False leaves nothing"):
            made(TEXTS[0], return_text=False)
        with pytest.raises(InputError, match="return_tensors is 'pt', wanted True or False"):
            made(TEXTS[0], return_tensors="pt")

    def test_special_tokens_and_encoding(self, ours: Any) -> None:
        ids = ours(TEXTS[0], return_tensors=True)[0]["generated_token_ids"]
        bare = ours(TEXTS[0], return_tensors=True, add_special_tokens=False)[0]["generated_token_ids"]
        assert ids[0] == ours.tokenizer.bos_token_id and bare[:3] == ids[1:4]
        encoded = {"add_special_tokens": False}
        assert ours(TEXTS, tokenizer_encode_kwargs=encoded) == ours(TEXTS, add_special_tokens=False)

    def test_a_padding_token_and_workers(self, ours: Any) -> None:
        assert ours(TEXTS, pad_token_id=ours.tokenizer.eos_token_id, num_workers=0) == ours(TEXTS)
        with pytest.raises(PolyllamaError, match="pad_token_id"):
            ours(TEXTS, pad_token_id=10**6)
        with pytest.warns(PolyllamaWarning, match="num_workers=4 starts no processes"):
            assert ours(TEXTS, num_workers=4) == ours(TEXTS)

    def test_misspelt_options(self, ours: Any) -> None:
        with pytest.raises(GenerationError, match="did you mean 'max_new_tokens'"):
            ours(TEXTS[0], max_new_token=3)
        with pytest.raises(InputError, match="handle_long_generation is 'cut', wanted 'hole'"):
            ours(TEXTS[0], handle_long_generation="cut")


class TestLoading:
    def test_a_loaded_model_and_a_loaded_tokenizer(self, folder: Any, ours: Any) -> None:
        model = LlamaForCausalLM.from_pretrained(folder("writer"), backend="reference")
        tokenizer = LlamaTokenizer.from_pretrained(folder("writer"))
        made = pipeline("text-generation", model=model, tokenizer=tokenizer, max_new_tokens=5)
        assert made.model is model and made.tokenizer is tokenizer
        assert made(TEXTS[0]) == ours(TEXTS[0])
        by_path = pipeline("text-generation", model=str(folder("writer")), tokenizer=str(folder("writer")))
        assert by_path(TEXTS[0], max_new_tokens=5) == ours(TEXTS[0])

    def test_another_tokenizer_is_the_pipelines_alone(self, folder: Any) -> None:
        model = Llama.load(folder("writer"), backend="reference")
        own = model.tokenizer
        other = LlamaTokenizer.from_pretrained(folder("writer"), add_bos_token=False)
        made = pipeline("text-generation", model=model, tokenizer=other, max_new_tokens=3, return_tensors=True)
        assert made(TEXTS[0])[0]["generated_token_ids"][:2] == own.encode(TEXTS[0])[1:3]
        assert model.tokenizer is own and made.llm.tokenizer is other

    def test_a_model_that_holds_a_llama(self, folder: Any, ours: Any) -> None:
        class Module:
            def __init__(self, llama: Llama) -> None:
                self.llama = llama

        module = Module(Llama.load(folder("writer"), backend="reference"))
        made = pipeline("text-generation", model=module, max_new_tokens=5)
        assert made.model is module and made(TEXTS[0]) == ours(TEXTS[0])
        with pytest.raises(InputError, match=r"model is a builtins.object; give a name, a folder, or a model"):
            pipeline("text-generation", model=object())

    @pytest.mark.parametrize(
        "options",
        [
            {"device_map": "auto"},
            {"device_map": {"": "cpu"}},
            {"device": -1},
            {"model_kwargs": {"dtype": "float32"}},
            {"dtype": "float32", "framework": "pt", "backend": None},
            {"model_kwargs": {"torch_dtype": "float32", "use_cache": True}, "use_fast": True},
        ],
        ids=str,
    )
    def test_documented_options_of_loading(self, folder: Any, ours: Any, options: dict[str, Any]) -> None:
        given = {"backend": "reference", **options}
        made = pipeline("text-generation", model=folder("writer"), max_new_tokens=5, **given)
        assert made(TEXTS[0]) == ours(TEXTS[0])
        if "framework" in options:
            import torch

            assert (made.framework, made.device, made.dtype) == ("pt", torch.device("cpu"), torch.float32)

    def test_devices_of_a_model_that_is_loaded(self, folder: Any) -> None:
        model = Llama.load(folder("writer"), backend="reference")
        for same in ({"device": "cpu"}, {"device": -1}, {"device_map": "auto"}, {"backend": "reference"}):
            assert pipeline("text-generation", model=model, **same).device == "cpu"
        for same in ({"dtype": "auto"}, {"dtype": model.dtype}, {"trust_remote_code": False}, {"revision": None}):
            assert pipeline("text-generation", model=model, **same).defaults == {}
        for wrong in ({"dtype": "float16"}, {"model_kwargs": {"quantize": "int4"}}):
            with pytest.raises(InputError, match="is for a model that is yet to be loaded; leave it out"):
                pipeline("text-generation", model=model, **wrong)
        for other in ({"device": 0}, {"device_map": "cuda"}, {"backend": "torch"}):
            with pytest.raises(InputError, match="this one runs on reference on cpu"):
                pipeline("text-generation", model=model, **other)

    def test_the_task_is_named_as_documented(self, folder: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PolyllamaWarning)
            names = {
                None: "text-classification",
                "sentiment-analysis": "sentiment-analysis",
                "text-classification": "text-classification",
            }
            for asked, name in names.items():
                assert pipeline(asked, model=folder("labels"), backend="reference").task == name


@pytest.mark.parametrize("task", [None, "text-classification"])
def test_where_the_model_is_is_asked_for_with_and_without_a_task(
    task: str | None, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "sub").symlink_to(folder("labels"))
    where: dict[str, Any] = {"subfolder": "sub", "local_files_only": True, "backend": "reference"}
    made = pipeline(task, model=tmp_path, cache_dir=tmp_path / "cache", token=False, **where)
    assert made.task == "text-classification" and made.llm.config.id2label[1] == "glad"
    with pytest.raises(PolyllamaError, match="subfolder='no': there is no"):
        pipeline(task, model=tmp_path, **{**where, "subfolder": "no"})


def test_what_a_model_is_for_is_looked_up_in_the_cache_that_is_named(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    repository = tmp_path / "cache" / "models--llamas--feelings"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("a" * 40)).symlink_to(folder("labels"))
    made = pipeline(model="llamas/feelings", cache_dir=tmp_path / "cache", local_files_only=True, backend="reference")
    assert made.task == "text-classification"
    with pytest.raises(PolyllamaError, match=r"llamas/feelings .*not in the cache"):
        pipeline(model="llamas/feelings", cache_dir=tmp_path / "other", local_files_only=True)
