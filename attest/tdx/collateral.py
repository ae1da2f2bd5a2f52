"""What Intel publishes so that a quote can be judged: TCB info, and identities of quoting enclaves.

TCB info and identity are JSON objects whose signature is over the object's bytes as served, so those bytes are kept
and never written again. `signed` takes them out of Intel's answer. The models are strict: a field that is not known
here is refused, since it could change what a level means.

Sources: "Intel SGX and Intel TDX Registration Authority / Provisioning Certification Service API", version 4: "Get TCB
Info" (TCB info version 3) and "Get Quoting Enclave Identity" (identity version 2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints

from attest import canonical
from attest.canonical import Model
from attest.errors import MalformedInput, Unsupported

MAX_BYTES = 1 << 20
MAX_LEVELS = 256
COMPONENTS = 16

Status = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
]
"""What Intel says of a platform at some level."""
EnclaveStatus = Literal["UpToDate", "OutOfDate", "Revoked"]
"""What Intel says of a quoting enclave, or of a TDX module, at some level."""
Advisory = Annotated[str, StringConstraints(pattern=r"^INTEL-SA-[0-9]{5}$")]
"""A security advisory of Intel's."""
Time = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
"""A time in UTC, to the second."""
_Hex4 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{4}$")]
_Hex8 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{8}$")]
_Hex12 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{12}$")]
_Hex16 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{16}$")]
_Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{32}$")]
_Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$")]
_Hex96 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{96}$")]


class Component(Model):
    """The least version of one component."""

    svn: int = Field(ge=0, le=255)
    """Its security version number."""
    category: str | None = Field(default=None, max_length=100)
    """For people: who updates it."""
    type: str | None = Field(default=None, max_length=100)
    """For people: what it is."""


_Components = Annotated[tuple[Component, ...], Field(min_length=COMPONENTS, max_length=COMPONENTS)]
_Advisories = Annotated[tuple[Advisory, ...], Field(max_length=MAX_LEVELS)]


class Tcb(Model):
    """The versions that a platform has at least, to be at a level."""

    sgxtcbcomponents: _Components
    """Of the sixteen components that the PCK certificate names."""
    pcesvn: int = Field(ge=0, le=0xFFFF)
    """Of the provisioning certification enclave."""
    tdxtcbcomponents: _Components | None = None
    """Of the sixteen that the TD report names. Only for TDX."""


class Level(Model):
    """A level of the platform, and what Intel says of it."""

    tcb: Tcb
    """The least versions."""
    tcb_date: Time = Field(alias="tcbDate")
    """Platforms at this level are free of what was published before."""
    tcb_status: Status = Field(alias="tcbStatus")
    """The status."""
    advisory_ids: _Advisories = Field(default=(), alias="advisoryIDs")
    """What the level is vulnerable to, or has to be hardened against."""


class EnclaveTcb(Model):
    """The version of an enclave, or of a TDX module."""

    isvsvn: int = Field(ge=0, le=0xFFFF)
    """Its security version number, at least."""


class EnclaveLevel(Model):
    """A level of an enclave or of a TDX module, and what Intel says of it."""

    tcb: EnclaveTcb
    """The least version."""
    tcb_date: Time = Field(alias="tcbDate")
    """As of a platform's level."""
    tcb_status: EnclaveStatus = Field(alias="tcbStatus")
    """The status."""
    advisory_ids: _Advisories = Field(default=(), alias="advisoryIDs")
    """As of a platform's level."""


_EnclaveLevels = Annotated[tuple[EnclaveLevel, ...], Field(min_length=1, max_length=MAX_LEVELS)]


class Module(Model):
    """A TDX module: who signed it, and its attributes."""

    mrsigner: _Hex96
    """MRSIGNERSEAM."""
    attributes: _Hex16
    """SEAMATTRIBUTES under the mask."""
    attributes_mask: _Hex16 = Field(alias="attributesMask")
    """The bits that are compared."""


class ModuleIdentity(Module):
    """A TDX module of one major version."""

    id: Annotated[str, StringConstraints(pattern=r"^TDX_[0-9A-Fa-f]{2}$")]
    """`TDX_` and the major version, in hexadecimal digits."""
    tcb_levels: _EnclaveLevels = Field(alias="tcbLevels")
    """Its levels, newest first."""


