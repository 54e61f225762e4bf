/* Attention of all rows of a step to the keys and values of their sessions, which are read in place. Scores, their
   softmax and the sums over values are fp32; weights are rounded to bf16.

   A row's result does not depend on the other rows of the step, nor on how its prompt was cut. Tiles of keys begin at
   multiples of TILE of the session's rows, wherever the rows that see them begin. A score is summed over pairs of
   columns in order, a tile's values over pairs of rows in order, and the softmax is carried from tile to tile (Dao et
   al. 2022, arXiv 2205.14135). What a row does not see adds zeros at either end of such a sum. */

#include "kv_rows.h"
#include "panels.h"

#ifdef SIMD_FITS

/* Scores of query rows with a stride of a multiple of 4 KB would evict each other from the first-level cache: hence
   STRIDE. */
enum { TILE = 512, KEYS_AT_ONCE = MAX_PANELS * PANEL, MAX_BLOCKS = 16, STRIDE = TILE + KEYS_AT_ONCE };

/* A query row is one head of one row. Heads that share keys are neighbours, so that each key that is read serves all of
   them. A work item is a chunk of query rows of one session and one head of keys. */
typedef struct {
    int64_t chunk, n_chunks; /* query rows of one, and how many there are per head of keys */
    int64_t end;             /* of the session's items among those of all sessions */
} Items;

typedef struct {
    const AttendCall *call;
    const Items *items;  /* of each session */
    int64_t max_queries; /* of a chunk */
    int64_t n_items;
    int64_t next; /* first item that no worker has taken */
} Attention;

/* A worker's item: the query rows, the tile of keys and the block of query rows that it is at, and its scratch memory.
 */
typedef struct {
    const AttendCall *call;
    const Session *session;
    const uint8_t *session_keys, *session_values; /* of the head, from the session's first row on */
    const bf16 *tile_keys, *tile_values;          /* the tile's rows: the session's, or a copy of its levels */
    int64_t kv_head;
    int64_t first, count; /* query rows */
    int64_t tile, n_keys; /* the first key of the tile, and how many it has */
    int64_t from, to;     /* keys of the tile that some query row of the block sees, in multiples of KEYS_AT_ONCE */
    bf16 *keys;           /* [keys / 16][width / 2][16][2]; of KEYS_AT_ONCE keys where there are few query rows */
    bf16 *values;         /* [width / 16][keys / 2][16][2]; unused where there are few query rows */
    bf16 *copies;         /* of keys and then values, [2][TILE][width]; unused where no session holds levels */
    operand *queries;     /* [query rows][width] */
    float *outputs;       /* weighted sums of values, [query rows][width, filled up to pairs of panels] */
    float *max_scores, *weight_sums;
    float *scores; /* of a block, [MAX_ROWS][STRIDE] */
    operand *weights;
    float factors[MAX_ROWS]; /* by which the block's earlier sums shrink as a tile has greater scores */
} Chunk;

static inline int64_t group_of(const AttendCall *call) { return call->n_heads / call->n_kv_heads; }
static inline int64_t columns_of(const AttendCall *call) { return round_up(call->head_dim, MAX_PANELS * PANEL); }
static inline int64_t row_of(const Chunk *chunk, int64_t query) {
    return (chunk->first + query) / group_of(chunk->call);
}
static inline int64_t head_of(const Chunk *chunk, int64_t query) {
    const int64_t group = group_of(chunk->call);
    return chunk->kv_head * group + (chunk->first + query) % group;
}

/* A query row sees the rows of its session in [start, limit). */
static inline int64_t limit_of(const Chunk *chunk, int64_t query) {
    return chunk->session->n_rows - chunk->session->n_new + row_of(chunk, query) + 1;
}
static inline int64_t start_of(const Chunk *chunk, int64_t query) {
    const int64_t *starts = chunk->call->starts;
    return starts ? starts[chunk->session->first_row + row_of(chunk, query)] : 0;
}
static int64_t first_start(const Chunk *chunk, int64_t query, int64_t count) {
    int64_t first = start_of(chunk, query);
    for (int64_t i = 1; chunk->call->starts && i < count; i++) first = min_of(first, start_of(chunk, query + i));
    return first;
}

/* A tile that many blocks of query rows read is packed into panels, which stay in the core's cache meanwhile. */
static inline int has_many(const Chunk *chunk) { return chunk->count >= PACKED_FROM; }

