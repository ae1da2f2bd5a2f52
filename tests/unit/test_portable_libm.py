"""The portable engine's own mathematical functions, compiled and compared with 64-bit mantissas of numpy."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.engine import recipe as recipes

SOURCE = Path("patches") / "portable-libm.c"
LOOPS = """
#define LOOP(type, name) \\
    type name(type); \\
    void loop_##name(const type * x, type * y, long n) { for (long i = 0; i < n; ++i) y[i] = name(x[i]); }
#define LOOP2(type, name) \\
    type name(type, type); \\
    void loop_##name(const type * x, const type * z, type * y, long n) \\
        { for (long i = 0; i < n; ++i) y[i] = name(x[i], z[i]); }
LOOP(float, expf) LOOP(float, expm1f) LOOP(float, logf) LOOP(float, log2f) LOOP(float, tanhf) LOOP(float, erff)
LOOP(float, sinf) LOOP(float, cosf)
LOOP(double, exp) LOOP(double, log) LOOP(double, log2)
LOOP2(float, powf) LOOP2(double, pow)
void sincosf(float, float *, float *);
void loop_sincosf(const float * x, float * s, float * c, long n)
    { for (long i = 0; i < n; ++i) sincosf(x[i], s + i, c + i); }
"""
Array = np.ndarray[Any, np.dtype[Any]]
EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, math.inf, -math.inf, math.nan]


@pytest.fixture(scope="module")
def libm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Array]:
    """Calls a function of the file over arrays: `libm("expf", x)`."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install one (Debian: apt install g++)")
    path = recipes.recipe_path("portable")
    folder = tmp_path_factory.mktemp("libm")
    (folder / "loops.c").write_text(LOOPS, "ascii")
    flags = [*recipes.load_recipe(path).compile.flags, "-O2", "-std=c11", "-fPIC", "-shared", "-fno-builtin"]
    out = folder / "libm.so"
    # -Bsymbolic: the loops call the functions beside them, not those that this process has loaded already.
    command = [compiler, *flags, "-Wl,-Bsymbolic", "-o", out, path.parent / SOURCE, folder / "loops.c"]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(out))

    def call(name: str, *arguments: Array) -> Any:
        results = [np.empty_like(arguments[0]) for _ in range(2 if name == "sincosf" else 1)]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*arguments, *results)]
        getattr(library, f"loop_{name}")(*pointers, ctypes.c_long(len(arguments[0])))
        return results[0] if len(results) == 1 else results

    return call


def floats() -> Array:
    """Every 4,001st float32, subnormal ones, infinities and NaN included, the usual range more densely, and edges."""
    every = np.arange(0, 1 << 32, 4001, dtype=np.uint32).view(np.float32)
    usual = np.random.default_rng(5).uniform(-100, 100, 200_000).astype(np.float32)
    return np.concatenate((every, usual, np.array(EDGES, np.float32)))


def doubles() -> Array:
    """Doubles of every magnitude, of the usual one, and edges."""
    generator = np.random.default_rng(7)
    every = generator.integers(0, 1 << 64, 200_000, dtype=np.uint64).view(np.float64)
    return np.concatenate((every, generator.uniform(-800, 800, 200_000), EDGES))


def error_ulp(found: Array, exact: Array) -> float:
    """The largest distance from `exact` (longdouble) in units in the last place of `found`'s type; equal infinities and
    two NaN are no distance, any other special value is an infinite one."""
    kind = found.dtype.type
    with np.errstate(all="ignore"):
        rounded = exact.astype(kind)
        special = ~np.isfinite(rounded) | ~np.isfinite(found)
        same = (rounded == found) | (np.isnan(rounded) & np.isnan(found))
        unit = np.spacing(np.abs(rounded[~special])).astype(np.longdouble)
        distance = np.abs(found[~special].astype(np.longdouble) - exact[~special]) / unit
    # A value that rounds to infinity may be the largest finite one, and the other way round: one unit.
    largest = np.finfo(kind).max
    close = np.isinf(rounded) & (np.abs(found) == largest) | np.isinf(found) & (np.abs(rounded) == largest)
    assert bool(np.all(same[special] | close[special])), (found[special & ~same][:3], rounded[special & ~same][:3])
    return float(distance.max())


