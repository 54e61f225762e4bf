/* Keys and values in panels: both sides of attention are then products like those of a linear layer. */

#ifndef SPLITLEARN_PANELS_H
#define SPLITLEARN_PANELS_H

#include "kernels.h"

#if defined(__x86_64__)

static inline long padded(long n, long to) { return (n + to - 1) / to * to; }
static inline long least(long one, long other) { return one < other ? one : other; }
static inline long most(long one, long other) { return one > other ? one : other; }

/* 16 rows of 16 pairs become 16 pairs of 16 rows. */
INLINE void transpose(__m512i pairs[PANEL]) {
    __m512i twos[PANEL], fours[PANEL];
    UNROLL for (int i = 0; i < PANEL; i += 2) {
        twos[i] = _mm512_unpacklo_epi32(pairs[i], pairs[i + 1]);
        twos[i + 1] = _mm512_unpackhi_epi32(pairs[i], pairs[i + 1]);
    }
    UNROLL for (int i = 0; i < PANEL; i += 4) {
        fours[i] = _mm512_unpacklo_epi64(twos[i], twos[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(twos[i], twos[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(twos[i + 1], twos[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(twos[i + 1], twos[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
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

/* Of `keys`, which are n_keys, those at [from, to) as panels of 16: [keys / 16][width / 2][16][2], the first at `panels`.
   Both ends are multiples of 16; keys that are not there are zeros, and their memory is not read. */
INLINE void keys_to_panels(const bf16 *keys, long n_keys, long from, long to, long width, bf16 *panels) {
    for (long row = from; row < to; row += PANEL, panels += PANEL * width)
        for (long pair = 0; pair < width / 2; pair += PANEL) {
            const long left = width / 2 - pair;
            __m512i pairs[PANEL];
            UNROLL for (int i = 0; i < PANEL; i++) {
                const __mmask16 there = row + i < n_keys ? first_of_16(left) : 0;
                pairs[i] = _mm512_maskz_loadu_epi32(there, keys + (row + i) * width + 2 * pair);
            }
            transpose(pairs);
            for (int i = 0; i < PANEL && i < left; i++) _mm512_storeu_si512(panels + (pair + i) * 2 * PANEL, pairs[i]);
        }
}

/* The same of values, as panels of 16 columns with pairs of rows: [width / 16][tile / 2][16][2]. */
INLINE void values_to_panels(const bf16 *values, long n_keys, long from, long to, long width, long tile, bf16 *panels) {
    for (long column = 0; column < width; column += PANEL) {
        const __mmask16 there = first_of_16(width - column);
        for (long row = from; row < to; row += 2) {
            const bf16 *some = values + row * width + column;
            const __m256i even = _mm256_maskz_loadu_epi16(row < n_keys ? there : 0, some);
            const __m256i odd = _mm256_maskz_loadu_epi16(row + 1 < n_keys ? there : 0, some + width);
            const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16);
            _mm512_storeu_si512(panels + column * tile + row * PANEL, _mm512_or_si512(_mm512_cvtepu16_epi32(even), high));
        }
    }
}

/* 32 columns of a pair of rows, of which `there` names those that are there: two panels whose columns lie as
   `in_order` says. */
INLINE void pair_columns(const bf16 *row, const bf16 *next, __mmask32 there, __mmask32 there_next, __m512i panels[2]) {
    const __m512i even = _mm512_maskz_loadu_epi16(there, row), odd = _mm512_maskz_loadu_epi16(there_next, next);
    panels[0] = _mm512_unpacklo_epi16(even, odd);
    panels[1] = _mm512_unpackhi_epi16(even, odd);
}

INLINE void in_order(__m512 sums[2]) {
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    const __m512 low = sums[0], high = sums[1];
    sums[0] = _mm512_permutex2var_ps(low, first, high);
    sums[1] = _mm512_permutex2var_ps(low, second, high);
}

#endif
#endif
