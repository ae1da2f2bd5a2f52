"""What an authenticated Nitro attestation document says."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from attest.canonical import Model
from attest.nitro.authenticate import EPOCH, Authenticated

IMAGE_REGISTERS = (0, 1, 2)
"""Image file, kernel and boot, application: the hypervisor leaves them zero for an enclave in debug mode."""


class Claims(Model):
    """The claims of a Nitro enclave."""

    platform: Literal["nitro"]
    """Which platform the evidence is of."""
    bound: str
    """The user data that the enclave had signed, hexadecimal digits; empty where there is none."""
    measurements: dict[str, str]
    """`PCR0` ... `PCR31`: hexadecimal digits."""
    debug: bool
    """Whether one of PCR0, PCR1 and PCR2 is zero or missing: the parent instance can read the console of such an
    enclave, and nothing says what it runs."""
    module_id: str
    """Instance and enclave that issued it."""
    made_at: str
    """When, by the hypervisor's clock: RFC 3339, UTC."""
    public_key: str | None
    """The public key that the enclave gave, hexadecimal digits."""
    nonce: str | None
    """The nonce that the enclave gave, hexadecimal digits."""
    skipped: tuple[str, ...]
    """What authentication did not check because the caller said so."""


def claims(authenticated: Authenticated) -> Claims:
    """The claims of an authenticated document."""
    document = authenticated.document
    made = EPOCH + timedelta(milliseconds=document.timestamp_ms)
    return Claims(
        platform="nitro",
        bound=(document.user_data or b"").hex(),
        measurements={f"PCR{index}": value.hex() for index, value in sorted(document.pcrs.items())},
        debug=any(not any(document.pcrs.get(index, b"")) for index in IMAGE_REGISTERS),
        module_id=document.module_id,
        made_at=made.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        public_key=None if document.public_key is None else document.public_key.hex(),
        nonce=None if document.nonce is None else document.nonce.hex(),
        skipped=authenticated.skipped,
    )
