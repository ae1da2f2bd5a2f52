"""The Secure Boot keys of a lab: who may change the keys (PK, KEK), and whose signature starts a machine (db).

    DIR/PK.key  PK.crt  PK.esl       the platform key: may change KEK
    DIR/KEK.key KEK.crt KEK.esl      the key exchange key: may change db
    DIR/db.key  db.crt  db.esl       signs boot files: --sign-key and --sign-cert of `appliance image build`

`.key` and `.crt` are PEM, `.esl` are EFI signature lists (UEFI 2.10, 32.4.1), as firmware stores the variables and as
`sign-efi-sig-list` and the menus of firmware take them. Only the lists go beside an image. Nothing of Microsoft or of a
distribution is in them: a machine with these keys starts what this lab signed, and nothing else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from appliance.image import authenticode
from attest.errors import EnvironmentProblem, MalformedInput

VARIABLES = ("PK", "KEK", "db")
X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
"""EFI_CERT_X509_GUID: the list holds certificates."""
OWNER = UUID("d4f2a2a1-4f2e-5c39-9c2d-6a1f0b7e5c11")
"""Whose entries ours are."""
LIST = struct.Struct("<16sIII")
"""EFI_SIGNATURE_LIST: type, size of the list, of its header, of an entry."""
OWNER_BYTES = 16
MAX_LIST_BYTES = 1 << 16
NOT_BEFORE, NOT_AFTER = datetime(2026, 1, 1, tzinfo=UTC), datetime(2056, 1, 1, tzinfo=UTC)
"""Firmware has no clock to trust and looks at neither."""


@dataclass(frozen=True)
class Keys:
    """The Secure Boot variables of a host, as firmware stores them: EFI signature lists, empty where there is none."""

    platform: bytes
    """PK."""
    exchange: bytes
    """KEK."""
    allowed: bytes
    """db."""
    forbidden: bytes = b""
    """dbx: what is refused though somebody in db signed it."""

    @property
    def enabled(self) -> bool:
        """Whether signatures are checked: with a platform key enrolled they are."""
        return bool(self.platform)

    def authority(self, image: bytes) -> bytes:
        """The entry of db (owner and certificate) whose key signed the executable `image`.

        Raises `VerificationError` where none did: firmware refuses to start it.
        """
        found = entries(self.allowed)
        trusted = [certificate for certificate, _ in found]
        signer = authenticode.verify(image, trusted)
        return found[trusted.index(signer)][1]


NO_KEYS = Keys(b"", b"", b"")
"""Secure Boot off, no keys enrolled."""


def signature_list(certificate: x509.Certificate) -> bytes:
    """An EFI signature list of one certificate."""
    entry = OWNER.bytes_le + certificate.public_bytes(Encoding.DER)
    return LIST.pack(X509.bytes_le, LIST.size + len(entry), 0, len(entry)) + entry


def entries(lists: bytes) -> list[tuple[x509.Certificate, bytes]]:
    """The certificates in EFI signature lists, each with its entry: 16 bytes of owner, then DER.

    Raises `MalformedInput` for damaged lists, and for other kinds of entry.
    """
    found = []
    at = 0
    while at < len(lists):
        if at + LIST.size > len(lists):
            raise MalformedInput("signature lists", f"expected a list at offset {at}, found {len(lists) - at} bytes")
        kind, size, header, each = LIST.unpack_from(lists, at)
        body = lists[at + LIST.size : at + size]
        if kind != X509.bytes_le or header or each <= OWNER_BYTES or not body or len(body) % each:
            raise MalformedInput("signature lists", f"expected a list of certificates at offset {at}, found another")
        if at + size > len(lists):
            raise MalformedInput("signature lists", f"expected {size} bytes at offset {at}, found {len(lists) - at}")
        for start in range(0, len(body), each):
            entry = body[start : start + each]
            try:
                certificate = x509.load_der_x509_certificate(entry[OWNER_BYTES:])
                certificate.public_key()
            except (ValueError, UnsupportedAlgorithm) as error:
                raise MalformedInput("signature lists", f"expected a certificate at offset {at}: {error}") from None
            found.append((certificate, entry))
        at += size
    return found


def make(out: Path, name: str) -> Keys:
    """Make a lab's three keys in the new folder `out`. Raises `EnvironmentProblem` where it cannot be written."""
    try:
        out.mkdir(parents=True, mode=0o700)
        for variable in VARIABLES:
            key = rsa.generate_private_key(public_exponent=65537, key_size=authenticode.KEY_BITS)
            certificate = _certificate(key, f"{name} {variable}")
            private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            secret = out / f"{variable}.key"
            secret.touch(mode=0o600)
            secret.write_bytes(private)
            (out / f"{variable}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
            (out / f"{variable}.esl").write_bytes(signature_list(certificate))
    except OSError as error:
        raise EnvironmentProblem(f"cannot write keys to {out}: {error.strerror}; name a new folder") from None
    return read(out)


def present(folder: Path) -> bool:
    """Whether there are signature lists in `folder`: of keys, or beside a signed image."""
    return any((folder / f"{variable}.esl").exists() for variable in VARIABLES)


def read(folder: Path) -> Keys:
    """The variables in `folder`: `PK.esl`, `KEK.esl`, `db.esl`, perhaps `dbx.esl`. Raises `MalformedInput`."""
    names = [*VARIABLES, *(["dbx"] if (folder / "dbx.esl").exists() else [])]
    found = {name: _read(folder / f"{name}.esl") for name in names}
    for name in VARIABLES:
        if not entries(found[name]):
            raise MalformedInput("signature lists", f"expected a certificate in {name}.esl, found none")
    return Keys(found["PK"], found["KEK"], found["db"], found.get("dbx", b""))


def write(keys: Keys, folder: Path) -> None:
    """Write the variables into `folder`, for `read`."""
    lists = {"PK": keys.platform, "KEK": keys.exchange, "db": keys.allowed, "dbx": keys.forbidden}
    for name, content in lists.items():
        if content:
            (folder / f"{name}.esl").write_bytes(content)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        advice = "make keys with `appliance image keys`"
        raise MalformedInput("signature lists", f"expected {path}: {error.strerror}; {advice}") from None
    if len(data) > MAX_LIST_BYTES:
        raise MalformedInput("signature lists", f"expected at most {MAX_LIST_BYTES} bytes in {path}, found more")
    return data


def _certificate(key: rsa.RSAPrivateKey, name: str) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOT_BEFORE).not_valid_after(NOT_AFTER)
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(key, SHA256())
