"""Whether evidence of a TPM is genuine: key, who vouches for it, quotes, registers, logs, what its memory holds.

`authenticate` checks in this order, and raises `VerificationError` (layer `tpm`) at the first thing that is wrong:

1. the key: `key-attributes`, `scheme`;
2. who vouches for it: a certificate of the key, or one of an endorsement key and the answer to a challenge
   (`endorsement`, `endorsement-key`, `endorsement-usage`, `endorsement-identity`, `activation`, `key-certificate`,
   `key-usage`, and those of `chain`);
3. each quote: `signature`, `statement`, `nonce`, `boot`;
4. the values: `selection`, `registers`;
5. the logs: `event-log`, `ima-list`;
6. the counter, and versions that it keeps: `counter`, `versions`.

What is compared with a relying party's wishes is in `policy`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding

from attest.errors import MalformedInput, VerificationError
from attest.tpm import chain, credential, eventlog, ima, layout
from attest.tpm.chain import Endorsements, Identity, Root
from attest.tpm.credential import HASHES, Expected
from attest.tpm.evidence import Evidence, Index, Signed
from attest.tpm.layout import SIZES, Attested, Hash, PublicArea

FIXED_TPM, FIXED_PARENT, ORIGIN, RESTRICTED, DECRYPT, SIGN = 1 << 1, 1 << 4, 1 << 5, 1 << 16, 1 << 17, 1 << 18
"""TPMA_OBJECT (part 2, 8.3): never leaves this TPM, nor its parent; was made in it; does only what the TPM formats."""
STAYS: Final = FIXED_TPM | FIXED_PARENT | ORIGIN | RESTRICTED
STRONG: Final = ("sha256", "sha384", "sha512")
EK_USAGE: Final = "2.23.133.8.1"
"""tcg-kp-EKCertificate."""
AK_USAGES: Final = {"2.23.133.8.3", EK_USAGE}
"""tcg-kp-AIKCertificate; Google's clouds write that of endorsement keys."""
FIRMWARE: Final = range(8)
"""Registers that firmware alone extends: a log has to explain them."""
ORDINARY, COUNTER = 0x00, 0x10
INDEX_TYPE: Final = 0xF0
"""TPMA_NV (part 2, 13.4), bits 4 to 7: the kind of index; 0 holds what was written, 1 is a counter."""
WRITTEN: Final = 1 << 29
COUNTER_BYTES: Final = 8

Explanation = Literal["event-log", "ima-list", "untouched", "unexplained"]
"""What a register's value follows from."""


@dataclass(frozen=True)
class Activation:
    """That the attester solved a challenge."""

    expected: Expected
    """What the verifier kept when it made the challenge."""
    answer: bytes
    """What the attester returned."""


@dataclass(frozen=True)
class Vouched:
    """Who vouches for the key."""

    by: Literal["endorsement-key", "key-certificate"]
    """By which proof."""
    root: Root
    """The root of the certificate."""
    identity: Identity | None
    """The TPM, by its certificate; a certificate of the key need not say."""


@dataclass(frozen=True)
class Authenticated:
    """Evidence that is genuine."""

    key: PublicArea
    """The attestation key."""
    vouched: Vouched | None
    """Who vouches for it; None where the caller did without."""
    statements: tuple[Attested, ...]
    """The quotes."""
    values: Mapping[Hash, Mapping[int, bytes]]
    """The registers that were quoted."""
    explained: Mapping[Hash, Mapping[int, Explanation]]
    """What each of them follows from."""
    log: eventlog.Log | None
    """The firmware's log."""
    files: tuple[ima.File, ...]
    """Measured files, as far as the quoted register goes; later ones are left out."""
    counter: tuple[int, int] | None
    """Index and value of the counter."""
    versions: tuple[tuple[int, bytes], ...]
    """Index and contents of each that keeps a version."""
    skipped: tuple[str, ...]
    """What was not checked, one sentence each."""


