"""The container's system call policy: readable data in `policy/container/seccomp.toml`, rendered for each runtime.

The same rules as the JSON of the OCI runtime specification (runc, podman), and as classic BPF by the compiler of
`appliance.seal` (bubblewrap). Conditions on the caller's own process id have no meaning for many processes and are
refused; so is a call that neither table of numbers knows.
"""

from __future__ import annotations

import itertools
import json
import sys
import tomllib
from typing import Any

from appliance import resources
from appliance.seal import bpf, kernel, syscalls
from appliance.seal.policy import SELF, WORD_MAX, Allowance, Condition, Refusal, SeccompPolicy, error_number
from attest import canonical
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput

WHAT = "seccomp policy container"
NAME = "container"

# What whole process trees need and sealed workers never do. Origin as in `appliance.seal.syscalls`.
# fmt: off
TREE_CALLS: dict[str, tuple[int, int | None]] = {
    "pipe": (22, None), "pipe2": (293, 59), "dup2": (33, None), "dup3": (292, 24), "pwritev": (296, 70),
    "preadv2": (327, 286), "pwritev2": (328, 287), "symlink": (88, None),
    "setsid": (112, 157), "setpgid": (109, 154), "getpgrp": (111, None), "getsid": (124, 156), "umask": (95, 166),
    "chdir": (80, 49), "fchdir": (81, 50), "fsync": (74, 82), "fdatasync": (75, 83), "flock": (73, 32),
    "mkdir": (83, None), "rmdir": (84, None), "chmod": (90, None), "fchmod": (91, 52), "renameat": (264, 38),
    "utimensat": (280, 88), "arch_prctl": (158, None), "set_tid_address": (218, 96), "statfs": (137, 43),
    "fstatfs": (138, 44), "sethostname": (170, 161), "setrlimit": (160, 164), "getgroups": (115, 158),
    "getresuid": (118, 148), "getresgid": (120, 150), "sched_setaffinity": (203, 122), "getcpu": (309, 168),
    "mlock": (149, 228), "mlock2": (325, 284), "munlock": (150, 229), "msync": (26, 227), "fallocate": (285, 47),
    "sendfile": (40, 71), "copy_file_range": (326, 285), "eventfd2": (290, 19), "pause": (34, None),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "recvfrom": (45, 207), "shutdown": (48, 210),
    "getsockname": (51, 204), "getsockopt": (55, 209), "setsockopt": (54, 208),
}
# fmt: on
OCI_ARCHITECTURE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def read() -> bytes:
    """The bytes of the policy file. Raises `EnvironmentProblem`."""
    path = resources.policy() / "container" / "seccomp.toml"
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentProblem(f"{WHAT}: expected {path}, {error.strerror}: reinstall") from None


def parse(data: bytes) -> SeccompPolicy:
    """The policy in the TOML text `data`. Raises `MalformedInput`."""
    try:
        value = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MalformedInput(WHAT, str(error)) from None
    policy = canonical.validate(SeccompPolicy, value, WHAT)
    if policy.name != NAME:
        raise MalformedInput(WHAT, f"expected the name {NAME!r} in it, found {policy.name!r}")
    error_number(policy.default, WHAT)
    seen: set[str] = set()
    rules: list[Allowance | Refusal] = [*policy.allow, *policy.refuse]
    for rule in rules:
        for call in rule.calls:
            if not syscalls.known(call) and call not in TREE_CALLS:
                raise MalformedInput(WHAT, f"expected a system call of the tables, found {call!r}")
            if call in seen:
                raise MalformedInput(WHAT, f"expected each call once, found {call!r} twice")
            seen.add(call)
        if isinstance(rule, Refusal):
            error_number(rule.error, WHAT)
        elif any(SELF in condition.among for condition in rule.when):
            raise MalformedInput(WHAT, "expected no condition on the caller's own process id, found one")
    return policy


def digest(data: bytes) -> str:
    """The digest of the policy file, as it goes into a plan."""
    return digest_of(data)


def to_oci(policy: SeccompPolicy, architecture: syscalls.Architecture) -> dict[str, Any]:
    """The `linux.seccomp` object of an OCI runtime configuration; the same that podman takes as a file."""
    rules: list[dict[str, Any]] = []
    for rule in policy.allow:
        rules += [{"names": list(rule.calls), "action": "SCMP_ACT_ALLOW", **way} for way in _ways(rule)]
    rules += [
        {"names": list(rule.calls), "action": "SCMP_ACT_ERRNO", "errnoRet": error_number(rule.error)}
        for rule in policy.refuse
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": error_number(policy.default),
        "architectures": [OCI_ARCHITECTURE[architecture]],
        "syscalls": rules,
    }


def to_bpf(policy: SeccompPolicy, architecture: syscalls.Architecture) -> bytes:
    """The policy as the kernel reads it: 8 bytes an instruction. Raises `MalformedInput` where it is too long."""
    own = [rule.model_copy(update={"calls": tuple(filter(syscalls.known, rule.calls))}) for rule in policy.allow]
    compiled = bpf.compile_policy(
        policy.model_copy(update={"allow": tuple(rule for rule in own if rule.calls)}), architecture, 0
    )
    # The first instructions check the architecture and load the number; what this table adds comes right after them.
    head = 6 if architecture == "x86_64" else 4
    more: list[bpf.Instruction] = []
    for rule in policy.allow:
        for call in rule.calls:
            numbers = TREE_CALLS.get(call)
            number = None if numbers is None or syscalls.known(call) else numbers[architecture == "aarch64"]
            if number is None:
                continue
            if rule.when:
                raise MalformedInput(WHAT, f"expected {call} without conditions, or in the table of the seal")
            more.append(bpf.Instruction(bpf.JUMP_EQUAL, 0, 1, number))
            more.append(bpf.Instruction(bpf.RETURN, 0, 0, bpf.RET_ALLOW))
    program = (*compiled[:head], *more, *compiled[head:])
    if len(program) > bpf.LONGEST_PROGRAM:
        raise MalformedInput(WHAT, f"expected {bpf.LONGEST_PROGRAM} steps, found {len(program)}")
    return bpf.encode(program)


def _ways(rule: Allowance) -> list[dict[str, Any]]:
    """One entry for each combination of accepted values: entries with one name are alternatives."""
    if not rule.when:
        return [{}]
    values = itertools.product(*(condition.among for condition in rule.when))
    return [
        {"args": [_argument(condition, int(value)) for condition, value in zip(rule.when, way, strict=True)]}
        for way in values
    ]


def _argument(condition: Condition, value: int) -> dict[str, Any]:
    if condition.mask == WORD_MAX:
        return {"index": condition.arg, "value": value, "op": "SCMP_CMP_EQ"}
    return {"index": condition.arg, "value": condition.mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def main() -> None:
    """Write the policy for this processor to standard output, as podman, Docker and Kubernetes take it."""
    json.dump(to_oci(parse(read()), kernel.architecture()), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
