"""Runs for which confidential hardware speaks: its evidence gets into the bundle, and a policy decides `confidential`.

The devices are fakes that really sign, under synthetic roots: configfs-tsm with a chip of AMD's or a platform of
Intel's behind it, a security module of AWS's, NVIDIA's driver, swtpm with the report of Azure's paravisor. The runs are
real.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from appliance import run
from appliance.attester import guest, host
from appliance.attester.configfs import Folder
from appliance.attester.host import Devices, Given
from appliance.attester.machine import MachineAttester
from appliance.cli import app
from appliance.enclave.tpm_device import Tpm
from appliance.notary.attestation_keys import TpmKeys
from appliance.notary.ca import Authority
from attest import canonical, capsule, evidence, policy, reference, verify
from attest import tpm as tpm_package
from attest.capsule import Item
from attest.cli import read_bundle
from attest.digest import digest_of, sha256
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
from attest.eventlog import EventLog
from attest.keys import read_private_key
from attest.manifest import Platform
from attest.profile import issuer_of
from tests.conformance.clients import stock_clients
from tests.conformance.clients.tampering import Case
from tests.conftest import Made
from tests.fakes import authority, nitro, nvgpu, sevsnp, tdx
from tests.fakes.configfs import FakeRequests
from tests.tools import azure_machine, swtpm
from tests.tools.appraisals import toml
from tests.tools.resign import resign

COLLECTOR = ec.generate_private_key(ec.SECP256R1())
MAKER = digest_of(COLLECTOR.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
VCEK = "63da758d-e664-4564-adc5-f4b93be8accd"
VENDOR, CHIP, INTEL, GPUS = sevsnp.Vendor(), sevsnp.Chip(), tdx.intel(), nvgpu.Maker()
NSM = nitro.Nsm()
LOWEST = {"boot_loader": 0, "tee": 0, "snp": 0, "microcode": 0}
AMD = {"measurements": ["22" * 48], "minimum_tcb": {"Milan": LOWEST}, "guest_allows": ["smt"]}
TDX = {"measurements": {"mrtd": ["d0" * 48]}, "minimum_evaluation_data_number": 1}


def documents() -> list[Item]:
    """Intel's collateral."""
    given = INTEL.endorsements()
    answers = {"tcb-info": (given.tcb_info, "tcbInfo"), "qe-identity": (given.qe_identity, "enclaveIdentity")}
    items = [capsule.item("tdx", "root", "Intel", given.root)]
    items += [capsule.item("tdx", "revocation-list", "Intel", data) for data in (given.root_crl, given.pck_crl) if data]
    for kind, (document, name) in answers.items():
        assert document is not None
        answer = b'{"%s":%s,"signature":"%s"}' % (name.encode(), document.body, document.signature.hex().encode())
        items.append(capsule.item("tdx", kind, "Intel", answer, document.chain))  # type: ignore[arg-type]
    return items


def amds() -> list[Item]:
    """AMD's collateral."""
    items = [capsule.item("sev-snp", "certificate", "AMD", data) for data in (VENDOR.ark, VENDOR.ask)]
    return [*items, capsule.item("sev-snp", "revocation-list", "AMD", VENDOR.crl())]


def nvidias() -> list[Item]:
    """NVIDIA's collateral."""
    items = [capsule.item("nvidia-gpu", "root", "NVIDIA", gpu.chain[-1].der) for gpu in GPUS.gpus]
    items.append(capsule.item("nvidia-gpu", "rim-root", "NVIDIA", GPUS.chain[-1].der))
    items.append(capsule.item("nvidia-gpu", "driver-rim", "NVIDIA", GPUS.driver_rim()))
    items.append(capsule.item("nvidia-gpu", "vbios-rim", "NVIDIA", GPUS.vbios_rim()))
    return items + [capsule.item("nvidia-gpu", "ocsp", "NVIDIA", data) for data in GPUS.responses()]


class Driver:
    """NVIDIA's driver."""

    def evidence(self, nonce: bytes) -> Any:
        return tuple(gpu.evidence(nonce) for gpu in GPUS.gpus)


@dataclass(frozen=True)
class Scene:
    """Hardware, and what it is judged by."""

    platforms: tuple[Platform, ...]
    now: datetime
    table: dict[str, Any]
    items: Callable[[], list[Item]]
    devices: dict[str, Any] = field(default_factory=dict)
    assurance: tuple[str, ...] = ("signed", "measured", "confidential")