def authenticate(
    evidence: Evidence,
    endorsements: Endorsements,
    *,
    nonce: bytes,
    now: datetime,
    activation: Activation | None = None,
    unsafe_without_endorsement: bool = False,
    unsafe_without_revocation: bool = False,
) -> Authenticated:
    """Check `evidence`; what it says. Raises `VerificationError` (layer `tpm`), `MalformedInput`, `Unsupported`."""
    # 1. The key signs what its TPM says, and nothing else.
    key = layout.public_area(evidence.key)
    check_key(key)
    # 2. Somebody whom the caller trusts vouches that it lies in a TPM.
    vouched, skipped = _vouch(evidence, key, endorsements, activation, now, unsafe_without_revocation)
    if vouched is None:
        if not unsafe_without_endorsement:
            raise VerificationError(
                "tpm", "endorsement", expected="a certificate of the key, or an endorsement key that was challenged",
                found="neither", advice="a key that nobody vouches for may lie in a program",
            )  # fmt: skip
        skipped += ("Nobody vouches for the attestation key: it may lie outside any TPM.",)
    # 3. What it signed are quotes, for this nonce, of one boot.
    statements = tuple(check_signed(key, item, nonce) for item in evidence.quotes)
    first = statements[0]
    for item in statements:
        if (item.resets, item.restarts) != (first.resets, first.restarts):
            raise VerificationError(
                "tpm", "boot", expected=f"quotes of one boot, reset {first.resets}.{first.restarts}",
                found=f"{item.resets}.{item.restarts}",
            )  # fmt: skip
    # 4. The values are those that were quoted.
    values = evidence.values()
    check_values(key, statements, values)
    # 5. What the logs explain of them.
    log = None if evidence.event_log is None else eventlog.parse(evidence.event_log)
    explained = _explain(log, values)
    files: tuple[ima.File, ...] = ()
    if evidence.ima_list is not None:
        files = _files(ima.parse(evidence.ima_list), values)
        for bank in values:
            if ima.REGISTER in values[bank]:
                explained[bank][ima.REGISTER] = "ima-list"
    # 6. The counter, and versions.
    counter = None if evidence.counter is None else _counter(key, evidence.counter, nonce)
    versions = tuple(_index(key, item, nonce, "versions", ORDINARY) for item in evidence.versions or ())
    return Authenticated(key, vouched, statements, values, explained, log, files, counter, versions, skipped)


def check_key(key: PublicArea) -> None:
    """`key` attests: made in its TPM, bound to it, signing what the TPM formats. Raises `VerificationError`."""
    if key.attributes & (STAYS | SIGN | DECRYPT) != STAYS | SIGN:
        raise VerificationError(
            "tpm", "key-attributes", expected="restricted, signing, made in its TPM and fixed to it",
            found=f"{key.attributes:#010x}",
            advice="a key that signs what others give it, or that can leave, can sign a quote that no TPM made",
        )  # fmt: skip
    if key.scheme_hash not in STRONG or key.name_hash not in STRONG:
        raise VerificationError(
            "tpm", "scheme", expected="a signature scheme and a name with SHA-2",
            found=f"{key.scheme} with {key.scheme_hash}, a name with {key.name_hash}",
        )  # fmt: skip


def check_signed(key: PublicArea, signed: Signed, nonce: bytes) -> Attested:
    """What `key` signed with this `nonce`. Raises `VerificationError` (`signature`, `nonce`), `MalformedInput`."""
    signature = layout.signature(signed.signature)
    if (signature.scheme, signature.hash) != (key.scheme, key.scheme_hash) or not _signed(key, signed, signature):
        raise VerificationError(
            "tpm", "signature", expected=f"a signature by the key, {key.scheme} with {key.scheme_hash}",
            found=f"another, {signature.scheme} with {signature.hash}", advice="do not trust it",
        )  # fmt: skip
    statement = layout.attested(signed.attested)
    if not hmac.compare_digest(statement.nonce, nonce):
        raise VerificationError(
            "tpm", "nonce", expected=nonce.hex(), found=statement.nonce.hex(), advice="it was made for another purpose"
        )
    return statement


