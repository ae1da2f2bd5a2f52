"""What authenticated evidence of a confidential VM on Azure says, in a form that can be recorded and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import StringConstraints

from attest import sevsnp, tdx
from attest.azure.authenticate import Authenticated
from attest.canonical import Model
from attest.digest import Hex32
from attest.tdx import IntelClaims

Measured = Annotated[str, StringConstraints(pattern=r"^sha256:(0|[1-9]|1[0-9]|2[0-3])$")]
"""A register of the SHA-256 bank, as in `attest.tpm`: `sha256:11`."""


class Claims(Model):
    """The claims of one quote and of what vouches for it. Satisfies `attest.appraisal.Claims`."""

    platform: Literal["azure-sev-snp", "azure-tdx"]
    """Which platform the evidence is of."""
    bound: str
    """The quote's nonce: hexadecimal digits."""
    measurements: Mapping[Measured, Hex32]
    """The vTPM's registers: what was booted. What booted the vTPM is in the hardware's claims."""
    debug: bool
    """Whether the host may look into the machine, by its hardware settings."""
    sev_snp: sevsnp.Claims | None = None
    """What SEV-SNP says of the paravisor; its `bound` is the digest of the runtime claims."""
    tdx: IntelClaims | None = None
    """What TDX says of the paravisor, likewise."""
    secure_boot: bool
    """Whether the firmware starts only signed boot loaders."""
    console: bool
    """Whether there is a serial console, which the host can type into."""
    vm_id: str
    """Azure's name of the machine."""
    user_data: str
    """64 bytes that the guest chose when the report was made: hexadecimal digits."""
    skipped: tuple[str, ...]
    """What authentication did not look at, a sentence each."""


def claims(authenticated: Authenticated) -> Claims:
    """What `authenticated` says."""
    hardware, runtime = authenticated.hardware, authenticated.hcl.runtime
    snp = sevsnp.claims(hardware) if isinstance(hardware, sevsnp.Authenticated) else None
    intel = tdx.claims(hardware) if isinstance(hardware, tdx.Authenticated) else None
    return Claims(
        platform="azure-sev-snp" if snp else "azure-tdx",
        bound=authenticated.nonce.hex(),
        measurements={f"sha256:{register}": value.hex() for register, value in authenticated.registers.items()},
        debug=any(said.debug for said in (snp, intel) if said is not None),
        sev_snp=snp,
        tdx=intel,
        secure_boot=runtime.configuration.secure_boot,
        console=runtime.configuration.console_enabled,
        vm_id=runtime.configuration.vm_id,
        user_data=runtime.user_data.lower(),
        skipped=hardware.skipped,
    )
