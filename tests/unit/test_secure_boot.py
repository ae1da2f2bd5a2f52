"""Signed boot files against sbverify and osslsigncode, signature lists against efitools, hostile forms of each."""

import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.image import authenticode, pe, secure_boot
from appliance.image import settings as firmware_settings
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported, VerificationError
from tests.unit.test_pe import PLAIN, small

EMPTY_SETTINGS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of keys."""
    out = tmp_path_factory.mktemp("keys") / "lab"
    secure_boot.make(out, "Test lab")
    return out


@pytest.fixture(scope="module")
def keys(folder: Path) -> secure_boot.Keys:
    """Its lists."""
    return secure_boot.read(folder)


@pytest.fixture(scope="module")
def signed(folder: Path) -> bytes:
    """A small executable, signed."""
    return authenticode.sign(PLAIN, signer(folder))


def signer(folder: Path) -> authenticode.SigningKey:
    """The key of a folder that signs boot files."""
    return authenticode.load_signing_key((folder / "db.key").read_bytes(), (folder / "db.crt").read_bytes())


def tool(name: str, package: str) -> str:
    """The path of a program; the test is skipped without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: apt install {package}")
    return found


def test_other_tools_accept_the_signature(folder: Path, signed: bytes, tmp_path: Path) -> None:
    image, certificate = tmp_path / "signed.efi", folder / "db.crt"
    image.write_bytes(signed)
    sbverify = [tool("sbverify", "sbsigntool"), "--cert", str(certificate), str(image)]
    assert subprocess.run(sbverify, capture_output=True, text=True).returncode == 0
    other = [*sbverify[:2], str(folder / "KEK.crt"), str(image)]
    assert subprocess.run(other, capture_output=True, text=True).returncode != 0
    command = [tool("osslsigncode", "osslsigncode"), "verify", "-CAfile", str(certificate), "-in", str(image)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert pe.authenticode(signed).hex() in done.stdout.lower()


def test_a_signature_is_the_same_each_time_and_covers_the_file(
    folder: Path, keys: secure_boot.Keys, signed: bytes
) -> None:
    assert authenticode.sign(PLAIN, signer(folder)) == signed
    assert pe.authenticode(signed) == pe.authenticode(PLAIN)
    entry = keys.authority(signed)
    assert entry[16:] == signer(folder).certificate.public_bytes(Encoding.DER)
    with pytest.raises(MalformedInput, match="none yet"):
        authenticode.sign(signed, signer(folder))


def test_another_key_and_no_signature_are_refused(keys: secure_boot.Keys, tmp_path: Path) -> None:
    secure_boot.make(tmp_path / "other", "Other lab")
    with pytest.raises(VerificationError, match="a signature by one of: CN=Test lab db, found a signature by another"):
        keys.authority(authenticode.sign(PLAIN, signer(tmp_path / "other")))
    with pytest.raises(VerificationError, match="found no signature"):
        keys.authority(PLAIN)
    with pytest.raises(VerificationError, match="by one of: nobody"):
        authenticode.verify(PLAIN, [])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_flipped_bit_is_refused(data: st.DataObject, keys: secure_boot.Keys, signed: bytes) -> None:
    """But in the checksum, which firmware does not read and no signature covers."""
    checksum = range(0x40 + 24 + 64, 0x40 + 24 + 68)
    at = data.draw(st.integers(0, len(signed) - 1).filter(lambda place: place not in checksum))
    flipped = bytearray(signed)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((VerificationError, MalformedInput)):
        keys.authority(bytes(flipped))


def test_keys_are_secret_and_made_once(folder: Path) -> None:
    for variable in secure_boot.VARIABLES:
        assert stat.S_IMODE((folder / f"{variable}.key").stat().st_mode) == 0o600
    with pytest.raises(EnvironmentProblem, match="name a new folder"):
        secure_boot.make(folder, "again")


def test_efitools_makes_the_same_lists(folder: Path, tmp_path: Path) -> None:
    command = tool("cert-to-efi-sig-list", "efitools")
    out = tmp_path / "db.esl"
    subprocess.run([command, "-g", str(secure_boot.OWNER), str(folder / "db.crt"), str(out)], check=True)
    assert out.read_bytes() == (folder / "db.esl").read_bytes()


def test_lists_that_are_none(keys: secure_boot.Keys, tmp_path: Path) -> None:
    good = keys.allowed
    hashes = struct.pack("<16sIII", b"\x26" * 16, 28 + 48, 0, 48) + bytes(48)
    nothing = struct.pack("<16sIII", secure_boot.X509.bytes_le, 0, 0, 0)
    for lists in (good[:20], good[:-1], good + b"x", hashes, nothing, good[:60] + bytes(len(good) - 60)):
        with pytest.raises(MalformedInput, match="signature lists"):
            secure_boot.entries(lists)
    assert len(secure_boot.entries(good + keys.platform)) == 2
    with pytest.raises(MalformedInput, match="appliance image keys"):
        secure_boot.read(tmp_path)
    for name in secure_boot.VARIABLES:
        (tmp_path / f"{name}.esl").write_bytes(b"")
    with pytest.raises(MalformedInput, match=r"a certificate in PK\.esl"):
        secure_boot.read(tmp_path)


@settings(max_examples=300)
@given(lists=st.binary(min_size=1, max_size=200), good=st.booleans())
def test_no_lists_crash_the_reader(lists: bytes, good: bool, keys: secure_boot.Keys) -> None:
    """None of these is a list: no certificate is that small."""
    with pytest.raises(MalformedInput, match="signature lists"):
        secure_boot.entries(keys.allowed + lists if good else lists)


def test_keys_that_firmware_may_not_take(folder: Path) -> None:
    certificate = (folder / "db.crt").read_bytes()

    def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 3072)):
        with pytest.raises(Unsupported, match="2048 bits"):
            authenticode.load_signing_key(pem(key), certificate)
    with pytest.raises(MalformedInput, match="the certificate of another key"):
        authenticode.load_signing_key((folder / "KEK.key").read_bytes(), certificate)
    with pytest.raises(MalformedInput, match="a key in PEM"):
        authenticode.load_signing_key(b"no key", certificate)


def test_the_enrolled_settings_have_the_keys(keys: secure_boot.Keys) -> None:
    if not EMPTY_SETTINGS.is_file():
        pytest.skip("no UEFI firmware: apt install ovmf")
    empty = EMPTY_SETTINGS.read_bytes()
    enrolled = firmware_settings.enrol(empty, keys)
    assert len(enrolled) == len(empty)
    for content in (keys.platform, keys.exchange, keys.allowed):
        assert enrolled.count(content) == 1
    with pytest.raises(MalformedInput, match="other variables"):
        firmware_settings.enrol(enrolled, keys)
    for damaged in (b"", empty[:40], empty[:1000], b"\1" + empty[1:], empty[:72] + bytes(28) + empty[100:]):
        with pytest.raises(MalformedInput, match="firmware settings"):
            firmware_settings.enrol(damaged, keys)


def test_a_signature_needs_its_place() -> None:
    whole = small([(".text", b"code")])
    with pytest.raises(MalformedInput, match="whole sections"):
        pe.attach(whole + b"x", b"table")
