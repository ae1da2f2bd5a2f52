"""`attest appraise` on real evidence, from the command line: capsules of the vendors' own files, policies in TOML.

One row a decision: what is judged, by which policy and capsule, when and bound to what; the exit code, the verdict and
the rules that do not hold. There are no revocation lists of AMD, AWS, NVIDIA or Google among the data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from attest import canonical, nitro, policies, sevsnp, tdx
from attest.appraise import ear
from attest.cli import app
from attest.digest import digest_of
from attest.errors import VitrineError
from attest.nvgpu import layout as gpu_layout
from attest.tdx import certificates
from tests.tools import gce, snp_vectors
from tests.unit.azure.test_azure_vectors import read as read_azure
from tests.unit.tpm.test_tpm_vectors import der

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
MAKER = digest_of(KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
INTEL = "sha256:44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"


@dataclass(frozen=True)
class Case:
    """Evidence, and everything that it is judged with."""

    evidence: bytes
    policy: dict[str, Any]
    """The table `hardware`, without makers."""
    items: list[tuple[str, str, bytes, bytes | None]]
    """Platform, kind, file and chain of what the capsule holds."""
    as_of: str
    bound: str
    arguments: tuple[str, ...] = ()
    certificate: bytes | None = None


def intel(at: Path, kind: str) -> Case:
    """A quote of dcap-qvl's, its collateral as Intel answers."""
    quote = (at / "tdx/dcap-qvl" / f"{kind}_quote").read_bytes()
    fields = json.loads((at / "tdx/dcap-qvl" / f"{kind}_quote_collateral.json").read_bytes())

    def answer(field: str, name: str) -> bytes:
        return f'{{"{name}":{fields[field]},"signature":"{fields[f"{field}_signature"]}"}}'.encode()

    body = tdx.parse(quote).body
    name, value = ("mrtd", body.mr_td) if isinstance(body, tdx.Domain) else ("mrenclave", body.mr_enclave)
    part = {
        "platforms": [kind],
        "minimum_evaluation_data_number": 1,
        "measurements": {name: [value.hex()]},
        "tcb_statuses": ["UpToDate", "SWHardeningNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate"],
    }
    return Case(
        quote,
        {"roots": {"tdx": [INTEL]}, "tdx": part, "max_age_days": 3650},
        [
            ("tdx", "root", (at / "tdx/dcap-qvl/TrustedRootCA.der").read_bytes(), None),
            ("tdx", "revocation-list", bytes.fromhex(fields["root_ca_crl"]), None),
            ("tdx", "revocation-list", bytes.fromhex(fields["pck_crl"]), None),
            ("tdx", "tcb-info", answer("tcb_info", "tcbInfo"), fields["tcb_info_issuer_chain"].encode()),
            (
                "tdx",
                "qe-identity",
                answer("qe_identity", "enclaveIdentity"),
                fields["qe_identity_issuer_chain"].encode(),
            ),
        ],
        "2025-07-01T00:00:00Z",
        body.report_data.hex(),
        ("--platform", "tdx"),
    )


def amd(at: Path) -> Case:
    """Trustee's report of a Milan."""
    report = (at / "snp/trustee/test-report.bin").read_bytes()
    read = sevsnp.authenticate.__globals__["layout"].read_report(report)
    lowest = {"boot_loader": 0, "tee": 0, "snp": 0, "microcode": 0}
    part: dict[str, Any] = {
        "measurements": [read.measurement.hex()],
        "minimum_tcb": {"Milan": lowest},
        "guest_allows": ["smt"],
    }
    part |= {"provisional_firmware": True, "vmpls": [0, 1, 2, 3]}
    return Case(
        report,
        {"roots": {"sev-snp": [snp_vectors.ROOTS["Milan"]]}, "sev-snp": part},
        [("sev-snp", "certificate", (at / "snp/trustee/milan_ask_ark_asvk.pem").read_bytes(), None)],
        "2025-09-01T00:00:00Z",
        read.report_data.hex(),
        ("--platform", "sev-snp"),
        (at / "snp/trustee/test-vcek.der").read_bytes(),
    )


