"""Versions that a real TPM (swtpm) keeps: an older lock or image is refused, and what is kept is certified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.attester import tpm_commands, versions
from appliance.attester.machine import MachineAttester
from appliance.enclave.tpm_device import PASSWORD, Tpm
from attest import canonical, machine, reference, rollback, tpm
from attest.digest import sha256
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
from attest.eventlog import EventLog
from attest.manifest import ExecutionManifest
from attest.rollback import INDEXES, Kept, Thing
from tests.tools import swtpm
from tests.tools.lab_logs import JOB
from tests.tools.manifests import MANIFEST

EXTRA = sha256(b"what the start is bound to")
LOCK, OTHER, IMAGE = Thing("lock", "gsm8k"), Thing("lock", "other"), Thing("image", "vitrine-vm")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Tpm]:
    with swtpm.started(tmp_path / "tpm") as opened:
        swtpm.measured_boot(opened)
        yield opened


def start(device: Tpm, lock: int, image: int | None = None, name: str = "gsm8k") -> dict[str, Any]:
    """The evidence of a start with a lock, and in an image, of these versions."""
    attester = MachineAttester(device, swtpm.EVENT_LOG, image=None if image is None else Kept(IMAGE, image))
    attester.admit(name, lock)
    (item,) = attester.start(EventLog(()), JOB, EXTRA)
    return item


def read(item: dict[str, Any], extra: bytes = EXTRA) -> tuple[Kept, ...]:
    return machine.verify(canonical.validate(tpm.Evidence, item, "evidence"), extra).versions


def undefine(device: Tpm, index: int) -> None:
    """TPM2_NV_UndefineSpace: whoever owns the TPM can."""
    device.command(0x122, tpm_commands.OWNER.to_bytes(4, "big") + index.to_bytes(4, "big"), PASSWORD, b"")


def test_an_older_lock_is_refused_and_what_is_kept_is_certified(device: Tpm) -> None:
    assert read(start(device, 3)) == (Kept(LOCK, 3),)
    for older in (2, 1):
        with pytest.raises(VerificationError, match=r"rollback/version.*lock gsm8k of version 3 or later.*version"):
            start(device, older)
    assert read(start(device, 3)) == (Kept(LOCK, 3),)
    assert read(start(device, 4)) == (Kept(LOCK, 4),)
    with pytest.raises(VerificationError, match="rollback/version"):
        start(device, 3)


def test_each_job_and_the_image_have_versions_of_their_own(device: Tpm) -> None:
    assert read(start(device, 9, image=1795305600)) == (Kept(IMAGE, 1795305600), Kept(LOCK, 9))
    assert read(start(device, 1, name="other")) == (Kept(OTHER, 1),)
    with pytest.raises(VerificationError, match=r"rollback/version.*image vitrine-vm"):
        start(device, 10, image=1795305599)
    # What was refused was not kept, in part either.
    assert read(start(device, 9, image=1795305600)) == (Kept(IMAGE, 1795305600), Kept(LOCK, 9))
    with pytest.raises(VerificationError, match=r"rollback/version.*lock gsm8k"):
        start(device, 8, image=1795305601)
    assert read(start(device, 9, image=1795305600)) == (Kept(IMAGE, 1795305600), Kept(LOCK, 9))


def test_what_is_kept_outlives_a_reset(tmp_path: Path) -> None:
    with swtpm.started(tmp_path / "tpm") as device:
        swtpm.measured_boot(device)
        start(device, 3)
    with swtpm.started(tmp_path / "tpm") as device:
        swtpm.measured_boot(device)
        with pytest.raises(VerificationError, match="rollback/version"):
            start(device, 2)
    # Another machine has a memory of its own.
    with swtpm.started(tmp_path / "other") as device:
        swtpm.measured_boot(device)
        assert read(start(device, 2)) == (Kept(LOCK, 2),)


def test_what_others_wrote_there_is_left_alone(device: Tpm) -> None:
    tpm_commands.define(device, INDEXES[0], tpm_commands.ORDINARY, 5)
    tpm_commands.nv_write(device, INDEXES[0], b"other")
    tpm_commands.define(device, INDEXES[1], tpm_commands.ORDINARY, 18)  # power failed before it was written
    assert list(versions.admit(device, [Kept(LOCK, 3)])) == [INDEXES[2]]
    assert tpm_commands.nv_read(device, INDEXES[0]) == b"other"
    assert versions.admit(device, [Kept(OTHER, 1), Kept(LOCK, 4)]) == {INDEXES[3]: 18, INDEXES[2]: 18}


def test_a_full_tpm_is_an_error_that_says_what_to_do(device: Tpm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "INDEXES", INDEXES[:2])
    start(device, 1, image=1)
    with pytest.raises(EnvironmentProblem, match="tpm2_nvundefine 0x1800a20"):
        start(device, 1, name="other")


def test_evidence_of_another_start_index_or_thing_is_refused(device: Tpm) -> None:
    first = start(device, 3, image=7)
    with pytest.raises(VerificationError, match="tpm/nonce"):
        read(first, sha256(EXTRA))
    kept = first["versions"]
    with pytest.raises(VerificationError, match=r"machine/versions.*one version of each thing"):
        read(first | {"versions": [kept[1], kept[1]]})
    outside = INDEXES.stop
    tpm_commands.define(device, outside, tpm_commands.ORDINARY, len(Kept(LOCK, 9).encoded))
    tpm_commands.nv_write(device, outside, Kept(LOCK, 9).encoded)
    strange = MachineAttester(device, swtpm.EVENT_LOG)._certified(outside, len(Kept(LOCK, 9).encoded), EXTRA)
    with pytest.raises(VerificationError, match=r"machine/versions.*0x1800a40"):
        read(first | {"versions": [strange]})
    assert read(first | {"versions": []}) == ()


def test_an_owner_who_makes_the_tpm_forget_is_told_by_its_counter_alone(device: Tpm) -> None:
    """What no memory of a TPM prevents: the evidence of the later start has the lower version."""
    newer = start(device, 3)
    undefine(device, INDEXES[0])
    older = start(device, 2)
    found = [machine.verify(canonical.validate(tpm.Evidence, item, "evidence"), EXTRA) for item in (newer, older)]
    assert [one.versions[0].version for one in found] == [3, 2]
    counters = [one.counter.value for one in found if one.counter]
    assert counters[1] == counters[0] + 1


@pytest.mark.parametrize(
    "contents",
    [b"", bytes(8), bytes(8) + b"lock:", bytes(8) + b"lock", bytes(8) + b"seal:x", bytes(8) + b"lock:" + b"a" * 65,
     bytes(8) + b"lock:X", bytes(7) + b"lock:x", bytes(8) + b"lock:x\n", b"\0" + bytes(8) + b"lock:x"],
)  # fmt: skip
def test_other_contents_are_malformed(contents: bytes) -> None:
    with pytest.raises(MalformedInput, match="kept version"):
        rollback.read(contents)


@pytest.mark.parametrize("kept", [Kept(LOCK, 0), Kept(LOCK, 2**64 - 1), Kept(IMAGE, 1795305600)])
def test_contents_are_read_as_they_were_written(kept: Kept) -> None:
    assert rollback.read(kept.encoded) == kept


def test_an_image_is_named_on_the_command_line() -> None:
    line = "console=ttyS0 vitrine.image=vitrine-vm/1795305600 vitrine.root=x\n"
    assert rollback.image(line) == Kept(IMAGE, 1795305600)
    for wrong in ("", "vitrine.image=", "vitrine.image=x", "vitrine.image=x/y", "vitrine.image=/1", f"{line}{line}",
                  "vitrine.image=x/12345678901", "vitrine.image=X/1", "vitrine.image=x/-1"):  # fmt: skip
        with pytest.raises(MalformedInput, match="command line"):
            rollback.image(wrong)


LOCKED = canonical.validate(ExecutionManifest, MANIFEST | {"job": MANIFEST["job"] | {"name": "gsm8k"}}, "manifest")
MACHINE = reference.read((swtpm.RECORDED / "reference.json").read_bytes()).model_copy(update={"version": 7})
OWN = Kept(LOCK, LOCKED.lock.version), Kept(Thing("image", MACHINE.image), 7)


def test_what_is_kept_are_the_versions_of_the_run() -> None:
    for kept in ((), OWN, OWN[:1], OWN[1:]):
        rollback.check(kept, LOCKED, MACHINE)
    # Whose image it is, only its reference values say.
    rollback.check([Kept(Thing("image", "other"), 8)], LOCKED, None)


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (Kept(LOCK, LOCKED.lock.version + 1), "rollback/lock"),
        (Kept(OTHER, LOCKED.lock.version), "rollback/lock"),
        (Kept(Thing("image", MACHINE.image), 6), "rollback/image"),
        (Kept(Thing("image", "other"), 7), "rollback/image"),
        (Kept(Thing("lock", MACHINE.image), 7), "rollback/lock"),
    ],
)
def test_versions_of_another_run_are_refused(other: Kept, code: str) -> None:
    for kept in ([other], [*OWN, other]):
        with pytest.raises(VerificationError, match=code):
            rollback.check(kept, LOCKED, MACHINE)


def test_a_version_is_admitted_from_the_kept_one_on() -> None:
    for kept in (None, 0, 6, 7):
        rollback.admit(Kept(LOCK, 7), kept)
    with pytest.raises(VerificationError, match=r"rollback/version.*lock gsm8k of version 8 or later"):
        rollback.admit(Kept(LOCK, 7), 8)
