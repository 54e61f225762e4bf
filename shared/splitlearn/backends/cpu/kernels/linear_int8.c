/* Linear layers with int8 weights, summed as integers.

   The inputs of a row are quantized to 16 bits with a scale per row: eight bits more than bf16 has, so that the
   rounding error is negligible. The order of integer sums does not matter, so that a row's result does not depend on
   the other rows.

   The weight is packed in panels of 16 outputs. For each four inputs a panel holds the four weights of each output:
   [panels][fours of inputs][16][4]. One load then feeds two multiplications per row. */

#include "kernels.h"

#ifdef SIMD_FITS

enum { FOUR = 4, MAX_LEVEL = 32767, LEVEL_BYTES = 2, SUMS = LEVEL_PARTS * WEIGHT_PARTS };

typedef struct {
    const bf16 *rows;
    int64_t row_stride;
    const Linear *linear; /* the first weight */
    bf16 *outputs;
    int64_t n_rows, n_inputs, n_outputs;
    const Group *groups;
    int64_t n_groups;
    level *levels; /* of each row LEVEL_BYTES times its inputs, filled up to fours */
    float *row_scales;
    int64_t next_row, next_item; /* the first row, and the first pair of panels for a group, that no thread has taken */
} Product;

/* What some rows are multiplied by: panels whose first output is `output`, and what belongs to all outputs. */
typedef struct {
    const int8_t *panels;
    const bf16 *scales;  /* one per output */
    const int32_t *sums; /* of each output's weights, filled up to whole panels */
    const bf16 *bias;    /* or NULL */
    int64_t output;
} Weight;

static inline int64_t n_fours_of(const Product *product) { return (product->n_inputs + FOUR - 1) / FOUR; }

static inline int64_t width_of(const Product *product) { return n_fours_of(product) * FOUR; }
INLINE level *levels_of(const Product *product, int64_t row) {
    return product->levels + row * width_of(product) * LEVEL_BYTES / (int64_t)sizeof(level);
}

TARGET static void quantize_row(const Product *product, int64_t row) {
    const bf16 *inputs = product->rows + row * product->row_stride;
    const float max = absmax(inputs, product->n_inputs);
    /* an infinity or NaN becomes the row's scale, and so all of its outputs */
    product->row_scales[row] = max / (float)MAX_LEVEL;
    const f32x16 inverse = f32_set(max < MIN_ABSMAX ? 0.f : (float)MAX_LEVEL / max);
    for (int64_t column = 0; column < width_of(product); column += 16) {
        const f32x16 some = load_bf16(inputs + column, product->n_inputs - column);
        store_levels(levels_of(product, row), width_of(product), column, f32_mul(some, inverse));
    }
}

static void quantize_worker(void *data) {
    Product *product = data;
    for (int64_t row; (row = fetch_add(&product->next_row, 1)) < product->n_rows;) quantize_row(product, row);
}

INLINE void store(const Product *product, const Weight *weight, Totals totals, int64_t row, int64_t output) {
    const int64_t n = product->n_outputs - output;
    const f32x16 scale = f32_mul(load_bf16(weight->scales + output, n), f32_set(product->row_scales[row]));
    f32x16 sum = f32_mul(whole(totals, weight->sums + output), scale);
    if (weight->bias) sum = f32_add(sum, load_bf16(weight->bias + output, n));
    store_bf16(product->outputs + row * product->n_outputs + output, n, sum);
}

#ifndef SIMD_AMX
/* The sums over the fours [from, to) of a block that leaves all of them in registers. */
INLINE void add_fours(int n_rows, int n_panels, const level *levels, int64_t width, const int8_t *weight, int64_t from,
                      int64_t to, const int8_t *ahead, Totals *totals) {
    const int64_t panel_size = width * PANEL, row_size = width * LEVEL_BYTES / (int64_t)sizeof(level);
    level_sums sums[MAX_INT8_ROWS * MAX_PANELS][SUMS];
    UNROLL (int i = 0; i < n_rows * n_panels; i++)
        UNROLL (int part = 0; part < SUMS; part++) sums[i][part] = zero_level_sums();
    for (int64_t four = from; four < to; four++) {
        if (ahead)
            UNROLL (int panel = 0; panel < n_panels; panel++)
                prefetch_later(ahead + panel * panel_size + four * PANEL * FOUR);
        UNROLL (int w = 0; w < WEIGHT_PARTS; w++) {
            weight_fours weights[MAX_PANELS];
            UNROLL (int panel = 0; panel < n_panels; panel++)
                weights[panel] = load_weight_fours(weight + panel * panel_size + four * PANEL * FOUR, w);
            UNROLL (int i = 0; i < n_rows; i++)
                UNROLL (int part = 0; part < LEVEL_PARTS; part++) {
                    const level_four some = broadcast_levels(levels + i * row_size, width, four * FOUR, part);
                    UNROLL (int panel = 0; panel < n_panels; panel++) {
                        level_sums *sum = &sums[i * n_panels + panel][w * LEVEL_PARTS + part];
                        *sum = add_level_products(*sum, weights[panel], some);
                    }
                }
        }
    }
    UNROLL (int i = 0; i < n_rows * n_panels; i++) add_to_totals(totals + i, sums[i]);
}
#endif

