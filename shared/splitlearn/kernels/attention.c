/* Attention over keys and values where the sessions keep them: of all sessions that bring one row, or of the many rows
   of one prompt. Scores, their softmax and the sums over values are fp32. */

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

/* The rows of one session's prompt: each sees those before it and itself. */
typedef struct {
    const Session *session;
    long layer;
    const bf16 *queries;
    long head_stride, row_stride;
    bf16 *outputs; /* of the whole step, [rows][heads][width] */
    long n_heads, n_kv_heads, width;
    float scaling;
    bf16 *keys, *values; /* of each head in panels, see in_panels() */
    long next;
} Prompt;

enum { KEYS_AT_ONCE = MOST_PANELS * PANEL };

static long padded(long n, long to) { return (n + to - 1) / to * to; }

/* One head's keys as panels of 16 rows, its values as panels of 16 columns with pairs of rows: both sides of attention
   are then products like those of a linear layer. Rows and columns that are not there are zeros. */
TARGET static void in_panels(const Prompt *prompt, long kv_head) {
    const Session *session = prompt->session;
    const long n_rows = session->n_rows, width = prompt->width, stride = padded(n_rows, KEYS_AT_ONCE);
    const bf16 *keys = session->block + 2 * prompt->layer * session->tensor_stride + kv_head * session->head_stride;
    const bf16 *values = keys + session->tensor_stride;
    bf16 *key_panels = prompt->keys + kv_head * stride * width;
    /* one column pair of 16 rows is one vector */
    const __m512i rows = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                            _mm512_set1_epi32((int)width * 2));
    for (long row = 0; row < stride; row += PANEL) {
        const __mmask16 there = row < n_rows ? first_of_16(n_rows - row) : 0;
        for (long column = 0; column < width; column += 2) {
            const bf16 *from = keys + row * width + column;
            const __m512i pairs = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), there, rows, from, 1);
            _mm512_storeu_si512(key_panels + row * width + column * PANEL, pairs);
        }
    }
    bf16 *value_panels = prompt->values + kv_head * stride * padded(width, PANEL);
    for (long column = 0; column < width; column += PANEL) {
        const __mmask16 there = first_of_16(width - column);
        for (long row = 0; row < stride; row += 2) {
            const bf16 *from = values + row * width + column;
            const __m256i even = _mm256_maskz_loadu_epi16(row < n_rows ? there : 0, from);
            const __m256i odd = _mm256_maskz_loadu_epi16(row + 1 < n_rows ? there : 0, from + width);
            const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16);
            const __m512i both = _mm512_or_si512(_mm512_cvtepu16_epi32(even), high);
            _mm512_storeu_si512(value_panels + column * stride + row * PANEL, both);
        }
    }
}

static void panels_share(void *data) {
    Prompt *prompt = data;
    for (long head; (head = __atomic_fetch_add(&prompt->next, 1, __ATOMIC_RELAXED)) < prompt->n_kv_heads;)
        in_panels(prompt, head);
}

/* A block of rows of one head: what it is made of, and room for what comes between. */
typedef struct {
    const Prompt *prompt;
    const bf16 *keys, *values;
    bf16 *queries, *weights;
    float *scores;
    long stride; /* of weights and scores */
    long n_seen; /* keys, a multiple of KEYS_AT_ONCE */
    bf16 *outputs;
    float totals[MOST_ROWS];
} Rows;

INLINE void score_rows(int n_rows, const Rows *rows) {
    const long width = rows->prompt->width;
    for (long key = 0; key < rows->n_seen; key += KEYS_AT_ONCE) {
        __m512 sums[MOST_ROWS * MOST_PANELS];
        multiply(n_rows, 2, rows->queries, width, rows->keys + key * width, PANEL * width, width / 2, sums);
        UNROLL for (int i = 0; i < n_rows; i++) {
            _mm512_storeu_ps(rows->scores + i * rows->stride + key, sums[2 * i]);
            _mm512_storeu_ps(rows->scores + i * rows->stride + key + PANEL, sums[2 * i + 1]);
        }
    }
}

INLINE void mix_rows(int n_rows, const Rows *rows) {
    const long width = rows->prompt->width, row_width = rows->prompt->n_heads * width;
    for (long column = 0; column < width; column += PANEL) {
        __m512 sums[MOST_ROWS * MOST_PANELS];
        multiply(n_rows, 1, rows->weights, rows->stride, rows->values + column * rows->stride, 0, rows->n_seen / 2, sums);
        UNROLL for (int i = 0; i < n_rows; i++)
            narrow(rows->outputs + i * row_width + column, first_of_16(width - column),
                   _mm512_mul_ps(sums[i], _mm512_set1_ps(rows->totals[i])));
    }
}

