"""Intel quotes: bytes to fields. Versions 4 and 5 of TDX (TD report 1.0 and 1.5), version 3 of SGX.

Strict and bounded: sizes have to agree, what is not known is refused. Bytes after the quote are passed over, because
hosts hand out a whole buffer: nothing signs them and nothing reads them. No signature is looked at here.

Sources: "Intel TDX DCAP: Quote Generation Library and Quote Verification Library", appendix A.3 (version 4) and A.4
(version 5); "Intel SGX ECDSA QuoteLibReference DCAP API", appendix A.4 (version 3). Numbers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass

from attest.errors import MalformedInput, Unsupported
from attest.tdx.reader import Reader

WHAT = "Intel quote"
MAX_BYTES = 1 << 16
HEADER_BYTES = 48
SGX, TDX = 0x00, 0x81
"""Kinds of trusted execution environment, in the header."""
ECDSA_P256 = 2
INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""The vendor id of Intel's quoting enclave."""
QE_REPORT, PCK_CHAIN = 6, 5
"""Types of certification data: the quoting enclave's report, and the chain of the platform's certificate."""
BODY_SGX, BODY_TD_1_0, BODY_TD_1_5 = 1, 2, 3
"""Types of body, in version 5."""
SIZES = {BODY_SGX: 384, BODY_TD_1_0: 584, BODY_TD_1_5: 648}
"""Bytes of each."""


@dataclass(frozen=True)
class Enclave:
    """The report of an SGX enclave, 384 bytes (appendix A.3.10, "Enclave report body")."""

    cpu_svn: bytes
    """Offset 0, 16 bytes."""
    misc_select: bytes
    """Offset 16, 4 bytes."""
    attributes: bytes
    """Offset 48, 16 bytes: flags (bit 1 of the first byte: debug), then XFRM."""
    mr_enclave: bytes
    """Offset 64, 32 bytes: what was loaded."""
    mr_signer: bytes
    """Offset 128, 32 bytes: who signed it."""
    isv_prod_id: int
    """Offset 256, 2 bytes."""
    isv_svn: int
    """Offset 258, 2 bytes."""
    report_data: bytes
    """Offset 320, 64 bytes: what the enclave had bound in."""


@dataclass(frozen=True)
class Domain:
    """The report of a trust domain, 584 bytes (A.3.2, "TD quote body"), or 648 (A.4, version 1.5)."""

    tee_tcb_svn: bytes
    """Offset 0, 16 bytes: the versions of what the domain was started by; byte 1 is the TDX module's major one."""
    mr_seam: bytes
    """Offset 16, 48 bytes: the TDX module."""
    mr_signer_seam: bytes
    """Offset 64, 48 bytes: who signed it; zero for Intel."""
    seam_attributes: bytes
    """Offset 112, 8 bytes."""
    td_attributes: bytes
    """Offset 120, 8 bytes: bits 0-7 are debug, 28 SEPT_VE_DISABLE, 29 MIGRATABLE."""
    xfam: bytes
    """Offset 128, 8 bytes: processor features that the domain may use."""
    mr_td: bytes
    """Offset 136, 48 bytes: what the domain was made of."""
    mr_config_id: bytes
    """Offset 184, 48 bytes: set by the host."""
    mr_owner: bytes
    """Offset 232, 48 bytes: set by the host."""
    mr_owner_config: bytes
    """Offset 280, 48 bytes: set by the host."""
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    """Offset 328, four of 48 bytes: what was measured while it ran."""
    report_data: bytes
    """Offset 520, 64 bytes: what the domain had bound in."""
    tee_tcb_svn2: bytes | None
    """Offset 584, 16 bytes: the versions that run now. Only in 1.5."""
    mr_service_td: bytes | None
    """Offset 600, 48 bytes: service domains (such as one for migration) bound to this one. Only in 1.5."""


@dataclass(frozen=True)
class Quote:
    """A quote, and whatever is in it that proves it."""

    version: int
    """Header, offset 0: 3, 4 or 5."""
    body: Enclave | Domain
    """What is attested."""
    signed: bytes
    """Header and body: what `signature` is over."""
    signature: bytes
    """ECDSA with P-256 and SHA-256 by `key`: r and s, 32 bytes each."""
    key: bytes
    """The attestation key: x and y on P-256, 32 bytes each."""
    qe_signed: bytes
    """The quoting enclave's report as received, 384 bytes."""
    qe_report: Enclave
    """Its fields."""
    qe_signature: bytes
    """By the platform's certificate (PCK) over `qe_signed`: r and s."""
    qe_auth: bytes
    """What the quoting enclave bound in with the key."""
    pck_chain: bytes
    """Three certificates in PEM: the platform's, its authority's, the root's."""


