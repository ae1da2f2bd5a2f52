"""NVIDIA GPUs in confidential-computing mode: SPDM reports, and NVIDIA's reference manifests.

Proven by `authenticate`: a genuine GPU with this firmware identity signed these measurements under this nonce, and
NVIDIA signed these reference values. `claims` compares them. Not proven: that the GPU is the one which the job's data
went to (the confidential virtual machine's driver has to have asked it, so that its own evidence binds this nonce),
what runs on the GPU (kernels and weights are not measured), that the memory is not probed, that no key was revoked
later. The video BIOS's manifest names chip and version, not the board: its file name does, and nobody signed that.
"""

from attest.nvgpu.authenticate import Authenticated, Endorsements, authenticate, authenticate_all
from attest.nvgpu.claims import Claims, claims
from attest.nvgpu.evidence import Evidence, read_list
from attest.nvgpu.policy import Policy, appraise

__all__ = [
    "Authenticated",
    "Claims",
    "Endorsements",
    "Evidence",
    "Policy",
    "appraise",
    "authenticate",
    "authenticate_all",
    "claims",
    "read_list",
]
