"""A lab's signing keys in files, in a TPM (swtpm) and in a PKCS#11 token (SoftHSM): real devices, real signatures."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.notary import lab as notary
from appliance.notary import stores
from appliance.notary.device_key import DeviceKey
from appliance.notary.keys import FileKeys
from attest import dsse, trust
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
from tests.conftest import now
from tests.tools import swtpm

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
TOKEN, PIN = "the lab's", "567890"
SHA256 = ec.ECDSA(hashes.SHA256())
PAYLOAD, TYPE = b'{"subject":[]}', "application/vnd.in-toto+json"
SIGNERS = ("root", "tsa-root", "ca", "ct", "log", "tsa")
ENDS = {"file": "pem", "tpm": "tpm", "pkcs11": "pkcs11"}


@dataclass
class Device:
    """Something that keeps keys."""

    kind: str
    where: str


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the PIN of a new SoftHSM token. The module reads its configuration once in a process."""
    pytest.importorskip("pkcs11", reason="no python-pkcs11: pip install 'vitrine[pkcs11]'")
    if shutil.which("softhsm2-util") is None or not MODULE.exists():
        pytest.skip("no SoftHSM: apt install softhsm2")
    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    command = ["softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--so-pin", "1234", "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True)
    pin = folder / "pin"
    pin.write_text(PIN + "\n")
    pin.chmod(0o600)
    return pin


def uri(pin: Path, token: str = TOKEN, module: Path = MODULE) -> str:
    return f"pkcs11:token={token.replace(' ', '%20')}?module-path={module}&pin-source=file:{pin}"


@pytest.fixture(params=["file", "tpm", "pkcs11"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Device]:
    """Each kind of store."""
    with ExitStack() as stack:
        if request.param == "tpm":
            yield Device("tpm", f"tpm:{stack.enter_context(swtpm.served(tmp_path / 'state'))}")
        elif request.param == "pkcs11":
            yield Device("pkcs11", uri(request.getfixturevalue("token")))
        else:
            yield Device("file", "file")


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[str]:
    """A software TPM's name."""
    with swtpm.served(tmp_path / "state") as path:
        yield f"tpm:{path}"


def made(path: Path, where: str) -> notary.Lab:
    return notary.create(path, "lab.example", keys=where, now=now)


def signed(lab: notary.Lab) -> trust.VerifiedSignature:
    """A signature of a run under the lab, as an auditor verifies it: root, authority, both logs and timestamps."""
    key = ec.generate_private_key(ec.SECP256R1())
    identity = lab.identity("ab" * 32)
    signature = key.sign(dsse.pae(TYPE, PAYLOAD), SHA256)
    bundle = lab.conclude(key.public_key(), identity, PAYLOAD, TYPE, signature)
    return trust.verify_signature(bundle, lab.trusted_root, identity=identity)


def test_signatures_verify_as_from_files(device: Device, tmp_path: Path) -> None:
    lab = made(tmp_path / "lab", device.where)
    assert signed(lab).payload == PAYLOAD
    again = notary.open_lab(tmp_path / "lab", now=now)
    assert signed(again).log_index == 1
    # What names the keys is there, and a private key's file only where files are the store; salts are in one always.
    names = {path.name for path in (tmp_path / "lab" / "keys").iterdir()}
    assert names == {"kdf.json", "salt.pem", *(f"{name}.{ENDS[device.kind]}" for name in SIGNERS)}
    about = json.loads((tmp_path / "lab" / "lab.json").read_text())
    assert about["keys"] == device.where


@pytest.mark.parametrize("device", ["tpm", "pkcs11"], indirect=True)
def test_a_devices_key_signs_and_is_not_handed_out(device: Device, tmp_path: Path) -> None:
    files = FileKeys.create(tmp_path / "keys", "secret")
    store = stores.choose(device.where, tmp_path / "keys", files)
    key = store.generate("one")
    assert isinstance(key, DeviceKey)
    assert (key.key_size, key.curve.name) == (256, "secp256r1")
    public = key.public_key()
    public.verify(key.sign(b"data", SHA256), b"data", SHA256)
    with pytest.raises(InvalidSignature):
        public.verify(key.sign(b"data", SHA256), b"other", SHA256)
    with pytest.raises(TypeError, match="SHA-256"):
        key.sign(b"data", ec.ECDSA(hashes.SHA384()))
    plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    for take in (key.private_numbers, lambda: key.private_bytes(*plain), lambda: key.exchange(ec.ECDH(), public)):
        with pytest.raises(TypeError, match="does not hand it out"):
            take()
    assert copy.copy(key) is key and copy.deepcopy(key) is key
    # Found again, and not overwritten.
    again = stores.choose(device.where, tmp_path / "keys", files).load("one")
    assert again.public_key() == public
    public.verify(again.sign(b"data", SHA256), b"data", SHA256)
    with pytest.raises(FileExistsError):
        store.generate("one")
    with pytest.raises(EnvironmentProblem, match="found nothing"):
        store.load("two")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"format":"vitrine/tpm-key/v1","private":"AA==","public":"AA=="}']
)
def test_a_damaged_file_of_a_key_is_refused_with_our_errors(device: Device, tmp_path: Path, data: bytes) -> None:
    lab = made(tmp_path / "lab", device.where)
    path = lab.path / "keys" / f"ca.{ENDS[device.kind]}"
    path.write_bytes(data)
    with pytest.raises((MalformedInput, EnvironmentProblem)):
        notary.open_lab(lab.path, now=now)


