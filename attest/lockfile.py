"""The lock: what may run, pinned by digest. Written by `appliance lock`, reviewed by people, compared at boot.

The digest of a lock is SHA-256 over the file's bytes as received; nobody re-serialises a lock to check it. The file
is JSON with sorted keys, one space of indent and one artifact after another in order, so that a change reads well in
a review.

A file of a model that is larger than one piece (`attest.merkle.PIECE_BYTES`) is pinned twice: by its digest, which
names it, and by the root of the tree over its pieces, which a boot can compute on all processors. Whoever has the file
can compute both; that they belong to one file is what the lock says, and a boot checks the tree.

Refused: artifacts that are not sorted or not unique, absolute paths, `..` inside a path, unknown schemes, a model
without shards or whose shards do not add up, a large shard without a tree or a small one with it, and everything that
strict JSON refuses. A lock says nothing about whether its content is good: that is for its reviewers and for the
appraisal policy.
"""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from attest import canonical
from attest.canonical import MAX_INTEGER, Model
from attest.digest import Digest, digest_of, digest_of_several
from attest.errors import MalformedInput, Unsupported
from attest.eventlog import ArtifactEvent, EventLog, Kind, LockEvent, Size
from attest.job import Name
from attest.merkle import PIECE_BYTES

FORMAT: Final = "vitrine/lock/v1"
WHAT = "lock"
MAX_BYTES = 4 << 20
MAX_ARTIFACTS = 1024
MAX_SHARDS = 1024

SCHEMES: dict[str, frozenset[str]] = {
    "resource": frozenset({"engine-record", "model", "suite", "dataset", "policy"}),
    "engine": frozenset({"engine", "engine-record"}),
    "python": frozenset({"python"}),
}
"""Which kinds of artifact a path with this scheme may name."""

Layout = Literal["gguf", "safetensors"]
"""How a model's files are laid out, which decides the engine that may load them and the parser that sees them first."""

PathText = Annotated[str, StringConstraints(pattern=r"^[ -\[\]-~]{1,1024}$")]
"""Printable ASCII without a backslash."""


class Shard(Model):
    """One file of a model."""

    name: PathText
    """File name, without a folder."""
    digest: Digest
    """SHA-256 over the file."""
    size_bytes: Size
    """Its size."""
    tree: Digest | None = None
    """For a file of more than 16 MiB, and only there: the root of the tree over its pieces of 16 MiB (RFC 6962)."""

    @property
    def measured(self) -> str:
        """What a boot computes over the file: the root of its tree, or for a small file its digest."""
        return self.tree or self.digest

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.tree is not None) != (self.size_bytes > PIECE_BYTES):
            found = f"one of {self.size_bytes} bytes {'without' if self.tree is None else 'with'} it"
            raise ValueError(f"a file of more than {PIECE_BYTES} bytes has a tree, no other has one, found {found}")
        if "/" in self.name or self.name in {".", ".."}:
            raise ValueError(f"a shard is named without a folder, found {self.name!r}")
        return self


class Artifact(Model):
    """One thing that may be used, and the digest it must have."""

    kind: Kind
    """What it is."""
    name: Name
    """Its logical name, unique within its kind: what a job calls it."""
    path: PathText
    """Where it lies: a path relative to the lock's folder, or `resource:`, `engine:` or `python:`.

    A path relative to the lock's folder may begin with `..` parts: what a path leads to counts only by its digest.
    `resource:PATH` is a file of the installed package, `engine:NAME` a file of the installed engine, `python:` the
    Python environment. The path of a model is that of its first shard; the others lie in the same folder.
    """
    digest: Digest
    """SHA-256 over the file, or over the listing of the environment.

    That of a model is the digest of its shard; of several shards, SHA-256 over the 32 bytes of each one's digest.
    """
    size_bytes: Size
    """Size of all that the digest covers; for `python`, of all files in the listing."""
    layout: Layout | None = None
    """For a model, and only there: the layout of its files."""
    shards: Annotated[tuple[Shard, ...], Field(max_length=MAX_SHARDS)] | None = None
    """For a model, and only there: its files, at least one, in loading order."""

    @property
    def scheme(self) -> str:
        """The scheme of `path`, or the empty string for a path relative to the lock's folder."""
        return self.path.partition(":")[0] if ":" in self.path else ""

    @property
    def local_path(self) -> str:
        """`path` without its scheme."""
        return self.path.partition(":")[2] if ":" in self.path else self.path

    @property
    def measured(self) -> str:
        """What a boot computes over it, in the same form as `digest`."""
        return digest_of_several([shard.measured for shard in self.shards]) if self.shards else self.digest

    @model_validator(mode="after")
    def _check(self) -> Self:
        if ":" in self.path and self.kind not in SCHEMES.get(self.scheme, ()):
            raise ValueError(f"scheme {self.scheme!r} is not known for kind {self.kind!r}")
        if self.kind == "python":
            if self.path != "python:":
                raise ValueError(f"the path of kind 'python' is 'python:', found {self.path!r}")
        else:
            parts = self.local_path.split("/")
            while not self.scheme and parts and parts[0] == "..":
                del parts[0]
            if not parts or any(part in {"", ".", ".."} for part in parts) or ":" in self.local_path:
                raise ValueError(
                    f"expected a relative path without '.', empty parts, and '..' inside, found {self.path!r}"
                )
        _check_shards(self)
        return self


