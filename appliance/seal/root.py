"""A root directory that holds the named paths and nothing else, for a process in its own mount namespace.

A small tmpfs carries the directories on the way, each path is bound where it was, all of it becomes read-only, and the
old root is detached. Not even the names and sizes of other files can then be seen, and there is no /proc.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path, PurePosixPath

from appliance.seal import kernel

# linux/mount.h
MS_NOSUID, MS_NODEV = 2, 4
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
MNT_DETACH = 2  # sys/mount.h
AT_FDCWD = -100  # linux/fcntl.h
AT_RECURSIVE = 0x8000  # linux/fcntl.h

STAGES = ("/tmp", "/run", "/mnt", "/dev")  # noqa: S108 - a place to mount over, in this process's own namespace
ROOT_OPTIONS = b"mode=0755,size=1m,nr_inodes=4k"


def outermost(paths: tuple[str, ...]) -> tuple[str, ...]:
    """`paths` without those that lie below another one, in order."""
    kept: list[str] = []
    for path in sorted(dict.fromkeys(paths), key=lambda one: (len(PurePosixPath(one).parts), one)):
        if not any(PurePosixPath(path).is_relative_to(other) for other in kept):
            kept.append(path)
    return tuple(kept)


def replace(paths: tuple[str, ...]) -> None:
    """Make `paths` all that there is. Raises `OSError`; the old root may then still be in place, in private mounts."""
    shown = outermost(paths)
    stage = _stage(shown)
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("vitrine", stage, "tmpfs", MS_NOSUID | MS_NODEV, ROOT_OPTIONS)
    umask = os.umask(0o022)
    try:
        for path in shown:
            _bind(path, stage + path)
    finally:
        os.umask(umask)
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    kernel.call("mount_setattr", AT_FDCWD, stage.encode(), AT_RECURSIVE, attributes, len(attributes))
    os.chdir(stage)
    kernel.call("pivot_root", b".", b".")  # the old root is then mounted on the new one, pivot_root(2)
    kernel.call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def _stage(shown: tuple[str, ...]) -> str:
    """A directory that can be mounted over without hiding any of `shown`."""
    for one in STAGES:
        if Path(one).is_dir() and not any(PurePosixPath(path).is_relative_to(one) for path in shown):
            return one
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), " or ".join(STAGES))


def _bind(source: str, target: str) -> None:
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    _mount(source, target, None, MS_BIND | MS_REC)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: bytes | None = None) -> None:
    origin = None if source is None else os.fsencode(source)
    file_system = None if kind is None else kind.encode("ascii")
    try:
        kernel.call("mount", origin, os.fsencode(target), file_system, flags, options)
    except OSError as error:
        raise OSError(error.errno, error.strerror, target) from None
