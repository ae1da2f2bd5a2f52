"""Constants of the GGUF layout: value types, tensor types, and the keys that engines read by a fixed type."""

from __future__ import annotations

import struct
from typing import Final

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)

SCALARS: Final = {
    kind: struct.Struct("<" + code)
    for kind, code in zip((*range(STRING), UINT64, INT64, FLOAT64), "BbHhIifBQqd", strict=True)
}

# number: (name, elements in a block, bytes of a block); from ggml.h and ggml-common.h of the pinned llama.cpp
# fmt: off
GGML_TYPES: Final = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 22: ("IQ2_S", 256, 82), 18: ("IQ3_XXS", 256, 98),
    21: ("IQ3_S", 256, 110), 19: ("IQ1_S", 256, 50), 29: ("IQ1_M", 256, 56), 20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}
# fmt: on

TYPED: Final = {
    "general.architecture": STRING,
    "general.alignment": UINT32,
    "general.file_type": UINT32,
    "split.no": UINT16,
    "split.count": UINT16,
    "split.tensors.count": INT32,
    "tokenizer.chat_template": STRING,
    "tokenizer.ggml.model": STRING,
    "tokenizer.ggml.pre": STRING,
    "tokenizer.ggml.add_bos_token": BOOL,
    "tokenizer.ggml.add_eos_token": BOOL,
}
"""Single values that an engine reads by type."""

TYPED_ARRAYS: Final = {
    "tokenizer.ggml.tokens": (frozenset({STRING}), True),
    "tokenizer.ggml.scores": (frozenset({FLOAT32}), True),
    "tokenizer.ggml.token_type": (frozenset({INT32, UINT32}), True),
    "tokenizer.ggml.merges": (frozenset({STRING}), False),
    "tokenizer.ggml.precompiled_charsmap": (frozenset({INT8, UINT8}), False),
}
"""Arrays that an engine reads by type, and whether they hold one element for each token."""
