"""A synthetic Intel: the whole hierarchy, a platform with its certificate, a quoting enclave, and what Intel publishes.

Everything is really signed. Whatever a test wants wrong is changed before it is signed: by `dataclasses.replace`, by
arguments, or in the documents, so that a check behind a signature is reached.
"""

from __future__ import annotations

import copy
import functools
import json
import struct
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attest.tdx import Endorsements, Signed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
START, END = NOW - timedelta(days=30), NOW + timedelta(days=300)
LIST_START, LIST_END = NOW - timedelta(days=1), NOW + timedelta(days=20)
FMSPC, PCE_ID, PPID = bytes.fromhex("00906ed50000"), bytes(2), bytes(range(16))
COMPONENTS = (2, 2, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
PCE_SVN = 11
QE_AUTH = bytes(range(32))
ZERO48 = bytes(48)
SECP = ec.SECP256R1()

ROOT, PLATFORM, PROCESSOR = "Intel SGX Root CA", "Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"
SIGNER, LEAF = "Intel SGX TCB Signing", "Intel SGX PCK Certificate"


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """r and s, 32 bytes each."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def certify(
    subject: str | x509.Name,
    key: Any,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool | None,
    usage: str | None = "",
    start: datetime = START,
    end: datetime = END,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> x509.Certificate:
    """A certificate. `usage` is what the key is for: by default what `ca` says."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject if isinstance(subject, x509.Name) else name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if usage is not None:
        builder = builder.add_extension(key_usage(usage or ("certificates" if ca else "data")), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA256())


def key_usage(purpose: str) -> x509.KeyUsage:
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    others = dict.fromkeys((*names, "decipher_only"), False)
    signs = purpose == "certificates"
    return x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, **others)


