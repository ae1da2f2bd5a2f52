"""What a run needs that is built once, looked for where runs look for it: the engine, the image, the measured VM."""

from __future__ import annotations

from pathlib import Path

from appliance.enclave import rootfs
from appliance.enclave.finding import Finding, missing, ok
from appliance.engine import places
from appliance.engine.recipe import DEFAULT_PROFILE
from appliance.image.measure import REFERENCE
from attest.errors import EnvironmentProblem

MACHINE = Path("build/vm")
"""Where a checkout has its measured VM."""


def engine() -> Finding:
    """The engine of the default profile, for runs behind the process wall; images have their own."""
    name = f"engine {DEFAULT_PROFILE}"
    try:
        return ok("engine", name, str(places.find(None, DEFAULT_PROFILE)), ("engine",))
    except EnvironmentProblem:
        advice = "The first run builds it, in 2 to 12 minutes, with a C++ compiler: apt install g++"
        return missing("engine", name, "not built yet", ("engine",), advice)


def image() -> Finding:
    """The OCI image."""
    if (rootfs.DEFAULT / "index.json").is_file():
        return ok("image", "image", str(rootfs.DEFAULT), ("container",))
    advice = (
        f"The container runs it: appliance image build images/cpu.toml --out {rootfs.DEFAULT}, or name another with "
        "--image"
    )
    return missing("image", "image", f"none in {rootfs.DEFAULT}", ("container",), advice)


def machine() -> Finding:
    """The image of the measured VM."""
    if (MACHINE / REFERENCE).is_file():
        return ok("machine", "measured VM", str(MACHINE), ("vm",))
    advice = (
        f"It is what is booted: appliance image build --format uki images/vm.toml --out {MACHINE}, or name another "
        "with --image"
    )
    return missing("machine", "measured VM", f"none in {MACHINE}", ("vm",), advice)
