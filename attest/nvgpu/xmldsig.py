"""XML signatures (W3C XML-Signature 1.1) in the one shape that NVIDIA's reference manifests have.

The signature stands in the root element and is over all of it but itself: one reference, to the whole document, by the
enveloped-signature transform and Canonical XML 1.1; ECDSA P-384 with SHA-384; the certificates beside it. `verify`
returns the root without the signature: what was signed, and nothing else, is then read. Other shapes are `Unsupported`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attest import chain
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.nvgpu import xmltree

DSIG = "http://www.w3.org/2000/09/xmldsig#"
C14N11 = "http://www.w3.org/2006/12/xml-c14n11"
ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
COORDINATE_BYTES = 48


@dataclass(frozen=True)
class Signed:
    """A document and its one signature, read and not verified."""

    root: xmltree.Element
    """The document's root."""
    signature: xmltree.Element
    """The signature, a child of it."""
    info: xmltree.Element
    """What the signature's bytes are over."""
    digest: bytes
    """48 bytes: what `info` says the digest of the document is."""
    value: bytes
    """96 bytes: r || s."""
    certificates: tuple[x509.Certificate, ...]
    """The signer's certificate and its issuers, as they come."""


def read(data: bytes, what: str) -> Signed:
    """The signed document of these bytes. Raises `MalformedInput`, or `Unsupported` for another shape."""
    root = xmltree.parse(data, what)
    signatures = [child for child in root.elements() if child.name == (DSIG, "Signature")]
    if len(signatures) != 1:
        raise MalformedInput(what, f"expected one signature in the root element, found {len(signatures)}")
    info, value, key_info = _children(signatures[0], what, "SignedInfo", "SignatureValue", "KeyInfo")
    method, algorithm, reference = _children(info, what, "CanonicalizationMethod", "SignatureMethod", "Reference")
    transforms, digest_method, digest = _children(reference, what, "Transforms", "DigestMethod", "DigestValue")
    enveloped, form = _children(transforms, what, "Transform", "Transform")
    for element, known in (
        (method, C14N11), (algorithm, ECDSA_SHA384), (enveloped, ENVELOPED), (form, C14N11), (digest_method, SHA384)
    ):  # fmt: skip
        if element.attributes.keys() != {("", "Algorithm")} or element.elements() or element.get("Algorithm") != known:
            raise Unsupported(what, f"{element.name[1]}: only {known} is known")
    if reference.attributes.keys() != {("", "URI")} or reference.get("URI") != "":
        raise Unsupported(what, "a reference to anything but the whole document")
    (x509_data,) = _children(key_info, what, "X509Data")
    listed = x509_data.elements()
    if len(listed) > chain.MAX_CHAIN or {item.name for item in listed} != {(DSIG, "X509Certificate")}:
        raise MalformedInput(what, f"expected 1 to {chain.MAX_CHAIN} certificates")
    certificates = tuple(chain.load(_base64(item, what), f"certificate in {what}") for item in listed)
    return Signed(root, signatures[0], info, _base64(digest, what), _base64(value, what), certificates)


def verify(signed: Signed, *, layer: str) -> xmltree.Element:
    """The document without its signature, verified with the first certificate, which the caller has verified.

    Raises `VerificationError` of `layer`: `rim_digest`, `rim_key`, `rim_signature`.
    """
    # 1. The digest of the document without the signature.
    found = hashlib.sha384(xmltree.canonical(signed.root, without=signed.signature)).digest()
    if found != signed.digest:
        raise VerificationError(layer, "rim_digest", expected=signed.digest.hex(), found=found.hex())
    # 2. The signature over that digest and how it was made.
    key = signed.certificates[0].public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise VerificationError(layer, "rim_key", expected="a P-384 key", found=type(key).__name__)
    if len(signed.value) != 2 * COORDINATE_BYTES:
        raise VerificationError(layer, "rim_signature", expected="96 bytes", found=len(signed.value))
    r, s = signed.value[:COORDINATE_BYTES], signed.value[COORDINATE_BYTES:]
    signature = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    try:
        key.verify(signature, xmltree.canonical(signed.info), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise VerificationError(
            layer, "rim_signature", expected="a signature by the first certificate's key", found="another"
        ) from None
    # 3. What was signed: all but the signature.
    children = [child for child in signed.root.children if child is not signed.signature]
    return xmltree.Element(signed.root.qualified, signed.root.name, signed.root.attributes, signed.root.scope, children)


def _children(element: xmltree.Element, what: str, *names: str) -> list[xmltree.Element]:
    """The children of `element`, which are these, in this order, and no other."""
    children = element.elements()
    if [child.name for child in children] != [(DSIG, name) for name in names]:
        raise Unsupported(what, f"{element.name[1][:80]}: expected {', '.join(names)}")
    return children


def _base64(element: xmltree.Element, what: str) -> bytes:
    try:
        return base64.b64decode("".join(element.text().split()), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedInput(what, f"{element.name[1]}: expected base64") from None
