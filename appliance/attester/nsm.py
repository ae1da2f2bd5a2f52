"""Attestation documents from the Nitro Security Module: one ioctl on `/dev/nsm`, CBOR in, CBOR out.

Source: `include/uapi/linux/nsm.h` of Linux 6.8, and the request and response types of AWS's Nitro Enclaves NSM API.
The device exists only inside a Nitro enclave. What it answers is not checked here; `attest.nitro` does that.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from attest import cbor
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported

DEVICE = Path("/dev/nsm")
REQUEST_BYTES = 0x1000
RESPONSE_BYTES = 0x3000
"""The driver's limits."""
MAX_USER_DATA, MAX_NONCE, MAX_PUBLIC_KEY = 512, 512, 1024


class _Raw(ctypes.Structure):
    """`struct nsm_raw`: two `struct nsm_iovec` of a 64-bit address and length each."""

    _fields_ = (
        ("request", ctypes.c_uint64),
        ("request_bytes", ctypes.c_uint64),
        ("response", ctypes.c_uint64),
        ("response_bytes", ctypes.c_uint64),
    )


NSM_IOCTL_RAW = 3 << 30 | ctypes.sizeof(_Raw) << 16 | 0x0A << 8
"""`_IOWR(0x0A, 0x0, struct nsm_raw)`."""


class Module(Protocol):
    """What answers requests: the device, or a fake."""

    def exchange(self, request: bytes) -> bytes:
        """The answer to a request."""
        ...


class Device:
    """The security module behind its device file. `ioctl` is the system's; tests give their own."""

    def __init__(self, path: Path = DEVICE, ioctl: Callable[[int, int, _Raw], object] = fcntl.ioctl) -> None:
        self._path, self._ioctl = path, ioctl

    def exchange(self, request: bytes) -> bytes:
        """The module's answer to `request`. Raises `EnvironmentProblem` where there is no module, or it fails."""
        if len(request) > REQUEST_BYTES:
            raise ValueError(f"expected a request of at most {REQUEST_BYTES} bytes, got {len(request)}")
        question = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(RESPONSE_BYTES)
        raw = _Raw(ctypes.addressof(question), len(request), ctypes.addressof(answer), RESPONSE_BYTES)
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise EnvironmentProblem(
                f"no Nitro Security Module at {self._path} ({error.strerror}): it exists only inside a Nitro enclave"
            ) from None
        try:
            self._ioctl(descriptor, NSM_IOCTL_RAW, raw)
        except OSError as error:
            raise EnvironmentProblem(f"the Nitro Security Module failed: {error.strerror}") from None
        finally:
            os.close(descriptor)
        return answer.raw[: min(raw.response_bytes, RESPONSE_BYTES)]


def attest(module: Module, *, user_data: bytes, nonce: bytes | None = None, public_key: bytes | None = None) -> bytes:
    """An attestation document (COSE_Sign1) over `user_data`, at most 512 bytes, and the rest where given.

    Raises `EnvironmentProblem` for a refusal of the module, `MalformedInput` for an answer that is none.
    """
    for value, longest in ((user_data, MAX_USER_DATA), (nonce, MAX_NONCE), (public_key, MAX_PUBLIC_KEY)):
        if value is not None and len(value) > longest:
            raise ValueError(f"expected at most {longest} bytes, got {len(value)}")
    wanted = {"user_data": user_data, "nonce": nonce, "public_key": public_key}
    try:
        answer = cbor.loads(
            module.exchange(cbor.dumps({"Attestation": wanted})), "answer of /dev/nsm", indefinite_maps=True
        )
    except Unsupported as error:
        raise MalformedInput(error.what, error.problem) from None
    if isinstance(answer, dict) and isinstance(answer.get("Error"), str):
        raise EnvironmentProblem(f"the Nitro Security Module refused: {answer['Error'][:80]}")
    inner = answer.get("Attestation") if isinstance(answer, dict) else None
    document = inner.get("document") if isinstance(inner, dict) else None
    if not isinstance(document, bytes):
        raise MalformedInput("answer of /dev/nsm", "expected an attestation document")
    return document
