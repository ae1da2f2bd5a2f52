"""configfs-tsm without a kernel: the same folders, attributes and errors, and evidence that a fake really signs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

WRITABLE = ("inblob", "privlevel")


@dataclass
class Entry:
    """One request."""

    generation: int = 0
    written: dict[str, bytes] = field(default_factory=dict)


@dataclass
class FakeRequests:
    """Serves requests as `/sys/kernel/config/tsm/report` does."""

    sign: Callable[[bytes], bytes]
    """Makes evidence of what is bound."""
    provider: str
    """As the kernel names the platform."""
    auxiliary: bytes | None = None
    """The `auxblob`, where the platform has one."""
    busy: int = 0
    """How many times the platform is busy with another's request first."""
    interference: int = 0
    """How many times another process writes to the request."""
    deaf: bool = False
    """Whether what is written gets lost, as where the kernel refuses it when the file is closed."""
    entries: dict[str, Entry] = field(default_factory=dict)

    def make(self, name: str) -> None:
        if name in self.entries:
            raise error(errno.EEXIST)
        self.entries[name] = Entry()

    def write(self, name: str, attribute: str, data: bytes) -> None:
        if attribute not in WRITABLE:
            raise error(errno.EACCES)
        if not self.deaf:
            self.entries[name].written[attribute] = data
            self.entries[name].generation += 1

    def read(self, name: str, attribute: str) -> bytes:
        entry = self.entries[name]
        match attribute:
            case "provider":
                return f"{self.provider}\n".encode()
            case "generation":
                return f"{entry.generation}\n".encode()
            case "auxblob" if self.auxiliary is not None:
                return self.auxiliary
            case "outblob":
                return self._evidence(entry)
        raise error(errno.ENOENT if attribute not in WRITABLE else errno.EACCES)

    def remove(self, name: str) -> None:
        del self.entries[name]

    def _evidence(self, entry: Entry) -> bytes:
        if self.busy:
            self.busy -= 1
            raise error(errno.EBUSY)
        if "inblob" not in entry.written:
            raise error(errno.EINVAL)
        entry.generation += self.interference
        return self.sign(entry.written["inblob"])


def error(number: int) -> OSError:
    """What a system call raises: `OSError` picks the class that goes with the number."""
    return OSError(number, os.strerror(number))
