/* Linear layers with weights of 4 bits, in groups of inputs that share a scale and a zero point.

   The inputs of a row are quantized to 8 bits with a scale per block of 32, so that one block is summed as integers,
   whose order does not matter, and blocks are added in fp32 in their order: a row's result does not depend on the other
   rows. Beside weights of 4 bits the rounding error of the inputs is small: a row loses what bf16 loses.

   The weight is packed in panels of 16 outputs. For each eight inputs a panel holds eight weights of each output, the
   first four in the low halves of four bytes and the others in the high halves: [panels][eights of inputs][16][4].
   Scales and zero points are fp16: [panels][groups][16]. */

#include "kernels.h"

#ifdef SIMD_FITS

enum { BLOCK = 32, EIGHT = 8, FOUR = 4, MAX_LEVEL = 127, SYMMETRIC_ZERO = 8 };

typedef struct {
    const bf16 *rows;
    int64_t row_stride;
    const Linear *linear; /* the first weight */
    bf16 *outputs;
    int64_t n_rows, n_inputs, n_outputs, n_blocks, blocks_per_scale, n_scales; /* of an output */
    const Group *groups;
    int64_t n_groups;
    int8_t *levels;               /* of each row [blocks][32] */
    float *row_scales, *row_sums; /* of each row [blocks] */
    int64_t next_row, next_item; /* the first row, and the first pair of panels for a group, that no thread has taken */
} Product;

/* What some rows are multiplied by: panels whose first output is `output`, their scales and zero points, and the biases
   of all outputs. */
typedef struct {
    const uint8_t *panels;
    const fp16 *scales, *zeros; /* zeros: or NULL */
    const bf16 *bias;           /* or NULL */
    int64_t output;
} Weight;

static inline int64_t panel_bytes(const Product *product) { return product->n_blocks * BLOCK * PANEL / 2; }

TARGET static void quantize_row(const Product *product, int64_t row) {
    const bf16 *inputs = product->rows + row * product->row_stride;
    int8_t *levels = product->levels + row * product->n_blocks * BLOCK;
    for (int64_t block = 0; block < product->n_blocks; block++) {
        const int64_t left = product->n_inputs - block * BLOCK;
        const float max = absmax(inputs + block * BLOCK, left < BLOCK ? left : BLOCK);
        const f32x16 inverse = f32_set(max < MIN_ABSMAX ? 0.f : (float)MAX_LEVEL / max);
        f32x16 sum = f32_zero();
        UNROLL (int i = 0; i < BLOCK; i += PANEL) {
            const f32x16 some = load_bf16(inputs + block * BLOCK + i, left - i);
            const f32x16 rounded = f32_round(f32_mul(some, inverse));
            store_int8(levels + block * BLOCK + i, rounded);
            sum = f32_add(sum, rounded);
        }
        /* an infinity or NaN becomes the block's scale, and so all of the row's outputs */
        product->row_scales[row * product->n_blocks + block] = max / (float)MAX_LEVEL;
        product->row_sums[row * product->n_blocks + block] = f32_reduce_add(sum);
    }
}

static void quantize_worker(void *data) {
    Product *product = data;
    for (int64_t row; (row = fetch_add(&product->next_row, 1)) < product->n_rows;) quantize_row(product, row);
}

/* The integer sums of one block: levels times weights from 0 to 15. */
INLINE void multiply_block(int n_rows, int n_panels, const int8_t *levels, int64_t row_size, const uint8_t *weight,
                           int64_t panel_size, const uint8_t *ahead, int4_sums *sums) {
    UNROLL (int i = 0; i < n_rows * n_panels; i++) sums[i] = zero_int4_sums();
    UNROLL (int eight = 0; eight < BLOCK / EIGHT; eight++) {
        int4_fours weights[MAX_PANELS][2];
        UNROLL (int panel = 0; panel < n_panels; panel++) {
            const int64_t offset = panel * panel_size + eight * PANEL * FOUR;
            if (ahead) prefetch_later(ahead + offset);
            load_int4_fours(weight + offset, weights[panel]);
        }
        UNROLL (int half = 0; half < 2; half++)
            UNROLL (int i = 0; i < n_rows; i++) {
                const int8_four some = broadcast_int8_four(levels + i * row_size + eight * EIGHT + half * FOUR);
                UNROLL (int panel = 0; panel < n_panels; panel++)
                    sums[i * n_panels + panel] =
                        add_int4_products(sums[i * n_panels + panel], weights[panel][half], some);
            }
    }
}

