"""Removes a folder that a container could write to, whatever it made there.

Folders without any right for their owner, links, sockets, and folders in folders beyond the length of a path or the
depth of a recursion: each folder is emptied where it is, and the folders in it are moved to the top first, so that
nothing is ever deeper than two levels. Links are removed, never followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def discard(folder: Path) -> None:
    """Remove `folder` and all that is in it; what the caller may not remove stays. Nothing may write there any more."""
    with contextlib.suppress(OSError):
        top = os.open(folder, OPEN)
        try:
            _empty(top)
        finally:
            os.close(top)
        folder.rmdir()


def _empty(top: int) -> None:
    count = 0
    waiting = _folders_left(top, top, count)
    while waiting:
        name = waiting.pop()
        with contextlib.suppress(OSError):
            os.chmod(name, stat.S_IRWXU, dir_fd=top)  # a folder: a link would not be in the list
            one = os.open(name, OPEN, dir_fd=top)
            try:
                moved = _folders_left(one, top, count)
            finally:
                os.close(one)
            count += len(moved)
            waiting += moved
            os.rmdir(name, dir_fd=top)


def _folders_left(one: int, top: int, count: int) -> list[str]:
    """Remove all files of the folder `one`, and move its folders to `top`; their names there."""
    with os.scandir(one) as listing:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing]
    folders = []
    for name, is_folder in entries:
        if not is_folder:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=one)
        elif one == top:
            folders.append(name)
        else:
            # No name of the caller's own has this form, and no two get the same.
            target = f".discarded-{count + len(folders)}"
            with contextlib.suppress(OSError):
                os.chmod(name, stat.S_IRWXU, dir_fd=one)  # moving a folder changes its `..`, which takes the right to
                os.rename(name, target, src_dir_fd=one, dst_dir_fd=top)
                folders.append(target)
    return folders
