"""Policy files: what is refused, and that the numbers are the kernel's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from appliance.seal import syscalls
from appliance.seal.policy import parse_policy, policy_digest, read_policy
from attest.errors import EnvironmentProblem, MalformedInput

HEAD = 'format = "vitrine/seccomp-policy/v1"\nname = "t"\ndefault = "EPERM"\n'
RULE = '[[allow]]\nwhy = "t"\ncalls = ["read"]\n'


def test_a_small_policy_is_read():
    policy = parse_policy((HEAD + RULE).encode(), "t")
    assert policy.allow[0].calls == ("read",)
    assert policy.refuse == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Field required"),
        ("format = ", "Invalid value"),
        (HEAD, "allow: Field required"),
        (HEAD + "allow = []\n", "at least 1 item"),
        (HEAD.replace("v1", "v2") + RULE, "Input should be 'vitrine/seccomp-policy/v1'"),
        (HEAD.replace('"t"', '"u"') + RULE, "expected the file's name"),
        (HEAD.replace("EPERM", "EMINE") + RULE, "expected the name of an error"),
        (HEAD.replace("EPERM", "errorcode") + RULE, "expected the name of an error"),
        (HEAD + RULE.replace("read", "reed"), "expected a system call of the table, found 'reed'"),
        (HEAD + RULE + "extra = 1\n", "Extra inputs"),
        (HEAD + RULE + "when = [{ arg = 6, among = [0] }]\n", "less than or equal to 5"),
        (HEAD + RULE + "when = [{ arg = 0, among = [] }]\n", "at least 1 item"),
        (HEAD + RULE + "when = [{ arg = 0, among = [-1] }]\n", "greater than or equal to 0"),
        (HEAD + RULE + 'when = [{ arg = 0, among = ["other"] }]\n', "'self'"),
        (HEAD + RULE + "when = [{ arg = 0, mask = 3, among = [4] }]\n", "expected values within the mask 0x3"),
        (HEAD + RULE + '[[refuse]]\nwhy = "t"\ncalls = ["read"]\nerror = "ENOSYS"\n', "found two for read"),
        (HEAD + RULE + '[[refuse]]\nwhy = "t"\ncalls = ["open", "open"]\nerror = "ENOSYS"\n', "found two for open"),
        (HEAD + RULE + '[[refuse]]\nwhy = "t"\ncalls = ["open"]\nerror = "ENOPE"\n', "expected the name of an error"),
    ],
)
def test_a_bad_policy_is_refused(text, problem):
    with pytest.raises(MalformedInput, match=re.escape(problem)):
        parse_policy(text.encode(), "t")


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(MalformedInput, match="utf-8"):
        parse_policy(b"\xff", "t")


def test_a_missing_policy_is_a_problem_of_the_installation():
    with pytest.raises(EnvironmentProblem, match="reinstall"):
        policy_digest("none")


@pytest.mark.parametrize("kind", ["model", "eval"])
def test_the_policies_give_reasons_and_name_no_way_out(kind):
    policy = parse_policy(read_policy(kind), kind)
    allowed = {name for rule in policy.allow for name in rule.calls}
    ways_out = """socket socketpair connect bind listen accept4 sendto sendmsg execve execveat fork vfork ptrace kill
        tkill process_vm_readv process_vm_writev io_uring_setup io_uring_enter bpf perf_event_open userfaultfd keyctl
        mount unshare setns memfd_create chroot pivot_root setresuid capset seccomp personality truncate ftruncate
        unlinkat renameat2 mkdirat pkey_mprotect shmat modify_ldt open_by_handle_at clone3 openat2"""
    assert allowed.isdisjoint(ways_out.split())
    conditional = {"openat", "mmap", "tgkill", "fcntl", "ioctl", "prlimit64"}
    conditional |= {"mprotect", "clone"} if kind == "model" else set()
    assert {name for rule in policy.allow if rule.when for name in rule.calls} == conditional
    assert conditional.isdisjoint(name for rule in policy.allow if not rule.when for name in rule.calls)
    assert all(len(rule.why) > 5 for rule in (*policy.allow, *policy.refuse))


X86_HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
GENERIC_HEADER = Path("/usr/include/asm-generic/unistd.h")


@pytest.mark.skipif(not X86_HEADER.exists(), reason="no kernel headers for x86-64")
def test_the_numbers_of_x86_64_are_the_kernels():
    numbers = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", X86_HEADER.read_text()))
    wrong = [name for name in syscalls.names() if int(numbers[name]) != syscalls.number(name, "x86_64")]
    assert wrong == []


@pytest.mark.skipif(not GENERIC_HEADER.exists(), reason="no generic kernel headers")
def test_the_numbers_of_aarch64_are_the_kernels():
    wanted = ["NEW_STAT", "SET_GET_RLIMIT", "RENAMEAT", "SYS_CLONE3", "MEMFD_SECRET", "TIME32_SYSCALLS"]
    defines = ["-D__BITS_PER_LONG=64", *(f"-D__ARCH_WANT_{name}" for name in wanted)]
    try:
        done = subprocess.run(["cc", "-E", "-dM", *defines, GENERIC_HEADER], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C preprocessor")
    numbers = dict(re.findall(r"#define (__NR\w*) (\S+)", done.stdout))

    def resolve(name: str) -> int | None:
        value = numbers.get(f"__NR_{name}")
        while value in numbers:
            value = numbers[value]
        return None if value is None else int(value)

    assert [name for name in syscalls.names() if resolve(name) != syscalls.number(name, "aarch64")] == []
