"""The layouts of a GPU report: message, blocks, opaque data, firmware identity; each rule broken once."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest.errors import MalformedInput, Unsupported, VitrineError
from attest.nvgpu import fwid, layout, opaque
from tests.fakes.der import tlv
from tests.fakes.mutate import MUTATIONS, mutated
from tests.fakes.nvgpu import DRIVER, FWID, NONCE, VBIOS, Gpu, device_identity, value

GPU = Gpu()
SIGNATURE = bytes(96)


def block(index: int = 1, specification: int = 1, size: int = 51, value_size: int = 48) -> bytes:
    return struct.pack("<BBHBH", index, specification, size, 1, value_size) + bytes(48)


def test_a_report_is_read() -> None:
    message = GPU.message()
    report = layout.read(message + SIGNATURE)
    assert (report.nonce, report.responder_nonce) == (NONCE, bytes(32))
    assert (report.signed, report.signature) == (message, SIGNATURE)
    assert report.measurements == {index: value(index) for index in range(1, 65)}
    assert layout.from_text((message + SIGNATURE).hex().encode()) == message + SIGNATURE


@pytest.mark.parametrize("text", [b"0", b"zz", b"\xff\xfe", "é".encode()])
def test_text_that_is_no_report(text: bytes) -> None:
    with pytest.raises(MalformedInput):
        layout.from_text(text)


@pytest.mark.parametrize(
    "request_head", [b"\x12\xe0\x01\xff", b"\x11\xe1\x01\xff", b"\x11\xe0\x00\xff", b"\x11\xe0\x01\x01"]
)
def test_other_requests(request_head: bytes) -> None:
    with pytest.raises(Unsupported, match="request"):
        layout.read(GPU.message(request=request_head + NONCE + b"\0") + SIGNATURE)


def test_another_slot() -> None:
    with pytest.raises(Unsupported, match="request"):
        layout.read(GPU.message(request=b"\x11\xe0\x01\xff" + NONCE + b"\1") + SIGNATURE)


@pytest.mark.parametrize("response", [b"\x12\x60\0\0", b"\x11\x61\0\0", b"\x11\x60\0\1"])
def test_other_responses(response: bytes) -> None:
    with pytest.raises(Unsupported, match="response"):
        layout.read(GPU.message(response=response) + SIGNATURE)


@pytest.mark.parametrize(
    ("record", "count", "problem"),
    [
        (block(), 2, "2 blocks"),
        (block(), 0, "0 blocks"),
        (block(size=50), 1, "50 bytes"),
        (block(size=52), 1, "52 bytes"),
        (block(index=0), 1, "each index"),
        (block() + block(), 2, "each index"),
        (block()[:-1], 1, "end of the record"),
        (block()[:6], 1, "end of the record"),
        (block() + b"\2", 2, "end of the record"),
    ],
)
def test_blocks_that_are_none(record: bytes, count: int, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        layout.read(GPU.message(record=record, count=count) + SIGNATURE)


def test_an_empty_measurement_may_end_the_record() -> None:
    message = GPU.message(record=struct.pack("<BBHBH", 1, 1, 3, 1, 0), count=1)
    assert layout.read(message + SIGNATURE).measurements == {1: b""}


def test_another_specification() -> None:
    with pytest.raises(Unsupported, match="specification 2"):
        layout.read(GPU.message(record=block(specification=2), count=1) + SIGNATURE)


def test_sizes() -> None:
    message = GPU.message() + SIGNATURE
    for wrong in (b"", message[:100], message[:-1], message + b"\0", message[:3700], bytes(65_537)):
        with pytest.raises(MalformedInput):
            layout.read(wrong)
    short = GPU.message(record=block(), count=1)
    lying = short[:42] + b"\xff\xff\xff" + short[45:]
    with pytest.raises(MalformedInput, match="expected 16777"):
        layout.read(lying + SIGNATURE)
    longest = {**GPU.opaque, 200: bytes(60_000)}
    room = 65_536 - len(Gpu(opaque=longest).message() + SIGNATURE)
    filled = Gpu(opaque={**GPU.opaque, 200: bytes(60_000 + room)}).message() + SIGNATURE
    assert (len(filled), len(layout.read(filled).opaque.fields[200])) == (65_536, 60_000 + room)
    with pytest.raises(MalformedInput, match="65536"):
        layout.read(Gpu(opaque={**longest, 201: bytes(1900)}).message() + SIGNATURE)


# Opaque data.


def fields(**changes: bytes | None) -> bytes:
    wanted = {int(key[1:]): item for key, item in changes.items()}
    both = {key: item for key, item in (GPU.opaque | wanted).items() if item is not None}
    return b"".join(struct.pack("<HH", kind, len(item)) + item for kind, item in both.items())


def test_opaque_fields() -> None:
    found = opaque.read(fields())
    assert (found.driver_version, found.vbios_version, found.fwid) == (DRIVER, VBIOS, FWID)
    assert (found.nvdec0_enabled, found.protected_pcie) == (True, False)
    assert opaque.read(fields(_11=b"\x55")).nvdec0_enabled is False
    assert opaque.read(fields(_11=None)).nvdec0_enabled is True
    assert opaque.read(fields(_21=b"\xaa")).protected_pcie is True
    assert opaque.read(fields(_20=None)).fwid == b""
    assert opaque.read(fields(_77=b"new")).fields[77] == b"new"
    assert opaque.read(fields(_77=b"")).fields[77] == b""


@pytest.mark.parametrize(
    "data",
    [
        fields(_3=None),
        fields(_3=b"550"),
        fields(_3=b"5\xff\0"),
        fields(_3=b"5\n\0"),
        fields(_6=None),
        fields(_6=bytes(7)),
        fields(_6=bytes(7) + b"\1"),
        fields(_6=bytes(5) + b"\1\0\0"),
        fields(_20=bytes(47)),
        fields() + fields(),
        fields() + b"\0",
        fields()[:-1],
    ],
)
def test_opaque_data_that_is_none(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        opaque.read(data)


# Firmware identity.


def test_a_firmware_identity_is_read() -> None:
    assert fwid.read(device_identity()) == FWID


KEY = tlv(0x30, b"key")
HASHED = tlv(0x06, fwid.SHA384) + tlv(0x04, FWID)


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30",
        b"\x30\x00",
        device_identity()[:-1],
        device_identity() + b"\0",
        device_identity(digest=bytes(47)),
        device_identity(digest=bytes(49)),
        tlv(0x31, device_identity()[3:]),
        tlv(0x30, tlv(0x02, b"\1") + tlv(0x30, b"") + tlv(0x30, HASHED)),
        tlv(0x30, tlv(0x02, b"\1") + KEY + tlv(0x30, HASHED) + b"\5\0"),
        tlv(0x30, tlv(0x02, b"\1") + KEY + tlv(0x30, HASHED + b"\5\0")),
        tlv(0x30, tlv(0x02, b"\1") + KEY + tlv(0x30, tlv(0x06, fwid.SHA384) + tlv(0x0C, FWID))),
        b"\x30\x81\x05" + tlv(0x02, b"\1") + b"\x30\x00",
        b"\x30\x82\x00\x05" + tlv(0x02, b"\1") + b"\x30\x00",
        b"\x30\x80\0\0",
        b"\x30\x81",
    ],
)
def test_der_that_is_no_identity(der: bytes) -> None:
    with pytest.raises(MalformedInput):
        fwid.read(der)


def test_short_lengths_have_one_form() -> None:
    good = tlv(0x30, tlv(0x02, b"\1") + KEY + tlv(0x30, HASHED))
    assert fwid.read(good) == FWID
    with pytest.raises(MalformedInput, match="shortest"):
        fwid.read(b"\x30\x81" + good[1:])
    assert fwid.read(tlv(0x30, tlv(0x02, b"\1") + tlv(0x30, bytes(57)) + tlv(0x30, HASHED))) == FWID


def test_a_length_from_128_takes_two_bytes() -> None:
    content = tlv(0x02, b"\1") + tlv(0x30, bytes(60)) + tlv(0x30, HASHED)
    assert len(content) == 128
    assert fwid.read(b"\x30\x81\x80" + content) == FWID
    for head in (b"\x30\x80", b"\x30\x82\x80"):
        with pytest.raises(MalformedInput, match="shortest"):
            fwid.read(head + content)


def test_another_version_or_digest() -> None:
    for der in (device_identity(version=2), device_identity(algorithm="608648016503040201")):
        with pytest.raises(Unsupported):
            fwid.read(der)


@MUTATIONS
@given(st.data())
def test_mutated_layouts_give_only_our_errors(random: st.DataObject) -> None:
    for read, original in (
        (layout.read, GPU.message() + SIGNATURE),
        (opaque.read, fields()),
        (fwid.read, device_identity()),
    ):
        try:
            read(random.draw(mutated(original)))
        except VitrineError:
            continue
