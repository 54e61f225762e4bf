/* Attention over keys and values where the sessions keep them, of all sessions that bring one row. Scores, their softmax
   and the sums over values are fp32. */

#include "kernels.h"

#if defined(__x86_64__)

enum { BLOCK = 16, MOST_HEADS = 4 };

typedef struct {
    const Session *sessions;
    long n_sessions, layer;
    const long *starts; /* of each session the first row that may be seen; NULL: 0 */
    const bf16 *queries;
    long head_stride, row_stride; /* of queries */
    bf16 *outputs;                /* [rows][heads][width] */
    long n_heads, n_kv_heads, width;
    float scaling;
    long next; /* counts the pairs of session and head that a thread has taken */
} Attention;

/* The sums of 16 vectors. */
INLINE __m512 sums_of(const __m512 v[BLOCK]) {
    __m512 pairs[8], fours[4];
    UNROLL for (int i = 0; i < 8; i++)
        pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    UNROLL for (int i = 0; i < 4; i++) {
        __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
        fours[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    __m512 low = _mm512_add_ps(_mm512_shuffle_f32x4(fours[0], fours[1], 0x88), _mm512_shuffle_f32x4(fours[0], fours[1], 0xdd));
    __m512 high = _mm512_add_ps(_mm512_shuffle_f32x4(fours[2], fours[3], 0x88), _mm512_shuffle_f32x4(fours[2], fours[3], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}

/* Scores of one query with rows [0, n_rows); returns the greatest. The places behind are filled up with -inf. */
TARGET static float score(const bf16 *query, const bf16 *keys, long n_rows, long width, float scaling, float *scores) {
    __m512 greatest = _mm512_set1_ps(-__builtin_inff());
    for (long row = 0; row < n_rows; row += BLOCK) {
        __m512 sums[BLOCK];
        UNROLL for (int i = 0; i < BLOCK; i++) sums[i] = _mm512_setzero_ps();
        for (long column = 0; column < width; column += 32) {
            const long left = width - column;
            const __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
            const __m512bh some = (__m512bh)_mm512_maskz_loadu_epi16(mask, query + column);
            UNROLL for (int i = 0; i < BLOCK; i++) {
                /* the last block looks at its last row again and again */
                const long at = row + i < n_rows ? row + i : n_rows - 1;
                const __m512bh key = (__m512bh)_mm512_maskz_loadu_epi16(mask, keys + at * width + column);
                sums[i] = _mm512_dpbf16_ps(sums[i], key, some);
            }
        }
        const __m512 scaled = _mm512_mul_ps(sums_of(sums), _mm512_set1_ps(scaling));
        const __m512 seen = _mm512_mask_blend_ps(first_of_16(n_rows - row), _mm512_set1_ps(-__builtin_inff()), scaled);
        _mm512_storeu_ps(scores + row, seen);
        greatest = _mm512_max_ps(greatest, seen);
    }
    return _mm512_reduce_max_ps(greatest);
}

/* Scores to weights that are not yet divided by their sum, which is returned. */
TARGET static float weigh(float *scores, long n_rows, float greatest) {
    __m512 total = _mm512_setzero_ps();
    for (long row = 0; row < n_rows; row += BLOCK) {
        __m512 weights = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + row), _mm512_set1_ps(greatest)));
        _mm512_storeu_ps(scores + row, weights);
        total = _mm512_add_ps(total, weights);
    }
    return _mm512_reduce_add_ps(total);
}

/* Weighted sums of values for heads that share them, 32 columns at a time; n_heads is a constant where it is inlined. */
INLINE void mix(int n_heads, const float *weights, long stride, const float *totals, const bf16 *values, long n_rows,
                long width, bf16 *outputs) {
    for (long column = 0; column < width; column += 32) {
        const __mmask16 first = first_of_16(width - column), second = width - column > 16 ? first_of_16(width - column - 16) : 0;
        __m512 sums[2 * MOST_HEADS];
        UNROLL for (int i = 0; i < 2 * n_heads; i++) sums[i] = _mm512_setzero_ps();
        for (long row = 0; row < n_rows; row++) {
            const __m512 left = widened(first, values + row * width + column);
            const __m512 right = widened(second, values + row * width + column + 16);
            UNROLL for (int head = 0; head < n_heads; head++) {
                const __m512 weight = _mm512_set1_ps(weights[head * stride + row]);
                sums[2 * head] = _mm512_fmadd_ps(weight, left, sums[2 * head]);
                sums[2 * head + 1] = _mm512_fmadd_ps(weight, right, sums[2 * head + 1]);
            }
        }
        UNROLL for (int head = 0; head < n_heads; head++) {
            const __m512 share = _mm512_set1_ps(1.f / totals[head]);
            narrow(outputs + head * width + column, first, _mm512_mul_ps(share, sums[2 * head]));
            narrow(outputs + head * width + column + 16, second, _mm512_mul_ps(share, sums[2 * head + 1]));
        }
    }
}

TARGET static void mix_some(long n_heads, const float *weights, long stride, const float *totals, const bf16 *values,
                            long n_rows, long width, bf16 *outputs) {
    switch (n_heads) {
        case 1: mix(1, weights, stride, totals, values, n_rows, width, outputs); break;
        case 2: mix(2, weights, stride, totals, values, n_rows, width, outputs); break;
        case 3: mix(3, weights, stride, totals, values, n_rows, width, outputs); break;
        default: mix(4, weights, stride, totals, values, n_rows, width, outputs);
    }
}

/* One head of keys and values, and the heads of queries that share it. */
static void attend_head(const Attention *all, long index, long kv_head, float *weights, long stride) {
    const Session *session = all->sessions + index;
    const long start = all->starts ? all->starts[index] : 0, n_rows = session->n_rows - start, width = all->width;
    const bf16 *keys = session->block + 2 * all->layer * session->tensor_stride + kv_head * session->head_stride + start * width;
    const bf16 *values = keys + session->tensor_stride;
    const long shared = all->n_heads / all->n_kv_heads;
    for (long done = 0; done < shared; done += MOST_HEADS) {
        const long first = kv_head * shared + done, n_heads = shared - done < MOST_HEADS ? shared - done : MOST_HEADS;
        float totals[MOST_HEADS];
        for (long head = 0; head < n_heads; head++) {
            float *mine = weights + head * stride;
            const bf16 *query = all->queries + (first + head) * all->head_stride + session->first * all->row_stride;
            totals[head] = weigh(mine, n_rows, score(query, keys, n_rows, width, all->scaling, mine));
        }
        bf16 *outputs = all->outputs + (session->first * all->n_heads + first) * width;
        mix_some(n_heads, weights, stride, totals, values, n_rows, width, outputs);
    }
}

static void attend_share(void *data) {
    Attention *all = data;
    long most = 0;
    for (long i = 0; i < all->n_sessions; i++) most = all->sessions[i].n_rows > most ? all->sessions[i].n_rows : most;
    const long stride = (most + BLOCK - 1) / BLOCK * BLOCK;
    float *weights = malloc(MOST_HEADS * stride * sizeof(float));
    if (!weights) abort(); /* as torch does where no memory is left in a parallel region */
    for (;;) {
        const long item = __atomic_fetch_add(&all->next, 1, __ATOMIC_RELAXED);
        if (item >= all->n_sessions * all->n_kv_heads) break;
        const long index = item / all->n_kv_heads;
        if (all->sessions[index].n_new == 1) attend_head(all, index, item % all->n_kv_heads, weights, stride);
    }
    free(weights);
}

/* Fills the outputs of sessions that brought one row; those of the others stay as they are. */
void splitlearn_attend(const void *sessions, long n_sessions, long layer, const void *starts, const void *queries,
                       long head_stride, long row_stride, void *outputs, long n_heads, long n_kv_heads, long width,
                       float scaling, unsigned n_threads) {
    Attention all = {sessions,    n_sessions, layer,   starts,     queries, head_stride, row_stride,
                     outputs,     n_heads,    n_kv_heads, width,   scaling, 0};
    long n_seen = 0;
    for (long i = 0; i < n_sessions; i++) n_seen += all.sessions[i].n_new == 1 ? all.sessions[i].n_rows : 0;
    GOMP_parallel(attend_share, &all, team_for_products(2 * n_seen * n_heads * width, n_threads), 0);
}

/* Puts the rows of a step, [heads][rows][width] by the given strides, behind those that their sessions hold. */
void splitlearn_keep(const void *sessions, long n_sessions, long tensor, const void *rows, long head_stride, long row_stride,
                     long n_heads, long width) {
    const Session *session = sessions;
    for (const Session *last = session + n_sessions; session < last; session++)
        for (long head = 0; head < n_heads; head++) {
            const bf16 *from = (const bf16 *)rows + head * head_stride + session->first * row_stride;
            bf16 *to = session->block + tensor * session->tensor_stride + head * session->head_stride +
                       (session->n_rows - session->n_new) * width;
            for (long row = 0; row < session->n_new; row++)
                memcpy(to + row * width, from + row * row_stride, width * sizeof(bf16));
        }
}

#endif
