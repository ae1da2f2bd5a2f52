"""A lab on disk: certificate authority, certificate log, transparency log and timestamp authority in one directory.

    lab.json                      name and date
    keys/                         private keys, encrypted (`keys.py`), or what names those in a device (`stores.py`);
                                  those of `root` and `tsa-root` can move away
    passphrase                    only in a lab that was made without one
    certificates/                 ca.pem, tsa.pem: chains, the signer first
    log/  ct/                     the two logs (see `tiles.py`)
    public/                       what the lab hands out (see `trustroot.py`)

The controller holds the signing key and signs; the notary certifies the key, logs, and stamps. Clock and passphrase are
parameters. docs/formats/lab-directory.md has the whole of it.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import Field, StringConstraints

from appliance.notary import stores, trustroot
from appliance.notary.ca import CertificateAuthority, make_authority, make_timestamper, spki
from appliance.notary.ctlog import CertificateLog
from appliance.notary.files import make_directories, read_bounded, sync_directory, write_file
from appliance.notary.keys import FileKeys, check_private, derive, new_passphrase
from appliance.notary.protocol import Enrolment, Registered
from appliance.notary.tlog import Clock, TransparencyLog
from appliance.notary.tsa import TimestampAuthority
from attest import bundle, canonical, chain, dsse
from attest.canonical import JSON, Model
from attest.digest import raw
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
from attest.log import LogReceipt
from attest.profile import check_certificate, identity_uri, is_lab_name, issuer_of, issuer_uri

DEFAULT_NAME = "lab.example"
CERTIFICATE_MINUTES = 10
SALT_LABEL = b"vitrine/salt-key/v1"
RESUME_LABEL = b"vitrine/resume-key/v1"
MAX_BYTES = 1 << 20


class LabFile(Model):
    """`lab.json`."""

    format: Literal["vitrine/lab/v1"] = "vitrine/lab/v1"
    """Format and version."""
    name: str
    """The lab's name, a DNS name."""
    keys: str | None = Field(default=None, min_length=1, max_length=1000)
    """Where its signing keys are, as `stores.choose` takes it; in files when absent."""
    created: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
    """When it was made, RFC 3339, UTC."""

    @property
    def start(self) -> datetime:
        """The same as a time. Raises `MalformedInput`."""
        try:
            return datetime.fromisoformat(self.created)
        except ValueError:
            raise MalformedInput("lab.json", f"created: expected a date, found {self.created}") from None


