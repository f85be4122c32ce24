"""Fuzz every reader of checkpoints: whatever the bytes, it reads them or raises a CheckpointError that names the file.

    pip install atheris                                      # coverage-guided; Linux, CPython 3.11 to 3.13
    python tools/fuzz/fuzz_readers.py gguf -max_total_time=600    # libFuzzer's options; one reader, or "all"
    python tools/fuzz/fuzz_readers.py all --random 60             # without atheris: blind mutations for 60 seconds

A crash of the first kind leaves its input as crash-SHA1 in the working folder, of the second as crash-SEED.

``tests/core/checkpoint/test_fuzz.py`` runs the same samples and the same check under hypothesis.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_BYTES = 32 << 20
"""What reading a file of some kilobytes may take: the interpreter's own imports are most of it."""
MOST_SECONDS = 60
FIELDS = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Sample:
    """A small checkpoint: the folder or file to open, the format to open it as, and the files of it to damage."""

    path: Path
    format: str
    targets: tuple[Path, ...]


class Violation(Exception):
    """A reader broke the rule."""


def make_samples(folder: Path) -> dict[str, Sample]:
    """One checkpoint of each format and layout, all of the same random model."""
    from polyllama import Llama, LlamaConfig, convert

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no tokenizer
        config = LlamaConfig(vocab_size=48, num_hidden_layers=1, dtype="float32", **FIELDS)
        llm = Llama.load(config, load_format="dummy", backend="reference")
        llm.save(folder / "hf")
        llm.save(folder / "sharded", max_shard_size="16KB")
        for name, target in (("gguf", "gguf/model.gguf"), ("meta", "meta")):
            convert(folder / "hf", folder / target, to=name)
        _write_packed(folder / "hf", folder / "mlx")
        convert(folder / "mlx", folder / "packed/model.gguf", to="gguf")
    _write_ranks(folder / "meta", folder / "ranks")
    _write_pytorch(folder / "hf", folder / "pytorch")
    _write_llama2c(folder / "llama2c")
    formats = {"hf": "huggingface", "sharded": "huggingface", "mlx": "huggingface", "gguf": "gguf", "packed": "gguf"}
    formats |= {"meta": "meta", "ranks": "meta", "pytorch": "pytorch"}
    found = {}
    for name, kind in formats.items():
        files = [f for f in sorted((folder / name).iterdir()) if f.name != "generation_config.json"]
        found[name] = Sample(folder / name, kind, tuple(files))
    for file in sorted((folder / "llama2c").iterdir()):
        found[f"llama2c-{file.stem}"] = Sample(file, "llama2c", (file,))
    return found


