"""Strict CBOR: what is read, and what every decoder should have refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest import cbor
from attest.errors import MalformedInput, Unsupported, VitrineError
from tests.fakes.mutate import MUTATIONS

ITEMS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-9, 9) | st.text(max_size=4), inner, max_size=4)
        | st.builds(cbor.Tagged, st.integers(0, 70000), inner)
    ),
    max_leaves=6,
)

EXAMPLES = {  # RFC 8949, appendix A
    "00": 0, "17": 23, "1818": 24, "1903e8": 1000, "1b000000e8d4a51000": 10**12, "1bffffffffffffffff": 2**64 - 1,
    "20": -1, "3903e7": -1000, "3bffffffffffffffff": -(2**64), "f4": False, "f5": True, "f6": None,
    "4401020304": b"\1\2\3\4", "6449455446": "IETF", "62c3bc": "ü", "83010203": [1, 2, 3], "a201020304": {1: 2, 3: 4},
    "c11a514b67b0": cbor.Tagged(1, 1363896240), "826161a161626163": ["a", {"b": "c"}],
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), EXAMPLES.items(), ids=list(EXAMPLES))
def test_examples_of_the_standard(text: str, value: object) -> None:
    assert cbor.loads(bytes.fromhex(text), "x") == value
    assert cbor.dumps(value).hex() == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1 more byte"),
        ("0000", "1 bytes of CBOR"),
        ("1817", "shortest"),
        ("190017", "shortest"),
        ("1a0000ffff", "shortest"),
        ("1b00000000ffffffff", "shortest"),
        ("1c", "definite"),
        ("5f", "definite"),
        ("7f", "definite"),
        ("9f", "definite"),
        ("bf", "definite"),
        ("ff", None),
        ("42ff", "2 more bytes"),
        ("5bffffffffffffffff", "more bytes"),
        ("9bffffffffffffffff", "1 more bytes"),
        ("bbffffffffffffffff", "1 more bytes"),
        ("62fffe", "UTF-8"),
        ("a201000100", "unique"),
        ("a2616100616101", "unique"),
        ("a1f500", "key"),
        ("a14100f6", "key"),
        ("818181818181818100", "levels"),
        ("c1c1c1c1c1c1c1c100", "levels"),
        ("a100a100a100a100a100a100a100a10000", "levels"),
        ("f93c00", None),
        ("f7", None),
    ],
)
def test_refused(text: str, problem: str | None) -> None:
    kind = MalformedInput if problem else Unsupported
    with pytest.raises(kind, match=problem):
        cbor.loads(bytes.fromhex(text), "x")


def test_maps_of_indefinite_length_are_read_only_where_asked_for() -> None:
    assert cbor.loads(bytes.fromhex("bf0102ff"), "x", indefinite_maps=True) == {1: 2}
    assert cbor.loads(bytes.fromhex("a10102"), "x", indefinite_maps=True) == {1: 2}
    for text in ("bf01ff", "bf0102", "bf01020103ff", "bf0102ff00", "9fff"):
        with pytest.raises(VitrineError):
            cbor.loads(bytes.fromhex(text), "x", indefinite_maps=True)


def test_seven_levels_are_read() -> None:
    assert cbor.loads(bytes.fromhex("81" * 7 + "00"), "x") == [[[[[[[0]]]]]]]


@pytest.mark.parametrize("value", [2**64, -(2**64) - 1, 1.5, object()])
def test_nothing_else_is_written(value: object) -> None:
    with pytest.raises(TypeError):
        cbor.dumps(value)


@MUTATIONS
@given(ITEMS)
def test_round_trip(value: object) -> None:
    assert cbor.loads(cbor.dumps(value), "x") == value


@MUTATIONS
@given(st.binary(max_size=64))
def test_whatever_is_read_has_one_form(data: bytes) -> None:
    try:
        value = cbor.loads(data, "x")
    except VitrineError:
        return
    assert cbor.dumps(value) == data


@MUTATIONS
@given(ITEMS)
def test_another_decoder_agrees(value: object) -> None:
    cbor2 = pytest.importorskip("cbor2", reason="cbor2 is not installed")
    plain = cbor.dumps(_untagged(value))
    assert cbor2.loads(plain) == cbor.loads(plain, "x")


def _untagged(value: object) -> object:
    if isinstance(value, cbor.Tagged):
        return _untagged(value.value)
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    return {key: _untagged(item) for key, item in value.items()} if isinstance(value, dict) else value
