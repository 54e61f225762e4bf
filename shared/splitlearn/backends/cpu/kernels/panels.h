/* Keys and values in panels, so that attention multiplies by them as a linear layer does by its weight. */

#ifndef SPLITLEARN_PANELS_H
#define SPLITLEARN_PANELS_H

#include "kernels.h"

#if defined(__x86_64__)

static inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
static inline int64_t min_of(int64_t one, int64_t other) { return one < other ? one : other; }
static inline int64_t max_of(int64_t one, int64_t other) { return one > other ? one : other; }

/* 16 rows of 16 pairs become 16 pairs of 16 rows. */
INLINE void transpose(__m512i pairs[PANEL]) {
    __m512i twos[PANEL], fours[PANEL];
    UNROLL (int i = 0; i < PANEL; i += 2) {
        twos[i] = _mm512_unpacklo_epi32(pairs[i], pairs[i + 1]);
        twos[i + 1] = _mm512_unpackhi_epi32(pairs[i], pairs[i + 1]);
    }
    UNROLL (int i = 0; i < PANEL; i += 4) {
        fours[i] = _mm512_unpacklo_epi64(twos[i], twos[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(twos[i], twos[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(twos[i + 1], twos[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(twos[i + 1], twos[i + 3]);
    }
    UNROLL (int i = 0; i < 4; i++) {
        const __m512i even = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0x88);
        const __m512i even_2 = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0x88);
        const __m512i odd = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0xdd);
        const __m512i odd_2 = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0xdd);
        pairs[i] = _mm512_shuffle_i32x4(even, even_2, 0x88);
        pairs[i + 4] = _mm512_shuffle_i32x4(odd, odd_2, 0x88);
        pairs[i + 8] = _mm512_shuffle_i32x4(even, even_2, 0xdd);
        pairs[i + 12] = _mm512_shuffle_i32x4(odd, odd_2, 0xdd);
    }
}

/* Packs the keys [from, to) of n_keys as panels of 16: [keys / 16][width / 2][16][2], the first at `panels`. Both ends
   are multiples of 16; missing keys become zeros, and their memory is not read. */
INLINE void keys_to_panels(const bf16 *keys, int64_t n_keys, int64_t from, int64_t to, int64_t width, bf16 *panels) {
    for (int64_t row = from; row < to; row += PANEL, panels += PANEL * width)
        for (int64_t pair = 0; pair < width / 2; pair += PANEL) {
            const int64_t left = width / 2 - pair;
            __m512i pairs[PANEL];
            UNROLL (int i = 0; i < PANEL; i++) {
                const __mmask16 mask = row + i < n_keys ? mask_16(left) : 0;
                pairs[i] = _mm512_maskz_loadu_epi32(mask, keys + (row + i) * width + 2 * pair);
            }
            transpose(pairs);
            for (int i = 0; i < PANEL && i < left; i++) _mm512_storeu_si512(panels + (pair + i) * 2 * PANEL, pairs[i]);
        }
}

/* Packs values as panels of 16 columns and pairs of rows: [width / 16][tile / 2][16][2]. */
INLINE void values_to_panels(const bf16 *values, int64_t n_keys, int64_t from, int64_t to, int64_t width, int64_t tile,
                             bf16 *panels) {
    for (int64_t column = 0; column < width; column += PANEL) {
        const __mmask16 mask = mask_16(width - column);
        for (int64_t row = from; row < to; row += 2) {
            const bf16 *some = values + row * width + column;
            const __m256i even = _mm256_maskz_loadu_epi16(row < n_keys ? mask : 0, some);
            const __m256i odd = _mm256_maskz_loadu_epi16(row + 1 < n_keys ? mask : 0, some + width);
            const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16);
            _mm512_storeu_si512(panels + column * tile + row * PANEL,
                                _mm512_or_si512(_mm512_cvtepu16_epi32(even), high));
        }
    }
}

/* Two panels of 32 columns of a pair of rows; the masks select the columns that exist. The panels' columns are in an
   order that `restore_order` undoes. */
INLINE void pair_columns(const bf16 *row, const bf16 *next, __mmask32 mask, __mmask32 mask_next, __m512i panels[2]) {
    const __m512i even = _mm512_maskz_loadu_epi16(mask, row), odd = _mm512_maskz_loadu_epi16(mask_next, next);
    panels[0] = _mm512_unpacklo_epi16(even, odd);
    panels[1] = _mm512_unpackhi_epi16(even, odd);
}

INLINE void restore_order(__m512 sums[2]) {
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    const __m512 low = sums[0], high = sums[1];
    sums[0] = _mm512_permutex2var_ps(low, first, high);
    sums[1] = _mm512_permutex2var_ps(low, second, high);
}

#endif
#endif
