"""The measured machine's image: its papers, and firmware that starts what the enrolled key signed, and nothing else.

Each boot takes ten to twenty seconds of a whole processor.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from appliance.enclave import vm
from appliance.image import authenticode, esp, measure, provenance, secure_boot, uki
from appliance.image import vm as vm_image
from appliance.image.assemble import Signing
from appliance.image.cli import default_cache
from appliance.image.inspect import inspect_machine
from appliance.image.vm import BuiltMachine
from appliance.notary.lab import Lab
from attest import machine, reference
from attest.digest import digest_file
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
from tests.conftest import ENGINES
from tests.tools import swtpm
from tests.unit import machine_parts

pytestmark = pytest.mark.slow
NONCE = bytes(range(32))
REFUSED = "Access Denied"
"""What the firmware says on its console of a boot file that it does not start."""
REFUSAL_S = 240.0


def signer(folder: Path) -> authenticode.SigningKey:
    """The key of a folder that signs boot files."""
    return authenticode.load_signing_key((folder / "db.key").read_bytes(), (folder / "db.crt").read_bytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where keys and image lie."""
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def built(folder: Path) -> BuiltMachine:
    """The image without models, signed by the key of a lab."""
    keys = secure_boot.make(folder / "keys", "Test lab")
    try:
        return vm_image.build_image(
            machine_parts.RECIPE,
            folder / "image",
            cache=default_cache(),
            engines=ENGINES,
            leave_out=("models", "suites"),
            signing=Signing(signer(folder / "keys"), keys),
            progress=lambda _step: None,
        )
    except EnvironmentProblem as problem:
        pytest.skip(f"the image cannot be built here: {problem}")


@pytest.fixture(scope="module")
def image(built: BuiltMachine, folder: Path) -> Path:
    """Its folder."""
    return folder / "image"


