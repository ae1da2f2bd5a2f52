"""The launch measurement by which a certificate's identity names the image of a machine that has no TPM.

| Platform | Named are |
|---|---|
| SEV-SNP | `launch`: MEASUREMENT, the guest's first memory |
| TDX | `mrtd` (firmware), `rtmr1`, `rtmr2` (boot file, kernel, command line); of an SGX enclave `mrenclave` |
| Nitro | `pcr0`, `pcr1`, `pcr2`: image file, kernel and boot, application |
| Azure | `sha256:4`, `sha256:9`, `sha256:11` of the vTPM, as of a TPM |

Read from evidence as it is, without judging it: whoever relies on an identity relies on the lab that certified it,
which appraises first where it has a policy, or appraises the bundle's evidence. GPUs run no image of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attest import canonical
from attest.canonical import JSON
from attest.digest import sha256
from attest.errors import MalformedInput
from attest.manifest import Platform

WHAT: Final = "launch measurement"


def image(platform: Platform, measured: Mapping[str, str]) -> str:
    """What an identity says of an image: SHA-256 over the canonical JSON of its platform and `measured`; 64 digits."""
    named: JSON = {platform: dict(measured)}
    return sha256(canonical.dumps(named)).hex()


def image_of(items: Mapping[Platform, dict[str, JSON]]) -> str | None:
    """The image that evidence, by platform, is of; None where none of them starts one. Raises `MalformedInput`.

    Of several, the first of `READERS` is named: one machine is started by one of them.
    """
    for platform, reader in READERS.items():
        if platform in items:
            return image(platform, reader(items[platform]))
    return None


def _sev_snp(item: dict[str, JSON]) -> dict[str, str]:
    from attest import sevsnp
    from attest.sevsnp import layout

    evidence = canonical.validate(sevsnp.Evidence, item, "evidence of SEV-SNP")
    return {"launch": layout.read_report(evidence.report).measurement.hex()}


def _tdx(item: dict[str, JSON]) -> dict[str, str]:
    from attest import tdx
    from attest.appraise.items import Tdx

    body = tdx.parse(canonical.validate(Tdx, item, "evidence of TDX").quote).body
    if isinstance(body, tdx.Enclave):
        return {"mrenclave": body.mr_enclave.hex()}
    return {"mrtd": body.mr_td.hex(), "rtmr1": body.rtmrs[1].hex(), "rtmr2": body.rtmrs[2].hex()}


def _nitro(item: dict[str, JSON]) -> dict[str, str]:
    from attest import cose
    from attest.appraise.items import Nitro
    from attest.nitro import layout

    document = canonical.validate(Nitro, item, "evidence of Nitro").document
    registers = layout.read(cose.read(document, "evidence of Nitro").payload).pcrs
    return _registers({f"pcr{number}": registers.get(number) for number in range(3)})


def _azure(item: dict[str, JSON]) -> dict[str, str]:
    from attest import azure
    from attest.reference import IMAGE

    registers = canonical.validate(azure.Evidence, item, "evidence of Azure").registers
    found = {f"sha256:{number}": registers.get(str(number)) for number in IMAGE}
    return _registers({name: None if value is None else bytes.fromhex(value) for name, value in found.items()})


def _registers(found: Mapping[str, bytes | None]) -> dict[str, str]:
    if missing := [name for name, value in found.items() if value is None]:
        raise MalformedInput(WHAT, f"expected registers {', '.join(found)}, found no {', '.join(missing)}")
    return {name: value.hex() for name, value in found.items() if value is not None}


READERS: Final[dict[Platform, Callable[[dict[str, JSON]], dict[str, str]]]] = {
    "sev-snp": _sev_snp,
    "tdx": _tdx,
    "nitro": _nitro,
    "azure": _azure,
}
