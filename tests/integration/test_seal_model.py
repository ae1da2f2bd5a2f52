"""The real engine in a sealed worker: it loads, makes threads, decodes, and computes the same bits as without one."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from appliance import resources
from appliance.seal import plan_for, sealed_file
from tests.tools.hostile import MIB, run

ENGINE = Path(__file__).resolve().parents[2] / "build/engine/x86-64-v3"

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not (ENGINE / "libllama.so").exists(), reason="no engine: run `make engine`"),
]


@pytest.fixture(scope="module")
def fds():
    if "llama_cpp" not in sys.modules and find_spec("llama_cpp") is None:
        pytest.skip("no llama_cpp: pip install vitrine[llama]")
    files = {"model": resources.demo() / "organism-q8_0.gguf", "library": ENGINE / "libllama.so"}
    found = {name: sealed_file(name, path.read_bytes()) for name, path in files.items()}
    yield found
    for fd in found.values():
        os.close(fd)


def decode(fds: dict[str, int], sealing: str, load: str, memory_bytes: int = 512 * MIB):
    os.lseek(fds["model"], 0, os.SEEK_SET)  # workers share the position of the file
    plan = plan_for("model", memory_bytes=memory_bytes, threads=4)
    return run("model", sealing, load, plan=plan, fds=fds)


@pytest.mark.parametrize("load", ["map", "copy"])
def test_a_sealed_engine_computes_the_same(fds, load):
    status, sealed, lines = decode(fds, "sealed", load)
    assert status == 0, lines
    assert set(sealed["layers"]) == {"enforced"} or "unavailable" in sealed["layers"]
    assert sealed["violations"] == []
    status, unsealed, lines = decode(fds, "open", load)
    assert status == 0, lines
    assert sealed["digest"] == unsealed["digest"]


def test_an_engine_without_memory_ends_alone(fds):
    status, report, _ = decode(fds, "sealed", "copy", memory_bytes=8 * MIB)
    assert status != 0
    assert report is None
