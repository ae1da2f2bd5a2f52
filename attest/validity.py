"""In which time a piece of collateral holds, by its own content, before anybody has verified it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

from cryptography.x509 import ocsp

from attest import canonical, chain
from attest.errors import MalformedInput

Kind = Literal[
    "root", "software-root", "rim-root", "certificate", "revocation-list", "tcb-info", "qe-identity", "ocsp",
    "driver-rim", "vbios-rim",
]  # fmt: skip
"""What a piece of collateral is. `software-root` vouches for TPMs that are programs, `rim-root` for manifests."""
DOCUMENTS: Final = frozenset({"tcb-info", "qe-identity"})
"""Signed documents of Intel's, which come with the chain of their signer."""
MAX_CERTIFICATES: Final = 16

Span = tuple[datetime, datetime]
"""From when, until when."""


def of(kind: Kind, data: bytes, name: str) -> Span:
    """From when until when `data` holds. Raises `MalformedInput` that says `name`."""
    with chain.reading(f"{kind} {name}"):
        start, end = READERS[kind](data)
    if start > end:
        raise MalformedInput(f"{kind} {name}", f"expected a time that ends after it starts, found {start} to {end}")
    return start, end


def read_time(text: str, what: str = "time") -> datetime:
    """The time in `text`, RFC 3339 in UTC and whole seconds. Raises `MalformedInput` for a day that there is not."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise MalformedInput(what, f"expected a time such as 2026-01-31T12:00:00Z, found {text[:40]}") from None


def write_time(moment: datetime) -> str:
    """The text of a time, in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _certificate(data: bytes) -> Span:
    certificate = chain.load(data)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _list(data: bytes) -> Span:
    crl = chain.load_list(data)
    if crl.next_update_utc is None:
        raise ValueError("a revocation list without an end")
    return crl.last_update_utc, crl.next_update_utc


def _response(data: bytes) -> Span:
    response = ocsp.load_der_ocsp_response(data)
    if response.next_update_utc is None:
        raise ValueError("an OCSP response without an end")
    return response.this_update_utc, response.next_update_utc


def _document(data: bytes) -> Span:
    """Intel's answer: `{"tcbInfo":{..., "issueDate":..., "nextUpdate":...},"signature":...}`."""
    value = canonical.loads(data, "Intel's answer")
    bodies = [part for part in value.values() if isinstance(part, dict)] if isinstance(value, dict) else []
    if len(bodies) != 1:
        raise ValueError("expected one document and its signature")
    issued, until = bodies[0].get("issueDate"), bodies[0].get("nextUpdate")
    if not isinstance(issued, str) or not isinstance(until, str):
        raise ValueError("expected issueDate and nextUpdate")  # noqa: TRY004 - `of` reports ValueError
    return read_time(issued), read_time(until)


def _manifest(data: bytes) -> Span:
    """A reference manifest holds as long as the certificates of its signer, which are in it."""
    found = re.findall(rb"<(?:ds:)?X509Certificate>([A-Za-z0-9+/=\s]{1,20000})</", data)
    if not 1 <= len(found) <= MAX_CERTIFICATES:
        raise ValueError(f"expected 1 to {MAX_CERTIFICATES} certificates, found {len(found)}")
    header, footer = b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----\n"
    spans = []
    for text in found:
        (certificate,) = chain.load_pem(header + b"".join(text.split()) + footer)
        spans.append((certificate.not_valid_before_utc, certificate.not_valid_after_utc))
    return max(start for start, _ in spans), min(end for _, end in spans)


READERS: Final[dict[Kind, Callable[[bytes], Span]]] = {
    "root": _certificate,
    "software-root": _certificate,
    "rim-root": _certificate,
    "certificate": _certificate,
    "revocation-list": _list,
    "tcb-info": _document,
    "qe-identity": _document,
    "ocsp": _response,
    "driver-rim": _manifest,
    "vbios-rim": _manifest,
}
