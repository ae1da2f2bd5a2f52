"""The measured machine under firmware that checks signatures: it starts what the enrolled key signed, and nothing else.

Each boot takes ten to twenty seconds of a whole processor.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from appliance.enclave import vm
from appliance.image import authenticode, esp, measure, secure_boot, uki
from appliance.image import vm as vm_image
from appliance.image.assemble import Signing
from appliance.image.cli import default_cache
from attest import machine, reference
from attest.errors import EnvironmentProblem, VerificationError
from tests.conftest import ENGINES
from tests.unit import machine_parts

pytestmark = pytest.mark.slow
NONCE = bytes(range(32))
REFUSED = "Access Denied"
"""What the firmware says on its console of a boot file that it does not start."""
REFUSAL_S = 120.0


def signer(folder: Path) -> authenticode.SigningKey:
    """The key of a folder that signs boot files."""
    return authenticode.load_signing_key((folder / "db.key").read_bytes(), (folder / "db.crt").read_bytes())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image without models, signed by the key of a lab."""
    for tool, name in ((vm.QEMU, "qemu-system-x86"), (vm.SWTPM, "swtpm")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt install {name}")
    if not vm.CHECKING_FIRMWARE[0][0].is_file():
        pytest.skip("no UEFI firmware with Secure Boot: apt install ovmf")
    folder = tmp_path_factory.mktemp("secure")
    keys = secure_boot.make(folder / "keys", "Test lab")
    try:
        vm_image.build_image(
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
    return folder / "image"


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


def test_a_signed_image_boots_and_its_registers_are_the_predicted_ones(image: Path) -> None:
    values = measure.load(image / measure.REFERENCE)
    assert values.secure_boot
    assert measure.measure(image, values.image) == values
    with vm.booted(vm.plan(image, kvm=False)) as booted:
        evidence = booted.evidence(NONCE)
        assert booted.wait() == 0
    events = machine.verify(evidence, NONCE)
    reference.compare(values, evidence.values())
    for register in (4, 7, 9, 11):
        logged = [f"sha256:{event.digest.hex()}" for event in events if event.register == register]
        assert logged == [event.digest for event in values.events if event.register_ == register]
    # The same evidence is not that of a host with Secure Boot off.
    with pytest.raises(VerificationError, match="register 7: other Secure Boot"):
        reference.compare(off_values(image), evidence.values())


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
    with vm.booted(vm.plan(folder, kvm=False)) as booted:
        end = time.monotonic() + REFUSAL_S
        while REFUSED not in booted.console() and time.monotonic() < end:
            time.sleep(0.2)
        console = booted.console()
    assert REFUSED in console, console
    assert "vitrine" not in console
