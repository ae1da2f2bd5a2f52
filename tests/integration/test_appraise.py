"""`attest appraise` from the command line: what is bound, when, by whose collateral, and what comes out of it.

`test_appraise_vectors.py` decides every piece of real evidence; these tests change what one of them is judged by.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from attest import policies
from attest.digest import digest_of
from attest.tdx import certificates
from tests.tools.appraisals import MAKER, OPTED, Judge, azure, broken, google, intel


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Appraises in a folder of its own."""
    return Judge(tmp_path)


def test_the_auditors_policy_accepts_real_evidence_once_it_is_filled_in(
    data: Path, judge: Judge, tmp_path: Path
) -> None:
    case = intel(data / "attestation", "tdx")
    text = re.sub(r"^#\| ", "", policies.path("auditor").read_text("utf-8"), flags=re.MULTILINE)
    mine = [
        ('require = ["tpm"]', 'require = ["tdx"]'),
        ("makers = []", f'makers = ["{MAKER}"]'),
        ("mrtd = []", f"mrtd = {json.dumps(case.policy['tdx']['measurements']['mrtd'])}"),
        ('explained = ["rtmr0", "rtmr1", "rtmr2", "rtmr3"]', "explained = []"),
        ("[hardware.sev-snp]", "[hardware.sev-snp]\nid_keys = ['" + "00" * 48 + "']"),
    ]
    for before, after in mine:
        assert text.count(before) == 1
        text = text.replace(before, after)
    code, found = judge(case, text=text)
    assert (code, found["status"], broken(found)) == (0, "affirming", [])
    # As it comes, it trusts nobody; and it never takes evidence of one platform for that of another.
    code, found = judge(case, text=policies.path("auditor").read_text("utf-8"))
    assert (code, broken(found)) == (10, ["capsule.maker", "hardware.platform", "hardware.required"])


def test_azures_machine_is_accepted_when_nobody_says_what_it_is_bound_to_and_the_policy_lets_it(
    data: Path, judge: Judge
) -> None:
    case = azure(data / "attestation")
    lenient = case.with_part("azure", sev_snp=case.policy["azure"]["sev_snp"] | OPTED)
    code, found = judge(lenient)
    assert (code, broken(found)) == (10, ["azure.bound"])
    code, found = judge(lenient, unsafe_unbound=True)
    assert (code, found["status"], broken(found)) == (0, "warning", [])
    code, found = judge(case, unsafe_unbound=True)
    assert broken(found) == ["sev-snp.crl-missing"]


def test_another_binding_or_none_is_refused(data: Path, judge: Judge) -> None:
    case = intel(data / "attestation", "tdx")
    for bound in ("00" * 32, case.bound[:-2] + "77", case.bound[:-2], case.bound + "00"):
        code, found = judge(case, "--bound", bound)
        assert (code, broken(found)) == (10, ["tdx.bound"])


def test_times_outside_of_the_collateral_are_refused(data: Path, judge: Judge) -> None:
    case = intel(data / "attestation", "tdx")
    assert broken(judge(case, "--as-of", "2025-06-01T00:00:00Z")[1]) == ["capsule.future", "tdx.root"]
    code, found = judge(case, "--as-of", "2026-07-01T00:00:00Z")
    assert (code, found["status"]) == (10, "contraindicated")
    code, found = judge(case, "--as-of", "2026-07-01T00:00:00Z", stale="as-of-capsule")
    assert (code, found["status"], found["as_of"]) == (0, "warning", case.as_of)
    assert "judged as of" in found["downgrades"][0]
    assert broken(judge(case, "--as-of", "2026-07-01T00:00:00Z", max_age_days=30)[1])[0] == "capsule.age"


def test_roots_makers_and_platforms_are_the_policys_to_name(data: Path, judge: Judge) -> None:
    at = data / "attestation"
    case = intel(at, "tdx")
    assert broken(judge(case, roots={"tdx": [digest_of(b"other")]})[1]) == ["tdx.root"]
    assert broken(judge(case, makers=[digest_of(b"other")])[1]) == ["capsule.maker", "tdx.root"]
    assert broken(judge(case, require=["tpm", "tdx"])[1]) == ["hardware.required"]
    # A capsule that calls a root a manufacturer's does not make it one, and pinned for programs it is for programs.
    tpm = google(at)
    as_hardware = [
        ("tpm", "root" if kind == "software-root" else kind, file, chain) for _, kind, file, chain in tpm.items
    ]
    case = replace(tpm, items=as_hardware).with_part("tpm", unsafe_skipped=True, kinds=["hardware"])
    assert broken(judge(case)[1]) == ["tpm.chain"]


def test_the_newest_list_in_force_is_used_whatever_the_order(data: Path, judge: Judge) -> None:
    at = data / "attestation"
    case = intel(at, "tdx")
    old = ("tdx", "revocation-list", (at / "tdx/go-tdx-guest/rootcrl.der").read_bytes(), None)
    assert certificates.load_crl(old[2], "list").last_update_utc.year == 2023
    for items in ([old, *case.items], [*case.items, old]):
        assert judge(replace(case, items=items))[0] == 0
