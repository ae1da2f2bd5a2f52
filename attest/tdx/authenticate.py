"""Is a quote Intel's word? Signatures, certificates, revocation, and the level that the platform is at.

`authenticate` is one straight page: it raises for the first thing that does not hold, and returns what was
authenticated. What the relying party wants of it (measurements, a status that is good enough) is `policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509 import Certificate, CertificateRevocationList

from attest import chain as chains
from attest import validity
from attest.errors import VerificationError
from attest.tdx import certificates, collateral, layout, pck, tcb
from attest.tdx.certificates import LAYER
from attest.tdx.collateral import D, EnclaveStatus, Endorsements, QeIdentity, Signed, Status, TcbInfo
from attest.tdx.layout import Domain, Quote
from attest.tdx.pck import Pck

WITHOUT_REVOCATION = "Revocation was not checked: certificates of the platform or of Intel's signers may be revoked."
WITHOUT_TCB = "The TCB was not checked: firmware, TDX module and quoting enclave may be old, revoked, or not Intel's."


@dataclass(frozen=True)
class Standing:
    """What Intel says of the platform."""

    status: Status
    """Of all parts together."""
    platform: Status
    """Of the platform's level alone."""
    module: EnclaveStatus | None
    """Of the TDX module; None for SGX, and for a module of major version 0, which is part of the platform's level."""
    qe: EnclaveStatus
    """Of the quoting enclave."""
    advisories: tuple[str, ...]
    """Advisories of all parts, in order, each once."""
    evaluation: int
    """The lower evaluation data number of TCB info and identity."""
    tcb_date: str
    """Of the platform's level."""


@dataclass(frozen=True)
class Authenticated:
    """A quote that Intel's hierarchy vouches for."""

    quote: Quote
    """The quote."""
    pck: Pck
    """The platform that it is of."""
    root: bytes
    """SHA-256 over the root certificate, 32 bytes."""
    standing: Standing | None
    """What Intel says of the platform; None only where `unsafe_without_tcb` was asked for."""
    valid_until: datetime
    """When the first of the lists and documents ends that this was judged by; of a certificate, without those."""
    skipped: tuple[str, ...]
    """What was not checked, because the caller opted out: one sentence each."""


def authenticate(
    quote_bytes: bytes,
    endorsements: Endorsements,
    *,
    now: datetime,
    unsafe_without_revocation: bool = False,
    unsafe_without_tcb: bool = False,
) -> Authenticated:
    """The quote in `quote_bytes`, once everything about it holds at `now` (an aware time).

    Raises `VerificationError` (layer `tdx`), `MalformedInput` and `Unsupported`.
    """
    # 1. The quote has a form that is known here.
    quote = layout.parse(quote_bytes)
    domain = quote.body if isinstance(quote.body, Domain) else None

    # 2. The platform's certificate leads to the trusted root, and names the platform.
    root = chains.load(endorsements.root, "root certificate")
    chain = certificates.load_chain(quote.pck_chain, "PCK chain")
    certificates.check_chain(chain, certificates.PCK_NAMES, root, now=now)
    leaf, authority = chain[0], chain[1]
    platform = pck.read(leaf)
    ends = [certificate.not_valid_after_utc for certificate in chain]

    # 3. Neither it nor its authority is revoked, by lists that are in time.
    skipped = []
    root_crl = None
    if unsafe_without_revocation:
        skipped.append(WITHOUT_REVOCATION)
    else:
        root_crl = _crl(endorsements.root_crl, "root's revocation list", root, ends, now)
        certificates.check_not_revoked(authority, root_crl)
        pck_crl = _crl(endorsements.pck_crl, "PCK revocation list", authority, ends, now)
        certificates.check_not_revoked(leaf, pck_crl)

    # 4. The platform signed the quoting enclave's report, which binds the attestation key and nothing else.
    _check_signature("qe-signature", certificates.public_key(leaf), quote.qe_signature, quote.qe_signed)
    bound = sha256(quote.key + quote.qe_auth).digest() + bytes(32)
    if quote.qe_report.report_data != bound:
        raise VerificationError(LAYER, "key-binding", expected=bound.hex(), found=quote.qe_report.report_data.hex())

    # 5. The attestation key signed header and body.
    _check_signature("quote-signature", _key(quote.key), quote.signature, quote.signed)

    # 6. Quoting enclave, platform and TDX module are known to Intel, at some level.
    standing = None
    if unsafe_without_tcb:
        skipped.append(WITHOUT_TCB)
    else:

        def document(model: type[D], signed: Signed | None, kind: str) -> D:
            return _document(model, signed, kind, root=root, root_crl=root_crl, ends=ends, now=now)

        identity = document(QeIdentity, endorsements.qe_identity, "QE" if domain is None else "TD_QE")
        info = document(TcbInfo, endorsements.tcb_info, "SGX" if domain is None else "TDX")
        standing = _standing(quote, domain, platform, identity, info)
    return Authenticated(
        quote=quote,
        pck=platform,
        root=root.fingerprint(hashes.SHA256()),
        standing=standing,
        valid_until=min(ends),
        skipped=tuple(skipped),
    )