def reports(sign: Callable[[bytes], bytes], provider: str, auxiliary: bytes | None = None) -> dict[str, Any]:
    """configfs-tsm."""
    return {"reports": FakeRequests(sign, provider, auxiliary)}


def snp(**changes: object) -> dict[str, Any]:
    """configfs-tsm of a guest on SEV-SNP."""
    table = sevsnp.certificate_table({VCEK: VENDOR.chip_certificate(CHIP)})
    return reports(lambda bound: CHIP.report(report_data=bound, **changes), "sev_guest", table)


ROOTS = {
    "sev-snp": [digest_of(VENDOR.ark)],
    "tdx": [digest_of(INTEL.endorsements().root)],
    "nitro": [digest_of(NSM.root)],
    "nvidia-gpu": [digest_of(GPUS.gpus[0].chain[-1].der)],
    "nvidia-gpu-rim": [digest_of(GPUS.chain[-1].der)],
}
AZURE = {"registers": {"sha256:0": ["00" * 32]}}
SCENES = {
    "sev-snp": Scene(("sev-snp",), sevsnp.NOW, {"sev-snp": AMD}, amds, snp()),
    "tdx": Scene(("tdx",), tdx.NOW, {"tdx": TDX}, documents,
        reports(lambda bound: INTEL.quote(tdx.domain(bound)), "tdx_guest")),
    "nitro": Scene(("nitro",), authority.NOW, {"nitro": {"measurements": {"PCR0": [nitro.IMAGE.hex()]}}},
        lambda: [capsule.item("nitro", "root", "AWS", NSM.root),
                 *(capsule.item("nitro", "revocation-list", "AWS", data) for data in NSM.lists())], {"module": NSM}),
    "azure-sev-snp": Scene(("azure",), sevsnp.NOW, {"azure": AZURE | {"sev_snp": AMD}}, amds),
    "azure-tdx": Scene(("azure",), tdx.NOW, {"azure": AZURE | {"tdx": TDX}}, documents),
    "tpm-and-tdx": Scene(("tdx", "tpm"), tdx.NOW,
        {"tdx": TDX, "tpm": {"kinds": ["unknown"], "unsafe_skipped": True, "secure_boot": False}}, documents,
        reports(lambda bound: INTEL.quote(tdx.domain(bound)), "tdx_guest"),
        ("signed", "measured", "quoted (software TPM)", "confidential")),
    # A GPU alone keeps nobody out of the machine that it is in.
    "nvidia-gpu": Scene(("nvidia-gpu",), authority.NOW,
        {"nvidia-gpu": {"drivers": [nvgpu.DRIVER], "vbioses": [nvgpu.VBIOS]}}, nvidias, {"gpus": Driver},
        ("signed", "measured")),
}  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """A bundle of a scene."""

    scene: Scene
    made: Made

    def verify(self, files: dict[str, bytes] | None = None, **changes: Any) -> verify.Verified:
        """Verify it by the scene's policy and collateral, with `changes` to the table `hardware`."""
        least = self.scene.assurance[-1].partition(" ")[0]
        table = {"require": list(self.scene.platforms), "makers": [MAKER], "roots": ROOTS} | self.scene.table | changes
        text = f'assurance = "{least}"\n' + toml(table)
        return verify.verify(
            files or read_bundle(self.made.bundle), self.made.trusted_root, policy=policy.read(text.encode()),
            capsule=capsule.read(capsule.make(self.scene.items(), COLLECTOR, self.scene.now)), now=self.scene.now,
        )  # fmt: skip


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory, job_file: Path, execute: Callable[..., run.Outcome], made: Made
) -> Iterator[Callable[[str], Ran]]:
    """Runs a scene, once."""
    folder = tmp_path_factory.mktemp("confidential")
    done: dict[str, Ran] = {}

    def start(name: str) -> Ran:
        if name not in done:
            scene = SCENES[name]
            with ExitStack() as stack:
                devices, given = dict(scene.devices), Given()
                if {"azure", "tpm"} & set(scene.platforms):
                    tpm = stack.enter_context(swtpm.started(folder / f"{name}.state"))
                    devices["tpm"] = lambda: Borrowed(tpm)
                    if "azure" in scene.platforms:
                        said = azure_machine.set_up(tpm, name.removeprefix("azure-"))
                        given = Given(vcek=said.certificate, td_quote=said.td_quote)
                    else:
                        swtpm.measured_boot(tpm)
                devices = {"event_log": swtpm.EVENT_LOG, "ccel": folder / "none"} | devices
                attester = stack.enter_context(host.opened(scene.platforms, Devices(**devices), given))
                bundle = execute(job_file, folder / name, attester=attester).bundle
            done[name] = Ran(scene, Made(bundle, made.trusted_root, job_file, made.lab))
        return done[name]

    yield start


