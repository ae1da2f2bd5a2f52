"""The doctor: what it finds is what is there, what it advises fits, and it changes nothing and takes no time."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.attester import host
from appliance.enclave import built, capacity, devices, doctor, kvm, layers, runtimes
from appliance.enclave.doctor import Report
from appliance.enclave.finding import MAX_FOUND_CHARS, Finding, missing, ok
from appliance.enclave.runtimes import Program
from appliance.notary import hold
from appliance.seal import landlock
from attest.errors import EnvironmentProblem
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it examines Linux")


@pytest.fixture(scope="module")
def report() -> Report:
    """What this host offers."""
    return doctor.examine()


def test_every_finding_says_what_to_do_unless_all_is_well(report: Report) -> None:
    ids = [finding.id for finding in report.findings]
    assert len(set(ids)) == len(ids)
    for finding in report.findings:
        assert finding.found
        assert finding.needed_for
        assert bool(finding.advice) == (finding.state != "ok"), finding
    assert {"kernel", "landlock", "memory-files", "kvm", "tpm", "podman", "runc", "bwrap", "swap", "clock"} <= set(ids)


def test_layers_are_those_of_a_worker_that_sealed_itself(report: Report) -> None:
    sealed = report.finding("seal")
    assert sealed is not None
    if sealed.state != "ok":
        pytest.skip(f"no worker can be sealed here: {sealed.found}")
    states = [finding.state for finding in report.findings if finding.id.startswith("seal-")]
    assert len(states) > 10
    wall = report.walls[0]
    assert (wall.name, wall.usable) == ("process", True)
    assert wall.level == ("full" if set(states) == {"ok"} else "partial")
    assert report.finding("landlock") == ok("landlock", "Landlock", f"ABI {landlock.abi()}", ("process",))


def test_what_is_built_is_looked_for_where_runs_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    looks = (built.engine, built.image, built.machine)
    assert [(finding.id, finding.state) for finding in (look() for look in looks)] == [
        ("engine", "missing"), ("image", "missing"), ("machine", "missing"),
    ]  # fmt: skip
    engine = tmp_path / "cache" / "vitrine" / "engine" / "x86-64-v3"
    for path in (engine / "record.json", tmp_path / "build/image/cpu/index.json", tmp_path / "build/vm/reference.json"):
        path.parent.mkdir(parents=True)
        path.touch()
    assert [look().found for look in looks] == [str(engine), "build/image/cpu", "build/vm"]


def test_text_and_json_are_made_of_the_same_data(report: Report) -> None:
    text = doctor.render(report)
    for finding in report.findings:
        assert f"{finding.name}: {finding.found}" in text
        assert not finding.advice or f"{finding.id} (for {', '.join(finding.needed_for)}): {finding.advice}" in text
    again = Report.model_validate_json(json.dumps(report.model_dump(mode="json")))
    assert again == report


def test_it_is_quick_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = (
        "import time; from appliance.enclave import doctor; start = time.monotonic(); doctor.examine(); "
        "print(time.monotonic() - start)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True) for _ in range(2)]
    assert all(run.returncode == 0 for run in runs), runs[0].stderr
    assert min(float(run.stdout) for run in runs) < 2 * (1 + load())
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_it_and_ends_with_what_can_be_done() -> None:
    command = [sys.executable, "-m", "appliance", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    made = Report.model_validate_json(done.stdout)
    assert done.returncode == (0 if made.usable else 1), done.stderr
    text = subprocess.run(command[:-1], capture_output=True, text=True, cwd=ROOT, timeout=60).stdout
    assert [line.split()[1] for line in text.splitlines()[:3]] == ["process", "container", "vm"]


def load() -> float:
    """How many others want each processor: this test may run beside others."""
    return os.getloadavg()[0] / len(os.sched_getaffinity(0))


class TestJudge:
    """Which walls can be used is a function of what was found."""

    def walls(self, *good: str, bad: tuple[str, ...] = (), level: layers.SealLevel | None = "full") -> dict[str, str]:
        findings = [ok(name, name, "there", ("process",)) for name in good]
        findings += [missing(name, name, "none", ("process",), "get it") for name in bad]
        return {wall.name: f"{wall.usable} {wall.level} {wall.why}" for wall in doctor.judge(findings, level)}

    def test_nothing_but_a_kernel(self) -> None:
        assert self.walls("kernel", "seal", "memory-files", bad=("podman", "runc", "bwrap", "qemu")) == {
            "process": "True full every worker seals itself",
            "container": "False None lacks a runtime that works",
            "vm": "False None lacks qemu, ovmf, swtpm",
        }

    def test_any_runtime_that_works_will_do(self) -> None:
        assert self.walls("runc", "bwrap", "seal", bad=("podman",))["container"] == "True None by runc or bubblewrap"
        assert self.walls("bwrap", "podman", "seal")["container"] == "True None by podman or bubblewrap"

    def test_a_seal_that_fails_takes_the_walls_around_it_too(self) -> None:
        walls = self.walls("bwrap", "qemu", "ovmf", "swtpm", "kvm", bad=("seal",), level=None)
        assert walls == {
            "process": "False None lacks seal",
            "container": "False None lacks the seal",
            "vm": "True None with KVM",  # it has a kernel of its own
        }

    def test_an_image_that_is_not_built_yet_is_said_beside_the_wall(self) -> None:
        walls = self.walls("runc", "seal", "qemu", "ovmf", "swtpm", "kvm", bad=("image", "machine"))
        assert walls["container"] == "True None by runc; its image is still to be built"
        assert walls["vm"] == "True None with KVM; its image is still to be built"

    def test_a_vm_without_kvm_is_emulated(self) -> None:
        assert "emulation" in self.walls("qemu", "ovmf", "swtpm", bad=("kvm",))["vm"]

    def test_the_seals_level_is_the_process_walls(self) -> None:
        assert self.walls("seal", level="partial")["process"].startswith("True partial")


class TestPrograms:
    """A program is found, asked for its version, and tried."""

    def program(self, folder: Path, body: str, monkeypatch: pytest.MonkeyPatch, **fields: object) -> Finding:
        path = folder / "vitrine-tool"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        made = Program("tool", "vitrine-tool", ("--version",), ("container",), "apt install tool")
        return runtimes.look(made._replace(**fields))  # type: ignore[arg-type]

    def test_absent(self) -> None:
        found = runtimes.look(Program("tool", "vitrine-no-such-tool", (), ("vm",), "apt install tool"))
        assert (found.state, found.advice) == ("missing", "apt install tool")

    def test_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.program(tmp_path, "echo tool 1.2; echo more", monkeypatch)
        assert (found.state, found.found) == ("ok", f"tool 1.2 in {tmp_path / 'vitrine-tool'}, not tried")

    def test_there_and_broken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.program(tmp_path, "echo 'cannot load libtool.so' >&2; exit 127", monkeypatch)
        assert (found.state, found.found) == ("unusable", "cannot load libtool.so")

    def test_there_and_fails_its_trial(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.program(tmp_path, "echo 1", monkeypatch, trial=lambda _path: "no namespaces")
        assert (found.state, found.found) == ("unusable", "1: no namespaces")
        assert "apt install tool" in found.advice

    def test_one_that_hangs_is_killed(self) -> None:
        start = time.monotonic()
        done = runtimes.run(["sleep", "60"], timeout_s=0.2)
        assert time.monotonic() - start < 10
        assert (done.status, "within 0.2 s" in done.words) == (-1, True)

    def test_what_it_prints_is_cut_and_cleaned(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.program(tmp_path, "printf '\\033[31m%01000d' 7", monkeypatch)
        assert "\x1b" not in found.found
        assert len(found.found) <= MAX_FOUND_CHARS

    def test_a_trial_is_real(self) -> None:
        path = shutil.which("bwrap")
        if path is None:
            pytest.skip("no bubblewrap here")
        works = subprocess.run([path, "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True)
        assert (runtimes._try_bwrap(path) == "") == (works.returncode == 0)

    def test_a_container_is_started_and_nothing_stays(self) -> None:
        path = shutil.which("runc")
        if path is None:
            pytest.skip("no runc here")
        before, containers = mounts(), subprocess.run([path, "list"], capture_output=True).stdout
        problem = runtimes._try_runc(path)
        assert (mounts(), subprocess.run([path, "list"], capture_output=True).stdout) == (before, containers)
        assert problem == "" or os.geteuid() != 0, problem

    def test_a_container_of_a_program_that_fails_is_not_taken_for_a_success(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = shutil.which("runc")
        if path is None:
            pytest.skip("no runc here")
        monkeypatch.setattr(runtimes, "_true", lambda: "/usr/bin/false")
        assert runtimes._try_runc(path)


def mounts() -> set[str]:
    """Where something is mounted."""
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


class TestDevices:
    """A device is there, answers, or says why not."""

    def test_kvm_is_what_a_guest_says(self) -> None:
        found = devices.virtual_machines()
        if not Path(kvm.DEVICE).exists():
            assert found.state == "missing"
            return
        done = subprocess.run([sys.executable, "-I", "-S", kvm.__file__], capture_output=True, text=True, timeout=60)
        assert (done.returncode == 0) == (found.state == "ok"), (done, found)

    def test_a_guest_that_never_returns_counts_as_unusable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not os.access(kvm.DEVICE, os.R_OK | os.W_OK):
            pytest.skip("no access to /dev/kvm here")
        hanging = tmp_path / "hanging.py"
        hanging.write_text("import time; time.sleep(60)\n")
        monkeypatch.setattr(kvm, "__file__", str(hanging))
        assert devices.virtual_machines().state == "unusable"

    @pytest.mark.parametrize(
        ("answer", "state"),
        [
            ("80010000001400000000" + "0008" + "1122334455667788", "ok"),
            ("80010000000a00000101", "unusable"),  # TPM_RC_FAILURE
            ("8001", "unusable"),
            ("", "unusable"),
        ],
    )
    def test_a_tpm_is_asked(self, answer: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "TPM_TIMEOUT_S", 0.3)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(bytes.fromhex(answer))
            assert (devices.ask(theirs.fileno()) == "") == (state == "ok")
            assert ours.recv(100) == bytes.fromhex("80010000000c0000017b0008")

    def test_no_tpm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "TPM", tmp_path / "tpmrm0")
        assert devices.tpm().state == "missing"

    def test_what_would_speak_for_a_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host, "found", lambda _: ())
        assert (devices.attester().state, "--wall vm" in devices.attester().advice) == ("missing", True)
        monkeypatch.setattr(host, "found", lambda _: ("sev-snp", "tpm"))
        assert devices.attester().found == "appliance run --attester sev-snp,tpm"

    def test_confidential_guests(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "TSM_REPORTS", tmp_path / "report")
        monkeypatch.setattr(devices, "GUEST_DEVICES", {"sev-guest": tmp_path / "sev-guest"})
        assert devices.confidential_guest().state == "missing"
        (tmp_path / "sev-guest").touch()
        assert devices.confidential_guest().state == "unusable"
        (tmp_path / "report").mkdir()
        assert devices.confidential_guest().state == "ok"

    @pytest.mark.parametrize(
        ("switch", "flags", "state"),
        [("Y", "fpu sev_snp", "ok"), ("N", "fpu sev_snp", "unusable"), ("N", "fpu", "missing"), ("", "fpu", "missing")],
    )
    def test_confidential_hosts(
        self, switch: str, flags: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "sev_snp").write_text(f"{switch}\n")
        monkeypatch.setattr(devices, "HOST_SWITCHES", {"AMD SEV-SNP": tmp_path / "sev_snp"})
        assert devices.confidential_host(f"flags\t\t: {flags}\n").state == state


class TestCapacity:
    """What a run takes of any host."""

    def test_a_processor_without_avx2_is_told_so(self) -> None:
        findings = {finding.id: finding for finding in capacity.processor("flags\t\t: fpu sse2 sse4_2 avx\n")}
        if os.uname().machine != "x86_64":
            pytest.skip("the profiles are for x86-64")
        assert findings["cpu-x86-64-v3"].state == "missing"
        assert "avx2" in findings["cpu-x86-64-v3"].found
        assert findings["cpu-portable"].state == "ok"

    def test_this_processor(self) -> None:
        cpuinfo = Path("/proc/cpuinfo").read_text()
        findings = {finding.id: finding.state for finding in capacity.processor(cpuinfo)}
        assert (findings["cpu-x86-64-v3"] == "ok") == (
            " avx2 " in cpuinfo and " fma " in cpuinfo and " f16c " in cpuinfo
        )

    @pytest.mark.parametrize(
        ("meminfo", "state"),
        [("MemAvailable:    8000000 kB\n", "ok"), ("MemAvailable:     100000 kB\n", "unusable"), ("", "missing")],
    )
    def test_memory(self, meminfo: str, state: str) -> None:
        assert capacity.memory("MemTotal:       99999999 kB\n" + meminfo).state == state

    def test_a_disk_that_is_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert capacity.disk(tmp_path / "nothing").state == "unusable"
        monkeypatch.setattr(capacity, "DISK_BYTES", 1 << 60)
        assert capacity.disk(tmp_path).state == "unusable"

    def test_a_clock_that_is_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert capacity.clock().state == "ok"
        monkeypatch.setattr(time, "time", lambda: 86400.0)
        found = capacity.clock()
        assert (found.state, found.found) == ("unusable", "1970-01-02T00:00:00Z")

    @pytest.mark.parametrize(
        ("lines", "state"),
        [
            ("", "ok"),
            ("/dev/zram0  partition 1000 0 100\n", "ok"),
            ("/swap\\040file  file 1000 0 -2\n", "unusable"),
            ("/dev/zram0 partition 1000 0 100\n/dev/sda2 partition 1000 0 -2\n", "unusable"),
        ],
    )
    def test_swap(self, lines: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "swaps").write_text("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" + lines)
        monkeypatch.setattr(hold, "SWAPS", tmp_path / "swaps")
        found = capacity.swap()
        assert found.state == state
        assert state == "ok" or "swapoff -a" in found.advice


class TestSeal:
    """A seal that cannot be is reported with its last words."""

    @pytest.fixture
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        def attempt(*_arguments: object) -> None:
            raise EnvironmentProblem("landlock: expected ABI 1 or later, found none")

        monkeypatch.setattr(layers, "attempt", attempt)
        yield

    @pytest.mark.usefixtures("refused")
    def test_no_seal(self) -> None:
        examined = layers.examine()
        assert examined.level is None
        seal = next(finding for finding in examined.findings if finding.id == "seal")
        assert (seal.state, seal.found) == ("unusable", "landlock: expected ABI 1 or later, found none")
        assert not Report(walls=doctor.judge(examined.findings, None), findings=examined.findings).usable


def test_kvm_trial_needs_nothing_of_the_project() -> None:
    mode = Path(kvm.__file__).stat().st_mode
    assert stat.S_ISREG(mode)
    assert "import appliance" not in Path(kvm.__file__).read_text()
    assert "from appliance" not in Path(kvm.__file__).read_text()
