"""What an authenticated Intel quote says, as data that a policy compares and a report prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from attest import validity
from attest.canonical import Model
from attest.digest import Digest
from attest.errors import MalformedInput
from attest.tdx import eventlog
from attest.tdx.authenticate import Authenticated, Standing
from attest.tdx.collateral import Advisory, EnclaveStatus, Status, Time
from attest.tdx.eventlog import Event
from attest.tdx.layout import Domain, Enclave

SGX_DEBUG = 0x02
"""In the first byte of an enclave's attributes."""
SEPT_VE_DISABLE, MIGRATABLE = 28, 29
"""Bits of a domain's attributes (Intel TDX Module ABI Reference, "ATTRIBUTES")."""


class TcbClaims(Model):
    """What Intel says of the platform."""

    status: Status
    """Of all its parts together."""
    platform: Status
    """Of hardware and firmware."""
    module: EnclaveStatus | None = None
    """Of the TDX module; None where it is part of the platform's level."""
    qe: EnclaveStatus
    """Of the quoting enclave."""
    advisories: tuple[Advisory, ...]
    """Intel's advisories that this status comes from."""
    evaluation_data_number: int
    """How recent the evaluation is."""
    tcb_date: Time
    """The platform is free of what was published before this time."""


class IntelClaims(Model):
    """What the quote says."""

    platform: Literal["tdx", "sgx"]
    """A trust domain, or an enclave."""
    quote_version: int
    """3, 4 or 5."""
    bound: str
    """The report data: 64 bytes."""
    measurements: Mapping[str, str]
    """TDX: `mrtd`, `rtmr0` to `rtmr3`, `mrconfigid`, `mrowner`, `mrownerconfig`, `mrseam`, `mrservicetd` (in version
    5). SGX: `mrenclave`, `mrsigner`."""
    debug: bool
    """Whether the host can look into it: any bit of a domain's debug group, or an enclave's debug bit."""
    attributes: str
    """TD attributes, 8 bytes, or an enclave's flags, 8 bytes; as in memory, lowest byte first."""
    features: str
    """XFAM of a domain, XFRM of an enclave: processor features it may use, 8 bytes, lowest byte first."""
    sept_ve_disable: bool | None = None
    """Whether the host cannot make memory vanish below the domain unnoticed; None for SGX."""
    migratable: bool | None = None
    """Whether a migration domain may move it to another machine; None for SGX."""
    tee_tcb_svn: str | None = None
    """Versions of what the domain was started by, 16 bytes; None for SGX."""
    isv_prod_id: int | None = None
    """An enclave's product, by its signer; None for TDX."""
    isv_svn: int | None = None
    """An enclave's version, by its signer; None for TDX."""
    root: Digest
    """The root certificate that the quote was authenticated with."""
    fmspc: str
    """The kind of platform, 6 bytes."""
    ppid: str
    """Names the one platform, 16 bytes."""
    tcb: TcbClaims | None = None
    """What Intel says of the platform; None where that was not asked."""
    valid_until: Time
    """When the first of the documents ends that the quote was authenticated with."""
    skipped: tuple[str, ...]
    """What was not checked, one sentence each."""
    explained: tuple[str, ...] = ()
    """Registers that an event log replays to."""
    unexplained: tuple[str, ...] = ()
    """Registers that were extended, and that no event log explains."""


def claims(authenticated: Authenticated, events: Iterable[Event] = ()) -> IntelClaims:
    """The claims of an authenticated quote, and of an event log that has to replay to its registers.

    Raises `VerificationError` for a log that does not, and `MalformedInput` for one with an enclave's quote.
    """
    body = authenticated.quote.body
    events = tuple(events)
    if isinstance(body, Domain):
        fields = _domain(body, eventlog.explain(events, body))
    elif events:
        raise MalformedInput(eventlog.WHAT, "expected no event log with the quote of an enclave, found one")
    else:
        fields = _enclave(body)
    return IntelClaims(
        quote_version=authenticated.quote.version,
        bound=body.report_data.hex(),
        root=f"sha256:{authenticated.root.hex()}",
        fmspc=authenticated.pck.fmspc.hex(),
        ppid=authenticated.pck.ppid.hex(),
        tcb=None if authenticated.standing is None else _tcb(authenticated.standing),
        valid_until=validity.write_time(authenticated.valid_until),
        skipped=authenticated.skipped,
        **fields,
    )


def _domain(body: Domain, explained: tuple[str, ...]) -> dict[str, Any]:
    registers = {f"rtmr{number}": value for number, value in enumerate(body.rtmrs)}
    measured = {
        "mrtd": body.mr_td,
        **registers,
        "mrconfigid": body.mr_config_id,
        "mrowner": body.mr_owner,
        "mrownerconfig": body.mr_owner_config,
        "mrseam": body.mr_seam,
    }
    if body.mr_service_td is not None:
        measured["mrservicetd"] = body.mr_service_td
    bits = int.from_bytes(body.td_attributes, "little")
    return {
        "platform": "tdx",
        "measurements": {name: value.hex() for name, value in measured.items()},
        "debug": body.td_attributes[0] != 0,
        "attributes": body.td_attributes.hex(),
        "features": body.xfam.hex(),
        "sept_ve_disable": bool(bits >> SEPT_VE_DISABLE & 1),
        "migratable": bool(bits >> MIGRATABLE & 1),
        "tee_tcb_svn": body.tee_tcb_svn.hex(),
        "explained": explained,
        "unexplained": tuple(name for name, value in registers.items() if any(value) and name not in explained),
    }


def _enclave(body: Enclave) -> dict[str, Any]:
    return {
        "platform": "sgx",
        "measurements": {"mrenclave": body.mr_enclave.hex(), "mrsigner": body.mr_signer.hex()},
        "debug": bool(body.attributes[0] & SGX_DEBUG),
        "attributes": body.attributes[:8].hex(),
        "features": body.attributes[8:].hex(),
        "isv_prod_id": body.isv_prod_id,
        "isv_svn": body.isv_svn,
    }


def _tcb(standing: Standing) -> TcbClaims:
    return TcbClaims(
        status=standing.status,
        platform=standing.platform,
        module=standing.module,
        qe=standing.qe,
        advisories=standing.advisories,
        evaluation_data_number=standing.evaluation,
        tcb_date=standing.tcb_date,
    )
