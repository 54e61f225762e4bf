/* Attention over keys and values where the sessions keep them, of all rows of a step. Scores, their softmax and the sums
   over values are fp32; weights are rounded to bf16.

   A row's result does not depend on which rows come with it, nor on where its prompt was cut. Tiles of keys begin at
   multiples of TILE of the session's rows, wherever the rows that look at them begin; a score is summed over pairs of
   columns in their order, a tile's values over pairs of rows in theirs, and the softmax is carried from tile to tile (Dao
   et al. 2022, arXiv 2205.14135). What a row does not see adds zeros at either end of such a sum. */

#include "panels.h"

#if defined(__x86_64__)

/* Scores of lines that began a multiple of 4 KB apart would push each other out of the first-level cache: hence STRIDE. */
enum { TILE = 512, KEYS_AT_ONCE = MOST_PANELS * PANEL, MOST_BLOCKS = 16, STRIDE = TILE + KEYS_AT_ONCE, FEW_LINES = 3 };

/* What one session brings is taken in chunks of lines, for each head of keys. */
typedef struct {
    long chunk, n_chunks; /* lines in one, and how many there are */
    long end;             /* of its items among those of all sessions */
} Share;

typedef struct {
    const Session *sessions;
    long n_sessions, layer;
    const long *starts; /* of each row of the step the first row of its session that it sees; NULL: 0 */
    const bf16 *queries;
    long head_stride, row_stride; /* of queries */
    bf16 *outputs;                /* [rows][heads][width] */
    long n_heads, n_kv_heads, width;
    How how;
    const Share *shares;
    long most_lines; /* of a chunk */
    long next;       /* item that nobody has taken */
} Attention;

/* A line is one head of one row; heads that share keys have theirs side by side, so that each key that is read serves
   all of them. */
typedef struct {
    const Attention *all;
    const Session *session;
    const bf16 *session_keys, *session_values; /* of the head, from the session's first row on */
    long kv_head;
    long first, count; /* lines */
    long tile, n_keys; /* the first key of the tile, and how many there are */
    long from, to;     /* keys of the tile that some line of the block sees, in multiples of KEYS_AT_ONCE */
    bf16 *keys;        /* [keys / 16][width / 2][16][2]; where lines are few, KEYS_AT_ONCE of them */
    bf16 *values;      /* [width / 16][keys / 2][16][2]; unused where lines are few */
    bf16 *queries;     /* [lines][width] */
    float *mixed;      /* [lines][width, filled up to pairs of panels] */
    float *greatest, *totals;
    float *scores; /* of a block, [14][STRIDE] */
    bf16 *weights;
    float factors[MOST_ROWS]; /* what a tile's greater scores leave of what was mixed before */
} Lines;

static inline long shared_by(const Attention *all) { return all->n_heads / all->n_kv_heads; }
static inline long columns_of(const Attention *all) { return padded(all->width, MOST_PANELS * PANEL); }
static inline long row_of(const Lines *lines, long line) { return (lines->first + line) / shared_by(lines->all); }
static inline long head_of(const Lines *lines, long line) {
    const long shared = shared_by(lines->all);
    return lines->kv_head * shared + (lines->first + line) % shared;
}

/* A line sees the rows of its session in [start, limit). */
static inline long limit_of(const Lines *lines, long line) {
    return lines->session->n_rows - lines->session->n_new + row_of(lines, line) + 1;
}
static inline long start_of(const Lines *lines, long line) {
    return lines->all->starts ? lines->all->starts[lines->session->first + row_of(lines, line)] : 0;
}
static long first_start(const Lines *lines, long line, long count) {
    long first = start_of(lines, line);
    for (long i = 1; lines->all->starts && i < count; i++) first = least(first, start_of(lines, line + i));
    return first;
}

/* Where many blocks of lines look at a tile, it is put into panels that stay in a core's cache meanwhile. */
static inline int are_many(const Lines *lines) { return lines->count > MOST_ROWS; }

TARGET static void tile_to_panels(const Lines *lines, long begin) {
    const long width = lines->all->width, to = padded(lines->n_keys, KEYS_AT_ONCE);
    const long from = most(begin - lines->tile, 0) / KEYS_AT_ONCE * KEYS_AT_ONCE;
    const bf16 *keys = lines->session_keys + lines->tile * width, *values = lines->session_values + lines->tile * width;
    keys_to_panels(keys, lines->n_keys, from, to, width, lines->keys + from * width);
    values_to_panels(values, lines->n_keys, from, to, width, TILE, lines->values);
}

