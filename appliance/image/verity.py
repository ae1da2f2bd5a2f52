"""dm-verity in plain Python: the hash tree of a disk image, its superblock, and the table that the kernel takes.

The file is the data, then one block with the superblock that `veritysetup` writes (version 1, SHA-256, salted, blocks
of 4,096 bytes), then the tree, root level first, then one block with the `Descriptor`. The kernel never reads the
superblock: a table that came from an unauthenticated block could describe another tree. What it gets is the
descriptor, which is measured: for the root disk as part of the command line, for an input disk into a register before
anything of the disk is mapped. The superblock stays for `veritysetup verify` outside.

A tree costs 1/128 of the data, 33 bytes of digest and salt for each block; hashing runs at the speed of SHA-256.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from attest.errors import EnvironmentProblem, MalformedInput, VerificationError

BLOCK = 4096
"""Bytes of a data block and of a hash block."""
DIGEST = 32
FANOUT = BLOCK // DIGEST
SALT_BYTES = 32
WHAT = "verity descriptor"
MAX_BLOCKS = 1 << 40

_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")
_DESCRIPTOR = re.compile(rb"([1-9][0-9]{0,12}):([1-9][0-9]{0,12}):([0-9a-f]{64}):([0-9a-f]{64})")


@dataclass(frozen=True)
class Descriptor:
    """All that the kernel needs to check a disk: as text `DATA_BLOCKS:HASH_START:ROOT:SALT`."""

    data_blocks: int
    """Blocks of data, from the start of the disk."""
    hash_start: int
    """The block in which the tree's root level starts."""
    root: bytes
    """Root hash, 32 bytes."""
    salt: bytes
    """Salt in front of every block that is hashed, 32 bytes."""

    def __str__(self) -> str:
        return f"{self.data_blocks}:{self.hash_start}:{self.root.hex()}:{self.salt.hex()}"

    def block(self) -> bytes:
        """The disk's last block: the descriptor's text, a line feed, zeros."""
        return f"{self}\n".encode().ljust(BLOCK, b"\0")

    def table(self, device: str) -> str:
        """The parameters of a device-mapper `verity` target over `device`; a block that differs panics the kernel."""
        blocks = f"{BLOCK} {BLOCK} {self.data_blocks} {self.hash_start}"
        return f"1 {device} {device} {blocks} sha256 {self.root.hex()} {self.salt.hex()} 1 panic_on_corruption"


def parse_descriptor(text: bytes) -> Descriptor:
    """The descriptor in `text`, with or without the padding of its block. Raises `MalformedInput`."""
    line, _, rest = text.partition(b"\n")
    found = _DESCRIPTOR.fullmatch(line)
    if found is None or rest.strip(b"\0"):
        raise MalformedInput(WHAT, f"expected DATA_BLOCKS:HASH_START:ROOT:SALT, found {line[:80]!r}")
    blocks, start = int(found[1]), int(found[2])
    if blocks > MAX_BLOCKS or start != blocks + 1:
        raise MalformedInput(WHAT, f"expected the tree one block after the data, found {blocks} and {start}")
    return Descriptor(blocks, start, bytes.fromhex(found[3].decode()), bytes.fromhex(found[4].decode()))


def salt_for(name: str) -> bytes:
    """The salt of the image called `name`. It is public, and fixed, because the same files give the same image."""
    return hashlib.sha256(b"vitrine verity salt\0" + name.encode()).digest()


def protect(image: Path, salt: bytes, uuid: bytes) -> Descriptor:
    """Append superblock, tree and descriptor to `image`, whose size has to be a multiple of `BLOCK` and not zero.

    Raises `MalformedInput` for another size, `EnvironmentProblem` where the file cannot be written.
    """
    try:
        with image.open("r+b") as file:
            size = file.seek(0, 2)
            if not size or size % BLOCK:
                raise MalformedInput("verity data", f"expected blocks of {BLOCK} bytes, found {size} bytes")
            blocks = size // BLOCK
            file.seek(0)
            root, levels = _tree(file, blocks, salt)
            file.seek(size)
            file.write(superblock(blocks, salt, uuid))
            for level in levels:
                file.write(level)
            descriptor = Descriptor(blocks, blocks + 1, root, salt)
            file.write(descriptor.block())
    except OSError as error:
        raise EnvironmentProblem(f"cannot write the hash tree into {image}: {error.strerror}") from error
    return descriptor


def read_descriptor(image: Path) -> Descriptor:
    """The descriptor in the last block of `image`, unchecked. Raises `MalformedInput`, `EnvironmentProblem`."""
    try:
        with image.open("rb") as file:
            size = file.seek(0, 2)
            if size < BLOCK or size % BLOCK:
                raise MalformedInput(WHAT, f"expected an image in blocks of {BLOCK} bytes, found {size} bytes")
            file.seek(size - BLOCK)
            return parse_descriptor(file.read(BLOCK))
    except OSError as error:
        raise EnvironmentProblem(f"cannot read {image}: {error.strerror}") from error


def check(image: Path, expected: Descriptor) -> None:
    """Recompute the tree of `image` and compare all of it with `expected`.

    Raises `VerificationError` (layer `verity`) where data, tree or descriptor differ, `EnvironmentProblem`.
    """
    try:
        with image.open("rb") as file:
            size = file.seek(0, 2)
            if size // BLOCK < expected.data_blocks:
                raise _differs("size", f"at least {expected.data_blocks} blocks", f"{size // BLOCK}")
            file.seek(0)
            root, levels = _tree(file, expected.data_blocks, expected.salt)
            if root != expected.root:
                raise _differs("root-hash", expected.root.hex(), root.hex())
            file.seek(expected.hash_start * BLOCK)
            if file.read() != b"".join(levels) + expected.block():
                raise _differs("tree", "the tree of the data, and the descriptor", "other bytes")
    except OSError as error:
        raise EnvironmentProblem(f"cannot read {image}: {error.strerror}") from error


def superblock(blocks: int, salt: bytes, uuid: bytes) -> bytes:
    """The block between data and tree, as `veritysetup` writes it; `uuid` has 16 bytes."""
    fields = _SUPERBLOCK.pack(b"verity\0\0", 1, 1, uuid, b"sha256", BLOCK, BLOCK, blocks, len(salt), salt)
    return fields.ljust(BLOCK, b"\0")


def _tree(file: BinaryIO, blocks: int, salt: bytes) -> tuple[bytes, list[bytes]]:
    """Root hash, and the levels of the tree, the root's first. A disk of one block has no level."""
    seed = hashlib.sha256(salt)
    level = bytearray()
    for _ in range(blocks):
        block = file.read(BLOCK)
        if len(block) != BLOCK:
            raise MalformedInput("verity data", "the image became shorter while it was read")
        level += _digest(seed, block)
    levels: list[bytes] = []
    while len(level) > DIGEST:
        stored = bytes(level) + bytes(-len(level) % BLOCK)
        levels.insert(0, stored)
        level = bytearray()
        for start in range(0, len(stored), BLOCK):
            level += _digest(seed, stored[start : start + BLOCK])
    return bytes(level), levels


def _digest(seed: hashlib._Hash, block: bytes) -> bytes:
    state = seed.copy()
    state.update(block)
    return state.digest()


def _differs(code: str, expected: str, found: str) -> VerificationError:
    return VerificationError("verity", code, expected=expected, found=found, advice="build the image again")