def _standing(quote: Quote, domain: Domain | None, platform: Pck, identity: QeIdentity, info: TcbInfo) -> Standing:
    if bytes.fromhex(info.fmspc) != platform.fmspc:
        raise VerificationError(LAYER, "tcb-fmspc", expected=platform.fmspc.hex(), found=info.fmspc)
    if bytes.fromhex(info.pce_id) != platform.pce_id:
        raise VerificationError(LAYER, "tcb-pceid", expected=platform.pce_id.hex(), found=info.pce_id)
    qe = tcb.qe_level(identity, quote.qe_report)
    level = tcb.platform_level(info, platform, domain)
    module = None if domain is None else tcb.module_level(info, domain)
    status = tcb.converge(level.tcb_status, qe.tcb_status)
    advisories = [*level.advisory_ids, *qe.advisory_ids]
    if module is not None:
        status = tcb.converge(status, module.tcb_status)
        advisories += module.advisory_ids
    return Standing(
        status=status,
        platform=level.tcb_status,
        module=None if module is None else module.tcb_status,
        qe=qe.tcb_status,
        advisories=tuple(dict.fromkeys(advisories)),
        evaluation=min(info.tcb_evaluation_data_number, identity.tcb_evaluation_data_number),
        tcb_date=level.tcb_date,
    )


def _document(
    model: type[D],
    signed: Signed | None,
    kind: str,
    *,
    root: Certificate,
    root_crl: CertificateRevocationList | None,
    ends: list[datetime],
    now: datetime,
) -> D:
    """The document in `signed`, once its signer's chain, its signature, its kind and its time hold."""
    name = model.__name__
    if signed is None:
        raise _missing(name)
    chain = certificates.load_chain(signed.chain, f"{name} chain")
    certificates.check_chain(chain, certificates.SIGNER_NAMES, root, now=now)
    ends.extend(certificate.not_valid_after_utc for certificate in chain)
    if root_crl is not None:
        certificates.check_not_revoked(chain[0], root_crl)
    code = "tcb-info-signature" if model is TcbInfo else "qe-identity-signature"
    _check_signature(code, certificates.public_key(chain[0]), signed.signature, signed.body)
    document = collateral.parse(model, signed.body)
    if document.id != kind:
        raise VerificationError(LAYER, "collateral-kind", expected=f"{name} for {kind}", found=document.id)
    end = validity.read_time(document.next_update, name)
    certificates.check_time(name, validity.read_time(document.issue_date, name), end, now)
    ends.append(end)
    return document


def _crl(
    data: bytes | None, what: str, issuer: Certificate, ends: list[datetime], now: datetime
) -> CertificateRevocationList:
    if data is None:
        raise _missing(what)
    crl = certificates.load_crl(data, what)
    ends.append(certificates.check_crl(crl, issuer, now=now))
    return crl


def _key(point: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError:
        raise VerificationError(LAYER, "attestation-key", expected="a point on P-256", found=point.hex()) from None


def _check_signature(code: str, key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    """ECDSA with SHA-256; `signature` is r and s, 32 bytes each."""
    if len(signature) != 64:
        raise VerificationError(LAYER, code, expected="a signature of 64 bytes", found=f"{len(signature)}")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise VerificationError(LAYER, code, expected="a valid signature", found=signature.hex()) from None


def _missing(what: str) -> VerificationError:
    advice = "put it into the capsule"
    return VerificationError(LAYER, "collateral-missing", expected=what, found="none", advice=advice)
