/* The mathematical functions of the portable engine, made of operations that IEEE 754 rounds correctly.
 *
 * Why: the system's libm picks an implementation by processor at run time (with fused multiply-add or without) and
 * differs between architectures and releases, in the last bit. These functions are additions, multiplications,
 * divisions and integer operations, in one order, so they give the same bits wherever the file is compiled without
 * contraction (`-ffp-contract=off`) and without `-ffast-math`. The builder links them into the library, where they stay
 * hidden, and refuses a library that takes any such function from elsewhere.
 *
 * Accuracy: below 1 unit in the last place, for double below 0.8. A float function is computed in double and rounded
 * once, so it is almost always the correctly rounded one. Infinities, zeros and NaN are as in C11 Annex F; `errno` and
 * the floating-point flags are not.
 */
#include <stdint.h>
#include <string.h>

#define COUNT(array) (int) (sizeof(array) / sizeof((array)[0]))
#define NAN_VALUE __builtin_nan("")
#define INFINITE __builtin_inf()

/* ln 2 in two parts; the first has 33 bits, so that its product with an exponent is exact. */
static const double LN2_HI = 0x1.62e42feep-1, LN2_LO = 0x1.a39ef35793c76p-33;
static const double LOG2E_HI = 0x1.71547652b82fep+0, LOG2E_LO = 0x1.777d0ffda0d24p-56;
static const double TWO_THIRDS_HI = 0x1.5555555555555p-1, TWO_THIRDS_LO = 0x1.5555555555555p-55;
static const double TWO_BY_SQRT_PI = 0x1.20dd750429b6dp+0;
static const double QUARTER_TURN_UNIT = 0x1.921fb54442d18p-62; /* pi/2 / 2^62 */
static const double ROUNDER = 0x1.8p52;                         /* adding it rounds to an integer */

/* A number as the sum of two doubles: twice the precision. */
typedef struct {
    double hi, lo;
} pair;

static uint64_t bits_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static double from_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static double magnitude(double x) {
    return from_bits(bits_of(x) & ~(UINT64_C(1) << 63));
}

static double with_sign_of(double x, double sign) {
    return from_bits(bits_of(x) | (bits_of(sign) & (UINT64_C(1) << 63)));
}

/* 2^n for a normal double. */
static double power_of_two(int n) {
    return from_bits((uint64_t) (1023 + n) << 52);
}

/* c[0] + c[1] x + c[2] x^2 ... */
static double polynomial(const double * c, int count, double x) {
    double y = c[count - 1];
    for (int i = count - 2; i >= 0; --i) {
        y = y * x + c[i];
    }
    return y;
}

/* a + b, without an error (Knuth). */
static pair exact_sum(double a, double b) {
    const double s = a + b;
    const double t = s - a;
    return (pair) { s, (a - (s - t)) + (b - t) };
}

/* a * b, without an error (Dekker), for factors below 2^970. */
static pair exact_product(double a, double b) {
    const double p = a * b;
    const double ta = a * 0x1.000002p27, tb = b * 0x1.000002p27;
    const double ah = ta - (ta - a), bh = tb - (tb - b);
    const double al = a - ah, bl = b - bh;
    return (pair) { p, ((ah * bh - p) + ah * bl + al * bh) + al * bl };
}

/* (e^r - 1 - r) / r^2 for |r| < 0.36, by its series. */
static double exp_tail(double r) {
    static const double c[] = {
        1.0 / 2,     1.0 / 6,      1.0 / 24,      1.0 / 120,      1.0 / 720,       1.0 / 5040,
        1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0,
    };
    return polynomial(c, COUNT(c), r);
}

/* e^(x.hi + x.lo). */
static double exp_of(pair x) {
    if (x.hi != x.hi) {
        return x.hi;
    }
    if (x.hi > 710.0) {
        return INFINITE;
    }
    if (x.hi < -746.0) {
        return 0.0;
    }
    const double k = (x.hi * LOG2E_HI + ROUNDER) - ROUNDER;
    const pair r = exact_sum(x.hi - k * LN2_HI, x.lo - k * LN2_LO);
    const pair e = exact_sum(1.0, r.hi);
    const double y = e.hi + (e.lo + (r.lo + r.lo * r.hi + r.hi * r.hi * exp_tail(r.hi)));
    /* In two steps: 2^k itself may be out of range, and only the second step rounds. */
    const int first = (int) k / 2;
    return y * power_of_two(first) * power_of_two((int) k - first);
}

