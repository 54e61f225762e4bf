/* Linear layers with int8 weights, summed as integers by AVX-512 VNNI.

   The inputs of a row are quantized to 16 bits with a scale per row: eight bits more than bf16 has, so that the
   rounding error is negligible. Their high and low bytes are multiplied by the weights one after the other. The order
   of integer sums does not matter, so that a row's result does not depend on the other rows.

   The weight is packed in panels of 16 outputs. For each four inputs a panel holds the four weights of each output:
   [panels][fours of inputs][16][4]. One load then feeds two multiplications per row. */

#include "kernels.h"

#if defined(__x86_64__)

#define TARGET_VNNI __attribute__((target(INSTRUCTIONS ",avx512vnni")))
#define INLINE_VNNI static inline __attribute__((always_inline)) TARGET_VNNI

enum { FOUR = 4, HIGH = 0, LOW = 1, BYTES = 2, MAX_INT8_ROWS = 7, MAX_LEVEL = 32767, OFFSET_BITS = 7 };

/* Rows with no greater number count as zeros: the inverse of their scale would overflow. */
#define MIN_ABSMAX 1e-30f

typedef struct {
    const bf16 *rows;
    int64_t row_stride;
    const int8_t *weight;
    const bf16 *scales;  /* one per output */
    const int32_t *sums; /* of each output's weights, filled up to whole panels */
    const bf16 *bias;    /* or NULL */
    bf16 *outputs;
    int64_t n_rows, n_inputs, n_outputs;
    uint8_t *bytes; /* [rows][high, low][inputs, filled up to fours] */
    float *row_scales;
    int64_t next_row, next_panel; /* the first that no thread has taken */
} Product;

static inline int64_t n_fours_of(const Product *product) { return (product->n_inputs + FOUR - 1) / FOUR; }

INLINE float absmax(const bf16 *row, int64_t n_inputs) {
    __m512i max = _mm512_setzero_si512();
    for (int64_t column = 0; column < n_inputs; column += 32) {
        const __m512i some = _mm512_maskz_loadu_epi16(mask_32(n_inputs - column), row + column);
        /* without their signs, the bit patterns of floating-point numbers have the order of their values */
        max = _mm512_max_epu16(max, _mm512_and_si512(some, _mm512_set1_epi16(0x7fff)));
    }
    const uint32_t even = _mm512_reduce_max_epu32(_mm512_and_si512(max, _mm512_set1_epi32(0xffff)));
    const uint32_t odd = _mm512_reduce_max_epu32(_mm512_srli_epi32(max, 16));
    const uint32_t pattern = (even > odd ? even : odd) << 16;
    float number;
    memcpy(&number, &pattern, sizeof number);
    return number;
}

TARGET static void quantize_row(const Product *product, int64_t row) {
    const bf16 *inputs = product->rows + row * product->row_stride;
    const int64_t padded = n_fours_of(product) * FOUR; /* inputs */
    uint8_t *high = product->bytes + row * BYTES * padded, *low = high + padded;
    const float max = absmax(inputs, product->n_inputs);
    /* an infinity or NaN becomes the row's scale, and so all of its outputs */
    product->row_scales[row] = max / MAX_LEVEL;
    const __m512 inverse = _mm512_set1_ps(max < MIN_ABSMAX ? 0.f : MAX_LEVEL / max);
    for (int64_t column = 0; column < padded; column += 16) {
        const __m512 some = _mm512_mul_ps(load_bf16(mask_16(product->n_inputs - column), inputs + column), inverse);
        const __m512i number = _mm512_add_epi32(_mm512_cvtps_epi32(some), _mm512_set1_epi32(1 << (OFFSET_BITS + 8)));
        const __mmask16 mask = mask_16(padded - column);
        _mm512_mask_cvtepi32_storeu_epi8(high + column, mask, _mm512_srli_epi32(number, 8));
        _mm512_mask_cvtepi32_storeu_epi8(low + column, mask, number);
    }
}

static void quantize_worker(void *data) {
    Product *product = data;
    for (int64_t row; (row = fetch_add(&product->next_row, 1)) < product->n_rows;) quantize_row(product, row);
}

INLINE_VNNI void store(const Product *product, __m512i high, __m512i low, int64_t row, int64_t output) {
    const __mmask16 mask = mask_16(product->n_outputs - output);
    /* inputs are stored with an offset, as the instruction multiplies unsigned bytes: its part is subtracted here */
    high = _mm512_sub_epi32(high, _mm512_slli_epi32(_mm512_loadu_si512(product->sums + output), OFFSET_BITS));
    const __m512 whole = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(256.f), _mm512_cvtepi32_ps(low));
    const __m512 scale =
        _mm512_mul_ps(load_bf16(mask, product->scales + output), _mm512_set1_ps(product->row_scales[row]));
    __m512 sum = _mm512_mul_ps(whole, scale);
    if (product->bias) sum = _mm512_add_ps(sum, load_bf16(mask, product->bias + output));
    store_bf16(product->outputs + row * product->n_outputs + output, mask, sum);
}

/* As _mm512_dpbusd_epi32, for which GCC 12 copies each sum three times. */
INLINE_VNNI __m512i add_products(__m512i sum, __m512i inputs, __m512i levels) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(inputs), "v"(levels));
    return sum;
}

