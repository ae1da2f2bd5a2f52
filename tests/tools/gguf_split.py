"""Splits a GGUF file into shards as llama.cpp's `llama-gguf-split` does, for tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from appliance.ggml import GGML_TYPES, INT32, SCALARS, UINT16, UINT32
from appliance.gguf import DEFAULT_ALIGNMENT, read_header

NUMBERS = {name: number for number, (name, _, _) in GGML_TYPES.items()}


def pair(key: str, kind: int, value: int) -> bytes:
    """A key and its value."""
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + SCALARS[kind].pack(value)


def split(
    whole: bytes,
    groups: Sequence[Sequence[str]],
    *,
    extra: Sequence[bytes] = (),
    alignment: int | None = None,
    tail: bool = True,
) -> list[bytes]:
    """The shards of `whole`, one for each group of tensor names.

    The first shard has all keys; the others have `extra`, their own `alignment` (that of `whole` when None) and the
    keys of a split. `tail`: pad the last tensor of each shard.
    """
    header = read_header(whole)
    pairs: list[bytes] = [whole[start:end] for start, end in header.spans.values()]
    tensors = {tensor.name: tensor for tensor in header.tensors}
    shards = []
    for number, names in enumerate(groups):
        unit = (alignment if number else None) or header.alignment
        keys = [
            *([*extra, *([wide(unit)] if unit != DEFAULT_ALIGNMENT else [])] if number else pairs),
            pair("split.no", UINT16, number),
            pair("split.tensors.count", INT32, len(tensors)),
            pair("split.count", UINT16, len(groups)),
        ]
        infos, data = b"", b""
        for name in names:
            tensor = tensors[name]
            data += bytes(-len(data) % unit)
            infos += struct.pack("<Q", len(name.encode())) + name.encode()
            infos += struct.pack(f"<I{len(tensor.dims)}q", len(tensor.dims), *tensor.dims)
            infos += struct.pack("<IQ", NUMBERS[tensor.type], len(data))
            data += whole[tensor.offset : tensor.offset + tensor.size_bytes]
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(names), len(keys)) + b"".join(keys) + infos
        shards.append(head + bytes(-len(head) % unit) + data + bytes(-len(data) % unit if tail else 0))
    return shards


def even(whole: bytes, count: int) -> list[list[str]]:
    """The names of the tensors in `whole`, in `count` groups of about the same length."""
    names = [tensor.name for tensor in read_header(whole).tensors]
    return [names[len(names) * i // count : len(names) * (i + 1) // count] for i in range(count)]


def save(shards: Sequence[bytes], folder: Path, stem: str) -> list[Path]:
    """The shards in `folder`, under the names that llama.cpp gives them."""
    paths = [folder / f"{stem}-{number:05d}-of-{len(shards):05d}.gguf" for number in range(1, len(shards) + 1)]
    for path, data in zip(paths, shards, strict=True):
        path.write_bytes(data)
    return paths


def wide(alignment: int) -> bytes:
    """The key that sets the alignment."""
    return pair("general.alignment", UINT32, alignment)