class Numerics(Model):
    """Which arithmetic the results come from."""

    profile: Name
    """Name of the numerics profile, such as `portable` or `avx2`."""
    engine_recipe: Digest
    """Digest of the recipe that the engine was built from."""


class Lockfile(Model):
    """The content of a lock file."""

    format: Literal["vitrine/lock/v1"] = FORMAT
    """Name and version of this format."""
    version: Annotated[int, Field(ge=1, le=MAX_INTEGER)] = 1
    """Raised by one whenever the content changes, so that an older lock cannot pass for a newer one."""
    numerics: Numerics
    """Which arithmetic the results come from."""
    artifacts: Annotated[tuple[Artifact, ...], Field(max_length=MAX_ARTIFACTS)]
    """What may be used, sorted by kind and name, each pair once."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        keys = [(artifact.kind, artifact.name) for artifact in self.artifacts]
        if keys != sorted(set(keys)):
            raise ValueError("artifacts must be sorted by kind and name, each pair once")
        if [kind for kind, _ in keys].count("python") > 1:
            raise ValueError("a lock pins one Python environment at most")
        return self

    def artifact(self, kind: Kind, name: str) -> Artifact | None:
        """The artifact of this kind and name, or None where the lock does not pin it."""
        return next((item for item in self.artifacts if (item.kind, item.name) == (kind, name)), None)


def make(numerics: Numerics, artifacts: list[Artifact], version: int = 1) -> Lockfile:
    """A lock of `artifacts` in any order. Raises `MalformedInput`, for instance where two share kind and name."""
    ordered = tuple(sorted(artifacts, key=lambda item: (item.kind, item.name)))
    try:
        return Lockfile(version=version, numerics=numerics, artifacts=ordered)
    except ValidationError as error:
        raise MalformedInput(WHAT, canonical.explain(error)) from None


def read(data: bytes) -> Lockfile:
    """The lock in `data`. Raises `MalformedInput`, and `Unsupported` for another version of the format."""
    if len(data) > MAX_BYTES:
        raise MalformedInput(WHAT, f"expected at most {MAX_BYTES} bytes, found {len(data)}")
    value = canonical.loads(data, WHAT)
    name = value.get("format") if isinstance(value, dict) else None
    if isinstance(name, str) and name.startswith("vitrine/lock/") and name != FORMAT:
        raise Unsupported(WHAT, f"expected format {FORMAT!r}, found {name[:80]!r}")
    return canonical.validate(Lockfile, value, WHAT)


def write(lock: Lockfile) -> bytes:
    """The bytes of a lock file: JSON, keys sorted, indented by one space, ended by a line feed."""
    value = lock.model_dump(mode="json", exclude_none=True)
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode()


def digest_of_lock(data: bytes) -> str:
    """The digest that names a lock: SHA-256 over its file's bytes as received."""
    return digest_of(data)


def lock_event(data: bytes) -> LockEvent:
    """The first event of a boot with the lock in `data`."""
    return LockEvent(digest=digest_of_lock(data), size_bytes=len(data), version=read(data).version)


def expected_log(data: bytes) -> EventLog:
    """The event log that a boot with the lock in `data` must leave, up to its data events.

    It is computed from the lock alone: a verifier compares its registers with those of the evidence and needs none of
    the artifacts. Raises what `read` raises.
    """
    log = EventLog().append(lock_event(data))
    for item in read(data).artifacts:
        log = log.append(artifact_event(item, item.measured, item.size_bytes))
    return log


def artifact_event(item: Artifact, measured: str, size_bytes: int) -> ArtifactEvent:
    """The event of a boot that computed `measured` over `size_bytes` in all, for the artifact `item` of the lock."""
    return ArtifactEvent(kind=item.kind, name=item.name, digest=item.digest, measured=measured, size_bytes=size_bytes)


def _check_shards(item: Artifact) -> None:
    if item.kind != "model":
        if item.shards is not None or item.layout is not None:
            raise ValueError(f"only a model has shards and a layout, found them on kind {item.kind!r}")
        return
    if not item.shards or item.layout is None:
        raise ValueError("a model has a layout and at least one shard")
    names = [shard.name for shard in item.shards]
    if names[0] != item.local_path.rpartition("/")[2] or len(set(names)) != len(names):
        raise ValueError("the first shard bears the name in the model's path, and no two shards share a name")
    if sum(shard.size_bytes for shard in item.shards) != item.size_bytes:
        raise ValueError("the sizes of the shards must add up to the model's size")
    if item.digest != digest_of_several([shard.digest for shard in item.shards]):
        raise ValueError("the digest of a model is that of its shard, or SHA-256 over the digests of several")
