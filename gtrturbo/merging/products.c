/* Merges of products L R of adapters' factors that are never in memory as a whole, for processors with AVX-512 and a base in bfloat16.
   Products are made in float32 where they are looked at, twice: for the threshold, and to be merged. Wherever that could decide
   otherwise than float64, the entries are made again in float64 and merged by its loop, so that the bytes are the same.

   How far float32 is off. With u = 2^-24, a chain of n fused multiply-adds is off by less than n u / (1 − n u) Σ|l r|; so are chains of
   at most n that are added up, with one u more for each. Σ|l r| is at most the norm of the row of L times that of the column of R
   (Cauchy and Schwarz). The scale, rounded, and the product with it add 2 u. What float32 cannot hold because it is too small adds
   less than 2^-126 per operation. `bound` is above all that for every entry of a row and a panel.
   An entry is kept for certain, or not, where it lies farther from the threshold than its bound.
   - The sums of what is kept of one sign, P >= 0 and M <= 0, are off by the sum of the weighted bounds and, of k terms, by less than
     (k + 3) u of themselves; so their sum has the right sign where it is larger than all that.
   - A weighted mean of entries that agree is off by at most the largest of their bounds, a sum by the sum of the weighted bounds,
     and either by (k + 8) u of its terms' size for weights, sums, the division and the scale.
   - bfloat16 rounds monotonically: where both ends of an interval that holds the result give the same bits, it gives them, too. */

#include "factors.h"

#ifdef GTRTURBO_AVX512

/* Columns and rows that are made together, in so many numbers of all checkpoints. */
enum { WIDE = 4 * PANEL, ROWS = 48, ROOM = 1 << 16 };

static const float MOST_SURE = 0x1p120f, UNIT = 0x1p-24f;
static const double TINY = 0x1p-90; /* above what is lost of sums and quotients because float32 cannot hold it */

/* ---- what is gathered for a threshold ---- */

/* Of rows [first, last), count in `over` the magnitudes that are surely not below `high`, and copy those that are not surely below
   `low`, with their places, as far as there is room. Returns how many there are. */
int64_t gtrturbo_product_span(const Factors *factors, int64_t first, int64_t last, int64_t width, double low, double high,
                              float *restrict values, int32_t *restrict places, int64_t room, int64_t *restrict over) {
    float tile[ROWS * PANEL];
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int64_t beyond = 0, found = 0;
    for (int64_t row = first; row < last; row += ROWS) {
        const int64_t rows = last - row < ROWS ? last - row : ROWS;
        for (int64_t panel = 0; panel * PANEL < width; panel++) {
            make(factors, row, rows, panel, tile, PANEL);
            for (int64_t i = 0; i < rows; i++) {
                const double off = bound(factors, row + i, panel);
                const __m512 least = _mm512_set1_ps(below(low - off)), most = _mm512_set1_ps(above(high + off));
                for (int64_t column = panel * PANEL, lane = 0; lane < PANEL && column < width; lane += 16, column += 16) {
                    const __mmask16 there = width - column < 16 ? (__mmask16)((1u << (width - column)) - 1) : (__mmask16)0xffff;
                    const __m512 magnitudes = _mm512_abs_ps(_mm512_loadu_ps(tile + i * PANEL + lane));
                    const __mmask16 larger = _mm512_mask_cmp_ps_mask(there, magnitudes, most, _CMP_GE_OQ);
                    const __mmask16 within = _mm512_mask_cmp_ps_mask(there, magnitudes, least, _CMP_GE_OQ) & (__mmask16)~larger;
                    const __m512i here = _mm512_add_epi32(lanes, _mm512_set1_epi32((int32_t)((row + i) * width + column)));
                    const int64_t place = found + 16 <= room ? found : room - 16; /* written always, kept on a hit */
                    _mm512_storeu_ps(values + place, _mm512_maskz_compress_ps(within, magnitudes));
                    _mm512_storeu_si512(places + place, _mm512_maskz_compress_epi32(within, here));
                    beyond += ones(larger);
                    found += ones(within);
                }
            }
        }
    }
    *over += beyond;
    return found;
}

