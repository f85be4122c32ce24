"""``pipeline``: what transformers' own pipelines give for the same folder, wherever they are followed."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import Llama, PolyllamaError, PolyllamaWarning, pipeline
from polyllama.core.api.pipelines.base import Pipeline
from polyllama.core.api.pipelines.making import task_of
from polyllama.core.errors import BackendUnavailableError, GenerationError, InputError, PluginError, UnsupportedError
from polyllama.core.tasks.entities import STRATEGIES, ScoredTokens, find_entities
from prediction_models import labels, random_head, taught_head

TEXTS = [
    "Lily went to the sea",
    "One day Tom and Nora saw a big old fox on a hill",
    "so they went on and on and all was good",
    "Oslo is far",
]
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
MANY = labels("sad", "glad", "calm", "wild")
FOLDERS: dict[str, Callable[[Path], Path]] = {
    "one label": lambda f: random_head(f, "ForSequenceClassification", **MANY),
    "several labels": lambda f: random_head(
        f, "ForSequenceClassification", **MANY, problem_type="multi_label_classification"
    ),
    "value": lambda f: random_head(f, "ForSequenceClassification", num_labels=1, problem_type="regression"),
    "value unsaid": lambda f: random_head(f, "ForSequenceClassification", num_labels=1),
    "entities": lambda f: random_head(f, "ForTokenClassification", **labels(*TAGS)),
    "answers": lambda f: random_head(f, "ForQuestionAnswering"),
    "writer": lambda f: random_head(f, "ForCausalLM"),
    "trunk": lambda f: random_head(f, "Model"),
    "sea": lambda f: taught_head(f, "QuestionAnswering", {"▁Nora": [9, 0], "▁sea": [0, 9]}),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base = tmp_path_factory.mktemp("pipelines")

    def made(name: str) -> Path:
        path = base / name.replace(" ", "-")
        return path if path.exists() else FOLDERS[name](path)

    return made


@pytest.fixture(scope="session")
def theirs(folder: Callable[[str], Path]) -> Callable[..., Any]:
    """transformers' pipeline for a folder."""
    import transformers

    transformers.logging.set_verbosity_error()
    made: dict[tuple[str, str], Any] = {}

    def of(task: str, name: str) -> Any:
        if (task, name) not in made:
            made[task, name] = transformers.pipeline(task, model=str(folder(name)), device="cpu")
        return made[task, name]

    return of


def flat(records: Any) -> list[dict[str, Any]]:
    """The records of one prompt, or of each of a list."""
    return [record for row in records for record in (row if isinstance(row, list) else [row])]


