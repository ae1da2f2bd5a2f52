"""Quotes of a real TPM (swtpm) that was told of a recorded boot: accepted, and refused with any part changed."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.attester import machine as attester
from appliance.attester.machine import MachineAttester
from appliance.enclave import vm
from attest import binding, canonical, machine, reference, tpm
from attest.digest import digest_of, sha256
from attest.errors import VerificationError, VitrineError
from attest.tpm import eventlog
from tests.tools import swtpm

NONCE = bytes(range(32))
INPUTS = sha256(b"the disk of inputs")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the TPM says after a boot with a disk of inputs; once more after the application register was extended."""
    with swtpm.started(tmp_path_factory.mktemp("tpm") / "state") as device:
        swtpm.measured_boot(device)
        device.extend(reference.APPLICATION, INPUTS)
        speaker = MachineAttester(device, swtpm.EVENT_LOG)
        first = speaker.report(NONCE).decode()
        device.extend(reference.APPLICATION, sha256(b"results"))
        yield {"first": first, "second": speaker.report(NONCE).decode()}


def changed(report: str, **fields: object) -> tpm.Evidence:
    """The evidence, with some fields changed; those of its one quote by their own names."""
    value = json.loads(report)
    for name in ("attested", "signature"):
        if name in fields:
            value["quotes"][0][name] = fields.pop(name)
    return canonical.validate(tpm.Evidence, value | fields, "evidence")


def part(report: str, field: str) -> bytes:
    """What the TPM gave."""
    value = json.loads(report)
    return base64.b64decode(value["quotes"][0].get(field) or value[field])


def text(data: bytes) -> str:
    """As in the evidence."""
    return base64.b64encode(data).decode()


def test_evidence_of_a_known_image_is_accepted(reports: dict[str, str]) -> None:
    values = reference.read((swtpm.RECORDED / "reference.json").read_bytes())
    first, second = (machine.verify(changed(reports[name]), NONCE) for name in ("first", "second"))
    for quoted in (first, second):
        reference.compare(values, quoted.registers)
    assert first.registers[reference.APPLICATION] == sha256(bytes(32), INPUTS)
    differing = {register for register in range(16) if first.registers[register] != second.registers[register]}
    assert differing == {reference.APPLICATION}
    assert canonical.dump_model(changed(reports["first"])).decode() == reports["first"]


def test_another_image_is_named_by_its_registers(reports: dict[str, str]) -> None:
    values = reference.read((swtpm.RECORDED / "reference.json").read_bytes())
    found = machine.verify(changed(reports["first"]), NONCE).registers
    for register, said in ((4, "another boot file"), (11, "another kernel"), (12, "the host added"), (14, "stay")):
        other = values.model_copy(update={"registers": values.registers | {str(register): "ab" * 32}})
        with pytest.raises(VerificationError, match=f"register {register}.*{said}"):
            reference.compare(other, found)


def test_a_register_is_what_was_signed_and_what_the_log_explains(reports: dict[str, str]) -> None:
    values = json.loads(reports["first"])["registers"]["sha256"]
    for register in range(16):
        other = {"sha256": values | {str(register): "ab" * 32}}
        with pytest.raises(VerificationError, match="tpm/registers"):
            machine.verify(changed(reports["first"], registers=other), NONCE)
    log = part(reports["first"], "event_log")
    for register, layer in ((7, "tpm"), (9, "machine"), (11, "machine")):
        event = next(e for e in reversed(eventlog.parse(log).events) if e.register == register)
        at = log.index(event.digests["sha256"])
        other_log = text(log[:at] + bytes(32) + log[at + 32 :])
        with pytest.raises(VerificationError, match=f"{layer}/event-log"):
            machine.verify(changed(reports["first"], event_log=other_log), NONCE)


