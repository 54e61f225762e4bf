/* Attention of the many rows of one session's prompt over the keys and values where the session keeps them. Scores,
   their softmax and the sums over values are fp32; weights are rounded to bf16. */

#include "kernels.h"

#if defined(__x86_64__)

/* Each row sees those before it and itself. A line is one head of one row; heads that share keys have theirs side by
   side, so that each key that is read serves all of them. */
typedef struct {
    const Session *session;
    long layer;
    const bf16 *queries;
    long head_stride, row_stride;
    bf16 *outputs; /* of the whole step, [rows][heads][width] */
    long n_heads, n_kv_heads, width;
    float scaling;
    long chunk; /* blocks of lines that one thread takes at a time */
    long next;
} Prompt;

/* Keys are taken in tiles that stay in a core's cache while all lines of a chunk look at them, with the softmax carried
   from tile to tile (Dao et al. 2022, arXiv 2205.14135). Scores of lines that began a multiple of 4 KB apart would push
   each other out of the first-level cache: hence their stride. */
enum { TILE = 512, KEYS_AT_ONCE = MOST_PANELS * PANEL, MOST_BLOCKS = 16, STRIDE = TILE + KEYS_AT_ONCE };

typedef struct {
    const Prompt *prompt;
    long kv_head;
    long first, count; /* lines */
    long tile, n_keys; /* the first key of the tile, and how many there are */
    long n_seen;       /* of those by the block's last line, a multiple of KEYS_AT_ONCE */
    bf16 *keys;        /* [keys / 16][width / 2][16][2] */
    bf16 *values;      /* [width / 16][keys / 2][16][2] */
    bf16 *queries;     /* [lines][width] */
    float *mixed;      /* [lines][width, filled up to panels] */
    float *greatest, *totals;
    float *scores; /* of a block, [14][STRIDE] */
    bf16 *weights;
    float factors[MOST_ROWS]; /* what a tile's greater scores leave of what was mixed before */
} Lines;

static inline long padded(long n, long to) { return (n + to - 1) / to * to; }
static inline long shared_by(const Prompt *prompt) { return prompt->n_heads / prompt->n_kv_heads; }
static inline long row_of(const Lines *lines, long line) { return (lines->first + line) / shared_by(lines->prompt); }
static inline long head_of(const Lines *lines, long line) {
    const long shared = shared_by(lines->prompt);
    return lines->kv_head * shared + (lines->first + line) % shared;
}

/* Keys that a line sees, from the session's first on. */
static inline long limit_of(const Lines *lines, long line) {
    const Session *session = lines->prompt->session;
    return session->n_rows - session->n_new + row_of(lines, line) + 1;
}

