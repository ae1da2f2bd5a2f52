"""A unified kernel image: systemd's boot stub with kernel, initramfs and command line as sections of one executable.

The stub measures every section into register 11 before it starts the kernel, so what is in the file is what is
measured. Nothing else goes in: no splash, no device tree, no key of others.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.image import pe
from attest.errors import MalformedInput

MEASURED = (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey")
"""The sections that the stub measures, in its order, each by its name and then by its content."""
PRESENT = (".osrel", ".cmdline", ".linux", ".initrd")
"""The sections that an image of ours has, in the order of the file."""
MAX_COMMAND_LINE = 2000


@dataclass(frozen=True)
class Parts:
    """What a unified kernel image is made of."""

    kernel: bytes
    """The kernel, an executable itself."""
    initrd: bytes
    """The initramfs."""
    command_line: str
    """The kernel's command line: printable ASCII."""
    release: str
    """Text of `os-release`."""


def build(stub: bytes, parts: Parts) -> bytes:
    """The image. Raises `MalformedInput` for a part that is none, or a stub that has such parts already."""
    line = parts.command_line
    if not line.isascii() or not line.isprintable() or not 0 < len(line) <= MAX_COMMAND_LINE:
        expected = f"a command line of 1 to {MAX_COMMAND_LINE} printable ASCII characters"
        raise MalformedInput("command line", f"expected {expected}, found {line[:100]!r}")
    pe.parse(parts.kernel)
    content = {
        ".osrel": parts.release.encode(),
        ".cmdline": line.encode("ascii"),
        ".linux": parts.kernel,
        ".initrd": parts.initrd,
    }
    return pe.append(stub, [(name, content[name]) for name in PRESENT])


def parts(image: bytes) -> Parts:
    """The parts of an image. Raises `MalformedInput` unless it has each of ours, and none that the stub also reads."""
    executable = pe.parse(image)
    if strange := [
        name for name in (*MEASURED, ".pcrsig", ".ucode", ".uname") if executable.has(name) and name not in PRESENT
    ]:
        raise MalformedInput("unified kernel image", f"expected the sections {', '.join(PRESENT)}, found {strange}")
    try:
        line = executable.section(".cmdline").decode("ascii")
        release = executable.section(".osrel").decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedInput("unified kernel image", "expected text in .cmdline and .osrel") from None
    return Parts(executable.section(".linux"), executable.section(".initrd"), line, release)
