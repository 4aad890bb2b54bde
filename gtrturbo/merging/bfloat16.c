/* The loops of kernel.c in which nearly all merges spend their time, once more for processors with AVX2 (avx512.c: with
   AVX-512), a base in bfloat16, and inputs that are all bfloat16 weights, or all differences of one type, as adapters are: sums of an
   entry stay in registers. Where the inputs are bfloat16 and all weights are 1 they are float32, eight entries at a time, as long as no sum can be rounded; elsewhere
   they are float64, four at a time, with the operations of kernel.c in their order. Either way the bytes are the same.

   Why float32 is exact: let 2^e be the unit in the last place of the smallest number of an entry (base and k inputs, zeros aside),
   and 2^E that of the largest. A bfloat16 has 8 bits, so all are multiples of 2^e, of magnitude below 2^(E+8); a difference of two
   is below 2^(E+9), and a sum of k of them, in any order and with any left out, is a multiple of 2^e below k 2^(E+9). Float32 has
   24 bits, hence holds every such sum as it is where k 2^(E+9) <= 2^(e+24), that is E − e <= 15 − log2 k. Read as integers, the
   magnitudes of two bfloat16 whose exponents differ by more than x differ by more than 128 x, so that is what is compared. No sum
   overflows where the largest number is below 2^113: k <= 256 of them stay below 2^(113+1+8). Float32's own smallest number, 2^-149,
   is below bfloat16's, 2^-133. */

#include "narrow.h"

#if defined(__AVX2__) && !defined(GTRTURBO_AVX512)
#include <immintrin.h>

enum { EIGHT = 8 };

/* Vectors of GCC and clang. Comparisons give −1 where they hold, and 0. */
typedef double Doubles __attribute__((vector_size(32)));
typedef int64_t Longs __attribute__((vector_size(32)));
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef int16_t Shorts __attribute__((vector_size(32)));

/* What is added up over the entries. */
typedef struct {
    double weight; /* of all inputs, which is what whole weights hold of the base in their sum */
    Doubles merged_square, mean_square, dot, base_square;
    Longs conflicts, kept, changed, touched;
} Totals;

ALWAYS_INLINE Doubles all(double value) { return value - (Doubles){0}; }

ALWAYS_INLINE double total(Doubles values) { return (values[0] + values[1]) + (values[2] + values[3]); }

ALWAYS_INLINE double count(Longs values) { return (double)(values[0] + values[1] + values[2] + values[3]); }

ALWAYS_INLINE Longs longs(Ints counts) {
    return (Longs)_mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128((__m256i)counts)),
                                   _mm256_cvtepi32_epi64(_mm256_extracti128_si256((__m256i)counts, 1)));
}

ALWAYS_INLINE Doubles either(Longs holds, Doubles yes, Doubles no) {
    return (Doubles)_mm256_blendv_pd((__m256d)no, (__m256d)yes, (__m256d)holds);
}

/* bfloat16 of results by way of float32, as kernel.c does it, in the low halves. */
ALWAYS_INLINE Ints rounded(Ints words) { return (Ints)(((words + 0x7fff) + ((words >> 16) & 1)) >> 16) & 0xffff; }

/* ---- float64, four entries at a time ---- */

/* What is added up over the checkpoints, of each of four entries. */
typedef struct {
    Doubles mean, plus, minus, plus_weight, minus_weight;
    Longs touched;
} Four;

ALWAYS_INLINE Doubles widen(const uint16_t *data) {
    __m128i words = _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)data)), 16);
    return (Doubles)_mm256_cvtps_pd(_mm_castsi128_ps(words));
}

ALWAYS_INLINE void narrow(Doubles values, uint16_t *out) {
    Ints words = rounded((Ints)_mm256_castsi128_si256(_mm_castps_si128(_mm256_cvtpd_ps((__m256d)values))));
    __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128((__m256i)words), _mm_setzero_si128());
    _mm_storel_epi64((__m128i *)out, halves);
}

