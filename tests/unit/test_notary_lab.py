"""A lab on disk: made whole or not at all, opened only when private and unaltered; what it certifies and logs."""

from __future__ import annotations

import json
import os
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.notary import files, keys
from appliance.notary import lab as notary
from appliance.notary.lab import Lab
from attest import canonical, dsse, trust
from attest.errors import EnvironmentProblem, Exit, MalformedInput, VerificationError
from attest.log import check_receipt

START = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
JOB = "sha256:" + "1" * 64
OTHER_JOB = "sha256:" + "3" * 64
LOCK = "sha256:" + "2" * 64
KEY = "sha256:" + "3" * 64
TYPE = "application/vnd.in-toto+json"
PAYLOAD = b'{"subject":[]}'


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> datetime:
        return self.moment


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "lab"
    notary.create(path, now=Clock())
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """A fresh copy of one lab: making one takes half a second, copying none."""
    return Path(shutil.copytree(template, tmp_path / "lab"))


@pytest.fixture
def lab(path: Path, clock: Clock) -> Lab:
    return notary.open_lab(path, now=clock)


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- making and opening ----------------------------------------------------------------------------------------------


def test_what_a_lab_consists_of(path: Path) -> None:
    assert {item.name for item in path.iterdir()} == {
        *("lab.json", "keys", "passphrase", "certificates", "log", "ct", "public"),
    }
    assert mode(path) == mode(path / "keys") == 0o700
    assert mode(path / "passphrase") == 0o600
    assert {mode(item) for item in (path / "keys").iterdir()} == {0o600}
    names = {item.name for item in (path / "public").iterdir()}
    assert names == {"trusted_root.json", "trust_config.json", "README.txt"}
    for item in (path / "keys").glob("*.pem"):
        assert b"ENCRYPTED PRIVATE KEY" in item.read_bytes()
    assert b"PRIVATE" not in b"".join(item.read_bytes() for item in (path / "public").iterdir())


def test_what_a_lab_hands_out(path: Path, lab: Lab) -> None:
    root = (path / "public" / "trusted_root.json").read_bytes()
    assert lab.trusted_root == root
    read = trust.read(root)
    assert [log.origin for log in read.logs] == [lab.log.identity.origin]
    assert read.logs[0].valid_from == START.replace(microsecond=0)
    config = json.loads((path / "public" / "trust_config.json").read_bytes())
    assert config["trustedRoot"] == json.loads(root)
    text = (path / "public" / "README.txt").read_text()
    assert read.digest in text
    assert "https://lab.example/ca" in text


def test_a_lab_with_a_passphrase(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "new" / "lab"
    made = notary.create(path, "evals.lab.example", passphrase="correct horse", now=clock)
    assert made.issuer == "https://evals.lab.example/ca"
    assert not (path / "passphrase").exists()
    assert notary.open_lab(path, "correct horse", now=clock).name == "evals.lab.example"
    for wrong in ("wrong horse", "correct horse "):
        with pytest.raises(EnvironmentProblem, match="the passphrase does not open"):
            notary.open_lab(path, wrong, now=clock)
    with pytest.raises(EnvironmentProblem, match="--passphrase-file"):
        notary.open_lab(path, now=clock)
    with pytest.raises(EnvironmentProblem, match="1 to 1024"):
        notary.open_lab(path, "", now=clock)


@pytest.mark.parametrize("name", ["", "lab", "Lab.Example", "lab.example/", "https://lab.example", "lab.example\n"])
def test_bad_names(tmp_path: Path, clock: Clock, name: str) -> None:
    with pytest.raises(MalformedInput, match="lab name"):
        notary.create(tmp_path / "lab", name, now=clock)
    assert not list(tmp_path.iterdir())


def test_a_lab_is_made_whole_or_not_at_all(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("appliance.notary.trustroot.trust_config", fail)
    with pytest.raises(OSError, match="no space"):
        notary.create(tmp_path / "lab", now=clock)
    assert not list(tmp_path.iterdir())


def test_an_existing_path_is_left_alone(path: Path, clock: Clock) -> None:
    with pytest.raises(EnvironmentProblem, match="expected nothing at"):
        notary.create(path, now=clock)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("", 0o750), ("keys", 0o755), ("keys/ca.pem", 0o640), ("keys/kdf.json", 0o604), ("passphrase", 0o644)],
)
def test_open_modes_are_refused_and_the_fix_named(path: Path, clock: Clock, name: str, wrong: int) -> None:
    target = path / name
    right = mode(target)
    target.chmod(wrong)
    with pytest.raises(EnvironmentProblem) as caught:
        notary.open_lab(path, now=clock)
    assert f"chmod {right:o} {target}" in str(caught.value)
    assert caught.value.exit_code == Exit.FAULT
    target.chmod(right)
    notary.open_lab(path, now=clock)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_somebody_elses_keys_are_refused(path: Path, clock: Clock) -> None:
    os.chown(path / "keys" / "ca.pem", 65532, 65532)
    with pytest.raises(EnvironmentProblem, match="belongs to user 65532"):
        notary.open_lab(path, now=clock)


