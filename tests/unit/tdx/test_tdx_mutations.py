"""Hostile bytes: changed evidence gives only our errors, and what was signed is never accepted changed.

`VITRINE_MUTATIONS` sets how many examples each test tries.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.errors import MalformedInput, Unsupported, VerificationError, VitrineError
from attest.tdx import Endorsements, Signed, authenticate, certificates, claims, collateral, eventlog, layout
from tests.fakes import tdx
from tests.fakes.mutate import EXAMPLES

hostile = settings(max_examples=EXAMPLES, deadline=None)

INTEL = tdx.intel()
SGX = INTEL.for_sgx()
QUOTES = [
    (INTEL, INTEL.quote(tdx.domain())),
    (INTEL, INTEL.quote(tdx.domain(td15=True), version=5)),
    (SGX, SGX.quote(tdx.enclave(), version=3)),
]
Edit = Callable[[bytes], bytes]


def flip(at: float, bit: int) -> Edit:
    def edit(data: bytes) -> bytes:
        place = int(at * len(data))
        return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]

    return edit


def put(at: float, new: bytes) -> Edit:
    def edit(data: bytes) -> bytes:
        place = int(at * len(data))
        return data[:place] + new + data[place + len(new) :]

    return edit


def cut(at: float, size: int) -> Edit:
    def edit(data: bytes) -> bytes:
        place = int(at * len(data))
        return data[:place] + data[place + size :]

    return edit


def insert(at: float, new: bytes) -> Edit:
    def edit(data: bytes) -> bytes:
        place = int(at * len(data))
        return data[:place] + new + data[place:]

    return edit


places = st.floats(0, 1, exclude_max=True)
small = st.binary(min_size=1, max_size=16) | st.sampled_from([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"])
edits = st.lists(
    st.builds(flip, places, st.integers(0, 7))
    | st.builds(put, places, small)
    | st.builds(cut, places, st.integers(1, 200))
    | st.builds(insert, places, small),
    min_size=1,
    max_size=3,
)


def edited(data: bytes, changes: list[Edit]) -> bytes:
    for change in changes:
        data = change(data) if data else data
    return data


def signed_parts(data: bytes) -> tuple[object, ...]:
    """What signatures cover, and what the certificates in it are: nothing of this may change and be accepted."""
    quote = layout.parse(data)
    chain = certificates.load_chain(quote.pck_chain, "chain")
    return quote.signed, quote.signature, quote.key, quote.qe_signed, quote.qe_signature, quote.qe_auth, chain


@hostile
@given(st.sampled_from(QUOTES), edits)
def test_a_changed_quote(quote: tuple[tdx.Intel, bytes], changes: list[Edit]) -> None:
    intel, whole = quote
    changed = edited(whole, changes)
    try:
        claims(authenticate(changed, intel.endorsements(), now=tdx.NOW))
    except (MalformedInput, Unsupported, VerificationError):
        return
    assert signed_parts(changed) == signed_parts(whole)


@pytest.fixture(scope="module")
def real(data: Path) -> tuple[bytes, Endorsements]:
    """dcap-qvl's quote of a trust domain, with its collateral."""
    folder = data / "attestation" / "tdx" / "dcap-qvl"
    return (folder / "tdx_quote").read_bytes(), tdx.stored(folder, "tdx_quote_collateral.json")


@hostile
@given(changes=edits)
def test_a_changed_real_quote(real: tuple[bytes, Endorsements], changes: list[Edit]) -> None:
    whole, endorsements = real
    changed = edited(whole, changes)
    try:
        claims(authenticate(changed, endorsements, now=datetime(2025, 7, 1, tzinfo=UTC)))
    except (MalformedInput, Unsupported, VerificationError):
        return
    assert signed_parts(changed) == signed_parts(whole)


@hostile
@given(st.sampled_from(["root_crl", "pck_crl", "tcb_info", "qe_identity"]), edits)
def test_changed_collateral(field: str, changes: list[Edit]) -> None:
    endorsements = INTEL.endorsements()
    whole = getattr(endorsements, field)
    changed = replace(whole, body=edited(whole.body, changes)) if isinstance(whole, Signed) else edited(whole, changes)
    try:
        authenticate(QUOTES[0][1], replace(endorsements, **{field: changed}), now=tdx.NOW)
    except (MalformedInput, Unsupported, VerificationError):
        return
    assert changed == whole


@hostile
@given(st.sampled_from([collateral.TcbInfo, collateral.QeIdentity]), edits)
def test_documents_are_read_or_refused(model: type[collateral.TcbInfo], changes: list[Edit]) -> None:
    """Behind the signature too: a document that somebody signed, but that is no document."""
    body = INTEL.signed(INTEL.tcb if model is collateral.TcbInfo else INTEL.qe).body
    try:
        assert collateral.parse(model, edited(body, changes)).version in (2, 3)
    except (MalformedInput, Unsupported):
        return


@hostile
@given(edits)
def test_certificates_are_read_or_refused(changes: list[Edit]) -> None:
    extension = edited(tdx.sgx_extension(), changes)
    leaf = tdx.certify(
        tdx.LEAF, INTEL.pck_key, tdx.PLATFORM, INTEL.authority_key, ca=False, extensions=tdx.intels(extension)
    )
    intel = replace(INTEL, leaf=leaf)
    try:
        found = authenticate(intel.quote(tdx.domain()), intel.endorsements(), now=tdx.NOW)
    except (MalformedInput, VerificationError):
        return
    assert len(found.pck.components) == 16


@hostile
@given(st.binary(max_size=800) | edits)
def test_event_logs_are_read_or_refused(log: bytes | list[Edit]) -> None:
    data = log if isinstance(log, bytes) else edited(LOG, log)
    for parse in (eventlog.parse, eventlog.parse_dstack):
        try:
            events = parse(data)
        except VitrineError as error:
            assert isinstance(error, MalformedInput | Unsupported)
        else:
            assert all(len(value) == 48 for value in eventlog.replay(events).values())


def event_log() -> bytes:
    body = b"Spec ID Event03\0" + bytes(8) + struct.pack("<IHHB", 1, 12, 48, 0)
    head = struct.pack("<II", 1, 3) + bytes(20) + struct.pack("<I", len(body)) + body
    return head + b"".join(struct.pack("<IIIH48sI", n, 13, 1, 12, b"\1" * 48, 8) + bytes(8) for n in (1, 2, 4))


LOG = event_log()


@hostile
@given(st.binary(max_size=6000), st.sampled_from([0, 3, 4, 5]))
def test_bytes_that_are_no_quote(data: bytes, version: int) -> None:
    header = QUOTES[version % 3][1][:48] if version else b""
    with pytest.raises((MalformedInput, Unsupported)):
        layout.parse(header + data)
