"""The reader against llama.cpp's own: what ours accepts, the engine's parser accepts as well."""

from __future__ import annotations

import ctypes
import os
import random
from pathlib import Path

import pytest
from test_gguf import VALID

from appliance.gguf import read_header
from attest.errors import MalformedInput

LIBRARY = Path(__file__).parents[2] / "build" / "engine" / "reference" / "libllama.so"


class InitParams(ctypes.Structure):
    """struct gguf_init_params, ggml/include/gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


@pytest.mark.engine
@pytest.mark.skipif(not LIBRARY.is_file(), reason="needs the pinned llama.cpp engine: make engine")
def test_the_engine_accepts_what_we_accept() -> None:
    library = ctypes.CDLL(str(LIBRARY))
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, InitParams]
    library.gguf_free.argtypes = [ctypes.c_void_p]
    source, accepted = random.Random(1), 0
    fd = os.memfd_create("mutated")
    for _ in range(4000):
        mutated = bytearray(VALID)
        for _ in range(source.randint(1, 2)):
            mutated[source.randrange(len(mutated))] ^= 1 << source.randrange(8)
        try:
            read_header(bytes(mutated))
        except MalformedInput:
            continue
        os.ftruncate(fd, 0)
        os.pwrite(fd, mutated, 0)
        context = library.gguf_init_from_file(f"/proc/self/fd/{fd}".encode(), InitParams(True, None))
        assert context, bytes(mutated).hex()
        library.gguf_free(context)
        accepted += 1
    os.close(fd)
    assert accepted > 100
