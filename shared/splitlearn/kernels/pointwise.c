/* What stands between linear layers: norms, gates and rotated positions, in one pass over the rows. Rounded to bf16
   where torch rounds. */

#include "kernels.h"

#if defined(__x86_64__)

typedef struct {
    const bf16 *rows;
    bf16 *outputs;
    long n_rows, width;
    RowNorm by;
} Norm;

typedef struct {
    const bf16 *rows;
    bf16 *added, *sums, *normed;
    const RowNorm *after, *before;
    long n_rows, width;
} Join;

typedef struct {
    const bf16 *gates, *rows;
    bf16 *outputs;
    long n_rows, width, stride; /* from one row to the next, of gates and what they gate; outputs lie side by side */
    int is_gelu;                /* its approximation by a tanh; else SiLU */
} Gate;

/* The heads of a step's rows: queries are changed in place, keys and values go where their sessions keep them. */
typedef struct {
    const Session *sessions;
    long n_sessions, layer;
    bf16 *rows; /* [rows][heads + 2 kv_heads][width]: queries, keys, values */
    long n_rows, n_heads, n_kv_heads, width;
    const bf16 *cosines, *sines;              /* [rows][n_turned] */
    long n_turned;                            /* the first numbers of each head; 0: positions are not rotated */
    RowNorm query_norm, key_norm;
} Heads;

/* The output may be the row itself. */
TARGET static void norm_row(const bf16 *row, const RowNorm *by, bf16 *output, long width) {
    __m512 squares = _mm512_setzero_ps();
    for (long column = 0; column < width; column += 16) {
        const __m512 some = widened(first_of_16(width - column), row + column);
        squares = _mm512_fmadd_ps(some, some, squares);
    }
    const float mean = _mm512_reduce_add_ps(squares) / (float)width;
    const __m512 scale = _mm512_set1_ps(1.f / __builtin_sqrtf(mean + by->epsilon));
    for (long column = 0; column < width; column += 16) {
        const __mmask16 mask = first_of_16(width - column);
        const __m512 normed = _mm512_mul_ps(widened(mask, row + column), scale);
        const __m512 weights = widened(mask, by->weight + column);
        const __m512 weighed = by->adds_one ? _mm512_mul_ps(normed, _mm512_add_ps(weights, _mm512_set1_ps(1.f)))
                                            : _mm512_mul_ps(rounded(normed), weights);
        narrow(output + column, mask, weighed);
    }
}

static void norm_share(void *data) {
    const Norm *norm = data;
    const long me = omp_get_thread_num(), team = omp_get_num_threads();
    for (long row = norm->n_rows * me / team; row < norm->n_rows * (me + 1) / team; row++)
        norm_row(norm->rows + row * norm->width, &norm->by, norm->outputs + row * norm->width, norm->width);
}

TARGET static void add_row(const bf16 *row, const bf16 *added, bf16 *sum, long width) {
    for (long column = 0; column < width; column += 16) {
        const __mmask16 mask = first_of_16(width - column);
        narrow(sum + column, mask, _mm512_add_ps(widened(mask, row + column), widened(mask, added + column)));
    }
}

static void join_share(void *data) {
    const Join *join = data;
    const long me = omp_get_thread_num(), team = omp_get_num_threads(), width = join->width;
    for (long row = join->n_rows * me / team; row < join->n_rows * (me + 1) / team; row++) {
        bf16 *added = join->added + row * width, *sum = join->sums + row * width;
        if (join->after->weight) norm_row(added, join->after, added, width);
        add_row(join->rows + row * width, added, sum, width);
        if (join->before->weight) norm_row(sum, join->before, join->normed + row * width, width);
    }
}

TARGET static void gate_row(const bf16 *gates, const bf16 *row, bf16 *output, long width, int is_gelu) {
    for (long column = 0; column < width; column += 16) {
        const __mmask16 mask = first_of_16(width - column);
        const __m512 x = widened(mask, gates + column);
        /* x / (1 + e^-s), by an exponential that never overflows; (1 + tanh(s / 2)) / 2 is 1 / (1 + e^-s) */
        __m512 s = x;
        if (is_gelu) {
            const __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), _mm512_set1_ps(1.f));
            s = _mm512_mul_ps(_mm512_mul_ps(x, cubic), _mm512_set1_ps(1.59576912f)); /* twice the root of 2 / pi */
        }
        const __m512 small = exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(s)));
        const __mmask16 is_negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
        const __m512 above = _mm512_mask_mul_ps(x, is_negative, x, small);
        const __m512 opened = _mm512_div_ps(above, _mm512_add_ps(_mm512_set1_ps(1.f), small));
        narrow(output + column, mask, _mm512_mul_ps(rounded(opened), widened(mask, row + column)));
    }
}

