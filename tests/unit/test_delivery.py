"""Delivery on a small host: a bundle is taken out of a wall within the memory that its files need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from appliance.enclave import delivery
from tests.conftest import ROOT

GIB = 1 << 30
COLLECT = f"""
import resource, sys
from pathlib import Path
from appliance.enclave import delivery
resource.setrlimit(resource.RLIMIT_AS, ({GIB}, {GIB}))
sys.exit(0 if set(delivery.collect(Path(sys.argv[1]))) == set(delivery.NAMES) else 3)
"""


def test_a_small_bundle_needs_little_memory(tmp_path: Path) -> None:
    """The bound on a bundle is more than many hosts have; reading a file must not ask for so much."""
    assert delivery.MAX_DELIVERY_BYTES > GIB
    for name in delivery.NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"{}")
    done = subprocess.run([sys.executable, "-c", COLLECT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
