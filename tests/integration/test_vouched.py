"""A run whose software TPM somebody vouches for: the lab challenged it, and certified its key; auditors pin the lab.

The TPM is swtpm with endorsement certificates of a local authority (`swtpm_setup --create-ek-cert`), told of a recorded
boot of the measured machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance import run
from appliance.attester.machine import MachineAttester
from appliance.attester.tpm import Attester
from appliance.enclave.tpm_device import Tpm
from appliance.notary.attestation_keys import TpmKeys
from attest import canonical, capsule, policy, reference, tpm, verify
from attest.cli import read_bundle
from attest.digest import digest_of, sha256
from attest.errors import EnvironmentProblem, VerificationError
from attest.tpm import layout
from tests.conftest import Made
from tests.fakes.tpm import Authority
from tests.tools import swtpm

NOW = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
"""The clock of all but swtpm's local authority, which has the system's."""
INPUTS = sha256(b"the disk of inputs")
COLLECTOR = ec.generate_private_key(ec.SECP256R1())
MAKER = digest_of(COLLECTOR.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
LAB = TpmKeys.create("lab.test", ec.generate_private_key(ec.SECP256R1()), NOW)


def prove(device: Tpm, trusted: tpm.Endorsements, **changes: object) -> tpm.Authenticated:
    """A TPM shows the lab that its attestation key lies in it."""
    nonce = os.urandom(32)
    with Attester(device) as attester:
        endorsement = attester.endorse()
        keys = (layout.public_area(endorsement.key), layout.public_area(attester.key.public))
        sent, expected = tpm.challenge(*keys, os.urandom)
        evidence = attester.evidence(nonce, {"sha256": range(8)}, endorsement=endorsement, event_log=None)
        activation = tpm.Activation(expected, attester.answer(sent))
    return tpm.authenticate(
        evidence.model_copy(update=changes), trusted, nonce=nonce, now=NOW, activation=activation,
        unsafe_without_revocation=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Vouched:
    """A bundle with evidence of a TPM that the lab vouches for, and that TPM's state."""

    made: Made
    folder: Path
    certificate: tpm.KeyCertificate

    def verify(self, hardware: str, items: list[capsule.Item], **fields: Any) -> verify.Verified:
        """Verify the bundle by a policy on hardware."""
        text = f'assurance = "quoted"\n[hardware]\nrequire = ["tpm"]\nmakers = ["{MAKER}"]\n{hardware}'
        given: dict[str, Any] = {
            "policy": policy.read(text.encode()),
            "capsule": capsule.read(capsule.make(items, COLLECTOR, NOW)),
            "now": NOW,
        }
        return verify.verify(read_bundle(self.made.bundle), self.made.trusted_root, **given | fields)


@pytest.fixture(scope="module")
def vouched(
    tmp_path_factory: pytest.TempPathFactory, job_file: Path, execute: Callable[..., run.Outcome], made: Made
) -> Iterator[Vouched]:
    """One run, on a TPM that the lab challenged before."""
    folder = swtpm.certified(tmp_path_factory.mktemp("vouched") / "tpm")
    with swtpm.started(folder / "state") as device:
        certificate = LAB.certify(prove(device, swtpm.endorsements(folder)), NOW, days=30)
        swtpm.measured_boot(device)
        device.extend(reference.APPLICATION, INPUTS)
        said = json.loads(canonical.dump_model(certificate))
        attester = MachineAttester(device, swtpm.EVENT_LOG, key_certificate=said)
        bundle = execute(job_file, folder / "bundle", attester=attester).bundle
        yield Vouched(Made(bundle, made.trusted_root, job_file, made.lab), folder, certificate)


def items(kind: str = "software-root", *, root: bytes = LAB.root, revoked: tuple[int, ...] = ()) -> list[capsule.Item]:
    """What the collector has of the lab."""
    made = NOW - timedelta(hours=1)
    lists = LAB.revocations(made, days=30, revoked=dict.fromkeys(revoked, made))
    return [capsule.item("tpm", kind, "lab", root), capsule.item("tpm", "revocation-list", "lab", lists)]  # type: ignore[arg-type]


def hardware(subject: str = "tpm-software", kinds: str = "'software'", root: bytes = LAB.root) -> str:
    """A policy that trusts this root for that, and asks for nothing that a recorded boot has not."""
    return (
        f'[hardware.roots]\n{subject} = ["{digest_of(root)}"]\n[hardware.tpm]\nkinds = [{kinds}]\nsecure_boot = false\n'
    )


