/* What the inner loops of merge share: how Python describes a merge to them, see operands.py. */

#ifndef GTRTURBO_KERNEL_H
#define GTRTURBO_KERNEL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { FLOAT64, FLOAT32, BFLOAT16, FLOAT16 };
enum { NO_VOTE, VOTE_TOTAL, VOTE_COUNT };
enum { LANES = 256, CHUNK = 16384, SUMS = 8, TABLES = 4, BINS = 1 << 16, GROUP = 4 };

typedef struct {
    const void *data;
    int64_t dtype;
    int64_t difference; /* 1: the values are d themselves */
    double weight;
    double low, high; /* entries with low <= |d| <= high count */
    uint64_t key;     /* of the random drop */
    int64_t descriptor, place; /* of the file that the values are to be read from, and at which byte; −1: they are in memory */
    int64_t mapped;            /* 1: that memory is a file's, see mapping.c; 2: and will be read again soon */
    int64_t part, step;        /* a sample: of each `step` entries the first `part`; step 0: all. histogram alone looks at it */
} Input;

typedef struct {
    int64_t vote;       /* NO_VOTE, VOTE_TOTAL, VOTE_COUNT */
    int64_t average;    /* 1: divide by the weights that agree; 0: by divisor */
    double divisor;
    double keep;        /* probability of the random drop, 1: none is dropped; kept entries are divided by it */
    double scale;
    double base_factor; /* 1, or 0 where inputs are whole weights */
    int64_t trimmed;    /* 0: low, high and keep drop nothing */
} Rule;

/* A product scale · L R of an adapter's factors, see products.c. `right` is packed by panels, each [rank, 64], zeros beyond the last
   column; norms are those of the rows of L, and of each panel the largest of its columns. */
typedef struct {
    const float *left, *right;
    const double *left_norms, *right_norms;
    int64_t rank;
    double scale;
    double unit, least; /* an entry in float32 is off by at most unit · norms + least */
    double weight, low; /* as in Input */
} Factors;

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define GTRTURBO_AVX512 1
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

static inline double all_weights(int64_t k, const Input *inputs) {
    double weight = 0.0;
    for (int64_t c = 0; c < k; c++) weight += inputs[c].weight;
    return weight;
}

/* kernel.c: one tile in memory. */
int histogram(int64_t n, int64_t base_dtype, const void *base, const Input *input, uint64_t prefix, int64_t prefix_shift, int64_t shift,
              uint32_t *tables);
int span(int64_t n, int64_t base_dtype, const void *base, const Input *input, uint64_t first, uint64_t width, uint32_t *tables,
         int64_t *above, double *rest, int64_t room, int64_t *found);
int64_t gather(int64_t n, int64_t base_dtype, const void *base, const Input *input, uint64_t prefix, int64_t prefix_shift, double *out);
int combine(int64_t n, int64_t offset, int64_t base_dtype, const void *base, int64_t k, const Input *inputs, const Rule *rule,
            double *state, int64_t stride, double decay, void *out, double *sums);

/* bfloat16.c, or avx512.c where there is AVX-512: how many entries from the first on were merged, or looked at, by its faster loops: the others are left to the caller. */
int64_t combine_bfloat16(int64_t n, const uint16_t *base, int64_t k, const Input *inputs, const Rule *rule, uint16_t *out, double *sums);
int64_t span_bfloat16(int64_t n, const uint16_t *base, const Input *input, uint64_t first, uint64_t width, uint32_t *tables,
                      int64_t *above, double *rest, int64_t room, int64_t *found);
int64_t span_float32(int64_t n, const float *data, uint64_t first, uint64_t width, uint32_t *tables, int64_t *above, double *rest,
                     int64_t room, int64_t *found);
int64_t span_float64(int64_t n, const double *data, uint64_t first, uint64_t width, uint32_t *tables, int64_t *above, double *rest,
                     int64_t room, int64_t *found);

/* mapping.c: tiles of mapped files, before and after they are read. */
void expect(const Input *input, int64_t bytes);
void forget(const Input *input, int64_t bytes);

#endif
