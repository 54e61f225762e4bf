/* What is between linear layers: norms, residuals, gates and rotary positions, each in one pass over the rows. Results
   are rounded to bf16 where torch rounds them. */

#include "kv_rows.h"

#ifdef SIMD_FITS

/* The rows of this thread: a team splits them evenly. */
typedef struct {
    int64_t begin, end;
} Rows;

static Rows rows_of_worker(int64_t n_rows) {
    const int64_t worker = thread_of_team(), team = team_size();
    return (Rows){n_rows * worker / team, n_rows * (worker + 1) / team};
}

/* The output may be the row itself. */
TARGET static void norm_row(const bf16 *row, const RowNorm *norm, bf16 *output, int64_t width) {
    f32x16 squares = f32_zero();
    for (int64_t column = 0; column < width; column += 16) {
        const f32x16 some = load_bf16(row + column, width - column);
        squares = f32_fma(some, some, squares);
    }
    const float mean = f32_reduce_add(squares) / (float)width;
    const f32x16 scale = f32_set(1.f / __builtin_sqrtf(mean + norm->epsilon));
    for (int64_t column = 0; column < width; column += 16) {
        const int64_t n = width - column;
        const f32x16 normed = f32_mul(load_bf16(row + column, n), scale);
        const f32x16 weights = load_bf16(norm->weight + column, n);
        const f32x16 weighed =
            norm->unit_offset ? f32_mul(normed, f32_add(weights, f32_set(1.f))) : f32_mul(round_bf16(normed), weights);
        store_bf16(output + column, n, weighed);
    }
}

static void norm_worker(void *data) {
    const RmsNormCall *call = data;
    const int64_t width = call->width;
    const Rows rows = rows_of_worker(call->n_rows);
    for (int64_t row = rows.begin; row < rows.end; row++)
        norm_row(call->rows + row * width, &call->norm, call->outputs + row * width, width);
}

TARGET static void add_row(const bf16 *row, const bf16 *added, bf16 *sum, int64_t width) {
    for (int64_t column = 0; column < width; column += 16) {
        const int64_t n = width - column;
        store_bf16(sum + column, n, f32_add(load_bf16(row + column, n), load_bf16(added + column, n)));
    }
}

static void residual_norm_worker(void *data) {
    const ResidualNormCall *call = data;
    const int64_t width = call->width;
    const Rows rows = rows_of_worker(call->n_rows);
    for (int64_t row = rows.begin; row < rows.end; row++) {
        bf16 *added = call->added + row * width, *sum = call->sums + row * width;
        if (call->added_norm->weight) norm_row(added, call->added_norm, added, width);
        add_row(call->rows + row * width, added, sum, width);
        if (call->sums_norm->weight) norm_row(sum, call->sums_norm, call->normed + row * width, width);
    }
}

/* What is greater than the limit becomes it; NaN stays. */
INLINE f32x16 at_most(f32x16 a, f32x16 limit) { return f32_where_negative(f32_sub(limit, a), limit, a); }

TARGET static void gate_row(const bf16 *gates, const bf16 *row, bf16 *output, int64_t width, const Gate *gate) {
    const f32x16 limit = f32_set(gate->limit), negative_limit = f32_set(-gate->limit);
    for (int64_t column = 0; column < width; column += 16) {
        const int64_t n = width - column;
        f32x16 x = load_bf16(gates + column, n), factor = load_bf16(row + column, n);
        if (gate->limit > 0.f) {
            x = at_most(x, limit);
            factor = at_most(factor, limit);
            factor = f32_where_negative(f32_sub(factor, negative_limit), negative_limit, factor);
        }
        /* x / (1 + e^-s), by an exponential that never overflows; (1 + tanh(s / 2)) / 2 is 1 / (1 + e^-s) */
        f32x16 s = f32_mul(x, f32_set(gate->alpha));
        if (gate->is_gelu) {
            const f32x16 cubic = f32_fma(f32_mul(x, x), f32_set(0.044715f), f32_set(1.f));
            s = f32_mul(f32_mul(x, cubic), f32_set(1.59576912f)); /* twice the root of 2 / pi */
        }
        const f32x16 small = f32_exp(f32_sub(f32_zero(), f32_abs(s)));
        const f32x16 above = f32_where_negative(x, f32_mul(x, small), x);
        const f32x16 opened = f32_div(above, f32_add(f32_set(1.f), small));
        store_bf16(output + column, n, f32_mul(round_bf16(opened), f32_add(factor, f32_set(gate->offset))));
    }
}

static void gate_worker(void *data) {
    const GateCall *call = data;
    const Rows rows = rows_of_worker(call->n_rows);
    for (int64_t row = rows.begin; row < rows.end; row++)
        gate_row(call->gates + row * call->stride, call->rows + row * call->stride, call->outputs + row * call->width,
                 call->width, &call->gate);
}

/* Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of one head: number i is rotated with number half + i.
 */
TARGET static void rope(bf16 *head, const bf16 *cosines, const bf16 *sines, int64_t rotary_dim) {
    const int64_t half = rotary_dim / 2;
    for (int64_t column = 0; column < half; column += 16) {
        const int64_t n = half - column;
        const f32x16 first = load_bf16(head + column, n), second = load_bf16(head + half + column, n);
        const f32x16 along = round_bf16(f32_mul(first, load_bf16(cosines + column, n)));
        const f32x16 across = round_bf16(f32_mul(second, load_bf16(sines + column, n)));
        const f32x16 along_2 = round_bf16(f32_mul(second, load_bf16(cosines + half + column, n)));
        const f32x16 across_2 = round_bf16(f32_mul(first, load_bf16(sines + half + column, n)));
        store_bf16(head + column, n, f32_sub(along, across));
        store_bf16(head + half + column, n, f32_add(along_2, across_2));
    }
}

static void rope_and_store_head(const RopeAndStoreCall *call, int64_t row, const bf16 *head, const RowNorm *norm,
                                bf16 *to) {
    const int64_t rotary_dim = call->rotary_dim;
    if (norm->weight)
        norm_row(head, norm, to, call->head_dim);
    else if (to != head)
        memcpy(to, head, (size_t)call->head_dim * sizeof(bf16));
    if (rotary_dim) rope(to, call->cosines + row * rotary_dim, call->sines + row * rotary_dim, rotary_dim);
}

TARGET static void rope_and_store_row(const RopeAndStoreCall *call, const Session *session, int64_t row) {
    const int64_t width = call->head_dim, position = session->n_rows - session->n_new + row - session->first_row;
    const int64_t keys = 2 * call->layer, values = keys + 1;
    bf16 *head = call->rows + row * (call->n_heads + 2 * call->n_kv_heads) * width;
    for (int64_t i = 0; i < call->n_heads; i++, head += width)
        rope_and_store_head(call, row, head, &call->query_norm, head);
    for (int64_t i = 0; i < call->n_kv_heads; i++, head += width) {
        uint8_t *to = rows_at(session, keys, i, position, width);
        bf16 *key = session->level_row_bytes ? head : (bf16 *)to;
        rope_and_store_head(call, row, head, &call->key_norm, key);
        store_kv_row(session, key, width, to);
    }
    for (int64_t i = 0; i < call->n_kv_heads; i++, head += width)
        store_kv_row(session, head, width, rows_at(session, values, i, position, width));
}

static void rope_and_store_worker(void *data) {
    const RopeAndStoreCall *call = data;
    const Rows rows = rows_of_worker(call->n_rows);
    for (const Session *session = call->sessions; session < call->sessions + call->n_sessions; session++) {
        const int64_t first = session->first_row, last = first + session->n_new;
        for (int64_t row = first > rows.begin ? first : rows.begin; row < last && row < rows.end; row++)
            rope_and_store_row(call, session, row);
    }
}

/* Workers only read the call; in_parallel takes no pointer to const. */
int32_t splitlearn_rms_norm(const RmsNormCall *call) {
    RmsNormCall copy = *call;
    in_parallel(norm_worker, &copy, team_for_numbers(call->n_rows * call->width, call->n_threads));
    return OK;
}

void residual_norm(const ResidualNormCall *call) {
    ResidualNormCall copy = *call;
    in_parallel(residual_norm_worker, &copy, team_for_numbers(call->n_rows * call->width, call->n_threads));
}

int32_t splitlearn_gate(const GateCall *call) {
    GateCall copy = *call;
    in_parallel(gate_worker, &copy, team_for_numbers(call->n_rows * call->width, call->n_threads));
    return OK;
}

int32_t splitlearn_rope_and_store(const RopeAndStoreCall *call) {
    RopeAndStoreCall copy = *call;
    const int64_t n_numbers = call->n_rows * (call->n_heads + 2 * call->n_kv_heads) * call->head_dim;
    in_parallel(rope_and_store_worker, &copy, team_for_numbers(n_numbers, call->n_threads));
    return OK;
}

TARGET int32_t splitlearn_store(const StoreCall *call) {
    const int64_t width = call->head_dim;
    for (const Session *session = call->sessions; session < call->sessions + call->n_sessions; session++)
        for (int64_t head = 0; head < call->n_heads; head++) {
            const bf16 *from = call->rows + head * call->head_stride + session->first_row * call->row_stride;
            uint8_t *to = rows_at(session, call->tensor, head, session->n_rows - session->n_new, width);
            for (int64_t row = 0; row < session->n_new; row++)
                store_kv_row(session, from + row * call->row_stride, width, to + row * row_bytes_of(session, width));
        }
    return OK;
}

#endif
