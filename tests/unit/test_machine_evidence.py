"""Quotes of a real TPM (swtpm) that was told of a recorded boot: accepted, and refused with any part changed."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.attester.machine import MachineAttester
from appliance.enclave import vm
from attest import binding, canonical, machine, reference, tcglog
from attest.digest import digest_of, sha256
from attest.errors import MalformedInput, VerificationError
from attest.machine import TpmEvidence
from tests.tools import swtpm

NONCE = bytes(range(32))
INPUTS = sha256(b"the disk of inputs")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the TPM says after a boot with a disk of inputs; once more after the application register was extended."""
    with swtpm.started(tmp_path_factory.mktemp("tpm") / "state") as tpm:
        swtpm.measured_boot(tpm)
        tpm.extend(reference.APPLICATION, INPUTS)
        attester = MachineAttester(tpm, swtpm.EVENT_LOG)
        first = attester.report(NONCE).decode()
        tpm.extend(reference.APPLICATION, sha256(b"results"))
        yield {"first": first, "second": attester.report(NONCE).decode()}


def changed(report: str, **fields: object) -> TpmEvidence:
    """The evidence, with some fields changed."""
    return canonical.validate(TpmEvidence, json.loads(report) | fields, "evidence")


def text(data: bytes) -> str:
    """As in the evidence."""
    return base64.b64encode(data).decode()


def test_evidence_of_a_known_image_is_accepted(reports: dict[str, str]) -> None:
    values = reference.read((swtpm.RECORDED / "reference.json").read_bytes())
    found = [changed(reports[name]) for name in ("first", "second")]
    for evidence in found:
        machine.verify(evidence, NONCE)
        reference.compare(values, evidence.values())
        assert evidence.before == sha256(bytes(32), INPUTS).hex()
    first, second = (evidence.values() for evidence in found)
    assert {register for register in first if first[register] != second[register]} == {reference.APPLICATION}
    assert canonical.dump_model(found[0]).decode() == reports["first"]


def test_another_image_is_named_by_its_registers(reports: dict[str, str]) -> None:
    values = reference.read((swtpm.RECORDED / "reference.json").read_bytes())
    found = changed(reports["first"]).values()
    for register, said in ((4, "another boot file"), (11, "another kernel"), (12, "the host added"), (14, "stay")):
        other = values.model_copy(update={"registers": values.registers | {str(register): "ab" * 32}})
        with pytest.raises(VerificationError, match=f"register {register}.*{said}"):
            reference.compare(other, found)


def test_a_register_is_what_was_signed_and_what_the_log_explains(reports: dict[str, str]) -> None:
    values = json.loads(reports["first"])["registers"]
    for register in range(16):
        with pytest.raises(VerificationError, match="machine/registers"):
            machine.verify(changed(reports["first"], registers=values | {str(register): "ab" * 32}), NONCE)
    log = changed(reports["first"]).event_log
    events = tcglog.parse(log)
    at = log.index(events[-1].digest)
    with pytest.raises(VerificationError, match="machine/event-log"):
        machine.verify(changed(reports["first"], event_log=text(log[:at] + bytes(32) + log[at + 32 :])), NONCE)


def test_another_binding_and_another_moment_are_refused(reports: dict[str, str]) -> None:
    with pytest.raises(VerificationError, match="machine/binding"):
        machine.verify(changed(reports["first"]), sha256(NONCE))
    later = json.loads(reports["second"])
    with pytest.raises(VerificationError, match="machine/signature"):
        machine.verify(changed(reports["first"], attested=later["attested"]), NONCE)
    with pytest.raises(VerificationError, match="machine/registers"):
        machine.verify(changed(reports["first"], attested=later["attested"], signature=later["signature"]), NONCE)


@pytest.mark.parametrize("field", ["key", "attested", "signature"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_in_what_the_tpm_gave_is_refused(
    reports: dict[str, str], field: str, data: st.DataObject
) -> None:
    original: bytes = getattr(changed(reports["first"]), field)
    bit = data.draw(st.integers(0, len(original) * 8 - 1))
    flipped = bytearray(original)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises((VerificationError, MalformedInput)):
        machine.verify(changed(reports["first"], **{field: text(bytes(flipped))}), NONCE)


@pytest.mark.parametrize("field", ["key", "attested", "signature"])
def test_bytes_that_are_cut_or_go_on_are_refused(reports: dict[str, str], field: str) -> None:
    original: bytes = getattr(changed(reports["first"]), field)
    for other in (original[:-1], original[: len(original) // 2], original + b"\0"):
        with pytest.raises((VerificationError, MalformedInput)):
            machine.verify(changed(reports["first"], **{field: text(other)}), NONCE)


def test_fewer_registers_are_refused(reports: dict[str, str]) -> None:
    values = json.loads(reports["first"])["registers"]
    with pytest.raises(MalformedInput):
        changed(reports["first"], registers={name: value for name, value in values.items() if name != "23"})
    with pytest.raises(MalformedInput):
        changed(reports["first"], registers=values | {"24": "00" * 32})


def test_what_a_quote_is_bound_to_differs_in_every_part() -> None:
    key, statement = digest_of(b"key"), digest_of(b"statement")
    bound = {
        binding.binding("start", nonce=None, key=key, statement=statement),
        binding.binding("end", nonce=None, key=key, statement=statement),
        binding.binding("start", nonce="00" * 8, key=key, statement=statement),
        binding.binding("start", nonce=None, key=statement, statement=statement),
        binding.binding("start", nonce=None, key=key, statement=key),
    }
    assert len(bound) == 5
    assert {len(value) for value in bound} == {32}


def plan(**fields: object) -> vm.VmPlan:
    """A plan that is not carried out."""
    paths = {"boot_disk": "/i/boot", "root_disk": "/i/ro,ot", "inputs_disk": None, "firmware": "/f", "settings": "/s"}
    return vm.VmPlan(**({**paths, "accelerator": "tcg"} | fields))  # type: ignore[arg-type]


def test_the_plan_has_no_network_and_only_read_only_disks(tmp_path: Path) -> None:
    arguments = plan(inputs_disk="/i/inputs", channel=True).arguments(tmp_path)
    assert arguments[arguments.index("-nic") + 1] == "none"
    assert not any("netdev" in argument or "virtio-net" in argument for argument in arguments)
    disks = [argument for argument in arguments if argument.startswith("if=none")]
    assert len(disks) == 3
    assert all("readonly=on" in disk for disk in disks)
    assert any("file=/i/ro,,ot" in disk for disk in disks)
    assert {"-nodefaults", "-no-user-config", "-no-reboot", "-sandbox"} <= set(arguments)
    assert sum("virtserialport" in argument for argument in arguments) == 2


def test_a_plan_is_known_by_its_digest() -> None:
    assert plan().digest() == plan().digest()
    assert len({plan().digest(), plan(channel=True).digest(), plan(memory_mib=2048).digest()}) == 3
