"""Capsules of real collateral: made, read, checked, and refused with anything changed in them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from attest import canonical, capsule, dsse, validity
from attest.cli import app
from attest.errors import MalformedInput, VerificationError, VitrineError

KEY = ec.generate_private_key(ec.SECP256R1())
MADE = datetime(2026, 3, 1, 12, tzinfo=UTC)
LISTING = """
[[item]]
platform = "sev-snp"
kind = "certificate"
file = "snp/trustee/milan_ask_ark_asvk.pem"

[[item]]
platform = "tdx"
kind = "tcb-info"
file = "tdx/go-tdx-guest/sample_tcbInfo_response"
chain = "tdx/go-tdx-guest/trusted_root.pem"
name = "TCB info of a sample"

[[item]]
platform = "tdx"
kind = "revocation-list"
file = "tdx/go-tdx-guest/rootcrl.der"

[[item]]
platform = "nvidia-gpu"
kind = "vbios-rim"
file = "nvidia/nvtrust/1010_0200_882_96005E0001_PROD.swidtag"

[[item]]
platform = "nvidia-gpu"
kind = "rim-root"
file = "nvidia/nvtrust/verifier_RIM_root.pem"
"""


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key, and a capsule of real collateral that the command line made."""
    folder = tmp_path_factory.mktemp("capsule")
    (folder / "key.pem").write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    listing = folder / "listing.toml"
    listing.write_text(
        LISTING.replace('= "snp/', f'= "{data}/attestation/snp/')
        .replace('= "tdx/', f'= "{data}/attestation/tdx/')
        .replace('= "nvidia/', f'= "{data}/attestation/nvidia/')
    )
    arguments = ["capsule", "make", str(listing), "--key", str(folder / "key.pem"), "--out", str(folder / "capsule")]
    result = CliRunner().invoke(app, [*arguments, "--made", "2026-03-01T12:00:00Z"])
    assert result.exit_code == 0, result.output
    return folder


def test_a_capsule_holds_what_vendors_said_with_its_time(made: Path) -> None:
    found = capsule.read((made / "capsule").read_bytes())
    assert found.made == "2026-03-01T12:00:00Z"
    kinds = [one.kind for one in found.items]
    assert kinds == ["certificate"] * 3 + ["tcb-info", "revocation-list", "vbios-rim", "rim-root"]
    assert [one.name for one in found.of("tdx", "tcb-info")] == ["TCB info of a sample"]
    info = json.loads(found.of("tdx", "tcb-info")[0].data)["tcbInfo"]
    assert (found.items[3].not_before, found.items[3].not_after) == (info["issueDate"], info["nextUpdate"])
    assert not any(one.chain for one in found.items if one.kind != "tcb-info")
    shown = CliRunner().invoke(app, ["capsule", "inspect", str(made / "capsule"), "--json"])
    assert json.loads(shown.stdout)["items"][3]["not_after"] == info["nextUpdate"]


def test_age_maker_and_expired_items_are_told(made: Path) -> None:
    found = capsule.read((made / "capsule").read_bytes())
    makers = [found.maker_digest]
    fresh = capsule.check(found, makers=makers, now=MADE + timedelta(days=3), max_age=timedelta(days=30))
    assert fresh.age.days == 3
    assert any("TCB info" in line for line in fresh.expired)
    refused = [
        ({"makers": ["sha256:" + "0" * 64]}, "maker"),
        ({"now": MADE + timedelta(days=31)}, "age"),
        ({"now": MADE - timedelta(minutes=6)}, "future"),
    ]
    for changes, code in refused:
        with pytest.raises(VerificationError) as caught:
            capsule.check(found, **({"makers": makers, "now": MADE, "max_age": timedelta(days=30)} | changes))  # type: ignore[arg-type]
        assert (caught.value.layer, caught.value.code) == ("capsule", code)
    capsule.check(found, makers=makers, now=MADE + timedelta(days=30), max_age=timedelta(days=30))
    capsule.check(found, makers=makers, now=MADE - timedelta(minutes=5), max_age=timedelta(days=30))


def test_the_command_line_refuses_what_is_expired_or_of_others(made: Path) -> None:
    maker = capsule.read((made / "capsule").read_bytes()).maker_digest
    base = ["capsule", "check", str(made / "capsule"), "--max-age-days", "10000"]
    for arguments, code in (
        ([*base, "--maker", maker, "--as-of", "2026-03-02T00:00:00Z"], "expired"),
        ([*base, "--maker", "sha256:" + "0" * 64, "--as-of", "2026-03-02T00:00:00Z"], "maker"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, VerificationError)
        assert result.exception.code == code


def signed(payload: bytes, key: ec.EllipticCurvePrivateKey = KEY, kind: str = capsule.PAYLOAD_TYPE) -> bytes:
    """Any payload, validly signed."""
    return dsse.encode(dsse.make(payload, kind, key.sign(dsse.pae(kind, payload), ec.ECDSA(hashes.SHA256()))))


def test_only_the_maker_signs_and_times_are_those_of_the_files(made: Path) -> None:
    payload = dsse.parse((made / "capsule").read_bytes()).payload
    assert capsule.read(signed(payload)).made == "2026-03-01T12:00:00Z"
    with pytest.raises(VerificationError, match="capsule/signature"):
        capsule.read(signed(payload, ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(VerificationError, match="capsule/payload-type"):
        capsule.read(signed(payload, kind="application/json"))
    for field in ("not_before", "not_after"):
        value = json.loads(payload)
        value["items"][3][field] = "2030-01-01T00:00:00Z"
        with pytest.raises(VerificationError, match="capsule/item-time"):
            capsule.read(signed(canonical.dumps(value)))
    for change in (
        lambda value: value["items"][3].pop("chain"),
        lambda value: value["items"][0].update(chain="AAAA"),
        lambda value: value.update(items=[]),
        lambda value: value.update(maker="AAAA"),
        lambda value: value["items"][0].update(kind="ocsp"),
        lambda value: value["items"][0].update(more=1),
    ):
        value = json.loads(payload)
        change(value)
        with pytest.raises(MalformedInput):
            capsule.read(signed(canonical.dumps(value)))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_changed_byte_is_refused(made: Path, data: st.DataObject) -> None:
    content = bytearray((made / "capsule").read_bytes().rstrip())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(VitrineError):
        capsule.read(bytes(content))


@pytest.mark.parametrize("kind", sorted(validity.READERS))
@given(st.binary(max_size=300))
@settings(max_examples=30, deadline=None)
def test_garbage_is_malformed(kind: validity.Kind, content: bytes) -> None:
    with pytest.raises(MalformedInput):
        validity.of(kind, content, "garbage")