TARGET static void tile_to_panels(const Chunk *chunk, int64_t begin) {
    const int64_t width = chunk->call->head_dim, to = round_up(chunk->n_keys, KEYS_AT_ONCE);
    const int64_t from = max_of(begin - chunk->tile, 0) / KEYS_AT_ONCE * KEYS_AT_ONCE;
    keys_to_panels(chunk->tile_keys, chunk->n_keys, from, to, width, chunk->keys + from * width);
    values_to_panels(chunk->tile_values, chunk->n_keys, from, to, width, TILE, chunk->values);
}

INLINE void score_block(int n_queries, Chunk *chunk, int64_t query) {
    const int64_t width = chunk->call->head_dim;
    const operand *queries = chunk->queries + query * width;
    for (int64_t key = chunk->from; key < chunk->to; key += KEYS_AT_ONCE) {
        const bf16 *panels = chunk->keys + key * width;
        if (!has_many(chunk)) {
            keys_to_panels(chunk->tile_keys, chunk->n_keys, key, key + KEYS_AT_ONCE, width, chunk->keys);
            panels = chunk->keys;
        }
        f32x16 sums[MAX_ROWS * MAX_PANELS];
        multiply_panels(n_queries, 2, queries, width, panels, PANEL * width, width / 2, NULL, sums);
        UNROLL (int i = 0; i < n_queries; i++) {
            f32_store(chunk->scores + i * STRIDE + key, sums[2 * i]);
            f32_store(chunk->scores + i * STRIDE + key + PANEL, sums[2 * i + 1]);
        }
    }
}

/* Adds a tile's sums of query row query + i to those of earlier tiles. */
INLINE void accumulate(const Chunk *chunk, int i, int64_t query, int64_t column, f32x16 sum) {
    float *output = chunk->outputs + (query + i) * columns_of(chunk->call) + column;
    f32_store(output, f32_fma(f32_load(output), f32_set(chunk->factors[i]), sum));
}

INLINE void values_from_panels(int n_queries, int n_panels, const Chunk *chunk, int64_t query, int64_t column) {
    const bf16 *values = chunk->values + column * TILE + chunk->from * PANEL;
    f32x16 sums[MAX_ROWS * MAX_PANELS];
    multiply_panels(n_queries, n_panels, chunk->weights + chunk->from, STRIDE, values, PANEL * TILE,
                    (chunk->to - chunk->from) / 2, NULL, sums);
    UNROLL (int i = 0; i < n_queries; i++)
        UNROLL (int panel = 0; panel < n_panels; panel++)
            accumulate(chunk, i, query, column + panel * PANEL, sums[i * n_panels + panel]);
}

/* The same sums of query rows query + first + i from values that are not packed. */
INLINE void values_from_rows(int n_queries, int n_panels, const Chunk *chunk, int64_t query, int first,
                             int64_t column) {
    const int64_t width = chunk->call->head_dim, last = min_of(chunk->to, chunk->n_keys), n = width - column;
    const bf16 *values = chunk->tile_values + column;
    f32x16 sums[MAX_ROWS * MAX_PANELS];
    UNROLL (int i = 0; i < n_queries * n_panels; i++) sums[i] = f32_zero();
    for (int64_t row = chunk->from; row < last; row += 2) {
        const bf16 *some = values + row * width;
        i32x16 panels[2 * MAX_PANELS];
        UNROLL (int panel = 0; panel < n_panels; panel += 2) {
            const int64_t left = n - panel * PANEL;
            load_two_rows_of_32(some + panel * PANEL, left, some + width + panel * PANEL, row + 1 < last ? left : 0,
                                panels + panel);
        }
        UNROLL (int step = 0; step < STEPS; step++)
            UNROLL (int i = 0; i < n_queries; i++) {
                const input weight = broadcast(chunk->weights + (first + i) * STRIDE + row, step);
                UNROLL (int panel = 0; panel < n_panels; panel++)
                    sums[i * n_panels + panel] =
                        add_products(sums[i * n_panels + panel], weights_of_step(panels[panel], step), weight);
            }
    }
    UNROLL (int i = 0; i < n_queries; i++)
        UNROLL (int panel = 0; panel < n_panels; panel += 2) {
            f32x16 *both = sums + i * n_panels + panel;
            restore_order(both);
            accumulate(chunk, first + i, query, column + panel * PANEL, both[0]);
            accumulate(chunk, first + i, query, column + panel * PANEL + PANEL, both[1]);
        }
}

