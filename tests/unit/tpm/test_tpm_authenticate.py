"""Every check behind a valid signature: evidence is made wrong in one place, signed again, and refused for that."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest
from cryptography import x509

from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.tpm import (
    Activation,
    Counter,
    Endorsement,
    Endorsements,
    Evidence,
    KeyCertificate,
    Root,
    Signed,
    authenticate,
    challenge,
    claims,
    eventlog,
    layout,
)
from attest.tpm.layout import Hash
from tests.fakes import tpm as fake
from tests.fakes.tpm import MIDDLE, NOW, WRAPPING, Key

NONCE = bytes(range(32))
EK = Key(which="ek", scheme=None, attributes=WRAPPING, symmetric=fake.AES_CFB)
LOG = (
    fake.spec_id()
    + b"".join(
        fake.event(7, 0x80000001, fake.variable(name, data))
        for name, data in (("SecureBoot", b"\1"), ("PK", b""), ("KEK", b""))
    )
    + b"".join(fake.event(register, 4, bytes(4)) for register in range(8))
    + fake.event(9, 0xD, b"initrd", hashed=b"an initial file system")
)
BANKS: tuple[Hash, ...] = ("sha256", "sha384")
FILES = tuple(
    (hashlib.sha256(name.encode()).digest(), name) for name in ("boot_aggregate", "/usr/bin/python3", "/usr/lib/a b.so")
)


def template(digest: bytes, name: str) -> bytes:
    """Template data of an `ima-ng` entry."""
    parts = (b"sha256:\0" + digest, name.encode() + b"\0")
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def ima_list(files: tuple[tuple[bytes, str], ...] = FILES) -> bytes:
    """The kernel's list."""
    lines = [
        f"10 {hashlib.sha1(template(*file)).hexdigest()} ima-ng sha256:{file[0].hex()} {file[1]}\n" for file in files
    ]
    return "".join(lines).encode()


def ima_value(bank: Hash, files: tuple[tuple[bytes, str], ...] = FILES) -> bytes:
    """Register 10 after `files`."""
    value = bytes(layout.SIZES[bank])
    for file in files:
        value = hashlib.new(bank, value + hashlib.new(bank, template(*file)).digest()).digest()
    return value


def registers(log: bytes = LOG, banks: tuple[Hash, ...] = BANKS) -> dict[Hash, dict[int, bytes]]:
    """All registers after `log` and the list of files."""
    parsed = eventlog.parse(log)
    values: dict[Hash, dict[int, bytes]] = {}
    for bank in banks:
        replayed = eventlog.replay(parsed, bank)
        values[bank] = {n: replayed.get(n, eventlog.untouched(n, bank)) for n in range(24)}
        values[bank][10] = ima_value(bank)
    return values


def wire(values: Mapping[Hash, Mapping[int, bytes]]) -> dict[Hash, dict[str, str]]:
    """As in the evidence."""
    return {bank: {str(n): value.hex() for n, value in items.items()} for bank, items in values.items()}


@dataclass(frozen=True)
class Scene:
    """Evidence, and all that a verifier brings along."""

    evidence: Evidence
    endorsements: Endorsements
    activation: Activation | None
    nonce: bytes = NONCE
    now: datetime = NOW

    def check(self, **changes: object) -> object:
        """Authenticate; the claims."""
        arguments = {"nonce": self.nonce, "now": self.now, "activation": self.activation} | changes
        return claims(authenticate(self.evidence, self.endorsements, **arguments))  # type: ignore[arg-type]

    def with_(self, **fields: object) -> Scene:
        """With other fields of the evidence."""
        return replace(self, evidence=self.evidence.model_copy(update=fields))


def scene(key: Key | None = None, endorsement: Key = EK, **extensions: object) -> Scene:
    """Sound evidence of a chip."""
    key = key or Key()
    values = registers()
    certificate = MIDDLE.issue("ek", endorsement.private.public_key(), fake.ek_extensions(**extensions))  # type: ignore[arg-type]
    try:
        _, expected = challenge(layout.public_area(endorsement.public), layout.public_area(key.public), os.urandom)
        activation = Activation(expected, expected.secret)
    except (VerificationError, Unsupported):
        activation = None
    public = fake.nv_public()
    return Scene(
        Evidence(
            format="vitrine/tpm-evidence/v1",
            key=key.public,
            quotes=(fake.quote(key, values, NONCE),),
            registers=wire(values),
            event_log=LOG,
            ima_list=ima_list(),
            endorsement=Endorsement(key=endorsement.public, certificate=certificate),
            counter=Counter(public=public, certified=certified(key, fake.nv_body(public, (41).to_bytes(8, "big")))),
        ),
        fake.endorsements(),
        activation,
    )


