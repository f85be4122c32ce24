"""``polyllama quantize``: what it writes and says, what it refuses, and that calibration pays on text it never saw."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaConfig, PolyllamaWarning, convert
from polyllama.cli.main import main
from polyllama.core.errors import CheckpointError, InputError
from polyllama.core.export.quantize_checkpoint import quantize_checkpoint
from polyllama.core.quantization.affine import dequantize, quantize
from polyllama.core.transforms.calibrate import gptq, output_error, searched
from support_processes import run_process

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "tiny"
sys.path.insert(0, str(ROOT / "tools" / "bundled_models"))

from stories import stories  # noqa: E402

Outcome = tuple[int, str, str]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``polyllama quantize ...`` in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> Outcome:
        code = main(("quantize", *map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration text: stories that `tiny` was trained on."""
    file = tmp_path_factory.mktemp("text") / "stories.jsonl"
    file.write_text("".join(json.dumps({"text": story.text}) + "\n" for story in stories("train", 40)))
    return file


# ---- calibration


@pytest.fixture(scope="module")
def held_out() -> list[list[int]]:
    """Stories of seeds that neither training nor calibration has seen."""
    tokenizer = Llama.load("tiny", backend="reference").tokenizer
    rows = [[*tokenizer.encode(story.text), tokenizer.eos_token_id] for story in stories("heldout", 50)]
    return sorted(rows, key=len)


def loss_of(source: Any, rows: Sequence[Sequence[int]], **options: Any) -> float:
    """Mean loss in nats per token."""
    torch = pytest.importorskip("torch")
    llm = Llama.load(source, backend="torch:cpu", dtype="float32", **options)
    total = count = 0.0
    for start in range(0, len(rows), 25):
        part = rows[start : start + 25]
        width = max(map(len, part))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in part])
        labels = torch.tensor([[*row, *[-100] * (width - len(row))] for row in part])
        tokens = sum(len(row) - 1 for row in part)
        with torch.inference_mode():
            total += float(llm.forward(ids, labels=labels).loss) * tokens
        count += tokens
    return total / count


def test_losses_are_close_to_full_precision_and_calibration_lowers_them(
    texts: Path, held_out: list[list[int]], tmp_path: Path
) -> None:
    full = loss_of("tiny", held_out)
    eight = loss_of("tiny", held_out, quantize="int8-g32")
    assert abs(eight - full) < 5e-4
    found: dict[str, float] = {}
    for method, calibration in (("round", None), ("calibrated", texts)):
        report = quantize_checkpoint("tiny", tmp_path / method, group_size=32, method=method, calibration=calibration)
        found[method] = loss_of(report.folder, held_out)
        assert report.bits_per_weight < 5.02
    assert full < found["calibrated"] < found["round"] < full + 0.008  # 0.3907, 0.394, 0.3955
    assert found["calibrated"] - full < 0.85 * (found["round"] - full)
    told = {module.name: module for module in report.modules}
    assert {module.method for module in told.values()} == {"calibrated"}
    attention = told["model.layers.0.self_attn.q_proj"]
    assert attention.output_error is not None and attention.rounded_output_error is not None
    assert attention.output_error < attention.rounded_output_error


def test_error_feedback_lowers_the_output_error_where_inputs_are_alike() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((400, 8)) @ rng.standard_normal((8, 128)) + 0.1 * rng.standard_normal((400, 128))
    moments = (inputs.T @ inputs).astype(np.float32)
    w = rng.standard_normal((64, 128)).astype(np.float32)
    for bits in (3, 4, 8):
        rounded, learnt = quantize(w, 32, bits), gptq(w, moments, 32, bits, "w")
        errors = [output_error(w, made, bits, moments) for made in (rounded, learnt)]
        assert errors[1] < 0.3 * errors[0]
        off = (dequantize(*learnt, bits=bits) - w) @ inputs.T  # what output_error says is what comes out
        assert np.isclose(np.sum(off**2) / np.sum((w @ inputs.T) ** 2), errors[1], rtol=1e-3)


