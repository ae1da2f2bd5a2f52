"""Every real Nitro document at hand: what it shows, and how it is decided."""

import io
import time
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attest import cbor, chain, nitro
from attest.errors import Unsupported, VerificationError, VitrineError
from attest.nitro import dstack
from attest.nitro.authenticate import Authenticated
from tests.fakes.mutate import MUTATIONS, mutated

DEBUG = "nitrite/attestation_2021_debug.cbor"
PLAIN = "yawn-nitro-attest/attestation.cose"
FRAMED = "dstack-nsm/nitro_attestation.bin"
MADE = {
    DEBUG: datetime(2021, 10, 28, 17, 2, 3, tzinfo=UTC),
    PLAIN: datetime.fromtimestamp(1736179625, UTC),
    FRAMED: datetime(2025, 12, 25, 13, 15, 38, tzinfo=UTC),
}
"""A time in the three hours of each signer's certificate."""
PCR0 = {
    PLAIN: "8bb159f202bb95d6d4d98e0e103918246cea734f1d57cd263e4fd56075ed53f6fa8c68854817a32749a241e11874c26b",
    FRAMED: "5cb702954321826d7939d6da829a940d787fcf32357beb8eae1ddf33c28c17d36f3ac3ba6828fdf7edeed02889702da6",
}


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "attestation" / "nitro"


@pytest.fixture(scope="module")
def endorsements(folder: Path) -> nitro.Endorsements:
    pem = (folder / "dstack-nsm" / "AWS_NitroEnclaves_Root-G1.pem").read_bytes()
    return nitro.Endorsements((x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER),))


def document(folder: Path, name: str) -> bytes:
    evidence = (folder / name).read_bytes()
    return dstack.unwrap(evidence).document if name == FRAMED else evidence


def authenticated(folder: Path, name: str, endorsements: nitro.Endorsements, **options: object) -> Authenticated:
    options = {"now": MADE[name], "unsafe_without_revocation": True} | options
    return nitro.authenticate(document(folder, name), endorsements, **options)  # type: ignore[arg-type]


def code(folder: Path, name: str, endorsements: nitro.Endorsements, **options: object) -> str:
    with pytest.raises(VerificationError) as caught:
        authenticated(folder, name, endorsements, **options)
    assert caught.value.layer == "nitro"
    return caught.value.code


def broken(claims: nitro.Claims, **policy: object) -> list[str]:
    return [line.rule for line in nitro.appraise(claims, nitro.Policy(**policy)) if not line.holds]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [PLAIN, FRAMED])
def test_a_real_enclave_is_accepted_by_its_own_policy_alone(
    folder: Path, endorsements: nitro.Endorsements, name: str
) -> None:
    claims = nitro.claims(authenticated(folder, name, endorsements))
    assert not claims.debug
    assert claims.measurements["PCR0"] == PCR0[name]
    assert sorted(claims.measurements) == sorted(f"PCR{index}" for index in range(16))
    wanted = {"PCR0": (PCR0[name],)}
    assert broken(claims, measurements=wanted, unsafe_without_revocation=True) == []
    # Signed well, and not what the policy wants.
    assert broken(claims, measurements=wanted) == ["nitro.revocation"]
    assert broken(claims, measurements={"PCR0": (96 * "0",)}, unsafe_without_revocation=True) == ["nitro.pcr0"]
    assert broken(claims) == ["nitro.revocation", "nitro.identity"]


def test_a_real_enclave_in_debug_mode_is_genuine_and_refused(folder: Path, endorsements: nitro.Endorsements) -> None:
    claims = nitro.claims(authenticated(folder, DEBUG, endorsements))
    assert claims.debug
    assert claims.module_id == "i-0809849710bf1b61b-enc017cc45400406a27"
    assert claims.made_at == "2021-10-28T17:02:02.077Z"
    assert (claims.public_key, claims.nonce) == ("", "54caa7fdd9c1de6f1206e4900d57b61eb759d628")
    assert bytes.fromhex(claims.bound).startswith(b"552025825398c9aa723bf4e2")
    assert "nitro.debug" in broken(claims, measurements={"PCR0": (96 * "0",)}, unsafe_without_revocation=True)


