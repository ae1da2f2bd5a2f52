"""A boot disk with one file on it: FAT16 without a partition table, the same bytes for the same file.

Firmware looks for `/EFI/BOOT/BOOTX64.EFI` on a removable disk. What it measures is that file, not the disk around it,
so nothing here needs trust; it needs only to be simple. `fsck.vfat` and `mdir` read it.
"""

from __future__ import annotations

import struct

from attest.errors import MalformedInput

SECTOR = 512
SECTORS_PER_CLUSTER = 16
CLUSTER = SECTOR * SECTORS_PER_CLUSTER
ROOT_ENTRIES = 512
MIN_CLUSTERS, MAX_CLUSTERS = 4096, 65000
"""FAT16 is told by its number of clusters: fewer are FAT12, more are FAT32."""
MEDIA = 0xF8
END = 0xFFFF
SERIAL = 0x56495452
DIRECTORY, ARCHIVE = 0x10, 0x20
DATE = (1 << 5) | 1
"""The first of January 1980, the earliest that there is."""


def build(executable: bytes, name: str = "BOOTX64") -> bytes:
    """The disk with `executable` as `/EFI/BOOT/NAME.EFI`. Raises `MalformedInput` where FAT16 cannot hold it."""
    file_clusters = max(1, -(-len(executable) // CLUSTER))
    clusters = max(MIN_CLUSTERS + 64, 2 + file_clusters + 16)
    if clusters > MAX_CLUSTERS or not executable:
        raise MalformedInput("boot disk", f"expected 1 to {MAX_CLUSTERS * CLUSTER} bytes, found {len(executable)}")
    fat_sectors = -(-(clusters + 2) * 2 // SECTOR)
    root_sectors = ROOT_ENTRIES * 32 // SECTOR
    total = 1 + 2 * fat_sectors + root_sectors + clusters * SECTORS_PER_CLUSTER
    table = [0xFF00 | MEDIA, END, END, END]
    table += [4 + number + 1 for number in range(file_clusters - 1)] + [END]
    fat = struct.pack(f"<{len(table)}H", *table).ljust(fat_sectors * SECTOR, b"\0")
    root = _entry("EFI", "", DIRECTORY, 2, 0).ljust(root_sectors * SECTOR, b"\0")
    efi = _folder(2, 0) + _entry("BOOT", "", DIRECTORY, 3, 0)
    boot = _folder(3, 2) + _entry(name, "EFI", ARCHIVE, 4, len(executable))
    content = efi.ljust(CLUSTER, b"\0") + boot.ljust(CLUSTER, b"\0") + executable
    head = _boot_sector(total, fat_sectors)
    return (head + fat + fat + root + content).ljust(total * SECTOR, b"\0")


def _boot_sector(total: int, fat_sectors: int) -> bytes:
    small, large = (total, 0) if total < 1 << 16 else (0, total)
    head = b"\xeb\x3c\x90" + b"VITRINE "
    head += struct.pack(
        "<HBHBHHBHHHII", SECTOR, SECTORS_PER_CLUSTER, 1, 2, ROOT_ENTRIES, small, MEDIA, fat_sectors, 32, 2, 0, large
    )
    head += struct.pack("<BBBI", 0x80, 0, 0x29, SERIAL) + b"NO NAME    " + b"FAT16   "
    return head.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def _folder(own: int, parent: int) -> bytes:
    return _entry(".", "", DIRECTORY, own, 0) + _entry("..", "", DIRECTORY, parent, 0)


def _entry(name: str, suffix: str, attributes: int, cluster: int, size: int) -> bytes:
    text = name.encode("ascii").ljust(8) + suffix.encode("ascii").ljust(3)
    return text + struct.pack("<BBBHHHHHHHI", attributes, 0, 0, 0, DATE, DATE, 0, 0, DATE, cluster, size)
