"""What a lab hands out: its Sigstore trusted root, the client configuration around it, and a page for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attest import canonical
from attest.canonical import JSON
from attest.checkpoint import TrustedLog
from attest.digest import digest_of
from attest.dsse import b64encode
from attest.profile import identity_uri, issuer_uri
from attest.trust import CONFIG_MEDIA_TYPE, MEDIA_TYPE, SIGNING_CONFIG_MEDIA_TYPE

Chain = Sequence[x509.Certificate]


def trusted_root(
    lab: str, *, log: TrustedLog, ctlog: TrustedLog, authority: Chain, timestamper: Chain, start: datetime
) -> bytes:
    """`trusted_root.json` (v0.1) in canonical JSON. Everything in it is valid from `start` on."""
    valid = {"start": start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}

    def of_log(log: TrustedLog) -> JSON:
        return {
            "baseUrl": f"https://{log.name}",
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": b64encode(log.public_key_der),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": valid,
            },
            "logId": {"keyId": b64encode(log.key_id)},
        }

    def of_chain(chain: Chain, role: str, title: str) -> JSON:
        ders = [certificate.public_bytes(serialization.Encoding.DER) for certificate in chain]
        return {
            "subject": {"organization": lab, "commonName": title},
            "uri": f"https://{role}.{lab}",
            "certChain": {"certificates": [{"rawBytes": b64encode(der)} for der in ders]},
            "validFor": valid,
        }

    return canonical.dumps(
        {
            "mediaType": MEDIA_TYPE,
            "tlogs": [of_log(log)],
            "certificateAuthorities": [of_chain(authority, "ca", "Signing Authority")],
            "ctlogs": [of_log(ctlog)],
            "timestampAuthorities": [of_chain(timestamper, "tsa", "Timestamp Authority")],
        }
    )


def trust_config(root: bytes) -> bytes:
    """`trust_config.json`, which the command line of sigstore-python takes: the trusted root, and no services."""
    config = {
        "mediaType": CONFIG_MEDIA_TYPE,
        "trustedRoot": canonical.loads(root, "trust root"),
        "signingConfig": {"mediaType": SIGNING_CONFIG_MEDIA_TYPE},
    }
    return canonical.dumps(config)


def readme(lab: str, root: bytes) -> bytes:
    """`README.txt`: what the files are, and how stock tools use them."""
    identity, issuer = identity_uri(lab, "MEASUREMENT"), issuer_uri(lab)
    return f"""What this lab hands out
=======================

trusted_root.json   the lab's Sigstore trusted root: certificate authority, certificate log, transparency log,
                    timestamp authority. {digest_of(root)}
trust_config.json   the same inside a client trust configuration, for the command line of sigstore-python

Get these from the lab once, over a way that you trust, and compare the digest above by another way. Whoever can
replace them can replace every signature under them. They hold no secret.

Our own verifier (checks the results as well, not only the signature):

  attest verify BUNDLE_FOLDER --trust trusted_root.json

Stock verifiers of the signature, offline:

  sigstore --trust-config trust_config.json verify identity --offline --bundle bundle.sigstore.json \\
    --cert-identity {identity} \\
    --cert-oidc-issuer {issuer} results.json

  cosign verify-blob-attestation --bundle bundle.sigstore.json --trusted-root trusted_root.json \\
    --certificate-identity {identity} \\
    --certificate-oidc-issuer {issuer} --type PREDICATE_TYPE results.json

MEASUREMENT is that of the image that you expect. All four authorities are held by one lab: certificate log,
transparency log and timestamp show that the form was kept, not that somebody independent watched.
""".encode()
