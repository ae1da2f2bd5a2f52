"""From what a run left to a signed bundle: a manifest built from it, signed, logged, time-stamped, written at once.

The boot key signs once, and is certified for an identity that names the measured boot. Hardware that speaks for the run
does so when the statement is there. The bundle's folder appears with its last file in it, or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from appliance import lock
from appliance.boot import Booted
from appliance.enrol import Enrolled
from appliance.notary.files import write_file
from appliance.notary.protocol import Notary
from appliance.resume import incomplete
from appliance.transcript import TranscriptWriter
from attest import __version__, canonical, eventlog, hardware, job, manifest, statement, verify
from attest.determinism import SelfTest
from attest.digest import digest_of
from attest.job import Job
from attest.manifest import ExecutionManifest, FileEntry
from attest.results import PlannedSuite, Results
from attest.seal import SealReport, WorkerSeal
from attest.transcript import Disclosure


@dataclass(frozen=True)
class Parts:
    """Everything that a bundle is made of."""

    job: Job
    """The job."""
    lock_bytes: bytes
    """The lockfile, as read."""
    lock_given: bool
    """Whether it was given, or made for this run."""
    booted: Booted
    """The boot."""
    record_bytes: bytes
    """The engine's build record, as read."""
    enrolled: Enrolled
    """The boot key, the log's receipt for the intent, and the evidence of the start."""
    seals: tuple[WorkerSeal, ...]
    """The workers' seals."""
    plan: tuple[PlannedSuite, ...]
    """The plan."""
    determinism: tuple[SelfTest, ...]
    """What the model workers' self-tests found."""
    results: Results
    """The results."""
    transcript: Path
    """The transcript's file."""
    writer: TranscriptWriter
    """Its chain and its samples."""
    ended: datetime
    """When the last sample was done."""
    ended_by: Literal["done", "interrupted", "failed"]
    """How the run ended."""
    resumed: tuple[manifest.EarlierAttempt, ...] = ()
    """The attempts that drew the first samples."""
    wall: manifest.Wall = "process"
    """The wall that the run was behind."""
    container: manifest.ContainerSection | None = None
    """Of a container, what its host says about it."""
    inspect_log: bytes | None = None
    """The log of Inspect whose requests were asked again."""


def produce(parts: Parts, lab: Notary, out: Path) -> None:
    """Write the bundle of `parts` to the new folder `out`, signed by a key that `lab` certifies.

    While the lab is asked, all of it but the lab's answer lies in `unsigned(out)`. That stays there when no answer
    comes, and `complete` makes the bundle of it when one comes later.
    """
    files = bundle_files(parts, lab)
    predicate = build_manifest(parts, files)
    payload = canonical.dump_model(statement.make(predicate))
    signature = parts.enrolled.sign(statement.PAYLOAD_TYPE, payload)
    if end := parts.enrolled.end(payload, predicate.results_digest):
        files[hardware.END] = canonical.dump_model(end)
    write(files, unsigned(out))
    measurement = eventlog.measurement(parts.booted.registers)
    identity = lab.identity(measurement, parts.enrolled.image)
    signed = lab.conclude(parts.enrolled.key.public_key(), identity, payload, statement.PAYLOAD_TYPE, signature)
    complete(out, signed)


def unsigned(out: Path) -> Path:
    """Where a bundle waits for its signature that is to lie at `out`."""
    return incomplete(out) / "unsigned"


def complete(out: Path, signed: bytes) -> None:
    """Put the lab's answer, a Sigstore bundle, to the rest of the bundle, which then bears its name `out`."""
    folder = unsigned(out)
    write_file(folder / verify.SIGNATURE, signed)
    folder.rename(out)


def bundle_files(parts: Parts, lab: Notary) -> dict[str, bytes]:
    """Every file that the manifest names, by name."""
    start = parts.enrolled.start
    return {
        **({hardware.START: canonical.dump_model(start)} if start else {}),
        **({verify.INSPECT: parts.inspect_log} if parts.inspect_log is not None else {}),
        verify.DISCLOSURE: canonical.dump_model(Disclosure(salt_key=parts.enrolled.salt_key.hex())),
        verify.ENGINE: parts.record_bytes,
        verify.INTENT: canonical.dump_model(parts.enrolled.receipt),
        verify.JOB: job.dump(parts.job),
        verify.LOCK: parts.lock_bytes,
        verify.BOOT: parts.booted.log.dump(),
        verify.SEAL: canonical.dump_model(SealReport(workers=parts.seals)),
        verify.RESULTS: canonical.dump_model(parts.results),
        verify.TRANSCRIPT: parts.transcript.read_bytes(),
        verify.TRUST: lab.trusted_root,
    }


def build_manifest(parts: Parts, files: dict[str, bytes]) -> ExecutionManifest:
    """The execution manifest: a pure function of what the run left."""
    booted, results, intent = parts.booted, parts.results, parts.enrolled.receipt.intent
    return ExecutionManifest(
        producer=manifest.Producer(version=__version__),
        job=manifest.JobSection(
            name=parts.job.name,
            digest=job.digest(parts.job),
            nonce=parts.job.nonce,
            attempt=intent.attempt,
            intent_index=parts.enrolled.receipt.log_index,
        ),
        lock=manifest.LockSection(
            digest=booted.lock_digest,
            version=booted.lock.version,
            origin="given" if parts.lock_given else "made-for-this-run",
        ),
        engine=manifest.EngineSection(
            profile=booted.lock.numerics.profile,
            record=booted.file("engine-record", lock.RECORD)[0].digest,
            library=booted.file("engine", lock.LIBRARY)[0].digest,
        ),
        boot=manifest.BootSection(registers=booted.registers),
        wall=parts.wall,
        container=parts.container,
        evidence=parts.enrolled.start.platforms if parts.enrolled.start else (),
        seal=tuple(worker.section() for worker in parts.seals),
        numerics=parts.job.numerics,
        determinism=parts.determinism,
        started=intent.time,
        ended=parts.ended.strftime("%Y-%m-%dT%H:%M:%SZ"),
        complete=results.complete,
        ended_by=parts.ended_by,
        counts=manifest.Counts(
            planned=sum(suite.planned for suite in results.suites),
            run=sum(suite.run for suite in results.suites),
            failed=sum(suite.failed for suite in results.suites),
        ),
        plan=parts.plan,
        suites=results.suites,
        claims=results.claims,
        results_digest=digest_of(files[verify.RESULTS]),
        transcript=manifest.TranscriptSection(
            root=parts.writer.root(parts.enrolled.salt_key),
            samples=len(parts.writer.samples),
            head=parts.writer.head,
        ),
        resumed=parts.resumed or None,
        files=tuple(
            FileEntry(name=name, digest=digest_of(data), size_bytes=len(data)) for name, data in sorted(files.items())
        ),
    )


def write(files: dict[str, bytes], out: Path) -> None:
    """Write `files` to the new folder `out`: all of them on the disk before it bears its name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        folder.chmod(0o755)
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
