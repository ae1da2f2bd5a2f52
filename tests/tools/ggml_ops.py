"""Single operators of a built engine, called through ggml's C interface: products and attention on small tensors.

Arrays are NumPy float32 with the fastest index last, as usual there: ggml's shapes are these, read backwards. Weights
are bytes in a GGUF type. Assumed: shapes fit together. ggml ends the process where they do not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.ggml import GGML_TYPES

Floats = NDArray[np.float32]
TYPES = {name: (number, weights, size) for number, (name, weights, size) in GGML_TYPES.items()}
"""For each type's name: its number, weights in a block, bytes of a block."""
MEMORY_BYTES = 256 << 20

_Tensor = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_cpu_init": (None, []),
    "ggml_free": (None, [ctypes.c_void_p]),
    "ggml_new_tensor_4d": (_Tensor, [ctypes.c_void_p, ctypes.c_int] + [ctypes.c_int64] * 4),
    "ggml_get_data": (ctypes.c_void_p, [_Tensor]),
    "ggml_nbytes": (ctypes.c_size_t, [_Tensor]),
    "ggml_quantize_requires_imatrix": (ctypes.c_bool, [ctypes.c_int]),
    "ggml_quantize_chunk": (
        ctypes.c_size_t,
        [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p],
    ),
    "ggml_mul_mat": (_Tensor, [ctypes.c_void_p, _Tensor, _Tensor]),
    "ggml_mul_mat_id": (_Tensor, [ctypes.c_void_p, _Tensor, _Tensor, _Tensor]),
    "ggml_flash_attn_ext": (_Tensor, [ctypes.c_void_p] + [_Tensor] * 4 + [ctypes.c_float] * 3),
    "ggml_flash_attn_ext_add_sinks": (None, [_Tensor, _Tensor]),
    "ggml_rms_norm": (_Tensor, [ctypes.c_void_p, _Tensor, ctypes.c_float]),
    "ggml_mul": (_Tensor, [ctypes.c_void_p, _Tensor, _Tensor]),
    "ggml_new_graph": (ctypes.c_void_p, [ctypes.c_void_p]),
    "ggml_build_forward_expand": (None, [ctypes.c_void_p, _Tensor]),
    "ggml_graph_compute_with_ctx": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]),
}


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@dataclass(frozen=True)
class Packed:
    """An array in a GGUF type."""

    kind: str
    """The type's name, as in `TYPES`."""
    shape: tuple[int, ...]
    """Its shape, the fastest index last. A row (the last dimension) is a whole number of blocks."""
    data: bytes
    """Its blocks."""

    def head(self, axis: int, length: int) -> Packed:
        """The first `length` entries along `axis`, which is not the last one."""
        _, weights, size = TYPES[self.kind]
        blocks = np.frombuffer(self.data, np.uint8).reshape(*self.shape[:-1], self.shape[-1] // weights * size)
        shape = list(self.shape)
        shape[axis] = length
        return Packed(self.kind, tuple(shape), np.take(blocks, range(length), axis).tobytes())


class Ops:
    """The operators of one engine library."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._library.ggml_init.restype, self._library.ggml_init.argtypes = ctypes.c_void_p, [_InitParams]
        self._library.ggml_cpu_init()

    def pack(self, kind: str, values: Floats) -> Packed:
        """`values` quantised to `kind`. Types that want an importance matrix get one of equal weights."""
        number, weights, size = TYPES[kind]
        values = np.ascontiguousarray(values, np.float32)
        rows, width = values.size // values.shape[-1], values.shape[-1]
        if kind == "F32":
            return Packed(kind, values.shape, values.tobytes())
        out = ctypes.create_string_buffer(rows * (width // weights) * size)
        equal = np.ones(width, np.float32)
        importance = equal.ctypes.data if self._library.ggml_quantize_requires_imatrix(number) else None
        self._library.ggml_quantize_chunk(number, values.ctypes.data, out, 0, rows, width, importance)
        return Packed(kind, values.shape, out.raw)

    def mul_mat(self, weights: Packed, columns: Floats, threads: int) -> Floats:
        """`weights` [.., m, k] times `columns` [.., n, k], as [.., n, m]. Leading dimensions of `weights` broadcast."""
        with self._context() as context:
            result = self._library.ggml_mul_mat(context, self._tensor(context, weights), self._floats(context, columns))
            return self._compute(context, result, threads, (*columns.shape[:-1], weights.shape[-2]))

    def mul_mat_id(self, experts: Packed, columns: Floats, chosen: NDArray[np.int32], threads: int) -> Floats:
        """`experts` [e, m, k] times `columns` [n, u or 1, k], as [n, u, m]; `chosen` [n, u] says which expert."""
        with self._context() as context:
            ids = self._tensor(context, Packed("I32", chosen.shape, np.ascontiguousarray(chosen).tobytes()))
            weights, vectors = self._tensor(context, experts), self._floats(context, columns)
            result = self._library.ggml_mul_mat_id(context, weights, vectors, ids)
            return self._compute(context, result, threads, (*chosen.shape, experts.shape[-2]))

    def attention(
        self,
        queries: Floats,
        keys: Packed,
        values: Packed,
        mask: NDArray[np.float16] | None,
        threads: int,
        *,
        alibi: float = 0.0,
        softcap: float = 0.0,
        sinks: Floats | None = None,
    ) -> Floats:
        """Attention of `queries` [s, h, n, d] over `keys` [s, g, c, d] and `values` [s, g, c, e], as [s, n, h, e].

        `mask` [s, 1, n, c] is added to the scores, scaled per head when `alibi` is not 0. `sinks` [h]: further scores.
        """
        with self._context() as context:
            inputs: list[int | None] = [self._floats(context, queries)]
            inputs += [self._tensor(context, keys), self._tensor(context, values)]
            inputs.append(
                None
                if mask is None
                else self._tensor(context, Packed("F16", mask.shape, np.ascontiguousarray(mask).tobytes()))
            )
            scale = 1 / float(np.sqrt(queries.shape[-1]))
            result = self._library.ggml_flash_attn_ext(context, *inputs, scale, alibi, softcap)
            if sinks is not None:
                self._library.ggml_flash_attn_ext_add_sinks(result, self._floats(context, sinks))
            streams, heads, count, _ = queries.shape
            return self._compute(context, result, threads, (streams, count, heads, values.shape[-1]))

    def norm(self, rows: Floats, gain: Floats, threads: int) -> Floats:
        """The root-mean-square norm of `rows` [n, k] times `gain` [k]: two operators that the backend fuses."""
        with self._context() as context:
            normed = self._library.ggml_rms_norm(context, self._floats(context, rows), 1e-5)
            result = self._library.ggml_mul(context, normed, self._floats(context, gain))
            return self._compute(context, result, threads, rows.shape)

    @contextmanager
    def _context(self) -> Iterator[int]:
        context = self._library.ggml_init(_InitParams(MEMORY_BYTES, None, False))
        try:
            yield context
        finally:
            self._library.ggml_free(context)

    def _tensor(self, context: int, array: Packed) -> int:
        number, _, _ = TYPES[array.kind]
        sizes = (*reversed(array.shape), *(1,) * (4 - len(array.shape)))
        tensor: int = self._library.ggml_new_tensor_4d(context, number, *sizes)
        if self._library.ggml_nbytes(tensor) != len(array.data):
            raise ValueError(
                f"expected {self._library.ggml_nbytes(tensor)} bytes of {array.kind}, found {len(array.data)}"
            )
        ctypes.memmove(self._library.ggml_get_data(tensor), array.data, len(array.data))
        return tensor

    def _floats(self, context: int, array: Floats) -> int:
        return self._tensor(context, Packed("F32", array.shape, np.ascontiguousarray(array, np.float32).tobytes()))

    def _compute(self, context: int, result: int, threads: int, shape: tuple[int, ...]) -> Floats:
        graph = self._library.ggml_new_graph(context)
        self._library.ggml_build_forward_expand(graph, result)
        if status := self._library.ggml_graph_compute_with_ctx(context, graph, threads):
            raise RuntimeError(f"ggml ended with status {status}")
        size = self._library.ggml_nbytes(result)
        return np.frombuffer(ctypes.string_at(self._library.ggml_get_data(result), size), np.float32).reshape(shape)
