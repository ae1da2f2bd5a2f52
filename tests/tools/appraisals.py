"""Evidence with everything that it is judged by, and `attest appraise` over it from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from attest import canonical, nitro, sevsnp, tdx
from attest.appraise import items
from attest.cli import app
from attest.digest import digest_of
from attest.errors import VitrineError
from attest.nitro import dstack
from attest.nvgpu import layout as gpu_layout
from attest.sevsnp.certificates import load
from tests.tools import gce, snp_vectors
from tests.tools.real_tpm import der, keylime_evidence
from tests.unit.azure.test_azure_vectors import read as read_azure

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
MAKER = digest_of(KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
INTEL = "sha256:44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
OPTED = {"unsafe_without_revocation": True}
Collateral = list[tuple[str, str, bytes, bytes | None]]
"""Platform, kind, file and chain of what a capsule holds."""


@dataclass(frozen=True)
class Case:
    """Evidence, and everything that it is judged with."""

    evidence: bytes
    policy: dict[str, Any]
    """The table `hardware`, without makers."""
    items: Collateral
    as_of: str
    bound: str
    arguments: tuple[str, ...] = ()
    certificate: bytes | None = None

    def with_part(self, name: str, **changes: Any) -> Case:
        """The same with other rules on one platform."""
        return replace(self, policy=self.policy | {name: self.policy[name] | changes})


Make = Callable[[Path], Case]
"""Makes a case of the vectors in a folder."""


# --- Intel ------------------------------------------------------------------------------------------------------------


def documents(at: Path, kind: str = "tdx") -> Collateral:
    """All of Intel's collateral for a platform, as dcap-qvl keeps it."""
    fields = json.loads((at / "tdx/dcap-qvl" / f"{kind}_quote_collateral.json").read_bytes())

    def answer(field: str, name: str) -> bytes:
        return f'{{"{name}":{fields[field]},"signature":"{fields[f"{field}_signature"]}"}}'.encode()

    return [
        *root_alone(at),
        ("tdx", "revocation-list", bytes.fromhex(fields["root_ca_crl"]), None),
        ("tdx", "revocation-list", bytes.fromhex(fields["pck_crl"]), None),
        ("tdx", "tcb-info", answer("tcb_info", "tcbInfo"), fields["tcb_info_issuer_chain"].encode()),
        ("tdx", "qe-identity", answer("qe_identity", "enclaveIdentity"), fields["qe_identity_issuer_chain"].encode()),
    ]


def root_alone(at: Path) -> Collateral:
    """Intel's root, and nothing else."""
    return [("tdx", "root", (at / "tdx/dcap-qvl/TrustedRootCA.der").read_bytes(), None)]


def domain(quote: bytes, collateral: Collateral, as_of: str, log: bytes | None = None, kind: str = "tdx") -> Case:
    """A quote, judged by a policy that wants what it measured."""
    body = tdx.parse(quote).body
    name, value = ("mrtd", body.mr_td) if isinstance(body, tdx.Domain) else ("mrenclave", body.mr_enclave)
    part = {
        "platforms": [kind],
        "minimum_evaluation_data_number": 1,
        "measurements": {name: [value.hex()]},
        "tcb_statuses": ["UpToDate", "SWHardeningNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate"],
    } | ({"explained": ["rtmr0", "rtmr1", "rtmr2"]} if log is not None else {})
    return Case(
        canonical.dump_model(items.Tdx(quote=quote, event_log=log)) if log is not None else quote,
        {"roots": {"tdx": [INTEL]}, "tdx": part, "max_age_days": 3650},
        collateral,
        as_of,
        body.report_data.hex(),
        () if log is not None else ("--platform", "tdx"),
    )


def intel(at: Path, kind: str) -> Case:
    """A quote of dcap-qvl's, its collateral as Intel answers."""
    quote = (at / "tdx/dcap-qvl" / f"{kind}_quote").read_bytes()
    return domain(quote, documents(at, kind), "2025-07-01T00:00:00Z", kind=kind)


# --- AMD --------------------------------------------------------------------------------------------------------------


def guest(at: Path, name: str = "milan-v2-trustee") -> Case:
    """A report of `snp_vectors`, judged by a policy that wants what it measured."""
    vector = snp_vectors.VECTORS[name]
    evidence = snp_vectors.evidence(at / "snp", vector)
    read = sevsnp.layout.read_report(evidence.report)
    lowest = {"boot_loader": 0, "tee": 0, "snp": 0, "microcode": 0}
    part: dict[str, Any] = {
        "measurements": [read.measurement.hex()],
        "minimum_tcb": {"Milan": lowest, "Genoa": lowest},
        "guest_allows": ["smt"],
        "provisional_firmware": True,
        "vmpls": [0, 1, 2, 3],
        "signing_keys": ["vcek", "vlek"],
        "providers": ["CN=cc-us-east-2.amazonaws.com"],
    }
    chains = [(at / f"snp/trustee/{product}_ask_ark_asvk.pem").read_bytes() for product in ("milan", "genoa", "turin")]
    return Case(
        evidence.report,
        {"roots": {"sev-snp": sorted(snp_vectors.ROOTS.values())}, "sev-snp": part},
        [("sev-snp", "certificate", chain, None) for chain in chains],
        "2025-09-01T00:00:00Z",
        read.report_data.hex(),
        ("--platform", "sev-snp"),
        load(evidence.certificate).public_bytes(Encoding.DER),
    )


