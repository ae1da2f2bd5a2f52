"""Debian packages and Python distributions: opened without their own tools, hostile ones refused."""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from appliance.image import debs, wheels
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported, VitrineError
from tests.conftest import ROOT
from tests.tools.image_layouts import deb, member

LINK = tarfile.SYMTYPE


def test_a_package_gives_its_files_below_usr() -> None:
    data = deb(
        [
            member("./", type=tarfile.DIRTYPE, mode=0o755),
            member("./lib/x/libc.so.6", b"libc", mode=0o755),
            member("./lib64/ld.so.2", type=LINK, linkname="/lib/x/ld.so.2"),
            member("./usr/bin/tool", type=LINK, linkname="tool-1"),
            member("./etc/tool.conf", b"conf"),
        ]
    )
    found = {item.path: (item.content, item.target) for item in debs.files(data, "package")}
    assert found == {
        "usr/lib/x/libc.so.6": (b"libc", None),
        "usr/lib64/ld.so.2": (None, "../lib/x/ld.so.2"),
        "usr/bin/tool": (None, "tool-1"),
        "etc/tool.conf": (b"conf", None),
    }


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", MalformedInput, "ar archive"),
        (b"!<arch>\n", MalformedInput, "found none"),
        (b"!<arch>\n" + b"x" * 60, MalformedInput, "ar header"),
        (deb([])[:-40], MalformedInput, "end of the file"),
        (deb([], "data.tar.zst"), Unsupported, "data.tar.zst"),
        (deb([member("../outside", b"x")]), MalformedInput, "stay in the package"),
        (deb([member("a", type=LINK, linkname="/../outside")]), MalformedInput, "stay in the package"),
        (deb([member("dev/null", type=tarfile.CHRTYPE)]), MalformedInput, "found type b'3'"),
    ],
)
def test_hostile_packages(data: bytes, error: type[VitrineError], words: str) -> None:
    with pytest.raises(error, match=words):
        list(debs.files(data, "package"))


def test_a_damaged_package_is_refused_or_gives_nothing_else() -> None:
    good = deb([member("./usr/a", b"a" * 500)])
    expected = [item.content for item in debs.files(good, "package")]
    for at in range(0, len(good), 7):
        bad = good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :]
        try:
            found = [item.content for item in debs.files(bad, "package")]
        except (MalformedInput, Unsupported):
            continue
        assert found == expected  # a byte that nothing reads, such as the time in an ar header


def wheel(files: dict[str, bytes]) -> bytes:
    """A wheel with these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_a_kernel_module_is_unpacked_whole_or_refused() -> None:
    packed = lzma.compress(b"module" * 1000)
    assert debs.unxz(packed, 6000, "module") == b"module" * 1000
    for data, limit in ((packed, 5999), (packed[:-1], 6000), (b"\x7fELF" + packed, 6000), (b"", 6000)):
        with pytest.raises(MalformedInput, match="module"):
            debs.unxz(data, limit, "module")


APT = """#!/bin/sh
case "$*" in
*indextargets*) printf '%s\n' 'http://archive/ bookworm main' 'http://safe/ bookworm-security main' ;;
*shell*) echo "LIST='$0.list'" ;;
*) echo "$@" >> "$0.asked" ;;
esac
"""


def apt_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt and its kin are a script that knows two releases, and writes down what else it is asked."""
    for name in ("apt-get", "apt-config"):
        (folder / name).write_text(APT)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_release_beside_the_hosts_own_comes_from_the_same_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt_says(tmp_path, monkeypatch)
    (tmp_path / "apt-config.list").write_text("deb http://own/ bookworm main")
    debs.Apt(tmp_path / "apt", "amd64", ["bookworm-backports"]).update()
    sources = tmp_path / "apt" / "sources.list"
    assert sources.read_text().split("\n") == [
        "deb http://own/ bookworm main",
        "deb http://archive/ bookworm-backports main",
        "",
    ]
    first, second = (tmp_path / "apt-get.asked").read_text().splitlines()
    assert str(sources) not in first
    assert f"Dir::Etc::sourcelist={sources}" in second


def test_a_release_of_an_archive_that_the_host_does_not_know_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt_says(tmp_path, monkeypatch)
    with pytest.raises(EnvironmentProblem, match="expected trixie among"):
        debs.Apt(tmp_path / "apt", "amd64", ["trixie-backports"]).update()


def test_a_wheel_gives_what_would_be_installed() -> None:
    data = wheel(
        {
            "a/__init__.py": b"a",
            "a-1.dist-info/METADATA": b"Name: a\nLicense-Expression: MIT\n",
            "a-1.data/platlib/b.so": b"b",
            "a-1.data/scripts/tool": b"#!python",
        }
    )
    found = {item.path: item.content for item in wheels.files(data, "a-1-py3-none-any.whl")}
    assert sorted(found) == ["a-1.dist-info/METADATA", "a/__init__.py", "b.so"]
    assert wheels.license_of(found["a-1.dist-info/METADATA"]) == "MIT"


@pytest.mark.parametrize("name", ["../a.py", "/a.py", "a/../../b.py", "a//b.py", "a\\b.py"])
def test_hostile_wheels(name: str) -> None:
    with pytest.raises(MalformedInput, match="stay in the archive"):
        list(wheels.files(wheel({name: b"x"}), "a.whl"))
    with pytest.raises(MalformedInput, match="expected a wheel"):
        list(wheels.files(b"no zip", "a.whl"))


def test_requirements_are_read_for_one_python() -> None:
    text = (
        f"A_b==1.0 \\\n    --hash=sha256:{'1' * 64} \\\n    --hash=sha256:{'2' * 64}\n"
        f"numpy==2.4.6 ; python_full_version < '3.12' \\\n    --hash=sha256:{'3' * 64}\n"
        f"numpy==2.5.5 ; python_full_version >= '3.12' \\\n    --hash=sha256:{'4' * 64}\n"
        f"cffi==2.0 ; platform_python_implementation != 'PyPy' \\\n    --hash=sha256:{'5' * 64}\n"
    )
    found = wheels.requirements(text, "3.11")
    assert found["a-b"].digests == {"sha256:" + "1" * 64, "sha256:" + "2" * 64}
    assert (found["numpy"].version, found["numpy"].digests) == ("2.4.6", {"sha256:" + "3" * 64})
    assert wheels.requirements(text, "3.12")["numpy"].version == "2.5.5"
    assert "cffi" in found
    for bad in ("numpy>=2\n", "-r other.txt\n", "a==1 ; os_name == 'nt'\n"):
        with pytest.raises(MalformedInput):
            wheels.requirements(bad, "3.11")


def test_the_projects_requirements_are_understood() -> None:
    found = wheels.requirements((ROOT / "requirements" / "dev.txt").read_text(), "3.11")
    assert all(pin.digests for pin in found.values())
    assert {"numpy", "cffi", "pydantic-core", "typing-extensions"} <= set(found)
