/* What Python calls: the loops of kernel.c over tiles that lie in memory, in mapped files, or in files that cannot be mapped. From
   the last they are read in pieces so small that the loops find them in the nearest caches. */

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernel.h"

/* Entries of a piece; rows of sums are of whole chunks. So many inputs of twice a chunk in bfloat16 fit half a megabyte. */
enum { PIECE = 2 * CHUNK, FEW_INPUTS = 6 };
/* Bytes between the buffers of two inputs in `room`; not a multiple of a page, or all would compete for the same cache lines. */
enum { STRIDE = PIECE * 8 + 320 };
/* What is returned where an input cannot be read: this for the base, one less for the first input, and so on; errno is 0 where a file
   has become shorter. */
enum { UNREADABLE = -2 };

static const int64_t WIDTHS[] = {[FLOAT64] = 8, [FLOAT32] = 4, [BFLOAT16] = 2, [FLOAT16] = 2};

/* Point `part` to entries [start, start + count) of an input, in `room` where they come from a file. Returns 0 if they cannot be read. */
static int fetch(const Input *whole, int64_t start, int64_t count, char *room, Input *part) {
    const int64_t width = WIDTHS[whole->dtype];
    *part = *whole;
    if (whole->descriptor < 0) {
        part->data = (const char *)whole->data + start * width;
        if ((uintptr_t)part->data % (uintptr_t)width) part->data = memcpy(room, part->data, (size_t)(count * width));
        return 1;
    }
    part->data = room;
    off_t place = whole->place + start * width;
    for (size_t left = (size_t)(count * width); left;) {
        ssize_t got = pread((int)whole->descriptor, room, left, place);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = 0;
        if (got <= 0) return 0;
        room += got, place += got, left -= (size_t)got;
    }
    return 1;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Tell of tiles, each of `n` entries, that they will be read (`told` is expect), or have been (forget). */
static void tell(void (*told)(const Input *, int64_t), int64_t n, const Input *base, int64_t k, const Input *inputs) {
    told(base, n * WIDTHS[base->dtype]);
    for (int64_t c = 0; c < k; c++) told(&inputs[c], n * WIDTHS[inputs[c].dtype]);
}

/* Fetch a piece of one checkpoint, and of the base where the input is no difference already. Returns 0, or as `UNREADABLE` says. */
static int fetch_pair(const Input *base, const Input *input, int64_t start, int64_t count, char *room, Input parts[2]) {
    parts[0] = *base;
    if (!input->difference && !fetch(base, start, count, room, &parts[0])) return UNREADABLE;
    return fetch(input, start, count, room + STRIDE, &parts[1]) ? 0 : UNREADABLE - 1;
}

int64_t gtrturbo_room(int64_t k) { return (k + 1) * STRIDE; }

int gtrturbo_histogram(int64_t n, const Input *base, const Input *input, uint64_t prefix, int64_t prefix_shift, int64_t shift,
                       uint32_t *tables, char *room) {
    const int64_t step = input->step ? input->step : n, part = input->step ? input->part : n;
    int seen = 1;
    if (!input->step) tell(expect, n, base, 1, input);
    for (int64_t first = 0; first < n; first += step) {
        const int64_t last = least(first + part, n);
        for (int64_t start = first; start < last; start += PIECE) {
            Input parts[2];
            const int64_t count = least(PIECE, last - start);
            int found = fetch_pair(base, input, start, count, room, parts);
            if (!found) found = histogram(count, parts[0].dtype, parts[0].data, &parts[1], prefix, prefix_shift, shift, tables);
            if (found <= 0) return found;
            if (found > seen) seen = found;
        }
    }
    tell(forget, n, base, 1, input);
    return seen;
}

int gtrturbo_span(int64_t n, const Input *base, const Input *input, uint64_t first, uint64_t width, uint32_t *tables, int64_t *above,
                  double *rest, int64_t room_of_rest, int64_t *found, char *room) {
    tell(expect, n, base, 1, input);
    for (int64_t start = 0; start < n; start += PIECE) {
        Input parts[2];
        const int64_t count = least(PIECE, n - start);
        int failed = fetch_pair(base, input, start, count, room, parts);
        if (failed) return failed;
        if (!span(count, parts[0].dtype, parts[0].data, &parts[1], first, width, tables, above, rest, room_of_rest, found)) return 0;
    }
    tell(forget, n, base, 1, input);
    return 1;
}

int64_t gtrturbo_gather(int64_t n, const Input *base, const Input *input, uint64_t prefix, int64_t prefix_shift, double *out, char *room) {
    int64_t found = 0;
    tell(expect, n, base, 1, input);
    for (int64_t start = 0; start < n; start += PIECE) {
        Input parts[2];
        const int64_t count = least(PIECE, n - start);
        int failed = fetch_pair(base, input, start, count, room, parts);
        if (failed) return failed;
        int64_t more = gather(count, parts[0].dtype, parts[0].data, &parts[1], prefix, prefix_shift, out + found);
        if (more < 0) return more;
        found += more;
    }
    tell(forget, n, base, 1, input);
    return found;
}

int gtrturbo_combine(int64_t n, int64_t offset, const Input *base, int64_t k, const Input *inputs, const Rule *rule, double *state,
                     double decay, char *out, double *sums, char *room) {
    const int64_t piece = k > FEW_INPUTS ? CHUNK : PIECE;
    Input *parts = malloc((size_t)(k + 1) * sizeof *parts);
    int fine = parts != NULL;
    tell(expect, n, base, k, inputs);
    for (int64_t start = 0; start < n && fine > 0; start += piece) {
        const int64_t count = least(piece, n - start);
        if (!fetch(base, start, count, room, &parts[0])) fine = UNREADABLE;
        for (int64_t c = 0; c < k && fine > 0; c++)
            if (!fetch(&inputs[c], start, count, room + (c + 1) * STRIDE, &parts[c + 1])) fine = UNREADABLE - 1 - (int)c;
        if (fine > 0)
            fine = combine(count, offset + start, base->dtype, parts[0].data, k, parts + 1, rule, state ? state + start : NULL, n, decay,
                           out + start * WIDTHS[base->dtype], sums + start / CHUNK * SUMS);
    }
    tell(forget, n, base, k, inputs);
    free(parts);
    return fine;
}