def certified(key: Key, body: bytes, nonce: bytes = NONCE, kind: int = 0x8014) -> Signed:
    """A certified index."""
    return key.sign(fake.attested(kind, body, nonce))


def refused(found: Scene, code: str, **changes: object) -> None:
    """The scene is refused with this code."""
    layer, name = code.split("/")
    with pytest.raises(VerificationError) as error:
        found.check(**changes)
    assert (error.value.layer, error.value.code) == (layer, name), error.value


@pytest.mark.parametrize(
    "key",
    [
        Key(),
        Key("p384", hash="sha384"),
        Key("p256", hash="sha512"),
        Key("rsa2048", scheme="rsassa"),
        Key("rsa3072", scheme="rsapss", hash="sha384"),
        Key("rsa4096", scheme="rsapss"),
    ],
    ids=lambda key: f"{key.kind}-{key.scheme}-{key.hash}",
)
@pytest.mark.parametrize("endorsement", ["p256", "p384", "rsa2048"])
def test_sound_evidence_is_accepted(key: Key, endorsement: str) -> None:
    usage = fake.key_usage("key_encipherment" if endorsement.startswith("rsa") else "key_agreement")
    found = scene(key, replace(EK, kind=endorsement), usage=usage).check()
    assert (found.kind, found.vouched_by, found.manufacturer_name) == ("hardware", "endorsement-key", "STM")  # type: ignore[attr-defined]
    assert (found.model, found.model_version, found.skipped) == ("ST33KTPM", "id:00010002", ())  # type: ignore[attr-defined]
    assert found.counter.model_dump() == {"index": 0x01500010, "value": 41}  # type: ignore[attr-defined]
    assert [file.path for file in found.files] == [name for _, name in FILES]  # type: ignore[attr-defined]
    assert found.explained["sha384:10"] == "ima-list"  # type: ignore[attr-defined]
    assert found.explained["sha256:9"] == "event-log"  # type: ignore[attr-defined]
    assert found.boot.secure_boot is True  # type: ignore[attr-defined]


# 1. The key -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", [1, 4, 5, 16, 18])
def test_a_key_that_could_sign_a_forged_quote_is_refused(bit: int) -> None:
    refused(scene(Key(attributes=fake.SIGNING & ~(1 << bit))), "tpm/key-attributes")


def test_a_key_that_also_unwraps_is_refused() -> None:
    refused(scene(Key(attributes=fake.SIGNING | 1 << 17)), "tpm/key-attributes")


@pytest.mark.parametrize("changes", [{"hash": "sha1"}, {"scheme": None}])
def test_a_weak_scheme_is_refused(changes: dict[str, str]) -> None:
    key = replace(Key(), **changes)  # type: ignore[arg-type]
    refused(scene().with_(key=key.public), "tpm/scheme")


def test_a_name_by_sha_1_could_be_that_of_another_key() -> None:
    weak = Key().public[:2] + b"\0\4" + Key().public[4:]
    refused(scene().with_(key=weak), "tpm/scheme")
    weak = EK.public[:2] + b"\0\4" + EK.public[4:]
    good = scene().evidence.endorsement
    assert good is not None
    refused(scene().with_(endorsement=good.model_copy(update={"key": weak})), "tpm/endorsement-key")
    weak = PUBLIC[:4] + b"\0\4" + PUBLIC[6:]
    body = fake.sized(b"\0\4" + hashlib.sha1(weak).digest()) + bytes(2) + fake.sized(bytes(8))
    refused(scene().with_(counter=Counter(public=weak, certified=certified(Key(), body))), "tpm/counter")


# 2. Who vouches -------------------------------------------------------------------------------------------------------


def test_a_key_that_nobody_vouches_for_is_refused_unless_asked_for() -> None:
    for bare in (replace(scene(), activation=None), scene().with_(endorsement=None)):
        refused(bare, "tpm/endorsement")
        found = bare.check(unsafe_without_endorsement=True)
        assert (found.kind, len(found.skipped)) == ("unknown", 1)  # type: ignore[attr-defined]


