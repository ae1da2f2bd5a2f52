"""Paths of certificates: every rule of the path, by certificates that break it and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.tpm import Endorsements, Root, chain
from tests.fakes import tpm as fake
from tests.fakes.der import without_end
from tests.fakes.tpm import MIDDLE, NOW, ROOT, Authority

DAY = timedelta(days=1)
PUBLIC = fake.private("p256", "ek").public_key()


def leaf(issuer: Authority = MIDDLE, **fields: object) -> bytes:
    """A certificate of an endorsement key."""
    return issuer.issue("ek", PUBLIC, fake.ek_extensions(), **fields)  # type: ignore[arg-type]


def through(middle: Authority, **changes: object) -> Endorsements:
    """Endorsements whose certificate between is another."""
    lists = (ROOT.revocations(), middle.revocations())
    return fake.endorsements(**({"intermediates": (middle.certificate,), "revocation_lists": lists} | changes))


def refused(data: bytes, endorsements: Endorsements, code: str, **changes: object) -> None:
    """The certificate is refused with this code."""
    with pytest.raises(VerificationError) as error:
        chain.verify(data, (), endorsements, **({"now": NOW} | changes))  # type: ignore[arg-type]
    assert (error.value.layer, error.value.code) == ("tpm", code), error.value


def test_a_sound_path_gives_its_root() -> None:
    found = chain.verify(leaf(), (), fake.endorsements(), now=NOW)
    assert (found.root.certificate, found.skipped) == (ROOT.certificate, ())
    assert chain.fingerprint(found.root) == digest_of(ROOT.certificate)
    other = Authority("other")
    roots = (Root(other.certificate, "software"), Root(ROOT.certificate, "hardware"))
    assert chain.verify(leaf(), (), fake.endorsements(roots=roots), now=NOW).root == roots[1]
    assert chain.verify(leaf(ROOT), (), fake.endorsements(intermediates=()), now=NOW).root.vouches_for == "hardware"


def test_without_its_root_a_certificate_is_refused() -> None:
    refused(leaf(), fake.endorsements(roots=()), "chain")
    refused(leaf(), fake.endorsements(roots=(Root(Authority("other").certificate, "hardware"),)), "chain")
    same_name = Authority("middle", Authority("other"))
    refused(leaf(), through(same_name), "chain", unsafe_without_revocation=True)


def test_a_path_that_goes_in_circles_or_on_and_on_is_refused() -> None:
    circle = Authority("circle")
    refused(
        leaf(circle), fake.endorsements(intermediates=(circle.certificate,)), "chain", unsafe_without_revocation=True
    )
    links = [ROOT]
    for number in range(7):
        links.append(Authority(f"link-{number}", links[-1]))
    for length, holds in ((6, True), (7, False)):
        endorsements = fake.endorsements(intermediates=tuple(item.certificate for item in links[1:]))
        if holds:
            chain.verify(leaf(links[length - 1]), (), endorsements, now=NOW, unsafe_without_revocation=True)
        else:
            refused(leaf(links[length]), endorsements, "chain", unsafe_without_revocation=True)


@pytest.mark.parametrize("place", ["leaf", "middle", "root"])
@pytest.mark.parametrize("dates", [(-2 * DAY, -DAY), (DAY, 2 * DAY)])
def test_every_certificate_of_the_path_is_valid_now(place: str, dates: tuple[timedelta, timedelta]) -> None:
    start, end = (NOW + moment for moment in dates)
    root = replace(ROOT, start=start, end=end) if place == "root" else ROOT
    middle = replace(MIDDLE, issuer=root, **({"start": start, "end": end} if place == "middle" else {}))
    certificate = leaf(middle, **({"start": start, "end": end} if place == "leaf" else {}))
    refused(certificate, through(middle, roots=(Root(root.certificate, "hardware"),)), "validity")


def test_the_edges_of_the_dates_count() -> None:
    certificate = leaf(start=NOW, end=NOW)
    assert chain.verify(certificate, (), fake.endorsements(), now=NOW).skipped == ()
    for moment in (NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)):
        refused(certificate, fake.endorsements(), "validity", now=moment)


@pytest.mark.parametrize(
    "changes",
    [
        {"constraints": x509.BasicConstraints(False, None)},
        {"constraints": None},
        {"usage": fake.key_usage("crl_sign")},
        {"usage": None},
    ],
)
@pytest.mark.parametrize("place", ["middle", "root"])
def test_who_issues_is_an_authority(place: str, changes: dict[str, object]) -> None:
    root = replace(ROOT, **changes) if place == "root" else ROOT  # type: ignore[arg-type]
    middle = replace(MIDDLE, issuer=root, **(changes if place == "middle" else {}))  # type: ignore[arg-type]
    endorsements = through(middle, roots=(Root(root.certificate, "hardware"),))
    refused(leaf(middle), endorsements, "authority", unsafe_without_revocation=True)


def test_an_authority_bounds_the_path_below_it() -> None:
    for length, holds in ((0, False), (1, True)):
        root = replace(ROOT, constraints=x509.BasicConstraints(True, length))
        middle = replace(MIDDLE, issuer=root)
        endorsements = through(middle, roots=(Root(root.certificate, "hardware"),))
        if holds:
            chain.verify(leaf(middle), (), endorsements, now=NOW)
        else:
            refused(leaf(middle), endorsements, "authority")


def test_a_critical_extension_that_is_not_known_is_refused() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
    for critical in (True, False):
        certificate = MIDDLE.issue("ek", PUBLIC, [*fake.ek_extensions(), (unknown, critical)])
        if critical:
            refused(certificate, fake.endorsements(), "certificate")
        else:
            chain.verify(certificate, (), fake.endorsements(), now=NOW)


def test_weak_keys_and_signatures_are_refused() -> None:
    small = rsa.generate_private_key(65537, 1024).public_key()
    refused(MIDDLE.issue("ek", small, fake.ek_extensions()), fake.endorsements(), "certificate")
    curve = ec.generate_private_key(ec.SECP224R1()).public_key()
    refused(MIDDLE.issue("ek", curve, fake.ek_extensions()), fake.endorsements(), "certificate")
    with pytest.raises(Unsupported, match="SHA-2"):
        chain.verify(leaf(function=hashes.SHA224()), (), fake.endorsements(), now=NOW)
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    with pytest.raises(Unsupported, match="RSA or ECC"):
        chain.verify(MIDDLE.issue("ek", edwards, fake.ek_extensions()), (), fake.endorsements(), now=NOW)  # type: ignore[arg-type]


# Revocation -----------------------------------------------------------------------------------------------------------


def with_lists(*lists: bytes) -> Endorsements:
    """Endorsements with these lists."""
    return fake.endorsements(revocation_lists=lists)


def test_a_certificate_that_was_taken_back_is_refused() -> None:
    refused(leaf(serial=7), with_lists(ROOT.revocations(), MIDDLE.revocations(7)), "revoked")
    serial = x509.load_der_x509_certificate(MIDDLE.certificate).serial_number
    refused(leaf(serial=7), with_lists(ROOT.revocations(serial), MIDDLE.revocations()), "revoked")
    # Serial numbers are of one issuer.
    chain.verify(leaf(serial=7), (), with_lists(ROOT.revocations(7), MIDDLE.revocations()), now=NOW)


def test_the_ends_of_a_list_and_what_is_not_critical_do_not_matter() -> None:
    for dates in ({"start": NOW, "end": NOW + DAY}, {"start": NOW - DAY, "end": NOW}):
        current = MIDDLE.revocations(**dates, extensions=[(x509.CRLNumber(7), False)])  # type: ignore[arg-type]
        assert chain.verify(leaf(), (), with_lists(ROOT.revocations(), current), now=NOW).skipped == ()


def test_a_list_without_an_end_is_not_current() -> None:
    endless = without_end(MIDDLE.revocations(), lambda tbs: MIDDLE.private.sign(tbs, ec.ECDSA(hashes.SHA256())))
    assert x509.load_der_x509_crl(endless).next_update_utc is None
    refused(leaf(), with_lists(ROOT.revocations(), endless), "revocation")


def test_an_old_list_that_names_it_still_refuses_it() -> None:
    old = MIDDLE.revocations(7, start=NOW - 3 * DAY, end=NOW - DAY)
    refused(leaf(serial=7), with_lists(ROOT.revocations(), old), "revoked")


@pytest.mark.parametrize(
    "lists",
    [
        (),
        (ROOT.revocations(),),
        (MIDDLE.revocations(),),
        (ROOT.revocations(), MIDDLE.revocations(start=NOW - 3 * DAY, end=NOW - DAY)),
        (ROOT.revocations(), MIDDLE.revocations(start=NOW + DAY, end=NOW + 2 * DAY)),
        (ROOT.revocations(), MIDDLE.revocations(signer=fake.private("p256", "rogue"))),
        (ROOT.revocations(), MIDDLE.revocations(function=hashes.SHA224())),
        (ROOT.revocations(), replace(MIDDLE, label="other").revocations(signer=MIDDLE.private)),
    ],
    ids=["none", "of-the-root-only", "of-the-middle-only", "old", "of-the-future", "forged", "weak", "other-name"],
)
def test_a_list_that_is_missing_or_does_not_count_refuses(lists: tuple[bytes, ...]) -> None:
    refused(leaf(), with_lists(*lists), "revocation")
    found = chain.verify(leaf(), (), with_lists(*lists), now=NOW, unsafe_without_revocation=True)
    assert 1 <= len(found.skipped) <= 2
    assert all("was not checked" in sentence for sentence in found.skipped)


def test_a_list_by_who_may_not_sign_lists_does_not_count() -> None:
    middle = replace(MIDDLE, usage=fake.key_usage("key_cert_sign"))
    refused(leaf(middle), through(middle), "revocation")


def test_what_was_skipped_below_is_not_skipped_above() -> None:
    serial = x509.load_der_x509_certificate(MIDDLE.certificate).serial_number
    refused(leaf(), with_lists(ROOT.revocations(serial)), "revoked", unsafe_without_revocation=True)


def test_a_part_of_a_list_is_not_taken_for_a_whole() -> None:
    part = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
    with pytest.raises(Unsupported, match="whole list"):
        chain.verify(leaf(), (), with_lists(MIDDLE.revocations(extensions=[(part, True)])), now=NOW)


# Form -----------------------------------------------------------------------------------------------------------------


def test_what_is_no_certificate_or_list_is_malformed() -> None:
    good = leaf()
    for data in (b"", good[:-1], good + b"\0", b"\x30\x00"):
        with pytest.raises(MalformedInput, match="cannot be read"):
            chain.verify(data, (), fake.endorsements(), now=NOW)
        with pytest.raises(MalformedInput, match="intermediate certificate"):
            chain.verify(good, (data,), fake.endorsements(), now=NOW)
        with pytest.raises(MalformedInput, match="root certificate"):
            chain.verify(good, (), fake.endorsements(roots=(Root(data, "hardware"),)), now=NOW)
        with pytest.raises(MalformedInput, match="revocation list"):
            chain.verify(good, (), with_lists(data), now=NOW)