/* Add four entries of one checkpoint. None that is 0 counts as a vote: `low` is above 0. */
ALWAYS_INLINE void add_four(const int votes, Doubles d, double weight, double low, Four *sums, Totals *totals) {
    Doubles weighted = weight * d;
    sums->mean += weighted;
    Longs moved = d != 0.0;
    totals->changed -= moved;
    sums->touched |= moved;
    if (!votes) return;
    Longs kept = (Doubles)((Longs)d & INT64_MAX) >= low, up = kept & (d > 0.0), down = kept & (d < 0.0);
    sums->plus += (Doubles)((Longs)weighted & up);
    sums->minus += (Doubles)((Longs)weighted & down);
    sums->plus_weight += (Doubles)((Longs)all(weight) & up);
    sums->minus_weight += (Doubles)((Longs)all(weight) & down);
    totals->kept -= kept;
}

/* Scale what was merged of four entries, add it to the base, and add up what is reported. */
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

ALWAYS_INLINE Doubles finish_four(const int votes, const Rule *rule, Doubles origin, const Four *sums, Totals *totals) {
    if (!votes) return finish(sums->mean / rule->divisor, sums->mean, origin, rule, totals);
    Longs elected = sums->plus + sums->minus >= 0.0;
    Doubles agreeing = either(elected, sums->plus_weight, sums->minus_weight);
    Doubles divisor = rule->average ? either(agreeing > 0.0, agreeing, all(1.0)) : all(rule->divisor);
    totals->conflicts -= (sums->plus_weight > 0.0) & (sums->minus_weight > 0.0);
    return finish(either(elected, sums->plus, sums->minus) / divisor, sums->mean, origin, rule, totals);
}

/* Four entries of one checkpoint's task vector: as they are, or bfloat16 less the base. */
ALWAYS_INLINE Doubles task_vector(const int dtype, const Input *input, int64_t i, Doubles origin) {
    if (dtype == FLOAT64) return (Doubles)_mm256_loadu_pd((const double *)input->data + i);
    if (dtype == FLOAT32) return (Doubles)_mm256_cvtps_pd(_mm_loadu_ps((const float *)input->data + i));
    return widen((const uint16_t *)input->data + i) - origin;
}

/* Merge entries [start, stop), whose number is a multiple of 4. */
ALWAYS_INLINE void merge_fours(const int votes, const int dtype, int64_t k, int64_t start, int64_t stop, const uint16_t *restrict base,
                               const Input *inputs, const Rule *rule, uint16_t *restrict out, Totals *totals) {
    Totals local = *totals;
    for (int64_t i = start; i < stop; i += 4) {
        Four sums = {0};
        Doubles origin = widen(base + i);
        for (int64_t c = 0; c < k; c++) {
            Doubles d = task_vector(dtype, &inputs[c], i, origin);
            add_four(votes, d, inputs[c].weight, least_kept(&inputs[c]), &sums, &local);
        }
        local.touched -= sums.touched;
        narrow(finish_four(votes, rule, origin, &sums, &local), out + i);
    }
    *totals = local;
}

static void merge_in_float64(int votes, int64_t k, int64_t start, int64_t stop, const uint16_t *base, const Input *inputs,
                             const Rule *rule, uint16_t *out, Totals *totals) {
    switch (2 * inputs[0].dtype + votes) {
    case 2 * FLOAT64: merge_fours(0, FLOAT64, k, start, stop, base, inputs, rule, out, totals); break;
    case 2 * FLOAT64 + 1: merge_fours(1, FLOAT64, k, start, stop, base, inputs, rule, out, totals); break;
    case 2 * FLOAT32: merge_fours(0, FLOAT32, k, start, stop, base, inputs, rule, out, totals); break;
    case 2 * FLOAT32 + 1: merge_fours(1, FLOAT32, k, start, stop, base, inputs, rule, out, totals); break;
    case 2 * BFLOAT16: merge_fours(0, BFLOAT16, k, start, stop, base, inputs, rule, out, totals); break;
    default: merge_fours(1, BFLOAT16, k, start, stop, base, inputs, rule, out, totals);
    }
}

