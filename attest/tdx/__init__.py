"""Intel TDX: quotes of trust domains (versions 4 and 5), and of SGX enclaves (version 3), judged offline.

What is proven, once `authenticate` returns and every line of `appraise` holds: a processor that Intel certified, at a
level of firmware, TDX module and quoting enclave that Intel says something of, ran a domain (enclave) with exactly
these measurements, and that domain had `bound` put into its report. With an event log that replays, also what was
measured into the runtime registers, as far as `explained` says.

What is not proven: that nobody has physical access to the machine (interposers on the memory bus have extracted
attestation keys from it), that the platform was not revoked, or found flawed, after the collateral was made; that the
code which was measured is any good; that the quote is fresh, unless the caller compares `bound`; anything about side
channels; and, for registers which no event log explains, what was measured into them.

    authenticated = authenticate(quote, endorsements, now=now)
    lines = appraise(claims(authenticated, eventlog.parse(ccel)), policy)
"""

from __future__ import annotations

from attest.tdx import eventlog
from attest.tdx.authenticate import Authenticated, Standing, authenticate
from attest.tdx.claims import IntelClaims, TcbClaims, claims
from attest.tdx.collateral import Endorsements, Signed, signed
from attest.tdx.layout import Domain, Enclave, Quote, parse
from attest.tdx.policy import Policy, appraise

__all__ = [
    "Authenticated",
    "Domain",
    "Enclave",
    "Endorsements",
    "IntelClaims",
    "Policy",
    "Quote",
    "Signed",
    "Standing",
    "TcbClaims",
    "appraise",
    "authenticate",
    "claims",
    "eventlog",
    "parse",
    "signed",
]
