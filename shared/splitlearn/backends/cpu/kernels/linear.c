/* Linear layers in bf16 that read each weight once.

   The weight is packed in panels of 16 outputs. For each pair of inputs a panel holds the two weights of each output:
   [panels][pairs of inputs][16][2]. One load then feeds one multiplication per row.

   Each output is summed in fp32 in the order of its inputs, so that a row's result does not depend on the other rows.

   Groups of rows may have weights of their own; a weight without rows is not read. */

#include "kernels.h"

#ifdef SIMD_FITS

typedef struct {
    const operand *rows;
    const bf16 *weights;
    const bf16 *biases; /* or NULL */
    bf16 *outputs;
    int64_t row_stride, n_inputs, n_outputs;
    const Group *groups;
    int64_t n_groups;
    int64_t next; /* the first pair of panels for a group of rows that no thread has taken */
} Product;

/* What some rows are multiplied by: panels whose first output is `output`, and the biases of all outputs, or NULL. */
typedef struct {
    const bf16 *panels, *bias;
    int64_t output;
} Weight;

INLINE void store(const Product *product, f32x16 sum, const bf16 *bias, int64_t row, int64_t output) {
    const int64_t n = product->n_outputs - output;
    if (bias) sum = f32_add(sum, load_bf16(bias + output, n));
    store_bf16(product->outputs + row * product->n_outputs + output, n, sum);
}

INLINE void block(int n_rows, int n_panels, const Product *product, const Weight *weight, int64_t row,
                  const bf16 *ahead) {
    const int64_t n_inputs = product->n_inputs;
    f32x16 sums[MAX_ROWS * MAX_PANELS];
    multiply_panels(n_rows, n_panels, product->rows + row * product->row_stride, product->row_stride, weight->panels,
                    n_inputs * PANEL, n_inputs / 2, ahead, sums);
    UNROLL (int i = 0; i < n_rows; i++)
        UNROLL (int panel = 0; panel < n_panels; panel++)
            store(product, sums[i * n_panels + panel], weight->bias, row + i, weight->output + panel * PANEL);
}

#define CASE_ONE(n)                                                                                                    \
    LABEL(n) : block(n, 1, product, weight, row, NULL);                                                                \
    break;
#define CASE_TWO(n)                                                                                                    \
    LABEL(n) : block(n, 2, product, weight, row, ahead);                                                               \
    break;
TARGET static void one_panel(int n_rows, const Product *product, const Weight *weight, int64_t row) {
    switch (n_rows) { FOR_EACH_HEIGHT(CASE_ONE, n_rows) }
}
TARGET static void two_panels(int n_rows, const Product *product, const Weight *weight, int64_t row,
                              const bf16 *ahead) {
    switch (n_rows) { FOR_EACH_HEIGHT(CASE_TWO, n_rows) }
}

/* Each thread takes panels for all rows while there are any: a thread that loses its core to another process leaves
   more of them to the others. */
TARGET static void linear_worker(void *data) {
    Product *product = data;
    const int64_t n_panels = (product->n_outputs + PANEL - 1) / PANEL;
    const int64_t panel_size = product->n_inputs * PANEL, n_wide = (n_panels + MAX_PANELS - 1) / MAX_PANELS;
    const int64_t n_items = product->n_groups * n_wide;
    int64_t next;
    for (int64_t item = fetch_add(&product->next, 1); item < n_items; item = next) {
        next = fetch_add(&product->next, 1);
        const Group *group = product->groups + item / n_wide;
        const int64_t panel = item % n_wide * MAX_PANELS, following = next % n_wide * MAX_PANELS;
        const Weight weight = {
            .panels = product->weights + (group->weight * n_panels + panel) * panel_size,
            .bias = product->biases ? product->biases + group->weight * product->n_outputs : NULL,
            .output = panel * PANEL,
        };
        /* the last block prefetches the panels that come next, which few rows would wait for */
        const bf16 *ahead = NULL;
        if (next < n_items && following + MAX_PANELS <= n_panels)
            ahead = product->weights + (product->groups[next / n_wide].weight * n_panels + following) * panel_size;
        for (int64_t row = group->first; row < group->end;) {
            const int n_rows = block_height(group->end - row, MAX_ROWS);
            if (n_panels - panel < MAX_PANELS)
                one_panel(n_rows, product, &weight, row);
            else
                two_panels(n_rows, product, &weight, row, row + n_rows == group->end ? ahead : NULL);
            row += n_rows;
        }
    }
    release_tiles();
}