/* 16 rows of 16 pairs become 16 pairs of 16 rows. */
INLINE void transpose(__m512i pairs[PANEL]) {
    __m512i twos[PANEL], fours[PANEL];
    UNROLL for (int i = 0; i < PANEL; i += 2) {
        twos[i] = _mm512_unpacklo_epi32(pairs[i], pairs[i + 1]);
        twos[i + 1] = _mm512_unpackhi_epi32(pairs[i], pairs[i + 1]);
    }
    UNROLL for (int i = 0; i < PANEL; i += 4) {
        fours[i] = _mm512_unpacklo_epi64(twos[i], twos[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(twos[i], twos[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(twos[i + 1], twos[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(twos[i + 1], twos[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        const __m512i even = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0x88);
        const __m512i even_2 = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0x88);
        const __m512i odd = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0xdd);
        const __m512i odd_2 = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0xdd);
        pairs[i] = _mm512_shuffle_i32x4(even, even_2, 0x88);
        pairs[i + 4] = _mm512_shuffle_i32x4(odd, odd_2, 0x88);
        pairs[i + 8] = _mm512_shuffle_i32x4(even, even_2, 0xdd);
        pairs[i + 12] = _mm512_shuffle_i32x4(odd, odd_2, 0xdd);
    }
}

/* A tile's keys as panels of 16 rows, its values as panels of 16 columns with pairs of rows: both sides of attention
   are then products like those of a linear layer. Rows and columns that are not there are zeros. */
TARGET static void in_panels(const Lines *lines) {
    const Prompt *prompt = lines->prompt;
    const Session *session = prompt->session;
    const long width = prompt->width, n_keys = lines->n_keys;
    const bf16 *tensor = session->block + 2 * prompt->layer * session->tensor_stride;
    const bf16 *keys = tensor + lines->kv_head * session->head_stride + lines->tile * width;
    const bf16 *values = keys + session->tensor_stride;
    for (long row = 0; row < padded(n_keys, KEYS_AT_ONCE); row += PANEL)
        for (long pair = 0; pair < width / 2; pair += PANEL) {
            const long left = width / 2 - pair;
            __m512i pairs[PANEL];
            UNROLL for (int i = 0; i < PANEL; i++) {
                const __mmask16 there = row + i < n_keys ? first_of_16(left) : 0;
                pairs[i] = _mm512_maskz_loadu_epi32(there, keys + (row + i) * width + 2 * pair);
            }
            transpose(pairs);
            bf16 *to = lines->keys + row * width + pair * 2 * PANEL;
            for (int i = 0; i < PANEL && i < left; i++) _mm512_storeu_si512(to + i * 2 * PANEL, pairs[i]);
        }
    for (long column = 0; column < width; column += PANEL) {
        const __mmask16 there = first_of_16(width - column);
        for (long row = 0; row < padded(n_keys, KEYS_AT_ONCE); row += 2) {
            const bf16 *from = values + row * width + column;
            const __m256i even = _mm256_maskz_loadu_epi16(row < n_keys ? there : 0, from);
            const __m256i odd = _mm256_maskz_loadu_epi16(row + 1 < n_keys ? there : 0, from + width);
            const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16);
            const __m512i both = _mm512_or_si512(_mm512_cvtepu16_epi32(even), high);
            _mm512_storeu_si512(lines->values + column * TILE + row * PANEL, both);
        }
    }
}

INLINE void score_block(int n_lines, Lines *lines, long line) {
    const long width = lines->prompt->width;
    const bf16 *queries = lines->queries + line * width;
    for (long key = 0; key < lines->n_seen; key += KEYS_AT_ONCE) {
        __m512 sums[MOST_ROWS * MOST_PANELS];
        multiply(n_lines, 2, queries, width, lines->keys + key * width, PANEL * width, width / 2, NULL, sums);
        UNROLL for (int i = 0; i < n_lines; i++) {
            _mm512_storeu_ps(lines->scores + i * STRIDE + key, sums[2 * i]);
            _mm512_storeu_ps(lines->scores + i * STRIDE + key + PANEL, sums[2 * i + 1]);
        }
    }
}

INLINE void mix_panels(int n_lines, int n_panels, Lines *lines, long line, long column) {
    const long stride = padded(lines->prompt->width, PANEL);
    const bf16 *values = lines->values + column * TILE;
    __m512 sums[MOST_ROWS * MOST_PANELS];
    multiply(n_lines, n_panels, lines->weights, STRIDE, values, PANEL * TILE, lines->n_seen / 2, NULL, sums);
    UNROLL for (int i = 0; i < n_lines; i++)
        UNROLL for (int panel = 0; panel < n_panels; panel++) {
            float *mixed = lines->mixed + (line + i) * stride + column + panel * PANEL;
            const __m512 before = _mm512_mul_ps(_mm512_loadu_ps(mixed), _mm512_set1_ps(lines->factors[i]));
            _mm512_storeu_ps(mixed, _mm512_add_ps(before, sums[i * n_panels + panel]));
        }
}

INLINE void mix_block(int n_lines, Lines *lines, long line) {
    long column = 0;
    for (; column + PANEL < lines->prompt->width; column += 2 * PANEL) mix_panels(n_lines, 2, lines, line, column);
    if (column < lines->prompt->width) mix_panels(n_lines, 1, lines, line, column);
}

#define CASE_SCORE(n) case n: score_block(n, lines, line); break;
#define CASE_MIX(n) case n: mix_block(n, lines, line); break;
TARGET static void score_some(long n_lines, Lines *lines, long line) { switch (n_lines) { EACH_HEIGHT(CASE_SCORE) } }
TARGET static void mix_some(long n_lines, Lines *lines, long line) { switch (n_lines) { EACH_HEIGHT(CASE_MIX) } }

/* Scores of the block's line `i` to weights in bf16, zeros behind what it sees. */
TARGET static void weigh_line(Lines *lines, long i, long line) {
    float *scores = lines->scores + i * STRIDE;
    bf16 *weights = lines->weights + i * STRIDE;
    const long there = limit_of(lines, line) - lines->tile, limit = there < lines->n_seen ? there : lines->n_seen;
    const __m512 scaling = _mm512_set1_ps(lines->prompt->scaling), nothing = _mm512_set1_ps(-__builtin_inff());
    __m512 most = _mm512_set1_ps(lines->greatest[line]), total = _mm512_setzero_ps();
    for (long key = 0; key < limit; key += PANEL) {
        const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(scores + key), scaling);
        const __m512 seen = _mm512_mask_blend_ps(first_of_16(limit - key), nothing, scaled);
        _mm512_storeu_ps(scores + key, seen);
        most = _mm512_max_ps(most, seen);
    }
    const float greatest = _mm512_reduce_max_ps(most);
    const __m512 top = _mm512_set1_ps(greatest);
    const float factor = _mm512_cvtss_f32(exponential(_mm512_sub_ps(_mm512_set1_ps(lines->greatest[line]), top)));
    long key = 0;
    for (; key < limit; key += PANEL) {
        const __m512 weight = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + key), top));
        total = _mm512_add_ps(total, weight);
        narrow(weights + key, 0xffff, weight);
    }
    for (; key < lines->n_seen; key += PANEL) narrow(weights + key, 0xffff, _mm512_setzero_ps());
    lines->greatest[line] = greatest;
    lines->totals[line] = lines->totals[line] * factor + _mm512_reduce_add_ps(total);
    lines->factors[i] = factor;
}