/* ---- float32, eight entries at a time, of sixteen that are read together ---- */

ALWAYS_INLINE Shorts halves(const uint16_t *data) { return (Shorts)_mm256_loadu_si256((const __m256i *)data); }

/* The first and the third, or the second and the fourth quarter of sixteen entries. */
ALWAYS_INLINE Floats quarters(const int odd, const uint16_t *data) {
    __m256i zero = _mm256_setzero_si256(), all = (__m256i)halves(data);
    return (Floats)(odd ? _mm256_unpackhi_epi16(zero, all) : _mm256_unpacklo_epi16(zero, all));
}

/* The magnitudes of sixteen entries over base and inputs, as integers: the largest, and the smallest but 0, less 1. */
typedef struct {
    Shorts most, least;
} Span;

ALWAYS_INLINE void extend(Span *span, Shorts values) {
    Shorts magnitudes = values & MAGNITUDE;
    span->most = (Shorts)_mm256_max_epu16((__m256i)span->most, (__m256i)magnitudes);
    span->least = (Shorts)_mm256_min_epu16((__m256i)span->least, (__m256i)(magnitudes - 1));
}

/* Tell whether some sum of k differences may be rounded in float32, or is not finite; `limit` is 128 (15 − log2 k), rounded down. */
ALWAYS_INLINE int rounds(const Span *span, int16_t limit) {
    return _mm256_movemask_epi8((__m256i)((span->most - span->least > limit) | (span->most >= LARGE)));
}

/* What is added up over the checkpoints, of each of eight entries. */
typedef struct {
    Floats sum, trimmed, plus;
    Ints kept, pluses, changed;
} Eight;

ALWAYS_INLINE void add_eight(const int votes, Floats value, Floats origin, float low, Eight *sums) {
    Floats d = value - origin;
    sums->sum += d;
    sums->changed -= value != origin;
    if (!votes) return;
    Ints kept = (Floats)((Ints)d & INT32_MAX) >= low;
    d = (Floats)((Ints)d & kept);
    sums->trimmed += d;
    sums->plus += (Floats)_mm256_max_ps((__m256)d, _mm256_setzero_ps());
    sums->kept -= kept;
    sums->pluses -= d > 0.0f;
}

ALWAYS_INLINE Doubles half(const int upper, Floats values) {
    return (Doubles)_mm256_cvtps_pd(upper ? _mm256_extractf128_ps((__m256)values, 1) : _mm256_castps256_ps128((__m256)values));
}

ALWAYS_INLINE Doubles half_of_ints(const int upper, Ints values) {
    __m256i all = (__m256i)values;
    return (Doubles)_mm256_cvtepi32_pd(upper ? _mm256_extracti128_si256(all, 1) : _mm256_castsi256_si128(all));
}

ALWAYS_INLINE Ints finish_eight(const int votes, const Rule *rule, Floats origin, const Eight *sums, Ints *conflicts, Ints *kept,
                                Totals *totals) {
    Floats chosen = sums->sum;
    Ints agreeing = {0};
    if (votes) {
        Ints minuses = sums->kept - sums->pluses;
        __m256 elected = (__m256)(sums->trimmed >= 0.0f);
        chosen = (Floats)_mm256_blendv_ps((__m256)(sums->trimmed - sums->plus), (__m256)sums->plus, elected);
        agreeing = (Ints)_mm256_blendv_ps((__m256)minuses, (__m256)sums->pluses, elected);
        agreeing = (Ints)_mm256_max_epi32((__m256i)agreeing, _mm256_set1_epi32(1));
        *conflicts -= (Ints)_mm256_min_epi32((__m256i)minuses, (__m256i)sums->pluses) > 0;
        *kept += sums->kept;
    }
    __m128 results[2];
    for (int upper = 0; upper < 2; upper++) {
        Doubles divisor = votes && rule->average ? half_of_ints(upper, agreeing) : all(rule->divisor);
        Doubles merged = half(upper, chosen) / divisor;
        results[upper] = _mm256_cvtpd_ps((__m256d)finish(merged, half(upper, sums->sum), half(upper, origin), rule, totals));
    }
    return rounded((Ints)_mm256_set_m128(results[1], results[0]));
}

