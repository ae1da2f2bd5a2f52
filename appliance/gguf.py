"""A strict, bounded reader of GGUF headers, so that a broken or hostile file is refused before an engine sees it.

`read_header` walks the whole header once and touches no tensor data. Scalars and strings are returned, arrays only as
type and count; every string is checked nevertheless. It refuses what llama.cpp refuses, and also what llama.cpp would
guess at, silently cut short, or abort on: text that is not UTF-8, embedded NUL bytes, counts that the file cannot
hold, tensors with gaps, data after the last tensor, tokenizer arrays of a wrong type or length.

Time and memory are bounded by `MAX_HEADER_BYTES`, `MAX_STRINGS`, `MAX_KEYS` and `MAX_TENSORS`. Everything refused is a
`MalformedInput`. Source of the layout: the GGUF specification and `gguf.cpp` of the pinned llama.cpp.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from appliance.ggml import ARRAY, BOOL, GGML_TYPES, INT64, SCALARS, STRING, TYPED, TYPED_ARRAYS, UINT32, UINT64
from attest.errors import MalformedInput

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_HEADER_BYTES = 256 << 20
MAX_STRINGS = 1 << 21
MAX_KEYS = 1 << 14
MAX_TENSORS = 1 << 16
MAX_KEY_BYTES = 1024
MAX_NAME_BYTES = 63
"""GGML_MAX_NAME is 64 and counts the final NUL."""
MAX_DIMS = 4
MAX_INT64 = 2**63 - 1

_KEY = re.compile(rb"[!-~]+")
_LENGTH = SCALARS[UINT64]

Scalar = int | float | bool | str


class Array(NamedTuple):
    """An array of the metadata: its content is checked, but not kept."""

    type: int
    """Type of its elements."""
    length: int
    """How many there are."""


class Tensor(NamedTuple):
    """One tensor of the file."""

    name: str
    """Its name, 1 to 63 bytes."""
    dims: tuple[int, ...]
    """Its dimensions, the fastest first; 1 to 4, all positive."""
    type: str
    """Name of its ggml type."""
    offset: int
    """Where it starts, in bytes from the start of the file."""
    size_bytes: int
    """Its size, without padding."""


class Split(NamedTuple):
    """This file's place among the shards of one model."""

    number: int
    """Position of this shard, from 0."""
    shards: int
    """Number of shards."""
    tensors: int | None
    """Number of tensors in all shards together, where the file says so."""


@dataclass(frozen=True)
class GGUFHeader:
    """What the header of one GGUF file says."""

    version: int
    """Version of the format: 2 or 3."""
    alignment: int
    """Alignment of tensor data in bytes."""
    metadata: dict[str, Scalar]
    """All keys that hold one value."""
    arrays: dict[str, Array]
    """All keys that hold an array."""
    tensors: tuple[Tensor, ...]
    """The tensors, in file order."""
    data_offset: int
    """Where tensor data starts, in bytes from the start of the file."""
    spans: dict[str, tuple[int, int]]
    """For each key, in file order, where it and its value start and end in the file."""

    @property
    def architecture(self) -> str | None:
        """`general.architecture`; absent in the second and later shards of a model."""
        return self._text("general.architecture")

    @property
    def chat_template(self) -> str | None:
        """The model's chat template (a Jinja text), where it has one."""
        return self._text("tokenizer.chat_template")

    @property
    def file_type(self) -> int | None:
        """`general.file_type`: llama.cpp's number of the quantisation mix."""
        value = self.metadata.get("general.file_type")
        return value if isinstance(value, int) else None

    @property
    def vocabulary(self) -> int:
        """Number of tokens in the tokenizer; 0 where there is none."""
        tokens = self.arrays.get("tokenizer.ggml.tokens")
        return tokens.length if tokens else 0

    @property
    def tokenizer(self) -> dict[str, Scalar]:
        """The tokenizer's single values by short name: `model`, `pre`, `bos_token_id`, `add_bos_token` and so on."""
        prefix = "tokenizer.ggml."
        return {key.removeprefix(prefix): value for key, value in self.metadata.items() if key.startswith(prefix)}

    @property
    def split(self) -> Split | None:
        """This file's place among the shards of one model; None for a model of one file.

        `llama-gguf-split --merge` leaves `split.count` in what it writes, as 0: that is a model of one file too.
        """
        number, count = self.metadata.get("split.no"), self.metadata.get("split.count")
        total = self.metadata.get("split.tensors.count")
        if not isinstance(number, int) or not isinstance(count, int) or count == 0:
            return None
        return Split(number, count, total if isinstance(total, int) else None)

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None


