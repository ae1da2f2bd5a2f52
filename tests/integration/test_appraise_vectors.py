"""Every piece of real evidence, decided by `attest appraise` from the command line as it should be: one table.

One row a decision: what is judged and by what; the exit code, the verdict, and the rules that do not hold. There are no
revocation lists of AMD, AWS, NVIDIA or Google among the vectors, so that each of theirs is refused without the named
opt-out, and has a warning with it. What is `whole` is synthetic: signed by roots that stand for the vendors'.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attest.digest import digest_of
from attest.tpm import KeyCertificate
from tests.fakes import nvgpu
from tests.tools import snp_vectors
from tests.tools.appraisals import (
    OPTED,
    Case,
    Judge,
    Make,
    aws,
    azure,
    broken,
    documents,
    domain,
    google,
    guest,
    intel,
    keylime,
    nvidia,
    root_alone,
    several_gpus,
)
from tests.tools.real_tpm import der
from tests.tools.synthetic_hardware import synthetic_enclave, synthetic_gpus, synthetic_guest
from tests.unit.tpm.test_tpm_vectors import LOGS

SKIPPED = {"unsafe_skipped": True}
ALONE = OPTED | {"unsafe_without_rims": True}
ADVISORIES = ["INTEL-SA-00289", "INTEL-SA-00615"]
"""What Intel says of the enclave's platform; a policy has to name them."""
CERTIFICATES = ("pca_tpm_rsa_enc_cert", "pca_tpm_rsa_sign_cert", "uca_tpm_rsa_enc_cert", "uca_tpm_rsa_sign_cert")
GO, TRUSTEE, COS = "tdx/go-tdx-guest", "tdx/trustee", "ccel/go-tdx-guest"
JUNE, JULY, NOVEMBER = "2023-06-20T00:00:00Z", "2025-07-01T00:00:00Z", "2025-11-01T00:00:00Z"

Row = tuple[str, Make, int, str | None, list[str]]


def quote(name: str, as_of: str = JULY, log: str | None = None, **changes: Any) -> Make:
    """A quote that is judged with Intel's root alone."""

    def make(at: Path) -> Case:
        data = (at / name).read_bytes()
        case = domain(data, root_alone(at), as_of, (at / log).read_bytes() if log else None)
        return case.with_part("tdx", **changes)

    return make


def dstack(as_of: str, **changes: Any) -> Make:
    """dstack's quote, its log beside it."""

    def make(at: Path) -> Case:
        found = json.loads((at / "tdx/dstack/quote-report.json").read_bytes())
        case = domain(bytes.fromhex(found["quote"]), root_alone(at), as_of, found["event_log"].encode())
        return case.with_part("tdx", explained=["rtmr0", "rtmr1", "rtmr2", "rtmr3"], **changes)

    return make


def of_2023(at: Path) -> Case:
    """A quote with the lists and documents of 2023; the chain of the documents' signer is of 2025."""
    chain = documents(at)[-1][3]
    collateral = [
        *root_alone(at),
        ("tdx", "revocation-list", (at / GO / "rootcrl.der").read_bytes(), None),
        ("tdx", "revocation-list", (at / GO / "pckcrl").read_bytes(), None),
        ("tdx", "tcb-info", (at / GO / "sample_tcbInfo_response").read_bytes(), chain),
        ("tdx", "qe-identity", (at / GO / "sample_qeIdentity_response").read_bytes(), chain),
    ]
    return domain((at / GO / "tdx_prod_quote_SPR_E4.dat").read_bytes(), collateral, JUNE)


def of_another_platform(at: Path) -> Case:
    """A quote with documents of a platform that it is not of."""
    chain = documents(at)[-1][3]
    collateral = [
        *root_alone(at),
        ("tdx", "tcb-info", (at / TRUSTEE / "tcbInfo.json").read_bytes(), chain),
        ("tdx", "qe-identity", (at / TRUSTEE / "enclaveIdentity.json").read_bytes(), chain),
    ]
    return domain((at / TRUSTEE / "tdx_quote_5.dat").read_bytes(), collateral, NOVEMBER)


