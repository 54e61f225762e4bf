/* What stands between linear layers: norms and gates, in one pass over the rows. Rounded to bf16 where torch rounds. */

#include "kernels.h"

#if defined(__x86_64__)

typedef struct {
    const bf16 *rows, *weight;
    bf16 *outputs;
    long n_rows, width;
    float epsilon;
    int adds_one; /* to the weight, and rounds once; else the normed row is rounded before it is weighed */
} Norm;

typedef struct {
    const bf16 *gates, *rows;
    bf16 *outputs;
    long n_numbers;
} Gate;

INLINE __m512 rounded(__m512 numbers) {
    __m512i wide = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(numbers));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

TARGET static void norm_row(const Norm *norm, const bf16 *row, bf16 *output) {
    __m512 squares = _mm512_setzero_ps();
    for (long column = 0; column < norm->width; column += 16) {
        const __m512 some = widened(first_of_16(norm->width - column), row + column);
        squares = _mm512_fmadd_ps(some, some, squares);
    }
    const float mean = _mm512_reduce_add_ps(squares) / (float)norm->width;
    const __m512 scale = _mm512_set1_ps(1.f / __builtin_sqrtf(mean + norm->epsilon));
    for (long column = 0; column < norm->width; column += 16) {
        const __mmask16 mask = first_of_16(norm->width - column);
        const __m512 normed = _mm512_mul_ps(widened(mask, row + column), scale);
        const __m512 weight = widened(mask, norm->weight + column);
        const __m512 weighed = norm->adds_one ? _mm512_mul_ps(normed, _mm512_add_ps(weight, _mm512_set1_ps(1.f)))
                                              : _mm512_mul_ps(rounded(normed), weight);
        narrow(output + column, mask, weighed);
    }
}

static void norm_share(void *data) {
    const Norm *norm = data;
    const long me = omp_get_thread_num(), team = omp_get_num_threads();
    for (long row = norm->n_rows * me / team; row < norm->n_rows * (me + 1) / team; row++)
        norm_row(norm, norm->rows + row * norm->width, norm->outputs + row * norm->width);
}

TARGET static void gate_share(void *data) {
    const Gate *gate = data;
    const long me = omp_get_thread_num(), team = omp_get_num_threads(), n_blocks = (gate->n_numbers + 15) / 16;
    for (long block = n_blocks * me / team; block < n_blocks * (me + 1) / team; block++) {
        const __mmask16 mask = first_of_16(gate->n_numbers - block * 16);
        const __m512 x = widened(mask, gate->gates + block * 16);
        /* x / (1 + e^-x), by an exponential that never overflows */
        const __m512 small = exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(x)));
        const __mmask16 is_negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
        const __m512 above = _mm512_mask_mul_ps(x, is_negative, x, small);
        const __m512 opened = _mm512_div_ps(above, _mm512_add_ps(_mm512_set1_ps(1.f), small));
        const __m512 gated = _mm512_mul_ps(rounded(opened), widened(mask, gate->rows + block * 16));
        narrow(gate->outputs + block * 16, mask, gated);
    }
}

void splitlearn_rms_norm(const void *rows, const void *weight, void *outputs, long n_rows, long width, float epsilon,
                         int adds_one, unsigned n_threads) {
    Norm norm = {rows, weight, outputs, n_rows, width, epsilon, adds_one};
    GOMP_parallel(norm_share, &norm, team_for(n_rows * width, n_threads), 0);
}

/* silu(gates) * rows */
void splitlearn_silu_gate(const void *gates, const void *rows, void *outputs, long n_numbers, unsigned n_threads) {
    Gate gate = {gates, rows, outputs, n_numbers};
    GOMP_parallel(gate_share, &gate, team_for(n_numbers, n_threads), 0);
}

#endif
