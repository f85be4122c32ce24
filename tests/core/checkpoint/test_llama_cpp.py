"""llama.cpp as the oracle for GGUF: from our files it computes what transformers does, and we read what it packs."""

from __future__ import annotations

import ctypes
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_tokenizers
import numpy as np
import pytest
import torch
from checkpoint_models import write_gguf
from polyllama import Llama, LlamaConfig, PolyllamaWarning, convert
from polyllama.core.checkpoint.gguf.reader import GgufCheckpoint
from polyllama.core.errors import UnsupportedError
from polyllama.core.tokenizer.formats.gguf_words import SPLITTINGS
from tiny_models import ROPE_TYPES, TinyModels, peer, relative_error
from tokenizer_models import Models

llama_cpp = peer("llama_cpp", "llama-cpp-python")

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:the format cannot say, or says otherwise. bos_token_id"),
]
TINY = Path(__file__).resolve().parents[3] / "models" / "tiny"
SIZES = {"vocab_size": 1792, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
IDS = [1, *np.random.default_rng(5).integers(3, 1790, 59).tolist()]
FROM_THE_FILE = dict.fromkeys(("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"), -1.0)


def opened(path: Path, **options: Any) -> Any:
    """The model in llama.cpp, with keys and values of attention in float32."""
    settings: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "type_k": 0, "type_v": 0}
    return llama_cpp.Llama(str(path), logits_all=True, verbose=False, **settings | FROM_THE_FILE | options)


def logits(path: Path, ids: list[int] = IDS, **options: Any) -> np.ndarray:
    """What llama.cpp computes for the ids."""
    model = opened(path, **options)
    model.eval(ids)
    return np.array(model.scores[: len(ids)], np.float32)


def greedy(path: Path, ids: list[int], steps: int) -> list[int]:
    """llama.cpp's likeliest token, again and again."""
    model = opened(path)
    model.eval(ids)
    found = []
    for _ in range(steps):
        found.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(found[-1:])
    return found


def with_tokenizer(folder: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    return folder


def transformers_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = model(torch.tensor([IDS])).logits[0].float().numpy()
    return found


# ---- files we write


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-4), ("float16", 1e-3), ("bfloat16", 5e-3)])
def test_tiny_tells_the_same_story(tmp_path: Path, dtype: str, bound: float) -> None:
    made = convert("tiny", tmp_path / "tiny.gguf", to="gguf", dtype=dtype).path
    llm = Llama.load("tiny", backend="reference")
    prompt = llm.tokenizer.encode("Once upon a time there was a little bear who")
    assert greedy(made, prompt, 30) == llm.generate([prompt], max_new_tokens=30, temperature=0)[0].token_ids
    assert relative_error(logits(made, prompt), llm.forward([prompt]).numpy()["logits"][0]) < bound


FIELDS: dict[str, dict[str, Any]] = {
    "grouped": {"num_key_value_heads": 2},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 24},
}


@pytest.mark.parametrize("case", FIELDS)
def test_fields_as_llama_cpp_understands_them(tiny_models: TinyModels, tmp_path: Path, case: str) -> None:
    model, source = tiny_models(**SIZES | FIELDS[case])
    made = convert(with_tokenizer(source), tmp_path / "x.gguf", to="gguf").path
    assert relative_error(logits(made), transformers_logits(model)) < 2e-5


LONG = {
    **ROPE_TYPES["longrope"],
    "short_factor": [1 + i / 10 for i in range(8)],
    "original_max_position_embeddings": 20,
}
LONG["long_factor"] = [2 + i / 4 for i in range(8)]
BETAS = ROPE_TYPES["yarn"] | {"original_max_position_embeddings": 64, "beta_fast": 8.0, "beta_slow": 2.0}
ROPES = {
    "linear": ROPE_TYPES["linear"],
    "yarn": ROPE_TYPES["yarn"],
    "yarn, attention": ROPE_TYPES["yarn"] | {"attention_factor": 1.3},
    "llama3": ROPE_TYPES["llama3"],
    "longrope": LONG,
}


@pytest.mark.parametrize("name", ROPES)
def test_rope_as_llama_cpp_understands_it(tiny_models: TinyModels, tmp_path: Path, name: str) -> None:
    model, source = tiny_models(ROPES[name], **SIZES)
    made = convert(with_tokenizer(source), tmp_path / "x.gguf", to="gguf").path
    assert relative_error(logits(made), transformers_logits(model)) < 2e-5


