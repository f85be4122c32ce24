"""One contender in a process of its own: it loads its model, then does what it is told, line by line in JSON.

    python -m polyllama.plugins.bench.worker polyllama FOLDER THREADS

Work: ``{"do": "prefill", "tokens": 512}``, ``{"do": "decode", "context": 16, "tokens": 24, "batch": 1}`` and
``{"do": "read"}``; each answer has ``seconds``, and everything that came out of it.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

CONTEXT = 2304


class Contender(Protocol):
    """What every contender does. A session is its cache."""

    def start(self, batch: int, context: int) -> None: ...
    def feed(self, tokens: list[list[int]]) -> None: ...


class Polyllama:
    """Backend cpu, or another one: ``polyllama:torch``."""

    def __init__(self, model: Path, threads: int, backend: str) -> None:
        if threads:  # else as many as the model is worth
            os.environ["POLYLLAMA_THREADS"] = str(threads)
        from polyllama import Llama

        self.model: Any = Llama.load(model, backend=backend or "cpu").model

    def start(self, batch: int, context: int) -> None:
        self.cache = self.model.new_cache(batch, context)

    def feed(self, tokens: list[list[int]]) -> None:
        import numpy as np

        ids = np.asarray(tokens)
        from polyllama.core.forward.arguments import ForwardArguments

        arguments = ForwardArguments(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        output = self.model.forward(arguments)
        self.cache = output.past_key_values
        self.model.to_numpy(output.logits)

    def read(self) -> float:
        """Bytes read in a pass over all matrices, as decoding reads them, per second."""
        program = self.model.lowered.program
        began = time.perf_counter()
        program.read_weights()
        return float(program.weight_bytes / (time.perf_counter() - began))

    @property
    def weight_bytes(self) -> int:
        """Bytes that a decoded token reads."""
        lowered = getattr(self.model, "lowered", None)
        return 0 if lowered is None else int(lowered.program.weight_bytes)


class LlamaCpp:
    """llama.cpp through llama-cpp-python's low-level functions, so that nothing but its own work is measured."""

    def __init__(self, model: Path, threads: int, backend: str) -> None:
        llama_cpp: Any = importlib.import_module("llama_cpp")  # an extra, which type checking does without
        self.lib = llama_cpp
        llama_cpp.llama_log_set(_silent(llama_cpp), None)
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(model).encode(), parameters)
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {model}")
        self.threads = threads
        self.context: Any = None

    def start(self, batch: int, context: int) -> None:
        lib = self.lib
        if self.context is not None:
            lib.llama_free(self.context)
        parameters = lib.llama_context_default_params()
        parameters.n_ctx = -(-context * batch // 256) * 256 * (1 if batch == 1 else 2)
        parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_threads = parameters.n_threads_batch = self.threads
        parameters.n_seq_max = batch
        self.context = lib.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise SystemExit("llama.cpp makes no context")
        self.position = 0

    def feed(self, tokens: list[list[int]]) -> None:
        lib = self.lib
        rows, length = len(tokens), len(tokens[0])
        for start in range(0, length, 512):
            stop = min(start + 512, length)
            batch = lib.llama_batch_init(rows * (stop - start), 0, rows)
            place = 0
            for row in range(rows):
                for index in range(start, stop):
                    batch.token[place] = tokens[row][index]
                    batch.pos[place] = self.position + index
                    batch.n_seq_id[place] = 1
                    batch.seq_id[place][0] = row
                    batch.logits[place] = index == length - 1
                    place += 1
            batch.n_tokens = place
            if lib.llama_decode(self.context, batch):
                raise SystemExit("llama.cpp's llama_decode failed")
            lib.llama_batch_free(batch)
        lib.llama_get_logits(self.context)[0]  # waits for what is being computed
        self.position += length


_kept: list[Any] = []


def _silent(lib: Any) -> Any:
    callback = lib.llama_log_callback(lambda level, text, data: None)
    _kept.append(callback)  # C keeps only the address
    return callback


class Transformers:
    """transformers on torch, its weights random in the checkpoint's dtype."""

    def __init__(self, model: Path, threads: int, backend: str) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        self.torch = torch
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=AutoConfig.from_pretrained(model).dtype)
        self.model.train(False)

    def start(self, batch: int, context: int) -> None:
        self.cache: Any = None

    def feed(self, tokens: list[list[int]]) -> None:
        ids = self.torch.tensor(tokens)
        output = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = output.past_key_values
        float(output.logits[0, -1, 0])