INLINE_VNNI void block(int n_rows, int n_panels, const Product *product, const int8_t *weight, int64_t row,
                       int64_t output, const int8_t *ahead) {
    const int64_t n_fours = n_fours_of(product), padded = n_fours * FOUR;
    const uint8_t *bytes = product->bytes + row * BYTES * padded;
    __m512i sums[MAX_INT8_ROWS * BYTES * MAX_PANELS];
    /* these are read at the end of a panel and have left the caches since the last step */
    UNROLL (int panel = 0; panel < n_panels; panel++) {
        _mm_prefetch((const char *)(product->sums + output + panel * PANEL), _MM_HINT_T0);
        _mm_prefetch((const char *)(product->scales + output + panel * PANEL), _MM_HINT_T0);
    }
    UNROLL (int i = 0; i < n_rows * BYTES * n_panels; i++) sums[i] = _mm512_setzero_si512();
    for (int64_t four = 0; four < n_fours; four++) {
        __m512i weights[MAX_PANELS];
        UNROLL (int panel = 0; panel < n_panels; panel++)
            weights[panel] = _mm512_loadu_si512(weight + (panel * n_fours + four) * PANEL * FOUR);
        if (ahead)
            UNROLL (int panel = 0; panel < n_panels; panel++)
                _mm_prefetch((const char *)(ahead + (panel * n_fours + four) * PANEL * FOUR), _MM_HINT_T1);
        UNROLL (int i = 0; i < n_rows * BYTES; i++) {
            int32_t inputs;
            memcpy(&inputs, bytes + i * padded + four * FOUR, sizeof inputs);
            const __m512i some = _mm512_set1_epi32(inputs);
            UNROLL (int panel = 0; panel < n_panels; panel++)
                sums[i * n_panels + panel] = add_products(sums[i * n_panels + panel], some, weights[panel]);
        }
    }
    UNROLL (int i = 0; i < n_rows; i++)
        UNROLL (int panel = 0; panel < n_panels; panel++)
            store(product, sums[(i * BYTES + HIGH) * n_panels + panel], sums[(i * BYTES + LOW) * n_panels + panel],
                  row + i, output + panel * PANEL);
}

#define CASE_ONE(n)                                                                                                    \
    case n: block(n, 1, product, weight, row, output, NULL); break;
#define CASE_TWO(n)                                                                                                    \
    case n: block(n, 2, product, weight, row, output, ahead); break;
TARGET_VNNI static void one_panel(int n_rows, const Product *product, const int8_t *weight, int64_t row,
                                  int64_t output) {
    switch (n_rows) { CASE_ONE(1) CASE_ONE(2) CASE_ONE(3) CASE_ONE(4) CASE_ONE(5) CASE_ONE(6) CASE_ONE(7) }
}
TARGET_VNNI static void two_panels(int n_rows, const Product *product, const int8_t *weight, int64_t row,
                                   int64_t output, const int8_t *ahead) {
    switch (n_rows) { CASE_TWO(1) CASE_TWO(2) CASE_TWO(3) CASE_TWO(4) CASE_TWO(5) CASE_TWO(6) CASE_TWO(7) }
}

static void multiply_worker(void *data) {
    Product *product = data;
    const int64_t n_panels = (product->n_outputs + PANEL - 1) / PANEL, panel_size = n_fours_of(product) * FOUR * PANEL;
    int64_t next;
    for (int64_t panel = fetch_add(&product->next_panel, MAX_PANELS); panel < n_panels; panel = next) {
        next = fetch_add(&product->next_panel, MAX_PANELS);
        const int8_t *weight = product->weight + panel * panel_size;
        for (int64_t row = 0; row < product->n_rows;) {
            const int n_rows = block_height(product->n_rows - row, MAX_INT8_ROWS);
            /* as in linear.c */
            const int prefetches = row && row + n_rows == product->n_rows && next + MAX_PANELS <= n_panels;
            if (n_panels - panel < MAX_PANELS)
                one_panel(n_rows, product, weight, row, panel * PANEL);
            else
                two_panels(n_rows, product, weight, row, panel * PANEL,
                           prefetches ? product->weight + next * panel_size : NULL);
            row += n_rows;
        }
    }
}

int32_t linear_int8(const LinearCall *call) {
    const Linear *linear = &call->linear;
    Product product = {.rows = call->rows,
                       .row_stride = call->row_stride,
                       .weight = linear->weight,
                       .scales = linear->scales,
                       .sums = linear->sums,
                       .bias = linear->bias,
                       .outputs = call->outputs,
                       .n_rows = call->n_rows,
                       .n_inputs = linear->n_inputs,
                       .n_outputs = linear->n_outputs};
    const size_t row_bytes = (size_t)(BYTES * n_fours_of(&product) * FOUR);
    product.row_scales = malloc((size_t)call->n_rows * (sizeof(float) + row_bytes));
    if (!product.row_scales) return NO_MEMORY;
    product.bytes = (uint8_t *)(product.row_scales + call->n_rows);
    const int64_t n_numbers = call->n_rows * linear->n_inputs;
    GOMP_parallel(quantize_worker, &product, team_for_numbers(n_numbers, call->n_threads), 0);
    GOMP_parallel(multiply_worker, &product, team_for_products(n_numbers * linear->n_outputs, call->n_threads), 0);
    free(product.row_scales);
    return OK;
}

#endif
