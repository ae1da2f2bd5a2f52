"""The inside's end of the channel through a wall: wrong answers, and hosts that break the form or are gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.frames import HEADER, Kind, Reader, pack
from appliance.notary.lab import Lab
from appliance.notary.remote import RemoteNotary
from attest import canonical
from attest.errors import MalformedInput
from tests.tools.questions import CHALLENGE, JOB, KEY, LOCK, SHOWN, intent, start


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[]",
        b'{"bundle":""}',
        b'{"bundle":"zz=="}',
        b'{"bundle":1}',
        b'{"bundle":"AA==","more":1}',
        b"\xff",
    ],
)
def test_inside_refuses_a_wrong_answer(lab: Lab, answer: bytes) -> None:
    with pytest.raises(MalformedInput, match="notary answer"):
        RemoteNotary(lab.name, lab.trusted_root, CHALLENGE, lambda _question: answer).conclude(
            KEY.public_key(), lab.identity("0" * 64), b"p", "t", b"s"
        )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80))
def test_inside_survives_any_answer(lab: Lab, answer: bytes) -> None:
    notary = RemoteNotary(lab.name, lab.trusted_root, CHALLENGE, lambda _question: answer)
    for call in (
        lambda: notary.enrol(intent(JOB, LOCK), SHOWN),
        lambda: notary.conclude(KEY.public_key(), lab.identity("0" * 64), b"p", "t", b"s"),
    ):
        with pytest.raises(MalformedInput):
            call()


def inside(script: Callable[[Reader, int], None], *, timeout_s: float = 60.0) -> tuple[int, str]:
    """Run the real inside as a process against a host that does what `script` does: exit status, standard error."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "appliance.enclave.inside"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        script(Reader(process.stdout.fileno()), process.stdin.fileno())
        process.stdin.close()
        process.stdin = None
        _, errors = process.communicate(timeout=timeout_s)
        return process.returncode, errors.decode()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "config",
    [pack(Kind.STOP, b""), pack(Kind.CONFIG, b"{}"), pack(Kind.CONFIG, b"\xff"), HEADER.pack(1 << 31, 1, 0, 0)],
)
def test_inside_reports_a_host_that_breaks_the_form(config: bytes) -> None:
    reports: list[dict[str, Any]] = []

    def script(reader: Reader, out: int) -> None:
        assert reader.receive(20).kind == Kind.HELLO
        os.write(out, config)
        frame = reader.receive(20)
        assert frame.kind == Kind.FAILURE
        reports.append(canonical.loads(frame.payload))

    status, _ = inside(script)
    assert status in (1, 30)
    assert reports[0]["exit"] == status
    assert "expected" in reports[0]["message"] or "required" in reports[0]["message"]


def test_inside_ends_when_the_host_is_gone() -> None:
    def script(reader: Reader, _out: int) -> None:
        assert reader.receive(20).kind == Kind.HELLO

    status, _ = inside(script, timeout_s=10)
    assert status == 1


def test_inside_reports_a_missing_job_with_its_exit_code(lab: Lab) -> None:
    reports: list[dict[str, Any]] = []

    def script(reader: Reader, out: int) -> None:
        reader.receive(20)
        os.write(out, pack(Kind.CONFIG, canonical.dump_model(start(lab))))
        reports.append(canonical.loads(reader.receive(20).payload))

    assert inside(script)[0] == 30
    assert reports == [{"code": "MalformedInput", "exit": 30, "message": reports[0]["message"]}]
    assert "/in/job.yaml" in reports[0]["message"]
