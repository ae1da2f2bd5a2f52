"""The compiled filters, decided by a tiny interpreter of classic BPF: a table of calls, and every call of a policy."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.seal import bpf, syscalls
from appliance.seal.bpf import AUDIT_ARCH, Program, compile_policy, encode
from appliance.seal.policy import SELF, Condition, parse_policy, read_policy
from attest.errors import MalformedInput

PID = 4321
KINDS = ("model", "eval")
ARCHITECTURES = ("x86_64", "aarch64")
THREAD = 0x3D0F00
KILL = "kill"
ALLOW = "allow"


def interpret(program: Program, number: int, arguments: tuple[int, ...] = (), arch: int = AUDIT_ARCH["x86_64"]) -> str:
    """`allow`, `kill`, or the name of the error, as the kernel would decide."""
    words = [argument & 2**64 - 1 for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number, arch, 0, *words)
    accumulator, position = 0, 0
    while True:
        code, when_true, when_false, operand = program[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x15:
            position += when_true if accumulator == operand else when_false
        elif code == 0x35:
            position += when_true if accumulator >= operand else when_false
        elif code == 0x06:
            return _verdict(operand)
        else:
            raise AssertionError(f"unknown instruction {code:#x}")


def _verdict(value: int) -> str:
    if value == 0x7FFF0000:
        return ALLOW
    if value == 0x80000000:
        return KILL
    assert value & 0xFFFF0000 == 0x00050000, hex(value)
    return errno.errorcode[value & 0xFFFF]


def program_of(kind: str, architecture: str = "x86_64") -> Program:
    return compile_policy(parse_policy(read_policy(kind), kind), architecture, PID)  # type: ignore[arg-type]


O_CREAT, O_TRUNC, O_APPEND, O_TMPFILE, O_CLOEXEC, O_DIRECTORY, O_PATH = (
    0o100, 0o1000, 0o2000, 0o20200000, 0o2000000, 0o200000, 0o10000000,
)  # fmt: skip

TABLE = [
    # reading and writing what is open, opening for reading
    ("read", (0, 0, 10), ALLOW),
    ("write", (1, 0, 10), ALLOW),
    ("openat", (-100, 1, O_CLOEXEC), ALLOW),
    ("openat", (-100, 1, O_CLOEXEC | O_DIRECTORY), ALLOW),
    ("openat", (-100, 1, O_CLOEXEC | 0xFFFF << 32), ALLOW),  # the kernel takes an int
    ("openat", (-100, 1, 1), "EPERM"),
    ("openat", (-100, 1, 2), "EPERM"),
    ("openat", (-100, 1, 3), "EPERM"),
    ("openat", (-100, 1, O_CREAT), "EPERM"),
    ("openat", (-100, 1, O_TRUNC), "EPERM"),
    ("openat", (-100, 1, O_PATH), "EPERM"),
    ("openat", (-100, 1, O_TMPFILE | 2), "EPERM"),
    ("openat2", (-100, 1, 0, 24), "ENOSYS"),
    ("ftruncate", (3, 0), "EPERM"),
    ("pwrite64", (3, 0, 1, 0), "EPERM"),
    ("open", (1, 0, 0), "EPERM"),
    ("stat", (1, 1), "EPERM"),
    # memory that is not executable
    ("mmap", (0, 4096, 3, 0x22), ALLOW),
    ("mmap", (0, 4096, 5, 2), "EPERM"),
    ("mmap", (0, 4096, 7, 0x22), "EPERM"),
    ("mprotect", (4096, 4096, 4), "EPERM"),
    ("pkey_mprotect", (4096, 4096, 1, 0), "EPERM"),
    ("memfd_create", (1, 0), "EPERM"),
    ("shmget", (1, 4096, 0), "EPERM"),
    ("personality", (0x0400000,), "EPERM"),
    # threads at most, and nothing else
    ("clone", (THREAD | 0x400000,), "EPERM"),
    ("clone", (17,), "EPERM"),
    ("clone", (0x4111,), "EPERM"),
    ("clone", (THREAD | 0x10000000,), "EPERM"),
    ("clone", (THREAD | 0x20000,), "EPERM"),
    ("clone", (THREAD | 0x2000,), "EPERM"),
    ("clone", (THREAD | 1 << 32,), "EPERM"),
    ("clone3", (0, 88), "ENOSYS"),
    ("execve", (0, 0, 0), "EPERM"),
    ("execveat", (3, 0, 0, 0, 0x1000), "EPERM"),
    ("unshare", (0,), "EPERM"),
    ("setns", (3, 0), "EPERM"),
    # signals to itself
    ("tgkill", (PID, PID, 6), ALLOW),
    ("tgkill", (PID + 1, PID + 1, 6), "EPERM"),
    ("tgkill", (PID | 1 << 32, PID, 6), "EPERM"),
    ("kill", (PID, 0), "EPERM"),
    ("tkill", (PID, 9), "EPERM"),
    ("pidfd_open", (PID, 0), "EPERM"),
    # descriptors
    ("fcntl", (3, 1030, 0), ALLOW),
    ("fcntl", (3, 4, 0), "EPERM"),
    ("fcntl", (3, 8, 1), "EPERM"),
    ("fcntl", (3, 1033, 0), "EPERM"),
    ("fcntl", (3, 0, 9), "EPERM"),
    ("fcntl", (3, 2, 0), "EPERM"),
    ("ioctl", (0, 0x5401, 1), ALLOW),
    ("ioctl", (0, 0x5421, 1), "EPERM"),
    ("ioctl", (0, 0x5412, 1), "EPERM"),
    ("ioctl", (0, 0x5401 | 1 << 32, 1), "EPERM"),
    # limits, names, entropy
    ("uname", (1,), "EPERM"),
    ("getrandom", (1, 8, 0), "EPERM"),
    ("clock_nanosleep", (0, 0, 1, 0), "EPERM"),
    ("prlimit64", (0, 7, 0, 1), ALLOW),
    ("prlimit64", (0, 7, 1, 0), "EPERM"),
    ("prlimit64", (1, 7, 0, 1), "EPERM"),
    ("prctl", (15, 1), "EPERM"),
    ("prctl", (16, 1), "EPERM"),
    ("prctl", (1, 0), "EPERM"),
    ("prctl", (4, 1), "EPERM"),
    ("prctl", (22, 2, 0), "EPERM"),
    # other worlds
    ("socket", (2, 1, 0), "EPERM"),
    ("socketpair", (1, 1, 0, 0), "EPERM"),
    ("connect", (3, 0, 0), "EPERM"),
    ("sendmsg", (3, 0, 0), "EPERM"),
    ("ptrace", (0,), "EPERM"),
    ("process_vm_readv", (1,), "EPERM"),
    ("io_uring_setup", (1,), "EPERM"),
    ("bpf", (0,), "EPERM"),
    ("perf_event_open", (0,), "EPERM"),
    ("userfaultfd", (1,), "EPERM"),
    ("keyctl", (0,), "EPERM"),
    ("mount", (0,), "EPERM"),
    ("chroot", (0,), "EPERM"),
    ("setresuid", (0, 0, 0), "EPERM"),
    ("capset", (0, 0), "EPERM"),
    ("open_by_handle_at", (3, 0, 0), "EPERM"),
]


MODEL_ALONE = [
    ("clone", (THREAD,)),
    ("set_robust_list", (0, 24)),
    ("rseq", (0, 32, 0, 0)),
    ("exit", (0,)),
    ("sched_getaffinity", (0, 128, 1)),
    ("mprotect", (4096, 4096, 3)),
    ("madvise", (4096, 4096, 4)),
    ("fcntl", (3, 3, 0)),
    ("fadvise64", (3, 0, 0, 2)),
    ("sysinfo", (1,)),
]
"""What the engine needs, and the eval worker never asks for."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("name", "arguments"), MODEL_ALONE)
def test_what_only_the_engine_needs_is_allowed_to_it_alone(architecture, name, arguments):
    number = syscalls.number(name, architecture)
    assert number is not None
    audit = AUDIT_ARCH[architecture]
    assert interpret(program_of("model", architecture), number, arguments, audit) == ALLOW
    assert interpret(program_of("eval", architecture), number, arguments, audit) == "EPERM"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "arguments", "expected"), TABLE)
