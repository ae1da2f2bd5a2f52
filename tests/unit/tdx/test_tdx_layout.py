"""Bytes to fields: every size and every number that has to agree is made wrong once."""

from __future__ import annotations

import struct

import pytest

from attest.errors import MalformedInput, Unsupported
from attest.tdx import layout, pck
from attest.tdx.layout import Domain, Enclave
from tests.fakes import tdx

V4 = tdx.intel().quote(tdx.domain(b"\7" * 64))
V5 = tdx.intel().quote(tdx.domain(td15=True, tee_tcb_svn2=b"\5" * 16, mr_service_td=b"\6" * 48), version=5)
V3 = tdx.intel().for_sgx().quote(tdx.enclave(b"\7" * 64), version=3)
V4_PROOF = 48 + 584 + 4
"""Where the proof of a quote of version 4 begins."""


def changed(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


def test_a_domain_of_version_4() -> None:
    quote = layout.parse(V4)
    assert isinstance(quote.body, Domain)
    assert (quote.version, quote.body.report_data, quote.body.mr_td) == (4, b"\7" * 64, b"\xd0" * 48)
    assert quote.body.rtmrs == (b"\xa0" * 48, b"\xa1" * 48, bytes(48), b"\xa3" * 48)
    assert (quote.body.tee_tcb_svn2, quote.body.mr_service_td) == (None, None)
    assert (quote.body.mr_config_id[0], quote.body.mr_owner[0], quote.body.mr_owner_config[0]) == (0xC1, 0xC2, 0xC3)
    assert quote.signed == V4[: 48 + 584]
    assert quote.pck_chain == tdx.intel().pck_chain()
    assert quote.qe_auth == tdx.QE_AUTH


def test_a_domain_of_version_5() -> None:
    quote = layout.parse(V5)
    assert isinstance(quote.body, Domain)
    assert (quote.body.tee_tcb_svn2, quote.body.mr_service_td) == (b"\5" * 16, b"\6" * 48)
    assert quote.signed == V5[: 48 + 6 + 648]
    older = layout.parse(tdx.intel().quote(tdx.domain(), version=5)).body
    assert isinstance(older, Domain)
    assert older.tee_tcb_svn2 is None


@pytest.mark.parametrize("version", [3, 4, 5])
def test_an_enclave_of_each_version(version: int) -> None:
    quote = layout.parse(tdx.intel().quote(tdx.enclave(b"\7" * 64, isv_svn=9), version=version))
    assert isinstance(quote.body, Enclave)
    assert (quote.body.isv_svn, quote.body.isv_prod_id, quote.body.report_data) == (9, 2, b"\7" * 64)


def test_bytes_after_the_quote_are_passed_over() -> None:
    assert layout.parse(V4 + b"rest of the buffer") == layout.parse(V4)


def test_the_largest_buffer() -> None:
    assert layout.parse(V4.ljust(layout.MAX_BYTES, b"\0")).version == 4
    with pytest.raises(MalformedInput, match="at most"):
        layout.parse(V4.ljust(layout.MAX_BYTES + 1, b"\0"))


@pytest.mark.parametrize("data", [V3, V4, V5], ids=["v3", "v4", "v5"])
def test_no_quote_can_be_cut(data: bytes) -> None:
    for size in [*range(0, len(data), 97), len(data) - 1]:
        with pytest.raises(MalformedInput, match="expected"):
            layout.parse(data[:size])


@pytest.mark.parametrize(
    ("data", "offset", "form", "value", "words"),
    [
        (V4, 0, "H", 2, "expected version"),
        (V4, 0, "H", 6, "expected version"),
        (V4, 2, "H", 3, "attestation key of type 2"),
        (V4, 12, "B", 0, "Intel's quoting enclave"),
        (V4, 4, "I", 0x82, "expected SGX"),
        (V4, 0, "H", 3, "expected SGX, or TDX from version 4 on"),
        (V5, 48, "H", 1, "expected a body of type"),
        (V5, 48, "H", 4, "expected a body of type"),
        (V4, V4_PROOF + 128, "H", 5, "expected certification data of type 6"),
        (V4, V4_PROOF + 128 + 6 + 384 + 64 + 34, "H", 4, "expected certification data of type 5"),
    ],
)
def test_what_is_not_known_is_said(data: bytes, offset: int, form: str, value: int, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        layout.parse(changed(data, offset, struct.pack(f"<{form}", value)))


def test_an_enclave_does_not_come_as_a_domain() -> None:
    quote = tdx.intel().quote(tdx.enclave(), version=5)
    with pytest.raises(Unsupported, match="expected a body of type"):
        layout.parse(changed(quote, 48, struct.pack("<H", 2)))


def test_the_body_of_version_5_has_its_size() -> None:
    with pytest.raises(MalformedInput, match="expected a body of 648 bytes"):
        layout.parse(changed(V5, 50, struct.pack("<I", 584)))


@pytest.mark.parametrize("offset", [V4_PROOF + 130, V4_PROOF + 128 + 6 + 384 + 64 + 34 + 2])
@pytest.mark.parametrize("more", [-1, 1])
def test_certification_data_ends_where_what_holds_it_ends(offset: int, more: int) -> None:
    (size,) = struct.unpack_from("<I", V4, offset)
    with pytest.raises(MalformedInput):
        layout.parse(changed(V4, offset, struct.pack("<I", size + more)))


def test_reports_have_exactly_their_sizes() -> None:
    with pytest.raises(MalformedInput, match="expected the end"):
        layout.parse_enclave(tdx.enclave() + b"\0")
    with pytest.raises(MalformedInput, match="expected the end"):
        layout.parse_domain(tdx.domain(td15=True) + b"\0")


def test_the_platform_of_a_certificate() -> None:
    platform = pck.read(tdx.intel().leaf)
    assert platform == pck.Pck(tdx.FMSPC, tdx.PCE_ID, tdx.COMPONENTS, tdx.PCE_SVN, tdx.PPID)


EXTENSION = tdx.sgx_extension()


@pytest.mark.parametrize(
    ("extension", "words"),
    [
        (EXTENSION + EXTENSION, "expected one value"),
        (b"", "expected one value"),
        (EXTENSION[:-1], "expected .* bytes at offset"),
        (b"\x31" + EXTENSION[1:], "expected tag 0x30"),
        (tdx.sgx_extension(fmspc=bytes(5)), "of 6 bytes, found 0x4 of 5"),
        (tdx.sgx_extension(pce_id=bytes(3)), "of 2 bytes, found 0x4 of 3"),
        (tdx.sgx_extension(components=tdx.COMPONENTS[:15]), "expected 18 security versions"),
        (EXTENSION.replace(tdx.pair(b"\5", tdx.der(10, b"\1")), tdx.pair(b"\x09", tdx.der(10, b"\1"))), "fields"),
        (EXTENSION.replace(tdx.pair(b"\5", tdx.der(10, b"\1")), tdx.pair(b"\4", tdx.der(10, b"\1"))), "twice"),
        (tdx.der(0x30, tdx.pair(b"\1", tdx.der(4, tdx.PPID))), "expected the profile's fields"),
        (tdx.der(0x30, EXTENSION[4:] + tdx.pair(b"\x08", tdx.der(4, b""))), "expected the profile's fields"),
    ],
)
def test_extensions_out_of_the_profile(extension: bytes, words: str) -> None:
    certificate = tdx.certify(
        tdx.LEAF, tdx.intel().pck_key, tdx.PLATFORM, tdx.intel().authority_key, ca=False,
        extensions=tdx.intels(extension),
    )  # fmt: skip
    with pytest.raises(MalformedInput, match=words):
        pck.read(certificate)


def test_a_component_is_one_byte() -> None:
    first = tdx.pair(b"\2\1", tdx.integer(2))
    for value, accepted in ((255, True), (256, False)):
        second = tdx.pair(b"\2\2", tdx.integer(value))
        rest = b"".join(tdx.pair(bytes([2, n]), tdx.integer(0)) for n in range(3, 18))
        tcb = tdx.pair(b"\2", tdx.der(0x30, first + second + rest + tdx.pair(b"\2\x12", tdx.der(4, bytes(16)))))
        parts = [tdx.pair(b"\1", tdx.der(4, tdx.PPID)), tcb, tdx.pair(b"\3", tdx.der(4, bytes(2)))]
        parts += [tdx.pair(b"\4", tdx.der(4, bytes(6))), tdx.pair(b"\5", tdx.der(10, b"\0"))]
        certificate = tdx.make(tdx.der(0x30, b"".join(parts))).leaf
        if accepted:
            assert pck.read(certificate).components[:3] == (2, 255, 0)
        else:
            with pytest.raises(MalformedInput, match="0 to 255"):
                pck.read(certificate)


def test_a_certificate_without_the_extension() -> None:
    with pytest.raises(MalformedInput, match="found none"):
        pck.read(tdx.intel().signer)
