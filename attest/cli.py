"""`attest`: verify and show result bundles, offline. Nothing here opens a network connection."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from attest import canonical, capsule, capsule_cli, console, policies, policy, reference, statement, validity, verify
from attest.appraise_cli import command as appraise_command
from attest.attacks import AttackResult
from attest.dsse import Envelope
from attest.errors import MalformedInput
from attest.files import read_file
from attest.ledger_cli import consistency_command, ledger_command
from attest.manifest import ExecutionManifest
from attest.results import Results
from attest.verify import Verified
from attest.witness_cli import app as witness_app

app = typer.Typer(
    name="attest",
    help="Verify signed eval results offline, trusting mathematics and not the lab.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(capsule_cli.app, name="capsule")
app.add_typer(witness_app, name="witness")
app.command("appraise")(appraise_command)
app.command("ledger")(ledger_command)
app.command("consistency")(consistency_command)
MAX_ENTRIES = 64

BundleArgument = Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command("verify")
def verify_command(
    bundle: BundleArgument,
    trust: Annotated[Path, typer.Option(help="The lab's trusted_root.json, from where you trust it.")],
    nonce: Annotated[str | None, typer.Option(help="The nonce that you gave the lab, hexadecimal.")] = None,
    lock: Annotated[Path | None, typer.Option(help="The lockfile that you reviewed.")] = None,
    policy_file: Annotated[
        Path | None, typer.Option("--policy", help="Your appraisal policy (TOML); or lab, auditor, partner.")
    ] = None,
    reference_files: Annotated[
        list[Path] | None,
        typer.Option("--reference", help="Reference values of a machine's image that the run may have been in."),
    ] = None,
    capsule_file: Annotated[
        Path | None, typer.Option("--capsule", help="Collateral for a policy on hardware, see `attest capsule`.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(help="Judge hardware as of 2026-01-31T12:00:00Z; now by default.")
    ] = None,
    witnessed_file: Annotated[
        Path | None, typer.Option("--witnessed", help="What witnesses cosigned of the lab's log, with proofs.")
    ] = None,
    witness_keys: Annotated[
        list[Path] | None, typer.Option("--witness-key", help="The public key of a witness that you know.")
    ] = None,
    rerun_folders: Annotated[
        list[Path] | None, typer.Option("--rerun", help="The bundle of another run of the job, or of a part of it.")
    ] = None,
    rerun_roots: Annotated[
        list[Path] | None, typer.Option("--rerun-trust", help="The trusted_root.json of each rerun's lab, in order.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check everything about a bundle, and say what is proven and what is not.

    Exit codes: 0 accepted, 10 rejected, 20 unsupported, 30 malformed, 1 our fault.

    Examples:

        attest verify bundles/demo-1 --trust trusted_root.json

        attest verify bundles/demo-1 --trust trusted_root.json --lock demo.lock --policy auditor.toml

        attest verify bundles/vm-1 --trust trusted_root.json --reference vm.reference.json

        attest verify bundles/demo-1 --trust trusted_root.json --witnessed demo-1.witnessed --witness-key auditor.pub

        attest verify bundles/demo-1 --trust trusted_root.json --rerun partner/demo-1 --rerun-trust partner_root.json
    """
    from attest import cosignature, reproduction, witnessed
    from attest.trust import MAX_TRUST_BYTES

    if len(rerun_folders or ()) != len(rerun_roots or ()):
        raise typer.BadParameter("expected a --rerun-trust for each --rerun, in the same order")
    if (witnessed_file is None) != (not witness_keys):
        raise typer.BadParameter("expected --witnessed and --witness-key together")
    if nonce is not None and (len(nonce) % 2 or not set(nonce.lower()) <= set("0123456789abcdef")):
        raise typer.BadParameter("expected hexadecimal digits, two for each byte", param_hint="--nonce")
    verified = verify.verify(
        read_bundle(bundle),
        read_file(trust, MAX_TRUST_BYTES),
        policy=policy.read(policies.read(policy_file)) if policy_file else None,
        nonce=nonce,
        lock=read_file(lock, 64 << 20) if lock else None,
        capsule=capsule.read(read_file(capsule_file, capsule.MAX_BYTES)) if capsule_file else None,
        now=capsule_cli.as_of(as_of),
        references=[reference.read(read_file(path, reference.MAX_BYTES)) for path in reference_files or ()],
        witnessed=read_file(witnessed_file, witnessed.MAX_BYTES) if witnessed_file else None,
        witnesses=[cosignature.parse_key(read_file(path, cosignature.MAX_KEY_BYTES)) for path in witness_keys or ()],
    )
    reruns = zip(rerun_folders or (), rerun_roots or (), strict=True)
    verified = reproduction.add(
        verified, [verify.verify(read_bundle(folder), read_file(root, MAX_TRUST_BYTES)) for folder, root in reruns]
    )
    if as_json:
        console.print_json(_verdict_json(verified))
    else:
        _print_verdict(verified)


