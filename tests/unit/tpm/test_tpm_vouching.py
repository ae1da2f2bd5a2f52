"""Who vouches for the key of a TPM: what is wrong in one place, key, certificate or answer, is refused for that."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import pytest
from cryptography import x509

from attest.errors import VerificationError
from attest.tpm import (
    Activation,
    Endorsement,
    Index,
    KeyCertificate,
    Root,
    challenge,
    layout,
)
from tests.fakes import tpm as fake
from tests.fakes.tpm import MIDDLE, WRAPPING, Key
from tests.fakes.tpm_scene import (
    EK,
    PUBLIC,
    certified,
    refused,
    scene,
)

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
    refused(scene().with_(counter=Index(public=weak, certified=certified(Key(), body))), "tpm/counter")


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


# The path of certificates, by way of the endorsement key --------------------------------------------------------------


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
