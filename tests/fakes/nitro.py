"""A Nitro Security Module that really signs, under a synthetic root."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attest import cbor
from tests.fakes import authority
from tests.fakes.authority import NOW, Issued, distribution_point, issue, raw_signature

IMAGE = bytes(range(48))


def hierarchy() -> list[Issued]:
    """Root, region, zone, instance, enclave: as AWS makes them, lists for the second and third."""
    root = issue("aws.nitro-enclaves")
    region = issue("region", root, path_length=2, extensions=[distribution_point()])
    zone = issue("zone", region, path_length=1, extensions=[distribution_point()])
    instance = issue("instance", zone, path_length=0, key_usage=authority.usage(key_cert_sign=True))
    return [root, region, zone, instance, enclave(instance)]


def enclave(instance: Issued) -> Issued:
    """The short-lived certificate of an enclave."""
    return issue("enclave", instance, ca=False, key_usage=authority.SIGNER, days=(-0.05, 0.1))


@dataclass
class Nsm:
    """The module. `exchange` answers requests as `/dev/nsm` does; `document` makes any document."""

    chain: list[Issued] = field(default_factory=hierarchy)
    clock: datetime = NOW
    pcrs: dict[int, bytes] = field(default_factory=lambda: {i: IMAGE if i < 3 else bytes(48) for i in range(16)})

    @property
    def root(self) -> bytes:
        return self.chain[0].der

    def lists(self) -> tuple[bytes, ...]:
        return tuple(authority.revocation_list(issuer) for issuer in self.chain[:2])

    def fields(self, **changes: object) -> dict[str, object]:
        """The document's fields, as the real module orders them."""
        return {
            "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
            "digest": "SHA384",
            "timestamp": int(self.clock.timestamp() * 1000),
            "pcrs": self.pcrs,
            "certificate": self.chain[-1].der,
            "cabundle": [item.der for item in self.chain[:-1]],
            "public_key": None,
            "user_data": b"bound",
            "nonce": None,
        } | changes

    def document(self, **changes: object) -> bytes:
        """A signed document."""
        return self.sign(cbor.dumps(self.fields(**changes)))

    def sign(
        self,
        payload: bytes,
        *,
        protected: object = None,
        unprotected: object = None,
        own: ec.EllipticCurvePrivateKey | None = None,
    ) -> bytes:
        """A COSE_Sign1 of any payload and headers."""
        header = cbor.dumps({1: -35} if protected is None else protected)
        signed = cbor.dumps(["Signature1", header, b"", payload])
        signature = raw_signature(own or self.chain[-1].key, signed, hashes.SHA384(), 48)
        return cbor.dumps([header, unprotected or {}, payload, signature])

    def exchange(self, request: bytes) -> bytes:
        """The module's answer to a request, both CBOR."""
        asked = cbor.loads(request, "request")
        if not isinstance(asked, dict) or set(asked) != {"Attestation"}:
            return cbor.dumps({"Error": "InvalidOperation"})
        if len(asked["Attestation"]["user_data"] or b"") > 512:
            return cbor.dumps({"Error": "InputTooLarge"})
        return cbor.dumps({"Attestation": {"document": self.document(**asked["Attestation"])}})
