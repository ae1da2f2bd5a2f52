"""Small models with random weights, one for each architecture, and their quantised forms.

The bytes depend on nothing but the seed, the family and the type: weights come from the raw words of a bit generator,
not from NumPy's distributions, which may change between its versions. The models say nothing sensible; their numbers
are of the size that a trained model's are, so a kernel that sums in another order shows in the logits.

    python -m tests.tools.random_models OUT                          every family in F16
    python -m tests.tools.random_models OUT --arch llama --type Q4_K_M
    python -m tests.tools.random_models OUT --big                    765M parameters in Q4_K_M and Q8_0, for benchmarks
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import itertools
import math
import os
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.gguf import read_header
from appliance.runtime import binding
from tests.tools import architectures, families
from tests.tools.families import Family
from tests.tools.gguf_write import Spec, Value, write

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "build" / "engine" / "reference"
SPECIAL = ("<|begin|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|user|>' if m['role'] == 'user' else '<|assistant|>' }}"
    "{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NORMAL, CONTROL = 1, 3  # llama.h, enum llama_token_type
MAX_THREADS = 2

TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_L", "Q3_K_M", "Q3_K_S"),
    *("Q2_K", "Q2_K_S", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "Q2_0", "Q1_0", "TQ2_0", "TQ1_0", "MXFP4_MOE"),
    *("IQ4_NL", "IQ4_XS", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
    *("IQ1_M", "IQ1_S"),
)
"""File types by the names of `llama_ftype`; each mixes several tensor types as llama.cpp's quantiser does."""


def weights(seed: int, spec: Spec) -> NDArray[np.float32]:
    """Values of one tensor, about normal: matrices of variance 1/columns, norms around 1, embeddings of variance 1."""
    key = hashlib.sha256(f"{seed}/{spec.name}".encode()).digest()
    count = math.prod(spec.shape)
    words = np.random.PCG64(int.from_bytes(key[:16], "little")).random_raw(count)
    # Four 16-bit uniform numbers add up to something close to a normal one.
    quarters = words.astype("<u8").view("<i2").reshape(count, 4)
    unit = quarters.sum(axis=1, dtype=np.int32).astype(np.float32) / np.float32(65536 / 3**0.5)
    scale, mean = families.spread(spec.name, spec.shape)
    values: NDArray[np.float32] = unit * np.float32(scale) + np.float32(mean)
    return values.reshape(spec.shape)


def tokenizer(vocabulary: int) -> dict[str, Value]:
    """A byte-level BPE with `vocabulary` tokens: special ones, all bytes, then words of two and three letters."""
    tokens = [*SPECIAL, *_byte_alphabet()]
    merges: list[str] = []
    for left, right in _merges():
        if len(tokens) == vocabulary:
            break
        tokens.append(left + right)
        merges.append(f"{left} {right}")
    assert len(tokens) == vocabulary, f"expected {vocabulary} tokens, found words for {len(tokens)}"
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL] * len(SPECIAL) + [NORMAL] * (len(tokens) - len(SPECIAL)),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in GPT-2's scheme, in the order of the bytes."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = itertools.count(256)
    return [chr(byte if byte in plain else next(spare)) for byte in range(256)]


def _merges() -> Iterable[tuple[str, str]]:
    letters = string.ascii_lowercase
    pairs = list(itertools.product(letters, letters))
    space = _byte_alphabet()[ord(" ")]
    yield from pairs
    yield from ((space, letter) for letter in letters)
    yield from ((a + b, c) for (a, b), c in itertools.product(pairs, letters))
    yield from ((space, a + b) for a, b in pairs)
    yield from ((space, a + b + c) for (a, b), c in itertools.product(pairs, letters))


def make(path: Path, family: Family, *, type_name: str = "F16", seed: int = 1) -> None:
    """Write `family` in F16 or F32 to `path`; norms, biases and other vectors are F32 in both."""
    metadata: dict[str, Value] = {
        "general.architecture": family.architecture,
        "general.name": "random weights",
        "general.file_type": 1 if type_name == "F16" else 0,
        **{f"{family.architecture}.{key}": value for key, value in family.settings.items()},
        **tokenizer(family.vocabulary),
    }
    specs = [
        Spec(name, shape, type_name if families.is_matrix(name, shape) else "F32") for name, shape in family.tensors
    ]
    write(path, metadata, specs, lambda spec: weights(seed, spec))


def quantise(library: Any, source: Path, target: Path, type_name: str) -> None:
    """Let llama.cpp's own quantiser write `target` with its usual mix for `type_name`.

    Raises `ValueError` when it refuses. Types that cannot do without an importance matrix get one of ones.
    """
    params = library.llama_model_quantize_default_params()
    if type_name.startswith(("IQ1", "IQ2", "IQ3")) or type_name == "Q2_K_S":
        entries, _kept = _ones(library, source)
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    prefix = "LLAMA_FTYPE_ALL_" if type_name == "F32" else "LLAMA_FTYPE_MOSTLY_"
    params.ftype = getattr(library, prefix + type_name)
    params.nthread = min(MAX_THREADS, os.cpu_count() or 1)
    params.allow_requantize = True
    code = library.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    if code:
        raise ValueError(f"llama.cpp did not quantise {source.name} to {type_name}: {code}")


def _ones(library: Any, source: Path) -> tuple[Any, Any]:
    """An importance matrix that holds every column equal, and the memory that it points to."""
    matrices = [tensor for tensor in read_header(source.read_bytes()).tensors if len(tensor.dims) > 1]
    most = max(tensor.dims[0] * (tensor.dims[2] if len(tensor.dims) > 2 else 1) for tensor in matrices)
    ones = (ctypes.c_float * most)(*[1.0] * most)
    entries = (library.llama_model_imatrix_data * (len(matrices) + 1))()
    for entry, tensor in zip(entries, matrices, strict=False):
        entry.name, entry.data = tensor.name.encode(), ones
        entry.size = tensor.dims[0] * (tensor.dims[2] if len(tensor.dims) > 2 else 1)
    return entries, ones


def obtain(folder: Path, family: Family, type_name: str, library: Any) -> Path:
    """The file of `family` in `type_name` in `folder`, made when it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{family.name}-{type_name.lower()}.gguf"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        if type_name in ("F32", "F16"):
            make(part, family, type_name=type_name)
        else:
            quantise(library, obtain(folder, family, "F16", library), part, type_name)
        part.replace(path)
    return path


def load_engine(folder: Path) -> Any:
    """The binding over the engine in `folder`; once a process."""
    return binding.load(os.open(folder / "libllama.so", os.O_RDONLY))


def main() -> None:
    """Write the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arch", action="append", choices=sorted(architectures.FAMILIES), help="default: every one")
    parser.add_argument("--type", action="append", choices=TYPES, help="default: F16")
    parser.add_argument("--big", action="store_true", help="the benchmark model instead")
    parser.add_argument("--engine", type=Path, default=ENGINE, help="whose quantiser to use")
    arguments = parser.parse_args()
    library = load_engine(arguments.engine)
    names = ["rand765m"] if arguments.big else arguments.arch or sorted(architectures.FAMILIES)
    types = arguments.type or (["Q4_K_M", "Q8_0"] if arguments.big else ["F16"])
    for name in names:
        family = architectures.BIG if arguments.big else architectures.FAMILIES[name]
        for type_name in types:
            path = obtain(arguments.out, family, type_name, library)
            print(path, path.stat().st_size, flush=True)


if __name__ == "__main__":
    main()
