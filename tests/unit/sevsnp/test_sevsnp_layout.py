"""The bytes of reports, ID blocks, certificate tables and AMD's extensions, read strictly."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.errors import MalformedInput, Unsupported
from attest.sevsnp import certificates, der, idblock, layout, table, tcb
from attest.sevsnp.tcb import Tcb
from tests.fakes import sevsnp as fake
from tests.fakes.mutate import EXAMPLES
from tests.fakes.sevsnp import Chip


@pytest.mark.parametrize("version", [2, 3, 5])
def test_every_field_is_read_from_its_place(version: int) -> None:
    values = {
        "guest_svn": 0x01020304, "policy": 1 << 17 | 1 << 19 | 0x0137, "family_id": b"f" * 16, "image_id": b"i" * 16,
        "vmpl": 3, "platform_info": 0b10100001, "keys": 5, "id_key_digest": b"k" * 48,
        "author_key_digest": b"a" * 48, "current_tcb": b"\x01" + bytes(7), "reported_tcb": b"\x02" + bytes(7),
        "committed_tcb": b"\x03" + bytes(7), "launch_tcb": b"\x04" + bytes(7), "current_firmware": b"\x07\x37\x01",
        "committed_firmware": b"\x06\x36\x02",
    }  # fmt: skip
    if version == 5:
        values |= {"launch_mitigations": 0x1122, "current_mitigations": 0x3344}
    chip = Chip(version=version)
    data = chip.report(**values)
    found = layout.read_report(data)
    for name in ("guest_svn", "policy", "family_id", "image_id", "vmpl", "platform_info", "id_key_digest",
                 "author_key_digest", "current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):  # fmt: skip
        assert getattr(found, name) == values[name], name
    assert (found.report_data, found.measurement, found.host_data) == (b"\x11" * 64, b"\x22" * 48, b"\x33" * 32)
    assert (found.report_id, found.report_id_ma, found.chip_id) == (b"\x44" * 32, b"\xff" * 32, chip.chip_id)
    assert (found.current_firmware, found.committed_firmware) == ((1, 0x37, 7), (2, 0x36, 6))
    assert (found.signing_key, found.author_key_enabled, found.version) == ("vlek", True, version)
    assert found.guest_flags == {"debug"} and found.abi == (1, 0x37)
    assert found.platform_flags == {"smt", "alias-check", "tio"}
    assert found.cpuid == (None if version < 3 else (0x19, 1, 1))
    vectors = (found.launch_mitigations, found.current_mitigations)
    assert vectors == ((0x1122, 0x3344) if version == 5 else (None, None))
    assert found.signed + found.signature == data and len(found.signed) == 0x2A0


def test_every_bit_has_its_meaning() -> None:
    guest = {16: "smt", 18: "migration-agent", 19: "debug", 20: "single-socket", 21: "cxl", 22: "aes-256-xts",
             23: "rapl-disabled", 24: "ciphertext-hiding", 25: "page-swap-disabled"}  # fmt: skip
    for bit, meaning in guest.items():
        assert layout.read_report(Chip().report(policy=1 << 17 | 1 << bit)).guest_flags == {meaning}
    platform = {0: "smt", 1: "tsme", 2: "ecc", 3: "rapl-disabled", 4: "ciphertext-hiding", 5: "alias-check", 7: "tio"}
    for bit, meaning in platform.items():
        assert layout.read_report(Chip().report(platform_info=1 << bit)).platform_flags == {meaning}


RESERVED = {
    "reserved_4c": 1, "reserved_18b": b"\0" * 20 + b"\x01", "reserved_1eb": 1, "reserved_1ef": 1,
    "reserved_208": b"\0" * 151 + b"\x01", "policy": 0, "keys": 1 << 5,
}  # fmt: skip


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_bits_are_as_they_must_be(name: str) -> None:
    with pytest.raises(MalformedInput):
        layout.read_report(Chip(version=5).report(**{name: RESERVED[name]}))


@pytest.mark.parametrize(
    ("version", "changes"),
    [(2, {"cpuid": b"\0\0\x01"}), (2, {"launch_mitigations": 1}), (3, {"launch_mitigations": 1}),
     (3, {"current_mitigations": 1})],
)  # fmt: skip
def test_fields_of_later_versions_are_reserved(version: int, changes: dict[str, object]) -> None:
    with pytest.raises(MalformedInput, match="reserved zeros"):
        layout.read_report(Chip(version=version).report(**changes))


@pytest.mark.parametrize(
    "changes",
    [{"version": 0}, {"version": 1}, {"version": 4}, {"version": 6}, {"algorithm": 0}, {"algorithm": 2},
     {"keys": 2 << 2}, {"keys": 6 << 2}, {"policy": 1 << 17 | 1 << 26}, {"policy": 1 << 17 | 1 << 63},
     {"platform_info": 1 << 6}, {"platform_info": 1 << 8}],
    ids=str,
)  # fmt: skip
def test_what_is_not_known_is_unsupported(changes: dict[str, int]) -> None:
    with pytest.raises(Unsupported):
        layout.read_report(Chip(version=5).report(**changes))


@pytest.mark.parametrize("size", [0, 1183, 1185])
def test_a_report_has_one_size(size: int) -> None:
    with pytest.raises(MalformedInput, match="1184 bytes"):
        layout.read_report(Chip().report().ljust(size, b"\0")[:size])


def test_a_signature_is_little_endian_and_padded() -> None:
    assert layout.read_signature(b"\x01\x02" + bytes(70) + b"\x03" + bytes(71) + bytes(368)) == (0x0201, 3)
    for bad in (bytes(511), bytes(513), bytes(511) + b"\x01", bytes(144) + b"\x01" + bytes(367)):
        with pytest.raises(MalformedInput):
            layout.read_signature(bad)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=1300) | st.binary(min_size=1184, max_size=1184))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    with contextlib.suppress(MalformedInput, Unsupported):
        assert layout.read_report(data).signed == data[:0x2A0]


# The versions of components.


def test_the_order_of_versions_is_by_component() -> None:
    tcb_ = Tcb(fmc=1, boot_loader=2, tee=3, snp=4, microcode=5)
    assert tcb_.at_least(tcb_)
    for name in ("fmc", "boot_loader", "tee", "snp", "microcode"):
        assert not tcb_.at_least(tcb_.model_copy(update={name: getattr(tcb_, name) + 1}))
        assert tcb_.at_least(tcb_.model_copy(update={name: getattr(tcb_, name) - 1}))


@pytest.mark.parametrize(
    ("product", "family", "model"),
    [("Milan", 0x19, 0), ("Milan", 0x19, 0x0F), ("Genoa", 0x19, 0x10), ("Genoa", 0x19, 0x1F), ("Genoa", 0x19, 0xA0),
     ("Genoa", 0x19, 0xAF), ("Turin", 0x1A, 0), ("Turin", 0x1A, 0x11)],
)  # fmt: skip
def test_products_are_told_by_their_processor(product: str, family: int, model: int) -> None:
    assert tcb.product_of(family, model) == product


@pytest.mark.parametrize(("family", "model"), [(0x17, 0x31), (0x19, 0x20), (0x19, 0x9F), (0x19, 0xB0), (0x1A, 0x20)])
def test_other_processors_are_not_known(family: int, model: int) -> None:
    with pytest.raises(Unsupported):
        tcb.product_of(family, model)


@pytest.mark.parametrize(
    ("product", "reserved"), [("Milan", range(2, 6)), ("Genoa", range(2, 6)), ("Turin", range(4, 7))]
)
def test_reserved_components_are_not_guessed_at(product: tcb.Product, reserved: range) -> None:
    for place in range(8):
        raw = bytes(place) + b"\x01" + bytes(7 - place)
        if place in reserved:
            with pytest.raises(Unsupported):
                tcb.read(raw, product)
        else:
            assert sum(level for _, level in tcb.read(raw, product)) == 1


# ID blocks.


def test_an_id_block_is_read_strictly() -> None:
    body = Chip().body(guest_svn=7)
    good = fake.id_block(body, family=b"f" * 16, image=b"i" * 16)
    found = idblock.read_block(good)
    assert (found.raw, found.launch_digest, found.guest_svn, found.policy) == (good, b"\x22" * 48, 7, 1 << 17)
    assert (found.family_id, found.image_id) == (b"f" * 16, b"i" * 16)
    with pytest.raises(Unsupported, match="version 1"):
        idblock.read_block(fake.id_block(body, version=2))
    for bad in (good[:-1], good + b"\0", b""):
        with pytest.raises(MalformedInput, match="96 bytes"):
            idblock.read_block(bad)


@pytest.mark.parametrize("name", ["reserved_8", "reserved_644", "reserved_c84"])
def test_the_reserved_bytes_of_an_authentication_are_zeros(name: str) -> None:
    size = {"reserved_8": 56, "reserved_644": 60, "reserved_c84": 892}[name]
    with pytest.raises(MalformedInput, match="reserved bytes"):
        idblock.read_authentication(fake.id_authentication(bytes(96), **{name: b"\x01".rjust(size, b"\0")}))


def test_an_authentication_has_one_size_and_one_algorithm() -> None:
    good = fake.id_authentication(bytes(96))
    assert idblock.read_authentication(good).id_key == fake.amd_key(fake.ec_key("id"))
    for bad in (good[:-1], good + b"\0"):
        with pytest.raises(MalformedInput, match="4096 bytes"):
            idblock.read_authentication(bad)
    with pytest.raises(Unsupported, match="algorithm"):
        idblock.read_authentication(fake.id_authentication(bytes(96), algorithm=2))


def test_a_key_is_a_point_on_p384() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    good = fake.amd_key(key)
    assert idblock.read_key(good) == key.public_key()
    with pytest.raises(Unsupported, match="curve 1"):
        idblock.read_key(fake.amd_key(key, curve=1))
    with pytest.raises(MalformedInput, match="reserved"):
        idblock.read_key(good[:-1] + b"\x01")
    for bad in (good[:4] + bytes(144) + bytes(880), good[:4] + b"\xff" * 144 + bytes(880)):
        with pytest.raises(MalformedInput, match="point"):
            idblock.read_key(bad)


def test_the_authentication_of_another_project_is_read(data: Path) -> None:
    """An ID block that virtee's tests publish, and the authentication that stands among the vectors."""
    folder = data / "attestation" / "snp" / "virtee-sev-measurement"
    authentication = (folder / "test_auth_block.bin").read_bytes()
    found = idblock.read_authentication(authentication)
    assert found.block_signature == (folder / "test_id_sig.bin").read_bytes()
    assert found.key_signature == (folder / "test_auth_sig.bin").read_bytes()
    idblock.read_key(found.id_key)
    author = idblock.read_key(found.author_key)
    r, s = layout.read_signature(found.key_signature)
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    author.verify(encode_dss_signature(r, s), found.id_key, ec.ECDSA(hashes.SHA384()))


