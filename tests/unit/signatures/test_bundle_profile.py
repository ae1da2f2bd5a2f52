"""The certificate profile, and what a timestamp must say: each rule has a certificate or response that breaks it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.notary import lab as notary
from appliance.notary.ctlog import SCT_LIST_OID
from appliance.notary.lab import Lab
from attest import bundle, profile, trust
from attest.errors import MalformedInput, VitrineError
from tests.conformance.clients.tampering import Case
from tests.unit.signatures.conftest import refused

# --- the certificate's profile ---------------------------------------------------------------------------------------


def certificate(lab: Lab, **changes: Any) -> x509.Certificate:
    """A certificate of the profile, but for what `changes` says; None leaves an extension out."""
    authority = ec.generate_private_key(ec.SECP256R1())
    key = changes.get("key") or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    scts = lab.ctlog.promise(b"tbs", bytes(32), now)
    extensions: dict[str, tuple[Any, bool] | None] = {
        "usage": (usage, True),
        "purpose": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
        "subject_id": (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        "authority_id": (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False),
        "name": (x509.SubjectAlternativeName([x509.UniformResourceIdentifier("https://lab.example/x")]), True),
        "issuer": (x509.UnrecognizedExtension(profile.ISSUER_OID, b"https://lab.example/ca"), False),
        "issuer_v2": (
            x509.UnrecognizedExtension(profile.ISSUER_V2_OID, profile.issuer_v2_value("https://lab.example/ca")),
            False,
        ),
        "sct": (_sct_extension(scts), False),
        **{name: value for name, value in changes.items() if name not in ("key", "subject")},
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(changes.get("subject", x509.Name([])))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(minutes=10))
    )
    for extension in extensions.values():
        if extension is not None:
            builder = builder.add_extension(extension[0], critical=extension[1])
    return builder.sign(authority, hashes.SHA256())


def _sct_extension(scts: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(SCT_LIST_OID), asn1.encode_der(scts))


def two_scts(lab: Lab) -> x509.UnrecognizedExtension:
    one = lab.ctlog.promise(b"tbs", bytes(32), datetime.now(UTC))[2:]
    return _sct_extension((len(one) * 2).to_bytes(2, "big") + one + one)


URI = x509.UniformResourceIdentifier("https://lab.example/x")


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("certificate-subject", {"subject": x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])}),
        ("certificate-key", {"key": ec.generate_private_key(ec.SECP384R1())}),
        ("certificate-extensions", {"more": (x509.BasicConstraints(True, None), True)}),
        ("certificate-extensions", {"more": (x509.OCSPNoCheck(), False)}),
        ("certificate-extensions", {"authority_id": None}),
        ("certificate-extensions", {"issuer_v2": None}),
        ("certificate-extensions", {"sct": None}),
        ("certificate-usage", {"usage": (x509.KeyUsage(True, True, *[False] * 7), True)}),
        ("certificate-usage", {"usage": (x509.KeyUsage(True, *[False] * 8), False)}),
        ("certificate-purpose", {"purpose": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)}),
        (
            "certificate-purpose",
            {
                "purpose": (
                    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH]),
                    False,
                )
            },
        ),
        ("certificate-issuer", {"issuer": (x509.UnrecognizedExtension(profile.ISSUER_OID, b"https://x/ca"), False)}),
        ("certificate-issuer", {"issuer_v2": (x509.UnrecognizedExtension(profile.ISSUER_V2_OID, b"\x0c\x00"), False)}),
    ],
)
def test_certificates_of_another_profile(lab: Lab, code: str, changes: dict[str, Any]) -> None:
    other = certificate(lab, **changes)
    assert refused(lambda: profile.check_certificate(other, "https://lab.example/ca")) == f"signature/{code}"


def test_a_certificate_of_the_profile(lab: Lab) -> None:
    profile.check_certificate(certificate(lab), "https://lab.example/ca")
    two = certificate(lab, sct=(two_scts(lab), False))
    assert refused(lambda: profile.check_certificate(two, "https://lab.example/ca")) == "signature/certificate-sct"


@pytest.mark.parametrize(
    "name",
    [
        None,
        (x509.SubjectAlternativeName([URI]), False),
        (x509.SubjectAlternativeName([URI, URI]), True),
        (x509.SubjectAlternativeName([x509.DNSName("lab.example")]), True),
    ],
)
def test_certificates_for_something_else_than_one_uri(lab: Lab, name: Any) -> None:
    assert refused(lambda: profile.identity_of(certificate(lab, name=name))) == "signature/identity-form"


def test_the_names_of_labs() -> None:
    measurement = "ab" * 32
    for name in ("lab.example", "a.b", "x-1.lab.example", "a" * 63 + ".example"):
        assert profile.is_lab_name(name)
        assert profile.issuer_of(profile.identity_uri(name, measurement)) == profile.issuer_uri(name)
    for name in (
        "",
        "lab",
        "Lab.example",
        "lab.example.",
        ".example",
        "-lab.example",
        "lab.1",
        "lab..x",
        "l b.x",
        "ä.x",
    ):
        assert not profile.is_lab_name(name)
    assert not profile.is_lab_name("a" * 64 + ".example")
    assert not profile.is_lab_name("a." * 60 + "example")
    for identity in (
        "",
        "https://lab.example/ca",
        "https://lab.example/appliance/AB",
        "https://x/appliance/" + measurement,
    ):
        assert refused(lambda identity=identity: profile.issuer_of(identity)) == "signature/identity-form"  # type: ignore[misc]
    with pytest.raises(ValueError, match="127"):
        profile.issuer_v2_value("x" * 128)


# --- timestamps ------------------------------------------------------------------------------------------------------


def check_stamp(lab: Lab, data: bytes, moment: datetime, *, signature: bytes = b"sig", **changes: Any) -> datetime:
    timestampers = changes.pop("timestampers", trust.read(lab.trusted_root).timestampers)
    return profile.check_timestamp(
        lab.timestamper.stamp(data, moment), timestampers, signature=signature, certificate=certificate(lab)
    )


def test_timestamps(lab: Lab) -> None:
    now = datetime.now(UTC) + timedelta(seconds=30)
    assert check_stamp(lab, b"sig", now) == now.replace(microsecond=0)
    assert refused(lambda: check_stamp(lab, b"other", now)) == "signature/timestamp-imprint"
    assert refused(lambda: check_stamp(lab, b"sig", now, timestampers=())) == "signature/timestamp"
    for moment in (now - timedelta(minutes=2), now + timedelta(minutes=20)):
        code = refused(lambda moment=moment: check_stamp(lab, b"sig", moment))  # type: ignore[misc]
        assert code in ("signature/timestamp-time", "signature/timestamp")


def test_a_timestamp_by_a_stranger(lab: Lab, tmp_path: Path) -> None:
    other = notary.create(tmp_path / "lab", now=lambda: datetime.now(UTC))
    strangers = trust.read(other.trusted_root).timestampers
    now = datetime.now(UTC) + timedelta(seconds=30)
    assert refused(lambda: check_stamp(lab, b"sig", now, timestampers=strangers)) == "signature/timestamp"
    assert check_stamp(lab, b"sig", now, timestampers=(*strangers, *trust.read(lab.trusted_root).timestampers))


def test_a_flipped_bit_in_any_byte_of_the_timestamp_is_refused(good: Case, root: bytes) -> None:
    """Also where neither the signature nor a stock client covers it."""
    read = bundle.read(good.bundle)
    timestampers = trust.read(root).timestampers

    def ask(der: bytes) -> datetime:
        return profile.check_timestamp(
            der, timestampers, signature=read.envelope.signature, certificate=read.certificate
        )

    codes = set()
    ask(read.timestamp_der)
    for position in range(len(read.timestamp_der)):
        der = bytearray(read.timestamp_der)
        der[position] ^= 1
        with pytest.raises(VitrineError) as caught:
            ask(bytes(der))
        codes.add(getattr(caught.value, "code", "malformed"))
    assert codes == {"malformed", "timestamp", "timestamp-imprint", "timestamp-form", "timestamp-algorithm"}


def test_timestamps_of_a_real_authority(lab: Lab, data: Path) -> None:
    """A good response of another authority is no response of ours; one with certificates slipped in is refused too."""
    folder = data / "signing" / "rfc3161" / "test_tsa"
    timestampers = trust.read(lab.trusted_root).timestampers
    for name in ("response.tsr", "other_response.tsr", "response-injected-certs.tsr"):
        with pytest.raises(VitrineError):
            profile.check_timestamp(
                (folder / name).read_bytes(), timestampers, signature=b"hello", certificate=certificate(lab)
            )


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"\x30\x03\x02\x01\x00", b"junk" * 50])
def test_malformed_timestamps(lab: Lab, data: bytes) -> None:
    with pytest.raises(MalformedInput, match="timestamp"):
        profile.check_timestamp(data, (), signature=b"", certificate=certificate(lab))