INLINE void block(int n_rows, int n_panels, const Product *product, const Weight *weight, int first, int64_t row,
                  const uint8_t *ahead) {
    const int64_t n_blocks = product->n_blocks, panel_size = panel_bytes(product);
    const int64_t scales_size = product->n_scales * PANEL;
    const uint8_t *panels = weight->panels + first * panel_size;
    const int8_t *levels = product->levels + row * n_blocks * BLOCK;
    f32x16 totals[MAX_INT4_ROWS * MAX_PANELS];
    UNROLL (int i = 0; i < n_rows * n_panels; i++) totals[i] = f32_zero();
    for (int64_t scale = 0, end, at = 0; scale < product->n_scales; scale++) {
        f32x16 scales[MAX_PANELS], zeros[MAX_PANELS];
        UNROLL (int panel = 0; panel < n_panels; panel++) {
            const int64_t index = (first + panel) * scales_size + scale * PANEL;
            scales[panel] = load_fp16(weight->scales + index);
            zeros[panel] = weight->zeros ? load_fp16(weight->zeros + index) : f32_set(SYMMETRIC_ZERO);
        }
        end = at + product->blocks_per_scale < n_blocks ? at + product->blocks_per_scale : n_blocks;
        for (; at < end; at++) {
            int4_sums sums[MAX_INT4_ROWS * MAX_PANELS];
            const int64_t offset = at * BLOCK * PANEL / 2;
            multiply_block(n_rows, n_panels, levels + at * BLOCK, n_blocks * BLOCK, panels + offset, panel_size,
                           ahead ? ahead + offset : NULL, sums);
            UNROLL (int i = 0; i < n_rows; i++) {
                const int64_t index = (row + i) * n_blocks + at;
                const f32x16 row_scale = f32_set(product->row_scales[index]);
                const f32x16 row_sum = f32_set(product->row_sums[index]);
                UNROLL (int panel = 0; panel < n_panels; panel++) {
                    f32x16 *total = totals + i * n_panels + panel;
                    const f32x16 whole = f32_fnma(zeros[panel], row_sum, f32_of_int4_sums(sums[i * n_panels + panel]));
                    *total = f32_fma(f32_mul(scales[panel], row_scale), whole, *total);
                }
            }
        }
    }
    UNROLL (int i = 0; i < n_rows; i++)
        UNROLL (int panel = 0; panel < n_panels; panel++) {
            const int64_t column = weight->output + (first + panel) * PANEL, n = product->n_outputs - column;
            f32x16 total = totals[i * n_panels + panel];
            if (weight->bias) total = f32_add(total, load_bf16(weight->bias + column, n));
            store_bf16(product->outputs + (row + i) * product->n_outputs + column, n, total);
        }
}

/* Several panels at once, or one after the other where their sums would not stay in registers. */
INLINE void all_panels(int n_rows, int n_panels, const Product *product, const Weight *weight, int64_t row,
                       const uint8_t *ahead) {
    const int n_tile = n_rows <= MAX_WIDE_INT4_ROWS ? n_panels : 1;
    block(n_rows, n_tile, product, weight, 0, row, ahead);
    if (n_tile < n_panels)
        block(n_rows, n_panels - n_tile, product, weight, n_tile, row,
              ahead ? ahead + n_tile * panel_bytes(product) : NULL);
}

#define CASE_ONE(n)                                                                                                    \
    case n: all_panels(n, 1, product, weight, row, NULL); break;
