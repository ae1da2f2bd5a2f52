"""Predicted registers against `systemd-measure`, which computes what the stub extends register 11 by."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.image import authenticode, measure, pcr, secure_boot, uki
from appliance.image.secure_boot import NO_KEYS
from attest.canonical import validate
from attest.errors import MalformedInput, VerificationError
from attest.reference import Measurement, ReferenceValues, compare, replay, require_version
from tests.unit import machine_parts

TOOLS = (os.environ.get("SYSTEMD_MEASURE", ""), "/usr/lib/systemd/systemd-measure", "/lib/systemd/systemd-measure")


def test_systemd_measure_computes_the_same_register_11(tmp_path: Path) -> None:
    tool = next((path for path in TOOLS if path and shutil.which(path)), None)
    if tool is None:
        pytest.skip("no systemd-measure: apt install systemd (or systemd-ukify)")
    parts = machine_parts.parts()
    image = uki.build(machine_parts.stub(), parts)
    files = {
        "linux": parts.kernel,
        "initrd": parts.initrd,
        "cmdline": parts.command_line.encode(),
        "osrel": parts.release.encode(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    options = [f"--{name}={tmp_path / name}" for name in files]
    command = [tool, "calculate", *options, "--bank=sha256", "--phase=:", "--json=short"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)["sha256"]
    assert {entry["hash"] for entry in theirs if not entry.get("phase")} == {replay(pcr.sections(image))[11].hex()}


def test_each_part_moves_its_registers() -> None:
    """The table of the documentation, for what a boot file consists of."""
    stub, parts = machine_parts.stub(), machine_parts.parts()
    before = replay(pcr.boot(uki.build(stub, parts), NO_KEYS))
    flipped = bytearray(parts.kernel)
    flipped[len(flipped) // 2] ^= 1
    changes = {
        "kernel": (uki.Parts(bytes(flipped), parts.initrd, parts.command_line, parts.release), {4, 11}),
        "initramfs": (uki.Parts(parts.kernel, parts.initrd + bytes(4), parts.command_line, parts.release), {4, 9, 11}),
        "command line": (uki.Parts(parts.kernel, parts.initrd, "quiet one=2", parts.release), {4, 9, 11}),
        "release": (uki.Parts(parts.kernel, parts.initrd, parts.command_line, "ID=other\n"), {4, 11}),
    }
    for what, (changed, moved) in changes.items():
        after = replay(pcr.boot(uki.build(stub, changed), NO_KEYS))
        assert {register for register in before if before[register] != after[register]} == moved, what


def test_secure_boot_moves_registers_4_and_7(tmp_path: Path) -> None:
    """Its keys, the key that signed, and the kernel that the firmware no longer measures beside the boot file."""
    image = uki.build(machine_parts.stub(), machine_parts.parts())
    before = replay(pcr.boot(image, NO_KEYS))
    keys = secure_boot.make(tmp_path / "keys", "one")
    signed = authenticode.sign(image, signing_key(tmp_path / "keys"))
    after = pcr.boot(signed, keys)
    assert {register for register in before if before[register] != replay(after)[register]} == {4, 7}
    assert [event.what for event in after if event.register_ == 4][-1] == "firmware: the boot file, Authenticode"
    # What db allows besides counts, and so does what dbx forbids.
    other = secure_boot.make(tmp_path / "other", "two")
    for changed in (replace(keys, allowed=keys.allowed + other.allowed), replace(keys, forbidden=other.allowed)):
        moved = replay(pcr.boot(signed, changed))
        assert {register for register in moved if moved[register] != replay(after)[register]} == {7}
    # No value is predicted for a boot that firmware refuses.
    for refused in (image, authenticode.sign(image, signing_key(tmp_path / "other"))):
        with pytest.raises(VerificationError, match="image/signature"):
            pcr.boot(refused, keys)


def signing_key(folder: Path) -> authenticode.SigningKey:
    """The key that signs boot files in a folder of keys."""
    return authenticode.load_signing_key((folder / "db.key").read_bytes(), (folder / "db.crt").read_bytes())


def reference() -> ReferenceValues:
    """Reference values of one event."""
    event = pcr.inputs(b"descriptor")
    fields = {
        "image": "test",
        "architecture": "amd64",
        "files": [],
        "command_line": "quiet",
        "parts": {},
        "secure_boot": False,
        "events": [event.model_dump(mode="json", by_alias=True)],
        "registers": pcr.registers([event], replay((event,))),
    }
    return validate(ReferenceValues, fields, "reference values")


def test_reference_values_name_what_differs() -> None:
    values = reference()
    assert values.registers["12"] == "0" * 64
    good = {int(name): bytes.fromhex(value) for name, value in values.registers.items()}
    compare(values, good)
    with pytest.raises(VerificationError, match="register 12: the host added to the command line"):
        compare(values, good | {12: b"\1" * 32})
    with pytest.raises(VerificationError, match="15=nothing"):
        compare(values, {register: value for register, value in good.items() if register != 15})


def test_an_older_image_than_asked_for_is_refused() -> None:
    values = reference()
    for version in (None, 0, 99):
        with pytest.raises(VerificationError, match="reference/version: expected at least 100"):
            require_version(values.model_copy(update={"version": version}), 100)
    for version in (100, 101):
        require_version(values.model_copy(update={"version": version}), 100)


def test_the_version_is_that_of_the_release_text() -> None:
    assert measure.version("ID=vitrine\nVERSION_ID=1795305600\n") == 1_795_305_600
    for text in ("", "VERSION_ID=\n", "VERSION_ID=1\nVERSION_ID=2", "VERSION_ID=1x", "VERSION_ID=-1", "VERSION_ID=²"):
        with pytest.raises(MalformedInput, match="release text"):
            measure.version(text)
    with pytest.raises(MalformedInput, match="release text"):
        measure.version("VERSION_ID=" + "9" * 5000)


def test_reference_values_that_their_events_do_not_give_are_refused() -> None:
    fields = reference().model_dump(mode="json", by_alias=True)
    with pytest.raises(MalformedInput, match="to be what the events give"):
        validate(ReferenceValues, fields | {"registers": fields["registers"] | {"15": "1" * 64}}, "reference values")
    with pytest.raises(MalformedInput, match="expected a value for each register"):
        without = {name: value for name, value in fields["registers"].items() if name != "15"}
        validate(ReferenceValues, fields | {"registers": without}, "reference values")


def test_an_event_is_extended_as_a_tpm_does() -> None:
    digest = "sha256:" + "ab" * 32
    event = validate(Measurement, {"register": 3, "what": "x", "digest": digest}, "measurement")
    # SHA-256 over 32 zero bytes and 32 bytes 0xab.
    assert replay((event,))[3].hex() == "debb3e7acfff6dd18d501042273629f0b79cb206bb8c24f59f62ddb80849403b"
    assert replay((event, event))[3] != replay((event,))[3]