INLINE void score_block(int n_lines, Lines *lines, long line) {
    const long width = lines->all->width;
    const bf16 *queries = lines->queries + line * width, *tile = lines->session_keys + lines->tile * width;
    for (long key = lines->from; key < lines->to; key += KEYS_AT_ONCE) {
        const bf16 *panels = lines->keys + key * width;
        if (!are_many(lines)) {
            keys_to_panels(tile, lines->n_keys, key, key + KEYS_AT_ONCE, width, lines->keys);
            panels = lines->keys;
        }
        __m512 sums[MOST_ROWS * MOST_PANELS];
        multiply(n_lines, 2, queries, width, panels, PANEL * width, width / 2, NULL, sums);
        UNROLL for (int i = 0; i < n_lines; i++) {
            _mm512_storeu_ps(lines->scores + i * STRIDE + key, sums[2 * i]);
            _mm512_storeu_ps(lines->scores + i * STRIDE + key + PANEL, sums[2 * i + 1]);
        }
    }
}

/* Takes a tile's sums of a line into what was mixed before. */
INLINE void carry(const Lines *lines, int i, long line, long column, __m512 sum) {
    float *mixed = lines->mixed + (line + i) * columns_of(lines->all) + column;
    _mm512_storeu_ps(mixed, _mm512_fmadd_ps(_mm512_loadu_ps(mixed), _mm512_set1_ps(lines->factors[i]), sum));
}

INLINE void mix_panels(int n_lines, int n_panels, const Lines *lines, long line, long column) {
    const bf16 *values = lines->values + column * TILE + lines->from * PANEL;
    __m512 sums[MOST_ROWS * MOST_PANELS];
    multiply(n_lines, n_panels, lines->weights + lines->from, STRIDE, values, PANEL * TILE, (lines->to - lines->from) / 2,
             NULL, sums);
    UNROLL for (int i = 0; i < n_lines; i++)
        UNROLL for (int panel = 0; panel < n_panels; panel++)
            carry(lines, i, line, column + panel * PANEL, sums[i * n_panels + panel]);
}

/* The same sums from values as they lie. */
INLINE void mix_rows(int n_lines, int n_panels, const Lines *lines, long line, long column) {
    const long width = lines->all->width, last = least(lines->to, lines->n_keys);
    const bf16 *values = lines->session_values + lines->tile * width + column;
    __mmask32 there[MOST_PANELS];
    __m512 sums[MOST_ROWS * MOST_PANELS];
    UNROLL for (int pair = 0; pair < n_panels / 2; pair++) there[pair] = first_of_32(width - column - pair * 2 * PANEL);
    UNROLL for (int i = 0; i < n_lines * n_panels; i++) sums[i] = _mm512_setzero_ps();
    for (long row = lines->from; row < last; row += 2) {
        const bf16 *some = values + row * width;
        __m512i panels[2 * MOST_PANELS];
        UNROLL for (int pair = 0; pair < n_panels / 2; pair++)
            pair_columns(some + pair * 2 * PANEL, some + width + pair * 2 * PANEL, there[pair],
                         row + 1 < last ? there[pair] : 0, panels + 2 * pair);
        UNROLL for (int i = 0; i < n_lines; i++) {
            const __m512i weights = both_inputs(lines->weights + i * STRIDE + row);
            UNROLL for (int panel = 0; panel < n_panels; panel++)
                sums[i * n_panels + panel] = plus_pairs(sums[i * n_panels + panel], panels[panel], weights);
        }
    }
    UNROLL for (int i = 0; i < n_lines; i++)
        UNROLL for (int pair = 0; pair < n_panels / 2; pair++) {
            __m512 *both = sums + i * n_panels + 2 * pair;
            in_order(both);
            carry(lines, i, line, column + pair * 2 * PANEL, both[0]);
            carry(lines, i, line, column + pair * 2 * PANEL + PANEL, both[1]);
        }
}

INLINE void mix_block(int n_lines, const Lines *lines, long line) {
    const long width = lines->all->width;
    long column = 0;
    if (are_many(lines)) {
        for (; column + PANEL < width; column += 2 * PANEL) mix_panels(n_lines, 2, lines, line, column);
        if (column < width) mix_panels(n_lines, 1, lines, line, column);
        return;
    }
    /* few lines have registers left for more columns, and need them: a sum waits for the one before it */
    if (n_lines <= FEW_LINES)
        for (; column + 2 * PANEL < width; column += 4 * PANEL) mix_rows(n_lines, 4, lines, line, column);
    for (; column < width; column += 2 * PANEL) mix_rows(n_lines, 2, lines, line, column);
}

#define CASE_SCORE(n) case n: score_block(n, lines, line); break;
#define CASE_MIX(n) case n: mix_block(n, lines, line); break;
TARGET static void score_some(long n_lines, Lines *lines, long line) { switch (n_lines) { EACH_HEIGHT(CASE_SCORE) } }
TARGET static void mix_some(long n_lines, const Lines *lines, long line) { switch (n_lines) { EACH_HEIGHT(CASE_MIX) } }

