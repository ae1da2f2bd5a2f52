"""Cases of hardware whose vendors are synthetic, so that all of the collateral is there."""

from __future__ import annotations

from pathlib import Path

from attest import canonical
from attest.appraise.items import Gpu, Gpus
from attest.digest import digest_of
from tests.fakes import nvgpu, sevsnp
from tests.fakes.authority import NOW
from tests.fakes.nitro import IMAGE, Nsm
from tests.tools.appraisals import Case, Make, guest


def synthetic_gpus(count: int = 1, *, without: tuple[str, ...] = (), nonces: tuple[bytes, ...] = ()) -> Make:
    """GPUs with manifests that fit, and good OCSP answers; `without` these kinds of collateral."""

    def make(_: Path) -> Case:
        gpus = [nvgpu.Gpu(chain=nvgpu.device_chain(f"GH100 A01 GSP BROM {number}")) for number in range(count)]
        if count == 1:
            gpus = [nvgpu.Gpu()]
        maker = nvgpu.Maker(gpus=gpus)
        asked = nonces or (nvgpu.NONCE,) * count
        given = [gpu.evidence(nonce) for gpu, nonce in zip(gpus, asked, strict=True)]
        collateral = [
            *(("nvidia-gpu", "root", gpu.chain[-1].der, None) for gpu in gpus),
            ("nvidia-gpu", "rim-root", maker.chain[-1].der, None),
            ("nvidia-gpu", "driver-rim", maker.driver_rim(), None),
            ("nvidia-gpu", "vbios-rim", maker.vbios_rim(), None),
            *(("nvidia-gpu", "ocsp", answer, None) for answer in maker.responses()),
        ]
        roots = {
            "nvidia-gpu": sorted({digest_of(gpu.chain[-1].der) for gpu in gpus}),
            "nvidia-gpu-rim": [digest_of(maker.chain[-1].der)],
        }
        evidence = Gpus(gpus=tuple(Gpu(report=one.report, certificates=one.certificates) for one in given))
        return Case(
            canonical.dump_model(evidence),
            {"roots": roots, "nvidia-gpu": {"drivers": [nvgpu.DRIVER], "vbioses": [nvgpu.VBIOS]}},
            [item for item in collateral if item[1] not in without],
            NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
            nvgpu.NONCE.hex(),
        )

    return make


def synthetic_enclave(_: Path) -> Case:
    """An enclave of a synthetic AWS, with its revocation lists."""
    nsm = Nsm()
    lists = [("nitro", "revocation-list", data, None) for data in nsm.lists()]
    bound = bytes(range(32))
    return Case(
        nsm.document(user_data=bound),
        {"roots": {"nitro": [digest_of(nsm.root)]}, "nitro": {"measurements": {"PCR0": [IMAGE.hex()]}}},
        [("nitro", "root", nsm.root, None), *lists],
        NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
        bound.hex(),
        ("--platform", "nitro"),
    )


def synthetic_guest(*revoked: int) -> Make:
    """A guest on a chip of a synthetic AMD, with its revocation list."""

    def make(at: Path) -> Case:
        vendor, chip = sevsnp.Vendor(), sevsnp.Chip()
        collateral = [("sev-snp", "certificate", data, None) for data in (vendor.ark, vendor.ask)]
        part = guest(at).policy["sev-snp"] | {"measurements": ["22" * 48], "guest_allows": ["smt"]}
        return Case(
            chip.report(),
            {"roots": {"sev-snp": [digest_of(vendor.ark)]}, "sev-snp": part},
            [*collateral, ("sev-snp", "revocation-list", vendor.crl(*revoked), None)],
            sevsnp.NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "11" * 64,
            ("--platform", "sev-snp"),
            vendor.chip_certificate(chip),
        )

    return make