static void gate_share(void *data) {
    const Gate *gate = data;
    const long me = omp_get_thread_num(), team = omp_get_num_threads(), width = gate->width;
    for (long row = gate->n_rows * me / team; row < gate->n_rows * (me + 1) / team; row++)
        gate_row(gate->gates + row * gate->stride, gate->rows + row * gate->stride, gate->outputs + row * width, width, gate->is_gelu);
}

/* Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of one head: each number of the first half makes a pair
   with its fellow of the second. */
TARGET static void turn(bf16 *head, const bf16 *cosines, const bf16 *sines, long n_turned) {
    const long half = n_turned / 2;
    for (long column = 0; column < half; column += 16) {
        const __mmask16 mask = first_of_16(half - column);
        const __m512 first = widened(mask, head + column), second = widened(mask, head + half + column);
        const __m512 along = rounded(_mm512_mul_ps(first, widened(mask, cosines + column)));
        const __m512 across = rounded(_mm512_mul_ps(second, widened(mask, sines + column)));
        const __m512 along_2 = rounded(_mm512_mul_ps(second, widened(mask, cosines + half + column)));
        const __m512 across_2 = rounded(_mm512_mul_ps(first, widened(mask, sines + half + column)));
        narrow(head + column, mask, _mm512_sub_ps(along, across));
        narrow(head + half + column, mask, _mm512_add_ps(along_2, across_2));
    }
}

static void place_head(const Heads *all, long row, const bf16 *head, const RowNorm *norm, bf16 *to) {
    if (norm->weight)
        norm_row(head, norm, to, all->width);
    else if (to != head)
        memcpy(to, head, all->width * sizeof(bf16));
    turn(to, all->cosines + row * all->n_turned, all->sines + row * all->n_turned, all->n_turned);
}

static void heads_share(void *data) {
    const Heads *all = data;
    const long me = omp_get_thread_num(), team = omp_get_num_threads(), width = all->width;
    const long begin = all->n_rows * me / team, end = all->n_rows * (me + 1) / team;
    for (const Session *session = all->sessions; session < all->sessions + all->n_sessions; session++) {
        const long last = session->first + session->n_new < end ? session->first + session->n_new : end;
        bf16 *keys = session->block + 2 * all->layer * session->tensor_stride, *values = keys + session->tensor_stride;
        for (long row = session->first > begin ? session->first : begin; row < last; row++) {
            const long place = (session->n_rows - session->n_new + row - session->first) * width;
            bf16 *head = all->rows + row * (all->n_heads + 2 * all->n_kv_heads) * width;
            for (long i = 0; i < all->n_heads; i++, head += width) place_head(all, row, head, &all->query_norm, head);
            for (long i = 0; i < all->n_kv_heads; i++, head += width)
                place_head(all, row, head, &all->key_norm, keys + i * session->head_stride + place);
            for (long i = 0; i < all->n_kv_heads; i++, head += width)
                memcpy(values + i * session->head_stride + place, head, width * sizeof(bf16));
        }
    }
}

void splitlearn_rms_norm(const void *rows, const void *weight, void *outputs, long n_rows, long width, float epsilon,
                         int adds_one, unsigned n_threads) {
    Norm norm = {rows, outputs, n_rows, width, {weight, epsilon, adds_one}};
    GOMP_parallel(norm_share, &norm, team_for_numbers(n_rows * width, n_threads), 0);
}

void splitlearn_join(const void *rows, void *added, void *sums, void *normed, const RowNorm *after, const RowNorm *before,
                     long n_rows, long width, unsigned n_threads) {
    Join join = {rows, added, sums, normed, after, before, n_rows, width};
    GOMP_parallel(join_share, &join, team_for_numbers(n_rows * width, n_threads), 0);
}

/* silu(gates) * rows, or the same with GELU */
void splitlearn_gate(const void *gates, const void *rows, void *outputs, long n_rows, long width, long stride, int is_gelu,
                     unsigned n_threads) {
    Gate gate = {gates, rows, outputs, n_rows, width, stride, is_gelu};
    GOMP_parallel(gate_share, &gate, team_for_numbers(n_rows * width, n_threads), 0);
}

void splitlearn_place_heads(const void *sessions, long n_sessions, long layer, void *rows, long n_rows, long n_heads,
                            long n_kv_heads, long width, const void *cosines, const void *sines, long n_turned,
                            const void *query_weight, const void *key_weight, float epsilon, int adds_one,
                            unsigned n_threads) {
    Heads heads = {sessions, n_sessions, layer, rows, n_rows, n_heads, n_kv_heads, width, cosines, sines, n_turned,
                   {query_weight, epsilon, adds_one}, {key_weight, epsilon, adds_one}};
    GOMP_parallel(heads_share, &heads, team_for_numbers(n_rows * (n_heads + 2 * n_kv_heads) * width, n_threads), 0);
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
