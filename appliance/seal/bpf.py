"""Compiles a seccomp policy to classic BPF, without libseccomp.

The program refuses other architectures and the x32 numbers by killing the process, because their system call numbers
mean something else. Then it compares the number with each call of the policy in turn. The kernel precomputes the
verdict of calls that are allowed whatever their arguments, so the length of the chain costs nothing for these.

Instructions are `struct sock_filter` (linux/filter.h): code, jump if true, jump if false, operand. The program reads
`struct seccomp_data` (linux/seccomp.h): number at offset 0, architecture at 4, six 64-bit arguments from 16.
"""

from __future__ import annotations

import itertools
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from appliance.seal import syscalls
from appliance.seal.policy import SELF, Condition, SeccompPolicy, error_number
from attest.errors import MalformedInput

# linux/bpf_common.h: class | size | mode, class | operation | source
LOAD_WORD = 0x20
JUMP_EQUAL = 0x15
JUMP_AT_LEAST = 0x35
AND = 0x54
RETURN = 0x06

# linux/seccomp.h
RET_KILL_PROCESS = 0x80000000
RET_ERRNO = 0x00050000
RET_ALLOW = 0x7FFF0000

# linux/audit.h
AUDIT_ARCH: dict[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000  # __X32_SYSCALL_BIT of asm/unistd.h, x86

OFFSET_NUMBER, OFFSET_ARCHITECTURE, OFFSET_ARGUMENTS = 0, 4, 16
LONGEST_JUMP = 255
LONGEST_PROGRAM = 4096  # BPF_MAXINSNS of linux/bpf_common.h
LOW = 2**32 - 1


class Instruction(NamedTuple):
    """One `struct sock_filter`."""

    code: int
    """Operation."""
    when_true: int
    """Instructions to skip when a comparison holds."""
    when_false: int
    """Instructions to skip when it does not."""
    operand: int
    """32-bit constant."""


Program = tuple[Instruction, ...]


def compile_policy(policy: SeccompPolicy, architecture: syscalls.Architecture, process_id: int) -> Program:
    """`policy` as a program for `architecture`, where `self` is `process_id`.

    Raises `MalformedInput` when a rule is too long for one jump or the program for the kernel.
    """
    program = [
        Instruction(LOAD_WORD, 0, 0, OFFSET_ARCHITECTURE),
        Instruction(JUMP_EQUAL, 1, 0, AUDIT_ARCH[architecture]),
        Instruction(RETURN, 0, 0, RET_KILL_PROCESS),
        Instruction(LOAD_WORD, 0, 0, OFFSET_NUMBER),
    ]
    if architecture == "x86_64":
        program += [Instruction(JUMP_AT_LEAST, 0, 1, X32_BIT), Instruction(RETURN, 0, 0, RET_KILL_PROCESS)]
    default = RET_ERRNO | error_number(policy.default)
    for name, ways in _allowed(policy).items():
        program += _call(name, architecture, _verdict(ways, default, process_id))
    for refusal in policy.refuse:
        verdict = [Instruction(RETURN, 0, 0, RET_ERRNO | error_number(refusal.error))]
        for name in refusal.calls:
            program += _call(name, architecture, verdict)
    program.append(Instruction(RETURN, 0, 0, default))
    if len(program) > LONGEST_PROGRAM:
        raise MalformedInput(f"seccomp policy {policy.name}", f"expected {LONGEST_PROGRAM} steps, found {len(program)}")
    return tuple(program)


def encode(program: Program) -> bytes:
    """`program` as the kernel reads it: 8 bytes an instruction, in the byte order of this machine."""
    order = "<" if sys.byteorder == "little" else ">"
    return b"".join(struct.pack(f"{order}HBBI", *step) for step in program)


def _allowed(policy: SeccompPolicy) -> dict[str, list[tuple[Condition, ...]]]:
    """Each allowed call, with the ways in which it may be made."""
    calls: dict[str, list[tuple[Condition, ...]]] = {}
    for rule in policy.allow:
        for name in rule.calls:
            calls.setdefault(name, []).append(rule.when)
    return calls


def _call(name: str, architecture: syscalls.Architecture, verdict: list[Instruction]) -> list[Instruction]:
    """Return `verdict` for the call `name`, fall through for others."""
    number = syscalls.number(name, architecture)
    if number is None:
        return []
    return [Instruction(JUMP_EQUAL, 0, _jump(len(verdict), name), number), *verdict]


def _verdict(ways: list[tuple[Condition, ...]], default: int, process_id: int) -> list[Instruction]:
    """Allow when one of `ways` holds. An unconditional one wins, and leaves a verdict that needs no argument."""
    allow = Instruction(RETURN, 0, 0, RET_ALLOW)
    if () in ways:
        return [allow]
    steps: list[Instruction] = []
    for conditions in ways:
        for values in itertools.product(*(condition.among for condition in conditions)):
            steps += _all_hold(list(zip(conditions, values, strict=True)), process_id, allow)
    return [*steps, Instruction(RETURN, 0, 0, default)]


def _all_hold(pairs: list[tuple[Condition, int | str]], process_id: int, allow: Instruction) -> list[Instruction]:
    """Allow when every comparison holds, fall through at the first that does not."""
    tests = [test for condition, value in pairs for test in _halves(condition, value, process_id)]
    left = sum(len(test) for test in tests) + 1
    steps: list[Instruction] = []
    for test in tests:
        left -= len(test)
        steps += [*test[:-1], test[-1]._replace(when_false=_jump(left, "a condition"))]
    return [*steps, allow]


def _halves(condition: Condition, value: int | str, process_id: int) -> Iterator[list[Instruction]]:
    """The comparisons of one 64-bit argument by 32-bit halves; a half that the mask leaves out is not looked at."""
    wanted = process_id if value == SELF else int(value)
    offset = OFFSET_ARGUMENTS + 8 * condition.arg
    for shift in (0, 32):
        mask, half = condition.mask >> shift & LOW, wanted >> shift & LOW
        if mask == 0 and half == 0:
            continue
        second = (shift == 32) == (sys.byteorder == "little")
        test = [Instruction(LOAD_WORD, 0, 0, offset + 4 * second)]
        if mask != LOW:
            test.append(Instruction(AND, 0, 0, mask))
        yield [*test, Instruction(JUMP_EQUAL, 0, 0, half)]


def _jump(steps: int, what: str) -> int:
    if steps > LONGEST_JUMP:
        raise MalformedInput("seccomp policy", f"expected a jump of at most {LONGEST_JUMP}, found {steps} at {what}")
    return steps
