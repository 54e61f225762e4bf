/* What the kernels have in common: x86 processors with AVX-512 BF16, and the threads of torch. */

#ifndef SPLITLEARN_KERNELS_H
#define SPLITLEARN_KERNELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

/* WITHOUT_BF16: for processors that have AVX-512 and VNNI only. They multiply bf16 pairs in two steps, and round bf16
   by hand; the order of sums, and so what is promised of it, is the same. */
#ifdef WITHOUT_BF16
#define INSTRUCTIONS "avx512f,avx512bw,avx512vl"
#else
#define INSTRUCTIONS "avx512f,avx512bw,avx512vl,avx512bf16"
#endif
#define TARGET __attribute__((target(INSTRUCTIONS)))
#define INLINE static inline __attribute__((always_inline)) TARGET
#define UNROLL _Pragma("GCC unroll 16")

typedef uint16_t bf16;

/* Where a session keeps its tensors, in one block, [tensors][heads][capacity][width] in bf16: of layer i the keys are
   tensor 2i and the values tensor 2i + 1. */
typedef struct {
    bf16 *block;
    long tensor_stride, head_stride;
    long n_rows, n_new; /* rows held in all, and how many of them came with this step */
    long first;         /* where its rows begin in the step */
} Session;

/* A norm of rows or of heads; no weight: there is none. */
typedef struct {
    const bf16 *weight;
    float epsilon;
    int adds_one; /* to the weight, and rounds once; else the normed row is rounded before it is weighed */
} RowNorm;

/* What is done to scores of attention; mirrored by structs.py. */
typedef struct {
    const float *sinks; /* of each head a score that takes its share of the weights and has no value; NULL: none */
    float scaling;
    float softcap; /* scores are softcap * tanh(score / softcap); 0: they stay as they are */
} How;

/* What Python calls, and a layer as a whole. */
void splitlearn_linear(const void *rows, const void *weight, const void *bias, void *outputs, long n_rows, long row_stride,
                       long n_inputs, long n_outputs, unsigned n_threads);
void splitlearn_linear_int8(const void *rows, const void *weight, const void *scales, const void *sums, const void *bias,
                            void *outputs, long n_rows, long row_stride, long n_inputs, long n_outputs,
                            unsigned n_threads);
void splitlearn_rms_norm(const void *rows, const void *weight, void *outputs, long n_rows, long width, float epsilon,
                         int adds_one, unsigned n_threads);
void splitlearn_gate(const void *gates, const void *rows, void *outputs, long n_rows, long width, long stride, int is_gelu,
                     unsigned n_threads);
void splitlearn_place_heads(const void *sessions, long n_sessions, long layer, void *rows, long n_rows, long n_heads,
                            long n_kv_heads, long width, const void *cosines, const void *sines, long n_turned,
                            const void *query_weight, const void *key_weight, float epsilon, int adds_one,
                            unsigned n_threads);
void splitlearn_attend(const void *sessions, long n_sessions, long layer, const void *starts, const void *queries,
                       long head_stride, long row_stride, void *outputs, long n_heads, long n_kv_heads, long width,
                       const void *how, unsigned n_threads);
/* Rows plus what is added to them, which is normed before, into `sums`; then a norm of these into `normed`. */
void splitlearn_join(const void *rows, void *added, void *sums, void *normed, const RowNorm *after, const RowNorm *before,
                     long n_rows, long width, unsigned n_threads);

/* Entry points of the OpenMP runtime that torch has loaded already: a second one would fight it for the cores. */
extern void GOMP_parallel(void (*task)(void *), void *data, unsigned n_threads, unsigned flags);
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);

/* Numbers passed over, or products added up, for which a team pays: its threads may have gone to sleep. All threads or
   one, because libgomp ends threads that the next team lacks, and starts others for the team after it. */
enum { NUMBERS_FOR_A_TEAM = 1 << 15, PRODUCTS_FOR_A_TEAM = 1 << 19 };

static inline unsigned team_for_numbers(long n_numbers, unsigned n_threads) {
    return n_numbers < NUMBERS_FOR_A_TEAM ? 1 : n_threads;
}

static inline unsigned team_for_products(long n_products, unsigned n_threads) {
    return n_products < PRODUCTS_FOR_A_TEAM ? 1 : n_threads;
}

/* The numbers that the mask names, as fp32; zeros for the others. */
INLINE __m512 widened(__mmask16 mask, const bf16 *numbers) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, numbers));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* Rounded to the nearest, of two to the even one. */
INLINE __m256i to_bf16(__m512 numbers) {
#ifdef WITHOUT_BF16
    const __m512i bits = _mm512_castps_si512(numbers);
    const __m512i is_odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), is_odd);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_or_epi32(up, is_nan, bits, _mm512_set1_epi32(1 << 22)), 16));
