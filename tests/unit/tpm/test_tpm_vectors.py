"""Every real vector of a TPM, decided as it must be."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from attest.canonical import dump_model, parse
from attest.digest import sha256
from attest.errors import MalformedInput, Unsupported, VerificationError, VitrineError
from attest.tpm import (
    Claims,
    Evidence,
    KeyCertificate,
    Policy,
    appraise,
    authenticate,
    chain,
    claims,
    eventlog,
    ima,
    layout,
    signaturelist,
)
from attest.tpm import boot as boots
from tests.tools import gce
from tests.tools.real_tpm import (
    BANKS,
    GCE,
    GCE_NOW,
    KEYLIME_NONCE,
    NOW,
    der,
    endorsements,
    gce_claims,
    keylime_evidence,
)

# What each vector shows -----------------------------------------------------------------------------------------------

LOGS = {
    # name: banks, events, locality, Secure Boot, programs, loads, loads whose text is what was measured
    "eventlogs/arch-linux-workstation.bin": (BANKS[:2], 24, 0, None, 2, 1, 0),
    "eventlogs/cos-101-amd-sev.bin": (BANKS, 48, 0, True, 4, 19, 15),
    "eventlogs/debian-10.bin": (BANKS[:1], 25, 0, True, 3, 0, 0),
    "eventlogs/eventlogwithsp800155.bin": (BANKS, 53, 0, True, 3, 19, 15),
    "eventlogs/rhel8-uefi.bin": (BANKS, 82, 0, True, 3, 54, 0),
    "eventlogs/ubuntu-2104-no-dbx.bin": (BANKS, 111, 0, False, 2, 84, 73),
    "eventlogs/ubuntu-2404-amd-sevsnp.bin": (BANKS, 116, 0, False, 2, 86, 71),
    "go-attestation/crypto_agile_eventlog": (BANKS[1:2], 26, 0, None, 2, 0, 0),
    "go-attestation/sb_cert_eventlog": (BANKS, 14, 0, True, 3, 0, 0),
    "keylime-bios/binary_bios_measurements": (BANKS[:2], 120, 3, False, 3, 66, 53),
}
DBX = {  # how many digests the firmware was told to refuse
    "eventlogs/arch-linux-workstation.bin": 77,
    "eventlogs/cos-101-amd-sev.bin": 4,
    "eventlogs/debian-10.bin": 186,
    "eventlogs/ubuntu-2104-no-dbx.bin": 0,
    "eventlogs/ubuntu-2404-amd-sevsnp.bin": 371,
    "keylime-bios/binary_bios_measurements": 460,
}
UPDATES = {"dbxupdate-2014-08-11.bin": 13, "dbxupdate_x64-2020-10-12.bin": 186, "dbxupdate_x64-2021-04-29.bin": 211}
CERTIFICATES = (
    "GcePk.crt", "MicCorKEKCA2011_2011-06-24.crt", "MicCorUEFCA2011_2011-06-27.crt",
    "MicWinProPCA2011_2011-10-19.crt", "canonical-boothole.crt", "cisco-boothole.crt", "debian-boothole.crt",
)  # fmt: skip
REFUSED: dict[str, tuple[Callable[[bytes], object], type[VitrineError], str]] = {
    "go-attestation/short_no_action_eventlog": (eventlog.parse, MalformedInput, "header of a crypto-agile log"),
    "keylime-bios/binary_bios_measurements-bogus": (eventlog.parse, MalformedInput, "expected 1919248394 bytes"),
    "keylime-bios/binary_bios_measurements-empty": (eventlog.parse, MalformedInput, "expected 8 bytes, found 0"),
    "ima/ima-log-unknown": (ima.parse, Unsupported, "found 'unknown'"),
    # What belongs beside a list of files, and is none: allowlists, and PGP signatures over them (one is broken).
    "ima/allowlist-sha256": (ima.parse, MalformedInput, "expected register 10"),
    "ima/ima-allowlist-bad.sig": (ima.parse, MalformedInput, "expected register 10"),
    "ima/ima-allowlist-short.sig": (ima.parse, MalformedInput, "expected register 10"),
    "ima/ima-allowlist-short.txt": (ima.parse, MalformedInput, "expected register 10"),
    "ima/policy-sha256": (ima.parse, MalformedInput, "expected register 10"),
}
ELSEWHERE = {
    "gce-attestation/gce-cos-85-no-nonce.pb", "gce-attestation/tpm_ek_root_1.cer",
    "gce-attestation/tpm_ek_intermediate_2.crt", "gce-attestation/tpm_ek_intermediate_3.crt",
    "gce-attestation/gcp_ek_ak_ca_root.crt", "gce-attestation/gcp_ek_ak_ca_intermediate_v3.crt",
    "gce-attestation/pca_tpm_rsa_enc_cert.pem", "gce-attestation/pca_tpm_rsa_sign_cert.pem",
    "gce-attestation/uca_tpm_rsa_enc_cert.pem", "gce-attestation/uca_tpm_rsa_sign_cert.pem",
    "ima/ima-log-sha1", "ima/ima-log-sha256",
    "keylime-quote/ak.name", "keylime-quote/ak.pub", "keylime-quote/akpub.pem", "keylime-quote/ek.pub",
    "keylime-quote/ekpub.pem", "keylime-quote/quote.out", "keylime-quote/quotepcr.out", "keylime-quote/quotesig.out",
}  # fmt: skip
"""Decided by tests of their own below."""


def test_no_vector_is_left_out(folder: Path) -> None:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    boot = {f"secure-boot/{name}" for name in (*UPDATES, *CERTIFICATES)}
    assert found == {*LOGS, *REFUSED, *ELSEWHERE, *boot}


@pytest.mark.parametrize("name", LOGS)
def test_a_log_is_read(folder: Path, name: str) -> None:
    banks, events, locality, secure_boot, programs, loads, measured = LOGS[name]
    log = eventlog.parse((folder / name).read_bytes())
    assert (log.banks, len(log.events), log.locality) == (banks, events, locality)
    bank = log.banks[-1]
    boot = boots.read(log, bank, eventlog.replay(log, bank))
    assert (boot.secure_boot, boot.debug, len(boot.programs)) == (secure_boot, False, programs)
    assert (len(boot.loads), sum(load.measured for load in boot.loads)) == (loads, measured)
    if name in DBX:
        assert len(boot.lists["dbx"]) == DBX[name]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_log_is_refused(folder: Path, name: str) -> None:
    parse_, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        parse_((folder / name).read_bytes())


@pytest.mark.parametrize("name", LOGS)
def test_a_log_that_is_cut_is_refused_or_gives_other_registers(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    whole = eventlog.parse(data)
    for at in range(0, len(data), max(1, len(data) // 200)):
        try:
            log = eventlog.parse(data[:at])
        except MalformedInput:
            continue
        assert len(log.events) < len(whole.events)
        assert eventlog.replay(log, log.banks[0]) != eventlog.replay(whole, log.banks[0])


def test_a_real_log_replays_to_the_registers_of_a_real_quote_in_three_banks(folder: Path) -> None:
    found = gce_claims(folder, *BANKS)
    for bank in BANKS:
        explained = {register: found.explained[f"{bank}:{register}"] for register in range(24)}
        assert all(explained[register] == "event-log" for register in range(10))
        assert explained[10] == "unexplained"  # the kernel's list of files is not in the vector
        assert all(explained[register] == "untouched" for register in range(11, 24))
    assert found.boot is not None
    assert found.boot.secure_boot is True
    assert found.boot.programs[0].path == "\\EFI\\BOOT\\BOOTX64.EFI"
    assert (found.bank, found.debug, found.bound) == ("sha256", False, "")


def test_a_cloud_machines_tpm_is_named_as_a_program(folder: Path) -> None:
    found = gce_claims(folder, "sha256")
    assert (found.kind, found.vouched_by, found.manufacturer) == ("software", "key-certificate", "474F4F47")
    assert (found.manufacturer_name, found.model) == ("GOOG", "vTPM")
    assert found.skipped[0].endswith("was not checked: no current list was given.")
    assert [line.rule for line in appraise(found, Policy()) if not line.holds] == ["tpm.kind", "tpm.skipped"]
    lenient = Policy(kinds=("software",), unsafe_skipped=True, manufacturers=("474F4F47",))
    assert all(line.holds for line in appraise(found, lenient))
    # Pinned as a manufacturer of chips by mistake, the certificate itself still says what it is of.
    trusted = endorsements(folder, "tpm_ek_root_1.cer", "tpm_ek_intermediate_2.crt", kind="hardware")
    evidence = gce.read((folder / GCE / "gce-cos-85-no-nonce.pb").read_bytes()).evidence("sha256")
    arguments = {"nonce": b"", "now": GCE_NOW, "unsafe_without_revocation": True}
    assert claims(authenticate(evidence, trusted, **arguments)).kind == "software"  # type: ignore[arg-type]


def test_registers_of_sha_1_alone_meet_no_policy(folder: Path) -> None:
    found = gce_claims(folder, "sha1")
    assert found.boot is None
    failed = {line.rule for line in appraise(found, Policy()) if not line.holds}
    assert {"tpm.quoted", "tpm.explained", "tpm.secure-boot"} <= failed


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"nonce": b"fresh"}, "tpm/nonce"),
        ({"now": datetime(2021, 1, 1, tzinfo=UTC)}, "tpm/validity"),
        ({"unsafe_without_revocation": False}, "tpm/revocation"),
    ],
)
def test_a_real_quote_is_refused_for_another_use(folder: Path, changes: dict[str, object], code: str) -> None:
    with pytest.raises(VerificationError, match=code):
        gce_claims(folder, "sha256", **changes)


def test_a_real_quote_without_the_certificate_between_is_refused(folder: Path) -> None:
    evidence = gce.read((folder / GCE / "gce-cos-85-no-nonce.pb").read_bytes()).evidence("sha256")
    for trusted in (
        endorsements(folder),
        endorsements(folder, "tpm_ek_root_1.cer", "tpm_ek_intermediate_3.crt"),
        endorsements(folder, "gcp_ek_ak_ca_root.crt", "tpm_ek_intermediate_2.crt"),
    ):
        with pytest.raises(VerificationError, match="tpm/chain"):
            authenticate(evidence, trusted, nonce=b"", now=GCE_NOW, unsafe_without_revocation=True)


@pytest.mark.parametrize(
    ("leaf", "root", "between", "named"),
    [
        ("uca_tpm_rsa_enc_cert.pem", "tpm_ek_root_1.cer", "tpm_ek_intermediate_3.crt", True),
        ("uca_tpm_rsa_sign_cert.pem", "tpm_ek_root_1.cer", "tpm_ek_intermediate_3.crt", True),
        ("pca_tpm_rsa_enc_cert.pem", "gcp_ek_ak_ca_root.crt", "gcp_ek_ak_ca_intermediate_v3.crt", False),
        ("pca_tpm_rsa_sign_cert.pem", "gcp_ek_ak_ca_root.crt", "gcp_ek_ak_ca_intermediate_v3.crt", False),
    ],
)
def test_certificates_of_a_clouds_keys(folder: Path, leaf: str, root: str, between: str, named: bool) -> None:
    certificate = der(folder / GCE / leaf)
    trusted = endorsements(folder, root, between)
    found = chain.verify(certificate, (), trusted, now=NOW, unsafe_without_revocation=True)
    identity = chain.identity(found.certificate)
    assert (identity is not None and identity.model == "vTPM") is named
    wraps, signs = (
        getattr(chain.usages(found.certificate)[0], name) for name in ("key_encipherment", "digital_signature")
    )
    assert (wraps, signs) == ("enc" in leaf, "sign" in leaf)
    for code, arguments in {
        "tpm/revocation": {"now": NOW},
        "tpm/validity": {"now": NOW + timedelta(days=365 * 40), "unsafe_without_revocation": True},
    }.items():
        with pytest.raises(VerificationError, match=code):
            chain.verify(certificate, (), trusted, **arguments)  # type: ignore[arg-type]
    # A certificate of another key does not vouch for that of the quote.
    evidence = gce.read((folder / GCE / "gce-cos-85-no-nonce.pb").read_bytes()).evidence("sha256")
    evidence = evidence.model_copy(update={"key_certificate": KeyCertificate(certificate=certificate)})
    with pytest.raises(VerificationError, match="tpm/key-certificate"):
        authenticate(evidence, trusted, nonce=b"", now=NOW, unsafe_without_revocation=True)


def test_a_quote_of_a_software_tpm_that_nobody_vouches_for(folder: Path) -> None:
    evidence, trusted = keylime_evidence(folder), endorsements(folder)
    with pytest.raises(VerificationError, match="tpm/endorsement"):
        authenticate(evidence, trusted, nonce=KEYLIME_NONCE, now=NOW)
    found = claims(authenticate(evidence, trusted, nonce=KEYLIME_NONCE, now=NOW, unsafe_without_endorsement=True))
    assert (found.kind, found.vouched_by, found.manufacturer) == ("unknown", None, None)
    assert found.explained == {"sha256:15": "untouched", "sha256:16": "unexplained", "sha256:22": "untouched"}
    assert found.skipped == ("Nobody vouches for the attestation key: it may lie outside any TPM.",)
    with pytest.raises(VerificationError, match="tpm/nonce"):
        authenticate(evidence, trusted, nonce=b"other", now=NOW, unsafe_without_endorsement=True)


def test_keys_and_their_names(folder: Path) -> None:
    at = folder / "keylime-quote"
    key = layout.public_area((at / "ak.pub").read_bytes()[2:])
    assert key.name == (at / "ak.name").read_bytes()
    assert (key.kind, key.scheme, key.scheme_hash, key.symmetric_bits) == ("rsa", "rsassa", "sha256", 0)
    endorsement = layout.public_area((at / "ek.pub").read_bytes()[2:])
    assert (endorsement.scheme, endorsement.symmetric_bits, len(endorsement.policy)) == (None, 128, 32)
    for public, name in ((key, "akpub.pem"), (endorsement, "ekpub.pem")):
        pem = load_pem_public_key((at / name).read_bytes())
        assert pem == public.key


@pytest.mark.parametrize(
    ("name", "hash_", "violations"),
    [("ima-log-sha1", "sha1", [True, False]), ("ima-log-sha256", "sha256", [False] * 2)],
)
def test_lists_of_files(folder: Path, name: str, hash_: str, violations: list[bool]) -> None:
    data = (folder / "ima" / name).read_bytes()
    entries = ima.parse(data)
    files = [file for file, _ in entries]
    assert [(file.path, file.digest.partition(":")[0]) for file in files] == [
        ("boot_aggregate", hash_),
        ("/data", hash_),
    ]
    assert [file.violation for file in files] == violations
    assert len(set(ima.values(entries, "sha256"))) == 3
    allowed = (folder / "ima" / "allowlist-sha256").read_text().split()[0]
    assert (files[1].digest == f"sha256:{allowed}") is (hash_ == "sha256")
    with pytest.raises(MalformedInput, match="expected template hash"):
        ima.parse(data.replace(b"/data", b"/date"))


@pytest.mark.parametrize("name", UPDATES)
def test_updates_of_what_firmware_refuses(folder: Path, name: str) -> None:
    data = (folder / "secure-boot" / name).read_bytes()
    entries = signaturelist.update(data)
    assert len(entries) == UPDATES[name]
    assert {len(entry.digest) for entry in entries} == {32}
    for changed in (data[:-1], data + b"\0", data[:16], data[:22] + bytes(2) + data[24:]):
        with pytest.raises((MalformedInput, Unsupported)):
            signaturelist.update(changed)


def test_who_may_sign_boot_files_and_who_may_not(folder: Path) -> None:
    digests = {}
    for name in CERTIFICATES:
        data = der(folder / "secure-boot" / name)
        digests[name] = sha256(data).hex()
    log = eventlog.parse((folder / "eventlogs/debian-10.bin").read_bytes())
    lists = boots.read(log, "sha1", eventlog.replay(log, "sha1")).lists
    assert lists["PK"] == (digests["GcePk.crt"],)
    assert lists["KEK"] == (digests["MicCorKEKCA2011_2011-06-24.crt"],)
    assert set(lists["db"]) == {
        digests["MicCorUEFCA2011_2011-06-27.crt"],
        digests["MicWinProPCA2011_2011-10-19.crt"],
    }
    # The certificates that signed what BootHole broke are refused by this firmware, and not by one without a dbx.
    refused = {digests[f"{name}-boothole.crt"] for name in ("canonical", "cisco", "debian")}
    assert refused <= set(lists["dbx"])
    update = {
        entry.digest.hex() for entry in signaturelist.update((folder / "secure-boot" / [*UPDATES][1]).read_bytes())
    }
    assert update <= set(lists["dbx"])
    log = eventlog.parse((folder / "eventlogs/ubuntu-2104-no-dbx.bin").read_bytes())
    assert not refused & set(boots.read(log, "sha256", eventlog.replay(log, "sha256")).lists["dbx"])


# Form and time --------------------------------------------------------------------------------------------------------


def test_evidence_and_claims_are_json(folder: Path) -> None:
    evidence = gce.read((folder / GCE / "gce-cos-85-no-nonce.pb").read_bytes()).evidence("sha256", "sha384")
    assert parse(Evidence, dump_model(evidence), "evidence") == evidence
    found = gce_claims(folder, "sha256")
    assert parse(Claims, found.model_dump_json(by_alias=True).encode(), "claims") == found


def test_an_appraisal_takes_less_than_50_ms(folder: Path) -> None:
    gce_claims(folder, *BANKS)
    best = min(_seconds(lambda: appraise(gce_claims(folder, *BANKS), Policy())) for _ in range(5))
    assert best < 0.05


def test_long_names_of_authorities_are_read_without_a_warning(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gce_claims(folder, "sha256").kind == "software"


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
