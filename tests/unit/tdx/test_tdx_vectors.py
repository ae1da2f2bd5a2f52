"""Real evidence: what each piece shows, and how it has to be decided.

The table is the list of all quotes among the data; collateral of Intel's comes with two of them, parts of it with
others. Roots, lists and times are the vector's own.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attest.errors import VitrineError
from attest.tdx import (
    Authenticated,
    Endorsements,
    IntelClaims,
    Policy,
    appraise,
    authenticate,
    certificates,
    claims,
    eventlog,
    layout,
    signed,
)
from attest.tdx.eventlog import Event
from tests.fakes import tdx

ROOT_DIGEST = "sha256:44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
"""Intel SGX Root CA."""
QVL, GO, TRUSTEE = "tdx/dcap-qvl", "tdx/go-tdx-guest", "tdx/trustee"
COS = "ccel/go-tdx-guest"
IN_TIME = datetime(2025, 7, 1, tzinfo=UTC)


def at(folder: Path, name: str) -> bytes:
    return (folder / "attestation" / name).read_bytes()


def for_tdx(folder: Path) -> Endorsements:
    return tdx.stored(folder / "attestation" / QVL, "tdx_quote_collateral.json")


def for_sgx(folder: Path) -> Endorsements:
    return tdx.stored(folder / "attestation" / QVL, "sgx_quote_collateral.json")


def root_alone(folder: Path) -> Endorsements:
    return Endorsements(at(folder, f"{QVL}/TrustedRootCA.der"), None, None, None, None)


def of_2023(folder: Path) -> Endorsements:
    """Lists and documents of June 2023; the signer's chain was not stored, so this is the one of 2025."""
    chain = for_tdx(folder).tcb_info.chain  # type: ignore[union-attr]
    return Endorsements(
        at(folder, f"{QVL}/TrustedRootCA.der"),
        at(folder, f"{GO}/rootcrl.der"),
        at(folder, f"{GO}/pckcrl"),
        signed(at(folder, f"{GO}/sample_tcbInfo_response"), "tcbInfo", chain),
        signed(at(folder, f"{GO}/sample_qeIdentity_response"), "enclaveIdentity", chain),
    )


def of_another_platform(folder: Path) -> Endorsements:
    """Documents of October 2025, of a platform that none of the quotes is of."""
    chain = for_tdx(folder).tcb_info.chain  # type: ignore[union-attr]
    info = signed(at(folder, f"{TRUSTEE}/tcbInfo.json"), "tcbInfo", chain)
    identity = signed(at(folder, f"{TRUSTEE}/enclaveIdentity.json"), "enclaveIdentity", chain)
    return replace(root_alone(folder), tcb_info=info, qe_identity=identity)


NO_LISTS = {"unsafe_without_revocation": True}
NO_TCB = {"unsafe_without_tcb": True}


@dataclass(frozen=True)
class Vector:
    """Evidence, and its appraisal."""

    shows: str
    """What it is here for."""
    quote: str
    """The file."""
    decided: str
    """`accepted`, `refused` by these lines of a strict policy, `rejected` by this check, or how it is malformed."""
    endorsements: Callable[[Path], Endorsements] = for_tdx
    """What it is judged by."""
    now: datetime = IN_TIME
    """When."""
    opted: dict[str, bool] = field(default_factory=dict)
    """What was opted out of."""
    log: str | None = None
    """An event log."""


SPR, COS_QUOTE, DSTACK = (
    f"{GO}/tdx_prod_quote_SPR_E4.dat",
    f"{COS}/cos-113-tdx-quote.dat",
    "tdx/dstack/quote-report.json",
)
QUOTE_4, QUOTE_5 = f"{TRUSTEE}/tdx_quote_4.dat", f"{TRUSTEE}/tdx_quote_5.dat"
AZURE = "azure/az-tdx-vtpm/td-quote.bin"
JUNE_2023, JUNE_2025 = datetime(2023, 6, 20, tzinfo=UTC), datetime(2025, 6, 19, tzinfo=UTC)
NOVEMBER = datetime(2025, 11, 1, tzinfo=UTC)
HEADERS = (b"\3\0\2\0\0\0\0\0", b"\4\0\2\0\x81\0\0\0", b"\5\0\2\0\x81\0\0\0")
"""How quotes of the versions begin."""