def test_the_table(kind, architecture, name, arguments, expected):
    number = syscalls.number(name, architecture)
    if number is None:
        assert (name, architecture) in {("open", "aarch64"), ("stat", "aarch64")}
        return
    program = program_of(kind, architecture)
    assert interpret(program, number, arguments, AUDIT_ARCH[architecture]) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_decides_as_the_policy_says(kind, architecture):
    """Every known call with no arguments, and with every argument all ones: the verdict by a direct reading."""
    policy = parse_policy(read_policy(kind), kind)
    program = program_of(kind, architecture)
    refused = {name: rule.error for rule in policy.refuse for name in rule.calls}
    for arguments in ((0,) * 6, (2**64 - 1,) * 6):
        for name in syscalls.names():
            number = syscalls.number(name, architecture)
            if number is None:
                continue
            ways = [rule.when for rule in policy.allow if name in rule.calls]
            allowed = any(all(_holds(one, arguments) for one in when) for when in ways)
            expected = ALLOW if allowed else refused.get(name, "EPERM")
            assert interpret(program, number, arguments, AUDIT_ARCH[architecture]) == expected, name


def _holds(condition: Condition, arguments: tuple[int, ...]) -> bool:
    values = [PID if value == SELF else value for value in condition.among]
    return arguments[condition.arg] & condition.mask in values