/* ln x to about 2^-66 of its value, for finite x > 0: x = 2^k m, s = (m-1)/(m+1), ln m = 2s + 2s^3/3 + 2s^5/5 ... */
static pair log_of(double x) {
    static const double c[] = {
        2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21, 2.0 / 23, 2.0 / 25,
    };
    int k = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        k = -54;
    }
    /* m is in [sqrt(1/2), sqrt(2)), so that the two parts of the sum never cancel. */
    const uint64_t bits = bits_of(x) + (UINT64_C(0x3ff0000000000000) - UINT64_C(0x3fe6a09e667f3bcd));
    k += (int) (bits >> 52) - 1023;
    const double m = from_bits((bits & UINT64_C(0x000fffffffffffff)) + UINT64_C(0x3fe6a09e667f3bcd));
    const double f = m - 1.0;
    const pair d = exact_sum(m, 1.0);
    pair s = { f / d.hi, 0.0 };
    const pair back = exact_product(s.hi, d.hi);
    s.lo = (((f - back.hi) - back.lo) - s.hi * d.lo) / d.hi;
    pair z = exact_product(s.hi, s.hi);
    z.lo += 2.0 * s.hi * s.lo;
    pair u = exact_sum(TWO_THIRDS_HI, z.hi * polynomial(c, COUNT(c), z.hi));
    u.lo += TWO_THIRDS_LO;
    pair v = exact_product(z.hi, u.hi);
    v.lo += z.hi * u.lo + z.lo * u.hi;
    pair w = exact_product(s.hi, v.hi);
    w.lo += s.hi * v.lo + s.lo * v.hi;
    const pair a = exact_sum(k * LN2_HI, 2.0 * s.hi);
    const pair b = exact_sum(a.hi, w.hi);
    return exact_sum(b.hi, a.lo + b.lo + (2.0 * s.lo + w.lo + k * LN2_LO));
}

/* Whether ln x is a plain value; if not, `*result` is what a logarithm of x gives. */
static int has_log(double x, double * result) {
    *result = x == 0.0 ? -INFINITE : x < 0.0 ? NAN_VALUE : x;
    return x > 0.0 && x < INFINITE;
}

static double expm1_of(double x) {
    if (magnitude(x) < 0.35) {
        return x * (1.0 + x * exp_tail(x));
    }
    return exp_of((pair) { x, 0.0 }) - 1.0;
}

/* x = n quarter turns + `*rest`, |rest| <= pi/4, n modulo 4, for finite x. Large x by integers, without cancellation. */
static int quarter_turns(float x, double * rest) {
    /* The bits of 2/pi after 32 zeros: the first bit of words[1] weighs 1/2. */
    static const uint32_t words[] = {
        0, 0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041, 0xfe5163ab,
    };
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    if ((bits & 0x7fffffff) < 0x3f490fdb) {
        *rest = x;
        return 0;
    }
    /* |x| = m 2^e. Of m 2^e 2/pi count 96 bits, from the one that weighs 2: all above are whole turns. */
    const uint64_t m = (bits & 0x7fffff) | 0x800000;
    const int start = (int) ((bits >> 23) & 0xff) - 150 + 30;
    const int word = start / 32, shift = start % 32;
    uint64_t window[3];
    for (int i = 0; i < 3; ++i) {
        const uint64_t two = (uint64_t) words[word + i] << 32 | words[word + i + 1];
        window[i] = (two << shift) >> 32;
    }
    const uint64_t turns = ((m * window[0]) << 32) + m * window[1] + ((m * window[2]) >> 32);
    const uint64_t n = (turns + (UINT64_C(1) << 61)) >> 62;
    const int64_t left = (int64_t) (turns - (n << 62));
    *rest = (double) left * QUARTER_TURN_UNIT;
    if (bits >> 31) {
        *rest = -*rest;
        return (int) ((4 - n) & 3);
    }
    return (int) (n & 3);
}

static double sine(double r) {
    static const double c[] = {
        1.0,          -1.0 / 6,       1.0 / 120,           -1.0 / 5040,
        1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800.0, -1.0 / 1307674368000.0,
    };
    return r * polynomial(c, COUNT(c), r * r);
}

static double cosine(double r) {
    static const double c[] = {
        1.0,         -1.0 / 2,       1.0 / 24,        -1.0 / 720,
        1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200.0,
    };
    return polynomial(c, COUNT(c), r * r);
}

/* sin(x + quarter pi/2): sine and cosine are the same function, a quarter turn apart. */
static float turned_sine(float x, int quarter) {
    if (!(magnitude(x) < INFINITE)) {
        return (float) NAN_VALUE;
    }
    double rest;
    const int n = (quarter_turns(x, &rest) + quarter) & 3;
    const double y = n & 1 ? cosine(rest) : sine(rest);
    return (float) (n & 2 ? -y : y);
}

float sinf(float x) {
    return turned_sine(x, 0);
}

float cosf(float x) {
    return turned_sine(x, 1);
}

/* What a compiler makes of a sine and a cosine of one number. */
void sincosf(float x, float * sin_x, float * cos_x) {
    *sin_x = turned_sine(x, 0);
    *cos_x = turned_sine(x, 1);
}

double exp(double x) {
    return exp_of((pair) { x, 0.0 });
}

