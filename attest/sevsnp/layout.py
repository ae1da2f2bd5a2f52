"""The bytes of an attestation report: SEV-SNP Firmware ABI (AMD 56860), `ATTESTATION_REPORT`, 1184 bytes.

All integers are little-endian. Refused: another size, an unknown version, reserved bytes that are not zero, bits of the
guest policy or of the platform's state whose meaning is not known here. Nothing is checked for trust.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

from attest.errors import MalformedInput, Unsupported

WHAT: Final = "SEV-SNP report"
SIZE_BYTES: Final = 0x4A0
SIGNED_BYTES: Final = 0x2A0
"""The signature covers what stands before this offset."""
VERSIONS: Final = (2, 3, 5)
"""Version 4 has no published layout of its own that evidence was ever seen of; it is not guessed at."""
ECDSA_P384_SHA384: Final = 1

SigningKey = Literal["vcek", "vlek", "none"]
GuestFlag = Literal[
    "smt", "migration-agent", "debug", "single-socket", "cxl", "aes-256-xts", "rapl-disabled", "ciphertext-hiding",
    "page-swap-disabled",
]  # fmt: skip
PlatformFlag = Literal["smt", "tsme", "ecc", "rapl-disabled", "ciphertext-hiding", "alias-check", "tio"]

GUEST_BITS: Final[dict[int, GuestFlag]] = {
    16: "smt", 18: "migration-agent", 19: "debug", 20: "single-socket", 21: "cxl", 22: "aes-256-xts",
    23: "rapl-disabled", 24: "ciphertext-hiding", 25: "page-swap-disabled",
}  # fmt: skip
"""Guest policy, ABI 4.3: bit to meaning. Bits 0 to 15 are the ABI's version, bit 17 is always one."""
PLATFORM_BITS: Final[dict[int, PlatformFlag]] = {
    0: "smt", 1: "tsme", 2: "ecc", 3: "rapl-disabled", 4: "ciphertext-hiding", 5: "alias-check", 7: "tio",
}  # fmt: skip
"""`PLATFORM_INFO`: bit to meaning."""
_GUEST_ONE = 1 << 17
_SIGNING_KEYS: Final[dict[int, SigningKey]] = {0: "vcek", 1: "vlek", 7: "none"}

_REPORT = struct.Struct("<IIQ16s16sII8sQII64s48s32s48s48s32s32s8sBBB21s64s8s3sB3sB8sQQ152s512s")


@dataclass(frozen=True)
class Report:
    """`ATTESTATION_REPORT`, with the offset of each field."""

    signed: bytes
    """0x000, 672 bytes: all that the signature covers."""
    version: int
    """0x000 `VERSION`: 2, 3 or 5."""
    guest_svn: int
    """0x004 `GUEST_SVN`: the guest's own security version, of its ID block."""
    policy: int
    """0x008 `POLICY`: 64 bits, as they are."""
    family_id: bytes
    """0x010 `FAMILY_ID`, 16 bytes, of the ID block."""
    image_id: bytes
    """0x020 `IMAGE_ID`, 16 bytes, of the ID block."""
    vmpl: int
    """0x030 `VMPL`: the privilege level that asked, 0 is the highest; 0xFFFFFFFF when the host asked."""
    current_tcb: bytes
    """0x038 `CURRENT_TCB`, 8 bytes: what runs."""
    platform_info: int
    """0x040 `PLATFORM_INFO`: 64 bits, as they are."""
    author_key_enabled: bool
    """0x048 bit 0 `AUTHOR_KEY_EN`: the ID key was itself signed, by an author's key."""
    signing_key: SigningKey
    """0x048 bits 2 to 4 `SIGNING_KEY`: the kind of key that signed."""
    report_data: bytes
    """0x050 `REPORT_DATA`, 64 bytes, chosen by the guest."""
    measurement: bytes
    """0x090 `MEASUREMENT`, 48 bytes: the launch digest."""
    host_data: bytes
    """0x0C0 `HOST_DATA`, 32 bytes, chosen by the host at launch."""
    id_key_digest: bytes
    """0x0E0 `ID_KEY_DIGEST`, 48 bytes: SHA-384 of the key that signed the ID block; zeros without one."""
    author_key_digest: bytes
    """0x110 `AUTHOR_KEY_DIGEST`, 48 bytes; zeros without one."""
    report_id: bytes
    """0x140 `REPORT_ID`, 32 bytes: the guest's, fresh with each launch."""
    report_id_ma: bytes
    """0x160 `REPORT_ID_MA`, 32 bytes: the migration agent's; ones without one."""
    reported_tcb: bytes
    """0x180 `REPORTED_TCB`, 8 bytes: the one that the signing key is derived from."""
    cpuid: tuple[int, int, int] | None
    """0x188 `CPUID_FAM_ID`, `CPUID_MOD_ID`, `CPUID_STEP`; from version 3 on."""
    chip_id: bytes
    """0x1A0 `CHIP_ID`, 64 bytes; zeros where the host masks it. On Turin 8 bytes, then zeros."""
    committed_tcb: bytes
    """0x1E0 `COMMITTED_TCB`, 8 bytes: below it the firmware cannot be rolled back."""
    current_firmware: tuple[int, int, int]
    """0x1E8 `CURRENT_BUILD`, `CURRENT_MINOR`, `CURRENT_MAJOR`; here the major number comes first."""
    committed_firmware: tuple[int, int, int]
    """0x1EC `COMMITTED_BUILD`, `COMMITTED_MINOR`, `COMMITTED_MAJOR`; here the major number comes first."""
    launch_tcb: bytes
    """0x1F0 `LAUNCH_TCB`, 8 bytes: when the guest was launched or imported."""
    launch_mitigations: int | None
    """0x1F8 `LAUNCH_MIT_VECTOR`; from version 5 on."""
    current_mitigations: int | None
    """0x200 `CURRENT_MIT_VECTOR`; from version 5 on."""
    signature: bytes
    """0x2A0 `SIGNATURE`, 512 bytes, see `read_signature`."""

    @property
    def guest_flags(self) -> frozenset[GuestFlag]:
        """What the guest policy allows the host (`debug`, `smt`, ...) or requires of it (`single-socket`, ...)."""
        return frozenset(flag for bit, flag in GUEST_BITS.items() if self.policy >> bit & 1)

    @property
    def abi(self) -> tuple[int, int]:
        """Major and minor version of the ABI that the guest policy requires at least."""
        return self.policy >> 8 & 0xFF, self.policy & 0xFF

    @property
    def platform_flags(self) -> frozenset[PlatformFlag]:
        """How the platform is set up."""
        return frozenset(flag for bit, flag in PLATFORM_BITS.items() if self.platform_info >> bit & 1)


