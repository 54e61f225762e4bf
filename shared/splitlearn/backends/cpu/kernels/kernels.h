/* What the kernels have in common: products of rows and panels, and torch's OpenMP threads. */

#ifndef SPLITLEARN_KERNELS_H
#define SPLITLEARN_KERNELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"

/* A universal binary of macOS is compiled for two processors: for the other one all files are empty, and the library
   says that it is not supported. */
#if defined(SIMD_NEON) || defined(SIMD_NEON_BF16)
#if defined(__aarch64__)
#define SIMD_FITS
#endif
#elif defined(__x86_64__)
#define SIMD_FITS
#endif

#ifdef SIMD_FITS
#include "simd.h"

#define HIDDEN __attribute__((visibility("hidden")))

enum { CACHE_LINE = 64 }; /* bytes */

#include "threads.h"

/* sums = rows + norm(added), then normed = norm(sums). `added` is overwritten where it has a norm; rows and sums may be
   the same memory. */
typedef struct {
    const bf16 *rows;
    bf16 *added, *sums, *normed;
    const RowNorm *added_norm, *sums_norm;
    int64_t n_rows, width;
    uint32_t n_threads;
} ResidualNormCall;

/* The rows [first, end) of a call, and which weight multiplies them: weights of one shape lie one after the other, and
   so do their scales, sums and biases. */
typedef struct {
    int64_t first, end, weight;
} Group;

/* Memory of whole cache lines for one call, which gives it back; NULL: there is none. From any thread. */
HIDDEN void *take_scratch(size_t n_bytes);
HIDDEN void give_back_scratch(void *memory);

HIDDEN void residual_norm(const ResidualNormCall *call);
/* Each group by its weight, of which the call has the first; rows of no group are not written. */
HIDDEN int32_t linear_groups(const LinearCall *call, const Group *groups, int64_t n_groups);
HIDDEN int32_t linear_int8(const LinearCall *call, const Group *groups, int64_t n_groups);
HIDDEN int32_t linear_int4(const LinearCall *call, const Group *groups, int64_t n_groups);

/* The work from which on a team of threads pays: they may have gone to sleep. A team is one thread or all of them,
   because libgomp ends the threads that the next team lacks and starts others for the team after it. */
enum { NUMBERS_FOR_A_TEAM = 1 << 15, PRODUCTS_FOR_A_TEAM = 1 << 19 };

static inline unsigned team_for_numbers(int64_t n_numbers, unsigned n_threads) {
    return n_numbers < NUMBERS_FOR_A_TEAM ? 1 : n_threads;
}

static inline unsigned team_for_products(int64_t n_products, unsigned n_threads) {
    return n_products < PRODUCTS_FOR_A_TEAM ? 1 : n_threads;
}

/* Into the first-level cache, and into the second. */
static inline void prefetch_soon(const void *address) { __builtin_prefetch(address, 0, 3); }
static inline void prefetch_later(const void *address) { __builtin_prefetch(address, 0, 2); }

/* Numbers that are quantized with a scale count as zeros if none is greater: the scale's inverse would overflow. */
#define MIN_ABSMAX 1e-30f

INLINE float absmax(const bf16 *numbers, int64_t n) {
    i32x16 max = i32_zero();
    /* without their signs, the bit patterns of floating-point numbers have the order of their values; NaN is above all
     */
    for (int64_t column = 0; column < n; column += 16)
        max = i32_max(max, i32_magnitude_bits(load_bf16(numbers + column, n - column)));
    const int32_t pattern = i32_reduce_max(max);
    float number;
    memcpy(&number, &pattern, sizeof number);
    return number;
}

/* e^x for x <= 0: a power of two times the series of e^r for |r| <= ln(2) / 2. The relative error is 2e-7 at most; what
   is too small for fp32 is zero. */
