"""Devices that a wall or its evidence needs, each tried: KVM, a TPM, and what confidential VMs bring."""

from __future__ import annotations

import os
import select
import struct
import sys
from pathlib import Path

from appliance.enclave import kvm, runtimes
from appliance.enclave.finding import Finding, Need, missing, ok, unusable

TPM = Path("/dev/tpmrm0")
TPM_TIMEOUT_S = 1.0
TSM_REPORTS = Path("/sys/kernel/config/tsm/report")
GUEST_DEVICES = {"sev-guest": Path("/dev/sev-guest"), "tdx-guest": Path("/dev/tdx_guest")}
HOST_SWITCHES = {
    "AMD SEV-SNP": Path("/sys/module/kvm_amd/parameters/sev_snp"),
    "Intel TDX": Path("/sys/module/kvm_intel/parameters/tdx"),
}
CPU_FLAGS = {"AMD SEV-SNP": "sev_snp", "Intel TDX": "tdx_host_platform"}

# TPM 2.0 Library, Part 3: TPM2_GetRandom without sessions, 8 bytes. It changes nothing in the TPM.
TPM_ST_NO_SESSIONS, TPM_CC_GET_RANDOM, RANDOM_BYTES = 0x8001, 0x17B, 8
GET_RANDOM = struct.pack(">HIIH", TPM_ST_NO_SESSIONS, 12, TPM_CC_GET_RANDOM, RANDOM_BYTES)
HARDWARE: tuple[Need, ...] = ("attestation",)


def virtual_machines() -> Finding:
    """KVM, by running a guest."""
    identifier, name = "kvm", "KVM"
    needed: tuple[Need, ...] = ("vm",)
    slow = "Without it VMs are emulated: the same results, 75 to 170 times slower."
    device = Path(kvm.DEVICE)
    if not device.exists():
        advice = f"{slow} Switch (nested) virtualization on in the firmware, then modprobe kvm_intel or kvm_amd"
        return missing(identifier, name, "no /dev/kvm", needed, advice)
    if not os.access(device, os.R_OK | os.W_OK):
        return unusable(identifier, name, "no access", needed, f"{slow} Join its group: usermod -aG kvm USER")
    done = runtimes.run([sys.executable, "-I", "-S", kvm.__file__])
    if done.status != 0:
        advice = f"{slow} This host has the device and cannot run guests with it: see to its nested virtualization"
        return unusable(identifier, name, done.words, needed, advice)
    return ok(identifier, name, done.words, needed)


def tpm() -> Finding:
    """The host's TPM, by asking it for random bytes."""
    identifier, name = "tpm", "TPM 2.0"
    without = "Without it a bundle has no evidence of the host's boot; the measured VM brings a software TPM."
    if not TPM.exists():
        return missing(identifier, name, f"no {TPM}", HARDWARE, f"{without} Switch the TPM on in the firmware")
    try:
        fd = os.open(TPM, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        advice = f"{without} Join its group: usermod -aG tss USER"
        return unusable(identifier, name, f"{TPM}: {error.strerror}", HARDWARE, advice)
    try:
        problem = ask(fd)
    finally:
        os.close(fd)
    if problem:
        return unusable(identifier, name, problem, HARDWARE, f"{without} See to its response code, or the kernel's log")
    return ok(identifier, name, f"{TPM} answers", HARDWARE)


def ask(fd: int) -> str:
    """Ask the TPM behind `fd` for random bytes: what went wrong, empty where nothing did."""
    try:
        os.write(fd, GET_RANDOM)
        arrived = select.select([fd], [], [], TPM_TIMEOUT_S)[0]
        answer = os.read(fd, 4096) if arrived else b""
    except OSError as error:
        return error.strerror or str(error)
    if len(answer) > 10 and struct.unpack_from(">HII", answer)[2] == 0:
        return ""
    return f"it answered TPM2_GetRandom with {answer[:10].hex() or 'nothing'}"


def confidential_guest() -> Finding:
    """Whether this is a confidential VM that can have its launch attested."""
    identifier, name = "confidential-guest", "evidence of a confidential VM"
    devices = [name for name, path in GUEST_DEVICES.items() if path.exists()]
    if TSM_REPORTS.is_dir() and os.access(TSM_REPORTS, os.W_OK):
        return ok(identifier, name, f"configfs-tsm, {' '.join(devices) or 'no device'}", HARDWARE)
    if devices or TSM_REPORTS.is_dir():
        advice = (
            "Reports are asked for through configfs-tsm, as root: mount -t configfs none /sys/kernel/config, modprobe "
            "sev-guest or tdx-guest, Linux 6.7 or newer"
        )
        return unusable(identifier, name, " ".join(devices) or str(TSM_REPORTS), HARDWARE, advice)
    advice = "Without it no processor speaks for the bundle: start the appliance in an SEV-SNP or TDX guest"
    return missing(identifier, name, "neither configfs-tsm nor a guest device", HARDWARE, advice)


def attester() -> Finding:
    """What of this host speaks for a run with `appliance run --attester auto`."""
    from appliance.attester import host  # brings every platform's package

    identifier, name = "attester", "hardware that speaks for a run"
    platforms = host.found(host.Devices())
    if platforms:
        return ok(identifier, name, f"appliance run --attester {','.join(platforms)}", HARDWARE)
    advice = "Without it a bundle is measured, not quoted: run with --wall vm for a software TPM, or on such a machine"
    return missing(identifier, name, "neither TPM nor confidential guest", HARDWARE, advice)


def confidential_host(cpuinfo: str) -> Finding:
    """Whether confidential VMs can be started here."""
    identifier, name = "confidential-host", "confidential VMs"
    needed: tuple[Need, ...] = ("vm", "attestation")
    on = [kind for kind, switch in HOST_SWITCHES.items() if _reads_yes(switch)]
    if on:
        return ok(identifier, name, f"{', '.join(on)} is on", needed)
    words = set(cpuinfo.split())
    able = [kind for kind, flag in CPU_FLAGS.items() if flag in words]
    if able:
        advice = "Switch it on in the firmware and for KVM: kvm_amd.sev_snp=1 or kvm_intel.tdx=1 on the command line"
        return unusable(identifier, name, f"the processor knows {', '.join(able)}, KVM does not use it", needed, advice)
    advice = "A measured VM runs here without a processor that speaks for it: that takes AMD SEV-SNP or Intel TDX"
    return missing(identifier, name, "neither SEV-SNP nor TDX", needed, advice)


def _reads_yes(switch: Path) -> bool:
    try:
        return switch.read_text("ascii").strip() in ("Y", "1")
    except (OSError, UnicodeDecodeError):
        return False
