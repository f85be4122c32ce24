"""Task heads know a loaded model by a small protocol: what they import, what they may override, what derives."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig, PolyllamaWarning, hookimpl
from polyllama.core.plugin_system.manager import reset_plugins
from polyllama.extend import Chain, Dropout, EmbeddingOutput, LoadedModel, Pool, Task, TaskDescriptor, plugin_manager
from safetensors.numpy import load_file, save_file
from support_processes import run_process


class Differences(Task):
    """A stranger's task whose result needs all texts: how far each mean state is from the mean of all."""

    name = "differences"
    architecture = "LlamaForDifferences"
    output_type = EmbeddingOutput
    outputs_per = "row"
    labels = ()

    def head(self, config: Any, decoder: Any) -> Any:
        return Chain((Dropout(0.0), Pool("mean", config.pad_token_id)))

    def outputs(self, ctx: Any, raw: Any, hidden: Any) -> dict[str, Any]:
        return {"embeddings": ctx.widen(raw)}

    def result(self, example: Any) -> Any:
        return example.output["embeddings"]

    def combine_results(self, results: list[Any]) -> Any:
        return np.stack(results)

    def predict(self, model: LoadedModel, given: Any, options: Mapping[str, Any]) -> Any:
        states = model.predict_each(given, options)
        return np.linalg.norm(states - states.mean(axis=0), axis=1)


@pytest.fixture
def stranger() -> Iterator[None]:
    class Plugin:
        @hookimpl
        def polyllama_tasks(self) -> list[TaskDescriptor]:
            return [TaskDescriptor("differences", f"{__name__}:Differences", "a test's")]

    reset_plugins()
    plugin_manager().register(Plugin(), "stranger")
    yield
    reset_plugins()


def test_heads_are_imported_without_the_facade_or_what_runs_them() -> None:
    code = (
        "import sys, importlib\n"
        "import polyllama.extend\n"
        "from polyllama.plugins.builtin import polyllama_tasks\n"
        "for task in polyllama_tasks(): task.load()\n"
        "above = 'api export planning loading generation attention_mask memory transforms backend prediction forward'\n"
        "print([name for name in above.split() if f'polyllama.core.{name}' in sys.modules])"
    )
    result = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.usefixtures("stranger")
def test_a_task_may_make_its_results_from_all_texts() -> None:
    llm = Llama.load("tiny", task="differences", backend="reference")
    texts = ["Once upon a time", "The end", "Once upon a time"]
    states = np.stack([llm.forward([llm.tokenizer.encode(text)]).numpy()["embeddings"][0] for text in texts])
    wanted = np.linalg.norm(states - states.mean(axis=0), axis=1)
    np.testing.assert_allclose(llm.predict(texts), wanted, rtol=1e-5)
    assert llm.predict_each(texts, {"batch_size": 1}).shape == (3, llm.config.hidden_size)


def tied_with_another_head(folder: Path) -> Path:
    """A model whose config ties its head to the embedding, and whose file holds another head all the same."""
    config = LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    Llama.load(config, task="causal-lm", backend="reference", load_format="dummy", dtype="float32").save(folder)
    [path] = folder.glob("*.safetensors")
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, path, {"format": "pt"})
    return folder


@pytest.mark.usefixtures("stranger")
def test_a_stored_head_is_passed_over_in_silence_by_a_head_without_weights_alone(tmp_path: Path) -> None:
    """A tied head has no weights of its own either, but reads the embedding's: what is stored in its place is said."""
    folder = tied_with_another_head(tmp_path)
    with pytest.warns(PolyllamaWarning, match=r"lm_head\.weight not used, though it differs"):
        Llama.load(folder, backend="reference")
    with pytest.warns(PolyllamaWarning, match=r"lm_head\.weight not used"):
        Llama.load(folder, task="base", backend="reference")
    for task in ("embedding", "differences"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Llama.load(folder, task=task, backend="reference")