def test_links_are_refused(path: Path, clock: Clock, tmp_path: Path) -> None:
    key = path / "keys" / "ca.pem"
    key.rename(tmp_path / "elsewhere.pem")
    key.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(EnvironmentProblem, match="found a link"):
        notary.open_lab(path, now=clock)


@pytest.mark.parametrize(
    "name", ["keys/ca.pem", "keys/kdf.json", "lab.json", "certificates/ca.pem", "certificates/tsa.pem", "keys/salt.pem"]
)
def test_missing_files(path: Path, clock: Clock, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(EnvironmentProblem, match="not a whole lab directory"):
        notary.open_lab(path, now=clock)


def test_no_lab_there(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(EnvironmentProblem, match="found none"):
        notary.open_lab(tmp_path / "none", now=clock)


def test_the_roots_keys_may_move_away(path: Path, clock: Clock) -> None:
    for name in ("root", "tsa-root"):
        (path / "keys" / f"{name}.pem").unlink()
    notary.open_lab(path, now=clock)


def test_altered_files(path: Path, clock: Clock) -> None:
    ca, tsa = path / "certificates" / "ca.pem", path / "certificates" / "tsa.pem"
    genuine = ca.read_bytes()
    ca.write_bytes(tsa.read_bytes())
    with pytest.raises(VerificationError, match="notary/certificate"):
        notary.open_lab(path, now=clock)
    ca.write_bytes(b"junk")
    with pytest.raises(MalformedInput, match=r"certificates/ca\.pem"):
        notary.open_lab(path, now=clock)
    ca.write_bytes(genuine)
    (path / "lab.json").write_bytes(b'{"created":"x","format":"vitrine/lab/v1","name":"LAB"}')
    with pytest.raises(MalformedInput, match=r"lab\.json"):
        notary.open_lab(path, now=clock)
    (path / "keys" / "kdf.json").write_bytes(b'{"format":"vitrine/lab-kdf/v1","salt":"AAAA","n":1}')
    with pytest.raises(MalformedInput, match=r"kdf\.json"):
        notary.open_lab(path, now=clock)


@pytest.mark.parametrize("name", ["public/trusted_root.json", "lab.json"])
def test_the_trust_root_is_that_of_the_keys(path: Path, clock: Clock, name: str) -> None:
    target = path / name
    genuine = target.read_bytes()
    target.write_bytes(genuine.replace(b"2026-03-01", b"2025-03-01"))
    with pytest.raises(VerificationError, match="notary/trusted-root"):
        notary.open_lab(path, now=clock)
    target.write_bytes(genuine.replace(b"2026-03-01", b"2025-02-31"))
    with pytest.raises((VerificationError, MalformedInput)):
        notary.open_lab(path, now=clock)


def test_a_key_of_another_kind(tmp_path: Path) -> None:
    store = keys.FileKeys.create(tmp_path / "keys", "secret")
    store.generate("one")
    for encryption in (serialization.NoEncryption(), serialization.BestAvailableEncryption(store._password)):
        other = ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        (tmp_path / "keys" / "one.pem").write_bytes(other)
        with pytest.raises(EnvironmentProblem, match=r"does not open|P-256 key in"):
            store.load("one")


def test_an_empty_passphrase_protects_nothing(tmp_path: Path, clock: Clock) -> None:
    for passphrase in ("", "x" * 1025):
        with pytest.raises(EnvironmentProblem, match="1 to 1024"):
            notary.create(tmp_path / "lab", passphrase=passphrase, now=clock)
    assert not list(tmp_path.iterdir())


def test_keys_are_not_overwritten(tmp_path: Path) -> None:
    store = keys.FileKeys.create(tmp_path / "keys", "secret")
    made = store.generate("one")
    with pytest.raises(FileExistsError):
        store.generate("one")
    assert keys.FileKeys.open(tmp_path / "keys", "secret").load("one").private_numbers() == made.private_numbers()
    assert not [item for item in (tmp_path / "keys").iterdir() if item.name.startswith(".")]


def test_generated_passphrases_differ() -> None:
    assert len({keys.new_passphrase() for _ in range(100)}) == 100
    assert len(keys.new_passphrase()) >= 43


# --- certificates ----------------------------------------------------------------------------------------------------


def test_certificates(lab: Lab, key: ec.EllipticCurvePrivateKey) -> None:
    identity = lab.identity("ab" * 32)
    certificate = x509.load_der_x509_certificate(lab.certify(key.public_key(), identity, minutes=3))
    assert certificate.not_valid_before_utc == START.replace(microsecond=0) - timedelta(seconds=5)
    assert certificate.not_valid_after_utc == START.replace(microsecond=0) + timedelta(minutes=3)
    assert len(lab.ctlog) == 1
    scts = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value
    assert [sct.log_id for sct in scts] == [lab.ctlog.identity.key_id]
    leaf = files.read_bounded(lab.path / "ct" / "tile" / "entries" / "000.p" / "1", 1 << 20)
    assert certificate.tbs_precertificate_bytes in leaf


def test_what_is_not_certified(lab: Lab, key: ec.EllipticCurvePrivateKey) -> None:
    for identity in ("https://other.example/appliance/" + "ab" * 32, "https://lab.example/ca", "lab.example"):
        with pytest.raises(VerificationError):
            lab.certify(key.public_key(), identity)
    with pytest.raises(VerificationError):
        lab.identity("not hexadecimal")
    identity = lab.identity("ab" * 32)
    with pytest.raises(TypeError, match="P-256"):
        lab.certify(ec.generate_private_key(ec.SECP384R1()).public_key(), identity)
    for minutes in (0, 24 * 60 + 1):
        with pytest.raises(ValueError, match="minutes"):
            lab.certify(key.public_key(), identity, minutes=minutes)
    assert len(lab.ctlog) == 0


# --- intents ---------------------------------------------------------------------------------------------------------


def test_attempts_are_numbered_by_the_log(lab: Lab, path: Path, clock: Clock) -> None:
    assert lab.attempts(JOB) == 0
    for number in (1, 2, 3):
        receipt = lab.register({"job_digest": JOB, "lock_digest": LOCK, "key_digest": KEY, "nonce": None})
        assert receipt.intent.attempt == number
        assert (receipt.intent.time, receipt.intent.nonce) == ("2026-03-01T12:00:00Z", None)
        assert check_receipt(receipt, trust.read(lab.trusted_root).logs).attempt == number
    assert lab.register({"job_digest": OTHER_JOB, "lock_digest": LOCK, "key_digest": KEY}).intent.attempt == 1
    again = notary.open_lab(path, now=clock)
    assert (again.attempts(JOB), again.attempts(OTHER_JOB)) == (3, 1)
    assert lab.register({"job_digest": JOB, "lock_digest": LOCK, "key_digest": KEY}).intent.attempt == 4
    assert again.attempts(JOB) == 4


@pytest.mark.parametrize(
    "intent",
    [
        {},
        {"job_digest": JOB},
        {"job_digest": "md5:1", "lock_digest": LOCK, "key_digest": KEY},
        {"job_digest": JOB, "lock_digest": LOCK, "key_digest": KEY, "nonce": "XY"},
        {"job_digest": JOB, "lock_digest": LOCK, "key_digest": KEY, "nonce": ""},
        {"job_digest": JOB, "lock_digest": LOCK, "key_digest": KEY, "attempt": 1},
        {"job_digest": JOB, "lock_digest": LOCK, "key_digest": KEY, "time": "2026-03-01T12:00:00Z"},
        {"job_digest": [], "lock_digest": LOCK, "key_digest": KEY},
    ],
)
def test_other_intents_are_malformed(lab: Lab, intent: dict[str, object]) -> None:
    with pytest.raises(MalformedInput, match="intent"):
        lab.register(intent)
    assert len(lab.log) == 0


def test_the_log_can_prove_that_it_only_grew(lab: Lab) -> None:
    from attest.checkpoint import check_checkpoint, check_consistency

    lab.register({"job_digest": JOB, "lock_digest": LOCK, "key_digest": KEY})
    old = check_checkpoint(lab.log.note, lab.log.identity)
    for _ in range(5):
        lab.register({"job_digest": JOB, "lock_digest": LOCK, "key_digest": KEY})
    new = check_checkpoint(lab.log.note, lab.log.identity)
    check_consistency(old, new, lab.log.consistency_proof(old.size))


def test_salt_keys(lab: Lab, path: Path, clock: Clock) -> None:
    assert len(lab.salt_key(JOB)) == 32
    assert lab.salt_key(JOB) == notary.open_lab(path, now=clock).salt_key(JOB)
    assert lab.salt_key(JOB) != lab.salt_key(OTHER_JOB)


# --- bundles ---------------------------------------------------------------------------------------------------------


def test_a_bundle_from_a_fixed_clock(lab: Lab, key: ec.EllipticCurvePrivateKey) -> None:
    identity = lab.identity("ab" * 32)
    certificate = lab.certify(key.public_key(), identity)
    sealed = lab.seal_envelope(PAYLOAD, TYPE, key, certificate)
    verified = trust.verify_signature(sealed, lab.trusted_root, identity=identity)
    assert verified.signed_at == verified.integrated_at == START.replace(microsecond=0)
    assert verified.payload == PAYLOAD
    signature = key.sign(dsse.pae(TYPE, PAYLOAD), ec.ECDSA(hashes.SHA256()))
    assembled = lab.assemble(PAYLOAD, TYPE, signature, certificate)
    assert trust.verify_signature(assembled, lab.trusted_root, identity=identity).log_index == 1
    assert canonical.dumps(json.loads(assembled)) == assembled


def test_nothing_is_logged_that_would_not_verify(
    lab: Lab, key: ec.EllipticCurvePrivateKey, clock: Clock, tmp_path: Path
) -> None:
    certificate = lab.certify(key.public_key(), lab.identity("ab" * 32))
    stranger = ec.generate_private_key(ec.SECP256R1())
    other = notary.create(tmp_path / "other", now=clock)
    foreign = other.certify(key.public_key(), other.identity("ab" * 32))

    def refused(code: str, *arguments: object) -> None:
        with pytest.raises(VerificationError) as caught:
            lab.seal_envelope(*arguments)  # type: ignore[arg-type]
        assert (caught.value.layer, caught.value.code) == ("notary", code)

    refused("signature", PAYLOAD, TYPE, stranger, certificate)
    refused("signature", PAYLOAD, TYPE, key, foreign)
    clock.moment = START + timedelta(minutes=10, seconds=1)
    refused("certificate-time", PAYLOAD, TYPE, key, certificate)
    clock.moment = START - timedelta(minutes=1)
    refused("certificate-time", PAYLOAD, TYPE, key, certificate)
    clock.moment = START
    with pytest.raises(MalformedInput, match="certificate"):
        lab.seal_envelope(PAYLOAD, TYPE, key, b"junk")
    with pytest.raises(MalformedInput, match="payloadType"):
        lab.seal_envelope(PAYLOAD, "two words", key, certificate)
    assert len(lab.log) == 0