def test_another_binding_and_another_moment_are_refused(reports: dict[str, str]) -> None:
    with pytest.raises(VerificationError, match="tpm/nonce"):
        machine.verify(changed(reports["first"]), sha256(NONCE))
    later = json.loads(reports["second"])["quotes"][0]
    with pytest.raises(VerificationError, match="tpm/signature"):
        machine.verify(changed(reports["first"], attested=later["attested"]), NONCE)
    with pytest.raises(VerificationError, match="tpm/registers"):
        machine.verify(changed(reports["first"], attested=later["attested"], signature=later["signature"]), NONCE)


@pytest.mark.parametrize("field", ["key", "attested", "signature"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_in_what_the_tpm_gave_is_refused(
    reports: dict[str, str], field: str, data: st.DataObject
) -> None:
    original = part(reports["first"], field)
    bit = data.draw(st.integers(0, len(original) * 8 - 1))
    flipped = bytearray(original)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(VitrineError):
        machine.verify(changed(reports["first"], **{field: text(bytes(flipped))}), NONCE)


@pytest.mark.parametrize("field", ["key", "attested", "signature"])
def test_bytes_that_are_cut_or_go_on_are_refused(reports: dict[str, str], field: str) -> None:
    original = part(reports["first"], field)
    for other in (original[:-1], original[: len(original) // 2], original + b"\0"):
        with pytest.raises(VitrineError):
            machine.verify(changed(reports["first"], **{field: text(other)}), NONCE)


def test_registers_that_were_not_quoted_do_not_count(reports: dict[str, str]) -> None:
    values = json.loads(reports["first"])["registers"]["sha256"]
    fewer = {name: value for name, value in values.items() if name != "15"}
    for other in (fewer, values | {"23": "00" * 32}):
        with pytest.raises(VerificationError, match="tpm/selection"):
            machine.verify(changed(reports["first"], registers={"sha256": other}), NONCE)


@pytest.mark.parametrize("left_out", [0, 9, 15])
def test_a_quote_without_a_register_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: int) -> None:
    """Genuine, by a program that asks the TPM for less."""
    monkeypatch.setattr(attester, "QUOTED", tuple(number for number in range(16) if number != left_out))
    with swtpm.started(tmp_path / "state") as device:
        swtpm.measured_boot(device)
        report = MachineAttester(device, swtpm.EVENT_LOG).report(NONCE).decode()
    with pytest.raises(VerificationError, match=rf"machine/selection.*no \[{left_out}\]"):
        machine.verify(changed(report), NONCE)


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


QUOTED = machine.Quoted(
    registers={register: bytes([register]) * 32 for register in range(16)},
    key=b"a key",
    boot=(3, 1),
    clock_ms=1000,
    counter=None,
    versions=(),
)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, None),
        ({"clock_ms": 1001}, None),
        ({"clock_ms": 999}, "clock"),
        ({"key": b"another"}, "key"),
        ({"boot": (4, 1)}, "boot"),
        ({"boot": (3, 2)}, "boot"),
        ({"registers": QUOTED.registers | {reference.APPLICATION: bytes(32)}}, None),
        *(
            ({"registers": QUOTED.registers | {register: b"x" * 32}}, "changed")
            for register in range(reference.APPLICATION)
        ),
    ],
)
def test_two_quotes_are_of_one_boot_of_one_machine(fields: dict[str, object], code: str | None) -> None:
    last = replace(QUOTED, **fields)  # type: ignore[arg-type]
    if code is None:
        machine.check_same(QUOTED, last)
    else:
        with pytest.raises(VerificationError, match=f"machine/{code}"):
            machine.check_same(QUOTED, last)


def test_the_application_register_was_told_these_digests_and_no_others() -> None:
    told = [digest_of(b"one"), digest_of(b"two")]
    value = sha256(sha256(INPUTS, sha256(b"one")), sha256(b"two"))
    quoted = replace(QUOTED, registers=QUOTED.registers | {reference.APPLICATION: value})
    machine.check_application(quoted, INPUTS.hex(), told)
    for before, digests in ((bytes(32).hex(), told), (INPUTS.hex(), told[:1]), (INPUTS.hex(), [*told, told[0]])):
        with pytest.raises(VerificationError, match="machine/application-register"):
            machine.check_application(quoted, before, digests)
