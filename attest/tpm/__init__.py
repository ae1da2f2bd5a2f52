"""Evidence of a TPM 2.0: quotes of its registers, the logs that explain them, and who vouches for the TPM.

Proven by `authenticate`, with the roots, the nonce and the time that the caller gives: a key that signs only what its
TPM says signed these register values under this nonce; a log replays to them; a counter stood at a value. With an
endorsement certificate and an answered challenge, or with a certificate of the key: the key lies in a TPM of that
manufacturer. `claims` says it as data, `appraise` compares it with a policy.

Not proven:

- that a TPM which is a program (`kind` is `software`, or `unknown`) is not run by an attacker: who runs it can make it
  sign anything;
- that the processor runs what was measured: a chip on a bus can be reset, or its bus be listened to and written to, by
  whoever can open the machine; and firmware measures itself;
- what ran after a measurement: a program that was measured and then taken over keeps its measurement;
- that a certificate was not taken back after the revocation list that was looked at;
- with a certificate of the key: that the key has the attributes beside it; that is its issuer's word, while a challenge
  covers them;
- what an event says where it is a hint (paths, names): only its digest was measured.
"""

from attest.tpm.authenticate import Activation, Authenticated, Vouched, authenticate
from attest.tpm.chain import Endorsements, Identity, Root
from attest.tpm.claims import Claims, claims
from attest.tpm.credential import Challenge, Expected, challenge
from attest.tpm.evidence import Endorsement, Evidence, Index, KeyCertificate, Signed
from attest.tpm.policy import Policy, appraise

__all__ = [
    "Activation",
    "Authenticated",
    "Challenge",
    "Claims",
    "Endorsement",
    "Endorsements",
    "Evidence",
    "Expected",
    "Identity",
    "Index",
    "KeyCertificate",
    "Policy",
    "Root",
    "Signed",
    "Vouched",
    "appraise",
    "authenticate",
    "challenge",
    "claims",
]
