"""A lab's signing keys in a TPM 2.0: made there, and of use in that TPM alone.

`keys/NAME.tpm` holds a key as the TPM hands it out: its public half, and the private half encrypted under the storage
key, which never leaves the TPM. It is used with a secret that follows from the lab's passphrase. The storage key is the
primary key of the owner's hierarchy, made anew from its seed each time (TCG TPM v2.0 Provisioning Guidance, 7.5.1);
clearing the TPM changes the seed, and the lab's keys with it are gone.

Wrong passphrases do not lock the TPM (the keys have `noDA`): the passphrase is long, and stretched.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from appliance.attester import tpm_commands as commands
from appliance.enclave import tpm_device
from appliance.enclave.tpm_device import Tpm
from appliance.notary.device_key import DeviceKey
from appliance.notary.files import read_bounded, write_file
from appliance.notary.keys import check_private
from attest import canonical
from attest.canonical import Model
from attest.dsse import Base64
from attest.errors import EnvironmentProblem, MalformedInput

MAX_FILE_BYTES = 16 << 10


class TpmKeyFile(Model):
    """`keys/NAME.tpm`."""

    format: Literal["vitrine/tpm-key/v1"] = "vitrine/tpm-key/v1"
    """Format and version."""
    public: Base64 = Field(max_length=1024)
    """TPMT_PUBLIC."""
    private: Base64 = Field(max_length=1024)
    """The contents of TPM2B_PRIVATE: encrypted by the TPM."""


class TpmKeys:
    """Keys in the TPM at `path` (a device, or a software TPM's socket); None: in this machine's."""

    def __init__(self, directory: Path, path: Path | None, secret: bytes) -> None:
        self._directory = directory
        self._path = path
        self._secret = secret

    def generate(self, name: str) -> ec.EllipticCurvePrivateKey:
        """A new key, as `NAME.tpm`. Raises `FileExistsError`, `EnvironmentProblem`."""
        with self._storage() as (tpm, storage):
            public, private = commands.create_signer(tpm, storage, self._secret)
        key = TpmKeyFile(public=public, private=private)
        write_file(self._file(name), canonical.dump_model(key), mode=0o600, exclusive=True)
        return self._key(name, key)

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        """The key in `NAME.tpm`, which this TPM knows. Raises `EnvironmentProblem`, `MalformedInput`."""
        path = self._file(name)
        check_private(path, 0o600)
        key = canonical.parse(TpmKeyFile, read_bounded(path, MAX_FILE_BYTES), path.name)
        with self._loaded(name, key):
            return self._key(name, key)

    def _key(self, name: str, key: TpmKeyFile) -> DeviceKey:
        point = tpm_device.point(key.public)
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        except ValueError as error:
            raise MalformedInput(self._file(name).name, f"expected a point of P-256: {error}") from None
        return DeviceKey(public, lambda digest: self._sign(name, key, digest))

    def _sign(self, name: str, key: TpmKeyFile, digest: bytes) -> tuple[int, int]:
        with self._loaded(name, key) as (tpm, handle):
            try:
                return commands.sign(tpm, handle, self._secret, digest)
            except EnvironmentProblem as error:
                raise EnvironmentProblem(
                    f"the TPM does not sign with {self._file(name)}: give the passphrase that the lab was made with "
                    f"({error})"
                ) from None

    @contextmanager
    def _loaded(self, name: str, key: TpmKeyFile) -> Iterator[tuple[Tpm, int]]:
        """The TPM, and what it calls the key."""
        with self._storage() as (tpm, storage):
            try:
                handle = commands.load(tpm, storage, key.public, key.private)
            except EnvironmentProblem as error:
                raise EnvironmentProblem(
                    f"{self._file(name)} is not of the TPM {self._path or 'of this machine'}, which is another one or "
                    f"was cleared, or the file is damaged: restore it, or make a new lab ({error})"
                ) from None
            try:
                yield tpm, handle
            finally:
                commands.flush(tpm, handle)

    @contextmanager
    def _storage(self) -> Iterator[tuple[Tpm, commands.Object]]:
        """The TPM, open for one use, so that several processes can take turns; and its storage key."""
        with self._open() as tpm:
            storage = commands.create_primary(tpm, commands.STORAGE, commands.OWNER)
            try:
                yield tpm, storage
            finally:
                commands.flush(tpm, storage.handle)

    def _open(self) -> Tpm:
        if self._path is None:
            return tpm_device.open_device()
        try:
            found = self._path.stat().st_mode
            return tpm_device.open_socket(self._path) if stat.S_ISSOCK(found) else tpm_device.open_path(self._path)
        except OSError as error:
            raise EnvironmentProblem(
                f"no TPM at {self._path} ({error.strerror}), and the lab's keys are in one: start it, or connect it"
            ) from None

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.tpm"