def test_another_key_of_the_store_is_not_the_authority(device: Device, tmp_path: Path) -> None:
    lab = made(tmp_path / "lab", device.where)
    keys = lab.path / "keys"
    shutil.copy(keys / f"ct.{ENDS[device.kind]}", keys / f"ca.{ENDS[device.kind]}")
    with pytest.raises(VerificationError, match="notary/certificate"):
        notary.open_lab(lab.path, now=now)


# --- the TPM ---------------------------------------------------------------------------------------------------------


def test_keys_survive_the_tpms_reset_and_not_its_replacement(tmp_path: Path) -> None:
    with swtpm.served(tmp_path / "state") as path:
        made(tmp_path / "lab", f"tpm:{path}")
    with pytest.raises(EnvironmentProblem, match="no TPM at"):
        notary.open_lab(tmp_path / "lab", now=now)
    with swtpm.served(tmp_path / "state") as again:
        assert again == path
        assert signed(notary.open_lab(tmp_path / "lab", now=now)).payload == PAYLOAD
    with swtpm.served(tmp_path / "other") as other:
        about = json.loads((tmp_path / "lab" / "lab.json").read_text()) | {"keys": f"tpm:{other}"}
        (tmp_path / "lab" / "lab.json").write_text(json.dumps(about))
        with pytest.raises(EnvironmentProblem, match="is not of the TPM"):
            notary.open_lab(tmp_path / "lab", now=now)


def test_the_tpm_signs_for_who_has_the_passphrase(tpm: str, tmp_path: Path) -> None:
    lab = notary.create(tmp_path / "lab", passphrase="the right one", keys=tpm, now=now)
    with pytest.raises(EnvironmentProblem, match="passphrase"):
        notary.open_lab(lab.path, "a wrong one", now=now)
    # The TPM itself asks for it: the files of another lab, whose passphrase one knows, do not help.
    other = FileKeys.create(tmp_path / "keys", "known")
    shutil.copy(lab.path / "keys" / "ca.tpm", tmp_path / "keys" / "ca.tpm")
    key = stores.choose(tpm, tmp_path / "keys", other).load("ca")
    for _ in range(40):  # more than a TPM lets pass where wrong passwords lock it
        with pytest.raises(EnvironmentProblem, match=r"does not sign with .* give the passphrase"):
            key.sign(b"data", SHA256)
    assert signed(lab).payload == PAYLOAD


