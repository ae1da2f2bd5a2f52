"""The attester against a real software TPM with an endorsement certificate, and its quotes against tpm2-tools."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from appliance.attester import tpm as attesters
from appliance.attester import tpm_commands as commands
from appliance.attester.tpm import Attester
from appliance.enclave import tpm_device
from appliance.enclave.tpm_device import Tpm
from attest.canonical import dump_model, parse
from attest.errors import EnvironmentProblem, VerificationError
from attest.tpm import (
    Activation,
    Challenge,
    Claims,
    Endorsements,
    Evidence,
    authenticate,
    challenge,
    claims,
    eventlog,
    ima,
    layout,
)
from attest.tpm.layout import Hash
from tests.fakes.tpm_scene import LOG, NONCE, ima_list
from tests.tools import swtpm

INDEX = 0x01500010
ALL: dict[Hash, range] = {"sha256": range(24), "sha384": range(24)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a software TPM that its local authority certified."""
    return swtpm.certified(tmp_path_factory.mktemp("swtpm") / "made")


@contextlib.contextmanager
def serve(state: Path, sockets: Path) -> Iterator[Path]:
    """The software TPM of `state`, at a socket."""
    path = sockets / "tpm"
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"]
    channels = ["--server", f"type=unixio,path={path}", "--ctrl", f"type=unixio,path={path}.ctrl"]
    process = subprocess.Popen([*command, *channels])
    try:
        for _ in range(500):
            with contextlib.suppress(EnvironmentProblem), tpm_device.open_socket(path):
                break
            time.sleep(0.01)
        yield path
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def socket(made: Path, tmp_path: Path) -> Iterator[Path]:
    """The certified TPM, after a reset."""
    shutil.copytree(made / "state", tmp_path / "state")
    with serve(tmp_path / "state", tmp_path) as path:
        yield path


@pytest.fixture
def tpm(socket: Path) -> Iterator[Tpm]:
    """The certified TPM, opened."""
    with tpm_device.open_socket(socket) as device:
        yield device


@pytest.fixture
def trusted(made: Path) -> Endorsements:
    """The local authority, as one of programs."""
    return swtpm.endorsements(made)


def prove(attester: Attester, trusted: Endorsements, **fields: object) -> tuple[Evidence, Claims]:
    """Enrolment and evidence, as the two sides exchange it; the claims."""
    endorsement = attester.endorse()
    keys = (layout.public_area(endorsement.key), layout.public_area(attester.key.public))
    sent, expected = challenge(*keys, os.urandom)
    answer = attester.answer(sent)
    assert answer == expected.secret
    arguments = {"endorsement": endorsement, "event_log": None} | fields
    evidence = attester.evidence(NONCE, ALL, **arguments)  # type: ignore[arg-type]
    evidence = parse(Evidence, dump_model(evidence), "evidence")
    found = authenticate(
        evidence, trusted, nonce=NONCE, now=datetime.now(UTC), activation=Activation(expected, answer),
        unsafe_without_revocation=True,
    )  # fmt: skip
    return evidence, claims(found)


@pytest.mark.parametrize("kind", ["p256", "p384", "rsassa", "rsapss"])
@pytest.mark.parametrize("template", [0, 2], ids=["rsa-2048", "p-384"])
def test_both_keys_are_shown_to_lie_in_one_tpm(
    tpm: Tpm, trusted: Endorsements, kind: attesters.KeyKind, template: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "TEMPLATES", (commands.TEMPLATES[template],))
    with Attester(tpm, kind) as attester:
        _, found = prove(attester, trusted)
    assert (found.kind, found.vouched_by, found.manufacturer, found.model) == (
        "software", "endorsement-key", "00001014", "swtpm",
    )  # fmt: skip
    assert found.explained["sha256:7"] == found.explained["sha384:17"] == "untouched"
    assert len(found.skipped) == 2


def test_p_256_endorsement_keys_unwrap_too(tpm: Tpm) -> None:
    template = commands.TEMPLATES[1]
    endorsement = commands.create_primary(tpm, template.public)
    with Attester(tpm) as attester:
        keys = (layout.public_area(endorsement.public), layout.public_area(attester.key.public))
        sent, expected = challenge(*keys, os.urandom)
        found = commands.activate(tpm, attester.key, endorsement, template, sent.credential, sent.secret)
    assert found == expected.secret


