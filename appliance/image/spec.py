"""The JSON of an OCI image layout: index, manifest, configuration. Only what our images have; the rest is refused."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from attest.canonical import Model
from attest.digest import Digest

INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
FILES_TYPE = "application/vnd.vitrine.files.v1+jsonl"
SBOM_TYPE = "application/vnd.cyclonedx+json"
MAX_JSON_BYTES = 4 << 20
MAX_ARTIFACT_BYTES = 64 << 20
REF_NAME = "org.opencontainers.image.ref.name"
TITLE = "org.opencontainers.image.title"

Media = Annotated[str, Field(pattern=r"^[a-z0-9.+/-]{1,120}$")]
Annotations = Annotated[dict[str, str], Field(max_length=32)]


class Platform(Model):
    """The machine that an image runs on."""

    architecture: Literal["amd64", "arm64"]
    """The processor."""
    os: Literal["linux"]
    """The operating system."""


class Descriptor(Model):
    """A blob: what it is, its digest and its size."""

    media_type: Media = Field(alias="mediaType")
    """Media type."""
    digest: Digest
    """SHA-256 of its bytes."""
    size: Annotated[int, Field(ge=0)]
    """Size in bytes."""
    annotations: Annotations | None = None
    """Notes; a layer has its name there."""
    platform: Platform | None = None
    """Of an image in an index."""
    artifact_type: Media | None = Field(default=None, alias="artifactType")
    """Of an artifact in an index."""


class Manifest(Model):
    """An image manifest, or that of an artifact which belongs to an image."""

    schema_version: Literal[2] = Field(default=2, alias="schemaVersion")
    """Fixed."""
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"] = Field(alias="mediaType")
    """Fixed."""
    artifact_type: Media | None = Field(default=None, alias="artifactType")
    """What the artifact is; None for an image."""
    config: Descriptor
    """The image's configuration."""
    layers: Annotated[tuple[Descriptor, ...], Field(min_length=1, max_length=64)]
    """The layers, lowest first; the artifact's one file."""
    subject: Descriptor | None = None
    """The image that an artifact belongs to."""
    annotations: Annotations | None = None
    """Notes."""


class Index(Model):
    """`index.json`."""

    schema_version: Literal[2] = Field(alias="schemaVersion")
    """Fixed."""
    media_type: Literal["application/vnd.oci.image.index.v1+json"] = Field(alias="mediaType")
    """Fixed."""
    manifests: Annotated[tuple[Descriptor, ...], Field(min_length=1, max_length=16)]
    """The image, then its artifacts."""


class RunConfig(Model):
    """What a runtime runs."""

    user: str = Field(alias="User")
    """`UID:GID`."""
    env: tuple[str, ...] = Field(default=(), alias="Env")
    """The variables."""
    entrypoint: tuple[str, ...] = Field(alias="Entrypoint")
    """The command."""
    working_dir: str = Field(alias="WorkingDir")
    """Where it starts."""


class RootFs(Model):
    """The layers by their uncompressed digests."""

    type: Literal["layers"]
    """Fixed."""
    diff_ids: tuple[Digest, ...]
    """SHA-256 of each layer, uncompressed, lowest first."""


class History(Model):
    """How one layer came to be."""

    created: str
    """The recipe's time."""
    created_by: str
    """The layer's name."""


class Config(Model):
    """The image's configuration."""

    created: str
    """The recipe's time."""
    architecture: Literal["amd64", "arm64"]
    """The processor."""
    os: Literal["linux"]
    """The operating system."""
    config: RunConfig
    """What a runtime runs."""
    rootfs: RootFs
    """The layers."""
    history: tuple[History, ...] = ()
    """One for each layer."""