def aws(at: Path) -> Case:
    """yawn's document of an enclave."""
    data = (at / "nitro/yawn-nitro-attest/attestation.cose").read_bytes()
    root = at / "nitro/dstack-nsm/AWS_NitroEnclaves_Root-G1.pem"
    document = nitro.authenticate.__globals__["layout"].read(
        nitro.authenticate.__globals__["cose"].read(data, "x").payload
    )
    part = {"measurements": {"PCR0": [document.pcrs[0].hex()]}}
    return Case(
        data,
        {"roots": {"nitro": [digest_of(der(root))]}, "nitro": part},
        [("nitro", "root", root.read_bytes(), None)],
        "2025-01-06T16:07:05Z",
        (document.user_data or b"").hex() or "00" * 16,
        ("--platform", "nitro"),
    )


def nvidia(at: Path) -> Case:
    """NVIDIA's report of an H100, with manifests of other versions."""
    folder = at / "nvidia/nvtrust"
    text = (folder / "hopperAttestationReport.txt").read_bytes()
    roots = {name: folder / f"verifier_{name}_root.pem" for name in ("device", "RIM")}
    pinned = {"nvidia-gpu": [digest_of(der(roots["device"]))], "nvidia-gpu-rim": [digest_of(der(roots["RIM"]))]}
    report = gpu_layout.from_text(text)
    return Case(
        report,
        {"roots": pinned, "nvidia-gpu": {"drivers": ["550.90.07"], "vbioses": ["96.00.9F.00.01"]}},
        [
            ("nvidia-gpu", "root", roots["device"].read_bytes(), None),
            ("nvidia-gpu", "rim-root", roots["RIM"].read_bytes(), None),
            ("nvidia-gpu", "driver-rim", (folder / "Driver_RIM_test_no_gpu.swidtag").read_bytes(), None),
            ("nvidia-gpu", "vbios-rim", (folder / "1010_0200_882_96005E0001_PROD.swidtag").read_bytes(), None),
        ],
        "2024-06-01T00:00:00Z",
        gpu_layout.read(report).nonce.hex(),
        ("--platform", "nvidia-gpu"),
        (folder / "hopperCertChain.txt").read_bytes(),
    )


def google(at: Path) -> Case:
    """A cloud machine's vTPM, quoted under an empty nonce: nothing that it could be bound to."""
    folder = at / "tpm/gce-attestation"
    evidence = gce.read((folder / "gce-cos-85-no-nonce.pb").read_bytes()).evidence("sha256")
    root = der(folder / "tpm_ek_root_1.cer")
    part: dict[str, Any] = {"kinds": ["software"], "quoted": [0], "explained": [0], "secure_boot": False}
    return Case(
        canonical.dump_model(evidence),
        {"roots": {"tpm-software": [digest_of(root)]}, "tpm": part, "unsafe_unbound": True},
        [
            ("tpm", "software-root", root, None),
            ("tpm", "certificate", der(folder / "tpm_ek_intermediate_2.crt"), None),
        ],
        "2021-10-01T00:00:00Z",
        "",
    )


def azure(at: Path) -> Case:
    """A confidential VM on Azure with SEV-SNP."""
    evidence = read_azure(at / "azure", "snp/files").evidence()
    assert evidence.certificate is not None
    hardware = dict(amd(at).policy["sev-snp"])
    report = sevsnp.authenticate.__globals__["layout"].read_report(evidence.hcl_report[32 : 32 + 1184])
    hardware |= {"measurements": [report.measurement.hex()]}
    hardware["minimum_tcb"] = {
        name: lowest for name in ("Milan", "Genoa") for lowest in hardware["minimum_tcb"].values()
    }
    part = {"sev_snp": hardware, "registers": {"sha256:0": [evidence.registers["0"]]}, "console": True}
    chains = [(at / f"snp/trustee/{name}_ask_ark_asvk.pem").read_bytes() for name in ("milan", "genoa")]
    return Case(
        canonical.dump_model(evidence),
        {"roots": {"sev-snp": sorted(snp_vectors.ROOTS.values())}, "azure": part},
        [("sev-snp", "certificate", chain, None) for chain in chains],
        "2025-09-01T00:00:00Z",
        "",
    )


