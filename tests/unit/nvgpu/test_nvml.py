"""The attester over NVML: against a library that fills the driver's structures with evidence that is really signed."""

import ctypes

import pytest

from appliance.attester import nvgpu as attester
from attest import nvgpu
from attest.errors import EnvironmentProblem
from tests.fakes.authority import NOW
from tests.fakes.nvgpu import NONCE, Gpu, Maker, device_chain

MAKER = Maker(gpus=[Gpu(), Gpu(chain=device_chain("GH100 other"))])


class Text:
    """`nvmlErrorString`, whose type of result is set as on a real function."""

    restype: object = None

    def __call__(self, code: ctypes.c_int) -> bytes | None:
        return {3: b"Not Supported"}.get(code.value)


class Library:
    """NVML with two GPUs; `codes` makes functions fail."""

    def __init__(self, gpus: list[Gpu] | None = None, **codes: int) -> None:
        self.gpus, self.codes = MAKER.gpus if gpus is None else gpus, codes
        self.calls: list[str] = []
        self.nvmlErrorString = Text()

    def done(self, name: str) -> int:
        self.calls.append(name)
        return self.codes.get(name, 0)

    def nvmlInit_v2(self) -> int:
        return self.done("init")

    def nvmlShutdown(self) -> int:
        return self.done("shutdown")

    def nvmlDeviceGetCount_v2(self, count: object) -> int:
        count._obj.value = len(self.gpus)  # type: ignore[attr-defined]
        return self.done("count")

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: object) -> int:
        handle._obj.value = index.value + 1  # type: ignore[attr-defined]
        return self.done("handle")

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, handle: ctypes.c_void_p, report: object) -> int:
        structure = report._obj  # type: ignore[attr-defined]
        data = self.gpus[(handle.value or 0) - 1].evidence(bytes(structure.nonce)).report
        structure.report_bytes = len(data)
        structure.report[: len(data)] = data
        return self.done("report")

    def nvmlDeviceGetConfComputeGpuCertificate(self, handle: ctypes.c_void_p, certificates: object) -> int:
        structure = certificates._obj  # type: ignore[attr-defined]
        data = self.gpus[(handle.value or 0) - 1].pem()
        structure.attestation_chain_bytes = len(data)
        structure.attestation_chain[: len(data)] = data
        return self.done("certificates")


def test_evidence_of_two_gpus_is_accepted() -> None:
    library = Library()
    evidence = attester.Nvml(library).evidence(NONCE)
    found = nvgpu.authenticate_all(evidence, MAKER.endorsements(), now=NOW)
    assert [item.report.nonce for item in found] == [NONCE, NONCE]
    assert library.calls[0] == "init"
    assert library.calls[-1] == "shutdown"


def test_the_structures_have_the_drivers_sizes() -> None:
    assert ctypes.sizeof(attester.Report) == 12 + 32 + 0x2000 + 0x1000
    assert ctypes.sizeof(attester.Certificates) == 8 + 0x1000 + 0x1400


@pytest.mark.parametrize(
    ("function", "what"),
    [
        ("init", "start the driver's library"),
        ("count", "count the GPUs"),
        ("handle", "open GPU 0"),
        ("report", "get a report of GPU 0"),
        ("certificates", "get the certificates of GPU 0"),
    ],
)
def test_a_driver_that_refuses(function: str, what: str) -> None:
    library = Library(**{function: 3})
    with pytest.raises(EnvironmentProblem, match=f"cannot {what}: Not Supported; .*confidential"):
        attester.Nvml(library).evidence(NONCE)
    assert ("shutdown" in library.calls) == (function != "init")
    with pytest.raises(EnvironmentProblem, match="unknown error"):
        attester.Nvml(Library(**{function: 999})).evidence(NONCE)


def test_no_gpu() -> None:
    with pytest.raises(EnvironmentProblem, match="no NVIDIA GPU"):
        attester.Nvml(Library(gpus=[])).evidence(NONCE)


def test_no_driver_or_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attester, "LIBRARY", "libnvidia-ml-absent.so.1")
    for library in (None, object()):
        with pytest.raises(EnvironmentProblem, match="no NVIDIA driver"):
            attester.Nvml(library)


def test_a_nonce_of_another_size() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        attester.Nvml(Library()).evidence(b"short")
