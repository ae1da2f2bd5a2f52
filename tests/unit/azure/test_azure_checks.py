"""Each check of Azure's evidence, reached by synthetic hardware and a synthetic vTPM that really sign."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import ValidationError

from attest import sevsnp
from attest.azure import Claims, Endorsements, Evidence, Policy, appraise, authenticate, claims, hcl
from attest.digest import digest_of, sha256
from attest.errors import MalformedInput, Unsupported, VerificationError
from attest.tpm import Signed
from tests.fakes import azure as fake
from tests.fakes import tdx as intel
from tests.fakes.sevsnp import NOW, Chip, Vendor, rsa_key

NONCE = b"nonce of this job"
KEY = rsa_key("vTPM")


@dataclass
class Scene:
    """Good evidence, until a test changes something."""

    tdx: bool = False
    runtime: bytes = field(default_factory=lambda: fake.runtime(fake.jwk(KEY), fake.jwk(KEY, kid="HCLEkPub")))
    hashed: bytes | None = None
    tail: bytes = bytes(32)
    key: rsa.RSAPrivateKey = KEY
    registers: dict[int, bytes] = field(default_factory=lambda: dict(fake.REGISTERS))
    hcl: dict[str, Any] = field(default_factory=dict)
    enclave: bool = False
    debug: bool = False

    def evidence(self) -> Evidence:
        bound = sha256(self.runtime if self.hashed is None else self.hashed) + self.tail
        attested, signature = fake.quote(self.key, NONCE, fake.REGISTERS)
        registers = {str(number): value.hex() for number, value in self.registers.items()}
        quote = Signed(attested=attested, signature=signature)
        if self.tdx:
            attributes = bytes.fromhex("0100001000000000" if self.debug else "0000001000000000")
            body = intel.enclave(bound) if self.enclave else intel.domain(bound, td_attributes=attributes)
            report = fake.hcl_report(4, b"a TDREPORT", self.runtime, **self.hcl)
            td_quote = intel.intel().quote(body, version=3 if self.enclave else 4)
            return Evidence(hcl_report=report, td_quote=td_quote, quote=quote, registers=registers)
        chip = Chip()
        settings = {"policy": 1 << 19 | 1 << 17} if self.debug else {}
        report = fake.hcl_report(2, chip.report(report_data=bound, **settings), self.runtime, **self.hcl)
        certificate = Vendor().chip_certificate(chip)
        return Evidence(hcl_report=report, certificate=certificate, quote=quote, registers=registers)

    def decide(self) -> Claims:
        return claims(authenticate(self.evidence(), ENDORSEMENTS, nonce=NONCE, now=NOW))


def collateral(*, enclave: bool = False) -> Endorsements:
    vendor = Vendor()
    amd = sevsnp.Endorsements((vendor.ark, vendor.ask), (vendor.crl(),))
    maker = intel.intel().for_sgx() if enclave else intel.intel()
    return Endorsements(amd, frozenset({digest_of(vendor.ark)}), maker.endorsements())


ENDORSEMENTS = collateral()


@pytest.mark.parametrize("tdx", [False, True])
def test_good_evidence_is_accepted(tdx: bool) -> None:
    found = Scene(tdx).decide()
    assert found.platform == ("azure-tdx" if tdx else "azure-sev-snp")
    assert (found.sev_snp is None, found.tdx is None) == (tdx, not tdx)
    assert found.bound == NONCE.hex() and found.user_data == "0a" * 64 and found.vm_id == "a machine"
    assert found.measurements == {f"sha256:{number}": value.hex() for number, value in fake.REGISTERS.items()}
    assert (found.secure_boot, found.console, found.debug, found.skipped) == (True, False, False, ())


@pytest.mark.parametrize("tdx", [False, True])
def test_a_machine_that_its_host_may_look_into_is_debugged(tdx: bool) -> None:
    assert Scene(tdx, debug=True).decide().debug is True


def test_a_report_may_be_as_short_and_as_long_as_it_says() -> None:
    least = 32 + 1184 + 20
    with pytest.raises(MalformedInput, match=f"{least} to 65536 bytes, found {least - 1}"):
        hcl.read(b"HCLA".ljust(least - 1, b"\0"))
    with pytest.raises(Unsupported, match="version"):
        hcl.read(b"HCLA".ljust(least, b"\0"))
    whole = hcl.read(fake.hcl_report(2, Chip().report(), Scene().runtime).ljust(hcl.MAX_BYTES, b"\0"))
    assert whole.kind == "sev-snp"
    with pytest.raises(MalformedInput, match="found 65537"):
        hcl.read(fake.hcl_report(2, Chip().report(), Scene().runtime).ljust(hcl.MAX_BYTES + 1, b"\0"))


def refused(scene: Scene) -> tuple[str, str]:
    with pytest.raises(VerificationError) as caught:
        scene.decide()
    return caught.value.layer, caught.value.code


@pytest.mark.parametrize("tdx", [False, True])
def test_what_does_not_hang_together_is_refused(tdx: bool) -> None:
    assert refused(Scene(tdx, hashed=b"other claims")) == ("azure", "runtime-claims")
    assert refused(Scene(tdx, tail=bytes(31) + b"\x01")) == ("azure", "runtime-claims")
    assert refused(Scene(tdx, key=rsa_key("another vTPM"))) == ("tpm", "signature")
    assert refused(Scene(tdx, registers={**fake.REGISTERS, 11: bytes(32)})) == ("tpm", "registers")
    assert refused(Scene(tdx, registers={0: fake.REGISTERS[0]})) == ("tpm", "selection")


def test_the_quote_of_an_enclave_is_none_of_a_machine() -> None:
    evidence = Scene(tdx=True, enclave=True).evidence()
    with pytest.raises(MalformedInput, match="found one of an enclave"):
        authenticate(evidence, collateral(enclave=True), nonce=NONCE, now=NOW)


@pytest.mark.parametrize("tdx", [False, True])
@pytest.mark.parametrize("missing", ["evidence", "endorsements"])
def test_absent_means_refused(tdx: bool, missing: str) -> None:
    evidence, endorsements = Scene(tdx).evidence(), ENDORSEMENTS
    if missing == "evidence":
        evidence = evidence.model_copy(update={"certificate": None, "td_quote": None})
    else:
        endorsements = Endorsements(None, endorsements.roots, None)
    with pytest.raises(VerificationError) as caught:
        authenticate(evidence, endorsements, nonce=NONCE, now=NOW)
    assert (caught.value.layer, caught.value.code) == ("azure", "missing")


MALFORMED: dict[str, tuple[str, dict[str, Any]]] = {
    "another magic": ("at its start", {"magic": b"HCLB"}),
    "a size that is short": ("sizes that agree", {"size": 1}),
    "a request that is short": ("sizes that agree", {"request_size": 20}),
    "JSON beyond the end": (
        "sizes that agree", {"json_size": 1 << 20, "request_size": (1 << 20) + 20, "size": (1 << 20) + 1236},
    ),
    "something behind it": ("sizes that agree", {"tail": b"\0\x01"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_reports_are_read_strictly(name: str) -> None:
    message, changes = MALFORMED[name]
    with pytest.raises(MalformedInput, match=message):
        Scene(hcl=changes).decide()


@pytest.mark.parametrize(
    "changes", [{"version": 3}, {"version": 0}, {"request_version": 2}, {"kind": 3}, {"hash": 2}], ids=str
)
def test_what_is_not_known_is_unsupported(changes: dict[str, int]) -> None:
    with pytest.raises(Unsupported):
        Scene(hcl=changes).decide()


@pytest.mark.parametrize("size", [0, 1235, (1 << 16) + 1])
def test_a_report_has_bounds(size: int) -> None:
    with pytest.raises(MalformedInput, match="1236 to 65536 bytes"):
        hcl.read(bytes(size))


def test_a_report_ends_where_it_ends() -> None:
    assert hcl.read(fake.hcl_report(2, b"", Scene().runtime, tail=b"", version=1)).kind == "sev-snp"


KEYS: dict[str, tuple[dict[str, Any], ...]] = {
    "none": (),
    "two": (fake.jwk(KEY), fake.jwk(KEY)),
    "only another": (fake.jwk(KEY, kid="HCLEkPub"),),
    "one that decrypts too": (fake.jwk(KEY, key_ops=["sign", "decrypt"]),),
    "one that is no RSA key": (fake.jwk(KEY, kty="EC"),),
    "one with an even exponent": (fake.jwk(KEY, e="Ag"),),
    "one of 1024 bits": (fake.jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024)),),
    "one that is no base64url": (fake.jwk(KEY, n="a"),),
    "one with padding": (fake.jwk(KEY, n=fake.jwk(KEY)["n"] + "="),),
}


@pytest.mark.parametrize("name", KEYS)
def test_there_is_one_attestation_key(name: str) -> None:
    with pytest.raises(MalformedInput):
        Scene(runtime=fake.runtime(*KEYS[name])).decide()


# The policy.

PRODUCT = sevsnp.Policy.model_validate_json(
    b'{"measurements": ["%s"], "minimum_tcb": {"Milan": {"boot_loader": 4, "tee": 0, "snp": 24, "microcode": 219}}}'
    % (b"22" * 48)
)
RULES: dict[str, Any] = {"sev_snp": PRODUCT, "registers": {"sha256:11": (fake.REGISTERS[11].hex(),)}}


def failing(changes: dict[str, Any], rules: dict[str, Any]) -> list[str]:
    found = Scene().decide().model_copy(update=changes)
    return [line.rule for line in appraise(found, Policy(**(RULES | rules))) if not line.holds]


def test_rules_hold_or_fail_alone() -> None:
    assert failing({}, {}) == []
    assert failing({}, {"sev_snp": None}) == ["azure.hardware"]
    assert failing({"sev_snp": None}, {}) == ["azure.hardware"]
    assert failing({}, {"registers": {"sha256:11": ("00" * 32,)}}) == ["azure.sha256:11"]
    assert failing({"measurements": {}}, {}) == ["azure.sha256:11"]
    assert failing({"secure_boot": False}, {}) == ["azure.secure-boot"]
    assert failing({"secure_boot": False}, {"secure_boot": False}) == []
    assert failing({"console": True}, {}) == ["azure.console"]
    assert failing({"console": True}, {"console": True}) == []
    stricter = PRODUCT.model_copy(update={"measurements": ("00" * 48,)})
    assert failing({}, {"sev_snp": stricter}) == ["sev-snp.measurement"]
    with pytest.raises(ValidationError):
        Policy(**(RULES | {"registers": {}}))


def test_the_rules_of_tdx_are_those_of_tdx() -> None:
    from attest import tdx

    root = digest_of(ENDORSEMENTS.tdx.root) if ENDORSEMENTS.tdx else ""
    rules = tdx.Policy(roots=(root,), measurements={"mrtd": ("d0" * 48,)}, minimum_evaluation_data_number=18)
    found = Scene(tdx=True).decide()
    accepted = Policy(tdx=rules, registers=RULES["registers"])
    assert [line.rule for line in appraise(found, accepted) if not line.holds] == []
    other = rules.model_copy(update={"measurements": {"mrtd": ("d1" * 48,)}})
    refusing = accepted.model_copy(update={"tdx": other})
    assert [line.rule for line in appraise(found, refusing) if not line.holds] == ["tdx.measurement.mrtd"]
    assert [line.rule for line in appraise(found, Policy(**RULES)) if not line.holds] == ["azure.hardware"]
    snp = Scene().decide()
    assert [line.rule for line in appraise(snp, accepted) if not line.holds] == ["azure.hardware"]
