"""Vendors' own files, as documents of our format: which form each is in, and what has to come beside it."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attest import chain
from attest.appraise import items
from attest.errors import MalformedInput, Unsupported
from attest.nitro import dstack
from tests.fakes.sevsnp import Chip, Vendor

REPORT = Chip().report()
CERTIFICATE = Vendor().chip_certificate(Chip())
PEM = chain.load(CERTIFICATE).public_bytes(Encoding.PEM)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("report", [REPORT, REPORT.hex().encode(), REPORT.hex().upper().encode() + b"\n"])
@pytest.mark.parametrize("certificate", [CERTIFICATE, PEM, b"\n" + PEM])
def test_a_report_of_sev_snp_is_bytes_or_digits_and_its_certificate_der_or_pem(
    report: bytes, certificate: bytes
) -> None:
    found = items.wrap(report, "sev-snp", certificate)
    assert found == {
        "format": "vitrine/sev-snp-evidence/v1", "report": b64(REPORT), "certificate": b64(CERTIFICATE),
    }  # fmt: skip


def test_what_is_not_of_digits_alone_is_bytes() -> None:
    quote = b"0a0b"
    assert items.wrap(quote, "tdx") == {"format": "vitrine/tdx-evidence/v1", "quote": b64(quote)}
    assert items.wrap(b"0a-b", "nvidia-gpu", PEM)["gpus"] == [{"report": b64(b"0a-b"), "certificates": b64(PEM)}]
    assert items.wrap(b"0a0b", "nvidia-gpu", PEM)["gpus"] == [{"report": b64(b"\x0a\x0b"), "certificates": b64(PEM)}]
    with pytest.raises(MalformedInput, match="even number"):
        items.wrap(b"0a0", "sev-snp", CERTIFICATE)


def test_a_document_of_nitro_may_be_wrapped() -> None:
    frame = dstack.HEAD + bytes([1 << 2]) + b"x" + b"\0" + bytes(64) + b"\x08{}"
    for data in (b"x", frame):
        assert items.wrap(data, "nitro") == {"format": "vitrine/nitro-evidence/v1", "document": b64(b"x")}


def test_gpus_come_as_a_list_or_one_with_its_certificates() -> None:
    versions = {"driver_version": "570.1", "vbios_version": "96.0", "version": "1.0"}
    listed = [versions | {"arch": "HOPPER", "certificate": b64(PEM), "evidence": b64(b"report"), "nonce": "00" * 32}]
    found = items.wrap(b" " + json.dumps(listed).encode(), "nvidia-gpu")
    assert found["gpus"] == [{"report": b64(b"report"), "certificates": b64(PEM)}]


@pytest.mark.parametrize("platform", ["sev-snp", "nvidia-gpu"])
def test_a_report_without_the_certificate_of_its_key_is_malformed(platform: str) -> None:
    with pytest.raises(MalformedInput, match="certificate of the key"):
        items.wrap(REPORT, platform)  # type: ignore[arg-type]


@pytest.mark.parametrize("platform", ["tpm", "azure"])
def test_evidence_of_several_parts_is_no_vendors_file(platform: str) -> None:
    with pytest.raises(Unsupported, match="found a vendor's file"):
        items.wrap(b"data", platform, CERTIFICATE)  # type: ignore[arg-type]


@pytest.mark.parametrize("platform", ["sev-snp", "tdx", "nitro", "nvidia-gpu"])
def test_an_empty_file_is_malformed(platform: str) -> None:
    with pytest.raises(MalformedInput):
        items.wrap(b"", platform, CERTIFICATE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"[]", MalformedInput),
        (b'"vitrine/tdx-evidence/v1"', MalformedInput),
        (b"{}", MalformedInput),
        (b'{"format":7}', MalformedInput),
        (b'{"format":["vitrine/tdx-evidence/v1"]}', MalformedInput),
        (b'{"format":"vitrine/other/v1"}', Unsupported),
    ],
)
def test_documents_of_other_formats_are_refused(data: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        items.read(data)
    assert items.read(b'{"format":"vitrine/tdx-evidence/v1"}') == {"format": "vitrine/tdx-evidence/v1"}
