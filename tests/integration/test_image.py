"""Images made of the real packages: reproducible, complete, small, without what must not be in them, and described.

Packages are fetched once into the cache that `appliance image build` uses; without them, and without a network, these
tests are skipped.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from appliance.image import build as builds
from appliance.image import lock, oci, provenance, recipe
from appliance.image.cli import default_cache
from appliance.image.inspect import Inspection, inspect
from appliance.image.lock import ImageLock
from appliance.image.recipe import ImageRecipe
from appliance.image.spec import SBOM_TYPE
from appliance.notary.lab import Lab
from attest import canonical
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
from tests.conftest import ENGINES, ROOT, Made
from tests.tools.image_elsewhere import build_elsewhere, checkout, digests, write_recipe

RECIPE = ROOT / "images" / "cpu.toml"
MEGABYTE = 1_000_000
SMALL = {"libc6", "zlib1g", "libexpat1", "python3.11-minimal", "libpython3.11-minimal"}


def quiet(text: str) -> None:
    """A progress callback that says nothing."""


def engine(name: str) -> None:
    """Skip without an engine."""
    if not (ENGINES / name / "record.json").exists():
        pytest.skip(f"no engine in {ENGINES / name}: run `make engines`")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> builds.Built:
    """The image for amd64."""
    engine("x86-64-v3")
    out = tmp_path_factory.mktemp("images") / "cpu"
    try:
        return builds.build(RECIPE, out, architecture="amd64", cache=default_cache(), engines=ENGINES, progress=quiet)
    except EnvironmentProblem as error:
        pytest.skip(f"no image: {error}")


@pytest.fixture(scope="session")
def image(built: builds.Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    return next(tmp_path_factory.getbasetemp().glob("images*/cpu"))


@pytest.fixture(scope="session")
def inspected(image: Path) -> Inspection:
    """Its explanation."""
    return inspect(image)


@pytest.fixture(scope="session")
def root(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its files, unpacked."""
    folder = tmp_path_factory.mktemp("root") / "root"
    oci.unpack(image, folder)
    return folder