def test_the_answer_to_a_challenge_is_compared() -> None:
    good = scene()
    assert good.activation is not None
    expected = good.activation.expected
    refused(replace(good, activation=Activation(expected, bytes(32))), "tpm/activation")
    other = replace(expected, key_name=bytes(34))
    refused(replace(good, activation=Activation(other, expected.secret)), "tpm/activation")
    other = replace(expected, endorsement_name=bytes(34))
    refused(replace(good, activation=Activation(other, expected.secret)), "tpm/activation")


def test_evidence_of_another_machine_does_not_take_this_ones_answer() -> None:
    ours, other = scene(), scene(Key(which="b"), replace(EK, which="ek-b"))
    refused(replace(other, activation=ours.activation), "tpm/activation")


def test_an_endorsement_certificate_is_of_its_key() -> None:
    good = scene()
    other = scene(endorsement=replace(EK, which="ek-b")).evidence.endorsement
    assert good.evidence.endorsement is not None
    assert other is not None
    mixed = Endorsement(key=good.evidence.endorsement.key, certificate=other.certificate)
    refused(good.with_(endorsement=mixed), "tpm/endorsement-key")


@pytest.mark.parametrize("bit", [1, 4, 5, 16, 17, 18])
def test_an_endorsement_key_unwraps_in_its_tpm_and_nothing_else(bit: int) -> None:
    refused(scene(endorsement=replace(EK, attributes=WRAPPING ^ 1 << bit)), "tpm/endorsement-key")


def test_a_key_that_wraps_nothing_is_not_challenged() -> None:
    key = layout.public_area(Key().public)
    with pytest.raises(VerificationError, match="tpm/endorsement-key"):
        challenge(key, key, os.urandom)


@pytest.mark.parametrize(
    ("extensions", "code"),
    [
        ({"usage": fake.key_usage("digital_signature")}, "tpm/endorsement-usage"),
        ({"extended": ()}, "tpm/endorsement-usage"),
        ({"extended": (x509.ObjectIdentifier("2.23.133.8.3"),)}, "tpm/endorsement-usage"),
        ({"tpm": {}}, "tpm/endorsement-identity"),
        ({"tpm": {"2.23.133.2.1": "id:53544D20", "2.23.133.2.2": "ST33"}}, "tpm/endorsement-identity"),
        ({"tpm": {"2.23.133.2.1": "id:53544D20", "2.23.133.2.3": "id:1"}}, "tpm/endorsement-identity"),
        ({"tpm": {"2.23.133.2.2": "ST33", "2.23.133.2.3": "id:1"}}, "tpm/endorsement-identity"),
        ({"tpm": fake.TPM_NAME | {"2.23.133.2.1": "STM"}}, "tpm/endorsement-identity"),
    ],
)
def test_an_endorsement_certificate_says_what_it_is(extensions: dict[str, object], code: str) -> None:
    refused(scene(**extensions), code)


def test_an_endorsement_certificate_without_usages_is_refused() -> None:
    good = scene()
    extensions = [(x509.ExtendedKeyUsage([fake.EK_USAGE]), False), (fake.tpm_name(fake.TPM_NAME), True)]
    certificate = MIDDLE.issue("ek", EK.private.public_key(), extensions)
    refused(good.with_(endorsement=Endorsement(key=EK.public, certificate=certificate)), "tpm/endorsement-usage")


def key_certificate(
    key: Key, *usage: str, extended: str | tuple[str, ...] | None = "2.23.133.8.3", named: bool = True
) -> KeyCertificate:
    """A certificate of an attestation key."""
    extensions: list[tuple[x509.ExtensionType, bool]] = [(x509.BasicConstraints(False, None), True)]
    if usage:
        extensions.append((fake.key_usage(*usage), True))
    if extended is not None:
        usages = [extended] if isinstance(extended, str) else extended
        extensions.append((x509.ExtendedKeyUsage(map(x509.ObjectIdentifier, usages)), False))
    if named:
        extensions.append((fake.tpm_name(fake.TPM_NAME), True))
    return KeyCertificate(certificate=fake.ROOT.issue("ak", key.private.public_key(), extensions), chain=())


