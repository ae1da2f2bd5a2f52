"""Evidence of a real boot (QEMU, OVMF, swtpm), recorded: accepted as it is, and refused with anything in it changed.

`recorded_boot/` holds what one run of the small job left in `OUT.machine/`.
"""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.enclave import measured, vm
from appliance.image import measure
from attest import canonical, machine, reference, tcglog
from attest.digest import sha256
from attest.errors import MalformedInput, VerificationError
from attest.machine import Evidence

RECORDED = Path(__file__).parent / "recorded_boot"
NONCE = measured.nonce_of("00112233445566778899aabbccddeeff")


def recorded(name: str = "start", **fields: object) -> Evidence:
    """Recorded evidence, with some fields changed."""
    value = json.loads((RECORDED / f"{name}.json").read_text())
    return canonical.validate(Evidence, value | fields, "evidence")


def text(data: bytes) -> str:
    """As in the evidence."""
    return base64.b64encode(data).decode()


def test_recorded_evidence_is_accepted_and_is_of_its_image() -> None:
    values = measure.load(RECORDED / "reference.json")
    for name in ("start", "end"):
        evidence = recorded(name)
        machine.verify(evidence, NONCE)
        found = evidence.values()
        assert found[15] != bytes(32)
        reference.compare(values, found | {15: bytes(32)})
        with pytest.raises(VerificationError, match="register 15 has to stay empty"):
            reference.compare(values, found)
    start, end = recorded("start").values(), recorded("end").values()
    assert {register for register in start if start[register] != end[register]} == {15}


def test_a_register_is_what_was_signed_and_what_the_log_explains() -> None:
    values = json.loads((RECORDED / "start.json").read_text())["registers"]
    for register in range(16):
        changed = values | {str(register): "ab" * 32}
        with pytest.raises(VerificationError, match="machine/registers"):
            machine.verify(recorded(registers=changed), NONCE)
    log = recorded().event_log
    events = tcglog.parse(log)
    at = log.index(events[-1].digest)
    with pytest.raises(VerificationError, match="machine/event-log"):
        machine.verify(recorded(event_log=text(log[:at] + bytes(32) + log[at + 32 :])), NONCE)


def test_another_nonce_and_another_time_are_refused() -> None:
    with pytest.raises(VerificationError, match="machine/nonce"):
        machine.verify(recorded(), sha256(NONCE))
    end = json.loads((RECORDED / "end.json").read_text())
    with pytest.raises(VerificationError, match="machine/signature"):
        machine.verify(recorded(attested=end["attested"]), NONCE)
    with pytest.raises(VerificationError, match="machine/registers"):
        machine.verify(recorded(attested=end["attested"], signature=end["signature"]), NONCE)


@pytest.mark.parametrize("field", ["key", "attested", "signature"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_in_what_the_tpm_gave_is_refused(field: str, data: st.DataObject) -> None:
    original: bytes = getattr(recorded(), field)
    bit = data.draw(st.integers(0, len(original) * 8 - 1))
    changed = bytearray(original)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((VerificationError, MalformedInput)):
        machine.verify(recorded(**{field: text(bytes(changed))}), NONCE)


@pytest.mark.parametrize("field", ["key", "attested", "signature"])
def test_bytes_that_are_cut_or_go_on_are_refused(field: str) -> None:
    original: bytes = getattr(recorded(), field)
    for changed in (original[:-1], original[: len(original) // 2], original + b"\0"):
        with pytest.raises((VerificationError, MalformedInput)):
            machine.verify(recorded(**{field: text(changed)}), NONCE)


def test_fewer_registers_are_refused() -> None:
    values = json.loads((RECORDED / "start.json").read_text())["registers"]
    with pytest.raises(MalformedInput):
        recorded(registers={name: value for name, value in values.items() if name != "23"})
    with pytest.raises(MalformedInput):
        recorded(registers=values | {"24": "00" * 32})


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
