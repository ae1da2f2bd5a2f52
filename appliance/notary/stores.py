"""Where a lab's signing keys are: in files, in a TPM 2.0, or in a device that speaks PKCS#11.

    file                                           keys/NAME.pem, under the lab's passphrase
    tpm:                                           this machine's TPM; `tpm:PATH` names a device, or swtpm's socket
    pkcs11:token=T?module-path=M&pin-source=F      a token, named as in RFC 7512; F is a file (mode 0600) with its PIN

Paths are absolute, because the text stands in `lab.json`. A key in a device is made there and never leaves it; `keys/`
holds what names it. The key of the salts signs nothing and is in a file always.
"""

from __future__ import annotations

from pathlib import Path

from appliance.notary.keys import FileKeys, KeyStore
from attest.errors import MalformedInput

FILES = "file"


def choose(where: str | None, directory: Path, files: FileKeys) -> KeyStore:
    """The store that `where` names; `directory` is the lab's folder of keys, `files` its keys in files.

    Raises `MalformedInput` for a text that names none. Whether a device is there shows when it is used.
    """
    if where is None or where == FILES:
        return files
    kind, colon, rest = where.partition(":")
    if kind == "tpm" and colon and (not rest or rest.startswith("/")):
        from appliance.notary.tpm_keys import TpmKeys

        return TpmKeys(directory, Path(rest) if rest else None, files.secret(b"vitrine/tpm-key/v1"))
    if kind == "pkcs11":
        from appliance.notary.pkcs11_keys import Pkcs11Keys

        return Pkcs11Keys(directory, rest)
    raise MalformedInput("keys", f"expected file, tpm:[/PATH] or pkcs11:token=..., found {where[:80]!r}")
