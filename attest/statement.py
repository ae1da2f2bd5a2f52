"""in-toto Statement v1 with our predicate type. The subjects are the results file and the transcript's tree root."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attest import canonical
from attest.canonical import Model
from attest.digest import Hex32
from attest.errors import MalformedInput, Unsupported
from attest.manifest import ExecutionManifest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://vitrine.dev/execution-manifest/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
RESULTS_SUBJECT = "results.json"
ROOT_SUBJECT = "transcript-root"


class DigestSet(Model):
    """in-toto's digest set, of which `sha256` alone is allowed here."""

    sha256: Hex32
    """64 lower-case hexadecimal digits."""


class Subject(Model):
    """One thing that the statement speaks of."""

    name: str = Field(min_length=1, max_length=200)
    """`results.json` or `transcript-root`."""
    digest: DigestSet
    """Its digest; of the root, the root itself."""


class Statement(Model):
    """What is signed."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    """in-toto's statement type."""
    subject: tuple[Subject, ...] = Field(min_length=2, max_length=2)
    """Results, then transcript root."""
    predicate_type: Literal["https://vitrine.dev/execution-manifest/v1"] = Field(alias="predicateType")
    """Our predicate type."""
    predicate: ExecutionManifest
    """What ran, on what, and what came out."""


def make(manifest: ExecutionManifest) -> Statement:
    """The statement over a manifest."""
    subjects = {RESULTS_SUBJECT: manifest.results_digest, ROOT_SUBJECT: manifest.transcript.root}
    value = {
        "_type": STATEMENT_TYPE,
        "subject": tuple(
            Subject(name=name, digest=DigestSet(sha256=digest.removeprefix("sha256:")))
            for name, digest in subjects.items()
        ),
        "predicateType": PREDICATE_TYPE,
        "predicate": manifest,
    }
    return Statement.model_validate(value)


def read(payload: bytes) -> Statement:
    """The statement in a DSSE payload. Raises `MalformedInput`, or `Unsupported` for another predicate type."""
    value = canonical.loads(payload, "statement")
    if not isinstance(value, dict):
        raise MalformedInput("statement", f"expected an object, found {type(value).__name__}")
    for key, known in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if isinstance(value.get(key), str) and value[key] != known:
            raise Unsupported("statement", f"expected {key} {known}, found {value[key][:200]}")
    return canonical.validate(Statement, value, "statement")