def test_a_certificate_of_the_key_vouches_for_it() -> None:
    bare = replace(scene(), activation=None)
    for extended in ("2.23.133.8.3", "2.23.133.8.1", None):
        certified_ = key_certificate(Key(), "digital_signature", extended=extended)
        found = bare.with_(key_certificate=certified_).check()
        assert (found.kind, found.vouched_by, found.skipped) == ("hardware", "key-certificate", ())  # type: ignore[attr-defined]
    both = ("2.23.133.8.3", "2.23.133.8.1")
    assert bare.with_(key_certificate=key_certificate(Key(), "digital_signature", extended=both)).check()
    found = bare.with_(key_certificate=key_certificate(Key(), "digital_signature", named=False)).check()
    assert (found.kind, found.manufacturer, found.manufacturer_name) == ("hardware", None, None)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("certificate", "code"),
    [
        (key_certificate(Key(which="b"), "digital_signature"), "tpm/key-certificate"),
        (key_certificate(Key(), "key_agreement"), "tpm/key-usage"),
        (key_certificate(Key()), "tpm/key-usage"),
        (key_certificate(Key(), "digital_signature", "key_cert_sign"), "tpm/key-usage"),
        (key_certificate(Key(), "digital_signature", extended="1.3.6.1.5.5.7.3.1"), "tpm/key-usage"),
    ],
)
def test_a_certificate_of_something_else_does_not(certificate: KeyCertificate, code: str) -> None:
    refused(scene().with_(key_certificate=certificate), code)


def test_a_program_is_named_by_its_root_or_by_its_certificate() -> None:
    good = scene()
    for tpm in ({"2.23.133.2.1": "id:00001014"}, {"2.23.133.2.2": "swtpm"}, {"2.23.133.2.2": "Virtual TPM"}):
        assert scene(tpm=fake.TPM_NAME | tpm).check().kind == "software"  # type: ignore[attr-defined]
    roots = (Root(fake.ROOT.certificate, "software"),)
    assert replace(good, endorsements=fake.endorsements(roots=roots)).check().kind == "software"  # type: ignore[attr-defined]


# 3. The quotes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "scheme"), [("p256", "ecdsa"), ("rsa2048", "rsassa"), ("rsa2048", "rsapss")])
def test_a_signature_by_another_key_is_refused(kind: str, scheme: str) -> None:
    good = scene(Key(kind, scheme=scheme))
    good.check()
    other = fake.quote(Key(kind, which="b", scheme=scheme), registers(), NONCE)
    refused(good.with_(quotes=(other,)), "tpm/signature")


@pytest.mark.parametrize(
    ("key", "signer"),
    [
        (Key("rsa2048", scheme="rsapss"), Key("rsa2048", scheme="rsassa")),
        (Key("p256", hash="sha384"), Key("p256", hash="sha256")),
    ],
)
def test_a_signature_by_another_scheme_is_refused(key: Key, signer: Key) -> None:
    refused(scene(key).with_(quotes=(fake.quote(signer, registers(), NONCE),)), "tpm/signature")


def test_a_signature_over_other_bytes_is_refused() -> None:
    good, other = scene(), fake.quote(Key(), registers(), b"other")
    mixed = good.evidence.quotes[0].model_copy(update={"attested": other.attested})
    refused(good.with_(quotes=(mixed,)), "tpm/signature")


def test_what_the_key_signed_that_no_tpm_said_is_refused() -> None:
    key, values = Key(), registers()
    forged = key.sign(fake.attested(0x8018, fake.quote_body(key, values), NONCE, magic=0xFF544348))
    with pytest.raises(MalformedInput, match="statement that a TPM made"):
        scene().with_(quotes=(forged,)).check()


def test_another_statement_is_no_quote() -> None:
    body = fake.sized(bytes(34)) + fake.sized(bytes(34))
    refused(scene().with_(quotes=(Key().sign(fake.attested(0x8017, body, NONCE)),)), "tpm/statement")


def test_another_nonce_is_refused() -> None:
    refused(replace(scene(), nonce=bytes(32)), "tpm/nonce")
    refused(replace(scene(), nonce=NONCE[:-1]), "tpm/nonce")
    second = fake.quote(Key(), registers(), bytes(32))
    refused(scene().with_(quotes=(*scene().evidence.quotes, second)), "tpm/nonce")


@pytest.mark.parametrize("fields", [{"resets": 4}, {"restarts": 1}])
def test_quotes_of_two_boots_are_refused(fields: dict[str, int]) -> None:
    second = fake.quote(Key(), registers(), NONCE, **fields)
    refused(scene().with_(quotes=(*scene().evidence.quotes, second)), "tpm/boot")


def test_quotes_of_one_boot_add_up() -> None:
    values = registers()
    quotes = tuple(fake.quote(Key(), {bank: values[bank]}, NONCE) for bank in BANKS)
    assert len(scene().with_(quotes=quotes).check().measurements) == 48  # type: ignore[attr-defined]


# 4. The values --------------------------------------------------------------------------------------------------------