/* The magnitudes of some entries, in float64. */
void gtrturbo_product_exact(const Factors *factors, int64_t width, int64_t count, const int32_t *places, double *restrict out) {
    double around[8];
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = places[i] / width, column = places[i] % width;
        exactly(factors, row, column / PANEL, column % PANEL / 8 * 8, around);
        out[i] = fabs(around[column % 8]);
    }
}

/* ---- the merge ---- */

/* What is the same for all entries of a row and a panel: of each checkpoint its bound (−1 where all is exactly 0) and what is surely not kept
   below `low`, and surely kept from `high` on; and how far sums, and what is merged, may be off by these bounds. */
typedef struct {
    float doubt[MOST], low[MOST], high[MOST];
    float sum_off, off;
    int moving; /* how many checkpoints change anything there */
} Bounds;

typedef struct {
    int average;
    float weights[MOST], divisor, scale, relative;
} Single;

ALWAYS_INLINE void look_up(const Single *how, int64_t k, const Factors *factors, int64_t row, int64_t panel, Bounds *bounds) {
    double sum = 0.0, largest = 0.0;
    bounds->moving = 0;
    for (int64_t c = 0; c < k; c++) {
        const double off = bound(&factors[c], row, panel), low = factors[c].low > 0.0 ? factors[c].low : 0x1p-1074;
        bounds->doubt[c] = off > 0.0 ? above(off) : -1.0f;
        bounds->low[c] = low - off > (double)LEAST * 4.0 ? below(low - off) : LEAST;
        bounds->high[c] = above(low + off);
        bounds->moving += off > 0.0;
        sum += factors[c].weight * off;
        largest = off > largest ? off : largest;
    }
    const double tiny = sum > 0.0 ? TINY : 0.0;
    bounds->sum_off = above(1.001 * sum + tiny);
    bounds->off = above(1.001 * fabs(how->scale) * ((how->average ? largest : sum / how->divisor) + tiny));
}

/* Merge sixteen entries; `values` of the checkpoints lie `apart`. Returns those of `there` of which float32 may decide otherwise than
   float64: if there are any, nothing is done. */