def wide(function: Callable[[Array], Array], x: Array) -> Array:
    """`function` of `x` in longdouble: a 64-bit mantissa, or more."""
    with np.errstate(all="ignore"):
        return function(x.astype(np.longdouble))


def erf(x: Array) -> Array:
    return np.array([math.erf(value) for value in x.astype(np.float64)], np.longdouble)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("expf", np.exp), ("expm1f", np.expm1), ("logf", np.log), ("log2f", np.log2), ("tanhf", np.tanh),
        ("sinf", np.sin), ("cosf", np.cos), ("erff", erf),
    ],
)  # fmt: skip
def test_floats_are_almost_correctly_rounded(
    libm: Callable[..., Array], name: str, exact: Callable[[Array], Array]
) -> None:
    x = floats()
    assert error_ulp(libm(name, x), wide(exact, x)) < 0.501


@pytest.mark.parametrize(("name", "exact"), [("exp", np.exp), ("log", np.log), ("log2", np.log2)])
def test_doubles_are_within_one_unit(libm: Callable[..., Array], name: str, exact: Callable[[Array], Array]) -> None:
    x = doubles()
    assert error_ulp(libm(name, x), wide(exact, x)) < 0.8


@pytest.mark.parametrize(("name", "kind", "limit"), [("powf", np.float32, 0.501), ("pow", np.float64, 0.8)])
def test_powers(libm: Callable[..., Array], name: str, kind: type[Any], limit: float) -> None:
    generator = np.random.default_rng(11)
    base = np.abs(doubles())
    exponent = generator.uniform(-80, 80, len(base)) * generator.choice([1e-3, 1.0, 1e3, 1e30], len(base))
    edges = [*EDGES, 2.0, 3.0, -2.0, -3.0, 0.1, -0.1, 1e30, -1e30, 4503599627370497.5, 9007199254740991.0, 1 + 2**-20]
    # Powers within range: any base, and an exponent that keeps the result there.
    tame = generator.uniform(-700, 700, len(base))
    with np.errstate(all="ignore"):
        tame /= np.where(np.isfinite(base) & (base > 0) & (base != 1), np.log(base), 1.0)
        x, y = (
            np.concatenate((first, second)).astype(kind)
            for first, second in (
                (np.concatenate((base, base)), np.repeat(edges, len(edges))),
                (np.concatenate((exponent, tame)), np.tile(edges, len(edges))),
            )
        )
        # The C library's own power is the oracle for the rules of Annex F; its mantissa is longer only as longdouble.
        exact = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
    assert error_ulp(libm(name, x, y), exact) < limit


def test_both_of_sine_and_cosine(libm: Callable[..., Array]) -> None:
    x = floats()
    sine, cosine = libm("sincosf", x)
    assert sine.tobytes() == libm("sinf", x).tobytes()
    assert cosine.tobytes() == libm("cosf", x).tobytes()


def test_the_sign_of_zero_stays(libm: Callable[..., Array]) -> None:
    zeros = np.array([0.0, -0.0], np.float32)
    for name in ("expm1f", "sinf", "tanhf", "erff"):
        assert libm(name, zeros).tobytes() == zeros.tobytes()
    x, y = np.array([-0.0, -0.0, -0.0], np.float32), np.array([3.0, 2.0, -3.0], np.float32)
    assert libm("powf", x, y).tobytes() == np.array([-0.0, 0.0, -math.inf], np.float32).tobytes()


def test_logarithms_of_powers_of_two_are_exact(libm: Callable[..., Array]) -> None:
    exponents = np.arange(-1074, 1024)
    assert np.array_equal(libm("log2", np.ldexp(1.0, exponents)), exponents.astype(np.float64))