def least_error(w: np.ndarray, importance: np.ndarray, bits: int) -> float:
    """The least weighted squared error that any of the ranges gives, each group with the best of them.

    The ranges' scales and biases are those of plain rounding, which gives MLX's bits; levels are tried one by one.
    """
    groups, weights = w.reshape(-1, 32).astype(np.float64), np.tile(importance.reshape(-1, 32), (len(w), 1))
    least = np.full(len(groups), np.inf)
    for step in range(13):
        _, scales, biases = quantize(w * np.float32(1 - step / 40), 32, bits)
        s, b = (part.astype(np.float64).reshape(-1, 1) for part in (scales, biases))
        levels = s * np.arange(1 << bits) + b
        off = np.abs(groups[:, :, None] - levels[:, None, :]).min(axis=-1)
        least = np.minimum(least, (off**2 * weights).sum(axis=-1))
    return float(least.sum())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_range_is_chosen_by_how_much_each_input_matters(bits: int) -> None:
    """Inputs that have nothing to do with one another leave no error to make up for, so the optimum can be computed."""
    rng = np.random.default_rng(bits)
    importance = np.exp(rng.uniform(-6, 0, 64))
    w = rng.standard_normal((40, 64)).astype(np.float32)
    w[:, importance < 0.05] *= 4  # the widest weights matter least

    def error(made: Any) -> float:
        off = dequantize(*made, bits=bits).astype(np.float64) - w
        return float((off**2 * importance).sum())

    found = error(gptq(w, np.diag(importance).astype(np.float32), 32, bits, "w"))
    assert found == pytest.approx(least_error(w, importance, bits), rel=1e-4)
    alike = error(gptq(w, np.eye(64, dtype=np.float32), 32, bits, "w"))
    assert alike == pytest.approx(error(searched(w, 32, bits, "w")), rel=1e-4)
    assert found < 0.9 * alike  # it matters


def test_inputs_that_are_never_used_or_all_alike_can_be_calibrated() -> None:
    w = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    for inputs in (np.zeros((9, 64)), np.eye(64)[:3], np.ones((9, 64))):
        made = gptq(w, (inputs.T @ inputs).astype(np.float32), 32, 4, "w")
        assert all(np.isfinite(part.astype(np.float64)).all() for part in made)


def test_plain_text_calibrates_too(tmp_path: Path) -> None:
    file = tmp_path / "stories.txt"
    file.write_text("\n\n".join(story.text for story in stories("train", 12)))
    report = quantize_checkpoint(TINY, tmp_path / "q", group_size=32, method="calibrated", calibration=file)
    assert sum(module.method == "calibrated" for module in report.modules) > 20


# ---- what is written and said


def test_report_and_files(call: Any, tmp_path: Path) -> None:
    code, out, err = call("tiny", tmp_path / "q", "--group-size", 32)
    assert (code, err) == (0, "")
    assert "model.layers.4.mlp.down_proj     128x352   int4-g32" in out and "worst: model.layers." in out
    assert "2.30 MB -> 722.18 kB, 5.01 bits per weight" in out
    assert {file.name for file in (tmp_path / "q").iterdir()} >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.model",
    }
    assert os.listdir(tmp_path) == ["q"]
    text = Llama.load(tmp_path / "q", backend="reference").generate("Once upon a time", max_new_tokens=8, temperature=0)
    assert str(text).startswith(", there was")


