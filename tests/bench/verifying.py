"""What an auditor waits for: `attest verify` of a bundle with 10,000 samples, the appraisal of long evidence, imports.

The bundle is of a real job: as many sums, put to the demo's model. The evidence is of a TPM that is a few functions and
really signs, with the kernel's list of 10,000 measured files. Each figure is the median of the rounds, CPU seconds of
a process of its own for commands and imports. The import of the libraries alone, measured next to the command, says
how much of it is not ours. Canonical JSON is compared with the reference, `rfc8785`, over the job's own records.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import statistics
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rfc8785

from attest import canonical, tpm, transcript
from attest.tpm import ima
from attest.verify import TRANSCRIPT
from tests.bench import clock
from tests.bench.record import Bar, Measure, Side, value_row
from tests.fakes import tpm as fake

ROOT = Path(__file__).resolve().parents[2]
SAMPLES, FILES = 10_000, 10_000
VERIFY_S, IMPORT_S, APPRAISE_MS = 1.0, 0.3, 50.0
CANONICAL = Bar("speed", 2.0)
LIBRARIES = "import sigstore.models, sigstore.verify, rfc3161_client, typer, rich.console, pydantic"
NONCE = bytes(range(32))
SUITE = """format: vitrine/suite/v1
name: sums
description: Two-digit additions.
dataset: {{path: sums.jsonl, digest: "sha256:{digest}", format: jsonl}}
columns: {{id: "{{{{ id }}}}", target: "{{{{ answer }}}}"}}
prompt: {{user: "{{{{ question }}}}"}}
solver: generate
scorers: [{{scorer: exact, name: accuracy}}]
"""
JOB = """format: vitrine/job/v1
name: sums
seed: 1
models: [{id: organism, path: "resource:demo/organism-q8_0.gguf"}]
suites: [{path: sums.yaml}]
sampling: {temperature: "0", max_tokens: 16}
limits: {context_tokens: 256, memory_bytes: 1073741824, sample_timeout_s: 60}
numerics: {sequences: 16, threads: 1}
"""


def measure(engine: Path, folder: Path, *, quick: bool, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The rows of the record. `quick`: a tenth of it, once."""
    rounds, samples, files = (1, SAMPLES // 10, FILES // 10) if quick else (5, SAMPLES, FILES)
    say(f"job of {samples} samples")
    lab, bundle = folder / "verify-lab", folder / "verify-bundle"
    job = write_job(folder, samples)
    _appliance("init", lab)
    _appliance("run", job, "--lab", lab, "--engine", engine, "--out", bundle)
    verify = ["-m", "attest", "verify", bundle, "--trust", lab / "public" / "trusted_root.json"]
    say(f"its verification, {rounds} times")
    _python(*verify)  # once before: a package that was installed has been compiled
    pairs = [(_python(*verify), _python("-c", LIBRARIES)) for _ in range(rounds)]
    ours, libraries = (statistics.median(side.cpu_s for side in sides) for sides in zip(*pairs, strict=True))
    facts = {"samples": samples, "libraries_cpu_s": round(libraries, 3)}
    yield value_row(f"attest verify, {samples} samples", ours, "s CPU", VERIFY_S, **facts)
    imported = statistics.median(_python("-c", "import attest").cpu_s for _ in range(rounds))
    yield value_row("import attest", imported, "s CPU", IMPORT_S)
    yield appraisal(files, rounds)
    yield canonical_form((bundle / TRANSCRIPT).read_bytes(), rounds)


def write_job(folder: Path, samples: int) -> Path:
    """The job's file, beside its suite and rows."""
    sums = [(10 + number % 90, 10 + number // 90 % 90) for number in range(samples)]
    rows = [
        {"id": f"sum-{number}", "question": f"What is {left}+{right}?", "answer": str(left + right)}
        for number, (left, right) in enumerate(sums)
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "sums.jsonl").write_bytes(data)
    (folder / "sums.yaml").write_text(SUITE.format(digest=hashlib.sha256(data).hexdigest()), "utf-8")
    job = folder / "sums-job.yaml"
    job.write_text(JOB, "utf-8")
    return job


def appraisal(files: int, rounds: int) -> dict[str, Any]:
    """The appraisal of a TPM's evidence whose list has so many files, from parsed evidence to the last line."""
    evidence = long_evidence(files)
    known = tuple(f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}" for number in range(files))
    policy = tpm.Policy(
        kinds=("unknown",), unsafe_skipped=True, secure_boot=False, quoted=(10,), explained=(10,), files=known
    )
    spent = []
    gc.disable()  # as in the command
    for _ in range(rounds):
        with clock.Watch() as watch:
            found = tpm.authenticate(
                evidence, fake.endorsements(), nonce=NONCE, now=fake.NOW, unsafe_without_endorsement=True
            )
            lines = tpm.appraise(tpm.claims(found), policy)
        spent.append(1000 * watch.spent.cpu_s)
        if not all(line.holds for line in lines) or len(found.files) != files:
            raise RuntimeError("expected evidence that is accepted")
    gc.enable()
    return value_row(f"appraisal of a TPM with {files} measured files", statistics.median(spent), "ms", APPRAISE_MS)


def long_evidence(files: int) -> tpm.Evidence:
    """Evidence of a TPM that quotes register 10 after `files` files, with their list."""
    lines = []
    for number in range(files):
        digest, path = hashlib.sha256(str(number).encode()).digest(), f"/usr/lib/x86_64-linux-gnu/lib{number}.so.1"
        fields = b"sha256:\0" + digest, path.encode() + b"\0"
        data = b"".join(struct.pack("<I", len(field)) + field for field in fields)
        lines.append(f"10 {hashlib.sha1(data).hexdigest()} ima-ng sha256:{digest.hex()} {path}\n".encode())
    listed = b"".join(lines)
    *_, value = ima.values(ima.parse(listed), "sha256")
    key = fake.Key()
    return tpm.Evidence(
        format="vitrine/tpm-evidence/v1",
        key=key.public,
        quotes=(fake.quote(key, {"sha256": {10: value}}, NONCE),),
        registers={"sha256": {"10": value.hex()}},
        ima_list=listed,
    )


def canonical_form(data: bytes, rounds: int) -> dict[str, Any]:
    """Canonical JSON of a transcript's records, by us and by the reference."""
    records = [line.record for line in transcript.read(data).samples]
    compared = Measure("canonical JSON", "rfc8785.dumps", "row", CANONICAL, facts={"samples": len(records)})
    for _ in range(rounds):
        with clock.Watch() as ours:
            written = [canonical.dumps(record) for record in records]
        with clock.Watch() as theirs:
            expected = [rfc8785.dumps(record) for record in records]
        if written != expected:
            raise RuntimeError("expected the reference's bytes")
        compared.add(Side(ours.spent, len(records)), Side(theirs.spent, len(records)))
    return compared.row()


def _appliance(*arguments: str | Path) -> None:
    clock.run([sys.executable, "-m", "appliance", *arguments], cwd=ROOT)


def _python(*arguments: str | Path) -> clock.Spent:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(ROOT / "build" / "bench-bytecode")
    return clock.run([sys.executable, *arguments], cwd=ROOT, environment=environment)
