/* NEON: products of rows and weights, in bf16 and in whole numbers. */

#ifndef SPLITLEARN_SIMD_NEON_PRODUCTS_H
#define SPLITLEARN_SIMD_NEON_PRODUCTS_H

#include "simd_neon.h"

/* How many rows are multiplied at once, and how many by several panels, so that all sums stay in registers. */
#ifdef SIMD_NEON_BF16
enum { MAX_ROWS = 6 };
#define FOR_EACH_HEIGHT(CASE, height) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#else
enum { MAX_ROWS = 5 };
#define FOR_EACH_HEIGHT(CASE, height) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5)
#endif
enum { MAX_WIDE_ROWS = 2, FEW_QUERIES = 1, PACKED_FROM = MAX_ROWS + 1, GROUP_BYTES = INT32_MAX };

#define LABEL(n) case n

INLINE void release_tiles(void) {}

/* Levels of int8 layers, saturated to 16 bits. */
INLINE int16x8_t levels_of_8(float32x4_t low, float32x4_t high) {
    return vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(low)), vcvtnq_s32_f32(high));
}

#ifdef SIMD_NEON_BF16
enum { STEPS = 1 };
typedef bf16 operand;
typedef i32x16 weights16;
typedef bfloat16x4_t input; /* of which the first pair is used */

/* Rows in memory as operands; NULL: they have another type. */
static inline const operand *as_operands(const bf16 *rows) { return rows; }
INLINE void store_operands(operand *to, int64_t n, f32x16 numbers) { store_bf16(to, n, numbers); }
INLINE weights16 weights_of_step(i32x16 pairs, int step) { return (void)step, pairs; }

/* Four bytes as the first lane: a load that needs no other instruction. */
INLINE float32x2_t first_lane(const void *from) {
    float four;
    memcpy(&four, from, sizeof four);
    return vset_lane_f32(four, vdup_n_f32(0.f), 0);
}
INLINE input broadcast(const operand *pair, int step) { return vreinterpret_bf16_f32(first_lane(pair + step)); }
INLINE f32x16 add_products(f32x16 sums, weights16 weights, input one) {
    UNROLL (int i = 0; i < 4; i++)
        sums.q[i] = vbfdotq_lane_f32(sums.q[i], vreinterpretq_bf16_s32(weights.q[i]), one, 0);
    return sums;
}

/* Rows for int8 weights, as two bytes of each level, the upper one signed: [high, low][inputs]. The sums of both are
   put together before they could overflow. */
enum { MAX_INT8_ROWS = 3, MAX_WIDE_INT8_ROWS = 1, LEVEL_PARTS = 1, WEIGHT_PARTS = 1, MAX_FOURS = 128 };
typedef uint8_t level;
typedef struct {
    i32x16 high, low;
} level_sums;
typedef struct {
    int8x16_t q[4];
} weight_fours;
typedef struct {
    int8x8_t high;
    uint8x8_t low;
} level_four; /* the first four of each */

#define FOR_EACH_INT8_HEIGHT(CASE, height) CASE(1) CASE(2) CASE(3)

INLINE void store_levels(level *row, int64_t width, int64_t column, f32x16 numbers) {
    const size_t n = (size_t)(width - column < 16 ? width - column : 16);
    level high[16], low[16];
    UNROLL (int i = 0; i < 2; i++) {
        const int16x8_t levels = levels_of_8(numbers.q[2 * i], numbers.q[2 * i + 1]);
        vst1_u8(high + 8 * i, vreinterpret_u8_s8(vshrn_n_s16(levels, 8)));
        vst1_u8(low + 8 * i, vreinterpret_u8_s8(vmovn_s16(levels)));
    }
    memcpy(row + column, high, n);
    memcpy(row + width + column, low, n);
}

INLINE level_sums zero_level_sums(void) { return (level_sums){i32_zero(), i32_zero()}; }
INLINE weight_fours load_weight_fours(const int8_t *weights, int part) {
    (void)part;
    return (weight_fours){{vld1q_s8(weights), vld1q_s8(weights + 16), vld1q_s8(weights + 32), vld1q_s8(weights + 48)}};
}
INLINE level_four broadcast_levels(const level *row, int64_t width, int64_t column, int part) {
    (void)part;
    return (level_four){vreinterpret_s8_f32(first_lane(row + column)),
                        vreinterpret_u8_f32(first_lane(row + width + column))};
}
INLINE level_sums add_level_products(level_sums sums, weight_fours weights, level_four levels) {
    UNROLL (int i = 0; i < 4; i++) {
        sums.high.q[i] = vdotq_lane_s32(sums.high.q[i], weights.q[i], levels.high, 0);
        sums.low.q[i] = vsudotq_lane_s32(sums.low.q[i], weights.q[i], levels.low, 0);
    }
    return sums;
}
INLINE int32x4_t joined(const level_sums *sums, int i) {
    return vaddq_s32(vshlq_n_s32(sums->high.q[i], 8), sums->low.q[i]);
}
#else
enum { STEPS = 2 };
typedef float operand, input;
typedef f32x16 weights16;

