"""The ends of a capsule: its size, its maker's key, and from when until when each kind of file holds."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attest import canonical, capsule, dsse, validity
from attest.capsule import Capsule, Item
from attest.errors import MalformedInput
from tests.fakes import tdx
from tests.fakes.authority import issue
from tests.fakes.der import tlv
from tests.fakes.nvgpu import response

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
START, END = "2026-03-01T12:00:00Z", "2026-03-02T12:00:00Z"
ROOT = issue("capsule root")


def item(platform: Any = "tpm", data: bytes = b"x") -> Item:
    return Item(platform=platform, kind="root", name="a", data=data, not_before=START, not_after=END)


def test_an_item_holds_from_its_first_to_its_last_second() -> None:
    second, day = timedelta(seconds=1), timedelta(days=1)
    moments = (NOW - second, NOW, NOW + day, NOW + day + second)
    assert [item().holds_at(moment) for moment in moments] == [False, True, True, False]


def test_items_are_of_a_platform_and_what_expired_is_told() -> None:
    one, other = item(), item("nitro")
    found = Capsule(made=START, maker=b"key", items=(one, other))
    assert (found.of("tpm", "root"), found.of("nitro", "root"), found.of("tdx", "root")) == ((one,), (other,), ())
    for days, expired in ((1, ()), (2, (f"a ({END})",) * 2)):
        fresh = capsule.check(
            found, makers=[found.maker_digest], now=NOW + timedelta(days=days), max_age=timedelta(days=9)
        )
        assert fresh.expired == expired


def test_a_capsule_is_bounded() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    good = capsule.make([capsule.item("tpm", "root", "a", ROOT.der)], key, NOW)
    assert capsule.read(good + b" " * (capsule.MAX_BYTES - len(good))).made == START
    with pytest.raises(MalformedInput, match="at most"):
        capsule.read(good + b" " * (capsule.MAX_BYTES - len(good) + 1))


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_a_makers_key_is_of_one_kind(key: Any) -> None:
    maker = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    payload = canonical.dump_model(Capsule(made=START, maker=maker, items=(item(),)))
    with pytest.raises(MalformedInput, match="P-256"):
        capsule.read(dsse.encode(dsse.make(payload, capsule.PAYLOAD_TYPE, bytes(70))))


def document(**changes: Any) -> bytes:
    return json.dumps({"tcbInfo": {"issueDate": START, "nextUpdate": END} | changes, "signature": "00"}).encode()


def test_a_document_says_its_time() -> None:
    assert validity.of("tcb-info", document(), "x") == (NOW, NOW + timedelta(days=1))
    assert validity.of("tcb-info", document(nextUpdate=START), "x") == (NOW, NOW)
    with pytest.raises(MalformedInput, match="ends after it starts"):
        validity.of("tcb-info", document(issueDate=END, nextUpdate=START), "x")


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"1",
        b"{}",
        document().replace(b'"00"', b"{}"),
        document(issueDate=1),
        document(nextUpdate=1),
        document(issueDate=None, nextUpdate=None),
    ],
)
def test_other_documents_have_no_time(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="tcb-info x"):
        validity.of("tcb-info", data, "x")


def test_a_manifest_has_one_to_sixteen_certificates() -> None:
    one = b"<ds:X509Certificate>" + b64encode(ROOT.der) + b"</ds:X509Certificate>"
    span = (ROOT.certificate.not_valid_before_utc, ROOT.certificate.not_valid_after_utc)
    assert {validity.of("driver-rim", one * count, "x") for count in (1, 16)} == {span}
    for count in (0, 17):
        with pytest.raises(MalformedInput, match=f"1 to 16 certificates, found {count}"):
            validity.of("driver-rim", one * count, "x")


def test_a_revocation_list_has_an_end() -> None:
    der = tdx.revocations(tdx.ROOT, tdx.intel().root_key)
    assert validity.of("revocation-list", der, "x")
    tbs = x509.load_der_x509_crl(der).tbs_certlist_bytes
    head = 2 + (tbs[1] & 0x7F if tbs[1] & 0x80 else 0)
    end = tbs.index(b"\x17\x0d") + 15  # after thisUpdate, a UTCTime of 15 bytes; nextUpdate is one too
    endless = tlv(0x30, tlv(0x30, tbs[head:end] + tbs[end + 15 :]) + der[der.index(tbs) + len(tbs) :])
    assert x509.load_der_x509_crl(endless).next_update_utc is None
    with pytest.raises(MalformedInput, match="without an end"):
        validity.of("revocation-list", endless, "x")


def test_a_responders_answer_has_an_end() -> None:
    leaf = issue("capsule leaf", ROOT, ca=False)
    assert validity.of("ocsp", response(leaf, ROOT), "x") == (NOW - timedelta(days=1), NOW + timedelta(days=1))
    with pytest.raises(MalformedInput, match="without an end"):
        validity.of("ocsp", response(leaf, ROOT, days=(-1, None)), "x")
