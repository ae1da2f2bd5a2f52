"""Paths and contents of the tiles that a log's copy consists of, at their bounds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attest import merkle
from attest.checkpoint import TrustedLog, check_checkpoint, checkpoint_text, note_hint, sign_note
from attest.errors import MalformedInput, VerificationError
from attest.tiles import MAX_LEAF_BYTES, WIDTH, LogCopy, read_log, split, tile_path

KEY = ec.generate_private_key(ec.SECP256R1())
LOG = TrustedLog(
    "log.lab.example",
    KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    datetime(2020, 1, 1, tzinfo=UTC),
)
LEAVES = [b"leaf %d" % index for index in range(WIDTH + 2)]


def framed(*leaves: bytes) -> bytes:
    return b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves)


def note(leaves: list[bytes]) -> str:
    """The checkpoint of a log with these leaves, by its key."""
    text = checkpoint_text(LOG.origin, len(leaves), merkle.root(merkle.leaf_hash(leaf) for leaf in leaves))
    signature = KEY.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
    return sign_note(text, LOG.name, note_hint(LOG.name, KEY.public_key()), signature)


def log(leaves: list[bytes]) -> dict[str, bytes]:
    """The files of a log with these leaves."""
    tiles = [leaves[at : at + WIDTH] for at in range(0, len(leaves), WIDTH)]
    paths = {tile_path("entries", index, len(tile)): framed(*tile) for index, tile in enumerate(tiles)}
    return {"checkpoint": note(leaves).encode()} | paths


def read(files: dict[str, bytes]) -> LogCopy:
    def give(path: str, limit: int) -> bytes:
        if len(files[path]) > limit:
            raise MalformedInput(path, f"expected at most {limit} bytes")
        return files[path]

    return read_log(give, [LOG])


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        ("entries", 0, WIDTH, "tile/entries/000"),
        ("entries", 999, WIDTH, "tile/entries/999"),
        ("entries", 1000, WIDTH, "tile/entries/x001/000"),
        ("entries", 1_234_067, WIDTH, "tile/entries/x001/x234/067"),
        (0, 7, 1, "tile/0/007.p/1"),
        (1, 1000, WIDTH - 1, "tile/1/x001/000.p/255"),
    ],
)
def test_paths_of_tiles(level: int | str, index: int, width: int, path: str) -> None:
    assert tile_path(level, index, width) == path


@pytest.mark.parametrize("leaves", [[], [b""], [b"a", b""], [b"", b"a"], [b"x" * MAX_LEAF_BYTES, b"y"]])
def test_leaves_of_any_length_are_taken_out_of_a_tile(leaves: list[bytes]) -> None:
    assert list(split(framed(*leaves))) == leaves


@pytest.mark.parametrize("torn", [b"\0", b"\1", b"\0\1", framed(b"a", b"bc")[:-1], framed(b"a") + b"\0"])
def test_a_torn_leaf_or_length_is_refused(torn: bytes) -> None:
    with pytest.raises(MalformedInput, match="expected whole leaves, found a torn one"):
        list(split(torn))


@pytest.mark.parametrize("size", [0, 1, WIDTH - 1, WIDTH, WIDTH + 1, WIDTH + 2])
def test_a_log_is_read_to_its_last_leaf(size: int) -> None:
    found = read(log(LEAVES[:size]))
    assert (found.checkpoint.size, found.leaves) == (size, tuple(LEAVES[:size]))
    assert found.tree.root() == found.checkpoint.root


def test_a_tile_with_a_leaf_more_or_less_is_refused() -> None:
    files = log(LEAVES)
    last = tile_path("entries", 1, 2)
    for wrong in (LEAVES[WIDTH : WIDTH + 1], [*LEAVES[WIDTH:], b"more"]):
        with pytest.raises(VerificationError, match=r"log/entries.*2 leaves in tile/entries/001\.p/2"):
            read(files | {last: framed(*wrong)})
    with pytest.raises(VerificationError, match="log/root"):
        read(files | {last: framed(*LEAVES[:2])})


def test_a_copy_extends_the_trees_that_it_begins_with_and_no_other() -> None:
    copy = read(log(LEAVES[:3]))
    for size in range(4):
        copy.check_extends(check_checkpoint(note(LEAVES[:size]), LOG))
    with pytest.raises(VerificationError, match="log/rolled-back"):
        copy.check_extends(check_checkpoint(note(LEAVES[:4]), LOG))
    with pytest.raises(VerificationError, match="log/forked"):
        copy.check_extends(check_checkpoint(note([b"other", LEAVES[1]]), LOG))
