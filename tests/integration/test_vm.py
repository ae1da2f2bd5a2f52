"""The measured machine, booted under emulation: what was predicted is what its TPM quotes, and a changed bit is told.

Each boot takes ten to twenty seconds of a whole processor.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import job as jobs
from appliance import resources, run
from appliance.enclave import measured, vm
from appliance.enclave.channel import EnclaveFailure
from appliance.image import assemble, esp, measure, pcr, uki, verity
from appliance.image import vm as vm_image
from appliance.image.cli import default_cache
from appliance.image.tree import Tree, file, tree
from appliance.job import ALL_ROWS, Rows
from appliance.notary.lab import Lab
from attest import lockfile, machine, policy, reference, verify
from attest.cli import read_bundle
from attest.digest import digest_file
from attest.errors import EnvironmentProblem, VerificationError
from attest.job import digest
from attest.reference import ReferenceValues
from tests.conftest import ENGINES, ROOT, Made
from tests.tools import swtpm
from tests.unit import machine_parts

pytestmark = pytest.mark.slow
NONCE = bytes(range(32))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image, built from the locked packages in the cache."""
    for tool, name in ((vm.QEMU, "qemu-system-x86"), (vm.SWTPM, "swtpm")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt install {name}")
    if not any(code.is_file() for code, _ in vm.FIRMWARE):
        pytest.skip("no UEFI firmware: apt install ovmf")
    machine_parts.kernel()
    out = tmp_path_factory.mktemp("vm") / "image"
    try:
        vm_image.build_image(
            machine_parts.RECIPE, out, cache=default_cache(), engines=ENGINES, progress=lambda _step: None
        )
    except EnvironmentProblem as problem:
        pytest.skip(f"the image cannot be built here: {problem}")
    return out


@pytest.fixture(scope="module")
def values(image: Path) -> ReferenceValues:
    """Its reference values."""
    return measure.load(image / measure.REFERENCE)


def changed(image: Path, to: Path, **copies: bytes) -> Path:
    """The image in a new folder, with other content of some files (`root`, `boot_file`)."""
    to.mkdir()
    for name in (measure.ROOT, measure.BOOT_FILE, measure.BOOT_DISK):
        os.link(image / name, to / name)
    for part, content in copies.items():
        name = {"root": measure.ROOT, "boot_file": measure.BOOT_FILE}[part]
        (to / name).unlink()
        (to / name).write_bytes(content)
        if part == "boot_file":
            (to / measure.BOOT_DISK).unlink()
            (to / measure.BOOT_DISK).write_bytes(esp.build(content))
    return to


def evidence_of(plan: vm.VmPlan) -> machine.Quoted:
    """Boot once; what its TPM quotes."""
    with vm.booted(plan) as booted:
        return machine.verify(booted.evidence(NONCE), NONCE)


def differing(values: ReferenceValues, found: Mapping[int, bytes]) -> set[int]:
    """The registers that hold something else than the reference values say."""
    return {int(name) for name, value in values.registers.items() if found[int(name)].hex() != value}


def test_the_booted_registers_are_the_predicted_ones(image: Path, values: ReferenceValues) -> None:
    """With a disk of inputs as well: one boot for the whole story."""
    content = tree([file("/job.yaml", b"name: test\n", "test", "a job")])
    inputs = image.parent / "inputs.img"
    descriptor = assemble.write_disk(content, inputs, seconds=0, name="inputs")
    with vm.booted(vm.plan(image, inputs=inputs, kvm=False)) as booted:
        evidence = booted.evidence(NONCE)
        assert booted.wait() == 0
        console = booted.console()
    found = machine.verify(evidence, NONCE).registers
    reference.compare(values, found)
    assert found[15] == reference.replay((pcr.inputs(descriptor.block()),))[15]
    # The log names the same digests, in the same order, for the registers that are predicted.
    assert swtpm.logged(evidence, (4, 7, 9, 11)) == swtpm.predicted(values, (4, 7, 9, 11))
    # Nothing else than errors is on the console, and a quote for another nonce is refused.
    assert "login" not in console
    with pytest.raises(VerificationError, match="tpm/nonce"):
        machine.verify(evidence, bytes(32))


def test_a_flipped_bit_in_the_root_disk_stops_the_boot(image: Path, tmp_path: Path) -> None:
    """In the file that Python itself is: the kernel meets the block when it starts the guest."""
    data = bytearray((image / measure.ROOT).read_bytes())
    data[data.index(b"Python initialized") if b"Python initialized" in data else len(data) // 3] ^= 1
    altered = changed(image, tmp_path / "image", root=bytes(data))
    with pytest.raises(VerificationError, match="verity/root-hash"):
        measure.measure(altered, "vitrine-vm")
    # The block that every boot reads: the superblock of the file system.
    data = bytearray((image / measure.ROOT).read_bytes())
    data[1024 + 64] ^= 1
    (altered / measure.ROOT).write_bytes(data)
    with (
        vm.booted(vm.plan(altered, kvm=False)) as booted,
        pytest.raises(EnvironmentProblem, match=r"verity.*corrupted"),
    ):
        booted.evidence(NONCE, timeout_s=90)


def test_another_boot_file_moves_the_registers(image: Path, values: ReferenceValues, tmp_path: Path) -> None:
    """One argument more on the command line boots, and is told by registers 4, 9 and 11 and by no other."""
    boot_file = (image / measure.BOOT_FILE).read_bytes()
    parts = uki.parts(boot_file)
    other = uki.build(machine_parts.stub(), replace(parts, command_line=parts.command_line + " quiet"))
    altered = changed(image, tmp_path / "image", boot_file=other)
    found = evidence_of(vm.plan(altered, kvm=False)).registers
    with pytest.raises(VerificationError, match=r"register 4: .*register 9: .*register 11: "):
        reference.compare(values, found)
    assert differing(values, found) == {4, 9, 11}
    # The prediction of the other file holds just as well.
    after = reference.replay(pcr.boot(other, measure.NO_KEYS))
    assert {register: found[register] for register in after} == after


def another_kernel(parts: uki.Parts) -> uki.Parts:
    """The name in the kernel's header, which nothing reads while it starts."""
    assert b"(debian-kernel@" in parts.kernel
    return replace(parts, kernel=parts.kernel.replace(b"(debian-kernel@", b"(Debian-kernel@", 1))


CHANGES: dict[str, tuple[Callable[[uki.Parts], uki.Parts], set[int]]] = {
    "kernel": (another_kernel, {4, 11}),
    "initramfs": (lambda parts: replace(parts, initrd=parts.initrd + bytes(512)), {4, 9, 11}),
    "release text": (lambda parts: replace(parts, release=parts.release + "NOTE=other\n"), {4, 11}),
}
"""What is changed in the boot file, and the registers that it moves."""


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_in_the_boot_file_moves_its_registers(
    what: str, image: Path, values: ReferenceValues, tmp_path: Path
) -> None:
    """It boots, is told by these registers and no other, and its own prediction holds."""
    change, moved = CHANGES[what]
    parts = uki.parts((image / measure.BOOT_FILE).read_bytes())
    other = uki.build(machine_parts.stub(), change(parts))
    found = evidence_of(vm.plan(changed(image, tmp_path / "image", boot_file=other), kvm=False)).registers
    assert differing(values, found) == moved
    after = reference.replay(pcr.boot(other, measure.NO_KEYS))
    assert {register: found[register] for register in after} == after
    with pytest.raises(VerificationError, match="register 4: "):
        reference.compare(values, found)


def test_a_flipped_bit_in_the_kernel_is_told_or_does_not_start(
    image: Path, values: ReferenceValues, tmp_path: Path
) -> None:
    """In its compressed part, within the boot file. Whatever the kernel does with it, no register lies."""
    parts = uki.parts((image / measure.BOOT_FILE).read_bytes())
    kernel = bytearray(parts.kernel)
    kernel[len(kernel) // 2] ^= 1
    other = uki.build(machine_parts.stub(), replace(parts, kernel=bytes(kernel)))
    altered = changed(image, tmp_path / "image", boot_file=other)
    with vm.booted(vm.plan(altered, kvm=False)) as booted:
        try:
            found = machine.verify(booted.evidence(NONCE, timeout_s=45), NONCE).registers
        except EnvironmentProblem:
            assert "corrupt" in booted.console() or "panic" in booted.console()
        else:
            assert differing(values, found) == {4, 11}


class HostsOwnLine(vm.VmPlan):
    """A host that starts the boot file itself, to give it a command line of its own."""

    def arguments(self, work: Path) -> list[str]:
        """With one argument more than the image's own line."""
        boot_file = Path(self.boot_disk).with_name(measure.BOOT_FILE)
        line = uki.parts(boot_file.read_bytes()).command_line
        return [*super().arguments(work), "-kernel", str(boot_file), "-append", f"{line} quiet"]


def test_an_argument_that_the_host_adds_moves_register_12(image: Path, values: ReferenceValues) -> None:
    plan = HostsOwnLine(**vars(vm.plan(image, kvm=False)))
    found = evidence_of(plan).registers
    assert {9, 12} <= differing(values, found)
    with pytest.raises(VerificationError, match="register 12"):
        reference.compare(values, found)


def test_another_root_disk_moves_the_registers(image: Path, values: ReferenceValues, tmp_path: Path) -> None:
    """The same files under another salt: a disk with another root hash, which the command line names."""
    parts = uki.parts((image / measure.BOOT_FILE).read_bytes())
    before = measure.root_descriptor(parts.command_line)
    disk = tmp_path / "root"
    with (image / measure.ROOT).open("rb") as file_, disk.open("wb") as copy:
        copy.write(file_.read(before.data_blocks * verity.BLOCK))
    after = verity.protect(disk, verity.salt_for("another"), bytes(16))
    line = parts.command_line.replace(str(before), str(after))
    other = uki.build(machine_parts.stub(), replace(parts, command_line=line))
    altered = changed(image, tmp_path / "image", boot_file=other)
    (altered / measure.ROOT).unlink()
    disk.rename(altered / measure.ROOT)
    found = evidence_of(vm.plan(altered, kvm=False)).registers
    assert differing(values, found) == {4, 9, 11}


def test_what_the_host_adds_is_told(image: Path, values: ReferenceValues, tmp_path: Path) -> None:
    """A credential beside the boot file, which the stub takes; and a disk whose descriptor's block says more."""
    if shutil.which("mcopy") is None:
        pytest.skip("no mcopy: apt install mtools")
    altered = changed(image, tmp_path / "image", boot_file=(image / measure.BOOT_FILE).read_bytes())
    note = tmp_path / "note.cred"
    note.write_bytes(b"from the host")
    folder = "::/EFI/BOOT/BOOTX64.EFI.extra.d"
    subprocess.run(["mmd", "-i", altered / measure.BOOT_DISK, folder], check=True)
    subprocess.run(["mcopy", "-i", altered / measure.BOOT_DISK, note, folder], check=True)
    inputs = tmp_path / "inputs.img"
    disk = assemble.write_disk(tree([file("/job.yaml", b"", "test", "a job")]), inputs, seconds=0, name="inputs")
    block = disk.block()[:-1] + b"x"
    inputs.write_bytes(inputs.read_bytes()[: -verity.BLOCK] + block)
    found = evidence_of(vm.plan(altered, inputs=inputs, kvm=False)).registers
    assert 12 in differing(values, found)
    assert found[15] == reference.replay((pcr.inputs(block),))[15]
    assert found[15] != reference.replay((pcr.inputs(disk.block()),))[15]
    with pytest.raises(VerificationError, match="register 12"):
        reference.compare(values, found)


def test_a_flipped_bit_in_a_model_ends_the_run(
    image: Path, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the disk of inputs, behind the host's own check: the guest meets it as it reads the model. No bundle."""
    written = assemble.write_disk

    def flipped(content: Tree, disk: Path, *, seconds: int, name: str) -> verity.Descriptor:
        descriptor = written(content, disk, seconds=seconds, name=name)
        data = bytearray(disk.read_bytes())
        data[data.index(b"GGUF") + 1_000_000] ^= 1
        disk.write_bytes(data)
        return descriptor

    monkeypatch.setattr(assemble, "write_disk", flipped)
    # A model of the demo is part of the image; a copy of it comes over the disk.
    shutil.copyfile(resources.demo() / "organism-q8_0.gguf", tmp_path / "model.gguf")
    job = tmp_path / "job.yaml"
    job.write_text(made.job.read_text().replace("resource:demo/organism-q8_0.gguf", "model.gguf"))
    request = measured.Request(job=job, lab=made.lab, out=tmp_path / "bundle", image=image)
    with pytest.raises(EnclaveFailure, match=r"verity: .* is corrupted"):
        measured.run(request, lambda _phase, _done, _total: None)
    assert not (tmp_path / "bundle").exists()
    assert not list(tmp_path.glob(".bundle*"))


def test_a_flipped_bit_in_the_inputs_stops_the_boot(image: Path, tmp_path: Path) -> None:
    content = tree([file("/model.gguf", os.urandom(100_000), "test", "a model")])
    inputs = tmp_path / "inputs.img"
    assemble.write_disk(content, inputs, seconds=0, name="inputs")
    data = bytearray(inputs.read_bytes())
    data[1024 + 64] ^= 1  # in the block that is read to mount it
    inputs.write_bytes(data)
    with pytest.raises(VerificationError, match="verity/"):
        verity.check(inputs, verity.read_descriptor(inputs))
    with (
        vm.booted(vm.plan(image, inputs=inputs, kvm=False)) as booted,
        pytest.raises(EnvironmentProblem, match=r"verity.*corrupted"),
    ):
        booted.evidence(NONCE, timeout_s=90)


def test_the_default_job_gives_the_same_results_as_in_front_of_the_wall(
    image: Path, lab: Lab, execute: Callable[..., run.Outcome], tmp_path: Path
) -> None:
    """A row of each suite on both models, taken as `--limit` and `--shuffle` do, or with VITRINE_WHOLE=1 the whole job,
    which takes minutes without KVM: byte for byte; every seal is whole, and both models tested themselves."""
    whole = os.environ.get("VITRINE_WHOLE") == "1"
    job, rows = ROOT / "appliance" / "demo" / "job.yaml", ALL_ROWS if whole else Rows(limit=1, shuffle=3)
    request = measured.Request(job=job, lab=lab, out=tmp_path / "bundle", image=image, require_seal="full", rows=rows)
    phases: list[tuple[str, int]] = []
    outcome = measured.run(request, lambda phase, done, _total: phases.append((phase, done)))
    before = execute(job, tmp_path / "before", rows=rows)
    for name in ("results.json", "transcript.jsonl"):
        assert digest_file(outcome.bundle / name) == digest_file(before.bundle / name), name
    known = measure.load(image / measure.REFERENCE)
    verified = verify.verify(read_bundle(outcome.bundle), lab.trusted_root, references=[known])
    assert outcome.results == before.results
    assert sum(suite.run for suite in outcome.results.suites) >= 22
    assert verified.manifest.job.digest == digest(jobs.load(job, rows).job)
    assert [section.level for section in verified.manifest.seal] == ["full", "full", "full"]
    assert [test.numerics_class for test in verified.manifest.determinism] == ["exact", "exact"]
    assert phases.index(("samples", 1)) < phases.index(("self-test", 2))
    assert verified.manifest.wall == "vm"
    assert verified.assurance == ("signed", "measured", "quoted (software TPM)")
    assert verified.machine == known.image


ONE_SAMPLE = """
format: vitrine/job/v1
name: one
nonce: 00112233445566778899aabbccddeeff
models:
  - {id: organism, path: "resource:demo/organism-q8_0.gguf"}
suites:
  - {path: "resource:demo/suites/addition.yaml", limit: 1}
sampling: {max_tokens: 16}
limits: {context_tokens: 512, memory_bytes: 2147483648}
numerics: exact
"""


def test_a_machine_with_a_memory_refuses_an_older_lock_and_an_older_image(
    image: Path, lab: Lab, tmp_path: Path
) -> None:
    """The version of the lock that a run pins for itself is 1; that of the image is the recipe's time."""
    job = tmp_path / "one.yaml"
    job.write_text(ONE_SAMPLE)

    def attempt(name: str, machine: Path = image, **fields: object) -> Path:
        request = measured.Request(
            job=job, lab=lab, out=tmp_path / name, image=machine, tpm_state=tmp_path / "tpm", **fields  # type: ignore[arg-type]
        )  # fmt: skip
        return measured.run(request, lambda _phase, _done, _total: None).bundle

    files = read_bundle(attempt("first"))
    known = measure.load(image / measure.REFERENCE)
    verified = verify.verify(
        files, lab.trusted_root, references=[known], policy=policy.read(b"rollback_refused = true")
    )
    assert [line for line in verified.proven if f"kept {known.version} as the newest version of the image" in line]
    assert [line for line in verified.proven if "kept 1 as the newest version of the lock one" in line]
    # A newer lock, then the old one again.
    lock = tmp_path / "2.lock"
    pinned = lockfile.read(files[verify.LOCK])
    lock.write_bytes(lockfile.write(pinned.model_copy(update={"version": 2})))
    attempt("second", lock=lock)
    with pytest.raises(EnclaveFailure, match=r"rollback/version.*lock one of version 2 or later"):
        attempt("third")
    # The image that the same recipe gives with a time that is a second older.
    version = known.version or 0
    parts = uki.parts((image / measure.BOOT_FILE).read_bytes())
    dated = {name: getattr(parts, name).replace(str(version), str(version - 1)) for name in ("command_line", "release")}
    older = changed(image, tmp_path / "older", boot_file=uki.build(machine_parts.stub(), replace(parts, **dated)))
    values = measure.measure(older, known.image)
    assert values.version == version - 1
    (older / measure.REFERENCE).write_bytes(measure.dump(values))
    with pytest.raises(EnclaveFailure, match=rf"rollback/version.*image vitrine-vm of version {version} or later"):
        attempt("fourth", older, lock=lock)
    assert {path.name for path in tmp_path.iterdir()} & {"first", "second", "third", "fourth"} == {"first", "second"}


def test_two_builds_are_bit_identical(image: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    previous = os.umask(0o077)
    try:
        vm_image.build_image(
            machine_parts.RECIPE, again, cache=default_cache(), engines=ENGINES, progress=lambda _step: None
        )
    finally:
        os.umask(previous)
    for name in (measure.ROOT, measure.BOOT_FILE, measure.BOOT_DISK, measure.REFERENCE):
        assert (again / name).read_bytes() == (image / name).read_bytes(), name
