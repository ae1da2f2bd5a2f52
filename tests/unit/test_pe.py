"""Executables: the Authenticode digest against a signing tool, sections against objdump, hostile headers."""

import hashlib
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.image import pe
from attest.errors import MalformedInput
from tests.unit import machine_parts


def small(sections: list[tuple[str, bytes]], certificates: bytes = b"") -> bytes:
    """A minimal executable with these sections, aligned to 512 and 4,096 bytes, written here byte by byte."""
    headers = 512
    optional = bytearray(112 + 16 * 8)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<II", optional, 32, 4096, 512)
    struct.pack_into("<II", optional, 56, 4096 * (1 + len(sections)), headers)
    struct.pack_into("<I", optional, 64, 0xDEADBEEF)  # a checksum
    struct.pack_into("<I", optional, 108, 16)
    table, body = b"", b""
    for number, (name, content) in enumerate(sections):
        stored = -(-len(content) // 512) * 512
        place = (len(content), 4096 * (1 + number), stored, headers + len(body))
        table += struct.pack("<8sIIIIIIHHI", name.encode(), *place, 0, 0, 0, 0, 0x60000020)
        body += content.ljust(stored, b"\0")
    if certificates:
        struct.pack_into("<II", optional, 112 + 8 * 4, headers + len(body), len(certificates))
    header = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0x65432100, 0, 0, len(optional), 0x22)
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    return (dos + header + optional + table).ljust(headers, b"\0") + body + certificates


PLAIN = small([(".text", b"code" * 300), (".data", b"data")])


def osslsigncode(path: Path) -> str:
    """The SHA-256 Authenticode digest that osslsigncode computes."""
    tool = shutil.which("osslsigncode")
    if tool is None:
        pytest.skip("no osslsigncode: apt install osslsigncode")
    done = subprocess.run([tool, "verify", "-in", str(path)], capture_output=True, text=True)
    found = re.findall(r"(?:Calculated message digest|Current message digest)\s*:\s*([0-9A-F]{64})", done.stdout)
    if not found:
        pytest.skip("osslsigncode computes digests of signed files only")
    return found[0].lower()


def test_the_digest_of_a_signed_kernel_is_the_one_in_its_signature(tmp_path: Path) -> None:
    """Debian signed the kernel: what its signature covers is in the certificate, whatever tool reads it."""
    kernel = machine_parts.kernel()
    offset, size = pe.parse(kernel).certificates
    assert size
    assert pe.authenticode(kernel) in kernel[offset:]
    (tmp_path / "kernel").write_bytes(kernel)
    assert pe.authenticode(kernel).hex() == osslsigncode(tmp_path / "kernel")