#define CASE_SCORE(n) case n: score_rows(n, rows); break;
#define CASE_MIX(n) case n: mix_rows(n, rows); break;
TARGET static void score_some(long n_rows, const Rows *rows) { switch (n_rows) { EACH_HEIGHT(CASE_SCORE) } }
TARGET static void mix_all(long n_rows, const Rows *rows) { switch (n_rows) { EACH_HEIGHT(CASE_MIX) } }

/* Scores of one row to weights in bf16, zeros from `limit` on; leaves one over their sum. */
TARGET static void weigh_row(Rows *rows, long row, long limit) {
    float *scores = rows->scores + row * rows->stride;
    bf16 *weights = rows->weights + row * rows->stride;
    const __m512 scaling = _mm512_set1_ps(rows->prompt->scaling), nothing = _mm512_set1_ps(-__builtin_inff());
    __m512 most = nothing, total = _mm512_setzero_ps();
    for (long key = 0; key < limit; key += PANEL) {
        const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(scores + key), scaling);
        const __m512 seen = _mm512_mask_blend_ps(first_of_16(limit - key), nothing, scaled);
        _mm512_storeu_ps(scores + key, seen);
        most = _mm512_max_ps(most, seen);
    }
    const __m512 greatest = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    long key = 0;
    for (; key < limit; key += PANEL) {
        const __m512 weight = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + key), greatest));
        total = _mm512_add_ps(total, weight);
        narrow(weights + key, 0xffff, weight);
    }
    for (; key < rows->n_seen; key += PANEL) narrow(weights + key, 0xffff, _mm512_setzero_ps());
    rows->totals[row] = 1.f / _mm512_reduce_add_ps(total);
}

static void prompt_share(void *data) {
    Prompt *prompt = data;
    const Session *session = prompt->session;
    const long width = prompt->width, shared = prompt->n_heads / prompt->n_kv_heads;
    const long stride = padded(session->n_rows, KEYS_AT_ONCE), n_blocks = (session->n_new + MOST_ROWS - 1) / MOST_ROWS;
    Rows rows = {.prompt = prompt, .stride = stride};
    rows.scores = malloc(MOST_ROWS * (stride * (sizeof(float) + sizeof(bf16)) + width * sizeof(bf16)));
    if (!rows.scores) abort(); /* as torch does where no memory is left in a parallel region */
    rows.weights = (bf16 *)(rows.scores + MOST_ROWS * stride);
    rows.queries = rows.weights + MOST_ROWS * stride;
    /* late rows see the most: they come first, so that the threads end together */
    for (long item; (item = __atomic_fetch_add(&prompt->next, 1, __ATOMIC_RELAXED)) < n_blocks * prompt->n_heads;) {
        const long first = (n_blocks - 1 - item / prompt->n_heads) * MOST_ROWS, head = item % prompt->n_heads;
        const long n_rows = session->n_new - first < MOST_ROWS ? session->n_new - first : MOST_ROWS;
        const long position = session->n_rows - session->n_new + first;
        rows.keys = prompt->keys + head / shared * stride * width;
        rows.values = prompt->values + head / shared * stride * padded(width, PANEL);
        rows.n_seen = padded(position + n_rows, KEYS_AT_ONCE);
        rows.outputs = prompt->outputs + ((session->first + first) * prompt->n_heads + head) * width;
        const bf16 *queries = prompt->queries + head * prompt->head_stride + (session->first + first) * prompt->row_stride;
        for (long i = 0; i < n_rows; i++)
            memcpy(rows.queries + i * width, queries + i * prompt->row_stride, width * sizeof(bf16));
        score_some(n_rows, &rows);
        for (long i = 0; i < n_rows; i++) weigh_row(&rows, i, position + i + 1);
        mix_all(n_rows, &rows);
    }
    free(rows.scores);
}

/* Fills the outputs of one session's rows. `keys` and `values` are room for all its heads in panels: rows are filled up
   to a multiple of 32, and the columns of values to a multiple of 16. */
void splitlearn_attend_prompt(const void *sessions, long index, long layer, const void *queries, long head_stride,
                              long row_stride, void *outputs, long n_heads, long n_kv_heads, long width, float scaling,
                              void *keys, void *values, unsigned n_threads) {
    Prompt prompt = {(const Session *)sessions + index, layer, queries, head_stride, row_stride, outputs, n_heads,
                     n_kv_heads, width, scaling, keys, values, 0};
    const long n_kept = prompt.session->n_rows, n_new = prompt.session->n_new;
    GOMP_parallel(panels_share, &prompt, team_for_numbers(2 * n_kept * n_kv_heads * width, n_threads), 0);
    prompt.next = 0;
    GOMP_parallel(prompt_share, &prompt, team_for_products(2 * n_kept * n_new * n_heads * width, n_threads), 0);
}

#endif
