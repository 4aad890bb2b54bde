/* The inner loops of merge. Every sum is a double and every operation is rounded on its own (compile with -ffp-contract=off),
   so that tiles.py, which does the same in torch, gives the same bytes. Loops over LANES entries are free of branches, for
   compilers to vectorise. A task vector d is input − base, or the input itself where the input is a difference already. */

#include "kernel.h"

static double half_to_double(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u, mantissa = bits & 0x3ffu;
    if (exponent == 0) {
        double value = ldexp((double)mantissa, -24);
        return sign ? -value : value;
    }
    uint32_t word = sign | ((exponent == 31 ? 255u : exponent + 112u) << 23) | (mantissa << 13);
    float value;
    memcpy(&value, &word, 4);
    return value;
}

static uint16_t float_to_half(float value) {
    uint32_t word;
    memcpy(&word, &value, 4);
    uint16_t sign = (uint16_t)((word >> 16) & 0x8000u);
    word &= 0x7fffffffu;
    if (word > 0x7f800000u) return sign | 0x7e00u;
    if (word >= 0x47800000u) return sign | 0x7c00u;
    if (word < 0x38800000u) { /* subnormal half: units of 2^-24, ties to even */
        float magnitude;
        memcpy(&magnitude, &word, 4);
        return sign | (uint16_t)nearbyint(ldexp((double)magnitude, 24));
    }
    return sign | (uint16_t)((word - 0x38000000u + 0xfffu + ((word >> 13) & 1u)) >> 13);
}

static void load(int64_t dtype, const void *data, int64_t start, int64_t count, double *restrict out) {
    if (dtype == FLOAT64) {
        memcpy(out, (const double *)data + start, (size_t)count * 8);
    } else if (dtype == FLOAT32) {
        const float *restrict in = (const float *)data + start;
        for (int64_t i = 0; i < count; i++) out[i] = in[i];
    } else if (dtype == BFLOAT16) {
        const uint16_t *restrict in = (const uint16_t *)data + start;
        float widened[LANES];
        for (int64_t i = 0; i < count; i++) {
            uint32_t word = (uint32_t)in[i] << 16;
            memcpy(&widened[i], &word, 4);
        }
        for (int64_t i = 0; i < count; i++) out[i] = widened[i];
    } else {
        const uint16_t *restrict in = (const uint16_t *)data + start;
        for (int64_t i = 0; i < count; i++) out[i] = half_to_double(in[i]);
    }
}

