/* The loops of bfloat16.c for processors with AVX-512: twice as many entries at a time, and comparisons that give masks. What is counted
   is counted from masks, what is looked for is gathered without a branch, and where a division is by a small whole number it is a
   multiplication whose rest is added: the same bytes in a quarter of the time.

   Why that is the quotient x / n, rounded once: x has at most 24 bits, 1 <= n < 2^20 and r is 1 / n, rounded. q = x r is off by at most
   2 units in the last place, so x − q n is a small multiple of q's unit and exact, and q + (x − q n) r is off the quotient by less than
   2^-50 units before it is rounded. A quotient that is no number of 53 bits lies at least 2^-21 units from a number of 54 bits, which
   is where rounding changes, and it cannot be one itself: n times an odd number of 54 bits has more than the 24 bits of x. */

#include "eights.h"

#ifdef GTRTURBO_AVX512

enum { GATHERED = 4096 }; /* entries that are looked at together */

/* ---- float32, sixteen entries at a time ---- */

/* Tell which of sixteen entries have a sum of k differences that float32 may round, or a number that is not finite. */
ALWAYS_INLINE unsigned rounds(const int64_t k, int64_t i, const uint16_t *base, const Input *inputs, __m256i limit) {
    const __m256i magnitude = _mm256_set1_epi16(MAGNITUDE), one = _mm256_set1_epi16(1);
    __m256i most = _mm256_and_si256(halves(base + i), magnitude), least = _mm256_sub_epi16(most, one);
    for (int64_t c = 0; c < k; c++) {
        __m256i values = _mm256_and_si256(halves((const uint16_t *)inputs[c].data + i), magnitude);
        most = _mm256_max_epu16(most, values);
        least = _mm256_min_epu16(least, _mm256_sub_epi16(values, one));
    }
    return _mm256_cmpgt_epi16_mask(_mm256_sub_epi16(most, least), limit) |
           _mm256_cmpge_epi16_mask(most, _mm256_set1_epi16((int16_t)LARGE));
}

/* x / n for whole numbers n; `inverse` is 1 / n, rounded. See above. */
ALWAYS_INLINE Doubles quotient(Doubles x, Doubles n, Doubles inverse) {
    Doubles near = x * inverse;
    __m512d rest = _mm512_fnmadd_pd((__m512d)near, (__m512d)n, (__m512d)x);
    return (Doubles)_mm512_fmadd_pd(rest, (__m512d)inverse, (__m512d)near);
}

/* What is divided by: one number for all, or of each entry how many agree. */
typedef struct {
    int varies, whole;
    Doubles divisor, inverse;
} Division;

static const double INVERSES[8] = {1.0, 1.0, 1.0 / 2, 1.0 / 3, 1.0 / 4, 1.0 / 5, 1.0 / 6, 1.0 / 7};

static Division division_of(int votes, int64_t k, const Rule *rule) {
    const double divisor = rule->divisor;
    Division how = {.varies = votes && rule->average, .divisor = all(divisor), .inverse = all(1.0 / divisor)};
    how.whole = how.varies ? k < 8 : divisor >= 1.0 && divisor < 1 << 20 && divisor == floor(divisor);
    return how;
}

ALWAYS_INLINE Doubles divided(Doubles values, __m256i agreeing, const Division *how) {
    if (!how->varies) return how->whole ? quotient(values, how->divisor, how->inverse) : values / how->divisor;
    Doubles counts = (Doubles)_mm512_cvtepi32_pd(agreeing);
    if (!how->whole) return values / counts;
    return quotient(values, counts, (Doubles)_mm512_permutexvar_pd(_mm512_cvtepu32_epi64(agreeing), _mm512_loadu_pd(INVERSES)));
}

