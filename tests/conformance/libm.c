/* Evaluate every function of the portable engine's own libm on numbers of every magnitude; write the results to standard
 * output, to be compared between architectures. A NaN is written as one and the same: its sign and payload are not part
 * of any result. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define WRITE(type, name, value)                                \
    do {                                                        \
        type y = (value);                                       \
        if (y != y) {                                           \
            memset(&y, 0xff, sizeof(y));                        \
        }                                                       \
        if (fwrite(&y, sizeof(y), 1, stdout) != 1) {            \
            return 1;                                           \
        }                                                       \
    } while (0)
#define FLOATS(each) each(expf) each(expm1f) each(logf) each(log2f) each(tanhf) each(erff) each(sinf) each(cosf)
#define DOUBLES(each) each(exp) each(log) each(log2)
#define DECLARE_FLOAT(name) float name(float);
#define DECLARE_DOUBLE(name) double name(double);
FLOATS(DECLARE_FLOAT)
DOUBLES(DECLARE_DOUBLE)
float powf(float, float);
double pow(double, double);

int main(void) {
    uint64_t state = 1;
    for (uint32_t i = 0; i < 40000; ++i) {
        /* Floats of every magnitude in turn; doubles at random, every other one of a usual magnitude. */
        const uint32_t bits = i * 107374u;
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        const uint64_t wide = i % 2 ? state : (state >> 6 & ~(UINT64_C(0x3ff) << 52)) | (UINT64_C(0x3fc) + i % 14) << 52;
        float x;
        double z;
        memcpy(&x, &bits, sizeof(x));
        memcpy(&z, &wide, sizeof(z));
#define WRITE_FLOAT(name) WRITE(float, name, name(x));
#define WRITE_DOUBLE(name) WRITE(double, name, name(z));
        FLOATS(WRITE_FLOAT)
        DOUBLES(WRITE_DOUBLE)
        WRITE(float, powf, powf(x, (float) z));
        WRITE(double, pow, pow(z < 0.0 ? -z : z, x));
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