def read_report(data: bytes) -> Report:
    """The report in `data`, all of it. Raises `MalformedInput`, `Unsupported`."""
    if len(data) != SIZE_BYTES:
        raise MalformedInput(WHAT, f"expected {SIZE_BYTES} bytes, found {len(data)}")
    (version, svn, policy, family, image, vmpl, algorithm, current, platform, keys, reserved_4c, report_data,
     measurement, host_data, id_key, author_key, report_id, report_id_ma, reported, cpu_family, cpu_model, cpu_step,
     reserved_18b, chip_id, committed, firmware, reserved_1eb, committed_firmware, reserved_1ef, launch,
     launch_mitigations, current_mitigations, reserved_208, signature) = _REPORT.unpack(data)  # fmt: skip
    if version not in VERSIONS:
        raise Unsupported(WHAT, f"expected version {', '.join(map(str, VERSIONS))}, found {version}")
    if algorithm != ECDSA_P384_SHA384:
        raise Unsupported(WHAT, f"expected signature algorithm {ECDSA_P384_SHA384}, found {algorithm}")
    cpuid = (cpu_family, cpu_model, cpu_step)
    reserved = {
        0x4C: reserved_4c, 0x18B: any(reserved_18b), 0x1EB: reserved_1eb, 0x1EF: reserved_1ef,
        0x208: any(reserved_208), 0x188: version < 3 and any(cpuid),
        0x1F8: version < 5 and (launch_mitigations or current_mitigations),
    }  # fmt: skip
    for offset, found in reserved.items():
        if found:
            raise MalformedInput(WHAT, f"expected reserved zeros at offset {offset:#x}, found others")
    if not policy & _GUEST_ONE:
        raise MalformedInput(WHAT, "expected bit 17 of the guest policy to be one, found zero")
    _refuse_unknown(policy, 0xFFFF | _GUEST_ONE, GUEST_BITS, "guest policy")
    _refuse_unknown(platform, 0, PLATFORM_BITS, "platform state")
    if keys >> 5:
        raise MalformedInput(WHAT, f"expected reserved zeros in bits 5 to 31 at offset 0x48, found {keys:#x}")
    if keys >> 2 not in _SIGNING_KEYS:
        raise Unsupported(WHAT, f"expected a VCEK, a VLEK or none as signing key, found kind {keys >> 2}")
    return Report(
        signed=data[:SIGNED_BYTES], version=version, guest_svn=svn, policy=policy, family_id=family, image_id=image,
        vmpl=vmpl, current_tcb=current, platform_info=platform, author_key_enabled=bool(keys & 1),
        signing_key=_SIGNING_KEYS[keys >> 2], report_data=report_data, measurement=measurement, host_data=host_data,
        id_key_digest=id_key, author_key_digest=author_key, report_id=report_id, report_id_ma=report_id_ma,
        reported_tcb=reported, cpuid=cpuid if version >= 3 else None, chip_id=chip_id, committed_tcb=committed,
        current_firmware=(firmware[2], firmware[1], firmware[0]),
        committed_firmware=(committed_firmware[2], committed_firmware[1], committed_firmware[0]), launch_tcb=launch,
        launch_mitigations=launch_mitigations if version >= 5 else None,
        current_mitigations=current_mitigations if version >= 5 else None, signature=signature,
    )  # fmt: skip


def read_signature(data: bytes, what: str = WHAT) -> tuple[int, int]:
    """r and s of an ECDSA P-384 signature (512 bytes: 72 for each, little-endian, then zeros).

    Raises `MalformedInput`, whose subject is `what`.
    """
    if len(data) != 512 or any(data[144:]):
        raise MalformedInput(what, "expected a signature of 144 bytes and 368 zeros, found others")
    return int.from_bytes(data[:72], "little"), int.from_bytes(data[72:144], "little")


def _refuse_unknown(
    value: int, also_known: int, names: dict[int, GuestFlag] | dict[int, PlatformFlag], of: str
) -> None:
    unknown = value & ~(also_known | sum(1 << bit for bit in names))
    if unknown:
        raise Unsupported(WHAT, f"the {of} sets bits that are not known here: {unknown:#x}")
