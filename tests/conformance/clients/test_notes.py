"""Go's own packages read our proofs, cosignatures and keys; skipped, in one line, where the program is not built."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.enrol import digest_of_key
from appliance.notary import lab as notary
from attest import canonical
from tests.conformance.clients.stock_clients import BUILD
from tests.tools.lab_logs import JOB, LOCK, Clock, appliance_log, attest, register, sign

NOTES = BUILD / "notes" / "notes"


def test_another_implementation_reads_proofs_and_cosignatures(tmp_path: Path) -> None:
    if not NOTES.exists():
        pytest.skip(f"no {NOTES}: run tests/conformance/clients/setup.sh")
    path = tmp_path / "lab"
    lab = notary.create(path, now=Clock())

    def at(name: str) -> Path:
        return tmp_path / name

    def lab_says(*arguments: object) -> None:
        assert appliance_log(*arguments, "--lab", path)[0] == 0

    for _ in range(5):
        register(lab)
    lab_says("checkpoint", "--out", at("kept"))
    key = ec.generate_private_key(ec.SECP256R1())
    receipt = lab.register({"job_digest": JOB, "lock_digest": LOCK, "key_digest": digest_of_key(key)})
    (at("bundle") / "evidence").mkdir(parents=True)
    (at("bundle") / "bundle.sigstore.json").write_bytes(sign(lab, key))
    (at("bundle") / "evidence" / "intent.json").write_bytes(canonical.dump_model(receipt))
    at("leaf").write_bytes(receipt.body)
    for _ in range(300):
        register(lab)
    lab_says("checkpoint", "--out", at("new"))
    lab_says("prove", "--old", 5, "--out", at("growth"))
    assert attest("witness", "keygen", "auditor.example", "--out", at("key"))[0] == 0
    options = ("--trust", path / "public/trusted_root.json", "--state", at("state"), "--key", at("key"))
    assert attest("witness", "cosign", at("kept"), "--first", *options, "--out", at("first"))[0] == 0
    assert attest("witness", "cosign", at("new"), "--proof", at("growth"), *options, "--out", at("cosigned"))[0] == 0
    lab_says("witnessed", at("bundle"), "--cosigned", at("cosigned"), "--out", at("witnessed"))

    def notes(**other: str) -> subprocess.CompletedProcess[str]:
        names = ("kept", "growth", "cosigned", "key.pub", "key", "witnessed")
        paths = [str(at(other.get(name, name))) for name in names]
        index = str(receipt.log_index)
        return subprocess.run([NOTES, *paths, index, at("leaf")], capture_output=True, text=True, check=False)

    done = notes()
    assert done.returncode == 0, done.stderr
    line = at("cosigned").read_text().splitlines()[-1]
    assert line.startswith("\u2014 auditor.example ")
    assert int(done.stdout) > 1_700_000_000
    # It refuses what ours does: another start, no cosignature, a proof of something else.
    at("other").write_text(at("witnessed").read_text().replace('"intent":["', '"intent":["' + "A" * 43 + '=","', 1))
    for other in ({"kept": "new"}, {"cosigned": "new"}, {"growth": "kept"}, {"witnessed": "other"}):
        assert notes(**other).returncode != 0, other
