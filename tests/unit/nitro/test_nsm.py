"""The attester over `/dev/nsm`: against a fake that signs, through the real structure of the ioctl."""

import ctypes
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.attester import nsm
from attest import cbor, nitro
from attest.errors import EnvironmentProblem, MalformedInput
from tests.fakes.authority import NOW
from tests.fakes.nitro import Nsm

FAKE = Nsm()
BINDING = bytes(range(32))


class Ioctl:
    """The driver's side of the ioctl: reads the request and writes the answer through the addresses it is given."""

    def __init__(self, answer: bytes | None = None, length: int | None = None) -> None:
        self.answer, self.length = answer, length

    def __call__(self, descriptor: int, number: int, raw: nsm._Raw) -> int:
        assert number == 0xC0200A00  # _IOWR(0x0A, 0, 32 bytes)
        request = ctypes.string_at(raw.request, raw.request_bytes)
        answer = FAKE.exchange(request) if self.answer is None else self.answer
        assert raw.response_bytes == 0x3000
        ctypes.memmove(raw.response, answer, len(answer))
        raw.response_bytes = len(answer) if self.length is None else self.length
        return 0


def device(tmp_path: Path, ioctl: object) -> nsm.Device:
    path = tmp_path / "nsm"
    path.touch()
    return nsm.Device(path, ioctl)  # type: ignore[arg-type]


def test_a_document_over_the_device_is_accepted(tmp_path: Path) -> None:
    document = nsm.attest(device(tmp_path, Ioctl()), user_data=BINDING, nonce=b"n", public_key=b"k")
    endorsements = nitro.Endorsements((FAKE.root,), FAKE.lists())
    claims = nitro.claims(nitro.authenticate(document, endorsements, now=NOW + timedelta(seconds=1)))
    assert (claims.bound, claims.nonce, claims.public_key) == (BINDING.hex(), b"n".hex(), b"k".hex())


def test_no_device(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="only inside a Nitro enclave"):
        nsm.attest(nsm.Device(tmp_path / "absent"), user_data=BINDING)


def test_a_file_that_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "nsm").touch()
    with pytest.raises(EnvironmentProblem, match="failed"):
        nsm.attest(nsm.Device(tmp_path / "nsm"), user_data=BINDING)


def test_a_refusal_is_told() -> None:
    class Refusing:
        def exchange(self, request: bytes) -> bytes:
            return cbor.dumps({"Error": "InvalidOperation"})

    with pytest.raises(EnvironmentProblem, match="InvalidOperation"):
        nsm.attest(Refusing(), user_data=BINDING)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        b"\xf9\x3c\x00",
        cbor.dumps(7),
        cbor.dumps({"Error": 7}),
        cbor.dumps({"Attestation": 7}),
        cbor.dumps({"Attestation": {"document": "text"}}),
        cbor.dumps({"Random": {"random": b""}}),
    ],
)
def test_answers_that_are_none(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(MalformedInput):
        nsm.attest(device(tmp_path, Ioctl(answer)), user_data=BINDING)


def test_a_driver_that_claims_more_than_the_buffer_is_read_to_its_end(tmp_path: Path) -> None:
    assert len(device(tmp_path, Ioctl(b"x", length=1 << 40)).exchange(b"")) == 0x3000


def test_what_the_module_would_not_take_is_not_asked(tmp_path: Path) -> None:
    for field, size in (("user_data", 513), ("nonce", 513), ("public_key", 1025)):
        with pytest.raises(ValueError, match="at most"):
            nsm.attest(FAKE, **({"user_data": b""} | {field: bytes(size)}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most"):
        device(tmp_path, Ioctl()).exchange(bytes(0x1001))
