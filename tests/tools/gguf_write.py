"""Writes a GGUF file tensor by tensor, so that a model larger than memory can be made."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from appliance.ggml import ARRAY, BOOL, FLOAT32, GGML_TYPES, INT32, SCALARS, STRING, UINT32
from appliance.gguf import DEFAULT_ALIGNMENT

Value = bool | int | float | str | Sequence[bool] | Sequence[int] | Sequence[float] | Sequence[str]

NUMBERS = {name: number for number, (name, _, _) in GGML_TYPES.items()}
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


class Spec(NamedTuple):
    """A tensor to write."""

    name: str
    """Its name."""
    shape: tuple[int, ...]
    """Its shape in NumPy's order, the slowest dimension first."""
    type: str
    """F32 or F16."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its data, without padding."""
        return math.prod(self.shape) * int(DTYPES[self.type].itemsize)


def write(
    path: Path, metadata: Mapping[str, Value], specs: Sequence[Spec], values: Callable[[Spec], NDArray[np.float32]]
) -> None:
    """Write a GGUF v3 file. `values` is asked for each tensor in turn; whole numbers become uint32."""
    head = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(specs), len(metadata)))
    for key, value in metadata.items():
        head += _text(key) + _typed(value)
    offset = 0
    for spec in specs:
        dims = spec.shape[::-1]
        head += _text(spec.name) + struct.pack(f"<I{len(dims)}q", len(dims), *dims)
        head += struct.pack("<IQ", NUMBERS[spec.type], offset)
        offset += spec.size_bytes + -spec.size_bytes % DEFAULT_ALIGNMENT
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % DEFAULT_ALIGNMENT))
        for spec in specs:
            data = values(spec).astype(DTYPES[spec.type])
            assert data.shape == spec.shape, (spec, data.shape)
            file.write(data.tobytes() + bytes(-spec.size_bytes % DEFAULT_ALIGNMENT))


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, bool | int | float):
        kind = BOOL if isinstance(value, bool) else UINT32 if isinstance(value, int) else FLOAT32
        return struct.pack("<I", kind) + SCALARS[kind].pack(value)
    first = value[0]
    if isinstance(first, str):
        kind, body = STRING, b"".join(_text(str(item)) for item in value)
    else:
        kind = BOOL if isinstance(first, bool) else INT32 if isinstance(first, int) else FLOAT32
        body = b"".join(SCALARS[kind].pack(item) for item in value)
    return struct.pack("<IIQ", ARRAY, kind, len(value)) + body