class Borrowed(Tpm):
    """An open TPM that somebody else closes."""

    def __init__(self, tpm: Tpm) -> None:
        vars(self).update(vars(tpm))

    def close(self) -> None:
        """Leave it open."""


@pytest.mark.parametrize("name", SCENES)
def test_evidence_of_the_hardware_decides_how_far_a_bundle_is_trusted(name: str, ran: Callable[[str], Ran]) -> None:
    one = ran(name)
    found = one.verify()
    assert found.assurance == one.scene.assurance
    assert set(found.manifest.evidence) == set(one.scene.platforms)
    expected = "warning" if "tpm" in one.scene.platforms else "affirming"
    assert [appraisal.status for appraisal in found.appraisals] == [expected] * 2
    # To somebody who does not ask, it proves nothing more.
    plain = verify.verify(read_bundle(one.made.bundle), one.made.trusted_root)
    assert "confidential" not in plain.assurance
    assert any("was not looked at" in line for line in plain.not_proven) is ("tpm" not in one.scene.platforms)


NAMED = {
    "sev-snp": {"sev-snp": {"launch": "22" * 48}},
    "tdx": {"tdx": {"mrtd": "d0" * 48, "rtmr1": "a1" * 48, "rtmr2": "00" * 48}},
    "nitro": {"nitro": {f"pcr{number}": nitro.IMAGE.hex() for number in range(3)}},
    "azure-sev-snp": {"azure": {f"sha256:{number}": "00" * 32 for number in (4, 9, 11)}},
    "azure-tdx": {"azure": {f"sha256:{number}": "00" * 32 for number in (4, 9, 11)}},
}
"""The launch measurements that identities of machines without a TPM of their own name."""


@pytest.mark.parametrize("name", SCENES)
def test_the_identity_names_what_was_launched(name: str, ran: Callable[[str], Ran]) -> None:
    found = ran(name).verify()
    machine = found.identity.partition("/machine/")[2].partition("/")[0]
    if name in NAMED:
        assert machine == sha256(canonical.dumps(NAMED[name])).hex()
    else:  # a TPM's registers, which the measured machine's tests look at; of a GPU nothing is launched
        assert bool(machine) is (name == "tpm-and-tdx")
    # Whoever pins it pins the image: a policy does, and a stock client.
    for pinned, accepted in ((found.identity, True), (found.identity.replace(machine or "appliance", "0" * 64), False)):
        required = policy.read(f'identity = "{pinned}"'.encode())
        files = read_bundle(ran(name).made.bundle)
        with nullcontext() if accepted else pytest.raises(VerificationError, match="signature/identity"):
            verify.verify(files, ran(name).made.trusted_root, policy=required)


def test_a_certificate_of_another_image_is_refused(ran: Callable[[str], Ran]) -> None:
    """A lab that certifies what the evidence does not show."""
    made = ran("sev-snp").made
    measurement = ran("sev-snp").verify().identity.rpartition("/")[2]
    for image in (None, "00" * 32):
        with pytest.raises(VerificationError, match="identity/measurement"):
            verify.verify(resign(made, identity=made.lab.identity(measurement, image)), made.trusted_root)


def test_cosign_pins_the_launched_image(ran: Callable[[str], Ran], tmp_path: Path) -> None:
    one = ran("sev-snp")
    (tmp_path / "root.json").write_bytes(one.made.trusted_root)
    try:
        client = stock_clients.cosign(tmp_path / "root.json")
    except stock_clients.Missing as missing:
        pytest.skip(str(missing))
    identity = one.verify().identity
    other = identity.replace(identity.partition("/machine/")[2][:64], sha256(b"another image").hex())
    for pinned, accepted in ((identity, True), (other, False)):
        bundle, results = one.made.bundle / verify.SIGNATURE, one.made.bundle / verify.RESULTS
        answer = client.ask(Case("image", "the identity", bundle.read_bytes(), results, pinned, issuer_of(pinned)))
        assert answer.accepted is accepted, answer.reason


