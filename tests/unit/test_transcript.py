"""The transcript: a chain that cannot be changed unnoticed, and a salted tree that is RFC 6962's."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from appliance.transcript import TranscriptWriter
from attest import canonical, transcript
from attest.digest import digest_of
from attest.errors import MalformedInput, VerificationError, VitrineError

KEY = bytes(range(32))
RECORDS = [b'{"id":"a"}', b'{"id":"b","text":"\\n\xe2\x80\xa8"}', b"[1,2]"]

Entry = tuple[transcript.Kind, bytes]


def chain(entries: list[Entry]) -> list[bytes]:
    """The lines of a transcript, each chained to the one before."""
    prev, lines = transcript.genesis(), []
    for seq, (kind, record) in enumerate(entries):
        lines.append(transcript.frame_line(kind, prev, record, seq))
        prev = digest_of(lines[-1])
    return lines


def join(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def whole(records: list[bytes] = RECORDS) -> list[bytes]:
    return chain([("open", b"{}"), *(("sample", record) for record in records), ("close", b'{"ended_by":"done"}')])


LINES = whole()
DATA = join(LINES)
SAMPLES = st.lists(
    st.dictionaries(st.text("abc", max_size=3), st.integers(-9, 9) | st.text(max_size=5), max_size=3).map(
        canonical.dumps
    ),
    max_size=8,
)


def refused(data: bytes) -> bool:
    """Whether `data` is refused, by one of our errors; any other error fails the test."""
    try:
        transcript.read(data)
    except VitrineError:
        return True
    return False


def test_a_whole_transcript() -> None:
    found = transcript.read(DATA)
    assert [line.kind for line in found.lines] == ["open", "sample", "sample", "sample", "close"]
    assert [line.raw_record for line in found.samples] == RECORDS
    assert [line.record for line in found.samples] == [json.loads(record) for record in RECORDS]
    assert (found.opening, found.closing) == ({}, {"ended_by": "done"})
    assert found.head == "sha256:" + hashlib.sha256(LINES[-1]).hexdigest()


def test_the_form_of_a_line_is_the_published_one() -> None:
    first = hashlib.sha256(b"vitrine/transcript/v1").hexdigest()
    assert LINES[0] == f'{{"kind":"open","prev":"sha256:{first}","record":{{}},"seq":0}}'.encode()
    assert canonical.dumps(json.loads(LINES[1])) == LINES[1]


def test_a_transcript_that_was_cut_off_has_no_closing() -> None:
    found = transcript.read(join(LINES[:-1]))
    assert found.closing is None
    assert found.head == digest_of(LINES[-2]) != digest_of(LINES[-1])
    assert transcript.read(join(LINES[:1])).samples == []


@settings(max_examples=60)
@given(SAMPLES, st.data())
def test_reorder_drop_and_duplicate_are_refused(records: list[bytes], data: st.DataObject) -> None:
    lines = whole(records)
    at = data.draw(st.integers(0, len(lines) - 1))
    other = data.draw(st.integers(0, len(lines) - 1))
    assert not refused(join(lines))
    assert refused(join([*lines[:at], lines[at], *lines[at:]]))
    if at < len(lines) - 1:
        assert refused(join(lines[:at] + lines[at + 1 :]))
    if at != other:
        lines[at], lines[other] = lines[other], lines[at]
        assert refused(join(lines))


@settings(max_examples=300)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_refused_or_moves_the_head(at: int, mask: int) -> None:
    changed = bytearray(DATA)
    changed[at] ^= mask
    try:
        found = transcript.read(bytes(changed))
    except VitrineError:
        return
    assert at >= len(join(LINES[:-1]))
    assert found.head != digest_of(LINES[-1])


def test_every_truncation_inside_a_line_is_refused() -> None:
    boundaries = {len(join(LINES[:count])) for count in range(1, len(LINES) + 1)}
    for length in range(len(DATA)):
        assert refused(DATA[:length]) == (length not in boundaries)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    assert refused(data)
    assert refused(DATA + data) or data == b""
    assert refused(join(LINES[:2]) + data + b"\n") or data == b""


@pytest.mark.parametrize(
    "entries",
    [
        [("sample", b"1")],
        [("close", b"1")],
        [("open", b"1"), ("open", b"1")],
        [("open", b"1"), ("sample", b"1"), ("open", b"1")],
        [("open", b"1"), ("close", b"1"), ("sample", b"1")],
        [("open", b"1"), ("close", b"1"), ("close", b"1")],
        [("open", b"1"), ("other", b"1")],
        [("open", b"1"), ("", b"1")],
    ],
)
def test_kinds_stand_in_their_order(entries: list[Entry]) -> None:
    with pytest.raises(MalformedInput):
        transcript.read(join(chain(entries)))


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b'"seq":0', b'"seq": 0'),
        lambda line: line.replace(b'"seq":0', b'"seq":0.0'),
        lambda line: line.replace(b'"seq":0', b'"seq":-0'),
        lambda line: line.replace(b'"seq":0', b'"seq":false'),
        lambda line: line.replace(b'"open"', b'"\\u006fpen"'),
        lambda line: line + b" ",
        lambda line: line + b"\r",
        lambda line: b"\xef\xbb\xbf" + line,
        lambda line: line.replace(b'"record":{}', b'"record":{"b":1,"a":2}'),
        lambda line: line.replace(b'"record":{}', b'"record":{ }'),
        lambda line: line.replace(b'"record":{}', b'"record":1.5'),
        lambda line: line.replace(b'"record":{}', b'"record":"\\u00e9"'),
        lambda line: line.replace(b'"record":{}', b'"record":' + b"[" * 100 + b"]" * 100),
        lambda line: line.replace(b'"kind"', b'"kinds"'),
        lambda line: line.replace(b'"open"', b'["open"]'),
        lambda line: line.replace(b'{"kind"', b'{"a":1,"kind"'),
        lambda line: b"[" + line + b"]",
        lambda line: b"",
        lambda line: b"null",
    ],
)
def test_every_other_spelling_is_malformed(change: Callable[[bytes], bytes]) -> None:
    changed = change(LINES[0])
    assert changed != LINES[0]
    with pytest.raises(MalformedInput):
        transcript.read(changed + b"\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seq":0', b'"seq":1'),
        (b'"seq":0', b'"seq":"0"'),
        (b"sha256:", b"SHA256:"),
        (b'"prev":"sha256:', b'"prev":"'),
    ],
)
def test_a_line_out_of_its_place_breaks_the_chain(old: bytes, new: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        transcript.read(LINES[0].replace(old, new) + b"\n")
    assert (caught.value.layer, caught.value.code) == ("transcript", "chain")


@pytest.mark.parametrize("prev", ["[]", "{}", "null", "7", '"' + "x" * 100_000 + '"'])
def test_a_hostile_link_is_refused_in_short(prev: str) -> None:
    with pytest.raises(VerificationError) as caught:
        transcript.read(f'{{"kind":"open","prev":{prev},"record":{{}},"seq":0}}\n'.encode())
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("record", [b"", b"{\n}", b"{\r}", b"1\n"])
def test_a_record_that_is_not_one_line_is_refused(record: bytes) -> None:
    with pytest.raises(MalformedInput):
        transcript.frame_line("sample", transcript.genesis(), record, 1)


def test_a_record_that_is_too_large_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    line = transcript.frame_line("open", transcript.genesis(), b'"' + b"x" * 1000 + b'"', 0)
    monkeypatch.setattr(transcript, "MAX_LINE_BYTES", len(line))
    assert transcript.frame_line("open", transcript.genesis(), b'"' + b"x" * 1000 + b'"', 0) == line
    assert not refused(line + b"\n")
    monkeypatch.setattr(transcript, "MAX_LINE_BYTES", len(line) - 1)
    with pytest.raises(MalformedInput, match="bytes"):
        transcript.frame_line("open", transcript.genesis(), b'"' + b"x" * 1000 + b'"', 0)
    with pytest.raises(MalformedInput, match="transcript line 0: expected at most"):
        transcript.read(line + b"\n")


@pytest.mark.parametrize(
    "record",
    [b'1,"seq":1,"x":1', b'{}},{"a":{}', b"1.5", b'{"a":1,"a":2}', b"\xff", b"nonsense", b"{ }", b'"\\ud800"', b"01"],
)
def test_the_writer_stores_what_a_worker_sent_and_the_reader_refuses_it(tmp_path: Path, record: bytes) -> None:
    with TranscriptWriter(tmp_path / "t") as writer:
        writer.open({})
        writer.sample(record)
        writer.close({})
    assert refused((tmp_path / "t").read_bytes())


@settings(max_examples=15)
@given(SAMPLES)
def test_what_the_writer_writes_is_read_again(tmp_path_factory: pytest.TempPathFactory, records: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("transcript") / "t"
    with TranscriptWriter(path) as writer:
        writer.open({"plan": []})
        for record in records:
            writer.sample(record)
        writer.close({"ended_by": "done"})
    found = transcript.read(path.read_bytes())
    assert [line.raw_record for line in found.samples] == records == writer.samples
    assert found.head == writer.head
    assert transcript.root((line.raw_record for line in found.samples), KEY) == writer.root(KEY)


def test_the_writer_refuses_to_overwrite_and_leaves_no_half_line(tmp_path: Path) -> None:
    with TranscriptWriter(tmp_path / "t") as writer:
        writer.open({})
        head = writer.head
        with pytest.raises(MalformedInput):
            writer.sample(b"{\n}")
        with pytest.raises(TypeError):
            writer.close({"value": 0.5})
        assert (writer.head, writer.samples) == (head, [])
        writer.sample(b"{}")
    assert len(transcript.read((tmp_path / "t").read_bytes()).lines) == 2
    with pytest.raises(FileExistsError):
        TranscriptWriter(tmp_path / "t")


def plain_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + plain_root(leaves[:split]) + plain_root(leaves[split:])).digest()


def salted(records: list[bytes], key: bytes) -> list[bytes]:
    salts = [
        hmac.new(key, b"vitrine/leaf-salt/v1" + index.to_bytes(8, "big"), "sha256").digest()
        for index in range(len(records))
    ]
    return [salt + record for salt, record in zip(salts, records, strict=True)]


@given(SAMPLES, st.binary(min_size=32, max_size=32))
def test_the_root_is_rfc_6962_over_salted_records(records: list[bytes], key: bytes) -> None:
    assert transcript.root(records, key) == "sha256:" + plain_root(salted(records, key)).hex()
    assert list(transcript.leaves(records, key)) == salted(records, key)


@settings(max_examples=50)
@given(SAMPLES, st.data())
def test_the_root_commits_to_every_record_and_to_its_place(records: list[bytes], data: st.DataObject) -> None:
    assume(len(records) > 1)
    before = transcript.root(records, KEY)
    order = data.draw(st.permutations(records))
    assert (transcript.root(order, KEY) == before) == (order == records)
    at = data.draw(st.integers(0, len(records) - 1))
    assert transcript.root(records[:at] + records[at + 1 :], KEY) != before
    assert transcript.root([*records[:at], records[at], *records[at:]], KEY) != before
    assert transcript.root([*records[:at], records[at] + b" ", *records[at + 1 :]], KEY) != before
    assert transcript.root(records, KEY[::-1]) != before


def test_salts_differ_by_place_and_key() -> None:
    keys: list[Any] = [KEY, KEY[::-1], bytes(32)]
    salts = {transcript.salt(key, index) for key in keys for index in (0, 1, 255, 256, 2**32, 2**63)}
    assert len(salts) == 18
    assert {len(salt) for salt in salts} == {transcript.SALT_BYTES}
    assert transcript.root([], KEY) == "sha256:" + hashlib.sha256(b"").hexdigest()
