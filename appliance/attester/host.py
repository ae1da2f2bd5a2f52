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
from typing import TYPE_CHECKING, Final, Literal, get_args

from appliance.attester import azure, configfs, machine, nsm, nvgpu, sevsnp, tdx
from appliance.attester import tpm_commands as commands
from appliance.attester.machine import MachineAttester
from appliance.enclave import tpm_device
from attest import canonical, tpm
from attest.appraise import items
from attest.appraise.items import Gpu, Gpus, Nitro, Tdx
from attest.errors import EnvironmentProblem, MalformedInput
from attest.files import read_file
from attest.manifest import Platform

if TYPE_CHECKING:
    from appliance.enclave.tpm_device import Tpm
    from attest.canonical import JSON, Model
    from attest.eventlog import EventLog

REPORT_DATA: Final = 64
MAX_BYTES: Final = 1 << 20
"""Of a file that is given."""
GUESTS: Final[dict[str, Platform]] = {"dev/sev-guest": "sev-snp", "dev/tdx_guest": "tdx", "dev/nsm": "nitro"}
"""Devices that only a guest of that platform has."""

Choice = Platform | Literal["auto"]
CHOICES: Final[tuple[Choice, ...]] = ("auto", *get_args(Platform))
"""What can be asked for; `auto` stands for all that the host has."""

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

    def __init__(self, sources: Sequence[Source], told: MachineAttester | None = None) -> None:
        self._sources, self._told = tuple(sources), told
        self.before = told.before if told else None
        """What the TPM's application register held before the run; None without a TPM."""

    def admit(self, name: str, version: int) -> None:
        """Have the TPM, where there is one, refuse the lock of an older run of the job `name`."""
        if self._told:
            self._told.admit(name, version)

    def start(self, log: EventLog, job: str, extra: bytes) -> tuple[dict[str, JSON], ...]:
        """Tell the TPM boot and job; evidence of all."""
        return (*(self._told.start(log, job, extra) if self._told else ()), *self._items(extra))

    def end(self, results: str, extra: bytes) -> tuple[dict[str, JSON], ...]:
        """Tell the TPM the results; evidence of all."""
        return (*(self._told.end(results, extra) if self._told else ()), *self._items(extra))

    def _items(self, extra: bytes) -> tuple[dict[str, JSON], ...]:
        return tuple(source(extra).model_dump(mode="json", exclude_none=True) for source in self._sources)


def found(devices: Devices, root: Path = Path("/")) -> tuple[Platform, ...]:
    """The platforms that this host has evidence of, by its devices. GPUs have to be named: most cannot give any."""
    platforms = [platform for device, platform in GUESTS.items() if (root / device).exists()]
    try:
        device = devices.tpm()
    except EnvironmentProblem:
        return tuple(platforms)
    with device:
        try:
            commands.nv_public(device, azure.REPORT)
        except EnvironmentProblem:
            return (*platforms, "tpm")
    return (*platforms, "azure")


@contextlib.contextmanager
def opened(platforms: Collection[Platform], devices: Devices, given: Given) -> Iterator[HostAttester]:
    """The attester of these platforms. Raises `EnvironmentProblem` for none, or one that is not here."""
    if not platforms:
        raise EnvironmentProblem("no hardware here speaks for a run: `appliance doctor` says what there could be")
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(devices.tpm()) if {"tpm", "azure"} & set(platforms) else None
        sources = [source(name, device, devices, given) for name in dict.fromkeys(platforms) if name != "tpm"]
        told = None
        if device is not None and "tpm" in platforms:
            told = MachineAttester(device, devices.event_log, key_certificate=given.key_certificate)
        yield HostAttester(sources, told)


def read_choice(text: str) -> tuple[Choice, ...]:
    """What is asked for in `text`, by names between commas; nothing where it is empty. Raises `MalformedInput`."""
    names = [name.strip() for name in text.split(",")] if text else []
    if unknown := [name for name in names if name not in CHOICES]:
        raise MalformedInput("attester", f"expected some of {', '.join(CHOICES)}, found {unknown[0][:40]!r}")
    return tuple(choice for name in names for choice in CHOICES if choice == name)


@contextlib.contextmanager
def chosen(names: Collection[Choice], given: Given, devices: Devices | None = None) -> Iterator[HostAttester | None]:
    """The attester of what was asked for: `auto` stands for all that this host has; None where nothing was asked for.

    Raises `EnvironmentProblem` for what is not here: a run for which hardware was to speak does not go on without it.
    """
    if not names:
        yield None
        return
    devices = devices or Devices()
    platforms = [platform for name in names for platform in (found(devices) if name == "auto" else (name,))]
    with opened(platforms, devices, given) as attester:
        yield attester


def read_given(vcek: Path | None, td_quote: Path | None, key_certificate: Path | None) -> Given:
    """What lies in these files: a certificate (PEM or DER), a quote, JSON. Raises `MalformedInput`."""
    certificate = None
    if key_certificate is not None:
        data = read_file(key_certificate, MAX_BYTES)
        parsed = canonical.parse(tpm.KeyCertificate, data, str(key_certificate))
        certificate = parsed.model_dump(mode="json", exclude_none=True)
    return Given(
        vcek=items.der(read_file(vcek, MAX_BYTES)) if vcek else None,
        td_quote=read_file(td_quote, MAX_BYTES) if td_quote else None,
        key_certificate=certificate,
    )


def source(platform: Platform, device: Tpm | None, devices: Devices, given: Given) -> Source:
    """What gives evidence of this platform, any but a TPM; `device`: the vTPM, on Azure."""

    def sev_snp(extra: bytes) -> Model:
        return sevsnp.report(extra.ljust(REPORT_DATA, b"\0"), requests=devices.reports, certificate=given.vcek)

    def domain(extra: bytes) -> Model:
        bound = extra.ljust(REPORT_DATA, b"\0")
        evidence = tdx.quote(bound, requests=devices.reports, event_log=devices.ccel)
        return Tdx(quote=evidence.quote, event_log=evidence.event_log)

    def nitro(extra: bytes) -> Model:
        return Nitro(document=nsm.attest(devices.module, user_data=extra))

    def azures(extra: bytes) -> Model:
        if device is None:
            raise RuntimeError("Azure's evidence takes its vTPM")
        return azure.report(device, extra, certificate=given.vcek, td_quote=given.td_quote)

    def gpus(extra: bytes) -> Model:
        each = devices.gpus().evidence(extra)
        return Gpus(gpus=tuple(Gpu(report=gpu.report, certificates=gpu.certificates) for gpu in each))

    sources: dict[Platform, Source] = {
        "sev-snp": sev_snp, "tdx": domain, "nitro": nitro, "azure": azures, "nvidia-gpu": gpus,
    }  # fmt: skip
    return sources[platform]