# --- AWS --------------------------------------------------------------------------------------------------------------


def aws(at: Path, name: str = "yawn-nitro-attest/attestation.cose", as_of: str = "2025-01-06T16:07:05Z") -> Case:
    """The document of an enclave, judged by a policy that wants its image."""
    data = (at / "nitro" / name).read_bytes()
    root = at / "nitro/dstack-nsm/AWS_NitroEnclaves_Root-G1.pem"
    inner = dstack.unwrap(data).document if dstack.is_wrapped(data) else data
    document = nitro.layout.read(nitro.authenticate.__globals__["cose"].read(inner, "x").payload)
    part = {"measurements": {"PCR0": [document.pcrs[0].hex()]}}
    return Case(
        data,
        {"roots": {"nitro": [digest_of(der(root))]}, "nitro": part},
        [("nitro", "root", root.read_bytes(), None)],
        as_of,
        (document.user_data or b"").hex(),
        ("--platform", "nitro"),
    )


# --- NVIDIA -----------------------------------------------------------------------------------------------------------


def nvidia(at: Path, chain: str = "nvtrust/hopperCertChain.txt") -> Case:
    """NVIDIA's report of an H100, with manifests of other versions."""
    folder = at / "nvidia/nvtrust"
    report = gpu_layout.from_text((folder / "hopperAttestationReport.txt").read_bytes())
    return Case(
        report,
        _gpu_policy(at, drivers=["550.90.07"], vbioses=["96.00.9F.00.01"]),
        [
            *_gpu_roots(at),
            ("nvidia-gpu", "driver-rim", (folder / "Driver_RIM_test_no_gpu.swidtag").read_bytes(), None),
            ("nvidia-gpu", "vbios-rim", (folder / "1010_0200_882_96005E0001_PROD.swidtag").read_bytes(), None),
        ],
        "2024-06-01T00:00:00Z",
        gpu_layout.read(report).nonce.hex(),
        ("--platform", "nvidia-gpu"),
        (at / "nvidia" / chain).read_bytes(),
    )


def several_gpus(at: Path) -> Case:
    """Eight GPUs of one machine, in NVIDIA's list."""
    data = (at / "nvidia/ppcie/gpu_evidence.json").read_bytes()
    listed = json.loads(data)
    versions = {name: sorted({item[f"{name}_version"].upper() for item in listed}) for name in ("driver", "vbios")}
    policy = _gpu_policy(at, drivers=versions["driver"], vbioses=versions["vbios"], protected_pcie=True)
    nonce = listed[0]["nonce"]
    return Case(data, policy, _gpu_roots(at), "2024-06-01T00:00:00Z", nonce, ("--platform", "nvidia-gpu"))


def _gpu_roots(at: Path) -> Collateral:
    names = {"root": "device", "rim-root": "RIM"}
    return [
        ("nvidia-gpu", kind, (at / f"nvidia/nvtrust/verifier_{name}_root.pem").read_bytes(), None)
        for kind, name in names.items()
    ]


def _gpu_policy(at: Path, **part: Any) -> dict[str, Any]:
    roots = [digest_of(der(at / f"nvidia/nvtrust/verifier_{name}_root.pem")) for name in ("device", "RIM")]
    return {"roots": {"nvidia-gpu": roots[:1], "nvidia-gpu-rim": roots[1:]}, "nvidia-gpu": part}


# --- TPMs, Azure ------------------------------------------------------------------------------------------------------


def google(at: Path, **changes: object) -> Case:
    """A cloud machine's vTPM, quoted under an empty nonce: nothing that it could be bound to."""
    folder = at / "tpm/gce-attestation"
    evidence = gce.read((folder / "gce-cos-85-no-nonce.pb").read_bytes()).evidence("sha256")
    root = der(folder / "tpm_ek_root_1.cer")
    part: dict[str, Any] = {"kinds": ["software"], "quoted": [0], "explained": [0], "secure_boot": False}
    return Case(
        canonical.dump_model(evidence.model_copy(update=changes)),
        {"roots": {"tpm-software": [digest_of(root)]}, "tpm": part, "unsafe_unbound": True},
        [
            ("tpm", "software-root", root, None),
            ("tpm", "certificate", der(folder / "tpm_ek_intermediate_2.crt"), None),
            ("tpm", "certificate", der(folder / "tpm_ek_intermediate_3.crt"), None),
        ],
        "2021-10-01T00:00:00Z",
        "",
    )