def test_without_lists_of_revocation_no_real_document_is_accepted(
    folder: Path, endorsements: nitro.Endorsements
) -> None:
    for name in MADE:
        assert code(folder, name, endorsements, unsafe_without_revocation=False) == "crl_missing"


def test_before_and_after_the_three_hours(folder: Path, endorsements: nitro.Endorsements) -> None:
    for name, made in MADE.items():
        assert code(folder, name, endorsements, now=made + timedelta(hours=4)) == "certificate_time"
        assert code(folder, name, endorsements, now=made - timedelta(hours=4)) == "certificate_time"


def test_another_root(folder: Path, endorsements: nitro.Endorsements) -> None:
    middle = (folder / "yawn-nitro-attest" / "1.der").read_bytes()
    for name in MADE:
        assert code(folder, name, nitro.Endorsements((middle,))) == "root"


def test_the_chain_beside_the_document_is_the_one_in_it(folder: Path, endorsements: nitro.Endorsements) -> None:
    read = authenticated(folder, PLAIN, endorsements).document
    beside = [(folder / "yawn-nitro-attest" / f"{index}.der").read_bytes() for index in range(5)]
    assert sorted(beside) == sorted([*read.cabundle, read.certificate])
    with zipfile.ZipFile(
        io.BytesIO((folder / "yawn-nitro-attest" / "AWS_NitroEnclaves_Root-G1.zip").read_bytes())
    ) as z:
        root = x509.load_pem_x509_certificate(z.read(next(n for n in z.namelist() if n.endswith(".pem"))))
    assert (root.public_bytes(Encoding.DER),) == endorsements.roots
    assert chain.name(root) == "CN=aws.nitro-enclaves,OU=AWS,O=Amazon,C=US"


def test_the_frame_is_refused_until_it_is_taken_off_by_name(folder: Path, endorsements: nitro.Endorsements) -> None:
    framed = (folder / FRAMED).read_bytes()
    with pytest.raises(Unsupported, match="unwrap"):
        nitro.authenticate(framed, endorsements, now=MADE[FRAMED], unsafe_without_revocation=True)
    frame = dstack.unwrap(framed)
    assert frame.report_data == bytes(64)
    assert frame.config.startswith(b'{"os_image_hash"')


def test_maps_are_of_definite_and_of_indefinite_length(folder: Path) -> None:
    payloads = {name: cbor.loads(document(folder, name), "x")[2] for name in MADE}
    assert {name: payload[0] for name, payload in payloads.items()} == {PLAIN: 0xA9, DEBUG: 0xA9, FRAMED: 0xBF}


def test_an_appraisal_takes_less_than_fifty_milliseconds(folder: Path, endorsements: nitro.Endorsements) -> None:
    def once() -> float:
        start = time.process_time()
        nitro.appraise(nitro.claims(authenticated(folder, PLAIN, endorsements)), nitro.Policy())
        return time.process_time() - start

    assert min(once() for _ in range(5)) < 0.05


@MUTATIONS
@given(st.data())
def test_mutated_evidence_is_refused_or_says_the_same(
    folder: Path, endorsements: nitro.Endorsements, random: st.DataObject
) -> None:
    name = random.draw(st.sampled_from(sorted(MADE)))
    original = document(folder, name)
    changed = random.draw(mutated(original))
    try:
        found = nitro.authenticate(changed, endorsements, now=MADE[name], unsafe_without_revocation=True)
    except VitrineError:
        return
    assert found == authenticated(folder, name, endorsements)


@MUTATIONS
@given(st.data())
def test_a_mutated_frame_is_refused_or_holds_bytes_of_it(folder: Path, random: st.DataObject) -> None:
    changed = random.draw(mutated((folder / FRAMED).read_bytes()))
    try:
        frame = dstack.unwrap(changed)
    except VitrineError:
        return
    assert frame.document in changed
    assert len(frame.report_data) == 64