def test_other_values_are_refused() -> None:
    values = registers()
    for bank in BANKS:
        for register in range(24):
            changed = {**values, bank: values[bank] | {register: bytes([1]) * layout.SIZES[bank]}}
            refused(scene().with_(registers=wire(changed)), "tpm/registers")


def test_values_that_were_not_quoted_are_refused() -> None:
    values = registers()
    part = {bank: {n: value for n, value in values[bank].items() if n != 9} for bank in BANKS}
    refused(scene().with_(quotes=(fake.quote(Key(), part, NONCE),)), "tpm/selection")
    refused(scene().with_(registers=wire(part)), "tpm/selection")
    one: dict[Hash, dict[int, bytes]] = {"sha256": values["sha256"]}
    refused(scene().with_(quotes=(fake.quote(Key(), one, NONCE),)), "tpm/selection")
    refused(scene().with_(registers=wire(one)), "tpm/selection")


def test_a_value_of_another_size_is_refused() -> None:
    # Two neighbours whose bytes are shifted give the same digest.
    values = registers()
    joined = values["sha256"][22] + values["sha256"][23]
    shifted = {**values, "sha256": values["sha256"] | {22: joined[:20], 23: joined[20:]}}
    found = scene()
    fields = dict(found.evidence) | {"registers": wire(shifted)}  # not validated: a model would refuse the odd size
    refused(replace(found, evidence=Evidence.model_construct(**fields)), "tpm/selection")


# 5. The logs ----------------------------------------------------------------------------------------------------------


def test_a_log_of_another_boot_is_refused() -> None:
    for register in range(8):
        more = LOG + fake.event(register, 5, b"something else")
        refused(scene().with_(event_log=more), "tpm/event-log")
    for bank in BANKS:
        digest = hashlib.new(bank, bytes(4)).digest()
        at = LOG.index(digest)
        refused(scene().with_(event_log=LOG[:at] + bytes(len(digest)) + LOG[at + len(digest) :]), "tpm/event-log")


def test_a_log_without_a_firmware_register_is_refused() -> None:
    refused(scene().with_(event_log=fake.spec_id()), "tpm/event-log")


def test_claims_name_the_root_and_a_debugger() -> None:
    good: Any = scene().check()
    assert (good.debug, good.root) == (False, digest_of(fake.ROOT.certificate))
    events = LOG.index(fake.event(0, 4, bytes(4)))
    log = LOG[:events] + fake.event(7, 5, b"UEFI Debug Mode") + LOG[events:]
    values = registers(log)
    found = scene().with_(quotes=(fake.quote(Key(), values, NONCE),), registers=wire(values), event_log=log)
    assert found.check().debug is True  # type: ignore[attr-defined]
    without: Any = found.with_(event_log=None).check()
    assert without.debug is False


def test_what_no_log_covers_is_said() -> None:
    found = scene().with_(event_log=None, ima_list=None).check()
    assert found.explained["sha256:0"] == "unexplained"  # type: ignore[attr-defined]
    assert found.explained["sha256:10"] == "unexplained"  # type: ignore[attr-defined]
    assert found.explained["sha256:11"] == "untouched"  # type: ignore[attr-defined]
    assert found.explained["sha256:17"] == "untouched"  # type: ignore[attr-defined]
    assert (found.boot, found.files, found.bank) == (None, (), None)  # type: ignore[attr-defined]
    found = scene().with_(event_log=LOG + fake.event(9, 0xD, b"more") + fake.event(11, 0xD, b"more")).check()
    assert found.explained["sha256:9"] == "unexplained"  # type: ignore[attr-defined]
    assert found.explained["sha256:11"] == "unexplained"  # type: ignore[attr-defined]
    assert found.boot.loads == ()  # type: ignore[attr-defined]


def test_a_log_of_other_banks_explains_nothing() -> None:
    log = fake.spec_id(("sha1",)) + fake.event(0, 4, bytes(4), banks=("sha1",))
    found = scene().with_(event_log=log).check()
    assert found.explained["sha256:0"] == "unexplained"  # type: ignore[attr-defined]
    assert found.boot is None  # type: ignore[attr-defined]


def test_a_list_of_files_goes_as_far_as_the_quote() -> None:
    longer = (*FILES, (bytes(32), "/later"))
    found = scene().with_(ima_list=ima_list(longer)).check()
    assert [file.path for file in found.files] == [name for _, name in FILES]  # type: ignore[attr-defined]
    assert found.files[1].digest == f"sha256:{FILES[1][0].hex()}"  # type: ignore[attr-defined]


