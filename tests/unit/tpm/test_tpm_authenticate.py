"""Every check behind a valid signature of quotes and counters: wrong in one place, signed again, refused for that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attest.errors import MalformedInput
from attest.tpm import (
    Evidence,
    Index,
    Signed,
    authenticate,
    layout,
)
from attest.tpm.layout import Hash
from tests.fakes import tpm as fake
from tests.fakes.tpm import Key
from tests.fakes.tpm_scene import (
    BANKS,
    EK,
    FILES,
    NONCE,
    PUBLIC,
    certified,
    refused,
    registers,
    scene,
    wire,
)


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


# 6. The counter -------------------------------------------------------------------------------------------------------


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
    refused(scene().with_(counter=Index(public=public, certified=signed)), code)


KEPT = fake.nv_public(0x2A060006, 0x01800A20, size=16)
"""An ordinary index of 16 bytes, written."""
CONTENTS = bytes(7) + b"\3" + b"lock:job"


def test_versions_are_what_ordinary_indexes_of_this_tpm_hold() -> None:
    kept = Index(public=KEPT, certified=certified(Key(), fake.nv_body(KEPT, CONTENTS)))
    for versions, found in ((None, ()), ((kept, kept), ((0x01800A20, CONTENTS),) * 2)):
        it = scene().with_(versions=versions)
        given = {"nonce": it.nonce, "now": it.now, "activation": it.activation}
        assert authenticate(it.evidence, it.endorsements, **given).versions == found  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("public", "signed", "code"),
    [
        (KEPT, certified(Key(which="b"), fake.nv_body(KEPT, CONTENTS)), "tpm/signature"),
        (KEPT, certified(Key(), fake.nv_body(KEPT, CONTENTS), nonce=bytes(32)), "tpm/nonce"),
        (PUBLIC, certified(Key(), fake.nv_body(KEPT, CONTENTS)), "tpm/versions"),
        *(
            (fake.nv_public(value), certified(Key(), fake.nv_body(fake.nv_public(value), bytes(8))), "tpm/versions")
            for value in (0x2A060016, 0x2A060026, 0x0A060006)  # a counter, bits, never written
        ),
    ],
)
def test_a_kept_version_is_of_an_index_of_this_tpm(public: bytes, signed: Signed, code: str) -> None:
    good = Index(public=KEPT, certified=certified(Key(), fake.nv_body(KEPT, CONTENTS)))
    refused(scene().with_(versions=(good, Index(public=public, certified=signed))), code)


@pytest.mark.parametrize("body", [fake.nv_body(KEPT, CONTENTS[:-1]), fake.nv_body(KEPT, CONTENTS, offset=1)])
def test_a_part_of_an_index_is_no_version(body: bytes) -> None:
    with pytest.raises(MalformedInput, match="its 16 bytes"):
        scene().with_(versions=(Index(public=KEPT, certified=certified(Key(), body)),)).check()


@pytest.mark.parametrize("body", [fake.nv_body(PUBLIC, bytes(8), offset=1), fake.nv_body(PUBLIC, bytes(7))])
def test_a_part_of_a_counter_is_none(body: bytes) -> None:
    with pytest.raises(MalformedInput, match="its 8 bytes"):
        scene().with_(counter=Index(public=PUBLIC, certified=certified(Key(), body))).check()


def test_a_counter_of_another_size_is_malformed() -> None:
    wide = fake.nv_public(size=16)
    with pytest.raises(MalformedInput, match="the 8 bytes of a counter"):
        scene().with_(counter=Index(public=wide, certified=certified(Key(), fake.nv_body(wide, bytes(16))))).check()
