"""Every real piece of evidence, decided as it must be; and mutations of it, none of which is accepted."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.canonical import dump_model, parse
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.sevsnp import Claims, Endorsements, Evidence, Policy, appraise, authenticate, claims
from attest.sevsnp.certificates import load, read_chip, split
from tests.fakes.mutate import EXAMPLES
from tests.tools import protobuf, snp_vectors
from tests.tools.snp_vectors import NOW, ROOTS, VECTORS

ACCEPTED = [name for name, vector in VECTORS.items() if not vector.code]
PINNED = frozenset(ROOTS.values())


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "attestation" / "snp"


@pytest.fixture(scope="module")
def endorsements(folder: Path) -> Endorsements:
    return snp_vectors.endorsements(folder)


def decide(evidence: Evidence, endorsements: Endorsements, **changes: object) -> Claims:
    arguments = {"roots": PINNED, "now": NOW, "unsafe_without_revocation": True} | changes
    return claims(authenticate(evidence, endorsements, **arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", VECTORS)
def test_every_vector_is_decided_as_it_must_be(name: str, folder: Path, endorsements: Endorsements) -> None:
    vector = VECTORS[name]
    evidence = snp_vectors.evidence(folder, vector)
    if vector.code:
        with pytest.raises(VerificationError) as caught:
            decide(evidence, endorsements)
        assert (caught.value.layer, caught.value.code) == ("sev-snp", vector.code)
        return
    found = decide(evidence, endorsements)
    assert (found.version, found.product, found.signing_key) == (vector.version, vector.product, vector.kind)
    assert not found.debug and len(found.skipped) == 1
    assert parse(Claims, dump_model(found), "claims") == found


@pytest.mark.parametrize("name", ACCEPTED)
def test_nothing_is_accepted_without_a_revocation_list(name: str, folder: Path, endorsements: Endorsements) -> None:
    with pytest.raises(VerificationError) as caught:
        decide(snp_vectors.evidence(folder, VECTORS[name]), endorsements, unsafe_without_revocation=False)
    assert caught.value.code == "crl-missing"


@pytest.mark.parametrize("name", ACCEPTED)
def test_nothing_is_accepted_by_the_root_of_another_product(
    name: str, folder: Path, endorsements: Endorsements
) -> None:
    others = {root for product, root in ROOTS.items() if product != VECTORS[name].product}
    with pytest.raises(VerificationError) as caught:
        decide(snp_vectors.evidence(folder, VECTORS[name]), endorsements, roots=others)
    assert caught.value.code == "root"


def test_what_the_reports_say(folder: Path, endorsements: Endorsements) -> None:
    def of(name: str) -> Claims:
        return decide(snp_vectors.evidence(folder, VECTORS[name]), endorsements)

    trustee, vlek, genoa = of("milan-v2-trustee"), of("milan-v3-vlek"), of("genoa-v5-oak-containers")
    assert str(trustee.current_tcb) == "fmc 0, boot_loader 3, tee 0, snp 8, microcode 206"
    assert str(trustee.reported_tcb) == "fmc 0, boot_loader 3, tee 0, snp 8, microcode 115"
    assert trustee.guest_svn == 4 and trustee.guest_flags == ("smt",) and str(trustee.guest_abi) == "0.31"
    assert trustee.id_key_digest is not None and trustee.id_key_digest.startswith("03562158")
    assert trustee.author_key_digest is None and trustee.processor is None and trustee.current_mitigations is None
    assert trustee.migration_agent is None and str(trustee.firmware) == "1.52.4"
    assert vlek.provider == "CN=cc-us-east-2.amazonaws.com" and vlek.chip_id is None and vlek.vmpl == 1
    assert vlek.platform_flags == ("alias-check", "ecc", "smt", "tsme") and vlek.id_key_digest is None
    assert genoa.processor is not None and (genoa.processor.family, genoa.processor.model) == (0x19, 0x11)
    assert genoa.launch_mitigations == genoa.current_mitigations == "0000000000000001"
    assert genoa.chip_id is not None and genoa.chip_id.startswith("d2421d976f95ce0b")
    assert (genoa.root, genoa.valid_until) == (ROOTS["Genoa"], "2032-08-07T17:21:41Z")


def test_measurements_are_those_that_oak_publishes(folder: Path, endorsements: Endorsements) -> None:
    def measured(name: str) -> str:
        return decide(snp_vectors.evidence(folder, VECTORS[name]), endorsements).measurements["launch"]

    reference = (folder / "oak-genoa" / "genoa_oc_reference_values.binarypb").read_bytes()
    assert measured("genoa-v5-oak-containers") == protobuf.at(reference, 2, 1, 1, 4, 3, 1, 32).hex()
    # Oak's endorsement of its firmware names one measurement for each number of processors, in hexadecimal digits.
    endorsed = (folder / "oak-milan-staging" / "milan_oc_staging_endorsements.binarypb").read_bytes()
    assert measured("milan-v3-oak-containers").encode() in protobuf.at(endorsed, 2, 1, 2, 4)


def test_the_reference_values_of_oak_accept_its_evidence(folder: Path, endorsements: Endorsements) -> None:
    found = decide(snp_vectors.evidence(folder, VECTORS["genoa-v5-oak-containers"]), endorsements)
    required = Policy.model_validate_json(
        b"""{"measurements": ["%s"], "guest_allows": ["smt"], "platform_requires": ["alias-check"],
             "minimum_tcb": {"Genoa": {"boot_loader": 10, "tee": 0, "snp": 25, "microcode": 84}},
             "unsafe_without_revocation": true}"""
        % found.measurements["launch"].encode()
    )
    assert [line.rule for line in appraise(found, required) if not line.holds] == []
    # One step more than what runs, and without the two allowances that this evidence needs: validly signed, refused.
    minimum = required.minimum_tcb["Genoa"].model_copy(update={"microcode": 85})
    stricter = required.model_copy(
        update={"minimum_tcb": {"Genoa": minimum}, "guest_allows": (), "unsafe_without_revocation": False}
    )
    refused = [line.rule for line in appraise(found, stricter) if not line.holds]
    assert refused == [
        "sev-snp.reported-tcb", "sev-snp.committed-tcb", "sev-snp.current-tcb", "sev-snp.launch-tcb", "sev-snp.smt",
        "sev-snp.revocation",
    ]  # fmt: skip


def test_the_turin_certificate_is_amds(folder: Path, endorsements: Endorsements) -> None:
    from attest.sevsnp import chain

    certificate = load((folder / "virtee-sev" / "vcek_turin.der").read_bytes())
    path = chain.verify(certificate, endorsements, roots=PINNED, now=NOW, unsafe_without_revocation=True)
    found = read_chip(certificate)
    assert (found.product, found.kind, found.tcb.hex()) == ("Turin", "vcek", "0000000000000009")
    assert found.chip_id == bytes.fromhex("1e550a8ee5cf9f4d").ljust(64, b"\0")
    chained = split((folder / "virtee-sev" / "cert_chain_turin").read_bytes())
    assert (
        path.issuer == load(chained[0])
        and path.root == ROOTS["Turin"]
        and set(chained) <= set(endorsements.certificates)
    )


@pytest.mark.parametrize(("product", "name"), [(product, name) for product in ROOTS for name in ("ark", "ask")])
def test_both_sources_of_roots_agree(product: str, name: str, folder: Path, endorsements: Endorsements) -> None:
    path = folder / "amd-roots-virtee" / product.lower() / f"{name}.pem"
    assert set(split(path.read_bytes())) <= set(endorsements.certificates)


@pytest.mark.parametrize(
    "now", [datetime(2022, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)], ids=["before", "after"]
)
def test_certificates_are_valid_for_a_time(now: datetime, folder: Path, endorsements: Endorsements) -> None:
    with pytest.raises(VerificationError) as caught:
        decide(snp_vectors.evidence(folder, VECTORS["milan-v2-virtee"]), endorsements, now=now)
    assert caught.value.code == "certificate-validity"


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_mutated_evidence_gives_our_errors_and_is_never_accepted(
    data: st.DataObject, folder: Path, endorsements: Endorsements
) -> None:
    good = snp_vectors.evidence(folder, VECTORS[data.draw(st.sampled_from(ACCEPTED))])
    part = data.draw(st.sampled_from(["report", "certificate"]))
    mutated = mutate(data, getattr(good, part))
    if mutated in (b"", getattr(good, part)):
        return
    with pytest.raises((VerificationError, MalformedInput, Unsupported)):
        decide(good.model_copy(update={part: mutated}), endorsements)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_mutated_collateral_gives_our_errors_and_is_never_accepted(
    data: st.DataObject, folder: Path, endorsements: Endorsements
) -> None:
    certificates = list(endorsements.certificates)
    # Of Milan's ASK, ARK and ASVK the first two are looked at for this evidence; all are read.
    index = data.draw(st.integers(0, 1))
    mutated = mutate(data, certificates[index])
    if mutated == certificates[index]:
        return
    certificates[index] = mutated
    with pytest.raises((VerificationError, MalformedInput, Unsupported)):
        decide(
            snp_vectors.evidence(folder, VECTORS["milan-v2-trustee"]),
            replace(endorsements, certificates=tuple(certificates)),
        )


def mutate(data: st.DataObject, good: bytes) -> bytes:
    """`good` with bits flipped, bytes overwritten, cut out, put in or cut off."""
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        how = data.draw(st.sampled_from(["flip", "set", "insert", "delete", "cut"]))
        if how == "flip" and at < len(changed):
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "set":
            new = data.draw(st.binary(min_size=1, max_size=8))
            changed[at : at + len(new)] = new
        elif how == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        elif how == "delete":
            del changed[at : at + data.draw(st.integers(1, 8))]
        elif how == "cut":
            del changed[at:]
    return bytes(changed)


def test_an_appraisal_takes_less_than_50_ms(folder: Path, endorsements: Endorsements) -> None:
    evidence = snp_vectors.evidence(folder, VECTORS["genoa-v5-oak-containers"])
    rules = Policy.model_validate_json(
        b'{"id_keys": ["%s"], "minimum_tcb": {"Milan": {"boot_loader": 0, "tee": 0, "snp": 0, "microcode": 0}}}'
        % (b"0" * 96)
    )
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert appraise(decide(evidence, endorsements), rules)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05
