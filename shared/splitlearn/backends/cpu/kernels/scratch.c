/* Memory that lives for one call. It is kept for later calls: fresh memory takes a page fault for every 4 KB, and those
   of a prompt's activations take longer than some of its products. */

#include "kernels.h"

#ifdef SIMD_FITS

enum { N_KEPT = 16 };
#define MOST_BYTES_KEPT ((size_t)1 << 28)

/* What is in front of the memory; a cache line of its own. */
typedef struct {
    size_t n_bytes;
} Block;

static Block *kept[N_KEPT];
static size_t n_bytes_kept;
static int is_locked;

/* Nobody waits for the lock: who does not get it does without what is kept. */
static int lock(void) { return !__atomic_exchange_n(&is_locked, 1, __ATOMIC_ACQUIRE); }

static void unlock(void) { __atomic_store_n(&is_locked, 0, __ATOMIC_RELEASE); }

/* Takes out the smallest block with so many bytes; NULL: none is kept. */
static Block *find(size_t n_bytes) {
    Block **found = NULL;
    for (Block **each = kept; each < kept + N_KEPT; each++)
        if (*each && (*each)->n_bytes >= n_bytes && (!found || (*each)->n_bytes < (*found)->n_bytes)) found = each;
    if (!found) return NULL;
    Block *block = *found;
    *found = NULL;
    n_bytes_kept -= block->n_bytes;
    return block;
}

/* Returns what is not kept: the block, a smaller one in its place, or NULL. */
static Block *keep(Block *block) {
    Block **place = kept;
    for (Block **each = kept; each < kept + N_KEPT && *place; each++)
        if (!*each || (*each)->n_bytes < (*place)->n_bytes) place = each;
    Block *other = *place;
    const size_t freed = other ? other->n_bytes : 0;
    if (freed >= block->n_bytes || n_bytes_kept - freed + block->n_bytes > MOST_BYTES_KEPT) return block;
    *place = block;
    n_bytes_kept += block->n_bytes - freed;
    return other;
}

void *take_scratch(size_t n_bytes) {
    Block *block = NULL;
    n_bytes = (n_bytes + 2 * CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    if (lock()) {
        block = find(n_bytes);
        unlock();
    }
    if (!block) {
        block = aligned_alloc(CACHE_LINE, n_bytes);
        if (!block) return NULL;
        block->n_bytes = n_bytes;
    }
    return (char *)block + CACHE_LINE;
}

void give_back_scratch(void *memory) {
    if (!memory) return;
    Block *block = (Block *)((char *)memory - CACHE_LINE);
    if (lock()) {
        block = keep(block);
        unlock();
    }
    free(block);
}

#endif
