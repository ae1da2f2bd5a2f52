"""The part of an appraisal policy that is about hardware. Data: the table `hardware` of the policy's TOML file.

[hardware]
require = ["tpm"]                    # platforms whose evidence has to be there
makers = ["sha256:..."]              # keys of those who may have collected the capsule
max_age_days = 30                    # of the capsule
stale = "refuse"                     # or "as-of-capsule": judge as of when it was made, and say so
[hardware.roots]                     # SHA-256 of vendors' root certificates, DER, by what they vouch for
sev-snp = ["sha256:..."]
[hardware.sev-snp]                   # what is required of that platform; one without a table is refused
measurements = ["..."]
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attest import canonical
from attest.azure import Policy as AzurePolicy
from attest.canonical import JSON, Model
from attest.digest import Digest
from attest.manifest import Platform
from attest.nitro import Policy as NitroPolicy
from attest.nvgpu import Policy as GpuPolicy
from attest.sevsnp import Policy as SnpPolicy
from attest.tdx import Policy as TdxPolicy
from attest.tpm import Policy as TpmPolicy

Subject = Platform | Literal["tpm-software", "nvidia-gpu-rim"]
"""What a root vouches for: a platform's hardware; TPMs that are programs; NVIDIA's reference manifests."""


class Hardware(Model):
    """What a relying party requires of hardware. What is left out is refused."""

    require: tuple[Platform, ...] = Field(default=(), max_length=8)
    """Platforms whose evidence has to be there."""
    makers: tuple[Digest, ...] = Field(default=(), max_length=100)
    """Keys of those who may have made the capsule."""
    max_age_days: int = Field(default=30, ge=0, le=36500)
    """How old the capsule may be."""
    stale: Literal["refuse", "as-of-capsule"] = "refuse"
    """What to do where collateral has expired: refuse, or judge as of when the capsule was made, and record that."""
    unsafe_unbound: bool = False
    """Accept evidence although nobody said what it has to be bound to."""
    roots: dict[Subject, tuple[Digest, ...]] = Field(default_factory=dict)
    """Vendors' root certificates that are trusted, by what they vouch for: a capsule cannot say that."""
    tpm: TpmPolicy | None = None
    """What is required of a TPM."""
    sev_snp: SnpPolicy | None = Field(default=None, alias="sev-snp")
    """What is required of a guest on SEV-SNP."""
    tdx: TdxPolicy | None = None
    """What is required of a trust domain."""
    nitro: NitroPolicy | None = None
    """What is required of a Nitro enclave."""
    azure: AzurePolicy | None = None
    """What is required of a confidential VM on Azure."""
    nvidia_gpu: GpuPolicy | None = Field(default=None, alias="nvidia-gpu")
    """What is required of GPUs."""

    def trusted(self, subject: Subject) -> frozenset[str]:
        """The fingerprints of the roots that may vouch for this."""
        return frozenset(self.roots.get(subject, ()))


def read(value: JSON) -> Hardware:
    """The table `hardware`. Intel's part takes its roots from the table `roots`. Raises `MalformedInput`."""
    if isinstance(value, dict) and isinstance(value.get("roots"), dict):
        roots = {"roots": value["roots"].get("tdx", [])}
        azure = value.get("azure")
        if isinstance(azure, dict) and isinstance(azure.get("tdx"), dict):
            value = value | {"azure": azure | {"tdx": roots | azure["tdx"]}}
        if isinstance(value.get("tdx"), dict):
            value = value | {"tdx": roots | value["tdx"]}
    return canonical.validate(Hardware, value, "hardware")