INLINE void values_of_block(int n_queries, const Chunk *chunk, int64_t query) {
    const int64_t width = chunk->call->head_dim;
    int64_t column = 0;
    if (has_many(chunk)) {
        for (; column + PANEL < width; column += 2 * PANEL) values_from_panels(n_queries, 2, chunk, query, column);
        if (column < width) values_from_panels(n_queries, 1, chunk, query, column);
        return;
    }
    /* few query rows leave registers for more columns, and need them, as each sum waits for the one before it */
    if (n_queries <= FEW_QUERIES)
        for (; column + 2 * PANEL < width; column += 4 * PANEL) values_from_rows(n_queries, 4, chunk, query, 0, column);
    const int n_tile = n_queries <= MAX_WIDE_ROWS ? n_queries : (n_queries + 1) / 2;
    for (; column < width; column += 2 * PANEL) {
        values_from_rows(n_tile, 2, chunk, query, 0, column);
        if (n_tile < n_queries) values_from_rows(n_queries - n_tile, 2, chunk, query, n_tile, column);
    }
}

#define CASE_SCORE(n)                                                                                                  \
    LABEL(n) : score_block(n, chunk, query);                                                                           \
    break;
#define CASE_VALUES(n)                                                                                                 \
    LABEL(n) : values_of_block(n, chunk, query);                                                                       \
    break;
TARGET static void score_some(int64_t n_queries, Chunk *chunk, int64_t query) {
    switch (n_queries) { FOR_EACH_HEIGHT(CASE_SCORE, (int)n_queries) }
}
TARGET static void values_some(int64_t n_queries, const Chunk *chunk, int64_t query) {
    switch (n_queries) { FOR_EACH_HEIGHT(CASE_VALUES, (int)n_queries) }
}

/* cap * tanh(scores / cap), by an exponential that never overflows. */
INLINE f32x16 capped(f32x16 scores, float cap) {
    const f32x16 one = f32_set(1.f), size = f32_abs(f32_div(scores, f32_set(cap)));
    const f32x16 small = f32_exp(f32_mul(size, f32_set(-2.f)));
    const f32x16 tanh = f32_div(f32_sub(one, small), f32_add(one, small));
    return f32_with_sign_of(f32_mul(tanh, f32_set(cap)), scores);
}

/* Turns the scores of the block's query row i into weights in bf16: zeros where it sees nothing. */
TARGET static void softmax_row(Chunk *chunk, int i, int64_t query) {
    float *scores = chunk->scores + i * STRIDE;
    operand *weights = chunk->weights + i * STRIDE;
    const SoftmaxParams *params = &chunk->call->params;
    const int64_t begin = max_of(start_of(chunk, query) - chunk->tile, 0),
                  end = min_of(limit_of(chunk, query) - chunk->tile, chunk->to);
    const int64_t first = begin < end ? begin / PANEL * PANEL : chunk->to,
                  last = begin < end ? round_up(end, PANEL) : chunk->to;
    const f32x16 scaling = f32_set(params->scaling), nothing = f32_set(-__builtin_inff());
    for (int64_t key = chunk->from; key < first; key += PANEL) store_operands(weights + key, PANEL, f32_zero());
    for (int64_t key = last; key < chunk->to; key += PANEL) store_operands(weights + key, PANEL, f32_zero());
    chunk->factors[i] = 1.f;
    if (begin >= end) return;
    f32x16 max = f32_set(chunk->max_scores[query]), total = f32_zero();
    for (int64_t key = first; key < last; key += PANEL) {
        f32x16 scaled = f32_mul(f32_load(scores + key), scaling);
        if (params->softcap > 0.f) scaled = capped(scaled, params->softcap);
        const f32x16 seen = f32_where_within(begin - key, end - key, scaled, nothing);
        f32_store(scores + key, seen);
        max = f32_max(max, seen);
    }
    const float max_score = f32_reduce_max(max);
    const f32x16 top = f32_set(max_score);
    for (int64_t key = first; key < last; key += PANEL) {
        const f32x16 weight = f32_exp(f32_sub(f32_load(scores + key), top));
        total = f32_add(total, weight);
        store_operands(weights + key, PANEL, weight);
    }
    const float factor = f32_first(f32_exp(f32_sub(f32_set(chunk->max_scores[query]), top)));
    chunk->max_scores[query] = max_score;
    chunk->weight_sums[query] = chunk->weight_sums[query] * factor + f32_reduce_add(total);
    chunk->factors[i] = factor;
}