class Lab:
    """An open lab. `create` and `open_lab` make one."""

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        authority: CertificateAuthority,
        ctlog: CertificateLog,
        log: TransparencyLog,
        timestamper: TimestampAuthority,
        salt: ec.EllipticCurvePrivateKey,
        now: Clock,
    ) -> None:
        self.path = path
        self.name = name
        self.authority = authority
        self.ctlog = ctlog
        self.log = log
        self.timestamper = timestamper
        self._salt = salt
        self._now = now

    @property
    def issuer(self) -> str:
        """The URI of the lab's certificate authority."""
        return issuer_uri(self.name)

    @property
    def trusted_root(self) -> bytes:
        """The bytes of `public/trusted_root.json`."""
        return _read(self.path / "public" / "trusted_root.json")

    def identity(self, measurement: str, image: str | None = None) -> str:
        """The identity of an appliance by its measurement, 64 to 128 hexadecimal digits, and its machine's image."""
        identity = identity_uri(self.name, measurement, image)
        issuer_of(identity)
        return identity

    def certify(
        self, public_key: ec.EllipticCurvePublicKey, identity: str, *, minutes: int = CERTIFICATE_MINUTES
    ) -> bytes:
        """A certificate, DER, of a P-256 key for `identity`, valid for `minutes` from now.

        Whoever calls this has checked the evidence behind the identity. Raises `VerificationError` for an identity
        that is not one of this lab.
        """
        if issuer_of(identity) != self.issuer:
            raise VerificationError("notary", "identity", expected=self.identity("0" * 64), found=identity)
        certificate = self.authority.issue(
            public_key, identity, minutes=minutes, moment=self._now(), promise=self.ctlog.promise
        )
        return certificate.public_bytes(serialization.Encoding.DER)

    def challenge(self) -> str:
        """32 random bytes, hexadecimal, new ones each time."""
        return secrets.token_hex(32)

    def enrol(self, intent: Mapping[str, JSON], enrolment: Enrolment) -> Registered:  # noqa: ARG002
        """`register` the intent of a run, and the salts of its job. Raises `MalformedInput`.

        Whoever calls this has appraised the run's `enrolment`: a run in this process shows nothing that the process
        does not know.
        """
        receipt = self.register(intent)
        return Registered(receipt=receipt, salt_key=self.salt_key(receipt.intent.job_digest).hex())

    def conclude(
        self, public_key: ec.EllipticCurvePublicKey, identity: str, payload: bytes, payload_type: str, signature: bytes
    ) -> bytes:
        """`certify` the key, then `assemble` what it signed. Raises `VerificationError`, `MalformedInput`."""
        return self.assemble(payload, payload_type, signature, self.certify(public_key, identity))

    def register(self, intent: Mapping[str, JSON]) -> LogReceipt:
        """Log the intent of a run before it starts: job, lock and key by digest, and `nonce` where there is one.

        The receipt's body has the attempt's number and the time. Raises `MalformedInput`.
        """
        return self.log.register(intent, self._now)

    def salt_key(self, job_digest: str) -> bytes:
        """The 32 bytes that blind a job's samples: the same for every run of the job in this lab, secret outside."""
        return derive(self._salt, SALT_LABEL + raw(job_digest))

    def resume_key(self, job_digest: str) -> bytes:
        """The 32 bytes by which this lab knows the samples of a job that was cut off.

        They go to the controllers that the lab starts on this job, and nowhere else.
        """
        return derive(self._salt, RESUME_LABEL + raw(job_digest))

    def attempts(self, job_digest: str) -> int:
        """How many runs of the job were registered so far."""
        return self.log.attempts(job_digest)

    def assemble(self, payload: bytes, payload_type: str, signature: bytes, certificate_der: bytes) -> bytes:
        """The bundle (JSON) of a payload that the controller signed: logs the signature, stamps it, packs.

        `signature` is DER ECDSA over `attest.dsse.pae`. Nothing is logged that would not verify: the certificate has to
        be this lab's and valid now, and the signature its key's. Raises `VerificationError`, `MalformedInput`.
        """
        envelope = dsse.make(payload, payload_type, signature)
        certificate = self._check(envelope, certificate_der)
        entry = self.log.log_signature(envelope, certificate, self._now)
        return bundle.assemble(envelope, certificate_der, entry, self.timestamper.stamp(signature, self._now()))

    def seal_envelope(
        self, payload: bytes, payload_type: str, key: ec.EllipticCurvePrivateKey, certificate_der: bytes
    ) -> bytes:
        """`assemble`, with the signature made here by the caller's key."""
        signature = key.sign(dsse.pae(payload_type, payload), ec.ECDSA(hashes.SHA256()))
        return self.assemble(payload, payload_type, signature, certificate_der)

    def _check(self, envelope: dsse.Envelope, certificate_der: bytes) -> x509.Certificate:
        certificate = chain.load(certificate_der, "certificate")
        check_certificate(certificate, self.issuer)
        try:
            certificate.verify_directly_issued_by(self.authority.chain[0])
            key = certificate.public_key()
            if isinstance(key, ec.EllipticCurvePublicKey):  # check_certificate has seen to that
                key.verify(envelope.signature, envelope.signed_bytes, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError, TypeError):
            raise _refuse("signature", "this lab's certificate and a signature by its key", "another") from None
        start, end, now = certificate.not_valid_before_utc, certificate.not_valid_after_utc, self._now()
        if not start <= now <= end:
            raise _refuse("certificate-time", f"a certificate that is valid at {now}", f"{start} to {end}")
        return certificate