#define CASE_TWO(n)                                                                                                    \
    case n: all_panels(n, 2, product, weight, row, ahead); break;
TARGET static void one_panel(int n_rows, const Product *product, const Weight *weight, int64_t row) {
    switch (n_rows) { FOR_EACH_INT4_HEIGHT(CASE_ONE) }
}
TARGET static void two_panels(int n_rows, const Product *product, const Weight *weight, int64_t row,
                              const uint8_t *ahead) {
    switch (n_rows) { FOR_EACH_INT4_HEIGHT(CASE_TWO) }
}

TARGET static void multiply_worker(void *data) {
    Product *product = data;
    const Linear *linear = product->linear;
    const uint8_t *first_panel = linear->weight;
    const int64_t n_outputs = product->n_outputs, n_panels = (n_outputs + PANEL - 1) / PANEL;
    const int64_t panel_size = panel_bytes(product), n_wide = (n_panels + MAX_PANELS - 1) / MAX_PANELS;
    const int64_t n_items = product->n_groups * n_wide;
    int64_t next;
    for (int64_t item = fetch_add(&product->next_item, 1); item < n_items; item = next) {
        next = fetch_add(&product->next_item, 1);
        const Group *group = product->groups + item / n_wide;
        const int64_t panel = item % n_wide * MAX_PANELS, following = next % n_wide * MAX_PANELS;
        const int64_t index = group->weight * n_panels + panel, first_scale = index * product->n_scales * PANEL;
        const Weight weight = {
            .panels = first_panel + index * panel_size,
            .scales = linear->group_scales + first_scale,
            .zeros = linear->zeros ? linear->zeros + first_scale : NULL,
            .bias = linear->bias ? linear->bias + group->weight * n_outputs : NULL,
            .output = panel * PANEL,
        };
        /* as in linear.c */
        const uint8_t *ahead = NULL;
        if (next < n_items && following + MAX_PANELS <= n_panels)
            ahead = first_panel + (product->groups[next / n_wide].weight * n_panels + following) * panel_size;
        for (int64_t row = group->first; row < group->end;) {
            const int n_rows = block_height(group->end - row, MAX_INT4_ROWS);
            if (n_panels - panel < MAX_PANELS)
                one_panel(n_rows, product, &weight, row);
            else
                two_panels(n_rows, product, &weight, row, row + n_rows == group->end ? ahead : NULL);
            row += n_rows;
        }
    }
}

int32_t linear_int4(const LinearCall *call, const Group *groups, int64_t n_groups) {
    const Linear *linear = &call->linear;
    const int64_t n_blocks = (linear->n_inputs + BLOCK - 1) / BLOCK, blocks_per_scale = linear->group_size / BLOCK;
    Product product = {.rows = call->rows,
                       .row_stride = call->row_stride,
                       .linear = linear,
                       .outputs = call->outputs,
                       .n_rows = call->n_rows,
                       .n_inputs = linear->n_inputs,
                       .n_outputs = linear->n_outputs,
                       .n_blocks = n_blocks,
                       .blocks_per_scale = blocks_per_scale,
                       .n_scales = (n_blocks + blocks_per_scale - 1) / blocks_per_scale,
                       .groups = groups,
                       .n_groups = n_groups};
    const int64_t n_row_blocks = call->n_rows * n_blocks;
    product.row_scales = take_scratch((size_t)n_row_blocks * (2 * sizeof(float) + BLOCK));
    if (!product.row_scales) return NO_MEMORY;
    product.row_sums = product.row_scales + n_row_blocks;
    product.levels = (int8_t *)(product.row_sums + n_row_blocks);
    const int64_t n_numbers = call->n_rows * linear->n_inputs;
    in_parallel(quantize_worker, &product, team_for_numbers(n_numbers, call->n_threads));
    in_parallel(multiply_worker, &product, team_for_products(n_numbers * linear->n_outputs, call->n_threads));
    give_back_scratch(product.row_scales);
    return OK;
}

#endif