def test_a_challenge_for_another_key_is_not_answered(tpm: Tpm) -> None:
    with Attester(tpm, "p384") as other:
        wrong = layout.public_area(other.key.public)
    with Attester(tpm) as attester:
        sent, _ = challenge(layout.public_area(attester.endorse().key), wrong, os.urandom)
        with pytest.raises(EnvironmentProblem, match="refuses command 0x147"):
            attester.answer(sent)


def test_registers_are_those_of_the_logs(tpm: Tpm, trusted: Endorsements, tmp_path: Path) -> None:
    log, files = tmp_path / "log", tmp_path / "files"
    log.write_bytes(LOG)
    files.write_bytes(ima_list())
    for event in eventlog.parse(LOG).events:
        extend(tpm, event.register, event.digests)
    for _, data in ima.parse(ima_list()):
        extend(tpm, 10, {bank: hashlib.new(bank, data).digest() for bank in ("sha256", "sha384")})
    with Attester(tpm) as attester:
        _, found = prove(attester, trusted, event_log=log, ima_list=files)
    assert {found.explained[f"sha384:{register}"] for register in (*range(8), 9)} == {"event-log"}
    assert found.explained["sha256:10"] == "ima-list"
    assert found.boot is not None
    assert found.boot.secure_boot is True
    assert len(found.files) == 3


def extend(tpm: Tpm, register: int, digests: object) -> None:
    """Extend all banks of a register."""
    values = {bank: value for bank, value in digests.items() if bank != "sha1"}  # type: ignore[attr-defined]
    listed = b"".join(struct.pack(">H", layout.HASH_IDS[bank]) + value for bank, value in values.items())
    tpm.command(0x182, struct.pack(">I", register), tpm_device.PASSWORD, struct.pack(">I", len(values)) + listed)


def test_a_counter_only_goes_up_and_is_certified(tpm: Tpm, trusted: Endorsements) -> None:
    commands.define(tpm, INDEX, commands.COUNTER, commands.COUNTER_BYTES)
    seen = []
    with Attester(tpm) as attester:
        for _ in range(3):
            commands.increment(tpm, INDEX)
            _, found = prove(attester, trusted, counter=INDEX)
            assert found.counter is not None
            seen.append(found.counter.value)
    assert seen == [seen[0], seen[0] + 1, seen[0] + 2]


def test_a_counter_survives_a_reset_and_was_written_first(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "state", tmp_path / "state")
    with serve(tmp_path / "state", tmp_path) as path, tpm_device.open_socket(path) as tpm:
        commands.define(tpm, INDEX, commands.COUNTER, commands.COUNTER_BYTES)
        with Attester(tpm) as attester, pytest.raises(EnvironmentProblem, match="refuses command 0x184"):
            attester.evidence(NONCE, {"sha256": [0]}, event_log=None, counter=INDEX)
        commands.increment(tpm, INDEX)
        before = commands.nv_read(tpm, INDEX)
    with serve(tmp_path / "state", tmp_path) as path, tpm_device.open_socket(path) as tpm:
        commands.increment(tpm, INDEX)
        assert int.from_bytes(commands.nv_read(tpm, INDEX), "big") == int.from_bytes(before, "big") + 1


def test_evidence_of_one_tpm_is_not_taken_for_anothers(
    made: Path, tpm: Tpm, trusted: Endorsements, tmp_path: Path
) -> None:
    """A relayed quote: the key of one TPM, the endorsement of another."""
    (tmp_path / "other").mkdir()
    with Attester(tpm) as attester:
        endorsement = attester.endorse()
        with (
            serve(tmp_path / "other", tmp_path / "other") as path,
            tpm_device.open_socket(path) as second,
            Attester(second) as other,
        ):
            keys = (layout.public_area(endorsement.key), layout.public_area(other.key.public))
            sent, expected = challenge(*keys, os.urandom)
            with pytest.raises(EnvironmentProblem, match="refuses command 0x147"):
                attester.answer(sent)
            evidence = other.evidence(NONCE, {"sha256": [0]}, endorsement=endorsement, event_log=None)
        with pytest.raises(VerificationError, match="tpm/activation"):
            authenticate(
                evidence, trusted, nonce=NONCE, now=datetime.now(UTC), unsafe_without_revocation=True,
                activation=Activation(expected, bytes(32)),
            )  # fmt: skip


