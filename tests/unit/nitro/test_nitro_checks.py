"""Each check of a Nitro document broken once, by a fake module that signs what is wrong."""

from dataclasses import replace
from datetime import timedelta

import pytest

from attest import canonical, cbor, nitro
from attest.appraisal import require
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.nitro import dstack, layout
from tests.fakes import authority
from tests.fakes.authority import NOW, SIGNER, issue
from tests.fakes.nitro import IMAGE, Nsm

NSM = Nsm()
ENDORSEMENTS = nitro.Endorsements((NSM.root,), NSM.lists())


def authenticate(evidence: bytes, endorsements: nitro.Endorsements = ENDORSEMENTS, **options: object):
    return nitro.authenticate(evidence, endorsements, **({"now": NOW} | options))  # type: ignore[arg-type]


def code(evidence: bytes, endorsements: nitro.Endorsements = ENDORSEMENTS, **options: object) -> str:
    with pytest.raises(VerificationError) as caught:
        authenticate(evidence, endorsements, **options)
    assert caught.value.layer == "nitro"
    return caught.value.code


def claims(**fields: object) -> nitro.Claims:
    return nitro.claims(authenticate(NSM.document(**fields)))


def test_accepted_with_lists_of_revocation() -> None:
    found = authenticate(NSM.document())
    assert found.skipped == ()
    assert found.document.user_data == b"bound"
    assert authenticate(b"\xd2" + NSM.document()) == found


def test_what_was_skipped_is_said() -> None:
    bare = replace(ENDORSEMENTS, crls=())
    assert code(NSM.document(), bare) == "crl_missing"
    found = authenticate(NSM.document(), bare, unsafe_without_revocation=True)
    assert found.skipped == ("Nitro: revocation of the certificates was not checked.",)
    assert nitro.claims(found).skipped == found.skipped


def test_revoked_region() -> None:
    root, region = NSM.chain[:2]
    lists = (authority.revocation_list(root, [region]), NSM.lists()[1])
    assert code(NSM.document(), replace(ENDORSEMENTS, crls=lists)) == "revoked"


@pytest.mark.parametrize("protected", [{1: -7}, {1: -35, 4: b"kid"}, {}])
def test_headers_are_the_algorithm_alone(protected: dict[int, object]) -> None:
    assert code(NSM.sign(cbor.dumps(NSM.fields()), protected=protected, unprotected={})) == "headers"
    assert code(NSM.sign(cbor.dumps(NSM.fields()), unprotected={4: b"kid"})) == "headers"


def test_signed_by_another_key() -> None:
    assert code(NSM.sign(cbor.dumps(NSM.fields()), own=authority.key("attacker"))) == "cose_signature"


def test_another_root_of_the_same_name() -> None:
    assert code(NSM.document(), replace(ENDORSEMENTS, roots=(issue("aws.nitro-enclaves").der,))) == "root"
    assert code(NSM.document(), replace(ENDORSEMENTS, roots=())) == "root"


def test_the_chain_is_checked_at_now() -> None:
    assert code(NSM.document(), now=NOW + timedelta(hours=3)) == "certificate_time"


def test_a_document_of_another_time_than_its_certificate() -> None:
    for hours in (-2, 3):
        made = NOW + timedelta(hours=hours)
        assert code(NSM.document(timestamp=int(made.timestamp() * 1000)), unsafe_without_revocation=True) == "timestamp"


def test_a_document_of_the_first_and_last_second_of_its_certificate() -> None:
    certificate = NSM.chain[-1].certificate
    for made in (certificate.not_valid_before_utc, certificate.not_valid_after_utc):
        found = authenticate(NSM.document(timestamp=int(made.timestamp() * 1000)), now=made)
        assert found.document.timestamp_ms == int(made.timestamp() * 1000)


def test_a_document_of_the_future() -> None:
    authenticate(NSM.document(timestamp=int((NOW + timedelta(minutes=5)).timestamp() * 1000)))
    later = NOW + timedelta(minutes=5, milliseconds=1)
    assert code(NSM.document(timestamp=int(later.timestamp() * 1000))) == "future"


def test_limits_of_the_fields_are_reached() -> None:
    full = {"public_key": bytes(1024), "user_data": bytes(512), "nonce": bytes(512), "module_id": "i" * 256}
    authenticate(NSM.document(**full))
    pcrs = {index: bytes(64) for index in range(32)}
    authenticate(NSM.document(pcrs=pcrs | {0: bytes(32)}))
    absent = {key: value for key, value in NSM.fields().items() if key not in layout.OPTIONAL}
    assert authenticate(NSM.sign(cbor.dumps(absent))).document.user_data is None


