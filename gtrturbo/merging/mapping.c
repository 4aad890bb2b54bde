/* Files that the loops read where the page cache holds them: a copy through a buffer takes longer than the loops themselves.

   A page that cannot be read, as of a file that has become shorter, is told by a signal, which would end the process. The handler
   here puts a page of zeros in its place and marks the mapping: whoever reads from it asks afterwards, and refuses what came of it. */

#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel.h"

typedef struct Mapping {
    _Atomic(char *) start; /* NULL: free to be used again */
    size_t size;
    atomic_int torn;
    struct Mapping *next;
} Mapping;

static _Atomic(Mapping *) mappings; /* Only ever grows, so that the handler may walk along it at any time. */
static struct sigaction others;

static void patch(int number, siginfo_t *info, void *context) {
    const uintptr_t address = (uintptr_t)info->si_addr, page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (Mapping *each = atomic_load(&mappings); each; each = each->next) {
        const uintptr_t start = (uintptr_t)atomic_load(&each->start);
        if (!start || address < start || address >= start + (each->size + page - 1) / page * page) continue;
        atomic_store(&each->torn, 1);
        void *place = (void *)(address / page * page);
        if (mmap(place, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == place) return;
    }
    sigaction(SIGBUS, &others, NULL); /* Not ours: the read that failed comes again, and meets whoever was here before. */
}

static void listen(void) {
    struct sigaction ours = {.sa_sigaction = patch, .sa_flags = SA_SIGINFO | SA_NODEFER}, now;
    sigaction(SIGBUS, NULL, &now);
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == patch) return;
    others = now;
    sigaction(SIGBUS, &ours, NULL);
}

/* Map a file; NULL where it cannot be. One thread at a time may map and unmap. */
Mapping *gtrturbo_map(int descriptor, int64_t size) {
    char *start = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, descriptor, 0);
    if (start == MAP_FAILED) return NULL;
    Mapping *place = atomic_load(&mappings);
    while (place && atomic_load(&place->start)) place = place->next;
    if (!place && (place = calloc(1, sizeof *place))) {
        place->next = atomic_load(&mappings);
        atomic_store(&mappings, place);
    }
    if (!place) {
        munmap(start, (size_t)size);
        return NULL;
    }
    place->size = (size_t)size;
    atomic_store(&place->torn, 0);
    atomic_store(&place->start, start);
    listen();
    return place;
}

void *gtrturbo_start(Mapping *mapping) { return atomic_load(&mapping->start); }

int gtrturbo_torn(Mapping *mapping) { return atomic_load(&mapping->torn); }

void gtrturbo_unmap(Mapping *mapping) {
    char *start = atomic_load(&mapping->start);
    atomic_store(&mapping->start, NULL);
    munmap(start, mapping->size);
}

static uintptr_t page_of(uintptr_t address) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    return address / page * page;
}

static void advise(const Input *input, int64_t bytes, int advice) {
    const uintptr_t start = page_of((uintptr_t)input->data);
    madvise((void *)start, (uintptr_t)input->data + (uintptr_t)bytes - start, advice);
}

/* Whether a few pages of a tile, spread over it, are all in the page cache: to ask for the rest takes longer than to look. */
static int is_cached(const Input *input, int64_t bytes) {
    enum { PROBES = 4 };
    for (int64_t probe = 0; probe <= PROBES; probe++) {
        unsigned char there = 0;
        const uintptr_t place = page_of((uintptr_t)input->data + (uintptr_t)((bytes - 1) * probe / PROBES));
        if (mincore((void *)place, 1, &there) || !(there & 1)) return 0;
    }
    return 1;
}

/* Ask the disk for a tile that will be read, and let go of one that was, or memory would hold all that was ever read. */
void expect(const Input *input, int64_t bytes) {
    if (input->mapped && bytes > 0 && !is_cached(input, bytes)) advise(input, bytes, MADV_WILLNEED);
}

void forget(const Input *input, int64_t bytes) {
    if (input->mapped == 1) advise(input, bytes, MADV_DONTNEED);
}