def test_betas_that_llama_cpp_wants_to_be_told(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, source = tiny_models(BETAS, **SIZES | {"head_dim": 64, "max_position_embeddings": 256})
    with pytest.warns(PolyllamaWarning, match=r"--yarn-beta-fast 8\.0 --yarn-beta-slow 2\.0"):
        made = convert(with_tokenizer(source), tmp_path / "x.gguf", to="gguf").path
    wanted = transformers_logits(model)
    assert relative_error(logits(made, yarn_beta_fast=8.0, yarn_beta_slow=2.0), wanted) < 2e-5
    assert relative_error(logits(made), wanted) > 1e-2, "llama.cpp heeds them: the warning can go"


def test_heads_rotated_in_part_are_refused(tiny_models: TinyModels, tmp_path: Path) -> None:
    _, source = tiny_models({"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}, **SIZES)
    with pytest.raises(UnsupportedError, match=r"no place for partial_rotary_factor=0\.5; convert to hf"):
        convert(with_tokenizer(source), tmp_path / "x.gguf", to="gguf")


def test_a_model_without_a_tokenizer(tiny_models: TinyModels, tmp_path: Path) -> None:
    model, source = tiny_models(**SIZES | {"vocab_size": 1796})
    with pytest.warns(PolyllamaWarning, match="converted without a tokenizer"):
        made = convert(source, tmp_path / "x.gguf", to="gguf").path
    assert relative_error(logits(made), transformers_logits(model)) < 2e-5
    assert Llama.load(made, backend="reference").config.vocab_size == 1796


# ---- packed weights


@pytest.fixture(scope="module")
def quantized(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A model of which llama.cpp makes a type, and at wish floats of that again."""
    folder = tmp_path_factory.mktemp("quantized")
    _, source = tiny_models(**SIZES | {"hidden_size": 256, "intermediate_size": 512, "initializer_range": 0.08})
    convert(with_tokenizer(source), folder / "ALL_F32.gguf", to="gguf")

    def make(kind: str, *, start: Path = folder / "ALL_F32.gguf") -> Path:
        made = folder / f"{start.stem}-{kind}.gguf"
        if not made.exists():
            settings = llama_cpp.llama_model_quantize_default_params()
            settings.ftype, settings.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_{kind}"), 1
            settings.pure = settings.allow_requantize = True
            assert llama_cpp.llama_model_quantize(str(start).encode(), str(made).encode(), ctypes.byref(settings)) == 0
        return made

    return make


PACKED = ("Q8_0", "Q4_0", "Q4_1")


@pytest.mark.parametrize("kind", [*PACKED, "Q5_0", "Q4_K_M", "Q6_K"])
@pytest.mark.filterwarnings("ignore:.*which become float16 when read")
def test_what_llama_cpp_quantized(quantized: Callable[..., Path], kind: str) -> None:
    """The same values as llama.cpp makes floats of; as it runs them packed, it rounds what goes in too."""
    packed = quantized(f"MOSTLY_{kind}")
    floats = quantized("ALL_F32", start=packed)
    llm = Llama.load(packed, backend="reference")
    assert (llm.config.quantization is not None) == (kind in PACKED)
    found = llm.forward([IDS]).numpy()["logits"][0]
    assert relative_error(found, logits(floats)) < (2e-5 if kind in PACKED else 5e-3)
    assert relative_error(found, logits(packed)) < 0.15


@pytest.mark.parametrize("kind", PACKED)
def test_llama_cpps_blocks_through_mlx_and_back(quantized: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    packed = quantized(f"MOSTLY_{kind}")
    convert(packed, tmp_path / "mlx", to="mlx")
    again = convert(tmp_path / "mlx", tmp_path / "again.gguf", to="gguf").path
    assert np.array_equal(logits(again), logits(packed))


def test_int4_of_ours_in_llama_cpp(tmp_path: Path) -> None:
    llm = Llama.load("tiny", backend="reference", quantize="int4-g32")
    llm.save(tmp_path / "int4")
    made = convert(tmp_path / "int4", tmp_path / "int4.gguf", to="gguf").path
    prompt = llm.tokenizer.encode("Once upon a time there was")
    assert relative_error(logits(made, prompt), llm.forward([prompt]).numpy()["logits"][0]) < 0.05
    assert opened(made, vocab_only=True).metadata["general.file_type"] == "3"  # Q4_1


# ---- tokenizers

TEXTS = (
    *("", " ", "  ", "Hello", " Hello", "Hello  world", "a\nb\n\nc", "\t tab", "naïve café 你好 🙂", "<s>", "▁", "▁▁a"),
    *(
        "trailing ",
        "\n",
        "\u00a0x",
        "e\u0301",
        "1234567890 12",
        "don't I'll WE'VE",
        "a" * 50,
        "\r\n",
        "\u200b",
        "\x00a",
    ),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("tokenizers"))


def of_tokenizer(models: Models, kind: str, folder: Path) -> Path:
    """A model with dummy weights and a tokenizer."""
    place = TINY if kind == "tiny" else models.llama3() if kind == "llama3" else models.checkpoint(kind, kind)
    config = LlamaConfig(**SIZES | {"num_hidden_layers": 1, "bos_token_id": None, "eos_token_id": None})
    Llama.load(config, backend="reference", load_format="dummy").save(folder)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        if (place / name).exists():
            shutil.copy(place / name, folder)
    return folder


@pytest.mark.parametrize("kind", ["tiny", "llama3", "plain", "symbols", "across_words", "no_prefix"])
def test_token_ids_are_llama_cpps(models: Models, tmp_path: Path, kind: str) -> None:
    source = of_tokenizer(models, kind, tmp_path / "model")
    made = convert(source, tmp_path / "x.gguf", to="gguf").path
    tokenizer = Llama.load(source, backend="reference").tokenizer
    theirs = opened(made, vocab_only=True)
    chance = random.Random(3)
    texts = [*TEXTS, *("".join(chance.choices("abc  \n\té你🙂▁.,'!AB129", k=20)) for _ in range(60))]
    for text in texts:
        assert theirs.tokenize(text.encode(), add_bos=True, special=True) == tokenizer.encode(text), repr(text)


# Those that a Llama has; llama.cpp approximates some patterns of the others, so only plain text is compared there.
OF_LLAMAS = "llama-bpe falcon3 gpt-2 smollm qwen2 dbrx smaug-bpe default deepseek-llm deepseek-coder".split()  # noqa: SIM905
PLAIN = [
    "Once upon a time there were 3 bears, 12345 llamas and 1000000 x",
    "It's IT'S we'll  (hello)\n\n\tworld   !\r\n ",
    "def f(x):\n    return x ** 2  # 2.5e-7 <a|b> $5 ~`_",
]
WIDE = [*PLAIN, "naïve café Ünï 日本語。한국어 Привет мир \u00a0x"]


@pytest.mark.parametrize("pre", SPLITTINGS)
def test_words_are_split_as_llama_cpp_does(tiny_models: TinyModels, tmp_path: Path, pre: str) -> None:
    said = gguf_tokenizers.metadata(pre)
    count = len(said["tokenizer.ggml.tokens"])
    model, _ = tiny_models(**SIZES | {"vocab_size": count})

    def add(writer: Any) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2" if pre == "gpt2" else pre)
        writer.add_token_list(said["tokenizer.ggml.tokens"])
        writer.add_token_types(said["tokenizer.ggml.token_type"])
        writer.add_token_merges(said["tokenizer.ggml.merges"])
        writer.add_bos_token_id(count - 3)
        writer.add_eos_token_id(count - 2)

    path = write_gguf(tmp_path / "x.gguf", model, tokens=add)
    try:
        theirs = opened(path, vocab_only=True)
    except ValueError:
        if pre in OF_LLAMAS:
            raise
        pytest.skip(f"this llama.cpp does not know the name {pre!r}")
    ours = GgufCheckpoint(path).tokenizer()
    for text in WIDE if pre in OF_LLAMAS else PLAIN:
        wanted = theirs.tokenize(text.encode(), add_bos=True, special=True)
        assert ours.encode(text) == wanted, (pre, text)


def test_smollm2_has_the_ids_of_llama_cpp(smollm2: Path) -> None:
    theirs, ours = opened(smollm2, vocab_only=True), GgufCheckpoint(smollm2).tokenizer()
    for text in [*WIDE, "<|im_start|>user\nHi 2024<|im_end|>\n"]:
        assert ours.encode(text) == theirs.tokenize(text.encode(), add_bos=True, special=True), text


def test_a_tokenizer_that_joins_spaces(models: Models, tmp_path: Path) -> None:
    source = of_tokenizer(models, "strip", tmp_path / "model")
    with pytest.warns(PolyllamaWarning, match="runs of spaces one, which llama.cpp does not"):
        convert(source, tmp_path / "x.gguf", to="gguf")


def test_a_tokenizer_that_llama_cpp_would_end_by(models: Models, tmp_path: Path) -> None:
    """A character that is no token: llama.cpp looks for its bytes and aborts the process where there are none."""
    source = of_tokenizer(models, "no_bytes", tmp_path / "model")
    with pytest.warns(PolyllamaWarning, match="the tokenizer is not written: .* no tokens for bytes"):
        made = convert(source, tmp_path / "x.gguf", to="gguf").path
    assert opened(made, vocab_only=True).metadata["tokenizer.ggml.model"] == "none"