@pytest.fixture(scope="session")
def small(built: builds.Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of CPython and two distributions, with its lock, from the packages of the whole one."""
    whole = recipe.load(RECIPE)
    fields = whole.model_dump(mode="json", exclude_none=True)
    fields["debian"] = [package for package in fields["debian"] if package["name"] in SMALL]
    fields["python"]["packages"] = [
        package for package in fields["python"]["packages"] if package["name"] in ("rfc8785", "markupsafe")
    ]
    fields["pinned"] = []
    made = canonical.validate(ImageRecipe, fields, "recipe")
    path = write_recipe(made, tmp_path_factory.mktemp("small"))
    part = lock.read(lock.path_of(RECIPE), whole).of("amd64")
    names = {package.name for package in (*made.debian, *made.python.packages)}
    part = part.model_copy(update={"layers": (), "files": tuple(item for item in part.files if item.name in names)})
    lock.path_of(path).write_bytes(lock.write(ImageLock(recipe_digest=made.digest(), architectures={"amd64": part})))
    return path


def test_two_folders_users_umasks_and_times_give_the_same_bytes(small: Path, tmp_path: Path) -> None:
    project = checkout(tmp_path / "project")
    one = build_elsewhere(project, small, tmp_path / "one", "022")

    # The second is laid out as an installed wheel is: the policies lie inside the package.
    moved = tmp_path / "a folder with another name"
    shutil.copytree(project, moved)
    (moved / "appliance" / "_data").mkdir(exist_ok=True)
    (moved / "policy").rename(moved / "appliance" / "_data" / "policy")
    shutil.copytree(small.parent, moved / "images")
    again = build_elsewhere(
        moved, moved / "images" / small.name, moved / "deep" / "two", "077", uid="1000",
        TZ="Pacific/Kiritimati", LANG="tr_TR.UTF-8", PYTHONHASHSEED="4711", USER="other", TMPDIR=str(tmp_path),
    )  # fmt: skip
    third = build_elsewhere(project, small, tmp_path / "three", "000", TZ="America/St_Johns", SOURCE_DATE_EPOCH="1")
    assert one == again == third
    assert digests(tmp_path / "one") == digests(moved / "deep" / "two") == digests(tmp_path / "three")
    assert any(line.path.endswith(".pyc") for line in inspect(tmp_path / "one").lines)

    # And they were built from there: what changes in the checkout, changes the image.
    with (moved / "attest" / "digest.py").open("a") as file:
        file.write("# another line\n")
    assert build_elsewhere(moved, moved / "images" / small.name, moved / "other", "022") != one


def test_a_changed_package_and_a_missing_one_are_refused(small: Path, tmp_path: Path) -> None:
    item = next(
        item for item in lock.read(lock.path_of(small), recipe.load(small)).of("amd64").files if item.name == "rfc8785"
    )
    cache = tmp_path / "cache"
    shutil.copytree(default_cache(), cache, copy_function=os.link)
    data = (cache / item.filename).read_bytes()
    (cache / item.filename).unlink()
    (cache / item.filename).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(VerificationError, match="image/package") as caught:
        builds.build(small, tmp_path / "out", architecture="amd64", cache=cache, engines=ENGINES, progress=quiet)
    assert item.digest in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_package_that_nobody_has_any_more_says_what_to_do(small: Path, tmp_path: Path) -> None:
    made = recipe.load(small)
    locked = lock.read(lock.path_of(small), made)
    part = locked.of("amd64")
    gone = [
        item.model_copy(update={"version": "0.0.0", "filename": "rfc8785-0.0.0-py3-none-any.whl"})
        if item.name == "rfc8785" else item
        for item in part.files
    ]  # fmt: skip
    parts = {"amd64": part.model_copy(update={"files": tuple(gone)})}
    path = write_recipe(made, tmp_path / "recipe")
    lock.path_of(path).write_bytes(lock.write(locked.model_copy(update={"architectures": parts})))
    with pytest.raises(EnvironmentProblem, match=r"put the file with sha256:.* at .*appliance image lock"):
        builds.build(
            path, tmp_path / "out", architecture="amd64", cache=default_cache(), engines=ENGINES, progress=quiet
        )


def test_a_layer_that_is_not_the_locked_one_is_refused(built: builds.Built, tmp_path: Path) -> None:
    whole = recipe.load(RECIPE)
    locked = lock.read(lock.path_of(RECIPE), whole)
    part = locked.of("amd64")
    layers = (part.layers[0].model_copy(update={"diff_id": part.layers[1].diff_id}), *part.layers[1:])
    with pytest.raises(VerificationError, match="image/layer"):
        builds._compare_pinned(whole, part.model_copy(update={"layers": layers}), list(built.plan.trees))


def test_what_must_not_be_in_an_image(inspected: Inspection) -> None:
    files = [line for line in inspected.lines if line.kind == "file"]
    programs = {line.path for line in files if int(line.mode, 8) & 0o111 and "/lib/" not in line.path}
    assert programs - {"/usr/bin/python3.11"} == set(), "the only program is Python"
    names = {PurePosixPath(line.path).name for line in inspected.lines}
    unwanted = {"sh", "bash", "dash", "busybox", "apt", "dpkg", "pip", "cc", "gcc", "ld", "as", "curl", "wget", "ssh"}
    assert not names & (
        unwanted | {"sudo", "su", "mount", "perl", "cmake", "ninja", "_ssl.cpython-311-x86_64-linux-gnu.so"}
    )
    assert not [line.path for line in inspected.lines if int(line.mode, 8) & 0o6000]
    assert not [
        line.path
        for line in inspected.lines
        if line.kind != "link" and int(line.mode, 8) & 0o022 and line.path != "/tmp"
    ]
    assert not [
        line.path for line in files if re.search(r"/(pip|setuptools|requests|urllib3|sigstore|http)/", line.path)
    ]


def test_size(inspected: Inspection) -> None:
    models = sum(line.size_bytes for line in inspected.lines if line.layer == "models")
    assert inspected.size_bytes - models < 110 * MEGABYTE


def test_every_entry_is_explained(inspected: Inspection) -> None:
    assert all(line.package and line.why for line in inspected.lines)
    assert inspected.layout.config.config.user == "65532:65532"
    assert inspected.layout.config.config.entrypoint[:2] == ("/usr/bin/python3", "-I")


def test_every_distribution_has_a_record_of_its_files(root: Path, inspected: Inspection) -> None:
    site = root / "usr/local/lib/python3.11/dist-packages"
    recorded = {}
    for path in site.glob("*.dist-info/RECORD"):
        for name, digest, _ in csv.reader(path.read_text().splitlines()):
            if digest:
                recorded[f"/{(site / name).relative_to(root)}"] = base64.urlsafe_b64decode(digest[7:] + "=").hex()
    top = f"/{site.relative_to(root)}/"
    files = {line.path: line.sha256 for line in inspected.lines if line.path.startswith(top) and line.kind == "file"}
    others = {path for path in files if "/__pycache__/" in path or "/appliance/demo/" in path or "/llama_cpp/" in path}
    others |= {path for path in files if "/langdetect/" in path}  # made from a source distribution, as llama_cpp is
    assert recorded == {path: files[path] for path in files if path not in others and not path.endswith("/RECORD")}


def test_every_library_that_is_needed_is_there(root: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("no readelf: install binutils")
    elves = [
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF"
    ]
    assert len(elves) > 20
    for path in elves:
        said = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True).stdout
        origins = [
            path.parent / part.replace("$ORIGIN", ".")
            for found in re.findall(r"R(?:UN)?PATH.*\[(.*)\]", said)
            for part in found.split(":")
        ]
        for needed in re.findall(r"NEEDED.*\[(.*)\]", said):
            places = [*origins, root / "usr/lib/x86_64-linux-gnu", root / "usr/lib64"]
            assert any((place / needed).exists() for place in places), f"{path.relative_to(root)} needs {needed}"


def inside(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the image's Python in it, read-only, without network."""
    if shutil.which("bwrap") is None:
        pytest.skip("no bwrap: install bubblewrap")
    command = ["bwrap", "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    command += ["--unshare-all", "--die-with-parent", "--clearenv", "--", "/usr/bin/python3", "-I", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


HARNESSES = ("inspect_export", "inspect_provider", "lm_eval")
"""Bridges to harnesses that are no part of the image: importable where these are installed."""
IMPORT_ALL = """
import importlib, pkgutil, sys
import appliance, attest
failed = []
for package in (appliance, attest):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(("__main__", *HARNESSES)):
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                failed.append(f"{module.name}: {error}")
import numpy.ctypeslib
print(failed, len(sys.modules) > 300)
"""


def test_every_module_of_ours_can_be_imported_inside(root: Path) -> None:
    done = inside(root, "-c", f"HARNESSES = {HARNESSES}\n{IMPORT_ALL}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[] True"


def test_byte_code_is_used(root: Path) -> None:
    done = inside(root, "-v", "-c", "import appliance.run, numpy")
    assert done.returncode == 0, done.stderr[-2000:]
    compiled = re.findall(r"code object from '([^']*\.py)'", done.stderr)  # Python says so of sources that it compiles
    assert compiled == []
    assert len(re.findall(r"matches /usr/local/lib/python3.11/dist-packages/(?:appliance|attest)/", done.stderr)) > 40
    assert len(re.findall(r"code object from '[^']*/dist-packages/(?:numpy|pydantic)/[^']*\.pyc'", done.stderr)) > 100


def test_source_stays_of_our_own_files_only(inspected: Inspection) -> None:
    """So that what is measured at a boot is the byte code that runs, where there is no source beside it."""
    sources = {line.layer for line in inspected.lines if line.path.endswith(".py")}
    cached = {line.layer for line in inspected.lines if "/__pycache__/" in line.path}
    assert sources == cached == {"vitrine"}
    assert all("byte code" in line.why for line in inspected.lines if line.path.endswith(".pyc"))


def test_a_job_runs_inside_with_the_same_results(root: Path, made: Made, tmp_path: Path) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("no bwrap: install bubblewrap")
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    shutil.copy(made.job, tmp_path / "in" / "job.yaml")
    command = ["bwrap", "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    command += ["--ro-bind", str(tmp_path / "in"), "/in", "--bind", str(tmp_path / "out"), "/out"]
    command += ["--die-with-parent", "--clearenv", "--setenv", "HOME", "/tmp", "--", "/usr/bin/python3", "-I", "-m"]
    command += ["appliance", "run", "/in/job.yaml", "--lab", "/out/lab", "--engine", "/opt/vitrine/engine"]
    done = subprocess.run([*command, "--out", "/out/bundle"], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("results.json", "transcript.jsonl"):
        assert (tmp_path / "out" / "bundle" / name).read_bytes() == (made.bundle / name).read_bytes()


def test_the_bill_of_materials_is_valid(image: Path, inspected: Inspection) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json", reason="no cyclonedx-python-lib[validation]")
    schema = pytest.importorskip("cyclonedx.schema")
    data = inspected.layout.blob(inspected.layout.artifacts[SBOM_TYPE])
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(data.decode()) is None
    assert validator.validate_str(data.decode().replace('"type":"library"', '"type":"libary"')) is not None


def test_the_bill_names_every_package_and_model(inspected: Inspection) -> None:
    bill = json.loads(inspected.layout.blob(inspected.layout.artifacts[SBOM_TYPE]))
    named = {component["name"] for component in bill["components"]}
    packages = {line.package for line in inspected.lines} - {"recipe", "llama.cpp-x86-64-v3"}
    assert packages <= named
    models = {
        component["name"]: component
        for component in bill["components"]
        if component["type"] == "machine-learning-model"
    }
    assert set(models) == {"organism-q8_0", "clean-q8_0"}
    by_path = {line.path: line.sha256 for line in inspected.lines}
    for model in models.values():
        path = next(item["value"] for item in model["properties"] if item["name"] == "vitrine:path")
        assert model["hashes"] == [{"alg": "SHA-256", "content": by_path[path]}]
    numpy = next(component for component in bill["components"] if component["name"] == "numpy")
    assert numpy["purl"].startswith("pkg:pypi/numpy@") and numpy["hashes"]


def test_provenance_is_signed_by_the_lab(built: builds.Built, lab: Lab) -> None:
    payload = provenance.statement(built)
    assert provenance.statement(built) == payload
    value = json.loads(payload)
    assert value["subject"] == [
        {"name": "vitrine-cpu-amd64", "digest": {"sha256": built.digest.removeprefix("sha256:")}}
    ]
    dependencies = value["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {item.digest.removeprefix("sha256:") for item in built.plan.part.files} <= {
        item["digest"]["sha256"] for item in dependencies
    }
    signed = provenance.sign(payload, built.digest, lab)
    assert provenance.verify(signed, lab.trusted_root, built.digest) == payload
    other = "sha256:" + "0" * 64
    with pytest.raises(VerificationError):
        provenance.verify(signed, lab.trusted_root, other)
    with pytest.raises(VerificationError, match="image/provenance"):
        provenance.verify(provenance.sign(payload, other, lab), lab.trusted_root, other)
    broken = json.loads(signed)
    broken["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(b"amd64", b"arm64")).decode()
    with pytest.raises(VerificationError):
        provenance.verify(json.dumps(broken).encode(), lab.trusted_root, built.digest)


def test_other_formats_are_refused(built: builds.Built, tmp_path: Path) -> None:
    with pytest.raises(MalformedInput, match="optional layers"):
        builds.plan(
            RECIPE, architecture="amd64", cache=default_cache(), engines=ENGINES, leave_out=("base",), progress=quiet
        )
    other = tmp_path / "engines"
    (other).mkdir()
    engine("portable-aarch64")
    (other / "x86-64-v3").symlink_to(ENGINES / "portable-aarch64")
    with pytest.raises(VerificationError, match="image/engine"):
        builds.plan(RECIPE, architecture="amd64", cache=default_cache(), engines=other, progress=quiet)


@pytest.mark.slow
def test_the_image_for_arm64_is_built(built: builds.Built, tmp_path: Path) -> None:
    engine("portable-aarch64")
    try:
        builds.build(
            RECIPE, tmp_path / "arm64", architecture="arm64", cache=default_cache(), engines=ENGINES, progress=quiet
        )
    except EnvironmentProblem as error:
        pytest.skip(f"no image: {error}")
    found = inspect(tmp_path / "arm64")
    assert found.layout.config.architecture == "arm64"
    machines = set()
    for name, members in found.layout.layers():
        for member in members:
            head = member.content.read(20) if member.content else b""
            if head[:4] == b"\x7fELF":
                machines.add(int.from_bytes(head[18:20], "little"))
        assert name
    assert machines == {183}  # EM_AARCH64