VECTORS = [
    Vector("TDX 1.0, version 4, all collateral", f"{QVL}/tdx_quote", "accepted"),
    Vector(
        "SGX, version 3, all collateral: hyper-threading is on, and a flaw is left to software",
        f"{QVL}/sgx_quote",
        "refused: tdx.platform tdx.tcb-status tdx.advisories tdx.measurement.mrtd",
        for_sgx,
    ),
    Vector(
        "the first second after the revocation list ended",
        f"{QVL}/tdx_quote",
        "rejected: expired",
        now=datetime(2025, 7, 19, 10, 0, 36, tzinfo=UTC),
    ),
    Vector("collateral from the future", f"{QVL}/tdx_quote", "rejected: not-yet-valid", now=JUNE_2025),
    Vector("a quote with the collateral of another", f"{QVL}/tdx_quote", "rejected: crl-issuer", for_sgx),
    Vector("the same, lists left out", f"{QVL}/tdx_quote", "rejected: collateral-kind", for_sgx, opted=NO_LISTS),
    Vector("nothing to judge it by", f"{QVL}/tdx_quote", "rejected: collateral-missing", root_alone),
    Vector("no TCB info", f"{QVL}/tdx_quote", "rejected: collateral-missing", root_alone, opted=NO_LISTS),
    Vector("documents of 2023, their signer's chain of 2025", SPR, "rejected: not-yet-valid", of_2023, now=JUNE_2023),
    Vector(
        "bytes behind the quote; revocation lists of 2023; SEPT_VE_DISABLE not set",
        SPR,
        "refused: tdx.skipped tdx.sept-ve-enabled",
        of_2023,
        now=JUNE_2023,
        opted=NO_TCB,
    ),
    Vector("version 4 of a debuggee", QUOTE_4, "refused: tdx.skipped tdx.debug", root_alone, opted=NO_LISTS | NO_TCB),
    Vector("TDX 1.5, version 5", QUOTE_5, "refused: tdx.skipped", root_alone, opted=NO_LISTS | NO_TCB),
    Vector(
        "documents of another platform", QUOTE_5, "rejected: tcb-fmspc", of_another_platform, NOVEMBER, opted=NO_LISTS
    ),
    Vector("documents that are not there yet", QUOTE_5, "rejected: not-yet-valid", of_another_platform, opted=NO_LISTS),
    Vector(
        "a COS machine, whose CC event log replays",
        COS_QUOTE,
        "refused: tdx.skipped",
        root_alone,
        opted=NO_LISTS | NO_TCB,
        log=f"{COS}/ccel_data.dat",
    ),
    Vector(
        "its quote with another machine's log",
        COS_QUOTE,
        "rejected: event-log",
        root_alone,
        opted=NO_LISTS | NO_TCB,
        log="ccel/trustee/CCEL_data_grub",
    ),
    Vector(
        "dstack, whose log replays to all four registers",
        DSTACK,
        "refused: tdx.skipped",
        root_alone,
        now=NOVEMBER,
        opted=NO_LISTS | NO_TCB,
        log=DSTACK,
    ),
    Vector(
        "dstack, before its certificate",
        DSTACK,
        "rejected: not-yet-valid",
        root_alone,
        opted=NO_LISTS | NO_TCB,
    ),
    Vector(
        "an Azure machine's; SEPT_VE_DISABLE not set",
        AZURE,
        "refused: tdx.skipped tdx.sept-ve-enabled",
        root_alone,
        opted=NO_LISTS | NO_TCB,
    ),
    Vector("a TD report, which is no quote", f"{GO}/report.dat", "Unsupported"),
    Vector("an event log, which is no quote", f"{COS}/ccel_data.dat", "MalformedInput"),
]


def quote_of(folder: Path, name: str) -> bytes:
    data = at(folder, name)
    return bytes.fromhex(json.loads(data)["quote"]) if name == DSTACK else data


def log_of(folder: Path, name: str | None) -> tuple[Event, ...]:
    if name is None:
        return ()
    data = at(folder, name)
    return eventlog.parse_dstack(json.loads(data)["event_log"].encode()) if name == DSTACK else eventlog.parse(data)


def authenticated(vector: Vector, folder: Path) -> Authenticated:
    quote = quote_of(folder, vector.quote)
    return authenticate(quote, vector.endorsements(folder), now=vector.now, **vector.opted)


def strict(found: IntelClaims) -> Policy:
    """As strict as a policy is by default, with the measurement of this very evidence."""
    mrtd = found.measurements.get("mrtd", "00")
    return Policy(roots=(ROOT_DIGEST,), measurements={"mrtd": (mrtd,)}, minimum_evaluation_data_number=17)


def decide(vector: Vector, folder: Path) -> str:
    try:
        found = claims(authenticated(vector, folder), log_of(folder, vector.log))
    except VitrineError as error:
        code = getattr(error, "code", None)
        return f"rejected: {code}" if code else type(error).__name__
    rules = [line.rule for line in appraise(found, strict(found)) if not line.holds]
    return f"refused: {' '.join(rules)}" if rules else "accepted"


@pytest.mark.parametrize("vector", VECTORS, ids=[vector.shows.replace(" ", "-") for vector in VECTORS])
def test_each_is_decided(vector: Vector, data: Path) -> None:
    assert decide(vector, data) == vector.decided


