"""The listing that a verified disk carries is the one that a process would measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.image import environment
from appliance.image.tree import file, link, materialise, tree
from appliance.measure import LISTING, listed_tree, measure_tree, on_verified_disk
from attest.errors import MalformedInput

STDLIB, SITE = "usr/lib/python3.11", "usr/local/lib/python3.11/dist-packages"
FILES = {
    "usr/bin/python3.11": b"the interpreter",
    f"{STDLIB}/os.py": b"os",
    f"{STDLIB}/json/decoder.py": b"json",
    f"{STDLIB}/__pycache__/os.cpython-311.pyc": b"byte code",
    f"{STDLIB}/dist-packages/README": b"not of the standard library",
    f"{SITE}/numpy/core.so": b"numpy",
    f"{SITE}/appliance/run.py": b"run",
    f"{SITE}/appliance/demo/appliance.lock": b"changes with what it locks",
    f"{SITE}/attest/verify.py": b"verify",
    f"{SITE}/vitrine-1.dist-info/METADATA": b"name",
    "opt/vitrine/engine/libllama.so": b"measured elsewhere",
}


def test_it_is_what_a_process_measures(tmp_path: Path) -> None:
    files = [file(f"/{path}", data, "test", "a file") for path, data in FILES.items()]
    content = tree([*files, link(f"/{STDLIB}/path.py", "json/decoder.py", "test", "a link")])
    materialise(content, tmp_path)
    site = tmp_path / SITE
    measured = measure_tree(
        {
            "stdlib": tmp_path / STDLIB,
            "site": site,
            "project/appliance": site / "appliance",
            "project/attest": site / "attest",
        },
        {"python/interpreter": tmp_path / "usr/bin/python3.11"},
    )
    entry = environment.listing(content, "test")
    assert entry.path == str(LISTING)
    at = tmp_path / "listing"
    at.write_bytes(content.read(entry))
    assert listed_tree(at) == measured
    assert measured.files == 8


def test_links_to_no_file_and_trees_without_python_are_refused() -> None:
    with pytest.raises(MalformedInput, match="interpreter"):
        environment.listing(tree([file(f"/{STDLIB}/os.py", b"os", "test", "a file")]), "test")
    content = tree([file("/usr/bin/python3.11", b"", "t", "a"), link(f"/{STDLIB}/os.py", "posix", "t", "a")])
    with pytest.raises(MalformedInput, match=r"links to files, found /usr/lib/python3.11/os.py"):
        environment.listing(content, "test")


@pytest.mark.parametrize("content", [b"", b"12", b"12\n", b'{"name":"x"}\n', b"-1\nline\n", b"12\ncut"])
def test_a_listing_out_of_form_is_refused(content: bytes, tmp_path: Path) -> None:
    at = tmp_path / "listing"
    at.write_bytes(content)
    with pytest.raises(MalformedInput, match="expected a size"):
        listed_tree(at)


@pytest.mark.parametrize(
    ("last", "verified"),
    [
        ("27 1 253:0 / / ro,nosuid,nodev shared:1 - erofs /dev/dm-0 ro,user_xattr", True),
        ("27 1 253:0 / / ro,nosuid,nodev - erofs /dev/loop0 ro", False),
        ("27 1 253:0 / / rw - ext4 /dev/dm-0 rw", False),
        ("27 1 253:0 / /in ro - erofs /dev/dm-0 ro", False),
    ],
)
def test_a_verified_disk_is_told_by_the_mount_of_the_root(last: str, verified: bool, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 1 0:2 / / rw - rootfs rootfs rw\n{last}\n")
    assert on_verified_disk(mounts) is verified
    assert not on_verified_disk()
