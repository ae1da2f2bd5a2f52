"""The counter of runs: what a real TPM (swtpm) certifies, what the log says of it, and what a restored log shows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.attester import tpm_commands
from appliance.attester.machine import MachineAttester
from appliance.enclave.tpm_device import PASSWORD, Tpm
from appliance.enrol import digest_of_key
from appliance.notary import lab as notary
from appliance.notary.lab import Lab
from attest import attempt, canonical, counter, ledger, machine, tpm, trust
from attest.counter import RunCounter
from attest.digest import digest_of, sha256
from attest.errors import MalformedInput, VerificationError, VitrineError
from attest.eventlog import EventLog
from attest.ledger_cli import read_copy
from tests.tools import swtpm
from tests.tools.lab_logs import JOB, LOCK, OTHER, Clock, append, attest

EXTRA = sha256(b"what the start is bound to")
TPM, TPM_2 = ("sha256:" + digit * 64 for digit in "ab")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here has to survive a power failure."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Tpm]:
    with swtpm.started(tmp_path / "tpm") as opened:
        swtpm.measured_boot(opened)
        yield opened


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return notary.create(tmp_path / "lab", now=Clock())


def start(device: Tpm, extra: bytes = EXTRA) -> dict[str, Any]:
    """The evidence of a start."""
    (item,) = MachineAttester(device, swtpm.EVENT_LOG).start(EventLog(()), JOB, extra)
    return item


def read(item: dict[str, Any], extra: bytes = EXTRA) -> RunCounter | None:
    return machine.verify(canonical.validate(tpm.Evidence, item, "evidence"), extra).counter


def register(lab: Lab, found: RunCounter | None, job: str = JOB) -> None:
    """Log an attempt that the counter numbers."""
    key = digest_of_key(ec.generate_private_key(ec.SECP256R1()))
    value = found and found.model_dump(mode="json")
    lab.register({"job_digest": job, "lock_digest": LOCK, "key_digest": key, "counter": value})


def codes(path: Path) -> list[tuple[str, int]]:
    logs = trust.read((path / "public/trusted_root.json").read_bytes()).logs
    return [(one.code, one.entry) for one in ledger.read(read_copy(path / "log", logs)).findings]


def test_each_start_raises_the_counter_of_its_tpm_by_one(device: Tpm, tmp_path: Path) -> None:
    items = [start(device) for _ in range(3)]
    found = [read(item) for item in items]
    assert [one and one.tpm for one in found] == [digest_of(canonical.validate(tpm.Evidence, items[0], "e").key)] * 3
    values = [one.value for one in found if one]
    assert values == [values[0], values[0] + 1, values[0] + 2]
    with swtpm.started(tmp_path / "other") as other:
        swtpm.measured_boot(other)
        elsewhere = read(start(other))
    assert elsewhere is not None
    assert elsewhere.tpm != found[0].tpm  # type: ignore[union-attr]


def test_the_counter_outlives_a_reset_and_its_own_removal(tmp_path: Path) -> None:
    found = []
    for remove in (False, True, False):
        with swtpm.started(tmp_path / "tpm") as device:
            swtpm.measured_boot(device)
            found.append(read(start(device)))
            if remove:  # TPM2_NV_UndefineSpace: whoever owns the TPM can
                handles = tpm_commands.OWNER.to_bytes(4, "big") + counter.INDEX.to_bytes(4, "big")
                device.command(0x122, handles, PASSWORD, b"")
    values = [one.value for one in found if one]
    assert values == [values[0], values[0] + 1, values[0] + 2]
    assert len({one.tpm for one in found if one}) == 1


def test_a_counter_of_another_run_index_or_tpm_is_refused(device: Tpm) -> None:
    first, second = start(device), start(device, sha256(EXTRA))
    with pytest.raises(VerificationError, match="tpm/nonce"):
        read(second | {"counter": first["counter"]}, sha256(EXTRA))
    bare = {name: value for name, value in first.items() if name != "counter"}
    assert read(bare) is None
    # Another index of the same TPM, as genuine.
    tpm_commands.raise_counter(device, counter.INDEX + 1)
    other = MachineAttester(device, swtpm.EVENT_LOG)._certified(counter.INDEX + 1, 8, EXTRA)
    with pytest.raises(VerificationError, match=r"machine/counter.*0x1800a11.*0x1800a12"):
        read(first | {"counter": other})
    for part in ("public", "certified"):
        with pytest.raises(VitrineError):
            read(first | {"counter": {**first["counter"], part: other[part]}})


def test_an_intent_has_the_counter_of_the_evidence() -> None:
    one, same = RunCounter(tpm=TPM, value=7), RunCounter(tpm=TPM, value=7)
    attempt.check_counter(None, None)
    attempt.check_counter(one, same)
    for claimed, certified in (
        (one, None),
        (None, one),
        (one, RunCounter(tpm=TPM, value=8)),
        (one, RunCounter(tpm=TPM_2, value=7)),
    ):
        with pytest.raises(VerificationError, match="intent/counter"):
            attempt.check_counter(claimed, certified)


def test_counters_ascend_by_one_for_each_tpm(lab: Lab) -> None:
    for tpm_of, value, job in ((TPM, 7, JOB), (TPM_2, 3, JOB), (TPM, 8, OTHER), (TPM_2, 4, JOB), (TPM, 9, JOB)):
        register(lab, RunCounter(tpm=tpm_of, value=value), job)
        register(lab, None, OTHER)
    assert codes(lab.path) == []
    for value in (9, 12, 11, 13):
        register(lab, RunCounter(tpm=TPM, value=value))
    assert codes(lab.path) == [("counter", 10), ("counter-gap", 11), ("counter", 12)]


@pytest.mark.parametrize("value", [-1, "7", None, True])
def test_a_counter_is_a_number(lab: Lab, value: object) -> None:
    stands = {"tpm": TPM, "value": value}
    with pytest.raises(MalformedInput):
        lab.register({"job_digest": JOB, "lock_digest": LOCK, "key_digest": OTHER, "counter": stands})
    append(lab, attempt=1, counter=stands)
    with pytest.raises(MalformedInput):
        codes(lab.path)


def test_a_counter_that_json_cannot_carry_is_malformed(device: Tpm) -> None:
    """A TPM has 64 bits for it, a number of ours 53."""
    evidence = canonical.validate(tpm.Evidence, start(device), "evidence")
    found = tpm.authenticate(evidence, machine.NOBODY, nonce=EXTRA, now=machine.NEVER, unsafe_without_endorsement=True)
    with pytest.raises(MalformedInput, match="counter of runs"):
        machine._counter(replace(found, counter=(counter.INDEX, 1 << 53)), TPM)


def test_a_restored_lab_directory_is_told_by_the_counter_alone(device: Tpm, lab: Lab, tmp_path: Path) -> None:
    """Nobody kept a checkpoint. The log itself is in order; but the TPM counted what was cut off."""
    register(lab, read(start(device)))
    saved = shutil.copytree(lab.path, tmp_path / "saved")
    register(lab, read(start(device)))  # an attempt that the lab did not like
    shutil.rmtree(lab.path)
    shutil.copytree(saved, lab.path)
    again = notary.open_lab(lab.path, now=lab._now)
    assert codes(lab.path) == []
    register(again, read(start(device)))
    assert codes(lab.path) == [("counter-gap", 1)]
    root = lab.path / "public/trusted_root.json"
    code, text, error = attest("ledger", lab.path / "log", "--trust", root)
    assert (code, getattr(error, "code", "")) == (10, "counter-gap")
    assert "WRONG ledger/counter-gap" in text
    assert "attempt 2" in text
