"""Getting evidence: configfs-tsm with a fake that really signs, and what goes wrong on the way."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.attester import configfs, tdx
from appliance.attester.configfs import Folder
from attest.errors import EnvironmentProblem
from attest.tdx import authenticate, claims, eventlog
from tests.fakes import tdx as fake
from tests.fakes.configfs import FakeRequests, error

BOUND = bytes(range(64))


def sign(report_data: bytes) -> bytes:
    return fake.intel().quote(fake.domain(report_data)) + bytes(100)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> FakeRequests:
    monkeypatch.setattr(configfs, "PAUSE_S", 0)
    return FakeRequests(sign, "tdx_guest")


def test_a_quote_of_a_fake_platform_is_authenticated(requests: FakeRequests, tmp_path: Path) -> None:
    evidence = tdx.quote(BOUND, requests=requests, event_log=tmp_path / "none")
    assert evidence.event_log is None
    found = claims(authenticate(evidence.quote, fake.intel().endorsements(), now=fake.NOW))
    assert (found.bound, found.tcb and found.tcb.status) == (BOUND.hex(), "UpToDate")
    assert requests.entries == {}


def test_the_event_log_comes_with_it(requests: FakeRequests, tmp_path: Path) -> None:
    path = tmp_path / "CCEL"
    path.write_bytes(b"log".ljust(eventlog.MAX_BYTES + 5))
    evidence = tdx.quote(BOUND, requests=requests, event_log=path)
    assert evidence.event_log == b"log".ljust(eventlog.MAX_BYTES)
    with pytest.raises(EnvironmentProblem, match="cannot be read"):
        tdx.quote(BOUND, requests=requests, event_log=tmp_path)


def test_another_ones_quote_is_noticed(requests: FakeRequests, tmp_path: Path) -> None:
    for wrong, words in ((lambda _: sign(bytes(64)), "another's quote"), (lambda _: b"no quote", "not known here")):
        with pytest.raises(EnvironmentProblem, match=words):
            tdx.quote(BOUND, requests=replace(requests, sign=wrong), event_log=tmp_path / "none")


def test_report_data_is_whole() -> None:
    for size in (0, 32, 63, 65):
        with pytest.raises(ValueError, match="64 bytes"):
            tdx.quote(bytes(size))


def test_no_configfs(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="no request can be made"):
        tdx.quote(BOUND, requests=Folder(tmp_path / "none"))


def test_a_report_with_what_helps_to_verify_it(requests: FakeRequests) -> None:
    requests = replace(requests, auxiliary=b"certificates", provider="sev_guest")
    report = configfs.report(requests, BOUND, provider="sev_guest", settings={"privlevel": "0"})
    assert BOUND in report.evidence
    assert report.auxiliary == b"certificates"
    assert requests.entries == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"provider": "sev_guest"}, "expected the provider tdx_guest, found 'sev_guest'"),
        ({"interference": 1}, "expected generation 1, found 2"),
        ({"deaf": True}, "gives no evidence"),
        ({"busy": 1000}, "gives no evidence"),
    ],
)
def test_what_a_platform_can_refuse(requests: FakeRequests, changes: dict[str, object], words: str) -> None:
    requests = replace(requests, **changes)  # type: ignore[arg-type]
    with pytest.raises(EnvironmentProblem, match=words):
        configfs.report(requests, BOUND, provider="tdx_guest")
    assert requests.entries == {}


def test_an_unknown_setting(requests: FakeRequests) -> None:
    with pytest.raises(EnvironmentProblem, match="gives no evidence"):
        configfs.report(requests, BOUND, provider="tdx_guest", settings={"outblob": "0"})
    assert requests.entries == {}


def test_another_request_is_waited_for(requests: FakeRequests) -> None:
    requests.busy = configfs.TRIES - 1
    assert BOUND in configfs.report(requests, BOUND, provider="tdx_guest").evidence


def test_what_can_be_bound(requests: FakeRequests) -> None:
    for size in (0, 65):
        with pytest.raises(ValueError, match="1 to 64 bytes"):
            configfs.report(requests, bytes(size), provider="tdx_guest")


def test_the_real_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.make("one")
    with pytest.raises(FileExistsError):
        folder.make("one")
    with pytest.raises(FileNotFoundError):
        folder.write("one", "inblob", b"attributes are never created")
    (tmp_path / "one" / "inblob").touch()
    folder.write("one", "inblob", b"bound")
    assert folder.read("one", "inblob") == b"bound"
    (tmp_path / "one" / "inblob").write_bytes(bytes(configfs.MAX_BYTES))
    assert len(folder.read("one", "inblob")) == configfs.MAX_BYTES
    (tmp_path / "one" / "inblob").write_bytes(bytes(configfs.MAX_BYTES + 1))
    with pytest.raises(OSError, match="longer than evidence"):
        folder.read("one", "inblob")
    (tmp_path / "one" / "inblob").unlink()
    folder.remove("one")
    assert list(tmp_path.iterdir()) == []


def test_the_fake_refuses_as_the_kernel_does(requests: FakeRequests) -> None:
    requests.make("one")
    for attribute, number in (("inblob", errno.EACCES), ("auxblob", errno.ENOENT), ("outblob", errno.EINVAL)):
        with pytest.raises(OSError) as caught:
            requests.read("one", attribute)
        assert type(caught.value) is type(error(number))
        assert caught.value.errno == number