def read_header(source: bytes | memoryview | mmap.mmap, size: int | None = None, what: str = "GGUF") -> GGUFHeader:
    """The header of the GGUF file in the first `size` bytes of `source` (all of them when None).

    Raises `MalformedInput`, whose subject is `what`.
    """
    with memoryview(source) as whole, whole[: len(whole) if size is None else size] as view:
        try:
            return _read(_Reader(view, what))
        except MalformedInput as error:
            if b"\xef\xbf\xbd" in bytes(view[: 1 << 20]):
                hint = "the file holds U+FFFD: it may have passed through a text decoder, fetch it again as binary"
                raise MalformedInput(what, f"{error.problem}; {hint}") from None
            raise


def check_shards(headers: Sequence[GGUFHeader], what: str = "GGUF") -> None:
    """Raise `MalformedInput` unless `headers` are all the shards of one model, in order, and can be loaded."""
    for number, header in enumerate(headers):
        split = header.split or Split(0, 1, None)
        if (split.number, split.shards) != (number, len(headers)):
            found = f"shard {split.number} of {split.shards}"
            raise MalformedInput(what, f"expected shard {number} of {len(headers)} (from 0), found {found}")
    names = [tensor.name for header in headers for tensor in header.tensors]
    if len(set(names)) != len(names):
        raise MalformedInput(what, "expected every tensor in one shard only, found one in two")
    for header in headers:
        total = header.split.tensors if header.split else None
        if total is not None and total != len(names):
            raise MalformedInput(what, f"expected {total} tensors in all shards, found {len(names)}")
        if header.alignment != headers[0].alignment:
            found = f"{headers[0].alignment} and {header.alignment}"
            raise MalformedInput(what, f"expected one alignment in all shards, found {found}")
    if not headers or headers[0].architecture is None or not names:
        raise MalformedInput(what, "expected an architecture and at least one tensor, found a file without")


class _Reader:
    """A cursor over the file that refuses to run past the end of the header."""

    def __init__(self, view: memoryview, what: str) -> None:
        self.view = view
        self.what = what
        self.size = len(view)
        self.limit = min(self.size, MAX_HEADER_BYTES)
        self.position = 0
        self.strings = 0

    def fail(self, problem: str) -> NoReturn:
        raise MalformedInput(self.what, problem)

    def skip(self, count: int, what: str) -> int:
        """Step over `count` bytes and return where they start."""
        start = self.position
        if count > self.limit - start:
            if count > self.size - start:
                self.fail(f"expected {what} of {count} bytes at offset {start}, found the end of the file")
            self.fail(f"expected a header of at most {MAX_HEADER_BYTES} bytes, found {what} beyond that")
        self.position = start + count
        return start

    def scalar(self, kind: int, what: str) -> int | float:
        layout = SCALARS[kind]
        value: int | float = layout.unpack_from(self.view, self.skip(layout.size, what))[0]
        if kind == BOOL and value > 1:
            self.fail(f"expected 0 or 1 for {what}, found {value}")
        return value

    def uint(self, kind: int, what: str) -> int:
        return int(self.scalar(kind, what))

    def raw(self, what: str, most: int) -> bytes:
        count = self.uint(UINT64, f"the length of {what}")
        if count > most:
            self.fail(f"expected {what} of at most {most} bytes, found {count}")
        start = self.skip(count, what)
        return bytes(self.view[start : start + count])

    def text(self, what: str, most: int = MAX_HEADER_BYTES) -> str:
        try:
            value = self.raw(what, most).decode()
        except UnicodeDecodeError:
            self.fail(f"expected UTF-8 in {what}, found other bytes")
        if "\0" in value:
            self.fail(f"expected text in {what}, found a NUL byte")
        return value

    def skip_strings(self, count: int, what: str) -> None:
        """Step over an array of `count` strings; each is checked, none is kept. The loop that time goes into."""
        self.strings += count
        if self.strings > MAX_STRINGS:
            self.fail(f"expected at most {MAX_STRINGS} strings in arrays, found more in {what}")
        view, limit, position, unpack = self.view, self.limit, self.position, _LENGTH.unpack_from
        try:
            for _ in range(count):
                end = position + 8 + unpack(view, position)[0]
                if end > limit:
                    self.fail(f"expected {what} within the file, found a string that ends at offset {end}")
                if "\0" in str(view[position + 8 : end], "utf-8"):
                    self.fail(f"expected text in {what}, found a NUL byte")
                position = end
        except struct.error:
            self.fail(f"expected {count} strings in {what}, found the end of the file")
        except UnicodeDecodeError:
            self.fail(f"expected UTF-8 in {what}, found other bytes")
        self.position = position


