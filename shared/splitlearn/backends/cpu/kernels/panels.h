/* Keys and values in panels, so that attention multiplies by them as a linear layer does by its weight. */

#ifndef SPLITLEARN_PANELS_H
#define SPLITLEARN_PANELS_H

#include "kernels.h"

#ifdef SIMD_FITS

static inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
static inline int64_t min_of(int64_t one, int64_t other) { return one < other ? one : other; }
static inline int64_t max_of(int64_t one, int64_t other) { return one > other ? one : other; }

/* Packs the keys [from, to) of n_keys as panels of 16: [keys / 16][width / 2][16][2], the first at `panels`. Both ends
   are multiples of 16; missing keys become zeros, and their memory is not read. */
INLINE void keys_to_panels(const bf16 *keys, int64_t n_keys, int64_t from, int64_t to, int64_t width, bf16 *panels) {
    for (int64_t row = from; row < to; row += PANEL, panels += PANEL * width)
        for (int64_t pair = 0; pair < width / 2; pair += PANEL) {
            const int64_t left = width / 2 - pair;
            i32x16 pairs[PANEL];
            UNROLL (int i = 0; i < PANEL; i++)
                pairs[i] = load_pairs(keys + (row + i) * width + 2 * pair, row + i < n_keys ? left : 0);
            transpose(pairs);
            for (int i = 0; i < PANEL && i < left; i++) store_pairs(panels + (pair + i) * 2 * PANEL, pairs[i]);
        }
}

/* Packs values as panels of 16 columns and pairs of rows: [width / 16][tile / 2][16][2]. */
INLINE void values_to_panels(const bf16 *values, int64_t n_keys, int64_t from, int64_t to, int64_t width, int64_t tile,
                             bf16 *panels) {
    for (int64_t column = 0; column < width; column += PANEL) {
        const int64_t n = width - column;
        for (int64_t row = from; row < to; row += 2) {
            const bf16 *some = values + row * width + column;
            const i32x16 pairs = load_two_rows(some, row < n_keys ? n : 0, some + width, row + 1 < n_keys ? n : 0);
            store_pairs(panels + column * tile + row * PANEL, pairs);
        }
    }
}

#endif
#endif