class TcbInfo(Model):
    """The levels of one kind of platform."""

    id: Literal["SGX", "TDX"]
    """For which kind of quote."""
    version: Literal[3]
    """Version of the form."""
    issue_date: Time = Field(alias="issueDate")
    """When it was made."""
    next_update: Time = Field(alias="nextUpdate")
    """When the next one is there at the latest."""
    fmspc: _Hex12
    """The kind of platform."""
    pce_id: _Hex4 = Field(alias="pceId")
    """Its provisioning certification enclave."""
    tcb_type: Literal[0] = Field(alias="tcbType")
    """How levels are compared: 0."""
    tcb_evaluation_data_number: int = Field(ge=0, le=canonical.MAX_INTEGER, alias="tcbEvaluationDataNumber")
    """Grows with each event that made Intel look again."""
    tdx_module: Module | None = Field(default=None, alias="tdxModule")
    """The TDX module whose major version is 0."""
    tdx_module_identities: Annotated[tuple[ModuleIdentity, ...], Field(max_length=MAX_LEVELS)] = Field(
        default=(), alias="tdxModuleIdentities"
    )
    """TDX modules of other major versions."""
    tcb_levels: Annotated[tuple[Level, ...], Field(min_length=1, max_length=MAX_LEVELS)] = Field(alias="tcbLevels")
    """The levels, newest first."""


class QeIdentity(Model):
    """What a quoting enclave of Intel's looks like."""

    id: Literal["QE", "TD_QE"]
    """For SGX, or for TDX."""
    version: Literal[2]
    """Version of the form."""
    issue_date: Time = Field(alias="issueDate")
    """When it was made."""
    next_update: Time = Field(alias="nextUpdate")
    """When the next one is there at the latest."""
    tcb_evaluation_data_number: int = Field(ge=0, le=canonical.MAX_INTEGER, alias="tcbEvaluationDataNumber")
    """As in the TCB info."""
    miscselect: _Hex8
    """MISCSELECT under the mask."""
    miscselect_mask: _Hex8 = Field(alias="miscselectMask")
    """The bits that are compared."""
    attributes: _Hex32
    """ATTRIBUTES under the mask."""
    attributes_mask: _Hex32 = Field(alias="attributesMask")
    """The bits that are compared; debug is among them."""
    mrsigner: _Hex64
    """Who signed the enclave."""
    isvprodid: int = Field(ge=0, le=0xFFFF)
    """Which enclave of the signer it is."""
    tcb_levels: _EnclaveLevels = Field(alias="tcbLevels")
    """Its levels, newest first."""


@dataclass(frozen=True)
class Signed:
    """A document of Intel's, and its signature."""

    body: bytes
    """The JSON object, as it was signed."""
    signature: bytes
    """ECDSA with P-256 and SHA-256 over it: r and s, 32 bytes each."""
    chain: bytes
    """Who signed: the signer's certificate and the root's, in PEM."""


@dataclass(frozen=True)
class Endorsements:
    """Everything that a quote is judged by. What is None is missing, and that is refused unless opted out."""

    root: bytes
    """Intel's root certificate that the caller trusts, DER."""
    root_crl: bytes | None
    """Revocations by the root, DER."""
    pck_crl: bytes | None
    """Revocations by the authority of the platform's certificate, DER."""
    tcb_info: Signed | None
    """The levels of this kind of platform."""
    qe_identity: Signed | None
    """What the quoting enclave has to look like."""


D = TypeVar("D", TcbInfo, QeIdentity)


def signed(answer: bytes, field: Literal["tcbInfo", "enclaveIdentity"], chain: bytes) -> Signed:
    """The signed document in an answer of Intel's service, `{"<field>":{...},"signature":"<128 digits>"}`.

    `chain` comes with the answer, in a header. Raises `MalformedInput`.
    """
    what = f"Intel's answer with {field}"
    pattern = rb'\{"' + field.encode() + rb'":(\{.*\}),"signature":"([0-9a-fA-F]{128})"\}\s*'
    found = re.fullmatch(pattern, answer, re.DOTALL) if len(answer) <= MAX_BYTES else None
    if found is None:
        raise MalformedInput(what, f"expected {field} and signature, and nothing besides, found {answer[:80]!r}")
    return Signed(found[1], bytes.fromhex(found[2].decode("ascii")), chain)


def parse(model: type[D], body: bytes) -> D:
    """The document `body`. Raises `MalformedInput`, and `Unsupported` for another version."""
    what = "TCB info" if model is TcbInfo else "enclave identity"
    if len(body) > MAX_BYTES:
        raise MalformedInput(what, f"expected at most {MAX_BYTES} bytes, found {len(body)}")
    value = canonical.loads(body, what)
    known = model.model_fields["version"].annotation
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and known != Literal[version]:
        raise Unsupported(what, f"expected {known}, found version {version}")
    return canonical.validate(model, value, what)
