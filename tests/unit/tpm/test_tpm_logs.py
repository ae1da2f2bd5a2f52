"""The logs beside a quote: what they explain, and logs of another boot, that are refused."""

from __future__ import annotations

import hashlib
from typing import Any

from attest.digest import digest_of
from tests.fakes import tpm as fake
from tests.fakes.tpm import Key
from tests.fakes.tpm_scene import (
    BANKS,
    FILES,
    LOG,
    NONCE,
    ima_list,
    ima_value,
    refused,
    registers,
    scene,
    wire,
)


def test_a_log_of_another_boot_is_refused() -> None:
    for register in range(8):
        more = LOG + fake.event(register, 5, b"something else")
        refused(scene().with_(event_log=more), "tpm/event-log")
    for bank in BANKS:
        digest = hashlib.new(bank, bytes(4)).digest()
        at = LOG.index(digest)
        refused(scene().with_(event_log=LOG[:at] + bytes(len(digest)) + LOG[at + len(digest) :]), "tpm/event-log")


def test_a_log_without_a_firmware_register_is_refused() -> None:
    refused(scene().with_(event_log=fake.spec_id()), "tpm/event-log")


def test_claims_name_the_root_and_a_debugger() -> None:
    good: Any = scene().check()
    assert (good.debug, good.root) == (False, digest_of(fake.ROOT.certificate))
    events = LOG.index(fake.event(0, 4, bytes(4)))
    log = LOG[:events] + fake.event(7, 5, b"UEFI Debug Mode") + LOG[events:]
    values = registers(log)
    found = scene().with_(quotes=(fake.quote(Key(), values, NONCE),), registers=wire(values), event_log=log)
    assert found.check().debug is True  # type: ignore[attr-defined]
    without: Any = found.with_(event_log=None).check()
    assert without.debug is False


def test_what_no_log_covers_is_said() -> None:
    found = scene().with_(event_log=None, ima_list=None).check()
    assert found.explained["sha256:0"] == "unexplained"  # type: ignore[attr-defined]
    assert found.explained["sha256:10"] == "unexplained"  # type: ignore[attr-defined]
    assert found.explained["sha256:11"] == "untouched"  # type: ignore[attr-defined]
    assert found.explained["sha256:17"] == "untouched"  # type: ignore[attr-defined]
    assert (found.boot, found.files, found.bank) == (None, (), None)  # type: ignore[attr-defined]
    found = scene().with_(event_log=LOG + fake.event(9, 0xD, b"more") + fake.event(11, 0xD, b"more")).check()
    assert found.explained["sha256:9"] == "unexplained"  # type: ignore[attr-defined]
    assert found.explained["sha256:11"] == "unexplained"  # type: ignore[attr-defined]
    assert found.boot.loads == ()  # type: ignore[attr-defined]


def test_a_log_of_other_banks_explains_nothing() -> None:
    log = fake.spec_id(("sha1",)) + fake.event(0, 4, bytes(4), banks=("sha1",))
    found = scene().with_(event_log=log).check()
    assert found.explained["sha256:0"] == "unexplained"  # type: ignore[attr-defined]
    assert found.boot is None  # type: ignore[attr-defined]


def test_a_list_of_files_goes_as_far_as_the_quote() -> None:
    longer = (*FILES, (bytes(32), "/later"))
    found = scene().with_(ima_list=ima_list(longer)).check()
    assert [file.path for file in found.files] == [name for _, name in FILES]  # type: ignore[attr-defined]
    assert found.files[1].digest == f"sha256:{FILES[1][0].hex()}"  # type: ignore[attr-defined]


def test_a_list_of_files_explains_no_bank_that_was_not_quoted() -> None:
    values = registers()
    del values["sha384"][10]
    found = scene().with_(quotes=(fake.quote(Key(), values, NONCE),), registers=wire(values)).check()
    assert found.explained["sha256:10"] == "ima-list"  # type: ignore[attr-defined]
    assert "sha384:10" not in found.explained  # type: ignore[attr-defined]


def test_a_list_of_other_files_is_refused() -> None:
    refused(scene().with_(ima_list=ima_list(FILES[:-1])), "tpm/ima-list")
    refused(scene().with_(ima_list=ima_list(FILES[::-1])), "tpm/ima-list")
    values = registers()
    values["sha384"][10] = ima_value("sha384", FILES[:1])  # the banks disagree on how many files there were
    found = scene().with_(quotes=(fake.quote(Key(), values, NONCE),), registers=wire(values))
    refused(found, "tpm/ima-list")


def test_a_list_of_files_without_its_register_is_refused() -> None:
    part = {bank: {n: value for n, value in items.items() if n != 10} for bank, items in registers().items()}
    refused(scene().with_(quotes=(fake.quote(Key(), part, NONCE),), registers=wire(part)), "tpm/ima-list")