static inline const operand *as_operands(const bf16 *rows) { return (void)rows, NULL; }
INLINE void store_operands(operand *to, int64_t n, f32x16 numbers) {
    const f32x16 rounded = round_bf16(numbers);
    float some[16];
    f32_store(n >= 16 ? to : some, rounded);
    if (n > 0 && n < 16) memcpy(to, some, (size_t)n * sizeof(float));
}
INLINE weights16 weights_of_step(i32x16 pairs, int step) {
    weights16 weights;
    UNROLL (int i = 0; i < 4; i++)
        weights.q[i] = vreinterpretq_f32_s32(step ? vandq_s32(pairs.q[i], vdupq_n_s32((int32_t)0xffff0000))
                                                  : vshlq_n_s32(pairs.q[i], 16));
    return weights;
}
INLINE input broadcast(const operand *pair, int step) { return pair[step]; }
INLINE f32x16 add_products(f32x16 sums, weights16 weights, input one) {
    UNROLL (int i = 0; i < 4; i++) sums.q[i] = vfmaq_n_f32(sums.q[i], weights.q[i], one);
    return sums;
}

/* Rows for int8 weights, as 16-bit levels. Weights are loaded by inputs, 16 outputs of each of the four, and widened.
   Before a sum of products of 16 and 8 bits could overflow, it is added to totals. */
enum { MAX_INT8_ROWS = 4, MAX_WIDE_INT8_ROWS = 1, LEVEL_PARTS = 1, WEIGHT_PARTS = 1, MAX_FOURS = 128 };
typedef int16_t level;
typedef i32x16 level_sums;
typedef struct {
    int16x8_t low[4], high[4];
} weight_fours;
typedef int16x4_t level_four;

#define FOR_EACH_INT8_HEIGHT(CASE, height) CASE(1) CASE(2) CASE(3) CASE(4)

INLINE void store_levels(level *row, int64_t width, int64_t column, f32x16 numbers) {
    level some[16];
    UNROLL (int i = 0; i < 2; i++) vst1q_s16(some + 8 * i, levels_of_8(numbers.q[2 * i], numbers.q[2 * i + 1]));
    memcpy(row + column, some, (size_t)(width - column < 16 ? width - column : 16) * sizeof(level));
}

INLINE level_sums zero_level_sums(void) { return i32_zero(); }
INLINE weight_fours load_weight_fours(const int8_t *weights, int part) {
    const int8x16x4_t inputs = vld4q_s8(weights);
    weight_fours wide;
    (void)part;
    UNROLL (int i = 0; i < 4; i++) {
        wide.low[i] = vmovl_s8(vget_low_s8(inputs.val[i]));
        wide.high[i] = vmovl_high_s8(inputs.val[i]);
    }
    return wide;
}
INLINE level_four broadcast_levels(const level *row, int64_t width, int64_t column, int part) {
    (void)width, (void)part;
    return vld1_s16(row + column);
}
#define ADD_INPUT(i)                                                                                                   \
    do {                                                                                                               \
        sums.q[0] = vmlal_lane_s16(sums.q[0], vget_low_s16(weights.low[i]), levels, i);                                \
        sums.q[1] = vmlal_high_lane_s16(sums.q[1], weights.low[i], levels, i);                                         \
        sums.q[2] = vmlal_lane_s16(sums.q[2], vget_low_s16(weights.high[i]), levels, i);                               \
        sums.q[3] = vmlal_high_lane_s16(sums.q[3], weights.high[i], levels, i);                                        \
    } while (0)
INLINE level_sums add_level_products(level_sums sums, weight_fours weights, level_four levels) {
    ADD_INPUT(0);
    ADD_INPUT(1);
    ADD_INPUT(2);
    ADD_INPUT(3);
    return sums;
}
INLINE int32x4_t joined(const level_sums *sums, int i) { return sums->q[i]; }
#endif

/* The sums of 16 outputs in two parts, 256 high + low. */
typedef struct {
    i32x16 high, low;
} Totals;

INLINE void add_to_totals(Totals *totals, const level_sums sums[1]) {
    UNROLL (int i = 0; i < 4; i++) {
        const int32x4_t some = joined(sums, i);
        totals->high.q[i] = vaddq_s32(totals->high.q[i], vshrq_n_s32(some, 8));
        totals->low.q[i] = vaddq_s32(totals->low.q[i], vandq_s32(some, vdupq_n_s32(0xff)));
    }
}

