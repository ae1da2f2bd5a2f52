"""What a platform's certificate (PCK) says about the platform: Intel's SGX extension, 1.2.840.113741.1.13.1.

Source: "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification", section 1.3.5. A value that
the profile names has to be there in its form; one that it does not name is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.x509 import Certificate, ExtensionNotFound, ObjectIdentifier

from attest.errors import MalformedInput
from attest.tdx import der

WHAT = "PCK certificate"
EXTENSION = ObjectIdentifier("1.2.840.113741.1.13.1")
PREFIX = bytes.fromhex("2a864886f84d010d01")
"""The encoding of its identifier, which all identifiers in it begin with."""
PPID, TCB, PCE_ID, FMSPC, SGX_TYPE, INSTANCE, CONFIGURATION = (PREFIX + bytes([n]) for n in range(1, 8))
REQUIRED = {PPID, TCB, PCE_ID, FMSPC, SGX_TYPE}
OPTIONAL = {INSTANCE, CONFIGURATION}
COMPONENTS = 16


@dataclass(frozen=True)
class Pck:
    """The platform, as Intel certified it."""

    fmspc: bytes
    """6 bytes: family, model, stepping, platform and custom SKU. Names the TCB info that applies."""
    pce_id: bytes
    """2 bytes: the provisioning certification enclave."""
    components: tuple[int, ...]
    """Sixteen security versions of the platform's components, 0 to 255 each."""
    pce_svn: int
    """The security version of the provisioning certification enclave."""
    ppid: bytes
    """16 bytes: names this one platform."""


def read(certificate: Certificate) -> Pck:
    """What `certificate` says. Raises `MalformedInput`."""
    try:
        extension = certificate.extensions.get_extension_for_oid(EXTENSION).value
    except ExtensionNotFound:
        raise MalformedInput(WHAT, "expected Intel's SGX extension, found none") from None
    outer = der.items(extension.public_bytes())
    if len(outer) != 1:
        raise MalformedInput(WHAT, f"expected one value in the extension, found {len(outer)}")
    fields = der.pairs(der.content(outer[0], der.SEQUENCE))
    if not REQUIRED <= fields.keys() <= REQUIRED | OPTIONAL:
        raise MalformedInput(WHAT, f"expected the profile's fields, found {[name[-1] for name in fields]}")
    tcb = der.pairs(der.content(fields[TCB], der.SEQUENCE))
    names = [TCB + bytes([n]) for n in range(1, COMPONENTS + 3)]
    if tcb.keys() != set(names):
        raise MalformedInput(WHAT, f"expected {len(names)} security versions, found {len(tcb)} values")
    return Pck(
        fmspc=der.content(fields[FMSPC], der.OCTETS, 6),
        pce_id=der.content(fields[PCE_ID], der.OCTETS, 2),
        components=tuple(der.number(tcb[name], most=0xFF) for name in names[:COMPONENTS]),
        pce_svn=der.number(tcb[names[COMPONENTS]]),
        ppid=der.content(fields[PPID], der.OCTETS, 16),
    )