@pytest.mark.parametrize(
    "fields",
    [
        {"module_id": ""},
        {"module_id": "i" * 257},
        {"module_id": "a\nb"},
        {"module_id": b"i"},
        {"timestamp": 0},
        {"timestamp": -1},
        {"timestamp": True},
        {"timestamp": "1"},
        {"timestamp": 2**63},
        {"pcrs": {}},
        {"pcrs": []},
        {"pcrs": {32: bytes(48)}},
        {"pcrs": {-1: bytes(48)}},
        {"pcrs": {"0": bytes(48)}},
        {"pcrs": {0: bytes(47)}},
        {"pcrs": {0: "text"}},
        {"certificate": b""},
        {"certificate": bytes(1025)},
        {"certificate": "text"},
        {"certificate": b"\x30\x00"},
        {"cabundle": []},
        {"cabundle": {}},
        {"cabundle": [b""]},
        {"cabundle": [bytes(1025)]},
        {"cabundle": [b"\x30\x00"]},
        {"cabundle": [b"x"] * 9},
        {"public_key": bytes(1025)},
        {"public_key": "text"},
        {"user_data": bytes(513)},
        {"nonce": bytes(513)},
        {"nonce": 7},
        {"extra": 1},
        {7: 1},
    ],
    ids=str,
)
def test_fields_outside_their_limits_are_malformed(fields: dict[str, object]) -> None:
    with pytest.raises(MalformedInput):
        authenticate(NSM.sign(cbor.dumps(NSM.fields() | fields)))


@pytest.mark.parametrize("field", sorted(layout.REQUIRED))
def test_a_missing_field_is_malformed(field: str) -> None:
    fields = NSM.fields()
    del fields[field]
    with pytest.raises(MalformedInput, match=field):
        authenticate(NSM.sign(cbor.dumps(fields)))


def test_more_registers_than_there_are() -> None:
    with pytest.raises(MalformedInput, match="1 to 32"):
        layout.read(cbor.dumps(NSM.fields(pcrs={index: bytes(48) for index in range(33)})))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pcrs": "text"}, "pcrs: expected a map"),
        ({"pcrs": [1]}, "pcrs: expected a map"),
        ({"pcrs": {0: "t" * 48}}, "pcrs: expected .* bytes as register 0"),
        ({"cabundle": "text"}, "cabundle: expected"),
        ({"cabundle": {"x": b"x"}}, "cabundle: expected"),
        ({"cabundle": [b"x"] * (layout.MAX_BUNDLE + 1)}, "cabundle: expected"),
        ({"cabundle": [b""]}, "cabundle: expected 1 to"),
        ({"certificate": b""}, "certificate: expected 1 to"),
    ],
)
def test_a_field_of_another_kind_is_named(fields: dict[str, object], said: str) -> None:
    with pytest.raises(MalformedInput, match=said):
        layout.read(cbor.dumps(NSM.fields() | fields))


def test_the_ends_of_each_limit_belong_to_it() -> None:
    ends: dict[str, object] = {
        "module_id": "i", "timestamp": layout.MAX_TIMESTAMP_MS, "pcrs": {0: bytes(48)}, "nonce": b"",
        "cabundle": [b"x"] * layout.MAX_BUNDLE,
    }  # fmt: skip
    found = layout.read(cbor.dumps(NSM.fields() | ends))
    assert (found.module_id, found.timestamp_ms, found.nonce) == ("i", layout.MAX_TIMESTAMP_MS, b"")
    assert (len(found.pcrs), len(found.cabundle)) == (1, layout.MAX_BUNDLE)


def test_a_payload_that_is_no_map() -> None:
    with pytest.raises(MalformedInput, match="map"):
        authenticate(NSM.sign(cbor.dumps([1])))


def test_another_digest_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="SHA512"):
        authenticate(NSM.document(digest="SHA512"))


def test_a_register_twice_is_malformed() -> None:
    twice = NSM.sign(cbor.dumps(NSM.fields()).replace(b"\x0e\x58\x30", b"\x0f\x58\x30"))
    with pytest.raises(MalformedInput, match="twice"):
        authenticate(twice)


# Claims.


@pytest.mark.parametrize("index", [0, 1, 2])
def test_debug_mode_is_a_zero_or_missing_register(index: int) -> None:
    assert not claims().debug
    assert claims(pcrs=NSM.pcrs | {index: bytes(48)}).debug
    assert claims(pcrs={key: value for key, value in NSM.pcrs.items() if key != index}).debug


def test_claims_say_what_the_document_says() -> None:
    found = claims(nonce=b"\1", public_key=b"\2")
    assert (found.bound, found.nonce, found.public_key) == (b"bound".hex(), "01", "02")
    assert found.measurements["PCR0"] == IMAGE.hex()
    assert found.made_at == "2026-03-01T12:00:00.000Z"
    nothing = claims(user_data=None)
    assert (nothing.bound, nothing.nonce, nothing.public_key) == ("", None, None)
    assert canonical.parse(nitro.Claims, canonical.dump_model(found), "claims") == found


# Policy.

WANTED = {"PCR0": (IMAGE.hex(),)}