# Certificate tables.

VCEK, ASK, ARK = (
    "63da758d-e664-4564-adc5-f4b93be8accd", "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae",
)  # fmt: skip


def test_a_certificate_table_is_read() -> None:
    data = fake.certificate_table({VCEK: b"v", ASK: b"ask", "00000000-0000-0000-0000-000000000001": b"?", ARK: b""})
    assert table.read(data) == {"vcek": b"v", "ask": b"ask", "ark": b""}
    assert table.read(data + bytes(4096)) == table.read(data)
    assert table.read(b"") == table.read(bytes(24)) == table.read(bytes(4096)) == {}


def test_a_table_is_read_strictly() -> None:
    entry = bytes.fromhex(VCEK.replace("-", ""))
    for bad, message in {
        bytes(23): "found the end",
        entry + struct.pack("<II", 48, 0): "found the end",
        (entry + struct.pack("<II", 72, 0)) * 2 + bytes(24): "twice",
        entry + struct.pack("<II", 47, 1) + bytes(24): "behind the entries",
        entry + bytes(8) + bytes(24): "behind the entries",
        entry + struct.pack("<II", 48, 1) + bytes(24): "behind the entries",
        entry + struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + bytes(24): "behind the entries",
        b"".join(bytes(15) + bytes([index + 1]) + struct.pack("<II", 480, 0) for index in range(17))
        + bytes(100): "at most 16",
    }.items():
        with pytest.raises(MalformedInput, match=message):
            table.read(bad)
    full = b"".join(bytes(15) + bytes([index + 1]) + struct.pack("<II", 408, 0) for index in range(16)) + bytes(24)
    assert table.read(full) == {}
    # An entry of zeros ends the table; one with an offset or a length is none of zeros.
    for other in (struct.pack("<II", 1, 0), struct.pack("<II", 0, 1)):
        with pytest.raises(MalformedInput, match="behind the entries"):
            table.read(bytes(16) + other + bytes(24))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=600))
