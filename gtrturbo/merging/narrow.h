/* What the loops for a base in bfloat16 share, of whatever width: see bfloat16.c for why float32 is exact, and when. */

#ifndef GTRTURBO_NARROW_H
#define GTRTURBO_NARROW_H

#include "kernel.h"

enum { PAIR = 16, MAGNITUDE = 0x7fff, LARGE = (113 + 127) << 7, MOST = 256 };

/* 128 (15 − log2 k), rounded down: how far the magnitudes of an entry, read as integers, may lie apart. */
static inline int16_t limit_of(int64_t k) {
    int16_t exponents = 15;
    while ((int64_t)1 << (15 - exponents) < k) exponents--;
    return (int16_t)(exponents << 7);
}

/* The smallest float32 that is not below a magnitude. */
static inline float raised(double value) {
    float single = (float)value;
    return (double)single < value ? nextafterf(single, INFINITY) : single;
}

/* None that is 0 counts as a vote. */
static inline double least_kept(const Input *input) { return input->low > 0.0 ? input->low : 0x1p-1074; }

/* Whether these loops can merge such inputs. */
static inline int fits(int64_t k, const Input *inputs, const Rule *rule) {
    if (k < 1 || rule->keep < 1.0 || rule->vote == VOTE_COUNT || (rule->vote == NO_VOTE && rule->trimmed)) return 0;
    const int64_t difference = inputs[0].difference, dtype = inputs[0].dtype;
    if (difference ? dtype != FLOAT32 && dtype != FLOAT64 : dtype != BFLOAT16) return 0;
    for (int64_t c = 0; c < k; c++)
        if (inputs[c].dtype != dtype || inputs[c].difference != difference || inputs[c].high < INFINITY) return 0;
    return 1;
}

/* Whether the sums are float32 where they can be, and then what is the least magnitude of each input that is kept. */
static inline int plain(int64_t k, const Input *inputs, float lows[MOST]) {
    if (k > MOST || inputs[0].difference) return 0;
    for (int64_t c = 0; c < k; c++) {
        if (inputs[c].weight != 1.0) return 0;
        lows[c] = raised(least_kept(&inputs[c]));
    }
    return 1;
}

/* The bins that span counts in: magnitudes from `low` to below `high`, in all bits and as float32. */
typedef struct {
    uint64_t from, end;
    double low, high;
    float low_single, high_single;
    uint32_t *tables;
    double *rest;
    int64_t room, *found;
} Bins;

static inline Bins bins_of(uint64_t first, uint64_t width, uint32_t *tables, double *rest, int64_t room, int64_t *found) {
    Bins bins = {.from = first << 47, .end = (first + width) << 47, .tables = tables, .rest = rest, .room = room, .found = found};
    memcpy(&bins.low, &bins.from, 8);
    memcpy(&bins.high, &bins.end, 8);
    bins.low_single = raised(bins.low);
    bins.high_single = raised(bins.high);
    return bins;
}

/* Count a magnitude that may lie in the bins. */
ALWAYS_INLINE void look(double magnitude, const Bins *bins) {
    uint64_t word;
    memcpy(&word, &magnitude, 8);
    if (word - bins->from >= bins->end - bins->from) return;
    bins->tables[(word - bins->from) >> 31]++;
    if (word & 0x7fffffffu) {
        if (*bins->found < bins->room) bins->rest[*bins->found] = magnitude;
        ++*bins->found;
    }
}

#endif
