"""Tries KVM by running a guest of two instructions: /dev/kvm may be there and open, and still run nothing.

Run as a script, in a process of its own, because a broken KVM may never return. It needs nothing but the standard
library, prints one line, and ends with 0 where the guest ran.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import sys

DEVICE = "/dev/kvm"

# linux/kvm.h
KVM_GET_API_VERSION, API_VERSION = 0xAE00, 12
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_RUN = 0xAE80
KVM_GET_REGS, KVM_SET_REGS = 0x8090AE81, 0x4090AE82
KVM_GET_SREGS, KVM_SET_SREGS = 0x8138AE83, 0x4138AE84
KVM_EXIT_HLT = 5
EXIT_REASON = struct.Struct("=8xI")  # the beginning of struct kvm_run

GUEST = bytes([0xB0, 0x2A, 0xF4])  # mov al, 42; hlt
ANSWER = 42
AT = 0x1000
"""Where the guest's only page lies."""


class Refused(Exception):  # noqa: N818 - an outcome
    """A step that did not do what KVM says it does."""


def trial() -> str:
    """Run the guest; what to say of it. Raises `OSError`, `Refused`."""
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    version = fcntl.ioctl(device, KVM_GET_API_VERSION, 0)
    if version != API_VERSION:
        raise Refused(f"expected API version {API_VERSION}, found {version}")
    machine = fcntl.ioctl(device, KVM_CREATE_VM, 0)
    cpu = fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)
    if platform.machine() != "x86_64":
        return "makes a processor; no guest was tried"
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory.write(GUEST)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # struct kvm_userspace_memory_region: slot, flags, guest address, size, host address
    fcntl.ioctl(machine, KVM_SET_USER_MEMORY_REGION, struct.pack("=IIQQQ", 0, 0, AT, mmap.PAGESIZE, address))
    # Real mode, as after a reset, but with the code segment at 0: its base is the first field, its selector at 12.
    special = bytearray(fcntl.ioctl(cpu, KVM_GET_SREGS, bytes(312)))
    special[0:8], special[12:14] = bytes(8), bytes(2)
    fcntl.ioctl(cpu, KVM_SET_SREGS, bytes(special))
    # struct kvm_regs: rax to r15, rip, rflags
    fcntl.ioctl(cpu, KVM_SET_REGS, struct.pack("=18Q", *([0] * 16), AT, 2))
    shared = mmap.mmap(cpu, fcntl.ioctl(device, KVM_GET_VCPU_MMAP_SIZE, 0))
    fcntl.ioctl(cpu, KVM_RUN, 0)
    reason = EXIT_REASON.unpack_from(shared)[0]
    answer = struct.unpack_from("=Q", fcntl.ioctl(cpu, KVM_GET_REGS, bytes(144)))[0] & 0xFF
    if (reason, answer) != (KVM_EXIT_HLT, ANSWER):
        raise Refused(f"expected the guest to halt with {ANSWER}, found exit {reason} and {answer}")
    return "ran a guest"


def main() -> None:
    """Try it, and say how it went."""
    try:
        sys.stdout.write(trial() + "\n")
    except (OSError, Refused) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
