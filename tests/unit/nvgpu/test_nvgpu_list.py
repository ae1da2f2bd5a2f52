"""NVIDIA's list of several GPUs: read strictly, its unsigned fields dropped."""

import json
from base64 import b64encode

import pytest

from attest import nvgpu
from attest.errors import MalformedInput
from attest.nvgpu import evidence as lists
from tests.fakes.authority import NOW
from tests.fakes.nvgpu import DRIVER, NONCE, VBIOS, Maker

MAKER = Maker()
GPU = MAKER.gpus[0]


def listed(**changes: object) -> bytes:
    item = {
        "arch": "HOPPER", "certificate": b64encode(GPU.pem()).decode(), "driver_version": DRIVER,
        "evidence": b64encode(GPU.evidence().report).decode(), "nonce": NONCE.hex(), "vbios_version": VBIOS,
        "version": "1.0",
    } | changes  # fmt: skip
    return json.dumps([item]).encode()


def test_a_list() -> None:
    (found,) = nvgpu.read_list(listed())
    assert nvgpu.authenticate(found, MAKER.endorsements(), now=NOW).report.nonce == NONCE
    one = listed()[1:-1]
    assert len(nvgpu.read_list(b"[" + b",".join([one] * 64) + b"]")) == 64


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b"1",
        b"null",
        listed(version="2.0"),
        listed(evidence="!"),
        listed(evidence=""),
        listed(extra=1),
        listed(certificate=None),
    ],
)
def test_lists_that_are_none(text: bytes) -> None:
    with pytest.raises(MalformedInput):
        nvgpu.read_list(text)


def test_lists_are_bounded() -> None:
    one = listed()[1:-1]
    with pytest.raises(MalformedInput, match="1 to 64"):
        nvgpu.read_list(b"[" + b",".join([one] * 65) + b"]")
    nvgpu.read_list(listed() + b" " * (lists.MAX_BYTES - len(listed())))
    with pytest.raises(MalformedInput, match="at most"):
        nvgpu.read_list(listed() + b" " * (lists.MAX_BYTES + 1 - len(listed())))