def parse(data: bytes) -> Quote:
    """The quote at the front of `data`. Raises `MalformedInput` and `Unsupported`."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    reader = Reader(data, WHAT)
    version = reader.number("H")
    if version not in (3, 4, 5):
        raise Unsupported(WHAT, f"expected version 3, 4 or 5, found {version}")
    algorithm, tee = reader.number("H"), reader.number("I")
    if algorithm != ECDSA_P256:
        raise Unsupported(WHAT, f"expected an attestation key of type 2 (ECDSA P-256), found {algorithm}")
    reader.take(4)  # versions of the enclaves that made it, which are not signed for by name
    if (vendor := reader.take(16)) != INTEL_QE:
        raise Unsupported(WHAT, f"expected Intel's quoting enclave, found the vendor {vendor.hex()}")
    reader.take(20)  # user data
    body = _body(reader, version, tee)
    signed = data[: reader.at]
    return _proof(Reader(reader.take(reader.number("I")), WHAT), version, body, signed)


def parse_enclave(data: bytes) -> Enclave:
    """The report of an enclave in 384 bytes. Raises `MalformedInput`."""
    reader = Reader(data, "SGX report")
    cpu_svn, misc_select = reader.take(16), reader.take(4)
    reader.take(28)
    attributes, mr_enclave = reader.take(16), reader.take(32)
    reader.take(32)
    mr_signer = reader.take(32)
    reader.take(96)
    isv_prod_id, isv_svn = reader.number("H"), reader.number("H")
    reader.take(60)
    report_data = reader.take(64)
    reader.end()
    return Enclave(cpu_svn, misc_select, attributes, mr_enclave, mr_signer, isv_prod_id, isv_svn, report_data)


def parse_domain(data: bytes) -> Domain:
    """The report of a trust domain in 584 or 648 bytes. Raises `MalformedInput`."""
    reader = Reader(data, "TD report")
    head = reader.take(16), reader.take(48), reader.take(48), reader.take(8), reader.take(8), reader.take(8)
    measured = reader.take(48), reader.take(48), reader.take(48), reader.take(48)
    rtmrs = reader.take(48), reader.take(48), reader.take(48), reader.take(48)
    report_data = reader.take(64)
    service = (reader.take(16), reader.take(48)) if reader.left() else (None, None)
    reader.end()
    return Domain(*head, *measured, rtmrs, report_data, *service)


def _body(reader: Reader, version: int, tee: int) -> Enclave | Domain:
    kind = {SGX: BODY_SGX, TDX: BODY_TD_1_0}.get(tee)
    if kind is None or (version == 3 and tee != SGX):
        raise Unsupported(WHAT, f"expected SGX, or TDX from version 4 on, found kind {tee:#x} in version {version}")
    if version == 5:
        known = (BODY_SGX,) if tee == SGX else (BODY_TD_1_0, BODY_TD_1_5)
        kind, size = reader.number("H"), reader.number("I")
        if kind not in known:
            raise Unsupported(WHAT, f"expected a body of type {known} for kind {tee:#x}, found {kind}")
        if size != SIZES[kind]:
            raise MalformedInput(WHAT, f"expected a body of {SIZES[kind]} bytes, found {size}")
    data = reader.take(SIZES[kind])
    return parse_enclave(data) if kind == BODY_SGX else parse_domain(data)


def _proof(reader: Reader, version: int, body: Enclave | Domain, signed: bytes) -> Quote:
    signature, key = reader.take(64), reader.take(64)
    if version > 3:
        reader = _certification(reader, QE_REPORT)
    qe_signed, qe_signature = reader.take(SIZES[BODY_SGX]), reader.take(64)
    qe_auth = reader.take(reader.number("H"))
    chain = _certification(reader, PCK_CHAIN)
    return Quote(
        version=version,
        body=body,
        signed=signed,
        signature=signature,
        key=key,
        qe_signed=qe_signed,
        qe_report=parse_enclave(qe_signed),
        qe_signature=qe_signature,
        qe_auth=qe_auth,
        pck_chain=chain.take(chain.left()),
    )


def _certification(reader: Reader, expected: int) -> Reader:
    """A reader of the certification data that ends `reader`."""
    kind = reader.number("H")
    if kind != expected:
        raise Unsupported(WHAT, f"expected certification data of type {expected}, found {kind}")
    data = reader.take(reader.number("I"))
    reader.end()
    return Reader(data, WHAT)