/* Merge entries [start, stop) of one chunk, whose number is a multiple of 16, all weights being 1. */
ALWAYS_INLINE void merge_sixteens(const int votes, const int64_t k, int64_t start, int64_t stop, const uint16_t *restrict base,
                                  const Input *inputs, const float *lows, const Rule *rule, uint16_t *restrict out, Totals *totals) {
    const __m256i limit = _mm256_set1_epi16(limit_of(k));
    const __m512 zero = _mm512_setzero_ps();
    const __m512i one = _mm512_set1_epi32(1);
    const Division how = division_of(votes, k, rule);
    Totals local = *totals;
    for (int64_t i = start; i < stop; i += PAIR) {
        if (rounds(k, i, base, inputs, limit)) {
            merge_in_float64(votes, k, i, i + PAIR, base, inputs, rule, out, &local);
            continue;
        }
        Floats origin = widened(halves(base + i)), sum = {0};
        __m512 trimmed = zero, plus = zero;
        __m512i kept = _mm512_setzero_si512(), pluses = kept;
        __mmask16 touched = 0;
        for (int64_t c = 0; c < k; c++) {
            Floats value = widened(halves((const uint16_t *)inputs[c].data + i)), d = value - origin;
            sum += d;
            __mmask16 moved = _mm512_cmp_ps_mask((__m512)d, zero, _CMP_NEQ_UQ);
            local.changed += ones(moved);
            touched |= moved;
            if (!votes) continue;
            __mmask16 counts = _mm512_cmp_ps_mask(_mm512_abs_ps((__m512)d), _mm512_set1_ps(lows[c]), _CMP_GE_OQ);
            __mmask16 up = _mm512_mask_cmp_ps_mask(counts, (__m512)d, zero, _CMP_GT_OQ);
            trimmed = _mm512_mask_add_ps(trimmed, counts, trimmed, (__m512)d);
            plus = _mm512_mask_add_ps(plus, up, plus, (__m512)d);
            kept = _mm512_mask_add_epi32(kept, counts, kept, one);
            pluses = _mm512_mask_add_epi32(pluses, up, pluses, one);
            local.kept += ones(counts);
        }
        local.touched += ones(touched);
        Floats chosen = sum;
        __m512i agreeing = one;
        if (votes) {
            __m512i minuses = _mm512_sub_epi32(kept, pluses);
            __mmask16 elected = _mm512_cmp_ps_mask(trimmed, zero, _CMP_GE_OQ);
            chosen = (Floats)_mm512_mask_blend_ps(elected, _mm512_sub_ps(trimmed, plus), plus);
            agreeing = _mm512_max_epi32(_mm512_mask_blend_epi32(elected, minuses, pluses), one);
            local.conflicts += ones(_mm512_test_epi32_mask(pluses, pluses) & _mm512_test_epi32_mask(minuses, minuses));
        }
        __m256 results[2];
        for (int upper = 0; upper < 2; upper++) {
            __m256i counts = upper ? _mm512_extracti32x8_epi32(agreeing, 1) : _mm512_castsi512_si256(agreeing);
            Doubles merged = divided(upper_or_lower(upper, chosen), counts, &how);
            results[upper] = _mm512_cvtpd_ps(
                (__m512d)finish(merged, upper_or_lower(upper, sum), upper_or_lower(upper, origin), rule, &local));
        }
        _mm256_storeu_si256((__m256i *)(out + i),
                            rounded((Ints)_mm512_insertf32x8(_mm512_castps256_ps512(results[0]), results[1], 1)));
    }
    *totals = local;
}

/* The same with a number of checkpoints that is known when this is compiled, where they are few. */
ALWAYS_INLINE void merge_in_float32(const int votes, int64_t k, int64_t start, int64_t stop, const uint16_t *base,
                                    const Input *inputs, const float *lows, const Rule *rule, uint16_t *out, Totals *totals) {
    switch (k) {
    case 1: merge_sixteens(votes, 1, start, stop, base, inputs, lows, rule, out, totals); break;
    case 2: merge_sixteens(votes, 2, start, stop, base, inputs, lows, rule, out, totals); break;
    case 3: merge_sixteens(votes, 3, start, stop, base, inputs, lows, rule, out, totals); break;
    case 4: merge_sixteens(votes, 4, start, stop, base, inputs, lows, rule, out, totals); break;
    default: merge_sixteens(votes, k, start, stop, base, inputs, lows, rule, out, totals);
    }
}

int64_t combine_bfloat16(int64_t n, const uint16_t *base, int64_t k, const Input *inputs, const Rule *rule, uint16_t *out, double *sums) {
    if (!fits(k, inputs, rule)) return 0;
    float lows[MOST];
    const double weight = all_weights(k, inputs);
    const int single = plain(k, inputs, lows), votes = rule->vote == VOTE_TOTAL;
    n -= n % PAIR;
    for (int64_t start = 0; start < n; start += CHUNK, sums += SUMS) {
        int64_t stop = start + CHUNK < n ? start + CHUNK : n;
        Totals totals = {.weight = weight};
        if (!single)
            merge_in_float64(votes, k, start, stop, base, inputs, rule, out, &totals);
        else if (votes)
            merge_in_float32(1, k, start, stop, base, inputs, lows, rule, out, &totals);
        else
            merge_in_float32(0, k, start, stop, base, inputs, lows, rule, out, &totals);
        /* A NaN or an infinity of the base or of an input stays one in the sums of squares. */
        double mean_square = total(totals.mean_square), base_square = total(totals.base_square);
        if (!(mean_square < INFINITY && base_square < INFINITY)) return start;
        sums[0] += total(totals.merged_square);
        sums[1] += mean_square;
        sums[2] += total(totals.dot);
        sums[3] += base_square;
        sums[4] += (double)totals.conflicts;
        sums[5] += (double)(votes ? totals.kept : totals.changed);
        sums[6] += (double)totals.changed;
        sums[7] += (double)totals.touched;
    }
    return n;
}

/* ---- what lies in a few bins ---- */

/* Magnitudes that lie in the bins, gathered to be counted together; `over`: number of those above. */
typedef struct {
    float singles[GATHERED + PAIR];
    double doubles[GATHERED + PAIR];
    int64_t count, over;
} Inside;

