"""Small images, sound and hostile: trees for layers, hand-made tar members, layouts around them, Debian packages."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from appliance.image.recipe import ImageRecipe
from appliance.image.spec import CONFIG_TYPE, INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE
from appliance.image.tree import Tree, file, folder, link, tree
from attest.canonical import JSON, validate

EPOCH = 1_700_000_000


def small_tree() -> Tree:
    """A tree with each kind of entry."""
    return tree(
        [
            folder("/tmp", "recipe", "scratch", 0o1777),
            file("/usr/bin/program", b"\x7fELF program", "program", "runs", executable=True),
            file("/usr/share/words", b"words\n" * 1000, "words", "are read"),
            link("/bin", "usr/bin", "recipe", "older name"),
        ]
    )


def small_recipe(**fields: JSON) -> ImageRecipe:
    """A recipe of which only the image's settings count."""
    machine = {"engine": "portable", "uname": "x86_64", "triplet": "x86_64-linux-gnu", "loader": "/lib/ld.so"}
    value = {
        "format": "vitrine/image-recipe/v1",
        "name": "small",
        "epoch": EPOCH,
        "distribution": "bookworm",
        "user": 65532,
        "entrypoint": ["/usr/bin/program"],
        "layers": ["base", "top"],
        "engine": {"path": "/opt/engine", "layer": "top", "reason": "engine"},
        "architectures": {"amd64": machine | {"platforms": ["manylinux2014_x86_64"]}},
        "python": {"version": "3.11", "interpreter": "/usr/bin/python3.11", "site": "/site", "requirements": "r.txt"},
        "project": {"name": "vitrine", "layer": "top", "reason": "project", "keep": []},
    }
    return validate(ImageRecipe, value | fields, "recipe")


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """One tar member, sound unless `fields` say otherwise."""
    info = tarfile.TarInfo(name)
    info.mtime, info.size = EPOCH, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def archive(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar archive of members, in the order given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def layout(folder: Path, layers: Iterable[bytes], *, layer_type: str = LAYER_TYPE, **config: JSON) -> Path:
    """An OCI layout around `layers`, whatever is in them: every digest is right."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, JSON]:
        digest = sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    described = [put(data, layer_type) for data in layers]
    value = {
        "created": "2023-11-14T22:13:20Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"User": "65532:65532", "Env": [], "Entrypoint": ["/usr/bin/program"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [item["digest"] for item in described]},
    }
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": described}
    manifest["config"] = put(json.dumps(value | config).encode(), CONFIG_TYPE)
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE}
    (folder / "index.json").write_text(
        json.dumps(index | {"manifests": [put(json.dumps(manifest).encode(), MANIFEST_TYPE)]})
    )
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return folder


def deb(members: Iterable[tuple[tarfile.TarInfo, bytes]], data_name: str = "data.tar.xz") -> bytes:
    """A Debian package with these members."""
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": lzma.compress(archive([]))}
    parts[data_name] = lzma.compress(archive(members, tarfile.GNU_FORMAT))
    out = b"!<arch>\n"
    for name, data in parts.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out
