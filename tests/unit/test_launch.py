"""The launch measurement that an identity names: of each platform what it is read from, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.image import cli
from attest import launch, reference
from attest.appraise.items import Gpu, Gpus, Nitro, Tdx
from attest.azure import Evidence as Azure
from attest.errors import MalformedInput, VitrineError
from attest.evidence import Evidence, image
from attest.reference import SnpLaunch, TdxLaunch
from attest.sevsnp import Evidence as SevSnp
from attest.tpm import Signed
from tests.fakes import nitro, sevsnp, tdx
from tests.fakes.nitro import Nsm
from tests.tools import swtpm
from tests.tools.manifests import D

CHIP = sevsnp.Chip()


def document(model: Any) -> dict[str, Any]:
    value: dict[str, Any] = model.model_dump(mode="json", exclude_none=True)
    return value


def snp(measurement: bytes = b"\x22" * 48, **more: object) -> dict[str, Any]:
    return document(SevSnp(report=CHIP.report(measurement=measurement, **more), certificate=b"any"))


def domain(**more: object) -> dict[str, Any]:
    return document(Tdx(quote=tdx.intel().quote(tdx.domain(bytes(64), **more))))


def enclave(pcrs: dict[int, bytes] | None = None) -> dict[str, Any]:
    return document(Nitro(document=(Nsm() if pcrs is None else Nsm(pcrs=pcrs)).document()))


def virtual_tpm(*registers: int) -> dict[str, Any]:
    values = {str(number): f"{number:02x}" * 32 for number in registers}
    return document(Azure(hcl_report=b"any", quote=Signed(attested=b"any", signature=b"any"), registers=values))


def named(*items: dict[str, Any]) -> str | None:
    return image(Evidence(when="start", challenge="00" * 32, items=items))


def test_another_launch_has_another_name_and_the_rest_does_not_count() -> None:
    found = named(snp())
    assert found == launch.image("sev-snp", {"launch": "22" * 48})
    assert named(snp(report_data=b"\1" * 64, report_id=b"\2" * 32)) == found
    assert named(snp(b"\x23" * 48)) != found
    assert named(domain()) == launch.image("tdx", {"mrtd": "d0" * 48, "rtmr1": "a1" * 48, "rtmr2": "00" * 48})
    registers = {number: bytes([number]) * 48 for number in range(16)}
    assert named(enclave(registers)) == launch.image("nitro", {f"pcr{i}": f"{i:02x}" * 48 for i in range(3)})
    assert named(enclave(registers | {3: nitro.IMAGE})) == named(enclave(registers))
    assert named(enclave(registers | {2: nitro.IMAGE})) != named(enclave(registers))
    quoted = {f"sha256:{number}": f"{number:02x}" * 32 for number in (4, 9, 11)}
    assert named(virtual_tpm(4, 9, 11)) == named(virtual_tpm(0, 4, 9, 11, 15)) == launch.image("azure", quoted)


def test_names_of_two_platforms_differ_and_one_machine_has_one() -> None:
    same = {"launch": "22" * 48}
    assert launch.image("sev-snp", same) != launch.image("tdx", same)
    gpu = document(Gpus(gpus=(Gpu(report=b"x", certificates=b"x"),)))
    assert named(gpu) is None
    assert named(gpu, snp()) == named(snp())
    assert named(enclave(), snp()) == named(snp())


@pytest.mark.parametrize(
    "item",
    [
        {"format": "vitrine/sev-snp-evidence/v1"},
        {"format": "vitrine/sev-snp-evidence/v1", "report": "AAAA", "certificate": "AAAA"},
        {"format": "vitrine/tdx-evidence/v1", "quote": "AAAA"},
        {"format": "vitrine/nitro-evidence/v1", "document": "AAAA"},
        {"format": "vitrine/azure-evidence/v1", "registers": {}},
    ],
)
def test_what_cannot_be_read_names_nothing(item: dict[str, Any]) -> None:
    with pytest.raises(VitrineError):
        named(item)


def test_evidence_without_its_registers_is_malformed() -> None:
    with pytest.raises(MalformedInput, match="found no pcr1, pcr2"):
        named(enclave({0: nitro.IMAGE}))
    with pytest.raises(MalformedInput, match="found no sha256:4, sha256:11"):
        named(virtual_tpm(0, 9))


def test_an_sgx_enclave_is_named_by_its_measurement() -> None:
    quote = tdx.intel().quote(tdx.enclave(mr_enclave=b"\x33" * 32), version=3)
    assert named(document(Tdx(quote=quote))) == launch.image("tdx", {"mrenclave": "33" * 32})


def test_what_identities_will_say_of_an_image_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a trust domain the firmware alone is predicted, which its identity is not made of."""
    launches: list[Any] = [
        SnpLaunch(platform="sev-snp", measurement="22" * 48, firmware=D, processor="EPYC-v4", processors=2,
                  guest_features=1),
        TdxLaunch(platform="tdx", measurement="d0" * 48, firmware=D, order="page"),
    ]  # fmt: skip
    values = reference.read((swtpm.RECORDED / "reference.json").read_bytes())
    cli._show(values.model_copy(update={"launches": tuple(launches)}))
    printed = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("identity")]
    assert printed == [
        ["identity", "by", "a", "TPM", f"/machine/{reference.image_of(values.registers)}"],
        ["identity", "by", "sev-snp", f"/machine/{launch.image('sev-snp', {'launch': '22' * 48})}"],
    ]