/* Rows from `begin` on, which some query row sees. */
TARGET static void find_tile(Chunk *chunk, int64_t begin) {
    const int64_t width = chunk->call->head_dim, row_bytes = row_bytes_of(chunk->session, width);
    const uint8_t *keys = chunk->session_keys + chunk->tile * row_bytes;
    const uint8_t *values = chunk->session_values + chunk->tile * row_bytes;
    if (!chunk->session->level_row_bytes) {
        chunk->tile_keys = (const bf16 *)keys;
        chunk->tile_values = (const bf16 *)values;
        return;
    }
    const int64_t from = max_of(begin - chunk->tile, 0) / KEYS_AT_ONCE * KEYS_AT_ONCE;
    bf16 *key_copies = chunk->copies, *value_copies = chunk->copies + TILE * width;
    load_levels_of_rows(keys, row_bytes, from, chunk->n_keys, width, key_copies);
    load_levels_of_rows(values, row_bytes, from, chunk->n_keys, width, value_copies);
    chunk->tile_keys = key_copies;
    chunk->tile_values = value_copies;
}

static void attend_chunk(Chunk *chunk) {
    const int64_t last = limit_of(chunk, chunk->count - 1), begin = first_start(chunk, 0, chunk->count);
    for (chunk->tile = begin / TILE * TILE; chunk->tile < last; chunk->tile += TILE) {
        chunk->n_keys = min_of(last - chunk->tile, TILE);
        find_tile(chunk, begin);
        if (has_many(chunk)) tile_to_panels(chunk, begin);
        for (int64_t query = 0; query < chunk->count; query += MAX_ROWS) {
            const int64_t n_queries = min_of(chunk->count - query, MAX_ROWS);
            const int64_t end = min_of(limit_of(chunk, query + n_queries - 1) - chunk->tile, chunk->n_keys);
            chunk->from = max_of(first_start(chunk, query, n_queries) - chunk->tile, 0) / KEYS_AT_ONCE * KEYS_AT_ONCE;
            if (end <= chunk->from) continue;
            chunk->to = round_up(end, KEYS_AT_ONCE);
            score_some(n_queries, chunk, query);
            for (int i = 0; i < n_queries; i++) softmax_row(chunk, i, query + i);
            values_some(n_queries, chunk, query);
        }
    }
}

TARGET static void write_outputs(const Chunk *chunk) {
    const AttendCall *call = chunk->call;
    const int64_t width = call->head_dim, stride = columns_of(call);
    for (int64_t query = 0; query < chunk->count; query++) {
        const int64_t row = chunk->session->first_row + row_of(chunk, query);
        bf16 *to = call->outputs + (row * call->n_heads + head_of(chunk, query)) * width;
        const f32x16 inverse = f32_set(1.f / chunk->weight_sums[query]);
        for (int64_t column = 0; column < width; column += PANEL) {
            const f32x16 sum = f32_load(chunk->outputs + query * stride + column);
            /* a zero's sign depends on how many zeros were added before: adding zero makes it positive */
            store_bf16(to + column, width - column, f32_fma(sum, inverse, f32_zero()));
        }
    }
}

TARGET static void begin_chunk(Chunk *chunk) {
    const AttendCall *call = chunk->call;
    const float *sinks = call->params.sinks;
    for (int64_t query = 0; query < chunk->count; query++) {
        const int64_t row = chunk->session->first_row + row_of(chunk, query), head = head_of(chunk, query);
        const bf16 *from = call->queries + head * call->head_stride + row * call->row_stride;
        copy_operands(chunk->queries + query * call->head_dim, from, call->head_dim);
        /* a sink is a score that takes part in the softmax and has no value */
        chunk->max_scores[query] = sinks ? sinks[head] : -__builtin_inff();
        chunk->weight_sums[query] = sinks ? 1.f : 0.f;
    }
    memset(chunk->outputs, 0, (size_t)(chunk->count * columns_of(call)) * sizeof(float));
}

