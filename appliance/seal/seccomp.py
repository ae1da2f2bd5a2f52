"""Installs a compiled seccomp policy in this process: no system calls but the named ones, for good.

Assumes no_new_privs, and a process with one thread: threads that are created later inherit the filter.
"""

from __future__ import annotations

import ctypes
import errno
import os

from appliance.seal import bpf, kernel
from appliance.seal.outcome import enforced
from appliance.seal.policy import parse_policy, read_policy
from attest.digest import digest_of
from attest.errors import EnvironmentProblem
from attest.seal import Layer
from attest.sealplan import SeccompPlan

SECCOMP_MODE_FILTER = 2  # linux/seccomp.h


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def prepare(plan: SeccompPlan) -> bpf.Program:
    """The program for the policy of `plan`, compiled for this process from the very bytes that were compared.

    Raises `EnvironmentProblem` when the policy file is not the one that the plan names.
    """
    data = read_policy(plan.policy)
    if (found := digest_of(data)) != plan.policy_digest:
        raise EnvironmentProblem(f"seccomp policy {plan.policy}: expected {plan.policy_digest}, found {found}")
    return bpf.compile_policy(parse_policy(data, plan.policy), kernel.architecture(), os.getpid())


def install(plan: SeccompPlan, program: bpf.Program) -> Layer:
    """Install `program`, and see it refuse a harmless call. Raises `EnvironmentProblem` when it is not in force."""
    steps = ctypes.create_string_buffer(bpf.encode(program))
    head = _Program(len(program), ctypes.cast(steps, ctypes.c_void_p))
    try:
        kernel.prctl(kernel.PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(head))
    except OSError as error:
        raise EnvironmentProblem(f"seccomp: {error}: the kernel needs CONFIG_SECCOMP_FILTER") from None
    try:
        kernel.call("unshare", 0)  # does nothing where it is allowed
    except OSError as error:
        if error.errno == errno.EPERM:
            return enforced("seccomp", f"policy {plan.policy}, {len(program)} steps, others refused")
    raise EnvironmentProblem("seccomp: expected the filter to refuse unshare, it did not")