def test_the_tpm_is_shared(tpm: str, tmp_path: Path) -> None:
    """Nothing stays in it: a TPM holds three keys at a time, and others use it too."""
    lab = made(tmp_path / "lab", tpm)
    for _ in range(3):
        assert signed(lab).payload == PAYLOAD
    with swtpm.opened(Path(tpm.removeprefix("tpm:"))) as device:
        keys = [device.create_key() for _ in range(3)]
        for key in keys:
            device.flush(key)


# --- the token -------------------------------------------------------------------------------------------------------


def test_the_token_refuses_a_wrong_pin_and_is_missed_when_it_is_gone(token: Path, tmp_path: Path) -> None:
    files = FileKeys.create(tmp_path / "keys", "secret")
    wrong = tmp_path / "pin"
    wrong.write_text("000000")
    wrong.chmod(0o600)
    problems = {
        uri(wrong): r"PIN in .*/pin .*PinIncorrect",
        uri(token, token="another"): "is the module there, the token connected",
        uri(token, module=Path("/nowhere/module.so")): "is the module there, the token connected",
    }
    for where, words in problems.items():
        with pytest.raises(EnvironmentProblem, match=words):
            stores.choose(where, tmp_path / "keys", files).generate(f"key-{len(where)}")
    wrong.chmod(0o644)
    with pytest.raises(EnvironmentProblem, match="chmod 600"):
        stores.choose(uri(wrong), tmp_path / "keys", files).generate("last")


def test_the_tokens_keys_are_sensitive_and_stay(token: Path, tmp_path: Path) -> None:
    """As an independent tool sees them."""
    lab = made(tmp_path / "lab", uri(token))
    identifier = json.loads((lab.path / "keys" / "ca.pkcs11").read_text())["id"]
    tool = shutil.which("pkcs11-tool")
    if tool is None:
        pytest.skip("no pkcs11-tool: apt install opensc")
    login = [tool, "--module", str(MODULE), "--token-label", TOKEN, "--login", "--pin", PIN]
    listed = subprocess.run([*login, "--list-objects", "--id", identifier], capture_output=True, text=True, check=True)
    assert "Private Key Object; EC" in listed.stdout
    assert "sensitive, always sensitive, never extractable, local" in listed.stdout
    import pkcs11

    found = {"object_class": pkcs11.ObjectClass.PRIVATE_KEY, "id": bytes.fromhex(identifier)}
    with pkcs11.lib(str(MODULE)).get_token(token_label=TOKEN).open(user_pin=PIN) as session:
        private = session.get_key(**found)
        with pytest.raises(pkcs11.exceptions.AttributeSensitive):
            private[pkcs11.Attribute.VALUE]


def test_a_key_of_another_token_is_not_found(token: Path, tmp_path: Path) -> None:
    lab = made(tmp_path / "lab", uri(token))
    path = lab.path / "keys" / "ca.pkcs11"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "00" * 16}))
    with pytest.raises(EnvironmentProblem, match="was it made in another one"):
        notary.open_lab(lab.path, now=now)


# --- what names a store ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        "", "files", "tpm", "tpm:relative", "pkcs12:token=x", "pkcs11:", "pkcs11:token=x",
        "pkcs11:token=x?module-path=/m",
        "pkcs11:token=?module-path=/m&pin-source=/p", "pkcs11:token=x?module-path=m&pin-source=/p",
        "pkcs11:token=x?module-path=/m&pin-source=p", "pkcs11:token=x?module-path=/m&pin-source=/p&pin-value=1",
    ],
)  # fmt: skip
def test_a_text_that_names_no_store_is_refused(where: str, tmp_path: Path) -> None:
    files = FileKeys.create(tmp_path / "keys", "secret")
    with pytest.raises(MalformedInput, match="keys: expected"):
        stores.choose(where, tmp_path / "keys", files)
    with pytest.raises(MalformedInput, match="keys"):
        notary.create(tmp_path / "lab", keys=where, now=now)
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]