/* cap * tanh(scores / cap), by an exponential that never overflows. */
INLINE __m512 capped(__m512 scores, float cap) {
    const __m512 one = _mm512_set1_ps(1.f), size = _mm512_abs_ps(_mm512_div_ps(scores, _mm512_set1_ps(cap)));
    const __m512 small = exponential(_mm512_mul_ps(size, _mm512_set1_ps(-2.f)));
    const __m512 tanh = _mm512_div_ps(_mm512_sub_ps(one, small), _mm512_add_ps(one, small));
    const __m512i sign = _mm512_and_si512(_mm512_castps_si512(scores), _mm512_set1_epi32(INT32_MIN));
    const __m512i product = _mm512_castps_si512(_mm512_mul_ps(tanh, _mm512_set1_ps(cap)));
    return _mm512_castsi512_ps(_mm512_or_si512(product, sign));
}

/* Scores of the block's line `i` to weights in bf16, zeros where it sees nothing. */
TARGET static void weigh_line(Lines *lines, int i, long line) {
    float *scores = lines->scores + i * STRIDE;
    bf16 *weights = lines->weights + i * STRIDE;
    const How *how = &lines->all->how;
    const long begin = most(start_of(lines, line) - lines->tile, 0), end = least(limit_of(lines, line) - lines->tile, lines->to);
    const long first = begin < end ? begin / PANEL * PANEL : lines->to, last = begin < end ? padded(end, PANEL) : lines->to;
    const __m512 scaling = _mm512_set1_ps(how->scaling), nothing = _mm512_set1_ps(-__builtin_inff());
    for (long key = lines->from; key < first; key += PANEL) narrow(weights + key, 0xffff, _mm512_setzero_ps());
    for (long key = last; key < lines->to; key += PANEL) narrow(weights + key, 0xffff, _mm512_setzero_ps());
    lines->factors[i] = 1.f;
    if (begin >= end) return;
    __m512 greatest = _mm512_set1_ps(lines->greatest[line]), total = _mm512_setzero_ps();
    for (long key = first; key < last; key += PANEL) {
        __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(scores + key), scaling);
        if (how->softcap > 0.f) scaled = capped(scaled, how->softcap);
        const __mmask16 before = key < begin ? first_of_16(begin - key) : 0;
        const __m512 seen = _mm512_mask_blend_ps(first_of_16(end - key) & ~before, nothing, scaled);
        _mm512_storeu_ps(scores + key, seen);
        greatest = _mm512_max_ps(greatest, seen);
    }
    const float most_of_all = _mm512_reduce_max_ps(greatest);
    const __m512 top = _mm512_set1_ps(most_of_all);
    for (long key = first; key < last; key += PANEL) {
        const __m512 weight = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + key), top));
        total = _mm512_add_ps(total, weight);
        narrow(weights + key, 0xffff, weight);
    }
    const float factor = _mm512_cvtss_f32(exponential(_mm512_sub_ps(_mm512_set1_ps(lines->greatest[line]), top)));
    lines->greatest[line] = most_of_all;
    lines->totals[line] = lines->totals[line] * factor + _mm512_reduce_add_ps(total);
    lines->factors[i] = factor;
}

static void attend_lines(Lines *lines) {
    const long last = limit_of(lines, lines->count - 1), begin = first_start(lines, 0, lines->count);
    for (lines->tile = begin / TILE * TILE; lines->tile < last; lines->tile += TILE) {
        lines->n_keys = least(last - lines->tile, TILE);
        if (are_many(lines)) tile_to_panels(lines, begin);
        for (long line = 0; line < lines->count; line += MOST_ROWS) {
            const long n_lines = least(lines->count - line, MOST_ROWS);
            const long end = least(limit_of(lines, line + n_lines - 1) - lines->tile, lines->n_keys);
            lines->from = most(first_start(lines, line, n_lines) - lines->tile, 0) / KEYS_AT_ONCE * KEYS_AT_ONCE;
            if (end <= lines->from) continue;
            lines->to = padded(end, KEYS_AT_ONCE);
            score_some(n_lines, lines, line);
            for (int i = 0; i < n_lines; i++) weigh_line(lines, i, line + i);
            mix_some(n_lines, lines, line);
        }
    }
}

TARGET static void write_lines(const Lines *lines) {
    const Attention *all = lines->all;
    const long width = all->width, stride = columns_of(all);
    for (long line = 0; line < lines->count; line++) {
        const long row = lines->session->first + row_of(lines, line);
        bf16 *to = all->outputs + (row * all->n_heads + head_of(lines, line)) * width;
        const __m512 share = _mm512_set1_ps(1.f / lines->totals[line]);
        for (long column = 0; column < width; column += PANEL) {
            const __m512 mixed = _mm512_loadu_ps(lines->mixed + line * stride + column);
            /* a sum that began with more zeros may have lost the sign of its own */
            narrow(to + column, first_of_16(width - column), _mm512_fmadd_ps(mixed, share, _mm512_setzero_ps()));
        }
    }
}

