/* Linear layers in bf16 that read each weight once, for x86 processors with AVX-512 BF16.

   Outputs lie in panels of 16. A panel holds, for one pair of inputs after the other, the 16 outputs' two weights:
   [panels][pairs of inputs][16][2], as bf16 or as int8 levels. One load then feeds one multiplication per row.

   Each output is summed in fp32 in the order of its inputs, whatever the other rows are: a row's result does not depend
   on who shares the step. */

#include "kernels.h"

#if defined(__x86_64__)

/* Up to here levels are widened as they are multiplied, once for each block of rows. */
enum { MOST_ROWS_OF_LEVELS = 2 * MOST_ROWS };

typedef struct {
    const bf16 *rows;
    const void *weight;
    const bf16 *scales; /* of int8 levels, one per output; NULL where the weight is bf16 */
    const bf16 *bias;   /* or NULL */
    bf16 *outputs;
    long n_rows, row_stride, n_inputs, n_outputs;
} Product;

INLINE void store(const Product *product, __m512 sum, long row, long output) {
    const __mmask16 mask = first_of_16(product->n_outputs - output);
    if (product->scales) sum = _mm512_mul_ps(sum, widened(mask, product->scales + output));
    if (product->bias) sum = _mm512_add_ps(sum, widened(mask, product->bias + output));
    narrow(product->outputs + row * product->n_outputs + output, mask, sum);
}

INLINE void block(int n_rows, int n_panels, int is_int8, const Product *product, const void *weight, long row, long output) {
    const long n_inputs = product->n_inputs;
    __m512 sums[MOST_ROWS * MOST_PANELS];
    multiply(n_rows, n_panels, is_int8, product->rows + row * product->row_stride, product->row_stride, weight,
             n_inputs * PANEL * (is_int8 ? 1 : 2), n_inputs / 2, sums);
    UNROLL for (int i = 0; i < n_rows; i++)
        UNROLL for (int panel = 0; panel < n_panels; panel++)
            store(product, sums[i * n_panels + panel], row + i, output + panel * PANEL);
}

#define BLOCKS(name, n_panels, is_int8)                                                                          \
    TARGET static void name(int n_rows, const Product *product, const void *weight, long row, long output) {     \
        switch (n_rows) { EACH_HEIGHT(CASE_##name) }                                                             \
    }
#define CASE_bf16_one(n) case n: block(n, 1, 0, product, weight, row, output); break;
#define CASE_bf16_two(n) case n: block(n, 2, 0, product, weight, row, output); break;
#define CASE_int8_one(n) case n: block(n, 1, 1, product, weight, row, output); break;
#define CASE_int8_two(n) case n: block(n, 2, 1, product, weight, row, output); break;
BLOCKS(bf16_one, 1, 0)
BLOCKS(bf16_two, 2, 0)
BLOCKS(int8_one, 1, 1)
BLOCKS(int8_two, 2, 1)

/* Blocks of nearly equal height: 16 rows are 8 and 8, not 14 and 2. */
static void all_rows(const Product *product, const void *weight, int is_int8, int n_panels, long output) {
    for (long row = 0; row < product->n_rows;) {
        long left = product->n_rows - row, n_blocks = (left + MOST_ROWS - 1) / MOST_ROWS;
        int n_rows = (int)((left + n_blocks - 1) / n_blocks);
        if (is_int8) (n_panels == 2 ? int8_two : int8_one)(n_rows, product, weight, row, output);
        else (n_panels == 2 ? bf16_two : bf16_one)(n_rows, product, weight, row, output);
        row += n_rows;
    }
}

TARGET static void widen(const int8_t *levels, bf16 *weight, long n_pairs) {
    for (long pair = 0; pair < n_pairs; pair++)
        _mm512_storeu_si512(weight + pair * 2 * PANEL, (__m512i)load_pair(levels, pair, 1));
}

typedef struct {
    Product product;
    long next; /* panel that nobody has taken */
} Work;

/* What one thread of the team does: panels for all rows, as long as there are any. A thread that another process keeps
   from its core leaves more of them to the others. */
static void share(void *data) {
    Work *work = data;
    const Product *product = &work->product;
    const int is_int8 = product->scales != NULL;
    const long n_panels = (product->n_outputs + PANEL - 1) / PANEL, panel_size = product->n_inputs * PANEL;
    /* levels that many rows need are widened once; without memory for that, once per block of rows */
    const int widens = is_int8 && product->n_rows > MOST_ROWS_OF_LEVELS;
    bf16 *wide = widens ? malloc(MOST_PANELS * panel_size * sizeof(bf16)) : NULL;
    for (long panel; (panel = __atomic_fetch_add(&work->next, MOST_PANELS, __ATOMIC_RELAXED)) < n_panels;) {
        const int count = n_panels - panel >= MOST_PANELS ? MOST_PANELS : 1;
        const char *weight = (const char *)product->weight + panel * panel_size * (is_int8 ? 1 : 2);
        if (wide) {
            widen((const int8_t *)weight, wide, count * product->n_inputs / 2);
            all_rows(product, wide, 0, count, panel * PANEL);
        } else {
            all_rows(product, weight, is_int8, count, panel * PANEL);
        }
    }
    free(wide);
}

void splitlearn_linear(const void *rows, const void *weight, const void *scales, const void *bias, void *outputs,
                       long n_rows, long row_stride, long n_inputs, long n_outputs, unsigned n_threads) {
    Work work = {{rows, weight, scales, bias, outputs, n_rows, row_stride, n_inputs, n_outputs}, 0};
    GOMP_parallel(share, &work, n_threads, 0);
}

#endif
