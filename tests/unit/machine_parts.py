"""Real parts of the measured machine for tests: its recipe, and the locked packages where the cache has them."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from appliance.image import debs, init, initramfs, machine, uki
from appliance.image.cli import default_cache
from attest.digest import digest_of

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "images" / "vm.toml"
LOCK = RECIPE.with_suffix(".lock.json")


@functools.cache
def package(name: str) -> dict[str, bytes]:
    """The files of a locked package; the test is skipped where the cache does not have it."""
    lock = machine.read_lock(LOCK, machine.load(RECIPE))
    item = next(item for item in lock.files if item.name == name)
    path = default_cache() / item.filename
    if not path.is_file() or digest_of(path.read_bytes()) != item.digest:
        pytest.skip(f"no {item.filename} in the cache: `appliance image build --format uki images/vm.toml` fetches it")
    found = debs.files(path.read_bytes(), name)
    return {file.path: file.content for file in found if file.content is not None}


def stub() -> bytes:
    """The boot stub."""
    recipe = machine.load(RECIPE)
    return package(recipe.stub.package)[recipe.stub.path]


def kernel() -> bytes:
    """The kernel."""
    recipe = machine.load(RECIPE)
    return package(recipe.kernel.package)[recipe.kernel.path]


def parts() -> uki.Parts:
    """The real kernel with a small initramfs and command line."""
    return uki.Parts(kernel(), initramfs.build(b"program", [("a.ko", b"module")], ["/run"]), "quiet one=1", "ID=test\n")


__all__ = ["LOCK", "RECIPE", "ROOT", "init", "kernel", "package", "parts", "stub"]
