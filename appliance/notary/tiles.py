"""An append-only log on disk, in the C2SP tlog-tiles layout (c2sp.org/tlog-tiles), signed by one P-256 key.

    checkpoint                     signed tree head; what is not under it does not count
    tile/<L>/<N>[.p/<W>]           256 (or W) hashes of level 8L
    tile/entries/<N>[.p/<W>]       256 (or W) leaves, each with its length in two bytes
    lock                           held while appending

Order of an append: tiles, flushed; then the checkpoint, flushed; then the partial tiles that it supersedes go. A crash
in between leaves the last checkpoint and everything under it whole. (The layout lets a server keep superseded partial
tiles for holders of old checkpoints; here they read the first leaves of the current one.)

Opening recomputes everything: leaves, every hash in every tile, the root, the signature. A directory that was put back
to an older state *as a whole* is consistent with itself; only somebody who kept a later checkpoint can tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.notary import files
from attest import merkle
from attest.checkpoint import Checkpoint, TrustedLog, check_checkpoint, checkpoint_text, note_hint, sign_note
from attest.errors import MalformedInput, VerificationError
from attest.tiles import CHECKPOINT, HEIGHT, MAX_CHECKPOINT_BYTES, MAX_LEAF_BYTES, WIDTH, split, tile_path

LAYER = "notary"
LOCK = "lock"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TileLog:
    """One log: its tree in memory, its tiles on disk. `locked` and `append` keep the two equal."""

    def __init__(self, directory: Path, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        self._directory = directory
        self._key = key
        info = serialization.PublicFormat.SubjectPublicKeyInfo
        spki = key.public_key().public_bytes(serialization.Encoding.DER, info)
        self.identity = TrustedLog(name, spki, _EPOCH)
        self._tree = merkle.Tree()
        self._note = ""

    @classmethod
    def create(cls, directory: Path, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Make an empty log in `directory`, which must not exist."""
        directory.mkdir(mode=0o700)
        cls(directory, name, key)._write_checkpoint()

    def __len__(self) -> int:
        return len(self._tree)

    @property
    def note(self) -> str:
        """The signed checkpoint."""
        return self._note

    @property
    def tree(self) -> merkle.Tree:
        """The tree, for proofs; appends go through `append`."""
        return self._tree

    def sign(self, data: bytes) -> bytes:
        """DER ECDSA signature over SHA-256 of `data`, by the log's key."""
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the log's lock, with everything taken in that is on disk. `append` works only inside.

        Raises `VerificationError` (layer `notary`) where the directory is not what the log's key signed.
        """
        with files.exclusive(self._directory / LOCK):
            note = self._read_note()
            if note != self._note:
                with self._or_forget():
                    self._load(check_checkpoint(note, self.identity))
                self._note = note
            yield

    def append(self, leaf: bytes) -> int:
        """Log one leaf, and return its index once it is durable and signed for. Raises `MalformedInput`, `OSError`."""
        return self.extend([leaf])

    def extend(self, leaves: Sequence[bytes]) -> int:
        """Log leaves under one checkpoint, and return the first one's index. Raises as `append` does."""
        for leaf in leaves:
            if not 0 < len(leaf) <= MAX_LEAF_BYTES:
                raise MalformedInput("log leaf", f"expected 1 to {MAX_LEAF_BYTES} bytes, found {len(leaf)}")
        index = len(self._tree)
        tail = [*self._leaves(index - index % WIDTH, index), *leaves]
        with self._or_forget():
            for leaf in leaves:
                self._take(leaf)
            self._write_tiles(index, tail)
            self._write_checkpoint()
        self._prune()
        return index

    def noticed(self, leaf: bytes) -> None:
        """Called once for every leaf, in order; a log of a certain kind keeps its index here."""

    def forgotten(self) -> None:
        """Called before all leaves are read again; a log of a certain kind empties its index here."""

    # --- memory ------------------------------------------------------------------------------------------------------

    def _take(self, leaf: bytes) -> None:
        self._tree.append(merkle.leaf_hash(leaf))
        self.noticed(leaf)

    @contextmanager
    def _or_forget(self) -> Iterator[None]:
        """A change that does not come through leaves nothing in memory: the next use reads the directory anew."""
        try:
            yield
        except BaseException:
            self._tree, self._note = merkle.Tree(), ""
            self.forgotten()
            raise

    # --- reading -----------------------------------------------------------------------------------------------------

    def _read_note(self) -> str:
        try:
            return files.read_bounded(self._directory / CHECKPOINT, MAX_CHECKPOINT_BYTES).decode("utf-8")
        except FileNotFoundError:
            raise _damaged("checkpoint", "a signed checkpoint", "none") from None
        except UnicodeDecodeError:
            raise _damaged("checkpoint", "UTF-8", "other bytes") from None

    def _load(self, checkpoint: Checkpoint) -> None:
        """Read what is new under `checkpoint`, and recompute all of it."""
        known = len(self._tree)
        if checkpoint.size < known:
            raise _damaged("log-shrunk", f"at least the {known} leaves of before", checkpoint.size)
        for leaf in self._leaves(known, checkpoint.size):
            self._take(leaf)
        for path, data in self._tiles(known, checkpoint.size):
            if self._read(path, merkle.HASH_BYTES * WIDTH) != data:
                raise _damaged("tile", f"the hashes of the leaves in {path}", "others")
        if self._tree.root() != checkpoint.root:
            raise _damaged("root", f"the signed root {checkpoint.root.hex()}", self._tree.root().hex())

    def _leaves(self, begin: int, end: int) -> Iterator[bytes]:
        """Leaves `begin` up to `end` of a log whose checkpoint says that it has `end`; known ones are compared."""
        for index in range(begin // WIDTH, -(-end // WIDTH)):
            first = index * WIDTH
            width = min(WIDTH, end - first)
            path = tile_path("entries", index, width)
            data = self._read(path, WIDTH * (2 + MAX_LEAF_BYTES))
            try:
                tile = list(split(data))
            except MalformedInput:
                raise _damaged("entries", f"whole leaves in {path}", "a torn one") from None
            if len(tile) != width:
                raise _damaged("entries", f"{width} leaves in {path}", len(tile))
            for position, leaf in enumerate(tile, first):
                known = self._tree.nodes(0)[position : position + 1]
                if known and known[0] != merkle.leaf_hash(leaf):
                    raise _damaged("entries", f"leaf {position} as it was logged, in {path}", "another")
                if position >= begin:
                    yield leaf

    def _read(self, path: str, limit: int) -> bytes:
        try:
            return files.read_bounded(self._directory / path, limit)
        except FileNotFoundError:
            raise _damaged("log-truncated", f"{path}, which the checkpoint counts", "nothing") from None

    # --- writing -----------------------------------------------------------------------------------------------------

    def _tiles(self, old_size: int, size: int) -> Iterator[tuple[str, bytes]]:
        """Path and bytes of every hash tile of the tree of `size` leaves that the tree of `old_size` does not have."""
        level = 0
        while count := size >> (HEIGHT * level):
            hashes_ = self._tree.nodes(HEIGHT * level)
            old = old_size >> (HEIGHT * level)
            for index in range(old // WIDTH, -(-count // WIDTH)):
                tile = hashes_[index * WIDTH : min(count, (index + 1) * WIDTH)]
                if index * WIDTH + len(tile) > old:
                    yield tile_path(level, index, len(tile)), b"".join(tile)
            level += 1

    def _write_tiles(self, old_size: int, tail: list[bytes]) -> None:
        """The tiles that are new since `old_size`; `tail` is all leaves from the start of that size's last tile on."""
        for offset in range(0, len(tail), WIDTH):
            leaves = tail[offset : offset + WIDTH]
            entries = b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves)
            self._write(tile_path("entries", (old_size + offset) // WIDTH, len(leaves)), entries)
        for path, data in self._tiles(old_size, len(self._tree)):
            self._write(path, data)

    def _write(self, path: str, data: bytes) -> None:
        files.make_directories((self._directory / path).parent)
        files.write_file(self._directory / path, data)

    def _write_checkpoint(self) -> None:
        text = checkpoint_text(self.identity.origin, len(self._tree), self._tree.root())
        hint = note_hint(self.identity.name, self._key.public_key())
        note = sign_note(text, self.identity.name, hint, self.sign(text.encode()))
        files.write_file(self._directory / CHECKPOINT, note.encode())
        self._note = note

    def _prune(self) -> None:
        """Remove partial tiles beside the signed ones: superseded, or left by a crash. What stays does no harm."""
        level, count = 0, len(self._tree)
        while count:
            index, width = (count - 1) // WIDTH, (count - 1) % WIDTH + 1
            for kind in ("entries", 0) if level == 0 else (level,):
                beside = (self._directory / tile_path(kind, index, 1)).parent
                with suppress(OSError):
                    for path in list(beside.iterdir()):
                        if path.name != str(width):
                            path.unlink()
                    if width == WIDTH:
                        beside.rmdir()
            level, count = level + 1, count >> HEIGHT


def _damaged(code: str, expected: object, found: object) -> VerificationError:
    return VerificationError(
        LAYER, code, expected=expected, found=found, advice="The log directory was altered: restore it from a copy"
    )
