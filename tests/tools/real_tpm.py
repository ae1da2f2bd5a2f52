"""The real evidence of TPMs in the test data, read: a quote of a cloud machine, and one of a software TPM."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attest.tpm import (
    Claims,
    Endorsements,
    Evidence,
    Root,
    Signed,
    authenticate,
    claims,
)
from tests.tools import gce

GCE = "gce-attestation/"
GCE_NOW = datetime(2021, 10, 1, tzinfo=UTC)
NOW = datetime(2023, 1, 1, tzinfo=UTC)
BANKS = ("sha1", "sha256", "sha384")
KEYLIME_NONCE = bytes.fromhex("db1db298db6d60e6385b7231743e9c3056a18003")


def der(path: Path) -> bytes:
    data = path.read_bytes()
    return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER) if data.startswith(b"-----") else data


def endorsements(folder: Path, root: str = "tpm_ek_root_1.cer", *between: str, kind: str = "software") -> Endorsements:
    return Endorsements(
        roots=(Root(der(folder / GCE / root), kind),),  # type: ignore[arg-type]
        intermediates=tuple(der(folder / GCE / name) for name in between),
    )


def gce_claims(folder: Path, *banks: str, **changes: object) -> Claims:
    attestation = gce.read((folder / GCE / "gce-cos-85-no-nonce.pb").read_bytes())
    arguments = {"nonce": b"", "now": GCE_NOW, "unsafe_without_revocation": True} | changes
    trusted = endorsements(folder, "tpm_ek_root_1.cer", "tpm_ek_intermediate_2.crt")
    return claims(authenticate(attestation.evidence(*banks), trusted, **arguments))  # type: ignore[arg-type]


def keylime_evidence(folder: Path) -> Evidence:
    at = folder / "keylime-quote"
    values = gce.keylime_values((at / "quotepcr.out").read_bytes())
    return Evidence(
        format="vitrine/tpm-evidence/v1",
        key=(at / "ak.pub").read_bytes()[2:],
        quotes=(Signed(attested=(at / "quote.out").read_bytes(), signature=(at / "quotesig.out").read_bytes()),),
        registers={"sha256": {str(register): value.hex() for register, value in values.items()}},
    )