@pytest.mark.parametrize("name", SCENES)
def test_evidence_of_another_run_or_moment_is_refused(name: str, ran: Callable[[str], Ran]) -> None:
    one = ran(name)
    files = read_bundle(one.made.bundle)
    start = json.loads(files[verify.START])
    swapped = canonical.dumps(json.loads(files[verify.END]) | {"items": start["items"]})
    with pytest.raises(VerificationError, match=r"(appraisal/[a-z-]+\.bound|tpm/nonce)"):
        one.verify(files | {verify.END: swapped})
    for missing in (verify.START, verify.END):
        with pytest.raises(VerificationError, match="files/"):
            one.verify({file: data for file, data in files.items() if file != missing})


def test_evidence_of_another_machine_is_refused(ran: Callable[[str], Ran]) -> None:
    """Two guests, both genuine: the second one's key signs what the first one's evidence is bound to."""
    one = ran("sev-snp")
    files = read_bundle(one.made.bundle)
    end = json.loads(files[verify.END])
    bound = verify.verify(files, one.made.trusted_root)
    assert bound.manifest.evidence == ("sev-snp",)
    (claims,) = one.verify().appraisals[1].claims["sev-snp"]
    other = CHIP.report(report_data=bytes.fromhex(claims.bound), report_id=b"\x55" * 32)
    evidence = host.HostAttester([lambda _: sevsnp_evidence(other)]).end("", b"")
    with pytest.raises(VerificationError, match="evidence/machine"):
        one.verify(files | {verify.END: canonical.dumps(end | {"items": list(evidence)})})


def sevsnp_evidence(report: bytes) -> Any:
    """A report with its chip's certificate."""
    from attest.sevsnp import Evidence

    return Evidence(report=report, certificate=VENDOR.chip_certificate(CHIP))


@pytest.mark.parametrize(
    ("name", "changes", "code"),
    [
        ("sev-snp", {"roots": {"sev-snp": [digest_of(b"other")]}}, r"appraisal/sev-snp\.root"),
        ("sev-snp", {"sev-snp": AMD | {"measurements": ["00" * 48]}}, r"appraisal/sev-snp\.measurement"),
        ("tdx", {"roots": {}}, r"appraisal/tdx\.root"),
        ("tdx", {"tdx": TDX | {"measurements": {"mrtd": ["00" * 48]}}}, r"appraisal/tdx\.measurement\.mrtd"),
        ("nitro", {"nitro": {"measurements": {"PCR0": ["00" * 48]}}}, r"appraisal/nitro\.pcr0"),
        ("nitro", {"makers": []}, r"appraisal/capsule\.maker"),
        ("azure-sev-snp", {"azure": {"registers": {"sha256:0": ["11" * 32]}, "sev_snp": AMD}}, r"azure\.sha256:0"),
        ("azure-tdx", {"azure": AZURE | {"sev_snp": AMD}}, r"appraisal/tdx\.|appraisal/azure\.hardware"),
        ("nvidia-gpu", {"nvidia-gpu": {"drivers": ["1"], "vbioses": [nvgpu.VBIOS]}}, r"appraisal/nvgpu\.driver"),
        ("tdx", {"require": ["tdx", "nvidia-gpu"]}, r"appraisal/hardware\.required"),
    ],
)
def test_what_the_policy_does_not_accept_is_refused(
    name: str, changes: dict[str, Any], code: str, ran: Callable[[str], Ran]
) -> None:
    with pytest.raises(VerificationError, match=code):
        ran(name).verify(**changes)


def test_a_host_names_what_it_has(tmp_path: Path) -> None:
    def no_tpm() -> Tpm:
        raise EnvironmentProblem("no TPM")

    (tmp_path / "dev").mkdir()
    bare = Devices(tpm=no_tpm)
    assert host.found(bare, tmp_path) == ()
    (tmp_path / "dev" / "sev-guest").touch()
    (tmp_path / "dev" / "nsm").touch()
    assert host.found(bare, tmp_path) == ("sev-snp", "nitro")
    with swtpm.started(tmp_path / "state") as tpm:
        devices = Devices(tpm=lambda: Borrowed(tpm))
        assert host.found(devices, tmp_path) == ("sev-snp", "nitro", "tpm")
        azure_machine.set_up(tpm)
        assert host.found(devices, tmp_path) == ("sev-snp", "nitro", "azure")
    with pytest.raises(EnvironmentProblem, match="no hardware here"), host.opened((), bare, Given()):
        pass
    with pytest.raises(EnvironmentProblem, match="no TPM"), host.opened(("tpm",), bare, Given()):
        pass


