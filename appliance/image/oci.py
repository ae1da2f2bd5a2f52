"""The OCI image layout: written from trees, read back with every digest checked, unpacked for a runtime.

A layout has one image manifest. SBOM and file listing are attached to it as artifacts (`subject`, OCI 1.1), so that
they travel with the image and are not part of it. Everything is written beside and renamed: a layout is there whole, or
not at all.

Refused on reading: files of another digest or size than named, an index with several images, compressed layers, and
in a layer whatever `layer.py` refuses.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from appliance.image import layer as layers
from appliance.image.recipe import Architecture, ImageRecipe
from appliance.image.spec import (
    CONFIG_TYPE,
    EMPTY_TYPE,
    INDEX_TYPE,
    LAYER_TYPE,
    MANIFEST_TYPE,
    MAX_ARTIFACT_BYTES,
    MAX_JSON_BYTES,
    REF_NAME,
    TITLE,
    Config,
    Descriptor,
    History,
    Index,
    Manifest,
    Platform,
    RootFs,
    RunConfig,
)
from appliance.image.tree import Tree
from attest import canonical
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError


@dataclass(frozen=True)
class Layout:
    """A layout that was read, all of whose digests were right."""

    folder: Path
    """Where it is."""
    digest: str
    """The digest of the image's manifest: what the image is known by."""
    manifest: Manifest
    """The manifest."""
    config: Config
    """The configuration."""
    artifacts: Mapping[str, Descriptor]
    """By artifact type, the one file of each artifact."""

    def blob(self, descriptor: Descriptor, limit: int = MAX_ARTIFACT_BYTES) -> bytes:
        """The bytes of a blob, checked. Raises `VerificationError`, `MalformedInput`."""
        if descriptor.size > limit:
            raise MalformedInput("image layout", f"expected at most {limit} bytes in a blob, found {descriptor.size}")
        return _blob(self.folder, descriptor)

    def layers(self) -> Iterator[tuple[str, Iterator[layers.Member]]]:
        """Each layer's name, and its members, to be used in order. A layer is hashed before any of it is read."""
        seen: dict[str, tuple[str, int]] = {}
        for number, descriptor in enumerate(self.manifest.layers):
            name = (descriptor.annotations or {}).get(TITLE, str(number))
            with _open_checked(self.folder, descriptor) as file:
                yield name, layers.members(file, seen, f"layer {name[:80]}")


