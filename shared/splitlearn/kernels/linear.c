/* Linear layers in bf16 that read each weight once, for x86 processors with AVX-512 BF16.

   Outputs lie in panels of 16. A panel holds, for one pair of inputs after the other, the 16 outputs' two weights:
   [panels][pairs of inputs][16][2]. One load then feeds one multiplication per row.

   Each output is summed in fp32 in the order of its inputs, whatever the other rows are: a row's result does not depend
   on who shares the step. */

#include "kernels.h"

#if defined(__x86_64__)

typedef struct {
    const bf16 *rows, *weight;
    const bf16 *bias; /* or NULL */
    bf16 *outputs;
    long n_rows, row_stride, n_inputs, n_outputs;
    long next; /* panel that nobody has taken */
} Product;

INLINE void store(const Product *product, __m512 sum, long row, long output) {
    const __mmask16 mask = first_of_16(product->n_outputs - output);
    if (product->bias) sum = _mm512_add_ps(sum, widened(mask, product->bias + output));
    narrow(product->outputs + row * product->n_outputs + output, mask, sum);
}

/* A block of rows with the panels at `weight`, whose first output is `output`. */
INLINE void block(int n_rows, int n_panels, const Product *product, const bf16 *weight, long row, long output,
                  const bf16 *ahead) {
    const long n_inputs = product->n_inputs;
    __m512 sums[MOST_ROWS * MOST_PANELS];
    multiply(n_rows, n_panels, product->rows + row * product->row_stride, product->row_stride, weight, n_inputs * PANEL,
             n_inputs / 2, ahead, sums);
    UNROLL for (int i = 0; i < n_rows; i++)
        UNROLL for (int panel = 0; panel < n_panels; panel++)
            store(product, sums[i * n_panels + panel], row + i, output + panel * PANEL);
}

#define CASE_ONE(n) case n: block(n, 1, product, weight, row, output, NULL); break;
#define CASE_TWO(n) case n: block(n, 2, product, weight, row, output, ahead); break;
TARGET static void one_panel(int n_rows, const Product *product, const bf16 *weight, long row, long output) {
    switch (n_rows) { EACH_HEIGHT(CASE_ONE) }
}
TARGET static void two_panels(int n_rows, const Product *product, const bf16 *weight, long row, long output,
                              const bf16 *ahead) {
    switch (n_rows) { EACH_HEIGHT(CASE_TWO) }
}

/* What one thread of the team does: panels for all rows, as long as there are any. A thread that another process keeps
   from its core leaves more of them to the others. */
static void share(void *data) {
    Product *product = data;
    const long n_panels = (product->n_outputs + PANEL - 1) / PANEL;
    const long panel_size = product->n_inputs * PANEL;
    long next;
    for (long panel = taken(&product->next); panel < n_panels; panel = next) {
        next = taken(&product->next);
        const bf16 *weight = product->weight + panel * panel_size;
        for (long row = 0; row < product->n_rows;) {
            const int n_rows = height_of(product->n_rows - row, MOST_ROWS);
            /* the first block of rows waits for memory, the later ones only compute: the last fetches what comes next */
            const int fetches = row && row + n_rows == product->n_rows && next + MOST_PANELS <= n_panels;
            if (n_panels - panel < MOST_PANELS)
                one_panel(n_rows, product, weight, row, panel * PANEL);
            else
                two_panels(n_rows, product, weight, row, panel * PANEL, fetches ? product->weight + next * panel_size : NULL);
            row += n_rows;
        }
    }
}

/* Rows that begin a multiple of 4 KB apart all fall into the same eight places of a first-level cache, so that a block of
   more than eight of them would never stay there. NULL: they may stay as they are. */
static bf16 *apart(Product *product) {
    enum { WAYS = 8, PERIOD = 4096, PAD = 32 };
    if (product->n_rows <= WAYS || product->row_stride * sizeof(bf16) % PERIOD) return NULL;
    const long stride = product->n_inputs + PAD;
    bf16 *copied = malloc(product->n_rows * stride * sizeof(bf16));
    if (!copied) return NULL;
    for (long row = 0; row < product->n_rows; row++)
        memcpy(copied + row * stride, product->rows + row * product->row_stride, product->n_inputs * sizeof(bf16));
    product->rows = copied;
    product->row_stride = stride;
    return copied;
}

void splitlearn_linear(const void *rows, const void *weight, const void *bias, void *outputs, long n_rows, long row_stride,
                       long n_inputs, long n_outputs, unsigned n_threads) {
    Product product = {rows, weight, bias, outputs, n_rows, row_stride, n_inputs, n_outputs, 0};
    bf16 *copied = apart(&product);
    GOMP_parallel(share, &product, team_for_products(n_rows * n_inputs * n_outputs, n_threads), 0);
    free(copied);
}

#endif
