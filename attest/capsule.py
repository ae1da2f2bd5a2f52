"""A collateral capsule: what vendors said of their hardware, in one signed file, so that evidence is judged offline.

It holds certificates, revocation lists, TCB information, enclave identities, reference manifests and OCSP responses, as
received, each with the time in which it holds. A capsule is a DSSE envelope; who made it is named by the digest of a
key, which the relying party's policy pins. The maker vouches for having collected these files at that time, and for no
more: every file is still verified up to a vendor's root, whose fingerprint the policy pins as well.

Refused: another signature, a key that is not pinned, an item whose time is not what its content says, a capsule of the
future, or one that is older than the policy allows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pydantic import Field, StringConstraints, model_validator

from attest import canonical, dsse, validity
from attest.canonical import Model
from attest.digest import digest_of
from attest.dsse import Base64
from attest.errors import MalformedInput, VerificationError
from attest.manifest import Platform, Time
from attest.validity import Kind

LAYER = "capsule"
WHAT = "collateral capsule"
PAYLOAD_TYPE = "application/vnd.vitrine.collateral+json"
MAX_BYTES = 16 << 20
MAX_ITEMS = 1000
CLOCK_SKEW = timedelta(minutes=5)
"""By which a capsule may have been made after `now`: two clocks."""


class Item(Model):
    """One file of a vendor."""

    platform: Platform
    """What it is about."""
    kind: Kind
    """What it is."""
    name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
    """For people."""
    data: Base64
    """The file: certificates, lists and OCSP responses in DER, all else as received."""
    chain: Base64 | None = None
    """Of Intel's signed documents: who signed, as it came with them (PEM)."""
    not_before: Time
    """From when on it holds, by its content."""
    not_after: Time
    """Until when."""

    @model_validator(mode="after")
    def _chain_goes_with_documents(self) -> Self:
        if (self.chain is not None) != (self.kind in validity.DOCUMENTS):
            raise ValueError(f"expected a chain exactly with {', '.join(sorted(validity.DOCUMENTS))}")
        return self

    def holds_at(self, moment: datetime) -> bool:
        """Whether `moment` lies in its time."""
        return validity.read_time(self.not_before) <= moment <= validity.read_time(self.not_after)


class Capsule(Model):
    """What is signed."""

    format: Literal["vitrine/collateral/v1"] = "vitrine/collateral/v1"
    """Format and version."""
    made: Time
    """When the files were collected."""
    maker: Base64
    """The maker's key: SPKI, DER, P-256."""
    items: Annotated[tuple[Item, ...], Field(min_length=1, max_length=MAX_ITEMS)]
    """The files."""

    def of(self, platform: Platform, *kinds: Kind) -> tuple[Item, ...]:
        """The items of one platform and these kinds, in order."""
        return tuple(item for item in self.items if item.platform == platform and item.kind in kinds)

    @property
    def maker_digest(self) -> str:
        """SHA-256 over the maker's key: what a policy pins."""
        return digest_of(self.maker)


@dataclass(frozen=True)
class Freshness:
    """How old a capsule is, and what of it no longer holds."""

    age: timedelta
    """Time since it was made."""
    expired: tuple[str, ...]
    """The items that do not hold at that moment, by name and time."""


def item(platform: Platform, kind: Kind, name: str, data: bytes, chain: bytes | None = None) -> Item:
    """An item whose time is read from its content. Raises `MalformedInput`."""
    start, end = validity.of(kind, data, name)
    try:
        return Item(
            platform=platform, kind=kind, name=name, data=data, chain=chain,
            not_before=validity.write_time(start), not_after=validity.write_time(end),
        )  # fmt: skip
    except ValueError as error:
        raise MalformedInput(WHAT, f"item {name}: {error}") from None


def make(items: Collection[Item], key: ec.EllipticCurvePrivateKey, made: datetime) -> bytes:
    """The capsule's file: `items` in the order given, signed by the P-256 `key`."""
    maker = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    capsule = Capsule(made=validity.write_time(made), maker=maker, items=tuple(items))
    payload = canonical.dump_model(capsule)
    signature = key.sign(dsse.pae(PAYLOAD_TYPE, payload), ec.ECDSA(hashes.SHA256()))
    return dsse.encode(dsse.make(payload, PAYLOAD_TYPE, signature)) + b"\n"


def read(data: bytes) -> Capsule:
    """The capsule in `data`: signed by the key that it names, and each item of the time that its content says.

    Whose key that is, `check` compares. Raises `MalformedInput`, `VerificationError` (layer `capsule`).
    """
    # 1. The envelope, and the form of what is in it.
    if len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    envelope = dsse.parse(data)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise VerificationError(LAYER, "payload-type", expected=PAYLOAD_TYPE, found=envelope.payload_type)
    capsule = canonical.parse(Capsule, envelope.payload, WHAT)
    # 2. The signature.
    try:
        maker = load_der_public_key(capsule.maker)
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedInput(WHAT, "expected the maker's key in DER") from None
    if not isinstance(maker, ec.EllipticCurvePublicKey) or not isinstance(maker.curve, ec.SECP256R1):
        raise MalformedInput(WHAT, "expected a P-256 key of the maker")
    try:
        maker.verify(envelope.signature, envelope.signed_bytes, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise VerificationError(LAYER, "signature", expected="the maker's signature", found="another") from None
    # 3. The times that people read are those that the files say.
    for one in capsule.items:
        start, end = validity.of(one.kind, one.data, one.name)
        said = (validity.write_time(start), validity.write_time(end))
        if said != (one.not_before, one.not_after):
            raise VerificationError(
                LAYER, "item-time", expected=f"{one.name} from {said[0]} to {said[1]}", found=one.not_after
            )
    return capsule


def check(capsule: Capsule, *, makers: Collection[str], now: datetime, max_age: timedelta) -> Freshness:
    """Whether one of `makers` (digests) made `capsule`, and in time. Raises `VerificationError` (layer `capsule`).

    What of its content has expired is in the result: what that means is for the policy to say.
    """
    if capsule.maker_digest not in makers:
        raise VerificationError(
            LAYER, "maker", expected=f"one of {sorted(makers)}", found=capsule.maker_digest,
            advice="pin the maker's key in the policy once you trust who collects the collateral",
        )  # fmt: skip
    age = now - validity.read_time(capsule.made)
    if age < -CLOCK_SKEW:
        raise VerificationError(LAYER, "future", expected=f"a capsule made before {now}", found=capsule.made)
    if age > max_age:
        raise VerificationError(
            LAYER, "age", expected=f"at most {max_age.days} days old", found=f"made {capsule.made}",
            advice="ask for a fresh capsule: what was revoked since is not in this one",
        )  # fmt: skip
    expired = tuple(f"{one.name} ({one.not_after})" for one in capsule.items if not one.holds_at(now))
    return Freshness(age, expired)


def expired(fresh: Freshness) -> VerificationError:
    """The error that says what of a capsule no longer holds."""
    return VerificationError(
        LAYER, "expired", expected="items that hold at that time", found="; ".join(fresh.expired),
        advice="ask for a fresh capsule, or judge as of a time at which they held",
    )  # fmt: skip