/* Rows that are copied before they are multiplied. */
typedef struct {
    const bf16 *rows;
    operand *copies;
    int64_t n_rows, row_stride, copy_stride, n_inputs;
    int64_t next; /* first row that no thread has taken */
} Copying;

TARGET static void copy_worker(void *data) {
    Copying *copying = data;
    for (int64_t row; (row = fetch_add(&copying->next, 1)) < copying->n_rows;)
        copy_operands(copying->copies + row * copying->copy_stride, copying->rows + row * copying->row_stride,
                      copying->n_inputs);
}

/* Rows whose stride is a multiple of 4 KB all map to the same set of the first-level cache, which has eight ways: a
   block of more than eight rows would never stay there. */
static int is_aliased(int64_t stride) {
    enum { PERIOD = 4096 };
    return (size_t)stride * sizeof(operand) % PERIOD == 0;
}

/* The rows as they are multiplied: copies where they are to have another type, or another stride. Returns the copies;
   NULL: none are needed, or there is no memory for them. */
static operand *prepare_rows(Product *product, const LinearCall *call) {
    enum { WAYS = 8, PAD = 32 };
    product->rows = as_operands(call->rows);
    product->row_stride = call->row_stride;
    if (product->rows && (call->n_rows <= WAYS || !is_aliased(call->row_stride))) return NULL;
    const int64_t n_inputs = product->n_inputs, stride = n_inputs + (is_aliased(n_inputs) ? PAD : 0);
    operand *copies = take_scratch((size_t)(call->n_rows * stride) * sizeof(operand));
    if (!copies) return NULL;
    Copying copying = {call->rows, copies, call->n_rows, call->row_stride, stride, n_inputs, 0};
    in_parallel(copy_worker, &copying, team_for_numbers(call->n_rows * n_inputs, call->n_threads));
    product->rows = copies;
    product->row_stride = stride;
    return copies;
}

/* The groups in pieces of at most `most` rows; NULL: there is no memory for them. */
static Group *pieces(const Group *groups, int64_t n_groups, int64_t most, int64_t *n_pieces) {
    int64_t n = 0;
    for (const Group *group = groups; group < groups + n_groups; group++)
        n += (group->end - group->first + most - 1) / most;
    Group *found = malloc((size_t)(n + 1) * sizeof(Group));
    *n_pieces = n;
    if (!found) return NULL;
    Group *piece = found;
    for (const Group *group = groups; group < groups + n_groups; group++)
        for (int64_t first = group->first; first < group->end; first += most) {
            const int64_t left = group->end - first;
            *piece++ = (Group){first, first + (left < most ? left : most), group->weight};
        }
    return found;
}

static int32_t linear_bf16(const LinearCall *call, const Group *groups, int64_t n_groups) {
    const Linear *linear = &call->linear;
    Product product = {.weights = linear->weight,
                       .biases = linear->bias,
                       .outputs = call->outputs,
                       .n_inputs = linear->n_inputs,
                       .n_outputs = linear->n_outputs};
    operand *copies = prepare_rows(&product, call);
    if (!product.rows) return NO_MEMORY;
    const int64_t fitting = GROUP_BYTES / (linear->n_inputs * (int64_t)sizeof(bf16)) / MAX_ROWS * MAX_ROWS;
    Group *all = pieces(groups, n_groups, fitting > MAX_ROWS ? fitting : MAX_ROWS, &product.n_groups);
    product.groups = all;
    const int64_t n_products = call->n_rows * linear->n_inputs * linear->n_outputs;
    if (all) in_parallel(linear_worker, &product, team_for_products(n_products, call->n_threads));
    free(all);
    give_back_scratch(copies);
    return all ? OK : NO_MEMORY;
}

int32_t linear_groups(const LinearCall *call, const Group *groups, int64_t n_groups) {
    if (call->linear.group_scales) return linear_int4(call, groups, n_groups);
    return call->linear.scales ? linear_int8(call, groups, n_groups) : linear_bf16(call, groups, n_groups);
}

int32_t splitlearn_linear(const LinearCall *call) {
    const Group all = {0, call->n_rows, 0};
    return linear_groups(call, &all, 1);
}

#endif