def test_a_tpm_without_a_certificate_says_so(tmp_path: Path, made: Path) -> None:
    (tmp_path / "bare").mkdir()
    with serve(tmp_path / "bare", tmp_path) as path, tpm_device.open_socket(path) as tpm, Attester(tpm) as attester:
        with pytest.raises(EnvironmentProblem, match="holds no certificate"):
            attester.endorse()
        evidence = attester.evidence(NONCE, {"sha256": range(16)}, event_log=None)
    found = authenticate(
        evidence, Endorsements(roots=()), nonce=NONCE, now=datetime.now(UTC), unsafe_without_endorsement=True
    )
    assert claims(found).kind == "unknown"


def test_banks_and_logs_that_are_not_there_are_said(tpm: Tpm, tmp_path: Path) -> None:
    assert commands.banks(tpm) == ("sha1", "sha256", "sha384")
    with Attester(tpm) as attester:
        with pytest.raises(EnvironmentProblem, match="sha512 bank"):
            attester.evidence(NONCE, {"sha512": [0]}, event_log=None)
        with pytest.raises(EnvironmentProblem, match="mount securityfs"):
            attester.evidence(NONCE, {"sha256": [0]}, event_log=tmp_path / "nothing")
        (tmp_path / "empty").write_bytes(b"")
        with pytest.raises(EnvironmentProblem, match="expected a log"):
            attester.evidence(NONCE, {"sha256": [0]}, event_log=tmp_path / "empty")


def test_keys_do_not_pile_up(tpm: Tpm) -> None:
    for _ in range(4):
        with Attester(tpm) as attester:
            attester.endorse()


def tool(socket: Path, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """One of tpm2-tools, over the socket."""
    environment = os.environ | {"TPM2TOOLS_TCTI": f"swtpm:path={socket}"}
    return subprocess.run([str(item) for item in arguments], env=environment, check=False, capture_output=True)


@pytest.mark.parametrize("kind", ["p256", "p384", "rsassa"])  # tpm2_checkquote does not verify PSS
def test_an_independent_tool_accepts_our_quote(socket: Path, tmp_path: Path, kind: attesters.KeyKind) -> None:
    if shutil.which("tpm2_checkquote") is None:
        pytest.skip("no tpm2_checkquote: apt install tpm2-tools")
    with tpm_device.open_socket(socket) as tpm, Attester(tpm, kind) as attester:
        evidence = attester.evidence(NONCE, {"sha256": range(16)}, event_log=None)
    key = layout.public_area(evidence.key)
    (tmp_path / "key.pem").write_bytes(
        key.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "message").write_bytes(evidence.quotes[0].attested)
    (tmp_path / "signature").write_bytes(evidence.quotes[0].signature)
    check = (
        "tpm2_checkquote", "-u", tmp_path / "key.pem", "-m", tmp_path / "message", "-s", tmp_path / "signature",
        "-g", key.scheme_hash, "-q",
    )  # fmt: skip
    accepted = tool(socket, *check, NONCE.hex())
    assert accepted.returncode == 0, accepted.stderr
    assert tool(socket, *check, bytes(32).hex()).returncode != 0
    (tmp_path / "message").write_bytes(evidence.quotes[0].attested[:-1] + bytes(1))
    assert tool(socket, *check, NONCE.hex()).returncode != 0


def test_a_challenge_by_an_independent_tool_is_answered(socket: Path, tmp_path: Path) -> None:
    if shutil.which("tpm2_makecredential") is None:
        pytest.skip("no tpm2_makecredential: apt install tpm2-tools")
    with tpm_device.open_socket(socket) as tpm, Attester(tpm) as attester:
        endorsement = attester.endorse()
        name = layout.public_area(attester.key.public).name
        (tmp_path / "ek.pub").write_bytes(len(endorsement.key).to_bytes(2, "big") + endorsement.key)
        (tmp_path / "secret").write_bytes(b"s" * 32)
        files = ("-u", tmp_path / "ek.pub", "-s", tmp_path / "secret", "-o", tmp_path / "blob")
        subprocess.run(["tpm2_makecredential", "-T", "none", "-n", name.hex(), *files], check=True)
        blob = (tmp_path / "blob").read_bytes()[8:]  # after the tool's own magic and version
        size = 2 + int.from_bytes(blob[:2], "big")
        assert attester.answer(Challenge(blob[:size], blob[size:])) == b"s" * 32
