"""`attest appraise`: judge evidence of hardware by a policy and a capsule of collateral, offline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attest import canonical, console, durable, policies, policy
from attest.canonical import JSON, Model
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, Exit, MalformedInput
from attest.files import read_file
from attest.manifest import Platform

if TYPE_CHECKING:
    from attest.appraise import Appraisal

PACKAGE = "vitrine/evidence/v1"
MIN_BOUND_BYTES = 16


def command(
    path: Annotated[Path, typer.Argument(metavar="EVIDENCE", help="A package, a platform's JSON, or a vendor's file.")],
    policy_file: Annotated[
        Path, typer.Option("--policy", help="Your appraisal policy, with a table [hardware]; or auditor.")
    ],
    capsule_file: Annotated[Path | None, typer.Option("--capsule", help="Collateral, see `attest capsule`.")] = None,
    as_of: Annotated[str | None, typer.Option(help="Judge as of 2026-01-31T12:00:00Z; now by default.")] = None,
    bound: Annotated[str | None, typer.Option(help="What the evidence has to be bound to, hexadecimal.")] = None,
    platform: Annotated[Platform | None, typer.Option(help="Whose file it is, where it is a vendor's.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="What comes beside a vendor's report: VCEK, VLEK, or a GPU's chain.")
    ] = None,
    reference_files: Annotated[
        list[Path] | None, typer.Option("--reference", help="Reference values of an image that it may have booted.")
    ] = None,
    ear: Annotated[Path | None, typer.Option(help="Write the attestation result, a signed JWT (EAR).")] = None,
    ear_key: Annotated[Path | None, typer.Option(help="Your P-256 key to sign it (PEM).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Judge evidence of hardware: its claims, every rule with its reason, and one verdict.

    Exit codes: 0 everything holds, 10 something does not, 20 unsupported, 30 malformed.

    Examples:

        attest appraise bundles/vm-1/evidence/start.json --policy lab.toml --bound 5c0e...

        attest appraise report.bin --platform sev-snp --certificate vcek.der --policy lab.toml --capsule c.capsule
    """
    from attest import appraise, capsule, capsule_cli, reference  # these load every platform
    from attest.appraise import image

    if (ear is None) != (ear_key is None):
        raise typer.BadParameter("expected --ear and --ear-key together")
    if ear is not None and ear.exists():
        raise EnvironmentProblem(f"{ear} exists already: name another file with --ear")
    rules = policies.read(policy_file)
    whole = policy.read(rules)
    hardware = whole.hardware
    if hardware is None:
        raise MalformedInput(str(policy_file), "expected a table [hardware], found none")
    collateral = capsule.read(read_file(capsule_file, capsule.MAX_BYTES)) if capsule_file else None
    now = capsule_cli.as_of(as_of)
    found = appraise.appraise(
        _documents(path, platform, certificate), hardware, collateral, bound=_bound(bound), now=now
    )
    known = [reference.read(read_file(path, reference.MAX_BYTES)) for path in reference_files or ()]
    found = image.judge(found, known, whole.minimum_image_version)
    if ear is not None and ear_key is not None:
        _write_result(ear, found, digest_of(rules), ear_key)
    if as_json:
        console.print_json(as_value(found))
    else:
        show(found)
    if found.status == "contraindicated":
        raise typer.Exit(Exit.REJECTED)


def show(found: Appraisal) -> None:
    """Print an appraisal: claims, rules, verdict."""
    from attest import validity

    out = console.OUT
    for platform, claims in ((platform, one) for platform, each in found.claims.items() for one in each):
        out.print(f"{platform}  {'debug' if claims.debug else 'no debug'}, bound to {claims.bound or 'nothing'}")
        for name, value in claims.measurements.items():
            out.print(f"  {name}  {value}")
    rows = [("", "rule", "found", "expected")]
    for line in found.lines:
        expected = "the same" if line.expected == line.found else line.expected
        rows.append(("+" if line.holds else "-", line.rule, line.found, expected))
    out.print()
    console.print_rows(rows)
    for line in found.lines:
        if not line.holds:
            out.print(f"\n{line.rule}: {console.one_line(line.why)}")
    for sentence in found.downgrades:
        out.print(f"\nleft out: {console.one_line(sentence)}")
    style = {"affirming": "bold green", "warning": "bold yellow", "contraindicated": "bold red"}[found.status]
    out.print(f"\n{found.status.upper()} as of {validity.write_time(found.as_of)}", style=style)


def as_value(found: Appraisal) -> dict[str, Any]:
    """An appraisal as JSON has it."""
    from attest import validity

    return {
        "status": found.status,
        "as_of": validity.write_time(found.as_of),
        "claims": {
            name: [one.model_dump(mode="json") for one in each if isinstance(one, Model)]
            for name, each in found.claims.items()
        },
        "lines": [line.model_dump(mode="json") for line in found.lines],
        "downgrades": list(found.downgrades),
    }


def _documents(path: Path, platform: Platform | None, certificate: Path | None) -> list[dict[str, JSON]]:
    from attest.appraise import items
    from attest.evidence import Evidence

    data = read_file(path, items.MAX_BYTES)
    if platform is not None:
        beside = read_file(certificate, 1 << 20) if certificate else None
        return [items.wrap(data, platform, beside)]
    value = canonical.loads(data, str(path))
    if isinstance(value, dict) and value.get("format") == PACKAGE:
        return list(canonical.validate(Evidence, value, str(path)).items)
    return [items.read(data)]


def _bound(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) < MIN_BOUND_BYTES:
        raise typer.BadParameter(
            f"expected at least {MIN_BOUND_BYTES} bytes in hexadecimal digits", param_hint="--bound"
        )
    return value


def _write_result(path: Path, found: Appraisal, policy_digest: str, key: Path) -> None:
    from attest.appraise import ear
    from attest.keys import read_private_key

    value = ear.claims(found, policy_digest=policy_digest, issued=datetime.now(UTC))
    token = ear.sign(value, read_private_key(key))
    durable.write_file(path, f"{token}\n".encode("ascii"), exclusive=True)