class MlxLm:
    """mlx-lm, which reads packed weights as they are."""

    def __init__(self, model: Path, threads: int, backend: str) -> None:
        self.mx: Any = importlib.import_module("mlx.core")
        self.caches: Any = importlib.import_module("mlx_lm.models.cache")
        self.model: Any = importlib.import_module("mlx_lm.utils").load_model(model)[0]

    def start(self, batch: int, context: int) -> None:
        self.cache: Any = self.caches.make_prompt_cache(self.model)

    def feed(self, tokens: list[list[int]]) -> None:
        ids = self.mx.array(tokens)
        if ids.shape[1] > 1:  # as mlx-lm itself does: of a prompt, only the last token's logits are computed
            self.model(ids[:, :-1], cache=self.cache)
            self.mx.eval([cache.state for cache in self.cache])
        self.mx.eval(self.model(ids[:, -1:], cache=self.cache))


class OpenVino:
    """OpenVINO's CPU plugin on a model in its own form.

    What is not set is the plugin's own choice: bfloat16 where the processor has it (but for float32 models), keys and
    values in 8 bits.
    """

    def __init__(self, model: Path, threads: int, backend: str) -> None:
        from .openvino_model import options

        core: Any = importlib.import_module("openvino").Core()
        found = core.read_model(str(model))
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)} | options(found)
        self.request = core.compile_model(found, "CPU", settings).create_infer_request()

    def start(self, batch: int, context: int) -> None:
        import numpy as np

        self.request.reset_state()
        self.position = 0
        self.rows = np.arange(batch, dtype=np.int32)

    def feed(self, tokens: list[list[int]]) -> None:
        import numpy as np

        ids = np.asarray(tokens, np.int64)
        places = np.arange(self.position, self.position + ids.shape[1], dtype=np.int64)
        self.position += ids.shape[1]
        inputs = {"input_ids": ids, "position_ids": np.tile(places, (len(ids), 1)), "beam_idx": self.rows}
        self.logits = self.request.infer(inputs, share_inputs=True, share_outputs=True)["logits"]
        # The plugin was seen to return at once, without an error and with nothing, where its kernels did not fit.
        if self.logits.shape[:2] != (len(ids), 1):
            found = list(self.logits.shape)
            raise SystemExit(f"openvino gives logits of shape {found}, wanted [{len(ids)}, 1, vocab]: no figure of it")


CONTENDERS: dict[str, Callable[[Path, int, str], Contender]] = {
    "polyllama": Polyllama,
    "llama-cpp": LlamaCpp,
    "transformers": Transformers,
    "mlx-lm": MlxLm,
    "openvino": OpenVino,
}


def peak_memory() -> int:
    """Most bytes of memory this process has had, files mapped into it included."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def work(contender: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Do one thing and say how long it took."""
    if task["do"] == "read":
        return {"rate": contender.read()}
    batch, context = task.get("batch", 1), task.get("context", 0)
    count = task["tokens"]
    contender.start(batch, context + count + 2)
    if task["do"] == "prefill":
        began = time.perf_counter()
        contender.feed([[(7 * i + 1) % 30 for i in range(count)]] * batch)
        return {"seconds": time.perf_counter() - began}
    if context:
        contender.feed([[(7 * i + row) % 30 for i in range(context)] for row in range(batch)])
    times = []
    for step in range(count):
        began = time.perf_counter()
        contender.feed([[(step + row) % 30] for row in range(batch)])
        times.append(time.perf_counter() - began)
    return {"seconds": statistics.median(times[2:] or times) / batch}


def main() -> None:
    """Answer lines until there are no more."""
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, model, threads = sys.argv[1:4]
    kind, _, backend = name.partition(":")
    began = time.perf_counter()
    contender = CONTENDERS[kind](Path(model), int(threads), backend)
    loaded = time.perf_counter() - began
    contender.start(1, 64)
    contender.feed([[1, 2, 3, 4]])
    first = time.perf_counter() - began
    ready = {"load": loaded, "first_token": first, "weight_bytes": getattr(contender, "weight_bytes", 0)}
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        answer = work(contender, json.loads(line)) | {"peak": peak_memory()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    from polyllama.core.errors import PolyllamaError

    try:
        main()
    except PolyllamaError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
