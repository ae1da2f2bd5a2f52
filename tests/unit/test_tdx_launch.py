"""The launch measurement of TDX: against one written down step by step, on firmware made here and Debian's; hostile."""

import hashlib
import struct
import uuid
from pathlib import Path

import pytest

from appliance.image import tdx
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported

PAGE = 4096
METADATA_AT = 2 * PAGE
"""Where the metadata is in the firmware that is made here."""
BASE = 0xFFFF_C000
DEBIAN = Path("/usr/share/ovmf/OVMF.fd")

pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture(scope="module")
def library() -> None:
    """The tests are skipped without the library that reads the firmware's table."""
    pytest.importorskip("sevsnpmeasure", reason="no sev-snp-measure: pip install 'vitrine[snp]'")


def entry(guid: str, data: bytes) -> bytes:
    """One entry of the firmware's table, which is read from its end."""
    return data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le


def firmware(
    sections: tuple[tuple[int, ...], ...],
    signature: bytes = b"TDVF",
    version: int = 1,
    count: int | None = None,
    metadata: str = tdx.METADATA,
    where: int | None = None,
) -> bytes:
    """Four pages with a table at their end and metadata of these sections in the third."""
    size = 4 * PAGE
    content = bytearray(hashlib.shake_256(b"firmware").digest(size))
    descriptor = struct.pack(
        "<4sIII", signature, 16 + 32 * len(sections), version, len(sections) if count is None else count
    )
    parts = descriptor + b"".join(struct.pack("<IIQQII", *section) for section in sections)
    content[METADATA_AT : METADATA_AT + len(parts)] = parts
    table = entry(metadata, struct.pack("<I", size - METADATA_AT if where is None else where))
    table += struct.pack("<H", len(table) + 18) + uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    content[size - 32 - len(table) : size - 32] = table
    return bytes(content)


CODE = (0, 2 * PAGE - 100, BASE, 2 * PAGE, 0, 1)
MEMORY = (0, 0, 0x80_0000, 2 * PAGE, 3, 0)
LATER = (0, 0, 0x90_0000, PAGE, 4, 2)


def launch(folder: Path, content: bytes, order: tdx.Order = "page") -> str:
    """The measurement of firmware of this content."""
    path = folder / "firmware.fd"
    path.write_bytes(content)
    return tdx.launch(path, order=order).measurement


def add(address: int) -> bytes:
    """The step that adds a page, as the specification words it."""
    step = bytearray(128)
    step[0:12], step[16:24] = b"MEM.PAGE.ADD", struct.pack("<Q", address)
    return bytes(step)


def extend(address: int, content: bytes) -> bytes:
    """The step that measures 256 bytes."""
    step = bytearray(384)
    step[0:9], step[16:24], step[128:] = b"MR.EXTEND", struct.pack("<Q", address), content
    return bytes(step)


def test_pages_are_measured_in_either_order(tmp_path: Path) -> None:
    content = firmware((CODE, MEMORY, LATER))
    code = content[: 2 * PAGE - 100] + bytes(100)
    added = [add(BASE), add(BASE + PAGE)]
    extended = [
        b"".join(extend(BASE + at, code[at : at + 256]) for at in range(page, page + PAGE, 256)) for page in (0, PAGE)
    ]
    rest = add(0x80_0000) + add(0x80_1000)
    by_page = added[0] + extended[0] + added[1] + extended[1] + rest
    by_section = added[0] + added[1] + extended[0] + extended[1] + rest
    assert launch(tmp_path, content) == hashlib.sha384(by_page).hexdigest()
    assert launch(tmp_path, content, "section") == hashlib.sha384(by_section).hexdigest()


def test_every_byte_that_is_measured_counts(tmp_path: Path) -> None:
    content = firmware((CODE, MEMORY))
    good = launch(tmp_path, content)
    for at in (0, 255, PAGE, 2 * PAGE - 101):
        changed = bytearray(content)
        changed[at] ^= 1
        assert launch(tmp_path, bytes(changed)) != good
    unmeasured = bytearray(content)
    unmeasured[3 * PAGE] ^= 1
    assert launch(tmp_path, bytes(unmeasured)) == good


@pytest.mark.skipif(not DEBIAN.exists(), reason="no firmware: apt install ovmf")
def test_firmware_of_a_distribution_has_a_measurement_of_either_order() -> None:
    by_page, by_section = (tdx.launch(DEBIAN, order=order) for order in ("page", "section"))
    assert by_page.measurement != by_section.measurement
    assert by_page.firmware == by_section.firmware == f"sha256:{hashlib.sha256(DEBIAN.read_bytes()).hexdigest()}"


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (firmware((CODE,), metadata=str(uuid.UUID(int=1))), Unsupported, "found none"),
        (firmware((CODE,), version=2), Unsupported, "version 1, found 2"),
        (firmware((CODE,), signature=b"TDVG"), MalformedInput, "begins with TDVF"),
        (firmware((CODE,), where=5 * PAGE), MalformedInput, "outside of the file"),
        (firmware((CODE,), where=8), MalformedInput, "outside of the file"),
        (firmware((CODE,), count=0), MalformedInput, "1 to 64 sections"),
        (firmware((CODE,), count=2**32 - 1), MalformedInput, "1 to 64 sections"),
        (firmware(((0, 0, BASE, 2**40, 3, 0),)), MalformedInput, "at most"),
        (firmware(((0, 0, BASE + 1, PAGE, 3, 0),)), MalformedInput, "whole pages"),
        (firmware(((0, 0, BASE, PAGE + 1, 3, 0),)), MalformedInput, "whole pages"),
        (firmware(((0, 0, 2**64 - PAGE, 2 * PAGE, 3, 0),)), MalformedInput, "whole pages"),
        (firmware(((0, PAGE + 1, BASE, PAGE, 0, 1),)), MalformedInput, "inside of the file"),
        (firmware(((4 * PAGE, 1, BASE, PAGE, 0, 1),)), MalformedInput, "inside of the file"),
        (b"", MalformedInput, "whole pages"),
        (bytes(PAGE), Unsupported, "found none"),
    ],
)
def test_what_is_no_tdx_firmware(tmp_path: Path, content: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        launch(tmp_path, content)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="cannot read the firmware"):
        tdx.launch(tmp_path / "nothing")