def create(
    path: Path, name: str = DEFAULT_NAME, *, passphrase: str | None = None, keys: str | None = None, now: Clock
) -> Lab:
    """A new lab in `path`, which must not exist. It appears there whole, or not at all.

    `keys` says where its signing keys are made and stay, as `stores.choose` takes it; in files without it.

    Without a passphrase a random one is put into the file `passphrase` beside the keys: that protects copies of the
    keys alone, not the directory. Raises `MalformedInput` for a bad name, `EnvironmentProblem`, `OSError`.
    """
    if not is_lab_name(name):
        raise MalformedInput("lab name", f"expected a DNS name in lower case, such as {DEFAULT_NAME}, found {name!r}")
    if path.exists() or path.is_symlink():
        raise EnvironmentProblem(f"expected nothing at {path}: give a path where the lab can be made")
    make_directories(path.parent)
    building = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    building.mkdir(mode=0o700)
    try:
        _write(building, name, passphrase, keys, now())
        building.rename(path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync_directory(path.parent)
    return open_lab(path, passphrase, now=now)


def open_lab(path: Path, passphrase: str | None = None, *, now: Clock) -> Lab:
    """The lab in `path`. Without a passphrase, the one in its file `passphrase` is used.

    Raises `EnvironmentProblem` (modes, passphrase, missing files), `VerificationError` (layer `notary`: a log, key or
    certificate that was altered), `MalformedInput`.
    """
    if not any((path / part).exists() for part in ("lab.json", "keys")):
        raise EnvironmentProblem(
            f"expected a lab in {path}, found none: make one with `appliance init {path}`, or name another with --lab"
        )
    check_private(path, 0o700)
    stored = path / "passphrase"
    if passphrase is None:
        if not stored.exists():
            raise EnvironmentProblem(f"the lab in {path} was made with a passphrase: give it (--passphrase-file)")
        check_private(stored, 0o600)
        passphrase = _read(stored).decode("utf-8", "replace").strip()
    files = FileKeys.open(path / "keys", passphrase)
    about = canonical.parse(LabFile, _read(path / "lab.json"), "lab.json")
    name = about.name
    if not is_lab_name(name):
        raise MalformedInput("lab.json", f"expected a lab's name, found {name[:200]!r}")
    salt = files.load("salt")
    store = stores.choose(about.keys, path / "keys", files)
    ca, tsa, log, ct = (store.load(key) for key in ("ca", "tsa", "log", "ct"))
    lab = Lab(
        path,
        name,
        authority=CertificateAuthority(_chain(path, "ca.pem", ca), ca, issuer_uri(name)),
        ctlog=CertificateLog(path / "ct", f"ct.{name}", ct),
        log=TransparencyLog(path / "log", f"log.{name}", log),
        timestamper=TimestampAuthority(_chain(path, "tsa.pem", tsa), tsa),
        salt=salt,
        now=now,
    )
    for opened in (lab.log, lab.ctlog):
        with opened.locked():
            pass
    if lab.trusted_root != _trusted_root(lab, about.start):
        raise _refuse("trusted-root", "public/trusted_root.json of these keys and certificates", "another")
    return lab


def _write(path: Path, name: str, passphrase: str | None, keys: str | None, moment: datetime) -> None:
    if passphrase is None:
        passphrase = new_passphrase()
        write_file(path / "passphrase", passphrase.encode() + b"\n", mode=0o600)
    files = FileKeys.create(path / "keys", passphrase)
    store = stores.choose(keys, path / "keys", files)
    created = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    write_file(path / "lab.json", canonical.dump_model(LabFile(name=name, keys=keys, created=created)))

    root = make_authority(name, "Root Authority", store.generate("root"), moment, path=1)
    purpose = ExtendedKeyUsageOID.CODE_SIGNING
    issuing = make_authority(
        name, "Signing Authority", store.generate("ca"), moment, path=0, parent=root, purpose=purpose
    )
    tsa_root = make_authority(name, "Timestamp Root", store.generate("tsa-root"), moment, path=0)
    chains = {
        "ca.pem": (issuing.certificate, root.certificate),
        "tsa.pem": (make_timestamper(name, store.generate("tsa"), tsa_root), tsa_root.certificate),
    }
    (path / "certificates").mkdir()
    for file, certificates in chains.items():
        pem = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)
        write_file(path / "certificates" / file, pem)

    files.generate("salt")
    log_key, ct_key = store.generate("log"), store.generate("ct")
    TransparencyLog.create(path / "log", f"log.{name}", log_key)
    CertificateLog.create(path / "ct", f"ct.{name}", ct_key)

    trusted = trustroot.trusted_root(
        name,
        log=TransparencyLog(path / "log", f"log.{name}", log_key).identity,
        ctlog=CertificateLog(path / "ct", f"ct.{name}", ct_key).identity,
        authority=chains["ca.pem"],
        timestamper=chains["tsa.pem"],
        start=moment,
    )
    (path / "public").mkdir()
    write_file(path / "public" / "trusted_root.json", trusted)
    write_file(path / "public" / "trust_config.json", trustroot.trust_config(trusted))
    write_file(path / "public" / "README.txt", trustroot.readme(name, trusted))


def _trusted_root(lab: Lab, start: datetime) -> bytes:
    return trustroot.trusted_root(
        lab.name,
        log=lab.log.identity,
        ctlog=lab.ctlog.identity,
        authority=lab.authority.chain,
        timestamper=lab.timestamper.chain,
        start=start,
    )


def _chain(path: Path, file: str, key: ec.EllipticCurvePrivateKey) -> Sequence[x509.Certificate]:
    """The chain in `certificates/`, whose first certificate has to be of `key`."""
    try:
        chain = x509.load_pem_x509_certificates(_read(path / "certificates" / file))
    except ValueError as error:
        raise MalformedInput(f"certificates/{file}", f"expected PEM certificates: {error}") from None
    first = chain[0].public_key()
    if len(chain) < 2 or not isinstance(first, ec.EllipticCurvePublicKey) or spki(first) != spki(key.public_key()):
        raise _refuse("certificate", f"a chain in certificates/{file} for the key in keys/", "another")
    return chain


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        raise EnvironmentProblem(f"expected {path}, found nothing: this is not a whole lab directory") from None


def _refuse(code: str, expected: object, found: object) -> VerificationError:
    return VerificationError("notary", code, expected=expected, found=found)
