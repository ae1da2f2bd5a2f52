"""Evidence of an Intel trust domain: the quote by configfs-tsm, and the firmware's event log beside it.

What is bound is the whole report data, 64 bytes. The quote has to say so when it comes back: a host that hands out an
old one is noticed here already, though whoever appraises the evidence is who decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.attester import configfs
from appliance.attester.configfs import Requests
from attest.errors import EnvironmentProblem, VitrineError
from attest.tdx import eventlog, layout

PROVIDER = "tdx_guest"
EVENT_LOG = Path("/sys/firmware/acpi/tables/data/CCEL")
REPORT_DATA = 64


@dataclass(frozen=True)
class Evidence:
    """What is handed to whoever appraises it."""

    quote: bytes
    """An Intel quote, as `attest.tdx` reads it."""
    event_log: bytes | None
    """The CC event log; None where the firmware keeps none."""


def quote(report_data: bytes, *, requests: Requests | None = None, event_log: Path = EVENT_LOG) -> Evidence:
    """Evidence that these 64 bytes were known in this trust domain. Raises `EnvironmentProblem`."""
    if len(report_data) != REPORT_DATA:
        raise ValueError(f"expected {REPORT_DATA} bytes of report data, found {len(report_data)}")
    report = configfs.report(requests or configfs.Folder(), report_data, provider=PROVIDER)
    try:
        found = layout.parse(report.evidence).body.report_data
    except VitrineError as error:
        raise EnvironmentProblem(f"the platform gave a quote that is not known here: {error}") from None
    if found != report_data:
        raise EnvironmentProblem(
            f"the platform gave another's quote: expected {report_data.hex()}, found {found.hex()}"
        )
    return Evidence(report.evidence, _read(event_log))


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(eventlog.MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EnvironmentProblem(f"{path}: the event log cannot be read: {error.strerror}") from None
