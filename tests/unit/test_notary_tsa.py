"""Timestamps: valid for rfc3161-client, and for OpenSSL where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

from appliance.notary.ca import Authority, make_authority, make_timestamper
from appliance.notary.tsa import TimestampAuthority

MOMENT = datetime(2026, 3, 1, 12, 0, 0, 999_999, tzinfo=UTC)


def authority() -> tuple[TimestampAuthority, Authority, x509.Certificate]:
    root = make_authority(
        "lab.example", "Timestamp Root", ec.generate_private_key(ec.SECP256R1()), MOMENT - timedelta(days=1), path=0
    )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = make_timestamper("lab.example", key, root)
    return TimestampAuthority([certificate, root.certificate], key), root, certificate


def test_a_response() -> None:
    tsa, root, certificate = authority()
    response = decode_timestamp_response(tsa.stamp(b"data", MOMENT))
    assert response.tst_info.gen_time == MOMENT.replace(microsecond=0)
    assert response.tst_info.accuracy.seconds == 1
    assert response.signed_data.certificates == {certificate.public_bytes(serialization.Encoding.DER)}
    verifier = VerifierBuilder().tsa_certificate(certificate).add_root_certificate(root.certificate).build()
    assert verifier.verify_message(response, b"data")
    with pytest.raises(VerificationError):
        verifier.verify_message(response, b"other")


def test_another_authoritys_response() -> None:
    tsa, _, _ = authority()
    _, root, certificate = authority()
    verifier = VerifierBuilder().tsa_certificate(certificate).add_root_certificate(root.certificate).build()
    with pytest.raises(VerificationError):
        verifier.verify_message(decode_timestamp_response(tsa.stamp(b"data", MOMENT)), b"data")


def test_times_of_other_zones_are_written_in_utc() -> None:
    tsa, _, _ = authority()
    local = MOMENT.astimezone(timezone(timedelta(hours=5)))
    assert decode_timestamp_response(tsa.stamp(b"data", local)).tst_info.gen_time == MOMENT.replace(microsecond=0)


def test_serial_numbers_differ() -> None:
    tsa, _, _ = authority()
    serials = {decode_timestamp_response(tsa.stamp(b"data", MOMENT)).tst_info.serial_number for _ in range(20)}
    assert len(serials) == 20


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_openssl_agrees(tmp_path: Path) -> None:
    tsa, root, _ = authority()
    (tmp_path / "response.tsr").write_bytes(tsa.stamp(b"data", MOMENT))
    (tmp_path / "root.pem").write_bytes(root.certificate.public_bytes(serialization.Encoding.PEM))
    for content, expected in ((b"data", 0), (b"other", 1)):
        (tmp_path / "data").write_bytes(content)
        command = ["openssl", "ts", "-verify", "-in", "response.tsr", "-data", "data", "-CAfile", "root.pem"]
        command += ["-attime", str(int(MOMENT.timestamp()))]
        done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert (done.returncode != 0) == bool(expected), done.stdout + done.stderr
