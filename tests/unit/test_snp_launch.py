"""The launch measurement of SEV-SNP against the published vectors of sev-snp-measure, and firmware that is none."""

from pathlib import Path

import pytest

from appliance.image import snp
from attest.errors import EnvironmentProblem, MalformedInput, Unsupported
from attest.reference import SnpLaunch

VECTORS = {
    0x01: "5061fffb019493a903613d56d54b94912a1a2f9e4502385f5c194616753720a92441310ba6c4933de877c36e23046ad5",
    0x21: "4953b1fb416fa874980e8442b3706d345926d5f38879134e00813c5d7abcbe78eafe7b422907be0b4698e2414a631942",
}
"""By SEV_FEATURES: OVMF's last page, an empty boot file, four processors. From tests/test_guest.py of its 0.0.13."""


@pytest.fixture(scope="module")
def firmware(data: Path) -> Path:
    """Firmware that measures a boot file; the tests are skipped without the library."""
    pytest.importorskip("sevsnpmeasure", reason="no sev-snp-measure: pip install 'vitrine[snp]'")
    return data / "attestation" / "snp" / "virtee-sev-measurement" / "ovmf_AmdSev_suffix.bin"


def boot_file(folder: Path, content: bytes = b"") -> Path:
    """A boot file of this content."""
    path = folder / f"{len(content)}.efi"
    path.write_bytes(content)
    return path


def launch(path: Path, firmware: Path, processors: int = 4, features: int = 1) -> SnpLaunch:
    """What is predicted."""
    return snp.launch(path, firmware, processor="EPYC-v4", processors=processors, guest_features=features)


@pytest.mark.parametrize("features", VECTORS)
def test_published_vectors(firmware: Path, tmp_path: Path, features: int) -> None:
    assert launch(boot_file(tmp_path), firmware, features=features).measurement == VECTORS[features]


def test_every_input_counts(firmware: Path, tmp_path: Path) -> None:
    changed = tmp_path / "firmware"
    changed.write_bytes(b"\1" + firmware.read_bytes()[1:])
    empty = boot_file(tmp_path)
    found = [
        launch(empty, firmware),
        launch(boot_file(tmp_path, b"x"), firmware),
        launch(empty, firmware, processors=3),
        launch(empty, changed),
        snp.launch(empty, firmware, processor="EPYC-Genoa", processors=4),
    ]
    assert len({one.measurement for one in found}) == len(found)
    assert found[0].firmware != found[3].firmware


def test_firmware_that_does_not_measure_the_boot_file_is_refused(firmware: Path, tmp_path: Path) -> None:
    for path in (firmware.with_name("ovmf_OvmfX64_suffix.bin"), Path("/usr/share/OVMF/OVMF_CODE_4M.fd")):
        if path.exists():
            with pytest.raises(Unsupported, match="a boot file that nobody measured"):
                launch(boot_file(tmp_path), path)


def test_what_is_no_firmware(firmware: Path, tmp_path: Path) -> None:
    good = firmware.read_bytes()
    metadata = good.index(b"ASEV")
    section = metadata + 16
    damaged = {
        "whole pages": good[:-1],
        "Wrong SEV metadata version": good[: metadata + 8] + b"\2" + good[metadata + 9 :],
        "expected UEFI firmware": good[: metadata + 12] + b"\xff" * 4 + good[metadata + 16 :],
        "expected metadata of at most": good[: section + 4] + b"\0\0\0\xf0" + good[section + 8 :],
    }
    for words, content in damaged.items():
        path = tmp_path / "damaged"
        path.write_bytes(content)
        with pytest.raises(MalformedInput, match=words):
            launch(boot_file(tmp_path), path)
    with pytest.raises(EnvironmentProblem, match="cannot read the firmware"):
        launch(boot_file(tmp_path), tmp_path / "nothing")
    with pytest.raises(Unsupported, match="expected one of EPYC"):
        snp.launch(boot_file(tmp_path), firmware, processor="486", processors=1)
