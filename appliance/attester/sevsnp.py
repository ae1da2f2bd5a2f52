"""Evidence of a guest on AMD SEV-SNP: the report by configfs-tsm, and the certificate of the key that signed it.

Most hosts hand out certificates beside the report, in a table (`auxblob`). Where one does not, the certificate has to
be given: whoever runs the machine fetches it from AMD's key service, for the chip's id and versions in the report.
Nothing is verified here; the report only has to say what was bound, or a host could hand out an old one unnoticed.
"""

from __future__ import annotations

from appliance.attester import configfs
from appliance.attester.configfs import Requests
from attest.errors import EnvironmentProblem, VitrineError
from attest.sevsnp import Evidence, layout, table

PROVIDER = "sev_guest"
REPORT_DATA_BYTES = 64


def report(
    report_data: bytes, *, requests: Requests | None = None, certificate: bytes | None = None, vmpl: int = 0
) -> Evidence:
    """Evidence that these 64 bytes were known in this guest, at the privilege level `vmpl`.

    `certificate` (DER) is that of the chip's key, for hosts that hand out none; it counts before theirs. Raises
    `EnvironmentProblem`.
    """
    if len(report_data) != REPORT_DATA_BYTES:
        raise ValueError(f"expected {REPORT_DATA_BYTES} bytes of report data, found {len(report_data)}")
    settings = {"privlevel": str(vmpl)}
    answer = configfs.report(requests or configfs.Folder(), report_data, provider=PROVIDER, settings=settings)
    try:
        found = layout.read_report(answer.evidence)
        offered = table.read(answer.auxiliary)
    except VitrineError as error:
        raise EnvironmentProblem(f"the platform gave evidence that is not known here: {error}") from None
    if found.report_data != report_data:
        raise EnvironmentProblem(
            f"the platform gave another's report: expected {report_data.hex()}, found {found.report_data.hex()}"
        )
    kind = found.signing_key
    certificate = certificate or (None if kind == "none" else offered.get(kind))
    if not certificate:
        raise EnvironmentProblem(
            f"the host hands out no {kind.upper()} certificate: give the one of chip {found.chip_id.hex()} "
            f"with TCB {found.reported_tcb.hex()}, from AMD's key service or the provider's"
        )
    return Evidence(report=answer.evidence, certificate=certificate)
