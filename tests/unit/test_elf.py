"""Libraries without what is never loaded: Python loads them, readelf reads them, damaged ones are refused."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import _cffi_backend
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.image import elf
from attest.errors import MalformedInput

LIBRARY = Path(_cffi_backend.__file__)


def test_a_stripped_library_loads(tmp_path: Path) -> None:
    whole = LIBRARY.read_bytes()
    less = elf.stripped(whole)
    assert len(less) < len(whole)
    assert elf.stripped(less) == less
    # All but the header is the beginning of the file as it was.
    assert less[64:] == whole[64 : len(less)]
    (tmp_path / LIBRARY.name).write_bytes(less)
    call = "import sys; sys.path.insert(0, sys.argv[1]); import _cffi_backend as m; "
    call += "print(m.__file__, m.FFI().sizeof('int'))"
    done = subprocess.run([sys.executable, "-c", call, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / LIBRARY.name), "4"], done.stderr


def test_readelf_finds_the_same_segments(tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("no readelf: apt install binutils")
    less = tmp_path / "less"
    less.write_bytes(elf.stripped(LIBRARY.read_bytes()))

    def segments(path: Path) -> str:
        said = subprocess.run(["readelf", "-lW", str(path)], capture_output=True, text=True)
        assert "Warning" not in said.stderr
        return said.stdout.partition("Program Headers:")[2].partition("Section to Segment")[0].strip()

    assert "LOAD" in segments(less)
    assert segments(less) == segments(LIBRARY)


def test_damaged_files() -> None:
    whole = LIBRARY.read_bytes()
    segment = struct.unpack_from("<Q", whole, 32)[0]
    for damaged in (
        b"",
        whole[:40],
        whole[:segment],
        b"\x7fELF\x01" + whole[5:],
        whole[:56] + b"\xff\xff" + whole[58:],
        whole[: segment + 32] + b"\xff" * 8 + whole[segment + 40 :],
    ):
        with pytest.raises(MalformedInput, match="ELF file"):
            elf.stripped(damaged)


@given(tail=st.binary(max_size=200))
def test_no_header_crashes_the_reader(tail: bytes) -> None:
    """Nothing this short has a segment."""
    try:
        found = elf.stripped(elf.MAGIC + tail)
    except MalformedInput:
        return
    assert len(found) <= len(elf.MAGIC + tail)
