"""The kernel's list of measured files, and lists of Secure Boot: every template, every limit."""

from __future__ import annotations

import hashlib
import struct

import pytest

from attest.errors import MalformedInput, Unsupported
from attest.tpm import ima, signaturelist

DIGEST = hashlib.sha256(b"content").digest()
NAMED = f"sha256:{DIGEST.hex()}"
SHORT = hashlib.sha1(b"content").digest()


def fields(*parts: bytes) -> bytes:
    """Template data."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def line(template: str, data: bytes, rest: str, function: str = "sha1", register: int = 10) -> bytes:
    """A line with the right template hash."""
    return f"{register} {hashlib.new(function, data).hexdigest()} {template} {rest}\n".encode()


LABELLED = b"sha256:\0" + DIGEST
NG = fields(LABELLED, b"/bin/a b\0")
OLD = SHORT + b"/bin/a".ljust(256, b"\0")
LINE = line("ima-ng", NG, f"sha256:{DIGEST.hex()} /bin/a b")


@pytest.mark.parametrize(
    ("template", "data", "rest", "function", "digest", "path"),
    [
        ("ima-ng", NG, f"{NAMED} /bin/a b", "sha1", NAMED, "/bin/a b"),
        ("ima-ng", NG, f"{NAMED} /bin/a b", "sha256", NAMED, "/bin/a b"),
        ("ima-ng", NG, f"{NAMED} /bin/a b", "sha384", NAMED, "/bin/a b"),
        ("ima", OLD, f"{SHORT.hex()} /bin/a", "sha1", f"sha1:{SHORT.hex()}", "/bin/a"),
        ("ima-sig", fields(LABELLED, b"/a b\0", b"\3\2sig"), f"{NAMED} /a b 0302736967", "sha1", NAMED, "/a b"),
        ("ima-sig", fields(LABELLED, b"/a\0", b""), f"{NAMED} /a ", "sha1", NAMED, "/a"),
    ],
)
def test_templates(template: str, data: bytes, rest: str, function: str, digest: str, path: str) -> None:
    (entry,) = ima.parse(line(template, data, rest, function))
    assert entry == (ima.File(path, digest, violation=False), data)
    start, end = ima.values((entry,), "sha256")
    assert start == bytes(32)
    assert end == hashlib.sha256(bytes(32) + hashlib.sha256(data).digest()).digest()


def test_a_path_may_hold_any_bytes() -> None:
    path = b"/caf\xe9/\xff\x01"
    data = fields(b"sha256:\0" + DIGEST, path + b"\0")
    text = (
        b"10 "
        + hashlib.sha1(data).hexdigest().encode()
        + b" ima-ng sha256:"
        + DIGEST.hex().encode()
        + b" "
        + path
        + b"\n"
    )
    ((file, hashed),) = ima.parse(text)
    assert (file.path, hashed) == ("/caf\ufffd/\ufffd\x01", data)


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_a_violation_extends_ones(bank: str) -> None:
    text = f"10 {'0' * 40} ima-ng sha1:{'0' * 40} /var/log\n".encode()
    (entry,) = ima.parse(text)
    size = hashlib.new(bank).digest_size
    _, value = ima.values((entry,), bank)  # type: ignore[arg-type]
    assert entry[0].violation
    assert value == hashlib.new(bank, bytes(size) + b"\xff" * size).digest()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", MalformedInput),
        (LINE[:-1], MalformedInput),
        (LINE + b"\n", MalformedInput),
        (line("ima-ng", NG, f"sha256:{DIGEST.hex()} /bin/a b", register=11), MalformedInput),
        (line("ima-buf", NG, f"sha256:{DIGEST.hex()} /bin/a b"), Unsupported),
        (LINE.replace(b"/bin/a b", b"/bin/a c"), MalformedInput),
        (LINE.replace(b"sha256:", b"sha512:"), MalformedInput),
        (LINE.replace(b"sha256:", b"md5:"), Unsupported),
        (LINE.replace(DIGEST.hex().encode(), DIGEST.hex().upper().encode()), MalformedInput),
        (LINE.replace(DIGEST.hex().encode(), DIGEST.hex().encode()[:-2]), MalformedInput),
        (LINE.replace(DIGEST.hex().encode(), b"zz" * 32), MalformedInput),
        (b"10 00 ima-ng sha256:" + DIGEST.hex().encode() + b" /a\n", MalformedInput),
        (b"10  ima-ng sha256:" + DIGEST.hex().encode() + b" /a\n", MalformedInput),
        (b"10 " + b"0" * 40 + b" ima-ng\n", MalformedInput),
        (b"10 " + b"0" * 40 + b" ima-ng sha256:" + b"0" * 64 + b"\n", MalformedInput),
        (LINE.replace(LINE.split()[1], LINE.split()[1].upper()), MalformedInput),
        (line("ima-ng", fields(b"sha256:\0" + DIGEST, b"\0"), f"sha256:{DIGEST.hex()} "), MalformedInput),
        (line("ima", SHORT + b"/" * 256, f"{SHORT.hex()} {'/' * 256}"), MalformedInput),
        (bytes((16 << 20) + 1), MalformedInput),
    ],
)
def test_other_lists_are_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match="IMA list"):
        ima.parse(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bytes(ima.MAX_BYTES + 1), "at most"),
        (LINE[:-1], "lines that end"),
        (LINE.replace(b"sha256:", b"sha512:"), "expected 128 digits of sha512, found 64"),
        (b"10  ima-ng sha256:" + DIGEST.hex().encode() + b" /a\n", "expected a template hash, found b''"),
        (LINE.replace(b"sha256:" + DIGEST.hex().encode(), b"sha256:"), "expected 64 digits of sha256, found 0"),
        (LINE.replace(DIGEST.hex().encode(), DIGEST.hex().upper().encode()), "expected lower-case hexadecimal digits"),
        (LINE.replace(DIGEST.hex().encode(), b"z" * len(DIGEST.hex())), "expected lower-case hexadecimal digits"),
        (LINE.replace(b"/bin/a b", b"/bin/a c"), "expected template hash [0-9a-f]{40}, found"),
        (LINE.replace(LINE.split()[1], LINE.split()[1].upper()), "expected template hash [0-9a-f]{40}, found"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(data: bytes, said: str) -> None:
    with pytest.raises(MalformedInput, match=said):
        ima.parse(data)


def test_only_the_old_template_bounds_a_path() -> None:
    path = "/" * 300
    data = fields(b"sha256:\0" + DIGEST, path.encode() + b"\0")
    ((file, _),) = ima.parse(line("ima-ng", data, f"sha256:{DIGEST.hex()} {path}"))
    assert file.path == path


def test_the_limits_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/" * 255
    ((file, _),) = ima.parse(line("ima", SHORT + path.encode().ljust(256, b"\0"), f"{SHORT.hex()} {path}"))
    assert file.path == path
    monkeypatch.setattr(ima, "MAX_ENTRIES", 2)
    assert len(ima.parse(LINE * 2)) == 2
    with pytest.raises(MalformedInput, match="at most 2 entries"):
        ima.parse(LINE * 3)
    monkeypatch.setattr(ima, "MAX_BYTES", len(LINE))
    assert len(ima.parse(LINE)) == 1


# Lists of Secure Boot -------------------------------------------------------------------------------------------------

SHA256 = bytes.fromhex("2616c4c14c509240aca941f936934328")
X509 = bytes.fromhex("a159c0a5e494a74a87b5ab155c2bf072")


def entries(kind: bytes, size: int, entry: int, body: bytes, header: int = 0) -> bytes:
    """EFI_SIGNATURE_LIST with these numbers."""
    return kind + struct.pack("<III", size, header, entry) + body


def test_lists_are_read() -> None:
    body = bytes(16) + DIGEST
    assert [item.digest for item in signaturelist.parse(entries(SHA256, 28 + 96, 48, body * 2))] == [DIGEST] * 2
    assert signaturelist.parse(entries(X509, 28 + 17, 17, bytes(17)))[0].digest == hashlib.sha256(b"\0").digest()
    assert signaturelist.parse(entries(SHA256, 28, 48, b"")) == ()


@pytest.mark.parametrize(
    "data",
    [
        entries(X509, 28 + 16, 16, bytes(16)),
        entries(X509, 28 + 17, 0, bytes(17)),
        entries(X509, 28 + 18, 17, bytes(18)),
        entries(X509, 20, 48, b""),
        entries(X509, 28 + 4 + 17, 17, bytes(21), header=4),
        entries(SHA256, 28 + 47, 47, bytes(47)),
        entries(X509, 28 + 17 * 8193, 17, bytes(17 * 8193)),
        entries(X509, 28 + 17, 17, bytes(16)),
    ],
)
def test_other_entries_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="Secure Boot list"):
        signaturelist.parse(data)


def test_the_number_of_entries_is_bounded_over_all_lists() -> None:
    full = entries(X509, 28 + 17 * 8192, 17, bytes(17 * 8192))
    assert len(signaturelist.parse(full)) == 8192
    with pytest.raises(MalformedInput):
        signaturelist.parse(full + entries(X509, 28 + 17, 17, bytes(17)))


@pytest.mark.parametrize(("size", "revision", "kind"), [(24, 0x0100, 0x0EF1), (24, 0x0200, 2), (23, 0x0200, 0x0EF1)])
def test_other_updates_are_refused(size: int, revision: int, kind: int) -> None:
    good = bytes(16) + struct.pack("<IHH", 24, 0x0200, 0x0EF1) + bytes(16)
    assert signaturelist.update(good) == ()
    with pytest.raises(MalformedInput):
        signaturelist.update(bytes(16) + struct.pack("<IHH", size, revision, kind) + bytes(size - 8))
