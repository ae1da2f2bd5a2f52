"""Confidential VMs on Azure: a vTPM whose attestation key the hardware (SEV-SNP or TDX) vouches for.

Proven: genuine hardware measured Microsoft's paravisor; the paravisor named the vTPM's attestation key; the key signed
these registers under this nonce. Not proven: what the paravisor does. It is Microsoft's, it holds the vTPM's state and
can sign any registers: whoever does not trust its measurement in the hardware's policy trusts Microsoft. The vTPM is
software inside the confidential VM, no chip. And all that `attest.sevsnp` and `attest.tdx` do not prove.
"""

from attest.azure.authenticate import Authenticated, authenticate
from attest.azure.claims import Claims, claims
from attest.azure.evidence import Endorsements, Evidence
from attest.azure.policy import Policy, appraise

__all__ = ["Authenticated", "Claims", "Endorsements", "Evidence", "Policy", "appraise", "authenticate", "claims"]