def toml(value: dict[str, Any], name: str = "hardware") -> str:
    """A table in TOML."""
    plain = {key: item for key, item in value.items() if not isinstance(item, dict)}
    text = f"[{name}]\n" + "".join(f"{json.dumps(key)} = {json.dumps(item)}\n" for key, item in plain.items())
    tables = {key: item for key, item in value.items() if isinstance(item, dict)}
    return text + "".join(toml(item, f"{name}.{json.dumps(key)}") for key, item in tables.items())


Judge = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Makes capsule and policy of a case, with changes to its policy, and appraises: exit code and JSON."""

    def run(
        case: Case, *more: str, part: str = "", opt: dict[str, Any] | None = None, text: str = "", **changes: Any
    ) -> Any:
        lines = []
        for number, (platform, kind, data, chain) in enumerate(case.items):
            (tmp_path / f"{number}").write_bytes(data)
            lines.append(f'[[item]]\nplatform = "{platform}"\nkind = "{kind}"\nfile = "{number}"')
            if chain is not None:
                (tmp_path / f"{number}.chain").write_bytes(chain)
                lines.append(f'chain = "{number}.chain"')
        names = {name: tmp_path / name for name in ("key", "list", "capsule", "policy", "evidence", "certificate")}
        names["capsule"].unlink(missing_ok=True)
        names["key"].write_bytes(PEM)
        names["list"].write_text("\n".join(lines))
        arguments = ["capsule", "make", str(names["list"]), "--key", str(names["key"]), "--out", str(names["capsule"])]
        made = CliRunner().invoke(app, [*arguments, "--made", case.as_of])
        assert made.exit_code == 0, made.output
        table = {"makers": [MAKER]} | case.policy | changes
        if part:
            table[part] = table[part] | (opt or {})
        names["policy"].write_text(text or toml(table))
        names["evidence"].write_bytes(case.evidence)
        arguments = ["appraise", str(names["evidence"]), "--policy", str(names["policy"]), "--json", *case.arguments]
        arguments += ["--capsule", str(names["capsule"])]
        if case.certificate is not None:
            names["certificate"].write_bytes(case.certificate)
            arguments += ["--certificate", str(names["certificate"])]
        for name, value in (("--as-of", case.as_of), ("--bound", case.bound)):
            arguments += [name, value] if value and name not in more else []
        result = CliRunner().invoke(app, [*arguments, *more])
        if isinstance(result.exception, VitrineError):
            raise result.exception
        return result.exit_code, json.loads(result.stdout)

    return run


def broken(found: dict[str, Any]) -> list[str]:
    """The rules that do not hold."""
    return [line["rule"] for line in found["lines"] if not line["holds"]]


ADVISORIES = ["INTEL-SA-00289", "INTEL-SA-00615"]
"""What Intel says of the enclave's platform; a policy has to name them."""
OPTED = {"unsafe_without_revocation": True}
TABLE: list[tuple[str, Callable[[Path], Case], str, dict[str, Any], int, str, list[str]]] = [
    ("tdx", lambda at: intel(at, "tdx"), "", {}, 0, "affirming", []),
    ("tdx-other", lambda at: intel(at, "tdx"), "tdx", {"measurements": {"mrtd": ["00" * 48]}}, 10, "contraindicated",
     ["tdx.measurement.mrtd"]),
    ("sgx-flaws", lambda at: intel(at, "sgx"), "", {}, 10, "contraindicated", ["tdx.advisories"]),
    ("sgx", lambda at: intel(at, "sgx"), "tdx", {"advisories": ADVISORIES}, 0, "affirming", []),
    ("sgx-as-tdx", lambda at: intel(at, "sgx"), "tdx", {"advisories": ADVISORIES, "platforms": ["tdx"]}, 10,
     "contraindicated", ["tdx.platform"]),
    ("snp-no-list", amd, "", {}, 10, "contraindicated", ["sev-snp.crl-missing"]),
    ("snp", amd, "sev-snp", OPTED, 0, "warning", []),
    ("snp-other", amd, "sev-snp", OPTED | {"measurements": ["00" * 48]}, 10, "contraindicated",
     ["sev-snp.measurement"]),
    ("nitro-no-list", aws, "", {}, 10, "contraindicated", ["nitro.crl_missing"]),
    ("gpu-no-ocsp", nvidia, "", {}, 10, "contraindicated", ["nvgpu.ocsp_missing"]),
    ("gpu-other-manifests", nvidia, "nvidia-gpu", OPTED, 10, "contraindicated",
     ["nvgpu.measurements", "nvgpu.debug", "nvgpu.driver_rim", "nvgpu.vbios_rim"]),
    ("gpu", nvidia, "nvidia-gpu", OPTED | {"unsafe_without_rims": True}, 0, "warning", []),
    ("gpu-old-driver", nvidia, "nvidia-gpu", OPTED | {"unsafe_without_rims": True, "drivers": ["999"]}, 10,
     "contraindicated", ["nvgpu.driver"]),
    ("tpm-no-list", google, "", {}, 10, "contraindicated", ["tpm.revocation"]),
    ("tpm", google, "tpm", {"unsafe_skipped": True}, 0, "warning", []),
    ("tpm-for-hardware", google, "tpm", {"unsafe_skipped": True, "kinds": ["hardware"]}, 10, "contraindicated",
     ["tpm.kind"]),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_real_evidence_is_decided_as_it_should(row: tuple[Any, ...], data: Path, judge: Judge) -> None:
    _, make, part, opt, status, verdict, rules = row
    code, found = judge(make(data / "attestation"), part=part, opt=opt)
    assert (code, found["status"], broken(found)) == (status, verdict, rules)


def test_the_auditors_policy_accepts_real_evidence_once_it_is_filled_in(
    data: Path, judge: Judge, tmp_path: Path
) -> None:
    case = intel(data / "attestation", "tdx")
    text = re.sub(r"^#\| ", "", policies.path("auditor").read_text("utf-8"), flags=re.MULTILINE)
    mine = [
        ('require = ["tpm"]', 'require = ["tdx"]'),
        ("makers = []", f'makers = ["{MAKER}"]'),
        ("mrtd = []", f"mrtd = {json.dumps(case.policy['tdx']['measurements']['mrtd'])}"),
        ('explained = ["rtmr0", "rtmr1", "rtmr2", "rtmr3"]', "explained = []"),
        ("[hardware.sev-snp]", "[hardware.sev-snp]\nid_keys = ['" + "00" * 48 + "']"),
    ]
    for before, after in mine:
        assert text.count(before) == 1
        text = text.replace(before, after)
    code, found = judge(case, text=text)
    assert (code, found["status"], broken(found)) == (0, "affirming", [])
    # As it comes, it trusts nobody; and it never takes evidence of one platform for that of another.
    code, found = judge(case, text=policies.path("auditor").read_text("utf-8"))
    assert (code, broken(found)) == (10, ["capsule.maker", "hardware.platform", "hardware.required"])


def test_azures_machine_is_accepted_when_nobody_says_what_it_is_bound_to_and_the_policy_lets_it(
    data: Path, judge: Judge
) -> None:
    case = azure(data / "attestation")
    snp = {"sev_snp": case.policy["azure"]["sev_snp"] | OPTED}
    code, found = judge(case, part="azure", opt=snp)
    assert (code, broken(found)) == (10, ["azure.bound"])
    code, found = judge(case, part="azure", opt=snp, unsafe_unbound=True)
    assert (code, found["status"], broken(found)) == (0, "warning", [])
    code, found = judge(case, part="azure", unsafe_unbound=True)
    assert broken(found) == ["sev-snp.crl-missing"]


def test_another_binding_or_none_is_refused(data: Path, judge: Judge) -> None:
    case = intel(data / "attestation", "tdx")
    for bound in ("00" * 32, case.bound[:-2] + "77", case.bound[:-2], case.bound + "00"):
        code, found = judge(case, "--bound", bound)
        assert (code, broken(found)) == (10, ["tdx.bound"])


def test_times_outside_of_the_collateral_are_refused(data: Path, judge: Judge) -> None:
    case = intel(data / "attestation", "tdx")
    assert broken(judge(case, "--as-of", "2025-06-01T00:00:00Z")[1]) == ["capsule.future", "tdx.root"]
    code, found = judge(case, "--as-of", "2026-07-01T00:00:00Z")
    assert (code, found["status"]) == (10, "contraindicated")
    code, found = judge(case, "--as-of", "2026-07-01T00:00:00Z", stale="as-of-capsule")
    assert (code, found["status"], found["as_of"]) == (0, "warning", case.as_of)
    assert "judged as of" in found["downgrades"][0]
    assert broken(judge(case, "--as-of", "2026-07-01T00:00:00Z", max_age_days=30)[1])[0] == "capsule.age"


def test_roots_makers_and_platforms_are_the_policys_to_name(data: Path, judge: Judge) -> None:
    at = data / "attestation"
    case = intel(at, "tdx")
    assert broken(judge(case, roots={"tdx": [digest_of(b"other")]})[1]) == ["tdx.root"]
    assert broken(judge(case, makers=[digest_of(b"other")])[1]) == ["capsule.maker", "tdx.root"]
    assert broken(judge(case, require=["tpm", "tdx"])[1]) == ["hardware.required"]
    # A capsule that calls a root a manufacturer's does not make it one, and pinned for programs it is for programs.
    tpm = google(at)
    as_hardware = [
        ("tpm", "root" if kind == "software-root" else kind, file, chain) for _, kind, file, chain in tpm.items
    ]
    case = Case(tpm.evidence, tpm.policy, as_hardware, tpm.as_of, tpm.bound)
    assert broken(judge(case, part="tpm", opt={"unsafe_skipped": True, "kinds": ["hardware"]})[1]) == ["tpm.chain"]


def test_the_newest_list_in_force_is_used_whatever_the_order(data: Path, judge: Judge) -> None:
    at = data / "attestation"
    case = intel(at, "tdx")
    old = ("tdx", "revocation-list", (at / "tdx/go-tdx-guest/rootcrl.der").read_bytes(), None)
    assert certificates.load_crl(old[2], "list").last_update_utc.year == 2023
    for items in ([old, *case.items], [*case.items, old]):
        changed = Case(case.evidence, case.policy, items, case.as_of, case.bound, case.arguments)
        assert judge(changed)[0] == 0


def test_an_attestation_result_is_signed_and_says_what_was_let_pass(data: Path, judge: Judge, tmp_path: Path) -> None:
    out = tmp_path / "result.jwt"
    judge(amd(data / "attestation"), "--ear", str(out), "--ear-key", str(tmp_path / "key"), part="sev-snp", opt=OPTED)
    token = out.read_text().strip()
    value = ear.verify(token, KEY.public_key())
    part = value["submods"]["sev-snp"]
    assert part["ear.status"] == "warning"
    assert set(part["ear.trustworthiness-vector"].values()) == {ear.WARNING}
    assert any("revocation" in sentence for sentence in value["vitrine.downgrades"])
    for at in range(0, len(token), 3):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(VitrineError):
            ear.verify(changed, KEY.public_key())
    with pytest.raises(VitrineError):
        ear.verify(token, ec.generate_private_key(ec.SECP256R1()).public_key())
