"""Attestation reports from NVIDIA GPUs in confidential-computing mode, through the driver's NVML library.

Source: `nvml.h` of CUDA 12.4, `nvmlDeviceGetConfComputeGpuAttestationReport` and `...GpuCertificate`. It works inside a
confidential virtual machine that has the GPU; elsewhere the driver answers "Not Supported". What it gives is not
checked here; `attest.nvgpu` does that.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

from attest.errors import EnvironmentProblem
from attest.nvgpu.evidence import Evidence

LIBRARY = "libnvidia-ml.so.1"
SUCCESS = 0
NONCE_BYTES = 32
REPORT_BYTES, CEC_REPORT_BYTES = 0x2000, 0x1000
CHAIN_BYTES, ATTESTATION_CHAIN_BYTES = 0x1000, 0x1400


class Report(ctypes.Structure):
    """`nvmlConfComputeGpuAttestationReport_t`."""

    _fields_ = (
        ("cec_present", ctypes.c_uint),
        ("report_bytes", ctypes.c_uint),
        ("cec_report_bytes", ctypes.c_uint),
        ("nonce", ctypes.c_ubyte * NONCE_BYTES),
        ("report", ctypes.c_ubyte * REPORT_BYTES),
        ("cec_report", ctypes.c_ubyte * CEC_REPORT_BYTES),
    )


class Certificates(ctypes.Structure):
    """`nvmlConfComputeGpuCertificate_t`."""

    _fields_ = (
        ("chain_bytes", ctypes.c_uint),
        ("attestation_chain_bytes", ctypes.c_uint),
        ("chain", ctypes.c_ubyte * CHAIN_BYTES),
        ("attestation_chain", ctypes.c_ubyte * ATTESTATION_CHAIN_BYTES),
    )


class Gpus(Protocol):
    """What gives evidence: the driver, or a fake."""

    def evidence(self, nonce: bytes) -> tuple[Evidence, ...]:
        """Report and certificates of each GPU, over a nonce of 32 bytes."""
        ...


class Nvml:
    """The GPUs of this machine. `library` is the driver's; tests give their own."""

    def __init__(self, library: Any = None) -> None:
        """Raises `EnvironmentProblem` where the driver's library is missing or too old."""
        try:
            self._library = ctypes.CDLL(LIBRARY) if library is None else library
            self._initialise = self._library.nvmlInit_v2
            self._shut_down = self._library.nvmlShutdown
            self._count = self._library.nvmlDeviceGetCount_v2
            self._handle = self._library.nvmlDeviceGetHandleByIndex_v2
            self._report = self._library.nvmlDeviceGetConfComputeGpuAttestationReport
            self._certificates = self._library.nvmlDeviceGetConfComputeGpuCertificate
            self._text = self._library.nvmlErrorString
        except (OSError, AttributeError) as error:
            raise EnvironmentProblem(
                f"no NVIDIA driver with confidential computing here ({error}): install one of version 550 or later"
            ) from None
        self._text.restype = ctypes.c_char_p

    def evidence(self, nonce: bytes) -> tuple[Evidence, ...]:
        """Report and certificates of each GPU, over a nonce of 32 bytes. Raises `EnvironmentProblem`."""
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"expected a nonce of {NONCE_BYTES} bytes, got {len(nonce)}")
        self._call("start the driver's library", self._initialise)
        try:
            count = ctypes.c_uint()
            self._call("count the GPUs", self._count, ctypes.byref(count))
            if count.value == 0:
                raise EnvironmentProblem("no NVIDIA GPU here")
            return tuple(self._of_gpu(index, nonce) for index in range(count.value))
        finally:
            self._shut_down()

    def _of_gpu(self, index: int, nonce: bytes) -> Evidence:
        handle = ctypes.c_void_p()
        self._call(f"open GPU {index}", self._handle, ctypes.c_uint(index), ctypes.byref(handle))
        report = Report(nonce=(ctypes.c_ubyte * NONCE_BYTES)(*nonce))
        self._call(f"get a report of GPU {index}", self._report, handle, ctypes.byref(report))
        certificates = Certificates()
        self._call(f"get the certificates of GPU {index}", self._certificates, handle, ctypes.byref(certificates))
        return Evidence(
            bytes(report.report[: report.report_bytes]),
            bytes(certificates.attestation_chain[: certificates.attestation_chain_bytes]),
        )

    def _call(self, what: str, function: Any, *arguments: object) -> None:
        code = function(*arguments)
        if code != SUCCESS:
            text = (self._text(ctypes.c_int(code)) or b"unknown error").decode("ascii", "replace")
            raise EnvironmentProblem(
                f"cannot {what}: {text}; the GPU has to be in confidential-computing mode, inside a confidential VM"
            )
