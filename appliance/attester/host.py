"""The hardware of this host that speaks for a run: what there is of it, and what was chosen of it as one `Attester`.

A TPM is told the run, and quotes its registers with what is to be bound. The others bear that as report data (SEV-SNP,
TDX: 64 bytes, zeros behind it), user data (Nitro) or nonce (Azure's vTPM, GPUs). Whether any of it is genuine is for
whoever appraises the bundle.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance.attester import azure, configfs, machine, nsm, nvgpu, sevsnp, tdx
from appliance.attester import tpm_commands as commands
from appliance.attester.machine import MachineAttester
from appliance.enclave import tpm_device
from attest.appraise.items import Gpu, Gpus, Nitro, Tdx
from attest.errors import EnvironmentProblem
from attest.manifest import Platform

if TYPE_CHECKING:
    from appliance.enclave.tpm_device import Tpm
    from attest.canonical import JSON, Model
    from attest.eventlog import EventLog

REPORT_DATA: Final = 64
GUESTS: Final[dict[str, Platform]] = {"dev/sev-guest": "sev-snp", "dev/tdx_guest": "tdx", "dev/nsm": "nitro"}
"""Devices that only a guest of that platform has."""

Source = Callable[[bytes], "Model"]
"""Evidence of one platform that bears these 32 bytes."""


@dataclass(frozen=True)
class Devices:
    """By what the hardware is asked; tests give their own."""

    tpm: Callable[[], Tpm] = tpm_device.open_device
    """Opens the TPM."""
    reports: configfs.Requests = field(default_factory=configfs.Folder)
    """The kernel's requests for reports of SEV-SNP and TDX."""
    module: nsm.Module = field(default_factory=nsm.Device)
    """The security module of a Nitro enclave."""
    gpus: Callable[[], nvgpu.Gpus] = nvgpu.Nvml
    """Opens NVIDIA's driver."""
    event_log: Path = machine.EVENT_LOG
    """The firmware's log of a TPM."""
    ccel: Path = tdx.EVENT_LOG
    """The firmware's log of a trust domain."""


@dataclass(frozen=True)
class Given:
    """What vendors and notaries say of this machine, and the machine does not hold."""

    vcek: bytes | None = None
    """The certificate of the chip's key, DER: on Azure, and where a host of SEV-SNP hands out none."""
    td_quote: bytes | None = None
    """On Azure with TDX, the quote of the paravisor's report."""
    key_certificate: dict[str, JSON] | None = None
    """Of the TPM's attestation key (`attest.tpm.KeyCertificate`)."""


class HostAttester:
    """An `Attester` by all that was chosen: a TPM's evidence first, then the others' in the order given."""

    def __init__(self, sources: Sequence[Source], tpm: MachineAttester | None = None) -> None:
        self._sources, self._tpm = tuple(sources), tpm
        self.before = tpm.before if tpm else None
        """What the TPM's application register held before the run; None without a TPM."""

    def start(self, log: EventLog, job: str, extra: bytes) -> tuple[dict[str, JSON], ...]:
        """Tell the TPM boot and job; evidence of all."""
        return (*(self._tpm.start(log, job, extra) if self._tpm else ()), *self._items(extra))

    def end(self, results: str, extra: bytes) -> tuple[dict[str, JSON], ...]:
        """Tell the TPM the results; evidence of all."""
        return (*(self._tpm.end(results, extra) if self._tpm else ()), *self._items(extra))

    def _items(self, extra: bytes) -> tuple[dict[str, JSON], ...]:
        return tuple(source(extra).model_dump(mode="json", exclude_none=True) for source in self._sources)


def found(devices: Devices, root: Path = Path("/")) -> tuple[Platform, ...]:
    """The platforms that this host has evidence of, by its devices. GPUs have to be named: most cannot give any."""
    platforms = [platform for device, platform in GUESTS.items() if (root / device).exists()]
    try:
        opened_tpm = devices.tpm()
    except EnvironmentProblem:
        return tuple(platforms)
    with opened_tpm as tpm:
        try:
            commands.nv_public(tpm, azure.REPORT)
        except EnvironmentProblem:
            return (*platforms, "tpm")
    return (*platforms, "azure")


@contextlib.contextmanager
def opened(chosen: Collection[Platform], devices: Devices, given: Given) -> Iterator[HostAttester]:
    """The attester of the `chosen` platforms. Raises `EnvironmentProblem` for none, or one that is not here."""
    if not chosen:
        raise EnvironmentProblem("no hardware here speaks for a run: `appliance doctor` says what there could be")
    with contextlib.ExitStack() as stack:
        tpm = stack.enter_context(devices.tpm()) if {"tpm", "azure"} & set(chosen) else None
        sources = [_source(platform, tpm, devices, given) for platform in dict.fromkeys(chosen) if platform != "tpm"]
        told = None
        if tpm is not None and "tpm" in chosen:
            told = MachineAttester(tpm, devices.event_log, key_certificate=given.key_certificate)
        yield HostAttester(sources, told)


def _source(platform: Platform, tpm: Tpm | None, devices: Devices, given: Given) -> Source:
    def sev_snp(extra: bytes) -> Model:
        return sevsnp.report(extra.ljust(REPORT_DATA, b"\0"), requests=devices.reports, certificate=given.vcek)

    def domain(extra: bytes) -> Model:
        bound = extra.ljust(REPORT_DATA, b"\0")
        evidence = tdx.quote(bound, requests=devices.reports, event_log=devices.ccel)
        return Tdx(quote=evidence.quote, event_log=evidence.event_log)

    def nitro(extra: bytes) -> Model:
        return Nitro(document=nsm.attest(devices.module, user_data=extra))

    def azures(extra: bytes) -> Model:
        if tpm is None:
            raise RuntimeError("Azure's evidence takes its vTPM")
        return azure.report(tpm, extra, certificate=given.vcek, td_quote=given.td_quote)

    def gpus(extra: bytes) -> Model:
        each = devices.gpus().evidence(extra)
        return Gpus(gpus=tuple(Gpu(report=gpu.report, certificates=gpu.certificates) for gpu in each))

    sources: dict[Platform, Source] = {
        "sev-snp": sev_snp, "tdx": domain, "nitro": nitro, "azure": azures, "nvidia-gpu": gpus,
    }  # fmt: skip
    return sources[platform]
