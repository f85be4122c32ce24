"""polyllama in EleutherAI's lm-evaluation-harness: the numbers of its own model ``hf``, on every backend."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaForCausalLM
from polyllama.core.errors import PolyllamaError
from support_processes import run_process
from tiny_models import peer

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "models" / "tiny"
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}[assistant] {% endif %}"
QUESTIONS = [
    {"text": "Once upon a time there was a", "choices": ["dog", "little girl named Lily", "tax"], "label": 1},
    {"text": "The sun was", "choices": ["shining in the sky.", "a"], "label": 0},
    {"text": "Tom and his mom went to the", "choices": ["park", "park and played"], "label": 0},
    {"text": "Lily was very", "choices": ["happy", "sad", "happy."], "label": 0},
    {"text": "The dog said, \"I", "choices": ["am sorry", "the"], "label": 0},
]  # fmt: skip


def test_without_lm_eval_one_line_says_what_to_install() -> None:
    script = "import sys; sys.modules['lm_eval'] = None\nimport polyllama.integrations.lm_eval"
    done = run_process([sys.executable, "-c", script], capture_output=True, timeout=120)
    assert done.returncode != 0
    last = done.stderr.decode().strip().splitlines()[-1]
    assert "PluginError" in last and "needs lm-eval" in last and "pip install lm-eval" in last


def test_so_does_the_command() -> None:
    script = "import runpy, sys; sys.modules['lm_eval'] = None; sys.argv[0] = '-m'; sys.orig_argv.append(name := "
    script += "'polyllama.integrations.lm_eval'); runpy.run_module(name, run_name='__main__')"
    done = run_process([sys.executable, "-c", script], capture_output=True, timeout=120)
    said = done.stderr.decode().strip()
    assert done.returncode == 1 and said.startswith("Error: polyllama.integrations.lm_eval needs lm-eval 0.4.13")
    assert said.endswith("pip install lm-eval") and "\n" not in said


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Data sets are read from files alone, and kept where nobody else looks."""
    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(folder),
        }.items():
            patch.setenv(name, value)
        yield patch