def keylime(at: Path) -> Case:
    """A quote of swtpm's, of three registers; nobody vouches for its key."""
    part: dict[str, Any] = {"quoted": [15, 16, 22], "explained": [15, 22], "secure_boot": False}
    return replace(
        google(at),
        evidence=canonical.dump_model(keylime_evidence(at / "tpm")),
        policy={"tpm": part},
        bound="db1db298db6d60e6385b7231743e9c3056a18003",
    )


def azure(at: Path, name: str = "snp/files") -> Case:
    """A confidential VM on Azure. Its nonce is 9 bytes long: too short to be bound to anything."""
    evidence = read_azure(at / "azure", name).evidence()
    part: dict[str, Any] = {"registers": {"sha256:0": [evidence.registers["0"]]}, "console": True}
    collateral = guest(at).items
    if evidence.td_quote is not None:
        judged = domain(evidence.td_quote, root_alone(at), "2025-09-01T00:00:00Z")
        collateral, part["tdx"] = judged.items, judged.policy["tdx"] | {"unsafe_sept_ve_enabled": True}
    else:
        report = sevsnp.layout.read_report(evidence.hcl_report[32 : 32 + 1184])
        part["sev_snp"] = guest(at).policy["sev-snp"] | {"measurements": [report.measurement.hex()]}
    return Case(
        canonical.dump_model(evidence),
        {"roots": {"sev-snp": sorted(snp_vectors.ROOTS.values()), "tdx": [INTEL]}, "azure": part},
        collateral,
        "2025-09-01T00:00:00Z",
        "",
    )


# --- The command line -------------------------------------------------------------------------------------------------


def toml(value: dict[str, Any], name: str = "hardware") -> str:
    """A table in TOML."""
    plain = {key: item for key, item in value.items() if not isinstance(item, dict)}
    text = f"[{name}]\n" + "".join(f"{json.dumps(key)} = {json.dumps(item)}\n" for key, item in plain.items())
    tables = {key: item for key, item in value.items() if isinstance(item, dict)}
    return text + "".join(toml(item, f"{name}.{json.dumps(key)}") for key, item in tables.items())


@dataclass(frozen=True)
class Judge:
    """Makes capsule and policy of a case in a folder, and appraises it there."""

    folder: Path

    def __call__(self, case: Case, *more: str, text: str = "", **changes: Any) -> tuple[int, dict[str, Any]]:
        """The exit code, and what it says, or its `error`. `text` is a whole policy; `changes` are of the table."""
        names = {name: self.folder / name for name in ("policy", "evidence", "certificate")}
        names["policy"].write_text(text or toml({"makers": [MAKER]} | case.policy | changes))
        names["evidence"].write_bytes(case.evidence)
        arguments = ["appraise", str(names["evidence"]), "--policy", str(names["policy"]), "--json", *case.arguments]
        arguments += ["--capsule", str(self.capsule(case.items, case.as_of))]
        if case.certificate is not None:
            names["certificate"].write_bytes(case.certificate)
            arguments += ["--certificate", str(names["certificate"])]
        for name, value in (("--as-of", case.as_of), ("--bound", case.bound)):
            arguments += [name, value] if value and name not in more else []
        result = CliRunner().invoke(app, [*arguments, *more])
        if isinstance(result.exception, VitrineError):
            return int(result.exception.exit_code), {"error": str(result.exception), "status": None, "lines": []}
        return result.exit_code, json.loads(result.stdout)

    def capsule(self, collateral: Collateral, made: str) -> Path:
        """A capsule, made from files and a list of them."""
        lines = []
        for number, (platform, kind, data, chain) in enumerate(collateral):
            (self.folder / f"{number}").write_bytes(data)
            lines.append(f'[[item]]\nplatform = "{platform}"\nkind = "{kind}"\nfile = "{number}"')
            if chain is not None:
                (self.folder / f"{number}.chain").write_bytes(chain)
                lines.append(f'chain = "{number}.chain"')
        listing, key, out = (self.folder / name for name in ("list", "key", "capsule"))
        out.unlink(missing_ok=True)
        key.write_bytes(PEM)
        listing.write_text("\n".join(lines))
        arguments = ["capsule", "make", str(listing), "--key", str(key), "--out", str(out), "--made", made]
        made_it = CliRunner().invoke(app, arguments)
        assert made_it.exit_code == 0, made_it.output
        return out


def broken(found: dict[str, Any]) -> Sequence[str]:
    """The rules that do not hold."""
    return [line["rule"] for line in found["lines"] if not line["holds"]]
