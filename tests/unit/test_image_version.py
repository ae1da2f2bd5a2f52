"""`attest appraise` with reference values: an image that is known and new enough, and what is said of any other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.attester.machine import MachineAttester
from attest import canonical, reference
from tests.tools import swtpm
from tests.tools.lab_logs import attest

NONCE = bytes(range(32))
OLD = reference.read((swtpm.RECORDED / "reference.json").read_bytes())
"""Of a real image, of before images had a version."""
POLICY = """
{minimum}
[hardware.tpm]
kinds = ["unknown"]
unsafe_skipped = true
secure_boot = false
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the TPM of that image's boot says."""
    folder = tmp_path_factory.mktemp("machine")
    with swtpm.started(folder / "state") as device:
        swtpm.measured_boot(device)
        (folder / "report.json").write_bytes(MachineAttester(device, swtpm.EVENT_LOG).report(NONCE))
        yield folder / "report.json"


def another_kernel(byte: str) -> dict[str, Any]:
    """Events and registers of an image whose last measurement in register 11 is another."""
    last = max(at for at, event in enumerate(OLD.events) if event.register_ == 11)
    other = OLD.events[last].model_copy(update={"digest": f"sha256:{byte * 32}"})
    events = (*OLD.events[:last], other, *OLD.events[last + 1 :])
    registers = OLD.registers | {str(at): value.hex() for at, value in reference.replay(events).items()}
    return {"events": [event.model_dump(by_alias=True) for event in events], "registers": registers}


@pytest.mark.parametrize(
    ("minimum", "changes", "code", "failing"),
    [
        (None, None, 0, []),
        (None, {}, 0, []),
        (1795305600, {"version": 1795305600}, 0, []),
        (1795305600, {"version": 1795305601}, 0, []),
        (1795305600, {"version": 1795305599}, 10, ["image.version"]),
        (1795305600, {}, 10, ["image.version"]),
        (1795305600, None, 10, ["image.known", "image.version"]),
        (0, {}, 10, ["image.version"]),
        (None, {"kernel": "ab"}, 10, ["image.known"]),
        (1, {"version": 2, "kernel": "ab"}, 10, ["image.known", "image.version"]),
    ],
)
def test_an_image_is_known_and_new_enough(
    report: Path, tmp_path: Path, minimum: int | None, changes: dict[str, Any] | None, code: int, failing: list[str]
) -> None:
    policy, values = tmp_path / "policy.toml", tmp_path / "values.json"
    policy.write_text(POLICY.format(minimum="" if minimum is None else f"minimum_image_version = {minimum}"))
    arguments: list[object] = [report, "--policy", policy, "--bound", NONCE.hex(), "--json"]
    if changes is not None:
        known = OLD.model_dump(by_alias=True) | changes
        if "kernel" in changes:
            known |= another_kernel(known.pop("kernel"))
        values.write_bytes(canonical.dumps({name: value for name, value in known.items() if value is not None}))
        arguments += ["--reference", values]
    found, text, error = attest("appraise", *arguments)
    assert (found, error) == (code, None), text
    lines = json.loads(text)["lines"]
    assert [line["rule"] for line in lines if not line["holds"]] == failing
    assert ("image.version" in [line["rule"] for line in lines]) is (minimum is not None)
