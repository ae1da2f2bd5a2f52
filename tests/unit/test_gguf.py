"""The GGUF reader: what it accepts, what it refuses, and that nothing makes it fail otherwise, be slow or grow."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import gguf
from appliance.ggml import BOOL, FLOAT32, GGML_TYPES, INT8, INT32, INT64, SCALARS, STRING, UINT16, UINT32
from appliance.gguf import Split, check_shards, read_header
from attest.errors import Exit, MalformedInput

DATA = Path(os.environ.get("VITRINE_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "gguf"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the GGUF samples: set VITRINE_TEST_DATA")
ACCEPTED = {"valid_minimal_1tensor.gguf", "empty.gguf"}


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, kind: int, value: Any) -> bytes:
    body = text(value) if kind == STRING else SCALARS[kind].pack(value)
    return text(key) + struct.pack("<I", kind) + body


def array(key: str, kind: int, values: list[Any]) -> bytes:
    body = b"".join(text(value) if kind == STRING else SCALARS[kind].pack(value) for value in values)
    return text(key) + struct.pack("<IIQ", 9, kind, len(values)) + body


def tensor(name: str | bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}qIQ", len(dims), *dims, kind, offset)


def build(
    pairs: list[bytes], tensors: list[bytes] | None = None, data: int = 0, version: int = 3, alignment: int = 32
) -> bytes:
    tensors = tensors or []
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % alignment if tensors else 0) + bytes(data)


LLAMA = pair("general.architecture", STRING, "llama")
VALID = build(
    [
        LLAMA,
        pair("general.file_type", UINT32, 7),
        pair("tokenizer.chat_template", STRING, "{{ x }}"),
        pair("tokenizer.ggml.bos_token_id", UINT32, 1),
        pair("tokenizer.ggml.add_bos_token", BOOL, 1),
        array("tokenizer.ggml.tokens", STRING, ["a", "é", ""]),
        array("tokenizer.ggml.scores", FLOAT32, [0.0, 1.0, 2.0]),
        array("tokenizer.ggml.token_type", INT32, [1, 1, 1]),
        array("a.flags", BOOL, [0, 1]),
    ],
    [tensor("a", (32, 2), 8, 0), tensor("b", (3,), 0, 96)],
    data=96 + 12,
)


def refused(data: bytes, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem) as caught:
        read_header(data)
    assert caught.value.exit_code == Exit.MALFORMED


def test_header_of_a_valid_file() -> None:
    header = read_header(VALID)
    assert (header.version, header.architecture, header.file_type, header.vocabulary) == (3, "llama", 7, 3)
    assert header.chat_template == "{{ x }}"
    assert header.tokenizer == {"bos_token_id": 1, "add_bos_token": True}
    assert header.split is None
    assert header.arrays["a.flags"] == (BOOL, 2)
    assert header.data_offset % 32 == 0
    assert [(item.name, item.dims, item.type, item.offset - header.data_offset, item.size_bytes) for item in
            header.tensors] == [("a", (32, 2), "Q8_0", 0, 68), ("b", (3,), "F32", 96, 12)]  # fmt: skip
    check_shards([header])


def test_sources_sizes_and_versions() -> None:
    assert read_header(memoryview(VALID)) == read_header(bytearray(VALID)) == read_header(VALID + b"junk", len(VALID))
    assert read_header(build([LLAMA], version=2)).version == 2
    assert read_header(VALID + bytes(20)).tensors, "padding of the last tensor is allowed"
    wide = [LLAMA, pair("general.alignment", UINT32, 64)]
    assert read_header(build(wide, [tensor("a", (16,), 0, 0)], 64, alignment=64)).alignment == 64


def test_all_types_have_the_sizes_that_the_engine_declares() -> None:
    assert len(GGML_TYPES) == 35
    assert GGML_TYPES[12] == ("Q4_K", 256, 144)
    assert not {4, 5, 31, 32, 33, 36, 37, 38, 43} & set(GGML_TYPES), "removed types are refused"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "expected b'GGUF'"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (build([LLAMA], version=1), "version 2 or 3, found 1"),
        (build([pair("a b", UINT32, 1)]), "printable ASCII"),
        (build([pair("é", UINT32, 1)]), "printable ASCII"),
        (build([pair(b"a\0b", UINT32, 1)]), "printable ASCII"),
        (build([pair("k" * 1025, UINT32, 1)]), "at most 1024 bytes"),
        (build([pair("k", STRING, b"\xff")]), "UTF-8 in k"),
        (build([pair("k", BOOL, 2)]), "expected 0 or 1 for k"),
        (build([text("k") + struct.pack("<IQ", 13, 0)]), "type from 0 to 12"),
        (build([text("k") + struct.pack("<IIQ", 9, 9, 0)]), "found element type 9"),
        (build([text("k") + struct.pack("<IIQ", 9, 8, 5) + bytes(16)]), "found 5 strings"),
        (build([text("k") + struct.pack("<IIQ", 9, 8, 2) + text("a" * 9) + b"\1"]), "the end of the file"),
        (build([text("k") + struct.pack("<IIQ", 9, 8, 1) + struct.pack("<Q", 9)]), "ends at offset"),
        (build([array("k", BOOL, [0, 2])]), "expected 0 or 1 in k"),
        (build([array("k", STRING, [b"\xc3", b"\xa9"])]), "UTF-8 in k"),
        (build([array("k", STRING, [b"a\0"])]), "NUL"),
        (build([pair("general.architecture", STRING, "")]), "an empty one"),
        (build([pair("general.architecture", UINT32, 1)]), "expected type 8"),
        (build([pair("general.alignment", UINT32, 0)]), "power of two"),
        (build([pair("general.alignment", UINT32, 48)]), "power of two"),
        (build([pair("general.alignment", UINT32, 1 << 17)]), "power of two"),
        (build([array("general.alignment", UINT32, [32])]), "expected type 4"),
        (build([pair("split.no", UINT16, 0)]), "split.no below"),
        (build([pair("split.no", UINT16, 2), pair("split.count", UINT16, 2)]), "split.no below"),
        (build([pair("tokenizer.ggml.tokens", UINT32, 1)]), "array of type"),
        (build([array("tokenizer.ggml.tokens", INT8, [1])]), "array of type"),
        (build([array("tokenizer.ggml.merges", INT32, [1])]), "array of type"),
        (build([array("tokenizer.ggml.scores", FLOAT32, [1.0])]), "one element for each token"),
        (build([array("tokenizer.ggml.tokens", STRING, ["a"]), array("tokenizer.ggml.token_type", INT32, [1, 1])]),
         "one element for each token"),
        (build([array("tokenizer.ggml.tokens", STRING, ["a"]), pair("tokenizer.ggml.eos_token_id", UINT32, 1)]),
         "to name a token"),
        (build([pair("tokenizer.ggml.eos_token_id", INT64, 0)]), "to name a token"),
        (build([LLAMA], [tensor("", (1,), 0, 0)], 4), "printable tensor name"),
        (build([LLAMA], [tensor("a\n", (1,), 0, 0)], 4), "printable tensor name"),
        (build([LLAMA], [tensor("n" * 64, (1,), 0, 0)], 4), "at most 63 bytes"),
        (build([LLAMA], [tensor("a", (), 0, 0) + bytes(8)], 4), "1 to 4 dimensions"),
        (build([LLAMA], [tensor("a", (0,), 0, 0)], 4), "positive dimensions"),
        (build([LLAMA], [tensor("a", (1 << 62, 1 << 62), 24, 0)], 4), "expected a within"),
        (build([LLAMA], [tensor("a", (1,), 31, 0)], 4), "known ggml type"),
        (build([LLAMA], [tensor("a", (1,), 0, 0), tensor("a", (1,), 0, 32)], 36), "'a' twice"),
        (build([LLAMA], [tensor("a", (1,), 0, 0), tensor("b", (1,), 0, 4)], 36), "right after"),
        (build([LLAMA], [tensor("a", (1,), 0, 32)], 64), "right after"),
        (build([LLAMA], [tensor("a", (1,), 0, 0)], 3), "end of the file"),
        (build([LLAMA], [tensor("a", (1,), 0, 0)], 33), "expected the file to end at"),
        (build([LLAMA]) + bytes(64), "expected the file to end at"),
        (build([pair("k", STRING, "\ufffd"), text("l") + b"\xff\xff\xff\xff", bytes(8)]), "text decoder"),
    ],
)  # fmt: skip
def test_refused(data: bytes, problem: str) -> None:
    refused(data, problem)


def test_counts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_STRINGS", 3)
    refused(build([array("k", STRING, ["a", "b"]), array("l", STRING, ["a", "b"])]), "at most 3 strings")
    monkeypatch.setattr(gguf, "MAX_HEADER_BYTES", 60)
    refused(build([pair("k", STRING, "a" * 50)]), "header of at most 60 bytes")
    monkeypatch.setattr(gguf, "MAX_KEYS", 1)
    refused(build([LLAMA, pair("k", UINT32, 1)]), "at most 1 keys")


def test_every_truncation_is_refused() -> None:
    for length in range(len(VALID)):
        with pytest.raises(MalformedInput):
            read_header(VALID, length)


def shard(number: int, count: int, name: str, total: int = 2, architecture: bool = True) -> bytes:
    pairs = [pair("split.no", UINT16, number), pair("split.count", UINT16, count)]
    pairs.append(pair("split.tensors.count", INT32, total))
    return build(pairs + ([LLAMA] if architecture else []), [tensor(name, (8,), 0, 0)], 32)


def test_shards_of_one_model() -> None:
    first, second = read_header(shard(0, 2, "a")), read_header(shard(1, 2, "b", architecture=False))
    assert first.split == Split(0, 2, 2)
    check_shards([first, second])
    for headers, problem in (
        ([second, first], "expected shard 0 of 2"),
        ([first], "expected shard 0 of 1"),
        ([first, read_header(shard(1, 2, "a"))], "found one in two"),
        ([read_header(shard(0, 1, "a", total=3))], "expected 3 tensors"),
        ([read_header(shard(0, 1, "a", total=1, architecture=False))], "an architecture"),
        ([read_header(build([LLAMA]))], "at least one tensor"),
        ([], "a file without"),
    ):
        with pytest.raises(MalformedInput, match=problem):
            check_shards(headers)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_mutated_files_raise_only_our_error(data: st.DataObject) -> None:
    mutated = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=9))
        if data.draw(st.booleans()):
            mutated[position : position + len(piece)] = piece
        else:
            mutated[position:position] = piece
    before = time.process_time()
    with suppress(MalformedInput):
        read_header(bytes(mutated))
    assert time.process_time() - before < 1


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_noise_behind_the_magic_raises_only_our_error(noise: bytes) -> None:
    for data in (noise, b"GGUF\3\0\0\0" + noise, b"GGUF\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + noise):
        try:
            read_header(data)
        except MalformedInput:
            continue


def test_a_real_vocabulary_size_is_read_within_a_second() -> None:
    tokens = b"".join(text(f"token{number}") for number in range(256_000))
    merges = b"".join(text(f"to ken{number}") for number in range(512_000))
    pairs = [LLAMA]
    for key, count, body in (("tokenizer.ggml.tokens", 256_000, tokens), ("tokenizer.ggml.merges", 512_000, merges)):
        pairs.append(text(key) + struct.pack("<IIQ", 9, STRING, count) + body)
    data = build(pairs)
    before = time.process_time()
    assert read_header(data).vocabulary == 256_000
    assert time.process_time() - before < 2, "0.4 s on a quiet machine"


def test_memory_does_not_grow_with_the_vocabulary() -> None:
    data = build([array("tokenizer.ggml.tokens", STRING, [f"token{number}" for number in range(50_000)])])
    tracemalloc.start()
    try:
        read_header(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@needs_data
def test_sample_files() -> None:
    files = sorted(DATA.rglob("*.gguf"))
    assert len(files) >= 30
    for file in files:
        accepted = file.name in ACCEPTED or file.parent.name == "vocab"
        before = time.process_time()
        try:
            header = read_header(file.read_bytes(), what=file.name)
        except MalformedInput as error:
            assert not accepted, f"{file.name} is sound, but refused: {error}"
            assert error.exit_code == Exit.MALFORMED
        else:
            assert accepted, f"{file.name} is broken, but accepted"
            assert header.architecture
        assert time.process_time() - before < 1, file.name


@needs_data
@pytest.mark.parametrize(("name", "tokens"), [("bert-bge", 30522), ("falcon", 65024), ("gpt-2", 50257)])
def test_real_vocabularies(name: str, tokens: int) -> None:
    header = read_header((DATA / "vocab" / f"ggml-vocab-{name}.gguf").read_bytes())
    assert header.vocabulary == tokens
    assert header.tokenizer["model"] in {"bert", "gpt2"}
    with pytest.raises(MalformedInput, match="at least one tensor"):
        check_shards([header])


@needs_data
def test_text_decoded_files_are_named_as_such() -> None:
    files = list((DATA / "corrupt").glob("*.gguf"))
    assert files
    for file in files:
        refused(file.read_bytes(), "text decoder")
