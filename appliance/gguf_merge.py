"""Makes one GGUF file of a model's shards, because a sealed worker loads one descriptor and can open no path.

The content is a pure function of the shards: the first shard's keys and values as they are, without those under
`split.`; the tensors of all shards in order; their data as it lies in the shards, padded to the alignment. Keys of
later shards are dropped, as llama.cpp drops them.

Assumes shards that were hashed, and headers that `gguf.read_header` took from them. Refuses what `gguf.check_shards`
refuses, and a result that the reader would not accept. The result is not hashed: it holds nothing but what was hashed.
Memory: the result; a shard is closed once its data is copied, so that a model and its largest shard are held at a time,
never the model twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from appliance import gguf
from appliance.ggml import GGML_TYPES
from appliance.gguf import GGUFHeader
from appliance.memfd import Progress, SealedFile, no_progress, seal_chunks

CHUNK_BYTES = 4 << 20
"""Copied at a time."""
PREFIX = "split."
"""Of the keys that say which shard a file is."""
_HEAD = struct.Struct("<4sIQQ")
_NUMBERS = {name: number for number, (name, _, _) in GGML_TYPES.items()}


def merge(
    name: str, shards: Sequence[SealedFile], headers: Sequence[GGUFHeader], *, progress: Progress = no_progress
) -> SealedFile:
    """The model in `shards`, whose headers are `headers`, as one sealed file called `name`. Closes the shards.

    Raises `MalformedInput` for shards that do not fit together or are too many for one file, and `EnvironmentProblem`
    where the memory does not suffice.
    """
    # 1. All shards of one model, in order.
    gguf.check_shards(headers, name)

    # 2. One file of them.
    head = _head(shards[0], headers)
    size_bytes = len(head) + sum(_padded_bytes(header) for header in headers)
    merged = seal_chunks(name, size_bytes, _content(name, head, shards, headers, progress))

    # 3. Read it like any other file: it says what the shards said, and it is whole.
    try:
        with merged.view() as view:
            found = gguf.read_header(view, what=f"{name}, merged")
        if _said([found]) != _said(headers):
            raise RuntimeError(f"{name}: expected keys and tensors of its shards in the merged file, found others")
    except BaseException:
        merged.close()
        raise
    return merged


def _head(shard: SealedFile, headers: Sequence[GGUFHeader]) -> bytes:
    """Everything before the data: numbers, the keys and values of the first `shard`, the tensors of all."""
    first = headers[0]
    spans = [span for key, span in first.spans.items() if not key.startswith(PREFIX)]
    with shard.view() as view:
        values = b"".join(view[start:end] for start, end in spans)
    numbers = _HEAD.pack(gguf.MAGIC, first.version, sum(len(header.tensors) for header in headers), len(spans))
    head = numbers + values + b"".join(_tensors(headers))
    return head + bytes(-len(head) % first.alignment)


def _content(
    name: str, head: bytes, shards: Sequence[SealedFile], headers: Sequence[GGUFHeader], progress: Progress
) -> Iterator[bytes | memoryview]:
    """The bytes of the merged file, in order. Slices of a shard are valid until the next one is asked for."""
    done, total = 0, sum(_data_bytes(header) for header in headers)
    yield head
    # Inside a shard the data is aligned already; between shards the padding may be missing.
    for shard, header in zip(shards, headers, strict=True):
        size = _data_bytes(header)
        with shard.view() as view, view[header.data_offset : header.data_offset + size] as data:
            for start in range(0, size, CHUNK_BYTES):
                yield data[start : start + CHUNK_BYTES]
                progress(f"merge {name}", done + min(start + CHUNK_BYTES, size), total)
        shard.close()
        done += size
        yield bytes(_padded_bytes(header) - size)


def _tensors(headers: Sequence[GGUFHeader]) -> Iterator[bytes]:
    """What the merged file's header says of each tensor: its offset is counted from the start of all data."""
    base = 0
    for header in headers:
        for tensor in header.tensors:
            text, dims = tensor.name.encode(), tensor.dims
            offset = base + tensor.offset - header.data_offset
            yield struct.pack("<Q", len(text)) + text
            yield struct.pack(f"<I{len(dims)}qIQ", len(dims), *dims, _NUMBERS[tensor.type], offset)
        base += _padded_bytes(header)


def _data_bytes(header: GGUFHeader) -> int:
    """Size of a file's data, without padding after the last tensor."""
    last = header.tensors[-1] if header.tensors else None
    return last.offset + last.size_bytes - header.data_offset if last else 0


def _padded_bytes(header: GGUFHeader) -> int:
    """Size of a file's data in the merged file, with padding."""
    return -(-_data_bytes(header) // header.alignment) * header.alignment


def _said(headers: Sequence[GGUFHeader]) -> tuple[object, ...]:
    """What has to be the same in the shards of a model and in one file of them."""
    first = headers[0]
    values = {key: repr(value) for key, value in first.metadata.items() if not key.startswith(PREFIX)}
    arrays = {key: value for key, value in first.arrays.items() if not key.startswith(PREFIX)}
    tensors = [tensor._replace(offset=0) for header in headers for tensor in header.tensors]
    return first.version, first.alignment, values, arrays, tensors
