/* Products of adapters' factors, panel by panel: in float32 with a bound of what it is off, see products.c, and in float64. */

#ifndef GTRTURBO_FACTORS_H
#define GTRTURBO_FACTORS_H

#include "eights.h"

#ifdef GTRTURBO_AVX512

enum { PANEL = 64, STRIP = 6, CHAIN = 32 };

static const float LEAST = 0x1p-126f;

ALWAYS_INLINE double bound(const Factors *factors, int64_t row, int64_t panel) {
    const double norms = factors->left_norms[row] * factors->right_norms[panel];
    return norms > 0.0 ? factors->unit * norms + factors->least : 0.0;
}

/* float32 that is not below, or not above, a number that is not negative. */
ALWAYS_INLINE float above(double value) { return (float)(value * (1.0 + 0x1p-22)) + (value > 0.0 ? LEAST : 0.0f); }
ALWAYS_INLINE float below(double value) { return value > (double)LEAST * 4.0 ? (float)(value * (1.0 - 0x1p-22)) : 0.0f; }

/* `rows` rows of one panel of a product, float32: chains of at most CHAIN, added up. */
ALWAYS_INLINE void multiply(const int rows, const float *restrict left, const float *restrict panel, int64_t rank, float scale,
                            float *restrict out, int64_t stride) {
    for (int64_t start = 0; start == 0 || start < rank; start += CHAIN) {
        const int64_t stop = start + CHAIN < rank ? start + CHAIN : rank;
        __m512 sums[STRIP][4];
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < 4; j++) sums[i][j] = _mm512_setzero_ps();
        for (int64_t inner = start; inner < stop; inner++) {
            __m512 right[4];
            for (int j = 0; j < 4; j++) right[j] = _mm512_loadu_ps(panel + inner * PANEL + 16 * j);
            for (int i = 0; i < rows; i++) {
                const __m512 factor = _mm512_set1_ps(left[i * rank + inner]);
                for (int j = 0; j < 4; j++) sums[i][j] = _mm512_fmadd_ps(factor, right[j], sums[i][j]);
            }
        }
        const __m512 factor = _mm512_set1_ps(stop == rank ? scale : 1.0f);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < 4; j++) {
                float *place = out + i * stride + 16 * j;
                if (start) sums[i][j] = _mm512_add_ps(sums[i][j], _mm512_loadu_ps(place));
                _mm512_storeu_ps(place, _mm512_mul_ps(sums[i][j], factor));
            }
    }
}

static void make(const Factors *factors, int64_t row, int64_t rows, int64_t panel, float *restrict out, int64_t stride) {
    const int64_t rank = factors->rank;
    const float *left = factors->left + row * rank, *right = factors->right + panel * rank * PANEL;
    const float scale = (float)factors->scale;
    for (; rows >= STRIP; rows -= STRIP, left += STRIP * rank, out += STRIP * stride)
        multiply(STRIP, left, right, rank, scale, out, stride);
    switch (rows) {
    case 5: multiply(5, left, right, rank, scale, out, stride); break;
    case 4: multiply(4, left, right, rank, scale, out, stride); break;
    case 3: multiply(3, left, right, rank, scale, out, stride); break;
    case 2: multiply(2, left, right, rank, scale, out, stride); break;
    case 1: multiply(1, left, right, rank, scale, out, stride); break;
    default: break;
    }
}

/* Eight entries of a product in float64, the inner index ascending. */
ALWAYS_INLINE void exactly(const Factors *factors, int64_t row, int64_t panel, int64_t lane, double *restrict out) {
    const int64_t rank = factors->rank;
    __m512d sum = _mm512_setzero_pd();
    for (int64_t inner = 0; inner < rank; inner++) {
        const __m256 right = _mm256_loadu_ps(factors->right + (panel * rank + inner) * PANEL + lane);
        sum = _mm512_fmadd_pd(_mm512_set1_pd(factors->left[row * rank + inner]), _mm512_cvtps_pd(right), sum);
    }
    _mm512_storeu_pd(out, _mm512_mul_pd(sum, _mm512_set1_pd(factors->scale)));
}

#endif
#endif
