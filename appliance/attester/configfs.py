"""Evidence from the kernel's one door for it: configfs-tsm, `/sys/kernel/config/tsm/report` (Linux 6.7).

A folder made there is a request of its own: what is to be bound goes into `inblob`, the evidence comes out of
`outblob`, and `provider` names the platform (`tdx_guest`, `sev_guest`). `generation` counts what was written: it is
compared, because the kernel takes a binary attribute when the file is closed and reports no error then, and because
another process could write in between. See `Documentation/ABI/testing/configfs-tsm-report` of Linux.

Everything that this host or its kernel cannot do is an `EnvironmentProblem`.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from attest.errors import EnvironmentProblem

FOLDER = Path("/sys/kernel/config/tsm/report")
MAX_BYTES = 1 << 20
"""Of one attribute."""
MAX_BOUND_BYTES = 64
"""Of what is bound: TSM_REPORT_INBLOB_MAX."""
TRIES = 60
PAUSE_S = 0.5
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class Requests(Protocol):
    """The folder of requests, as the file system shows it. Everything raises `OSError`."""

    def make(self, name: str) -> None:
        """Make the request `name`; its attributes are there then."""
        ...

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """Write an attribute, whole."""
        ...

    def read(self, name: str, attribute: str) -> bytes:
        """Read an attribute, whole."""
        ...

    def remove(self, name: str) -> None:
        """Remove the request."""
        ...


@dataclass(frozen=True)
class Folder:
    """The real folder of requests."""

    path: Path = FOLDER
    """Where it is."""

    def make(self, name: str) -> None:
        """Make the request `name`."""
        (self.path / name).mkdir(mode=0o700)

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """Write an attribute, in one call; it is never created."""
        fd = os.open(self.path / name / attribute, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(errno.EIO, "short write")
        finally:
            os.close(fd)

    def read(self, name: str, attribute: str) -> bytes:
        """Read an attribute of at most `MAX_BYTES`."""
        with (self.path / name / attribute).open("rb", buffering=0) as file:
            data = bytearray()
            while len(data) <= MAX_BYTES and (part := file.read(1 << 16)):
                data += part
        if len(data) > MAX_BYTES:
            raise OSError(errno.EFBIG, "longer than evidence can be")
        return bytes(data)

    def remove(self, name: str) -> None:
        """Remove the request; its attributes go with it."""
        (self.path / name).rmdir()


@dataclass(frozen=True)
class Report:
    """What the kernel handed out."""

    evidence: bytes
    """`outblob`: the quote or report, in the platform's own form."""
    auxiliary: bytes
    """`auxblob`: what helps to verify it (the certificates of SEV-SNP); empty where the platform has none."""


def report(requests: Requests, bound: bytes, *, provider: str, settings: Mapping[str, str] = NO_SETTINGS) -> Report:
    """Evidence that `bound` (1 to 64 bytes) was known here, from the platform that the kernel calls `provider`.

    `settings` are other attributes to write before, such as `privlevel`. Raises `EnvironmentProblem`.
    """
    if not 0 < len(bound) <= MAX_BOUND_BYTES:
        raise ValueError(f"expected 1 to {MAX_BOUND_BYTES} bytes to bind, found {len(bound)}")
    name = f"vitrine-{secrets.token_hex(8)}"
    try:
        requests.make(name)
    except OSError as error:
        advice = "run in a confidential VM with Linux 6.7 or later, configfs mounted, as root"
        raise EnvironmentProblem(f"configfs-tsm: no request can be made ({error.strerror}): {advice}") from None
    try:
        return _ask(requests, name, bound, provider, settings)
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"configfs-tsm: the platform gives no evidence: {error}") from None
    finally:
        requests.remove(name)


def provider(requests: Requests) -> str | None:
    """The platform whose evidence is to be had here, as the kernel calls it; None where there is none.

    Raises `EnvironmentProblem` where there is one that cannot be asked.
    """
    name = f"vitrine-{secrets.token_hex(8)}"
    try:
        requests.make(name)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):  # not in this kernel, or no driver found its hardware
            return None
        raise EnvironmentProblem(f"configfs-tsm: no request can be made ({error.strerror})") from None
    try:
        return requests.read(name, "provider").decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"configfs-tsm: the platform has no name: {error}") from None
    finally:
        requests.remove(name)


def _ask(requests: Requests, name: str, bound: bytes, provider: str, settings: Mapping[str, str]) -> Report:
    found = requests.read(name, "provider").decode("ascii").strip()
    if found != provider:
        raise EnvironmentProblem(f"configfs-tsm: expected the provider {provider}, found {found[:80]!r}")
    before = int(requests.read(name, "generation"))
    for attribute, value in settings.items():
        requests.write(name, attribute, value.encode("ascii"))
    requests.write(name, "inblob", bound)
    evidence = _read_when_ready(requests, name)
    try:
        auxiliary = requests.read(name, "auxblob")
    except FileNotFoundError:
        auxiliary = b""
    after, expected = int(requests.read(name, "generation")), before + len(settings) + 1
    if after != expected:
        raise EnvironmentProblem(f"configfs-tsm: expected generation {expected}, found {after}: written to by another")
    return Report(evidence, auxiliary)


def _read_when_ready(requests: Requests, name: str) -> bytes:
    """The evidence. The platform answers one request at a time, so another's may have to be waited for."""
    for _ in range(TRIES - 1):
        try:
            return requests.read(name, "outblob")
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EAGAIN, errno.EINTR):
                raise
        time.sleep(PAUSE_S)
    return requests.read(name, "outblob")
