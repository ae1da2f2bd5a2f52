"""The first file system: read back by an independent tool, always the same bytes, and nothing to run but init."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.image import init, initramfs
from attest.errors import EnvironmentProblem, MalformedInput

ROOT = Path(__file__).resolve().parents[2]
MODULES = [("b.ko", b"second"), ("a.ko", b"first but one")]
COMMAND = ["/usr/bin/python3", "-I"]


def test_cpio_reads_what_was_written(tmp_path: Path) -> None:
    tool = shutil.which("cpio")
    if tool is None:
        pytest.skip("no cpio: apt install cpio")
    packed = initramfs.build(b"program", MODULES, COMMAND)
    done = subprocess.run([tool, "-itv", "--numeric-uid-gid"], input=packed, capture_output=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert [line.split()[-1] for line in lines] == sorted(line.split()[-1] for line in lines)
    assert all(line.split()[2:4] == ["0", "0"] for line in lines)
    assert [line.split()[-1] for line in lines if line.startswith("-rwx")] == ["init"]
    only_files = ["init", "command", "modules.list", "modules/a.ko", "modules/b.ko"]
    subprocess.run([tool, "-id", "--quiet", *only_files], input=packed, cwd=tmp_path, check=True)
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        "init": b"program",
        "command": b"/usr/bin/python3\n-I\n",
        "modules.list": b"b.ko\na.ko\n",
        "modules/a.ko": b"first but one",
        "modules/b.ko": b"second",
    }


def test_the_bytes_depend_on_the_content_alone() -> None:
    first = initramfs.build(b"program", MODULES, COMMAND)
    previous = os.umask(0o077)
    try:
        assert initramfs.build(b"program", MODULES, COMMAND) == first
    finally:
        os.umask(previous)
    assert initramfs.build(b"program", MODULES[::-1], COMMAND) != first


@pytest.mark.parametrize(
    ("modules", "command"),
    [
        ([("../a.ko", b"")], COMMAND),
        ([("a.ko", b""), ("a.ko", b"")], COMMAND),
        ([("a\n.ko", b"")], COMMAND),
        (MODULES, ["/usr/bin/python3\n/bin/sh"]),
        (MODULES, [""]),
    ],
)
def test_names_that_the_lists_cannot_hold_are_refused(modules: list[tuple[str, bytes]], command: list[str]) -> None:
    with pytest.raises(MalformedInput, match="initramfs"):
        initramfs.build(b"program", modules, command)


def test_init_is_small_static_and_compiles_to_the_same_bytes() -> None:
    source = (ROOT / "images" / "vm" / "init.c").read_bytes()
    try:
        program, found = init.compile_init(source)
    except EnvironmentProblem as problem:
        pytest.skip(str(problem))
    again, _ = init.compile_init(source)
    assert program == again
    assert len(program) < 32768
    assert program[:5] == b"\x7fELF\x02"
    count = int.from_bytes(program[56:58], "little")
    kinds = [int.from_bytes(program[64 + 56 * n : 68 + 56 * n], "little") for n in range(count)]
    interpreter, dynamic = 3, 2
    assert interpreter not in kinds
    assert dynamic not in kinds
    assert init.compile_locked(source, found) == program


def test_init_without_its_lock_is_refused() -> None:
    source = (ROOT / "images" / "vm" / "init.c").read_bytes()
    try:
        _, found = init.compile_init(source)
    except EnvironmentProblem as problem:
        pytest.skip(str(problem))
    with pytest.raises(Exception, match="init-source"):
        init.compile_locked(source + b"\n", found)
    with pytest.raises(Exception, match="made by"):
        init.compile_locked(source, found.model_copy(update={"digest": "sha256:" + "0" * 64}))
