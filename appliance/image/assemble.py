"""Builds the image of a measured virtual machine: root disk, boot file and boot disk, from a tree and locked packages.

    root.img         EROFS of the tree, superblock and tree of dm-verity, descriptor
    vitrine.efi      the unified kernel image; its command line names the descriptor of root.img
    boot.img         a disk with nothing but that file, for a virtual machine to start from
    PK.esl ...       the Secure Boot keys that it starts with, where it is signed (`secure_boot.py`)
    files.jsonl      every file of root.img: its package, and why it is there (`listing.py`)
    sbom.json        CycloneDX (`sbom.py`)
    reference.json   what a TPM holds after booting it (`measure.py`)

The same recipe, lock and tree give the same bytes anywhere. The folder appears whole or not at all.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from appliance.image import (
    authenticode,
    debs,
    environment,
    erofs,
    esp,
    init,
    initramfs,
    measure,
    secure_boot,
    uki,
    verity,
)
from appliance.image.authenticode import SigningKey
from appliance.image.machine import ROOT_ARGUMENT, MachineLock, MachineRecipe
from appliance.image.secure_boot import Keys
from appliance.image.tree import Tree, folder, merge, tree
from attest.errors import EnvironmentProblem, MalformedInput
from attest.reference import ReferenceValues
from attest.rollback import IMAGE_ARGUMENT

NAMESPACE = uuid.UUID("5b2b3c1e-7a0e-5f0c-9e0a-6f6f2e0a7d11")
"""For the identifiers of file systems, which are made from names."""
RELEASE = 'ID=vitrine\nNAME="Vitrine"\nVARIANT_ID={name}\nVERSION_ID={epoch}\n'
INPUTS_NAME = "inputs"
MAX_MODULE_BYTES = 16 << 20

Fetch = Callable[[str], bytes]
"""Gives the bytes of a locked package by its name, compared with the lock."""


@dataclass(frozen=True)
class Signing:
    """How a boot file is signed for Secure Boot."""

    key: SigningKey
    """With what."""
    enrolled: Keys
    """The keys of the hosts that it is for; the signer's certificate is in their db."""


def build(
    recipe: MachineRecipe,
    lock: MachineLock,
    root: Tree,
    sources: Path,
    fetch: Fetch,
    out: Path,
    papers: Mapping[str, bytes],
    signing: Signing | None = None,
) -> ReferenceValues:
    """Build into the new folder `out`; the `init` source lies in the folder `sources`. Returns the reference values.

    `root`: a complete tree. `papers`: files that describe the image, by name. With `signing` the boot file is signed,
    and the keys that it starts with lie beside it. Raises `MalformedInput`, `VerificationError` where something is not
    what the lock says, `EnvironmentProblem`.
    """
    if out.exists():
        raise EnvironmentProblem(f"{out} is there already: name a new folder")
    packages = {name: _files(name, fetch(name)) for name in recipe.packages()}
    program = init.compile_locked(_source(sources / recipe.init), lock.init)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
        folder_ = Path(work) / "image"
        folder_.mkdir(mode=0o755)
        descriptor = write_disk(root, folder_ / measure.ROOT, seconds=recipe.epoch, name=recipe.name)
        image = boot_file(recipe, packages, program, descriptor)
        if signing is not None:
            image = authenticode.sign(image, signing.key)
            secure_boot.write(signing.enrolled, folder_)
        (folder_ / measure.BOOT_FILE).write_bytes(image)
        (folder_ / measure.BOOT_DISK).write_bytes(esp.build(image))
        for name, content in papers.items():
            (folder_ / name).write_bytes(content)
        values = measure.measure(folder_, recipe.name)
        (folder_ / measure.REFERENCE).write_bytes(measure.dump(values))
        for path in folder_.iterdir():
            path.chmod(0o644)
        shutil.move(folder_, out)
    return values


def complete(recipe: MachineRecipe, root: Tree) -> Tree:
    """The tree of the root disk: that of the base image, the listing of its Python, and what `init` mounts on."""
    have = {entry.path for entry in root.entries}
    added = [folder(item.path, recipe.name, item.why) for item in recipe.folders if item.path not in have]
    added.append(environment.listing(root, recipe.name))
    return merge([root, tree(added)])


def write_disk(content: Tree, image: Path, *, seconds: int, name: str) -> verity.Descriptor:
    """Write `content` as a verified disk to the new file `image`; what to check it with."""
    erofs.write(content, image, seconds=seconds, uuid=uuid.uuid5(NAMESPACE, f"erofs {name}").bytes, name=name)
    return verity.protect(image, verity.salt_for(name), uuid.uuid5(NAMESPACE, f"verity {name}").bytes)


def boot_file(
    recipe: MachineRecipe, packages: Mapping[str, Mapping[str, bytes]], program: bytes, root: verity.Descriptor
) -> bytes:
    """The unified kernel image that boots the root disk with this descriptor. Raises `MalformedInput`."""
    loaded = [
        _module(PurePosixPath(path).name, _member(packages, recipe.kernel.package, f"{recipe.modules.folder}/{path}"))
        for path in recipe.modules.load
    ]
    own = [f"{IMAGE_ARGUMENT}{recipe.name}/{recipe.epoch}", f"{ROOT_ARGUMENT}{root}"]
    line = " ".join([*(flag.argument for flag in recipe.flags), *own])
    parts = uki.Parts(
        kernel=_member(packages, recipe.kernel.package, recipe.kernel.path),
        initrd=initramfs.build(program, loaded, recipe.command),
        command_line=line,
        release=RELEASE.format(name=recipe.name, epoch=recipe.epoch),
    )
    return uki.build(_member(packages, recipe.stub.package, recipe.stub.path), parts)


def _files(name: str, package: bytes) -> dict[str, bytes]:
    return {file.path: file.content for file in debs.files(package, f"package {name}") if file.content is not None}


def _member(packages: Mapping[str, Mapping[str, bytes]], package: str, path: str) -> bytes:
    content = packages[package].get(path)
    if content is None:
        raise MalformedInput("machine recipe", f"expected {path} in package {package}, found no such file")
    return content


def _module(name: str, content: bytes) -> tuple[str, bytes]:
    """Name and bytes of a kernel module, unpacked; its signature is within. Raises `MalformedInput`."""
    if not name.endswith(".xz"):
        return name, content
    return name.removesuffix(".xz"), debs.unxz(content, MAX_MODULE_BYTES, f"module {name}")


def _source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MalformedInput("machine recipe", f"expected the source {path}: {error.strerror}") from None