@settings(max_examples=300)
@given(
    arg=st.integers(0, 5),
    mask=st.integers(1, 2**64 - 1),
    value=st.integers(0, 2**64 - 1),
    arguments=st.tuples(*[st.integers(0, 2**64 - 1)] * 6),
    equal=st.booleans(),
)
def test_a_condition_compares_all_64_bits(arg, mask, value, arguments, equal):
    text = (
        'format = "vitrine/seccomp-policy/v1"\nname = "t"\ndefault = "EACCES"\n[[allow]]\nwhy = "t"\ncalls = ["read"]\n'
        f"when = [{{ arg = {arg}, mask = {_toml(mask)}, among = [{_toml(value & mask)}] }}]\n"
    )
    try:
        policy = parse_policy(text.encode(), "t")
    except MalformedInput:
        assert max(mask, value & mask) >= 2**63  # beyond the integers of TOML
        return
    if equal:
        arguments = (*arguments[:arg], arguments[arg] & ~mask | value & mask, *arguments[arg + 1 :])
    program = compile_policy(policy, "x86_64", PID)
    expected = ALLOW if arguments[arg] & mask == value & mask else "EACCES"
    assert interpret(program, 0, arguments) == expected


def _toml(value: int) -> str:
    return hex(value)


@pytest.mark.parametrize("kind", KINDS)
def test_other_architectures_and_x32_are_killed(kind):
    program = program_of(kind)
    assert interpret(program, 0) == ALLOW
    assert interpret(program, 0, arch=AUDIT_ARCH["aarch64"]) == KILL
    assert interpret(program, 0, arch=0x40000003) == KILL  # AUDIT_ARCH_I386, int 0x80
    assert interpret(program, 0x40000000) == KILL
    assert interpret(program, 0x40000000 | 39) == KILL
    assert interpret(program, 2**32 - 1) == KILL
    assert interpret(program_of(kind, "aarch64"), 63, arch=AUDIT_ARCH["x86_64"]) == KILL


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_numbers_are_refused(kind):
    named = {syscalls.number(name, "x86_64") for name in syscalls.names()}
    program = program_of(kind)
    for number in range(600):
        if number not in named:
            assert interpret(program, number) == "EPERM", number


@pytest.mark.parametrize("kind", KINDS)
def test_programs_are_well_formed(kind):
    program = program_of(kind)
    for position, step in enumerate(program):
        if step.code in (bpf.JUMP_EQUAL, bpf.JUMP_AT_LEAST):
            assert position + 1 + max(step.when_true, step.when_false) < len(program)
    assert program[-1].code == bpf.RETURN
    assert len(encode(program)) == 8 * len(program)
    assert struct.unpack_from("=HBBI", encode(program)) == (0x20, 0, 0, 4)


def test_a_rule_that_is_too_long_is_refused():
    among = ", ".join(str(number) for number in range(100))
    text = (
        'format = "vitrine/seccomp-policy/v1"\nname = "t"\ndefault = "EPERM"\n[[allow]]\nwhy = "t"\ncalls = ["ioctl"]\n'
        f"when = [{{ arg = 1, among = [{among}] }}]\n"
    )
    with pytest.raises(MalformedInput, match="expected a jump of at most 255"):
        compile_policy(parse_policy(text.encode(), "t"), "x86_64", PID)


def test_an_unconditional_rule_wins():
    text = (
        'format = "vitrine/seccomp-policy/v1"\nname = "t"\ndefault = "EPERM"\n'
        '[[allow]]\nwhy = "t"\ncalls = ["read"]\nwhen = [{ arg = 0, among = [7] }]\n'
        '[[allow]]\nwhy = "t"\ncalls = ["read"]\n'
    )
    program = compile_policy(parse_policy(text.encode(), "t"), "x86_64", PID)
    assert interpret(program, 0, (8,)) == ALLOW
