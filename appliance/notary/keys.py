"""The lab's private keys at rest: P-256, in files, PKCS#8, encrypted under the lab's passphrase.

Other stores (`stores.py`) keep the signing keys in a device, which never hands them out.

The passphrase is stretched once per lab with scrypt (parameters in `kdf.json`, beside the keys); its output, in
hexadecimal, is the password of every PKCS#8 file. A directory that others can enter, or a key file that others can
read, is refused, and the message names the fix.

A lab that is made without a passphrase gets a random one, in a file beside the keys. That protects copies of the key
files that are made without it; it does not protect the directory from who can read it.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Literal, Protocol

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Field

from appliance.notary.files import read_bounded, write_file
from attest import canonical
from attest.canonical import Model
from attest.dsse import Base64
from attest.errors import EnvironmentProblem

KDF_FILE = "kdf.json"
MAX_FILE_BYTES = 64 << 10
PASSPHRASE_BYTES = 32


class Kdf(Model):
    """How the passphrase becomes the password of the key files: scrypt, RFC 7914."""

    format: Literal["vitrine/lab-kdf/v1"] = "vitrine/lab-kdf/v1"
    """Format and version."""
    salt: Base64
    """32 random bytes."""
    n: int = Field(default=1 << 15, ge=1 << 14, le=1 << 20)
    """CPU and memory cost."""
    r: int = Field(default=8, ge=8, le=16)
    """Block size."""
    p: int = Field(default=1, ge=1, le=4)
    """Parallelism."""


class KeyStore(Protocol):
    """Keeps private keys by their names. What it hands out signs; only a file's key can also be looked into."""

    def generate(self, name: str) -> ec.EllipticCurvePrivateKey:
        """A new P-256 key, stored as `name`. Raises `FileExistsError`, `EnvironmentProblem`."""
        ...

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        """The key stored as `name`. Raises `EnvironmentProblem`, `MalformedInput`."""
        ...


class FileKeys:
    """The key files of one lab, opened with its passphrase: a `KeyStore`."""

    def __init__(self, directory: Path, password: bytes) -> None:
        self._directory = directory
        self._password = password

    @classmethod
    def create(cls, directory: Path, passphrase: str) -> FileKeys:
        """A new, empty store in `directory`, which must not exist. Raises `EnvironmentProblem`, `OSError`."""
        _require_passphrase(passphrase)
        directory.mkdir(mode=0o700)
        directory.chmod(0o700)
        kdf = Kdf(salt=secrets.token_bytes(32))
        write_file(directory / KDF_FILE, canonical.dump_model(kdf), mode=0o600)
        return cls(directory, _stretch(passphrase, kdf))

    @classmethod
    def open(cls, directory: Path, passphrase: str) -> FileKeys:
        """The store in `directory`. Raises `EnvironmentProblem` for modes too open, `MalformedInput` for `kdf.json`."""
        _require_passphrase(passphrase)
        check_private(directory, 0o700)
        check_private(directory / KDF_FILE, 0o600)
        kdf = canonical.parse(Kdf, read_bounded(directory / KDF_FILE, MAX_FILE_BYTES), KDF_FILE)
        return cls(directory, _stretch(passphrase, kdf))

    def generate(self, name: str) -> ec.EllipticCurvePrivateKey:
        """A new key, stored as `name`.pem. Raises `FileExistsError`."""
        key = ec.generate_private_key(ec.SECP256R1())
        encryption = serialization.BestAvailableEncryption(self._password)
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        write_file(self._path(name), pem, mode=0o600, exclusive=True)
        return key

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        """The key stored as `name`.pem. Raises `EnvironmentProblem`: no such key, open mode, wrong passphrase."""
        path = self._path(name)
        check_private(path, 0o600)
        try:
            key = serialization.load_pem_private_key(read_bounded(path, MAX_FILE_BYTES), self._password)
        except (ValueError, TypeError) as error:
            raise EnvironmentProblem(
                f"the passphrase does not open {path}, or the file is damaged ({error}): give the passphrase that the "
                "lab was made with, or restore the file from a copy"
            ) from None
        if not (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)):
            raise EnvironmentProblem(f"expected a P-256 key in {path}, found {type(key).__name__}: restore the file")
        return key

    def secret(self, label: bytes) -> bytes:
        """32 secret bytes that follow from the passphrase, for use with `label` alone."""
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=label).derive(self._password)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.pem"


def new_passphrase() -> str:
    """A random passphrase of 256 bits, as text."""
    return secrets.token_urlsafe(PASSPHRASE_BYTES)


def read_passphrase(path: Path | None) -> str | None:
    """The passphrase in the file at `path`, without the end of its line. Raises `EnvironmentProblem`, `OSError`."""
    if path is None:
        return None
    if path.stat().st_mode & 0o077:
        raise EnvironmentProblem(f"{path} can be read by others: chmod 600 {path}")
    return path.read_text(encoding="utf-8").rstrip("\n")


def check_private(path: Path, mode: int) -> None:
    """Raise `EnvironmentProblem` unless `path` is there, is ours, is no link, and has no permission beyond `mode`."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise EnvironmentProblem(f"expected {path}, found nothing: this is not a whole lab directory") from None
    if stat.S_ISLNK(found.st_mode):
        raise EnvironmentProblem(f"expected {path} itself, found a link: put the file in its place")
    if found.st_uid != os.geteuid():
        raise EnvironmentProblem(
            f"{path} belongs to user {found.st_uid}: run as that user, or chown {os.geteuid()} {path}"
        )
    if stat.S_IMODE(found.st_mode) & ~mode:
        raise EnvironmentProblem(
            f"expected mode {mode:04o} on {path}, found {stat.S_IMODE(found.st_mode):04o}: run chmod {mode:o} {path}"
        )


def _require_passphrase(passphrase: str) -> None:
    if not passphrase or len(passphrase) > 1024:
        raise EnvironmentProblem("expected a passphrase of 1 to 1024 characters: an empty one protects nothing")


def _stretch(passphrase: str, kdf: Kdf) -> bytes:
    """The password of the key files: 64 hexadecimal digits. About 0.1 s, once."""
    return Scrypt(salt=kdf.salt, length=32, n=kdf.n, r=kdf.r, p=kdf.p).derive(passphrase.encode()).hex().encode()


def derive(key: ec.EllipticCurvePrivateKey, label: bytes) -> bytes:
    """32 secret bytes that belong to `label`: HKDF-SHA-256 over the private number of a key kept for nothing else."""
    secret = key.private_numbers().private_value.to_bytes(32, "big")
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=label).derive(secret)
