"""Unified kernel images of the real kernel and stub: their parts come back, and the bytes are always the same."""

import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.image import esp, pe, uki
from attest.errors import MalformedInput
from tests.unit import machine_parts


def test_the_parts_come_back_and_the_bytes_are_the_same() -> None:
    stub, parts = machine_parts.stub(), machine_parts.parts()
    image = uki.build(stub, parts)
    assert uki.parts(image) == parts
    assert uki.build(stub, parts) == image
    own = pe.parse(stub)
    assert all(pe.parse(image).section(section.name) == own.section(section.name) for section in own.sections)


@pytest.mark.parametrize("line", ["", "a\nb", "ü", "x" * 3000])
def test_a_command_line_that_the_stub_cannot_hold_is_refused(line: str) -> None:
    with pytest.raises(MalformedInput, match="command line"):
        uki.build(machine_parts.stub(), replace(machine_parts.parts(), command_line=line))


@pytest.mark.parametrize("name", [".dtb", ".splash", ".pcrpkey", ".ucode", ".uname"])
def test_an_image_with_more_than_ours_is_refused(name: str) -> None:
    image = uki.build(machine_parts.stub(), machine_parts.parts())
    with pytest.raises(MalformedInput, match="expected the sections"):
        uki.parts(pe.append(image, [(name, b"more")]))


def test_a_stub_that_brings_a_part_is_refused() -> None:
    stub = pe.append(machine_parts.stub(), [(".cmdline", b"init=/bin/sh")])
    with pytest.raises(MalformedInput, match="a new section"):
        uki.build(stub, machine_parts.parts())


def test_the_boot_disk_holds_the_file(tmp_path: Path) -> None:
    tools = [shutil.which("fsck.vfat", path="/usr/sbin:/sbin:/usr/bin"), shutil.which("mtype")]
    if None in tools:
        pytest.skip("no fsck.vfat or mtype: apt install dosfstools mtools")
    for size in (1, 8192, 8193, 40_000_000):
        content = random.Random(size).randbytes(size)
        disk = tmp_path / f"disk{size}"
        disk.write_bytes(esp.build(content))
        checked = subprocess.run([str(tools[0]), "-n", str(disk)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
        read = subprocess.run([str(tools[1]), "-i", str(disk), "::/EFI/BOOT/BOOTX64.EFI"], capture_output=True)
        assert read.stdout == content, read.stderr
    assert esp.build(b"same") == esp.build(b"same")


@pytest.mark.parametrize("size", [0, 600 << 20])
def test_a_file_that_fat16_cannot_hold_is_refused(size: int) -> None:
    with pytest.raises(MalformedInput, match="boot disk"):
        esp.build(bytes(size))