def agree(found: Any, wanted: Any) -> None:
    """The same lists, dictionaries and texts, and the same numbers but for float32's rounding."""
    assert type(found) is type(wanted) or isinstance(found, float), (found, wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            agree(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            agree(one, other)
    elif isinstance(found, float):
        assert found == pytest.approx(float(wanted), rel=1e-4, abs=1e-5)
    else:
        assert found == wanted


class TestTextClassification:
    @pytest.mark.parametrize("name", ["one label", "several labels", "value"])
    @pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": None}, {"function_to_apply": "sigmoid"}])
    @pytest.mark.parametrize("several", [False, True])
    def test_gives_what_transformers_gives(
        self, folder: Any, theirs: Any, name: str, options: dict[str, Any], several: bool
    ) -> None:
        texts = TEXTS if several else TEXTS[1]
        ours = pipeline("text-classification", model=folder(name), backend="reference")
        agree(ours(texts, **options), theirs("text-classification", name)(texts, **options))

    def test_one_label_is_a_value_where_transformers_applies_a_sigmoid(self, folder: Any, theirs: Any) -> None:
        """A deliberate difference: a model with one label was trained on values, and is read as it was trained."""
        [found] = pipeline("text-classification", model=folder("value unsaid"), backend="reference")(TEXTS[0])
        [wanted] = theirs("text-classification", "value unsaid")(TEXTS[0])
        assert 1 / (1 + np.exp(-found["score"])) == pytest.approx(wanted["score"], rel=1e-4)

    def test_pairs(self, folder: Any, theirs: Any) -> None:
        pair = {"text": TEXTS[0], "text_pair": TEXTS[3]}
        found = pipeline("text-classification", model=folder("one label"), backend="reference")(pair, top_k=None)
        wanted = theirs("text-classification", "one label")(pair, top_k=None)
        ids = theirs("text-classification", "one label").tokenizer(**pair)["input_ids"]
        assert ids == Llama.load(folder("one label"), backend="reference").tokenizer(**pair)["input_ids"]
        agree(found, wanted)


class TestTokenClassification:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_gives_what_transformers_gives(self, folder: Any, theirs: Any, strategy: str) -> None:
        ours = pipeline("ner", model=folder("entities"), backend="reference", aggregation_strategy=strategy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers warns that words are a guess of its
            wanted = theirs("ner", "entities")(TEXTS, aggregation_strategy=strategy)
        found = ours(TEXTS)
        assert sum(map(len, found)) > len(TEXTS)
        for text, mine, other in zip(TEXTS, found, wanted, strict=True):
            for entity in other:  # they count the space before a word and show the vocabulary's own spelling
                piece = text[entity["start"] : entity["end"]]
                entity["start"] += len(piece) - len(piece.lstrip())
                entity["word"] = piece.strip()
            agree(mine, other)

    def test_tokens_are_not_put_together_by_default(self, folder: Any) -> None:
        ours = pipeline("token-classification", model=folder("entities"), backend="reference")
        assert ours(TEXTS[1]) == ours(TEXTS[1], aggregation_strategy="none")
        assert set(ours(TEXTS[1])[0]) == {"entity", "score", "index", "word", "start", "end"}

    @settings(max_examples=100)
    @given(data=st.data(), strategy=st.sampled_from(STRATEGIES))
    def test_any_scores_are_put_together_as_there(
        self, folder: Any, theirs: Any, data: st.DataObject, strategy: str
    ) -> None:
        text = " ".join(data.draw(st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=6)))
        cuts = data.draw(st.sets(st.integers(1, max(len(text) - 1, 1))))
        cuts |= {place for place, character in enumerate(text) if character == " "}  # as Llama's vocabularies cut
        places = sorted({0, *cuts, len(text)})
        # A lone space is nothing here, and a token there.
        offsets = [(a, b) for a, b in itertools.pairwise(places) if text[a:b].strip()]
        seed = data.draw(st.integers(0, 2**32 - 1))
        scores = np.random.default_rng(seed).dirichlet(np.full(len(TAGS), 0.4), len(offsets))
        oracle = theirs("ner", "entities")
        how = type(oracle.postprocess.__defaults__[0])(strategy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pieces = oracle.gather_pre_entities(
                text, np.full(len(offsets), 5), scores, offsets, np.zeros(len(offsets)), how
            )
        wanted = [
            (e.get("entity_group", e.get("entity")), float(e["score"]), e["start"], e["end"])
            for e in oracle.aggregate(pieces, how)
        ]
        tokens = ScoredTokens(offsets, scores, list(range(len(offsets))))
        found = find_entities(text, tokens, TAGS, strategy, ignore=())
        assert [(e.label, pytest.approx(e.score), e.start, e.end) for e in found] == wanted


class TestOthers:
    def test_questions(self, folder: Any) -> None:
        ours = pipeline("question-answering", model=folder("sea"), backend="reference")
        context = "One day Nora went to the sea."
        found = ours(question="Who went where?", context=context)
        assert list(found) == ["score", "start", "end", "answer"] and found["answer"] == "Nora went to the sea"
        assert context[found["start"] : found["end"]] == found["answer"]
        assert ours({"question": "Who went where?", "context": context}) == found
        assert ours(question="Who went where?", context=context, top_k=1, max_seq_len=40) == found
        several = ours(question="Who went where?", context=context, topk=3)
        assert several[0] == found and len(several) == 3
        assert ours(question=["Who?", "Where?"], context=context) == [
            ours(question="Who?", context=context),
            ours(question="Where?", context=context),
        ]

    def test_features(self, folder: Any, theirs: Any) -> None:
        ours = pipeline("feature-extraction", model=folder("trunk"), backend="reference")
        agree(ours(TEXTS[0]), theirs("feature-extraction", "trunk")(TEXTS[0]))
        agree(ours(TEXTS), theirs("feature-extraction", "trunk")(TEXTS))
        arrays = ours(TEXTS, return_tensors=True)
        assert [array.shape[0] for array in arrays] == [1] * len(TEXTS)
        assert np.allclose(arrays[2], ours(TEXTS[2]))

    @pytest.mark.parametrize("full", [None, True, False])
    @pytest.mark.parametrize("several", [False, True])
    def test_texts(self, folder: Any, theirs: Any, full: bool | None, several: bool) -> None:
        prompts = TEXTS if several else TEXTS[0]
        options: dict[str, Any] = {} if full is None else {"return_full_text": full}
        ours = pipeline("text-generation", model=folder("writer"), backend="reference", max_new_tokens=6)
        wanted = theirs("text-generation", "writer")(
            prompts, max_new_tokens=6, do_sample=False, add_special_tokens=True, **options
        )
        found = ours(prompts, **options)
        # A deliberate difference: transformers loses the space between a prompt and a word that follows it.
        for one, other in zip(flat(found), flat(wanted), strict=True):
            assert one["generated_text"].replace(" ", "") == other["generated_text"].replace(" ", "")
        assert (
            ours.model.generate(TEXTS[0], max_new_tokens=6).text
            == flat(ours(TEXTS[0], return_full_text=False))[0]["generated_text"]
        )

    def test_several_texts_for_a_prompt(self, folder: Any) -> None:
        ours = pipeline("text-generation", model=folder("writer"), backend="reference", max_new_tokens=4)
        found = ours("Lily", num_return_sequences=3, do_sample=True, seed=1)
        assert len({record["generated_text"] for record in found}) == 3
        assert [len(row) for row in ours(["Lily", "Tom"], num_return_sequences=2, do_sample=True)] == [2, 2]

    def test_conversations(self, folder: Any, tmp_path: Path) -> None:
        path = random_head(tmp_path / "chat", "ForCausalLM")
        (path / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}")
        ours = pipeline("text-generation", model=path, backend="reference", max_new_tokens=3)
        messages = [{"role": "user", "content": "Lily went"}]
        [found] = ours(messages)
        answer = ours.model.chat(messages, max_new_tokens=3).text
        assert found == {"generated_text": [*messages, {"role": "assistant", "content": answer}]}
        assert ours([messages, messages]) == [[found], [found]]
        assert ours(messages, return_full_text=False) == [{"generated_text": answer}]

    def test_an_answer_that_was_begun_is_gone_on_with(self, folder: Any, tmp_path: Path) -> None:
        path = random_head(tmp_path / "chat", "ForCausalLM")
        (path / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}")
        ours = pipeline("text-generation", model=path, backend="reference", max_new_tokens=3)
        begun = [{"role": "user", "content": "Lily went"}, {"role": "assistant", "content": "And"}]
        prompt = ours.model.tokenizer.encode("Lily went And", add_special_tokens=False)
        text = ours.model.generate(prompt, max_new_tokens=3).text
        [found] = ours(begun)
        assert found == {"generated_text": [begun[0], {"role": "assistant", "content": "And" + text}]}
        assert ours(begun, return_full_text=False) == [{"generated_text": text}]
        [other] = ours(begun, continue_final_message=False)
        assert len(other["generated_text"]) == 3
        with pytest.raises(UnsupportedError, match="only a last message whose content is text"):
            ours([begun[0], {"role": "assistant", "content": [{"type": "text", "text": "And"}]}])
        [other] = ours(begun, add_generation_prompt=True)  # asks for another answer, so none is gone on with
        assert other["generated_text"][:2] == begun and len(other["generated_text"]) == 3

    @pytest.mark.parametrize("key", ["reasoning_content", "thinking"])
    def test_the_part_that_is_named_is_gone_on_with(self, folder: Any, key: str) -> None:
        template = "{% for m in messages %}{{ m.reasoning_content or m.content }} {% endfor %}"
        ours = pipeline(
            "text-generation", folder("writer"), backend="reference", max_new_tokens=3, chat_template=template
        )
        asked = {"role": "user", "content": "Lily went"}
        prompt = ours.model.tokenizer.encode("Lily went And", add_special_tokens=False)
        text = ours.model.generate(prompt, max_new_tokens=3).text
        for beside in ({"content": "said"}, {}, {"content": None}):
            last = {"role": "assistant", **beside, key: "And"}
            [found] = ours([asked, last], continue_final_message="reasoning_content")
            assert found == {"generated_text": [asked, {**last, key: "And" + text}]}
        with pytest.raises(UnsupportedError, match="whose reasoning_content is text"):
            ours([asked, {"role": "assistant", "content": "And"}], continue_final_message="reasoning_content")

    def test_a_variable_that_looks_like_an_option_of_loading(self, folder: Any) -> None:
        template = "{{ tasks }}{{ messages[0].content }}"
        options = {"chat_template": template, "max_new_tokens": 1, "tasks": "Lily "}
        made = pipeline("text-generation", folder("writer"), backend="reference", **options)
        assert made.defaults == options
        for misspelt, meant in (("devices", "device"), ("dtpye", "dtype")):
            with pytest.raises(InputError, match=f"a pipeline has no option '{misspelt}'; did you mean '{meant}'"):
                pipeline("text-generation", folder("writer"), backend="reference", **options, **{misspelt: "x"})


class TestMaking:
    @pytest.mark.parametrize(
        ("name", "task"),
        [
            ("text-classification", "sequence-classification"),
            ("sentiment-analysis", "sequence-classification"),
            ("ner", "token-classification"),
            ("token-classification", "token-classification"),
            ("question-answering", "question-answering"),
            ("text-generation", "causal-lm"),
            ("feature-extraction", "base"),
            ("embedding", "embedding"),
        ],
    )
    def test_the_documented_names(self, name: str, task: str) -> None:
        assert task_of(name) == task

    def test_the_checkpoint_says_what_it_is_for(self, folder: Any) -> None:
        ours = pipeline(model=folder("entities"), backend="reference")
        assert ours.task == "token-classification" and ours.tokenizer is ours.model.tokenizer
        assert "token-classification" in repr(ours)

    def test_a_loaded_model(self, folder: Any) -> None:
        llm = Llama.load(folder("one label"), backend="reference")
        ours = pipeline("sentiment-analysis", model=llm, top_k=1)
        assert ours.model is llm and len(ours("good")) == 1
        with pytest.raises(InputError, match="loaded for task 'sequence-classification', not 'token-classification'"):
            pipeline("ner", model=llm)
        with pytest.raises(InputError, match="yet to be loaded"):
            pipeline("sentiment-analysis", model=llm, backend="torch")

    def test_options_go_where_they_belong(self, folder: Any) -> None:
        with pytest.warns(PolyllamaWarning, match="starting from random values"):
            ours = pipeline(
                "text-classification",
                folder("trunk"),
                backend="torch",
                torch_dtype="float64",
                num_labels=3,
                top_k=2,
                seed=5,
            )
        assert (ours.model.dtype, ours.model.config.num_labels, ours.defaults) == ("float64", 3, {"top_k": 2})
        assert len(ours("Lily")) == 2 and len(ours("Lily", top_k=None)) == 3
        writer = pipeline("text-generation", folder("writer"), backend="reference", seed=5, max_new_tokens=2)
        assert writer.defaults == {"seed": 5, "max_new_tokens": 2}
        # The same where the checkpoint says what the task is: a seed for loading would be no seed for writing.
        unsaid = pipeline(model=folder("writer"), backend="reference", seed=5, max_new_tokens=2)
        assert unsaid.defaults == writer.defaults
        assert pipeline(model=folder("one label"), backend="reference", seed=5, top_k=2).defaults == {"top_k": 2}

    def test_embeddings_by_their_own_name(self, folder: Any) -> None:
        ours = pipeline("embedding", model=folder("trunk"), backend="reference", pooling="last")
        assert type(ours) is Pipeline and np.shape(ours(TEXTS)) == (4, 32)

    @pytest.mark.parametrize("device", ["cpu", -1])
    def test_devices(self, folder: Any, device: Any) -> None:
        assert pipeline("ner", model=folder("entities"), backend="torch", device=device).model.device == "cpu"

    @pytest.mark.parametrize("number", [0, 7])
    def test_a_device_that_is_not_there_is_no_silent_fallback(
        self, folder: Any, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        with pytest.raises(BackendUnavailableError, match=f"cuda:{number}"):
            pipeline("ner", model=folder("entities"), backend="torch", device=number)

    @pytest.mark.parametrize(
        ("task", "options", "kind", "said"),
        [
            ("fill-mask", {}, PluginError, "there is no task 'fill-mask'; known: base, causal-lm"),
            ("text-clasification", {}, PluginError, "did you mean 'text-classification'?"),
            (3, {}, InputError, "task is 3, wanted a name"),
            (
                "ner",
                {"strid": 3},
                InputError,
                "pipeline for task 'token-classification' has no option 'strid'; did you",
            ),
            ("text-classification", {"topk": 1, "top_k": 2}, InputError, "top_k is given twice"),
            ("text-generation", {"max_new_token": 3}, GenerationError, "did you mean 'max_new_tokens'?"),
            ("text-generation", {"temperature": -1}, GenerationError, "temperature"),
            ("text-generation", {"tokenizer": "./x"}, PolyllamaError, "./x"),
            ("text-generation", {"tokenizer": 3}, InputError, "tokenizer is a builtins.int; load it with polyllama"),
            ("text-generation", {"framework": "pt"}, InputError, "framework='pt' and backend='reference' contradict"),
            ("text-generation", {"framework": "tf"}, UnsupportedError, "framework is 'tf', which no backend is of"),
            ("text-generation", {"model_kwargs": 3}, InputError, "model_kwargs is a int, wanted a dictionary"),
            (
                "ner",
                {"model_kwargs": {"num_labels": 5}, "num_labels": 5},
                InputError,
                "num_labels is given to pipeline",
            ),
            ("ner", {"model_kwargs": {"dtype": "x"}, "torch_dtype": "y"}, InputError, "dtype is given to pipeline and"),
            (
                "ner",
                {"device_map": {"a": "cpu", "b": 0}},
                UnsupportedError,
                "names 2 devices: a model runs on one so far",
            ),
            ("ner", {"device_map": "cpu", "device": 0}, InputError, "device 'cuda:0' and device_map 'cpu' contradict"),
            ("ner", {"use_fast": False}, UnsupportedError, "use_fast=False: the checkpoint says which tokenizer"),
            ("text-generation", {"return_type": 1}, InputError, "return_full_text=False gives the new text alone"),
            ("text-generation", {"feature_extractor": "x"}, InputError, "a Llama reads texts alone"),
            ("ner", {"grouped_entities": True}, InputError, "aggregation_strategy='simple' puts tokens together"),
        ],
    )
    def test_mistakes_are_found_when_it_is_made(
        self, folder: Any, task: Any, options: dict[str, Any], kind: type[Exception], said: str
    ) -> None:
        model = folder({"ner": "entities", "text-generation": "writer"}.get(task, "one label"))
        with pytest.raises(kind) as caught:
            pipeline(task, model=model, backend="reference", **options)
        assert said in str(caught.value)

    def test_options_of_loading_that_have_no_effect_are_said(self, folder: Any) -> None:
        with pytest.warns(PolyllamaWarning, match="trust_remote_code=True has no effect"):
            pipeline("ner", model=folder("entities"), backend="reference", trust_remote_code=True)
        pipeline("ner", model=folder("entities"), backend="reference", trust_remote_code=False, token=None)

    def test_habits_from_elsewhere_in_a_call(self, folder: Any) -> None:
        ours = pipeline("question-answering", model=folder("sea"), backend="reference")
        for option, said in (("padding", "rows are padded by themselves"), ("max_question_len", "never cut")):
            with pytest.raises(InputError, match=f"no option '{option}'; .*{said}"):
                ours(question="Who?", context="Nora", **{option: 3})

    @pytest.mark.parametrize("kind", ["pt", "tf", 1])
    def test_features_in_no_other_arrays(self, folder: Any, kind: Any) -> None:
        ours = pipeline("feature-extraction", model=folder("trunk"), backend="reference")
        assert isinstance(ours("Lily", return_tensors="np"), np.ndarray)
        with pytest.raises(InputError, match=f"return_tensors is {kind!r}.*NumPy"):
            ours("Lily", return_tensors=kind)

    def test_no_model(self) -> None:
        with pytest.raises(InputError, match=r"pipeline needs a model; pipeline\('ner', model=...\)"):
            pipeline("ner")

    @pytest.mark.parametrize("prompt", [3, [], {}, [3], [["Lily"]]])
    def test_prompts_that_are_none(self, folder: Any, prompt: Any) -> None:
        with pytest.raises(InputError):
            pipeline("text-generation", model=folder("writer"), backend="reference")(prompt)