ALWAYS_INLINE void gather_sixteen(Floats d, const Bins *bins, Inside *inside) {
    __m512 magnitudes = _mm512_abs_ps((__m512)d);
    __mmask16 beyond = _mm512_cmp_ps_mask(magnitudes, _mm512_set1_ps(bins->high_single), _CMP_GE_OQ);
    __mmask16 within = _mm512_cmp_ps_mask(magnitudes, _mm512_set1_ps(bins->low_single), _CMP_GE_OQ) & (__mmask16)~beyond;
    _mm512_storeu_ps(inside->singles + inside->count, _mm512_maskz_compress_ps(within, magnitudes));
    inside->count += ones(within);
    inside->over += ones(beyond);
}

ALWAYS_INLINE void gather_eight(Doubles d, const Bins *bins, Inside *inside) {
    __m512d magnitudes = _mm512_abs_pd((__m512d)d);
    __mmask8 beyond = _mm512_cmp_pd_mask(magnitudes, _mm512_set1_pd(bins->high), _CMP_GE_OQ);
    __mmask8 within = _mm512_cmp_pd_mask(magnitudes, _mm512_set1_pd(bins->low), _CMP_GE_OQ) & (__mmask8)~beyond;
    _mm512_storeu_pd(inside->doubles + inside->count, _mm512_maskz_compress_pd(within, magnitudes));
    inside->count += ones(within);
    inside->over += ones(beyond);
}

static void look_at_singles(Inside *inside, const Bins *bins) {
    for (int64_t i = 0; i < inside->count; i++) look(inside->singles[i], bins);
    inside->count = 0;
}

static void look_at_doubles(Inside *inside, const Bins *bins) {
    for (int64_t i = 0; i < inside->count; i++) look(inside->doubles[i], bins);
    inside->count = 0;
}

/* See span; stops before the last few entries, and returns −1 where an entry is not finite. */
int64_t span_bfloat16(int64_t n, const uint16_t *base, const Input *input, uint64_t first, uint64_t width, uint32_t *tables,
                      int64_t *above, double *rest, int64_t room, int64_t *found) {
    const Bins bins = bins_of(first, width, tables, rest, room, found);
    const __m256i limit = _mm256_set1_epi16(limit_of(1));
    const uint16_t *data = input->data;
    Inside inside, apart;
    inside.count = inside.over = apart.count = apart.over = 0;
    Doubles checked = {0};
    n -= n % PAIR;
    for (int64_t i = 0; i < n; i += PAIR) {
        if (rounds(1, i, base, input, limit)) {
            for (int64_t j = i; j < i + PAIR; j += 8) {
                Doubles d = eight(data + j) - eight(base + j);
                checked += d - d;
                gather_eight(d, &bins, &apart);
            }
            look_at_doubles(&apart, &bins);
            continue;
        }
        gather_sixteen(widened(halves(data + i)) - widened(halves(base + i)), &bins, &inside);
        if (inside.count >= GATHERED) look_at_singles(&inside, &bins);
    }
    look_at_singles(&inside, &bins);
    *above += inside.over + apart.over;
    return total(checked) == 0.0 ? n : -1;
}

/* The same of differences in float32. */
int64_t span_float32(int64_t n, const float *data, uint64_t first, uint64_t width, uint32_t *tables, int64_t *above, double *rest,
                     int64_t room, int64_t *found) {
    const Bins bins = bins_of(first, width, tables, rest, room, found);
    Inside inside;
    inside.count = inside.over = 0;
    Floats checked = {0};
    n -= n % PAIR;
    for (int64_t i = 0; i < n; i += PAIR) {
        Floats d = (Floats)_mm512_loadu_ps(data + i);
        checked += d - d;
        gather_sixteen(d, &bins, &inside);
        if (inside.count >= GATHERED) look_at_singles(&inside, &bins);
    }
    look_at_singles(&inside, &bins);
    *above += inside.over;
    return _mm512_cmp_ps_mask((__m512)checked, _mm512_setzero_ps(), _CMP_NEQ_UQ) ? -1 : n;
}

/* The same of differences in float64. */
int64_t span_float64(int64_t n, const double *data, uint64_t first, uint64_t width, uint32_t *tables, int64_t *above, double *rest,
                     int64_t room, int64_t *found) {
    const Bins bins = bins_of(first, width, tables, rest, room, found);
    Inside inside;
    inside.count = inside.over = 0;
    Doubles checked = {0};
    n -= n % 8;
    for (int64_t i = 0; i < n; i += 8) {
        Doubles d = (Doubles)_mm512_loadu_pd(data + i);
        checked += d - d;
        gather_eight(d, &bins, &inside);
        if (inside.count >= GATHERED) look_at_doubles(&inside, &bins);
    }
    look_at_doubles(&inside, &bins);
    *above += inside.over;
    return total(checked) == 0.0 ? n : -1;
}

#endif
