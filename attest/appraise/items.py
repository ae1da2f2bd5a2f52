"""Evidence of each platform as it travels: JSON objects of one format each, and vendors' own files made into them.

A TPM's and SEV-SNP's formats are those of their packages. The others wrap what the hardware gives, byte for byte.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field, ValidationError

from attest import canonical, chain, nvgpu, sevsnp
from attest.canonical import JSON, Model
from attest.dsse import Base64
from attest.errors import MalformedInput, Unsupported
from attest.evidence import FORMATS
from attest.manifest import Platform
from attest.nitro import dstack

MAX_BYTES = 32 << 20
HEX = frozenset(b"0123456789abcdefABCDEF \t\r\n")


class Tdx(Model):
    """A quote of a trust domain or enclave."""

    format: Literal["vitrine/tdx-evidence/v1"] = "vitrine/tdx-evidence/v1"
    """Format and version."""
    quote: Base64
    """The quote, as received."""
    event_log: Base64 | None = None
    """The confidential-computing event log (CCEL, or dstack's JSON), where there is one."""


class Nitro(Model):
    """An attestation document of a Nitro enclave."""

    format: Literal["vitrine/nitro-evidence/v1"] = "vitrine/nitro-evidence/v1"
    """Format and version."""
    document: Base64
    """COSE_Sign1, as received."""


class Gpu(Model):
    """What one GPU gave."""

    report: Base64
    """The attestation report: SPDM request and response."""
    certificates: Base64
    """The certificates of the key that signed it, leaf first, PEM."""


class Gpus(Model):
    """Reports of a machine's GPUs, asked with one nonce."""

    format: Literal["vitrine/gpu-evidence/v1"] = "vitrine/gpu-evidence/v1"
    """Format and version."""
    gpus: Annotated[tuple[Gpu, ...], Field(min_length=1, max_length=64)]
    """Each GPU's."""


def wrap(data: bytes, platform: Platform, certificate: bytes | None = None) -> dict[str, JSON]:
    """A vendor's own file as a document of our format. `certificate`: what comes beside a report (SEV-SNP, a GPU).

    Raises `MalformedInput`, and `Unsupported` for platforms whose evidence is of several parts.
    """
    if platform in ("tpm", "azure"):
        raise Unsupported(f"evidence of {platform}", "expected JSON of its format, found a vendor's file")
    if platform in ("sev-snp", "nvidia-gpu"):
        data = _binary(data)
    try:
        value: dict[str, JSON] = _model(data, platform, certificate).model_dump(mode="json", exclude_none=True)
    except ValidationError as error:
        raise MalformedInput(f"evidence of {platform}", canonical.explain(error)) from None
    return value


def _model(data: bytes, platform: Platform, certificate: bytes | None) -> Model:
    model: Model
    if platform == "tdx":
        model = Tdx(quote=data)
    elif platform == "nitro":
        model = Nitro(document=dstack.unwrap(data).document if dstack.is_wrapped(data) else data)
    elif platform == "nvidia-gpu" and data.lstrip().startswith(b"["):
        found = nvgpu.read_list(data)
        model = Gpus(gpus=tuple(Gpu(report=one.report, certificates=one.certificates) for one in found))
    elif certificate is None:
        raise MalformedInput(
            f"evidence of {platform}", "expected the certificate of the key that signed beside the report"
        )
    elif platform == "nvidia-gpu":
        model = Gpus(gpus=(Gpu(report=data, certificates=certificate),))
    else:
        model = sevsnp.Evidence(report=data, certificate=der(certificate))
    return model


def read(data: bytes) -> dict[str, JSON]:
    """The document in the JSON text `data`, its format known. Raises `MalformedInput`, `Unsupported`."""
    value = canonical.loads(data, "evidence")
    name = value.get("format") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(name, str):
        raise MalformedInput("evidence", "expected a JSON object with a format, or a vendor's file and its --platform")
    if name not in FORMATS:
        raise Unsupported("evidence", f"expected a format of {', '.join(FORMATS)}, found {name[:80]!r}")
    return value


def _binary(data: bytes) -> bytes:
    """Reports are also handed around as hexadecimal digits."""
    if data and set(data) <= HEX:
        try:
            return bytes.fromhex(data.decode("ascii"))
        except ValueError:
            raise MalformedInput("evidence", "expected an even number of hexadecimal digits") from None
    return data


def der(certificate: bytes) -> bytes:
    """A certificate in PEM or DER, as DER. Raises `MalformedInput`."""
    if not certificate.lstrip().startswith(b"-----BEGIN"):
        return certificate
    return chain.load_pem(certificate)[0].public_bytes(Encoding.DER)
