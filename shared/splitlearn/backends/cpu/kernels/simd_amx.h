/* AMX beside AVX-512 BF16: a tile of 16 rows of 32 numbers is multiplied by 16 pairs of inputs of a panel at once.

   Sums of products have another order than in the other sets: over blocks of 32 inputs in order, in each over its first
   and its second numbers of pairs, and then over the two. Inputs that fill no block come last, pair by pair. */

#ifndef SPLITLEARN_SIMD_AMX_H
#define SPLITLEARN_SIMD_AMX_H

#include "simd_avx512.h"

#include <sys/syscall.h>
#include <unistd.h>

/* How many rows are multiplied at once, and from how many query rows on keys and values are packed. Rows of GROUP_BYTES
   stay in the second-level cache while all panels of a weight pass. */
enum { MAX_ROWS = 32, MAX_WIDE_ROWS = 32, FEW_QUERIES = 0, PACKED_FROM = 1, GROUP_BYTES = 1 << 20 };

/* One case for all heights: a tile has as many rows as it is configured for. */
#define LABEL(n) default
#define FOR_EACH_HEIGHT(CASE, height) CASE(height)

enum { TILE_ROWS = 16, TILE_BYTES = 64 /* of a row */ };

/* Tiles. Macros, as the intrinsics spell them into the names of registers. */
#define SUMS_00 0
#define SUMS_01 1
#define SUMS_10 2
#define SUMS_11 3
#define ROWS_0 4
#define ROWS_1 5
#define PANEL_0 6
#define PANEL_1 7

/* The system has to be asked once for a process, before the first thread uses tiles. */
static inline int may_use_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t n_rows[16];
} TileConfig;

/* The heights for which the thread's tiles are configured, as one number; 0: none. */
static __thread __attribute__((tls_model("initial-exec"))) int configured;

/* For `first` rows in ROWS_0 and `second` rows in ROWS_1. */
INLINE void configure_tiles(int first, int second) {
    const int heights[] = {first, first, second, second, first, second, TILE_ROWS, TILE_ROWS};
    const int wanted = first * (TILE_ROWS + 1) + second;
    if (wanted == configured) return;
    TileConfig config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++)
        if (heights[tile]) {
            config.n_rows[tile] = (uint8_t)heights[tile];
            config.row_bytes[tile] = TILE_BYTES;
        }
    _tile_loadconfig(&config);
    configured = wanted;
}

/* Every worker calls it in the end: tiles that are in use are saved whenever the thread loses its core. */
INLINE void release_tiles(void) {
    if (configured) _tile_release();
    configured = 0;
}

/* Of up to 32 rows and one or two panels, over whole tiles of pairs. */
INLINE void multiply_tiles(int has_two_rows, int has_two_panels, const bf16 *rows, int64_t row_stride,
                           const bf16 *panels, int64_t panel_size, int64_t n_pairs, const bf16 *ahead, f32x16 *sums) {
    const size_t stride = (size_t)row_stride * sizeof(bf16);
    _tile_zero(SUMS_00);
    if (has_two_panels) _tile_zero(SUMS_01);
    if (has_two_rows) _tile_zero(SUMS_10);
    if (has_two_rows && has_two_panels) _tile_zero(SUMS_11);
    for (int64_t pair = 0; pair + TILE_ROWS <= n_pairs; pair += TILE_ROWS) {
        const bf16 *some = panels + pair * 2 * PANEL;
        _tile_loadd(ROWS_0, rows + 2 * pair, stride);
        _tile_loadd(PANEL_0, some, TILE_BYTES);
        _tile_dpbf16ps(SUMS_00, ROWS_0, PANEL_0);
        if (has_two_panels) {
            _tile_loadd(PANEL_1, some + panel_size, TILE_BYTES);
            _tile_dpbf16ps(SUMS_01, ROWS_0, PANEL_1);
        }
        if (has_two_rows) {
            _tile_loadd(ROWS_1, rows + TILE_ROWS * row_stride + 2 * pair, stride);
            _tile_dpbf16ps(SUMS_10, ROWS_1, PANEL_0);
            if (has_two_panels) _tile_dpbf16ps(SUMS_11, ROWS_1, PANEL_1);
        }
        if (ahead)
            UNROLL (int line = 0; line < TILE_ROWS; line++) {
                const bf16 *later = ahead + (pair + line) * 2 * PANEL;
                __builtin_prefetch(later, 0, 2);
                if (has_two_panels) __builtin_prefetch(later + panel_size, 0, 2);
            }
    }
    const int n_panels = has_two_panels ? 2 : 1;
    const size_t sums_stride = (size_t)n_panels * sizeof(f32x16);
    _tile_stored(SUMS_00, sums, sums_stride);
    if (has_two_panels) _tile_stored(SUMS_01, sums + 1, sums_stride);
    if (has_two_rows) _tile_stored(SUMS_10, sums + TILE_ROWS * n_panels, sums_stride);
    if (has_two_rows && has_two_panels) _tile_stored(SUMS_11, sums + TILE_ROWS * n_panels + 1, sums_stride);
}