def vendors(make: Make, platform: str, file: str, certificate: str | None = None) -> Make:
    """Another file in place of a case's evidence."""

    def changed(at: Path) -> Case:
        beside = (at / certificate).read_bytes() if certificate else None
        return replace(
            make(at), evidence=(at / file).read_bytes(), arguments=("--platform", platform), certificate=beside
        )

    return changed


def other_log(name: str, field: str = "event_log") -> Make:
    """A cloud machine's evidence with this log, which is not its own."""
    return lambda at: google(at, **{field: (at / "tpm" / name).read_bytes()}).with_part("tpm", **SKIPPED)


def other_certificate(name: str) -> Make:
    """The same with a certificate of this other key."""

    def make(at: Path) -> Case:
        root = der(at / "tpm/gce-attestation/gcp_ek_ak_ca_root.crt")
        middle = der(at / "tpm/gce-attestation/gcp_ek_ak_ca_intermediate_v3.crt")
        certificate = der(at / f"tpm/gce-attestation/{name}.pem")
        case = google(at, key_certificate=KeyCertificate(certificate=certificate)).with_part("tpm", **SKIPPED)
        roots = [*case.policy["roots"]["tpm-software"], digest_of(root)]
        more = [("tpm", "software-root", root, None), ("tpm", "certificate", middle, None)]
        return replace(
            case, policy=case.policy | {"roots": {"tpm-software": roots}}, items=[*case.items, *more],
            as_of="2023-01-01T00:00:00Z",
        )  # fmt: skip

    return make


def opted(make: Make, platform: str, **changes: Any) -> Make:
    """A case with other rules on its platform."""
    return lambda at: make(at).with_part(platform, **changes)


def unbound(make: Make) -> Make:
    """A case of a policy that does not ask what evidence is bound to."""
    return lambda at: replace((case := make(at)), policy=case.policy | {"unsafe_unbound": True}, bound="")


REFUSED, WARNED, AFFIRMED = (10, "contraindicated"), (0, "warning"), (0, "affirming")
UNSUPPORTED, MALFORMED = (20, None), (30, None)


def row(name: str, make: Make, decision: tuple[int, str | None], *rules: str) -> Row:
    """A decision, and the rules that do not hold."""
    return (name, make, *decision, list(rules))


