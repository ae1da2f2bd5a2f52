"""AWS Nitro Enclaves: attestation documents of the Nitro Security Module.

Proven by `authenticate`: AWS's hypervisor signed this document for an enclave with these registers, user data, nonce
and public key. Not proven: that the registers are those of an image anybody knows (`policy`), that the enclave's code
does what it says, that no key of AWS was revoked or leaked later, that AWS itself is honest: it runs the hypervisor.
"""

from attest.nitro.authenticate import Authenticated, Endorsements, authenticate
from attest.nitro.claims import Claims, claims
from attest.nitro.policy import Policy, appraise

__all__ = ["Authenticated", "Claims", "Endorsements", "Policy", "appraise", "authenticate", "claims"]