def test_a_signed_copy_keeps_the_digest(tmp_path: Path) -> None:
    tools = [shutil.which("osslsigncode"), shutil.which("openssl")]
    if None in tools:
        pytest.skip("no osslsigncode or openssl: apt install osslsigncode openssl")
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subject = ["-subj", "/CN=test", "-keyout", str(key), "-out", str(certificate)]
    make = [str(tools[1]), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run(make, check=True, capture_output=True)
    image = pe.append(PLAIN, [(".more", b"x" * 777)])
    (tmp_path / "plain").write_bytes(image)
    sign = [str(tools[0]), "sign", "-h", "sha256", "-certs", str(certificate), "-key", str(key)]
    files = ["-in", str(tmp_path / "plain"), "-out", str(tmp_path / "signed")]
    subprocess.run([*sign, *files], check=True, capture_output=True)
    signed = (tmp_path / "signed").read_bytes()
    assert pe.parse(signed).certificates[1]
    assert pe.authenticode(signed) == pe.authenticode(image)
    assert pe.authenticode(image).hex() == osslsigncode(tmp_path / "signed")


def test_the_digest_covers_all_but_checksum_and_certificates() -> None:
    digest = pe.authenticode(PLAIN)
    optional = 0x40 + 24
    checksum, directory = range(optional + 64, optional + 68), range(optional + 144, optional + 152)
    expected = bytes(b for at, b in enumerate(PLAIN) if at not in checksum and at not in directory)
    assert digest == hashlib.sha256(expected).digest()
    signed = small([(".text", b"code" * 300), (".data", b"data")], certificates=b"c" * 64)
    assert pe.authenticode(signed) == digest
    changed = bytearray(PLAIN)
    changed[600] ^= 1
    assert pe.authenticode(bytes(changed)) != digest


def test_added_sections_are_what_objdump_finds(tmp_path: Path) -> None:
    tool = shutil.which("objdump")
    if tool is None:
        pytest.skip("no objdump: apt install binutils")
    added = [(".cmdline", b"quiet"), (".big", bytes(range(256)) * 40)]
    image = pe.append(PLAIN, added)
    path = tmp_path / "image.efi"
    path.write_bytes(image)
    done = subprocess.run([tool, "-h", str(path)], capture_output=True, text=True, check=True)
    rows = re.findall(r"^\s+\d+ (\.\S+)\s+([0-9a-f]{8})\s+[0-9a-f]+\s+[0-9a-f]+\s+([0-9a-f]{8})", done.stdout, re.M)
    found = {name: image[int(offset, 16) : int(offset, 16) + int(size, 16)] for name, size, offset in rows}
    for name, content in added:
        assert found[name][: len(content)] == content
        assert pe.parse(image).section(name) == content
    assert pe.parse(image).section(".text") == b"code" * 300
    header = pe.parse(image).header
    assert image[header + 8 : header + 12] == bytes(4)
    assert image[header + 24 + 64 : header + 24 + 68] == bytes(4)


def test_headers_grow_where_the_table_has_no_room() -> None:
    crowded = small([(f".s{number}", b"x") for number in range(4)])
    image = pe.append(crowded, [(".one", b"1"), (".two", b"2")])
    parsed = pe.parse(image)
    assert parsed.headers_bytes == 1024
    assert [parsed.section(name) for name in (".s0", ".s3", ".one", ".two")] == [b"x", b"x", b"1", b"2"]


@pytest.mark.parametrize(
    "added", [[(".text", b"again")], [(".empty", b"")], [(".nine.char", b"x")], [(f".{n}", b"x") for n in range(95)]]
)
def test_sections_that_do_not_fit_are_refused(added: list[tuple[str, bytes]]) -> None:
    with pytest.raises(MalformedInput, match="portable executable"):
        pe.append(PLAIN, added)


def test_a_signed_stub_is_refused() -> None:
    with pytest.raises(MalformedInput, match="without signature"):
        pe.append(small([(".text", b"x")], certificates=b"c" * 64), [(".more", b"x")])


@given(position=st.integers(0, 511), value=st.integers(0, 255), cut=st.integers(0, len(PLAIN)))
@settings(max_examples=500, deadline=None)
def test_any_header_is_read_or_refused(position: int, value: int, cut: int) -> None:
    data = bytearray(PLAIN)
    data[position] = value
    for hostile in (bytes(data), PLAIN[:cut], bytes(data)[:cut]):
        try:
            image = pe.parse(hostile)
        except MalformedInput:
            continue
        assert len(pe.authenticode(hostile)) == 32
        assert sum(section.stored for section in image.sections) <= len(hostile)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (0x3C, "<I", 0xFFFFFFF0),  # the PE header beyond the file
        (0x40 + 6, "<H", 0xFFFF),  # too many sections
        (0x40 + 24, "<H", 0x10B),  # 32 bits
        (0x40 + 24 + 36, "<I", 3),  # no power of two
        (0x40 + 24 + 60, "<I", 1 << 30),  # headers beyond the file
        (0x40 + 24 + 108, "<I", 1000),  # directories beyond the header
        (0x40 + 24 + 240 + 20, "<I", 768),  # a gap in front of a section
        (0x40 + 24 + 240 + 16, "<I", 1 << 30),  # a section beyond the file
        (0x40 + 24 + 144, "<II", (600, 64)),  # certificates in the middle
    ],
)
def test_headers_that_lie_are_refused(offset: int, form: str, value: int | tuple[int, int]) -> None:
    data = bytearray(PLAIN)
    struct.pack_into(form, data, offset, *(value if isinstance(value, tuple) else (value,)))
    with pytest.raises(MalformedInput, match="portable executable"):
        pe.parse(bytes(data))
