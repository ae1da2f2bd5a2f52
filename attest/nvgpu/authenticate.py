"""Did a genuine NVIDIA GPU sign this report, and did NVIDIA sign these reference manifests?

What report and manifests say is not compared here: `attest.nvgpu.claims` and `attest.nvgpu.policy` do that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from attest import chain
from attest.digest import sha256
from attest.errors import MalformedInput, VerificationError
from attest.nvgpu import fwid, layout, ocsp, rim, xmldsig
from attest.nvgpu.evidence import Evidence

LAYER = "nvgpu"
MAX_CHAIN_BYTES = 65_536


@dataclass(frozen=True)
class Endorsements:
    """What the relying party holds of NVIDIA."""

    device_roots: tuple[bytes, ...]
    """The pinned roots of devices (`NVIDIA Device Identity CA`), DER."""
    rim_roots: tuple[bytes, ...] = ()
    """The pinned roots of manifests (`NVIDIA CoRIM signing Root CA`), DER."""
    driver_rim: bytes | None = None
    """The manifest of the driver, as received."""
    vbios_rim: bytes | None = None
    """The manifest of the VBIOS, as received."""
    ocsp: tuple[bytes, ...] = ()
    """OCSP responses, DER, on each certificate but the roots and the GPU's own leaf, in any order."""


@dataclass(frozen=True)
class Manifests:
    """What NVIDIA signed."""

    driver: rim.Rim | None
    """The driver's manifest; None where the caller let it be absent."""
    vbios: rim.Rim | None
    """The VBIOS's."""


@dataclass(frozen=True)
class Authenticated:
    """A report that a genuine GPU signed, and NVIDIA's manifests."""

    report: layout.Report
    """What it says."""
    model: str
    """The chip, by the name of its boot ROM's certificate: `GH100 A01 GSP BROM`."""
    device: bytes
    """SHA-256 of that certificate: which GPU it is."""
    manifests: Manifests
    """The reference values."""
    skipped: tuple[str, ...]
    """What was not checked because the caller said so, a sentence each."""


def authenticate(
    evidence: Evidence,
    endorsements: Endorsements,
    *,
    now: datetime,
    unsafe_without_revocation: bool = False,
    unsafe_without_rims: bool = False,
) -> Authenticated:
    """The report of one GPU, signed by a key whose chain ends in a pinned root at `now`, and the manifests, likewise.

    Raises `VerificationError` (layer `nvgpu`), `MalformedInput`, `Unsupported`.
    """
    (only,) = authenticate_all(
        (evidence,),
        endorsements,
        now=now,
        unsafe_without_revocation=unsafe_without_revocation,
        unsafe_without_rims=unsafe_without_rims,
    )
    return only


def authenticate_all(
    evidence: Sequence[Evidence],
    endorsements: Endorsements,
    *,
    now: datetime,
    unsafe_without_revocation: bool = False,
    unsafe_without_rims: bool = False,
) -> tuple[Authenticated, ...]:
    """As `authenticate`, of several GPUs of one driver and VBIOS: each another GPU, all asked with the same nonce."""
    responses = None if unsafe_without_revocation else endorsements.ocsp
    # 1. The manifests.
    manifests = Manifests(
        _manifest(endorsements.driver_rim, "driver", endorsements, responses, now, unsafe_without_rims),
        _manifest(endorsements.vbios_rim, "VBIOS", endorsements, responses, now, unsafe_without_rims),
    )
    _check_conflict(manifests)
    skipped = _skipped(manifests, unsafe_without_revocation)
    # 2. The reports, each for itself.
    found = tuple(_device(item, endorsements, responses, now, manifests, skipped) for item in evidence)
    # 3. One nonce, and no GPU twice.
    if len({item.report.nonce for item in found}) != 1:
        raise VerificationError(
            LAYER, "nonces", expected="one nonce", found=", ".join(item.report.nonce.hex() for item in found) or "none"
        )
    if len({item.device for item in found}) != len(found):
        raise VerificationError(LAYER, "device_twice", expected=f"{len(found)} GPUs", found="one of them twice")
    return found


