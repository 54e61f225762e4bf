/* What the kernels have in common: x86 processors with AVX-512 and VNNI, and torch's OpenMP threads. */

#ifndef SPLITLEARN_KERNELS_H
#define SPLITLEARN_KERNELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* WITHOUT_BF16: for processors that have AVX-512 and VNNI only. They multiply bf16 pairs in two steps and round to bf16
   by hand; the order of sums is the same. */
#ifdef WITHOUT_BF16
#define INSTRUCTIONS "avx512f,avx512bw,avx512vl"
#else
#define INSTRUCTIONS "avx512f,avx512bw,avx512vl,avx512bf16"
#endif
#define TARGET __attribute__((target(INSTRUCTIONS)))
#define INLINE static inline __attribute__((always_inline)) TARGET
#define HIDDEN __attribute__((visibility("hidden")))
#define UNROLL(...) _Pragma("GCC unroll 16") for (__VA_ARGS__)

enum { CACHE_LINE = 64 }; /* bytes */

/* Entry points of the OpenMP runtime that torch has loaded already: a second one would fight it for the cores. */
extern void GOMP_parallel(void (*task)(void *), void *data, unsigned n_threads, unsigned flags);
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);

/* sums = rows + norm(added), then normed = norm(sums). `added` is overwritten where it has a norm; rows and sums may be
   the same memory. */
typedef struct {
    const bf16 *rows;
    bf16 *added, *sums, *normed;
    const RowNorm *added_norm, *sums_norm;
    int64_t n_rows, width;
    uint32_t n_threads;
} ResidualNormCall;

HIDDEN void residual_norm(const ResidualNormCall *call);
HIDDEN int32_t linear_bf16(const LinearCall *call);
HIDDEN int32_t linear_int8(const LinearCall *call);

/* The work from which on a team of threads pays: they may have gone to sleep. A team is one thread or all of them,
   because libgomp ends the threads that the next team lacks and starts others for the team after it. */
enum { NUMBERS_FOR_A_TEAM = 1 << 15, PRODUCTS_FOR_A_TEAM = 1 << 19 };

static inline unsigned team_for_numbers(int64_t n_numbers, unsigned n_threads) {
    return n_numbers < NUMBERS_FOR_A_TEAM ? 1 : n_threads;
}

static inline unsigned team_for_products(int64_t n_products, unsigned n_threads) {
    return n_products < PRODUCTS_FOR_A_TEAM ? 1 : n_threads;
}

/* The numbers that the mask selects, as fp32; zeros for the others. */
INLINE __m512 load_bf16(__mmask16 mask, const bf16 *numbers) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, numbers));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* Rounded to nearest, ties to even. */
INLINE __m256i to_bf16(__m512 numbers) {
#ifdef WITHOUT_BF16
    const __m512i bits = _mm512_castps_si512(numbers);
    const __m512i is_odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), is_odd);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_srli_epi32(_mm512_mask_or_epi32(up, is_nan, bits, _mm512_set1_epi32(1 << 22)), 16));
#else
    return (__m256i)_mm512_cvtneps_pbh(numbers);
#endif
}

INLINE void store_bf16(bf16 *to, __mmask16 mask, __m512 numbers) {
    _mm256_mask_storeu_epi16(to, mask, to_bf16(numbers));
}

/* Rounded as torch rounds a tensor between two operations. */
INLINE __m512 round_bf16(__m512 numbers) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bf16(numbers)), 16));
}

/* 16 sums, each plus the two products of a pair of bf16 numbers with another pair. */
INLINE __m512 add_pair_products(__m512 sums, __m512i left, __m512i right) {
#ifdef WITHOUT_BF16
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    const __m512 left_low = _mm512_castsi512_ps(_mm512_slli_epi32(left, 16)),
                 right_low = _mm512_castsi512_ps(_mm512_slli_epi32(right, 16));
    sums = _mm512_fmadd_ps(left_low, right_low, sums);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(left, high)),
                           _mm512_castsi512_ps(_mm512_and_si512(right, high)), sums);
#else
    return _mm512_dpbf16_ps(sums, (__m512bh)left, (__m512bh)right);
#endif
}

/* The first n of 16, or all of them. */
INLINE __mmask16 mask_16(int64_t n) { return (__mmask16)(n >= 16 ? 0xffff : (1 << n) - 1); }

INLINE __mmask32 mask_32(int64_t n) { return n >= 32 ? 0xffffffffu : (1u << n) - 1; }

/* e^x for x <= 0: a power of two times the series of e^r for |r| <= ln(2) / 2. The relative error is 2e-7 at most; what
   is too small for fp32 is zero. */
INLINE __m512 exp_ps(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-127.f));
    __m512 power = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(power, _mm512_set1_ps(0.693145752f), x);
    r = _mm512_fnmadd_ps(power, _mm512_set1_ps(1.42860677e-6f), r);
    static const float series[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1.f, 1.f};
    __m512 sum = _mm512_set1_ps(series[0]);
    UNROLL (int i = 1; i < 7; i++) sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(series[i]));
    return _mm512_scalef_ps(sum, power);
}

/* A block of rows is multiplied by panels of 16 outputs, in which the two weights of each output for one pair of inputs
   are adjacent: [pairs][16][2]. All sums stay in registers; the counts are constants where this is inlined. */
enum { PANEL = 16, MAX_PANELS = 2, MAX_ROWS = 14 };

/* Rows of the next block. Blocks have nearly the same height: 16 rows are 8 and 8, not 14 and 2. */
static inline int block_height(int64_t n_rows, int64_t max_height) {
    const int64_t n_blocks = (n_rows + max_height - 1) / max_height;
    return (int)((n_rows + n_blocks - 1) / n_blocks);
}

INLINE __m512i broadcast_pair(const bf16 *inputs) {
    int32_t pair;
    memcpy(&pair, inputs, sizeof pair);
    return _mm512_set1_epi32(pair);
}

/* `ahead`: panels to prefetch into the second-level cache meanwhile; or NULL. */
INLINE void multiply_panels(int n_rows, int n_panels, const bf16 *rows, int64_t row_stride, const bf16 *panels,
                            int64_t panel_size, int64_t n_pairs, const bf16 *ahead,
                            __m512 sums[MAX_ROWS * MAX_PANELS]) {
    UNROLL (int i = 0; i < n_rows * n_panels; i++) sums[i] = _mm512_setzero_ps();
    for (int64_t pair = 0; pair < n_pairs; pair++) {
        __m512i weights[MAX_PANELS];
        UNROLL (int panel = 0; panel < n_panels; panel++)
            weights[panel] = _mm512_loadu_si512(panels + panel * panel_size + pair * 2 * PANEL);
        if (ahead)
            UNROLL (int panel = 0; panel < n_panels; panel++)
                _mm_prefetch((const char *)(ahead + panel * panel_size + pair * 2 * PANEL), _MM_HINT_T1);
        UNROLL (int i = 0; i < n_rows; i++) {
            const __m512i inputs = broadcast_pair(rows + i * row_stride + 2 * pair);
            UNROLL (int panel = 0; panel < n_panels; panel++)
                sums[i * n_panels + panel] = add_pair_products(sums[i * n_panels + panel], weights[panel], inputs);
        }
    }
}

/* How threads share work: each takes the next items until there are none. */
static inline int64_t fetch_add(int64_t *next, int64_t n) { return __atomic_fetch_add(next, n, __ATOMIC_RELAXED); }

/* One case of a switch for each height that a block may have. */
#define FOR_EACH_HEIGHT(CASE)                                                                                          \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14)

#endif
#endif