def rules(found: nitro.Claims, **policy: object) -> dict[str, bool]:
    read = canonical.validate(nitro.Policy, policy, "policy")
    return {line.rule: line.holds for line in nitro.appraise(found, read)}


def test_a_policy_of_values_holds() -> None:
    assert rules(claims(), measurements=WANTED) == {
        "nitro.debug": True, "nitro.revocation": True, "nitro.identity": True, "nitro.pcr0": True
    }  # fmt: skip


def test_the_default_policy_refuses_everything() -> None:
    assert rules(claims())["nitro.identity"] is False
    assert rules(claims(), measurements={"PCR3": (96 * "0",)})["nitro.identity"] is False
    assert rules(claims(), measurements={"PCR8": (96 * "0",)})["nitro.identity"] is True
    assert rules(claims(), unsafe_any_measurement=True)["nitro.identity"] is True


def test_values_of_registers() -> None:
    assert rules(claims(), measurements={"PCR0": (96 * "0", IMAGE.hex())})["nitro.pcr0"] is True
    assert rules(claims(), measurements={"PCR0": (96 * "0",)})["nitro.pcr0"] is False
    assert rules(claims(), measurements={"PCR31": (96 * "0",)})["nitro.pcr31"] is False
    both = rules(claims(), measurements=WANTED | {"PCR8": (96 * "1",)})
    assert (both["nitro.pcr0"], both["nitro.pcr8"]) == (True, False)


def test_debug_and_revocation_are_refused_unless_said() -> None:
    debug = claims(pcrs=NSM.pcrs | {0: bytes(48)})
    assert rules(debug, measurements=WANTED)["nitro.debug"] is False
    assert rules(debug, measurements=WANTED, unsafe_allow_debug=True)["nitro.debug"] is True
    skipped = nitro.claims(authenticate(NSM.document(), unsafe_without_revocation=True))
    assert rules(skipped, measurements=WANTED)["nitro.revocation"] is False
    assert rules(skipped, measurements=WANTED, unsafe_without_revocation=True)["nitro.revocation"] is True


def test_a_line_that_does_not_hold_is_an_error() -> None:
    with pytest.raises(VerificationError) as caught:
        require(nitro.appraise(claims(), nitro.Policy()))
    assert (caught.value.layer, caught.value.code) == ("appraisal", "nitro.identity")


@pytest.mark.parametrize(
    "policy",
    [
        {"measurements": {"PCR32": (96 * "0",)}},
        {"measurements": {"PCR00": (96 * "0",)}},
        {"measurements": {"PCR0": ()}},
        {"measurements": {"PCR0": ("00",)}},
        {"measurements": {"PCR0": (96 * "A",)}},
        {"unknown": 1},
    ],
)
def test_a_policy_is_strict(policy: dict[str, object]) -> None:
    with pytest.raises(MalformedInput):
        canonical.validate(nitro.Policy, policy, "policy")


# dstack's frame.


def framed(document: bytes, events: bytes = b"\0", tail: bytes = bytes(64) + b"\x08{}") -> bytes:
    length = (len(document) << 2 | 1).to_bytes(2, "little") if len(document) >= 64 else bytes([len(document) << 2])
    return dstack.HEAD + length + document + events + tail


def test_frames() -> None:
    assert dstack.unwrap(framed(b"x")) == dstack.Frame(b"x", bytes(64), b"{}")
    assert dstack.unwrap(framed(bytes(100))).document == bytes(100)
    large = dstack.HEAD + (20_000 << 2 | 2).to_bytes(4, "little") + bytes(20_000) + bytes(65) + b"\x08{}"
    assert len(dstack.unwrap(large).document) == 20_000


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x01\x02", Unsupported),
        (b"\x00\x01", Unsupported),
        (framed(b"x", events=b"\x04"), Unsupported),
        (b"\x00\x02", MalformedInput),
        (b"\x00\x02\x08x", MalformedInput),
        (b"\x00\x02\x03\x00\x00\x00\x40", MalformedInput),
        (dstack.HEAD + (1 << 2 | 3).to_bytes(8, "little") + b"x\0" + bytes(64) + b"\x08{}", MalformedInput),
        (framed(b"x", tail=bytes(63)), MalformedInput),
        (framed(b"x", tail=bytes(64)), MalformedInput),
        (framed(b"x") + b"\0", MalformedInput),
        (framed(b"x")[:-1], MalformedInput),
    ],
)
def test_frames_that_are_none(data: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        dstack.unwrap(data)


def test_a_chain_whose_leaf_is_an_authority() -> None:
    instance = NSM.chain[3]
    assert code(NSM.document(certificate=instance.der)) in {"leaf_is_ca", "certificate_signature"}
    direct = Nsm(chain=[NSM.chain[0], issue("enclave", NSM.chain[0], ca=False, key_usage=SIGNER)])
    authenticate(direct.document(), replace(ENDORSEMENTS, crls=()))