ALWAYS_INLINE __mmask16 merge_sixteen(const int votes, const Single *how, int64_t k, const float *restrict values, int64_t apart,
                                const Bounds *bounds, __m256i base, __mmask16 there, __m256i *words, Totals *totals) {
    const __m512 zero = _mm512_setzero_ps();
    const Floats origin = widened(base);
    __m512 mean = zero, size = zero, plus = zero, minus = zero, plus_weight = zero, minus_weight = zero;
    __mmask16 doubtful = 0, both = 0;
    int kept = 0;
    for (int64_t c = 0; c < k; c++) {
        const __m512 d = _mm512_loadu_ps(values + c * apart), magnitude = _mm512_abs_ps(d), weight = _mm512_set1_ps(how->weights[c]);
        doubtful |= _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(bounds->doubt[c]), _CMP_LE_OQ);
        mean = _mm512_fmadd_ps(weight, d, mean);
        if (!votes) {
            size = _mm512_fmadd_ps(weight, magnitude, size);
            continue;
        }
        const __mmask16 counts = _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(bounds->high[c]), _CMP_GE_OQ);
        doubtful |= (__mmask16)(_mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(bounds->low[c]), _CMP_GE_OQ) & ~counts);
        const __mmask16 up = _mm512_mask_cmp_ps_mask(counts, d, zero, _CMP_GT_OQ), down = (__mmask16)(counts & ~up);
        plus = _mm512_mask3_fmadd_ps(weight, d, plus, up);
        minus = _mm512_mask3_fmadd_ps(weight, d, minus, down);
        plus_weight = _mm512_mask_add_ps(plus_weight, up, plus_weight, weight);
        minus_weight = _mm512_mask_add_ps(minus_weight, down, minus_weight, weight);
        kept += ones(counts);
    }
    __m512 merged, divisor = _mm512_set1_ps(how->divisor);
    if (votes) {
        const __mmask16 negative = _mm512_test_epi32_mask((__m512i)minus_weight, (__m512i)minus_weight);
        both = _mm512_mask_test_epi32_mask(negative, (__m512i)plus_weight, (__m512i)plus_weight);
        const __m512 sum = _mm512_add_ps(plus, minus);
        const __m512 off = _mm512_fmadd_ps(_mm512_set1_ps(how->relative), _mm512_sub_ps(plus, minus), _mm512_set1_ps(bounds->sum_off));
        doubtful |= _mm512_mask_cmp_ps_mask(both, _mm512_abs_ps(sum), off, _CMP_LE_OQ);
        const __mmask16 elected = (both & _mm512_cmp_ps_mask(sum, zero, _CMP_GE_OQ)) | (__mmask16)~negative;
        const __m512 agreeing = _mm512_mask_blend_ps(elected, minus_weight, plus_weight);
        if (how->average) /* 1 where none agree */
            divisor = _mm512_mask_blend_ps(_mm512_test_epi32_mask((__m512i)agreeing, (__m512i)agreeing), _mm512_set1_ps(1.0f), agreeing);
        merged = _mm512_div_ps(_mm512_mask_blend_ps(elected, minus, plus), divisor);
        size = merged;
    } else {
        merged = _mm512_div_ps(mean, divisor);
        size = _mm512_div_ps(size, divisor);
    }
    const __m512 scale = _mm512_set1_ps(how->scale);
    merged = _mm512_mul_ps(merged, scale);
    size = _mm512_abs_ps(_mm512_mul_ps(size, scale));
    const Floats result = origin + (Floats)merged;
    /* 1.001 (off + relative size) + 6 u (|origin| + size) */
    __m512 off = _mm512_fmadd_ps(_mm512_set1_ps(1.001f * how->relative + 6.0f * UNIT), size, _mm512_set1_ps(1.001f * bounds->off));
    off = _mm512_fmadd_ps(_mm512_set1_ps(6.0f * UNIT), _mm512_abs_ps((__m512)origin), off);
    const __m256i lower = rounded((Ints)(result - (Floats)off)), upper = rounded((Ints)(result + (Floats)off));
    const __mmask16 same = _mm256_cmpeq_epi16_mask(lower, upper);
    const __mmask16 sure = _mm512_cmp_ps_mask(_mm512_abs_ps((__m512)result), _mm512_set1_ps(MOST_SURE), _CMP_LT_OQ);
    doubtful = there & (doubtful | (__mmask16) ~(same & sure));
    if (doubtful) return doubtful;
    *words = lower;
    totals->conflicts += ones(both);
    totals->kept += kept;
    for (int half = 0; half < 2; half++) {
        const __m512d m = (__m512d)upper_or_lower(half, (Floats)merged), a = (__m512d)upper_or_lower(half, (Floats)mean);
        const __m512d b = (__m512d)upper_or_lower(half, origin);
        totals->merged_square = (Doubles)_mm512_fmadd_pd(m, m, (__m512d)totals->merged_square);
        totals->mean_square = (Doubles)_mm512_fmadd_pd(a, a, (__m512d)totals->mean_square);
        totals->dot = (Doubles)_mm512_fmadd_pd(m, a, (__m512d)totals->dot);
        totals->base_square = (Doubles)_mm512_fmadd_pd(b, b, (__m512d)totals->base_square);
    }
    const int entries = ones(there); /* An entry that is no doubt is not 0, unless all of the row are for certain. */
    totals->changed += entries * bounds->moving;
    totals->touched += bounds->moving ? entries : 0;
    return 0;
}

