"""What authenticated evidence of a TPM says, as data."""

from __future__ import annotations

import re
from typing import Final, Literal

from attest.canonical import Model
from attest.digest import Digest
from attest.tpm import boot, chain
from attest.tpm.authenticate import Authenticated, Explanation, Vouched
from attest.tpm.boot import Boot
from attest.tpm.ima import File
from attest.tpm.layout import Hash

Kind = Literal["hardware", "software", "unknown"]

BANKS: Final[tuple[Hash, ...]] = ("sha256", "sha384", "sha512")
"""The banks that events are read by, in order of preference; SHA-1 is not among them."""
PROGRAM_MAKERS: Final = {"00001014"}
"""Manufacturers of TPMs that are programs: IBM's number in swtpm and in simulators."""
PROGRAM_MODELS: Final = re.compile("swtpm|vtpm|virtual|simulator|software", re.IGNORECASE)
"""Models that say so of themselves: swtpm, and those of clouds."""


class Counter(Model):
    """A counter of the TPM."""

    index: int
    """Its index."""
    value: int
    """What it stands at."""


class Claims(Model):
    """What the evidence says."""

    platform: Literal["tpm"] = "tpm"
    """The platform."""
    bound: str
    """The quotes' qualifying data, hexadecimal digits."""
    measurements: dict[str, str]
    """Quoted registers: `sha256:7` to hexadecimal digits."""
    debug: bool
    """Whether the firmware's log says that its debugger was on; False also where no log explains register 7."""
    kind: Kind
    """`hardware`: a manufacturer's certificate says so. `software`: the certificate says so, or its root vouches for
    programs only. `unknown`: nobody whom the caller trusts vouches for the key; it may be a program's."""
    vouched_by: Literal["endorsement-key", "key-certificate"] | None
    """By which proof."""
    root: Digest | None
    """SHA-256 of the root certificate that vouches."""
    manufacturer: str | None
    """The manufacturer's number in the TCG's registry, 8 hexadecimal digits."""
    manufacturer_name: str | None
    """The same as text, where it is text: `INTC`."""
    model: str | None
    """The manufacturer's name of the model."""
    model_version: str | None
    """The version of its firmware when it was made."""
    key: str
    """The name of the attestation key, hexadecimal digits."""
    resets: int
    """How often the TPM was reset; a number that tells boots apart where the TPM obfuscates it."""
    restarts: int
    """How often it was resumed since."""
    clock_ms: int
    """Milliseconds that it was powered."""
    explained: dict[str, Explanation]
    """What each quoted register follows from: the firmware's log, the list of files, nothing (it was not extended),
    or what is not known here."""
    bank: Hash | None
    """The bank whose digests `boot` holds; None without a log that covers one with SHA-2."""
    boot: Boot | None
    """What the log says, read from registers that it explains."""
    files: tuple[File, ...]
    """Files that the kernel measured before the quote."""
    counter: Counter | None
    """A counter that was certified with the same qualifying data."""
    skipped: tuple[str, ...]
    """What was not checked, one sentence each."""


def claims(authenticated: Authenticated) -> Claims:
    """What `authenticated` evidence says."""
    statement, vouched = authenticated.statements[0], authenticated.vouched
    identity = None if vouched is None else vouched.identity
    bank, seen = _boot(authenticated)
    return Claims(
        bound=statement.nonce.hex(),
        measurements={
            f"{name}:{register}": value.hex()
            for name, values in sorted(authenticated.values.items())
            for register, value in sorted(values.items())
        },
        debug=seen is not None and seen.debug,
        kind=_kind(vouched),
        vouched_by=None if vouched is None else vouched.by,
        root=None if vouched is None else chain.fingerprint(vouched.root),
        manufacturer=None if identity is None else identity.manufacturer,
        manufacturer_name=None if identity is None else _text(identity.manufacturer),
        model=None if identity is None else identity.model,
        model_version=None if identity is None else identity.version,
        key=authenticated.key.name.hex(),
        resets=statement.resets,
        restarts=statement.restarts,
        clock_ms=statement.clock_ms,
        explained={
            f"{name}:{register}": found
            for name, items in sorted(authenticated.explained.items())
            for register, found in sorted(items.items())
        },
        bank=bank,
        boot=seen,
        files=authenticated.files,
        counter=None
        if authenticated.counter is None
        else Counter(index=authenticated.counter[0], value=authenticated.counter[1]),
        skipped=authenticated.skipped,
    )


def _boot(authenticated: Authenticated) -> tuple[Hash | None, Boot | None]:
    log = authenticated.log
    for bank in BANKS:
        if log is not None and bank in log.banks and bank in authenticated.explained:
            found = authenticated.explained[bank]
            return bank, boot.read(log, bank, {register for register in found if found[register] == "event-log"})
    return None, None


def _kind(vouched: Vouched | None) -> Kind:
    if vouched is None:
        return "unknown"
    identity = vouched.identity
    says_program = identity is not None and (
        identity.manufacturer in PROGRAM_MAKERS or PROGRAM_MODELS.search(identity.model) is not None
    )
    return "software" if says_program else vouched.root.vouches_for


def _text(number: str) -> str | None:
    text = bytes.fromhex(number).rstrip(b"\0 ").decode("latin-1")
    return text if text and text.isascii() and text.isprintable() else None