TABLE = [
    # Intel: all collateral is there for two quotes.
    row("tdx", lambda at: intel(at, "tdx"), AFFIRMED),
    row("tdx-other-firmware", opted(lambda at: intel(at, "tdx"), "tdx", measurements={"mrtd": ["00" * 48]}), REFUSED,
        "tdx.measurement.mrtd"),
    row("sgx-with-flaws", lambda at: intel(at, "sgx"), REFUSED, "tdx.advisories"),
    row("sgx-flaws-judged", opted(lambda at: intel(at, "sgx"), "tdx", advisories=ADVISORIES), AFFIRMED),
    row("sgx-as-tdx", opted(lambda at: intel(at, "sgx"), "tdx", advisories=ADVISORIES, platforms=["tdx"]), REFUSED,
        "tdx.platform"),
    row("tdx-no-collateral", quote("tdx/dcap-qvl/tdx_quote"), REFUSED, "tdx.collateral-missing"),
    row("tdx-opted-out", quote("tdx/dcap-qvl/tdx_quote", **SKIPPED), WARNED),
    row("tdx-v4-debug", quote(f"{TRUSTEE}/tdx_quote_4.dat", **SKIPPED), REFUSED, "tdx.debug"),
    row("tdx-v4-debug-accepted", quote(f"{TRUSTEE}/tdx_quote_4.dat", unsafe_debug=True, **SKIPPED), WARNED),
    row("tdx-v5", quote(f"{TRUSTEE}/tdx_quote_5.dat", **SKIPPED), WARNED),
    row("tdx-v5-no-collateral", quote(f"{TRUSTEE}/tdx_quote_5.dat"), REFUSED, "tdx.collateral-missing"),
    row("tdx-v5-anothers-documents", of_another_platform, REFUSED, "tdx.collateral-missing"),
    row("tdx-2023", of_2023, REFUSED, "tdx.not-yet-valid"),
    row("tdx-2023-opted-out", opted(of_2023, "tdx", unsafe_sept_ve_enabled=True, **SKIPPED), WARNED),
    row("tdx-2023-memory-may-vanish", quote(f"{GO}/tdx_prod_quote_SPR_E4.dat", JUNE, **SKIPPED), REFUSED,
        "tdx.sept-ve-enabled"),
    row("tdx-cos-log", quote(f"{COS}/cos-113-tdx-quote.dat", log=f"{COS}/ccel_data.dat", **SKIPPED), WARNED),
    row("tdx-cos-others-log", quote(f"{COS}/cos-113-tdx-quote.dat", log="ccel/trustee/CCEL_data_grub", **SKIPPED),
        REFUSED, "tdx.event-log"),
    row("tdx-cos-ovmf-log", quote(f"{COS}/cos-113-tdx-quote.dat", log="ccel/trustee/CCEL_data_ovmf", **SKIPPED),
        REFUSED, "tdx.event-log"),
    row("tdx-cos-long-log", quote(f"{COS}/cos-113-tdx-quote.dat", log="ccel/trustee/CCEL_data", **SKIPPED),
        REFUSED, "tdx.event-log"),
    row("tdx-cos-no-log", quote(f"{COS}/cos-113-tdx-quote.dat", explained=["rtmr0"], **SKIPPED), REFUSED,
        "tdx.explained.rtmr0"),
    row("tdx-cos-log-table", quote(f"{COS}/cos-113-tdx-quote.dat", log=f"{COS}/ccel_table.dat", **SKIPPED), MALFORMED),
    row("tdx-dstack", dstack(NOVEMBER, **SKIPPED), WARNED),
    row("tdx-dstack-before-it-was-made", dstack(JULY, **SKIPPED), REFUSED, "tdx.not-yet-valid"),
    row("tdx-azure", quote("azure/az-tdx-vtpm/td-quote.bin", unsafe_sept_ve_enabled=True, **SKIPPED), WARNED),
    row("tdx-report", vendors(lambda at: intel(at, "tdx"), "tdx", f"{GO}/report.dat"), UNSUPPORTED),
    row("tdx-log-for-a-quote", vendors(lambda at: intel(at, "tdx"), "tdx", f"{COS}/ccel_data.dat"), MALFORMED),
    # AMD.
    *(
        row(name, opted(lambda at, name=name: guest(at, name), "sev-snp", **OPTED), *(
            (REFUSED, f"sev-snp.{vector.code}") if vector.code else (WARNED,)
        ))
        for name, vector in snp_vectors.VECTORS.items()
    ),
    row("snp-no-list", guest, REFUSED, "sev-snp.crl-missing"),
    row("snp-other-guest", opted(guest, "sev-snp", measurements=["00" * 48], **OPTED), REFUSED, "sev-snp.measurement"),
    row("snp-own-chip-only", opted(lambda at: guest(at, "milan-v3-vlek"), "sev-snp", signing_keys=["vcek"], **OPTED),
        REFUSED, "sev-snp.signing-key"),
    row("snp-whole", synthetic_guest(), AFFIRMED),
    row("snp-whole-issuer-revoked", synthetic_guest(0x10001), REFUSED, "sev-snp.revoked"),
    # AWS.
    row("nitro-whole", synthetic_enclave, AFFIRMED),
    row("nitro-bound-to-nothing", opted(aws, "nitro", **OPTED), REFUSED, "nitro.bound"),
    row("nitro", unbound(opted(aws, "nitro", **OPTED)), WARNED),
    row("nitro-no-list", aws, REFUSED, "nitro.crl_missing"),
    row("nitro-after-three-hours", opted(lambda at: aws(at, as_of="2025-01-06T20:07:05Z"), "nitro", **OPTED), REFUSED,
        "nitro.certificate_time"),
    row("nitro-framed", unbound(opted(lambda at: aws(at, "dstack-nsm/nitro_attestation.bin", "2025-12-25T13:15:38Z"),
        "nitro", **OPTED)), WARNED),
    row("nitro-debug", opted(lambda at: aws(at, "nitrite/attestation_2021_debug.cbor", "2021-10-28T17:02:03Z"),
        "nitro", **OPTED), REFUSED, "nitro.debug"),
    # NVIDIA: the manifests among the vectors are of other versions.
    row("gpu-no-ocsp", nvidia, REFUSED, "nvgpu.ocsp_missing"),
    row("gpu-other-manifests", opted(nvidia, "nvidia-gpu", **OPTED), REFUSED,
        "nvgpu.measurements", "nvgpu.debug", "nvgpu.driver_rim", "nvgpu.vbios_rim"),
    row("gpu", opted(nvidia, "nvidia-gpu", **ALONE), WARNED),
    row("gpu-old-driver", opted(nvidia, "nvidia-gpu", drivers=["999"], **ALONE), REFUSED, "nvgpu.driver"),
    *(
        row(f"gpu-chain-{name}", opted(lambda at, name=name: nvidia(at, f"trustee/hopper_{name}"), "nvidia-gpu",
            **ALONE), *decision)
        for name, decision in {
            "cert_chain_case1.txt": (WARNED,),
            "cert_chain_case2.txt": (REFUSED, "nvgpu.chain_length"),
            "cert_chain_case3.txt": (REFUSED, "nvgpu.certificate_signature"),
            "cert_chain_case4.txt": (REFUSED, "nvgpu.leaf_is_ca"),
            "signing_cert.pem": (REFUSED, "nvgpu.chain_length"),
        }.items()
    ),
    row("gpus", opted(several_gpus, "nvidia-gpu", **ALONE), WARNED),
    row("gpus-no-ocsp", opted(several_gpus, "nvidia-gpu", unsafe_without_rims=True), REFUSED, "nvgpu.ocsp_missing"),
    row("gpus-asked-by-others", lambda at: replace(opted(several_gpus, "nvidia-gpu", **ALONE)(at), bound="00" * 32),
        REFUSED, *["nvidia-gpu.bound"] * 8),
    row("gpu-whole", synthetic_gpus(), AFFIRMED),
    row("gpus-whole", synthetic_gpus(3), AFFIRMED),
    row("gpus-of-two-questions", synthetic_gpus(2, nonces=(nvgpu.NONCE, bytes(32))), REFUSED, "nvgpu.nonces"),
    row("gpu-whole-no-ocsp", synthetic_gpus(without=("ocsp",)), REFUSED, "nvgpu.ocsp_missing"),
    row("gpu-whole-opted-out", opted(synthetic_gpus(without=("ocsp",)), "nvidia-gpu", **OPTED), WARNED),
    row("gpu-whole-no-manifest", synthetic_gpus(without=("vbios-rim",)), REFUSED, "nvgpu.rim_missing"),
    # TPMs.
    row("tpm-no-list", google, REFUSED, "tpm.revocation"),
    row("tpm", opted(google, "tpm", **SKIPPED), WARNED),
    row("tpm-for-hardware", opted(google, "tpm", kinds=["hardware"], **SKIPPED), REFUSED, "tpm.kind"),
    row("tpm-keylime", keylime, REFUSED, "tpm.kind", "tpm.skipped"),
    row("tpm-keylime-accepted", opted(keylime, "tpm", kinds=["unknown"], explained=[], **SKIPPED), WARNED),
    row("tpm-keylime-other-question", lambda at: replace(opted(keylime, "tpm", kinds=["unknown"], explained=[],
        **SKIPPED)(at), bound="00" * 20), REFUSED, "tpm.bound"),
    *(row(f"tpm-{name}", other_certificate(name), REFUSED, "tpm.key-certificate") for name in CERTIFICATES),
    *(
        # A log of SHA-1 alone explains nothing in another bank.
        row(f"tpm-log-{name}", other_log(name), REFUSED, f"tpm.{'event-log' if 'sha256' in banks else 'explained'}")
        for name, (banks, *_) in LOGS.items()
    ),
    row("tpm-log-short", other_log("go-attestation/short_no_action_eventlog"), MALFORMED),
    row("tpm-log-bogus", other_log("keylime-bios/binary_bios_measurements-bogus"), MALFORMED),
    row("tpm-log-empty", other_log("keylime-bios/binary_bios_measurements-empty"), MALFORMED),
    row("tpm-files-sha1", other_log("ima/ima-log-sha1", "ima_list"), REFUSED, "tpm.ima-list"),
    row("tpm-files-sha256", other_log("ima/ima-log-sha256", "ima_list"), REFUSED, "tpm.ima-list"),
    row("tpm-files-unknown", other_log("ima/ima-log-unknown", "ima_list"), UNSUPPORTED),
    # Azure: too short a nonce to be bound to anything.
    *(row(f"azure-{name}", unbound(lambda at, name=name: opted_azure(at, name)), WARNED)
      for name in ("snp/v0", "snp/v1", "snp/files", "tdx/v0", "tdx/files")),
    row("azure-snp-no-list", unbound(azure), REFUSED, "sev-snp.crl-missing"),
    row("azure-tdx-no-collateral", unbound(lambda at: azure(at, "tdx/files")), REFUSED, "tdx.collateral-missing"),
    row("azure-other-boot", unbound(lambda at: opted_azure(at, "snp/v1", registers={"sha256:4": ["00" * 32]})), REFUSED,
        "azure.sha256:4"),
]  # fmt: skip