INLINE f32x16 f32_exp(f32x16 x) {
    x = f32_max(x, f32_set(-127.f));
    f32x16 power = f32_round(f32_mul(x, f32_set(1.44269504f)));
    f32x16 r = f32_fnma(power, f32_set(0.693145752f), x);
    r = f32_fnma(power, f32_set(1.42860677e-6f), r);
    static const float series[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1.f, 1.f};
    f32x16 sum = f32_set(series[0]);
    UNROLL (int i = 1; i < 7; i++) sum = f32_fma(sum, r, f32_set(series[i]));
    return f32_scale(sum, power);
}

INLINE void copy_operands(operand *to, const bf16 *from, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) store_operands(to + i, n - i, load_bf16(from + i, n - i));
}

/* Rows of the next block. Blocks have nearly the same height: 16 rows are 8 and 8, not 14 and 2. */
static inline int block_height(int64_t n_rows, int64_t max_height) {
    const int64_t n_blocks = (n_rows + max_height - 1) / max_height;
    return (int)((n_rows + n_blocks - 1) / n_blocks);
}

#ifndef SIMD_AMX
/* What `multiply_panels` does for a block whose sums all stay in registers; its panels are the first of `stride`. */
INLINE void multiply_tile(int n_rows, int n_panels, const operand *rows, int64_t row_stride, const bf16 *panels,
                          int64_t panel_size, int64_t n_pairs, const bf16 *ahead, int stride, f32x16 *sums) {
    f32x16 tile[MAX_ROWS * MAX_PANELS];
    UNROLL (int i = 0; i < n_rows * n_panels; i++) tile[i] = f32_zero();
    for (int64_t pair = 0; pair < n_pairs; pair++) {
        if (ahead)
            UNROLL (int panel = 0; panel < n_panels; panel++)
                prefetch_later(ahead + panel * panel_size + pair * 2 * PANEL);
        UNROLL (int step = 0; step < STEPS; step++) {
            weights16 weights[MAX_PANELS];
            UNROLL (int panel = 0; panel < n_panels; panel++)
                weights[panel] = weights_of_step(load_panel(panels + panel * panel_size + pair * 2 * PANEL), step);
            UNROLL (int i = 0; i < n_rows; i++) {
                const input one = broadcast(rows + i * row_stride + 2 * pair, step);
                UNROLL (int panel = 0; panel < n_panels; panel++)
                    tile[i * n_panels + panel] = add_products(tile[i * n_panels + panel], weights[panel], one);
            }
        }
    }
    UNROLL (int i = 0; i < n_rows; i++)
        UNROLL (int panel = 0; panel < n_panels; panel++) sums[i * stride + panel] = tile[i * n_panels + panel];
}

/* Multiplies a block of rows by panels of 16 outputs, in which the two weights of each output for one pair of inputs
   are adjacent: [pairs][16][2]. The counts are constants where this is inlined. `ahead`: panels to prefetch into the
   second-level cache meanwhile; or NULL. */
INLINE void multiply_panels(int n_rows, int n_panels, const operand *rows, int64_t row_stride, const bf16 *panels,
                            int64_t panel_size, int64_t n_pairs, const bf16 *ahead,
                            f32x16 sums[MAX_ROWS * MAX_PANELS]) {
    const int n_tile = n_rows <= MAX_WIDE_ROWS ? n_panels : 1;
    multiply_tile(n_rows, n_tile, rows, row_stride, panels, panel_size, n_pairs, ahead, n_panels, sums);
    if (n_tile < n_panels)
        multiply_tile(n_rows, n_panels - n_tile, rows, row_stride, panels + n_tile * panel_size, panel_size, n_pairs,
                      ahead ? ahead + n_tile * panel_size : NULL, n_panels, sums + n_tile);
}
#endif

/* How threads share work: each takes the next items until there are none. */
static inline int64_t fetch_add(int64_t *next, int64_t n) { return __atomic_fetch_add(next, n, __ATOMIC_RELAXED); }

#endif
#endif
