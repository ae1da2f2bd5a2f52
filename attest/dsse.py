"""DSSE: what is signed (`pae`), and the envelope that carries payload and signature.

The envelope read here is narrower than DSSE allows, because verifiers disagree on the rest: exactly one signature, no
key id (absent or empty), standard base64 with its padding and nothing else, a payload type of printable ASCII. No
signature is checked here. Source: https://github.com/secure-systems-lab/dsse, protocol.md and envelope.md, v1.0.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo

from attest import canonical
from attest.canonical import Model
from attest.errors import MalformedInput

MAX_ENVELOPE_BYTES = 16 << 20


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: the bytes that a DSSE signature covers. Lengths count bytes."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def b64decode(text: str) -> bytes:
    """The bytes of standard base64 in its one canonical spelling. Raises `ValueError`."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("expected standard base64 with padding") from None
    if b64encode(data) != text:
        raise ValueError("expected canonical base64, found stray bits after the last byte")
    return data


def b64encode(data: bytes) -> str:
    """Standard base64 with padding, on one line."""
    return base64.b64encode(data).decode("ascii")


def _from_json(value: object, info: ValidationInfo) -> object:
    """JSON carries text; a caller that builds a model in Python passes the bytes themselves."""
    if info.mode != "json":
        return value
    if not isinstance(value, str):
        raise ValueError("expected base64 text")  # noqa: TRY004 - pydantic reports ValueError, and only that
    return b64decode(value)


_Bytes = Annotated[bytes, BeforeValidator(_from_json), PlainSerializer(b64encode, return_type=str, when_used="json")]
Base64 = Annotated[_Bytes, Field(min_length=1)]
"""At least one byte, in JSON as canonical base64 text."""


class Signature(Model):
    """The one signature."""

    sig: Base64
    """Over `pae(payloadType, payload)`; DER for ECDSA."""
    keyid: Literal[""] | None = None
    """Absent or empty: a key id is an unauthenticated hint, and the certificate says whose key it is."""


class Envelope(Model):
    """An envelope whose form is right. The payload is the bytes that were signed; nothing here re-encodes them."""

    payload: _Bytes
    """What is signed."""
    payload_type: str = Field(alias="payloadType", pattern=r"^[\x21-\x7e]{1,200}$")
    """Its media type."""
    signatures: tuple[Signature, ...] = Field(min_length=1, max_length=1)
    """Exactly one."""

    @property
    def signature(self) -> bytes:
        """The signature's bytes."""
        return self.signatures[0].sig

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that the signature covers."""
        return pae(self.payload_type, self.payload)


def make(payload: bytes, payload_type: str, signature: bytes) -> Envelope:
    """The envelope of a payload and the signature over its `pae`. Raises `MalformedInput` for a bad payload type."""
    signatures = [{"sig": b64encode(signature)}]
    value = {"payload": b64encode(payload), "payloadType": payload_type, "signatures": signatures}
    return canonical.validate(Envelope, value, "DSSE envelope")


def parse(data: bytes) -> Envelope:
    """The envelope in the JSON text `data`. Raises `MalformedInput`."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MalformedInput("DSSE envelope", f"expected at most {MAX_ENVELOPE_BYTES} bytes, found {len(data)}")
    return canonical.parse(Envelope, data, "DSSE envelope")


def encode(envelope: Envelope) -> bytes:
    """The canonical JSON of an envelope."""
    return canonical.dump_model(envelope)
