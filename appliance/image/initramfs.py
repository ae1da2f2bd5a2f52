"""The first file system of the virtual machine, as one cpio archive (newc) that depends on nothing but its content.

It holds one program (`init`, see `init.c`), the kernel modules that it loads, and three small lists. There is no
shell, no interpreter and no tool in it, so there is nothing to fall back to: an error ends the machine.

Not compressed: it is small, and no compressor's version is part of what is measured.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence

from attest.errors import MalformedInput

ALIGNMENT = 4
FOLDERS = ("dev", "proc", "root", "sys")
"""What `init` mounts on."""
CONSOLE = (5, 1)
"""Major and minor number of the console, which the kernel opens for `init`."""
TRAILER = "TRAILER!!!"


def build(init: bytes, modules: Sequence[tuple[str, bytes]], command: Sequence[str]) -> bytes:
    """The archive: `init`; the `modules` by name, loaded in this order; the `command` that runs in the root.

    Raises `MalformedInput` for a name or an argument that the lists cannot hold.
    """
    for text in (*(name for name, _ in modules), *command):
        if not text or not text.isascii() or not text.isprintable() or len(text) > 200:
            raise MalformedInput("initramfs", f"expected printable ASCII of at most 200 characters, found {text!r}")
    names = [name for name, _ in modules]
    if len(set(names)) != len(names) or any("/" in name for name in names):
        raise MalformedInput("initramfs", f"expected plain module names, each once, found {', '.join(names)}")
    files = {f"modules/{name}": content for name, content in modules}
    files["modules.list"] = "".join(f"{name}\n" for name in names).encode()
    files["command"] = "".join(f"{argument}\n" for argument in command).encode()
    return archive({**files, "init": init}, folders=("modules", *FOLDERS), executable=("init",))


def archive(files: Mapping[str, bytes], *, folders: Sequence[str], executable: Sequence[str] = ()) -> bytes:
    """A newc archive of `files` and `folders` and the console: sorted by name, owner 0, time 0."""
    out = bytearray()
    entries: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    for name in folders:
        entries[name] = (stat.S_IFDIR | 0o755, b"", (0, 0))
    for name, content in files.items():
        mode = 0o755 if name in executable else 0o644
        entries[name] = (stat.S_IFREG | mode, content, (0, 0))
    entries["dev/console"] = (stat.S_IFCHR | 0o600, b"", CONSOLE)
    for number, name in enumerate(sorted(entries), 1):
        mode, content, device = entries[name]
        out += _entry(number, name, mode, content, device)
    out += _entry(0, TRAILER, 0, b"", (0, 0))
    return bytes(out + bytes(-len(out) % 512))


def _entry(number: int, name: str, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    links = 2 if stat.S_ISDIR(mode) else 1
    text = name.encode("ascii") + b"\0"
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(text), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + text
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
