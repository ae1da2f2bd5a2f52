"""Mutations of real evidence of TPMs: none is accepted, and all are read or refused with our errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.tpm import (
    KeyCertificate,
    authenticate,
    claims,
    eventlog,
    ima,
    layout,
    signaturelist,
)
from attest.tpm import boot as boots
from tests.fakes.mutate import EXAMPLES
from tests.tools import gce
from tests.tools.real_tpm import (
    GCE,
    GCE_NOW,
    KEYLIME_NONCE,
    NOW,
    endorsements,
    gce_claims,
    keylime_evidence,
)

UPDATES = {"dbxupdate-2014-08-11.bin": 13, "dbxupdate_x64-2020-10-12.bin": 186, "dbxupdate_x64-2021-04-29.bin": 211}


def mutate(data: bytes, draw: st.DataObject) -> bytes:
    """Some bytes changed, cut, repeated or inserted."""
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, max(0, len(changed) - 1)))
        what = draw.draw(st.sampled_from(["flip", "set", "cut", "insert", "drop", "repeat"]))
        if what == "flip" and changed:
            changed[at] ^= 1 << draw.draw(st.integers(0, 7))
        elif what == "set":
            changed[at : at + 4] = draw.draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\1\0"]))
        elif what == "cut":
            del changed[at:]
        elif what == "insert":
            changed[at:at] = draw.draw(st.binary(min_size=1, max_size=8))
        elif what == "drop":
            del changed[at : at + draw.draw(st.integers(1, 64))]
        else:
            changed[at:at] = changed[at : at + draw.draw(st.integers(1, 64))]
    return bytes(changed)


@given(draw=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_mutated_evidence_is_never_accepted(folder: Path, draw: st.DataObject) -> None:
    evidence = gce.read((folder / GCE / "gce-cos-85-no-nonce.pb").read_bytes()).evidence("sha256")
    trusted = endorsements(folder, "tpm_ek_root_1.cer", "tpm_ek_intermediate_2.crt")
    field = draw.draw(st.sampled_from(["key", "attested", "signature", "event_log", "certificate"]))
    quote, certificate = evidence.quotes[0], evidence.key_certificate
    holder = {"attested": quote, "signature": quote, "certificate": certificate}.get(field, evidence)
    original: bytes = getattr(holder, field)
    changed = mutate(original, draw)
    if field == "certificate":
        altered = evidence.model_copy(update={"key_certificate": KeyCertificate(certificate=changed or b"\0")})
    elif holder is quote:
        altered = evidence.model_copy(update={"quotes": (quote.model_copy(update={field: changed}),)})
    else:
        altered = evidence.model_copy(update={field: changed})
    arguments = {"nonce": b"", "now": GCE_NOW, "unsafe_without_revocation": True}
    try:
        found = claims(authenticate(altered, trusted, **arguments))  # type: ignore[arg-type]
    except (VerificationError, MalformedInput, Unsupported):
        return
    # Not signed: what an event says of its digest, and, for a key that is vouched for by a certificate, what its TPM
    # says of it. All else is refused, and what was not is neither another key, nor another register.
    assert changed == original or field in ("event_log", "key")
    assert layout.public_area(altered.key).key == layout.public_area(evidence.key).key
    replayed = eventlog.replay(eventlog.parse(altered.event_log or b""), "sha256")
    explained = {name for name, how in found.explained.items() if how == "event-log"}
    assert explained >= {f"sha256:{register}" for register in range(8)}
    assert all(replayed[int(name.partition(":")[2])].hex() == found.measurements[name] for name in explained)
    assert found.measurements == gce_claims(folder, "sha256").measurements


@given(draw=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_mutated_values_are_refused(folder: Path, draw: st.DataObject) -> None:
    evidence = keylime_evidence(folder)
    register = draw.draw(st.sampled_from(sorted(evidence.registers["sha256"])))
    value = bytearray.fromhex(evidence.registers["sha256"][register])
    value[draw.draw(st.integers(0, 31))] ^= 1 << draw.draw(st.integers(0, 7))
    registers = {"sha256": evidence.registers["sha256"] | {register: value.hex()}}
    with pytest.raises(VerificationError, match="tpm/registers"):
        authenticate(
            evidence.model_copy(update={"registers": registers}), endorsements(folder), nonce=KEYLIME_NONCE, now=NOW,
            unsafe_without_endorsement=True,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["eventlogs/cos-101-amd-sev.bin", "eventlogs/debian-10.bin"])
@given(draw=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_mutated_logs_are_read_or_refused(folder: Path, name: str, draw: st.DataObject) -> None:
    try:
        log = eventlog.parse(mutate((folder / name).read_bytes(), draw))
    except MalformedInput:
        return
    for bank in log.banks:
        values = eventlog.replay(log, bank)
        assert all(len(value) == layout.SIZES[bank] for value in values.values())
        assert boots.read(log, bank, values).secure_boot in (True, False, None)


@given(draw=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_mutated_lists_are_read_or_refused(folder: Path, draw: st.DataObject) -> None:
    data = mutate((folder / "ima" / "ima-log-sha256").read_bytes(), draw)
    try:
        entries = ima.parse(data)
    except (MalformedInput, Unsupported):
        return
    assert len(list(ima.values(entries, "sha256"))) == len(entries) + 1


@pytest.mark.parametrize("name", UPDATES)
@given(draw=st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_mutated_updates_are_read_or_refused(folder: Path, name: str, draw: st.DataObject) -> None:
    try:
        entries = signaturelist.update(mutate((folder / "secure-boot" / name).read_bytes(), draw))
    except (MalformedInput, Unsupported):
        return
    assert all(len(entry.digest) == 32 for entry in entries)
