/* Linear layers whose weights are int8 levels, summed in whole numbers, for x86 processors with AVX-512 VNNI.

   A row's inputs become 16-bit numbers times a scale of the row's own: eight bits more than bf16 has, so that rounding
   them adds next to nothing. Their two bytes are multiplied by the levels one after the other. Whole numbers have no
   order of summing: a row's result does not depend on who shares the step.

   Outputs lie in panels of 16. A panel holds, for one four of inputs after the other, the 16 outputs' four levels:
   [panels][fours of inputs][16][4]. One load then feeds two multiplications per row. */

#include "kernels.h"

#if defined(__x86_64__)

#define TARGET_WHOLE __attribute__((target(INSTRUCTIONS ",avx512vnni")))
#define INLINE_WHOLE static inline __attribute__((always_inline)) TARGET_WHOLE

enum { FOUR = 4, HIGH = 0, LOW = 1, BYTES = 2, WHOLE_ROWS = 7, GREATEST = 32767, MIDDLE_BITS = 7 };

/* Rows that are smaller than that everywhere count as zeros: one over them is no number. */
#define SMALLEST 1e-30f

typedef struct {
    const bf16 *rows;
    long row_stride;
    const int8_t *weight;
    const bf16 *scales;  /* one per output */
    const int32_t *sums; /* of each output's levels, filled up to whole panels */
    const bf16 *bias;    /* or NULL */
    bf16 *outputs;
    long n_rows, n_inputs, n_outputs;
    uint8_t *bytes;    /* [rows][high, low][inputs, filled up to fours] */
    float *row_scales;
    long next_row, next_panel; /* that nobody has taken */
} Product;

static inline long fours(const Product *product) { return (product->n_inputs + FOUR - 1) / FOUR; }

INLINE float greatest_of(const bf16 *row, long n_inputs) {
    __m512i most = _mm512_setzero_si512();
    for (long column = 0; column < n_inputs; column += 32) {
        const long left = n_inputs - column;
        const __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
        const __m512i some = _mm512_maskz_loadu_epi16(mask, row + column);
        /* without their signs, the patterns of floating-point numbers stand in the order of their sizes */
        most = _mm512_max_epu16(most, _mm512_and_si512(some, _mm512_set1_epi16(0x7fff)));
    }
    const uint32_t even = _mm512_reduce_max_epu32(_mm512_and_si512(most, _mm512_set1_epi32(0xffff)));
    const uint32_t odd = _mm512_reduce_max_epu32(_mm512_srli_epi32(most, 16));
    const uint32_t pattern = (even > odd ? even : odd) << 16;
    float number;
    memcpy(&number, &pattern, sizeof number);
    return number;
}

TARGET static void to_bytes(const Product *product, long row) {
    const bf16 *inputs = product->rows + row * product->row_stride;
    const long padded = fours(product) * FOUR;
    uint8_t *high = product->bytes + row * BYTES * padded, *low = high + padded;
    const float greatest = greatest_of(inputs, product->n_inputs);
    /* infinity and NaN become the row's scale, and so all of its outputs */
    product->row_scales[row] = greatest / GREATEST;
    const __m512 inverse = _mm512_set1_ps(greatest < SMALLEST ? 0.f : GREATEST / greatest);
    for (long column = 0; column < padded; column += 16) {
        const __m512 some = _mm512_mul_ps(widened(first_of_16(product->n_inputs - column), inputs + column), inverse);
        const __m512i number = _mm512_add_epi32(_mm512_cvtps_epi32(some), _mm512_set1_epi32(1 << (MIDDLE_BITS + 8)));
        const __mmask16 mask = first_of_16(padded - column);
        _mm512_mask_cvtepi32_storeu_epi8(high + column, mask, _mm512_srli_epi32(number, 8));
        _mm512_mask_cvtepi32_storeu_epi8(low + column, mask, number);
    }
}

static void rows_share(void *data) {
    Product *product = data;
    for (long row; (row = __atomic_fetch_add(&product->next_row, 1, __ATOMIC_RELAXED)) < product->n_rows;)
        to_bytes(product, row);
}

INLINE_WHOLE void store(const Product *product, __m512i high, __m512i low, long row, long output) {
    const __mmask16 mask = first_of_16(product->n_outputs - output);
    /* inputs are stored with the middle added, which the high bytes give back */
    high = _mm512_sub_epi32(high, _mm512_slli_epi32(_mm512_loadu_si512(product->sums + output), MIDDLE_BITS));
    const __m512 whole = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(256.f), _mm512_cvtepi32_ps(low));
    const __m512 scale = _mm512_mul_ps(widened(mask, product->scales + output), _mm512_set1_ps(product->row_scales[row]));
    __m512 sum = _mm512_mul_ps(whole, scale);
    if (product->bias) sum = _mm512_add_ps(sum, widened(mask, product->bias + output));
    narrow(product->outputs + row * product->n_outputs + output, mask, sum);
}

/* As _mm512_dpbusd_epi32, of which GCC 12 makes three copies of each sum. */
INLINE_WHOLE __m512i plus_products(__m512i sum, __m512i inputs, __m512i levels) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(inputs), "v"(levels));
    return sum;
}

