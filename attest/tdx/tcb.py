"""Which level of Intel's TCB info a platform is at, and what follows: pure comparison of data authenticated elsewhere.

The rules are those of Intel's quote verification library, with one left out: where a domain was started by an old TDX
module and a new one runs now, Intel's library may say `TDRelaunchAdvised`; here it stays `OutOfDate`.

Source: PCS API version 4, "Get TCB Info": "Determining TCB status of the platform", and "Get Quoting Enclave Identity".
"""

from __future__ import annotations

from attest.errors import MalformedInput, VerificationError
from attest.tdx.collateral import Component, EnclaveLevel, EnclaveStatus, Level, Module, QeIdentity, Status, TcbInfo
from attest.tdx.layout import Domain, Enclave
from attest.tdx.pck import Pck

LAYER = "tdx"

_BESIDE_OUT_OF_DATE: dict[Status, Status] = {
    "UpToDate": "OutOfDate",
    "SWHardeningNeeded": "OutOfDate",
    "ConfigurationNeeded": "OutOfDateConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded": "OutOfDateConfigurationNeeded",
}
"""What a platform's status becomes where a part of it is out of date."""


def converge(status: Status, part: EnclaveStatus) -> Status:
    """The status of a platform at `status`, of which a part (TDX module, quoting enclave) is at `part`."""
    if part == "Revoked":
        return "Revoked"
    return _BESIDE_OUT_OF_DATE.get(status, status) if part == "OutOfDate" else status


def platform_level(info: TcbInfo, pck: Pck, domain: Domain | None) -> Level:
    """The first level, in Intel's order, that the platform reaches with every component, PCESVN, and TDX component.

    `domain` is None for SGX. Raises `VerificationError` if there is none.
    """
    for level in info.tcb_levels:
        reached = _reaches(pck.components, level.tcb.sgxtcbcomponents) and pck.pce_svn >= level.tcb.pcesvn
        if reached and (domain is None or _reaches_tdx(domain.tee_tcb_svn, level)):
            return level
    found = f"components {pck.components}, PCESVN {pck.pce_svn}"
    if domain is not None:
        found += f", TEE TCB SVN {domain.tee_tcb_svn.hex()}"
    raise VerificationError(LAYER, "tcb-level", expected="a platform at some level of the TCB info", found=found)


def module_level(info: TcbInfo, domain: Domain) -> EnclaveLevel | None:
    """The level of the TDX module, whose identity is checked; None for major version 0, which has no levels of its own.

    Raises `VerificationError` for a module that the TCB info does not know.
    """
    major, minor = domain.tee_tcb_svn[1], domain.tee_tcb_svn[0]
    if major == 0:
        if info.tdx_module is None:
            raise VerificationError(LAYER, "module-unknown", expected="a TDX module in the TCB info", found="none")
        _check_module(info.tdx_module, domain)
        return None
    name = f"TDX_{major:02x}"
    for identity in info.tdx_module_identities:
        if identity.id.lower() == name.lower():
            _check_module(identity, domain)
            return _level(identity.tcb_levels, minor, "module-level")
    names = [identity.id for identity in info.tdx_module_identities]
    raise VerificationError(LAYER, "module-unknown", expected=f"a TDX module of {names}", found=name)


def qe_level(identity: QeIdentity, report: Enclave) -> EnclaveLevel:
    """The level of the quoting enclave that made `report`. Raises `VerificationError` if it is not Intel's."""
    misc = _masked(report.misc_select, identity.miscselect_mask)
    if misc != bytes.fromhex(identity.miscselect):
        raise VerificationError(LAYER, "qe-miscselect", expected=identity.miscselect, found=misc.hex())
    attributes = _masked(report.attributes, identity.attributes_mask)
    if attributes != bytes.fromhex(identity.attributes):
        raise VerificationError(LAYER, "qe-attributes", expected=identity.attributes, found=attributes.hex())
    if report.mr_signer != bytes.fromhex(identity.mrsigner):
        raise VerificationError(LAYER, "qe-signer", expected=identity.mrsigner, found=report.mr_signer.hex())
    if report.isv_prod_id != identity.isvprodid:
        raise VerificationError(LAYER, "qe-product", expected=identity.isvprodid, found=report.isv_prod_id)
    return _level(identity.tcb_levels, report.isv_svn, "qe-level")


def _level(levels: tuple[EnclaveLevel, ...], svn: int, code: str) -> EnclaveLevel:
    for level in levels:
        if svn >= level.tcb.isvsvn:
            return level
    raise VerificationError(LAYER, code, expected=f"at least {levels[-1].tcb.isvsvn}", found=svn)


def _reaches(found: tuple[int, ...] | bytes, least: tuple[Component, ...]) -> bool:
    return all(svn >= component.svn for svn, component in zip(found, least, strict=True))


def _reaches_tdx(found: bytes, level: Level) -> bool:
    if level.tcb.tdxtcbcomponents is None:
        raise MalformedInput("TCB info", "expected TDX components in every level, found one without")
    # From major version 1 on, the module has levels of its own, and its two components here are another module's.
    first = 2 if found[1] else 0
    return _reaches(found[first:], level.tcb.tdxtcbcomponents[first:])


def _check_module(module: Module, domain: Domain) -> None:
    if domain.mr_signer_seam != bytes.fromhex(module.mrsigner):
        raise VerificationError(LAYER, "module-signer", expected=module.mrsigner, found=domain.mr_signer_seam.hex())
    attributes = _masked(domain.seam_attributes, module.attributes_mask)
    if attributes != bytes.fromhex(module.attributes):
        raise VerificationError(LAYER, "module-attributes", expected=module.attributes, found=attributes.hex())


def _masked(data: bytes, mask: str) -> bytes:
    return bytes(a & b for a, b in zip(data, bytes.fromhex(mask), strict=True))
