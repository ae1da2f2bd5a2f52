"""A folder with one artifact of each kind and the lock that pins them, for tests of the measured boot."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from appliance.boot import Booted, BootRefused, boot
from appliance.measure import Tree, measure_file, measure_model, measure_tree, python_artifact
from attest import lockfile
from attest.digest import digest_of
from attest.errors import Exit
from attest.lockfile import Artifact, Numerics

NUMERICS = Numerics(profile="reference", engine_recipe=digest_of(b"recipe"))
FILES = {
    ("dataset", "arc"): "data/arc.jsonl",
    ("engine", "libllama.so"): "engine/libllama.so",
    ("engine-record", "record.json"): "engine/record.json",
    ("policy", "seccomp"): "policy/seccomp.toml",
    ("suite", "arc"): "suites/arc.yaml",
}
MODEL = "models/organism.gguf"
SHARDS = [f"models/big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(name: str = "a", number: int | None = None, count: int = 3, elements: int = 8) -> bytes:
    """A sound GGUF file of one tensor, or one shard of several."""
    pairs = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    if number is not None:
        pairs += [text(key) + struct.pack("<IH", 2, value) for key, value in
                  (("split.no", number), ("split.count", count))]  # fmt: skip
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs)
    head += text(name) + struct.pack("<IqIQ", 1, elements, 0, 0)
    return head + bytes(-len(head) % 32) + os.urandom(4 * elements) + bytes(-4 * elements % 32)


class Folder:
    """A folder with one artifact of each kind, and the lock that pins them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.engine = root / "engine"
        for (_, name), path in FILES.items():
            self.put(path, f"content of {name} {path}".encode())
        self.put(MODEL, gguf())
        for number, path in enumerate(SHARDS):
            self.put(path, gguf(f"t{number}", number))
        self.put("python/module.py", b"print()")
        self.lock = self.make_lock()

    def put(self, path: str, content: bytes) -> None:
        (self.root / path).parent.mkdir(exist_ok=True)
        (self.root / path).write_bytes(content)

    def flip(self, path: str, position: int = -1) -> None:
        data = bytearray((self.root / path).read_bytes())
        data[position] ^= 1
        (self.root / path).write_bytes(data)

    def environment(self) -> Tree:
        return measure_tree({"site": self.root / "python"})

    def make_lock(self) -> bytes:
        artifacts = [python_artifact(self.environment())]
        for (kind, name), path in FILES.items():
            where = f"engine:{name}" if kind.startswith("engine") else path
            artifacts.append(measure_file(kind, name, self.root / path, where))  # type: ignore[arg-type]
        artifacts.append(measure_model("organism", [self.root / MODEL], MODEL))
        artifacts.append(measure_model("big", [self.root / path for path in SHARDS], SHARDS[0]))
        return lockfile.write(lockfile.make(NUMERICS, artifacts))

    def resolve(self, artifact: Artifact) -> list[Path]:
        return [self.engine / artifact.local_path]

    def boot(self, lock: bytes | None = None, hold: tuple[str, ...] | None = None) -> Booted:
        return boot(lock or self.lock, self.root, self.resolve, measure_environment=self.environment, hold=hold)

    def refuses(self, *named: str) -> BootRefused:
        before = descriptors()
        with pytest.raises(BootRefused) as caught:
            self.boot()
        error = caught.value
        assert (error.layer, error.code, error.exit_code) == ("boot", "digest-mismatch", Exit.REJECTED)
        assert len(error.differences) == len(named)
        for name in named:
            assert name in str(error)
        assert descriptors() == before
        return error


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