/* The last rows of a prompt see the most: they come first, so that the threads end together. */
static void attend_item(Chunk *chunk, const Session *session, const Items *items, int64_t item) {
    const AttendCall *call = chunk->call;
    const int64_t n_queries = session->n_new * group_of(call), index = items->n_chunks - 1 - item / call->n_kv_heads;
    chunk->session = session;
    chunk->kv_head = item % call->n_kv_heads;
    chunk->session_keys = rows_at(session, 2 * call->layer, chunk->kv_head, 0, call->head_dim);
    chunk->session_values = rows_at(session, 2 * call->layer + 1, chunk->kv_head, 0, call->head_dim);
    chunk->first = index * items->chunk;
    chunk->count = min_of(n_queries - chunk->first, items->chunk);
    begin_chunk(chunk);
    attend_chunk(chunk);
    write_outputs(chunk);
}

static int holds_levels(const AttendCall *call) {
    for (int64_t i = 0; i < call->n_sessions; i++)
        if (call->sessions[i].level_row_bytes) return 1;
    return 0;
}

/* Gives the chunk scratch memory; NO_MEMORY: there is none. It begins at `keys`. */
static int32_t allocate(Chunk *chunk, int64_t max_queries) {
    const int64_t width = chunk->call->head_dim, columns = columns_of(chunk->call);
    const int64_t n_floats = max_queries * (columns + 2) + MAX_ROWS * STRIDE;
    const int64_t n_panels = max_queries >= PACKED_FROM ? TILE * (width + columns) : KEYS_AT_ONCE * width;
    const int64_t n_operands = max_queries * width + MAX_ROWS * STRIDE;
    const int64_t n_copied = holds_levels(chunk->call) ? 2 * TILE * width : 0;
    const int64_t n_bytes = (n_panels + n_copied) * (int64_t)sizeof(bf16) + n_floats * (int64_t)sizeof(float) +
                            n_operands * (int64_t)sizeof(operand);
    chunk->keys = take_scratch((size_t)n_bytes);
    if (!chunk->keys) return NO_MEMORY;
    chunk->values = max_queries >= PACKED_FROM ? chunk->keys + TILE * width : NULL;
    chunk->outputs = (float *)(chunk->keys + n_panels);
    chunk->max_scores = chunk->outputs + max_queries * columns;
    chunk->weight_sums = chunk->max_scores + max_queries;
    chunk->scores = chunk->weight_sums + max_queries;
    chunk->queries = (operand *)(chunk->outputs + n_floats);
    chunk->weights = chunk->queries + max_queries * width;
    chunk->copies = (bf16 *)(chunk->queries + n_operands);
    return OK;
}

/* A worker without memory leaves its items to the others. */
TARGET static void attend_worker(void *data) {
    Attention *all = data;
    const AttendCall *call = all->call;
    const Items *items = all->items;
    Chunk chunk = {.call = call};
    if (allocate(&chunk, all->max_queries) != OK) return;
    int64_t item, index = 0;
    while ((item = fetch_add(&all->next, 1)) < all->n_items) {
        while (item >= items[index].end) index++;
        attend_item(&chunk, call->sessions + index, items + index, item - (index ? items[index - 1].end : 0));
    }
    release_tiles();
    give_back_scratch(chunk.keys);
}

/* The items of all sessions, so that a team of threads has work for all. */
static void split(Attention *all, Items *items, unsigned team) {
    const AttendCall *call = all->call;
    for (int64_t i = 0; i < call->n_sessions; i++) {
        const int64_t n_queries = call->sessions[i].n_new * group_of(call);
        const int64_t n_blocks = (n_queries + MAX_ROWS - 1) / MAX_ROWS;
        const int64_t chunk = MAX_ROWS * min_of((call->n_kv_heads * n_blocks + team - 1) / team, MAX_BLOCKS);
        const int64_t n_chunks = (n_queries + chunk - 1) / chunk;
        items[i] = (Items){chunk, n_chunks, all->n_items += n_chunks * call->n_kv_heads};
        all->max_queries = max_of(all->max_queries, min_of(chunk, n_queries));
    }
}

int32_t splitlearn_attend(const AttendCall *call) {
    if (!call->n_sessions) return OK;
    Items *items = malloc((size_t)call->n_sessions * sizeof(Items));
    if (!items) return NO_MEMORY;
    int64_t n_products = 0;
    for (const Session *session = call->sessions; session < call->sessions + call->n_sessions; session++)
        n_products += 2 * session->n_rows * session->n_new * call->n_heads * call->head_dim;
    const unsigned team = team_for_products(n_products, call->n_threads);
    Attention all = {.call = call, .items = items};
    split(&all, items, team);
    in_parallel(attend_worker, &all, team);
    free(items);
    return all.next < all.n_items ? NO_MEMORY : OK; /* items are left where no worker had memory */
}

#endif
