"""The files that cross an air gap, as somebody could write them who only wants to do harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.notary import gap
from attest.errors import MalformedInput


@given(data=st.one_of(st.binary(max_size=300), st.recursive(
    st.none() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_garbage_is_malformed(data: bytes) -> None:
    for read in (gap.read_invitation, gap.read_request, gap.read_answer):
        with pytest.raises(MalformedInput):
            read(data)


def test_files_are_bounded() -> None:
    for read, limit in (
        (gap.read_invitation, gap.MAX_INVITATION_BYTES),
        (gap.read_request, gap.MAX_REQUEST_BYTES),
        (gap.read_answer, gap.MAX_ANSWER_BYTES),
    ):
        with pytest.raises(MalformedInput, match="at most"):
            read(b" " * (limit + 1))