def bootable() -> None:
    """Skip where nothing can be booted under firmware that checks signatures."""
    for tool, name in ((vm.QEMU, "qemu-system-x86"), (vm.SWTPM, "swtpm")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt install {name}")
    if not vm.CHECKING_FIRMWARE[0][0].is_file():
        pytest.skip("no UEFI firmware with Secure Boot: apt install ovmf")


def with_boot_file(image: Path, to: Path, boot_file: bytes) -> Path:
    """The image in a new folder with another boot file, and the same keys enrolled."""
    to.mkdir()
    os.link(image / measure.ROOT, to / measure.ROOT)
    secure_boot.write(secure_boot.read(image), to)
    (to / measure.BOOT_FILE).write_bytes(boot_file)
    (to / measure.BOOT_DISK).write_bytes(esp.build(boot_file))
    return to


def unsigned(image: Path) -> bytes:
    """The boot file without its signature."""
    return uki.build(machine_parts.stub(), uki.parts((image / measure.BOOT_FILE).read_bytes()))


def test_the_root_disk_is_explained_to_the_last_file(image: Path, tmp_path: Path) -> None:
    found = inspect_machine(image)
    assert found.values == measure.load(image / measure.REFERENCE)
    assert all(line.package and line.why for line in found.lines)
    assert {"libc6", "numpy", "vitrine", "llama.cpp-x86-64-v3"} <= {space.name for space in found.by_package()}
    altered = with_boot_file(image, tmp_path / "image", (image / measure.BOOT_FILE).read_bytes())
    (altered / measure.REFERENCE).write_bytes((image / measure.REFERENCE).read_bytes())
    listing = (image / measure.FILES).read_bytes()
    (altered / measure.FILES).write_bytes(listing.replace(b'"mode":"0644"', b'"mode":"0600"', 1))
    with pytest.raises(VerificationError, match="image/listing"):
        inspect_machine(altered)
    (altered / measure.FILES).unlink()
    with pytest.raises(MalformedInput, match="file listing"):
        inspect_machine(altered)


def test_the_bill_of_materials_names_kernel_stub_and_init(built: BuiltMachine, image: Path) -> None:
    data = (image / measure.SBOM).read_bytes()
    bill = json.loads(data)
    assert bill["metadata"]["component"]["type"] == "operating-system"
    components = {component["name"]: component for component in bill["components"]}
    packages = {line.package for line in inspect_machine(image).lines} - {"recipe", "llama.cpp-x86-64-v3", "vitrine-vm"}
    assert packages <= set(components)
    for item in built.lock.files:
        assert components[item.name]["hashes"][0]["content"] == item.digest.removeprefix("sha256:")
    assert components["vitrine-vm-init"]["hashes"][0]["content"] == built.lock.init.digest.removeprefix("sha256:")
    validation = pytest.importorskip("cyclonedx.validation.json", reason="no cyclonedx-python-lib[validation]")
    schema = pytest.importorskip("cyclonedx.schema")
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(data.decode()) is None


def test_provenance_is_of_the_boot_file_and_signed_by_the_lab(built: BuiltMachine, image: Path, lab: Lab) -> None:
    assert built.digest == digest_file(image / measure.BOOT_FILE)
    payload = provenance.machine_statement(built)
    assert provenance.machine_statement(built) == payload
    value = json.loads(payload)
    assert value["subject"] == [{"name": "vitrine-vm", "digest": {"sha256": built.digest.removeprefix("sha256:")}}]
    named = {item["digest"]["sha256"] for item in value["predicate"]["buildDefinition"]["resolvedDependencies"]}
    locked = (*built.plan.part.files, *built.lock.files)
    assert {item.digest.removeprefix("sha256:") for item in locked} <= named
    reference_digest = digest_file(image / measure.REFERENCE).removeprefix("sha256:")
    byproducts = value["predicate"]["runDetails"]["byproducts"]
    assert byproducts == [{"name": "reference.json", "digest": {"sha256": reference_digest}}]
    assert built.values.version == built.recipe.epoch
    signed = provenance.sign(payload, built.digest, lab)
    assert provenance.verify(signed, lab.trusted_root, built.digest) == payload
    with pytest.raises(VerificationError, match="image/provenance"):
        provenance.verify(signed, lab.trusted_root, digest_file(image / measure.ROOT))


def test_a_signed_image_boots_and_its_registers_are_the_predicted_ones(image: Path) -> None:
    bootable()
    values = measure.load(image / measure.REFERENCE)
    assert values.secure_boot
    assert measure.measure(image, values.image) == values
    with vm.booted(vm.plan(image, kvm=False)) as booted:
        evidence = booted.evidence(NONCE)
        assert booted.wait() == 0
    found = machine.verify(evidence, NONCE).registers
    reference.compare(values, found)
    assert swtpm.logged(evidence, (4, 7, 9, 11)) == swtpm.predicted(values, (4, 7, 9, 11))
    # The same evidence is not that of a host with Secure Boot off.
    with pytest.raises(VerificationError, match="register 7: other Secure Boot"):
        reference.compare(off_values(image), found)


def off_values(image: Path) -> reference.ReferenceValues:
    """The reference values of the same files, unsigned, on a host without keys."""
    folder = with_boot_file(image, image.parent / "off", unsigned(image))
    return measure.measure(folder, "vitrine-vm", secure_boot.NO_KEYS)


@pytest.mark.parametrize("boot_file", ["unsigned", "signed by another"])
def test_firmware_starts_nothing_else(image: Path, tmp_path: Path, boot_file: str) -> None:
    content = unsigned(image)
    if boot_file == "signed by another":
        secure_boot.make(tmp_path / "other", "Other lab")
        content = authenticode.sign(content, signer(tmp_path / "other"))
    folder = with_boot_file(image, tmp_path / "image", content)
    with pytest.raises(VerificationError, match="image/signature"):
        measure.measure(folder, "vitrine-vm")
    bootable()
    with vm.booted(vm.plan(folder, kvm=False)) as booted:
        end = time.monotonic() + REFUSAL_S
        while REFUSED not in booted.console() and time.monotonic() < end:
            time.sleep(0.2)
        console = booted.console()
    assert REFUSED in console, console
    assert "vitrine" not in console