def check_values(key: PublicArea, statements: tuple[Attested, ...], values: Mapping[Hash, Mapping[int, bytes]]) -> None:
    """`values` are what `statements` quote, all of it and no more. Raises `VerificationError`."""
    selected: set[tuple[Hash, int]] = set()
    for statement in statements:
        quote = statement.statement
        if not isinstance(quote, layout.Quote):
            raise VerificationError("tpm", "statement", expected="a quote", found=type(quote).__name__)
        digest = hashlib.new(cast("Hash", key.scheme_hash))
        for selection in quote.selections:
            for register in selection.registers:
                value = values.get(selection.bank, {}).get(register)
                if value is None:
                    raise VerificationError(
                        "tpm", "selection", expected=f"the value of {selection.bank}:{register}", found="none"
                    )
                digest.update(value)
                selected.add((selection.bank, register))
        if not hmac.compare_digest(digest.digest(), quote.digest):
            raise VerificationError(
                "tpm", "registers", expected=f"values with digest {quote.digest.hex()}", found=digest.hexdigest(),
                advice="these are not the values that were quoted",
            )  # fmt: skip
    for bank, registers in values.items():
        for register, value in registers.items():
            if (bank, register) not in selected or len(value) != SIZES[bank]:
                raise VerificationError(
                    "tpm", "selection", expected="values that were quoted", found=f"{bank}:{register} as well"
                )


def _signed(key: PublicArea, signed: Signed, signature: layout.Signature) -> bool:
    function = HASHES[signature.hash]()
    try:
        if isinstance(key.key, ec.EllipticCurvePublicKey):
            key.key.verify(signature.value, signed.attested, ec.ECDSA(function))
        elif signature.scheme == "rsapss":
            form = padding.PSS(padding.MGF1(function), padding.PSS.AUTO)
            key.key.verify(signature.value, signed.attested, form, function)
        else:
            key.key.verify(signature.value, signed.attested, padding.PKCS1v15(), function)
    except InvalidSignature:
        return False
    return True


def _vouch(
    evidence: Evidence,
    key: PublicArea,
    endorsements: Endorsements,
    activation: Activation | None,
    now: datetime,
    unsafe_without_revocation: bool,
) -> tuple[Vouched | None, tuple[str, ...]]:
    if evidence.key_certificate is not None:
        item = evidence.key_certificate
        found = chain.verify(
            item.certificate, item.chain, endorsements, now=now, unsafe_without_revocation=unsafe_without_revocation
        )
        _check_key_certificate(found.certificate, key)
        return Vouched("key-certificate", found.root, chain.identity(found.certificate)), found.skipped
    if evidence.endorsement is None or activation is None:
        return None, ()
    endorsement = evidence.endorsement
    found = chain.verify(
        endorsement.certificate,
        endorsement.chain,
        endorsements,
        now=now,
        unsafe_without_revocation=unsafe_without_revocation,
    )
    endorsement_key = layout.public_area(endorsement.key)
    name = _check_endorsement(found.certificate, endorsement_key)
    credential.check(activation.expected, endorsement_key, key, activation.answer)
    return Vouched("endorsement-key", found.root, name), found.skipped


def _check_key_certificate(certificate: x509.Certificate, key: PublicArea) -> None:
    if not _same_key(certificate, key):
        raise VerificationError(
            "tpm", "key-certificate", expected="a certificate of the attestation key", found="one of another key"
        )
    usage, extended = chain.usages(certificate)
    if usage is None or not usage.digital_signature or usage.key_cert_sign or not extended <= AK_USAGES:
        raise VerificationError(
            "tpm", "key-usage", expected="a certificate of a key that signs", found=f"{usage}, {sorted(extended)}"
        )


def _check_endorsement(certificate: x509.Certificate, key: PublicArea) -> Identity:
    if not _same_key(certificate, key):
        raise VerificationError(
            "tpm", "endorsement-key", expected="a certificate of the endorsement key", found="one of another key"
        )
    if key.attributes & (STAYS | SIGN | DECRYPT) != STAYS | DECRYPT or key.name_hash not in STRONG:
        raise VerificationError(
            "tpm", "endorsement-key",
            expected="restricted, unwrapping, made in its TPM and fixed to it, named with SHA-2",
            found=f"{key.attributes:#010x}, {key.name_hash}",
        )  # fmt: skip
    usage, extended = chain.usages(certificate)
    wraps = usage is not None and (usage.key_encipherment or usage.key_agreement)
    if not wraps or EK_USAGE not in extended:
        raise VerificationError(
            "tpm", "endorsement-usage", expected=f"a certificate of an endorsement key ({EK_USAGE})",
            found=f"{usage}, {sorted(extended)}",
        )  # fmt: skip
    name = chain.identity(certificate)
    if name is None:
        raise VerificationError(
            "tpm", "endorsement-identity", expected="manufacturer, model and version of the TPM", found="not all three"
        )
    return name


