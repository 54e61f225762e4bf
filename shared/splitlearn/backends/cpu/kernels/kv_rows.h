/* Rows of keys and values in a session's block: as bf16, or as 8-bit levels with a scale of each row of a head.

   A row of levels has as many as fill whole vectors, and behind them its scale in fp32. */

#ifndef SPLITLEARN_KV_ROWS_H
#define SPLITLEARN_KV_ROWS_H

#include "kernels.h"

#ifdef SIMD_FITS

static inline int64_t row_bytes_of(const Session *session, int64_t width) {
    return session->level_row_bytes ? session->level_row_bytes : width * (int64_t)sizeof(bf16);
}

/* The rows of a head, from the session's row `position` on. */
static inline uint8_t *rows_at(const Session *session, int64_t tensor, int64_t head, int64_t position, int64_t width) {
    const int64_t number_bytes = session->level_row_bytes ? 1 : (int64_t)sizeof(bf16);
    const int64_t first = tensor * session->tensor_stride + head * session->head_stride;
    return (uint8_t *)session->block + first * number_bytes + position * row_bytes_of(session, width);
}

/* An infinity or NaN becomes the row's scale, and so all of the row. */
INLINE void store_levels_of_row(const bf16 *row, int64_t width, uint8_t *to, int64_t row_bytes) {
    enum { MAX_LEVEL = 127 };
    const float max = absmax(row, width), scale = max / (float)MAX_LEVEL;
    const f32x16 inverse = f32_set(max < MIN_ABSMAX ? 0.f : (float)MAX_LEVEL / max);
    for (int64_t column = 0; column < width; column += 16)
        store_int8((int8_t *)to + column, f32_round(f32_mul(load_bf16(row + column, width - column), inverse)));
    memcpy(to + row_bytes - sizeof scale, &scale, sizeof scale);
}

INLINE void store_kv_row(const Session *session, const bf16 *row, int64_t width, uint8_t *to) {
    if (session->level_row_bytes)
        store_levels_of_row(row, width, to, session->level_row_bytes);
    else if ((const uint8_t *)row != to)
        memcpy(to, row, (size_t)width * sizeof(bf16));
}

/* The rows [from, to) of levels at `rows`, as bf16 at `numbers`; both begin with row 0. */
INLINE void load_levels_of_rows(const uint8_t *rows, int64_t row_bytes, int64_t from, int64_t to, int64_t width,
                                bf16 *numbers) {
    for (int64_t i = from; i < to; i++) {
        const uint8_t *row = rows + i * row_bytes;
        float scale;
        memcpy(&scale, row + row_bytes - sizeof scale, sizeof scale);
        for (int64_t column = 0; column < width; column += 16)
            store_bf16(numbers + i * width + column, width - column,
                       f32_mul(load_int8((const int8_t *)row + column), f32_set(scale)));
    }
}

#endif
#endif