def test_a_choice_is_read_strictly(tmp_path: Path) -> None:
    assert host.read_choice("") == ()
    assert host.read_choice("auto") == ("auto",)
    assert host.read_choice("tdx, tpm") == ("tdx", "tpm")
    for wrong in ("tdx,", "TDX", "tdx tpm", "sgx"):
        with pytest.raises(MalformedInput, match="expected some of auto, tpm"):
            host.read_choice(wrong)
    with host.chosen((), Given()) as nothing:
        assert nothing is None
    with swtpm.started(tmp_path / "state") as tpm:
        devices = Devices(tpm=lambda: Borrowed(tpm), event_log=swtpm.EVENT_LOG)
        with host.chosen(("auto",), Given(), devices) as attester:
            assert attester is not None
            assert attester.before == "00" * 32


def command(*arguments: object) -> Any:
    """`appliance`, in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_run_does_not_go_on_without_the_hardware_that_was_asked_for(
    job_file: Path, engine: Path, tmp_path: Path
) -> None:
    asked = ["run", job_file, "--lab", tmp_path / "lab", "--out", tmp_path / "out", "--engine", engine]
    for choice in ("nitro", "sev-snp", "nvidia-gpu"):
        done = command(*asked, "--attester", choice)
        assert isinstance(done.exception, EnvironmentProblem), done.output
        assert not (tmp_path / "out").exists()
    for wall in ("vm", "container"):
        assert command(*asked[:-2], "--wall", wall, "--attester", "auto").exit_code == 2


def test_a_lab_vouches_for_a_tpm_from_the_command_line(tmp_path: Path) -> None:
    folder, authority = swtpm.certified(tmp_path / "tpm"), tmp_path / "authority"
    assert command("tpm", "authority", authority, "--name", "lab.test").exit_code == 0
    assert (authority / "key.pem").stat().st_mode & 0o777 == 0o600
    vouch = ["tpm", "vouch", "--authority", authority, "--root", folder / "ca" / "swtpm-localca-rootca-cert.pem"]
    vouch += ["--intermediate", folder / "ca" / "issuer.pem", "--out", tmp_path / "key.json"]
    with swtpm.served(folder / "state") as socket:
        with swtpm.connected(socket):
            pass  # it is there
        refused = command(*vouch, "--software-tpm", socket)
        assert isinstance(refused.exception, VerificationError) and refused.exception.code == "revocation"
        done = command(*vouch, "--software-tpm", socket, "--unsafe-without-revocation")
        assert done.exit_code == 0, done.exception
        assert "swtpm" in done.output
    given = host.read_given(None, None, tmp_path / "key.json")
    certificate = canonical.validate(tpm_package.KeyCertificate, given.key_certificate, "certificate").certificate
    with swtpm.started(folder / "state") as device:
        swtpm.measured_boot(device)
        devices = Devices(tpm=lambda: Borrowed(device), event_log=swtpm.EVENT_LOG)
        with host.opened(("tpm",), devices, given) as attester:
            evidence = canonical.validate(tpm_package.Evidence, attester.end(digest_of(b""), bytes(32))[0], "evidence")
    root = x509.load_pem_x509_certificate((authority / "root.pem").read_bytes()).public_bytes(Encoding.DER)

    def judged() -> tpm_package.Claims:
        trusted = tpm_package.Endorsements(
            (tpm_package.Root(root, "software"),), (), ((authority / "revoked.crl").read_bytes(),)
        )
        return tpm_package.claims(tpm_package.authenticate(evidence, trusted, nonce=bytes(32), now=datetime.now(UTC)))

    assert (judged().kind, judged().vouched_by) == ("software", "key-certificate")
    serial = x509.load_der_x509_certificate(certificate).serial_number
    assert command("tpm", "revoked", "--authority", authority, "--serial", f"{serial:x}").exit_code == 0
    with pytest.raises(VerificationError, match="tpm/revoked"):
        judged()
    # What was taken back stays so, since when it was.
    certified = x509.load_pem_x509_certificate((authority / "root.pem").read_bytes())
    made, long_ago = (
        TpmKeys(Authority(certified, read_private_key(authority / "key.pem"))),
        datetime(2020, 1, 1, tzinfo=UTC),
    )
    (authority / "revoked.crl").write_bytes(made.revocations(datetime.now(UTC), days=1, revoked={serial: long_ago}))
    assert command("tpm", "revoked", "--authority", authority, "--serial", f"{serial:x}").exit_code == 0
    with pytest.raises(VerificationError, match="tpm/revoked"):
        judged()
    (entry,) = x509.load_der_x509_crl((authority / "revoked.crl").read_bytes())
    assert entry.revocation_date_utc == long_ago
    assert isinstance(command("tpm", "revoked", "--authority", authority, "--serial", "x").exception, MalformedInput)
    (authority / "revoked.crl").write_bytes(b"none")
    assert isinstance(command("tpm", "revoked", "--authority", authority).exception, MalformedInput)


def test_the_processor_under_the_measured_machine_speaks_by_itself(
    ran: Callable[[str], Ran], execute: Callable[..., run.Outcome], job_file: Path, made: Made, tmp_path: Path
) -> None:
    """The measured machine's own attester, with configfs-tsm of either vendor: two items at each moment, one run."""
    for name in ("sev-snp", "tdx"):
        scene = SCENES[name]
        with swtpm.started(tmp_path / f"{name}.state") as device:
            swtpm.measured_boot(device)
            attester = guest.beside(MachineAttester(device, swtpm.EVENT_LOG), scene.devices["reports"])
            bundle = execute(job_file, tmp_path / name, attester=attester).bundle
        table = scene.table | {"tpm": {"kinds": ["unknown"], "unsafe_skipped": True, "secure_boot": False}}
        found = Ran(replace(scene, table=table, platforms=("tpm", *scene.platforms)), replace(made, bundle=bundle))
        verified = found.verify()
        assert verified.manifest.evidence == ("tpm", name)
        assert verified.assurance == ("signed", "measured", "quoted (software TPM)", "confidential")
        # The TPM names the image, as without the processor.
        values = evidence.read(read_bundle(bundle)[verify.START], "start")
        assert f"/machine/{reference.image_of(values_of(values))}/" in verified.identity


