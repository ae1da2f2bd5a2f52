"""OCSP responses (RFC 6960) that were fetched before: is a certificate good, by its issuer's word, at a time?

A response holds one certificate's status, signed by the issuer or by a responder whose certificate the issuer signed
for this purpose. It carries no nonce: freshness is its own `nextUpdate`, which has to be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attest import chain, der
from attest.errors import MalformedInput, VerificationError

WHAT = "OCSP response"
MAX_RESPONSES = 64
CERTIFICATE_HASHES = (hashes.SHA1, hashes.SHA256, hashes.SHA384)
"""By which a response names a certificate; SHA-1 is the usual one, and only names."""


def check(
    certificates: Sequence[x509.Certificate], responses: Sequence[bytes], *, first: int, now: datetime, layer: str
) -> None:
    """Check each certificate of a verified chain from number `first` up to the root, which is pinned.

    `responses`: DER, for any certificates in any order. Raises `VerificationError` of `layer`: `ocsp_missing`,
    `ocsp_responder`, `ocsp_signature`, `ocsp_time`, `ocsp_status`, `revoked`; `MalformedInput` for what is no response.
    """
    if len(responses) > MAX_RESPONSES:
        raise MalformedInput(WHAT, f"expected at most {MAX_RESPONSES}, found {len(responses)}")
    loaded = [_load(data) for data in responses]
    for certificate, issuer in zip(certificates[first:], certificates[first + 1 :], strict=False):
        found = [response for response in loaded if _names(response, certificate, issuer)]
        if not found:
            raise VerificationError(
                layer, "ocsp_missing", expected=f"an OCSP response on {chain.name(certificate)}", found="none",
                advice="add the response to the endorsements",
            )  # fmt: skip
        newest = max(found, key=lambda response: response.this_update_utc)
        _check_response(newest, certificate, issuer, now, layer)


def _load(data: bytes) -> ocsp.OCSPResponse:
    with chain.reading(WHAT):
        response = ocsp.load_der_ocsp_response(data)
        # Read here what is used below: these raise for one that cannot be read, or says that there is no answer.
        _ = (response.certificate_status, response.this_update_utc, response.next_update_utc, response.hash_algorithm)
        _ = (response.serial_number, response.issuer_name_hash, response.issuer_key_hash, response.certificates)
        _ = (response.signature_hash_algorithm, response.extensions, response.single_extensions)
        signature, basic = response.signature, _basic(data)
    chain.check_whole(basic, signature, WHAT)
    for certificate in response.certificates:
        chain.load(certificate.public_bytes(Encoding.DER), f"certificate in {WHAT}")
    return response


def _basic(data: bytes) -> bytes:
    """What is signed, the algorithm, the signature and certificates (BasicOCSPResponse) in a response that was read."""
    ((_, response),) = der.values(data, WHAT)
    _status, (_, tagged) = der.values(response, WHAT)
    ((_, answer),) = der.values(tagged, WHAT)
    _kind, (_, basic) = der.values(answer, WHAT)
    return basic


def _names(response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the response is on this certificate: serial number, and hashes of its issuer's name and key."""
    if response.serial_number != certificate.serial_number or not isinstance(
        response.hash_algorithm, CERTIFICATE_HASHES
    ):
        return False
    asked = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, response.hash_algorithm).build()
    return (response.issuer_name_hash, response.issuer_key_hash) == (asked.issuer_name_hash, asked.issuer_key_hash)


def _check_response(
    response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime, layer: str
) -> None:
    # 1. Who signed: the issuer, or a responder that the issuer made one.
    signer = response.certificates[0] if response.certificates else issuer
    if signer != issuer:
        _check_responder(signer, issuer, now, layer)
    # 2. The signature.
    key = signer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
        response.signature_hash_algorithm, chain.HASHES
    ):
        raise VerificationError(layer, "ocsp_signature", expected="ECDSA with SHA-2", found=chain.name(signer))
    try:
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(response.signature_hash_algorithm))
    except InvalidSignature:
        raise VerificationError(
            layer, "ocsp_signature", expected=f"one of {chain.name(signer)}", found="another"
        ) from None
    # 3. The time.
    if response.next_update_utc is None or not response.this_update_utc <= now <= response.next_update_utc:
        raise VerificationError(
            layer, "ocsp_time", expected=f"a time from {response.this_update_utc} to {response.next_update_utc}",
            found=now, advice="add a response that was in force at that time",
        )  # fmt: skip
    # 4. The status.
    if response.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        reason = response.revocation_reason
        raise VerificationError(
            layer, "revoked", expected=f"{chain.name(certificate)} in force",
            found=f"revoked since {response.revocation_time_utc}: {reason.value if reason else 'no reason given'}",
        )  # fmt: skip
    if response.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        raise VerificationError(layer, "ocsp_status", expected="good", found=response.certificate_status.name)


def _check_responder(signer: x509.Certificate, issuer: x509.Certificate, now: datetime, layer: str) -> None:
    try:
        signer.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        raise VerificationError(
            layer, "ocsp_responder", expected=f"one of {chain.name(issuer)}", found=chain.name(signer)
        ) from None
    purposes = chain.extension(signer, x509.ExtendedKeyUsage) or ()
    start, end = signer.not_valid_before_utc, signer.not_valid_after_utc
    if ExtendedKeyUsageOID.OCSP_SIGNING not in purposes or not start <= now <= end:
        raise VerificationError(
            layer, "ocsp_responder", expected=f"a responder at {now}", found=f"{chain.name(signer)}, {start} to {end}"
        )
