"""Whether a report was made by a genuine AMD chip, and what AMD says of that chip.

`authenticate` proves, in this order: the chip's key is AMD's (`chain`), the report is signed by it, chip and versions
in the certificate are those of the report, and, where an ID block is given, that the guest was launched by it. It does
not judge what the report says: that is `policy`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attest.errors import MalformedInput, VerificationError
from attest.sevsnp import certificates, chain, idblock, layout, tcb
from attest.sevsnp.certificates import ChipCertificate
from attest.sevsnp.chain import LAYER
from attest.sevsnp.evidence import Endorsements, Evidence
from attest.sevsnp.layout import Report
from attest.sevsnp.tcb import Tcb


@dataclass(frozen=True)
class Authenticated:
    """A report that a genuine chip made. Only `authenticate` makes it."""

    report: Report
    """What the chip's firmware said."""
    chip: ChipCertificate
    """What AMD said of the key that signed."""
    reported_tcb: Tcb
    """Of `report.reported_tcb`, laid out as on this product."""
    committed_tcb: Tcb
    """Of `report.committed_tcb`."""
    current_tcb: Tcb
    """Of `report.current_tcb`."""
    launch_tcb: Tcb
    """Of `report.launch_tcb`."""
    id_block: bool
    """Whether an ID block was given, and verified."""
    root: str
    """The fingerprint of the ARK."""
    valid_until: datetime
    """When the first ends of the certificates and lists that were looked at."""
    skipped: tuple[str, ...]
    """What was not looked at, a sentence each."""


def authenticate(
    evidence: Evidence,
    endorsements: Endorsements,
    *,
    roots: Collection[str],
    now: datetime,
    unsafe_without_revocation: bool = False,
) -> Authenticated:
    """Authenticate `evidence` at the time `now` (aware), by the ARKs whose fingerprints (`sha256:...`) are `roots`.

    Raises `VerificationError` (layer `sev-snp`), `MalformedInput`, `Unsupported`; `TypeError` for a naive `now`.
    """
    if now.tzinfo is None:
        raise TypeError("expected an aware time, found a naive one")
    # 1. The forms.
    report = layout.read_report(evidence.report)
    certificate = certificates.load(evidence.certificate)
    chip = certificates.read_chip(certificate)
    # 2. The chip's key is AMD's.
    path = chain.verify(
        certificate, endorsements, roots=roots, now=now, unsafe_without_revocation=unsafe_without_revocation
    )
    # 3. It was issued as the kind of key, and for the product, that its certificate says.
    between = "VLEK-" if chip.kind == "vlek" else ""
    _expect("issuer-kind", f"SEV-{between}{chip.product}", certificates.common_name(path.issuer.subject))
    # 4. It signed the report, and the report names no other kind of key.
    _check_signature("signature", chip.key, report.signature, report.signed, layout.WHAT)
    _expect("signing-key", report.signing_key, chip.kind)
    # 5. The report is of the chip, the product and the versions in the certificate.
    if chip.chip_id is not None:
        _expect("chip-id", chip.chip_id.hex(), report.chip_id.hex())
    if report.cpuid is not None:
        _expect("product", chip.product, tcb.product_of(*report.cpuid[:2]))
    _expect("certificate-tcb", chip.tcb.hex(), report.reported_tcb.hex())
    # 6. The guest was launched by this ID block.
    block, authentication = evidence.id_block, evidence.id_authentication
    if block is not None and authentication is not None:
        _check_id_block(report, block, authentication)
    elif block is not None or authentication is not None:
        raise MalformedInput(idblock.WHAT, "expected an ID block and its authentication, found one without the other")
    return Authenticated(
        report, chip,
        tcb.read(report.reported_tcb, chip.product), tcb.read(report.committed_tcb, chip.product),
        tcb.read(report.current_tcb, chip.product), tcb.read(report.launch_tcb, chip.product),
        block is not None, path.root, path.valid_until, path.skipped,
    )  # fmt: skip


def _check_id_block(report: Report, block_data: bytes, authentication_data: bytes) -> None:
    block = idblock.read_block(block_data)
    authentication = idblock.read_authentication(authentication_data)
    # 1. The firmware saw this ID key, and the key signed this block.
    _expect("id-key", report.id_key_digest.hex(), hashlib.sha384(authentication.id_key).hexdigest())
    id_key = idblock.read_key(authentication.id_key)
    _check_signature("id-block-signature", id_key, authentication.block_signature, block.raw, idblock.WHAT)
    # 2. The block is of this guest.
    _expect("id-block-measurement", report.measurement.hex(), block.launch_digest.hex())
    _expect("id-block-family", report.family_id.hex(), block.family_id.hex())
    _expect("id-block-image", report.image_id.hex(), block.image_id.hex())
    _expect("id-block-svn", report.guest_svn, block.guest_svn)
    _expect("id-block-policy", f"{report.policy:#x}", f"{block.policy:#x}")
    # 3. Where the firmware saw an author's key, it signed the ID key.
    if report.author_key_enabled:
        _expect("author-algorithm", layout.ECDSA_P384_SHA384, authentication.author_algorithm)
        _expect("author-key", report.author_key_digest.hex(), hashlib.sha384(authentication.author_key).hexdigest())
        author_key = idblock.read_key(authentication.author_key)
        _check_signature(
            "id-key-signature", author_key, authentication.key_signature, authentication.id_key, idblock.WHAT
        )


def _check_signature(code: str, key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes, what: str) -> None:
    r, s = layout.read_signature(signature, what)
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise VerificationError(LAYER, code, expected="a signature by the key given", found="another") from None


def _expect(code: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError(LAYER, code, expected=expected, found=found)