static void store(int64_t dtype, void *data, int64_t start, int64_t count, const double *restrict in) {
    if (dtype == FLOAT64) {
        memcpy((double *)data + start, in, (size_t)count * 8);
    } else if (dtype == FLOAT32) {
        float *restrict out = (float *)data + start;
        for (int64_t i = 0; i < count; i++) out[i] = (float)in[i];
    } else if (dtype == BFLOAT16) {
        uint16_t *restrict out = (uint16_t *)data + start;
        float narrowed[LANES];
        for (int64_t i = 0; i < count; i++) narrowed[i] = (float)in[i];
        for (int64_t i = 0; i < count; i++) {
            uint32_t word;
            memcpy(&word, &narrowed[i], 4);
            out[i] = (uint16_t)((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
        }
    } else {
        uint16_t *restrict out = (uint16_t *)data + start;
        for (int64_t i = 0; i < count; i++) out[i] = float_to_half((float)in[i]);
    }
}

/* d of `count` entries from `start`. */
static void task_vector(const Input *input, const double *restrict base, int64_t start, int64_t count, double *restrict d) {
    load(input->dtype, input->data, start, count, d);
    if (!input->difference)
        for (int64_t i = 0; i < count; i++) d[i] -= base[i];
}

static int all_finite(const double *restrict values, int64_t count) {
    uint64_t bad = 0;
    for (int64_t i = 0; i < count; i++) {
        uint64_t word;
        memcpy(&word, &values[i], 8);
        bad |= (word & 0x7fffffffffffffffu) >= 0x7ff0000000000000u;
    }
    return !bad;
}

/* Add to TABLES tables of BINS counters: how many magnitudes whose bits above `prefix_shift` are `prefix` have which next bits.
   Magnitudes order as their bits do. Returns 0 if an entry is not finite, else 1, and 2 if any of them has bits below `shift`. */
int histogram(int64_t n, int64_t base_dtype, const void *base, const Input *input, uint64_t prefix, int64_t prefix_shift,
              int64_t shift, uint32_t *restrict tables) {
    double origin[LANES], d[LANES];
    uint16_t bins[LANES];
    uint64_t below = 0;
    for (int64_t start = 0; start < n; start += LANES) {
        int64_t count = n - start < LANES ? n - start : LANES;
        if (!input->difference) load(base_dtype, base, start, count, origin);
        task_vector(input, origin, start, count, d);
        if (!all_finite(d, count)) return 0;
        uint64_t words[LANES];
        memcpy(words, d, (size_t)count * 8);
        if (prefix_shift > 63) {
            for (int64_t i = 0; i < count; i++) bins[i] = (uint16_t)((words[i] & 0x7fffffffffffffffu) >> shift);
            for (int64_t i = 0; i < count; i++) tables[(i & (TABLES - 1)) * BINS + bins[i]]++;
        } else {
            for (int64_t i = 0; i < count; i++) {
                uint64_t word = words[i] & 0x7fffffffffffffffu;
                if (word >> prefix_shift == prefix) {
                    tables[(word >> shift) & (BINS - 1)]++;
                    below |= word;
                }
            }
        }
    }
    return 1 + (prefix_shift > 63 || (below & (((uint64_t)1 << shift) - 1)) != 0);
}

/* Count in one pass what lies in `width` bins (of 16 bits) from `first` on, by 16 bits more, and how many lie above them: at most
   TABLES bins, one table each. Those of them that have bits below these are copied too, after the `*found` that `rest` holds, as far
   as there is room; `*found` counts all. Returns 0 if an entry is not finite, else 1. */
int span(int64_t n, int64_t base_dtype, const void *base, const Input *input, uint64_t first, uint64_t width,
         uint32_t *restrict tables, int64_t *restrict above, double *restrict rest, int64_t room, int64_t *restrict found) {
    double origin[LANES], d[LANES];
    int64_t done = 0;
    if (base_dtype == BFLOAT16 && input->dtype == BFLOAT16 && !input->difference)
        done = span_bfloat16(n, base, input, first, width, tables, above, rest, room, found);
    else if (input->dtype == FLOAT32 && input->difference)
        done = span_float32(n, input->data, first, width, tables, above, rest, room, found);
    else if (input->dtype == FLOAT64 && input->difference)
        done = span_float64(n, input->data, first, width, tables, above, rest, room, found);
    if (done < 0) return 0;
    for (int64_t start = done; start < n; start += LANES) {
        int64_t count = n - start < LANES ? n - start : LANES;
        if (!input->difference) load(base_dtype, base, start, count, origin);
        task_vector(input, origin, start, count, d);
        if (!all_finite(d, count)) return 0;
        uint64_t words[LANES], end = (first + width) << 47;
        int64_t over = 0;
        memcpy(words, d, (size_t)count * 8);
        for (int64_t i = 0; i < count; i++) {
            words[i] &= 0x7fffffffffffffffu;
            over += words[i] >= end;
        }
        *above += over;
        for (int64_t i = 0; i < count; i++) {
            uint64_t word = words[i];
            if (word - (first << 47) < width << 47) {
                tables[(word >> 31) - (first << 16)]++;
                if (word & 0x7fffffffu) {
                    if (*found < room) memcpy(&rest[*found], &word, 8);
                    ++*found;
                }
            }
        }
    }
    return 1;
}

/* Copy the magnitudes whose bits above `prefix_shift` are `prefix`. Returns how many, or -1 if an entry is not finite. */
int64_t gather(int64_t n, int64_t base_dtype, const void *base, const Input *input, uint64_t prefix, int64_t prefix_shift,
               double *restrict out) {
    double origin[LANES], d[LANES];
    int64_t found = 0;
    for (int64_t start = 0; start < n; start += LANES) {
        int64_t count = n - start < LANES ? n - start : LANES;
        if (!input->difference) load(base_dtype, base, start, count, origin);
        task_vector(input, origin, start, count, d);
        if (!all_finite(d, count)) return -1;
        uint64_t words[LANES], chosen[LANES];
        int64_t hits = 0;
        memcpy(words, d, (size_t)count * 8);
        for (int64_t i = 0; i < count; i++) { /* written always, kept on a hit: no branch */
            uint64_t word = words[i] & 0x7fffffffffffffffu;
            chosen[hits] = word;
            hits += prefix_shift > 63 || word >> prefix_shift == prefix;
        }
        memcpy(out + found, chosen, (size_t)hits * 8);
        found += hits;
    }
    return found;
}

/* Zero the entries that do not count. */
static void trim(const Input *input, const Rule *rule, int64_t offset, int64_t count, double *restrict d) {
    double keep = rule->keep, low = input->low, high = input->high;
    for (int64_t i = 0; i < count; i++) {
        double magnitude = fabs(d[i]);
        d[i] = (magnitude >= low) & (magnitude <= high) ? d[i] : 0.0;
    }
    if (keep < 1.0) {
        for (int64_t i = 0; i < count; i++) { /* splitmix64 of key and index */
            uint64_t word = input->key + (uint64_t)(offset + i + 1) * 0x9e3779b97f4a7c15u;
            word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
            word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
            word ^= word >> 31;
            double uniform = (double)(int64_t)(word >> 11) * 0x1p-53;
            d[i] = uniform < keep ? d[i] / keep : 0.0;
        }
    }
}

static double dot(const double *restrict a, const double *restrict b, int64_t count) {
    double sums[32] = {0}, total = 0; /* several sums side by side, for none to wait for the last */
    int64_t whole = count & ~(int64_t)31;
    for (int64_t i = 0; i < whole; i += 32)
        for (int64_t lane = 0; lane < 32; lane++) sums[lane] += a[i + lane] * b[i + lane];
    for (int lane = 0; lane < 32; lane++) total += sums[lane];
    for (int64_t i = whole; i < count; i++) total += a[i] * b[i];
    return total;
}

typedef struct {
    double mean[LANES], plus[LANES], minus[LANES], plus_weight[LANES], minus_weight[LANES];
    uint8_t touched[LANES]; /* 1: some checkpoint changed the entry */
    int64_t changed, kept;
} Sums;

static const double NOTHING[LANES];

/* Subtract, trim and add a group of checkpoints in one loop over their values, so that the sums are read and written once. The
   size of the group is known when this is compiled; checkpoints are added in their order. */
ALWAYS_INLINE void add_group(const int size, double (*restrict values)[LANES], const double *restrict base, const Input *inputs,
                             int64_t count, Sums *restrict sums) {
    double *restrict mean = sums->mean, *restrict plus = sums->plus, *restrict minus = sums->minus;
    double *restrict plus_weight = sums->plus_weight, *restrict minus_weight = sums->minus_weight;
    int64_t changed = 0, kept = 0;
    for (int64_t i = 0; i < count; i++) {
        int any = 0;
        double m = mean[i], p = plus[i], n = minus[i], pw = plus_weight[i], nw = minus_weight[i];
        for (int c = 0; c < size; c++) {
            const double weight = inputs[c].weight, low = inputs[c].low, high = inputs[c].high;
            double d = values[c][i] - base[i], weighted = weight * d, magnitude = fabs(d);
            int up = (magnitude >= low) & (magnitude <= high) & (d > 0.0), down = (magnitude >= low) & (magnitude <= high) & (d < 0.0);
            changed += d != 0.0;
            any |= d != 0.0;
            kept += up | down;
            m += weighted;
            p += up ? weighted : 0.0;
            n += down ? weighted : 0.0;
            pw += up ? weight : 0.0;
            nw += down ? weight : 0.0;
        }
        mean[i] = m, plus[i] = p, minus[i] = n, plus_weight[i] = pw, minus_weight[i] = nw;
        sums->touched[i] |= (uint8_t)any;
    }
    sums->changed += changed;
    sums->kept += kept;
}

/* Tell whether the next GROUP checkpoints are all differences, or all not. */
static int alike(const Input *inputs, int64_t left) {
    if (left < GROUP) return 0;
    for (int c = 1; c < GROUP; c++)
        if (inputs[c].difference != inputs[0].difference) return 0;
    return 1;
}

static void add_one(double (*restrict values)[LANES], const double *restrict base, const Input *inputs, int64_t count,
                    Sums *restrict sums) {
    add_group(1, values, base, inputs, count, sums);
}

static void add_four(double (*restrict values)[LANES], const double *restrict base, const Input *inputs, int64_t count,
                     Sums *restrict sums) {
    add_group(GROUP, values, base, inputs, count, sums);
}

/* The same where only the weighted sum is wanted. */
static void add_to_mean(const double *restrict values, const double *restrict base, double weight, int64_t count,
                        Sums *restrict sums) {
    double *restrict mean = sums->mean;
    int64_t changed = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = values[i] - base[i];
        changed += d != 0.0;
        sums->touched[i] |= d != 0.0;
        mean[i] += weight * d;
    }
    sums->changed += changed;
    sums->kept += changed;
}

/* The same with a random drop, or with votes that count. */
static void add_slowly(const Input *input, const Rule *rule, const double *restrict values, const double *restrict base, int64_t offset,
                       int64_t count, Sums *restrict sums, double *restrict ballot) {
    double d[LANES];
    int64_t kept = sums->kept;
    add_to_mean(values, base, input->weight, count, sums);
    sums->kept = kept;
    for (int64_t i = 0; i < count; i++) d[i] = values[i] - base[i];
    if (rule->trimmed) trim(input, rule, offset, count, d);
    Sums trimmed;
    memset(&trimmed, 0, sizeof trimmed);
    Input whole = *input;
    whole.low = 0.0;
    whole.high = INFINITY;
    add_one(&d, NOTHING, &whole, count, &trimmed);
    for (int64_t i = 0; i < count; i++) {
        sums->plus[i] += trimmed.plus[i];
        sums->minus[i] += trimmed.minus[i];
        sums->plus_weight[i] += trimmed.plus_weight[i];
        sums->minus_weight[i] += trimmed.minus_weight[i];
        ballot[i] += (d[i] > 0.0 ? 1.0 : 0.0) - (d[i] < 0.0 ? 1.0 : 0.0);
    }
    sums->kept += trimmed.kept;
}

/* Merge `n` entries, the first of which is entry `offset` of its tensor (a multiple of CHUNK).
   state: null, or n running sums of each kind (positive, negative, weight of the positive, of the negative), `stride` apart,
   multiplied by `decay` before the inputs are added, and written back.
   sums: SUMS per chunk: merged², sum², merged·sum (the sum of w d), base², entries with both signs, entries kept, entries changed,
   entries that any input changed.
   Returns 0 if an entry is not finite. */
int combine(int64_t n, int64_t offset, int64_t base_dtype, const void *base, int64_t k, const Input *inputs, const Rule *rule,
            double *restrict state, int64_t stride, double decay, void *out, double *restrict sums) {
    double origin[LANES], values[GROUP][LANES], ballot[LANES], merged[LANES], result[LANES];
    Sums sums_of;
    double *restrict mean = sums_of.mean, *restrict plus = sums_of.plus, *restrict minus = sums_of.minus;
    double *restrict plus_weight = sums_of.plus_weight, *restrict minus_weight = sums_of.minus_weight;
    const int votes_or_trims = rule->vote != NO_VOTE || rule->trimmed, slowly = rule->keep < 1.0 || rule->vote == VOTE_COUNT;
    const double weight = all_weights(k, inputs);
    int64_t done = base_dtype == BFLOAT16 && !state ? combine_bfloat16(n, base, k, inputs, rule, out, sums) : 0;
    for (int64_t start = done; start < n; start += LANES) {
        int64_t count = n - start < LANES ? n - start : LANES;
        double *row = sums + start / CHUNK * SUMS;
        load(base_dtype, base, start, count, origin);
        if (!all_finite(origin, count)) return 0;
        memset(&sums_of, 0, sizeof sums_of);
        if (state) {
            for (int64_t i = 0; i < count; i++) {
                plus[i] = decay * state[start + i];
                minus[i] = decay * state[stride + start + i];
                plus_weight[i] = decay * state[2 * stride + start + i];
                minus_weight[i] = decay * state[3 * stride + start + i];
            }
        }
        if (slowly) memset(ballot, 0, sizeof ballot);
        for (int64_t c = 0; c < k;) {
            int64_t size = !slowly && votes_or_trims && alike(inputs + c, k - c) ? GROUP : 1;
            const double *from = inputs[c].difference ? NOTHING : origin;
            for (int64_t member = 0; member < size; member++)
                load(inputs[c + member].dtype, inputs[c + member].data, start, count, values[member]);
            if (slowly)
                add_slowly(&inputs[c], rule, values[0], from, offset + start, count, &sums_of, ballot);
            else if (!votes_or_trims)
                add_to_mean(values[0], from, inputs[c].weight, count, &sums_of);
            else if (size == GROUP)
                add_four(values, from, &inputs[c], count, &sums_of);
            else
                add_one(values, from, &inputs[c], count, &sums_of);
            c += size;
        }
        if (!all_finite(mean, count)) return 0; /* A d that is not finite leaves no finite sum. */
        if (state) {
            memcpy(state + start, plus, (size_t)count * 8);
            memcpy(state + stride + start, minus, (size_t)count * 8);
            memcpy(state + 2 * stride + start, plus_weight, (size_t)count * 8);
            memcpy(state + 3 * stride + start, minus_weight, (size_t)count * 8);
        }
        int64_t conflicts = 0, touched = 0;
        for (int64_t i = 0; i < count; i++) touched += sums_of.touched[i];
        if (rule->vote == NO_VOTE) {
            for (int64_t i = 0; i < count; i++) merged[i] = (rule->trimmed ? plus[i] + minus[i] : mean[i]) / rule->divisor;
        } else {
            for (int64_t i = 0; i < count; i++) {
                double votes = rule->vote == VOTE_COUNT ? ballot[i] : plus[i] + minus[i];
                double total = votes >= 0.0 ? plus[i] : minus[i];
                double agreeing = votes >= 0.0 ? plus_weight[i] : minus_weight[i];
                double divisor = rule->average ? (agreeing > 0.0 ? agreeing : 1.0) : rule->divisor;
                merged[i] = total / divisor;
                conflicts += (plus_weight[i] > 0.0) & (minus_weight[i] > 0.0);
            }
        }
        for (int64_t i = 0; i < count; i++) {
            merged[i] *= rule->scale;
            result[i] = rule->base_factor * origin[i] + merged[i];
        }
        store(base_dtype, out, start, count, result);
        if (rule->base_factor != 1.0) { /* of whole weights, what they change is told */
            for (int64_t i = 0; i < count; i++) {
                double back = (rule->base_factor - 1.0) * origin[i];
                merged[i] += back;
                mean[i] += weight * back;
            }
        }
        row[0] += dot(merged, merged, count);
        row[1] += dot(mean, mean, count);
        row[2] += dot(merged, mean, count);
        row[3] += dot(origin, origin, count);
        row[4] += (double)conflicts;
        row[5] += (double)sums_of.kept;
        row[6] += (double)sums_of.changed;
        row[7] += (double)touched;
    }
    return 1;
}