def test_no_bytes_crash_the_table(data: bytes) -> None:
    with contextlib.suppress(MalformedInput):
        assert len(table.read(data)) <= len(table.GUIDS)


# DER.


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255])
def test_small_integers_are_read(value: int) -> None:
    assert der.small_integer(fake.integer(value), "it") == value


@pytest.mark.parametrize(
    "data",
    ["", "02", "0200", "020180", "02020001", "0202007f", "02020100", "0203000080", "02020180", "02010000", "020200",
     "0401ff", "028101ff"],
)  # fmt: skip
def test_other_integers_are_refused(data: str) -> None:
    with pytest.raises(MalformedInput):
        der.small_integer(bytes.fromhex(data), "it")


def test_texts_and_octets_are_read_strictly() -> None:
    assert der.ia5_string(b"\x16\x05Milan", "it") == "Milan"
    assert der.ia5_string(b"\x16\x03a ~", "it") == "a ~"
    assert der.octets(b"\x04\x02\x00\xff", "it") == b"\x00\xff"
    assert der.octets(b"\x04\x00", "it") == b""
    for length in (0x80, 0x82):
        with pytest.raises(MalformedInput):
            der.octets(bytes([4, length]) + bytes(length), "it")
    for bad in (b"\x16\x05Mila", b"\x16\x04Milan", b"\x0c\x05Milan", b"\x16\x02\x1fa", b"\x16\x02a\x7f"):
        with pytest.raises(MalformedInput):
            der.ia5_string(bad, "it")