def _device(
    evidence: Evidence,
    endorsements: Endorsements,
    responses: Sequence[bytes] | None,
    now: datetime,
    manifests: Manifests,
    skipped: tuple[str, ...],
) -> Authenticated:
    report = layout.read(evidence.report)
    # 1. The chain from the signing key's certificate to a pinned root.
    certificates = _certificates(evidence.certificates)
    chain.verify(certificates, endorsements.device_roots, now=now, layer=LAYER)
    # 2. None is revoked; the leaf is made by the GPU at each boot, and nobody could revoke it.
    if responses is not None:
        ocsp.check(certificates, responses, first=1, now=now, layer=LAYER)
    # 3. The firmware that holds the signing key is the one that the report names.
    certified = fwid.of_certificate(certificates[0])
    if not certified or certified != report.opaque.fwid:
        raise VerificationError(
            LAYER,
            "fwid",
            expected=certified.hex() or "one in the certificate",
            found=report.opaque.fwid.hex() or "none",
        )
    # 4. The signature over request and response, as received.
    _check_signature(report, certificates[0])
    boot_rom = certificates[1]
    return Authenticated(
        report, _common_name(boot_rom), sha256(boot_rom.public_bytes(Encoding.DER)), manifests, skipped
    )


def _certificates(pem: bytes) -> list[x509.Certificate]:
    if len(pem) > MAX_CHAIN_BYTES:
        raise MalformedInput("GPU certificates", f"expected at most {MAX_CHAIN_BYTES} bytes, found {len(pem)}")
    return chain.load_pem(pem, "GPU certificates")


def _check_signature(report: layout.Report, leaf: x509.Certificate) -> None:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise VerificationError(LAYER, "key", expected="a P-384 key", found=type(key).__name__)
    half = layout.SIGNATURE_BYTES // 2
    r, s = report.signature[:half], report.signature[half:]
    signature = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    try:
        key.verify(signature, report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise VerificationError(
            LAYER, "signature", expected="a signature by the certified key", found="another signature"
        ) from None


def _manifest(
    data: bytes | None,
    name: str,
    endorsements: Endorsements,
    responses: Sequence[bytes] | None,
    now: datetime,
    unsafe_without_rims: bool,
) -> rim.Rim | None:
    if data is None:
        if unsafe_without_rims:
            return None
        raise VerificationError(
            LAYER, "rim_missing", expected=f"the manifest of the {name}", found="none",
            advice="add the manifest of the reported version to the endorsements",
        )  # fmt: skip
    signed = xmldsig.read(data, f"{name} manifest")
    chain.verify(signed.certificates, endorsements.rim_roots, now=now, layer=LAYER)
    if responses is not None:
        ocsp.check(signed.certificates, responses, first=0, now=now, layer=LAYER)
    return rim.read(xmldsig.verify(signed, layer=LAYER))


def _check_conflict(manifests: Manifests) -> None:
    """A measurement has its values from one manifest: which of two would count?"""
    if (
        manifests.driver
        and manifests.vbios
        and (both := manifests.driver.values.keys() & manifests.vbios.values.keys())
    ):
        raise VerificationError(
            LAYER, "rim_conflict", expected="each measurement in one manifest", found=f"blocks {sorted(both)} in both"
        )


def _skipped(manifests: Manifests, unsafe_without_revocation: bool) -> tuple[str, ...]:
    said = {
        "NVIDIA: revocation of the certificates was not checked.": unsafe_without_revocation,
        "NVIDIA: there is no driver manifest to compare with.": manifests.driver is None,
        "NVIDIA: there is no VBIOS manifest to compare with.": manifests.vbios is None,
    }
    return tuple(sentence for sentence, true in said.items() if true)


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""