def write(
    folder: Path,
    recipe: ImageRecipe,
    architecture: Architecture,
    trees: Sequence[tuple[str, Tree]],
    artifacts: Mapping[str, bytes],
) -> str:
    """Write the layout to the new folder `folder`: layers of `trees`, and `artifacts` by their type.

    Returns the digest of the image's manifest. Raises `EnvironmentProblem` where the folder exists, and `OSError`.
    """
    if os.path.lexists(folder):
        raise EnvironmentProblem(f"{folder} exists already: name another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (building / "blobs" / "sha256").mkdir(parents=True)
        created = datetime.fromtimestamp(recipe.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        written = [(name, _write_layer(building, tree, recipe.epoch)) for name, tree in trees]
        config = Config(
            created=created,
            architecture=architecture,
            os="linux",
            config=RunConfig(
                User=f"{recipe.user}:{recipe.user}",
                Env=recipe.environment,
                Entrypoint=recipe.entrypoint,
                WorkingDir="/",
            ),
            rootfs=RootFs(type="layers", diff_ids=tuple(layer.digest for _, layer in written)),
            history=tuple(History(created=created, created_by=f"vitrine: layer {name}") for name, _ in written),
        )
        manifest = Manifest(
            mediaType=MANIFEST_TYPE,
            config=_put(building, canonical.dump_model(config), CONFIG_TYPE),
            layers=tuple(
                Descriptor(mediaType=LAYER_TYPE, digest=layer.digest, size=layer.size_bytes, annotations={TITLE: name})
                for name, layer in written
            ),
            annotations={TITLE: recipe.name, "org.opencontainers.image.created": created},
        )
        subject = _put(building, canonical.dump_model(manifest), MANIFEST_TYPE)
        listed = [
            subject.model_copy(
                update={
                    "annotations": {REF_NAME: recipe.name},
                    "platform": Platform(architecture=architecture, os="linux"),
                }
            )
        ]
        listed += [_attach(building, subject, kind, data) for kind, data in sorted(artifacts.items())]
        index = Index(schemaVersion=2, mediaType=INDEX_TYPE, manifests=tuple(listed))
        _write_file(building / "oci-layout", canonical.dumps({"imageLayoutVersion": "1.0.0"}))
        _write_file(building / "index.json", canonical.dump_model(index))
        for path in (building / "blobs" / "sha256", building / "blobs", building):
            path.chmod(0o755)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return subject.digest


def read(folder: Path) -> Layout:
    """The layout in `folder`; layers are checked when they are read. Raises `MalformedInput`, `VerificationError`."""
    marker = canonical.loads(_small(folder / "oci-layout"), "oci-layout")
    if marker != {"imageLayoutVersion": "1.0.0"}:
        raise MalformedInput("oci-layout", f"expected version 1.0.0, found {str(marker)[:200]}")
    index = canonical.parse(Index, _small(folder / "index.json"), "index.json")
    images = [item for item in index.manifests if item.artifact_type is None]
    if len(images) != 1 or images[0].media_type != MANIFEST_TYPE:
        raise MalformedInput("index.json", f"expected one image manifest, found {len(images)}")
    image = images[0]
    manifest = _manifest(folder, image)
    if manifest.artifact_type is not None or manifest.subject is not None or manifest.config.media_type != CONFIG_TYPE:
        raise MalformedInput("image manifest", "expected an image, found an artifact")
    config = canonical.parse(Config, _bounded_blob(folder, manifest.config), "image configuration")
    for descriptor in manifest.layers:
        if descriptor.media_type != LAYER_TYPE:
            found = descriptor.media_type
            raise MalformedInput("image manifest", f"expected uncompressed layers ({LAYER_TYPE}), found {found}")
    if tuple(descriptor.digest for descriptor in manifest.layers) != config.rootfs.diff_ids:
        raise VerificationError(
            "image", "diff-ids", expected=[descriptor.digest for descriptor in manifest.layers],
            found=list(config.rootfs.diff_ids), advice="the image was put together wrongly: build it again",
        )  # fmt: skip
    if image.platform and image.platform.architecture != config.architecture:
        raise MalformedInput("index.json", f"expected platform {config.architecture}, found {image.platform}")
    artifacts: dict[str, Descriptor] = {}
    for item in index.manifests:
        if item.artifact_type is None:
            continue
        artifact = _manifest(folder, item)
        if artifact.subject is None or artifact.subject.digest != image.digest or len(artifact.layers) != 1:
            raise MalformedInput("artifact manifest", f"expected one file that belongs to {image.digest}")
        if _bounded_blob(folder, artifact.config) != b"{}":
            raise MalformedInput("artifact manifest", "expected an empty configuration, found another")
        if item.artifact_type in artifacts:
            raise MalformedInput("index.json", f"expected one artifact {item.artifact_type}, found two")
        artifacts[item.artifact_type] = artifact.layers[0]
    return Layout(folder, image.digest, manifest, config, artifacts)


def unpack(folder: Path, target: Path) -> Layout:
    """Unpack the image in `folder` to the new folder `target`, for a runtime, all of it verified; returns what it is.

    Owner is whoever calls; modes and times are the image's. Nothing is written through a link, and `target` appears
    when every digest was right, or not at all. Raises `MalformedInput`, `VerificationError`, `EnvironmentProblem`.
    """
    layout = read(folder)
    if os.path.lexists(target):
        raise EnvironmentProblem(f"{target} exists already: name another folder, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        seconds = int(datetime.fromisoformat(layout.config.created).timestamp())
        folders: dict[Path, int] = {}
        for _, members in layout.layers():
            for member in members:
                _unpack_member(building / member.path[1:], member, folders, seconds)
        for path, mode in sorted(folders.items(), reverse=True):
            path.chmod(mode)
            os.utime(path, (seconds, seconds))
        building.chmod(0o755)
        building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return layout


def _unpack_member(at: Path, member: layers.Member, folders: dict[Path, int], seconds: int) -> None:
    if member.kind == "dir":
        if at not in folders:
            at.mkdir(mode=0o700)
        folders[at] = member.mode
        return
    if member.content is None:
        at.symlink_to(str(member.target))
    else:
        descriptor = os.open(at, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            shutil.copyfileobj(member.content, out, layers.CHUNK_BYTES)
            if out.tell() != member.size_bytes:
                raise MalformedInput("layer", f"{member.path}: expected {member.size_bytes} bytes, found fewer")
            os.fchmod(descriptor, member.mode)
    os.utime(at, (seconds, seconds), follow_symlinks=False)


def _attach(building: Path, subject: Descriptor, kind: str, data: bytes) -> Descriptor:
    """Store an artifact that belongs to `subject`: what stands in the index for it."""
    manifest = Manifest(
        mediaType=MANIFEST_TYPE,
        artifactType=kind,
        config=_put(building, b"{}", EMPTY_TYPE),
        layers=(_put(building, data, kind),),
        subject=subject,
    )
    return _put(building, canonical.dump_model(manifest), MANIFEST_TYPE).model_copy(update={"artifact_type": kind})


def _write_layer(building: Path, tree: Tree, epoch: int) -> layers.Written:
    beside = building / "layer"
    with beside.open("xb") as file:
        written = layers.write(tree, file, epoch)
    beside.chmod(0o644)
    beside.rename(building / "blobs" / "sha256" / written.digest.removeprefix("sha256:"))
    return written


def _put(building: Path, data: bytes, media_type: str) -> Descriptor:
    digest = digest_of(data)
    path = building / "blobs" / "sha256" / digest.removeprefix("sha256:")
    if not path.exists():
        _write_file(path, data)
    return Descriptor(mediaType=media_type, digest=digest, size=len(data))


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
    path.chmod(0o644)


def _manifest(folder: Path, descriptor: Descriptor) -> Manifest:
    return canonical.parse(Manifest, _bounded_blob(folder, descriptor), "image manifest")


def _bounded_blob(folder: Path, descriptor: Descriptor) -> bytes:
    if descriptor.size > MAX_JSON_BYTES:
        raise MalformedInput("image layout", f"expected at most {MAX_JSON_BYTES} bytes, found {descriptor.size}")
    return _blob(folder, descriptor)


def _blob(folder: Path, descriptor: Descriptor) -> bytes:
    with _open_checked(folder, descriptor) as file:
        return file.read(descriptor.size)


@contextmanager
def _open_checked(folder: Path, descriptor: Descriptor) -> Iterator[BinaryIO]:
    """A blob, hashed before it is handed out and, because it is read again, hashed once more at the end."""
    path = folder / "blobs" / "sha256" / descriptor.digest.removeprefix("sha256:")
    with _open(path) as file:
        _check(file, descriptor)
        yield file
        _check(file, descriptor)


def _check(file: BinaryIO, descriptor: Descriptor) -> None:
    file.seek(0)
    size = os.fstat(file.fileno()).st_size
    advice = "the layout was changed or is damaged: build it again, or copy it again"
    if size != descriptor.size:
        found = f"{size} bytes"
        raise VerificationError(
            "image", "blob-size", expected=f"{descriptor.digest} of {descriptor.size} bytes", found=found, advice=advice
        )
    found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    if found != descriptor.digest:
        raise VerificationError("image", "blob-digest", expected=descriptor.digest, found=found, advice=advice)
    file.seek(0)


def _small(path: Path) -> bytes:
    with _open(path) as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise MalformedInput(path.name, f"expected at most {MAX_JSON_BYTES} bytes, found more")
    return data


def _open(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise MalformedInput("image layout", f"expected a file {path.name} in it, found: {error.strerror}") from None