def test_a_list_of_files_explains_no_bank_that_was_not_quoted() -> None:
    values = registers()
    del values["sha384"][10]
    found = scene().with_(quotes=(fake.quote(Key(), values, NONCE),), registers=wire(values)).check()
    assert found.explained["sha256:10"] == "ima-list"  # type: ignore[attr-defined]
    assert "sha384:10" not in found.explained  # type: ignore[attr-defined]


def test_a_list_of_other_files_is_refused() -> None:
    refused(scene().with_(ima_list=ima_list(FILES[:-1])), "tpm/ima-list")
    refused(scene().with_(ima_list=ima_list(FILES[::-1])), "tpm/ima-list")
    values = registers()
    values["sha384"][10] = ima_value("sha384", FILES[:1])  # the banks disagree on how many files there were
    found = scene().with_(quotes=(fake.quote(Key(), values, NONCE),), registers=wire(values))
    refused(found, "tpm/ima-list")


def test_a_list_of_files_without_its_register_is_refused() -> None:
    part = {bank: {n: value for n, value in items.items() if n != 10} for bank, items in registers().items()}
    refused(scene().with_(quotes=(fake.quote(Key(), part, NONCE),), registers=wire(part)), "tpm/ima-list")


# 6. The counter -------------------------------------------------------------------------------------------------------

PUBLIC = fake.nv_public()


def test_a_counter_may_be_absent() -> None:
    assert scene().with_(counter=None).check().counter is None  # type: ignore[attr-defined]


BODY = fake.nv_body(PUBLIC, (41).to_bytes(8, "big"))


@pytest.mark.parametrize(
    ("public", "signed", "code"),
    [
        (PUBLIC, certified(Key(which="b"), BODY), "tpm/signature"),
        (PUBLIC, certified(Key(), BODY, nonce=bytes(32)), "tpm/nonce"),
        (PUBLIC, certified(Key(), fake.quote_body(Key(), registers()), kind=0x8018), "tpm/counter"),
        (fake.nv_public(index=0x01500011), certified(Key(), BODY), "tpm/counter"),
        *(
            (fake.nv_public(value), certified(Key(), fake.nv_body(fake.nv_public(value), bytes(8))), "tpm/counter")
            for value in (0x2A060006, 0x2A060026, 0x0A060016)  # an ordinary index, bits, never written
        ),
    ],
)
def test_a_counter_is_a_counter_of_this_tpm(public: bytes, signed: Signed, code: str) -> None:
    refused(scene().with_(counter=Counter(public=public, certified=signed)), code)


@pytest.mark.parametrize("body", [fake.nv_body(PUBLIC, bytes(8), offset=1), fake.nv_body(PUBLIC, bytes(7))])
def test_a_part_of_a_counter_is_none(body: bytes) -> None:
    with pytest.raises(MalformedInput, match="8 bytes of a counter"):
        scene().with_(counter=Counter(public=PUBLIC, certified=certified(Key(), body))).check()


# The path of certificates, by way of the endorsement key --------------------------------------------------------------

Change = Callable[[], Endorsements]


def test_certificates_in_the_evidence_are_used_and_not_trusted() -> None:
    good = replace(scene(), endorsements=fake.endorsements(intermediates=()))
    refused(good, "tpm/chain")
    endorsement = good.evidence.endorsement
    assert endorsement is not None
    complete = endorsement.model_copy(update={"chain": (MIDDLE.certificate,)})
    assert good.with_(endorsement=complete).check().kind == "hardware"  # type: ignore[attr-defined]
    rogue = fake.Authority("rogue")
    certificate = rogue.issue("ek", EK.private.public_key(), fake.ek_extensions())
    forged = Endorsement(key=EK.public, certificate=certificate, chain=(rogue.certificate,))
    refused(scene().with_(endorsement=forged), "tpm/chain")


@pytest.mark.parametrize("opted", [False, True])
def test_revocation_of_an_endorsement_key_is_looked_at(opted: bool) -> None:
    good = scene()
    assert good.evidence.endorsement is not None
    serial = x509.load_der_x509_certificate(good.evidence.endorsement.certificate).serial_number
    lists = (fake.ROOT.revocations(), MIDDLE.revocations(serial))
    revoked = replace(good, endorsements=fake.endorsements(revocation_lists=lists))
    refused(revoked, "tpm/revoked", unsafe_without_revocation=opted)
