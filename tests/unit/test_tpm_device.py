"""The TPM client against a software TPM, and its quotes against the verifier."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.enclave import tpm_device
from appliance.enclave.tpm_device import Tpm
from attest import machine
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
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
    found = machine.parse_quote(quote.attested)
    assert (found.extra, found.registers) == (NONCE, registers)
    assert found.digest == hashlib.sha256(b"".join(tpm.read(registers).values())).digest()
    evidence = machine.TpmEvidence.model_construct(
        key=key.public, attested=quote.attested, signature=quote.signature
    )  # only what the signature check reads
    machine._check_signature(evidence)
    forged = bytearray(quote.attested)
    forged[-1] ^= 1
    with pytest.raises(VerificationError, match="machine/signature"):
        machine._check_signature(evidence.model_copy(update={"attested": bytes(forged)}))
    tpm.flush(key)


def test_keys_are_the_same_until_the_tpm_is_reset_and_can_be_removed(tpm: Tpm) -> None:
    keys = []
    for _ in range(5):  # more than the TPM has room for at once
        key = tpm.create_key()
        keys.append(key.point)
        tpm.flush(key)
    assert len(set(keys)) == 1
    machine.public_key(tpm.create_key().public)


def test_a_key_that_signs_anything_is_refused(tpm: Tpm) -> None:
    public = tpm.create_key().public
    unrestricted = public[:4] + (0x00040072).to_bytes(4, "big") + public[8:]
    with pytest.raises(VerificationError, match="machine/key"):
        machine.public_key(unrestricted)
    with pytest.raises(MalformedInput, match="TPM key"):
        machine.public_key(public[:-1])
    with pytest.raises(MalformedInput, match="point on P-256"):
        machine.public_key(public[:-1] + bytes([public[-1] ^ 1]))


def test_what_the_tpm_refuses_is_said_with_its_code(tpm: Tpm) -> None:
    with pytest.raises(EnvironmentProblem, match="refuses command 0x158"):
        tpm.quote(tpm_device.Key(0x80FFFFFF, b"", b""), NONCE, (0,))


def test_no_tpm_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="no software TPM"):
        tpm_device.open_socket(tmp_path / "nothing")


def test_register_values_travel_as_text() -> None:
    assert json.dumps(tpm_device.wire({11: b"\1" * 32, 4: bytes(32)})) == json.dumps({"4": "00" * 32, "11": "01" * 32})
