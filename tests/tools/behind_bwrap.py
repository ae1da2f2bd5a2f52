"""Runs a command behind the walls of our container, on this host's own files: `python -m tests.tools.behind_bwrap ...`.

Namespaces, user 65532, no capabilities, a root that is read-only, and the system call policy of containers: what
`appliance run --wall container` gives the image, without an image.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from appliance.enclave import seccomp
from appliance.seal import kernel
from attest.sealplan import SEALED_ID

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = ("/usr", "/etc")
LINKS = {"/bin": "usr/bin", "/lib": "usr/lib", "/lib64": "usr/lib64"}


def main() -> None:
    """Become bubblewrap, and in it the command."""
    policy = os.memfd_create("policy", 0)
    os.write(policy, seccomp.to_bpf(seccomp.parse(seccomp.read()), kernel.architecture()))
    os.lseek(policy, 0, os.SEEK_SET)
    shown = [path for path in dict.fromkeys((*SYSTEM, sys.base_prefix, sys.prefix, str(ROOT))) if Path(path).is_dir()]
    command = [
        *("bwrap", "--unshare-all", "--unshare-user", "--uid", str(SEALED_ID), "--gid", str(SEALED_ID)),
        *("--cap-drop", "ALL", "--new-session", "--die-with-parent", "--clearenv", "--setenv", "PATH", "/usr/bin"),
        *(word for path in shown for word in ("--ro-bind", path, path)),
        *(word for path, target in LINKS.items() for word in ("--symlink", target, path)),
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", str(ROOT)),
        *("--seccomp", str(policy), "--", *sys.argv[1:]),
    ]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
