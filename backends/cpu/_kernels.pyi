from typing import Any

import numpy as np
from numpy.typing import NDArray

def instruction_sets() -> list[str]: ...
def packed_bytes(format: str, rows: int, columns: int, group: int, scale: str) -> int: ...
def pack_floats(format: str, source: NDArray[Any], out: NDArray[np.uint8]) -> None: ...
def pack_quantized(
    format: str,
    columns: int,
    group: int,
    scale: str,
    bits: int,
    words: NDArray[np.uint32],
    scales: NDArray[Any],
    biases: NDArray[Any],
    out: NDArray[np.uint8],
) -> None: ...

class Matrix:
    def __init__(
        self,
        format: str,
        rows: int,
        columns: int,
        group: int,
        scale: str,
        data: NDArray[np.uint8],
        bias: NDArray[np.float32] | None = None,
    ) -> None: ...
    def unpack_floats(self, out: NDArray[Any]) -> None: ...
    def unpack_quantized(
        self, bits: int, words: NDArray[np.uint32], scales: NDArray[Any], biases: NDArray[Any]
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def padded_rows(self) -> int: ...

class Cache:
    def __init__(
        self,
        element: str,
        head_dim: int,
        keys: NDArray[Any],
        values: NDArray[Any],
        key_scales: NDArray[np.float32] | None = None,
        value_scales: NDArray[np.float32] | None = None,
    ) -> None: ...

class Program:
    def __init__(self, isa: str, threads: int, integer_inputs: bool) -> None: ...
    def buffer(self, width: int) -> int: ...
    def rope(self, half: int, factor: float) -> int: ...
    def table(self, table: Matrix | tuple[str, NDArray[Any]]) -> None: ...
    def packed_table(
        self, bits: int, scale: str, words: NDArray[np.uint32], scales: NDArray[Any], biases: NDArray[Any]
    ) -> None: ...
    def linear(
        self,
        input: int,
        norm: NDArray[np.float32] | None,
        eps: float,
        matrices: list[Matrix],
        outputs: list[int],
        add: bool,
    ) -> int: ...
    def gated(
        self,
        input: int,
        norm: NDArray[np.float32] | None,
        eps: float,
        gate: Matrix,
        up: Matrix,
        output: int,
        activation: int,
    ) -> int: ...
    def attention(
        self,
        q: int,
        k: int,
        v: int,
        output: int,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        rope: int,
    ) -> int: ...
    def norm(self, input: int, output: int, weight: NDArray[np.float32], eps: float, round: bool) -> int: ...
    def capture(self, input: int) -> int: ...
    def head(self, input: int, matrix: Matrix) -> int: ...
    def run(
        self,
        first: int,
        last: int,
        tokens: NDArray[Any],
        positions: NDArray[np.int64],
        frequencies: list[NDArray[np.float32]],
        cache: Cache | None,
        past: int,
        mask: NDArray[np.uint8] | None = None,
        captured: NDArray[np.float32] | None = None,
        hidden: NDArray[np.float32] | None = None,
        hidden_buffer: int = 0,
        kept: NDArray[np.int64] | None = None,
        logits: NDArray[np.float32] | None = None,
    ) -> bool: ...
    def product(self, matrix: Matrix, x: NDArray[np.float32], y: NDArray[np.float32]) -> None: ...
    def read_weights(self) -> int: ...
    @property
    def operations(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