static void attend_lines(Lines *lines) {
    const long last = limit_of(lines, lines->count - 1);
    for (lines->tile = 0; lines->tile < last; lines->tile += TILE) {
        lines->n_keys = last - lines->tile < TILE ? last - lines->tile : TILE;
        in_panels(lines);
        for (long line = 0; line < lines->count; line += MOST_ROWS) {
            const long n_lines = lines->count - line < MOST_ROWS ? lines->count - line : MOST_ROWS;
            const long seen = limit_of(lines, line + n_lines - 1) - lines->tile;
            if (seen <= 0) continue;
            lines->n_seen = padded(seen < lines->n_keys ? seen : lines->n_keys, KEYS_AT_ONCE);
            score_some(n_lines, lines, line);
            for (long i = 0; i < n_lines; i++) weigh_line(lines, i, line + i);
            mix_some(n_lines, lines, line);
        }
    }
}

TARGET static void write_lines(const Lines *lines) {
    const Prompt *prompt = lines->prompt;
    const long width = prompt->width, stride = padded(width, PANEL);
    for (long line = 0; line < lines->count; line++) {
        const long row = prompt->session->first + row_of(lines, line);
        bf16 *to = prompt->outputs + (row * prompt->n_heads + head_of(lines, line)) * width;
        const __m512 share = _mm512_set1_ps(1.f / lines->totals[line]);
        for (long column = 0; column < width; column += PANEL) {
            const __m512 mixed = _mm512_loadu_ps(lines->mixed + line * stride + column);
            narrow(to + column, first_of_16(width - column), _mm512_mul_ps(mixed, share));
        }
    }
}

static void begin_lines(Lines *lines) {
    const Prompt *prompt = lines->prompt;
    const long width = prompt->width;
    for (long line = 0; line < lines->count; line++) {
        const long row = prompt->session->first + row_of(lines, line);
        const bf16 *query = prompt->queries + head_of(lines, line) * prompt->head_stride + row * prompt->row_stride;
        memcpy(lines->queries + line * width, query, width * sizeof(bf16));
        lines->greatest[line] = -__builtin_inff();
        lines->totals[line] = 0.f;
    }
    memset(lines->mixed, 0, lines->count * padded(width, PANEL) * sizeof(float));
}

static void prompt_share(void *data) {
    Prompt *prompt = data;
    const long width = prompt->width, columns = padded(width, PANEL), most = prompt->chunk * MOST_ROWS;
    const long n_lines = prompt->session->n_new * shared_by(prompt), n_chunks = (n_lines + most - 1) / most;
    Lines lines = {.prompt = prompt};
    const long n_floats = most * (columns + 2) + MOST_ROWS * STRIDE;
    const long n_numbers = TILE * (width + columns) + most * width + MOST_ROWS * STRIDE;
    lines.mixed = malloc(n_floats * sizeof(float) + n_numbers * sizeof(bf16));
    if (!lines.mixed) abort(); /* as torch does where no memory is left in a parallel region */
    lines.greatest = lines.mixed + most * columns;
    lines.totals = lines.greatest + most;
    lines.scores = lines.totals + most;
    lines.keys = (bf16 *)(lines.mixed + n_floats);
    lines.values = lines.keys + TILE * width;
    lines.queries = lines.values + TILE * columns;
    lines.weights = lines.queries + most * width;
    /* late rows see the most: they come first, so that the threads end together */
    for (long item; (item = __atomic_fetch_add(&prompt->next, 1, __ATOMIC_RELAXED)) < n_chunks * prompt->n_kv_heads;) {
        lines.kv_head = item % prompt->n_kv_heads;
        lines.first = (n_chunks - 1 - item / prompt->n_kv_heads) * most;
        lines.count = n_lines - lines.first < most ? n_lines - lines.first : most;
        begin_lines(&lines);
        attend_lines(&lines);
        write_lines(&lines);
    }
    free(lines.mixed);
}

/* Fills the outputs of one session's rows. */
void splitlearn_attend_prompt(const void *sessions, long index, long layer, const void *queries, long head_stride,
                              long row_stride, void *outputs, long n_heads, long n_kv_heads, long width, float scaling,
                              unsigned n_threads) {
    Prompt prompt = {(const Session *)sessions + index, layer, queries, head_stride, row_stride, outputs, n_heads,
                     n_kv_heads, width, scaling, 0, 0};
    const long n_rows = prompt.session->n_rows, n_new = prompt.session->n_new;
    const unsigned team = team_for_products(2 * n_rows * n_new * n_heads * width, n_threads);
    const long n_blocks = n_kv_heads * ((n_new * shared_by(&prompt) + MOST_ROWS - 1) / MOST_ROWS);
    const long share = (n_blocks + team - 1) / team;
    prompt.chunk = share < MOST_BLOCKS ? share : MOST_BLOCKS;
    GOMP_parallel(prompt_share, &prompt, team, 0);
}

#endif
