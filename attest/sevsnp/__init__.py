"""AMD SEV-SNP: what a report proves, from its bytes to a verdict.

    authenticated = authenticate(evidence, endorsements, roots=roots, now=now)
    lines = appraise(claims(authenticated), policy)

Proven: firmware of a genuine AMD chip, of the versions named, launched a guest whose first memory has the measurement
named, under the guest policy named, and code in it had `report_data` bound. Not proven: what the guest did after its
launch (the measurement covers firmware, and kernel, initrd and command line only where they are measured with it);
that nobody opens the machine, probes its memory bus or its supply (SEV-SNP does not protect against that, and the RAM's
integrity rests on the host's set-up); that no fault unknown to the minimum versions exists; that AMD will not revoke
a key later. A VLEK proves less: its provider, not one chip, is named.

`layout`, `idblock`, `table` and `certificates` read bytes; `chain` and `authenticate` check who made them; `claims`
tells what they say; `policy` compares.
"""

from attest.sevsnp.authenticate import Authenticated, authenticate
from attest.sevsnp.claims import Claims, claims
from attest.sevsnp.evidence import Endorsements, Evidence
from attest.sevsnp.policy import Policy, appraise

__all__ = ["Authenticated", "Claims", "Endorsements", "Evidence", "Policy", "appraise", "authenticate", "claims"]
