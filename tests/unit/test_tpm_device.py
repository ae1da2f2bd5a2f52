"""The TPM client against a software TPM, and its quotes against the verifier."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.enclave import tpm_device
from appliance.enclave.tpm_device import Tpm
from attest.errors import EnvironmentProblem, VerificationError
from attest.tpm import layout
from attest.tpm.authenticate import check_key, check_signed, check_values
from attest.tpm.evidence import Signed
from tests.tools import swtpm

NONCE = bytes(range(32))


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Tpm]:
    """A fresh software TPM."""
    with swtpm.started(tmp_path / "state") as device:
        yield device


def test_registers_are_extended_as_computed(tpm: Tpm) -> None:
    assert tpm.read([15, 23]) == {15: bytes(32), 23: bytes(32)}
    digest = hashlib.sha256(b"what was measured").digest()
    tpm.extend(15, digest)
    assert tpm.read([15])[15] == hashlib.sha256(bytes(32) + digest).digest()
    tpm.extend(15, digest)
    assert tpm.read([15])[15] != hashlib.sha256(bytes(32) + digest).digest()


def test_a_quote_verifies_and_binds_nonce_and_registers(tpm: Tpm) -> None:
    tpm.extend(11, bytes(range(32)))
    key = tpm.create_key()
    registers = tuple(range(16))
    quote = tpm.quote(key, NONCE, registers)
    signed = Signed(attested=quote.attested, signature=quote.signature)
    statement = check_signed(layout.public_area(key.public), signed, NONCE)
    check_values(layout.public_area(key.public), (statement,), {"sha256": tpm.read(registers)})
    forged = bytearray(quote.attested)
    forged[-1] ^= 1
    with pytest.raises(VerificationError, match="tpm/signature"):
        check_signed(layout.public_area(key.public), signed.model_copy(update={"attested": bytes(forged)}), NONCE)
    tpm.flush(key)


def test_keys_are_the_same_until_the_tpm_is_reset_and_can_be_removed(tpm: Tpm) -> None:
    keys = []
    for _ in range(5):  # more than the TPM has room for at once
        key = tpm.create_key()
        keys.append(key.point)
        tpm.flush(key)
    assert len(set(keys)) == 1
    check_key(layout.public_area(tpm.create_key().public))


def test_what_the_tpm_refuses_is_said_with_its_code(tpm: Tpm) -> None:
    with pytest.raises(EnvironmentProblem, match="refuses command 0x158"):
        tpm.quote(tpm_device.Key(0x80FFFFFF, b"", b""), NONCE, (0,))


def test_no_tpm_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="no software TPM"):
        tpm_device.open_socket(tmp_path / "nothing")


def test_register_values_travel_as_text() -> None:
    assert json.dumps(tpm_device.wire({11: b"\1" * 32, 4: bytes(32)})) == json.dumps({"4": "00" * 32, "11": "01" * 32})