INLINE_WHOLE void block(int n_rows, int n_panels, const Product *product, const int8_t *weight, long row, long output,
                        const int8_t *ahead) {
    const long n_fours = fours(product), padded = n_fours * FOUR;
    const uint8_t *bytes = product->bytes + row * BYTES * padded;
    __m512i sums[WHOLE_ROWS * BYTES * MOST_PANELS];
    /* read at the end of a panel, from memory that nothing has touched since the last step */
    UNROLL for (int panel = 0; panel < n_panels; panel++) {
        _mm_prefetch((const char *)(product->sums + output + panel * PANEL), _MM_HINT_T0);
        _mm_prefetch((const char *)(product->scales + output + panel * PANEL), _MM_HINT_T0);
    }
    UNROLL for (int i = 0; i < n_rows * BYTES * n_panels; i++) sums[i] = _mm512_setzero_si512();
    for (long four = 0; four < n_fours; four++) {
        __m512i weights[MOST_PANELS];
        UNROLL for (int panel = 0; panel < n_panels; panel++)
            weights[panel] = _mm512_loadu_si512(weight + (panel * n_fours + four) * PANEL * FOUR);
        if (ahead)
            UNROLL for (int panel = 0; panel < n_panels; panel++)
                _mm_prefetch((const char *)(ahead + (panel * n_fours + four) * PANEL * FOUR), _MM_HINT_T1);
        UNROLL for (int i = 0; i < n_rows * BYTES; i++) {
            int32_t inputs;
            memcpy(&inputs, bytes + i * padded + four * FOUR, sizeof inputs);
            const __m512i some = _mm512_set1_epi32(inputs);
            UNROLL for (int panel = 0; panel < n_panels; panel++)
                sums[i * n_panels + panel] = plus_products(sums[i * n_panels + panel], some, weights[panel]);
        }
    }
    UNROLL for (int i = 0; i < n_rows; i++)
        UNROLL for (int panel = 0; panel < n_panels; panel++)
            store(product, sums[(i * BYTES + HIGH) * n_panels + panel], sums[(i * BYTES + LOW) * n_panels + panel],
                  row + i, output + panel * PANEL);
}

#define CASE_ONE(n) case n: block(n, 1, product, weight, row, output, NULL); break;
#define CASE_TWO(n) case n: block(n, 2, product, weight, row, output, ahead); break;
TARGET_WHOLE static void one_panel(int n_rows, const Product *product, const int8_t *weight, long row, long output) {
    switch (n_rows) { CASE_ONE(1) CASE_ONE(2) CASE_ONE(3) CASE_ONE(4) CASE_ONE(5) CASE_ONE(6) CASE_ONE(7) }
}
TARGET_WHOLE static void two_panels(int n_rows, const Product *product, const int8_t *weight, long row, long output,
                                    const int8_t *ahead) {
    switch (n_rows) { CASE_TWO(1) CASE_TWO(2) CASE_TWO(3) CASE_TWO(4) CASE_TWO(5) CASE_TWO(6) CASE_TWO(7) }
}

static void panels_share(void *data) {
    Product *product = data;
    const long n_panels = (product->n_outputs + PANEL - 1) / PANEL, panel_size = fours(product) * FOUR * PANEL;
    long next;
    for (long panel = taken(&product->next_panel); panel < n_panels; panel = next) {
        next = taken(&product->next_panel);
        const int8_t *weight = product->weight + panel * panel_size;
        for (long row = 0; row < product->n_rows;) {
            const int n_rows = height_of(product->n_rows - row, WHOLE_ROWS);
            /* as in linear.c */
            const int fetches = row && row + n_rows == product->n_rows && next + MOST_PANELS <= n_panels;
            if (n_panels - panel < MOST_PANELS)
                one_panel(n_rows, product, weight, row, panel * PANEL);
            else
                two_panels(n_rows, product, weight, row, panel * PANEL, fetches ? product->weight + next * panel_size : NULL);
            row += n_rows;
        }
    }
}

void splitlearn_linear_int8(const void *rows, const void *weight, const void *scales, const void *sums, const void *bias,
                            void *outputs, long n_rows, long row_stride, long n_inputs, long n_outputs,
                            unsigned n_threads) {
    Product product = {rows, row_stride, weight, scales, sums, bias, outputs, n_rows, n_inputs, n_outputs, 0, 0, 0, 0};
    const long row_bytes = BYTES * fours(&product) * FOUR;
    product.row_scales = malloc(n_rows * (sizeof(float) + row_bytes));
    if (!product.row_scales) abort(); /* as torch does where no memory is left in a parallel region */
    product.bytes = (uint8_t *)(product.row_scales + n_rows);
    GOMP_parallel(rows_share, &product, team_for_numbers(n_rows * n_inputs, n_threads), 0);
    GOMP_parallel(panels_share, &product, team_for_products(n_rows * n_inputs * n_outputs, n_threads), 0);
    free(product.row_scales);
}

#endif