INLINE void multiply_panels(int n_rows, int n_panels, const operand *rows, int64_t row_stride, const bf16 *panels,
                            int64_t panel_size, int64_t n_pairs, const bf16 *ahead,
                            f32x16 sums[MAX_ROWS * MAX_PANELS]) {
    configure_tiles(n_rows < TILE_ROWS ? n_rows : TILE_ROWS, n_rows > TILE_ROWS ? n_rows - TILE_ROWS : 0);
    if (n_rows > TILE_ROWS && n_panels > 1)
        multiply_tiles(1, 1, rows, row_stride, panels, panel_size, n_pairs, ahead, sums);
    else if (n_rows > TILE_ROWS)
        multiply_tiles(1, 0, rows, row_stride, panels, panel_size, n_pairs, ahead, sums);
    else if (n_panels > 1)
        multiply_tiles(0, 1, rows, row_stride, panels, panel_size, n_pairs, ahead, sums);
    else
        multiply_tiles(0, 0, rows, row_stride, panels, panel_size, n_pairs, ahead, sums);
    for (int64_t pair = n_pairs / TILE_ROWS * TILE_ROWS; pair < n_pairs; pair++)
        for (int panel = 0; panel < n_panels; panel++) {
            const weights16 weights = load_panel(panels + panel * panel_size + pair * 2 * PANEL);
            for (int i = 0; i < n_rows; i++) {
                f32x16 *sum = sums + i * n_panels + panel;
                *sum = add_products(*sum, weights, broadcast(rows + i * row_stride + 2 * pair, 0));
            }
        }
}

/* What `add_fours` of linear_int8.c does, with rows' high bytes in ROWS_0 and their low bytes in ROWS_1. */
INLINE void add_fours(int n_rows, int n_panels, const level *levels, int64_t width, const int8_t *weight, int64_t from,
                      int64_t to, const int8_t *ahead, Totals *totals) {
    enum { FOUR_BYTES = 4, N_SUMS = 4 };
    const int64_t panel_size = width * PANEL, row_size = width * LEVEL_PARTS;
    _Alignas(TILE_BYTES) int32_t sums[N_SUMS][TILE_ROWS][PANEL];
    configure_tiles(n_rows, n_rows);
    _tile_zero(SUMS_00);
    _tile_zero(SUMS_10);
    if (n_panels > 1) {
        _tile_zero(SUMS_01);
        _tile_zero(SUMS_11);
    }
    int64_t four = from;
    for (; four + TILE_ROWS <= to; four += TILE_ROWS) {
        const level *some = levels + four * FOUR_BYTES;
        const int8_t *panel = weight + four * PANEL * FOUR_BYTES;
        _tile_loadd(ROWS_0, some, (size_t)row_size);
        _tile_loadd(ROWS_1, some + width, (size_t)row_size);
        _tile_loadd(PANEL_0, panel, TILE_BYTES);
        _tile_dpbusd(SUMS_00, ROWS_0, PANEL_0);
        _tile_dpbusd(SUMS_10, ROWS_1, PANEL_0);
        if (n_panels > 1) {
            _tile_loadd(PANEL_1, panel + panel_size, TILE_BYTES);
            _tile_dpbusd(SUMS_01, ROWS_0, PANEL_1);
            _tile_dpbusd(SUMS_11, ROWS_1, PANEL_1);
        }
        if (ahead)
            UNROLL (int line = 0; line < TILE_ROWS; line++) {
                const int8_t *later = ahead + (four + line) * PANEL * FOUR_BYTES;
                __builtin_prefetch(later, 0, 2);
                if (n_panels > 1) __builtin_prefetch(later + panel_size, 0, 2);
            }
    }
    _tile_stored(SUMS_00, sums[0], TILE_BYTES);
    _tile_stored(SUMS_10, sums[1], TILE_BYTES);
    if (n_panels > 1) {
        _tile_stored(SUMS_01, sums[2], TILE_BYTES);
        _tile_stored(SUMS_11, sums[3], TILE_BYTES);
    }
    for (int panel = 0; panel < n_panels; panel++)
        for (int i = 0; i < n_rows; i++) {
            level_sums both[LEVEL_PARTS];
            UNROLL (int part = 0; part < LEVEL_PARTS; part++) {
                both[part] = _mm512_load_si512(sums[panel * LEVEL_PARTS + part][i]);
                for (int64_t last = four; last < to; last++)
                    both[part] = add_level_products(
                        both[part], load_weight_fours(weight + panel * panel_size + last * PANEL * FOUR_BYTES, 0),
                        broadcast_levels(levels + i * row_size, width, last * FOUR_BYTES, part));
            }
            add_to_totals(totals + i * n_panels + panel, both);
        }
}

#endif
