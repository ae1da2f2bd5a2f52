"""The statement: in-toto's form with our predicate, over exactly the results and the transcript's root."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import canonical, statement
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported, VitrineError
from attest.manifest import ExecutionManifest
from attest.statement import PREDICATE_TYPE, RESULTS_SUBJECT, ROOT_SUBJECT, STATEMENT_TYPE
from tests.tools.manifests import MANIFEST

MADE = statement.make(canonical.validate(ExecutionManifest, MANIFEST, "manifest"))
PAYLOAD = canonical.dump_model(MADE)

Value = dict[str, Any]


def changed(change: Callable[[Value], object]) -> bytes:
    value = json.loads(PAYLOAD)
    change(value)
    return json.dumps(value).encode()


def test_round_trip() -> None:
    assert statement.read(PAYLOAD) == MADE
    assert canonical.dump_model(statement.read(PAYLOAD)) == PAYLOAD
    assert canonical.dumps(json.loads(PAYLOAD)) == PAYLOAD


def test_the_form_is_in_totos() -> None:
    value = json.loads(PAYLOAD)
    assert list(value) == ["_type", "predicate", "predicateType", "subject"]
    assert (value["_type"], value["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://vitrine.dev/execution-manifest/v1",
    )
    assert value["subject"] == [
        {"name": RESULTS_SUBJECT, "digest": {"sha256": digest_of(b"results").removeprefix("sha256:")}},
        {"name": ROOT_SUBJECT, "digest": {"sha256": digest_of(b"root").removeprefix("sha256:")}},
    ]


def test_claims_that_are_not_made_are_absent() -> None:
    assert b"null" not in PAYLOAD
    assert "nonce" not in json.loads(PAYLOAD)["predicate"]["job"]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda value: value.update(_type=""),
        lambda value: value.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda value: value.update(predicateType=PREDICATE_TYPE[:-1] + "2"),
        lambda value: value.update(predicateType=PREDICATE_TYPE + "/"),
        lambda value: value.update(predicateType="https://x.example/v1", predicate={"unknown": []}, subject=[]),
    ],
)
def test_another_type_is_unsupported(change: Callable[[Value], object]) -> None:
    with pytest.raises(Unsupported, match=r"expected (_type|predicateType) https://"):
        statement.read(changed(change))


def test_another_type_is_quoted_in_short() -> None:
    with pytest.raises(Unsupported) as caught:
        statement.read(changed(lambda value: value.update(predicateType="x" * 100_000)))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("_type"),
        lambda value: value.pop("predicateType"),
        lambda value: value.pop("predicate"),
        lambda value: value.pop("subject"),
        lambda value: value.update(_type=1),
        lambda value: value.update(_type=[STATEMENT_TYPE]),
        lambda value: value.update(predicateType=None),
        lambda value: value.update(surplus=1),
        lambda value: value.update(type_=value.pop("_type")),
        lambda value: value["subject"].pop(),
        lambda value: value["subject"].append(value["subject"][0]),
        lambda value: value["subject"][0].update(name=""),
        lambda value: value["subject"][0].update(uri="https://x.example"),
        lambda value: value["subject"][0].update(digest={}),
        lambda value: value["subject"][0]["digest"].update(sha512="0" * 128),
        lambda value: value["subject"][0]["digest"].update(sha256="0" * 63),
        lambda value: value["subject"][0]["digest"].update(sha256="A" * 64),
        lambda value: value["subject"][0]["digest"].update(sha256="sha256:" + "0" * 64),
        lambda value: value["predicate"].update(surplus=1),
        lambda value: value["predicate"].pop("transcript"),
        lambda value: value["predicate"].update(complete=1),
        lambda value: value["predicate"].update(complete="true"),
        lambda value: value["predicate"].update(wall="cloud"),
        lambda value: value["predicate"].update(seal=[]),
        lambda value: value["predicate"].update(started="2024-01-01T00:00:00+00:00"),
        lambda value: value["predicate"].update(started="2024-01-01T00:00:00Z\n"),
        lambda value: value["predicate"].update(ended_by="boredom"),
        lambda value: value["predicate"]["job"].update(attempt=0),
        lambda value: value["predicate"]["job"].update(attempt=1.0),
        lambda value: value["predicate"]["lock"].update(origin="found"),
        lambda value: value["predicate"]["boot"].update(registers={"0": "00"}),
        lambda value: value["predicate"]["files"][0].update(name="../results.json"),
        lambda value: value["predicate"]["files"][0].update(name="/etc/passwd"),
        lambda value: value["predicate"]["files"][0].update(name="a/b/c"),
        lambda value: value["predicate"]["files"][0].update(name="a\n"),
        lambda value: value["predicate"]["files"][0].update(size_bytes=-1),
        lambda value: value["predicate"]["counts"].update(run="1"),
    ],
)
def test_another_form_is_malformed(change: Callable[[Value], object]) -> None:
    assert statement.read(changed(lambda value: None)) == MADE
    with pytest.raises(MalformedInput, match="statement"):
        statement.read(changed(change))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b'"' + STATEMENT_TYPE.encode() + b'"',
        PAYLOAD + b"x",
        PAYLOAD + PAYLOAD,
        b"\xef\xbb\xbf" + PAYLOAD,
        PAYLOAD.replace(b'"wall":"process"', b'"wall":"vm","wall":"process"'),
        PAYLOAD.replace(b'"attempt":1', b'"attempt":1e0'),
        PAYLOAD.replace(b'"attempt":1', b'"attempt":9007199254740993'),
        b'{"_type":"' + STATEMENT_TYPE.encode() + b'",' + PAYLOAD[1:],
    ],
)
def test_what_is_not_strict_json_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedInput, match="statement"):
        statement.read(payload)


@settings(max_examples=60)
@given(st.integers(0, len(PAYLOAD) - 1), st.integers(1, 255))
def test_a_changed_byte_never_reads_as_the_same_statement(at: int, mask: int) -> None:
    data = bytearray(PAYLOAD)
    data[at] ^= mask
    try:
        found = statement.read(bytes(data))
    except VitrineError:
        return
    assert found != MADE