static void begin_lines(Lines *lines) {
    const Attention *all = lines->all;
    for (long line = 0; line < lines->count; line++) {
        const long row = lines->session->first + row_of(lines, line), head = head_of(lines, line);
        const bf16 *query = all->queries + head * all->head_stride + row * all->row_stride;
        memcpy(lines->queries + line * all->width, query, all->width * sizeof(bf16));
        /* a sink is a score that takes its share of the weights and has no value */
        lines->greatest[line] = all->how.sinks ? all->how.sinks[head] : -__builtin_inff();
        lines->totals[line] = all->how.sinks ? 1.f : 0.f;
    }
    memset(lines->mixed, 0, lines->count * columns_of(all) * sizeof(float));
}

/* Late rows of a prompt see the most: they come first, so that the threads end together. */
static void attend_item(Lines *lines, const Session *session, const Share *share, long item) {
    const Attention *all = lines->all;
    const long n_lines = session->n_new * shared_by(all), chunk = share->n_chunks - 1 - item / all->n_kv_heads;
    lines->session = session;
    lines->kv_head = item % all->n_kv_heads;
    lines->session_keys = session->block + 2 * all->layer * session->tensor_stride + lines->kv_head * session->head_stride;
    lines->session_values = lines->session_keys + session->tensor_stride;
    lines->first = chunk * share->chunk;
    lines->count = least(n_lines - lines->first, share->chunk);
    begin_lines(lines);
    attend_lines(lines);
    write_lines(lines);
}

static void attend_share(void *data) {
    Attention *all = data;
    const long width = all->width, columns = columns_of(all), n_lines = all->most_lines;
    const long n_floats = n_lines * (columns + 2) + MOST_ROWS * STRIDE;
    const long n_panels = n_lines > MOST_ROWS ? TILE * (width + columns) : KEYS_AT_ONCE * width;
    Lines lines = {.all = all};
    /* panels are loaded by whole lines of the cache */
    lines.keys = aligned_alloc(64, padded((n_panels + n_lines * width + MOST_ROWS * STRIDE) * sizeof(bf16) + n_floats * sizeof(float), 64));
    if (!lines.keys) abort(); /* as torch does where no memory is left in a parallel region */
    lines.values = lines.keys + TILE * width;
    lines.mixed = (float *)(lines.keys + n_panels);
    lines.greatest = lines.mixed + n_lines * columns;
    lines.totals = lines.greatest + n_lines;
    lines.scores = lines.totals + n_lines;
    lines.queries = (bf16 *)(lines.mixed + n_floats);
    lines.weights = lines.queries + n_lines * width;
    long item, index = 0;
    while ((item = __atomic_fetch_add(&all->next, 1, __ATOMIC_RELAXED)) < all->shares[all->n_sessions - 1].end) {
        while (item >= all->shares[index].end) index++;
        attend_item(&lines, all->sessions + index, all->shares + index, item - (index ? all->shares[index - 1].end : 0));
    }
    free(lines.keys);
}

/* The outputs of all rows of a step. `starts`: of each row the first row of its session that it sees, or NULL: every row
   sees all before it. */
void splitlearn_attend(const void *sessions, long n_sessions, long layer, const void *starts, const void *queries,
                       long head_stride, long row_stride, void *outputs, long n_heads, long n_kv_heads, long width,
                       const void *how, unsigned n_threads) {
    Share *shares = malloc(n_sessions * sizeof(Share));
    if (!shares) abort();
    Attention all = {sessions,    n_sessions, layer, starts,  queries, head_stride, row_stride, outputs, n_heads,
                     n_kv_heads, width,      *(const How *)how, shares, 0,       0};
    long n_products = 0, end = 0;
    for (long i = 0; i < n_sessions; i++) n_products += 2 * all.sessions[i].n_rows * all.sessions[i].n_new * n_heads * width;
    const unsigned team = team_for_products(n_products, n_threads);
    for (long i = 0; i < n_sessions; i++) {
        const long n_lines = all.sessions[i].n_new * shared_by(&all), n_blocks = (n_lines + MOST_ROWS - 1) / MOST_ROWS;
        const long chunk = MOST_ROWS * least((n_kv_heads * n_blocks + team - 1) / team, MOST_BLOCKS);
        const long n_chunks = (n_lines + chunk - 1) / chunk;
        shares[i] = (Share){chunk, n_chunks, end += n_chunks * n_kv_heads};
        all.most_lines = most(all.most_lines, least(chunk, n_lines));
    }
    GOMP_parallel(attend_share, &all, team, 0);
    free(shares);
}

#endif