def test_pem_is_split(data: Path) -> None:
    path = data / "attestation" / "snp" / "trustee" / "milan_ask_ark_asvk.pem"
    found = [
        certificates.common_name(certificates.load(part).subject) for part in certificates.split(path.read_bytes())
    ]
    assert found == ["SEV-Milan", "ARK-Milan", "SEV-VLEK-Milan"]
    with pytest.raises(MalformedInput):
        certificates.split(b"-----BEGIN CERTIFICATE-----")


def test_a_name_has_one_common_name() -> None:
    from cryptography import x509

    names = [x509.NameAttribute(x509.NameOID.COMMON_NAME, text) for text in ("SEV-VCEK", "SEV-VLEK")]
    assert certificates.common_name(x509.Name(names[:1])) == "SEV-VCEK"
    for bad in (names, []):
        with pytest.raises(MalformedInput):
            certificates.common_name(x509.Name(bad))


@pytest.mark.parametrize("load", [certificates.load, certificates.load_crl])
def test_what_is_loaded_is_bounded(load: object) -> None:
    limit = certificates.MAX_BYTES if load is certificates.load else certificates.MAX_CRL_BYTES
    with pytest.raises(MalformedInput, match="at most"):
        load(bytes(limit + 1))  # type: ignore[operator]
    with pytest.raises(MalformedInput, match="cannot be read"):
        load(bytes(limit))  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["certificate", "list"])
def test_a_signature_has_one_spelling(kind: str) -> None:
    """A bit that is zero can be declared unused without changing what is signed: found by mutating AMD's ASK."""
    load = certificates.load if kind == "certificate" else certificates.load_crl
    while True:
        good = (
            fake.Vendor().authority("SEV-{}", "ask", "ARK-{}", "ark") if kind == "certificate" else fake.Vendor().crl()
        )
        if good[-1] & 1 == 0:
            break
    signature = load(good).signature
    assert good[-257:] == b"\0" + signature
    with pytest.raises(MalformedInput, match="unused bits"):
        load(good[:-257] + b"\x01" + signature)


def test_a_version_that_x509_lacks_is_malformed(data: Path) -> None:
    good = (data / "attestation" / "snp" / "trustee" / "test-vcek.der").read_bytes()
    assert good[8:13] == bytes.fromhex("a003020102")
    with pytest.raises(MalformedInput, match="version"):
        certificates.load(good[:12] + b"\x03" + good[13:])