/* As exp_of, shorter: it is called for every pair of positions, and a float needs fewer terms. */
float expf(float x) {
    static const double c[] = {
        1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
    };
    if (!(x > -110.0f && x < 90.0f)) {
        return (float) exp_of((pair) { x, 0.0 });
    }
    const double k = (x * LOG2E_HI + ROUNDER) - ROUNDER;
    const double r = x - k * (LN2_HI + LN2_LO);
    return (float) (polynomial(c, COUNT(c), r) * power_of_two((int) k));
}

float expm1f(float x) {
    return (float) expm1_of(x);
}

double log(double x) {
    double result;
    return has_log(x, &result) ? log_of(x).hi : result;
}

float logf(float x) {
    double result;
    return (float) (has_log(x, &result) ? log_of(x).hi : result);
}

static double log2_of(double x) {
    double result;
    if (!has_log(x, &result)) {
        return result;
    }
    const pair y = log_of(x);
    const pair p = exact_product(y.hi, LOG2E_HI);
    return p.hi + (p.lo + (y.hi * LOG2E_LO + y.lo * LOG2E_HI));
}

double log2(double x) {
    return log2_of(x);
}

float log2f(float x) {
    return (float) log2_of(x);
}

/* 0 for a number with a fraction, 1 for an odd integer, 2 for an even one. */
static int integer_kind(double y) {
    const double a = magnitude(y);
    if (a >= 0x1p53) {
        return 2;
    }
    const uint64_t whole = (uint64_t) a;
    return (double) whole != a ? 0 : whole % 2 == 1 ? 1 : 2;
}

static double pow_of(double x, double y) {
    if (y == 0.0 || x == 1.0) {
        return 1.0;
    }
    if (x != x || y != y) {
        return x + y;
    }
    const double a = magnitude(x);
    const int negative = (int) (bits_of(x) >> 63);
    const int kind = integer_kind(y);
    double result;
    if (a == 0.0 || a == INFINITE) {
        result = (a == 0.0) == (y < 0.0) ? INFINITE : 0.0;
    } else if (negative && kind == 0 && magnitude(y) < INFINITE) {
        return NAN_VALUE;
    } else if (a == 1.0) {
        result = 1.0;
    } else {
        /* Beyond 2^65 every power but that of 1 is out of range already. */
        const double clamped = y > 0x1p65 ? 0x1p65 : y < -0x1p65 ? -0x1p65 : y;
        const pair l = log_of(a);
        pair p = exact_product(clamped, l.hi);
        p.lo += clamped * l.lo;
        result = exp_of(p);
    }
    return negative && kind == 1 ? -result : result;
}

double pow(double x, double y) {
    return pow_of(x, y);
}

float powf(float x, float y) {
    return (float) pow_of(x, y);
}

float tanhf(float x) {
    if (x != x) {
        return x;
    }
    if (magnitude(x) > 10.0) {
        return (float) with_sign_of(1.0, x);
    }
    const double e = expm1_of(2.0 * x);
    return (float) (e / (e + 2.0));
}

float erff(float x) {
    /* Below 1 the series of the integral; above, erfc(x) e^(x^2) as a polynomial in 2/(2+x), fitted on [1, 5]. */
    static const double series[] = {
        1.0,
        -1.0 / 3,
        1.0 / 10,
        -1.0 / 42,
        1.0 / 216,
        -1.0 / 1320,
        1.0 / 9360,
        -1.0 / 75600,
        1.0 / 685440,
        -1.0 / 6894720,
        1.0 / 76204800,
        -1.0 / 918086400,
        1.0 / 11975040000.0,
        -1.0 / 168129561600.0,
        1.0 / 2528170444800.0,
    };
    static const double fitted[] = {
        -0x1.383ee4244eb50p-19, 0x1.20efe27ed1b97p-2, 0x1.1fdea622506e7p-2,  0x1.05160295993c3p-2, 0x1.0b2740b3f8f84p-3,
        0x1.118bf37ffee68p-2,   -0x1.12932ce234e81p-1, 0x1.1071be353cb2ep+0,  -0x1.bc833608daef5p+0, 0x1.b38254f8ecfadp+0,
        -0x1.f347318ce5979p-1,  0x1.3c172b19d5dd3p-2, -0x1.59485a62d5bc4p-5,
    };
    const double a = magnitude(x);
    if (x != x) {
        return x;
    }
    if (a < 1.0) {
        const double wide = x;
        return (float) (wide * (TWO_BY_SQRT_PI * polynomial(series, COUNT(series), wide * wide)));
    }
    if (a > 4.0) {
        return (float) with_sign_of(1.0, x);
    }
    const double rest = exp_of((pair) { -(a * a), 0.0 }) * polynomial(fitted, COUNT(fitted), 2.0 / (2.0 + a));
    return (float) with_sign_of(1.0 - rest, x);
}