def _same_key(certificate: x509.Certificate, key: PublicArea) -> bool:
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return certificate.public_key().public_bytes(*form) == key.key.public_bytes(*form)


def _explain(
    log: eventlog.Log | None, values: Mapping[Hash, Mapping[int, bytes]]
) -> dict[Hash, dict[int, Explanation]]:
    """What each register follows from, as far as the firmware's log goes."""
    explained: dict[Hash, dict[int, Explanation]] = {}
    for bank, registers in values.items():
        covered = log is not None and bank in log.banks
        replayed = eventlog.replay(log, bank) if log is not None and covered else {}
        explained[bank] = {}
        for register, value in registers.items():
            found: Explanation = "unexplained"
            if replayed.get(register) == value:
                found = "event-log"
            elif register not in replayed and value == eventlog.untouched(register, bank):
                found = "untouched"
            elif covered and register in FIRMWARE:
                raise VerificationError(
                    "tpm", "event-log", expected=f"{bank}:{register} {value.hex()}",
                    found=replayed.get(register, b"").hex() or "no event",
                    advice="the log is not of this boot, or was changed",
                )  # fmt: skip
            explained[bank][register] = found
    return explained


def _files(entries: tuple[ima.Entry, ...], values: Mapping[Hash, Mapping[int, bytes]]) -> tuple[ima.File, ...]:
    """The files up to the quote, which was made before or after the list was read."""
    quoted = {bank: registers[ima.REGISTER] for bank, registers in values.items() if ima.REGISTER in registers}
    lengths = set()
    for bank, wanted in quoted.items():
        found = [length for length, value in enumerate(ima.values(entries, bank)) if value == wanted]
        lengths.add(found[0] if found else -1)
    if len(lengths) != 1 or -1 in lengths:
        raise VerificationError(
            "tpm", "ima-list", expected=f"a list that gives register {ima.REGISTER}, which is quoted",
            found=f"one that does not, of {len(entries)} files", advice="the list was changed, or is of another boot",
        )  # fmt: skip
    return tuple([file for file, _ in entries[: lengths.pop()]])


def _counter(key: PublicArea, item: Index, nonce: bytes) -> tuple[int, int]:
    """Index and value of a counter that was written. Raises as `_index`, code `counter`."""
    index, contents = _index(key, item, nonce, "counter", COUNTER)
    if len(contents) != COUNTER_BYTES:
        raise MalformedInput("TPM counter", "expected the 8 bytes of a counter")
    return index, int.from_bytes(contents, "big")


def _index(key: PublicArea, item: Index, nonce: bytes, code: str, kind: int) -> tuple[int, bytes]:
    """Index and whole contents of one of that kind that was written. Raises `VerificationError` (`code`, and those of a
    quote), `MalformedInput`."""
    statement = check_signed(key, item.certified, nonce).statement
    public = layout.nv_public(item.public)
    if not isinstance(statement, layout.NvContents) or statement.name != public.name:
        raise VerificationError("tpm", code, expected="the certified contents of this index", found="something else")
    if public.attributes & (INDEX_TYPE | WRITTEN) != kind | WRITTEN or public.name_hash not in STRONG:
        wanted = "an index that only counts" if kind == COUNTER else "an index that was written"
        raise VerificationError(
            "tpm", code, expected=f"{wanted}, named with SHA-2",
            found=f"attributes {public.attributes:#010x}, {public.name_hash}",
        )  # fmt: skip
    if (statement.offset, len(statement.contents)) != (0, public.size):
        raise MalformedInput("TPM index", f"expected its {public.size} bytes, found {len(statement.contents)}")
    return public.index, statement.contents