def test_a_software_tpm_is_one_whoever_vouches_for_it(vouched: Vouched) -> None:
    found = vouched.verify(hardware(), items())
    assert found.assurance == ("signed", "measured", "quoted (software TPM)")
    assert [one.status for one in found.appraisals] == ["affirming", "affirming"]
    (claims,) = found.appraisals[0].claims["tpm"]
    assert isinstance(claims, tpm.Claims)
    assert (claims.kind, claims.vouched_by, claims.manufacturer, claims.model) == (
        "software", "key-certificate", "00001014", "swtpm",
    )  # fmt: skip
    assert claims.skipped == ()
    # Pinned as a manufacturer of chips, the lab's certificate still names what it challenged.
    both = vouched.verify(hardware("tpm", "'software', 'hardware'"), items("root"))
    assert both.assurance[-1] == "quoted (software TPM)"
    with pytest.raises(VerificationError, match=r"appraisal/tpm\.kind"):
        vouched.verify(hardware("tpm", "'hardware'"), items("root"))


OTHER = Authority("another lab")


@pytest.mark.parametrize(
    ("rules", "collateral", "code"),
    [
        (hardware(root=OTHER.certificate), items(), r"tpm\.chain"),
        (hardware(root=OTHER.certificate), items(root=OTHER.certificate), r"tpm\.chain"),
        (hardware(), items()[:1], r"tpm\.revocation"),
        (hardware("tpm"), items(), r"tpm\.chain"),
    ],
    ids=["not-pinned", "another-root", "no-list", "pinned-for-something-else"],
)
def test_nobody_is_trusted_whom_the_policy_does_not_name(
    vouched: Vouched, rules: str, collateral: list[capsule.Item], code: str
) -> None:
    with pytest.raises(VerificationError, match=f"appraisal/{code}"):
        vouched.verify(rules, collateral)


def test_a_certificate_that_was_taken_back_or_has_ended_is_refused(vouched: Vouched) -> None:
    serial = x509.load_der_x509_certificate(vouched.certificate.certificate).serial_number
    with pytest.raises(VerificationError, match=r"appraisal/tpm\.revoked"):
        vouched.verify(hardware(), items(revoked=(serial,)))
    with pytest.raises(VerificationError, match=r"appraisal/tpm\.validity"):
        vouched.verify("max_age_days = 99\n" + hardware(), items(), now=NOW + timedelta(days=30, hours=1))


def test_the_lab_challenges_before_it_certifies(vouched: Vouched, tmp_path: Path) -> None:
    trusted = swtpm.endorsements(vouched.folder)
    (tmp_path / "bare").mkdir()
    other = swtpm.certified(tmp_path / "other")
    with swtpm.started(other / "state") as device:
        found = prove(device, swtpm.endorsements(other))
        # The endorsement certificate of an authority that the lab does not know.
        with pytest.raises(VerificationError, match="tpm/chain"):
            prove(device, trusted)
        # A key that nobody challenged, or that another certificate speaks for, is not certified.
        alone = found.__class__(**vars(found) | {"vouched": None})
        with pytest.raises(VerificationError, match="tpm/activation"):
            LAB.certify(alone, NOW, days=1)
        # A certificate of this TPM's key does not speak for the bundle's TPM.
        foreign = LAB.certify(found, NOW, days=30)
    start = json.loads(read_bundle(vouched.made.bundle)[verify.START])["items"][0]
    evidence = canonical.validate(tpm.Evidence, start, "evidence")
    nonce = layout.attested(evidence.quotes[0].attested).nonce
    given = tpm.Endorsements((tpm.Root(LAB.root, "software"),), (), (LAB.revocations(NOW, days=1),))
    again = tpm.authenticate(evidence, given, nonce=nonce, now=NOW)
    with pytest.raises(VerificationError, match="tpm/activation"):
        LAB.certify(again, NOW, days=1)
    swapped = evidence.model_copy(update={"key_certificate": foreign})
    with pytest.raises(VerificationError, match="tpm/key-certificate"):
        tpm.authenticate(swapped, given, nonce=nonce, now=NOW)
    # A TPM without any certificate cannot begin.
    with swtpm.started(tmp_path / "bare") as device, pytest.raises(EnvironmentProblem, match="holds no certificate"):
        prove(device, trusted)


def test_an_independent_tool_accepts_the_quotes_of_the_bundle(vouched: Vouched, tmp_path: Path) -> None:
    if shutil.which("tpm2_checkquote") is None:
        pytest.skip("no tpm2_checkquote: apt install tpm2-tools")
    bundle = read_bundle(vouched.made.bundle)
    for name in (verify.START, verify.END):
        evidence = canonical.validate(tpm.Evidence, json.loads(bundle[name])["items"][0], name)
        key, (quote,) = layout.public_area(evidence.key), evidence.quotes
        (tmp_path / "key.pem").write_bytes(key.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        (tmp_path / "message").write_bytes(quote.attested)
        (tmp_path / "signature").write_bytes(quote.signature)
        nonce = layout.attested(quote.attested).nonce.hex()
        for asked, accepted in ((nonce, True), ("00" * 32, False)):
            command = ["tpm2_checkquote", "-u", "key.pem", "-m", "message", "-s", "signature"]
            done = subprocess.run(
                [*command, "-g", "sha256", "-q", asked], cwd=tmp_path, check=False, capture_output=True
            )
            assert (done.returncode == 0) is accepted, done.stderr