def values_of(start: evidence.Evidence) -> dict[str, str]:
    """The registers that the TPM quoted."""
    return canonical.validate(tpm_package.Evidence, start.of("tpm"), "evidence").registers["sha256"]


class Deaf(FakeRequests):
    """configfs-tsm whose requests cannot be made."""

    def __init__(self, number: int) -> None:
        super().__init__(bytes, "sev_guest")
        self.number = number

    def make(self, name: str) -> None:
        raise OSError(self.number, os.strerror(self.number))


def test_a_machine_without_such_a_processor_has_its_tpm_alone(tmp_path: Path) -> None:
    with swtpm.started(tmp_path / "state") as device:
        told = MachineAttester(device, swtpm.EVENT_LOG)
        assert guest.beside(told, Folder(tmp_path / "none")) is told
        # The module is there, and no driver found its hardware.
        for number in (errno.ENOENT, errno.ENXIO):
            assert guest.beside(told, Deaf(number)) is told
        for number in (errno.EACCES, errno.EBUSY):
            with pytest.raises(EnvironmentProblem, match="no request can be made"):
                guest.beside(told, Deaf(number))
        with pytest.raises(EnvironmentProblem, match="expected one of sev_guest, tdx_guest, found 'arm_cca_guest'"):
            guest.beside(told, FakeRequests(bytes, "arm_cca_guest"))


def test_a_machine_whose_processor_cannot_be_asked_does_not_run(tmp_path: Path) -> None:
    """A host that hands out no certificate: the run ends, and does not go on without."""
    silent = FakeRequests(lambda bound: CHIP.report(report_data=bound), "sev_guest", None)
    with swtpm.started(tmp_path / "state") as device:
        swtpm.measured_boot(device)
        attester = guest.beside(MachineAttester(device, swtpm.EVENT_LOG), silent)
        with pytest.raises(EnvironmentProblem, match="hands out no VCEK certificate"):
            attester.start(EventLog(()), digest_of(b"job"), bytes(32))
    assert silent.entries == {}