def revocations(
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    revoked: tuple[x509.Certificate, ...] = (),
    *,
    start: datetime = LIST_START,
    end: datetime = LIST_END,
    critical: bool = False,
) -> bytes:
    """A revocation list, DER."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(name(issuer)).last_update(start).next_update(end)
    if critical:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    for certificate in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(start).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def der(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        size = bytes([len(content)])
    else:
        octets = (len(content).bit_length() + 7) // 8
        size = bytes([0x80 | octets]) + len(content).to_bytes(octets, "big")
    return bytes([tag]) + size + content


def integer(value: int) -> bytes:
    return der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def pair(path: bytes, value: bytes) -> bytes:
    return der(0x30, der(6, bytes.fromhex("2a864886f84d010d01") + path) + value)


def sgx_extension(
    fmspc: bytes = FMSPC, pce_id: bytes = PCE_ID, components: tuple[int, ...] = COMPONENTS, pce_svn: int = PCE_SVN
) -> bytes:
    """Intel's extension of a platform's certificate."""
    versions = [pair(bytes([2, number]), integer(svn)) for number, svn in enumerate((*components, pce_svn), 1)]
    versions.append(pair(b"\2\x12", der(4, bytes(components))))
    configuration = b"".join(pair(bytes([7, number]), der(1, b"\xff")) for number in (1, 2, 3))
    return der(
        0x30,
        b"".join(
            [
                pair(b"\1", der(4, PPID)),
                pair(b"\2", der(0x30, b"".join(versions))),
                pair(b"\3", der(4, pce_id)),
                pair(b"\4", der(4, fmspc)),
                pair(b"\5", der(0x0A, b"\1")),
                pair(b"\6", der(4, bytes(16))),
                pair(b"\7", der(0x30, configuration)),
            ]
        ),
    )


def enclave(report_data: bytes = bytes(64), **fields: Any) -> bytes:
    """The report of an enclave, 384 bytes; by default one that `QE` below describes."""
    values = {
        "misc_select": bytes(4),
        "attributes": bytes.fromhex("1500000000000000e700000000000000"),
        "mr_enclave": sha256(b"enclave").digest(),
        "mr_signer": sha256(b"signer").digest(),
        "isv_prod_id": 2,
        "isv_svn": 4,
    } | fields
    return b"".join(
        [
            bytes(16) + values["misc_select"] + bytes(28) + values["attributes"] + values["mr_enclave"] + bytes(32),
            values["mr_signer"] + bytes(96) + struct.pack("<HH", values["isv_prod_id"], values["isv_svn"]) + bytes(60),
            report_data,
        ]
    )


def domain(report_data: bytes = bytes(64), *, td15: bool = False, **fields: Any) -> bytes:
    """The report of a trust domain, 584 bytes, or 648."""
    values = {
        "tee_tcb_svn": bytes.fromhex("06010300000000000000000000000000"),
        "mr_seam": bytes(range(48)),
        "mr_signer_seam": ZERO48,
        "seam_attributes": bytes(8),
        "td_attributes": bytes.fromhex("0000001000000000"),
        "xfam": bytes.fromhex("e702060000000000"),
        "mr_td": bytes([0xD0]) * 48,
        "mr_config_id": bytes([0xC1]) * 48,
        "mr_owner": bytes([0xC2]) * 48,
        "mr_owner_config": bytes([0xC3]) * 48,
        "rtmrs": (bytes([0xA0]) * 48, bytes([0xA1]) * 48, ZERO48, bytes([0xA3]) * 48),
    } | fields
    rtmrs = values.pop("rtmrs")
    tail = values.pop("tee_tcb_svn2", bytes(16)) + values.pop("mr_service_td", ZERO48) if td15 else b""
    return b"".join(values.values()) + b"".join(rtmrs) + report_data + tail


QE: dict[str, Any] = {
    "id": "TD_QE",
    "version": 2,
    "issueDate": "2026-02-27T00:00:00Z",
    "nextUpdate": "2026-03-27T00:00:00Z",
    "tcbEvaluationDataNumber": 18,
    "miscselect": "00000000",
    "miscselectMask": "FFFFFFFF",
    "attributes": "11000000000000000000000000000000",
    "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
    "mrsigner": sha256(b"signer").hexdigest().upper(),
    "isvprodid": 2,
    "tcbLevels": [
        {"tcb": {"isvsvn": 4}, "tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": "UpToDate"},
        {
            "tcb": {"isvsvn": 3},
            "tcbDate": "2024-05-14T00:00:00Z",
            "tcbStatus": "OutOfDate",
            "advisoryIDs": ["INTEL-SA-00303"],
        },
        {"tcb": {"isvsvn": 2}, "tcbDate": "2023-05-14T00:00:00Z", "tcbStatus": "Revoked"},
    ],
}
"""The identity of the quoting enclave that `enclave` describes."""


def level(status: str, sgx: tuple[int, ...], pce: int, tdx: tuple[int, ...] | None, *advisories: str) -> dict[str, Any]:
    """A level of the platform."""
    tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": svn} for svn in sgx], "pcesvn": pce}
    if tdx is not None:
        tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in (*tdx, *[0] * 13)]
    found: dict[str, Any] = {"tcb": tcb, "tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": status}
    return found | ({"advisoryIDs": list(advisories)} if advisories else {})


LOW = (1, *COMPONENTS[1:])
TCB: dict[str, Any] = {
    "id": "TDX",
    "version": 3,
    "issueDate": "2026-02-27T00:00:00Z",
    "nextUpdate": "2026-03-27T00:00:00Z",
    "fmspc": FMSPC.hex().upper(),
    "pceId": "0000",
    "tcbType": 0,
    "tcbEvaluationDataNumber": 19,
    "tdxModule": {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8},
    "tdxModuleIdentities": [
        {
            "id": "TDX_01",
            "mrsigner": "00" * 48,
            "attributes": "00" * 8,
            "attributesMask": "FF" * 8,
            "tcbLevels": [
                {"tcb": {"isvsvn": 4}, "tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": "UpToDate"},
                {
                    "tcb": {"isvsvn": 2},
                    "tcbDate": "2024-05-14T00:00:00Z",
                    "tcbStatus": "OutOfDate",
                    "advisoryIDs": ["INTEL-SA-00202"],
                },
                {"tcb": {"isvsvn": 1}, "tcbDate": "2024-05-14T00:00:00Z", "tcbStatus": "Revoked"},
            ],
        }
    ],
    "tcbLevels": [
        level("UpToDate", COMPONENTS, 11, (5, 0, 2)),
        level("SWHardeningNeeded", COMPONENTS, 10, (5, 0, 2), "INTEL-SA-00110"),
        level("ConfigurationNeeded", COMPONENTS, 9, (5, 0, 2), "INTEL-SA-00109"),
        level("OutOfDate", LOW, 5, (3, 0, 1), "INTEL-SA-00101", "INTEL-SA-00105"),
        level("Revoked", LOW, 4, (1, 0, 1)),
    ],
}
"""The levels of the platform that `sgx_extension` describes."""


@dataclass(frozen=True)
class Intel:
    """Keys and certificates. Made by `make`; change parts by `dataclasses.replace`."""

    root_key: ec.EllipticCurvePrivateKey
    authority_key: ec.EllipticCurvePrivateKey
    signer_key: ec.EllipticCurvePrivateKey
    pck_key: ec.EllipticCurvePrivateKey
    attestation_key: ec.EllipticCurvePrivateKey
    root: x509.Certificate
    authority: x509.Certificate
    signer: x509.Certificate
    leaf: x509.Certificate
    qe: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(QE))
    """The identity that is published."""
    tcb: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(TCB))
    """The TCB info that is published."""

    def pck_chain(self) -> bytes:
        """As in a quote."""
        return pem(self.leaf, self.authority, self.root)

    def signed(self, document: dict[str, Any] | bytes) -> Signed:
        """A document, as it is published."""
        body = document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
        return Signed(body, sign(self.signer_key, body), pem(self.signer, self.root))

    def endorsements(self, **changes: Any) -> Endorsements:
        """Everything that a quote is judged by."""
        values: dict[str, Any] = {
            "root": self.root.public_bytes(Encoding.DER),
            "root_crl": revocations(ROOT, self.root_key),
            "pck_crl": revocations(PLATFORM, self.authority_key),
            "tcb_info": self.signed(self.tcb),
            "qe_identity": self.signed(self.qe),
        }
        return Endorsements(**values | changes)

    def quote(
        self,
        body: bytes,
        *,
        version: int = 4,
        qe: dict[str, Any] | None = None,
        bound: bytes | None = None,
        chain: bytes | None = None,
    ) -> bytes:
        """A quote of `body`; `qe` are fields of the quoting enclave's report, `bound` is its report data."""
        tee = 0 if len(body) == 384 else 0x81
        header = struct.pack("<HHIHH", version, 2, tee, 0, 0) + bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
        signed = header + bytes(20)
        if version == 5:
            signed += struct.pack("<HI", {384: 1, 584: 2, 648: 3}[len(body)], len(body))
        signed += body
        key = point(self.attestation_key)
        report = enclave(sha256(key + QE_AUTH).digest() + bytes(32) if bound is None else bound, **qe or {})
        proof = report + sign(self.pck_key, report) + struct.pack("<H", len(QE_AUTH)) + QE_AUTH
        proof += certification(5, self.pck_chain() if chain is None else chain)
        if version > 3:
            proof = certification(6, proof)
        data = sign(self.attestation_key, signed) + key + proof
        return signed + struct.pack("<I", len(data)) + data

    def for_sgx(self) -> Intel:
        """The same, with what is published for enclaves."""
        info = copy.deepcopy(self.tcb) | {"id": "SGX"}
        del info["tdxModule"], info["tdxModuleIdentities"]
        for item in info["tcbLevels"]:
            del item["tcb"]["tdxtcbcomponents"]
        return replace(self, tcb=info, qe=copy.deepcopy(self.qe) | {"id": "QE"})