def _read(reader: _Reader) -> GGUFHeader:
    # 1. Magic and version.
    if (magic := bytes(reader.view[:4])) != MAGIC:
        reader.fail(f"expected {MAGIC!r} as the first bytes, found {magic!r}")
    reader.position = len(MAGIC)
    version = reader.uint(UINT32, "the version")
    if version not in VERSIONS:
        other = int.from_bytes(version.to_bytes(4, "little"), "big")
        reader.fail(f"expected version 2 or 3, found {version}" + (", big-endian" if other in VERSIONS else ""))

    # 2. Counts that the file can hold: a tensor takes at least 33 bytes, a key and its value at least 14.
    n_tensors, n_keys = reader.uint(UINT64, "the tensor count"), reader.uint(UINT64, "the key count")
    room = reader.size - reader.position
    for label, count, least, most in (("tensors", n_tensors, 33, MAX_TENSORS), ("keys", n_keys, 14, MAX_KEYS)):
        if count > min(most, room // least):
            reader.fail(f"expected at most {min(most, room // least)} {label} in {reader.size} bytes, found {count}")

    # 3. Metadata: unique keys, known types.
    metadata: dict[str, Scalar] = {}
    arrays: dict[str, Array] = {}
    kinds: dict[str, int] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(n_keys):
        begin = reader.position
        key_bytes = reader.raw("a key", MAX_KEY_BYTES)
        if not _KEY.fullmatch(key_bytes):
            reader.fail(f"expected a key of printable ASCII, found {key_bytes[:64]!r}")
        key = key_bytes.decode("ascii")
        if key in kinds:
            reader.fail(f"expected unique keys, found {key!r} twice")
        kinds[key] = kind = reader.uint(UINT32, f"the type of {key}")
        if kind == STRING:
            metadata[key] = reader.text(key)
        elif kind == ARRAY:
            arrays[key] = _skip_array(reader, key)
        elif kind in SCALARS:
            value = reader.scalar(kind, key)
            metadata[key] = bool(value) if kind == BOOL else value
        else:
            reader.fail(f"expected a type from 0 to 12 for {key}, found {kind}")
        spans[key] = begin, reader.position
    _check_metadata(metadata, arrays, kinds, reader.fail)

    # 4. Tensors: one after another, each aligned, without gaps.
    alignment = int(metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    relative: list[Tensor] = []
    end = 0
    names: set[str] = set()
    for _ in range(n_tensors):
        tensor = _read_tensor(reader, end)
        if tensor.name in names:
            reader.fail(f"expected unique tensor names, found {tensor.name!r} twice")
        names.add(tensor.name)
        relative.append(tensor)
        end = _align(tensor.offset + tensor.size_bytes, alignment)

    # 5. The file holds all of the data, and nothing after it but padding.
    start = _align(reader.position, alignment) if relative else reader.position
    tensors = tuple(tensor._replace(offset=start + tensor.offset) for tensor in relative)
    needed = tensors[-1].offset + tensors[-1].size_bytes if tensors else start
    if reader.size < needed:
        reader.fail(f"expected tensor data up to offset {needed}, found the end of the file at {reader.size}")
    if reader.size > _align(needed, alignment):
        reader.fail(f"expected the file to end at offset {_align(needed, alignment)}, found {reader.size} bytes")
    return GGUFHeader(version, alignment, metadata, arrays, tensors, start, spans)


def _skip_array(reader: _Reader, key: str) -> Array:
    kind = reader.uint(UINT32, f"the element type of {key}")
    count = reader.uint(UINT64, f"the length of {key}")
    if kind == STRING:
        if count > (reader.size - reader.position) // 8:
            reader.fail(f"expected {key} within the file, found {count} strings")
        reader.skip_strings(count, key)
    elif kind in SCALARS:
        start = reader.skip(count * SCALARS[kind].size, key)
        if kind == BOOL and bytes(reader.view[start : reader.position]).strip(b"\0\1"):
            reader.fail(f"expected 0 or 1 in {key}, found another value")
    else:
        reader.fail(f"expected numbers, booleans or strings in {key}, found element type {kind}")
    return Array(kind, count)


def _read_tensor(reader: _Reader, expected_offset: int) -> Tensor:
    """One tensor's record; its offset stays relative to the start of the data."""
    name = reader.text("a tensor name", MAX_NAME_BYTES)
    if not name.isprintable() or not name:
        reader.fail(f"expected a printable tensor name, found {name!r}")
    n_dims = reader.uint(UINT32, f"the dimensions of {name}")
    if not 1 <= n_dims <= MAX_DIMS:
        reader.fail(f"expected 1 to {MAX_DIMS} dimensions for {name}, found {n_dims}")
    dims = tuple(reader.uint(INT64, f"a dimension of {name}") for _ in range(n_dims))
    elements = 1
    for dim in dims:
        if dim < 1:
            reader.fail(f"expected positive dimensions for {name}, found {dim}")
        elements *= dim
    number = reader.uint(UINT32, f"the type of {name}")
    if number not in GGML_TYPES:
        reader.fail(f"expected a known ggml type for {name}, found {number}")
    type_name, block, block_bytes = GGML_TYPES[number]
    if dims[0] % block:
        reader.fail(f"expected rows of {name} in whole blocks of {block} ({type_name}), found {dims[0]} elements")
    size_bytes = elements // block * block_bytes
    if elements > MAX_INT64 or size_bytes > reader.size:
        reader.fail(f"expected {name} within {reader.size} bytes, found {dims} elements of {type_name}")
    offset = reader.uint(UINT64, f"the offset of {name}")
    if offset != expected_offset:
        reader.fail(f"expected {name} right after the tensor before it, at {expected_offset}, found offset {offset}")
    return Tensor(name, dims, type_name, offset, size_bytes)


def _check_metadata(
    metadata: dict[str, Scalar], arrays: dict[str, Array], kinds: dict[str, int], fail: Callable[[str], NoReturn]
) -> None:
    """The types and lengths that an engine relies on without asking."""
    # 1. Single values.
    for key, kind in TYPED.items():
        if kinds.get(key, kind) != kind:
            fail(f"expected type {kind} for {key}, found {kinds[key]}")
    if not metadata.get("general.architecture", "x"):
        fail("expected a name in general.architecture, found an empty one")
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment.bit_count() != 1 or alignment > MAX_ALIGNMENT:
        fail(f"expected a power of two up to {MAX_ALIGNMENT} as alignment, found {alignment}")
    split = [key in kinds for key in ("split.no", "split.count")]
    number, shards = int(metadata.get("split.no", 0)), int(metadata.get("split.count", 0))
    if any(split) and (not all(split) or number >= max(shards, 1)):
        fail("expected split.no below split.count, found another pair")

    # 2. Arrays of the tokenizer: each of the type that is read, and one element for each token.
    tokens = arrays.get("tokenizer.ggml.tokens")
    for key, (allowed, per_token) in TYPED_ARRAYS.items():
        if key in kinds and (key not in arrays or arrays[key].type not in allowed):
            fail(f"expected an array of type {sorted(allowed)} in {key}, found another type")
        if key in kinds and per_token and (tokens is None or arrays[key].length != tokens.length):
            fail(f"expected one element for each token in {key}, found {arrays[key].length}")

    # 3. Special tokens that exist.
    for role in ("bos", "eos", "eot", "eom"):
        key = f"tokenizer.ggml.{role}_token_id"
        if key in kinds and (kinds[key] != UINT32 or (tokens and int(metadata[key]) >= tokens.length)):
            fail(f"expected {key} to name a token, found {metadata.get(key)}")


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