def test_no_quote_was_left_out(data: Path) -> None:
    known = {vector.quote for vector in VECTORS}
    root = data / "attestation"
    quotes = {
        str(path.relative_to(root))
        for folder in ("tdx", "ccel", "azure/az-tdx-vtpm")
        for path in (root / folder).rglob("*")
        if path.is_file() and path.read_bytes()[:8] in HEADERS
    }
    assert quotes
    assert quotes <= known


@pytest.mark.parametrize("of", [for_tdx, for_sgx])
def test_nothing_was_skipped_with_all_collateral(of: Callable[[Path], Endorsements], data: Path) -> None:
    quote = at(data, f"{QVL}/{'tdx' if of is for_tdx else 'sgx'}_quote")
    result = authenticate(quote, of(data), now=IN_TIME)
    assert result.skipped == ()
    assert result.root.hex() == ROOT_DIGEST.removeprefix("sha256:")
    assert result.valid_until <= datetime(2025, 7, 19, 10, 2, tzinfo=UTC)


def test_fields_are_those_that_another_reader_found(data: Path) -> None:
    expected = json.loads(at(data, f"{TRUSTEE}/parse_tdx_claims_expected.json"))
    body: dict[str, Any] = expected["quote"]["body"]
    quote = layout.parse(at(data, QUOTE_4))
    domain = quote.body
    assert isinstance(domain, layout.Domain)
    ours = {
        "tcb_svn": domain.tee_tcb_svn,
        "mr_seam": domain.mr_seam,
        "mrsigner_seam": domain.mr_signer_seam,
        "seam_attributes": domain.seam_attributes,
        "td_attributes": domain.td_attributes,
        "xfam": domain.xfam,
        "mr_td": domain.mr_td,
        "mr_config_id": domain.mr_config_id,
        "mr_owner": domain.mr_owner,
        "mr_owner_config": domain.mr_owner_config,
        "report_data": domain.report_data,
        **{f"rtmr_{number}": value for number, value in enumerate(domain.rtmrs)},
    }
    assert {name: value.hex() for name, value in ours.items()} == body


@pytest.mark.parametrize(
    ("log", "parsed"),
    [
        ("CCEL_data", "CCEL_data_out.json"),
        ("CCEL_data", "../../tdx/trustee/parse_tdx_claims_expected.json"),
        ("CCEL_data_grub", "CCEL_data_grub_out.json"),
        ("CCEL_data_ovmf", "CCEL_data_ovmf_out.json"),
    ],
)
def test_event_logs_are_read_as_another_reader_reads_them(log: str, parsed: str, data: Path) -> None:
    expected = json.loads(at(data, f"ccel/trustee/{parsed}"))["uefi_event_logs"]
    ours = [(item.register + 1, item.digest.hex(), item.data) for item in log_of(data, f"ccel/trustee/{log}")]
    theirs = [(item["index"], item["digests"][0]["digest"], base64.b64decode(item["event"])) for item in expected]
    assert ours == theirs
    for item, other in zip(log_of(data, f"ccel/trustee/{log}"), expected, strict=True):
        assert other["digest_matches_event"] or not item.measured


def test_which_registers_real_logs_explain(data: Path) -> None:
    cos = next(vector for vector in VECTORS if vector.log == f"{COS}/ccel_data.dat")
    found = claims(authenticated(cos, data), log_of(data, cos.log))
    assert (found.explained, found.unexplained) == (("rtmr0", "rtmr1", "rtmr2"), ())
    dstack = next(vector for vector in VECTORS if vector.log == DSTACK)
    found = claims(authenticated(dstack, data), log_of(data, dstack.log))
    assert (found.explained, found.unexplained) == (("rtmr0", "rtmr1", "rtmr2", "rtmr3"), ())
    names = [item.name for item in log_of(data, DSTACK) if item.kind == eventlog.DSTACK_RUNTIME]
    assert names[:3] == ["system-preparing", "app-id", "compose-hash"]


def test_answers_of_intels_are_signed_as_they_came(data: Path) -> None:
    """Documents of 2023 and of 2025, taken out of the answers, verify under the signer's one key."""
    for endorsements in (of_2023(data), of_another_platform(data)):
        for document in (endorsements.tcb_info, endorsements.qe_identity):
            assert document
            key = certificates.public_key(certificates.load_chain(document.chain, "chain")[0])
            r, s = (int.from_bytes(half, "big") for half in (document.signature[:32], document.signature[32:]))
            key.verify(encode_dss_signature(r, s), document.body, ec.ECDSA(hashes.SHA256()))


def test_an_appraisal_takes_less_than_50_milliseconds(data: Path) -> None:
    quote, endorsements = at(data, f"{QVL}/tdx_quote"), for_tdx(data)
    spent = []
    for _ in range(10):
        start = time.process_time()
        found = claims(authenticate(quote, endorsements, now=IN_TIME))
        appraise(found, strict(found))
        spent.append(time.process_time() - start)
    assert min(spent) < 0.05
