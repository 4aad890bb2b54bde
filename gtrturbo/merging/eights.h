/* What the loops for AVX-512 share: sums in float64 of eight entries at a time, with the operations of kernel.c in their order. */

#ifndef GTRTURBO_EIGHTS_H
#define GTRTURBO_EIGHTS_H

#include "narrow.h"

#ifdef GTRTURBO_AVX512
#include <immintrin.h>

typedef double Doubles __attribute__((vector_size(64)));
typedef int64_t Longs __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

typedef struct {
    double weight; /* of all inputs, which is what whole weights hold of the base in their sum */
    Doubles merged_square, mean_square, dot, base_square;
    int64_t conflicts, kept, changed, touched;
} Totals;

ALWAYS_INLINE Doubles all(double value) { return (Doubles)_mm512_set1_pd(value); }

ALWAYS_INLINE double total(Doubles values) { return _mm512_reduce_add_pd((__m512d)values); }

ALWAYS_INLINE int ones(unsigned mask) { return __builtin_popcount(mask); }

ALWAYS_INLINE __m256i halves(const uint16_t *data) { return _mm256_loadu_si256((const __m256i *)data); }

/* Sixteen entries of bfloat16 as float32, in their order. */
ALWAYS_INLINE Floats widened(__m256i values) { return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16); }

ALWAYS_INLINE Doubles upper_or_lower(const int upper, Floats values) {
    return (Doubles)_mm512_cvtps_pd(upper ? _mm512_extractf32x8_ps((__m512)values, 1) : _mm512_castps512_ps256((__m512)values));
}

/* bfloat16 of results by way of float32, as kernel.c does it. */
ALWAYS_INLINE __m256i rounded(Ints words) { return _mm512_cvtepi32_epi16((__m512i)(((words + 0x7fff) + ((words >> 16) & 1)) >> 16)); }

/* Scale what was merged of eight entries, add it to the base, and add up what is reported. */
ALWAYS_INLINE Doubles finish(Doubles merged, Doubles mean, Doubles origin, const Rule *rule, Totals *totals) {
    merged *= rule->scale;
    const Doubles back = (rule->base_factor - 1.0) * origin, change = merged + back;
    mean += totals->weight * back;
    totals->merged_square += change * change;
    totals->mean_square += mean * mean;
    totals->dot += change * mean;
    totals->base_square += origin * origin;
    return rule->base_factor * origin + merged;
}

ALWAYS_INLINE Doubles eight(const uint16_t *data) {
    return (Doubles)_mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)data)), 16)));
}

ALWAYS_INLINE Doubles task_vector(const int dtype, const Input *input, int64_t i, Doubles origin) {
    if (dtype == FLOAT64) return (Doubles)_mm512_loadu_pd((const double *)input->data + i);
    if (dtype == FLOAT32) return (Doubles)_mm512_cvtps_pd(_mm256_loadu_ps((const float *)input->data + i));
    return eight((const uint16_t *)input->data + i) - origin;
}

/* Merge eight entries from i on. */
ALWAYS_INLINE __m256 merge_eight(const int votes, const int dtype, int64_t k, int64_t i, const uint16_t *base, const Input *inputs,
                                 const Rule *rule, Totals *totals) {
    const __m512d zero = _mm512_setzero_pd();
    Doubles origin = eight(base + i), mean = {0};
    __m512d plus = zero, minus = zero, plus_weight = zero, minus_weight = zero;
    __mmask8 touched = 0;
    for (int64_t c = 0; c < k; c++) {
        Doubles d = task_vector(dtype, &inputs[c], i, origin), weighted = inputs[c].weight * d;
        __m512d weight = _mm512_set1_pd(inputs[c].weight);
        mean += weighted;
        __mmask8 moved = _mm512_cmp_pd_mask((__m512d)d, zero, _CMP_NEQ_UQ);
        totals->changed += ones(moved);
        touched |= moved;
        if (!votes) continue;
        __mmask8 kept = _mm512_cmp_pd_mask(_mm512_abs_pd((__m512d)d), _mm512_set1_pd(least_kept(&inputs[c])), _CMP_GE_OQ);
        __mmask8 up = _mm512_mask_cmp_pd_mask(kept, (__m512d)d, zero, _CMP_GT_OQ), down = (__mmask8)(kept & ~up);
        plus = _mm512_mask_add_pd(plus, up, plus, (__m512d)weighted);
        minus = _mm512_mask_add_pd(minus, down, minus, (__m512d)weighted);
        plus_weight = _mm512_mask_add_pd(plus_weight, up, plus_weight, weight);
        minus_weight = _mm512_mask_add_pd(minus_weight, down, minus_weight, weight);
        totals->kept += ones(kept);
    }
    totals->touched += ones(touched);
    Doubles merged = mean / rule->divisor;
    if (votes) {
        __mmask8 elected = _mm512_cmp_pd_mask(_mm512_add_pd(plus, minus), zero, _CMP_GE_OQ);
        __m512d agreeing = _mm512_mask_blend_pd(elected, minus_weight, plus_weight), divisor = _mm512_set1_pd(rule->divisor);
        __mmask8 some = _mm512_cmp_pd_mask(agreeing, zero, _CMP_GT_OQ);
        if (rule->average) divisor = _mm512_mask_blend_pd(some, _mm512_set1_pd(1.0), agreeing);
        __mmask8 both = _mm512_cmp_pd_mask(plus_weight, zero, _CMP_GT_OQ) & _mm512_cmp_pd_mask(minus_weight, zero, _CMP_GT_OQ);
        totals->conflicts += ones(both);
        merged = (Doubles)_mm512_div_pd(_mm512_mask_blend_pd(elected, minus, plus), divisor);
    }
    return _mm512_cvtpd_ps((__m512d)finish(merged, mean, origin, rule, totals));
}

/* Merge entries [start, stop), whose number is a multiple of 16. */
ALWAYS_INLINE void merge_all(const int votes, const int dtype, int64_t k, int64_t start, int64_t stop, const uint16_t *restrict base,
                             const Input *inputs, const Rule *rule, uint16_t *restrict out, Totals *totals) {
    Totals local = *totals;
    for (int64_t i = start; i < stop; i += PAIR) {
        __m256 low = merge_eight(votes, dtype, k, i, base, inputs, rule, &local);
        __m256 high = merge_eight(votes, dtype, k, i + 8, base, inputs, rule, &local);
        _mm256_storeu_si256((__m256i *)(out + i), rounded((Ints)_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)));
    }
    *totals = local;
}

static void merge_in_float64(int votes, int64_t k, int64_t start, int64_t stop, const uint16_t *base, const Input *inputs,
                             const Rule *rule, uint16_t *out, Totals *totals) {
    switch (2 * inputs[0].dtype + votes) {
    case 2 * FLOAT64: merge_all(0, FLOAT64, k, start, stop, base, inputs, rule, out, totals); break;
    case 2 * FLOAT64 + 1: merge_all(1, FLOAT64, k, start, stop, base, inputs, rule, out, totals); break;
    case 2 * FLOAT32: merge_all(0, FLOAT32, k, start, stop, base, inputs, rule, out, totals); break;
    case 2 * FLOAT32 + 1: merge_all(1, FLOAT32, k, start, stop, base, inputs, rule, out, totals); break;
    case 2 * BFLOAT16: merge_all(0, BFLOAT16, k, start, stop, base, inputs, rule, out, totals); break;
    default: merge_all(1, BFLOAT16, k, start, stop, base, inputs, rule, out, totals);
    }
}

#endif
#endif
