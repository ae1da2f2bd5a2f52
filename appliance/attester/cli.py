"""`appliance tpm`: challenge this machine's TPM, and certify its attestation key for those who were not there."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.attester.tpm import Attester
from appliance.enclave import tpm_device
from appliance.notary import files
from appliance.notary.attestation_keys import TpmKeys
from appliance.notary.ca import Authority
from attest import canonical, chain, console, tpm, validity
from attest.appraise import items
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput
from attest.files import read_file
from attest.keys import read_private_key
from attest.tpm import layout

app = typer.Typer(help="Certify the attestation keys of TPMs that were challenged.", no_args_is_help=True)
KEY, ROOT, LIST = "key.pem", "root.pem", "revoked.crl"
LIST_DAYS = 30
MAX_BYTES = 1 << 20

AuthorityOption = Annotated[Path, typer.Option(help="The authority's folder.")]


@app.command("authority")
def authority_command(
    out: Annotated[Path, typer.Argument(help="Its folder; must not exist.", show_default=False)],
    name: Annotated[str, typer.Option(help="The lab's name, a DNS name.")] = "lab.example",
) -> None:
    """Make an authority over attestation keys: a key, its certificate, and an empty list of what it took back.

    Relying parties pin the certificate's digest, and take certificate and list into their capsules.

    Example:

        appliance tpm authority tpm-keys --name evals.lab.example
    """
    if out.exists():
        raise EnvironmentProblem(f"{out} exists already: name another folder")
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    made = TpmKeys.create(name, key, now)
    out.mkdir(mode=0o700, parents=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files.write_file(out / KEY, private, mode=0o600, exclusive=True)
    files.write_file(out / ROOT, made.authority.certificate.public_bytes(serialization.Encoding.PEM))
    files.write_file(out / LIST, made.revocations(now, days=LIST_DAYS))
    console.OUT.print(f"{out}: {digest_of(made.root)}; the list holds for {LIST_DAYS} days")


@app.command("revoked")
def revoked_command(
    authority: AuthorityOption,
    serial: Annotated[list[str] | None, typer.Option(help="Serial number of a certificate, hexadecimal.")] = None,
) -> None:
    """Sign the list of what was taken back anew, with these serial numbers beside those that are in it already.

    Example:

        appliance tpm revoked --authority tpm-keys --serial 5d41c0
    """
    made, now = _open(authority), datetime.now(UTC)
    data = read_file(authority / LIST, MAX_BYTES)
    validity.of("revocation-list", data, str(authority / LIST))
    before = {entry.serial_number: entry.revocation_date_utc for entry in x509.load_der_x509_crl(data)}
    revoked = {_number(text): now for text in serial or ()} | before
    files.write_file(authority / LIST, made.revocations(now, days=LIST_DAYS, revoked=revoked))
    until = (now + timedelta(days=LIST_DAYS)).date()
    console.OUT.print(f"{authority / LIST}: {len(revoked)} certificates, until {until}")


@app.command("vouch")
def vouch_command(
    authority: AuthorityOption,
    root: Annotated[list[Path], typer.Option(help="Root certificate of a maker of TPMs that you trust.")],
    out: Annotated[Path, typer.Option(help="The certificate; must not exist.")],
    intermediate: Annotated[list[Path] | None, typer.Option(help="A certificate below that root.")] = None,
    revocation_list: Annotated[list[Path] | None, typer.Option(help="A revocation list of theirs.")] = None,
    unsafe_without_revocation: Annotated[
        bool, typer.Option("--unsafe-without-revocation", help="Do without their lists.")
    ] = False,
    software_tpm: Annotated[Path | None, typer.Option(help="The socket of a swtpm, in place of the machine's.")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long the certificate holds.")] = 90,
) -> None:
    """Challenge this machine's TPM, and certify its attestation key for `appliance run --attester tpm`.

    Example:

        appliance tpm vouch --authority tpm-keys --root maker.pem --revocation-list maker.crl --out key.json
    """
    if out.exists():
        raise EnvironmentProblem(f"{out} exists already: name another file with --out")
    made, now = _open(authority), datetime.now(UTC)
    # What a root is pinned for does not matter here: the certificate names the TPM, and relying parties judge that.
    trusted = tpm.Endorsements(
        roots=tuple(tpm.Root(items.der(read_file(path, MAX_BYTES)), "hardware") for path in root),
        intermediates=tuple(items.der(read_file(path, MAX_BYTES)) for path in intermediate or ()),
        revocation_lists=tuple(read_file(path, MAX_BYTES) for path in revocation_list or ()),
    )
    with tpm_device.open_socket(software_tpm) if software_tpm else tpm_device.open_device() as device:
        found = _challenge(device, trusted, now, unsafe_without_revocation)
    certificate = made.certify(found, now, days=days)
    files.write_file(out, canonical.dump_model(certificate), exclusive=True)
    identity = tpm.claims(found)
    console.OUT.print(f"{out}: {identity.manufacturer_name or identity.manufacturer} {identity.model}, {days} days")


def _challenge(
    device: tpm_device.Tpm, trusted: tpm.Endorsements, now: datetime, unsafe_without_revocation: bool
) -> tpm.Authenticated:
    """The TPM shows that its attestation key lies beside an endorsement key that its maker certified."""
    nonce = os.urandom(layout.SIZES["sha256"])
    with Attester(device) as attester:
        endorsement = attester.endorse()
        keys = (layout.public_area(endorsement.key), layout.public_area(attester.key.public))
        sent, expected = tpm.challenge(*keys, os.urandom)
        evidence = attester.evidence(nonce, {"sha256": range(8)}, endorsement=endorsement, event_log=None)
        activation = tpm.Activation(expected, attester.answer(sent))
    return tpm.authenticate(
        evidence, trusted, nonce=nonce, now=now, activation=activation,
        unsafe_without_revocation=unsafe_without_revocation,
    )  # fmt: skip


def _open(folder: Path) -> TpmKeys:
    certificate = chain.load(items.der(read_file(folder / ROOT, MAX_BYTES)), str(folder / ROOT))
    return TpmKeys(Authority(certificate, read_private_key(folder / KEY)))


def _number(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise MalformedInput("serial number", f"expected hexadecimal digits, found {text[:40]!r}") from None