/* Merge entries [start, stop) of one chunk, whose number is a multiple of 16, all weights being 1. */
ALWAYS_INLINE void merge_eights(const int votes, const int64_t k, int64_t start, int64_t stop, const uint16_t *restrict base,
                                const Input *inputs, const float *lows, const Rule *rule, uint16_t *restrict out, Totals *totals) {
    const int16_t limit = limit_of(k);
    Totals local = {.weight = totals->weight};
    Ints conflicts = {0}, kept = {0}, changed = {0}, touched = {0};
    for (int64_t i = start; i < stop; i += PAIR) {
        Span reach = {halves(base + i) & MAGNITUDE, (halves(base + i) & MAGNITUDE) - 1};
        for (int64_t c = 0; c < k; c++) extend(&reach, halves((const uint16_t *)inputs[c].data + i));
        if (rounds(&reach, limit)) {
            merge_in_float64(votes, k, i, i + PAIR, base, inputs, rule, out, totals);
            continue;
        }
        Ints words[2];
        for (int odd = 0; odd < 2; odd++) {
            Eight sums = {0};
            Floats origin = quarters(odd, base + i);
            for (int64_t c = 0; c < k; c++)
                add_eight(votes, quarters(odd, (const uint16_t *)inputs[c].data + i), origin, lows[c], &sums);
            changed += sums.changed;
            touched -= sums.changed > 0;
            words[odd] = finish_eight(votes, rule, origin, &sums, &conflicts, &kept, &local);
        }
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_packus_epi32((__m256i)words[0], (__m256i)words[1]));
    }
    totals->merged_square += local.merged_square;
    totals->mean_square += local.mean_square;
    totals->dot += local.dot;
    totals->base_square += local.base_square;
    totals->conflicts += longs(conflicts);
    totals->kept += longs(kept);
    totals->changed += longs(changed);
    totals->touched += longs(touched);
}

/* The same with a number of checkpoints that is known when this is compiled, where they are few. */
ALWAYS_INLINE void merge_in_float32(const int votes, int64_t k, int64_t start, int64_t stop, const uint16_t *base,
                                    const Input *inputs, const float *lows, const Rule *rule, uint16_t *out, Totals *totals) {
    switch (k) {
    case 1: merge_eights(votes, 1, start, stop, base, inputs, lows, rule, out, totals); break;
    case 2: merge_eights(votes, 2, start, stop, base, inputs, lows, rule, out, totals); break;
    case 3: merge_eights(votes, 3, start, stop, base, inputs, lows, rule, out, totals); break;
    case 4: merge_eights(votes, 4, start, stop, base, inputs, lows, rule, out, totals); break;
    default: merge_eights(votes, k, start, stop, base, inputs, lows, rule, out, totals);
    }
}

/* ---- what kernel.c calls ---- */

/* See combine. Stops before the first chunk that holds what is not finite, and before the last few entries. */
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
        sums[4] += count(totals.conflicts);
        sums[5] += count(votes ? totals.kept : totals.changed);
        sums[6] += count(totals.changed);
        sums[7] += count(totals.touched);
    }
    return n;
}

/* Count those of eight numbers that lie in the bins, and in `over` those above. */
ALWAYS_INLINE void look_at_eight(Floats d, const Bins *bins, Ints *over) {
    d = (Floats)((Ints)d & INT32_MAX);
    Ints beyond = d >= bins->high_single;
    *over -= beyond;
    unsigned inside = (unsigned)_mm256_movemask_ps((__m256)(beyond ^ (d >= bins->low_single)));
    if (!inside) return; /* as most are */
    float lanes[EIGHT];
    memcpy(lanes, &d, sizeof d);
    for (; inside; inside &= inside - 1) look(lanes[__builtin_ctz(inside)], bins);
}