/* Which of eight values of a checkpoint are not certain to be left out of the merge, or to be other than 0. */
ALWAYS_INLINE __mmask8 may_count(__m256 d, const Bounds *bounds, int64_t c) {
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), d);
    return _mm256_cmp_ps_mask(magnitude, _mm256_set1_ps(bounds->low[c]), _CMP_GE_OQ) |
           _mm256_cmp_ps_mask(magnitude, _mm256_set1_ps(bounds->doubt[c]), _CMP_LE_OQ);
}

/* Merge entries of one row, `count` from `column` on, in one panel. */
ALWAYS_INLINE void merge_panel(const int votes, const Single *how, int64_t k, const Factors *factors, int64_t row, int64_t column,
                               int64_t count, const float *restrict values, int64_t apart, const uint16_t *restrict origin,
                               const Input *inputs, double *restrict exact, const Rule *rule, uint16_t *restrict out, Totals *totals) {
    Bounds bounds;
    look_up(how, k, factors, row, column / PANEL, &bounds);
    for (int64_t i = 0; i < count; i += 16) {
        const __mmask16 there = count - i < 16 ? (__mmask16)((1u << (count - i)) - 1) : (__mmask16)0xffff;
        const int whole = there == 0xffff;
        const __m256i here = whole ? halves(origin + i) : _mm256_maskz_loadu_epi16(there, origin + i);
        __m256i words;
        const __mmask16 doubtful = merge_sixteen(votes, how, k, values + i, apart, &bounds, here, there, &words, totals);
        if (doubtful) {
            uint16_t weights[16], merged[16];
            _mm256_storeu_si256((__m256i *)weights, here);
            for (int half = 0; half < 16; half += 8) {
                const __mmask8 unsure = (__mmask8)(doubtful >> half);
                for (int64_t c = 0; c < k; c++) { /* What is certain is so of any number within the bounds. */
                    const __m256 d = _mm256_loadu_ps(values + c * apart + i + half);
                    if (unsure & may_count(d, &bounds, c))
                        exactly(factors + c, row, column / PANEL, i + half, exact + 16 * c + half);
                    else
                        _mm512_storeu_pd(exact + 16 * c + half, _mm512_cvtps_pd(d));
                }
            }
            merge_in_float64(votes, k, 0, 16, weights, inputs, rule, merged, totals);
            words = _mm256_loadu_si256((const __m256i *)merged);
        }
        if (whole)
            _mm256_storeu_si256((__m256i *)(out + i), words);
        else
            _mm256_mask_storeu_epi16(out + i, there, words);
    }
}

/* Room in bytes for k checkpoints, and how many rows are made together. */
static int64_t rows_of(int64_t k) {
    const int64_t rows = ROOM / (k * WIDE) / STRIP * STRIP;
    return rows < STRIP ? STRIP : rows > ROWS ? ROWS : rows;
}

int64_t gtrturbo_product_room(int64_t k) { return k * (rows_of(k) * WIDE * 4 + 16 * 8 + (int64_t)sizeof(Input)) + 64; }

/* Merge rows [first, last) of a tensor around `base`, its tile in memory, into `out`. `sums` as for combine, of all entries together.
   Returns 0 if an entry of the base is not finite. */
