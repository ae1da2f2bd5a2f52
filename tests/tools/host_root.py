"""A root for containers made of this host's own Python: the channel and the flow can be tried before an image is built.

It is not an image: the host's /usr is in it. Only its folders are made; everything else is shown from the host.
"""

from __future__ import annotations

import sys
from pathlib import Path

from appliance.enclave.container import ENGINE, Mount
from appliance.enclave.rootfs import Image
from attest.digest import digest_of

ROOT = Path(__file__).resolve().parents[2]
START = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from appliance.enclave import inside; sys.exit(inside.main())"
"""The image's entry point, from this checkout whatever else is installed."""
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}


def make(folder: Path) -> tuple[Image, tuple[Mount, ...]]:
    """The root in `folder`, made where it is not there yet, and what has to be mounted in it."""
    shown = [Path("/usr"), Path(sys.base_prefix), Path(sys.prefix), ROOT]
    shown = [path for path in shown if not any(path != one and path.is_relative_to(one) for one in shown)]
    for name in ("proc", "dev", "tmp", "in", "out", ENGINE, *(str(path) for path in shown)):
        (folder / name.lstrip("/")).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / "tmp").chmod(0o1777)  # runc gives a mount in memory the mode of the folder below it
    for name, target in LINKS.items():
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    image = Image(
        folder,
        digest_of(b"the host's own root, for tests"),
        (sys.executable, "-I", "-c", START),
        ("LANG=C.UTF-8", "OPENBLAS_NUM_THREADS=1", "PATH=/usr/bin"),
    )
    mounts = tuple(Mount(role="host", source=str(path), target=str(path)) for path in dict.fromkeys(shown))
    return image, mounts
