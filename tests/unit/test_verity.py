"""The hash tree against `veritysetup`, and what a changed disk or descriptor is refused with."""

import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.image import verity
from attest.errors import MalformedInput, VerificationError

SALT = verity.salt_for("test")
UUID = bytes(range(16))


def disk(path: Path, blocks: int) -> verity.Descriptor:
    """A disk of `blocks` different blocks."""
    path.write_bytes(b"".join(number.to_bytes(8, "big") * 512 for number in range(blocks)))
    return verity.protect(path, SALT, UUID)


@pytest.mark.parametrize("blocks", [1, 2, 128, 129, 300, 128 * 128 + 1])
def test_veritysetup_computes_the_same_tree(tmp_path: Path, blocks: int) -> None:
    tool = shutil.which("veritysetup", path="/usr/sbin:/sbin:/usr/bin")
    if tool is None:
        pytest.skip("no veritysetup: apt install cryptsetup-bin")
    image, theirs = tmp_path / "disk", tmp_path / "theirs"
    descriptor = disk(image, blocks)
    offset = blocks * verity.BLOCK
    verify = [tool, "verify", str(image), str(image), descriptor.root.hex(), f"--hash-offset={offset}"]
    done = subprocess.run(verify, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The other way round: it makes the same bytes of the same data.
    theirs.write_bytes(image.read_bytes()[:offset])
    options = [f"--hash-offset={offset}", f"--salt={SALT.hex()}", "--uuid=00010203-0405-0607-0809-0a0b0c0d0e0f"]
    done = subprocess.run([tool, "format", str(theirs), str(theirs), *options], capture_output=True, text=True)
    assert descriptor.root.hex() in done.stdout
    assert image.read_bytes()[: -verity.BLOCK] == theirs.read_bytes().ljust(image.stat().st_size - verity.BLOCK, b"\0")


def test_the_descriptor_reads_back_from_the_disk(tmp_path: Path) -> None:
    descriptor = disk(tmp_path / "disk", 5)
    assert verity.read_descriptor(tmp_path / "disk") == descriptor
    assert verity.parse_descriptor(str(descriptor).encode()) == descriptor
    verity.check(tmp_path / "disk", descriptor)


@pytest.mark.parametrize("offset", [0, 4095, 4 * 4096 + 7, 6 * 4096, -4096])
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, offset: int) -> None:
    """In the data, in the tree and in the descriptor; the superblock is not part of what the kernel reads."""
    image = tmp_path / "disk"
    descriptor = disk(image, 5)
    data = bytearray(image.read_bytes())
    data[offset] ^= 1
    image.write_bytes(data)
    with pytest.raises(VerificationError, match="verity/"):
        verity.check(image, descriptor)


@pytest.mark.parametrize("size", [0, 1, 4095, 4097])
def test_only_whole_blocks_are_protected(tmp_path: Path, size: int) -> None:
    (tmp_path / "disk").write_bytes(bytes(size))
    with pytest.raises(MalformedInput, match="expected blocks of 4096"):
        verity.protect(tmp_path / "disk", SALT, UUID)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"5:6",
        b"0:1:" + b"a" * 64 + b":" + b"b" * 64,
        b"5:7:" + b"a" * 64 + b":" + b"b" * 64,
        b"5:6:" + b"A" * 64 + b":" + b"b" * 64,
        b"5:6:" + b"a" * 64 + b":" + b"b" * 64 + b"\nmore",
        b"5:6:" + b"a" * 63 + b":" + b"b" * 64,
        b"99999999999999:99999999999999:" + b"a" * 64 + b":" + b"b" * 64,
    ],
)
def test_other_descriptors_are_refused(text: bytes) -> None:
    with pytest.raises(MalformedInput, match="verity descriptor"):
        verity.parse_descriptor(text)
