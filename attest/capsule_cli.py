"""`attest capsule`: make, show and check collateral capsules."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field

from attest import canonical, capsule, console, durable, validity
from attest import chain as chains
from attest.canonical import Model
from attest.capsule import Capsule, Item
from attest.errors import EnvironmentProblem, MalformedInput
from attest.files import read_file
from attest.keys import read_private_key
from attest.manifest import Platform
from attest.validity import Kind

app = typer.Typer(
    help="Collateral capsules: what vendors said of their hardware, in one signed file.", no_args_is_help=True
)
MAX_ITEM_BYTES = 4 << 20
MAX_AGE_DAYS = 30
PEM = b"-----BEGIN "

CapsuleArgument = Annotated[Path, typer.Argument(help="The capsule.", show_default=False)]
AsOfOption = Annotated[
    str | None, typer.Option(help="Judge as of this time, such as 2026-01-31T12:00:00Z; now by default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class Listed(Model):
    """One file in a list of collateral."""

    platform: Platform
    """What it is about."""
    kind: Kind
    """What it is."""
    file: str = Field(min_length=1, max_length=1000)
    """Where it lies, from the list's folder. Certificates and lists: PEM (one or several) or DER."""
    chain: str | None = Field(default=None, min_length=1, max_length=1000)
    """Of Intel's documents: the file with the chain that came with it, PEM."""
    name: str | None = Field(default=None, min_length=1, max_length=150)
    """For people; the file's name by default."""


class Listing(Model):
    """A list of collateral, TOML."""

    item: tuple[Listed, ...] = Field(min_length=1, max_length=capsule.MAX_ITEMS)
    """The files."""


@app.command("make")
def make_command(
    listing: Annotated[Path, typer.Argument(help="The list of files (TOML), see the example.", show_default=False)],
    key: Annotated[Path, typer.Option(help="Your P-256 private key (PEM, no passphrase), kept apart from lab keys.")],
    out: Annotated[Path, typer.Option(help="The capsule; must not exist.")],
    made: AsOfOption = None,
) -> None:
    """Put vendors' files into one signed capsule. Their contents are read, and verified when evidence is.

    A list has one table a file:

        [[item]]
        platform = "sev-snp"        # tpm, sev-snp, tdx, nitro, nvidia-gpu
        kind = "root"               # root, certificate, revocation-list, tcb-info, qe-identity, ocsp, driver-rim, ...
        file = "milan/ark.pem"      # from the list's folder; with tcb-info and qe-identity also: chain = "..."

    Example:

        openssl ecparam -name prime256v1 -genkey -noout -out collector.pem

        attest capsule make collateral.toml --key collector.pem --out collateral.capsule
    """
    if out.exists():
        raise EnvironmentProblem(f"{out} exists already: name another file with --out")
    items = [item for one in _read_listing(listing) for item in _items(one, listing.parent)]
    data = capsule.make(items, read_private_key(key), as_of(made))
    durable.write_file(out, data, exclusive=True)
    console.OUT.print(f"{out}: {len(items)} items, made by {capsule.read(data).maker_digest}")


@app.command("inspect")
def inspect_command(path: CapsuleArgument, as_json: JsonOption = False) -> None:
    """Show what is in a capsule, and until when it holds. Its signature is verified, its maker is not judged.

    Example:

        attest capsule inspect collateral.capsule
    """
    found = _read(path)
    if as_json:
        console.print_json(_as_json(found))
        return
    console.OUT.print(f"made   {found.made}\nmaker  {found.maker_digest}\n")
    rows = [("platform", "kind", "from", "until", "bytes", "name")]
    for one in found.items:
        rows.append((one.platform, one.kind, one.not_before, one.not_after, str(len(one.data)), one.name))
    console.print_rows(rows)


@app.command("check")
def check_command(
    path: CapsuleArgument,
    maker: Annotated[list[str], typer.Option(help="Digest of a key that may have made it: sha256:...")],
    as_of_text: Annotated[str | None, typer.Option("--as-of", help="Judge as of this time; now by default.")] = None,
    max_age_days: Annotated[int, typer.Option(min=0, help="The oldest that it may be.")] = MAX_AGE_DAYS,
    as_json: JsonOption = False,
) -> None:
    """Check who made a capsule, how old it is, and what of it no longer holds.

    Exit codes: 0 made by one of yours, in time, and all of it holds; 10 otherwise; 30 malformed.

    Example:

        attest capsule check collateral.capsule --maker sha256:... --max-age-days 30
    """
    found = _read(path)
    fresh = capsule.check(found, makers=maker, now=as_of(as_of_text), max_age=timedelta(days=max_age_days))
    if as_json:
        console.print_json(_as_json(found) | {"age_days": fresh.age.days, "expired": list(fresh.expired)})
    else:
        console.OUT.print(f"made {found.made} ({max(fresh.age.days, 0)} days ago) by {found.maker_digest}")
    if fresh.expired:
        raise capsule.expired(fresh)
    if not as_json:
        console.OUT.print("FRESH: every item holds", style="bold green")


def as_of(text: str | None) -> datetime:
    """The time in `text`, or now."""
    return validity.read_time(text) if text is not None else datetime.now(UTC).replace(microsecond=0)


def _read(path: Path) -> Capsule:
    return capsule.read(read_file(path, capsule.MAX_BYTES))


def _as_json(found: Capsule) -> dict[str, object]:
    items = [
        one.model_dump(mode="json", exclude={"data", "chain"}) | {"size_bytes": len(one.data)} for one in found.items
    ]
    return {"made": found.made, "maker": found.maker_digest, "items": items}


def _read_listing(path: Path) -> tuple[Listed, ...]:
    try:
        value = tomllib.loads(read_file(path, 1 << 20).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedInput(str(path), f"expected TOML in UTF-8: {error}") from None
    return canonical.validate(Listing, value, str(path)).item


def _items(one: Listed, folder: Path) -> Iterator[Item]:
    data = read_file(folder / one.file, MAX_ITEM_BYTES)
    name = one.name or one.file
    chain = read_file(folder / one.chain, MAX_ITEM_BYTES) if one.chain else None
    files = _unwrapped(one.kind, data, name)
    for number, content in enumerate(files):
        label = name if len(files) == 1 else f"{name} ({number + 1} of {len(files)})"
        yield capsule.item(one.platform, one.kind, label, content, chain)


def _unwrapped(kind: Kind, data: bytes, name: str) -> list[bytes]:
    """The DER files in a PEM file of certificates or a revocation list; else `data` itself."""
    if not data.lstrip().startswith(PEM):
        return [data]
    if kind in ("root", "software-root", "rim-root", "certificate"):
        return [found.public_bytes(Encoding.DER) for found in chains.load_pem(data, f"{kind} {name}")]
    if kind == "revocation-list":
        with chains.reading(f"{kind} {name}"):
            return [x509.load_pem_x509_crl(data).public_bytes(Encoding.DER)]
    return [data]