@app.command("show")
def show_command(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Print a bundle's manifest for people. Nothing is verified.

    Example:

        attest show bundles/demo-1
    """
    envelope = canonical.loads(read_file(bundle / verify.SIGNATURE, 64 << 20), verify.SIGNATURE)
    if not isinstance(envelope, dict) or "dsseEnvelope" not in envelope:
        raise MalformedInput(verify.SIGNATURE, "expected a Sigstore bundle with a DSSE envelope")
    signed = canonical.validate(Envelope, envelope["dsseEnvelope"], "DSSE envelope")
    manifest = statement.read(signed.payload).predicate
    if as_json:
        console.print_json(manifest.model_dump(mode="json", exclude_none=True))
        return
    console.OUT.print("UNVERIFIED: run `attest verify` before you rely on any of this\n", style="bold")
    _print_manifest(manifest)


@app.command("policy")
def policy_command(name: Annotated[policies.Name, typer.Argument(help="Whose.", show_default=False)]) -> None:
    """Print a default policy, to be filled in: `verify` and `appraise` also take it by its name.

    Example:

        attest policy auditor > mine.toml
    """
    sys.stdout.write(policies.path(name).read_text("utf-8"))


def read_bundle(folder: Path) -> dict[str, bytes]:
    """Every file of a bundle's folder, by its name in the bundle. Raises `MalformedInput` for anything but files."""
    found: dict[str, bytes] = {}
    if not folder.is_dir():
        raise MalformedInput(str(folder), "expected a bundle's folder, found none")
    paths = sorted(folder.rglob("*"))
    if len(paths) > MAX_ENTRIES:
        raise MalformedInput(str(folder), f"expected at most {MAX_ENTRIES} entries, found {len(paths)}")
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            continue
        found[path.relative_to(folder).as_posix()] = read_file(path, verify.MAX_FILE_BYTES)
    return found


def _print_verdict(verified: Verified) -> None:
    out = console.OUT
    _print_manifest(verified.manifest)
    _print_comparisons(verified.results)
    _print_attacks(verified.results.attacks or ())
    out.print(f"\nidentity   {console.one_line(verified.identity)}")
    out.print(f"signed at  {validity.write_time(verified.signed_at)} (log entry {verified.log_index})")
    out.print(f"assurance  {' -> '.join(verified.assurance)}{_beside(verified)}")
    if verified.manifest.evidence:
        out.print(f"machine    {console.one_line(verified.machine or 'not compared with reference values')}")
    out.print("\nproven", style="bold")
    for line in verified.proven:
        out.print(f"  + {console.one_line(line)}")
    out.print("not proven", style="bold")
    for line in verified.not_proven:
        out.print(f"  - {console.one_line(line)}")
    out.print("\nACCEPTED", style="bold green")


def _beside(verified: Verified) -> str:
    """What stands beside the ladder."""
    whole = sum(found.whole for found in verified.reproductions)
    part = max((found.compared for found in verified.reproductions if not found.whole), default=0)
    words = ["witnessed"] if verified.witnesses else []
    words += [f"reproduced ({whole})"] if whole else []
    words += [f"sampled ({part} of {len(verified.transcript.samples)})"] if part else []
    return "".join(f", {word}" for word in words)


def _print_comparisons(results: Results) -> None:
    rows = [("model", "minus", "suite", "score", "difference", "95 % interval", "n")]
    for one in results.comparisons:
        interval = f"{one.ci_low} .. {one.ci_high}"
        rows.append((one.model, one.versus, one.suite, one.scorer, one.difference, interval, str(one.n)))
    if len(rows) > 1:
        console.OUT.print()
        console.print_rows(rows)


def _print_manifest(manifest: ExecutionManifest) -> None:
    out, job = console.OUT, manifest.job
    out.print(f"job        {job.name}  {job.digest}  attempt {job.attempt}")
    out.print(f"nonce      {job.nonce or 'none'}")
    out.print(f"lock       {manifest.lock.digest}  version {manifest.lock.version}, {manifest.lock.origin}")
    out.print(f"engine     {manifest.engine.profile}  {manifest.engine.library}")
    tests = ", ".join(f"{test.model} {test.numerics_class}" for test in manifest.determinism)
    out.print(f"numerics   {manifest.numerics.contract}; self-tests: {tests}")
    seals = ", ".join(f"{part.worker} {part.level}" for part in manifest.seal)
    out.print(f"wall       {manifest.wall}; seals: {seals}")
    out.print(f"run        {manifest.started} to {manifest.ended}, {manifest.ended_by}")
    counts = manifest.counts
    out.print(f"samples    {counts.planned} planned, {counts.run} run, {counts.failed} failed")
    if manifest.resumed:
        drawn = ", ".join(f"{each.samples} by attempt {each.attempt}" for each in manifest.resumed)
        own = manifest.transcript.samples - sum(each.samples for each in manifest.resumed)
        out.print(f"resumed    yes: {drawn}, {own} by attempt {job.attempt}")
    out.print(f"transcript {manifest.transcript.root}")
    rows: list[tuple[str, ...]] = [("model", "suite", "score", "value", "95 % interval", "n", "failed", "unscored")]
    for suite in manifest.suites:
        for score in suite.scores:
            found = score.estimate
            value, interval = (found.value, f"{found.ci_low} .. {found.ci_high}") if found else ("none", "")
            counts_of = (str(found.n if found else 0), str(suite.failed), str(score.unscored))
            rows.append((suite.model, suite.suite, score.scorer, value, interval, *counts_of))
        for other in suite.aggregates:
            found = other.estimate
            value, interval = (found.value, f"{found.ci_low} .. {found.ci_high}") if found else ("none", "")
            counts_of = (str(found.n if found else 0), str(suite.failed), "")
            rows.append((suite.model, suite.suite, other.metric, value, interval, *counts_of))
    out.print()
    console.print_rows(rows)
    if manifest.claims:
        out.print("\nclaims, stated before the run", style="bold")
    for result in manifest.claims:
        claim = result.claim
        about = f" minus {claim.versus}" if claim.versus else f", {claim.category}," if claim.category else ""
        text = f"{claim.metric} of {claim.suite} on {claim.model}{about} {claim.comparator} {claim.threshold}"
        text = f"{text}  (found {result.value or 'no score'})"
        out.print(f"  {'holds' if result.holds else 'FAILS'}  {console.one_line(text)}")


def _print_attacks(attacks: tuple[AttackResult, ...]) -> None:
    head = ("model", "suite", "strategy", "success", "95 % interval", "rows", "failed", "queries", "to first")
    rows: list[tuple[str, ...]] = [(*head, "above direct", "95 % interval")]
    for found in attacks:
        rate, more = found.success, found.versus_direct
        value = (rate.value, f"{rate.ci_low} .. {rate.ci_high}", str(rate.n)) if rate else ("none", "", "0")
        above = (more.value, f"{more.ci_low} .. {more.ci_high}") if more else ("", "")
        counts = (str(found.failed), str(found.queries), found.first_success_median or "")
        rows.append((found.model, found.suite, found.strategy, *value, *counts, *above))
    if attacks:
        console.OUT.print("\nattacks; to first: the median number of the first query that succeeded", style="bold")
        console.print_rows(rows)


def _verdict_json(verified: Verified) -> dict[str, Any]:
    return {
        "verdict": "accepted",
        "assurance": list(verified.assurance),
        "witnesses": [{"key": str(one.witness), "time": validity.write_time(one.time)} for one in verified.witnesses],
        "reproductions": [asdict(found) | {"whole": found.whole} for found in verified.reproductions],
        "machine": verified.machine,
        "identity": verified.identity,
        "issuer": verified.issuer,
        "signed_at": validity.write_time(verified.signed_at),
        "log_index": verified.log_index,
        "proven": list(verified.proven),
        "not_proven": list(verified.not_proven),
        "manifest": verified.manifest.model_dump(mode="json", exclude_none=True),
    }


def run() -> None:
    """Run the command line, and end the process with its exit code."""
    console.run(app, "attest")
