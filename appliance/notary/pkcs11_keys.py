"""A lab's signing keys in a token that speaks PKCS#11: a smart card, a hardware security module, SoftHSM.

Keys are made in the token, sensitive and not extractable, and found by a random identifier that `keys/NAME.pkcs11`
holds. `python-pkcs11` talks to the token's module (`pip install 'vitrine[pkcs11]'`).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import Field

from appliance.notary.device_key import DeviceKey
from appliance.notary.files import read_bounded, write_file
from appliance.notary.keys import check_private, read_passphrase
from attest import canonical
from attest.canonical import Model
from attest.errors import EnvironmentProblem, MalformedInput

MAX_FILE_BYTES = 4096
ID_BYTES = 16
FORM = "expected pkcs11:token=NAME?module-path=/MODULE&pin-source=/FILE"
HALF = 32
"""Bytes of r, and of s."""
LOGIN = threading.Lock()


class TokenKeyFile(Model):
    """`keys/NAME.pkcs11`."""

    format: Literal["vitrine/pkcs11-key/v1"] = "vitrine/pkcs11-key/v1"
    """Format and version."""
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    """CKA_ID of both halves, hexadecimal."""


class Pkcs11Keys:
    """Keys in the token that an RFC 7512 text names, without its `pkcs11:`."""

    def __init__(self, directory: Path, text: str) -> None:
        self._directory = directory
        path, _, query = text.partition("?")
        where = dict(item.partition("=")[::2] for item in path.split(";")) | dict(parse_qsl(query))
        if set(where) != {"token", "module-path", "pin-source"} or not where["token"]:
            raise MalformedInput("keys", FORM)
        module, pin = Path(where["module-path"]), Path(where["pin-source"].removeprefix("file:"))
        if not module.is_absolute() or not pin.is_absolute():
            raise MalformedInput("keys", f"{FORM}, both paths absolute")
        self._token, self._module, self._pin = unquote(where["token"]), module, pin

    def generate(self, name: str) -> ec.EllipticCurvePrivateKey:
        """A new key in the token, named by `NAME.pkcs11`. Raises `FileExistsError`, `EnvironmentProblem`."""
        key = TokenKeyFile(id=secrets.token_hex(ID_BYTES))
        write_file(self._file(name), canonical.dump_model(key), mode=0o600, exclusive=True)
        with self._session(rw=True) as session, self._told("make a key"):
            from pkcs11 import Attribute, KeyType
            from pkcs11.util.ec import encode_named_curve_parameters

            curve = session.create_domain_parameters(
                KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
            )
            curve.generate_keypair(
                store=True,
                id=bytes.fromhex(key.id),
                label=f"vitrine {name}",
                private_template={
                    Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.SIGN: True,
                    Attribute.DERIVE: False,
                },
            )  # fmt: skip
        return self._key(name, key)

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        """The key that `NAME.pkcs11` names, in this token. Raises `EnvironmentProblem`, `MalformedInput`."""
        path = self._file(name)
        check_private(path, 0o600)
        return self._key(name, canonical.parse(TokenKeyFile, read_bounded(path, MAX_FILE_BYTES), path.name))

    def _key(self, name: str, key: TokenKeyFile) -> DeviceKey:
        with self._session() as session, self._told(f"have the key of {self._file(name)}: was it made in another one?"):
            from pkcs11.util.ec import encode_ec_public_key

            der = encode_ec_public_key(_half(session, key, "PUBLIC_KEY"))
            _half(session, key, "PRIVATE_KEY")
        public = load_der_public_key(der)
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise MalformedInput(self._file(name).name, "expected it to name a P-256 key")
        return DeviceKey(public, lambda digest: self._sign(name, key, digest))

    def _sign(self, name: str, key: TokenKeyFile, digest: bytes) -> tuple[int, int]:
        with self._session() as session, self._told(f"sign with the key of {self._file(name)}"):
            from pkcs11 import Mechanism

            signature = _half(session, key, "PRIVATE_KEY").sign(digest, mechanism=Mechanism.ECDSA)
        if len(signature) != 2 * HALF:
            raise MalformedInput("PKCS#11 signature", f"expected {2 * HALF} bytes, found {len(signature)}")
        return int.from_bytes(signature[:HALF], "big"), int.from_bytes(signature[HALF:], "big")

    @contextmanager
    def _session(self, *, rw: bool = False) -> Iterator[Any]:
        """A session for one use. Who is logged in is so for the whole process: one session at a time."""
        try:
            import pkcs11
        except ModuleNotFoundError:
            raise EnvironmentProblem(
                "keys in a PKCS#11 token need python-pkcs11, which is not installed here: pip install 'vitrine[pkcs11]'"
            ) from None
        pin = read_passphrase(self._pin)
        with LOGIN:
            with self._told(f"answer by {self._module}: is the module there, the token connected?"):
                token = pkcs11.lib(str(self._module)).get_token(token_label=self._token)
            with self._told(f"take the PIN in {self._pin}"):
                session = token.open(rw=rw, user_pin=pin)
            try:
                yield session
            finally:
                session.close()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Says what was asked of the token when it refuses."""
        from pkcs11 import PKCS11Error

        try:
            yield
        except (PKCS11Error, RuntimeError) as error:
            reason = f"{type(error).__name__} {error}".strip()
            raise EnvironmentProblem(f"the PKCS#11 token {self._token!r} does not {what} ({reason})") from None

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.pkcs11"


def _half(session: Any, key: TokenKeyFile, half: Literal["PUBLIC_KEY", "PRIVATE_KEY"]) -> Any:
    from pkcs11 import KeyType, ObjectClass

    return session.get_key(object_class=ObjectClass[half], key_type=KeyType.EC, id=bytes.fromhex(key.id))