def test_settings_for_each_module(call: Any, tmp_path: Path) -> None:
    wanted = ("--module", "*.down_proj=int8-g32", "--module", "*_proj=int4-g32", "--module", "*.down_proj=int6-g32")
    code, out, err = call("tiny", tmp_path / "q", *wanted, "--module", "*.3.*=none", "--embeddings", "int8", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    how = {module["module"]: (module["bits"], module["group_size"]) for module in report["modules"]}
    assert how["model.embed_tokens"] == (8, 64)
    assert how["model.layers.0.self_attn.q_proj"] == (4, 32) and how["model.layers.0.mlp.down_proj"] == (6, 32)
    assert len(report["not_quantized"]) == 7 and all(".3." in name for name in report["not_quantized"])
    llm = Llama.load(tmp_path / "q", backend="reference")
    packed = {p.name.removesuffix(".weight"): p.bits for p in llm.graph.parameters() if p.bits}
    assert packed == {name: bits for name, (bits, _) in how.items()}
    plain = Llama.load("tiny", backend="reference").model.state()
    stored = {info.name: read() for info, read in llm.model.state()}
    for info, read in plain:
        if ".3." in info.name or "norm" in info.name:
            assert np.array_equal(stored[info.name], read()), info.name
    file = (tmp_path / "q" / "model.safetensors").stat().st_size
    assert 0 < file - report["bytes_after"] < 20_000


def test_a_head_of_its_own(call: Any, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        dtype="bfloat16",
    )
    Llama.load(config, load_format="dummy", backend="reference", dtype="float32").save(tmp_path / "plain")
    code, out, _ = call(tmp_path / "plain", tmp_path / "q", "--head", "none", "--embeddings", "none", "--json")
    assert code == 0 and json.loads(out)["not_quantized"] == ["model.embed_tokens", "lm_head"]
    code, out, _ = call(tmp_path / "plain", tmp_path / "q8", "--head", "int8", "--json")
    assert json.loads(out)["modules"][-1]["module"] == "lm_head" and json.loads(out)["modules"][-1]["bits"] == 8


def test_groups_that_do_not_divide_get_smaller_and_it_is_said(call: Any, tmp_path: Path) -> None:
    code, out, err = call("tiny", tmp_path / "q", "--json")
    assert code == 0 and err.startswith("warning: 5 modules, such as model.layers.0.mlp.down_proj, have inputs that")
    assert err.endswith("they get groups of 32 (model tiny)\n")
    groups = {module["module"]: module["group_size"] for module in json.loads(out)["modules"]}
    assert (groups["model.layers.0.mlp.down_proj"], groups["model.layers.0.mlp.up_proj"]) == (32, 64)


MISTAKES: dict[str, tuple[Sequence[str], int, str]] = {
    "bits": (["tiny", "{new}", "--bits", "7"], 1, "quantizing to 7 bits is not offered; use 2, 3, 4, 5, 6 or 8"),
    "groups": (["tiny", "{new}", "--group-size", "48"], 1, "groups of 48 are not offered; use groups of 32, 64 or 128"),
    "divide": (
        ["tiny", "{new}", "--group-size", "64"],
        1,
        "down_proj has 352 inputs, which do not divide into groups of 64; use int4-g32, or leave it out",
    ),
    "no pattern": (["tiny", "{new}", "--module", "down_proj"], 2, "--module 'down_proj' is not PATTERN=HOW"),
    "no module": (["tiny", "{new}", "--module", "x=int8"], 1, "--module x: no module is called so"),
    "no setting": (["tiny", "{new}", "--embeddings", "int9"], 1, "--embeddings='int9' is not known; use int4, int8"),
    "tied": (["tiny", "{new}", "--head", "int8"], 1, "the model has no head of its own"),
    "nothing": (["tiny", "{new}", "--module", "*=none"], 1, "every module is left out: there is nothing to quantize"),
    "no text": (["tiny", "{new}", "--method", "calibrated"], 1, "give both --method and --calibration"),
    "text alone": (["tiny", "{new}", "--calibration", "x.txt"], 1, "give both --method and --calibration"),
    "same folder": (
        ["{source}", "{source}"],
        1,
        "is there already; choose another place, or overwrite it (--overwrite)",
    ),
    "a file": (["tiny", "{source}/config.json"], 1, "is there already"),
    "twice": (["{quantized}", "{new}"], 1, "is quantized already; quantize the original checkpoint"),
    "no source": (["./nowhere", "{new}"], 1, "no file or folder"),
    "shards": (["tiny", "{new}", "--group-size", "32", "--max-shard-size", "wide"], 1, "'wide' is not a size"),
    "not there": (["tiny", "/proc/new/folder", "--group-size", "32"], 1, "/proc/new/folder: cannot be written"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("folders")
    source = Path(shutil.copytree(TINY, place / "source"))
    quantize_checkpoint(source, place / "quantized", group_size=32)
    return {"source": source, "quantized": place / "quantized", "new": place / "new"}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_take_one_line_and_write_nothing(case: str, call: Any, folders: dict[str, Path]) -> None:
    arguments, wanted, message = MISTAKES[case]
    before = sorted((str(file), file.stat().st_size) for file in folders["new"].parent.rglob("*"))
    code, out, err = call(*(argument.format(**folders) for argument in arguments))
    assert (code, out) == (wanted, "") and err.startswith("error: ") and message in err and err.count("\n") == 1
    assert sorted((str(file), file.stat().st_size) for file in folders["new"].parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"a", "is too short to calibrate by; give some 32,768 tokens of text"),
        ("t.txt", b"\xff\xfe", "cannot be read as calibration text (it is not UTF-8)"),
        (
            "t.jsonl",
            b'{"text": "a"}\n\n{"text": 3}\n',
            'line 3: has no text to calibrate by; each line must be like {"',
        ),
        ("t.jsonl", b'{"story": "a"}', "line 1: has no text to calibrate by"),
        ("t.jsonl", b"[1]", "line 1: has no text"),
        ("t.jsonl", b"Once upon", "line 1: has no text"),
        ("", b"", "Is a directory"),
    ],
)
def test_calibration_text_that_is_none(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if name:
        file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        quantize_checkpoint(TINY, tmp_path / "q", group_size=32, method="calibrated", calibration=file)
    assert str(file) in str(caught.value) and message in str(caught.value)
    assert not (tmp_path / "q").exists()


# ---- being cut off


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(TINY, tmp_path / "q", group_size=32, progress=stop)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed otherwise there")
def test_a_killed_run_leaves_no_half_checkpoint_and_the_next_one_clears_up(tmp_path: Path) -> None:
    code = (
        "import os\nfrom polyllama.core.export.quantize_checkpoint import quantize_checkpoint\n"
        "die = lambda name, done, total: done > total // 2 and os.kill(os.getpid(), 9)\n"
        "quantize_checkpoint('tiny', 'q', group_size=32, progress=die)"
    )
    done = run_process([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = os.listdir(tmp_path)
    assert left and all(name.startswith(".q.") for name in left)
    quantize_checkpoint(TINY, tmp_path / "q", group_size=32)
    assert os.listdir(tmp_path) == ["q"]
    assert Llama.load(tmp_path / "q", backend="reference").config.quantization is not None


def test_of_two_runs_into_one_folder_one_is_told_of_the_other(tmp_path: Path) -> None:
    told = []

    def other(name: str, done: int, total: int) -> None:
        if not name:  # everything is written, nothing has its name yet
            with pytest.raises(CheckpointError, match="q: another process is writing there") as caught:
                quantize_checkpoint(TINY, tmp_path / "q", bits=8, group_size=32)
            told.append(caught)

    quantize_checkpoint(TINY, tmp_path / "q", group_size=32, progress=other)
    assert told and os.listdir(tmp_path) == ["q"]
    assert Llama.load(tmp_path / "q", backend="reference").config.quantization.bits == 4


def test_the_source_is_never_replaced(call: Any, tmp_path: Path) -> None:
    convert("tiny", tmp_path / "model", to="hf")
    code, _, err = call(tmp_path / "model", tmp_path / "model", "--overwrite", "--group-size", "32")
    assert code == 1 and "model: overlaps with" in err
    assert Llama.load(tmp_path / "model", backend="reference").config.quantization is None


def test_a_model_is_replaced_when_asked(call: Any, tmp_path: Path) -> None:
    for bits in ("4", "8"):
        code, _, err = call("tiny", tmp_path / "q", "--group-size", "32", "--bits", bits, "--overwrite")
        assert code == 0, err
    assert Llama.load(tmp_path / "q", backend="reference").config.quantization.bits == 8


@pytest.mark.parametrize("method", ["round", "calibrated"])
def test_a_gguf_file_keeps_its_tokenizer(method: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("that of somebody else")
    convert("tiny", tmp_path / "tiny.gguf", to="gguf")
    (tmp_path / "text.txt").write_text("Once upon a time there was a little bear. " * 200)
    options = {"method": method, "calibration": tmp_path / "text.txt"} if method == "calibrated" else {}
    quantize_checkpoint(tmp_path / "tiny.gguf", tmp_path / "q", group_size=32, **options)
    tokenizers = (Llama.load(path, backend="reference").tokenizer for path in ("tiny", tmp_path / "q"))
    ours, theirs = (tokenizer.encode("Once upon a time, a  fox") for tokenizer in tokenizers)
    assert ours == theirs


def test_a_model_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    config = LlamaConfig.from_pretrained(TINY)
    Llama.load(config, load_format="dummy", backend="reference", dtype="float32").save(tmp_path / "plain")
    with pytest.warns(PolyllamaWarning, match="quantized without a tokenizer: .* holds no tokenizer"):
        quantize_checkpoint(tmp_path / "plain", tmp_path / "q", group_size=32)


# ---- memory


@pytest.mark.filterwarnings("ignore:quantized without a tokenizer")
def test_one_matrix_is_in_memory_at_a_time(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    Llama.load(config, load_format="dummy", backend="reference", dtype="float32").save(tmp_path / "plain")
    matrix = 4 * 512 * 2048  # in float32
    size = (tmp_path / "plain" / "model.safetensors").stat().st_size
    tracemalloc.start()
    quantize_checkpoint(tmp_path / "plain", tmp_path / "q")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 20 * matrix
    assert peak < 8 * matrix, peak / matrix
    if sys.platform != "linux":
        return
    code = (
        "import re, sys, numpy, ml_dtypes\n"
        "from polyllama.core.export.quantize_checkpoint import quantize_checkpoint\n"
        "held = lambda key: int(re.search(key + r':\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024\n"
        "quantize_checkpoint('tiny', 'tiny-q', group_size=32)\n"  # whatever is imported on the way
        "before = held('VmHWM')\n"
        "quantize_checkpoint('plain', 'again')\n"
        "print(held('VmHWM') - before)"
    )
    done = run_process([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 14 * matrix, int(done.stdout) / matrix  # mapped pages too are given back