def opted_azure(at: Path, name: str, **changes: Any) -> Case:
    """An Azure machine, and the opt-out of its hardware."""
    case = azure(at, name)
    part = "tdx" if name.startswith("tdx") else "sev_snp"
    return case.with_part(
        "azure", **{part: case.policy["azure"][part] | (SKIPPED if part == "tdx" else OPTED)}, **changes
    )


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Appraises in a folder of its own."""
    return Judge(tmp_path)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_real_evidence_is_decided_as_it_should(row: Row, data: Path, judge: Judge) -> None:
    _, make, status, verdict, rules = row
    code, found = judge(make(data / "attestation"))
    assert (code, found["status"], broken(found)) == (status, verdict, rules), found.get("error")
    # A warning says what was left out, and nothing else does.
    assert bool(found.get("downgrades")) is (verdict == "warning") or verdict in (None, "contraindicated")


OTHERS = (
    "cose",
    "eat",
    "nvidia/claims",
    "tpm/secure-boot",
    "tpm/ima",
    "ccel",
    "azure",
    "snp",
    "tdx",
    "tpm",
    "nitro",
    "nvidia",
)


@pytest.mark.parametrize("folder", OTHERS)
def test_what_is_no_evidence_of_ours_is_malformed_or_unsupported(folder: str, data: Path, judge: Judge) -> None:
    """Without a platform, a vendor's file says nothing: none among the vectors is of a format of ours."""
    case = google(data / "attestation")
    files = [path for path in sorted((data / "attestation" / folder).rglob("*")) if path.is_file()]
    assert files
    for path in files:
        code, found = judge(replace(case, evidence=path.read_bytes()))
        assert code in (20, 30), (path, found)


def test_a_vendors_file_is_not_taken_for_anothers(data: Path, judge: Judge) -> None:
    at = data / "attestation"
    made = {"tdx": intel(at, "tdx"), "sev-snp": guest(at), "nitro": aws(at), "nvidia-gpu": nvidia(at)}
    for platform, case in made.items():
        for other in set(made) - {platform}:
            swapped = replace(
                made[other], evidence=case.evidence, certificate=made[other].certificate or made["sev-snp"].certificate
            )
            assert judge(swapped)[0] in (20, 30), (platform, other)