@pytest.fixture(scope="module")
def tasks(offline: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tasks of one data set."""
    peer("lm_eval", "lm-eval==0.4.13")
    folder = tmp_path_factory.mktemp("tasks")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}}, "test_split": "test"}
    common |= {"metadata": {"version": 1}}
    kinds: dict[str, dict[str, Any]] = {
        "tiny_choice": {
            **{"output_type": "multiple_choice", "doc_to_text": "{{text}}", "doc_to_choice": "{{choices}}"},
            **{"doc_to_target": "{{label}}", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]},
        },
        "tiny_rolling": {
            **{"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}} {{choices[0]}}."},
            **{"metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}]},
        },
        "tiny_writing": {
            **{"output_type": "generate_until", "doc_to_text": "{{text}}", "doc_to_target": "{{choices[0]}}"},
            **{"generation_kwargs": {"until": [".", " and"], "max_gen_toks": 12, "do_sample": False}},
            **{"metric_list": [{"metric": "exact_match"}]},
        },
    }
    for name, kind in kinds.items():
        text = json.dumps({"task": name, **common, **kind})  # JSON is YAML
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in float32, with a chat template."""
    folder = tmp_path_factory.mktemp("model")
    Llama.load("tiny", backend="reference", dtype="float32").save(folder)
    # Its own number of new tokens would count for `hf`, whatever a task asks for.
    (folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2}', encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}), encoding="utf-8")
    return folder


NAMES = ["tiny_choice", "tiny_rolling", "tiny_writing"]


def evaluate(model: Any, folder: Path, **options: Any) -> dict[str, Any]:
    """Metrics of each task, and what the model answered to each question."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    given: dict[str, Any] = {"tasks": NAMES, "task_manager": manager, "bootstrap_iters": 0, **options}
    found = lm_eval.simple_evaluate(model=model, **given)
    metrics = {name: {k: v for k, v in row.items() if not isinstance(v, str)} for name, row in found["results"].items()}
    answers = {name: {row["doc_id"]: row["filtered_resps"] for row in rows} for name, rows in found["samples"].items()}
    return {"metrics": metrics, "answers": answers}


def assert_same(found: dict[str, Any], wanted: dict[str, Any], tolerance: float = 1e-4) -> None:
    for name, row in wanted["metrics"].items():
        assert found["metrics"][name].keys() == row.keys()
        for metric, value in row.items():
            assert found["metrics"][name][metric] == pytest.approx(value, rel=tolerance, abs=tolerance), (name, metric)
    assert found["answers"]["tiny_writing"] == wanted["answers"]["tiny_writing"]
    for name in ("tiny_choice", "tiny_rolling"):
        for number, answers in wanted["answers"][name].items():
            mine = found["answers"][name][number]
            scores = [np.ravel(np.asarray(a, float)) for a in (mine, answers)]
            assert np.allclose(scores[0], scores[1], atol=tolerance, rtol=tolerance), (name, number)


@pytest.fixture(scope="module")
def theirs(tasks: Path, model: Path) -> dict[str, Any]:
    """What lm-eval's own model gives on the same checkpoint."""
    pytest.importorskip("transformers")
    arguments = {"pretrained": str(model), "dtype": "float32"}
    found = evaluate("hf", tasks, model_args=arguments, device="cpu", batch_size=2)
    assert len(set(map(str, found["answers"]["tiny_writing"].values()))) > 1
    return found


@pytest.mark.peers
@pytest.mark.parametrize("backend", ["reference", "cpu", "torch", "jax", "mlx"])
def test_the_numbers_of_their_own_model(theirs: dict[str, Any], tasks: Path, model: Path, backend: str) -> None:
    if backend != "reference":
        needs = {"cpu": "polyllama.backends.cpu._kernels", "mlx": "mlx.core"}
        pytest.importorskip(needs.get(backend, backend))
    from polyllama.integrations.lm_eval import PolyllamaLM

    lm = PolyllamaLM(str(model), backend=backend, dtype="float32", batch_size=3)
    assert_same(evaluate(lm, tasks), theirs)
    info = lm.get_model_info()
    assert info["model_backend"] == backend and info["model_num_parameters"] == lm.llama.num_parameters()


@pytest.mark.peers
def test_by_name_and_by_model(theirs: dict[str, Any], tasks: Path, model: Path) -> None:
    from polyllama.integrations.lm_eval import PolyllamaLM

    arguments = {"pretrained": str(model), "backend": "reference"}
    assert_same(evaluate("polyllama", tasks, model_args=arguments, batch_size="auto"), theirs)
    assert_same(evaluate("polyllama", tasks, model_args=f"pretrained={model},backend=reference"), theirs)
    module = LlamaForCausalLM.from_pretrained(model, dtype="float32").train()
    assert_same(evaluate(PolyllamaLM(module, batch_size=16), tasks), theirs)
    assert not module.training


@pytest.mark.peers
def test_chat_templates_and_short_windows(tasks: Path, model: Path) -> None:
    arguments = {"pretrained": str(model), "max_length": 16}
    options: dict[str, Any] = {"apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": "Tell."}
    theirs = evaluate("hf", tasks, model_args=arguments | {"dtype": "float32"}, device="cpu", **options)
    found = evaluate("polyllama", tasks, model_args=arguments | {"backend": "reference"}, **options)
    assert_same(found, theirs)


@pytest.mark.peers
def test_quantized_and_with_an_adapter(tasks: Path, model: Path, tmp_path: Path) -> None:
    import peft
    import torch
    from polyllama.integrations.lm_eval import PolyllamaLM

    torch.manual_seed(0)
    tuned = peft.get_peft_model(
        LlamaForCausalLM.from_pretrained(model, dtype="float32"),
        peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False),
    )
    tuned.save_pretrained(tmp_path)
    theirs = evaluate("hf", tasks, model_args=f"pretrained={model},peft={tmp_path},dtype=float32", device="cpu")
    found = evaluate(PolyllamaLM(str(model), backend="reference", adapter=str(tmp_path)), tasks)
    assert_same(found, theirs)
    packed = evaluate(PolyllamaLM(str(model), backend="reference", quantize="int8-g32"), tasks, tasks=["tiny_rolling"])
    plain = evaluate(PolyllamaLM(str(model), backend="reference"), tasks, tasks=["tiny_rolling"])
    ours, exact = (m["metrics"]["tiny_rolling"]["bits_per_byte,none"] for m in (packed, plain))
    assert ours != exact and ours == pytest.approx(exact, rel=0.02)


@pytest.mark.peers
def test_the_command_line(theirs: dict[str, Any], tasks: Path, model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "polyllama.integrations.lm_eval", "--model", "polyllama"]
    command += ["--model_args", f"pretrained={model},backend=reference", "--tasks", "tiny_choice"]
    command += ["--include_path", str(tasks), "--batch_size", "2", "--output_path", str(tmp_path)]
    done = run_process(command, capture_output=True, timeout=300, env=dict(os.environ), cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    (written,) = tmp_path.rglob("results_*.json")
    results = json.loads(written.read_text(encoding="utf-8"))
    wanted = theirs["metrics"]["tiny_choice"]["acc,none"]
    assert results["results"]["tiny_choice"]["acc,none"] == wanted and results["config"]["model_backend"] == "reference"
    command[command.index("--model_args") + 1] = "pretrained=tiny,backnd=cpu"
    done = run_process(command, capture_output=True, timeout=300, env=dict(os.environ), cwd=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr.decode()
        .strip()
        .splitlines()[-1]
        .startswith("Error: load has no argument 'backnd'; did you mean 'backend'?")
    )


@pytest.mark.peers
def test_what_is_refused(tasks: Path, model: Path) -> None:
    from polyllama.integrations.lm_eval import PolyllamaLM

    loaded = Llama.load(model, backend="reference")
    for make, said in (
        (lambda: PolyllamaLM(loaded, dtype="float32"), "dtype is for loading, and the model is loaded"),
        (lambda: PolyllamaLM("tiny-sentiment", backend="reference"), "this one is for sequence-classification"),
        (lambda: PolyllamaLM(loaded, batch_size="many"), "batch_size='many' is no number of rows"),
        (lambda: PolyllamaLM(loaded)._loglikelihood_tokens([(None, [1], [])]), "a text without tokens"),
        (lambda: PolyllamaLM(loaded, max_length=2)._loglikelihood_tokens([(None, [1], [4, 5, 6])]), "has 3 tokens"),
    ):
        with pytest.raises(PolyllamaError, match=said):
            make()