/* The panels from `skipped` on. */
INLINE void tile(int n_rows, int n_panels, const Product *product, const Weight *weight, int skipped, int64_t row,
                 const int8_t *ahead) {
    const int8_t *panels = weight->panels + skipped * width_of(product) * PANEL;
    const int64_t output = weight->output + skipped * PANEL;
    const int64_t n_fours = n_fours_of(product);
    Totals totals[MAX_INT8_ROWS * MAX_PANELS];
    /* these are read at the end of a panel and have left the caches since the last step */
    UNROLL (int panel = 0; panel < n_panels; panel++) {
        prefetch_soon(weight->sums + output + panel * PANEL);
        prefetch_soon(weight->scales + output + panel * PANEL);
    }
    UNROLL (int i = 0; i < n_rows * n_panels; i++) totals[i] = (Totals){i32_zero(), i32_zero()};
    for (int64_t from = 0; from < n_fours; from += MAX_FOURS)
        add_fours(n_rows, n_panels, levels_of(product, row), width_of(product), panels, from,
                  from + MAX_FOURS < n_fours ? from + MAX_FOURS : n_fours, ahead, totals);
    UNROLL (int i = 0; i < n_rows; i++)
        UNROLL (int panel = 0; panel < n_panels; panel++)
            store(product, weight, totals[i * n_panels + panel], row + i, output + panel * PANEL);
}

INLINE void block(int n_rows, int n_panels, const Product *product, const Weight *weight, int64_t row,
                  const int8_t *ahead) {
    const int n_tile = n_rows <= MAX_WIDE_INT8_ROWS ? n_panels : 1;
    tile(n_rows, n_tile, product, weight, 0, row, ahead);
    if (n_tile < n_panels)
        tile(n_rows, n_panels - n_tile, product, weight, n_tile, row,
             ahead ? ahead + n_tile * width_of(product) * PANEL : NULL);
}

#define CASE_ONE(n)                                                                                                    \
    LABEL(n) : block(n, 1, product, weight, row, NULL);                                                                \
    break;
#define CASE_TWO(n)                                                                                                    \
    LABEL(n) : block(n, 2, product, weight, row, ahead);                                                               \
    break;
TARGET static void one_panel(int n_rows, const Product *product, const Weight *weight, int64_t row) {
    switch (n_rows) { FOR_EACH_INT8_HEIGHT(CASE_ONE, n_rows) }
}
TARGET static void two_panels(int n_rows, const Product *product, const Weight *weight, int64_t row,
                              const int8_t *ahead) {
    switch (n_rows) { FOR_EACH_INT8_HEIGHT(CASE_TWO, n_rows) }
}

TARGET static void multiply_worker(void *data) {
    Product *product = data;
    const Linear *linear = product->linear;
    const int8_t *first_panel = linear->weight;
    const int64_t n_outputs = product->n_outputs, n_panels = (n_outputs + PANEL - 1) / PANEL;
    const int64_t panel_size = width_of(product) * PANEL, n_wide = (n_panels + MAX_PANELS - 1) / MAX_PANELS;
    const int64_t n_items = product->n_groups * n_wide;
    int64_t next;
    for (int64_t item = fetch_add(&product->next_item, 1); item < n_items; item = next) {
        next = fetch_add(&product->next_item, 1);
        const Group *group = product->groups + item / n_wide;
        const int64_t panel = item % n_wide * MAX_PANELS, following = next % n_wide * MAX_PANELS;
        const Weight weight = {
            .panels = first_panel + (group->weight * n_panels + panel) * panel_size,
            .scales = linear->scales + group->weight * n_outputs,
            .sums = linear->sums + group->weight * n_panels * PANEL,
            .bias = linear->bias ? linear->bias + group->weight * n_outputs : NULL,
            .output = panel * PANEL,
        };
        /* as in linear.c */
        const int8_t *ahead = NULL;
        if (next < n_items && following + MAX_PANELS <= n_panels)
            ahead = first_panel + (product->groups[next / n_wide].weight * n_panels + following) * panel_size;
        for (int64_t row = group->first; row < group->end;) {
            const int n_rows = block_height(group->end - row, MAX_INT8_ROWS);
            if (n_panels - panel < MAX_PANELS)
                one_panel(n_rows, product, &weight, row);
            else
                two_panels(n_rows, product, &weight, row, row + n_rows == group->end ? ahead : NULL);
            row += n_rows;
        }
    }
    release_tiles();
}

int32_t linear_int8(const LinearCall *call, const Group *groups, int64_t n_groups) {
    const Linear *linear = &call->linear;
    Product product = {.rows = call->rows,
                       .row_stride = call->row_stride,
                       .linear = linear,
                       .outputs = call->outputs,
                       .n_rows = call->n_rows,
                       .n_inputs = linear->n_inputs,
                       .n_outputs = linear->n_outputs,
                       .groups = groups,
                       .n_groups = n_groups};
    const size_t row_bytes = (size_t)(LEVEL_BYTES * width_of(&product));
    product.row_scales = take_scratch((size_t)call->n_rows * (sizeof(float) + row_bytes));
    if (!product.row_scales) return NO_MEMORY;
    product.levels = (level *)(product.row_scales + call->n_rows);
    const int64_t n_numbers = call->n_rows * linear->n_inputs;
    in_parallel(quantize_worker, &product, team_for_numbers(n_numbers, call->n_threads));
    in_parallel(multiply_worker, &product, team_for_products(n_numbers * linear->n_outputs, call->n_threads));
    give_back_scratch(product.row_scales);
    return OK;
}

#endif
