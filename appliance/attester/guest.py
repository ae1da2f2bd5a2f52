"""The processor under the measured machine speaks beside its TPM, where it is one that can: AMD SEV-SNP or Intel TDX.

The kernel says so, by configfs-tsm. Then its report is part of the run's evidence, at the start and at the end, and a
run for which it cannot be had ends. The machine asks for it by itself: whoever starts it chooses the hardware, and not
what the hardware says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.attester import configfs
from attest.errors import EnvironmentProblem

if TYPE_CHECKING:
    from appliance.attester.configfs import Requests
    from appliance.attester.machine import MachineAttester
    from appliance.attester.protocol import Attester
    from attest.manifest import Platform

PROVIDERS: dict[str, Platform] = {"sev_guest": "sev-snp", "tdx_guest": "tdx"}
"""What the kernel calls the platforms."""


def beside(told: MachineAttester, requests: Requests | None = None) -> Attester:
    """The attester of a measured machine: its TPM, `told` the run, and what `requests` are answered by.

    Raises `EnvironmentProblem` for a platform that is not known here.
    """
    requests = requests or configfs.Folder()
    found = configfs.provider(requests)
    if found is None:
        return told
    if found not in PROVIDERS:
        raise EnvironmentProblem(f"configfs-tsm: expected one of {', '.join(PROVIDERS)}, found {found[:80]!r}")
    from appliance.attester import host  # brings every platform's package

    devices = host.Devices(reports=requests)
    return host.HostAttester([host.source(PROVIDERS[found], None, devices, host.Given())], told)