def _write_packed(source: Path, target: Path) -> None:
    """The same model with 4-bit weights whose groups GGUF's Q4_0 holds exactly."""
    import numpy as np
    from polyllama.core.checkpoint.huggingface.save_safetensors import save_safetensors
    from polyllama.core.checkpoint.opening import open_checkpoint

    checkpoint = open_checkpoint(source)
    tensors: dict[str, Any] = {}
    for name, info in checkpoint.tensors().items():
        if len(info.shape) == 2:
            rows, columns = info.shape
            tensors[name] = np.random.default_rng(0).integers(0, 1 << 32, (rows, columns // 8), np.uint32)
            module = name.removesuffix(".weight")
            tensors[f"{module}.scales"] = np.full((rows, columns // 32), 0.125, np.float16)
            tensors[f"{module}.biases"] = np.full((rows, columns // 32), -1.0, np.float16)
        else:
            tensors[name] = checkpoint.read(name)
    save_safetensors(target, tensors)
    config = json.loads((source / "config.json").read_bytes())
    config["quantization"] = {"group_size": 32, "bits": 4}
    (target / "config.json").write_text(json.dumps(config))


def _write_ranks(source: Path, target: Path) -> None:
    """Meta's originals of one rank as of two."""
    from polyllama.core.checkpoint.meta.reader import COLUMN, EMBEDDING, ROW, huggingface_name
    from polyllama.core.checkpoint.meta.writer import write_torch_file
    from polyllama.core.checkpoint.pytorch.torch_file import TorchFile

    target.mkdir()
    shutil.copy(source / "params.json", target)
    whole = TorchFile(source / "consolidated.00.pth")
    axes = {COLUMN: 0, ROW: 1, EMBEDDING: 1}
    for rank in range(2):
        parts = {}
        for name in whole.tensors():
            array, axis = whole.read(name), axes.get((huggingface_name(name) or ("", ""))[1])
            size = 0 if axis is None else array.shape[axis] // 2
            where = slice(rank * size, (rank + 1) * size)
            parts[name] = array if axis is None else array[where] if axis == 0 else array[:, where]
        _torch_file(target / f"consolidated.{rank:02d}.pth", parts, write_torch_file)


def _write_pytorch(source: Path, target: Path) -> None:
    from polyllama.core.checkpoint.meta.writer import write_torch_file
    from polyllama.core.checkpoint.opening import open_checkpoint

    target.mkdir()
    shutil.copy(source / "config.json", target)
    checkpoint = open_checkpoint(source)
    names = list(checkpoint.tensors())
    placed = {}
    for number in (1, 2):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        mine = {name: checkpoint.read(name) for name in names[number - 1 :: 2]}
        _torch_file(target / file, mine, write_torch_file)
        placed |= dict.fromkeys(mine, file)
    (target / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def _torch_file(path: Path, tensors: dict[str, Any], write: Callable[..., None]) -> None:
    from polyllama.core.checkpoint.protocol import TensorInfo

    write(path, [TensorInfo(n, a.dtype.name, a.shape) for n, a in tensors.items()], iter(tensors.values()))


def _write_llama2c(folder: Path) -> None:
    import numpy as np

    folder.mkdir()
    counts = struct.pack("<7i", 32, 64, 1, 2, 1, 48, 16)
    sizes = {"legacy": 48 * 32 + 2 * 16 * 8, "version1": 2 * 48 * 32}
    layer = 2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64
    for name, more in sizes.items():
        start = counts if name == "legacy" else (struct.pack("<Ii", 0x616B3432, 1) + counts + b"\0").ljust(256, b"\0")
        (folder / f"{name}.bin").write_bytes(start + np.ones(layer + 32 + more, np.float32).tobytes())


def read_everything(path: Path, load_format: str) -> None:
    """Open a checkpoint and read its config, every tensor and its tokenizer, which must succeed or be refused.

    Raises:
        Violation: it took too much memory or time, or failed with anything but an error that names a file.
    """
    from polyllama.core.checkpoint.opening import open_checkpoint
    from polyllama.core.errors import CheckpointError, TokenizerError
    from polyllama.core.plugin_system.manager import plugin_manager

    formats = plugin_manager().checkpoint_formats()
    folder = path if path.is_dir() else path.parent
    with warnings.catch_warnings(), _bounded():
        warnings.simplefilter("ignore")
        try:
            checkpoint: Any = open_checkpoint(path, load_format, formats)
            for name in checkpoint.tensors():
                checkpoint.read(name)
            checkpoint.config()
            if hasattr(checkpoint, "tokenizer"):
                checkpoint.tokenizer()
        except (CheckpointError, TokenizerError) as error:
            if not any(str(place) in str(error) for place in (folder, *folder.iterdir())):
                raise Violation(f"does not name the file: {error}") from error
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}") from error


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise ``Violation`` where the block takes too long or too much memory."""

    def late(*_: object) -> None:
        raise Violation(f"takes longer than {MOST_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_SECONDS)
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if peak > MOST_BYTES:
        raise Violation(f"takes {peak:,} bytes of memory")


# ---- damage

NUMBERS = (0, 1, 2, 7, 31, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
TEXTS = (b"..", b"/", b'"', b"\xff", b"{}", b"[", b"]", b"null", b"NaN", b"1e999", b"-1", b"9" * 5000, b"\0" * 64)


def damaged(content: bytes, kind: str, where: int, value: int) -> bytes:
    """The bytes with one thing wrong; any `where` and `value` will do.

    Kinds: cut, flip (a bit), number (overwrite 1 to 8 bytes by an extreme), text, insert, repeat, drop, swap, pad.
    """
    at = where % max(len(content), 1)
    length = 1 << value % 12
    part = content[at : at + length]
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ (1 << value % 8)]) + content[at + 1 :] if content else content
    if kind == "number":
        width = (1, 2, 4, 8)[value % 4]
        raw = (NUMBERS[value // 4 % len(NUMBERS)] & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        return content[:at] + raw + content[at + width :]
    if kind in ("text", "insert"):
        text = TEXTS[value % len(TEXTS)]
        return content[:at] + text + content[at + (len(text) if kind == "text" else 0) :]
    if kind == "repeat":
        return content[:at] + part + content[at:]
    if kind == "drop":
        return content[:at] + content[at + length :]
    if kind == "swap":
        other = value % max(len(content), 1)
        first, second = sorted((at, other))
        length = min(length, second - first)
        moved = content[second : second + length], content[first : first + length]
        return content[:first] + moved[0] + content[first + length : second] + moved[1] + content[second + length :]
    return content + bytes(length)


KINDS = ("cut", "flip", "number", "text", "insert", "repeat", "drop", "swap", "pad")


def place(generator: random.Random, size: int) -> int:
    """Somewhere in a file; mostly near its begin or end, where headers and directories are."""
    near = min(size, 2048)
    choice = generator.random()
    if choice < 0.5:
        return generator.randrange(near + 1)
    return size - generator.randrange(near + 1) if choice < 0.8 else generator.randrange(size + 1)


def with_content(sample: Sample, target: Path, content: bytes, folder: Path) -> Path:
    """A copy of a sample in `folder` with one file replaced; the path to open."""
    base = sample.path if sample.path.is_dir() else sample.path.parent
    copy = folder / base.name
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for file in base.iterdir():
        (copy / file.name).write_bytes(content if file == target else file.read_bytes())
    return copy if sample.path.is_dir() else copy / sample.path.name


# ---- the two ways to run it


def run_blindly(samples: dict[str, Sample], seconds: float, folder: Path) -> int:
    """Damage files at random until the time is over; how many were tried."""
    end, seed = time.monotonic() + seconds, random.randrange(1 << 40)
    tried = 0
    while time.monotonic() < end:
        generator = random.Random(seed + tried)
        sample = generator.choice(list(samples.values()))
        target = generator.choice(sample.targets)
        content = target.read_bytes()
        for _ in range(generator.randint(1, 3)):
            kind = generator.choice(KINDS)
            content = damaged(content, kind, place(generator, len(content)), generator.randrange(1 << 32))
        path = with_content(sample, target, content, folder)
        try:
            read_everything(path, sample.format)
        except Violation:
            Path(f"crash-{seed + tried}-{target.name}").write_bytes(content)
            raise
        tried += 1
    return tried


def run_atheris(samples: dict[str, Sample], arguments: list[str], folder: Path) -> None:
    """Let libFuzzer choose the bytes; the first one says which file of which sample they replace."""
    import atheris

    places = [(sample, target) for sample in samples.values() for target in sample.targets]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, (_, target) in enumerate(places):
        (corpus / str(number)).write_bytes(bytes([number]) + target.read_bytes())

    def once(data: bytes) -> None:
        if data:
            sample, target = places[data[0] % len(places)]
            read_everything(with_content(sample, target, data[1:], folder), sample.format)

    atheris.Setup([sys.argv[0], "-max_len=65536", "-len_control=0", *arguments, str(corpus)], once)
    atheris.Fuzz()


def instrument() -> None:
    """Import the readers so that libFuzzer sees which of their branches run; before anything else imports them."""
    try:
        import atheris
    except ImportError:
        raise SystemExit("atheris is not installed: pip install atheris, or use --random SECONDS") from None
    with atheris.instrument_imports(include=["polyllama.core"]):
        import polyllama.core.checkpoint.gguf.reader
        import polyllama.core.checkpoint.llama2c
        import polyllama.core.checkpoint.meta.reader
        import polyllama.core.checkpoint.pytorch.torch_file
        import polyllama.core.config.schema  # noqa: F401


def main() -> None:
    """See the top of the file."""
    names = sys.argv[1:2]
    if not names or names[0].startswith("-"):
        raise SystemExit(__doc__)
    blindly = sys.argv[2:3] == ["--random"]
    if not blindly:
        instrument()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = make_samples(folder / "samples")
        if names != ["all"]:
            samples = {key: sample for key, sample in samples.items() if names[0] in (key, sample.format)}
        if not samples:
            raise SystemExit(f"no reader is called {names[0]!r}")
        if blindly:
            tried = run_blindly(samples, float(sys.argv[3]), folder)
            print(f"{tried:,} damaged checkpoints read or refused")
        else:
            run_atheris(samples, sys.argv[2:], folder)


if __name__ == "__main__":
    main()