#else
    return (__m256i)_mm512_cvtneps_pbh(numbers);
#endif
}

INLINE void narrow(bf16 *to, __mmask16 mask, __m512 numbers) { _mm256_mask_storeu_epi16(to, mask, to_bf16(numbers)); }

/* As torch leaves a number that it puts between two operations. */
INLINE __m512 rounded(__m512 numbers) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bf16(numbers)), 16));
}

/* 16 sums, each plus the products of a pair of bf16 numbers with another. */
INLINE __m512 plus_pairs(__m512 sums, __m512i ones, __m512i others) {
#ifdef WITHOUT_BF16
    const __m512i high = _mm512_set1_epi32(0xffff0000);
    const __m512 low_1 = _mm512_castsi512_ps(_mm512_slli_epi32(ones, 16)), low_2 = _mm512_castsi512_ps(_mm512_slli_epi32(others, 16));
    sums = _mm512_fmadd_ps(low_1, low_2, sums);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(ones, high)), _mm512_castsi512_ps(_mm512_and_si512(others, high)), sums);
#else
    return _mm512_dpbf16_ps(sums, (__m512bh)ones, (__m512bh)others);
#endif
}

/* The first `left` of 16, or all. */
INLINE __mmask16 first_of_16(long left) { return left >= 16 ? 0xffff : (__mmask16)((1 << left) - 1); }

INLINE __mmask32 first_of_32(long left) { return left >= 32 ? 0xffffffffu : (1u << left) - 1; }

/* e^x for x <= 0: a power of two times the series of e^r for |r| <= ln(2) / 2, off by 2e-7 of itself at most; zero
   from where fp32 ends. */
INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-127.f));
    __m512 power = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(power, _mm512_set1_ps(0.693145752f), x);
    r = _mm512_fnmadd_ps(power, _mm512_set1_ps(1.42860677e-6f), r);
    static const float series[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1.f, 1.f};
    __m512 sum = _mm512_set1_ps(series[0]);
    UNROLL for (int i = 1; i < 7; i++) sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(series[i]));
    return _mm512_scalef_ps(sum, power);
}

/* Sums of products in bf16 pairs: a block of rows with panels of 16 outputs, whose two weights for one pair of inputs
   lie side by side, [pairs][16][2]. All sums stay in registers; counts are constants where this is inlined. */
enum { PANEL = 16, MOST_PANELS = 2, MOST_ROWS = 14 };

/* Rows of the next block, of all blocks nearly the same: 16 rows are 8 and 8, not 14 and 2. */
static inline int height_of(long n_rows, long most) {
    const long n_blocks = (n_rows + most - 1) / most;
    return (int)((n_rows + n_blocks - 1) / n_blocks);
}

INLINE __m512i both_inputs(const bf16 *inputs) {
    int32_t pair;
    memcpy(&pair, inputs, sizeof pair);
    return _mm512_set1_epi32(pair);
}

/* `ahead`: panels that are fetched into the second-level cache meanwhile, for what comes next; or NULL. */
INLINE void multiply(int n_rows, int n_panels, const bf16 *rows, long row_stride, const bf16 *panels, long panel_size,
                     long n_pairs, const bf16 *ahead, __m512 sums[MOST_ROWS * MOST_PANELS]) {
    UNROLL for (int i = 0; i < n_rows * n_panels; i++) sums[i] = _mm512_setzero_ps();
    for (long pair = 0; pair < n_pairs; pair++) {
        __m512i weights[MOST_PANELS];
        UNROLL for (int panel = 0; panel < n_panels; panel++)
            weights[panel] = _mm512_loadu_si512(panels + panel * panel_size + pair * 2 * PANEL);
        if (ahead)
            UNROLL for (int panel = 0; panel < n_panels; panel++)
                _mm_prefetch((const char *)(ahead + panel * panel_size + pair * 2 * PANEL), _MM_HINT_T1);
        UNROLL for (int i = 0; i < n_rows; i++) {
            const __m512i inputs = both_inputs(rows + i * row_stride + 2 * pair);
            UNROLL for (int panel = 0; panel < n_panels; panel++)
                sums[i * n_panels + panel] = plus_pairs(sums[i * n_panels + panel], weights[panel], inputs);
        }
    }
}

/* The next panels that nobody has taken. */
static inline long taken(long *next) { return __atomic_fetch_add(next, MOST_PANELS, __ATOMIC_RELAXED); }

/* One case of a switch for each height that a block may have. */
#define EACH_HEIGHT(CASE) \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14)

#endif
#endif