/* See span; stops before the last few entries, and returns −1 where an entry is not finite. */
int64_t span_bfloat16(int64_t n, const uint16_t *base, const Input *input, uint64_t first, uint64_t width, uint32_t *tables,
                      int64_t *above, double *rest, int64_t room, int64_t *found) {
    const Bins bins = bins_of(first, width, tables, rest, room, found);
    const int16_t limit = limit_of(1);
    const uint16_t *data = input->data;
    Ints over = {0};
    Doubles checked = {0};
    n -= n % PAIR;
    for (int64_t i = 0; i < n; i += PAIR) {
        Span reach = {halves(base + i) & MAGNITUDE, (halves(base + i) & MAGNITUDE) - 1};
        extend(&reach, halves(data + i));
        if (rounds(&reach, limit)) {
            for (int64_t j = i; j < i + PAIR; j += 4) {
                Doubles d = widen(data + j) - widen(base + j);
                checked += d - d;
                d = (Doubles)((Longs)d & INT64_MAX);
                *above -= (int64_t)count(d >= bins.high);
                for (int lane = 0; lane < 4; lane++) look(d[lane], &bins);
            }
            continue;
        }
        for (int odd = 0; odd < 2; odd++) look_at_eight(quarters(odd, data + i) - quarters(odd, base + i), &bins, &over);
    }
    *above += (int64_t)count(longs(over));
    return total(checked) == 0.0 ? n : -1;
}

/* The same of differences in float32. */
int64_t span_float32(int64_t n, const float *data, uint64_t first, uint64_t width, uint32_t *tables, int64_t *above, double *rest,
                     int64_t room, int64_t *found) {
    const Bins bins = bins_of(first, width, tables, rest, room, found);
    Ints over = {0};
    Floats checked = {0};
    n -= n % EIGHT;
    for (int64_t i = 0; i < n; i += EIGHT) {
        Floats d = (Floats)_mm256_loadu_ps(data + i);
        checked += d - d;
        look_at_eight(d, &bins, &over);
    }
    *above += (int64_t)count(longs(over));
    return _mm256_movemask_ps((__m256)(checked != 0.0f)) ? -1 : n;
}

/* The same of differences in float64. */
int64_t span_float64(int64_t n, const double *data, uint64_t first, uint64_t width, uint32_t *tables, int64_t *above, double *rest,
                     int64_t room, int64_t *found) {
    const Bins bins = bins_of(first, width, tables, rest, room, found);
    const Doubles low = all(bins.low), high = all(bins.high);
    Longs over = {0};
    Doubles checked = {0};
    n -= n % 4;
    for (int64_t i = 0; i < n; i += 4) {
        Doubles d = (Doubles)_mm256_loadu_pd(data + i);
        checked += d - d;
        d = (Doubles)((Longs)d & INT64_MAX);
        Longs beyond = d >= high;
        over -= beyond;
        unsigned inside = (unsigned)_mm256_movemask_pd((__m256d)(beyond ^ (d >= low)));
        for (; inside; inside &= inside - 1) look(d[__builtin_ctz(inside)], &bins);
    }
    *above += (int64_t)count(over);
    return total(checked) == 0.0 ? n : -1;
}

#elif !defined(GTRTURBO_AVX512)

int64_t combine_bfloat16(int64_t n, const uint16_t *base, int64_t k, const Input *inputs, const Rule *rule, uint16_t *out, double *sums) {
    return 0;
}

int64_t span_bfloat16(int64_t n, const uint16_t *base, const Input *input, uint64_t first, uint64_t width, uint32_t *tables,
                      int64_t *above, double *rest, int64_t room, int64_t *found) {
    return 0;
}

int64_t span_float32(int64_t n, const float *data, uint64_t first, uint64_t width, uint32_t *tables, int64_t *above, double *rest,
                     int64_t room, int64_t *found) {
    return 0;
}

int64_t span_float64(int64_t n, const double *data, uint64_t first, uint64_t width, uint32_t *tables, int64_t *above, double *rest,
                     int64_t room, int64_t *found) {
    return 0;
}

#endif