/* `weight_sums`: of the weights of each output; levels without an offset need none. */
INLINE f32x16 whole(Totals totals, const int32_t *weight_sums) {
    f32x16 sums;
    (void)weight_sums;
    UNROLL (int i = 0; i < 4; i++)
        sums.q[i] = vfmaq_n_f32(vcvtq_f32_s32(totals.low.q[i]), vcvtq_f32_s32(totals.high.q[i]), 256.f);
    return sums;
}

INLINE f32x16 load_fp16(const fp16 *from) {
    f32x16 wide;
    UNROLL (int i = 0; i < 4; i++) wide.q[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4 * i)));
    return wide;
}

/* 16 whole numbers. */
INLINE void store_int8(int8_t *to, f32x16 numbers) {
    UNROLL (int i = 0; i < 2; i++) vst1_s8(to + 8 * i, vqmovn_s16(levels_of_8(numbers.q[2 * i], numbers.q[2 * i + 1])));
}

INLINE f32x16 load_int8(const int8_t *from) {
    f32x16 wide;
    UNROLL (int i = 0; i < 2; i++) {
        const int16x8_t eight = vmovl_s8(vld1_s8(from + 8 * i));
        wide.q[2 * i] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(eight)));
        wide.q[2 * i + 1] = vcvtq_f32_s32(vmovl_high_s16(eight));
    }
    return wide;
}

/* Rows for int4 weights, as bytes with signs; a block of 32 inputs is summed at once. */
typedef struct {
    int8x16_t q[4];
} int4_fours;

INLINE void load_int4_fours(const uint8_t *from, int4_fours halves[2]) {
    UNROLL (int i = 0; i < 4; i++) {
        const uint8x16_t both = vld1q_u8(from + 16 * i);
        halves[0].q[i] = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(0xf)));
        halves[1].q[i] = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
    }
}

#ifdef SIMD_NEON_BF16
enum { MAX_INT4_ROWS = 4, MAX_WIDE_INT4_ROWS = 1 };
#define FOR_EACH_INT4_HEIGHT(CASE) CASE(1) CASE(2) CASE(3) CASE(4)
typedef i32x16 int4_sums;
typedef int8x8_t int8_four; /* the first four */

INLINE int8_four broadcast_int8_four(const int8_t *from) { return vreinterpret_s8_f32(first_lane(from)); }
INLINE int4_sums zero_int4_sums(void) { return i32_zero(); }
INLINE int4_sums add_int4_products(int4_sums sums, int4_fours weights, int8_four levels) {
    UNROLL (int i = 0; i < 4; i++) sums.q[i] = vdotq_lane_s32(sums.q[i], weights.q[i], levels, 0);
    return sums;
}
INLINE f32x16 f32_of_int4_sums(int4_sums sums) {
    f32x16 wide;
    UNROLL (int i = 0; i < 4; i++) wide.q[i] = vcvtq_f32_s32(sums.q[i]);
    return wide;
}
#else
/* Each input of a four has sums of its own, which fit 16 bits: eight products of at most 15 * 127. */
enum { MAX_INT4_ROWS = 2, MAX_WIDE_INT4_ROWS = 1 };
#define FOR_EACH_INT4_HEIGHT(CASE) CASE(1) CASE(2)
typedef struct {
    int16x8_t low[4], high[4];
} int4_sums;
typedef int8x16_t int8_four; /* four times */

INLINE int8_four broadcast_int8_four(const int8_t *from) {
    int32_t four;
    memcpy(&four, from, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
INLINE int4_sums zero_int4_sums(void) {
    const int16x8_t zero = vdupq_n_s16(0);
    return (int4_sums){{zero, zero, zero, zero}, {zero, zero, zero, zero}};
}
INLINE int4_sums add_int4_products(int4_sums sums, int4_fours weights, int8_four levels) {
    UNROLL (int i = 0; i < 4; i++) {
        sums.low[i] = vmlal_s8(sums.low[i], vget_low_s8(weights.q[i]), vget_low_s8(levels));
        sums.high[i] = vmlal_high_s8(sums.high[i], weights.q[i], levels);
    }
    return sums;
}
INLINE f32x16 f32_of_int4_sums(int4_sums sums) {
    f32x16 wide;
    UNROLL (int i = 0; i < 4; i++)
        wide.q[i] = vcvtq_f32_s32(vpaddq_s32(vpaddlq_s16(sums.low[i]), vpaddlq_s16(sums.high[i])));
    return wide;
}
#endif

#endif