def make(extension: bytes | None = None) -> Intel:
    """A new hierarchy, and one platform of it."""
    root, authority, signer, pck, attestation = (ec.generate_private_key(SECP) for _ in range(5))
    return Intel(
        root,
        authority,
        signer,
        pck,
        attestation,
        root=certify(ROOT, root, ROOT, root, ca=True),
        authority=certify(PLATFORM, authority, ROOT, root, ca=True),
        signer=certify(SIGNER, signer, ROOT, root, ca=False),
        leaf=certify(LEAF, pck, PLATFORM, authority, ca=False, extensions=intels(extension or sgx_extension())),
    )


def intels(extension: bytes) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    """For `certify`: Intel's extension, with this content."""
    return ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.1"), extension), False),)


def certification(kind: int, data: bytes) -> bytes:
    return struct.pack("<HI", kind, len(data)) + data


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


@functools.cache
def intel() -> Intel:
    """One hierarchy for all tests that change nothing in it."""
    return make()


def stored(folder: Path, name: str) -> Endorsements:
    """The real Intel's collateral, as dcap-qvl stores it."""
    fields = json.loads((folder / name).read_bytes())

    def document(field: str) -> Signed:
        signature = bytes.fromhex(fields[f"{field}_signature"])
        return Signed(fields[field].encode(), signature, fields[f"{field}_issuer_chain"].encode())

    root = (folder / "TrustedRootCA.der").read_bytes()
    lists = bytes.fromhex(fields["root_ca_crl"]), bytes.fromhex(fields["pck_crl"])
    return Endorsements(root, *lists, document("tcb_info"), document("qe_identity"))