int gtrturbo_product_combine(int64_t first, int64_t last, int64_t width, const Input *base, int64_t k, const Factors *factors,
                             const Rule *rule, uint16_t *restrict out, double *restrict sums, char *restrict room) {
    const int64_t block = rows_of(k), apart = block * WIDE;
    float *made = (float *)(((uintptr_t)room + 63) & ~(uintptr_t)63);
    double *exact = (double *)(made + k * apart);
    Input *inputs = (Input *)(exact + 16 * k);
    const int votes = rule->vote == VOTE_TOTAL;
    Single how = {.average = votes && rule->average, .divisor = (float)rule->divisor, .scale = (float)rule->scale,
                  .relative = (float)(k + 10) * UNIT};
    memset(inputs, 0, (size_t)k * sizeof *inputs);
    for (int64_t c = 0; c < k; c++) {
        how.weights[c] = (float)factors[c].weight;
        inputs[c] = (Input){.data = exact + 16 * c, .dtype = FLOAT64, .difference = 1, .weight = factors[c].weight,
                            .low = factors[c].low, .high = INFINITY, .descriptor = -1};
    }
    const uint16_t *origin = base->data;
    Totals totals = {0};
    expect(base, (last - first) * width * 2);
    for (int64_t row = first; row < last; row += block) {
        const int64_t rows = last - row < block ? last - row : block;
        for (int64_t left = 0; left < width; left += WIDE) {
            const int64_t right = left + WIDE < width ? left + WIDE : width;
            for (int64_t i = 0; i < rows; i++) /* no pattern that a processor would foresee */
                for (int64_t column = left; column < right; column += 32)
                    _mm_prefetch((const char *)(origin + (row + i - first) * width + column), _MM_HINT_T1);
            for (int64_t c = 0; c < k; c++)
                for (int64_t panel = left / PANEL; panel * PANEL < right; panel++)
                    make(&factors[c], row, rows, panel, made + c * apart + panel * PANEL - left, WIDE);
            for (int64_t i = 0; i < rows; i++) {
                for (int64_t column = left; column < right; column += PANEL) {
                    const int64_t place = (row + i - first) * width + column, count = right - column < PANEL ? right - column : PANEL;
                    const float *values = made + i * WIDE + column - left;
                    if (votes)
                        merge_panel(1, &how, k, factors, row + i, column, count, values, apart, origin + place, inputs, exact, rule,
                                    out + place, &totals);
                    else
                        merge_panel(0, &how, k, factors, row + i, column, count, values, apart, origin + place, inputs, exact, rule,
                                    out + place, &totals);
                }
            }
        }
    }
    forget(base, (last - first) * width * 2);
    sums[0] += total(totals.merged_square);
    sums[1] += total(totals.mean_square);
    sums[2] += total(totals.dot);
    sums[3] += total(totals.base_square);
    sums[4] += (double)totals.conflicts;
    sums[5] += (double)(votes ? totals.kept : totals.changed);
    sums[6] += (double)totals.changed;
    sums[7] += (double)totals.touched;
    return sums[1] < INFINITY && sums[3] < INFINITY;
}

/* Pack R [rank, width] by panels, and find norms: of the rows of L [rows, rank], and the largest of each panel's columns. */
void gtrturbo_product_pack(int64_t rows, int64_t rank, int64_t width, const float *restrict left, const float *restrict right,
                           float *restrict packed, double *restrict left_norms, double *restrict right_norms) {
    for (int64_t row = 0; row < rows; row++) {
        double square = 0.0;
        for (int64_t inner = 0; inner < rank; inner++) square += (double)left[row * rank + inner] * (double)left[row * rank + inner];
        left_norms[row] = sqrt(square);
    }
    for (int64_t panel = 0; panel * PANEL < width; panel++) {
        const int64_t columns = width - panel * PANEL < PANEL ? width - panel * PANEL : PANEL;
        double squares[PANEL] = {0};
        for (int64_t inner = 0; inner < rank; inner++) {
            float *restrict line = packed + (panel * rank + inner) * PANEL;
            memset(line, 0, PANEL * sizeof *line);
            memcpy(line, right + inner * width + panel * PANEL, (size_t)columns * sizeof *line);
            for (int64_t lane = 0; lane < PANEL; lane++) squares[lane] += (double)line[lane] * (double)line[lane];
        }
        double largest = 0.0;
        for (int64_t lane = 0; lane < PANEL; lane++)
            if (!(squares[lane] <= largest)) largest = squares[lane]; /* a NaN, too */
        right_norms[panel] = sqrt(largest);
    }
}

int gtrturbo_product_able(void) { return 1; }

#else

int gtrturbo_product_able(void) { return 0; }

#endif
